//! The shape of an encoder, and the slots that it implies.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, SlotId, Term};

/// Checkpoint families, by how their tensors are named and their embeddings are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// BERT.
    Bert,
    /// RoBERTa, XLM-RoBERTa, CamemBERT.
    Roberta,
    /// DistilBERT.
    DistilBert,
    /// ELECTRA.
    Electra,
}

impl Family {
    /// The name in bundle.json.
    pub fn name(self) -> &'static str {
        match self {
            Family::Bert => "bert",
            Family::Roberta => "roberta",
            Family::DistilBert => "distilbert",
            Family::Electra => "electra",
        }
    }
}

/// An activation function, of an encoder's MLP or of a head's hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x Φ(x), with the error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// Hyperbolic tangent (heads only).
    Tanh,
}

impl Activation {
    /// The name in bundle.json.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
            Activation::Tanh => "tanh",
        }
    }
}

/// The shape of an encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Checkpoint family.
    pub family: Family,
    /// Layers.
    pub layers: u32,
    /// Width of a token's vector between layers.
    pub hidden: u32,
    /// Width of a row of the embedding tables: `hidden`, but for ELECTRA's smaller ones.
    pub embedding: u32,
    /// Attention heads.
    pub heads: u32,
    /// Width of the middle of the MLP.
    pub intermediate: u32,
    /// Rows of the word embedding table.
    pub vocabulary: u32,
    /// The longest sequence, special tokens included.
    pub max_length: u32,
    /// Row of the position table that the first token takes.
    pub position_offset: u32,
    /// Rows of the token type table; 0 without one.
    pub token_types: u32,
    /// Activation in the middle of the MLP.
    pub activation: Activation,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_epsilon: f64,
    /// Whether there is a pooler (dense layer and tanh over the first token).
    pub pooler: bool,
}

impl Config {
    /// Every slot of such an encoder with its length, in the order of the forward pass.
    ///
    /// # Errors
    /// When there are more layers than a slot can name.
    pub fn slots(&self) -> Result<Vec<(SlotId, u32)>> {
        let layers = u16::try_from(self.layers).map_err(|_| Error::field("layers", "at most 65535", self.layers))?;
        let per_layer = Term::ALL.into_iter().filter(|t| t.in_layers());
        let inside = (0..layers).flat_map(|layer| per_layer.clone().map(move |term| (term, Some(layer))));
        let before = [
            Some((Term::EmbeddingNorm, None)),
            (self.embedding != self.hidden).then_some((Term::EmbeddingProjection, None)),
        ];
        let after = self.pooler.then_some((Term::Pooler, None));
        let mut slots = Vec::new();
        for (term, layer) in before.into_iter().flatten().chain(inside).chain(after) {
            let len = match term {
                Term::EmbeddingNorm => self.embedding,
                Term::Middle => self.intermediate,
                _ => self.hidden,
            };
            slots.push((SlotId::new(term, layer)?, len));
        }
        slots.sort();
        Ok(slots)
    }

    /// Checks that the numbers make an encoder.
    ///
    /// # Errors
    /// Naming the first number that does not.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("embedding", self.embedding),
            ("heads", self.heads),
            ("intermediate", self.intermediate),
            ("vocabulary", self.vocabulary),
            ("max_length", self.max_length),
        ] {
            if !(1..=1 << 24).contains(&value) {
                return Err(Error::field(name, "1 to 16777216", value));
            }
        }
        if self.position_offset > 1 << 24 || self.token_types > 1 << 24 {
            let found = self.position_offset.max(self.token_types);
            return Err(Error::field("position_offset and token_types", "at most 16777216", found));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(Error::field("hidden", format!("a multiple of the {} heads", self.heads), self.hidden));
        }
        if self.layers > 1024 {
            return Err(Error::field("layers", "at most 1024", self.layers));
        }
        if self.activation == Activation::Tanh {
            return Err(Error::field("activation", "gelu, gelu_tanh or relu", "tanh"));
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(Error::field("layer_norm_epsilon", "between 0 and 1", self.layer_norm_epsilon));
        }
        Ok(())
    }
}
