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

use std::slice;

use bias_patch::Activation;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, s};
use tract_onnx::tract_core::internal::*;

use super::{
    attention::{Projections, attend, attend_adjoint},
    machine::{Machine, Scratch},
    norm::{Norm, Normalised},
    operators::{Operator, Work, first_rows},
    product::{Biases, Layer, project, project_adjoint},
    weights_adjoint::add_layers,
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
    /// For each of the values, whether its gradient is wanted.
    pub wanted: &'a [bool],
}

/// Gradients of the loss with respect to the hidden states of a sequence, `[S, H]`, and to the pooler's output, `[H]`.
pub(crate) type HiddenGradient = (Array2<f32>, Option<Array1<f32>>);

/// A loss of the hidden states and the pooler's output of a sequence, given by its number.
pub(crate) type Loss<'a> =
    dyn FnMut(usize, ArrayView2<'_, f32>, Option<ArrayView1<'_, f32>>) -> HiddenGradient + Send + 'a;

/// What each step of a tape puts out, or its gradient, while that is needed.
type Outputs<'m> = Vec<Option<Scratch<'m>>>;

/// What an operator's adjoint needs of its forward pass.
enum Saved<'m> {
    /// Also what went into the activation, where there is a layer before.
    Norm {
        normalised: Normalised<'m>,
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

    /// The gradient with respect to `batch.values`, zeros where it is not wanted. `loss` is called with each sequence's
    /// hidden states and pooler output. Where there is `d_weights`, the gradient of every weight is added to it.
    pub fn gradient(
        &self,
        machine: &Machine,
        batch: &Batch<'_>,
        d_weights: Option<&mut [f32]>,
        loss: &mut Loss<'_>,
    ) -> TractResult<Vec<f32>> {
        let (mut outputs, saved) = self.forward(machine, batch, d_weights.is_some())?;
        let d_outputs = self.loss_gradient(machine, batch, &outputs, loss)?;
        if d_weights.is_none() {
            outputs.fill_with(|| None);
        }
        let mut backward = Backward { machine, batch, d_values: vec![0.0; batch.values.len()], d_weights };
        self.backward(&mut backward, &outputs, saved, d_outputs);
        Ok(backward.d_values)
    }

    /// Outputs are dropped after their last use, but for those of the tape, unless all are kept.
    fn forward<'m>(
        &self,
        machine: &'m Machine,
        batch: &Batch<'_>,
        keep: bool,
    ) -> TractResult<(Outputs<'m>, Vec<Saved<'m>>)> {
        let mut outputs: Outputs<'m> = Vec::new();
        let mut saved = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let (output, kept) = forward(machine, &step.operator.work, &step.inputs(&outputs), batch)?;
            outputs.push(Some(output));
            saved.push(kept);
            for input in &step.inputs {
                let read_later = self.steps[at + 1..].iter().any(|later| later.inputs.contains(input));
                if !keep && !read_later && *input != self.tokens && Some(*input) != self.pooled {
                    outputs[*input] = None;
                }
            }
        }
        Ok((outputs, saved))
    }

    /// The gradient of the loss with respect to the tape's outputs.
    fn loss_gradient<'m>(
        &self,
        machine: &'m Machine,
        batch: &Batch<'_>,
        outputs: &Outputs<'_>,
        loss: &mut Loss<'_>,
    ) -> TractResult<Outputs<'m>> {
        let count = batch.ids.len();
        let output = |step: usize| outputs[step].as_deref().unwrap_or_default();
        let hidden = output(self.tokens).len() / count.max(1);
        let tokens = ArrayView2::from_shape((count, hidden), output(self.tokens))?;
        let mut d_tokens = machine.scratch(tokens.len());
        let mut d_token_rows = ArrayViewMut2::from_shape((count, hidden), &mut d_tokens)?;
        let mut d_outputs: Outputs<'m> = self.steps.iter().map(|_| None).collect();
        for (at, pair) in batch.starts.windows(2).enumerate() {
            let rows = pair[0] as usize..pair[1] as usize;
            let pooled = self.pooled.map(|step| ArrayView1::from(&output(step)[at * hidden..][..hidden]));
            let (d, d_pooled) = loss(at, tokens.slice(s![rows.clone(), ..]), pooled);
            let shaped = d.dim() == (rows.len(), hidden) && d_pooled.as_ref().is_none_or(|d| d.len() == hidden);
            ensure!(shaped, "gradients of sequence {at} have another shape than its hidden states");
            d_token_rows.slice_mut(s![rows, ..]).assign(&d);
            if let (Some(step), Some(d)) = (self.pooled, d_pooled) {
                let all = d_outputs[step].get_or_insert_with(|| zeros(machine, hidden * (batch.starts.len() - 1)));
                ArrayViewMut1::from(&mut all[at * hidden..][..hidden]).assign(&d);
            }
        }
        d_outputs[self.tokens] = Some(d_tokens);
        Ok(d_outputs)
    }

    fn backward<'m>(
        &self,
        backward: &mut Backward<'m>,
        outputs: &Outputs<'m>,
        saved: Vec<Saved<'m>>,
        mut d_outputs: Outputs<'m>,
    ) {
        // Whether a step has a wanted slot, or one below it has; with weights, all have what is wanted.
        let mut reaches: Vec<bool> = Vec::new();
        for step in &self.steps {
            let biases = biases_of(&step.operator.work);
            let own = backward.d_weights.is_some() || biases.iter().any(|bias| backward.batch.wanted[*bias]);
            reaches.push(own || step.inputs.iter().any(|input| reaches[*input]));
        }
        for ((at, step), saved) in self.steps.iter().enumerate().zip(saved).rev() {
            let Some(d_out) = d_outputs[at].take().filter(|_| reaches[at]) else { continue };
            let below: Vec<bool> = step.inputs.iter().map(|input| reaches[*input]).collect();
            let d_inputs = backward.operator(&step.operator.work, &step.inputs(outputs), saved, d_out, &below);
            for (input, d_input) in step.inputs.iter().zip(d_inputs) {
                match (&mut d_outputs[*input], d_input) {
                    (Some(sum), Some(d)) => sum.iter_mut().zip(&*d).for_each(|(sum, d)| *sum += d),
                    (place @ None, d) => *place = d,
                    (Some(_), None) => {}
                }
            }
        }
    }
}

impl Step {
    /// What it reads of other steps; nothing of an output that was dropped.
    fn inputs<'a>(&self, outputs: &'a Outputs<'_>) -> Vec<&'a [f32]> {
        self.inputs.iter().map(|input| outputs[*input].as_deref().unwrap_or_default()).collect()
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
        Work::Attention { layers, .. } => layers.iter().map(|layer| layer.bias).collect(),
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
    let count = batch.ids.len();
    // Every row is of the one task.
    let rows = vec![0; count];
    let biases = Biases { values: batch.values, stride: batch.values.len(), rows: &rows };
    Ok(match work {
        Work::Embed { tables, norm } => {
            let mut out = zeros(machine, count * tables.words.columns());
            tables.look_up(batch.ids, batch.types, batch.starts, &mut out)?;
            let normalised = norm.apply_and_keep(machine, biases, &mut out);
            (out, Saved::Norm { normalised, middle: None })
        }
        Work::Linear { layer, activation } => {
            let before = project(machine, inputs[0], slice::from_ref(layer), biases);
            (activate(machine, *activation, &before, layer.weight.columns()), Saved::Linear { before })
        }
        Work::LinearNorm { before, layer, norm } => {
            let (x, residual) = (inputs[0], inputs[1]);
            let (mut out, middle) = match before {
                Some((before, activation)) => {
                    let middle = project(machine, x, slice::from_ref(before), biases);
                    let x = activate(machine, Some(*activation), &middle, before.weight.columns());
                    (project(machine, &x, slice::from_ref(layer), biases), Some(middle))
                }
                None => (project(machine, x, slice::from_ref(layer), biases), None),
            };
            out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
            let normalised = norm.apply_and_keep(machine, biases, &mut out);
            (out, Saved::Norm { normalised, middle })
        }
        Work::Attention { layers, heads } => {
            let projections = project(machine, inputs[0], layers, biases);
            let hidden = layers[0].weight.columns();
            let mut out = machine.scratch(count * hidden);
            attend(machine, Projections { values: &projections, hidden, heads: *heads }, batch.starts, &mut out);
            (out, Saved::Attention { projections })
        }
        Work::First => {
            let width = inputs[0].len() / count.max(1);
            let starts = &batch.starts[..batch.starts.len() - 1];
            let mut out = machine.scratch(starts.len() * width);
            first_rows(inputs[0], width, starts, &mut out);
            (out, Saved::Nothing)
        }
    })
}

/// The backward pass over a batch.
struct Backward<'a> {
    machine: &'a Machine,
    batch: &'a Batch<'a>,
    /// Where gradients are added: those of the values, and of the weights if they are asked for.
    d_values: Vec<f32>,
    d_weights: Option<&'a mut [f32]>,
}

impl<'a> Backward<'a> {
    /// The adjoint of an operator: adds to the gradients of its biases and weights, and gives those of its inputs, none
    /// where `below` says that nothing needs them. The inputs are there where gradients of weights are asked for.
    fn operator(
        &mut self,
        work: &Work,
        inputs: &[&[f32]],
        saved: Saved<'a>,
        mut d_out: Scratch<'a>,
        below: &[bool],
    ) -> Vec<Option<Scratch<'a>>> {
        let (machine, batch) = (self.machine, self.batch);
        match (work, saved) {
            (Work::Embed { tables, norm }, Saved::Norm { normalised, .. }) => {
                self.add_norm(norm, &normalised, &d_out);
                if let Some(d_weights) = self.d_weights.as_deref_mut() {
                    norm.adjoint(machine, &normalised, &mut d_out);
                    tables.add_rows(batch.ids, batch.types, batch.starts, &d_out, d_weights);
                }
                vec![]
            }
            (Work::Linear { layer, activation }, Saved::Linear { before }) => {
                activate_adjoint(machine, *activation, &before, layer.weight.columns(), &mut d_out);
                vec![self.linear(slice::from_ref(layer), inputs[0], &d_out, below[0])]
            }
            (Work::LinearNorm { before, layer, norm }, Saved::Norm { normalised, middle }) => {
                self.add_norm(norm, &normalised, &d_out);
                // From here on of the sum that was normalised: the layer's output, and the residual as it is.
                norm.adjoint(machine, &normalised, &mut d_out);
                let d_x = match before.as_ref().zip(middle) {
                    Some(((before, activation), middle)) => {
                        let width = before.weight.columns();
                        // Only gradients of the weights need what the activation gave, which was not kept.
                        let again =
                            self.d_weights.as_ref().map(|_| activate(machine, Some(*activation), &middle, width));
                        let x = again.as_deref().unwrap_or_default();
                        let needed = below[0] || batch.wanted[before.bias];
                        self.linear(slice::from_ref(layer), x, &d_out, needed).and_then(|mut d| {
                            activate_adjoint(machine, Some(*activation), &middle, width, &mut d);
                            self.linear(slice::from_ref(before), inputs[0], &d, below[0])
                        })
                    }
                    None => self.linear(slice::from_ref(layer), inputs[0], &d_out, below[0]),
                };
                vec![d_x, below[1].then_some(d_out)]
            }
            (Work::Attention { layers, heads }, Saved::Attention { projections }) => {
                let from = Projections { values: &projections, hidden: layers[0].weight.columns(), heads: *heads };
                let mut d = machine.scratch(projections.len());
                attend_adjoint(machine, from, batch.starts, &d_out, &mut d);
                vec![self.linear(layers, inputs[0], &d, below[0])]
            }
            (Work::First, _) => {
                let width = d_out.len() / (batch.starts.len() - 1).max(1);
                let mut d_x = zeros(machine, batch.ids.len() * width);
                for (start, d) in batch.starts.iter().zip(d_out.chunks(width)) {
                    d_x[*start as usize * width..][..width].copy_from_slice(d);
                }
                vec![Some(d_x)]
            }
            _ => vec![],
        }
    }

    /// The adjoint of [`project`]: adds to the gradients of biases and weights, and gives that of `x` if it is needed.
    fn linear(&mut self, layers: &[Layer], x: &[f32], d: &[f32], needed: bool) -> Option<Scratch<'a>> {
        let width = layers[0].weight.columns();
        for (at, layer) in layers.iter().enumerate() {
            self.add_bias(layer.bias, width, d.chunks(layers.len() * width).map(|row| &row[at * width..]));
        }
        if let Some(d_weights) = self.d_weights.as_deref_mut() {
            add_layers(self.machine, layers, x, d, d_weights);
        }
        needed.then(|| project_adjoint(self.machine, d, layers))
    }

    /// Adds to the gradients of a LayerNorm's bias and gain.
    fn add_norm(&mut self, norm: &Norm, normalised: &Normalised<'_>, d: &[f32]) {
        let width = norm.gain.columns();
        self.add_bias(norm.bias, width, d.chunks(width));
        if let Some(d_weights) = self.d_weights.as_deref_mut() {
            norm.add_gain(normalised, d, d_weights);
        }
    }

    /// A bias is added to every row, so its gradient is the sum over the rows of that of the result.
    fn add_bias<'d>(&mut self, bias: usize, width: usize, rows: impl Iterator<Item = &'d [f32]>) {
        if self.batch.wanted[bias] {
            let sums = &mut self.d_values[bias..bias + width];
            rows.for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += d));
        }
    }
}

/// What an activation, if there is one, makes of rows.
fn activate<'m>(machine: &'m Machine, activation: Option<Activation>, before: &[f32], width: usize) -> Scratch<'m> {
    let mut out = machine.scratch(before.len());
    machine.split(&mut out, width, |rows, out| {
        out.copy_from_slice(&before[rows.start * width..rows.end * width]);
        if let Some(activation) = activation {
            machine.kernel.activate(activation, out);
        }
    });
    out
}

/// Multiplies gradients by the slope of an activation.
fn activate_adjoint(machine: &Machine, activation: Option<Activation>, before: &[f32], width: usize, d: &mut [f32]) {
    if let Some(activation) = activation {
        machine.split(d, width, |rows, d| {
            machine.kernel.activate_adjoint(activation, &before[rows.start * width..rows.end * width], d);
        });
    }
}

/// So many zeros to work in.
fn zeros(machine: &Machine, len: usize) -> Scratch<'_> {
    let mut zeros = machine.scratch(len);
    zeros.fill(0.0);
    zeros
}
