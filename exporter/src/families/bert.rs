//! BERT. RoBERTa and ELECTRA say only how they differ from it.

use bias_patch::Activation;
use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, Positions};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::Bert,
    model_types: &["bert"],
    required: &[("position_embedding_type", "absolute"), ("is_decoder", "false")],
    also: &[],
    positions: Positions::FromZero,
    fields: Fields {
        layers: "num_hidden_layers",
        hidden: "hidden_size",
        embedding: None,
        heads: "num_attention_heads",
        intermediate: "intermediate_size",
        max_length: &["max_position_embeddings"],
        token_types: Some(("type_vocab_size", 2)),
        activation: Some(("hidden_act", Activation::Gelu)),
        layer_norm_epsilon: Some(("layer_norm_eps", 1e-12)),
    },
    modules: Modules {
        word_embeddings: "embeddings.word_embeddings",
        position_embeddings: "embeddings.position_embeddings",
        token_type_embeddings: "embeddings.token_type_embeddings",
        embedding_norm: "embeddings.LayerNorm",
        embedding_projection: None,
        distance_norm: None,
        final_norm: None,
        layers: "encoder.layer",
        query: "attention.self.query",
        key: "attention.self.key",
        value: "attention.self.value",
        attention_output: "attention.output.dense",
        attention_norm: "attention.output.LayerNorm",
        middle: "intermediate.dense",
        gate: None,
        output: "output.dense",
        output_norm: "output.LayerNorm",
        pooler: Some("pooler.dense"),
    },
};
