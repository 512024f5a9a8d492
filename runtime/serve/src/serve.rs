//! The life of the process: it opens its files, gives up all other rights, says that it is ready, serves, and stops.
//!
//! In: options and a socket. Out: nothing, until the process is told to stop. Refused: files and directories that
//! cannot be used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bias_patch::Keys;
use edge_bundle::{Bundle, Store, cache_dir};
use edge_run::{EngineOptions, replaceable_by_others};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    Batching, Enforced, Listener, Supervisor,
    clients::Clients,
    directory::Directory,
    encoders::Encoders,
    error::{Error, Result},
    metrics::Metrics,
    sandbox,
    server::Server,
    syscalls,
    tasks::CurrentListing,
    tls::Tls,
    watch::keep,
};

/// What to serve, and to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of patches.
    pub patches: PathBuf,
    /// Bundles that are not in the store.
    pub bundles: Vec<PathBuf>,
    /// How encoders run.
    pub engine: EngineOptions,
    /// How texts are batched.
    pub batching: Batching,
    /// The file of bearer tokens, if one is asked for.
    pub token_file: Option<PathBuf>,
    /// What TLS needs, if it is spoken.
    pub tls: Option<TlsFiles>,
    /// Public keys, one of which has to have signed a patch; none if patches need no signature.
    pub trust: Vec<PathBuf>,
    /// Whether the server is ready while no task answers.
    pub ready_without_tasks: bool,
}

/// Files in PEM that TLS needs.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authorities, one of which has to have signed a client's; none if clients need no certificate.
    pub clients: Option<PathBuf>,
}

impl TlsFiles {
    /// All of them.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.certificate, &self.key].into_iter().chain(&self.clients).map(PathBuf::as_path)
    }

    /// Where files that replace them will be: beside them, and where links lead now.
    fn directories(&self) -> Vec<PathBuf> {
        let real = self.paths().filter_map(|path| path.canonicalize().ok());
        let named = self.paths().filter_map(|path| std::path::absolute(path).ok());
        real.chain(named).filter_map(|path| Some(path.parent()?.to_owned())).collect()
    }
}

/// Serves on a socket until the process is told to stop.
///
/// # Errors
/// When a file that was named cannot be used, or the system refuses what the process needs.
pub fn run(options: &Options, listener: Listener, supervisor: &Supervisor) -> Result<()> {
    let metrics = Arc::new(Metrics::new());
    let clients = options.token_file.as_deref().map(|path| Clients::open(path, &metrics)).transpose()?;
    let clients = clients.unwrap_or_default();
    let tls = options.tls.as_ref().map(Tls::open).transpose()?;
    let keys = if options.trust.is_empty() { None } else { Some(Keys::open(&options.trust)?) };
    let bundles: Vec<Bundle> = options.bundles.iter().map(|dir| Bundle::open(dir)).collect::<Result<_, _>>()?;
    let store = Store::of_user().ok();
    make_directories(&options.patches, store.as_ref());
    if fs::metadata(&options.patches).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(Error::Patches { path: options.patches.clone() });
    }
    let asks_certificates = options.tls.as_ref().is_some_and(|files| files.clients.is_some());
    if !listener.is_local() && clients.are_unknown() && !asks_certificates {
        tracing::warn!("anyone who reaches this address may ask, load and unload; --token-file asks for a token");
    }
    if !listener.is_local() && !clients.are_unknown() && tls.is_none() {
        tracing::warn!("whoever is on the way reads tokens and texts; --tls-certificate and --tls-key encrypt them");
    }
    if let Some(exposed) = cache_dir().as_deref().and_then(replaceable_by_others) {
        tracing::warn!("{exposed}");
    }
    if cfg!(panic = "abort") {
        tracing::warn!("this build ends at a panic, where others lose one text by it: let a supervisor start it again");
    }
    let local = listener.is_loopback();

    // Before any thread is started: threads inherit it.
    let mut read: Vec<&Path> = vec![&options.patches];
    read.extend(options.bundles.iter().map(PathBuf::as_path));
    read.extend(store.as_ref().map(Store::root));
    let tls_directories = options.tls.as_ref().map(TlsFiles::directories).unwrap_or_default();
    read.extend(tls_directories.iter().map(PathBuf::as_path));
    match sandbox::enter(&read, cache_dir().as_deref())? {
        Enforced::Fully => {
            tracing::info!("sandbox: files and connections outward are denied, but for patches and bundles")
        }
        Enforced::Partly => {
            tracing::warn!("sandbox: files are denied but for patches and bundles; the kernel is too old for the rest")
        }
        Enforced::Not => tracing::warn!("sandbox: none, for this kernel has no Landlock or has it switched off"),
    }

    match syscalls::restrict() {
        Ok(()) => tracing::info!("sandbox: system calls are denied, but for those that it needs"),
        Err(reason) => tracing::warn!("sandbox: every system call is allowed, for {reason}"),
    }

    let current = Arc::new(CurrentListing::default());
    let encoders = Encoders::new(bundles, store, options.engine, options.batching);
    let wakes = keep(Directory::new(options.patches.clone(), encoders, keys, current.clone(), metrics.clone()))?;
    let tasks = current.now().tasks.len();
    if tasks == 0 {
        tracing::warn!(dir = %options.patches.display(), "no task yet: waiting for a patch to be renamed into the directory");
    }
    // One thread is enough for HTTP; the encoders have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::system("wait for connections"))?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::system("wait for signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::system("wait for signals"))?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            supervisor.tell("STOPPING=1");
        };
        let name = listener.name(if tls.is_some() { "https" } else { "http" });
        let acceptor = listener.acceptor().map_err(Error::system("listen"))?;
        tracing::info!(tasks, "ready on {name}");
        supervisor.tell("READY=1");
        Server::new(current, wakes, metrics, clients, tls, local, options.ready_without_tasks)
            .serve(acceptor, stop)
            .await;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Makes the directories that the sandbox allows, if they do not exist, because only an existing directory can be
/// allowed. If one cannot be made, the code that reads it later reports the error.
fn make_directories(patches: &Path, store: Option<&Store>) {
    if !patches.exists() && fs::create_dir_all(patches).is_ok() {
        tracing::warn!(dir = %patches.display(), "the directory of patches was not there and is made");
    }
    for dir in store.map(|store| store.root().to_owned()).into_iter().chain(cache_dir()) {
        let _ = fs::create_dir_all(dir);
    }
}
