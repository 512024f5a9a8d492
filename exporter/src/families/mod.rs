//! Families of checkpoints, one file each: a table of what is particular to it.
//!
//! In: `config.json`. Out: the shape of the encoder ([`config`]), and the table of its family ([`table`]), by which
//! [`crate::encoder`] builds the graph. Refused: families, activations and kinds of attention that the graph does not
//! have.
//!
//! CONTRIBUTING.md says how to add one.

mod bert;
mod distilbert;
mod electra;
mod roberta;

use bias_patch::{Activation, Module};
use edge_bundle::{Config, Family};
use hf_checkpoint::Checkpoint;

use crate::{Error, Result};

/// Every family there is.
const FAMILIES: [&FamilyTable; 4] = [&bert::TABLE, &roberta::TABLE, &distilbert::TABLE, &electra::TABLE];

/// What is particular to a family.
pub(crate) struct FamilyTable {
    family: Family,
    /// Values of `model_type` in `config.json`.
    model_types: &'static [&'static str],
    /// Fields of `config.json` that may be missing, or else have this value: with another the encoder computes
    /// something else.
    required: &'static [(&'static str, &'static str)],
    positions: Positions,
    fields: Fields,
    /// Names in the checkpoint.
    pub modules: Modules,
}

/// Which row of the position table a token takes. Both schemes are absolute.
enum Positions {
    /// The first token takes row 0.
    FromZero,
    /// The first token takes the row after the padding token's.
    AfterPadding,
}

/// Names of fields in `config.json`, where families differ.
struct Fields {
    layers: &'static str,
    hidden: &'static str,
    /// Width of the embedding tables; without a field, and where a checkpoint leaves it out, the hidden width.
    embedding: Option<&'static str>,
    heads: &'static str,
    intermediate: &'static str,
    /// Rows of the token type table, 2 where a checkpoint leaves it out; without a field there is no such table.
    token_types: Option<&'static str>,
    activation: &'static str,
    /// Without a field it is 1e-12.
    layer_norm_epsilon: Option<&'static str>,
}

/// Names of modules in the checkpoint: with `.weight` and `.bias` they are its tensors.
pub(crate) struct Modules {
    pub word_embeddings: &'static str,
    pub position_embeddings: &'static str,
    pub token_type_embeddings: &'static str,
    embedding_norm: &'static str,
    /// Where the embedding tables are narrower than the hidden width.
    embedding_projection: Option<&'static str>,
    /// Before the number of a layer; the modules below come after it.
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    middle: &'static str,
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
            Module::Query => Some(m.query),
            Module::Key => Some(m.key),
            Module::Value => Some(m.value),
            Module::AttentionOutput => Some(m.attention_output),
            Module::AttentionNorm => Some(m.attention_norm),
            Module::Middle => Some(m.middle),
            Module::Output => Some(m.output),
            Module::OutputNorm => Some(m.output_norm),
            Module::Pooler => m.pooler,
        };
        let name = name.unwrap_or_else(|| panic!("encoders of family {} have no {term:?}", self.family.name()));
        match layer {
            Some(layer) => format!("{}.{layer}.{name}", m.layers),
            None => name.to_owned(),
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
    let model_type: String = checkpoint.config_field("model_type")?;
    let Some(table) = FAMILIES.into_iter().find(|table| table.model_types.contains(&model_type.as_str())) else {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|table| table.model_types).copied().collect();
        return Err(unsupported(checkpoint, "model_type", &known.join(", "), model_type));
    };
    let given = |field: &str| checkpoint.config().get(field).filter(|value| !value.is_null());
    for (field, expected) in table.required {
        let found = given(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        if let Some(found) = found.filter(|found| found != expected) {
            return Err(unsupported(checkpoint, field, expected, found));
        }
    }
    let fields = &table.fields;
    let number = |field: &str| checkpoint.config_field::<u32>(field);
    let number_or = |field: &str, default: u32| if given(field).is_some() { number(field) } else { Ok(default) };

    let name: String = checkpoint.config_field(fields.activation)?;
    let activation = match name.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => {
            return Err(unsupported(checkpoint, fields.activation, "gelu, gelu_new, gelu_pytorch_tanh or relu", other));
        }
    };
    let hidden = number(fields.hidden)?;
    let rows = number("max_position_embeddings")?;
    let position_offset = match table.positions {
        Positions::FromZero => 0,
        Positions::AfterPadding => number_or("pad_token_id", 1)?.saturating_add(1),
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
        max_length: max_length.ok_or_else(|| {
            unsupported(checkpoint, "max_position_embeddings", &format!("more than {position_offset}"), rows)
        })?,
        position_offset,
        token_types: fields.token_types.map_or(Ok(0), |field| number_or(field, 2))?,
        activation,
        layer_norm_epsilon: fields.layer_norm_epsilon.map_or(Ok(1e-12), |field| checkpoint.config_field(field))?,
        pooler: table.modules.pooler.is_some_and(|module| checkpoint.contains(&format!("{module}.weight"))),
    };
    config.check().map_err(|e| e.in_file(&checkpoint.path().join("config.json")))?;
    Ok(config)
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
        for family in [Family::Bert, Family::Roberta, Family::DistilBert, Family::Electra] {
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
    }
}
