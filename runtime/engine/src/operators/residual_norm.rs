//! The end of a block: a linear layer or the whole MLP, the residual, and LayerNorm.
//!
//! Forward: x `[N, K]` and residual `[N, H]` to `[N, H]`: y = LayerNorm(z W + b + residual), with z = x, or in an MLP z
//! = f(x W' + b') `[N, I]`. Each thread computes its rows completely, so z is never whole in memory. Backward: through
//! LayerNorm; the gradient of its input is that of the residual, and goes back through the layers. Saved: what
//! LayerNorm saves, and x W' + b'.

use alloc::{string::String, vec, vec::Vec};
use core::slice;

use super::{Operator, Pass, dense::activate_backward, same};
use crate::{
    Activation, Result,
    batch::Slot,
    gradients::Gradients,
    layer_norm::LayerNorm,
    linear::{self, Linear},
    machine::{Beside, Scratch},
    weights::Tensor,
};

/// A linear layer, or the two of an MLP, whose result is added to the residual and normalized.
#[derive(Clone, Debug)]
pub struct ResidualNorm {
    /// The name of its node in the graph.
    pub name: String,
    /// In an MLP, the first layer and its activation.
    pub middle: Option<(Linear, Activation)>,
    /// The layer whose result is added.
    pub linear: Linear,
    /// The LayerNorm of the sum.
    pub norm: LayerNorm,
}

impl Operator for ResidualNorm {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        let first = self.middle.as_ref().map_or(&self.linear, |(middle, _)| middle);
        vec![first.inputs(), self.norm.width()]
    }

    fn width(&self) -> usize {
        self.norm.width()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let middle = self.middle.iter().map(|(middle, _)| &middle.weight);
        middle.chain([&self.linear.weight]).chain(self.norm.tensors()).collect()
    }

    fn slots(&self) -> Vec<Slot> {
        let middle = self.middle.iter().filter_map(|(middle, _)| middle.bias);
        middle.chain(self.linear.bias).chain(self.norm.bias).collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.middle.iter().map(|(middle, _)| middle).chain([&self.linear]).collect()
    }

    fn keeps_input(&self, trained: &dyn Fn(&Linear) -> bool) -> bool {
        // What the second layer of an MLP reads is computed from what is saved.
        trained(self.middle.as_ref().map_or(&self.linear, |(middle, _)| middle))
    }

    fn saves(&self) -> Vec<usize> {
        self.norm.saves().into_iter().chain(self.middle.iter().map(|(middle, _)| middle.outputs())).collect()
    }

    fn works(&self) -> usize {
        // The middle of the MLP, and the same quantized.
        let middle = self.middle.as_ref().map_or(self.linear.inputs(), |(middle, _)| middle.outputs());
        middle + middle / size_of::<f32>()
    }

    fn check(&self) -> Result<()> {
        if let Some((middle, _)) = &self.middle {
            middle.check(&self.name)?;
            same(&self.name, "an MLP's second layer with a number of inputs", middle.outputs(), self.linear.inputs())?;
        }
        self.linear.check(&self.name)?;
        self.norm.check(&self.name)?;
        same(&self.name, "a LayerNorm with a width", self.linear.outputs(), self.norm.width())
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()> {
        let (machine, width) = (pass.machine, self.width());
        let mut beside: Vec<Beside<'_>> =
            saved.iter_mut().zip(self.saves()).map(|(values, width)| Beside { values, width }).collect();
        machine.split_beside(out, width, &mut beside, |rows, out, saved| {
            let tasks = pass.tasks.of(rows.clone());
            let (of_norm, of_middle) = saved.split_at_mut(saved.len().min(self.norm.saves().len()));
            match &self.middle {
                None => linear::forward(pass, slice::from_ref(&self.linear), inputs[0], rows.clone(), out),
                Some((middle, activation)) => {
                    let mut z = machine.scratch(rows.len() * middle.outputs());
                    linear::forward(pass, slice::from_ref(middle), inputs[0], rows.clone(), &mut z);
                    of_middle.iter_mut().for_each(|before| before.copy_from_slice(&z));
                    machine.kernel.activate(*activation, &mut z);
                    linear::Operand::new(machine, &z, &self.linear.weight).multiply(
                        pass,
                        &self.linear,
                        tasks,
                        out,
                        width,
                    );
                }
            }
            let residual = &inputs[1][rows.start * width..];
            out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
            self.norm.forward(pass, tasks, out, of_norm);
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
        let (of_norm, of_middle) = saved.split_at(self.norm.saves().len());
        self.norm.backward_of_values(of_norm, &d_out, gradients);
        self.norm.backward_of_input(pass, of_norm, &mut d_out);
        let linear = slice::from_ref(&self.linear);
        let d_x = match &self.middle {
            None => linear::backward(pass, linear, inputs[0], &d_out, needed[0], gradients),
            Some((middle, activation)) => {
                let width = middle.outputs();
                // Only gradients of weights and low-rank terms need z, which was not saved.
                let reads_z = gradients.of_weights() || gradients.wants_term(&self.linear);
                let z = reads_z.then(|| {
                    let mut z = pass.machine.scratch(of_middle[0].len());
                    z.copy_from_slice(of_middle[0]);
                    pass.machine.split(&mut z, width, |_, z| pass.machine.kernel.activate(*activation, z));
                    z
                });
                let below =
                    needed[0] || middle.bias.is_some_and(|bias| gradients.wants(bias)) || gradients.wants_term(middle);
                let d_z = linear::backward(pass, linear, z.as_deref().unwrap_or_default(), &d_out, below, gradients);
                d_z.and_then(|mut d| {
                    activate_backward(pass.machine, *activation, of_middle[0], width, &mut d);
                    linear::backward(pass, slice::from_ref(middle), inputs[0], &d, needed[0], gradients)
                })
            }
        };
        vec![d_x, needed[1].then_some(d_out)]
    }
}
