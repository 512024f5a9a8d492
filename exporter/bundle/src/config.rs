//! The shape of an encoder, and the slots that it implies.

use bias_patch::{Activation, Module, SlotId};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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

    /// The modules that have a bias, outside the layers and in each of them. Each bias is a slot. An encoder may be
    /// without the projection and the pooler, as its [`Config`] says.
    fn modules(self) -> [&'static [Module]; 2] {
        /// A layer of BERT: attention, LayerNorm, MLP, LayerNorm, all with biases.
        const BERT_LAYER: [Module; 8] = [
            Module::Query,
            Module::Key,
            Module::Value,
            Module::AttentionOutput,
            Module::AttentionNorm,
            Module::Middle,
            Module::Output,
            Module::OutputNorm,
        ];
        match self {
            Family::Bert | Family::Roberta => [&[Module::EmbeddingNorm, Module::Pooler], &BERT_LAYER],
            Family::DistilBert => [&[Module::EmbeddingNorm], &BERT_LAYER],
            Family::Electra => [&[Module::EmbeddingNorm, Module::EmbeddingProjection], &BERT_LAYER],
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
        let [outside, inside] = self.family.modules();
        let outside = outside.iter().map(|module| (*module, None));
        let inside = inside.iter().flat_map(|module| (0..layers).map(|layer| (*module, Some(layer))));
        let mut slots = Vec::new();
        for (module, layer) in outside.chain(inside) {
            let len = match module {
                Module::EmbeddingNorm => self.embedding,
                Module::EmbeddingProjection if self.embedding == self.hidden => continue,
                Module::Pooler if !self.pooler => continue,
                Module::Middle => self.intermediate,
                _ => self.hidden,
            };
            slots.push((SlotId::new(module, layer)?, len));
        }
        slots.sort();
        Ok(slots)
    }

    /// Inputs of a linear layer; of a LayerNorm, its width.
    pub fn inputs(&self, module: Module) -> u32 {
        match module {
            Module::EmbeddingNorm | Module::EmbeddingProjection => self.embedding,
            Module::Output => self.intermediate,
            Module::Query
            | Module::Key
            | Module::Value
            | Module::AttentionOutput
            | Module::AttentionNorm
            | Module::Middle
            | Module::OutputNorm
            | Module::Pooler => self.hidden,
        }
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
        let has = |module| self.family.modules()[0].contains(&module);
        if self.embedding != self.hidden && !has(Module::EmbeddingProjection) {
            let expected = format!("{}, the hidden width, in family {}", self.hidden, self.family.name());
            return Err(Error::field("embedding", expected, self.embedding));
        }
        if self.pooler && !has(Module::Pooler) {
            return Err(Error::field("pooler", format!("false in family {}", self.family.name()), "true"));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(family: Family, embedding: u32, pooler: bool) -> Config {
        Config {
            family,
            layers: 2,
            hidden: 8,
            embedding,
            heads: 2,
            intermediate: 16,
            vocabulary: 30,
            max_length: 12,
            position_offset: 0,
            token_types: 2,
            activation: Activation::Gelu,
            layer_norm_epsilon: 1e-12,
            pooler,
        }
    }

    #[test]
    fn a_family_says_which_slots_it_has() {
        let layer = |at: u16| {
            ["bq 8", "bk 8", "bv 8", "bm1 8", "bln1 8", "bm2 16", "bm3 8", "bln2 8"]
                .map(|slot| slot.replace(' ', &format!(".{at} ")))
        };
        let layers = [layer(0), layer(1)].concat();
        for (config, before, after) in [
            (config(Family::Bert, 8, true), &["beln 8"][..], &["bpool 8"][..]),
            (config(Family::Roberta, 8, false), &["beln 8"], &[]),
            (config(Family::DistilBert, 8, false), &["beln 8"], &[]),
            (config(Family::Electra, 4, false), &["beln 4", "beproj 8"], &[]),
            (config(Family::Electra, 8, false), &["beln 8"], &[]),
        ] {
            config.check().unwrap();
            let found: Vec<String> = config.slots().unwrap().iter().map(|(id, len)| format!("{id} {len}")).collect();
            let before = before.iter().map(ToString::to_string);
            let due: Vec<String> = before.chain(layers.clone()).chain(after.iter().map(ToString::to_string)).collect();
            assert_eq!(found, due, "{config:?}");
        }
    }

    #[test]
    fn a_module_that_the_family_lacks_is_refused() {
        let refused = |config: Config| config.check().unwrap_err().to_string();
        assert_eq!(
            refused(config(Family::Bert, 4, true)),
            "embedding: expected 8, the hidden width, in family bert, found 4"
        );
        assert_eq!(refused(config(Family::Electra, 4, true)), "pooler: expected false in family electra, found true");
    }
}
