//! ALBERT: one layer's matrices and gains in every layer, and embedding tables that are projected to the hidden width.
//! Each repetition of the layer has biases of its own, so that a patch can tell them apart.

use bias_patch::Activation;
use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::Albert,
    model_types: &["albert"],
    required: &[
        ("position_embedding_type", "absolute"),
        ("is_decoder", "false"),
        ("num_hidden_groups", "1"),
        ("inner_group_num", "1"),
    ],
    fields: Fields {
        embedding: Some("embedding_size"),
        activation: Some(("hidden_act", Activation::GeluTanh)),
        ..bert::TABLE.fields
    },
    modules: Modules {
        embedding_projection: Some("encoder.embedding_hidden_mapping_in"),
        layers: "encoder.repetition",
        query: "attention.query",
        key: "attention.key",
        value: "attention.value",
        attention_output: "attention.dense",
        attention_norm: "attention.LayerNorm",
        middle: "ffn",
        output: "ffn_output",
        output_norm: "full_layer_layer_norm",
        pooler: Some("pooler"),
        ..bert::TABLE.modules
    },
    ..bert::TABLE
};
