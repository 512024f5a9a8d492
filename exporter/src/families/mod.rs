//! Families of checkpoints, one file each: a table of what is particular to it.
//!
//! In: `config.json`. Out: the shape of the encoder ([`config`]), and the table of its family ([`table`]), by which
//! [`crate::encoder`] builds the graph. Refused: families, activations and kinds of attention that the graph does not
//! have.
//!
//! CONTRIBUTING.md says how to add one.

mod albert;
mod bert;
mod deberta;
mod distilbert;
mod electra;
mod gte;
mod modernbert;
mod mpnet;
mod nomic;
mod roberta;

use bias_patch::{Activation, Module};
use edge_bundle::{Config, Disentangled, Family, Part, Relative, Rotary, Window};
use hf_checkpoint::{Checkpoint, Rotation, rotation};
use serde_json::Value;

use crate::{Error, Result};

/// Every family there is.
const FAMILIES: [&FamilyTable; 10] = [
    &bert::TABLE,
    &roberta::TABLE,
    &distilbert::TABLE,
    &electra::TABLE,
    &mpnet::TABLE,
    &modernbert::TABLE,
    &albert::TABLE,
    &nomic::TABLE,
    &gte::TABLE,
    &deberta::TABLE,
];

/// What is particular to a family.
pub(crate) struct FamilyTable {
    family: Family,
    /// Values of `model_type` in `config.json`.
    model_types: &'static [&'static str],
    /// Fields of `config.json` that may be missing, or else have this value: with another the encoder computes
    /// something else.
    required: &'static [(&'static str, &'static str)],
    /// Fields that have a second name. A file may have either, or both if they agree.
    also: &'static [(&'static str, &'static str)],
    positions: Positions,
    fields: Fields,
    /// Names in the checkpoint.
    pub modules: Modules,
}

/// What an encoder knows of where tokens are.
enum Positions {
    /// A table of positions, whose first row is the first token's.
    FromZero,
    /// A table of positions, in which the first token's row comes after the padding token's.
    AfterPadding,
    /// That, and a number added to scores by the distance of tokens: the fields of how many buckets of distances there
    /// are, and the checkpoint's table.
    AfterPaddingAndRelative { buckets: &'static str, table: &'static str },
    /// Queries and keys meet vectors of distances, which are made of a table of the checkpoint. `config.json` says how
    /// distances are counted.
    Disentangled { read: fn(&Checkpoint) -> Result<Disentangled>, table: &'static str },
    /// Queries and keys are rotated; there is no table. [`hf_checkpoint::rotation`] says by what.
    Rotary,
}

/// Names of fields in `config.json`, where families differ.
struct Fields {
    layers: &'static str,
    hidden: &'static str,
    /// Width of the embedding tables; without a field, and where a checkpoint leaves it out, the hidden width.
    embedding: Option<&'static str>,
    heads: &'static str,
    intermediate: &'static str,
    /// The longest sequence, or rows of the table of positions: the first of these that a checkpoint has.
    max_length: &'static [&'static str],
    /// Rows of the token type table, and how many where a checkpoint leaves it out; without a field there is no such
    /// table.
    token_types: Option<(&'static str, u32)>,
    /// The field, and what transformers takes where a checkpoint leaves it out; without a field it is SiLU.
    activation: Option<(&'static str, Activation)>,
    /// Likewise; without a field it is 1e-12.
    layer_norm_epsilon: Option<(&'static str, f64)>,
}

/// Names of modules in the checkpoint: with `.weight` and `.bias` they are its tensors. Parts of fused tensors, and the
/// layers of a shared layer, have names of ours.
pub(crate) struct Modules {
    pub word_embeddings: &'static str,
    pub position_embeddings: &'static str,
    pub token_type_embeddings: &'static str,
    embedding_norm: &'static str,
    /// Where the embedding tables are narrower than the hidden width.
    embedding_projection: Option<&'static str>,
    /// The LayerNorm of the table of distances, where there is one.
    distance_norm: Option<&'static str>,
    /// The LayerNorm after the last layer, where there is one.
    final_norm: Option<&'static str>,
    /// Before the number of a layer; the modules below come after it.
    pub layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    middle: &'static str,
    /// The gate of the MLP, where it is gated.
    gate: Option<&'static str>,
    output: &'static str,
    output_norm: &'static str,
    /// A checkpoint may be without; None where the family's encoder has none.
    pooler: Option<&'static str>,
}

impl FamilyTable {
    /// The module whose bias is `term`'s, of `layer` where the term is one of layers.
    ///
    /// # Panics
    /// When the family has no such module; [`config`] gives no shape that asks for it.
    pub fn module(&self, term: Module, layer: Option<u16>) -> String {
        let m = &self.modules;
        let name = match term {
            Module::EmbeddingNorm => Some(m.embedding_norm),
            Module::EmbeddingProjection => m.embedding_projection,
            Module::DistanceNorm => m.distance_norm,
            Module::Query => Some(m.query),
            Module::Key => Some(m.key),
            Module::Value => Some(m.value),
            Module::AttentionOutput => Some(m.attention_output),
            Module::AttentionNorm => Some(m.attention_norm),
            Module::Middle => Some(m.middle),
            Module::Gate => m.gate,
            Module::FinalNorm => m.final_norm,
            Module::Output => Some(m.output),
            Module::OutputNorm => Some(m.output_norm),
            Module::Pooler => m.pooler,
            Module::Graph => None,
        };
        let name = name.unwrap_or_else(|| panic!("encoders of family {} have no {term:?}", self.family.name()));
        match layer {
            Some(layer) => format!("{}.{layer}.{name}", m.layers),
            None => name.to_owned(),
        }
    }

    /// The name of the matrix or gain of `term` in the bundle: that of the checkpoint, unless it has it as a part of
    /// another.
    pub fn frozen(&self, term: Module, layer: Option<u16>) -> String {
        let module = self.module(term, layer);
        let (in_checkpoint, part) = self.family.in_checkpoint(&module);
        format!("{}.weight", if part == Part::WHOLE { in_checkpoint } else { module })
    }

    /// The module of the checkpoint whose tensors have the matrix or gain of `term`, and its bias, and the part of their
    /// rows.
    pub fn source(&self, term: Module, layer: Option<u16>) -> (String, Part) {
        self.family.in_checkpoint(&self.module(term, layer))
    }

    /// The checkpoint's table for buckets of distances: of numbers, or of what queries and keys meet.
    pub fn distance_table(&self) -> Option<&'static str> {
        match self.positions {
            Positions::AfterPaddingAndRelative { table, .. } | Positions::Disentangled { table, .. } => Some(table),
            _ => None,
        }
    }
}

/// The table of a family.
pub(crate) fn table(family: Family) -> &'static FamilyTable {
    let found = FAMILIES.into_iter().find(|table| table.family == family);
    found.unwrap_or_else(|| panic!("family {} is not in FAMILIES", family.name()))
}

/// Reads the shape of the encoder from a checkpoint's `config.json`.
///
/// # Errors
/// When the family or a value is not supported; the message names the field.
pub(crate) fn config(checkpoint: &Checkpoint) -> Result<Config> {
    let known: Vec<&str> = FAMILIES.iter().flat_map(|table| table.model_types).copied().collect();
    let Some(model_type) = checkpoint.config().get("model_type").and_then(Value::as_str) else {
        // Checkpoints of before it was invented are BERT's.
        let expected = format!("{}; of an old checkpoint of BERT add \"model_type\": \"bert\"", known.join(", "));
        return Err(unsupported(checkpoint, "model_type", &expected, "none"));
    };
    let Some(table) = FAMILIES.into_iter().find(|table| table.model_types.contains(&model_type)) else {
        let expected = format!(
            "{}; of another encoder of texts export the ONNX graph: `optimum-cli export onnx --model {} --task \
             feature-extraction graph`, then `edge-export graph/model.onnx`",
            known.join(", "),
            checkpoint.path().display()
        );
        return Err(unsupported(checkpoint, "model_type", &expected, model_type));
    };
    let given = |field: &str| checkpoint.config().get(field).filter(|value| !value.is_null());
    // Pruned heads leave narrower matrices, which the graph does not have.
    for (field, expected) in table.required.iter().chain(&[("pruned_heads", "{}")]) {
        let found = given(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        if let Some(found) = found.filter(|found| !is_same(found, expected)) {
            return Err(unsupported(checkpoint, field, expected, found));
        }
    }
    let fields = &table.fields;
    let named = |field: &'static str| named(checkpoint, table.also, field);
    let number = |field: &'static str| -> Result<u32> { Ok(checkpoint.config_field(named(field)?)?) };
    let number_or =
        |field: &'static str, default: u32| if given(field).is_some() { number(field) } else { Ok(default) };

    let activation = match fields.activation {
        None => Activation::Silu,
        Some((field, default)) => activation(checkpoint, field, default)?,
    };
    let epsilon = match fields.layer_norm_epsilon {
        None => 1e-12,
        Some((field, default)) => {
            let field = named(field)?;
            if given(field).is_some() { checkpoint.config_field(field)? } else { default }
        }
    };
    let hidden = number(fields.hidden)?;
    let longest =
        fields.max_length.iter().copied().find(|field| given(field).is_some()).unwrap_or(fields.max_length[0]);
    let rows = number(longest)?;
    let position_offset = match table.positions {
        Positions::FromZero | Positions::Rotary | Positions::Disentangled { .. } => 0,
        Positions::AfterPadding | Positions::AfterPaddingAndRelative { .. } => {
            number_or("pad_token_id", 1)?.saturating_add(1)
        }
    };
    let relative = match table.positions {
        Positions::AfterPaddingAndRelative { buckets, .. } => {
            Some(Relative { buckets: number_or(buckets, 32)?, max_distance: 128 })
        }
        _ => None,
    };
    let disentangled = match table.positions {
        Positions::Disentangled { read, .. } => Some(read(checkpoint)?),
        _ => None,
    };
    let (rotary, window) = match table.positions {
        Positions::Rotary => {
            let Rotation { theta, local_theta, ntk_factor, window } = rotation(checkpoint)?;
            let window = window.map(|[reach, global_every]| Window { reach, global_every });
            (Some(Rotary { theta, local_theta, ntk_factor }), window)
        }
        _ => (None, None),
    };
    let max_length = rows.checked_sub(position_offset).filter(|length| *length > 0);
    let config = Config {
        family: table.family,
        layers: number(fields.layers)?,
        hidden,
        embedding: fields.embedding.map_or(Ok(hidden), |field| number_or(field, hidden))?,
        heads: number(fields.heads)?,
        intermediate: number(fields.intermediate)?,
        vocabulary: number("vocab_size")?,
        max_length: max_length
            .ok_or_else(|| unsupported(checkpoint, longest, &format!("more than {position_offset}"), rows))?,
        position_offset,
        token_types: fields.token_types.map_or(Ok(0), |(field, default)| number_or(field, default))?,
        activation,
        layer_norm_epsilon: epsilon,
        pooler: table.modules.pooler.is_some_and(|module| checkpoint.contains(&format!("{module}.weight"))),
        relative,
        disentangled,
        rotary,
        window,
    };
    config.check().map_err(|e| e.in_file(&checkpoint.path().join("config.json")))?;
    Ok(config)
}

/// Whether a value of `config.json` is that of a table; 1 is 1.0 too.
fn is_same(found: &str, expected: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    found == expected || number(found).is_some() && number(found) == number(expected)
}

/// The name by which `config.json` has a field that may have a second one.
///
/// # Errors
/// When it has both, with different values.
fn named(checkpoint: &Checkpoint, also: &[(&'static str, &'static str)], field: &'static str) -> Result<&'static str> {
    let given = |field: &str| checkpoint.config().get(field).filter(|value| !value.is_null());
    let Some((_, second)) = also.iter().find(|(first, _)| *first == field) else { return Ok(field) };
    match (given(field), given(second)) {
        (Some(first), Some(other)) if !is_same(&first.to_string(), &other.to_string()) => {
            Err(unsupported(checkpoint, second, &format!("{first}, as {field} says"), other))
        }
        (None, Some(_)) => Ok(second),
        _ => Ok(field),
    }
}

/// The activation that a field names, or the default. Under several names transformers computes one formula.
fn activation(checkpoint: &Checkpoint, field: &str, default: Activation) -> Result<Activation> {
    if checkpoint.config().get(field).is_none_or(Value::is_null) {
        return Ok(default);
    }
    match checkpoint.config_field::<String>(field)?.as_str() {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
            Ok(Activation::GeluTanh)
        }
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => {
            let expected = "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu or swish";
            Err(unsupported(checkpoint, field, expected, other))
        }
    }
}

fn unsupported(checkpoint: &Checkpoint, field: &str, expected: &str, found: impl ToString) -> Error {
    Error::Unsupported {
        path: checkpoint.path().join("config.json"),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_of_the_format_has_one_table_and_model_types_of_its_own() {
        for family in [
            Family::Bert,
            Family::Roberta,
            Family::DistilBert,
            Family::Electra,
            Family::MpNet,
            Family::ModernBert,
            Family::Albert,
            Family::NomicBert,
            Family::Gte,
            Family::DebertaV2,
        ] {
            assert_eq!(FAMILIES.iter().filter(|table| table.family == family).count(), 1, "{family:?}");
        }
        let mut model_types: Vec<&str> = FAMILIES.iter().flat_map(|table| table.model_types).copied().collect();
        model_types.sort_unstable();
        let count = model_types.len();
        model_types.dedup();
        assert_eq!(model_types.len(), count, "{model_types:?}");
    }

    #[test]
    fn modules_are_called_as_in_the_checkpoint() {
        let named = |family, term, layer| table(family).module(term, layer);
        assert_eq!(named(Family::Roberta, Module::Query, Some(3)), "encoder.layer.3.attention.self.query");
        assert_eq!(named(Family::DistilBert, Module::Middle, Some(0)), "transformer.layer.0.ffn.lin1");
        assert_eq!(named(Family::Electra, Module::EmbeddingProjection, None), "embeddings_project");
        assert_eq!(named(Family::Bert, Module::Pooler, None), "pooler.dense");
        assert_eq!(named(Family::Albert, Module::Middle, Some(2)), "encoder.repetition.2.ffn");
        let frozen = |family, layer| table(family).frozen(Module::Middle, Some(layer));
        assert_eq!(frozen(Family::Gte, 1), "encoder.layer.1.mlp.up_gate_proj.middle.weight");
        assert_eq!(frozen(Family::Albert, 1), "encoder.albert_layer_groups.0.albert_layers.0.ffn.weight");
        assert_eq!(frozen(Family::Albert, 2), frozen(Family::Albert, 1));
    }
}
