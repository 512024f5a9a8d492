//! Embeddings and models in the form of OpenAI's HTTP interface, for its clients. A model is a task.
//!
//! In: `{"model": "NAME", "input": "..."}`, with `encoding_format`, `dimensions` and `user`, which is ignored. Out: vectors
//! as numbers or as base64 of little-endian f32, and the tokens that ran. Refused: other fields, token ids, tasks of other
//! kinds, and more dimensions than the task has.
//!
//! <https://platform.openai.com/docs/api-reference/embeddings>

use hyper::StatusCode;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    choice::{Sort, choose},
    clients::Client,
    embeddings::{Wanted, embed, texts},
    reply::{self, Refusal, Reply, json},
    tasks::Listing,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    model: String,
    input: Value,
    encoding_format: Option<Encoding>,
    dimensions: Option<usize>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Float,
    Base64,
}

#[derive(Serialize)]
struct Embeddings<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// A task. When it was made is not known, so `created` is 0.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// The vectors of one text or of several.
///
/// # Errors
/// When the body is not such a question, the model is no embedding task, or a text has no answer.
pub(crate) async fn embeddings(client: &Client, listing: &Listing, body: &[u8]) -> Result<Reply, Refusal> {
    let question: Question = reply::question(body, r#"{"model": "NAME", "input": "..."}"#)?;
    let resident = choose(listing, Some(&question.model), Sort::Embedding).map_err(|r| r.about("model"))?;
    let wanted = Wanted { dimensions: question.dimensions, ..Wanted::default() };
    let embedded = embed(client, resident, "input", texts("input", question.input)?, wanted).await?;
    let written = |vector: Vec<f32>| match question.encoding_format {
        None | Some(Encoding::Float) => Vector::Floats(vector),
        Some(Encoding::Base64) => {
            Vector::Base64(base64::encode(vector.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>()))
        }
    };
    let row = |(index, vector)| Embedding { object: "embedding", index, embedding: written(vector) };
    Ok(json(
        StatusCode::OK,
        &Embeddings {
            object: "list",
            data: embedded.vectors.into_iter().enumerate().map(row).collect(),
            model: &resident.name,
            usage: Usage { prompt_tokens: embedded.tokens, total_tokens: embedded.tokens },
        },
    ))
}

/// All tasks.
pub(crate) fn models(listing: &Listing) -> Reply {
    let data = listing.tasks.keys().map(|name| Model::named(name)).collect();
    json(StatusCode::OK, &Models { object: "list", data })
}

/// One task.
///
/// # Errors
/// When there is none of that name.
pub(crate) fn model(listing: &Listing, name: &str) -> Result<Reply, Refusal> {
    match listing.tasks.get(name) {
        Some(resident) => Ok(json(StatusCode::OK, &Model::named(&resident.name))),
        None => Err(Refusal::no_task(listing, name).about("model")),
    }
}

impl<'a> Model<'a> {
    fn named(id: &'a str) -> Self {
        Model { id, object: "model", created: 0, owned_by: "edge-serve" }
    }
}
