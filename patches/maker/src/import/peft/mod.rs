//! Adapters of [PEFT](https://huggingface.co/docs/peft): LoRA, with or without biases, and BEFT.
//!
//! In: a directory of `adapter_config.json` and `adapter_model.safetensors`, or the latter with the former beside it.
//! Out: for each linear layer its low-rank term, for each bias its values. The scale becomes a factor of B, and the bias
//! of B a part of the layer's. Refused: other kinds of adapters, tensors that have no place in a patch, and tensors that
//! disagree with the configuration.

mod config;
mod write;

use std::{collections::BTreeSet, path::Path};

use bias_patch::Task;
use edge_bundle::{Family, Manifest, Part, Slot};
use hf_checkpoint::Checkpoint;

use self::config::{AdapterConfig, CONFIG};
use super::{content, heads::HeadLayers};
use crate::Result;

pub use self::write::{PeftAdapter, extract_peft};

/// The file of an adapter's tensors.
const TENSORS: &str = "adapter_model.safetensors";

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
/// What is added to the layer's bias, after the scale.
const BIAS_OF_B: &str = ".lora_B.bias";
/// What is added to the layer's bias.
const BEFT: &str = ".beft_bias";

/// An opened adapter.
pub(super) struct Adapter {
    config: AdapterConfig,
    tensors: Checkpoint,
}

/// The low-rank term of a layer of K inputs and M outputs: A is `[r, K]`, B is by columns, `[r, M]`, with the scale.
pub(super) struct Term {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
}

impl Adapter {
    /// The adapter in a directory, or none if there is no adapter.
    pub fn in_dir(dir: &Path) -> Result<Option<Self>> {
        let config = dir.join(CONFIG);
        if !config.exists() {
            return Ok(None);
        }
        // First the configuration: other kinds of adapters have other tensors.
        let config = AdapterConfig::open(config)?;
        let tensors = dir.join(TENSORS);
        if !tensors.exists() && dir.join("adapter_model.bin").exists() {
            let expected = format!("{TENSORS}; load the adapter with PEFT, and save it with save_pretrained");
            return Err(content(dir, "tensors", expected, "only adapter_model.bin, a pickle that can run any code"));
        }
        Ok(Some(Adapter { config, tensors: renamed(Checkpoint::open_file(&tensors)?)? }))
    }

    /// The adapter whose tensors a file is, or the file if it is of none.
    pub fn of_file(tensors: Checkpoint, manifest: &Manifest) -> Result<Result<Self, Checkpoint>> {
        let config = tensors.path().with_file_name(CONFIG);
        let is_adapter = tensors.names().any(|name| name.contains(".lora_") || name.ends_with(BEFT));
        if config.exists() && (is_adapter || tensors.path().ends_with(TENSORS)) {
            let config = AdapterConfig::open(config)?;
            return Ok(Ok(Adapter { config, tensors: renamed(tensors)? }));
        }
        // What `extract` wrote has every bias, as no adapter has, and the scale in B.
        if is_adapter && !manifest.slots.iter().all(|slot| tensors.contains(&slot.name)) {
            let expected = format!("{CONFIG} beside the file, for it says how low-rank terms are scaled");
            return Err(content(tensors.path(), "adapter", expected, "none"));
        }
        Ok(Err(tensors))
    }

    /// Its tensors: those of the head under their own names, those of the encoder under the base model's.
    pub fn tensors(&self) -> &Checkpoint {
        &self.tensors
    }

    /// The name of the model that it was trained on, if it says one.
    pub fn base_model(&self) -> Option<String> {
        self.config.base_model()
    }

    /// Checks that every tensor has a place in a patch for this task.
    pub fn check(&self, manifest: &Manifest, task: &Task, head: &HeadLayers) -> Result<()> {
        self.config.check_task(task, manifest.config.family, head)?;
        let of_head = head.tensors();
        let family = manifest.config.family;
        let named = |slot: &Slot| names(slot, family).map(|(name, _)| name);
        let biases = manifest.slots.iter().flat_map(named).map(|name| format!("{name}.bias"));
        let biases: BTreeSet<String> = biases.collect();
        let linear = manifest.slots.iter().filter(|slot| manifest.config.takes_low_rank(slot.module)).flat_map(named);
        let linear: BTreeSet<String> = linear.collect();
        let path = self.tensors.path();
        for name in self.tensors.names() {
            if of_head.contains(name) || biases.contains(name) {
                continue;
            }
            let field = || format!("tensor {name}");
            let part = [A, B, BIAS_OF_B, BEFT].into_iter().find_map(|part| Some((name.strip_suffix(part)?, part)));
            let Some((of, part)) = part else {
                let expected = if name.contains("lora_magnitude_vector") {
                    "LoRA without DoRA's magnitudes, which are no slot of a patch"
                } else if name.contains("lora_embedding_") {
                    "low-rank terms of linear layers, not of embeddings"
                } else {
                    "a low-rank term or a bias of the encoder, or a tensor of the head"
                };
                return Err(content(path, field(), expected, "another tensor"));
            };
            if !linear.contains(of) {
                let known = linear.first().map_or("", String::as_str);
                let expected = format!(
                    "a linear layer of the encoder, such as {known}; layers of the head come whole, by modules_to_save"
                );
                return Err(content(path, field(), expected, "another module"));
            }
            if part != BEFT {
                for other in [A, B].map(|part| format!("{of}{part}")) {
                    if !self.tensors.contains(&other) {
                        return Err(content(
                            path,
                            format!("tensor {other}"),
                            format!("one, for there is {name}"),
                            "none",
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// The module whose tensors hold those of a bias's module, and the part of their rows: under the name of the model's
    /// own code, unless it is only there under the one of transformers.
    fn place(&self, slot: &Slot, family: Family) -> (String, Part) {
        let has = |module: &str| {
            [A, B, BIAS_OF_B, BEFT, ".bias"].iter().any(|part| self.tensors.contains(&format!("{module}{part}")))
        };
        let all: Vec<(String, Part)> = names(slot, family).collect();
        let found = all.iter().find(|(module, _)| has(module)).or(all.first());
        found.cloned().unwrap_or_else(|| (slot.module_name().to_owned(), Part::WHOLE))
    }

    /// The low-rank term of a bias's layer, which has K inputs.
    pub fn term(&self, slot: &Slot, inputs: usize, family: Family) -> Result<Option<Term>> {
        let ((module, part), outputs) = (self.place(slot, family), slot.len as usize);
        let name = |part: &str| format!("{module}{part}");
        if !self.tensors.contains(&name(A)) {
            return Ok(None);
        }
        let rank = self.rank(&module)?;
        let a = self.tensors.read(&name(A), &[rank, inputs])?;
        let rows = self.tensors.read(&name(B), &[part.of * outputs, rank])?;
        let rows = part.take(&rows);
        let scale = self.config.scale(&module, rank)?;
        let columns = (0..rank).flat_map(|column| rows.iter().skip(column).step_by(rank));
        let b = columns.map(|value| (f64::from(*value) * scale) as f32).collect();
        Ok(Some(Term { a, b }))
    }

    /// The values of a bias whose value in the encoder is `base`.
    pub fn bias(&self, slot: &Slot, base: &[f32], family: Family) -> Result<Option<Vec<f32>>> {
        let ((module, part), len) = (self.place(slot, family), base.len());
        let name = |part: &str| format!("{module}{part}");
        let read = |name: &str, dims: &[usize]| -> Result<Vec<f32>> {
            Ok(part.take(&self.tensors.read(name, dims)?).to_vec())
        };
        let own = name(".bias");
        let mut values = match self.tensors.contains(&own) {
            true => Some(read(&own, &[part.of * len])?),
            false => None,
        };
        let mut add = |change: Vec<f32>, scale: f64| {
            let values = values.get_or_insert_with(|| base.to_vec());
            let sums = values.iter_mut().zip(change);
            sums.for_each(|(value, change)| *value = (f64::from(*value) + f64::from(change) * scale) as f32);
        };
        if self.tensors.contains(&name(BIAS_OF_B)) {
            let scale = self.config.scale(&module, self.rank(&module)?)?;
            add(read(&name(BIAS_OF_B), &[part.of * len])?, scale);
        }
        if self.tensors.contains(&name(BEFT)) {
            add(read(&name(BEFT), &[1, part.of * len])?, 1.0);
        }
        Ok(values)
    }

    /// The rank of a module's low-rank term.
    fn rank(&self, module: &str) -> Result<usize> {
        let name = format!("{module}{A}");
        let shape = self.tensors.shape(&name)?;
        let rank = match shape {
            [rank, _] if *rank > 0 => *rank,
            _ => {
                let expected = "two dimensions, the first a rank of at least 1";
                return Err(content(self.tensors.path(), format!("tensor {name}"), expected, format!("{shape:?}")));
            }
        };
        self.config.check_target(module)?;
        self.config.check_rank(module, rank)?;
        Ok(rank)
    }
}

/// The modules of a model that may hold the tensors of a bias's module.
fn names(slot: &Slot, family: Family) -> impl Iterator<Item = (String, Part)> + use<> {
    let of_transformers = family.in_transformers(slot.module_name()).map(|name| (name, Part::WHOLE));
    [family.in_checkpoint(slot.module_name())].into_iter().chain(of_transformers)
}

/// The tensors under the names that they would have without PEFT: a wrapped layer's own bias is that of the layer, and
/// the trained copy of a module of the head stands for the module.
fn renamed(tensors: Checkpoint) -> Result<Checkpoint> {
    let names: BTreeSet<String> = tensors.names().map(str::to_owned).collect();
    let rename = |name: &str| {
        let mut parts: Vec<&str> = name.split('.').collect();
        if parts.contains(&"original_module") {
            return None;
        }
        parts.retain(|part| *part != "base_layer");
        // `lora_A.weight` may have the adapter's name in its middle, and so may `modules_to_save`.
        let named =
            |part: &&str| part.starts_with("lora_A") || part.starts_with("lora_B") || *part == "modules_to_save";
        if let Some(at) = parts.iter().position(named).filter(|at| at + 2 < parts.len()) {
            parts.remove(at + 1);
        }
        let whole = parts.len();
        parts.retain(|part| *part != "modules_to_save");
        let plain = parts.join(".");
        // With `bias="all"` PEFT saves the biases of the head twice.
        if parts.len() < whole && names.contains(&plain) { None } else { Some(plain) }
    };
    Ok(tensors.renamed(rename)?)
}
