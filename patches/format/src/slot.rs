//! Slots: the values of an encoder that a patch may set, each given by a module, its layer and a kind.
//!
//! In: a symbol, or a number of a patch file. Out: a [`SlotId`]. Refused: symbols and numbers that are not in the table
//! of `FORMAT.md`, a layer where there is none, and the reverse.
//!
//! A slot's number in files and its place in the forward pass are two tables. A new module takes a free number and any
//! place; a new kind takes a free kind number, and applies to modules that already have numbers.

use std::{cmp::Ordering, fmt, str::FromStr};

use crate::{Error, Result};

/// A module of the encoder that has slots, by the paper's name of its bias: the eight of BitFit's Table 4, and those
/// outside the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Module {
    /// The embeddings' LayerNorm.
    EmbeddingNorm,
    /// `embeddings_project`, where embeddings are narrower than the encoder (ELECTRA).
    EmbeddingProjection,
    /// The query; its bias is b_q.
    Query,
    /// The key. Its bias, b_k, shifts all scores of a row alike, so softmax cancels it: no patch stores it.
    Key,
    /// The value; its bias is b_v.
    Value,
    /// The attention output; its bias is b_m1 (equation 1).
    AttentionOutput,
    /// The LayerNorm after attention; its bias is b_LN1 (equation 2).
    AttentionNorm,
    /// The middle of the MLP; its bias is b_m2 (equation 3).
    Middle,
    /// The output of the MLP; its bias is b_m3 (equation 4).
    Output,
    /// The LayerNorm after the MLP; its bias is b_LN2 (equation 5).
    OutputNorm,
    /// The pooler's dense layer.
    Pooler,
}

/// The three parts of a forward pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Before,
    Layer,
    After,
}

impl Module {
    /// Every module, in the order of the forward pass.
    pub const ALL: [Module; 11] = [
        Module::EmbeddingNorm,
        Module::EmbeddingProjection,
        Module::Query,
        Module::Key,
        Module::Value,
        Module::AttentionOutput,
        Module::AttentionNorm,
        Module::Middle,
        Module::Output,
        Module::OutputNorm,
        Module::Pooler,
    ];

    /// The number in patch files, below 32. It never changes, and says nothing about the order.
    fn wire_number(self) -> u8 {
        match self {
            Module::EmbeddingNorm => 0,
            Module::EmbeddingProjection => 1,
            Module::Query => 2,
            Module::Key => 3,
            Module::Value => 4,
            Module::AttentionOutput => 5,
            Module::AttentionNorm => 6,
            Module::Middle => 7,
            Module::Output => 8,
            Module::OutputNorm => 9,
            Module::Pooler => 10,
        }
    }

    /// The place in the forward pass: the part, and the place there.
    fn place(self) -> (Part, u8) {
        match self {
            Module::EmbeddingNorm => (Part::Before, 0),
            Module::EmbeddingProjection => (Part::Before, 1),
            Module::Query => (Part::Layer, 0),
            Module::Key => (Part::Layer, 1),
            Module::Value => (Part::Layer, 2),
            Module::AttentionOutput => (Part::Layer, 3),
            Module::AttentionNorm => (Part::Layer, 4),
            Module::Middle => (Part::Layer, 5),
            Module::Output => (Part::Layer, 6),
            Module::OutputNorm => (Part::Layer, 7),
            Module::Pooler => (Part::After, 0),
        }
    }

    /// The symbol of its bias in flags, tables and bundle.json: the paper's notation in plain letters.
    pub fn symbol(self) -> &'static str {
        match self {
            Module::EmbeddingNorm => "beln",
            Module::EmbeddingProjection => "beproj",
            Module::Query => "bq",
            Module::Key => "bk",
            Module::Value => "bv",
            Module::AttentionOutput => "bm1",
            Module::AttentionNorm => "bln1",
            Module::Middle => "bm2",
            Module::Output => "bm3",
            Module::OutputNorm => "bln2",
            Module::Pooler => "bpool",
        }
    }

    /// Whether there is one in every layer.
    pub fn in_layers(self) -> bool {
        self.place().0 == Part::Layer
    }
}

impl PartialOrd for Module {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Module {
    /// By the forward pass.
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl FromStr for Module {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Module::ALL.into_iter().find(|term| term.symbol() == text).ok_or_else(|| {
            Error::field("bias term", format!("one of {}", Module::ALL.map(Module::symbol).join(" ")), text)
        })
    }
}

/// What of a module a patch sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// The bias vector.
    Bias,
}

impl SlotKind {
    /// Every kind.
    const ALL: [SlotKind; 1] = [SlotKind::Bias];

    /// The number in patch files, below 8. It never changes.
    fn wire_number(self) -> u8 {
        match self {
            SlotKind::Bias => 0,
        }
    }
}

/// One slot of an encoder: `bq.3` is the query's bias in layer 3 (from 0), `beln` the embedding LayerNorm's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// The module.
    pub term: Module,
    /// The layer, from 0; `None` outside the layers.
    pub layer: Option<u16>,
    /// What of the module.
    pub kind: SlotKind,
}

/// Modules that a kind's numbers have room for.
const MODULES: u8 = 32;

impl SlotId {
    /// The bias of a module, in a layer or outside of them.
    ///
    /// # Errors
    /// When the module is in layers and none is given, or the reverse.
    pub fn new(term: Module, layer: Option<u16>) -> Result<Self> {
        if term.in_layers() == layer.is_some() {
            return Ok(SlotId { term, layer, kind: SlotKind::Bias });
        }
        let expected = if term.in_layers() { "a layer" } else { "no layer" };
        Err(Error::field(format!("slot {}", term.symbol()), expected, layer.map_or("none".into(), |l| l.to_string())))
    }

    /// The number and the layer in a patch file.
    pub(crate) fn to_wire(self) -> (u8, u16) {
        (self.kind.wire_number() * MODULES + self.term.wire_number(), self.layer.unwrap_or(0))
    }

    /// The slot of a number and a layer in a patch file.
    ///
    /// # Errors
    /// When no slot has the number, or a module outside the layers has a layer.
    pub(crate) fn from_wire(number: u8, layer: u16) -> Result<Self> {
        let kind = SlotKind::ALL.into_iter().find(|kind| kind.wire_number() == number / MODULES);
        let term = Module::ALL.into_iter().find(|term| term.wire_number() == number % MODULES);
        let (Some(kind), Some(term)) = (kind, term) else {
            let expected = "a number of the table in FORMAT.md; a newer release may know others";
            return Err(Error::field("slot number", expected, number));
        };
        if !term.in_layers() && layer != 0 {
            return Err(Error::field(format!("layer of slot {}", term.symbol()), "0", layer));
        }
        Ok(SlotId { term, layer: term.in_layers().then_some(layer), kind })
    }

    /// Place in the forward pass: what comes before the layers, each layer in turn, what comes after them.
    fn place(self) -> (Part, u16, u8, SlotKind) {
        let (part, within) = self.term.place();
        (part, self.layer.unwrap_or(0), within, self.kind)
    }
}

impl PartialOrd for SlotId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SlotId {
    /// By the forward pass.
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = match self.kind {
            SlotKind::Bias => self.term.symbol(),
        };
        match self.layer {
            Some(layer) => f.pad(&format!("{symbol}.{layer}")),
            None => f.pad(symbol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: Module, layer: Option<u16>) -> SlotId {
        SlotId::new(term, layer).unwrap()
    }

    #[test]
    fn slots_are_ordered_as_the_forward_pass() {
        let mut slots = [
            id(Module::Pooler, None),
            id(Module::Query, Some(1)),
            id(Module::OutputNorm, Some(0)),
            id(Module::Middle, Some(0)),
            id(Module::EmbeddingProjection, None),
            id(Module::EmbeddingNorm, None),
        ];
        slots.sort();
        let names: Vec<String> = slots.iter().map(SlotId::to_string).collect();
        assert_eq!(names, ["beln", "beproj", "bm2.0", "bln2.0", "bq.1", "bpool"]);
        assert!(Module::ALL.is_sorted_by(|a, b| a < b), "ALL is in the order of the forward pass");
    }

    /// Numbers in existing files never change, wherever a module is in the forward pass.
    #[test]
    fn numbers_in_files_are_those_of_the_format() {
        let rows = include_str!("../FORMAT.md").lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let number: u8 = cells.next()?.parse().ok()?;
            let term: Module = cells.next()?.parse().ok()?;
            Some((number, term, cells.nth(1)? == "yes"))
        });
        let rows: Vec<(u8, Module, bool)> = rows.collect();
        assert_eq!(rows.len(), Module::ALL.len(), "FORMAT.md lists every module once");
        for (number, term, in_layers) in &rows {
            let slot = id(*term, in_layers.then_some(7));
            assert_eq!(slot.to_wire(), (*number, if *in_layers { 7 } else { 0 }), "{slot}");
            assert_eq!(SlotId::from_wire(*number, slot.layer.unwrap_or(0)).unwrap(), slot);
        }
        for number in (0..=u8::MAX).filter(|number| rows.iter().all(|(known, ..)| known != number)) {
            let error = SlotId::from_wire(number, 0).unwrap_err().to_string();
            assert!(error.contains(&format!("found {number}")), "{error}");
        }
        let error = SlotId::from_wire(10, 1).unwrap_err().to_string();
        assert_eq!(error, "layer of slot bpool: expected 0, found 1");
    }

    #[test]
    fn a_slot_has_a_layer_exactly_if_its_module_does() {
        for term in Module::ALL {
            assert_eq!(SlotId::new(term, Some(0)).is_ok(), term.in_layers());
            assert_eq!(SlotId::new(term, None).is_ok(), !term.in_layers());
            assert_eq!(term.symbol().parse::<Module>().unwrap(), term);
        }
        assert!("b_q".parse::<Module>().is_err());
    }
}
