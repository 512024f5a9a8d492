//! Why a checkpoint could not be exported, or a bundle not verified.

use std::path::PathBuf;

use crate::export::ENCODER;

/// The result of exporting or verifying.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a checkpoint could not be exported, or a bundle not verified.
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
    /// The checkpoint is unreadable.
    #[error(transparent)]
    Checkpoint(#[from] hf_checkpoint::Error),
    /// The bundle is not as it should be.
    #[error(transparent)]
    Bundle(#[from] edge_bundle::Error),
    /// A slot's name is not one, or a file could not be read or written whole.
    #[error(transparent)]
    Patch(#[from] bias_patch::Error),
    /// The checkpoint is of a kind that cannot be exported.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is supported.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A part of a bundle's file, such as a node of its graph, is not as the exporter writes it.
    #[error("{file}, {node}: expected {expected}, found {found}")]
    Graph {
        /// The name of the file.
        file: String,
        /// The node, initializer or other part.
        node: String,
        /// What the exporter writes there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The encoder's output differs from the one computed at export.
    #[error(
        "{}: golden output: expected to agree within {bound:e}, found a difference of {difference:e}; export the checkpoint again",
        path.display()
    )]
    Golden {
        /// The bundle.
        path: PathBuf,
        /// Largest difference allowed.
        bound: f64,
        /// Largest difference found.
        difference: f64,
    },
    /// A checkpoint could not be fetched.
    #[error("cannot fetch {spec}: {reason}")]
    Fetch {
        /// The checkpoint as it was named.
        spec: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The bundle's directory holds other files.
    #[error("{}: exists and is not part of a bundle; name another directory or remove it", path.display())]
    Occupied {
        /// The file or directory.
        path: PathBuf,
    },
}

impl Error {
    /// An error of a node or initializer of `encoder.onnx`.
    pub(crate) fn graph(node: &str, expected: impl Into<String>, found: impl ToString) -> Self {
        Error::Graph {
            file: ENCODER.to_owned(),
            node: node.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
