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
    /// `embeddings_project`, where embeddings are narrower than the encoder (ELECTRA, ALBERT).
    EmbeddingProjection,
    /// The LayerNorm of the table of distances, where queries and keys meet vectors of distances (DeBERTa).
    DistanceNorm,
    /// The query; its bias is b_q.
    Query,
    /// The key. Its bias, b_k, has an effect only where keys are rotated (rotary positions) or meet vectors of
    /// distances. Elsewhere it shifts all scores of a row alike, softmax cancels it, and no patch has it.
    Key,
    /// The value; its bias is b_v.
    Value,
    /// The attention output; its bias is b_m1 (equation 1).
    AttentionOutput,
    /// The LayerNorm of attention: after it, and its bias is b_LN1 (equation 2); in some families before it.
    AttentionNorm,
    /// The middle of the MLP; its bias is b_m2 (equation 3).
    Middle,
    /// The gate of a gated MLP: what the middle is multiplied by, after its activation.
    Gate,
    /// The output of the MLP; its bias is b_m3 (equation 4).
    Output,
    /// The LayerNorm of the MLP: after it, and its bias is b_LN2 (equation 5); in some families before it.
    OutputNorm,
    /// The LayerNorm after the last layer, where those of the layers come before attention and MLP.
    FinalNorm,
    /// The pooler's dense layer.
    Pooler,
    /// A module of a graph that is of no family. What else is a layer's number is that of its bias in the graph.
    Graph,
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
    pub const ALL: [Module; 15] = [
        Module::EmbeddingNorm,
        Module::EmbeddingProjection,
        Module::DistanceNorm,
        Module::Query,
        Module::Key,
        Module::Value,
        Module::AttentionOutput,
        Module::AttentionNorm,
        Module::Middle,
        Module::Gate,
        Module::Output,
        Module::OutputNorm,
        Module::Graph,
        Module::FinalNorm,
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
            Module::Gate => 11,
            Module::FinalNorm => 12,
            Module::DistanceNorm => 13,
            Module::Graph => 14,
        }
    }

    /// The place in the forward pass: the part, and the place there.
    fn place(self) -> (Part, u8) {
        match self {
            Module::EmbeddingNorm => (Part::Before, 0),
            Module::EmbeddingProjection => (Part::Before, 1),
            Module::DistanceNorm => (Part::Before, 2),
            Module::Query => (Part::Layer, 0),
            Module::Key => (Part::Layer, 1),
            Module::Value => (Part::Layer, 2),
            Module::AttentionOutput => (Part::Layer, 3),
            Module::AttentionNorm => (Part::Layer, 4),
            Module::Middle => (Part::Layer, 5),
            Module::Gate => (Part::Layer, 6),
            Module::Output => (Part::Layer, 7),
            Module::OutputNorm => (Part::Layer, 8),
            Module::Graph => (Part::Layer, 9),
            Module::FinalNorm => (Part::After, 0),
            Module::Pooler => (Part::After, 1),
        }
    }

    /// The symbol of its bias in flags, tables and bundle.json: the paper's notation in plain letters.
    pub fn symbol(self) -> &'static str {
        match self {
            Module::EmbeddingNorm => "beln",
            Module::EmbeddingProjection => "beproj",
            Module::DistanceNorm => "bdln",
            Module::Query => "bq",
            Module::Key => "bk",
            Module::Value => "bv",
            Module::AttentionOutput => "bm1",
            Module::AttentionNorm => "bln1",
            Module::Middle => "bm2",
            Module::Gate => "bgate",
            Module::Output => "bm3",
            Module::OutputNorm => "bln2",
            Module::FinalNorm => "bfln",
            Module::Pooler => "bpool",
            Module::Graph => "bgraph",
        }
    }

    /// Whether it is known to be a linear layer. Only linear layers have low-rank terms.
    pub fn is_linear(self) -> bool {
        !matches!(
            self,
            Module::EmbeddingNorm
                | Module::DistanceNorm
                | Module::AttentionNorm
                | Module::OutputNorm
                | Module::FinalNorm
                | Module::Graph
        )
    }

    /// Its short name, as in `lora_a.q.3`: the symbol of its bias without the b.
    pub fn short(self) -> &'static str {
        &self.symbol()[1..]
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
        Module::ALL
            .into_iter()
            .find(|module| module.symbol() == text)
            .ok_or_else(|| Error::field("bias", format!("one of {}", Module::ALL.map(Module::symbol).join(" ")), text))
    }
}

/// What of a module a patch sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// The bias vector, `[M]`.
    Bias,
    /// A of the low-rank term B A x of a linear layer, `[r, K]`: LoRA's down projection.
    LoraA,
    /// B of the same term, by columns, `[r, M]`: LoRA's up projection, its scale included.
    LoraB,
}

impl SlotKind {
    /// Every kind, in the order that slots of one module have.
    const ALL: [SlotKind; 3] = [SlotKind::Bias, SlotKind::LoraA, SlotKind::LoraB];

    /// The number in patch files, below 8. It never changes.
    fn wire_number(self) -> u8 {
        match self {
            SlotKind::Bias => 0,
            SlotKind::LoraA => 1,
            SlotKind::LoraB => 2,
        }
    }

    /// Whether it is a part of a low-rank term.
    pub fn is_low_rank(self) -> bool {
        self != SlotKind::Bias
    }
}

/// One slot of an encoder: `bq.3` is the query's bias in layer 3 (from 0), `beln` the embedding LayerNorm's, `lora_a.q.3`
/// the A of the query's low-rank term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// The module.
    pub module: Module,
    /// The layer, from 0; `None` outside the layers.
    pub layer: Option<u16>,
    /// What of the module.
    pub kind: SlotKind,
}

/// The first version of patches that may have low-rank terms.
pub(crate) const FIRST_WITH_LOW_RANK: u16 = 2;

/// Modules that a kind's numbers have room for.
const MODULES: u8 = 32;

impl SlotId {
    /// The bias of a module, in a layer or outside of them.
    ///
    /// # Errors
    /// When the module is in layers and none is given, or the reverse.
    pub fn new(module: Module, layer: Option<u16>) -> Result<Self> {
        if module.in_layers() == layer.is_some() {
            return Ok(SlotId { module, layer, kind: SlotKind::Bias });
        }
        let expected = if module.in_layers() { "a layer" } else { "no layer" };
        let found = layer.map_or("none".into(), |layer| layer.to_string());
        Err(Error::field(format!("slot {}", module.symbol()), expected, found))
    }

    /// Another slot of the same module and layer.
    ///
    /// # Errors
    /// When the module has none of this kind: a LayerNorm, or a module of a graph, has no low-rank term.
    pub fn with_kind(self, kind: SlotKind) -> Result<Self> {
        if kind.is_low_rank() && !self.module.is_linear() {
            return Err(Error::field(
                format!("low-rank term of {}", self.module.short()),
                "a linear layer",
                if self.module == Module::Graph { "a module of a graph" } else { "a LayerNorm" },
            ));
        }
        Ok(SlotId { kind, ..self })
    }

    /// The number and the layer in a patch file.
    pub(crate) fn to_wire(self) -> (u8, u16) {
        (self.kind.wire_number() * MODULES + self.module.wire_number(), self.layer.unwrap_or(0))
    }

    /// The slot of a number and a layer in a patch file of a version.
    ///
    /// # Errors
    /// When no slot of that version has the number, or a module outside the layers has a layer.
    pub(crate) fn from_wire(number: u8, layer: u16, version: u16) -> Result<Self> {
        let kind = SlotKind::ALL.into_iter().find(|kind| kind.wire_number() == number / MODULES);
        let module = Module::ALL.into_iter().find(|module| module.wire_number() == number % MODULES);
        let Some((kind, module)) = kind.zip(module) else {
            let expected = "a number of the table in FORMAT.md; a newer release may know others";
            return Err(Error::field("slot number", expected, number));
        };
        let bias = SlotId { module, layer: module.in_layers().then_some(layer), kind: SlotKind::Bias };
        let id = bias.with_kind(kind)?;
        if kind.is_low_rank() && version < FIRST_WITH_LOW_RANK {
            let field = format!("version of a patch with slot {id}");
            return Err(Error::field(field, FIRST_WITH_LOW_RANK.to_string(), version));
        }
        if !module.in_layers() && layer != 0 {
            return Err(Error::field(format!("layer of slot {id}"), "0", layer));
        }
        Ok(id)
    }

    /// Place in the forward pass: what comes before the layers, each layer in turn, what comes after them.
    fn place(self) -> (Part, u16, u8, SlotKind) {
        let (part, within) = self.module.place();
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
            SlotKind::Bias => self.module.symbol().to_owned(),
            SlotKind::LoraA => format!("lora_a.{}", self.module.short()),
            SlotKind::LoraB => format!("lora_b.{}", self.module.short()),
        };
        match self.layer {
            Some(layer) => f.pad(&format!("{symbol}.{layer}")),
            None => f.pad(&symbol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(module: Module, layer: Option<u16>) -> SlotId {
        SlotId::new(module, layer).unwrap()
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
        let parts = SlotKind::ALL.map(|kind| id(Module::Query, Some(1)).with_kind(kind).unwrap());
        assert_eq!(parts.map(|slot| slot.to_string()), ["bq.1", "lora_a.q.1", "lora_b.q.1"]);
        assert!(parts.is_sorted() && parts[2] < id(Module::Key, Some(1)));
        assert!(Module::ALL.is_sorted_by(|a, b| a < b), "ALL is in the order of the forward pass");
    }

    /// Numbers in existing files never change, wherever a module is in the forward pass.
    #[test]
    fn numbers_in_files_are_those_of_the_format() {
        let format = include_str!("../FORMAT.md");
        // Rows of a table whose first cell is a number.
        let rows = |from: &str, to: &str| -> Vec<Vec<&str>> {
            let (_, after) = format.split_once(from).unwrap();
            let lines = after.split_once(to).unwrap().0.lines().filter_map(|line| line.strip_prefix("|"));
            let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
            cells.filter(|cells| cells[0].parse::<u8>().is_ok()).collect()
        };
        let kinds = rows("### Kinds", "### Modules");
        let modules = rows("### Modules", "### Order");
        assert_eq!((kinds.len(), modules.len()), (SlotKind::ALL.len(), Module::ALL.len()), "each once");
        let mut known = Vec::new();
        for (kind, cells) in SlotKind::ALL.into_iter().zip(&kinds) {
            assert_eq!(cells[0].parse::<u8>().unwrap(), 32 * kind.wire_number());
            for cells in &modules {
                let (number, module): (u8, Module) = (cells[0].parse().unwrap(), cells[1].parse().unwrap());
                let (in_layers, linear) = (cells[3] == "yes", cells[4] == "yes");
                assert_eq!((module.in_layers(), module.is_linear()), (in_layers, linear), "{module:?}");
                let Ok(slot) = id(module, in_layers.then_some(7)).with_kind(kind) else { continue };
                assert!(kind == SlotKind::Bias || linear);
                let wire = (32 * kind.wire_number() + number, if in_layers { 7 } else { 0 });
                assert_eq!(slot.to_wire(), wire, "{slot}");
                assert_eq!(SlotId::from_wire(wire.0, wire.1, 2).unwrap(), slot);
                assert_eq!(
                    SlotId::from_wire(wire.0, wire.1, 1).is_ok(),
                    kind == SlotKind::Bias,
                    "version 1 has biases only"
                );
                known.push(wire.0);
            }
        }
        for number in (0..=u8::MAX).filter(|number| !known.contains(number)) {
            let error = SlotId::from_wire(number, 0, 2).unwrap_err().to_string();
            let norm = known.contains(&(number % 32)) && number < 96;
            let said = if norm { "expected a linear layer, found a".to_owned() } else { format!("found {number}") };
            assert!(error.contains(&said), "{error}");
        }
        let error = SlotId::from_wire(10, 1, 2).unwrap_err().to_string();
        assert_eq!(error, "layer of slot bpool: expected 0, found 1");
    }

    #[test]
    fn a_slot_has_a_layer_exactly_if_its_module_does() {
        for module in Module::ALL {
            assert_eq!(SlotId::new(module, Some(0)).is_ok(), module.in_layers());
            assert_eq!(SlotId::new(module, None).is_ok(), !module.in_layers());
            assert_eq!(module.symbol().parse::<Module>().unwrap(), module);
        }
        assert!("b_q".parse::<Module>().is_err());
    }
}
