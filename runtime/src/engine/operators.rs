//! The fused operators of the lowered graph, as tract runs them.
//!
//! A batch has no padding: its sequences lie one after the other as N tokens, `starts` says where each begins (B + 1
//! numbers, the last being N), and `rows` names for each token the row of `values` that its task has. A row of `values`
//! holds every slot of a task, so an operator knows its bias as a place in it. So a batch may mix tasks and lengths, and
//! no work is spent on tokens that are not there.

use std::{fmt, sync::Arc};

use bias_patch::{ALIGNMENT, Activation};
use tract_onnx::tract_core::internal::*;

use super::{
    attention::{Projections, attend},
    embedding::Tables,
    machine::Machine,
    norm::Norm,
    product::{Biases, Layer, Operand, project},
};

/// A fused operator.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    /// The node it stands for, or the last of several.
    pub name: String,
    pub work: Work,
    pub machine: Arc<Machine>,
}

/// What an operator does. Inputs are listed in their order; rows `[N]` and values `[T, L]` come last and are left out.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// ids `[N]`, types `[N]`, starts `[B+1]` to `[N, E]`: word, position and type rows, summed and normalised.
    Embed { tables: Tables, norm: Norm },
    /// x `[N, K]` to `[N, M]`: x W + b, activated.
    Linear { layer: Layer, activation: Option<Activation> },
    /// x `[N, K]`, residual `[N, H]` to `[N, H]`: x W + b + residual, normalised; where there is another layer before, x is
    /// first what that one and its activation make of it.
    LinearNorm { before: Option<(Layer, Activation)>, layer: Layer, norm: Norm },
    /// x `[N, H]`, starts `[B+1]` to `[N, H]`: attention of each sequence; the layers are query, key and value.
    Attention { layers: [Layer; 3], heads: usize },
    /// x `[N, H]`, starts `[B+1]` to `[B, H]`: the first token of each sequence.
    First,
}

impl Operator {
    /// Rows and width of the output.
    fn shape(&self, inputs: &[TValue]) -> (usize, usize) {
        let rows = inputs[0].shape()[0];
        match &self.work {
            Work::Embed { tables, .. } => (rows, tables.words.columns()),
            Work::Linear { layer, .. } | Work::LinearNorm { layer, .. } => (rows, layer.weight.columns()),
            Work::Attention { layers, .. } => (rows, layers[0].weight.columns()),
            Work::First => (inputs[1].shape()[0].saturating_sub(1), inputs[0].shape()[1]),
        }
    }

    /// Computes the output into zeros.
    fn run(&self, inputs: &[TValue], out: &mut [f32]) -> TractResult<()> {
        let machine = &*self.machine;
        let (inputs, table) = inputs.split_at(inputs.len() - if matches!(self.work, Work::First) { 0 } else { 2 });
        let biases = match table {
            [rows, values] => Biases { rows: ints(rows)?, stride: values.shape()[1], values: floats(values)? },
            _ => Biases { rows: &[], stride: 0, values: &[] },
        };
        match &self.work {
            Work::Embed { tables, norm } => {
                tables.look_up(ints(&inputs[0])?, ints(&inputs[1])?, ints(&inputs[2])?, out)?;
                machine.split(out, norm.gain.columns(), |rows, out| norm.apply(machine, biases.of(rows), out));
            }
            Work::Linear { layer, activation } => {
                let (x, depth, width) = (floats(&inputs[0])?, layer.weight.rows(), layer.weight.columns());
                machine.split(out, width, |rows, out| {
                    let x = Operand::new(machine, &x[rows.start * depth..rows.end * depth], &layer.weight);
                    x.multiply(machine, layer, biases.of(rows), out, width);
                    if let Some(activation) = activation {
                        machine.kernel.activate(*activation, out);
                    }
                });
            }
            Work::LinearNorm { before, layer, norm } => {
                let (x, residual) = (floats(&inputs[0])?, floats(&inputs[1])?);
                let (depth, width) = (inputs[0].shape()[1], layer.weight.columns());
                machine.split(out, width, |rows, out| {
                    let (mut x, biases) = (&x[rows.start * depth..rows.end * depth], biases.of(rows.clone()));
                    let mut middle;
                    if let Some((before, activation)) = before {
                        let width = before.weight.columns();
                        middle = machine.scratch(rows.len() * width);
                        Operand::new(machine, x, &before.weight).multiply(machine, before, biases, &mut middle, width);
                        machine.kernel.activate(*activation, &mut middle);
                        x = &middle;
                    }
                    Operand::new(machine, x, &layer.weight).multiply(machine, layer, biases, out, width);
                    let residual = &residual[rows.start * width..];
                    out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
                    norm.apply(machine, biases, out);
                });
            }
            Work::Attention { layers, heads } => {
                let (x, starts) = (floats(&inputs[0])?, ints(&inputs[1])?);
                let values = project(machine, x, layers, biases);
                let hidden = layers[0].weight.columns();
                attend(machine, Projections { values: &values, hidden, heads: *heads }, starts, out);
            }
            Work::First => {
                let (width, starts) = (inputs[0].shape()[1], ints(&inputs[1])?);
                first_rows(floats(&inputs[0])?, width, starts, out);
            }
        }
        Ok(())
    }
}

/// The first row of each sequence.
pub(super) fn first_rows(x: &[f32], width: usize, starts: &[i64], out: &mut [f32]) {
    for (out, start) in out.chunks_mut(width).zip(starts) {
        out.copy_from_slice(&x[*start as usize * width..][..width]);
    }
}

fn floats(input: &TValue) -> TractResult<&[f32]> {
    input.try_as_plain_ram()?.as_slice::<f32>()
}

fn ints(input: &TValue) -> TractResult<&[i64]> {
    input.try_as_plain_ram()?.as_slice::<i64>()
}

impl PartialEq for Operator {
    /// Operators are made one for each node of one graph.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Operator {}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Op for Operator {
    fn name(&self) -> StaticName {
        match self.work {
            Work::Embed { .. } => "Embed",
            Work::Linear { .. } => "Linear",
            Work::Attention { .. } => "Attention",
            Work::LinearNorm { .. } => "LinearNorm",
            Work::First => "First",
        }
        .into()
    }

    op_as_typed_op!();
}

impl EvalOp for Operator {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (rows, width) = self.shape(&inputs);
        let mut output = Tensor::zero_aligned::<f32>(&[rows, width], ALIGNMENT as usize)?;
        self.run(&inputs, output.try_as_plain_ram_mut()?.as_slice_mut()?).with_context(|| self.name.clone())?;
        Ok(tvec![output.into_tvalue()])
    }
}

impl TypedOp for Operator {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (rows, inner) = (inputs[0].shape[0].clone(), inputs[0].shape.last().cloned());
        let (count, width) = match &self.work {
            Work::Embed { tables, .. } => (rows, tables.words.columns().to_dim()),
            Work::Linear { layer, .. } | Work::LinearNorm { layer, .. } => (rows, layer.weight.columns().to_dim()),
            Work::Attention { layers, .. } => (rows, layers[0].weight.columns().to_dim()),
            Work::First => (inputs[1].shape[0].clone() - 1, inner.context("a width")?),
        };
        Ok(tvec![f32::fact([count, width])])
    }

    as_op!();
}
