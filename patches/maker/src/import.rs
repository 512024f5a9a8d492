//! A patch from biases that were trained elsewhere.
//!
//! In: a safetensors file of biases and a head under Hugging Face names, or a whole fine-tuned checkpoint. Out: a patch
//! of the slots that differ from the encoder's. Refused: tensors that are neither, a checkpoint whose frozen weights
//! differ from the encoder's in any bit, a head that does not suit the task.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use bias_patch::{Activation, Encoding, Head, Kind, Linear, Module, Patch, Pooling, Stored, StoredSlot, Task};
use edge_bundle::{Bundle, Config, Element, Family, Frozen, TensorEntry};
use edge_run::tasks;
use hf_checkpoint::{Checkpoint, NamedTensor, to_safetensors};

use crate::{Error, Result};

/// A patch, and what was left out of it.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The patch.
    pub patch: Patch,
    /// Slots that are as in the pre-trained encoder.
    pub unchanged: usize,
    /// Key biases, which have no effect.
    pub keys: usize,
}

/// Makes a patch for `bundle` of the biases and head in `from`.
///
/// # Errors
/// When `from` does not fit the encoder or the task.
pub fn import(bundle: &Bundle, from: &Path, task: Task, metadata: &[(String, String)]) -> Result<Imported> {
    let whole = from.is_dir();
    let source = if whole { Checkpoint::open(from)? } else { Checkpoint::open_file(from)? };
    let manifest = bundle.manifest();
    let head_layers = find_head(&source, task.kind(), manifest.config.family)?;
    if whole {
        check_config(&source, &manifest.config)?;
        check_labels(&source, &task)?;
        check_pooling(&source, &task)?;
        check_weights(&source, bundle)?;
    } else {
        check_names(&source, bundle, &head_layers)?;
    }

    let base = bundle.base()?;
    let (mut slots, mut unchanged, mut keys) = (Vec::new(), 0, 0);
    for (slot, base) in manifest.slots.iter().zip(base.slots()) {
        if !whole && !source.contains(&slot.name) {
            continue;
        }
        // Read even if it will not be stored, so that a wrong shape is refused.
        let values = source.read(&slot.name, &[base.len()])?;
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        if slot.term == Module::Key {
            keys += 1;
        } else if bits(&values) == bits(base) {
            unchanged += 1;
        } else {
            let values = Stored::encode(&values, Some(base), Encoding::F32)
                .map_err(|e| content(from, &slot.name, "finite numbers", e))?;
            slots.push(StoredSlot { id: slot.id(), values });
        }
    }
    let head = read_head(&source, &head_layers)?;
    let mut sorted = metadata.to_vec();
    sorted.sort();
    let patch = Patch::new(manifest.encoder, task, slots, head, sorted).map_err(|e| e.in_file(from))?;
    patch.check(&manifest.shape()).map_err(|e| e.in_file(from))?;
    Ok(Imported { patch, unchanged, keys })
}

/// The reverse of [`import`]: every bias of the encoder with the patch applied, and the head, as the bytes of a
/// safetensors file under Hugging Face names.
///
/// # Errors
/// When the patch does not fit the encoder, or these names cannot express the form of its head.
pub fn extract(bundle: &Bundle, patch: &Patch) -> Result<Vec<u8>> {
    let manifest = bundle.manifest();
    let values = patch.apply(&manifest.shape(), bundle.base()?.slots())?;
    let slots = manifest.slots.iter().zip(values);
    let mut tensors: Vec<NamedTensor> = slots.map(|(slot, v)| (slot.name.clone(), vec![v.len()], v)).collect();
    let mut linear = |module: &str, linear: &Linear| {
        let (rows, columns) = (linear.outputs as usize, linear.inputs as usize);
        tensors.push((format!("{module}.weight"), vec![rows, columns], linear.weight.values(None)));
        tensors.push((format!("{module}.bias"), vec![rows], linear.bias.values(None)));
    };
    let head = patch.head();
    let output = match &head.dense {
        None => "classifier",
        Some((dense, activation)) if *activation == dense_activation(manifest.config.family) => {
            linear("classifier.dense", dense);
            "classifier.out_proj"
        }
        Some((dense, Activation::Relu)) => {
            linear("pre_classifier", dense);
            "classifier"
        }
        Some((_, other)) => {
            let due = dense_activation(manifest.config.family).name();
            let expected = format!("no hidden layer, or one with {due} or relu, as names tell them apart");
            let field = format!("head of task {}", patch.task().name());
            return Err(bias_patch::Error::Field { field, expected, found: other.name().to_owned() }.into());
        }
    };
    linear(output, &head.output);
    Ok(to_safetensors(&tensors)?)
}

/// Module names of a head's layers.
struct HeadLayers {
    dense: Option<(&'static str, Activation)>,
    output: &'static str,
}

impl HeadLayers {
    fn modules(&self) -> impl Iterator<Item = &'static str> {
        self.dense.iter().map(|(name, _)| *name).chain([self.output])
    }
}

/// The activation after `classifier.dense` in a family's sequence classifiers.
fn dense_activation(family: Family) -> Activation {
    if family == Family::Electra { Activation::Gelu } else { Activation::Tanh }
}

/// The head that the source has, among those that Hugging Face's task models have.
fn find_head(source: &Checkpoint, kind: &Kind, family: Family) -> Result<HeadLayers> {
    let has = |module: &str| source.contains(&format!("{module}.weight"));
    let plain = tasks::of(kind).checkpoint_modules().iter().map(|output| HeadLayers { dense: None, output });
    // Classifiers of a whole text may have a hidden layer.
    let mut known = Vec::new();
    if kind.pooling().is_some() {
        let activation = dense_activation(family);
        known.push(HeadLayers { dense: Some(("classifier.dense", activation)), output: "classifier.out_proj" });
        known.push(HeadLayers { dense: Some(("pre_classifier", Activation::Relu)), output: "classifier" });
    }
    known.extend(plain);
    let names: BTreeSet<&str> = known.iter().map(|h| h.output).collect();
    let expected = format!("the weight of {}", names.into_iter().collect::<Vec<_>>().join(" or "));
    let found = known.into_iter().find(|head| head.modules().all(has));
    found.ok_or_else(|| content(source.path(), "head", &expected, "none"))
}

fn read_head(source: &Checkpoint, layers: &HeadLayers) -> Result<Head> {
    let linear = |module: &str| -> Result<Linear> {
        let (weight, bias) = (format!("{module}.weight"), format!("{module}.bias"));
        let shape = source.shape(&weight)?.to_vec();
        let [outputs, inputs] = shape[..] else {
            return Err(content(source.path(), &weight, "two dimensions", format!("{shape:?}")));
        };
        let values = source.read(&weight, &[outputs, inputs])?;
        let bias = source.read(&bias, &[outputs])?;
        Linear::exact(&values, &bias).map_err(|e| content(source.path(), &weight, "a linear layer", e))
    };
    let dense = match layers.dense {
        Some((module, activation)) => Some((linear(module)?, activation)),
        None => None,
    };
    Ok(Head { dense, output: linear(layers.output)? })
}

/// In a file of biases every tensor has to have a place.
fn check_names(source: &Checkpoint, bundle: &Bundle, head: &HeadLayers) -> Result<()> {
    let slots: BTreeSet<&str> = bundle.manifest().slots.iter().map(|s| s.name.as_str()).collect();
    let of_head: BTreeSet<String> = head.modules().flat_map(|m| [format!("{m}.weight"), format!("{m}.bias")]).collect();
    let stranger = source.names().find(|name| !slots.contains(name) && !of_head.contains(*name));
    match stranger {
        None => Ok(()),
        Some(name) => {
            let near = slots.iter().find(|slot| slot.rsplit('.').nth(1) == name.rsplit('.').nth(1));
            let hint = near.map_or(String::new(), |slot| format!(", such as {slot}"));
            Err(content(
                source.path(),
                format!("tensor {name}"),
                format!("a bias of the encoder{hint}, or of the head"),
                "neither",
            ))
        }
    }
}

/// A checkpoint with the same tensors may still have another configuration.
fn check_config(source: &Checkpoint, config: &Config) -> Result<()> {
    let number = |names: [&str; 2]| names.iter().find_map(|name| source.config().get(name)?.as_u64());
    let path = source.path().join("config.json");
    for (names, due) in [
        (["num_hidden_layers", "n_layers"], config.layers),
        (["hidden_size", "dim"], config.hidden),
        (["num_attention_heads", "n_heads"], config.heads),
        (["intermediate_size", "hidden_dim"], config.intermediate),
    ] {
        let found = number(names);
        if found != Some(due.into()) {
            return Err(content(&path, names[0], due.to_string(), found.map_or("none".into(), |n| n.to_string())));
        }
    }
    let epsilon = source.config().get("layer_norm_eps").and_then(|v| v.as_f64());
    if let Some(found) = epsilon.filter(|found| *found != config.layer_norm_epsilon) {
        return Err(content(&path, "layer_norm_eps", config.layer_norm_epsilon.to_string(), found));
    }
    let due: &[&str] = match config.activation {
        Activation::Gelu => &["gelu"],
        Activation::GeluTanh => &["gelu_new", "gelu_pytorch_tanh"],
        Activation::Relu => &["relu"],
        Activation::Tanh => &["tanh"],
    };
    let found = ["hidden_act", "activation"].iter().find_map(|name| source.config().get(name)?.as_str());
    match found.filter(|found| !due.contains(found)) {
        Some(found) => Err(content(&path, "hidden_act", due.join(" or "), found)),
        None => Ok(()),
    }
}

/// Labels that the checkpoint names have to be the task's, in the same order.
fn check_labels(source: &Checkpoint, task: &Task) -> Result<()> {
    let Some(named) = source.config().get("id2label").and_then(|v| v.as_object()) else { return Ok(()) };
    for (at, label) in task.kind().labels().iter().enumerate() {
        let found = named.get(&at.to_string()).and_then(|v| v.as_str()).unwrap_or_default();
        // Names that only count, such as LABEL_0, are a trainer's default.
        if found != label && found != format!("LABEL_{at}") && !found.is_empty() {
            let path = source.path().join("config.json");
            return Err(content(
                &path,
                format!("id2label {at}"),
                format!("{label:?}, as the task says"),
                format!("{found:?}"),
            ));
        }
    }
    Ok(())
}

/// A sequence classifier's architecture says what its head reads.
fn check_pooling(source: &Checkpoint, task: &Task) -> Result<()> {
    let architecture = source.config().pointer("/architectures/0").and_then(|v| v.as_str()).unwrap_or_default();
    let due = match architecture {
        "BertForSequenceClassification" => Pooling::Pooler,
        name if name.ends_with("ForSequenceClassification") => Pooling::Cls,
        _ => return Ok(()),
    };
    match task.kind().pooling() {
        Some(pooling) if pooling != due => {
            let expected = format!("{} in the task, for that is what {architecture} reads", due.name());
            Err(content(&source.path().join("config.json"), "pooling", expected, pooling.name()))
        }
        _ => Ok(()),
    }
}

/// Every frozen tensor of the encoder has to equal the checkpoint's, bit for bit. If the encoder's weights are int8,
/// the checkpoint's values have to round to them.
fn check_weights(source: &Checkpoint, bundle: &Bundle) -> Result<()> {
    /// Tensors named in the refusal.
    const LISTED: usize = 5;
    let tensors = &bundle.manifest().tensors;
    let (mut count, mut of, mut list) = (0, 0, String::new());
    // Scales are computed from the values, so they need no comparison.
    let scales: Vec<String> = tensors.iter().map(|t| TensorEntry::scales_of(&t.name)).collect();
    for tensor in tensors.iter().filter(|t| !scales.contains(&t.name)) {
        of += 1;
        // Dimensions of tensors that are in a file fit in memory's.
        let mut shape: Vec<usize> = tensor.shape.iter().map(|d| *d as usize).collect();
        if tensor.transposed {
            shape.reverse();
        }
        let theirs = Frozen::of(&source.read(&tensor.name, &shape)?, tensor);
        let ours = bundle.tensor(tensor)?;
        let scales = tensors.iter().find(|t| t.name == TensorEntry::scales_of(&tensor.name));
        let scales = scales.map(|scales| bundle.tensor(scales)).transpose()?.unwrap_or_default();
        if ours != theirs.bytes || scales != theirs.scales {
            count += 1;
            if count <= LISTED {
                let width = usize::try_from(tensor.element.bytes()).unwrap_or(1);
                let pairs = || ours.chunks(width).zip(theirs.bytes.chunks(width));
                let different = pairs().filter(|(a, b)| a != b).count();
                // Writing to a String cannot fail.
                let _ = write!(list, "\n  {}: {different} of {} values", tensor.name, pairs().count());
                if tensor.element == Element::F32 {
                    let value = |bytes: &[u8]| bytes.as_chunks().0.first().map_or(0.0, |b| f32::from_le_bytes(*b));
                    let largest = pairs().map(|(a, b)| (value(a) - value(b)).abs()).fold(0.0, f32::max);
                    let _ = write!(list, ", by up to {largest:e}");
                }
            }
        }
    }
    if count == 0 {
        return Ok(());
    }
    if count > LISTED {
        list.push_str("\n  ...");
    }
    Err(Error::WeightsDiffer { path: source.path().to_owned(), count, of, list })
}

fn content(path: &Path, field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Error {
    let path: PathBuf = path.to_owned();
    Error::Content { path, field: field.into(), expected: expected.into(), found: found.to_string() }
}
