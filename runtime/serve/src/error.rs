//! Why the process could not start.

use std::{io, path::PathBuf};

/// The result of starting.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the process could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is not as it should be.
    #[error(transparent)]
    Key(#[from] bias_patch::Error),
    /// A bundle is not as it should be.
    #[error(transparent)]
    Bundle(#[from] edge_bundle::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// What was asked for.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// systemd passed something other than one listening socket.
    #[error("expected one listening stream socket from systemd, found {found}")]
    Activation {
        /// What it handed over.
        found: String,
    },
    /// The path of --patches is not a directory.
    #[error("{}: expected a directory of *.bias files, found something else; name the directory with --patches", path.display())]
    Patches {
        /// What was named.
        path: PathBuf,
    },
    /// The file of bearer tokens is not as it should be.
    #[error("{}: expected a token of at least 16 characters on one line, or on each line NAME TOKEN [requests=N] [texts=N], \
             found {found}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A file for TLS cannot be used.
    #[error("{}: expected {expected}, found {found}; {remedy}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What it is to hold.
        expected: String,
        /// What is there.
        found: String,
        /// What mends it.
        remedy: &'static str,
    },
    /// TLS is asked for, and not in this build.
    #[error(
        "--tls-certificate: expected a build with TLS, found one without; build with the feature `tls` of edge-serve, \
             or with targets/build --tls"
    )]
    NoTls,
    /// The kernel has Landlock and refused to use it.
    #[error("cannot restrict this process to its files: {reason}")]
    Sandbox {
        /// Its reason.
        reason: String,
    },
    /// A thread, the clock or the signals cannot be had.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// The error of the operating system when it refuses to `action`.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::System { action, source }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has it, or a file is there that is no socket; stop that one, or choose another with --listen"
        }
        io::ErrorKind::PermissionDenied => "; choose a port above 1023 or a path you may write to with --listen",
        _ => "",
    }
}
