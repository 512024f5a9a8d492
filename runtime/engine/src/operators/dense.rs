//! A linear layer and its activation.
//!
//! Forward: x `[N, K]` to `[N, M]`: y = f(x W + b). Backward, from dy: d = dy f'(x W + b), then as [`linear`] says.
//! Saved: x W + b, `[N, M]`, where there is an activation.

use alloc::{string::String, vec, vec::Vec};
use core::slice;

use super::{Operator, Pass, beside};
use crate::{
    Activation, Result,
    batch::Slot,
    demand::{Demand, Work},
    gradients::Gradients,
    linear::{self, Linear},
    machine::{Machine, Scratch},
    weights::Tensor,
};

/// A linear layer and perhaps its activation.
#[derive(Clone, Debug)]
pub struct Dense {
    /// The name of its node in the graph.
    pub name: String,
    /// The layer.
    pub linear: Linear,
    /// The activation of its results.
    pub activation: Option<Activation>,
}

impl Operator for Dense {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        vec![self.linear.inputs()]
    }

    fn width(&self) -> usize {
        self.linear.outputs()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![&self.linear.weight]
    }

    fn slots(&self) -> Vec<Slot> {
        self.linear.bias.into_iter().collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        vec![&self.linear]
    }

    fn saves(&self) -> Vec<usize> {
        self.activation.iter().map(|_| self.linear.outputs()).collect()
    }

    fn works(&self, demand: Demand<'_>) -> Vec<Work> {
        let (part, threads) = demand.split();
        vec![linear::works(demand.machine, &self.linear.weight, part, threads)]
    }

    fn check(&self) -> Result<()> {
        self.linear.check(&self.name)
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()> {
        let width = self.width();
        let mut beside = beside(saved, &self.saves());
        pass.machine.split_beside(out, width, &mut beside, |rows, out, saved| {
            linear::forward(pass, slice::from_ref(&self.linear), inputs[0], rows, out);
            saved.iter_mut().for_each(|before| before.copy_from_slice(out));
            if let Some(activation) = self.activation {
                pass.machine.kernel.activate(activation, out);
            }
        });
        Ok(())
    }

    fn backward<'m>(
        &self,
        pass: &Pass<'m>,
        inputs: &[&[f32]],
        saved: &[&[f32]],
        mut d_out: Scratch<'m>,
        needed: &[bool],
        gradients: &mut Gradients<'_>,
    ) -> Vec<Option<Scratch<'m>>> {
        if let Some(activation) = self.activation {
            activate_backward(pass.machine, activation, saved[0], self.width(), &mut d_out);
        }
        vec![linear::backward(pass, slice::from_ref(&self.linear), inputs[0], &d_out, needed[0], gradients)]
    }
}

/// Multiplies the gradients of an activation's outputs by its derivative at its inputs, `[N, width]`.
pub(super) fn activate_backward(
    machine: &Machine,
    activation: Activation,
    before: &[f32],
    width: usize,
    d: &mut [f32],
) {
    machine.split(d, width, |rows, d| {
        machine.kernel.activate_backward(activation, &before[rows.start * width..rows.end * width], d);
    });
}
