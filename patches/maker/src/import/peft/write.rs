//! A patch as an adapter of PEFT.
//!
//! In: a patch. Out: `adapter_config.json` and `adapter_model.safetensors`: its low-rank terms, its head by
//! `modules_to_save`, and all biases if it changes one. Refused: a patch without low-rank terms, of which PEFT makes no
//! LoRA, a family some of whose modules have other names in transformers, and a head that its names cannot express.

use std::{collections::BTreeMap, fs, path::Path};

use bias_patch::{Kind, Patch, SlotKind, atomic};
use edge_bundle::{Bundle, Family};
use hf_checkpoint::{NamedTensor, PEFT_PREFIX, to_safetensors};
use serde_json::json;

use super::{super::heads::HeadLayers, A, B, TENSORS, config::CONFIG};
use crate::Result;

/// The two files of an adapter.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    /// `adapter_config.json`.
    pub config: String,
    /// `adapter_model.safetensors`.
    pub tensors: Vec<u8>,
}

impl PeftAdapter {
    /// Writes the files into a directory, which is made if it is not there. The configuration comes last: tensors
    /// never lie beside that of another adapter.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(bias_patch::Error::io(dir, "create"))?;
        let (tensors, config) = (dir.join(TENSORS), dir.join(CONFIG));
        for path in [&tensors, &config] {
            atomic::check_replaceable(path)?;
        }
        if config.exists() {
            fs::remove_file(&config).map_err(bias_patch::Error::io(&config, "replace"))?;
        }
        atomic::write_file(&tensors, &self.tensors)?;
        Ok(atomic::write_file(&config, self.config.as_bytes())?)
    }
}

/// The patch as PEFT's adapter of the family's model for the kind of task. B has the scale, so alpha is the rank.
///
/// # Errors
/// When the patch does not fit the encoder, has no low-rank term, or has a head that no such model has.
pub fn extract_peft(bundle: &Bundle, patch: &Patch) -> Result<PeftAdapter> {
    let manifest = bundle.manifest();
    let family = manifest.config.family;
    let values = patch.apply(&manifest.shape(), bundle.base()?.slots())?;
    let is_other = |name: &str| family.in_checkpoint(name).0 != name;
    if manifest.slots.iter().any(|slot| is_other(slot.module_name())) {
        let expected = "a family whose modules have the names that transformers gives them".to_owned();
        let field = format!("encoder of task {}", patch.task().name());
        return Err(bias_patch::Error::Field { field, expected, found: family.name().to_owned() }.into());
    }
    let Some(first) = values.low_rank.first() else {
        let expected = "a low-rank term, for PEFT has no LoRA without; --format biases writes biases".to_owned();
        let field = format!("slots of task {}", patch.task().name());
        return Err(bias_patch::Error::Field { field, expected, found: "biases alone".to_owned() }.into());
    };
    let changes_biases = patch.slots().iter().any(|stored| stored.id.kind == SlotKind::Bias);
    let layers = HeadLayers::of(patch, family)?;

    // What the family's task models call the encoder.
    let encoder = if family == Family::DebertaV2 { "deberta" } else { family.name() };
    let of_encoder = |name: String| format!("{PEFT_PREFIX}{encoder}.{name}");
    let mut tensors: Vec<NamedTensor> = Vec::new();
    let mut ranks = BTreeMap::new();
    for term in &values.low_rank {
        let slot = &manifest.slots[term.slot];
        let (outputs, inputs) = (slot.len as usize, manifest.config.inputs(slot.module) as usize);
        let rows = (0..outputs).flat_map(|row| term.b.iter().skip(row).step_by(outputs).copied());
        let name = |part: &str| of_encoder(format!("{}{part}", slot.module_name()));
        tensors.push((name(A), vec![term.rank, inputs], term.a.clone()));
        tensors.push((name(B), vec![outputs, term.rank], rows.collect()));
        ranks.insert(slot.module_name(), term.rank);
    }
    if changes_biases {
        for (slot, values) in manifest.slots.iter().zip(&values.slots) {
            let own = if ranks.contains_key(slot.module_name()) { ".base_layer.bias" } else { ".bias" };
            tensors.push((of_encoder(format!("{}{own}", slot.module_name())), vec![values.len()], values.clone()));
        }
    }
    let head = layers.write(patch.head());
    tensors.extend(head.into_iter().map(|(name, shape, values)| (format!("{PEFT_PREFIX}{name}"), shape, values)));

    // The parts of the head that are the model's own children.
    let mut children: Vec<&str> = layers.modules().filter_map(|module| module.split('.').next()).collect();
    children.dedup();
    let other_ranks: BTreeMap<_, _> = ranks.iter().filter(|(_, rank)| **rank != first.rank).collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": task_type(patch, &layers, family),
        "base_model_name_or_path": manifest.name,
        "inference_mode": true,
        "r": first.rank,
        "lora_alpha": first.rank,
        "lora_dropout": 0.0,
        "rank_pattern": other_ranks,
        "alpha_pattern": other_ranks,
        "use_rslora": false,
        "fan_in_fan_out": false,
        "target_modules": ranks.keys().collect::<Vec<_>>(),
        "modules_to_save": children,
        "bias": if changes_biases { "all" } else { "none" },
    });
    Ok(PeftAdapter { config: format!("{config:#}\n"), tensors: to_safetensors(&tensors)? })
}

/// The task type whose model reads and computes what the patch's head does; none for a model of one's own.
fn task_type(patch: &Patch, layers: &HeadLayers, family: Family) -> Option<&'static str> {
    let kind = patch.task().kind();
    match kind {
        Kind::Tagging { .. } => Some("TOKEN_CLS"),
        Kind::Span { .. } => Some("QUESTION_ANS"),
        _ => {
            let (due, pooling) = HeadLayers::of_sequence_classifier(family)?;
            (due == *layers && kind.pooling() == Some(pooling)).then_some("SEQ_CLS")
        }
    }
}
