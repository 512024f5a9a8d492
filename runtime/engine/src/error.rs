//! What the engine refuses.

use alloc::string::String;

use thiserror::Error;

/// A result of this crate.
pub type Result<T> = core::result::Result<T, Error>;

/// Why a model cannot be made or run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The weights do not begin on a cache line.
    #[error("weights: expected bytes on a boundary of {expected}, found them {found} bytes beyond one")]
    Alignment {
        /// The boundary.
        expected: usize,
        /// Bytes beyond one.
        found: usize,
    },
    /// A tensor does not lie within the weights.
    #[error("{name}: expected its values within the {bytes} bytes of the weights and aligned, found them elsewhere")]
    Tensor {
        /// The tensor.
        name: String,
        /// Bytes of all weights.
        bytes: usize,
    },
    /// Two parts of an operator have sizes that do not fit.
    #[error("{operator}: expected {what} of {expected}, found {found}")]
    Shape {
        /// The operator's name in the graph.
        operator: String,
        /// What does not fit.
        what: &'static str,
        /// The size that fits.
        expected: usize,
        /// The size it has.
        found: usize,
    },
    /// A token asks for a row that an embedding table does not have.
    #[error("{operator}: expected rows below {rows} of an embedding table, found {row}")]
    Row {
        /// The operator's name in the graph.
        operator: String,
        /// The row.
        row: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// A batch, a table of values or weights do not fit the model.
    #[error("{what}: expected {expected}, found {found}")]
    Input {
        /// What was handed in.
        what: &'static str,
        /// How many are due.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Threads do not start.
    #[error("expected {threads} threads to start, found: {reason}")]
    Threads {
        /// How many.
        threads: usize,
        /// What the system says.
        reason: String,
    },
}
