//! The plain JSON call: one text in, the answers of one task or of every task out.
//!
//! In: `{"text": "..."}`, with `"text_pair"` for tasks on two texts. A call to all tasks may list names in `"tasks"`.
//! `"entities": STRATEGY` asks tagging tasks for entities in place of tags. Out: label, score and times. Refused: an empty list of tasks, a task twice, and
//! other fields, so that a misspelled field is an error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bias_patch::quoted;
use edge_run::{Strategy, Text};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    ask::{Answer, ask},
    clients::Client,
    reply::{self, Refusal, Reply, json},
    tasks::{Listing, Resident},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    text: String,
    text_pair: Option<String>,
    tasks: Option<Vec<String>>,
    entities: Option<Strategy>,
}

/// A task's answer to a text, or why there is none.
#[derive(Serialize)]
struct Row<'a> {
    task: &'a str,
    #[serde(flatten)]
    said: Option<Prediction<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Prediction<'a> {
    #[serde(flatten)]
    answer: &'a edge_run::Answer,
    #[serde(skip_serializing_if = "<[f32]>::is_empty")]
    logits: &'a [f32],
    tokens: usize,
    truncated: bool,
    /// Milliseconds that this text took, as its part of a batch, and milliseconds in the queue before.
    ms: f64,
    waited_ms: f64,
    bytes: usize,
    version: String,
}

/// Rows of several tasks.
#[derive(Serialize)]
struct Rows<'a> {
    answers: Vec<Row<'a>>,
    ms: f64,
}

/// One task's answer to one text.
///
/// # Errors
/// When there is no such task, the body is not a question, or the text has no answer.
pub(crate) async fn one(client: &Client, listing: &Listing, task: &str, body: &[u8]) -> Result<Reply, Refusal> {
    let resident = listing.tasks.get(task).ok_or_else(|| Refusal::no_task(listing, task))?;
    let question = parse(body)?;
    if question.tasks.is_some() {
        return Err(Refusal::expected("tasks", "none, for the address names the task", "a list"));
    }
    let resident = match question.entities {
        Some(strategy) => resident.with_entities(strategy).map_err(|error| Refusal::bad(error.to_string()))?,
        None => resident.clone(),
    };
    let answer = ask(client, vec![(resident.clone(), question.into_text())]).await?.remove(0)?;
    Ok(json(StatusCode::OK, &row(&resident, &Ok(answer))))
}

/// The answers of all tasks, or of the named ones, to one text.
///
/// # Errors
/// When a task is not there or the body is not a question. A task that cannot answer this text has a row that says why.
pub(crate) async fn all(client: &Client, listing: &Listing, body: &[u8]) -> Result<Reply, Refusal> {
    let begun = Instant::now();
    let question = parse(body)?;
    let residents: Vec<&Arc<Resident>> = match &question.tasks {
        None => listing.tasks.values().collect(),
        Some(names) => {
            let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
            if names.is_empty() || twice.is_some() {
                let found = twice.map_or("none".to_owned(), |(_, name)| format!("{} twice", quoted(name)));
                return Err(Refusal::expected("tasks", "names of tasks, each once", found));
            }
            let resident = |name: &String| listing.tasks.get(name).ok_or_else(|| Refusal::no_task(listing, name));
            names.iter().map(resident).collect::<Result<_, _>>()?
        }
    };
    // Tasks that do not tag answer as ever.
    let grouped = |resident: &Arc<Resident>| question.entities.and_then(|how| resident.with_entities(how).ok());
    let residents: Vec<Arc<Resident>> =
        residents.into_iter().map(|resident| grouped(resident).unwrap_or_else(|| resident.clone())).collect();
    let text = question.into_text();
    let questions = residents.iter().map(|resident| (resident.clone(), text.clone())).collect();
    let answers = ask(client, questions).await?;
    let rows = residents.iter().zip(&answers).map(|(resident, answer)| row(resident, answer)).collect();
    Ok(json(StatusCode::OK, &Rows { answers: rows, ms: milliseconds(begun.elapsed()) }))
}

/// To the microsecond, for more digits mean nothing.
fn milliseconds(took: Duration) -> f64 {
    took.as_micros() as f64 / 1e3
}

fn parse(body: &[u8]) -> Result<Question, Refusal> {
    reply::question(body, r#"{"text": "..."}"#)
}

impl Question {
    fn into_text(self) -> Arc<Text> {
        Arc::new(match self.text_pair {
            Some(second) => Text::pair(self.text, second),
            None => Text::one(self.text),
        })
    }
}

fn row<'a>(resident: &'a Resident, answer: &'a Result<Answer, Refusal>) -> Row<'a> {
    let task = &resident.name;
    let Answer { prediction, waited } = match answer {
        Ok(answer) => answer,
        Err(refusal) => return Row { task, said: None, error: Some(&refusal.message) },
    };
    let timing = &prediction.timing;
    let took = timing.tokenize + timing.switch + timing.encode + timing.answer;
    let said = Prediction {
        answer: &prediction.answer,
        // Of a vector, they are that vector again, before it is cut and normalized.
        logits: if matches!(prediction.answer, edge_run::Answer::Vector(_)) { &[] } else { &prediction.logits },
        tokens: timing.tokens,
        truncated: prediction.truncated,
        ms: milliseconds(took),
        waited_ms: milliseconds(*waited),
        bytes: resident.bytes,
        version: resident.version(),
    };
    Row { task, said: Some(said), error: None }
}
