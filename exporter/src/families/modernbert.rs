//! ModernBERT, with Ettin, mmBERT and others of its kind: rotary positions, near tokens alone in most layers, a gated
//! MLP, LayerNorm before attention and MLP, and no biases.

use bias_patch::Activation;
use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, Positions, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::ModernBert,
    model_types: &["modernbert"],
    required: &[("attention_bias", "false"), ("mlp_bias", "false"), ("norm_bias", "false")],
    positions: Positions::Rotary,
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
