//! Why a patch could not be made or compared.

use std::path::PathBuf;

/// The result of making or comparing patches.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a patch could not be made or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The patch cannot be read or does not fit.
    #[error(transparent)]
    Patch(#[from] bias_patch::Error),
    /// The bundle cannot be read or is damaged.
    #[error(transparent)]
    Bundle(#[from] edge_bundle::Error),
    /// The checkpoint is unreadable.
    #[error(transparent)]
    Checkpoint(#[from] hf_checkpoint::Error),
    /// A task.json is not a valid task.
    #[error("{}: not a task: {reason}", path.display())]
    Task {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A file has wrong content.
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
    /// A training recipe or another setting cannot be used.
    #[error("{field}: expected {expected}, found {found}")]
    Recipe {
        /// The setting.
        field: String,
        /// What is allowed.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A training checkpoint cannot be used.
    #[error("{}: expected {expected}, found {found}; remove the file to train from the start", path.display())]
    TrainingState {
        /// The checkpoint.
        path: PathBuf,
        /// What is needed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The Hub did not answer a request.
    #[error(
        "{address}: {reason}; is there a network, and does HF_ENDPOINT, if it is set, name a Hub? \
         If so, run the same command again later"
    )]
    Unreachable {
        /// What was asked.
        address: String,
        /// What came in place of an answer.
        reason: String,
    },
    /// The Hub refused a request, or gave something unusable.
    #[error("{address}: expected {expected}, found {found}; {remedy}")]
    Hub {
        /// What was asked.
        address: String,
        /// What is needed.
        expected: String,
        /// What came: a status and the Hub's reason.
        found: String,
        /// What helps.
        remedy: String,
    },
    /// A picture cannot be drawn.
    #[error("picture: {reason}")]
    Picture {
        /// Why.
        reason: String,
    },
    /// The loss or the gradient of a step is not a finite number.
    #[error(
        "step {step}: the loss is not a finite number, at a learning rate of up to {learning_rate:e}; try a lower learning rate, \
         with another output or without the checkpoint (texts of this step, from 0: {texts:?}; the checkpoint, if there is one, \
         keeps an earlier state)"
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The highest learning rate of the run.
        learning_rate: f64,
        /// The texts of the step, by their number.
        texts: Vec<usize>,
    },
    /// Whoever listens to the events of a training stopped it.
    #[error("the training was stopped; the same training goes on from its checkpoint, if there is one")]
    Stopped,
    /// Weights that BitFit freezes differ from the encoder's.
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
