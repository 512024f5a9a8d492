//! Runs a bundle's graph in stock tract: `stock_tract BUNDLE RUNS`. `targets/check --stock` compares its instructions
//! with edge-run's.
//!
//! In: a bundle with `weights.bin`, and the number of runs. Out: the sum of the hidden states of a text. tract knows
//! everything ahead of time and can plan for it: there is one text of 32 tokens, and the biases are constants.

use std::{env, error::Error, path::Path};

use tract_onnx::prelude::*;

const TOKENS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [bundle, runs] = &arguments[..] else {
        return Err("expected BUNDLE RUNS".into());
    };
    let runs: usize = runs.parse().map_err(|e| format!("RUNS: expected a number, found {runs}: {e}"))?;
    // tract treats an input with a default as a constant, and every bias has a default.
    let mut model = tract_onnx::onnx().model_for_path(Path::new(bundle).join("encoder.onnx"))?;
    let mut inputs = TVec::new();
    for at in 0..model.inputs.len() {
        model.set_input_fact(at, InferenceFact::dt_shape(i64::datum_type(), [1, TOKENS]))?;
        let row: Vec<i64> = match model.node(model.inputs[at].node).name.as_str() {
            "input_ids" => (0..).take(TOKENS).collect(),
            "attention_mask" => vec![1; TOKENS],
            "token_type_ids" => vec![0; TOKENS],
            other => return Err(format!("encoder.onnx: input {other} has no default").into()),
        };
        inputs.push(tract_ndarray::Array2::from_shape_vec((1, TOKENS), row)?.into_tensor().into_tvalue());
    }
    let plan = model.into_optimized()?.into_runnable()?;
    let mut sum = 0.0;
    for _ in 0..runs {
        sum = plan.run(inputs.clone())?[0].to_plain_array_view::<f32>()?.sum();
    }
    println!("{sum}");
    Ok(())
}
