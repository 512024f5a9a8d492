//! NomicBERT: BERT with rotary positions, a gated MLP through SiLU, and linear layers without biases; LayerNorms have
//! biases.

use edge_bundle::{Family, Rotary};
use hf_checkpoint::Checkpoint;

use super::{FamilyTable, Fields, Modules, Positions, Rotation, bert, number_at, plain_rotary, unsupported};
use crate::Result;

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::NomicBert,
    model_types: &["nomic_bert"],
    required: &[
        ("prenorm", "false"),
        ("parallel_block", "false"),
        ("causal", "false"),
        ("use_rms_norm", "false"),
        ("rotary_emb_fraction", "1.0"),
        ("rotary_emb_interleaved", "false"),
        ("rotary_scaling_factor", "null"),
        ("rotary_emb_scale_base", "null"),
        ("activation_function", "swiglu"),
        ("hidden_act", "silu"),
        ("qkv_proj_bias", "false"),
        ("mlp_fc1_bias", "false"),
        ("mlp_fc2_bias", "false"),
        ("num_experts", "0"),
    ],
    // The names of transformers, and those of the model's own code.
    also: &[
        ("num_hidden_layers", "n_layer"),
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("intermediate_size", "n_inner"),
        ("layer_norm_eps", "layer_norm_epsilon"),
    ],
    positions: Positions::Rotary(positions),
    fields: Fields {
        // n_positions is a number that the model's own code does not read.
        max_length: &["max_position_embeddings", "max_trained_positions"],
        activation: None,
        ..bert::TABLE.fields
    },
    modules: Modules {
        embedding_norm: "emb_ln",
        layers: "encoder.layers",
        query: "attn.Wqkv.query",
        key: "attn.Wqkv.key",
        value: "attn.Wqkv.value",
        attention_output: "attn.out_proj",
        attention_norm: "norm1",
        middle: "mlp.fc12",
        gate: Some("mlp.fc11"),
        output: "mlp.fc2",
        output_norm: "norm2",
        ..bert::TABLE.modules
    },
};

/// The base of its angles, which may be written twice.
fn positions(checkpoint: &Checkpoint) -> Result<Rotation> {
    plain_rotary(checkpoint)?;
    let (new, own) =
        (number_at(checkpoint, "/rope_parameters/rope_theta")?, number_at(checkpoint, "/rotary_emb_base")?);
    let theta = match (new, own) {
        (Some(new), Some(own)) if new != own => {
            return Err(unsupported(checkpoint, "rotary_emb_base", &format!("{new}, as rope_theta says"), own));
        }
        _ => new.or(own).ok_or_else(|| unsupported(checkpoint, "rotary_emb_base", "a number", "none"))?,
    };
    Ok((Rotary { theta, local_theta: theta, ntk_factor: 1.0 }, None))
}
