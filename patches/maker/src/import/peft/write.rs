//! A patch as an adapter of PEFT.
//!
//! In: a patch. Out: `adapter_config.json` and `adapter_model.safetensors`: its low-rank terms, its head by
//! `modules_to_save`, and all biases if it changes one. Terms of modules that transformers has as one become one of it:
//! those of one A share it, and for others ranks add up. Refused: a patch without low-rank terms, of which PEFT makes no LoRA, a family whose
//! layers transformers has once for all, a bias that its model has not, and a head that its names cannot express.

use std::{collections::BTreeMap, path::Path};

use bias_patch::{Kind, Patch, SlotKind, atomic};
use edge_bundle::{Bundle, Family, Part, Slot};
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
        atomic::create_dirs(dir)?;
        let (tensors, config) = (dir.join(TENSORS), dir.join(CONFIG));
        for path in [&tensors, &config] {
            atomic::check_replaceable(path)?;
        }
        if config.exists() {
            atomic::remove_file(&config)?;
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
    if family == Family::Albert {
        let expected = "a family whose layers each have matrices of their own in transformers".to_owned();
        let field = format!("encoder of task {}", patch.task().name());
        return Err(bias_patch::Error::Field { field, expected, found: family.name().to_owned() }.into());
    }
    if values.low_rank.is_empty() {
        let expected = "a low-rank term, for PEFT has no LoRA without; --format biases writes biases".to_owned();
        let field = format!("slots of task {}", patch.task().name());
        return Err(bias_patch::Error::Field { field, expected, found: "biases alone".to_owned() }.into());
    }
    let mut biases = patch.slots().iter().filter(|stored| stored.id.kind == SlotKind::Bias).peekable();
    let changes_biases = biases.peek().is_some();
    let lacks_bias = |slot: &&Slot| slot.zero && biases.clone().any(|stored| stored.id == slot.id());
    if let Some(slot) = manifest.slots.iter().find(lacks_bias) {
        let expected =
            "a low-rank term alone, for transformers' model has no bias there; edge-patch train --slots lora:all";
        let field = format!("slot {} of task {}", slot.id(), patch.task().name());
        let (expected, found) = (expected.to_owned(), "a bias".to_owned());
        return Err(bias_patch::Error::Field { field, expected, found }.into());
    }
    let layers = HeadLayers::of(patch, family)?;

    // What the family's task models call the encoder.
    let encoder = match family {
        Family::DebertaV2 => "deberta",
        Family::ModernBert => "model",
        Family::NomicBert => "nomic_bert",
        _ => family.name(),
    };
    let module = |slot: &Slot| match family.in_transformers(slot.module_name()) {
        Some(name) => (name, Part::WHOLE),
        None => family.in_checkpoint(slot.module_name()),
    };
    let of_encoder = |name: String| format!("{PEFT_PREFIX}{encoder}.{name}");
    let mut tensors: Vec<NamedTensor> = Vec::new();
    // The terms of each module, with the parts of its rows.
    let mut terms: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for term in &values.low_rank {
        let (module, part) = module(&manifest.slots[term.slot]);
        terms.entry(module).or_default().push((part, term));
    }
    let mut ranks = BTreeMap::new();
    for (module, terms) in &terms {
        let [(part, first), ..] = &terms[..] else { continue };
        let slot = &manifest.slots[first.slot];
        let (outputs, inputs) = (slot.len as usize, manifest.config.inputs(slot.module) as usize);
        // Each A once, and the rank before it.
        let mut all: Vec<(usize, &[f32])> = Vec::new();
        let mut rank = 0;
        for (_, term) in terms {
            if !all.iter().any(|(_, a)| *a == term.a) {
                all.push((rank, &term.a));
                rank += term.rank;
            }
        }
        let a: Vec<f32> = all.iter().flat_map(|(_, a)| *a).copied().collect(); // [rank, inputs]
        let mut b = vec![0.0; part.of * outputs * rank]; // [part.of * outputs, rank]
        for (part, term) in terms {
            let before = all.iter().find(|(_, a)| *a == term.a).map_or(0, |(before, _)| *before);
            for (column, values) in term.b.chunks(outputs).enumerate() {
                let rows = b.chunks_mut(rank).skip(part.at * outputs);
                rows.zip(values).for_each(|(row, value)| row[before + column] = *value);
            }
        }
        tensors.push((of_encoder(format!("{module}{A}")), vec![rank, inputs], a));
        tensors.push((of_encoder(format!("{module}{B}")), vec![part.of * outputs, rank], b));
        ranks.insert(module.as_str(), rank);
    }
    if changes_biases {
        for (slot, values) in manifest.slots.iter().zip(&values.slots).filter(|(slot, _)| !slot.zero) {
            let (module, _) = module(slot);
            let own = if ranks.contains_key(module.as_str()) { ".base_layer.bias" } else { ".bias" };
            tensors.push((of_encoder(format!("{module}{own}")), vec![values.len()], values.clone()));
        }
    }
    let head = layers.write(patch.head());
    tensors.extend(head.into_iter().map(|(name, shape, values)| (format!("{PEFT_PREFIX}{name}"), shape, values)));

    // The parts of the head that are the model's own children.
    let mut children: Vec<&str> = layers.modules().filter_map(|module| module.split('.').next()).collect();
    children.dedup();
    let first = ranks.values().next().copied().unwrap_or_default();
    let other_ranks: BTreeMap<_, _> = ranks.iter().filter(|(_, rank)| **rank != first).collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": task_type(patch, &layers, family),
        "base_model_name_or_path": manifest.name,
        "inference_mode": true,
        "r": first,
        "lora_alpha": first,
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
        // Its task models have a LayerNorm before the last layer.
        _ if family == Family::ModernBert => None,
        Kind::Tagging { .. } => Some("TOKEN_CLS"),
        Kind::Span { .. } => Some("QUESTION_ANS"),
        _ => {
            let (due, pooling) = HeadLayers::of_sequence_classifier(family)?;
            (due == *layers && kind.pooling() == Some(pooling)).then_some("SEQ_CLS")
        }
    }
}
