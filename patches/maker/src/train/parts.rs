//! The parts of a task's values: slots, and low-rank terms.
//!
//! In: values, or ranks. Out: parts in order, terms of zeros, and the floats that backward keeps. Nothing is refused.

use std::collections::BTreeSet;

use bias_patch::{LowRank, Module, Values};
use edge_bundle::{Manifest, Slot};

/// A slot or a low-rank term of a task's values.
pub(super) enum Part<'a> {
    /// The values of a slot, and its number.
    Slot(usize, &'a [f32]),
    Term(&'a LowRank),
}

impl Part<'_> {
    pub fn len(&self) -> usize {
        match self {
            Part::Slot(_, values) => values.len(),
            Part::Term(term) => term.a.len() + term.b.len(),
        }
    }
}

/// Slots and then low-rank terms.
pub(super) fn parts(values: &Values) -> impl Iterator<Item = Part<'_>> {
    let slots = values.slots.iter().enumerate().map(|(at, values)| Part::Slot(at, values));
    slots.chain(values.low_rank.iter().map(Part::Term))
}

/// Low-rank terms of zeros, of the rank that `rank` gives for the slot of a layer.
pub(super) fn zero_terms(manifest: &Manifest, rank: impl Fn(&Slot) -> Option<usize>) -> Vec<LowRank> {
    let term = |(at, slot): (usize, &Slot)| {
        let rank = rank(slot)?;
        let inputs = manifest.config.inputs(slot.module) as usize;
        Some(LowRank { slot: at, rank, a: vec![0.0; rank * inputs], b: vec![0.0; rank * slot.len as usize] })
    };
    manifest.slots.iter().enumerate().filter_map(term).collect()
}

/// Floats of each token that backward needs for low-rank terms: the inputs of their layers. Query, key and value have
/// one input, and so have middle and gate; that of an MLP's last layer is computed anew.
pub(super) fn kept_inputs(manifest: &Manifest, values: &Values) -> usize {
    let mut inputs = BTreeSet::new();
    for term in &values.low_rank {
        let slot = &manifest.slots[term.slot];
        let first = match slot.module {
            Module::Output => continue,
            Module::Query | Module::Key | Module::Value => Module::Query,
            Module::Middle | Module::Gate => Module::Middle,
            other => other,
        };
        inputs.insert((slot.layer, first));
    }
    inputs.iter().map(|(_, module)| manifest.config.inputs(*module) as usize).sum()
}
