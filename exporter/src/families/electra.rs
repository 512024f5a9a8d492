//! ELECTRA: BERT with narrower embedding tables, projected to the hidden width, and without a pooler.

use edge_bundle::Family;

use super::{FamilyTable, Fields, Modules, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::Electra,
    model_types: &["electra"],
    fields: Fields { embedding: Some("embedding_size"), ..bert::TABLE.fields },
    modules: Modules { embedding_projection: Some("embeddings_project"), pooler: None, ..bert::TABLE.modules },
    ..bert::TABLE
};
