//! Families of encoders: which modules they have, and which of these have biases.

use bias_patch::Module;
use serde::{Deserialize, Serialize};

/// Checkpoint families, by how their tensors are named and what their layers compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// BERT.
    Bert,
    /// RoBERTa, XLM-RoBERTa, CamemBERT.
    Roberta,
    /// DistilBERT.
    DistilBert,
    /// ELECTRA.
    Electra,
    /// MPNet.
    MpNet,
    /// ModernBERT, Ettin, mmBERT.
    ModernBert,
    /// ALBERT.
    Albert,
    /// NomicBERT.
    NomicBert,
    /// GTE since version 1.5.
    Gte,
    /// DeBERTa-v2 and DeBERTa-v3.
    DebertaV2,
    /// Any encoder, as an ONNX graph that another program wrote. Its slots are those that the manifest lists.
    Onnx,
}

impl Family {
    /// The name in bundle.json.
    pub fn name(self) -> &'static str {
        match self {
            Family::Bert => "bert",
            Family::Roberta => "roberta",
            Family::DistilBert => "distilbert",
            Family::Electra => "electra",
            Family::MpNet => "mpnet",
            Family::ModernBert => "modernbert",
            Family::Albert => "albert",
            Family::NomicBert => "nomicbert",
            Family::Gte => "gte",
            Family::DebertaV2 => "debertav2",
            Family::Onnx => "onnx",
        }
    }

    /// Whether a module has no bias in checkpoints. Then the base value of its slot is zero.
    pub fn lacks_bias(self, module: Module) -> bool {
        match self {
            Family::ModernBert => true,
            Family::NomicBert => module.is_linear() && module != Module::Pooler,
            Family::Gte => matches!(module, Module::Middle | Module::Gate),
            Family::Bert
            | Family::Roberta
            | Family::DistilBert
            | Family::Electra
            | Family::MpNet
            | Family::Albert
            | Family::DebertaV2
            | Family::Onnx => false,
        }
    }

    /// Whether only its graph says what it computes: its modules have no names of ours.
    pub fn is_graph(self) -> bool {
        self == Family::Onnx
    }

    /// Whether the middle of its MLP is multiplied by a gate.
    pub fn has_gate(self) -> bool {
        self.modules()[1].contains(&Module::Gate)
    }

    /// Whether its queries and keys are rotated.
    pub fn has_rotary_positions(self) -> bool {
        matches!(self, Family::ModernBert | Family::NomicBert | Family::Gte)
    }

    /// Whether its queries and keys meet vectors of distances.
    pub fn has_disentangled_positions(self) -> bool {
        self == Family::DebertaV2
    }

    /// Whether LayerNorm comes before attention and MLP, whose results are added to their inputs; the first layer's
    /// attention then has none, for the embeddings' is before it.
    pub fn norms_come_first(self) -> bool {
        self == Family::ModernBert
    }

    /// The modules that have a bias, outside the layers and in each of them. Each bias is a slot. An encoder may be
    /// without the projection and the pooler, as its [`Config`] says.
    pub(crate) fn modules(self) -> [&'static [Module]; 2] {
        /// A layer of BERT: attention, LayerNorm, MLP, LayerNorm, all with biases.
        const BERT_LAYER: [Module; 8] = [
            Module::Query,
            Module::Key,
            Module::Value,
            Module::AttentionOutput,
            Module::AttentionNorm,
            Module::Middle,
            Module::Output,
            Module::OutputNorm,
        ];
        /// A layer with a gated MLP.
        const GATED_LAYER: [Module; 9] = [
            Module::Query,
            Module::Key,
            Module::Value,
            Module::AttentionOutput,
            Module::AttentionNorm,
            Module::Middle,
            Module::Gate,
            Module::Output,
            Module::OutputNorm,
        ];
        match self {
            Family::Bert | Family::Roberta | Family::MpNet => [&[Module::EmbeddingNorm, Module::Pooler], &BERT_LAYER],
            Family::DistilBert => [&[Module::EmbeddingNorm], &BERT_LAYER],
            Family::Electra => [&[Module::EmbeddingNorm, Module::EmbeddingProjection], &BERT_LAYER],
            Family::Albert => [&[Module::EmbeddingNorm, Module::EmbeddingProjection, Module::Pooler], &BERT_LAYER],
            Family::ModernBert => [&[Module::EmbeddingNorm, Module::FinalNorm], &GATED_LAYER],
            Family::DebertaV2 => [&[Module::EmbeddingNorm, Module::DistanceNorm], &BERT_LAYER],
            Family::NomicBert | Family::Gte => [&[Module::EmbeddingNorm, Module::Pooler], &GATED_LAYER],
            Family::Onnx => [&[], &[]],
        }
    }
}
