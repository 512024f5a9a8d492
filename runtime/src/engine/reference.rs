//! The graph as it is, in stock tract: the reference engine.
//!
//! In: a bundle. Out: a plan that is made once and serves every task and length. The batch is one sequence: tract fuses
//! bias additions only when the batch is concrete, so a loop over unpadded sequences is faster than a symbolic batch.
//! tract copies the weights to memory of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bias_patch::Bundle;
use ndarray::{Array1, Array2, Ix1, Ix2};
use tract_onnx::{prelude::*, tract_core::internal::TractErrorContext as _};

use super::{Hidden, Sequence};
use crate::{Error, Result};

/// What an input of the plan takes.
#[derive(Clone, Copy, Debug)]
enum Input {
    Ids,
    Mask,
    TypeIds,
    /// A slot by its number in the manifest.
    Slot(usize),
}

/// A loaded encoder.
pub(crate) struct Reference {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Input>,
    path: PathBuf,
    pooler: bool,
}

/// The values of a slot as an input, `[len]`.
pub(super) fn vector(values: Vec<f32>) -> TValue {
    tract_ndarray::Array1::from(values).into_tensor().into_tvalue()
}

impl Reference {
    /// Loads and plans the graph of a bundle.
    pub fn load(bundle: &Bundle) -> Result<Self> {
        let path = bundle.file("encoder.onnx")?;
        if !bundle.has_weights() {
            let reason = "it reads weights.bin, which this bundle was exported without".to_owned();
            return Err(Error::Engine { path: bundle.dir().to_owned(), action: "run as reference", reason });
        }
        // Checked here because tract reads it by the name in the graph.
        bundle.file("weights.bin")?;
        let failed = |action| {
            let path = path.clone();
            move |e: TractError| Error::Engine { path, action, reason: format!("{e:#}") }
        };
        let (model, inputs) = parse(&path, bundle).map_err(failed("read the graph"))?;
        let plan = model.into_optimized().and_then(|m| m.into_runnable()).map_err(failed("plan the graph"))?;
        Ok(Reference { plan, inputs, path: bundle.dir().to_owned(), pooler: bundle.manifest().config.pooler })
    }

    /// The inputs of one run.
    pub fn bind(&self, sequence: Sequence<'_>) -> TVec<TValue> {
        let row = |values: &[u32]| {
            let values: Vec<i64> = values.iter().map(|v| i64::from(*v)).collect();
            // One row of as many columns as there are values always fits.
            tract_ndarray::Array1::from(values).insert_axis(tract_ndarray::Axis(0)).into_tensor().into_tvalue()
        };
        let bind = |input: &Input| match *input {
            Input::Ids => row(sequence.ids),
            Input::Mask => row(&vec![1; sequence.ids.len()]),
            Input::TypeIds => row(sequence.type_ids),
            Input::Slot(at) => sequence.biases.0[at].clone(),
        };
        self.inputs.iter().map(bind).collect()
    }

    /// Runs one sequence of at least one token.
    pub fn run(&self, inputs: TVec<TValue>) -> Result<Hidden> {
        self.evaluate(inputs).map_err(|e| Error::Engine {
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
                let pooled = outputs[1].to_plain_array_view::<f32>()?;
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
    // tract takes an input that has a default for a constant: drop the defaults.
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
                let len = usize::try_from(slots[number].len)?;
                (Input::Slot(number), InferenceFact::dt_shape(f32::datum_type(), [len]))
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
