//! Why a patch could not be made or compared.

use std::path::PathBuf;

/// The result of making or comparing patches.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a patch could not be made or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The patch or bundle is not as it should be.
    #[error(transparent)]
    Format(#[from] bias_patch::Error),
    /// The checkpoint is unreadable.
    #[error(transparent)]
    Checkpoint(#[from] hf_checkpoint::Error),
    /// A task description is not one.
    #[error("{}: not a task: {reason}", path.display())]
    Task {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A file is not as it should be.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The encoder cannot be loaded or run.
    #[error(transparent)]
    Run(#[from] edge_run::Error),
    /// A recipe for training cannot be followed.
    #[error("{field}: expected {expected}, found {found}")]
    Recipe {
        /// What of it.
        field: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The loss of a step is no number any more.
    #[error(
        "step {step}: the loss is not a finite number, at a learning rate of up to {rate:e}; try a lower rate, with another output \
         or without the checkpoint (texts of this step, from 0: {texts:?}; an earlier state, if there was one, is in the checkpoint)"
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The highest learning rate.
        rate: f64,
        /// The texts of the step, by their number.
        texts: Vec<usize>,
    },
    /// Weights that BitFit leaves alone are not the encoder's.
    #[error(
        "{}: {} of {} frozen tensors differ from the encoder's, so no patch of biases can stand for it:{list}",
        path.display(), count, of
    )]
    WeightsDiffer {
        /// The checkpoint.
        path: PathBuf,
        /// Tensors that differ.
        count: usize,
        /// Tensors compared.
        of: usize,
        /// The first of them, a line each.
        list: String,
    },
}
