//! What can be wrong with a bundle, said so that a person can act on it.

use std::path::{Path, PathBuf};

use bias_patch::Digest;

/// The result of reading, checking or writing a bundle.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted, as a verb.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A digest, a slot's name or a whole file could not be read or written.
    #[error(transparent)]
    Patch(#[from] bias_patch::Error),
    /// An error inside a named file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// The directory holds no manifest.
    #[error("{}: not a bundle: it should hold a {}; `edge-export CHECKPOINT -o DIR` makes one", dir.display(), crate::MANIFEST)]
    NotABundle {
        /// The directory.
        dir: PathBuf,
    },
    /// The weights are laid out for kernels that this program does not have, or not at all, and there is nothing here
    /// to lay them out from.
    #[error(
        "{}: expected weights.bin, or the panels of this program's kernels, {expected}; found {found}; copy weights.bin \
         there and run `edge-run prepare {}`, or make the bundle anew with `edge-export CHECKPOINT --panels only \
         --weights {weights}` or, for a board, `targets/build BOARD`",
        dir.display(),
        dir.display()
    )]
    NoWeights {
        /// The bundle.
        dir: PathBuf,
        /// The file of panels that this program maps.
        expected: String,
        /// What panels are there, or what is wrong with them.
        found: String,
        /// How its weights are stored, as edge-export names it.
        weights: &'static str,
    },
    /// A version that this program does not know.
    #[error(
        "version {found} of the {what} format, but this program reads version {expected}; a newer release may read it"
    )]
    Version {
        /// "bundle", "panels" or "vocabulary".
        what: &'static str,
        /// The versions this program reads.
        expected: &'static str,
        /// The version in the file.
        found: u32,
    },
    /// A part of a file is shorter or longer than it says.
    #[error("{part}: expected {expected} bytes, found {found}; the file is not whole, copy it again")]
    Length {
        /// The part of the file.
        part: String,
        /// Bytes that were due.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The bytes are not those that were written.
    #[error("checksum mismatch: expected {expected}, found {found}; the file is damaged, copy it again")]
    Checksum {
        /// The checksum that was written: a digest, or a CRC-32 in hexadecimal digits.
        expected: String,
        /// That of the bytes there are.
        found: String,
    },
    /// A field holds a value that is not allowed.
    #[error("{field}: expected {expected}, found {found}")]
    Field {
        /// The field, slot or tensor.
        field: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The store holds another encoder under this digest.
    #[error("the store names encoder {expected}, but this bundle holds encoder {found}; export its checkpoint again")]
    OtherEncoder {
        /// The digest that names the bundle in the store.
        expected: Digest,
        /// The digest of the bundle.
        found: Digest,
    },
    /// No bundle for a digest in the store.
    #[error(
        "no bundle of encoder {digest} in the store {}; export its checkpoint with `edge-export CHECKPOINT`, and the --weights that the patch was made for, or name its bundle with --bundle (edge-patch: --encoder)",
        store.display()
    )]
    NotInStore {
        /// The digest that was asked for.
        digest: Digest,
        /// The directory that was searched.
        store: PathBuf,
    },
    /// A patch on the Hub that is not on this machine.
    #[error("{patch}: not in {}; `edge-patch pull {patch}` fetches it", cache.display())]
    NotFetched {
        /// Its name.
        patch: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
}

impl Error {
    /// Names the file that the error is in.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            named @ (Error::Io { .. }
            | Error::InFile { .. }
            | Error::NotABundle { .. }
            | Error::NoWeights { .. }
            | Error::NotInStore { .. }
            | Error::NotFetched { .. }) => named,
            Error::Patch(source) => Error::Patch(source.in_file(path)),
            source => Error::InFile { path: path.to_owned(), source: Box::new(source) },
        }
    }

    /// The error of the operating system when it refuses to `action` the file at `path`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    pub(crate) fn field(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Error::Field { field: field.into(), expected: expected.into(), found: found.to_string() }
    }
}
