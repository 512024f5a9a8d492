//! The server over bytes in memory: for the fuzz target `requests` and for `.ci/sanitize thread`, in no other build.
//!
//! In: the bundle of an encoder, a directory of patches for it, and what a client sends. Out: what the client gets.
//! Left out are sockets and the sandbox.

use std::{
    collections::BTreeSet,
    future::ready,
    io::{self, Cursor, Read},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc},
    task::{Context, Poll},
    time::Duration,
};

use edge_bundle::Bundle;
use edge_run::EngineOptions;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

use crate::{
    Batching,
    clients::Clients,
    directory::Directory,
    encoders::Encoders,
    listen::Connection,
    metrics::Metrics,
    server::{Server, connection},
    tasks::CurrentListing,
    watch::{Wake, keep},
};

/// A server without a socket.
pub struct InMemory {
    server: Arc<Server>,
    runtime: Runtime,
}

/// A connection whose client has sent all that it will ever send.
struct Client {
    sent: Cursor<Vec<u8>>,
    got: Arc<Mutex<Vec<u8>>>,
}

impl InMemory {
    /// A server of the patches that are in a directory now. To load or unload one is refused, as when the server stops.
    ///
    /// # Panics
    /// When one of the patches does not answer.
    pub fn new(bundle: Bundle, patches: &Path) -> Self {
        Self::of(bundle, patches, |mut directory| {
            directory.scan(&BTreeSet::new());
            mpsc::channel().0
        })
    }

    /// A server of a directory of patches, whatever becomes of them.
    ///
    /// # Panics
    /// As [`InMemory::new`].
    pub fn watching(bundle: Bundle, patches: &Path) -> Self {
        Self::of(bundle, patches, |directory| keep(directory).expect("a thread"))
    }

    /// The same server, for another thread.
    pub fn again(&self) -> Self {
        InMemory { server: self.server.clone(), runtime: runtime() }
    }

    fn of(bundle: Bundle, patches: &Path, start: impl FnOnce(Directory) -> mpsc::Sender<Wake>) -> Self {
        let batching = Batching { queue: 1024, wait: Duration::ZERO };
        let engine = EngineOptions { threads: 2, ..EngineOptions::default() };
        let encoders = Encoders::new(vec![bundle], None, engine, batching);
        let (current, metrics) = (Arc::new(CurrentListing::default()), Arc::new(Metrics::new()));
        let wakes = start(Directory::new(patches.to_owned(), encoders, None, current.clone(), metrics.clone()));
        let listing = current.now();
        assert!(listing.unavailable.is_empty() && !listing.tasks.is_empty(), "a patch does not answer");
        let server = Server::new(current, wakes, metrics, Clients::default(), None, true, false);
        InMemory { server: Arc::new(server), runtime: runtime() }
    }

    /// What a client gets that sends these bytes and no more.
    pub fn answer(&self, sent: &[u8]) -> Vec<u8> {
        let got = Arc::<Mutex<Vec<u8>>>::default();
        let client = Client { sent: Cursor::new(sent.to_vec()), got: got.clone() };
        let client: Box<dyn Connection> = Box::new(client);
        // When it is dropped, connections end.
        let graceful = GracefulShutdown::new();
        self.runtime.block_on(connection(self.server.clone(), ready(Some(client)), &graceful));
        std::mem::take(&mut *got.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.sent.read(buffer.initialize_unfilled())?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
