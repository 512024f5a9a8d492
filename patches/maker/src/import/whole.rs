//! What a whole fine-tuned checkpoint has to share with the encoder.
//!
//! In: the checkpoint. Out: nothing. Refused: another configuration, labels or pooling than the task's, frozen weights
//! that differ from the encoder's in any bit.

use std::fmt::Write as _;

use bias_patch::{Activation, Module, Pooling, Task};
use edge_bundle::{Bundle, Config, DistanceTable, Element, Frozen, Rotary, Slot, TensorEntry};
use hf_checkpoint::{Checkpoint, Rotation, rotation};

use super::content;
use crate::{Error, Result};

/// Checks that a checkpoint is the encoder with other biases, and a head for the task.
pub(super) fn check(source: &Checkpoint, bundle: &Bundle, task: &Task) -> Result<()> {
    check_config(source, &bundle.manifest().config)?;
    check_rotation(source, &bundle.manifest().config)?;
    check_labels(source, task)?;
    check_pooling(source, task)?;
    check_weights(source, bundle)
}

/// A checkpoint with the same tensors may still have another configuration.
fn check_config(source: &Checkpoint, config: &Config) -> Result<()> {
    let number = |names: [&str; 3]| names.iter().find_map(|name| source.config().get(name)?.as_u64());
    let path = source.path().join("config.json");
    for (names, due) in [
        (["num_hidden_layers", "n_layers", "n_layer"], config.layers),
        (["hidden_size", "dim", "n_embd"], config.hidden),
        (["num_attention_heads", "n_heads", "n_head"], config.heads),
        (["intermediate_size", "hidden_dim", "n_inner"], config.intermediate),
    ] {
        let found = number(names);
        if found != Some(due.into()) {
            return Err(content(&path, names[0], due.to_string(), found.map_or("none".into(), |n| n.to_string())));
        }
    }
    // Where norm_eps is there, it counts: ModernBERT's files may have the other one too.
    let epsilon = ["norm_eps", "layer_norm_eps", "layer_norm_epsilon"]
        .iter()
        .find_map(|name| Some((*name, source.config().get(name)?.as_f64()?)));
    if let Some((name, found)) = epsilon.filter(|(_, found)| *found != config.layer_norm_epsilon) {
        return Err(content(&path, name, config.layer_norm_epsilon.to_string(), found));
    }
    let due: &[&str] = match config.activation {
        Activation::Gelu => &["gelu"],
        Activation::GeluTanh => &["gelu_new", "gelu_pytorch_tanh"],
        Activation::Relu => &["relu"],
        Activation::Tanh => &["tanh"],
        Activation::Silu => &["silu", "swish", "swiglu"],
    };
    let found = ["hidden_act", "activation", "hidden_activation", "activation_function"]
        .iter()
        .find_map(|name| source.config().get(name)?.as_str());
    match found.filter(|found| !due.contains(found)) {
        Some(found) => Err(content(&path, "hidden_act", due.join(" or "), found)),
        None => Ok(()),
    }
}

/// No tensor shows by what queries and keys are rotated.
fn check_rotation(source: &Checkpoint, config: &Config) -> Result<()> {
    let Some(Rotary { theta, local_theta, ntk_factor }) = config.rotary else { return Ok(()) };
    let window = config.window.map(|window| [window.reach, window.global_every]);
    let (due, found) = (Rotation { theta, local_theta, ntk_factor, window }, rotation(source)?);
    let path = source.path().join("config.json");
    for (what, due, found) in [
        ("base of rotary positions", due.theta, found.theta),
        ("base of rotary positions in layers with a window", due.local_theta, found.local_theta),
        ("factor of NTK scaling", due.ntk_factor, found.ntk_factor),
    ] {
        if due != found {
            return Err(content(&path, what, due.to_string(), found));
        }
    }
    let text = |window: Option<[u32; 2]>| match window {
        Some([reach, every]) => format!("{reach} tokens to each side in all layers but one of {every}"),
        None => "none".to_owned(),
    };
    match due.window == found.window {
        true => Ok(()),
        false => Err(content(&path, "window", text(due.window), text(found.window))),
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
        "BertForSequenceClassification"
        | "AlbertForSequenceClassification"
        | "NomicBertForSequenceClassification"
        | "NewForSequenceClassification"
        | "GteForSequenceClassification" => Pooling::Pooler,
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
    let distances = Distances::of(bundle)?;
    // Tables of angles follow from config.json, which has been compared.
    let is_own = |name: &str| {
        name.starts_with("rotary.") || distances.as_ref().is_some_and(|distances| distances.pretrained() == name)
    };
    for tensor in tensors.iter().filter(|t| !scales.contains(&t.name) && !is_own(&t.name)) {
        of += 1;
        let made = match (&distances, DistanceTable::module_of(&tensor.name)) {
            (Some(distances), Some(module)) => Some(distances.vectors(source, module)?),
            _ => None,
        };
        let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
        let (module, part) = bundle.manifest().config.family.in_checkpoint(module);
        let name = format!("{module}.weight");
        let width = usize::try_from(tensor.element.bytes()).unwrap_or(1);
        let value = |bytes: &[u8]| bytes.as_chunks().0.first().map_or(0.0, |b| f32::from_le_bytes(*b));
        let (mut values, mut different, mut largest, mut their_scales) = (0, 0, 0.0f32, Vec::new());
        bundle.stream_tensor(tensor, |rows, ours| {
            let [from, to] = tensor.checkpoint_part(rows.clone());
            let theirs = match &made {
                // Rows here are columns there.
                Some(vectors) => {
                    let [depth, _] = tensor.matrix();
                    vectors.chunks_exact(depth).flat_map(|vector| &vector[to.clone()]).copied().collect()
                }
                None => {
                    let mut shape = tensor.checkpoint_shape();
                    let first = part.at * shape[0];
                    shape[0] *= part.of;
                    source.read_part(&name, &shape, first + from.start..first + from.end, to)?
                }
            };
            let theirs = Frozen::of_rows(&theirs, tensor, rows);
            values += ours.len() / width;
            for (a, b) in ours.chunks(width).zip(theirs.bytes.chunks(width)).filter(|(a, b)| a != b) {
                different += 1;
                largest = largest.max((value(a) - value(b)).abs());
            }
            their_scales.extend(theirs.scales);
            Ok::<_, Error>(())
        })?;
        let mut scales: Vec<u8> = Vec::new();
        if let Some(ours) = tensors.iter().find(|t| t.name == TensorEntry::scales_of(&tensor.name)) {
            bundle.stream_tensor(ours, |_, bytes| {
                scales.extend(bytes);
                Ok::<_, Error>(())
            })?;
        }
        if different > 0 || scales != their_scales {
            count += 1;
            if count <= LISTED {
                // Writing to a String cannot fail.
                let _ = write!(list, "\n  {}: {different} of {values} values", tensor.name);
                if tensor.element == Element::F32 {
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

/// What makes the vectors of distances that a bundle holds, where it holds some.
struct Distances<'a> {
    config: &'a Config,
    /// The slot of the bias of the table's LayerNorm, and the encoder's value of it, which the vectors are made with
    /// whatever a task has.
    slot: &'a Slot,
    bias: Vec<f32>,
}

impl<'a> Distances<'a> {
    fn of(bundle: &'a Bundle) -> Result<Option<Self>> {
        let manifest = bundle.manifest();
        let Some(at) = manifest.slots.iter().position(|slot| slot.module == Module::DistanceNorm) else {
            return Ok(None);
        };
        let bias = bundle.base()?.slots()[at].clone();
        Ok(Some(Distances { config: &manifest.config, slot: &manifest.slots[at], bias }))
    }

    /// The module of the table's LayerNorm.
    fn norm(&self) -> &str {
        self.slot.name.strip_suffix(".bias").unwrap_or(&self.slot.name)
    }

    /// The frozen copy of the bias, which no checkpoint has.
    fn pretrained(&self) -> String {
        format!("{}.pretrained", self.norm())
    }

    /// What a checkpoint's tensors make of the distances for a layer of queries or keys.
    fn vectors(&self, source: &Checkpoint, module: &str) -> Result<Vec<f32>> {
        let Config { hidden, heads, layer_norm_epsilon: epsilon, .. } = *self.config;
        let (hidden, heads) = (hidden as usize, heads as usize);
        let buckets = self.config.disentangled.map_or(0, |distances| distances.buckets) as usize;
        let table = source.read("encoder.rel_embeddings.weight", &[2 * buckets, hidden])?;
        let gain = source.read(&format!("{}.weight", self.norm()), &[hidden])?;
        let matrix = source.read(&format!("{module}.weight"), &[hidden, hidden])?;
        Ok(DistanceTable { table: &table, gain: &gain, bias: &self.bias, epsilon, matrix: &matrix }.vectors(heads))
    }
}
