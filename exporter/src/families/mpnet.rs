//! MPNet: BERT with positions after the padding token's, a number added to scores by distance, and no token types.

use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, Positions, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::MpNet,
    model_types: &["mpnet"],
    // transformers counts in 32 buckets and takes token 1 for padding, whatever these fields say.
    required: &[("relative_attention_num_buckets", "32"), ("pad_token_id", "1"), ("is_decoder", "false")],
    positions: Positions::AfterPaddingAndRelative {
        buckets: "relative_attention_num_buckets",
        table: "encoder.relative_attention_bias.weight",
    },
    fields: Fields { token_types: None, ..bert::TABLE.fields },
    modules: Modules {
        query: "attention.attn.q",
        key: "attention.attn.k",
        value: "attention.attn.v",
        attention_output: "attention.attn.o",
        attention_norm: "attention.LayerNorm",
        ..bert::TABLE.modules
    },
    ..bert::TABLE
};
