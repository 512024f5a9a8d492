//! What is in a patch, and how two patches differ.

use std::collections::BTreeMap;

use bias_patch::{LowRank, Patch, Result, SlotKind, Task, Values};
use edge_bundle::{Base, Manifest};
use serde::Serialize;

/// What is in a patch.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Bytes of the file.
    pub bytes: u64,
    /// The encoder it fits.
    pub encoder: String,
    /// The task.
    pub task: Task,
    /// Stored slots, in the order of the forward pass.
    pub slots: Vec<SlotReport>,
    /// Layers of the head: `[outputs, inputs]` and the encoding of the weight.
    pub head: Vec<(u32, u32, String)>,
    /// Free text.
    pub metadata: BTreeMap<String, String>,
}

/// One stored slot.
#[derive(Clone, Debug, Serialize)]
pub struct SlotReport {
    /// Module and layer.
    pub slot: String,
    /// Number of values.
    pub values: usize,
    /// How they are stored.
    pub encoding: String,
    /// Mean absolute change from the base, the paper's measure in its Figure 1; of a bias none without the encoder. The
    /// base of a low-rank term is 0.
    pub mean_change: Option<f32>,
    /// Largest absolute change from the base; likewise.
    pub largest_change: Option<f32>,
}

/// Describes a patch whose file has `bytes` bytes; with its encoder, also how much each slot changed.
///
/// # Errors
/// When the patch does not fit the encoder.
pub fn inspect(patch: &Patch, bytes: u64, encoder: Option<(&Manifest, &Base)>) -> Result<Report> {
    let applied = encoder.map(|(manifest, base)| patch.apply(&manifest.shape(), base.slots())).transpose()?;
    let slot = |stored: &bias_patch::StoredSlot| {
        let change = if stored.id.kind.is_low_rank() {
            let values = stored.values.values(None);
            Some(changes(&vec![0.0; values.len()], &values))
        } else {
            encoder.zip(applied.as_ref()).and_then(|((manifest, base), applied)| {
                let at = manifest.slots.iter().position(|slot| slot.id() == stored.id)?;
                Some(changes(&base.slots()[at], &applied.slots[at]))
            })
        };
        SlotReport {
            slot: stored.id.to_string(),
            values: stored.values.len(),
            encoding: stored.values.encoding().to_string(),
            mean_change: change.map(|(mean, _)| mean),
            largest_change: change.map(|(_, largest)| largest),
        }
    };
    Ok(Report {
        bytes,
        encoder: patch.encoder().to_string(),
        task: patch.task().clone(),
        slots: patch.slots().iter().map(slot).collect(),
        head: patch.head().linears().map(|(_, l)| (l.outputs, l.inputs, l.weight.encoding().to_string())).collect(),
        metadata: patch.metadata().clone(),
    })
}

/// How two patches of one encoder differ in a slot.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Module and layer, or a layer of the head.
    pub part: String,
    /// Mean absolute difference; not a number where the two are of different shapes.
    pub mean: f32,
    /// Largest absolute difference.
    pub largest: f32,
}

/// Slots and head layers in which two patches of one encoder differ.
///
/// # Errors
/// When either does not fit the encoder.
pub fn difference(a: &Patch, b: &Patch, manifest: &Manifest, base: &Base) -> Result<Vec<Difference>> {
    let (first, second) = (a.apply(&manifest.shape(), base.slots())?, b.apply(&manifest.shape(), base.slots())?);
    let mut found = Vec::new();
    let mut compare = |part: String, a: &[f32], b: &[f32]| {
        if a.len() != b.len() {
            found.push(Difference { part, mean: f32::NAN, largest: f32::NAN });
        } else if a != b {
            let (mean, largest) = changes(a, b);
            found.push(Difference { part, mean, largest });
        }
    };
    for (at, (slot, (a, b))) in manifest.slots.iter().zip(first.slots.iter().zip(&second.slots)).enumerate() {
        compare(slot.id().to_string(), a, b);
        let term = |values: &Values| values.low_rank.iter().find(|term| term.slot == at).cloned();
        let (a, b) = (term(&first), term(&second));
        for kind in [SlotKind::LoraA, SlotKind::LoraB] {
            let part = |term: &LowRank| if kind == SlotKind::LoraA { term.a.clone() } else { term.b.clone() };
            if let (true, Ok(id)) = (a.is_some() || b.is_some(), slot.id().with_kind(kind)) {
                // A term that one of them lacks has another shape.
                let [a, b] = [&a, &b].map(|term| term.as_ref().map(part).unwrap_or_default());
                compare(id.to_string(), &a, &b);
            }
        }
    }
    let form = |patch: &Patch| patch.head().dense.as_ref().map(|(linear, activation)| (linear.outputs, *activation));
    if form(a) != form(b) {
        found.push(Difference { part: "head's hidden layer".to_owned(), mean: f32::NAN, largest: f32::NAN });
        return Ok(found);
    }
    let linears = |patch: &Patch| -> Vec<(&'static str, Vec<f32>, Vec<f32>)> {
        let decode =
            |(name, l): (&'static str, &bias_patch::Linear)| (name, l.weight.values(None), l.bias.values(None));
        patch.head().linears().map(decode).collect()
    };
    let (first, second) = (linears(a), linears(b));
    for ((name, weight, bias), (_, other_weight, other_bias)) in first.iter().zip(&second) {
        compare(format!("{name} weight"), weight, other_weight);
        compare(format!("{name} bias"), bias, other_bias);
    }
    Ok(found)
}

/// The largest difference between any value of two patches.
///
/// # Errors
/// As [`difference`].
pub fn largest_change(a: &Patch, b: &Patch, manifest: &Manifest, base: &Base) -> Result<f32> {
    Ok(difference(a, b, manifest, base)?.iter().map(|d| d.largest).fold(0.0, f32::max))
}

/// Mean and largest absolute difference.
fn changes(a: &[f32], b: &[f32]) -> (f32, f32) {
    let differences = || a.iter().zip(b).map(|(a, b)| (a - b).abs());
    let mean = differences().map(f64::from).sum::<f64>() / a.len().max(1) as f64;
    (mean as f32, differences().fold(0.0, f32::max))
}
