//! ModernBERT, with Ettin, mmBERT and others of its kind: rotary positions, near tokens alone in most layers, a gated
//! MLP, LayerNorm before attention and MLP, and no biases.

use bias_patch::Activation;
use edge_bundle::{Family, Rotary, Window};
use hf_checkpoint::Checkpoint;
use serde_json::Value;

use super::{FamilyTable, Fields, Modules, Positions, Rotation, bert, unsupported};
use crate::Result;

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::ModernBert,
    model_types: &["modernbert"],
    required: &[("attention_bias", "false"), ("mlp_bias", "false"), ("norm_bias", "false")],
    positions: Positions::Rotary(positions),
    fields: Fields {
        token_types: None,
        activation: Some(("hidden_activation", Activation::Gelu)),
        layer_norm_epsilon: Some(("norm_eps", 1e-5)),
        ..bert::TABLE.fields
    },
    modules: Modules {
        word_embeddings: "embeddings.tok_embeddings",
        embedding_norm: "embeddings.norm",
        final_norm: Some("final_norm"),
        layers: "layers",
        query: "attn.Wqkv.query",
        key: "attn.Wqkv.key",
        value: "attn.Wqkv.value",
        attention_output: "attn.Wo",
        attention_norm: "attn_norm",
        middle: "mlp.Wi.middle",
        gate: Some("mlp.Wi.gate"),
        output: "mlp.Wo",
        output_norm: "mlp_norm",
        pooler: None,
        ..bert::TABLE.modules
    },
    ..bert::TABLE
};

/// The bases of its angles, and which layers see near tokens alone.
fn positions(checkpoint: &Checkpoint) -> Result<Rotation> {
    let config = checkpoint.config();
    let number = |pointer: &str| config.pointer(pointer).filter(|value| !value.is_null());
    // Two ways to say the same: transformers 4 and 5.
    for place in ["rope_parameters", "rope_scaling"] {
        // For each kind of layer, or flat for both.
        let Some(fields) = number(&format!("/{place}")).and_then(Value::as_object) else { continue };
        let is_kind = |name: &str| ["full_attention", "sliding_attention"].contains(&name);
        let of_kinds = fields.iter().filter(|(name, _)| is_kind(name)).filter_map(|(_, fields)| fields.as_object());
        let flat = fields.iter().filter(|(name, _)| !is_kind(name));
        for (name, found) in of_kinds.flatten().chain(flat).filter(|(_, found)| !found.is_null()) {
            let plain = match name.as_str() {
                "rope_type" | "type" => found == "default",
                "rope_theta" => place == "rope_parameters",
                _ => false,
            };
            if !plain {
                return Err(unsupported(checkpoint, &format!("{place} {name}"), "plain rotary positions", found));
            }
        }
    }
    let theta = |new: &str, old: &str| -> Result<Option<f64>> {
        let found = number(&format!("/rope_parameters/{new}/rope_theta")).or_else(|| number(&format!("/{old}")));
        let as_number = |found: &Value| found.as_f64().ok_or_else(|| unsupported(checkpoint, old, "a number", found));
        found.map(as_number).transpose()
    };
    let theta_of_all = theta("full_attention", "global_rope_theta")?.unwrap_or(160_000.0);
    // A null says that near layers have the base of the others.
    let null = config.get("local_rope_theta").is_some_and(Value::is_null);
    let default = if null { theta_of_all } else { 10_000.0 };
    let local_theta = theta("sliding_attention", "local_rope_theta")?.unwrap_or(default);
    let rotary = Rotary { theta: theta_of_all, local_theta, ntk_factor: 1.0 };
    let whole = |field: &str, default: u64| match number(&format!("/{field}")) {
        None => Ok(default),
        Some(found) => found.as_u64().ok_or_else(|| unsupported(checkpoint, field, "a whole number", found)),
    };
    let small = |field: &str, default: u64| {
        let found = whole(field, default)?;
        u32::try_from(found).map_err(|_| unsupported(checkpoint, field, "a number below 2^32", found))
    };
    let window =
        Window { reach: small("local_attention", 128)? / 2, global_every: small("global_attn_every_n_layers", 3)? };
    if let Some(types) = number("/layer_types").and_then(Value::as_array) {
        for (layer, found) in types.iter().enumerate() {
            let due = match layer.is_multiple_of(window.global_every.max(1) as usize) {
                true => "full_attention",
                false => "sliding_attention",
            };
            if found != due {
                return Err(unsupported(checkpoint, &format!("layer_types {layer}"), due, found));
            }
        }
    }
    Ok((rotary, Some(window)))
}
