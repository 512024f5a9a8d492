//! LayerNorm by itself, where it comes before attention and MLP.
//!
//! Forward: x `[N, H]` to `[N, H]`, as [`LayerNorm`] says. Backward: the gradients of its bias and of x. Saved: what
//! LayerNorm saves.

use alloc::{string::String, vec, vec::Vec};

use super::{Operator, Pass, beside};
use crate::{
    Result,
    batch::Slot,
    demand::{Demand, Work},
    gradients::Gradients,
    layer_norm::LayerNorm,
    machine::Scratch,
    weights::Tensor,
};

/// A LayerNorm of another operator's output.
#[derive(Clone, Debug)]
pub struct Norm {
    /// The name of its node in the graph.
    pub name: String,
    /// The LayerNorm.
    pub norm: LayerNorm,
}

impl Operator for Norm {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        vec![self.norm.width()]
    }

    fn width(&self) -> usize {
        self.norm.width()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.norm.tensors().to_vec()
    }

    fn slots(&self) -> Vec<Slot> {
        self.norm.bias.into_iter().collect()
    }

    fn saves(&self) -> Vec<usize> {
        self.norm.saves().to_vec()
    }

    fn works(&self, _: Demand<'_>) -> Vec<Work> {
        vec![]
    }

    fn check(&self) -> Result<()> {
        self.norm.check(&self.name)
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()> {
        let width = self.width();
        let mut beside = beside(saved, &self.saves());
        pass.machine.split_beside(out, width, &mut beside, |rows, out, saved| {
            out.copy_from_slice(&inputs[0][rows.start * width..rows.end * width]);
            self.norm.forward(pass, pass.tasks.of(rows), out, saved);
        });
        Ok(())
    }

    fn backward<'m>(
        &self,
        pass: &Pass<'m>,
        _: &[&[f32]],
        saved: &[&[f32]],
        mut d_out: Scratch<'m>,
        needed: &[bool],
        gradients: &mut Gradients<'_>,
    ) -> Vec<Option<Scratch<'m>>> {
        self.norm.backward_of_values(saved, &d_out, gradients);
        if !needed[0] {
            return vec![None];
        }
        self.norm.backward_of_input(pass, saved, &mut d_out);
        vec![Some(d_out)]
    }
}
