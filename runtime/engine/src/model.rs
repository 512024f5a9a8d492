//! A model: a list of operators, run forward, or forward and backward.
//!
//! In: operators, each with the numbers of those it reads, checked once; then, for each run, the bytes of the weights,
//! a batch, and the values of its tasks. Out: hidden states; from the backward pass, gradients of a loss with respect
//! to the values of one task. Refused: operators whose sizes do not fit, tensors outside the weights, tasks without
//! values, ids without an embedding.
//!
//! Training keeps what each operator's backward pass needs of itself, and the inputs of layers whose low-rank term is
//! trained. Every other output is dropped after its last reader. The backward pass stops where no operator below has a
//! wanted slot, and so may the forward pass: see [`crate::Cut`].

use alloc::{boxed::Box, vec, vec::Vec};
use core::ops::Range;

use crate::{
    Error, Result,
    batch::{Batch, Table, TaskRows},
    demand::{Demand, Pool},
    gradients::Gradients,
    low_rank::TaskTerms,
    machine::{Machine, Scratch},
    operators::{Operator, Pass},
    sharing::Sharing,
    weights::Weights,
};

/// What a batch runs on, and with which values.
#[derive(Clone, Copy)]
pub(crate) struct Run<'r, 'm> {
    pub machine: &'m Machine,
    pub weights: Weights<'r>,
    pub batch: &'r Batch,
    pub table: Table<'r>,
}

/// Operators in the order they run in.
#[derive(Debug)]
pub struct Model {
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Outputs,
    /// L, the values of a task.
    values: usize,
    /// The least number of bytes that the weights need.
    weight_bytes: usize,
}

/// Which operators' outputs are those of the model, by number.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// The last hidden state of each token.
    pub tokens: usize,
    /// The pooler's output of each sequence, where there is one.
    pub pooled: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub operator: Box<dyn Operator>,
    pub inputs: Vec<usize>,
    /// Whether its output has a row for each sequence instead of each token.
    pub of_sequences: bool,
    /// The `inputs` that no later operator reads.
    done: Vec<usize>,
}

/// The outputs of a model for a batch.
#[derive(Debug)]
pub struct Hidden<'m> {
    /// The last hidden state, `[N, H]`.
    pub tokens: Scratch<'m>,
    /// The pooler's output, `[B, H]`.
    pub pooled: Option<Scratch<'m>>,
}

/// The part of a run that a loss reads, for one sequence, and the gradients that it writes, which are zero at first.
pub struct SequenceLoss<'a> {
    /// The sequence's number in the batch.
    pub number: usize,
    /// Its last hidden state, `[S, H]`.
    pub tokens: &'a [f32],
    /// The pooler's output, `[H]`.
    pub pooled: Option<&'a [f32]>,
    /// The gradient of the loss with respect to `tokens`.
    pub d_tokens: &'a mut [f32],
    /// That with respect to `pooled`.
    pub d_pooled: Option<&'a mut [f32]>,
}

/// Outputs of operators or their gradients, while they are needed.
pub(crate) type Values<'m> = Vec<Option<Scratch<'m>>>;

impl Model {
    /// Makes a model of operators, each with the numbers of those it reads. `values` is L, and `weight_bytes` is the
    /// size of the weights.
    ///
    /// # Errors
    /// When parts of an operator have sizes that do not fit, when an input is not an earlier operator or has another
    /// width, or when a tensor or slot lies outside the weights or values.
    pub fn new(
        operators: Vec<(Box<dyn Operator>, Vec<usize>)>,
        outputs: Outputs,
        values: usize,
        weight_bytes: usize,
    ) -> Result<Self> {
        let count = operators.len();
        let last = |at: usize| operators.iter().rposition(|(_, inputs)| inputs.contains(&at));
        let is_output = |at: usize| at == outputs.tokens || Some(at) == outputs.pooled;
        let done: Vec<Vec<usize>> = operators
            .iter()
            .enumerate()
            .map(|(at, (_, inputs))| {
                // Once each: an operator may read a value twice, as an MLP's input is its residual too.
                let mut done: Vec<usize> =
                    inputs.iter().copied().filter(|i| last(*i) == Some(at) && !is_output(*i)).collect();
                done.sort_unstable();
                done.dedup();
                done
            })
            .collect();
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        for ((operator, inputs), done) in operators.into_iter().zip(done) {
            operator.check()?;
            let shape =
                |what, expected, found| Error::Shape { operator: operator.name().into(), what, expected, found };
            for tensor in operator.tensors() {
                tensor.check(operator.name(), weight_bytes)?;
            }
            for slot in operator.slots() {
                if slot.len == 0 || slot.at.checked_add(slot.len).is_none_or(|end| end > values) {
                    return Err(shape("values of a task", values, slot.at.saturating_add(slot.len)));
                }
            }
            let widths = operator.inputs();
            if widths.len() != inputs.len() {
                return Err(shape("a number of inputs", widths.len(), inputs.len()));
            }
            for (input, width) in inputs.iter().zip(widths) {
                let found = nodes.get(*input).map(|node| node.operator.width());
                if found != Some(width) {
                    return Err(shape("an input with a width", width, found.unwrap_or(0)));
                }
            }
            let rows: Vec<bool> = inputs.iter().map(|input| nodes[*input].of_sequences).collect();
            let of_tokens = rows.iter().filter(|of_sequences| !**of_sequences).count();
            let of_sequences = operator
                .of_sequences(&rows)
                .ok_or_else(|| shape("a number of inputs with a row for each token", rows.len(), of_tokens))?;
            nodes.push(Node { operator, inputs, of_sequences, done });
        }
        for (output, of_sequences) in [(Some(outputs.tokens), false), (outputs.pooled, true)] {
            let Some(output) = output else { continue };
            if nodes.get(output).is_none_or(|node| node.of_sequences != of_sequences) {
                return Err(Error::Input {
                    what: "a model's output, an operator's number",
                    expected: count,
                    found: output,
                });
            }
        }
        Ok(Model { nodes, outputs, values, weight_bytes })
    }

    /// L, the values of a task.
    pub fn values(&self) -> usize {
        self.values
    }

    /// H, the width of the hidden states.
    pub fn width(&self) -> usize {
        self.nodes[self.outputs.tokens].operator.width()
    }

    /// The bytes that [`Model::run`] takes beyond the machine's spare memory, for a batch and table that it does not refuse.
    /// What kernels and lists of operators take is not counted.
    pub fn run_bytes(&self, machine: &Machine, batch: &Batch, table: Table<'_>) -> usize {
        let sharing = self.sharing(batch, table);
        let sharing = sharing.as_ref();
        let mut pool = Pool::of(machine);
        let mut outputs: Vec<Option<usize>> = Vec::with_capacity(self.nodes.len());
        let spread = |pool: &mut Pool, at: usize, reader: Option<usize>| {
            let node = &self.nodes[at];
            let rows = sharing?.spread_rows(at, node.of_sequences, reader)?;
            Some(pool.take(rows * node.operator.width()))
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let batch = sharing.map_or(batch, |sharing| sharing.batch(at));
            let rows = node.rows(batch);
            let out = pool.take(rows * node.operator.width());
            let read: Vec<_> = node.inputs.iter().filter_map(|input| spread(&mut pool, *input, Some(at))).collect();
            pool.work(&node.operator.works(Demand { machine, batch, rows }));
            read.into_iter().for_each(|len| pool.give(len));
            outputs.push(Some(out));
            node.done.iter().filter_map(|input| outputs[*input].take()).for_each(|len| pool.give(len));
        }
        for at in self.outputs.pooled.into_iter().chain([self.outputs.tokens]) {
            spread(&mut pool, at, None);
        }
        pool.most_bytes(machine)
    }

    /// What the sequences of a batch share.
    fn sharing(&self, batch: &Batch, table: Table<'_>) -> Option<Sharing> {
        let operators = self.nodes.iter().map(|node| (&*node.operator, &node.inputs[..]));
        Sharing::of(operators, batch, table)
    }

    /// Runs a batch. A row of `table` holds the values of a task.
    ///
    /// # Errors
    /// When weights, batch and table are not the model's, or an id has no row.
    pub fn run<'m>(
        &self,
        machine: &'m Machine,
        weights: Weights<'_>,
        batch: &Batch,
        table: Table<'_>,
    ) -> Result<Hidden<'m>> {
        let run = self.checked(Run { machine, weights, batch, table })?;
        let sharing = self.sharing(batch, table);
        let sharing = sharing.as_ref();
        let mut outputs = Values::new();
        machine.enter(|| self.forward(run, None, sharing, self.nodes.len(), &mut outputs))?;
        let mut output = |at: usize| {
            let output = outputs[at].take()?;
            sharing.and_then(|sharing| self.spread(sharing, machine, &output, at, None)).or(Some(output))
        };
        // The two outputs are different operators, because one has a row for each token and the other for each
        // sequence.
        let pooled = self.outputs.pooled.and_then(&mut output);
        let tokens = output(self.outputs.tokens).expect("a model's outputs are kept");
        Ok(Hidden { tokens, pooled })
    }

    /// Runs sequences of one task, number 0, forward and backward, and adds to `gradients`. `values` are those of the
    /// task: of its slots, and behind them of the low-rank terms that `gradients` lists. `loss` is called once for each
    /// sequence, in order.
    ///
    /// # Errors
    /// As [`Model::run`]; also when states that `gradients` begins at are not those of the batch, or are below something
    /// that is wanted.
    pub fn gradient(
        &self,
        machine: &Machine,
        weights: Weights<'_>,
        batch: &Batch,
        values: &[f32],
        gradients: &mut Gradients<'_>,
        loss: &mut (dyn FnMut(SequenceLoss<'_>) + Send),
    ) -> Result<()> {
        let terms = [TaskTerms { values, places: gradients.terms }];
        let table = Table { values, width: self.values, terms: &terms, zeros: &[] };
        let run = self.checked(Run { machine, weights, batch, table })?;
        for (what, found) in [("gradients", gradients.values.len()), ("wanted values", gradients.wanted.len())] {
            if found != values.len() {
                return Err(Error::Input { what, expected: values.len(), found });
            }
        }
        #[cfg(feature = "research")]
        gradients.weights.check(self.weight_bytes / size_of::<f32>())?;
        let mut kept = vec![gradients.of_weights(); self.nodes.len()];
        for node in self.nodes.iter().filter(|node| node.operator.keeps_input(&|layer| gradients.wants_term(layer))) {
            node.inputs.first().into_iter().for_each(|input| kept[*input] = true);
        }
        machine.enter(|| {
            let mut outputs = self.begin(run, gradients)?;
            let saved = self.forward(run, Some(&kept), None, self.nodes.len(), &mut outputs)?;
            let d_outputs = self.loss(machine, batch, &outputs, loss);
            outputs.iter_mut().zip(&kept).filter(|(_, kept)| !**kept).for_each(|(output, _)| *output = None);
            self.backward(run, &outputs, saved, d_outputs, gradients);
            Ok(())
        })
    }

    /// The run, if what it runs on is the model's.
    pub(crate) fn checked<'r, 'm>(&self, run: Run<'r, 'm>) -> Result<Run<'r, 'm>> {
        let Run { weights, batch, table, .. } = run;
        for (what, expected, found, fits) in [
            ("bytes of weights", self.weight_bytes, weights.len(), weights.len() >= self.weight_bytes),
            ("values of a task", self.values, table.width, table.width == self.values),
            (
                "values of all tasks",
                batch.task_count().saturating_mul(self.values),
                table.values.len(),
                table.values.len() >= batch.task_count().saturating_mul(self.values),
            ),
        ] {
            if !fits {
                return Err(Error::Input { what, expected, found });
            }
        }
        if !table.terms.is_empty() && table.terms.len() < batch.task_count() {
            let (expected, found) = (batch.task_count(), table.terms.len());
            return Err(Error::Input { what: "low-rank terms of all tasks", expected, found });
        }
        let layers = || self.nodes.iter().flat_map(|node| node.operator.linears());
        table
            .terms
            .iter()
            .filter(|terms| !terms.places.is_empty())
            .try_for_each(|terms| layers().try_for_each(|layer| terms.check(layer)))?;
        Ok(run)
    }

    /// Runs the operators from the first that has no place in `outputs` to the one before number `end`, and appends their
    /// outputs; those that nobody reads later are dropped. For a backward pass, `kept` says which outputs it needs. Gives
    /// what each operator saved. With `sharing`, an output has rows for the sequences that its operator ran.
    pub(crate) fn forward<'m>(
        &self,
        run: Run<'_, 'm>,
        kept: Option<&[bool]>,
        sharing: Option<&Sharing>,
        end: usize,
        outputs: &mut Values<'m>,
    ) -> Result<Vec<Vec<Scratch<'m>>>> {
        let machine = run.machine;
        let first = outputs.len();
        let mut all_saved: Vec<Vec<Scratch<'m>>> = (0..first).map(|_| Vec::new()).collect();
        for (at, node) in self.nodes.iter().enumerate().take(end).skip(first) {
            let run = Run { batch: sharing.map_or(run.batch, |sharing| sharing.batch(at)), ..run };
            let rows = node.rows(run.batch);
            let pass = run.pass(node);
            let saves = if kept.is_none() { vec![] } else { node.operator.saves() };
            let mut saved: Vec<Scratch<'m>> = saves.iter().map(|width| machine.scratch(rows * width)).collect();
            let mut out = machine.scratch(rows * node.operator.width());
            let mut read = node.read(outputs);
            let spread = |input: &usize| self.spread(sharing?, machine, outputs[*input].as_deref()?, *input, Some(at));
            let spread: Vec<_> = node.inputs.iter().map(spread).collect();
            read.iter_mut().zip(&spread).for_each(|(read, spread)| *read = spread.as_deref().unwrap_or(read));
            node.operator.forward(&pass, &read, &mut out, &mut saved)?;
            outputs.push(Some(out));
            all_saved.push(saved);
            let done = node.done.iter().filter(|input| kept.is_none_or(|kept| !kept[**input]));
            done.for_each(|input| outputs[*input] = None);
        }
        Ok(all_saved)
    }

    /// The output of operator `at` for the sequences that operator `reader` runs, or for the whole batch, unless it has
    /// just those.
    fn spread<'m>(
        &self,
        sharing: &Sharing,
        machine: &'m Machine,
        output: &[f32],
        at: usize,
        reader: Option<usize>,
    ) -> Option<Scratch<'m>> {
        let node = &self.nodes[at];
        sharing.spread(machine, output, (at, node.operator.width()), node.of_sequences, reader)
    }

    /// The gradient of the loss with respect to the model's outputs.
    fn loss<'m>(
        &self,
        machine: &'m Machine,
        batch: &Batch,
        outputs: &Values<'_>,
        loss: &mut (dyn FnMut(SequenceLoss<'_>) + Send),
    ) -> Values<'m> {
        let output = |at: usize| outputs[at].as_deref().unwrap_or_default();
        let width = self.width();
        let rows = |range: Range<usize>, width: usize| range.start * width..range.end * width;
        let mut d_tokens = machine.zeros(batch.tokens() * width);
        let pooled = self.outputs.pooled.map(|at| (output(at), self.nodes[at].operator.width()));
        let mut d_pooled = pooled.map(|(pooled, _)| machine.zeros(pooled.len()));
        for (number, range) in batch.ranges().enumerate() {
            let of_tokens = rows(range, width);
            let of_pooled = |width| rows(number..number + 1, width);
            loss(SequenceLoss {
                number,
                tokens: &output(self.outputs.tokens)[of_tokens.clone()],
                pooled: pooled.map(|(pooled, width)| &pooled[of_pooled(width)]),
                d_tokens: &mut d_tokens[of_tokens],
                d_pooled: d_pooled.as_deref_mut().zip(pooled).map(|(d, (_, width))| &mut d[of_pooled(width)]),
            });
        }
        let mut d_outputs: Values<'m> = self.nodes.iter().map(|_| None).collect();
        d_outputs[self.outputs.tokens] = Some(d_tokens);
        if let Some((at, d)) = self.outputs.pooled.zip(d_pooled) {
            // A loss that does not use the pooler's output leaves its gradient zero: then the pooler is not run
            // backward.
            d_outputs[at] = d.iter().any(|d| *d != 0.0).then_some(d);
        }
        d_outputs
    }

    fn backward<'r>(
        &self,
        run: Run<'r, 'r>,
        outputs: &Values<'_>,
        saved: Vec<Vec<Scratch<'r>>>,
        mut d_outputs: Values<'r>,
        gradients: &mut Gradients<'_>,
    ) {
        // Whether this operator or one below it has a wanted slot.
        let mut reaches: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            reaches.push(node.is_wanted(gradients) || node.inputs.iter().any(|input| reaches[*input]));
        }
        for ((at, node), saved) in self.nodes.iter().enumerate().zip(saved).rev() {
            let Some(d_out) = d_outputs[at].take().filter(|_| reaches[at]) else { continue };
            let pass = run.pass(node);
            let needed: Vec<bool> = node.inputs.iter().map(|input| reaches[*input]).collect();
            let kept: Vec<&[f32]> = saved.iter().map(|saved| &**saved).collect();
            let d_inputs = node.operator.backward(&pass, &node.read(outputs), &kept, d_out, &needed, gradients);
            for (input, d_input) in node.inputs.iter().zip(d_inputs) {
                match (&mut d_outputs[*input], d_input) {
                    (Some(sum), Some(d)) => sum.iter_mut().zip(&*d).for_each(|(sum, d)| *sum += d),
                    (place @ None, d) => *place = d,
                    (Some(_), None) => {}
                }
            }
        }
    }
}

impl<'r, 'm: 'r> Run<'r, 'm> {
    /// What an operator runs in.
    fn pass(self, node: &Node) -> Pass<'r> {
        let Run { machine, weights, batch, table } = self;
        Pass { machine, weights, batch, tasks: TaskRows::new(table, batch.tasks(node.of_sequences)) }
    }
}

impl Node {
    /// Whether backward adds to a gradient of its own.
    pub fn is_wanted(&self, gradients: &Gradients<'_>) -> bool {
        gradients.of_weights()
            || self.operator.slots().iter().any(|slot| gradients.wants(*slot))
            || self.operator.linears().into_iter().any(|layer| gradients.wants_term(layer))
    }

    /// The rows of its output.
    pub fn rows(&self, batch: &Batch) -> usize {
        if self.of_sequences { batch.sequences() } else { batch.tokens() }
    }

    /// The outputs that it reads; an empty slice for one that was dropped.
    fn read<'a>(&self, outputs: &'a Values<'_>) -> Vec<&'a [f32]> {
        self.inputs.iter().map(|input| outputs[*input].as_deref().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;
    use crate::{
        Activation, LayerNorm, Linear, Tensor,
        operators::{Embedding, Middle, PositionRows, Residual},
        weights,
    };

    /// MLPs one after the other, each reading what is before it twice, over rows of sixteen.
    fn mlps(count: usize) -> Model {
        let tensor = |rows, in_panels| Tensor { rows, columns: 16, in_panels, values: weights::Values::F32 { at: 0 } };
        let norm = || LayerNorm { gain: tensor(1, false), bias: None, epsilon: 1e-12 };
        let linear = || Linear { weight: tensor(16, true), bias: None, low_rank: None };
        let (words, table) = (tensor(1, false), tensor(1, false));
        let name = "n".to_string();
        let positions = Some(PositionRows { table, first: 0, uncounted: None });
        let first = Embedding { name: name.clone(), words, positions, types: None, norm: norm() };
        let mut operators: Vec<(Box<dyn Operator>, Vec<usize>)> = vec![(Box::new(first), vec![])];
        for at in 0..count {
            let middle = Some(Middle { layers: vec![linear()], activation: Activation::Relu });
            let mlp = Residual { name: name.clone(), middle, linear: linear(), norm: Some(norm()) };
            operators.push((Box::new(mlp), vec![at, at]));
        }
        Model::new(operators, Outputs { tokens: count, pooled: None }, 0, 4096).unwrap()
    }

    #[test]
    fn a_run_holds_as_much_however_many_layers_there_are() {
        let machine = Machine::new(crate::kernels()[0], crate::Activations::F32, crate::Threads::one());
        let mut batch = Batch::default();
        batch.push(&[0; 40], &[0; 40], 0);
        let table = Table { values: &[], width: 0, terms: &[], zeros: &[] };
        // Input, output and the middle.
        let due = 3 * (40 * 16 + 16) * size_of::<f32>();
        assert_eq!([1, 24].map(|count| mlps(count).run_bytes(&machine, &batch, table)), [due, due]);
    }
}
