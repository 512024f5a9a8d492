//! Embeddings in the form of text-embeddings-inference (TEI), for its clients, and what they ask about a model.
//!
//! In: `{"inputs": "..."}`, with `normalize` (true unless it says otherwise), `truncate`, `truncation_direction`,
//! `prompt_name`, `dimensions` and `model`. Out: a list of vectors. Refused: token ids, cutting at the left, a prompt that the task
//! does not have, more dimensions than it has, a `model` that is not the address's task, and, where `truncate` is false, texts that are too long. Other fields are
//! ignored, as TEI ignores them. That server has one model. Here the address may name a task: `/embed/NAME`.
//!
//! <https://huggingface.github.io/text-embeddings-inference/>

use std::borrow::Cow;

use bias_patch::{Kind, Pooling, quoted};
use edge_bundle::Element;
use edge_run::RUN_TOKENS;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    choice::{Sort, choose, named},
    clients::Client,
    embeddings::{Wanted, embed, texts},
    limits,
    reply::{self, Refusal, Reply},
    tasks::Listing,
};

#[derive(Deserialize)]
struct Question {
    inputs: Value,
    model: Option<String>,
    normalize: Option<bool>,
    prompt_name: Option<String>,
    dimensions: Option<usize>,
    truncate: Option<bool>,
    truncation_direction: Option<String>,
}

/// Whether texts that are too long are refused: where `truncate` is false.
///
/// # Errors
/// When they are to be cut at the left.
pub(crate) fn takes_whole(truncate: Option<bool>, direction: Option<&str>) -> Result<bool, Refusal> {
    match direction {
        None | Some("Right" | "right") => Ok(truncate == Some(false)),
        Some(other) => {
            let expected = "Right, for texts are cut at their end";
            Err(Refusal::expected("truncation_direction", expected, quoted(other)))
        }
    }
}

/// The vectors of one text or of several, under the task of this name or the only one there is.
///
/// # Errors
/// When the body is not such a question, no one task is meant, or a text has no answer.
pub(crate) async fn embeddings(
    client: &Client,
    listing: &Listing,
    task: Option<&str>,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let question: Question = reply::question(body, r#"{"inputs": "..."}"#)?;
    let resident = choose(listing, named(task, question.model.as_deref())?, Sort::Embedding)?;
    let resident = match &question.prompt_name {
        None => Cow::Borrowed(resident),
        Some(name) => Cow::Owned(resident.prompted(name)?),
    };
    let wanted = Wanted {
        dimensions: question.dimensions,
        normalize: Some(question.normalize.unwrap_or(true)),
        whole: takes_whole(question.truncate, question.truncation_direction.as_deref())?,
    };
    let embedded = embed(client, &resident, "inputs", texts("inputs", question.inputs)?, wanted).await?;
    Ok(reply::json(StatusCode::OK, &embedded.vectors))
}

/// What a client may want to know of the task of this name, or of the only one that embeds or ranks.
///
/// # Errors
/// When no one task is meant.
pub(crate) fn info(listing: &Listing, task: Option<&str>) -> Result<Reply, Refusal> {
    let resident = choose(listing, task, Sort::Any)?;
    let (spec, manifest) = (resident.task.spec(), resident.worker.encoder().bundle().manifest());
    let model_type = match spec.kind() {
        Kind::Embedding(embedding) => {
            let last = embedding.pooling == Pooling::Last;
            json!({ "embedding": { "pooling": if last { "last_token" } else { embedding.pooling.name() } } })
        }
        _ => json!({ "reranker": { "id2label": { "0": "LABEL_0" }, "label2id": { "LABEL_0": 0 } } }),
    };
    let info = json!({
        "model_id": resident.name,
        "model_sha": resident.version(),
        "model_dtype": match manifest.weights() {
            Element::F32 => "float32",
            Element::F16 => "float16",
            quantized => quantized.option(),
        },
        "model_type": model_type,
        "max_concurrent_requests": limits::CONNECTIONS,
        "max_input_length": spec.max_length().min(manifest.config.max_length),
        "max_batch_tokens": RUN_TOKENS,
        "max_client_batch_size": limits::ANSWERS,
        "auto_truncate": true,
        "tokenization_workers": 1,
        "version": env!("CARGO_PKG_VERSION"),
    });
    Ok(reply::json(StatusCode::OK, &info))
}
