//! Why a checkpoint could not be exported, or a bundle not verified.

use std::path::{Path, PathBuf};

use crate::onnx::ENCODER;

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
    Bundle(#[from] bias_patch::Error),
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
    /// A node or initializer of a graph is not as the exporter writes it.
    #[error("{file}, {node}: expected {expected}, found {found}")]
    Graph {
        /// The name of the graph's file.
        file: String,
        /// The node or initializer.
        node: String,
        /// What was due.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The encoder no longer computes what it did when it was exported.
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
    /// There is something else where the bundle should go.
    #[error("{}: is there and not part of a bundle; name another directory or remove it", path.display())]
    Occupied {
        /// What is there.
        path: PathBuf,
    },
}

impl Error {
    /// That a node or initializer, of encoder.onnx unless [`Error::in_graph_of`] says otherwise, is not as it should be.
    pub(crate) fn graph(node: &str, expected: impl Into<String>, found: impl ToString) -> Self {
        Error::Graph {
            file: ENCODER.to_owned(),
            node: node.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// The same error, of the graph in another file.
    pub(crate) fn in_graph_of(self, path: &Path) -> Self {
        match self {
            Error::Graph { node, expected, found, .. } => {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Error::Graph { file, node, expected, found }
            }
            other => other,
        }
    }
}
