//! GTE since version 1.5: BERT with rotary positions and a gated MLP, whose first layer has no biases. Published
//! checkpoints call it `new`, and may have no token types.

use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, Positions, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::Gte,
    model_types: &["gte", "new"],
    required: &[
        ("layer_norm_type", "layer_norm"),
        ("logn_attention_scale", "false"),
        ("pack_qkv", "true"),
        ("is_decoder", "false"),
    ],
    positions: Positions::Rotary,
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
