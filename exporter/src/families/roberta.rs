//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT with other positions. Most have one token type, so no input for it.

use edge_bundle::Family;

use super::{FamilyTable, Positions, bert};

pub(super) const TABLE: FamilyTable = FamilyTable {
    family: Family::Roberta,
    model_types: &["roberta", "xlm-roberta", "camembert"],
    positions: Positions::AfterPadding,
    ..bert::TABLE
};
