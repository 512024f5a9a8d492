//! DistilBERT: names of its own, no token types, no pooler, and a LayerNorm epsilon that config.json does not say.

use bias_patch::Activation;
use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::DistilBert,
    model_types: &["distilbert"],
    fields: Fields {
        layers: "n_layers",
        hidden: "dim",
        embedding: None,
        heads: "n_heads",
        intermediate: "hidden_dim",
        token_types: None,
        activation: Some(("activation", Activation::Gelu)),
        layer_norm_epsilon: None,
        ..bert::TABLE.fields
    },
    modules: Modules {
        layers: "transformer.layer",
        query: "attention.q_lin",
        key: "attention.k_lin",
        value: "attention.v_lin",
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        middle: "ffn.lin1",
        output: "ffn.lin2",
        output_norm: "output_layer_norm",
        pooler: None,
        ..bert::TABLE.modules
    },
    ..bert::TABLE
};
