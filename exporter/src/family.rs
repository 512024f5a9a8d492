//! What a checkpoint is: its family, its shape, and what its tensors are called.
//!
//! In: `config.json`. Out: a [`Config`], and for each place in the encoder the checkpoint's name of the module there.
//! Refused: families, activations and position schemes that the encoder graph does not have.

use bias_patch::{Activation, Config, Family, Term};
use hf_checkpoint::Checkpoint;

use crate::{Error, Result};

/// Reads the shape of the encoder from a checkpoint's `config.json`.
///
/// # Errors
/// When the family or a value is not supported; the message names the field.
pub(crate) fn config(checkpoint: &Checkpoint) -> Result<Config> {
    let model_type: String = checkpoint.config_field("model_type")?;
    let family = match model_type.as_str() {
        "bert" => Family::Bert,
        "roberta" | "xlm-roberta" | "camembert" => Family::Roberta,
        "distilbert" => Family::DistilBert,
        "electra" => Family::Electra,
        other => {
            return Err(unsupported(
                checkpoint,
                "model_type",
                "bert, roberta, xlm-roberta, camembert, distilbert or electra",
                other,
            ));
        }
    };
    let distil = family == Family::DistilBert;
    let number = |bert: &str, distilbert: &str| checkpoint.config_field::<u32>(if distil { distilbert } else { bert });
    let or = |field: &str, default: u32| -> Result<u32> {
        if checkpoint.config().get(field).is_some_and(|v| !v.is_null()) {
            Ok(checkpoint.config_field(field)?)
        } else {
            Ok(default)
        }
    };

    let name: String = checkpoint.config_field(if distil { "activation" } else { "hidden_act" })?;
    let activation = match name.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => return Err(unsupported(checkpoint, "hidden_act", "gelu, gelu_new, gelu_pytorch_tanh or relu", other)),
    };
    if let Some(positions) = checkpoint.config().get("position_embedding_type").and_then(|v| v.as_str())
        && positions != "absolute"
    {
        return Err(unsupported(checkpoint, "position_embedding_type", "absolute", positions));
    }
    if checkpoint.config().get("is_decoder").and_then(serde_json::Value::as_bool) == Some(true) {
        return Err(unsupported(checkpoint, "is_decoder", "false", "true"));
    }

    let hidden = number("hidden_size", "dim")?;
    let positions: u32 = checkpoint.config_field("max_position_embeddings")?;
    // RoBERTa counts positions from the row after the padding token's.
    let position_offset = if family == Family::Roberta { or("pad_token_id", 1)?.saturating_add(1) } else { 0 };
    let pooler = format!("{}.weight", module(family, Term::Pooler, 0));
    let config = Config {
        family,
        layers: number("num_hidden_layers", "n_layers")?,
        hidden,
        embedding: if family == Family::Electra { or("embedding_size", hidden)? } else { hidden },
        heads: number("num_attention_heads", "n_heads")?,
        intermediate: number("intermediate_size", "hidden_dim")?,
        vocabulary: checkpoint.config_field("vocab_size")?,
        max_length: positions.checked_sub(position_offset).filter(|n| *n > 0).ok_or_else(|| {
            unsupported(checkpoint, "max_position_embeddings", &format!("more than {position_offset}"), positions)
        })?,
        position_offset,
        token_types: if distil { 0 } else { or("type_vocab_size", 2)? },
        activation,
        layer_norm_epsilon: if distil { 1e-12 } else { checkpoint.config_field("layer_norm_eps")? },
        pooler: checkpoint.contains(&pooler),
    };
    config.check().map_err(|e| e.in_file(&checkpoint.path().join("config.json")))?;
    Ok(config)
}

/// The checkpoint's name of the module whose bias is `term`'s: with `.weight` and `.bias` its tensors.
pub(crate) fn module(family: Family, term: Term, layer: u16) -> String {
    let (layers, inside) = match family {
        Family::DistilBert => (
            "transformer.layer",
            match term {
                Term::Query => "attention.q_lin",
                Term::Key => "attention.k_lin",
                Term::Value => "attention.v_lin",
                Term::AttentionOutput => "attention.out_lin",
                Term::AttentionNorm => "sa_layer_norm",
                Term::Middle => "ffn.lin1",
                Term::Output => "ffn.lin2",
                Term::OutputNorm => "output_layer_norm",
                Term::EmbeddingProjection | Term::EmbeddingNorm | Term::Pooler => "",
            },
        ),
        Family::Bert | Family::Roberta | Family::Electra => (
            "encoder.layer",
            match term {
                Term::Query => "attention.self.query",
                Term::Key => "attention.self.key",
                Term::Value => "attention.self.value",
                Term::AttentionOutput => "attention.output.dense",
                Term::AttentionNorm => "attention.output.LayerNorm",
                Term::Middle => "intermediate.dense",
                Term::Output => "output.dense",
                Term::OutputNorm => "output.LayerNorm",
                Term::EmbeddingProjection | Term::EmbeddingNorm | Term::Pooler => "",
            },
        ),
    };
    match term {
        Term::EmbeddingProjection => "embeddings_project".to_owned(),
        Term::EmbeddingNorm => "embeddings.LayerNorm".to_owned(),
        Term::Pooler => "pooler.dense".to_owned(),
        _ => format!("{layers}.{layer}.{inside}"),
    }
}

fn unsupported(checkpoint: &Checkpoint, field: &str, expected: &str, found: impl ToString) -> Error {
    Error::Unsupported {
        path: checkpoint.path().join("config.json"),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}
