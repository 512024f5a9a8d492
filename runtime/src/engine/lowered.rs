//! The graph as fused operators over mapped panels.
//!
//! In: a bundle. Out: a plan that is made once and serves every task, length and batch. tract parses the graph and runs
//! the plan; the weights stay in the page cache, shared by all processes, and the biases of each task in a batch are a row
//! of a table.

use std::{path::PathBuf, sync::Arc};

use bias_patch::{Bundle, Config, Element};
use ndarray::{ArrayView2, s};
use prost::Message;
use tract_onnx::{pb, prelude::*, tract_core::internal::TractErrorContext as _};

use super::{
    Activations, EngineOptions, Hidden, Sequence,
    adjoint::{Batch, Loss, Tape},
    machine::Machine,
    patterns,
    weights::{OwnWeights, Weights},
};
use crate::{Error, Result, memory::ask_memory};

/// A loaded encoder.
pub(crate) struct Lowered {
    plan: Arc<TypedRunnableModel>,
    tape: Tape,
    machine: Arc<Machine>,
    weights: Arc<Weights>,
    path: PathBuf,
    pooler: bool,
    /// What a run holds at once for each of its tokens.
    token_bytes: usize,
}

/// The values of every slot, one after the other, as an input: `[1, L]`.
pub(super) fn table(slots: Vec<Vec<f32>>) -> TValue {
    tract_ndarray::Array1::from(slots.concat()).insert_axis(tract_ndarray::Axis(0)).into_tensor().into_tvalue()
}

/// Bytes that a run holds at once for each token: input, residual, output and answer of an operator; queries, keys and
/// values, the last two once more in panels; the middle of the MLP, in floats and in codes.
fn token_bytes(config: &Config) -> usize {
    let size = |width: u32| usize::try_from(width).unwrap_or(usize::MAX);
    let (hidden, middle) = (size(config.hidden.max(config.embedding)), size(config.intermediate));
    hidden.saturating_mul(9 * size_of::<f32>()).saturating_add(middle.saturating_mul(size_of::<f32>() + 1))
}

impl Lowered {
    /// Maps the weights of a bundle and plans its graph.
    pub fn load(bundle: &Bundle, options: EngineOptions) -> Result<Self> {
        let activations = match bundle.manifest().weights() {
            Element::F32 => Activations::F32,
            Element::I8 => options.activations,
        };
        let machine = Machine::new(EngineOptions { activations, ..options })?;
        Self::lower(bundle, Arc::new(machine), Weights::open(bundle)?)
    }

    /// The same encoder with other weights, on the same threads.
    pub fn with_weights(&self, bundle: &Bundle, weights: &OwnWeights) -> Result<Self> {
        Self::lower(bundle, self.machine.clone(), self.weights.with(weights)?)
    }

    fn lower(bundle: &Bundle, machine: Arc<Machine>, weights: Arc<Weights>) -> Result<Self> {
        let path = bundle.file("encoder.onnx")?;
        let plan = || -> TractResult<(Tape, Arc<TypedRunnableModel>)> {
            // Decoded here: whoever asks tract to, links all of its operators.
            let proto = pb::ModelProto::decode(&*std::fs::read(&path)?)?;
            let graph = proto.graph.as_ref().context("no graph")?;
            let model = patterns::lower(graph, bundle.manifest(), &weights, &machine)?;
            Ok((Tape::of(&model)?, model.into_runnable()?))
        };
        let failed =
            |e: TractError| Error::Engine { path: path.clone(), action: "lower the graph", reason: format!("{e:#}") };
        let (tape, plan) = plan().map_err(failed)?;
        let config = &bundle.manifest().config;
        let (path, pooler, token_bytes) = (bundle.dir().to_owned(), config.pooler, token_bytes(config));
        Ok(Lowered { plan, tape, machine, weights, path, pooler, token_bytes })
    }

    /// The inputs of one run of several sequences.
    ///
    /// With one task among them its values are shared. With several, their rows are put together: a copy of a hundred
    /// kilobytes a task, in microseconds, beside milliseconds of work for each.
    pub fn bind(&self, sequences: &[Sequence<'_>]) -> Result<TVec<TValue>> {
        let vector = |values: Vec<i64>| tract_ndarray::Array1::from(values).into_tensor().into_tvalue();
        let mut tasks: Vec<&super::Biases> = Vec::new();
        let (mut ids, mut types, mut starts, mut rows, mut sequence_rows) = (vec![], vec![], vec![0], vec![], vec![]);
        for sequence in sequences {
            let same = |known: &&super::Biases| std::ptr::eq(*known, sequence.biases);
            let task = tasks.iter().position(same).unwrap_or_else(|| {
                tasks.push(sequence.biases);
                tasks.len() - 1
            });
            ids.extend(sequence.ids.iter().map(|id| i64::from(*id)));
            types.extend(sequence.type_ids.iter().map(|id| i64::from(*id)));
            starts.push(ids.len() as i64);
            rows.resize(ids.len(), task as i64);
            sequence_rows.push(task as i64);
        }
        let values = match &tasks[..] {
            [one] => one.0[0].clone(),
            several => {
                let rows: Vec<&Tensor> = several.iter().map(|task| &*task.0[0]).collect();
                Tensor::stack_tensors(0, &rows).map_err(|e| self.failed(e))?.into_tvalue()
            }
        };
        Ok([ids, types, starts, rows, sequence_rows].map(vector).into_iter().chain([values]).collect())
    }

    /// Runs sequences of these lengths.
    ///
    /// # Errors
    /// When the system has not as much memory, which is asked for ahead: neither tract's tensors nor threads in the midst of
    /// an operator can be refused it.
    pub fn run(&self, inputs: TVec<TValue>, lengths: &[usize]) -> Result<Vec<Hidden>> {
        let tokens: usize = lengths.iter().sum();
        let lacking = tokens.saturating_mul(self.token_bytes).saturating_sub(self.machine.spare_bytes());
        ask_memory(lacking, |bytes| Error::Memory {
            place: format!("a run of {tokens} tokens"),
            bytes,
            helps: "fewer tokens (--max-length), fewer --threads or an encoder of --weights int8 need less",
        })?;
        self.evaluate(inputs, lengths).map_err(|e| self.failed(e))
    }

    /// The kernel and the activations that it multiplies.
    pub fn arithmetic(&self) -> String {
        format!("{} {:?}", self.machine.kernel.name(), self.machine.activations)
    }

    /// The weights it runs on.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Runs sequences of one task forward and backward: see [`Tape::gradient`].
    pub fn gradient(&self, batch: &Batch<'_>, d_weights: Option<&mut [f32]>, loss: &mut Loss<'_>) -> Result<Vec<f32>> {
        let run = || self.tape.gradient(&self.machine, batch, d_weights, loss);
        self.machine.enter(run).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: TractError) -> Error {
        Error::Engine { path: self.path.clone(), action: "run the graph", reason: format!("{error:#}") }
    }

    fn evaluate(&self, inputs: TVec<TValue>, lengths: &[usize]) -> TractResult<Vec<Hidden>> {
        let outputs = self.machine.enter(|| self.plan.run(inputs))?;
        let matrix = |at: usize| -> TractResult<ArrayView2<'_, f32>> {
            let output = outputs.get(at).with_context(|| format!("output {at}"))?;
            Ok(output.to_plain_array_view::<f32>()?.into_dimensionality()?)
        };
        let tokens = matrix(0)?;
        let pooled = if self.pooler { Some(matrix(1)?) } else { None };
        let mut start = 0;
        let split = lengths.iter().enumerate().map(|(at, length)| {
            let part = tokens.slice(s![start..start + length, ..]).to_owned();
            start += length;
            Hidden { tokens: part, pooled: pooled.as_ref().map(|p| p.row(at).to_owned()) }
        });
        Ok(split.collect())
    }
}
