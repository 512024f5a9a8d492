//! The operators of a model, one file each, with forward and backward pass.
//!
//! In: the outputs of other operators, rows of f32. Out: rows of f32; from the backward pass, gradients of the inputs
//! and of the slots' values. Refused: parts whose sizes do not fit. Inference and training run the same forward pass;
//! training gives it room to save what backward needs. All other code knows operators only by the trait [`Operator`].
//!
//! Letters, here and in the operators: B sequences, N tokens of all of them, S tokens of one, H width of the hidden
//! states, I width of the middle of the MLP, K and M inputs and outputs of a matrix, r the rank of a low-rank term, D
//! width of a head, L values of a task. A gradient is called `d` and then what it is of.

mod attention;
mod dense;
mod disentangled;
mod embedding;
mod first_token;
mod norm;
mod positions;
mod residual;

use alloc::vec::Vec;
use core::fmt::Debug;

#[cfg(feature = "research")]
pub(crate) use self::attention::lay_out_values;
pub use self::{
    attention::Attention,
    dense::Dense,
    disentangled::Disentangled,
    embedding::{Embedding, PositionRows},
    first_token::FirstToken,
    norm::Norm,
    positions::{Positions, Relative},
    residual::{Middle, Residual},
};
use crate::{
    Error, Result,
    batch::{Batch, Slot, TaskRows},
    demand::{Demand, Work},
    gradients::Gradients,
    linear::Linear,
    low_rank::TaskTerms,
    machine::{Beside, Machine, Scratch},
    weights::{Tensor, Weights},
};

/// A fused operator of a model.
pub trait Operator: Debug + Send + Sync {
    /// The name of its node in the graph, for errors.
    fn name(&self) -> &str;

    /// Widths of the operators' outputs that it reads.
    fn inputs(&self) -> Vec<usize>;

    /// Width of its output.
    fn width(&self) -> usize;

    /// Whether its output has a row for each sequence, not for each token, given which of its inputs have. None if it
    /// cannot read such rows; most operators read rows of one kind, and give the same.
    fn of_sequences(&self, inputs: &[bool]) -> Option<bool> {
        let first = inputs.first().copied().unwrap_or(false);
        inputs.iter().all(|input| *input == first).then_some(first)
    }

    /// The frozen tensors it reads.
    fn tensors(&self) -> Vec<&Tensor>;

    /// The slots it reads.
    fn slots(&self) -> Vec<Slot>;

    /// Its linear layers.
    fn linears(&self) -> Vec<&Linear> {
        Vec::new()
    }

    /// Whether backward needs its first input for the low-rank terms that are `trained`. No operator needs another
    /// input for them.
    fn keeps_input(&self, trained: &dyn Fn(&Linear) -> bool) -> bool {
        self.linears().into_iter().any(trained)
    }

    /// What backward needs of the forward pass: the floats for each row, for each buffer that is saved.
    fn saves(&self) -> Vec<usize>;

    /// What a forward pass that saves nothing takes beyond inputs and output.
    fn works(&self, demand: Demand<'_>) -> Vec<Work>;

    /// Checks that the sizes of its parts fit.
    ///
    /// # Errors
    /// Names the part that does not fit.
    fn check(&self) -> Result<()>;

    /// Computes every value of its output. `saved` has room either for all of [`Operator::saves`], which are then
    /// filled, or for nothing.
    ///
    /// # Errors
    /// When a token needs an embedding row that does not exist.
    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()>;

    /// From the gradient of its output, adds to the gradients of its slots, and gives the gradients of those inputs
    /// that are `needed`. `inputs` are present only if gradients of weights are wanted; the first of them also if
    /// [`Operator::keeps_input`].
    fn backward<'m>(
        &self,
        pass: &Pass<'m>,
        inputs: &[&[f32]],
        saved: &[&[f32]],
        d_out: Scratch<'m>,
        needed: &[bool],
        gradients: &mut Gradients<'_>,
    ) -> Vec<Option<Scratch<'m>>>;
}

/// What an operator runs in.
#[derive(Clone, Copy)]
pub struct Pass<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) weights: Weights<'m>,
    pub(crate) batch: &'m Batch,
    /// The values of the rows of its output.
    pub(crate) tasks: TaskRows<'m>,
}

impl<'m> Pass<'m> {
    /// The low-rank terms of a batch of one task.
    pub(crate) fn terms(&self) -> TaskTerms<'m> {
        self.tasks.terms(0)
    }
}

/// What an operator saves, beside its output: buffers of these widths; none if there is nothing to save.
fn beside<'s>(saved: &'s mut [Scratch<'_>], widths: &[usize]) -> Vec<Beside<'s>> {
    saved.iter_mut().zip(widths).map(|(values, width)| Beside { values, width: *width }).collect()
}

/// An error unless two sizes are equal.
fn same(operator: &str, what: &'static str, expected: usize, found: usize) -> Result<()> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::Shape { operator: operator.into(), what, expected, found }),
    }
}
