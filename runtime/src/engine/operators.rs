//! The fused operators of the lowered graph, as tract runs them.
//!
//! A batch has no padding: its sequences lie one after the other as N tokens, `starts` says where each begins (B + 1
//! numbers, the last being N), and `rows` names for each token the row of the bias tables that its task has. So a batch
//! may mix tasks and lengths, and no work is spent on tokens that are not there.

use std::fmt;

use bias_patch::Activation;
use tract_onnx::tract_core::internal::*;

use super::{
    attention::{Projections, Scratch, attend},
    weights::Weight,
};
use crate::kernels::{Kernel, Panels, Rows, Start};

/// A fused operator.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    /// The node it stands for, or the last of several.
    pub name: String,
    pub work: Work,
    pub kernel: &'static dyn Kernel,
}

/// What an operator does. Inputs are listed in their order; `T` is the number of rows of a bias table.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// ids `[N]`, types `[N]`, starts `[B+1]`, rows `[N]`, bias `[T, E]` to `[N, E]`: word, position and type rows, summed
    /// and normalised.
    Embed { words: Weight, positions: Weight, first_position: usize, types: Option<Weight>, gain: Weight, epsilon: f32 },
    /// x `[N, K]`, rows `[N]`, bias `[T, M]` to `[N, M]`: x W + b, activated.
    Linear { weight: Weight, activation: Option<Activation> },
    /// x `[N, H]`, starts `[B+1]`, rows `[N]`, three biases `[T, H]` to `[N, H]`: attention of each sequence.
    Attention { query: Weight, key: Weight, value: Weight, heads: usize },
    /// a `[N, H]`, b `[N, H]`, rows `[N]`, bias `[T, H]` to `[N, H]`: a + b, normalised.
    AddNorm { gain: Weight, epsilon: f32 },
    /// x `[N, H]`, starts `[B+1]` to `[B, H]`: the first token of each sequence.
    First,
}

impl Operator {
    fn linear(&self, weight: &Weight, x: &[f32], rows: &[i64], bias: &[f32]) -> Vec<f32> {
        let (depth, columns) = (weight.rows(), weight.columns());
        let x = Rows { data: x, stride: depth, count: x.len() / depth };
        let mut out = vec![0.0; x.count * columns];
        let w = Panels { data: weight.floats(), depth, columns };
        self.kernel.multiply(x, w, Start::Bias { table: bias, rows }, &mut out, columns);
        out
    }

    fn normalise(&self, out: &mut [f32], gain: &Weight, rows: &[i64], bias: &[f32], epsilon: f32) {
        let width = gain.columns();
        for (row, task) in out.chunks_mut(width).zip(rows) {
            self.kernel.normalise(row, gain.floats(), &bias[*task as usize * width..][..width], epsilon);
        }
    }

    fn run(&self, inputs: &[TValue]) -> TractResult<(usize, Vec<f32>)> {
        match &self.work {
            Work::Embed { words, positions, first_position, types, gain, epsilon } => {
                let (ids, type_ids, starts, rows) =
                    (ints(inputs, 0)?, ints(inputs, 1)?, ints(inputs, 2)?, ints(inputs, 3)?);
                let width = words.columns();
                let mut out = Vec::with_capacity(ids.len() * width);
                let place = starts.windows(2).flat_map(|pair| 0..(pair[1] - pair[0]) as usize);
                for ((id, kind), place) in ids.iter().zip(type_ids).zip(place) {
                    let word = row(words, *id)?;
                    let position = row(positions, (first_position + place) as i64)?;
                    match types {
                        Some(types) => {
                            let kind = row(types, if types.rows() > 1 { *kind } else { 0 })?;
                            out.extend(word.iter().zip(position).zip(kind).map(|((a, b), c)| a + b + c));
                        }
                        None => out.extend(word.iter().zip(position).map(|(a, b)| a + b)),
                    }
                }
                self.normalise(&mut out, gain, rows, floats(inputs, 4)?, *epsilon);
                Ok((width, out))
            }
            Work::Linear { weight, activation } => {
                let mut out = self.linear(weight, floats(inputs, 0)?, ints(inputs, 1)?, floats(inputs, 2)?);
                if let Some(activation) = activation {
                    self.kernel.activate(*activation, &mut out);
                }
                Ok((weight.columns(), out))
            }
            Work::Attention { query, key, value, heads } => {
                let (x, starts, rows) = (floats(inputs, 0)?, ints(inputs, 1)?, ints(inputs, 2)?);
                let hidden = query.columns();
                let queries = self.linear(query, x, rows, floats(inputs, 3)?);
                let keys = self.linear(key, x, rows, floats(inputs, 4)?);
                let values = self.linear(value, x, rows, floats(inputs, 5)?);
                let mut out = vec![0.0; x.len()];
                let mut scratch = Scratch::default();
                for pair in starts.windows(2) {
                    let part = pair[0] as usize * hidden..pair[1] as usize * hidden;
                    let from = Projections {
                        queries: &queries[part.clone()],
                        keys: &keys[part.clone()],
                        values: &values[part.clone()],
                        hidden,
                        heads: *heads,
                    };
                    attend(self.kernel, from, &mut out[part], &mut scratch);
                }
                Ok((hidden, out))
            }
            Work::AddNorm { gain, epsilon } => {
                let (a, b) = (floats(inputs, 0)?, floats(inputs, 1)?);
                let mut out: Vec<f32> = a.iter().zip(b).map(|(a, b)| a + b).collect();
                self.normalise(&mut out, gain, ints(inputs, 2)?, floats(inputs, 3)?, *epsilon);
                Ok((gain.columns(), out))
            }
            Work::First => {
                let (x, starts) = (&inputs[0], ints(inputs, 1)?);
                let width = x.shape()[1];
                let x = floats(inputs, 0)?;
                let first = starts.windows(2).flat_map(|pair| &x[pair[0] as usize * width..][..width]);
                Ok((width, first.copied().collect()))
            }
        }
    }
}

/// A row of an embedding table.
fn row(table: &Weight, at: i64) -> TractResult<&[f32]> {
    let width = table.columns();
    let begin = usize::try_from(at).ok().and_then(|at| at.checked_mul(width));
    begin
        .and_then(|begin| table.floats().get(begin..begin + width))
        .with_context(|| format!("row {at} of an embedding table of {} rows", table.rows()))
}

fn floats(inputs: &[TValue], at: usize) -> TractResult<&[f32]> {
    inputs[at].try_as_plain_ram()?.as_slice::<f32>()
}

fn ints(inputs: &[TValue], at: usize) -> TractResult<&[i64]> {
    inputs[at].try_as_plain_ram()?.as_slice::<i64>()
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
            Work::AddNorm { .. } => "AddNorm",
            Work::First => "First",
        }
        .into()
    }

    op_as_typed_op!();
}

impl EvalOp for Operator {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (width, values) = self.run(&inputs).with_context(|| self.name.clone())?;
        let shape = (values.len() / width.max(1), width);
        Ok(tvec![tract_ndarray::Array2::from_shape_vec(shape, values)?.into_tensor().into_tvalue()])
    }
}

impl TypedOp for Operator {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (count, width) = match &self.work {
            Work::Embed { words, .. } => (inputs[0].shape[0].clone(), words.columns().to_dim()),
            Work::Linear { weight, .. } => (inputs[0].shape[0].clone(), weight.columns().to_dim()),
            Work::Attention { .. } | Work::AddNorm { .. } => (inputs[0].shape[0].clone(), inputs[0].shape[1].clone()),
            Work::First => (inputs[1].shape[0].clone() - 1, inputs[0].shape[1].clone()),
        };
        Ok(tvec![f32::fact([count, width])])
    }

    as_op!();
}
