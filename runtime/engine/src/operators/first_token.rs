//! The first token of each sequence.
//!
//! Forward: x `[N, H]` to `[B, H]`. Backward: dx is dy at the first tokens and zero elsewhere.

use alloc::{string::String, vec, vec::Vec};

use super::{Operator, Pass};
use crate::{
    Result,
    batch::Slot,
    demand::{Demand, Work},
    gradients::Gradients,
    machine::Scratch,
    weights::Tensor,
};

/// The first token of each sequence.
#[derive(Clone, Debug)]
pub struct FirstToken {
    /// The name of its node in the graph.
    pub name: String,
    /// H.
    pub width: usize,
}

impl Operator for FirstToken {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        vec![self.width]
    }

    fn width(&self) -> usize {
        self.width
    }

    fn of_sequences(&self, inputs: &[bool]) -> Option<bool> {
        (inputs == [false]).then_some(true)
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![]
    }

    fn slots(&self) -> Vec<Slot> {
        vec![]
    }

    fn saves(&self) -> Vec<usize> {
        vec![]
    }

    fn works(&self, _: Demand<'_>) -> Vec<Work> {
        vec![]
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], _: &mut [Scratch<'_>]) -> Result<()> {
        for (out, range) in out.chunks_mut(self.width).zip(pass.batch.ranges()) {
            out.copy_from_slice(&inputs[0][range.start * self.width..][..self.width]);
        }
        Ok(())
    }

    fn backward<'m>(
        &self,
        pass: &Pass<'m>,
        _: &[&[f32]],
        _: &[&[f32]],
        d_out: Scratch<'m>,
        _: &[bool],
        _: &mut Gradients<'_>,
    ) -> Vec<Option<Scratch<'m>>> {
        let mut d_x = pass.machine.zeros(pass.batch.tokens() * self.width);
        for (d, range) in d_out.chunks(self.width).zip(pass.batch.ranges()) {
            d_x[range.start * self.width..][..self.width].copy_from_slice(d);
        }
        vec![Some(d_x)]
    }
}
