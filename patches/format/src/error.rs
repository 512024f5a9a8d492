//! Errors of reading, checking and writing patches.

use std::path::{Path, PathBuf};

use crate::{Digest, SlotId};

/// The result of reading, checking or writing a patch.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a patch was refused.
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
    /// An error inside a named file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// The file does not begin as a patch does.
    #[error("not a bias patch: it should begin with the bytes \"BIASPTCH\"")]
    NotAPatch,
    /// A version that this program does not know.
    #[error(
        "version {found} of the patch format, but this program reads versions up to {expected}; a newer release may read it"
    )]
    Version {
        /// The newest version this program reads.
        expected: u32,
        /// The version in the file.
        found: u32,
    },
    /// A part of the file is shorter or longer than the file says.
    #[error("{part}: expected {expected} bytes, found {found}; the file is not whole, copy it again")]
    Length {
        /// The part of the file.
        part: String,
        /// Bytes that were due.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The checksum does not match the bytes.
    #[error("checksum mismatch: expected {expected}, found {found}; the file is damaged, copy it again")]
    Checksum {
        /// Checksum stored.
        expected: String,
        /// Checksum computed.
        found: String,
    },
    /// A field holds a value that is not allowed.
    #[error("{field}: expected {expected}, found {found}")]
    Field {
        /// The field or slot.
        field: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The patch was made for another encoder.
    #[error(
        "the patch fits encoder {expected}, but this bundle holds encoder {found}; if both are of one checkpoint in two number \
         formats, `edge-patch retarget` makes a patch for this bundle"
    )]
    OtherEncoder {
        /// The digest the patch names.
        expected: Digest,
        /// The digest of the bundle at hand.
        found: Digest,
    },
    /// A slot that the encoder does not have.
    #[error("slot {slot}: the encoder has no such slot (it has {layers} layers)")]
    NoSuchSlot {
        /// The slot in the patch.
        slot: SlotId,
        /// Layers of the encoder.
        layers: u32,
    },
    /// A patch has no signature, and keys were given.
    #[error("{}: expected a signature, found none; `edge-patch sign PATCH --key KEY` makes it", signature.display())]
    Unsigned {
        /// Where it should be.
        signature: PathBuf,
    },
    /// The signature is not one of these bytes by a trusted key.
    #[error("signed by none of the {keys} trusted keys, or changed since; get it again from whoever signed it")]
    BadSignature {
        /// Keys that were tried.
        keys: usize,
    },
}

impl Error {
    /// Names the file that the error is in.
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            named @ (Error::Io { .. } | Error::InFile { .. } | Error::Unsigned { .. }) => named,
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
