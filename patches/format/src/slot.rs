//! Which bias vector is meant: a term of the paper's equations, and a layer.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// A kind of bias vector: the eight of BitFit's Table 4, and those outside the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// The embeddings' LayerNorm.
    EmbeddingNorm,
    /// `embeddings_project.bias`, where embeddings are narrower than the encoder (ELECTRA).
    EmbeddingProjection,
    /// b_q, the query.
    Query,
    /// b_k, the key. It shifts all scores of a row alike, so softmax cancels it: no patch stores it.
    Key,
    /// b_v, the value.
    Value,
    /// b_m1, the attention output (equation 1).
    AttentionOutput,
    /// b_LN1, the LayerNorm after attention (equation 2).
    AttentionNorm,
    /// b_m2, the middle of the MLP (equation 3).
    Middle,
    /// b_m3, the output of the MLP (equation 4).
    Output,
    /// b_LN2, the LayerNorm after the MLP (equation 5).
    OutputNorm,
    /// The pooler's dense layer.
    Pooler,
}

impl Term {
    /// Every term, in the order of the forward pass. A term's place is its number in a patch file.
    pub const ALL: [Term; 11] = [
        Term::EmbeddingNorm,
        Term::EmbeddingProjection,
        Term::Query,
        Term::Key,
        Term::Value,
        Term::AttentionOutput,
        Term::AttentionNorm,
        Term::Middle,
        Term::Output,
        Term::OutputNorm,
        Term::Pooler,
    ];

    /// The short name used in flags, tables and bundle.json: the paper's notation in plain letters.
    pub fn symbol(self) -> &'static str {
        match self {
            Term::EmbeddingProjection => "beproj",
            Term::EmbeddingNorm => "beln",
            Term::Query => "bq",
            Term::Key => "bk",
            Term::Value => "bv",
            Term::AttentionOutput => "bm1",
            Term::AttentionNorm => "bln1",
            Term::Middle => "bm2",
            Term::Output => "bm3",
            Term::OutputNorm => "bln2",
            Term::Pooler => "bpool",
        }
    }

    /// Whether there is one such vector in every layer.
    pub fn in_layers(self) -> bool {
        !matches!(self, Term::EmbeddingProjection | Term::EmbeddingNorm | Term::Pooler)
    }
}

impl FromStr for Term {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Term::ALL
            .into_iter()
            .find(|term| term.symbol() == text)
            .ok_or_else(|| Error::field("bias term", format!("one of {}", Term::ALL.map(Term::symbol).join(" ")), text))
    }
}

/// One bias vector of an encoder: `bq.3` is the query bias of layer 3 (from 0), `beln` the embedding LayerNorm's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// The kind of vector.
    pub term: Term,
    /// The layer, from 0; `None` outside the layers.
    pub layer: Option<u16>,
}

impl SlotId {
    /// A slot in a layer, or outside of them.
    ///
    /// # Errors
    /// When the term is of a layer and none is given, or the reverse.
    pub fn new(term: Term, layer: Option<u16>) -> Result<Self> {
        if term.in_layers() == layer.is_some() {
            return Ok(SlotId { term, layer });
        }
        let expected = if term.in_layers() { "a layer" } else { "no layer" };
        Err(Error::field(format!("slot {}", term.symbol()), expected, layer.map_or("none".into(), |l| l.to_string())))
    }

    /// Place in the forward pass: embeddings, layers in turn, pooler.
    fn order(self) -> (u8, u16, Term) {
        let part = match self.term {
            Term::Pooler => 2,
            term => u8::from(term.in_layers()),
        };
        (part, self.layer.unwrap_or(0), self.term)
    }
}

impl PartialOrd for SlotId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SlotId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => f.pad(&format!("{}.{layer}", self.term.symbol())),
            None => f.pad(self.term.symbol()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_ordered_as_the_forward_pass() {
        let id = |term, layer| SlotId::new(term, layer).unwrap();
        let mut slots = [
            id(Term::Pooler, None),
            id(Term::Query, Some(1)),
            id(Term::OutputNorm, Some(0)),
            id(Term::Middle, Some(0)),
            id(Term::EmbeddingNorm, None),
        ];
        slots.sort();
        let names: Vec<String> = slots.iter().map(SlotId::to_string).collect();
        assert_eq!(names, ["beln", "bm2.0", "bln2.0", "bq.1", "bpool"]);
    }

    #[test]
    fn a_slot_has_a_layer_exactly_if_its_term_does() {
        for term in Term::ALL {
            assert_eq!(SlotId::new(term, Some(0)).is_ok(), term.in_layers());
            assert_eq!(SlotId::new(term, None).is_ok(), !term.in_layers());
            assert_eq!(term.symbol().parse::<Term>().unwrap(), term);
        }
        assert!("b_q".parse::<Term>().is_err());
    }
}
