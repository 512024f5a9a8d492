//! The end of a block: a linear layer or the whole MLP, the residual, and LayerNorm.
//!
//! Forward: x `[N, K]` and residual `[N, H]` to `[N, H]`: y = LayerNorm(z W + b + residual), with z = x, or in an MLP z
//! = f(x W' + b') `[N, I]`, in a gated one z = f(x W' + b') (x W" + b"). Where LayerNorm comes before the blocks, y is
//! the sum. Each thread computes its rows completely, some at a time, so z is never whole in memory. Backward: through
//! LayerNorm; the gradient of its input is that of the residual, and goes back through the layers. Saved: what
//! LayerNorm saves, and in an MLP x W' + b', and beside it x W" + b".

use alloc::{string::String, vec, vec::Vec};
use core::{ops::Range, slice};

use super::{Operator, Pass, beside, dense::activate_backward, same};
use crate::{
    Activation, Result,
    batch::Slot,
    demand::{Demand, Work},
    gradients::Gradients,
    layer_norm::LayerNorm,
    linear::{self, Linear},
    machine::{Machine, Scratch},
    weights::Tensor,
};

/// A linear layer, or those of an MLP, whose result is added to the residual and perhaps normalized.
#[derive(Clone, Debug)]
pub struct Residual {
    /// The name of its node in the graph.
    pub name: String,
    /// In an MLP, what comes before the last layer.
    pub middle: Option<Middle>,
    /// The layer whose result is added.
    pub linear: Linear,
    /// The LayerNorm of the sum.
    pub norm: Option<LayerNorm>,
}

/// The middle of an MLP.
#[derive(Clone, Debug)]
pub struct Middle {
    /// The first layer, and where the MLP is gated a second one of the same shape, the gate.
    pub layers: Vec<Linear>,
    /// The activation of the first.
    pub activation: Activation,
}

/// Rows of an MLP's middle that are computed together at most: enough to read its matrices once for most texts, and few
/// enough for the middle of a long one to be small.
const MIDDLE_ROWS: usize = 512;

impl Middle {
    /// K.
    fn inputs(&self) -> usize {
        self.layers[0].inputs()
    }

    /// I.
    fn width(&self) -> usize {
        self.layers[0].outputs()
    }

    fn check(&self, operator: &str) -> Result<()> {
        let count = self.layers.len();
        same(operator, "a middle of one layer, or two where it is gated,", count.clamp(1, 2), count)?;
        for layer in &self.layers {
            layer.check(operator)?;
            same(operator, "a gate with a number of inputs", self.inputs(), layer.inputs())?;
            same(operator, "a gate with a number of outputs", self.width(), layer.outputs())?;
        }
        Ok(())
    }

    /// z `[rows, I]` of what its layers gave, `[rows, I]` or, with a gate, `[rows, 2 I]`.
    fn activate(&self, machine: &Machine, before: &[f32], z: &mut [f32]) {
        let width = self.width();
        if self.layers.len() == 1 {
            z.copy_from_slice(before);
            return machine.kernel.activate(self.activation, z);
        }
        let rows = || before.chunks_exact(2 * width);
        rows().zip(z.chunks_exact_mut(width)).for_each(|(before, z)| z.copy_from_slice(&before[..width]));
        machine.kernel.activate(self.activation, z);
        for (before, z) in rows().zip(z.chunks_exact_mut(width)) {
            z.iter_mut().zip(&before[width..]).for_each(|(z, gate)| *z *= gate);
        }
    }

    /// The gradient of what its layers gave, from `d`, that of z.
    fn backward<'m>(&self, machine: &'m Machine, before: &[f32], mut d: Scratch<'m>) -> Scratch<'m> {
        let width = self.width();
        if self.layers.len() == 1 {
            activate_backward(machine, self.activation, before, width, &mut d);
            return d;
        }
        let mut d_before = machine.scratch(before.len());
        machine.split(&mut d_before, 2 * width, |rows, d_before| {
            let mut active = machine.scratch(width);
            let before = before[rows.start * 2 * width..].chunks_exact(2 * width);
            let d = d[rows.start * width..].chunks_exact(width);
            for ((d_before, before), d) in d_before.chunks_exact_mut(2 * width).zip(before).zip(d) {
                let ((middle, gate), (d_middle, d_gate)) = (before.split_at(width), d_before.split_at_mut(width));
                active.copy_from_slice(middle);
                machine.kernel.activate(self.activation, &mut active);
                d_gate.iter_mut().zip(d).zip(&*active).for_each(|((out, d), active)| *out = d * active);
                d_middle.iter_mut().zip(d).zip(gate).for_each(|((out, d), gate)| *out = d * gate);
                machine.kernel.activate_backward(self.activation, middle, d_middle);
            }
        });
        d_before
    }
}

impl Operator for Residual {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        let first = self.middle.as_ref().map_or(self.linear.inputs(), Middle::inputs);
        vec![first, self.linear.outputs()]
    }

    fn width(&self) -> usize {
        self.linear.outputs()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let layers = self.linears().into_iter().map(|layer| &layer.weight);
        layers.chain(self.norm.iter().flat_map(LayerNorm::tensors)).collect()
    }

    fn slots(&self) -> Vec<Slot> {
        let layers = self.linears().into_iter().filter_map(|layer| layer.bias);
        layers.chain(self.norm.iter().filter_map(|norm| norm.bias)).collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.middle.iter().flat_map(|middle| &middle.layers).chain([&self.linear]).collect()
    }

    fn keeps_input(&self, trained: &dyn Fn(&Linear) -> bool) -> bool {
        // What the last layer of an MLP reads is computed from what is saved.
        match &self.middle {
            None => trained(&self.linear),
            Some(middle) => middle.layers.iter().any(trained),
        }
    }

    fn saves(&self) -> Vec<usize> {
        let of_norm = self.norm.iter().flat_map(LayerNorm::saves);
        of_norm.chain(self.middle.iter().map(|middle| middle.layers.len() * middle.width())).collect()
    }

    fn works(&self, demand: Demand<'_>) -> Vec<Work> {
        let (part, threads) = demand.split();
        let Some(middle) = &self.middle else {
            return vec![linear::works(demand.machine, &self.linear.weight, part, threads)];
        };
        let rows = part.min(MIDDLE_ROWS);
        let mut of_middle = vec![rows * middle.width()];
        if middle.layers.len() > 1 {
            of_middle.push(2 * rows * middle.width());
        }
        // One layer after the other, beside the middle.
        let layers = [&middle.layers[0].weight, &self.linear.weight];
        let works = layers.map(|weight| match linear::works(demand.machine, weight, rows, threads) {
            Work::Returned { buffers, bytes, .. } => {
                Work::Returned { threads, buffers: [&of_middle[..], &buffers].concat(), bytes }
            }
            kept => kept,
        });
        works.into()
    }

    fn check(&self) -> Result<()> {
        if let Some(middle) = &self.middle {
            middle.check(&self.name)?;
            same(&self.name, "an MLP's last layer with a number of inputs", middle.width(), self.linear.inputs())?;
        }
        self.linear.check(&self.name)?;
        let Some(norm) = &self.norm else { return Ok(()) };
        norm.check(&self.name)?;
        same(&self.name, "a LayerNorm with a width", self.linear.outputs(), norm.width())
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()> {
        let (machine, width) = (pass.machine, self.width());
        let of_norm = self.of_norm();
        let mut beside = beside(saved, &self.saves());
        machine.split_beside(out, width, &mut beside, |rows, out, saved| {
            let (of_norm, of_middle) = saved.split_at_mut(saved.len().min(of_norm));
            match &self.middle {
                None => linear::forward(pass, slice::from_ref(&self.linear), inputs[0], rows.clone(), out),
                Some(middle) => {
                    let wide = middle.layers.len() * middle.width();
                    let mut parts = of_middle.first_mut().map(|saved| saved.chunks_mut(MIDDLE_ROWS * wide));
                    for (out, first) in out.chunks_mut(MIDDLE_ROWS * width).zip(rows.clone().step_by(MIDDLE_ROWS)) {
                        let rows = first..first + out.len() / width;
                        let saved = parts.as_mut().and_then(Iterator::next);
                        self.through_middle(pass, middle, inputs[0], rows, out, saved);
                    }
                }
            }
            let residual = &inputs[1][rows.start * width..];
            out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
            if let Some(norm) = &self.norm {
                norm.forward(pass, pass.tasks.of(rows), out, of_norm);
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
        let (of_norm, of_middle) = saved.split_at(self.of_norm());
        if let Some(norm) = &self.norm {
            norm.backward_of_values(of_norm, &d_out, gradients);
            norm.backward_of_input(pass, of_norm, &mut d_out);
        }
        let linear = slice::from_ref(&self.linear);
        let d_x = match &self.middle {
            None => linear::backward(pass, linear, inputs[0], &d_out, needed[0], gradients),
            Some(middle) => {
                // Only gradients of weights and low-rank terms need z, which was not saved.
                let reads_z = gradients.of_weights() || gradients.wants_term(&self.linear);
                let z = reads_z.then(|| {
                    let wide = middle.layers.len() * middle.width();
                    let mut z = pass.machine.scratch(of_middle[0].len() / middle.layers.len());
                    pass.machine.split(&mut z, middle.width(), |rows, z| {
                        middle.activate(pass.machine, &of_middle[0][rows.start * wide..rows.end * wide], z);
                    });
                    z
                });
                let wanted = |layer: &Linear| {
                    layer.bias.is_some_and(|bias| gradients.wants(bias)) || gradients.wants_term(layer)
                };
                let below = needed[0] || middle.layers.iter().any(wanted);
                let d_z = linear::backward(pass, linear, z.as_deref().unwrap_or_default(), &d_out, below, gradients);
                d_z.and_then(|d| {
                    let d = middle.backward(pass.machine, of_middle[0], d);
                    linear::backward(pass, &middle.layers, inputs[0], &d, needed[0], gradients)
                })
            }
        };
        vec![d_x, needed[1].then_some(d_out)]
    }
}

impl Residual {
    /// How many buffers its LayerNorm saves.
    fn of_norm(&self) -> usize {
        self.norm.as_ref().map_or(0, |norm| norm.saves().len())
    }

    /// An MLP of some rows of x, into `out`. `saved` gets what the layers of its middle give.
    fn through_middle(
        &self,
        pass: &Pass<'_>,
        middle: &Middle,
        x: &[f32],
        rows: Range<usize>,
        out: &mut [f32],
        saved: Option<&mut [f32]>,
    ) {
        let (machine, count) = (pass.machine, rows.len() * middle.width());
        let tasks = pass.tasks.of(rows.clone());
        let mut z = machine.scratch(count);
        if middle.layers.len() == 1 {
            linear::forward(pass, &middle.layers, x, rows, &mut z);
            if let Some(saved) = saved {
                saved.copy_from_slice(&z);
            }
            machine.kernel.activate(middle.activation, &mut z);
        } else {
            let mut own;
            let before = match saved {
                Some(saved) => saved,
                None => {
                    own = machine.scratch(2 * count);
                    &mut own
                }
            };
            linear::forward(pass, &middle.layers, x, rows, before);
            middle.activate(machine, before, &mut z);
        }
        linear::Operand::new(machine, &z, &self.linear.weight).multiply(pass, &self.linear, tasks, out, self.width());
    }
}
