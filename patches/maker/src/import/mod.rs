//! A patch from values that were trained elsewhere, and the reverse.
//!
//! In: a safetensors file of biases and a head under Hugging Face names, perhaps with low-rank terms as the bundle's
//! graph takes them, a whole fine-tuned checkpoint ([`whole`]), or an adapter of PEFT ([`peft`]). Out: a patch of what
//! differs from the encoder. Refused: tensors that have no place in a patch, a checkpoint whose frozen weights differ from
//! the encoder's in any bit, a head that does not suit the task.

mod heads;
mod peft;
mod whole;

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use bias_patch::{Encoding, Kind, Patch, SlotId, SlotKind, Stored, StoredSlot, Task};
use edge_bundle::{Bundle, Family, Slot};
use hf_checkpoint::{Checkpoint, NamedTensor, to_safetensors};
use serde_json::Value;

use self::{
    heads::HeadLayers,
    peft::{Adapter, Term},
};
use crate::{Error, Result, embed::check_no_dense};

pub use self::peft::{PeftAdapter, extract_peft};

/// A patch, and what was left out of it.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The patch.
    pub patch: Patch,
    /// Biases that are as in the pre-trained encoder, and low-rank terms that are zero.
    pub unchanged: usize,
    /// Key biases, which have no effect.
    pub keys: usize,
    /// The model that an adapter names as the one that it was trained on.
    pub base_model: Option<String>,
    /// What the checkpoint says of the task that the task did not say.
    pub of_checkpoint: Option<String>,
}

/// What slots and head are read from.
enum Source {
    /// A checkpoint of the whole model.
    Whole(Checkpoint),
    /// A file of biases and a head.
    Biases(Checkpoint),
    /// An adapter of PEFT.
    Adapter(Box<Adapter>),
}

/// Makes a patch for `bundle` of the values and head in `from`.
///
/// # Errors
/// When `from` does not fit the encoder or the task.
pub fn import(bundle: &Bundle, from: &Path, task: Task, metadata: &[(String, String)]) -> Result<Imported> {
    let source = Source::open(from, bundle)?;
    let manifest = bundle.manifest();
    let tensors = source.tensors();
    let family = manifest.config.family;
    if family.is_graph() && matches!(source, Source::Whole(_)) {
        // A graph may compute anything.
        let expected = format!("biases or an adapter, for a whole checkpoint of {} is not compared", family.name());
        return Err(content(from, "source", expected, "a checkpoint"));
    }
    if task.kind().outputs().is_none() {
        check_no_dense(from)?;
    }
    let (task, of_checkpoint) = as_its_outputs(task, tensors)?;
    let head = HeadLayers::find(tensors, task.kind(), manifest.config.family, source.advice())?;
    match &source {
        Source::Whole(checkpoint) => whole::check(checkpoint, bundle, &task)?,
        Source::Biases(file) => check_names(file, bundle, &head)?,
        Source::Adapter(adapter) => adapter.check(manifest, &task, &head)?,
    }

    let base = bundle.base()?;
    let (mut slots, mut unchanged, mut keys) = (Vec::new(), 0, 0);
    let mut store = |id: SlotId, name: &str, values: &[f32], base| {
        let values = Stored::encode(values, base, Encoding::F32);
        let values = values.map_err(|e| content(from, name, "finite numbers", e))?;
        slots.push(StoredSlot { id, values });
        Ok::<_, Error>(())
    };
    for (slot, base) in manifest.slots.iter().zip(base.slots()) {
        // Read even if it will not be stored, so that a wrong shape is refused.
        if let Some(values) = source.bias(slot, base, family)? {
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            if !manifest.config.bias_counts(slot.module) {
                keys += 1;
            } else if bits(&values) == bits(base) {
                unchanged += 1;
            } else {
                store(slot.id(), &slot.name, &values, Some(base))?;
            }
        }
        let Some(term) = source.term(slot, manifest.config.inputs(slot.module) as usize, family)? else { continue };
        if term.a.iter().all(|v| *v == 0.0) || term.b.iter().all(|v| *v == 0.0) {
            unchanged += 1;
            continue;
        }
        for (kind, values) in [(SlotKind::LoraA, &term.a), (SlotKind::LoraB, &term.b)] {
            store(slot.id().with_kind(kind)?, &format!("low-rank term of {}", slot.name), values, None)?;
        }
    }
    let head = head.read(tensors)?;
    let mut sorted = metadata.to_vec();
    sorted.sort();
    let patch = Patch::new(manifest.encoder, task, slots, head, sorted).map_err(|e| e.in_file(from))?;
    patch.check(&manifest.shape()).map_err(|e| e.in_file(from))?;
    let base_model = match &source {
        Source::Adapter(adapter) => adapter.base_model(),
        Source::Whole(_) | Source::Biases(_) => None,
    };
    Ok(Imported { patch, unchanged, keys, base_model, of_checkpoint })
}

/// The reverse of [`import`]: every bias of the encoder with the patch applied, its low-rank terms and the head, as the
/// bytes of a safetensors file. Biases and terms have the names of the graph's inputs, which are Hugging Face's unless
/// modules have names of the bundle's own.
///
/// # Errors
/// When the patch does not fit the encoder, or these names cannot express the form of its head.
pub fn extract(bundle: &Bundle, patch: &Patch) -> Result<Vec<u8>> {
    let manifest = bundle.manifest();
    let values = patch.apply(&manifest.shape(), bundle.base()?.slots())?;
    let slots = manifest.slots.iter().zip(values.slots);
    let mut tensors: Vec<NamedTensor> = slots.map(|(slot, v)| (slot.name.clone(), vec![v.len()], v)).collect();
    for term in values.low_rank {
        let slot = &manifest.slots[term.slot];
        let (rank, [a, b]) = (term.rank, Slot::low_rank_inputs(&slot.name));
        tensors.push((a, vec![rank, manifest.config.inputs(slot.module) as usize], term.a));
        tensors.push((b, vec![slot.len as usize, rank], transposed(&term.b, slot.len as usize)));
    }
    tensors.extend(HeadLayers::of(patch, manifest.config.family)?.write(patch.head()));
    Ok(to_safetensors(&tensors)?)
}

/// The names of the inputs that patches give to the bundle's graph: its slots, and low-rank terms of its linear layers,
/// which the graph need not take.
pub fn graph_inputs(bundle: &Bundle) -> BTreeSet<String> {
    let manifest = bundle.manifest();
    let linear = manifest.slots.iter().filter(|slot| manifest.config.takes_low_rank(slot.module));
    let terms = linear.flat_map(|slot| Slot::low_rank_inputs(&slot.name));
    manifest.slots.iter().map(|slot| slot.name.clone()).chain(terms).collect()
}

/// A matrix of so many columns, by its columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns)).copied().collect()
}

impl Source {
    fn open(from: &Path, bundle: &Bundle) -> Result<Self> {
        if from.is_dir() {
            return match Adapter::in_dir(from)? {
                Some(adapter) => Ok(Source::Adapter(Box::new(adapter))),
                None => Ok(Source::Whole(Checkpoint::open(from)?)),
            };
        }
        refuse_onnx_adapter(from)?;
        match Adapter::of_file(Checkpoint::open_file(from)?, bundle.manifest())? {
            Ok(adapter) => Ok(Source::Adapter(Box::new(adapter))),
            Err(file) => Ok(Source::Biases(file)),
        }
    }

    fn tensors(&self) -> &Checkpoint {
        match self {
            Source::Whole(tensors) | Source::Biases(tensors) => tensors,
            Source::Adapter(adapter) => adapter.tensors(),
        }
    }

    /// How the source gets a head.
    fn advice(&self) -> &'static str {
        match self {
            Source::Whole(_) | Source::Biases(_) => "",
            Source::Adapter(_) => {
                ", for a patch has a head; PEFT saves one that is trained with modules_to_save=[\"classifier\"], or a task_type"
            }
        }
    }

    /// The low-rank term of a bias's layer, which has K inputs.
    fn term(&self, slot: &Slot, inputs: usize, family: Family) -> Result<Option<Term>> {
        let file = match self {
            Source::Whole(_) => return Ok(None),
            Source::Adapter(adapter) => return adapter.term(slot, inputs, family),
            Source::Biases(file) => file,
        };
        let [a, b] = Slot::low_rank_inputs(&slot.name);
        if !file.contains(&a) && !file.contains(&b) {
            return Ok(None);
        }
        let rank = file.shape(&a)?.first().copied().unwrap_or(0);
        let b = file.read(&b, &[slot.len as usize, rank])?;
        Ok(Some(Term { a: file.read(&a, &[rank, inputs])?, b: transposed(&b, rank) }))
    }

    /// The values of a bias whose value in the encoder is `base`, unless it is said to have that.
    fn bias(&self, slot: &Slot, base: &[f32], family: Family) -> Result<Option<Vec<f32>>> {
        match self {
            Source::Biases(file) if !file.contains(&slot.name) => Ok(None),
            Source::Biases(file) => Ok(Some(file.read(&slot.name, &[base.len()])?)),
            Source::Whole(tensors) => {
                let (module, part) = family.in_checkpoint(slot.module_name());
                let name = format!("{module}.bias");
                if slot.zero && !tensors.contains(&name) {
                    return Ok(None);
                }
                let values = tensors.read(&name, &[base.len() * part.of])?;
                Ok(Some(part.take(&values).to_vec()))
            }
            Source::Adapter(adapter) => adapter.bias(slot, base, family),
        }
    }
}

/// The task as the config.json of a checkpoint says that its outputs are read, and what that changed. transformers goes by
/// `problem_type`, sentence-transformers' CrossEncoder by an activation.
fn as_its_outputs(task: Task, checkpoint: &Checkpoint) -> Result<(Task, Option<String>)> {
    let config = checkpoint.config();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let problem = text(config.get("problem_type"));
    let activation = text(config.pointer("/sentence_transformers/activation_fn"))
        .or_else(|| text(config.get("sbert_ce_default_activation_function")));
    let refused = |expected: &str, field: &str, value: &str| {
        let kind = format!("kind of task {}", task.name());
        let expected = format!("{expected}, for config.json has {field} {value}");
        Err(content(checkpoint.path(), kind, expected, task.kind().name()))
    };
    let becomes = |kind: Kind, what: &str, field: &str, value: &str| {
        Ok((task.with_kind(kind)?, Some(format!("the task is {what}, for config.json has {field} {value}"))))
    };
    match (task.kind(), problem.as_deref(), activation.as_deref()) {
        (Kind::Classification { labels, pooling }, Some(problem @ "multi_label_classification"), _) => {
            let thresholds = vec![0.5; labels.len()];
            let kind = Kind::MultiLabel { labels: labels.clone(), pooling: *pooling, thresholds };
            becomes(kind, "multi-label", "problem_type", problem)
        }
        (Kind::MultiLabel { .. } | Kind::Regression { .. }, Some(problem @ "single_label_classification"), _) => {
            refused("classification", "problem_type", problem)
        }
        (Kind::Classification { .. } | Kind::MultiLabel { .. }, Some(problem @ "regression"), _) => {
            refused("regression", "problem_type", problem)
        }
        (Kind::Regression { .. }, Some(problem @ "multi_label_classification"), _) => {
            refused("multi-label", "problem_type", problem)
        }
        (Kind::Regression { pooling, sigmoid }, _, Some(activation)) => {
            match (activation.rsplit('.').next().unwrap_or_default(), sigmoid) {
                ("Sigmoid", false) => {
                    let kind = Kind::Regression { pooling: *pooling, sigmoid: true };
                    becomes(kind, "a sigmoid", "the activation", activation)
                }
                ("Sigmoid", true) | ("Identity", false) => Ok((task, None)),
                _ => refused("one without sigmoid, or another checkpoint", "the activation", activation),
            }
        }
        _ => Ok((task, None)),
    }
}

/// Refuses ONNX Runtime's adapters by name. They hold inputs of one ONNX graph under that graph's names, transposed as it
/// reads them, and no head.
fn refuse_onnx_adapter(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|ending| ending == "json") {
        let expected = "safetensors, or the directory that a configuration is in";
        return Err(content(path, "format", expected, "JSON by its name"));
    }
    let mut first = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    if read.is_ok() && &first[4..] == b"TORT" {
        let expected = "safetensors, or the directory of the PEFT adapter that this was made of: it has the head too";
        return Err(content(path, "format", expected, "an .onnx_adapter of ONNX Runtime"));
    }
    Ok(())
}

/// In a file of biases every tensor has to have a place.
fn check_names(source: &Checkpoint, bundle: &Bundle, head: &HeadLayers) -> Result<()> {
    let (slots, of_head) = (graph_inputs(bundle), head.tensors());
    let stranger = source.names().find(|name| !slots.contains(*name) && !of_head.contains(*name));
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

pub(crate) fn content(
    path: &Path,
    field: impl Into<String>,
    expected: impl Into<String>,
    found: impl ToString,
) -> Error {
    let path: PathBuf = path.to_owned();
    Error::Content { path, field: field.into(), expected: expected.into(), found: found.to_string() }
}
