//! A server in its own process, and a client that uses a plain socket.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{command, in_shell};

/// The longest time to wait for a change.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A response.
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its first line and headers, in small letters.
    pub head: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Its body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The error that its body is.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error in {}", self.json())).to_owned()
    }
}

/// Starts a server on the bundle and the patches in `home`, on a free port, and waits until it answers.
pub fn start(home: &Path, bundle: &Path, arguments: &[&str]) -> (SocketAddr, Child) {
    let address = free_address();
    let child = start_at(&address.to_string(), || TcpStream::connect(address), home, bundle, arguments);
    (address, child)
}

/// The same, started by `sh` after `before`: see [`in_shell`].
pub fn start_after(before: &str, home: &Path, bundle: &Path) -> (SocketAddr, Child) {
    let address = free_address();
    let command = in_shell(&edge_serve(&address.to_string(), home, bundle, &[]), before);
    (address, spawn(command, || TcpStream::connect(address), home))
}

/// An address that is free, and that no other test of this process was given: between two servers a port is free too.
fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // A test that failed under the lock has inserted its port or not: the set is whole.
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(address.port()) {
            return address;
        }
    }
}

/// Starts a server at an address as `--listen` takes it, and waits until `connect` does.
pub fn start_at<T>(
    address: &str,
    connect: impl Fn() -> io::Result<T>,
    home: &Path,
    bundle: &Path,
    arguments: &[&str],
) -> Child {
    spawn(edge_serve(address, home, bundle, arguments), connect, home)
}

/// The server's command.
fn edge_serve(address: &str, home: &Path, bundle: &Path, arguments: &[&str]) -> Command {
    let mut command = command("edge-serve", home);
    command.current_dir(home).args(["--patches", "patches", "--listen", address]);
    command.arg("--bundle").arg(bundle).args(arguments);
    command
}

/// Starts a server whose log is in `home`, and waits until `connect` does.
fn spawn<T>(mut command: Command, connect: impl Fn() -> io::Result<T>, home: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(home.join("log")).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let begun = Instant::now();
    while connect().is_err() {
        let log = || fs::read_to_string(home.join("log")).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "edge-serve stopped; it said: {}", log());
        assert!(begun.elapsed() < PATIENCE, "edge-serve does not listen; it said: {}", log());
        thread::sleep(Duration::from_millis(5));
    }
    child
}

/// A connection whose reads and writes time out after [`PATIENCE`].
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request with a body and gives the response.
pub fn ask(stream: &mut (impl Read + Write), method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n");
    // A body that is too large is refused before it has come whole.
    if let Err(error) = stream.write_all(&[head.as_bytes(), body].concat()) {
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    }
    reply(stream).expect("an answer")
}

/// The next response on a connection; none if it was closed instead.
pub fn reply(stream: &mut impl Read) -> Option<Reply> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend(&part[..read]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    let mut body = bytes.split_off(end);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while body.len() < length {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(read) => body.extend(&part[..read]),
        }
    }
    // What followed the request is answered behind it.
    body.truncate(length);
    Some(Reply { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, body })
}
