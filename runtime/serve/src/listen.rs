//! Where requests come from: a TCP port, a Unix socket, or a socket that systemd opened; and what systemd is told.

use std::{
    env, fmt, fs, io,
    net::{SocketAddr, TcpListener as StdTcp},
    os::unix::{
        fs::FileTypeExt,
        net::{UnixDatagram, UnixListener as StdUnix, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use listenfd::ListenFd;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{Sleep, sleep},
};

use crate::{
    error::{Error, Result},
    limits,
};

/// An address as `--listen` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A socket that listens.
pub struct Listener {
    socket: Socket,
    name: String,
    is_local: bool,
}

enum Socket {
    Tcp(StdTcp),
    Unix(StdUnix),
}

/// The same, within the runtime.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection, which ends when the client takes too long to read its answer.
pub(crate) struct Stream {
    socket: Connected,
    /// The time by which the client has to have read all that waits to be written; none while nothing waits. Reading a
    /// byte now and then does not extend it.
    due: Option<Pin<Box<Sleep>>>,
}

/// What HTTP is spoken over: a [`Stream`], or one that TLS encrypts.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

enum Connected {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("expected a path after unix:".to_owned()),
            Some(path) => Ok(Address::Unix(path.into())),
            None => text
                .parse()
                .map(Address::Tcp)
                .map_err(|_| "expected IP:PORT, such as 127.0.0.1:8080 or [::]:8080, or unix:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    /// The socket that systemd opened, if it did; else a new one.
    ///
    /// # Errors
    /// When the address is taken or not ours to take, or systemd handed over something else than one listening socket.
    pub fn open(address: &Address) -> Result<Self> {
        let mut handed = ListenFd::from_env();
        match handed.len() {
            0 => Self::bind(address),
            1 => Self::of_systemd(&mut handed),
            count => Err(Error::Activation { found: format!("{count} of them") }),
        }
    }

    /// Where it listens, for people. `scheme` is that of a TCP port.
    pub(crate) fn name(&self, scheme: &str) -> String {
        match self.socket {
            Socket::Tcp(_) => format!("{scheme}://{}", self.name),
            Socket::Unix(_) => self.name.clone(),
        }
    }

    /// Whether it is an address that every program of this machine can reach, browsers too.
    pub fn is_loopback(&self) -> bool {
        self.is_local && matches!(self.socket, Socket::Tcp(_))
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    fn bind(address: &Address) -> Result<Self> {
        let failed = |source| Error::Listen { address: address.to_string(), source };
        match address {
            Address::Tcp(at) => Self::of_tcp(StdTcp::bind(at).map_err(failed)?).map_err(failed),
            Address::Unix(path) => {
                remove_stale(path).map_err(failed)?;
                Self::of_unix(StdUnix::bind(path).map_err(failed)?, address.to_string()).map_err(failed)
            }
        }
    }

    fn of_systemd(handed: &mut ListenFd) -> Result<Self> {
        let failed = |error: io::Error| Error::Activation { found: error.to_string() };
        let tcp = handed.take_tcp_listener(0);
        match tcp {
            Ok(Some(socket)) => Self::of_tcp(socket).map_err(failed),
            _ => match handed.take_unix_listener(0).map_err(failed)? {
                Some(socket) => Self::of_unix(socket, "a Unix socket of systemd's".to_owned()).map_err(failed),
                None => Err(Error::Activation { found: "none".to_owned() }),
            },
        }
    }

    fn of_tcp(socket: StdTcp) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let at = socket.local_addr()?;
        Ok(Listener { socket: Socket::Tcp(socket), name: at.to_string(), is_local: at.ip().is_loopback() })
    }

    fn of_unix(socket: StdUnix, name: String) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: Socket::Unix(socket), name, is_local: true })
    }

    pub(crate) fn acceptor(self) -> io::Result<Acceptor> {
        Ok(match self.socket {
            Socket::Tcp(socket) => Acceptor::Tcp(TcpListener::from_std(socket)?),
            Socket::Unix(socket) => Acceptor::Unix(UnixListener::from_std(socket)?),
        })
    }
}

impl Acceptor {
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Acceptor::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // Answers are written whole, so Nagle's algorithm would only delay them.
                stream.set_nodelay(true)?;
                Ok(Stream { socket: Connected::Tcp(stream), due: None })
            }
            Acceptor::Unix(socket) => Ok(Stream { socket: Connected::Unix(socket.accept().await?.0), due: None }),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Connected::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Connected::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            Connected::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Connected::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
        };
        if written.is_pending() && self.due.is_none() {
            self.due = Some(Box::pin(sleep(limits::ANSWER_TIME)));
        }
        match self.due.as_mut().map(|due| due.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Some(Poll::Pending) | None => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets keep nothing back, and hyper flushes once they have taken all it had to write.
        self.due = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Connected::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Connected::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

/// Removes the socket of a process that was killed. A socket that still answers is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    match is_socket && StdUnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// The supervisor that started this process, told of its state by systemd's protocol over the socket in
/// `NOTIFY_SOCKET`.
pub struct Supervisor(Option<UnixDatagram>);

impl Supervisor {
    /// Connects to it, if there is one, while files can still be reached.
    pub fn connect() -> Self {
        let connect = |name: std::ffi::OsString| {
            let socket = UnixDatagram::unbound()?;
            match name.as_encoded_bytes().strip_prefix(b"@") {
                None => socket.connect(&name)?,
                Some(name) => connect_abstract(&socket, name)?,
            }
            Ok::<_, io::Error>(socket)
        };
        let connected = env::var_os("NOTIFY_SOCKET").map(connect);
        if let Some(Err(error)) = &connected {
            tracing::warn!(%error, "NOTIFY_SOCKET is set but cannot be used");
        }
        Supervisor(connected.and_then(io::Result::ok))
    }

    /// Tells it a state, such as `READY=1`.
    pub fn tell(&self, state: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(state.as_bytes())) {
            tracing::warn!(%error, state, "the supervisor cannot be told");
        }
    }
}

#[cfg(target_os = "linux")]
fn connect_abstract(socket: &UnixDatagram, name: &[u8]) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &UnixDatagram, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_and_refuse_other_text() {
        for text in ["127.0.0.1:8080", "[::1]:80", "unix:/run/edge.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for bad in ["", "8080", "localhost:8080", "unix:", "1.2.3.4", "1.2.3.4:70000"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_socket_that_nobody_answers_on_is_replaced_and_another_is_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let address = Address::Unix(dir.path().join("socket"));
        let first = Listener::open(&address).unwrap();
        let error = Listener::open(&address).err().unwrap().to_string();
        assert!(error.contains("another process has it"), "{error}");
        drop(first);
        Listener::open(&address).unwrap();

        let file = dir.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(Listener::open(&Address::Unix(file.clone())).is_err());
        assert_eq!(fs::read(file).unwrap(), b"kept");
    }
}
