//! The shape of an encoder, and the slots that it implies.

use bias_patch::{Activation, Module, SlotId};
use serde::{Deserialize, Serialize};

use crate::{Error, Family, Result};

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
    /// Width of a row of the embedding tables: `hidden`, but for the smaller ones of ELECTRA and ALBERT.
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
    /// A number that each head adds to its scores by the distance of two tokens, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<Relative>,
    /// Vectors of distances, where queries and keys meet them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disentangled: Option<Disentangled>,
    /// Rotary positions, where queries and keys are rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary: Option<Rotary>,
    /// Which layers see only near tokens, where some do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// Distances in buckets, as T5 has them (Raffel and others, 2020, 2.1): half of the buckets are for tokens behind, half
/// for those before; half of these for one distance each, and the others for ranges that grow up to `max_distance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relative {
    /// How many buckets there are.
    pub buckets: u32,
    /// From this distance on there is one bucket.
    pub max_distance: u32,
}

/// Distances in buckets, as DeBERTa-v2 has them (He and others, 2021): those up to half of `buckets` to each side have
/// one each, and those beyond share them, in ranges that grow up to `max_distance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disentangled {
    /// How many buckets there are to each side.
    pub buckets: u32,
    /// From this distance on, less one, there is one bucket.
    pub max_distance: u32,
}

/// Rotary positions: column i of half a head is rotated by place / theta^(2 i / D), or with a factor f of NTK scaling
/// by place / ((f theta)^(2 i / D) f^(2 / D)).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// The base of angles in layers that see all tokens.
    pub theta: f64,
    /// The base in layers with a window.
    pub local_theta: f64,
    /// The factor of NTK scaling; 1 without.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ntk_factor: f64,
}

fn one() -> f64 {
    1.0
}

fn is_one(factor: &f64) -> bool {
    *factor == 1.0
}

/// Layers that see only near tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The largest distance at which a token is seen.
    pub reach: u32,
    /// Every layer whose number is a multiple of this sees all tokens.
    pub global_every: u32,
}

impl Config {
    /// The shape of a graph that is of no family. What only a family has is as FORMAT.md says.
    pub fn of_graph(slots: u32, hidden: u32, vocabulary: u32, max_length: u32, token_types: u32, pooler: bool) -> Self {
        Config {
            family: Family::Onnx,
            layers: slots,
            hidden,
            embedding: hidden,
            heads: 1,
            intermediate: hidden,
            vocabulary,
            max_length,
            position_offset: 0,
            token_types,
            activation: Activation::Gelu,
            layer_norm_epsilon: 1e-12,
            pooler,
            relative: None,
            disentangled: None,
            rotary: None,
            window: None,
        }
    }

    /// Every slot of such an encoder with its length, in the order of the forward pass; none of a graph, which has those
    /// that its manifest lists.
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
            if self.family.norms_come_first() && (module, layer) == (Module::AttentionNorm, Some(0)) {
                continue;
            }
            let len = match module {
                Module::EmbeddingNorm => self.embedding,
                Module::EmbeddingProjection if !self.projects_embeddings() => continue,
                Module::Pooler if !self.pooler => continue,
                Module::Middle | Module::Gate => self.intermediate,
                _ => self.hidden,
            };
            slots.push((SlotId::new(module, layer)?, len));
        }
        slots.sort();
        Ok(slots)
    }

    /// How many zeros the slots of modules without biases share: as many as the longest of them has. 0 if there are none.
    ///
    /// # Errors
    /// As [`Config::slots`].
    pub fn shared_zeros(&self) -> Result<u32> {
        let slots = self.slots()?.into_iter().filter(|(id, _)| self.family.lacks_bias(id.module));
        Ok(slots.map(|(_, len)| len).max().unwrap_or(0))
    }

    /// Whether embeddings are projected to the hidden width.
    pub fn projects_embeddings(&self) -> bool {
        self.embedding != self.hidden || self.family == Family::Albert
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
            | Module::DistanceNorm
            | Module::AttentionNorm
            | Module::Middle
            | Module::Gate
            | Module::OutputNorm
            | Module::FinalNorm
            | Module::Pooler
            | Module::Graph => self.hidden,
        }
    }

    /// Whether a module's bias has an effect: all have, but perhaps the key's.
    pub fn bias_counts(&self, module: Module) -> bool {
        module != Module::Key || self.key_bias_counts()
    }

    /// Whether the key's bias has an effect. With absolute positions, and with numbers added to scores, it shifts all
    /// scores of a row alike, so softmax cancels it; where queries and keys are rotated, or keys meet vectors of
    /// distances, it does not.
    pub fn key_bias_counts(&self) -> bool {
        self.rotary.is_some() || self.disentangled.is_some()
    }

    /// Whether a module takes a low-rank term. Linear layers do; but a term of queries and keys would change the frozen
    /// vectors of distances that these meet.
    pub fn takes_low_rank(&self, module: Module) -> bool {
        module.is_linear() && !(self.disentangled.is_some() && matches!(module, Module::Query | Module::Key))
    }

    /// The largest distance at which a layer's tokens see each other; none if they see all.
    pub fn window_of(&self, layer: u16) -> Option<u32> {
        let window = self.window.filter(|window| !u32::from(layer).is_multiple_of(window.global_every));
        window.map(|window| window.reach)
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
        if self.family.is_graph() {
            let plain = Self::of_graph(
                self.layers,
                self.hidden,
                self.vocabulary,
                self.max_length,
                self.token_types,
                self.pooler,
            );
            return match *self == plain && self.layers <= u32::from(u16::MAX) {
                true => Ok(()),
                false => Err(Error::field("config", "what FORMAT.md says of family onnx", "another")),
            };
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
        for (name, has, due) in [
            ("relative", self.relative.is_some(), self.family == Family::MpNet),
            ("disentangled", self.disentangled.is_some(), self.family.has_disentangled_positions()),
            ("rotary", self.rotary.is_some(), self.family.has_rotary_positions()),
            ("window", self.window.is_some(), self.family == Family::ModernBert),
        ] {
            if has != due {
                let said = |there| if there { "one" } else { "none" };
                let expected = format!("{} in family {}", said(due), self.family.name());
                return Err(Error::field(name, expected, said(has)));
            }
        }
        if let Some(Relative { buckets, max_distance }) = self.relative
            && !(buckets.is_multiple_of(4)
                && (4..=1 << 16).contains(&buckets)
                && max_distance > buckets / 4
                && max_distance <= 1 << 24)
        {
            let expected = "buckets, a multiple of 4, and a max_distance above a quarter of them";
            return Err(Error::field("relative", expected, format!("{buckets} and {max_distance}")));
        }
        if let Some(Disentangled { buckets, max_distance }) = self.disentangled
            && !(buckets.is_multiple_of(8)
                && (8..=1 << 16).contains(&buckets)
                && max_distance > buckets / 2 + 1
                && max_distance <= 1 << 24)
        {
            let expected = "buckets, a multiple of 8, and a max_distance above half of them by 2 at least";
            return Err(Error::field("disentangled", expected, format!("{buckets} and {max_distance}")));
        }
        if let Some(Rotary { theta, local_theta, ntk_factor }) = self.rotary {
            let is_base = |theta: f64| theta.is_finite() && theta > 1.0;
            if !(is_base(theta) && is_base(local_theta) && (self.hidden / self.heads).is_multiple_of(2)) {
                let expected = "bases above 1, and heads of an even width";
                return Err(Error::field("rotary", expected, format!("{theta} and {local_theta}")));
            }
            if !(1.0..=65536.0).contains(&ntk_factor) {
                return Err(Error::field("rotary ntk_factor", "1 to 65536", ntk_factor));
            }
        }
        if let Some(Window { reach, global_every }) = self.window
            && (reach > 1 << 24 || global_every == 0)
        {
            let expected = "a reach of at most 16777216, and global_every of at least 1";
            return Err(Error::field("window", expected, format!("{reach} and {global_every}")));
        }
        if self.activation == Activation::Tanh {
            return Err(Error::field("activation", "gelu, gelu_tanh, relu or silu", "tanh"));
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
            relative: (family == Family::MpNet).then_some(Relative { buckets: 32, max_distance: 128 }),
            disentangled: family.has_disentangled_positions().then_some(Disentangled { buckets: 8, max_distance: 12 }),
            rotary: family.has_rotary_positions().then_some(Rotary { theta: 1e4, local_theta: 1e4, ntk_factor: 1.0 }),
            window: (family == Family::ModernBert).then_some(Window { reach: 4, global_every: 3 }),
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
            (config(Family::MpNet, 8, true), &["beln 8"], &["bpool 8"]),
            (config(Family::Albert, 4, true), &["beln 4", "beproj 8"], &["bpool 8"]),
            (config(Family::DebertaV2, 8, false), &["beln 8", "bdln 8"], &[]),
        ] {
            config.check().unwrap();
            let found: Vec<String> = config.slots().unwrap().iter().map(|(id, len)| format!("{id} {len}")).collect();
            let before = before.iter().map(ToString::to_string);
            let due: Vec<String> = before.chain(layers.clone()).chain(after.iter().map(ToString::to_string)).collect();
            assert_eq!(found, due, "{config:?}");
        }
    }

    #[test]
    fn a_module_without_a_bias_has_a_slot_of_zeros() {
        for (family, due, zeros) in [
            (Family::Bert, "", 0),
            (Family::NomicBert, "bq bk bv bm1 bm2 bgate bm3", 16),
            (Family::Gte, "bm2 bgate", 16),
            (Family::ModernBert, "beln bq bk bv bm1 bm2 bgate bm3 bln2 bfln", 16),
        ] {
            let config = Config { layers: 1, ..config(family, 8, family != Family::ModernBert) };
            config.check().unwrap();
            let slots = config.slots().unwrap().into_iter().filter(|(id, _)| family.lacks_bias(id.module));
            let found: Vec<&str> = slots.map(|(id, _)| id.module.symbol()).collect();
            assert_eq!((found.join(" ").as_str(), config.shared_zeros().unwrap()), (due, zeros), "{family:?}");
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
        let of = |family| config(family, 8, false);
        for (config, said) in [
            (
                Config { rotary: of(Family::Gte).rotary, ..of(Family::Bert) },
                "rotary: expected none in family bert, found one",
            ),
            (Config { rotary: None, ..of(Family::Gte) }, "rotary: expected one in family gte, found none"),
            (Config { relative: None, ..of(Family::MpNet) }, "relative: expected one in family mpnet, found none"),
            (
                Config { disentangled: None, ..of(Family::DebertaV2) },
                "disentangled: expected one in family debertav2, found none",
            ),
            (
                Config { disentangled: Some(Disentangled { buckets: 12, max_distance: 64 }), ..of(Family::DebertaV2) },
                "disentangled: expected buckets, a multiple of 8, and a max_distance above half of them by 2 at least, \
                 found 12 and 64",
            ),
            (
                Config { window: None, ..of(Family::ModernBert) },
                "window: expected one in family modernbert, found none",
            ),
        ] {
            assert_eq!(refused(config), said);
        }
    }
}
