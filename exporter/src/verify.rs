//! Checks a bundle in every way it can be checked: digests, graph against manifest, alignment, golden output.

use std::{collections::HashMap, fs, path::Path};

use bias_patch::{ALIGNMENT, Bundle, Slot, TensorEntry, VOCABULARY, vocabulary_of};

use crate::{
    Error, Progress, Result, export,
    onnx::{DimValue, ENCODER, EXTERNAL, Graph, Model, TRAINING, Tensor, ValueInfo},
};

/// Largest difference from the golden output, relative to values above 1: that output is f32, computed in f64.
const GOLDEN_BOUND: f64 = 1e-5;

/// Verifies the bundle in `dir`.
///
/// # Errors
/// Naming the first file, node or value that is not as it should be.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Bundle> {
    let bundle = Bundle::open(dir)?;
    let manifest = bundle.manifest();
    let weights = manifest.files.get("weights.bin").map_or(0, |f| f.bytes);
    let files = manifest.files.values().map(|f| f.bytes).fold(0, u64::saturating_add);
    progress(Progress::Stage(
        "reading files",
        if bundle.has_weights() { files.saturating_add(weights) } else { files.saturating_sub(weights) },
    ));
    bundle.verify(|bytes| progress(Progress::Advance(bytes)))?;
    bundle.base()?;
    check_vocabulary(&bundle)?;

    let read = |file: &str| -> Result<Model> {
        let path = dir.join(file);
        let model = Model::read(&path)?;
        let graph = model.graph.as_ref().ok_or_else(|| Error::graph("file", "a graph", "none").in_graph_of(&path))?;
        check_graph(graph, &manifest.slots, &manifest.tensors).map_err(|e| e.in_graph_of(&path))?;
        Ok(model)
    };
    let model = read(ENCODER)?;
    if manifest.files.contains_key(TRAINING) {
        read(TRAINING)?;
    }

    if !bundle.has_weights() {
        // The naive evaluator reads weights.bin; the panels' tensors have been found to be the encoder's.
        return Ok(bundle);
    }
    progress(Progress::Stage("recomputing the golden output", 0));
    let golden = &manifest.golden;
    if golden.input_ids.is_empty() || golden.input_ids.iter().any(|id| *id >= manifest.config.vocabulary) {
        return Err(Error::graph("golden input", "token ids of the vocabulary", "others"));
    }
    let now = export::golden(&model, dir, &golden.input_ids)?;
    let pairs = golden.first.iter().zip(&now.first).chain(golden.last.iter().zip(&now.last));
    let difference = pairs
        .map(|(a, b)| f64::from((a - b).abs()) / f64::from(a.abs()).max(1.0))
        .fold(0.0, |worst: f64, d| if d.is_nan() { d } else { worst.max(d) });
    let widths = [golden.first.len(), golden.last.len()] == [now.first.len(), now.last.len()];
    if !widths || difference.is_nan() || difference > GOLDEN_BOUND {
        return Err(Error::Golden { path: dir.to_owned(), bound: GOLDEN_BOUND, difference });
    }
    Ok(bundle)
}

/// The words of `vocabulary.bin` are those of `tokenizer.json`.
fn check_vocabulary(bundle: &Bundle) -> Result<()> {
    if !bundle.manifest().files.contains_key(VOCABULARY) {
        return Ok(());
    }
    let read = |name: &str| {
        let path = bundle.dir().join(name);
        fs::read(&path).map_err(|source| Error::Io { path, action: "read", source })
    };
    let due = vocabulary_of(&read("tokenizer.json")?).map_err(|e| e.in_file(&bundle.dir().join("tokenizer.json")))?;
    match due {
        Some(due) if due == read(VOCABULARY)? => Ok(()),
        _ => Err(Error::graph(VOCABULARY, "the words of tokenizer.json", "others")),
    }
}

/// Every slot an input with its default in `base.bias`, every tensor an initializer in `weights.bin`, all aligned.
fn check_graph(graph: &Graph, slots: &[Slot], tensors: &[TensorEntry]) -> Result<()> {
    let inputs: HashMap<&str, &ValueInfo> = graph.input.iter().map(|i| (i.name.as_deref().unwrap_or(""), i)).collect();
    let initializers: HashMap<&str, &Tensor> =
        graph.initializer.iter().map(|t| (t.name.as_deref().unwrap_or(""), t)).collect();
    for slot in slots {
        let input = inputs.get(slot.name.as_str()).ok_or_else(|| Error::graph(&slot.name, "a graph input", "none"))?;
        let found = numeric_dims(input);
        if found != [i64::from(slot.len)] {
            return Err(Error::graph(&slot.name, format!("an input of shape [{}]", slot.len), format!("{found:?}")));
        }
        check_place(&initializers, &slot.name, "base.bias", slot.offset, 4 * u64::from(slot.len))?;
    }
    for tensor in tensors {
        check_place(&initializers, &tensor.name, "weights.bin", tensor.offset, tensor.bytes().unwrap_or(u64::MAX))?;
    }
    let external = graph.initializer.iter().filter(|t| t.data_location == Some(EXTERNAL)).count();
    if external != slots.len() + tensors.len() {
        return Err(Error::graph("external initializers", (slots.len() + tensors.len()).to_string(), external));
    }
    Ok(())
}

fn check_place(initializers: &HashMap<&str, &Tensor>, name: &str, file: &str, offset: u64, bytes: u64) -> Result<()> {
    let tensor = initializers.get(name).ok_or_else(|| Error::graph(name, "an initializer", "none"))?;
    let entry = |key: &str| {
        let found = tensor.external_data.iter().find(|e| e.key.as_deref() == Some(key));
        found.and_then(|e| e.value.clone()).unwrap_or_default()
    };
    let found = (entry("location"), entry("offset"), entry("length"));
    let expected = (file.to_owned(), offset.to_string(), bytes.to_string());
    if found != expected || !offset.is_multiple_of(ALIGNMENT) {
        return Err(Error::graph(name, format!("{expected:?}, a multiple of {ALIGNMENT}"), format!("{found:?}")));
    }
    Ok(())
}

fn numeric_dims(info: &ValueInfo) -> Vec<i64> {
    let shape = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
    let dims = shape.map(|s| s.dim.as_slice()).unwrap_or_default();
    dims.iter().map(|d| if let Some(DimValue::Value(n)) = d.value { n } else { -1 }).collect()
}

#[cfg(test)]
mod tests {
    use bias_patch::{Activation, Config, Digest, Element, Family};

    use super::*;
    use crate::{encoder, onnx::Entry};

    #[test]
    fn a_graph_that_disagrees_with_the_manifest_is_refused() {
        let config = Config {
            family: Family::Bert,
            layers: 1,
            hidden: 16,
            embedding: 16,
            heads: 2,
            intermediate: 24,
            vocabulary: 10,
            max_length: 12,
            position_offset: 0,
            token_types: 2,
            activation: Activation::Gelu,
            layer_norm_epsilon: 1e-12,
            pooler: true,
        };
        let (model, weights, slots) = encoder::build(&config, Element::F32).unwrap().finish("test");
        let entry = |w: &crate::graph::Weight| TensorEntry {
            name: w.name.clone(),
            shape: w.shape.clone(),
            element: w.element,
            transposed: w.transposed,
            offset: w.offset,
            sha256: Digest::of(b""),
        };
        let tensors: Vec<TensorEntry> = weights.iter().map(entry).collect();
        let graph = model.graph.unwrap();
        check_graph(&graph, &slots, &tensors).unwrap();

        let refused = |change: &dyn Fn(&mut Graph)| {
            let mut changed = graph.clone();
            change(&mut changed);
            check_graph(&changed, &slots, &tensors).unwrap_err().to_string()
        };
        let query = "encoder.layer.0.attention.self.query";
        let place = |g: &mut Graph, name: String, key: &str, value: &str| {
            let tensor = g.initializer.iter_mut().find(|t| t.name.as_ref() == Some(&name)).unwrap();
            let found: &mut Entry = tensor.external_data.iter_mut().find(|e| e.key.as_deref() == Some(key)).unwrap();
            found.value = Some(value.to_owned());
        };
        let slot = format!("{query}.bias");
        let cases: [(String, &str); 5] = [
            (refused(&|g| g.input.retain(|i| i.name.as_ref() != Some(&slot))), "expected a graph input"),
            (refused(&|g| g.initializer.retain(|i| i.name.as_ref() != Some(&slot))), "expected an initializer"),
            (refused(&|g| place(g, slot.clone(), "location", "weights.bin")), "base.bias"),
            (refused(&|g| place(g, format!("{query}.weight"), "offset", "64")), "query.weight"),
            (refused(&|g| place(g, format!("{query}.weight"), "length", "8")), "query.weight"),
        ];
        for (message, part) in cases {
            assert!(message.contains(part) && message.contains("query"), "{message}");
        }
        let extra = refused(&|g| {
            g.initializer.push(g.initializer.iter().find(|t| t.data_location == Some(EXTERNAL)).unwrap().clone())
        });
        assert!(extra.contains("external initializers"), "{extra}");
    }
}
