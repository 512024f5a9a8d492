//! Ranks texts by how well they suit a query, in the form of text-embeddings-inference (TEI) and in that of Jina and
//! Cohere. The task gives a number for two texts, as a cross-encoder does.
//!
//! In: `{"query": "...", "texts": [...]}`, with `raw_scores`, `return_text`, `truncate` and `truncation_direction`. Out:
//! indices and scores, the best first. Or `{"query": "...", "documents": [...]}`, with `top_n` and `return_documents`; out:
//! the same as `results`. The address may name the task, or `model` may, or both the same; else it is the only one. A score is the sigmoid of
//! the head's output, or with `raw_scores` that output. Refused: both lists or none, and no texts. Other fields are ignored.
//!
//! <https://huggingface.github.io/text-embeddings-inference/>, <https://docs.cohere.com/reference/rerank>

use std::sync::Arc;

use bias_patch::quoted;
use edge_run::{Text, tasks::sigmoid};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ask::{ask, check},
    choice::{Sort, choose, named},
    clients::Client,
    reply::{self, Refusal, Reply, json},
    tasks::Listing,
    tei::takes_whole,
};

#[derive(Deserialize)]
struct Question {
    query: String,
    texts: Option<Vec<String>>,
    documents: Option<Vec<Value>>,
    model: Option<String>,
    raw_scores: Option<bool>,
    return_text: Option<bool>,
    return_documents: Option<bool>,
    top_n: Option<usize>,
    truncate: Option<bool>,
    truncation_direction: Option<String>,
}

/// A text's place in the request, and its score.
#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    score: f32,
}

#[derive(Serialize)]
struct Results<'a> {
    model: &'a str,
    results: Vec<RankOfDocument<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct RankOfDocument<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<TextOf<'a>>,
}

#[derive(Serialize)]
struct TextOf<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Usage {
    total_tokens: usize,
}

/// The texts of a request by their scores.
///
/// # Errors
/// When the body is not such a question, no one task is meant, or a text has no answer.
pub(crate) async fn rerank(
    client: &Client,
    listing: &Listing,
    task: Option<&str>,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let question: Question = reply::question(body, r#"{"query": "...", "texts": ["..."]}"#)?;
    let resident = choose(listing, named(task, question.model.as_deref())?, Sort::Ranking)?;
    let whole = takes_whole(question.truncate, question.truncation_direction.as_deref())?;
    let (field, texts) = match (question.texts, question.documents) {
        (Some(texts), None) => ("texts", texts),
        (None, Some(documents)) => ("documents", documents.into_iter().map(document).collect::<Result<_, _>>()?),
        (Some(_), Some(_)) => return Err(Refusal::expected("body", "texts or documents", "both")),
        (None, None) => return Err(Refusal::expected("body", "texts or documents", "neither")),
    };
    // Each form has its own flag.
    let (flag, name) = match field {
        "texts" => (question.return_documents, "return_documents"),
        _ => (question.return_text, "return_text"),
    };
    if flag == Some(true) {
        return Err(Refusal::expected(name, format!("none beside {field}"), true));
    }
    if texts.is_empty() {
        return Err(Refusal::expected(field, "at least one text", "none"));
    }
    // Before the query is copied for each text. Of many texts, that would be more bytes than a number of 32 bits counts.
    let copies = texts.len().saturating_mul(question.query.len());
    check(texts.len(), texts.iter().map(String::len).sum::<usize>().saturating_add(copies))?;
    let pair = |text: &String| (resident.clone(), Arc::new(Text::pair(&*question.query, &**text)));
    let (mut ranked, mut tokens) = (Vec::with_capacity(texts.len()), 0);
    for (index, answer) in ask(client, texts.iter().map(pair).collect()).await?.into_iter().enumerate() {
        let place = format!("{field}: text {} with the query", index + 1);
        let prediction = answer.map_err(|refusal| refusal.of(&place))?.prediction;
        if whole {
            resident.refuse_cut(&place, &prediction)?;
        }
        tokens += prediction.timing.tokens;
        // The head's output, to which no sigmoid was applied, whether or not the task has one.
        ranked.push((index, prediction.logits.first().copied().unwrap_or(f32::NAN)));
    }
    // By outputs, for sigmoids of large outputs are equal. Stable: of equal ones the first text stays first.
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.truncate(question.top_n.unwrap_or(usize::MAX));
    let raw = question.raw_scores.unwrap_or(false);
    let score = |output: f32| if raw { output } else { sigmoid(output) };
    let text = |index: usize, wanted: Option<bool>| texts.get(index).filter(|_| wanted == Some(true));
    if field == "texts" {
        let rank = |(index, output)| Rank {
            index,
            text: text(index, question.return_text).map(String::as_str),
            score: score(output),
        };
        return Ok(json(StatusCode::OK, &ranked.into_iter().map(rank).collect::<Vec<_>>()));
    }
    let rank = |(index, output)| RankOfDocument {
        index,
        relevance_score: score(output),
        document: text(index, question.return_documents).map(|text| TextOf { text }),
    };
    let results = ranked.into_iter().map(rank).collect();
    Ok(json(StatusCode::OK, &Results { model: &resident.name, results, usage: Usage { total_tokens: tokens } }))
}

/// The text of a document, which is a text or has one.
fn document(value: Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text),
        Value::Object(mut fields) if fields.get("text").is_some_and(Value::is_string) => {
            document(fields.remove("text").unwrap_or_default())
        }
        value => Err(Refusal::expected(
            "documents",
            r#"texts or objects such as {"text": "..."}"#,
            quoted(&value.to_string()),
        )),
    }
}
