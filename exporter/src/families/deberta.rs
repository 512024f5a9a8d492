//! DeBERTa-v2 and v3: BERT whose queries and keys meet vectors of distances, and which has no other positions, no token
//! types and no pooler. Models with a convolution beside the first layer (v2-xlarge and v2-xxlarge) are refused.

use bias_patch::Activation;
use edge_bundle::{Disentangled, Family};
use hf_checkpoint::Checkpoint;
use serde_json::Value;

use super::{FamilyTable, Fields, Modules, Positions, bert, unsupported};
use crate::Result;

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::DebertaV2,
    model_types: &["deberta-v2"],
    required: &[("is_decoder", "false"), ("type_vocab_size", "0"), ("conv_kernel_size", "0")],
    positions: Positions::Disentangled { read: positions, table: "encoder.rel_embeddings.weight" },
    fields: Fields {
        token_types: None,
        activation: Some(("hidden_act", Activation::Gelu)),
        layer_norm_epsilon: Some(("layer_norm_eps", 1e-7)),
        ..bert::TABLE.fields
    },
    modules: Modules {
        distance_norm: Some("encoder.LayerNorm"),
        query: "attention.self.query_proj",
        key: "attention.self.key_proj",
        value: "attention.self.value_proj",
        pooler: None,
        ..bert::TABLE.modules
    },
    ..bert::TABLE
};

/// How distances are counted. What transformers takes where a file leaves a field out is another kind of attention, so
/// these fields have to be there.
fn positions(checkpoint: &Checkpoint) -> Result<Disentangled> {
    let found = |field: &str| checkpoint.config().get(field).filter(|value| !value.is_null());
    let said = |field: &str| found(field).map_or_else(|| "none".to_owned(), Value::to_string);
    for (field, due) in [("relative_attention", true), ("share_att_key", true), ("position_biased_input", false)] {
        if found(field).and_then(Value::as_bool) != Some(due) {
            return Err(unsupported(checkpoint, field, &due.to_string(), said(field)));
        }
    }
    let words = |field: &str| -> Vec<String> {
        let listed = match found(field) {
            Some(Value::String(text)) => text.split('|').map(str::to_owned).collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let mut words: Vec<String> = listed.iter().map(|word| word.trim().to_lowercase()).collect();
        words.sort_unstable();
        words
    };
    if words("pos_att_type") != ["c2p", "p2c"] {
        return Err(unsupported(checkpoint, "pos_att_type", "p2c and c2p", said("pos_att_type")));
    }
    if !words("norm_rel_ebd").contains(&"layer_norm".to_owned()) {
        return Err(unsupported(checkpoint, "norm_rel_ebd", "layer_norm", said("norm_rel_ebd")));
    }
    let number = |field: &str| -> Result<Option<i64>> {
        let number = |value: &Value| value.as_i64().ok_or_else(|| unsupported(checkpoint, field, "a number", value));
        found(field).map(number).transpose()
    };
    let hidden: u32 = checkpoint.config_field("hidden_size")?;
    let heads: u32 = checkpoint.config_field("num_attention_heads")?;
    let widths = [("embedding_size", Some(hidden)), ("attention_head_size", hidden.checked_div(heads))];
    for (field, due) in widths {
        if let (Some(found), Some(due)) = (number(field)?, due)
            && found != i64::from(due)
        {
            let due = format!("{due}, by hidden_size and num_attention_heads");
            return Err(unsupported(checkpoint, field, &due, found));
        }
    }
    let positive = |field: &str, found: i64| {
        let number = u32::try_from(found).ok().filter(|number| *number > 0);
        number.ok_or_else(|| unsupported(checkpoint, field, "a number above 0", found))
    };
    let buckets = number("position_buckets")?.unwrap_or(-1);
    let max_distance = match number("max_relative_positions")?.filter(|most| *most > 0) {
        Some(most) => positive("max_relative_positions", most)?,
        None => checkpoint.config_field("max_position_embeddings")?,
    };
    Ok(Disentangled { buckets: positive("position_buckets", buckets)?, max_distance })
}
