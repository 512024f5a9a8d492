//! GTE since version 1.5: BERT with rotary positions and a gated MLP, whose first layer has no biases. Published
//! checkpoints call it `new`, and may have no token types.

use edge_bundle::{Family, Rotary};
use hf_checkpoint::Checkpoint;
use serde_json::Value;

use super::{FamilyTable, Fields, Modules, Positions, Rotation, bert, number_at, plain_rotary, unsupported};
use crate::Result;

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::Gte,
    model_types: &["gte", "new"],
    required: &[
        ("position_embedding_type", "rope"),
        ("layer_norm_type", "layer_norm"),
        ("logn_attention_scale", "false"),
        ("pack_qkv", "true"),
        ("is_decoder", "false"),
    ],
    positions: Positions::Rotary(positions),
    fields: Fields { token_types: Some(("type_vocab_size", 1)), ..bert::TABLE.fields },
    modules: Modules {
        query: "attention.qkv_proj.query",
        key: "attention.qkv_proj.key",
        value: "attention.qkv_proj.value",
        attention_output: "attention.o_proj",
        attention_norm: "attn_ln",
        middle: "mlp.up_gate_proj.middle",
        gate: Some("mlp.up_gate_proj.gate"),
        output: "mlp.down_proj",
        output_norm: "mlp_ln",
        ..bert::TABLE.modules
    },
    ..bert::TABLE
};

/// The base of its angles, and the factor by which NTK scaling stretches them.
fn positions(checkpoint: &Checkpoint) -> Result<Rotation> {
    let missing = |field: &str| unsupported(checkpoint, field, "a number", "none");
    let plain = |theta: f64| Rotary { theta, local_theta: theta, ntk_factor: 1.0 };
    let config = checkpoint.config();
    let old = number_at(checkpoint, "/rope_theta")?;
    if config.get("model_type").and_then(Value::as_str) != Some("new") {
        plain_rotary(checkpoint)?;
        let theta = number_at(checkpoint, "/rope_parameters/rope_theta")?;
        return Ok((plain(theta.or(old).unwrap_or(160_000.0)), None));
    }
    // As its own code reads it.
    let rotary = plain(old.ok_or_else(|| missing("rope_theta"))?);
    let Some(scaling) = config.get("rope_scaling").filter(|scaling| !scaling.is_null()) else {
        return Ok((rotary, None));
    };
    for (field, due) in [("type", Value::from("ntk")), ("mixed_b", Value::Null)] {
        let found = scaling.get(field).unwrap_or(&Value::Null);
        if *found != due {
            return Err(unsupported(checkpoint, &format!("rope_scaling {field}"), &due.to_string(), found));
        }
    }
    let factor = number_at(checkpoint, "/rope_scaling/factor")?;
    Ok((Rotary { ntk_factor: factor.ok_or_else(|| missing("rope_scaling factor"))?, ..rotary }, None))
}
