//! Runs the exported graph in tract.
//!
//! In: a bundle with `weights.bin`. Out: a plan that is made once and serves every task and length. Refused: a damaged
//! `weights.bin`, and a graph that tract cannot plan. The batch is one sequence: tract fuses bias additions only if the
//! batch size is a constant, so a loop over unpadded sequences is faster than a symbolic batch. tract copies the
//! weights into memory of its own. It runs graphs that our operators do not cover, and tests compare our operators with
//! it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use edge_bundle::Bundle;
use ndarray::{Array1, Array2, Ix1, Ix2};
use tract_onnx::{prelude::*, tract_core::internal::TractErrorContext as _};

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
}

/// A loaded encoder.
pub(crate) struct Tract {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Input>,
    path: PathBuf,
    pooler: bool,
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
        Ok(Tract { plan, inputs, path: bundle.dir().to_owned(), pooler: bundle.manifest().config.pooler })
    }

    /// The inputs of one run.
    fn bind(&self, sequence: Sequence<'_>) -> TVec<TValue> {
        let row = |values: &[u32]| {
            let values: Vec<i64> = values.iter().map(|v| i64::from(*v)).collect();
            // One row with a column for each value always fits.
            tract_ndarray::Array1::from(values).insert_axis(tract_ndarray::Axis(0)).into_tensor().into_tvalue()
        };
        let bind = |input: &Input| match *input {
            Input::Ids => row(sequence.ids),
            Input::Mask => row(&vec![1; sequence.ids.len()]),
            Input::TypeIds => row(sequence.type_ids),
            Input::Slot(at, len) => {
                tract_ndarray::aview1(&sequence.biases.values()[at..at + len]).to_owned().into_tensor().into_tvalue()
            }
        };
        self.inputs.iter().map(bind).collect()
    }

    /// Runs one sequence of at least one token.
    pub fn run(&self, sequence: Sequence<'_>) -> Result<Hidden> {
        self.evaluate(self.bind(sequence)).map_err(|e| Error::Engine {
            path: self.path.clone(),
            action: "run the graph",
            reason: format!("{e:#}"),
        })
    }

    fn evaluate(&self, inputs: TVec<TValue>) -> TractResult<Hidden> {
        let outputs = self.plan.run(inputs)?;
        let tokens = outputs[0].to_plain_array_view::<f32>()?;
        let tokens: Array2<f32> = tokens.index_axis(tract_ndarray::Axis(0), 0).into_dimensionality::<Ix2>()?.to_owned();
        let pooled: Option<Array1<f32>> = match self.pooler {
            true => {
                let pooled =
                    outputs.get(1).context("the graph has no pooler's output")?.to_plain_array_view::<f32>()?;
                Some(pooled.index_axis(tract_ndarray::Axis(0), 0).into_dimensionality::<Ix1>()?.to_owned())
            }
            false => None,
        };
        Ok(Hidden { tokens, pooled })
    }
}

/// Reads the graph with the shapes it will have: one sequence of any length.
fn parse(path: &Path, bundle: &Bundle) -> TractResult<(InferenceModel, Vec<Input>)> {
    let onnx = tract_onnx::onnx();
    let mut proto = onnx.proto_model_for_path(path)?;
    let graph = proto.graph.as_mut().context("no graph")?;
    // tract treats an input with a default as a constant, so the defaults are dropped.
    let names: Vec<String> = graph.input.iter().map(|i| i.name.clone()).collect();
    graph.initializer.retain(|tensor| !names.contains(&tensor.name));
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
            slot => {
                let slots = &bundle.manifest().slots;
                let number = slots.iter().position(|s| s.name == slot);
                let number = number.with_context(|| format!("input {slot} is not a slot of the manifest"))?;
                let begin: usize = slots[..number].iter().map(|slot| slot.len as usize).sum();
                let len = usize::try_from(slots[number].len)?;
                (Input::Slot(begin, len), InferenceFact::dt_shape(f32::datum_type(), [len]))
            }
        };
        model.set_input_fact(at, fact)?;
        inputs.push(input);
    }
    Ok((model, inputs))
}

/// `[1, S]` integers.
fn ids_fact(length: &TDim) -> InferenceFact {
    InferenceFact::dt_shape(i64::datum_type(), tvec![1.to_dim(), length.clone()])
}
