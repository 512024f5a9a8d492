//! Runs the exported graph in tract.
//!
//! In: a bundle with `weights.bin`. Out: a plan that is made once and serves every task and length. Refused: a damaged
//! `weights.bin`, a graph that tract cannot plan, and (by [`crate::Encoder::attach`]) low-rank terms that the graph has
//! no inputs for. The batch is one sequence: tract fuses bias additions only if the batch size is a constant, so a loop
//! over unpadded sequences is faster than a symbolic batch. tract copies the weights into memory of its own. It runs
//! graphs that our operators do not cover, and tests compare our operators with it.

use std::{
    collections::HashSet,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use edge_bundle::{Bundle, Manifest, Slot};
use edge_engine::LowRank;
use ndarray::{Array1, Array2, Ix1, Ix2};
use tract_onnx::{pb::TensorProto, prelude::*, tract_core::internal::TractErrorContext as _};

use crate::{
    Error, Result,
    engine::{Hidden, Sequence},
};

/// What an input of the plan is.
#[derive(Clone, Copy, Debug)]
enum Input {
    Ids,
    Mask,
    TypeIds,
    /// A slot: its offset in the values of a task, and its length.
    Slot(usize, usize),
    /// A of the low-rank term of a slot's module, `[r, K]`: the slot's number, and K.
    LowRankA(usize, usize),
    /// B of it, `[M, r]`: the slot's number, and M.
    LowRankB(usize, usize),
}

/// A loaded encoder.
pub(crate) struct Tract {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Input>,
    path: PathBuf,
    pooler: bool,
    hidden: usize,
}

impl Tract {
    /// Loads and plans the graph of a bundle.
    pub fn load(bundle: &Bundle) -> Result<Self> {
        let path = bundle.file("encoder.onnx")?;
        if !bundle.has_weights() {
            let reason = "it reads weights.bin, which this bundle was exported without".to_owned();
            return Err(Error::Engine { path: bundle.dir().to_owned(), action: "run in tract", reason });
        }
        // Checked here because tract reads it by the name in the graph.
        bundle.file("weights.bin")?;
        let failed = |action| {
            let path = path.clone();
            move |e: TractError| Error::Engine { path, action, reason: format!("{e:#}") }
        };
        let (model, inputs) = parse(&path, bundle).map_err(failed("read the graph"))?;
        let plan = model.into_optimized().and_then(|m| m.into_runnable()).map_err(failed("plan the graph"))?;
        let config = &bundle.manifest().config;
        // Below 2^24, as a Config is.
        let (pooler, hidden) = (config.pooler, config.hidden as usize);
        Ok(Tract { plan, inputs, path: bundle.dir().to_owned(), pooler, hidden })
    }

    /// Whether the graph has inputs for the low-rank term of a slot's module.
    pub fn takes_term(&self, slot: usize) -> bool {
        let of_slot = |input: &&Input| matches!(input, Input::LowRankA(of, _) | Input::LowRankB(of, _) if *of == slot);
        // A and B: the names of inputs are all different, or tract would not have read the graph.
        self.inputs.iter().filter(of_slot).count() == 2
    }

    /// The inputs of one run.
    fn bind(&self, sequence: Sequence<'_>) -> TVec<TValue> {
        let row = |values: &[u32]| {
            let values: Vec<i64> = values.iter().map(|v| i64::from(*v)).collect();
            // One row with a column for each value always fits.
            tract_ndarray::Array1::from(values).insert_axis(tract_ndarray::Axis(0)).into_tensor().into_tvalue()
        };
        // The r vectors of A or B; none for a task without such a term.
        let vectors = |slot: usize, width: usize, at: fn(&LowRank) -> usize| {
            let term = sequence.values.terms().get(slot).and_then(Option::as_ref);
            let rank = term.map_or(0, |term| term.rank);
            let values = term.map_or(&[][..], |term| &sequence.values.all()[at(term)..][..rank * width]);
            tract_ndarray::Array2::from_shape_vec((rank, width), values.to_vec()).expect("as many values as the shape")
        };
        let bind = |input: &Input| match *input {
            Input::Ids => row(sequence.ids),
            Input::Mask => row(&vec![1; sequence.ids.len()]),
            Input::TypeIds => row(sequence.type_ids),
            Input::Slot(at, len) => {
                tract_ndarray::aview1(&sequence.values.slots()[at..at + len]).to_owned().into_tensor().into_tvalue()
            }
            Input::LowRankA(slot, width) => vectors(slot, width, |term| term.a).into_tensor().into_tvalue(),
            // A task has B by columns.
            Input::LowRankB(slot, width) => {
                let columns = vectors(slot, width, |term| term.b);
                columns.t().as_standard_layout().into_owned().into_tensor().into_tvalue()
            }
        };
        self.inputs.iter().map(bind).collect()
    }

    /// Runs one sequence of at least one token.
    pub fn run(&self, sequence: Sequence<'_>) -> Result<Hidden> {
        self.evaluate(self.bind(sequence), sequence.ids.len()).map_err(|e| Error::Engine {
            path: self.path.clone(),
            action: "run the graph",
            reason: format!("{e:#}"),
        })
    }

    /// The outputs for so many tokens. What a graph of another program gives may have other dimensions.
    fn evaluate(&self, inputs: TVec<TValue>, length: usize) -> TractResult<Hidden> {
        let outputs = self.plan.run(inputs)?;
        let tokens = outputs[0].to_plain_array_view::<f32>()?;
        let tokens: Array2<f32> = row(tokens)?.into_dimensionality::<Ix2>()?.to_owned();
        check_shape("last_hidden_state", &[length, self.hidden], tokens.shape())?;
        let pooled: Option<Array1<f32>> = match self.pooler {
            true => {
                let pooled =
                    outputs.get(1).context("the graph has no pooler's output")?.to_plain_array_view::<f32>()?;
                let pooled = row(pooled)?.into_dimensionality::<Ix1>()?.to_owned();
                check_shape("pooler_output", &[self.hidden], pooled.shape())?;
                Some(pooled)
            }
            false => None,
        };
        Ok(Hidden { tokens, pooled })
    }
}

/// The part of an output that is the batch's one sequence.
fn row<T>(output: tract_ndarray::ArrayViewD<'_, T>) -> TractResult<tract_ndarray::ArrayViewD<'_, T>> {
    match output.shape() {
        [1, ..] => Ok(output.index_axis_move(tract_ndarray::Axis(0), 0)),
        other => None.with_context(|| format!("expected an output of one sequence, found shape {other:?}")),
    }
}

fn check_shape(output: &str, due: &[usize], found: &[usize]) -> TractResult<()> {
    match due == found {
        true => Ok(()),
        false => None.with_context(|| format!("{output}: expected shape {due:?} for a sequence, found {found:?}")),
    }
}

/// Reads the graph with the shapes it will have: one sequence of any length.
fn parse(path: &Path, bundle: &Bundle) -> TractResult<(InferenceModel, Vec<Input>)> {
    let onnx = tract_onnx::onnx();
    let mut proto = onnx.proto_model_for_path(path)?;
    let graph = proto.graph.as_mut().context("no graph")?;
    // tract treats an input with a default as a constant, so the defaults are dropped.
    let names: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    let (defaults, constants) = mem::take(&mut graph.initializer).into_iter().partition(|t| names.contains(&t.name));
    graph.initializer = constants;
    check_empty_terms(&defaults, bundle.manifest())?;
    let dir = bundle.dir().to_str().context("the bundle's path is not UTF-8")?;
    let mut model = onnx.parse(&proto, Some(dir))?.model;

    let length = model.symbols.sym("S").to_dim();
    let ids = ids_fact(&length);
    let mut inputs = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let (input, fact) = match name.as_str() {
            "input_ids" => (Input::Ids, ids.clone()),
            "attention_mask" => (Input::Mask, ids.clone()),
            "token_type_ids" => (Input::TypeIds, ids.clone()),
            slot => slot_input(slot, bundle.manifest(), &model.symbols)
                .with_context(|| format!("input {slot} is not a slot of the manifest"))?,
        };
        model.set_input_fact(at, fact)?;
        inputs.push(input);
    }
    Ok((model, inputs))
}

/// Checks that low-rank terms default to none, as tasks without terms rely on.
fn check_empty_terms(defaults: &[TensorProto], manifest: &Manifest) -> TractResult<()> {
    let terms: HashSet<String> = manifest.slots.iter().flat_map(|slot| Slot::low_rank_inputs(&slot.name)).collect();
    match defaults.iter().find(|tensor| terms.contains(&tensor.name) && !tensor.dims.contains(&0)) {
        None => Ok(()),
        Some(other) => {
            None.with_context(|| format!("{}: expected a default of rank 0, found {:?}", other.name, other.dims))
        }
    }
}

/// The input of this name that is a slot, or a part of the low-rank term of a slot's module.
fn slot_input(name: &str, manifest: &Manifest, symbols: &SymbolScope) -> Option<(Input, InferenceFact)> {
    for (number, slot) in manifest.slots.iter().enumerate() {
        // Lengths are below 2^24, as a manifest checks.
        let (inputs, outputs) = (manifest.config.inputs(slot.module) as usize, slot.len as usize);
        if slot.name == name {
            let begin = manifest.slots[..number].iter().map(|slot| slot.len as usize).sum();
            return Some((Input::Slot(begin, outputs), InferenceFact::dt_shape(f32::datum_type(), [outputs])));
        }
        let [a, b] = Slot::low_rank_inputs(&slot.name);
        if slot.module.is_linear() && (a == name || b == name) {
            let rank = symbols.sym(&format!("r{number}")).to_dim();
            let (input, shape) = match a == name {
                true => (Input::LowRankA(number, inputs), tvec![rank, inputs.to_dim()]),
                false => (Input::LowRankB(number, outputs), tvec![outputs.to_dim(), rank]),
            };
            return Some((input, InferenceFact::dt_shape(f32::datum_type(), shape)));
        }
    }
    None
}

/// `[1, S]` integers.
fn ids_fact(length: &TDim) -> InferenceFact {
    InferenceFact::dt_shape(i64::datum_type(), tvec![1.to_dim(), length.clone()])
}
