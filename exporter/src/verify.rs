//! Checks a bundle.
//!
//! In: a directory. Out: the bundle. Refused: files that differ from their digests, base values or panels that are
//! damaged, a graph that differs from the manifest, tensors that are not aligned, and another output than the golden
//! one.

use std::{collections::HashMap, fs, path::Path};

use edge_bundle::{
    ALIGNMENT, Bundle, MANIFEST, Slot, TensorEntry, VOCABULARY,
    onnx::{DimValue, Graph, Model, Tensor, ValueInfo},
    vocabulary_of,
};

use crate::{
    Error, Progress, Result,
    export::{ENCODER, golden},
};

/// Largest difference from the golden output, relative for values above 1. Both are computed in f64 and rounded to f32.
const GOLDEN_BOUND: f64 = 1e-5;

/// Verifies the bundle in `dir`.
///
/// # Errors
/// Naming the first file, node or value that is wrong.
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

    let model = Model::read(&dir.join(ENCODER))?;
    let graph = model.graph.ok_or_else(|| Error::graph("file", "a graph", "none"))?;
    check_graph(&graph, &manifest.slots, &manifest.tensors)?;

    if !bundle.has_weights() || manifest.config.family.is_graph() {
        // The evaluator reads weights.bin, and runs graphs that edge-export wrote. The panels have been compared with the
        // tensors' digests.
        return Ok(bundle);
    }
    progress(Progress::Stage("computing the golden output", 0));
    let then = &manifest.golden;
    if then.input_ids.is_empty() || then.input_ids.iter().any(|id| *id >= manifest.config.vocabulary) {
        let (expected, found) = ("token ids of the vocabulary".to_owned(), format!("{:?}", then.input_ids));
        return Err(Error::Graph { file: MANIFEST.to_owned(), node: "golden input".to_owned(), expected, found });
    }
    let now = golden(&graph, dir, &then.input_ids)?;
    let pairs = then.first.iter().zip(&now.first).chain(then.last.iter().zip(&now.last));
    let difference = pairs
        .map(|(a, b)| f64::from((a - b).abs()) / f64::from(a.abs()).max(1.0))
        .fold(0.0, |worst: f64, d| if d.is_nan() { d } else { worst.max(d) });
    let widths = [then.first.len(), then.last.len()] == [now.first.len(), now.last.len()];
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
        _ => Err(Error::Graph {
            file: VOCABULARY.to_owned(),
            node: "words".to_owned(),
            expected: "those of tokenizer.json".to_owned(),
            found: "others".to_owned(),
        }),
    }
}

/// Every slot an input with its default in `base.bias`, every tensor an initializer in `weights.bin`, all aligned.
fn check_graph(graph: &Graph, slots: &[Slot], tensors: &[TensorEntry]) -> Result<()> {
    let inputs: HashMap<&str, &ValueInfo> = graph.input.iter().map(|i| (i.name(), i)).collect();
    let initializers: HashMap<&str, &Tensor> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    for slot in slots {
        let input = inputs.get(slot.name.as_str()).ok_or_else(|| Error::graph(&slot.name, "a graph input", "none"))?;
        let found: Vec<_> = input.dims().iter().map(|dim| dim.value.clone()).collect();
        if found != [Some(DimValue::Value(slot.len.into()))] {
            return Err(Error::graph(&slot.name, format!("an input of shape [{}]", slot.len), format!("{found:?}")));
        }
        check_place(&initializers, &slot.name, "base.bias", slot.offset, 4 * u64::from(slot.len))?;
    }
    for tensor in tensors {
        let bytes = tensor.bytes().expect("Bundle::open has checked that the tensors tile weights.bin");
        check_place(&initializers, &tensor.name, "weights.bin", tensor.offset, bytes)?;
    }
    let external = graph.initializer.iter().filter(|t| t.is_external()).count();
    if external != slots.len() + tensors.len() {
        return Err(Error::graph("external initializers", (slots.len() + tensors.len()).to_string(), external));
    }
    Ok(())
}

fn check_place(initializers: &HashMap<&str, &Tensor>, name: &str, file: &str, offset: u64, bytes: u64) -> Result<()> {
    let tensor = initializers.get(name).ok_or_else(|| Error::graph(name, "an initializer", "none"))?;
    let found = ["location", "offset", "length"].map(|key| tensor.external(key));
    let (offset_text, bytes) = (offset.to_string(), bytes.to_string());
    let expected = [Some(file), Some(&*offset_text), Some(&*bytes)];
    if found != expected || !offset.is_multiple_of(ALIGNMENT) {
        let said = |place: [Option<&str>; 3]| place.map(|part| part.unwrap_or("none")).join(", ");
        let expected = format!("location, offset and length {}, the offset a multiple of {ALIGNMENT}", said(expected));
        return Err(Error::graph(name, expected, said(found)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bias_patch::{Activation, Digest};
    use edge_bundle::{Config, Element, Family, onnx::Entry};

    use super::*;
    use crate::encoder;

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
            relative: None,
            disentangled: None,
            rotary: None,
            window: None,
        };
        let (model, weights, slots) = encoder::build(&config, Element::F32, false).finish("test");
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
        let extra = refused(&|g| g.initializer.push(g.initializer.iter().find(|t| t.is_external()).unwrap().clone()));
        assert!(extra.contains("external initializers"), "{extra}");
    }
}
