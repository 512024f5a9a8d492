//! The lowered graph forward and backward: gradients of a loss with respect to the bias values.
//!
//! In: one task's bias values, sequences, and for each sequence the gradient of the loss with respect to its hidden states.
//! Out: the gradient with respect to every value of the wanted slots. Weights are constant, so no input of a linear layer is
//! kept: only what activations, softmax and LayerNorm need. An operator's forward pass stands beside its adjoint; what has no
//! wanted slot below it is not run backward. Only where gradients of the weights are asked for, for a comparison, every
//! operator's output is kept and everything runs backward: see [`super::weights_adjoint`].
//!
//! Shapes: N tokens, H hidden width, I middle width, K and M the sides of a matrix, S tokens of a sequence, D width of a
//! head. A gradient is called `d` and then the name of what it is of.

use std::{ops::Range, slice};

use bias_patch::{Activation, PANEL_WIDTH};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use tract_onnx::tract_core::internal::*;

use super::{
    attention::{Heads, Projections, attend},
    machine::{Machine, Scratch},
    operators::{Norm, Operator, Work, embed, first_rows},
    product::{Biases, Layer, multiply_transposed, project},
    weights_adjoint::{add_gain, add_layers, add_tables},
};

/// The operators of a lowered graph in their order, each with the steps that its activations come from.
pub(super) struct Tape {
    steps: Vec<Step>,
    /// The steps that give the hidden states and the pooler's output.
    tokens: usize,
    pooled: Option<usize>,
}

struct Step {
    operator: Operator,
    inputs: Vec<usize>,
}

/// Sequences of one task, end to end.
pub(crate) struct Batch<'a> {
    pub ids: &'a [i64],
    pub types: &'a [i64],
    /// Where each sequence begins, and N.
    pub starts: &'a [i64],
    /// Every slot's values, one after the other.
    pub values: &'a [f32],
}

/// Gradients of the loss with respect to the hidden states of a sequence, `[S, H]`, and to the pooler's output, `[H]`.
pub(crate) type HiddenGradient = (Array2<f32>, Option<Array1<f32>>);

/// A loss of the hidden states and the pooler's output of a sequence, given by its number.
pub(crate) type Loss<'a> =
    dyn FnMut(usize, ArrayView2<'_, f32>, Option<ArrayView1<'_, f32>>) -> HiddenGradient + Send + 'a;

/// What an operator's adjoint needs of its forward pass.
enum Saved<'m> {
    /// Rows normalised but for gain and bias, and what each was multiplied by.
    Norm {
        normalised: Scratch<'m>,
        inverses: Vec<f32>,
        middle: Option<Scratch<'m>>,
    },
    /// What went into the activation.
    Linear {
        before: Scratch<'m>,
    },
    /// Queries, keys and values side by side, `[N, 3 H]`.
    Attention {
        projections: Scratch<'m>,
    },
    Nothing,
}

/// What the operators of a tape put out, as far as it is needed again, and what their adjoints need.
type Forward<'m> = (Vec<Option<Scratch<'m>>>, Vec<Saved<'m>>);

/// Where gradients are added: those of the values, and of the weights if they are asked for.
struct Sums<'a> {
    values: &'a mut [f32],
    weights: Option<&'a mut [f32]>,
}

impl Tape {
    /// The tape of a lowered model whose outputs are the hidden states and perhaps the pooler's.
    pub fn of(model: &TypedModel) -> TractResult<Self> {
        let mut place = HashMap::new();
        let mut steps = Vec::new();
        for node in model.eval_order()? {
            let node = model.node(node);
            let Some(operator) = node.op_as::<Operator>() else { continue };
            let inputs = node.inputs.iter().filter_map(|input| place.get(&input.node).copied()).collect();
            place.insert(node.id, steps.len());
            steps.push(Step { operator: operator.clone(), inputs });
        }
        let output = |at: usize| model.outputs.get(at).and_then(|outlet| place.get(&outlet.node)).copied();
        Ok(Tape { steps, tokens: output(0).context("no hidden states")?, pooled: output(1) })
    }

    /// The gradient with respect to `batch.values`, zeros where a slot is not wanted; `wanted` says for each of the
    /// values whether it is. `loss` is called with each sequence's hidden states and pooler output. Where there is
    /// `d_weights`, the gradient of every weight is added to it.
    pub fn gradient(
        &self,
        machine: &Machine,
        batch: &Batch<'_>,
        wanted: &dyn Fn(usize) -> bool,
        d_weights: Option<&mut [f32]>,
        loss: &mut Loss<'_>,
    ) -> TractResult<Vec<f32>> {
        let (outputs, saved) = self.forward(machine, batch, d_weights.is_some())?;
        let output = |step: usize| outputs[step].as_deref().unwrap_or_default();
        let hidden = output(self.tokens).len() / batch.ids.len().max(1);
        let tokens = ArrayView2::from_shape((batch.ids.len(), hidden), output(self.tokens))?;
        let mut d_tokens = machine.scratch(tokens.len());
        let mut d_pooled = None;
        for (at, pair) in batch.starts.windows(2).enumerate() {
            let rows = pair[0] as usize..pair[1] as usize;
            let pooled = self.pooled.map(|step| ArrayView1::from(&output(step)[at * hidden..][..hidden]));
            let (d, d_of_pooled) = loss(at, tokens.slice(ndarray::s![rows.clone(), ..]), pooled);
            let shaped = d.dim() == (rows.len(), hidden) && d_of_pooled.as_ref().is_none_or(|d| d.len() == hidden);
            ensure!(shaped, "gradients of sequence {at} have another shape than its hidden states");
            let places = d_tokens[rows.start * hidden..rows.end * hidden].iter_mut();
            places.zip(&d).for_each(|(place, d)| *place = *d);
            if let Some(d) = d_of_pooled {
                let sum: &mut Scratch<'_> =
                    d_pooled.get_or_insert_with(|| zeros(machine, hidden * (batch.starts.len() - 1)));
                sum[at * hidden..][..hidden].iter_mut().zip(&d).for_each(|(place, d)| *place = *d);
            }
        }
        let outputs = match d_weights {
            Some(_) => outputs,
            None => {
                drop(outputs);
                Vec::new()
            }
        };
        let mut d_outputs: Vec<Option<Scratch<'_>>> = self.steps.iter().map(|_| None).collect();
        d_outputs[self.tokens] = Some(d_tokens);
        if let (Some(step), Some(d_pooled)) = (self.pooled, d_pooled) {
            d_outputs[step] = Some(d_pooled);
        }
        let mut d_values = vec![0.0; batch.values.len()];
        let mut sums = Sums { values: &mut d_values, weights: d_weights };
        self.backward(machine, batch, wanted, (outputs, saved), d_outputs, &mut sums)?;
        Ok(d_values)
    }

    /// Outputs are dropped after their last use, but for those of the tape, unless all are kept.
    fn forward<'m>(&self, machine: &'m Machine, batch: &Batch<'_>, keep: bool) -> TractResult<Forward<'m>> {
        // The last step that reads each output.
        let mut last: Vec<usize> = (0..self.steps.len()).collect();
        for (at, step) in self.steps.iter().enumerate() {
            step.inputs.iter().for_each(|input| last[*input] = at);
        }
        [Some(self.tokens), self.pooled].into_iter().flatten().for_each(|kept| last[kept] = usize::MAX);
        if keep {
            last.fill(usize::MAX);
        }
        let mut outputs: Vec<Option<Scratch<'m>>> = Vec::new();
        let mut saved = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let inputs: Vec<&[f32]> =
                step.inputs.iter().map(|input| outputs[*input].as_deref().unwrap_or_default()).collect();
            let (output, kept) = forward(machine, &step.operator.work, &inputs, batch)?;
            outputs.push(Some(output));
            saved.push(kept);
            step.inputs.iter().filter(|input| last[**input] == at).for_each(|input| outputs[*input] = None);
        }
        Ok((outputs, saved))
    }

    fn backward<'m>(
        &self,
        machine: &'m Machine,
        batch: &Batch<'_>,
        wanted: &dyn Fn(usize) -> bool,
        (outputs, mut saved): Forward<'m>,
        mut d_outputs: Vec<Option<Scratch<'m>>>,
        sums: &mut Sums<'_>,
    ) -> TractResult<()> {
        // Whether a step has a wanted slot, or one below it has; with weights, all have what is wanted.
        let mut reaches: Vec<bool> = Vec::new();
        for step in &self.steps {
            let own = sums.weights.is_some() || biases_of(&step.operator.work).iter().any(|bias| wanted(*bias));
            reaches.push(own || step.inputs.iter().any(|input| reaches[*input]));
        }
        for (at, step) in self.steps.iter().enumerate().rev() {
            let (Some(saved), d_out) = (saved.pop(), d_outputs[at].take()) else { break };
            let Some(d_out) = d_out.filter(|_| reaches[at]) else { continue };
            let below: Vec<bool> = step.inputs.iter().map(|input| reaches[*input]).collect();
            let inputs: Vec<&[f32]> = match sums.weights {
                Some(_) => step.inputs.iter().map(|input| outputs[*input].as_deref().unwrap_or_default()).collect(),
                None => Vec::new(),
            };
            let d_inputs = backward(machine, &step.operator.work, &inputs, saved, batch, d_out, &below, wanted, sums);
            for (input, d_input) in step.inputs.iter().zip(d_inputs) {
                match (&mut d_outputs[*input], d_input) {
                    (Some(sum), Some(d)) => sum.iter_mut().zip(&*d).for_each(|(sum, d)| *sum += d),
                    (place @ None, d) => *place = d,
                    (Some(_), None) => {}
                }
            }
        }
        Ok(())
    }
}

/// Where the biases of an operator are among the values.
fn biases_of(work: &Work) -> Vec<usize> {
    match work {
        Work::Embed { norm, .. } => vec![norm.bias],
        Work::Linear { layer, .. } => vec![layer.bias],
        Work::LinearNorm { before, layer, norm } => {
            before.iter().map(|(before, _)| before.bias).chain([layer.bias, norm.bias]).collect()
        }
        // A key's bias shifts all scores of a row alike, which softmax does not see: its gradient is zero.
        Work::Attention { layers: [query, _, value], .. } => vec![query.bias, value.bias],
        Work::First => vec![],
    }
}

/// Runs an operator, and keeps what its adjoint needs.
fn forward<'m>(
    machine: &'m Machine,
    work: &Work,
    inputs: &[&[f32]],
    batch: &Batch<'_>,
) -> TractResult<(Scratch<'m>, Saved<'m>)> {
    let rows = |count: usize| vec![0i64; count];
    let count = batch.ids.len();
    let task = rows(count);
    let biases = Biases { values: batch.values, stride: batch.values.len(), rows: &task };
    match work {
        Work::Embed { words, norm, .. } => {
            let mut out = zeros(machine, count * words.columns());
            embed(work, batch.ids, batch.types, batch.starts, &mut out)?;
            let (normalised, inverses) = normalise(machine, norm, biases, &mut out);
            Ok((out, Saved::Norm { normalised, inverses, middle: None }))
        }
        Work::Linear { layer, activation } => {
            let (x, width) = (inputs[0], layer.weight.columns());
            let task = rows(x.len() / layer.weight.rows());
            let biases = Biases { rows: &task, ..biases };
            let mut before = machine.scratch(task.len() * width);
            linear(machine, x, layer, biases, &mut before);
            let mut out = machine.scratch(before.len());
            out.copy_from_slice(&before);
            if let Some(activation) = activation {
                machine.split(&mut out, width, |_, out| machine.kernel.activate(*activation, out));
            }
            Ok((out, Saved::Linear { before }))
        }
        Work::LinearNorm { before, layer, norm } => {
            let (x, residual) = (inputs[0], inputs[1]);
            let width = layer.weight.columns();
            let mut out = machine.scratch(count * width);
            let middle = match before {
                Some((before, activation)) => {
                    let width = before.weight.columns();
                    let mut middle = machine.scratch(count * width);
                    linear(machine, x, before, biases, &mut middle);
                    linear(machine, &activated(machine, *activation, &middle, width), layer, biases, &mut out);
                    Some(middle)
                }
                None => {
                    linear(machine, x, layer, biases, &mut out);
                    None
                }
            };
            out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
            let (normalised, inverses) = normalise(machine, norm, biases, &mut out);
            Ok((out, Saved::Norm { normalised, inverses, middle }))
        }
        Work::Attention { layers, heads } => {
            let hidden = layers[0].weight.columns();
            let mut projections = machine.scratch(count * 3 * hidden);
            project(machine, inputs[0], layers, biases, &mut projections);
            let mut out = machine.scratch(count * hidden);
            attend(machine, Projections { values: &projections, hidden, heads: *heads }, batch.starts, &mut out);
            Ok((out, Saved::Attention { projections }))
        }
        Work::First => {
            let width = inputs[0].len() / count.max(1);
            let starts = &batch.starts[..batch.starts.len() - 1];
            let mut out = machine.scratch(starts.len() * width);
            first_rows(inputs[0], width, starts, &mut out);
            Ok((out, Saved::Nothing))
        }
    }
}

/// The adjoint of an operator: adds to the gradients of its biases and weights, and gives those of its inputs, none where
/// `below` says that nothing needs them. The inputs are there where gradients of weights are asked for.
#[expect(clippy::too_many_arguments, reason = "they are the operator's, and split no better")]
fn backward<'m>(
    machine: &'m Machine,
    work: &Work,
    inputs: &[&[f32]],
    saved: Saved<'m>,
    batch: &Batch<'_>,
    mut d_out: Scratch<'m>,
    below: &[bool],
    wanted: &dyn Fn(usize) -> bool,
    sums: &mut Sums<'_>,
) -> Vec<Option<Scratch<'m>>> {
    let (d_values, mut d_weights) = (&mut *sums.values, sums.weights.as_deref_mut());
    let mut add = |bias: usize, width: usize, d: &[f32]| {
        if wanted(bias) {
            add_rows(d, &mut d_values[bias..bias + width]);
        }
    };
    match (work, saved) {
        (Work::Embed { norm, .. }, Saved::Norm { normalised, inverses, .. }) => {
            add(norm.bias, norm.gain.columns(), &d_out);
            if let Some(d_weights) = d_weights {
                add_gain(&norm.gain, &normalised, &d_out, d_weights);
                normalise_adjoint(machine, norm, &normalised, &inverses, &mut d_out);
                add_tables(work, batch, &d_out, d_weights);
            }
            vec![]
        }
        (Work::Linear { layer, activation }, Saved::Linear { before }) => {
            let width = layer.weight.columns();
            slope(machine, *activation, &before, width, &mut d_out);
            add(layer.bias, width, &d_out);
            if let Some(d_weights) = d_weights {
                add_layers(machine, slice::from_ref(layer), inputs[0], &d_out, d_weights);
            }
            vec![through(machine, layer, &d_out, below[0])]
        }
        (Work::LinearNorm { before, layer, norm }, Saved::Norm { normalised, inverses, middle }) => {
            let width = norm.gain.columns();
            add(norm.bias, width, &d_out);
            if let Some(d_weights) = &mut d_weights {
                add_gain(&norm.gain, &normalised, &d_out, d_weights);
            }
            normalise_adjoint(machine, norm, &normalised, &inverses, &mut d_out);
            // The sum that was normalised: the layer's output, and the residual as it is.
            add(layer.bias, width, &d_out);
            if let Some(d_weights) = &mut d_weights {
                let again = before.as_ref().zip(middle.as_ref()).map(|((before, activation), middle)| {
                    activated(machine, *activation, middle, before.weight.columns())
                });
                let x = again.as_deref().unwrap_or(inputs[0]);
                add_layers(machine, slice::from_ref(layer), x, &d_out, d_weights);
            }
            let own = before.as_ref().is_some_and(|(before, _)| wanted(before.bias));
            let mut d_x = through(machine, layer, &d_out, below[0] || own);
            if let (Some((before, activation)), Some(middle), Some(mut d)) =
                (before, middle, d_x.take_if(|_| before.is_some()))
            {
                let width = before.weight.columns();
                slope(machine, Some(*activation), &middle, width, &mut d);
                add(before.bias, width, &d);
                if let Some(d_weights) = &mut d_weights {
                    add_layers(machine, slice::from_ref(before), inputs[0], &d, d_weights);
                }
                d_x = through(machine, before, &d, below[0]);
            }
            vec![d_x, below[1].then_some(d_out)]
        }
        (Work::Attention { layers, heads }, Saved::Attention { projections }) => {
            let hidden = layers[0].weight.columns();
            // Of queries, keys and values side by side, as the projections are.
            let mut d = machine.scratch(projections.len());
            attention_adjoint(machine, &projections, hidden, *heads, batch.starts, &d_out, &mut d);
            for (at, layer) in layers.iter().enumerate().filter(|(at, _)| *at != 1) {
                if wanted(layer.bias) {
                    let sums = &mut d_values[layer.bias..layer.bias + hidden];
                    for row in d.chunks(3 * hidden) {
                        sums.iter_mut().zip(&row[at * hidden..]).for_each(|(sum, d)| *sum += d);
                    }
                }
            }
            if let Some(d_weights) = d_weights {
                add_layers(machine, layers, inputs[0], &d, d_weights);
            }
            let d_x = below[0].then(|| {
                let depth = layers[0].weight.rows();
                let mut d_x = zeros(machine, d_out.len() / hidden * depth);
                machine.split(&mut d_x, depth, |rows, out| {
                    for (at, layer) in layers.iter().enumerate() {
                        let y = &d[rows.start * 3 * hidden + at * hidden..];
                        multiply_transposed(machine, y, 3 * hidden, rows.len(), &layer.weight, out);
                    }
                });
                d_x
            });
            vec![d_x]
        }
        (Work::First, _) => {
            let sequences = batch.starts.len() - 1;
            let width = d_out.len() / sequences.max(1);
            let mut d_x = zeros(machine, batch.ids.len() * width);
            for (start, d) in batch.starts.iter().zip(d_out.chunks(width)) {
                d_x[*start as usize * width..][..width].copy_from_slice(d);
            }
            vec![Some(d_x)]
        }
        _ => vec![],
    }
}

/// x W + b into rows of `out`.
fn linear(machine: &Machine, x: &[f32], layer: &Layer, biases: Biases<'_>, out: &mut [f32]) {
    project(machine, x, slice::from_ref(layer), biases, out);
}

/// An activation of what went into it.
fn activated<'m>(machine: &'m Machine, activation: Activation, before: &[f32], width: usize) -> Scratch<'m> {
    let mut out = machine.scratch(before.len());
    machine.split(&mut out, width, |rows, out| {
        out.copy_from_slice(&before[rows.start * width..rows.end * width]);
        machine.kernel.activate(activation, out);
    });
    out
}

/// The gradient of what went into a layer, `d W^T`; none if it is not needed.
fn through<'m>(machine: &'m Machine, layer: &Layer, d: &[f32], needed: bool) -> Option<Scratch<'m>> {
    needed.then(|| {
        let (depth, width) = (layer.weight.rows(), layer.weight.columns());
        let mut d_x = zeros(machine, d.len() / width * depth);
        machine.split(&mut d_x, depth, |rows, out| {
            multiply_transposed(machine, &d[rows.start * width..], width, rows.len(), &layer.weight, out);
        });
        d_x
    })
}

/// So many zeros to work in.
fn zeros(machine: &Machine, len: usize) -> Scratch<'_> {
    let mut zeros = machine.scratch(len);
    zeros.fill(0.0);
    zeros
}

/// Multiplies gradients by the slope of an activation.
fn slope(machine: &Machine, activation: Option<Activation>, before: &[f32], width: usize, d: &mut [f32]) {
    if let Some(activation) = activation {
        machine.split(d, width, |rows, d| {
            machine.kernel.activate_adjoint(activation, &before[rows.start * width..rows.end * width], d);
        });
    }
}

/// Adds every row to `sums`.
fn add_rows(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
    }
}

/// LayerNorm in place. Gives the rows before gain and bias, and the inverse of each row's deviation.
fn normalise<'m>(machine: &'m Machine, norm: &Norm, biases: Biases<'_>, out: &mut [f32]) -> (Scratch<'m>, Vec<f32>) {
    let width = norm.gain.columns();
    let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
    let mut normalised = machine.scratch(out.len());
    let mut inverses = vec![0.0; out.len() / width];
    let part = machine.part(inverses.len());
    let parts = out.chunks_mut(part * width).zip(normalised.chunks_mut(part * width)).zip(inverses.chunks_mut(part));
    machine.each(parts.enumerate().collect(), |(at, ((out, normalised), inverses))| {
        normalised.copy_from_slice(out);
        let rows = out.chunks_mut(width).zip(normalised.chunks_mut(width)).zip(inverses).enumerate();
        for (row, ((out, normalised), inverse)) in rows {
            *inverse = machine.kernel.normalise(normalised, &ones, &zeros, norm.epsilon);
            let bias = biases.slot(norm.bias, width, at * part + row);
            for (((out, x), gain), bias) in out.iter_mut().zip(normalised).zip(norm.gain.vector()).zip(bias) {
                *out = *x * gain + bias;
            }
        }
    });
    (normalised, inverses)
}

/// LayerNorm's adjoint, in place: with g = d gain, (g - mean(g) - x mean(g x)) over the deviation, x being the
/// normalised row.
fn normalise_adjoint(machine: &Machine, norm: &Norm, normalised: &[f32], inverses: &[f32], d: &mut [f32]) {
    let (width, gain) = (norm.gain.columns(), norm.gain.vector());
    machine.split(d, width, |rows: Range<usize>, d| {
        for (row, d) in rows.zip(d.chunks_mut(width)) {
            let x = &normalised[row * width..][..width];
            let (mut mean, mut slope) = (0.0, 0.0);
            for ((d, gain), x) in d.iter_mut().zip(gain).zip(x) {
                *d *= gain;
                mean += *d;
                slope += *d * x;
            }
            let (mean, slope) = (mean / width as f32, slope / width as f32);
            for (d, x) in d.iter_mut().zip(x) {
                *d = (*d - mean - x * slope) * inverses[row];
            }
        }
    });
}

/// The adjoint of attention: from the gradient of its output, `[N, H]`, those of queries, keys and values, `[N, 3 H]`.
///
/// With P the softmax of q k^T / sqrt(D): dv = P^T do, dP = do v^T, dS = P (dP - rowsum(dP P)), and then
/// dq = dS k / sqrt(D), dk = dS^T q / sqrt(D).
fn attention_adjoint(
    machine: &Machine,
    projections: &[f32],
    hidden: usize,
    heads: usize,
    starts: &[i64],
    d_out: &[f32],
    d: &mut [f32],
) {
    let width = hidden / heads;
    let scale = 1.0 / (width as f32).sqrt();
    let mut parts = Vec::new();
    let mut rest = d;
    for pair in starts.windows(2) {
        let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
        let (d, after) = rest.split_at_mut(length * 3 * hidden);
        parts.push((start, length, d));
        rest = after;
    }
    machine.each(parts, |(start, length, d)| {
        let all = Heads { machine, length, width };
        let mut shares = machine.scratch(length * length);
        let mut d_shares = machine.scratch(length * length);
        let mut turned = machine.scratch(length * length);
        for head in 0..heads {
            let column = head * width;
            let place = |part: usize| &projections[start * 3 * hidden + part * hidden + column..];
            let (queries, keys, values) = (place(0), place(1), place(2));
            let d_context = &d_out[start * hidden + column..];
            all.shares(queries, keys, 3 * hidden, scale, &mut shares);
            turn(&shares, length, length, &mut turned);
            all.weigh(&turned, d_context, hidden, &mut d[2 * hidden + column..], 3 * hidden);
            all.products(d_context, hidden, values, 3 * hidden, 1.0, &mut d_shares);
            for (d, shares) in d_shares.chunks_mut(length).zip(shares.chunks(length)) {
                let mean: f32 = d.iter().zip(shares).map(|(d, share)| d * share).sum();
                d.iter_mut().zip(shares).for_each(|(d, share)| *d = share * (*d - mean) * scale);
            }
            all.weigh(&d_shares, keys, 3 * hidden, &mut d[column..], 3 * hidden);
            turn(&d_shares, length, length, &mut turned);
            all.weigh(&turned, queries, 3 * hidden, &mut d[hidden + column..], 3 * hidden);
        }
    });
}

/// The transpose of a matrix, by blocks that stay in the cache.
pub(super) fn turn(values: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    for row0 in (0..rows).step_by(PANEL_WIDTH) {
        for column in 0..columns {
            for row in row0..rows.min(row0 + PANEL_WIDTH) {
                out[column * rows + row] = values[row * columns + column];
            }
        }
    }
}
