//! Which weights a training for comparison trains in place of biases, and whether this build can train them.

use clap::ValueEnum;

use super::wrong;
use crate::{Error, Result};

/// Which weights are trained in place of biases, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// Random single weights of the whole encoder, as many as the slots have biases; no biases
    Random,
    /// Random rows and columns of matrices and tables, at most as many weights as the slots have biases; no
    /// biases
    Rows,
    /// All weights and all biases: fine-tuning
    Full,
}

impl Weights {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Weights::Random => "random",
            Weights::Rows => "rows",
            Weights::Full => "full",
        }
    }

    /// Refuses weights in a build without the feature `research`.
    ///
    /// # Errors
    /// When this is such a build.
    pub fn check(self) -> Result<()> {
        if cfg!(feature = "research") { Ok(()) } else { Err(no_research()) }
    }
}

/// The error of a build without the feature `research`.
pub(super) fn no_research() -> Error {
    let expected = "a build with the feature research, which cargo build --package edge-patch makes";
    wrong("training of weights", expected, "one without")
}
