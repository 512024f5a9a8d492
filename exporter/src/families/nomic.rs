//! NomicBERT: BERT with rotary positions, a gated MLP through SiLU, and linear layers without biases; LayerNorms have
//! biases.

use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, Positions, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::NomicBert,
    model_types: &["nomic_bert"],
    required: &[
        ("prenorm", "false"),
        ("parallel_block", "false"),
        ("causal", "false"),
        ("use_rms_norm", "false"),
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
    positions: Positions::Rotary,
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
