//! The repository extension: a model is loaded from the file that has its task, and nothing else is ever read.

use std::sync::mpsc::Sender;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::{
    reply::{Refusal, Reply, json},
    tasks::Listing,
    watch::Wake,
};

#[derive(Deserialize, Default)]
struct Filter {
    #[serde(default)]
    ready: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    state: &'static str,
    reason: &'a str,
}

/// Every task, and every file that is not one: with the reason, where a file was refused.
///
/// # Errors
/// When the body is neither empty nor a filter.
pub(crate) fn index(listing: &Listing, body: &[u8]) -> Result<Reply, Refusal> {
    let filter: Filter = match body.trim_ascii() {
        [] => Filter::default(),
        body => serde_json::from_slice(body).map_err(|e| Refusal::expected("body", r#"{"ready": true} or none"#, e))?,
    };
    // A task whose new file was refused answers as before, and says what is wrong with the file.
    let reason = |name: &str| listing.silent.iter().find(|s| s.task == name).map_or("", |s| s.reason.as_str());
    let ready = listing.tasks.values().map(|resident| Entry {
        name: &resident.name,
        version: Some(resident.version()),
        state: "READY",
        reason: reason(&resident.name),
    });
    let silent = listing.silent.iter().filter(|silent| !filter.ready && !listing.tasks.contains_key(&silent.task));
    let silent = silent.map(|s| Entry { name: &s.task, version: None, state: "UNAVAILABLE", reason: &s.reason });
    Ok(json(StatusCode::OK, &ready.chain(silent).collect::<Vec<_>>()))
}

/// Reads a task's file anew.
///
/// # Errors
/// When there is no file of that task, it is refused, or the request brings files of its own.
pub(crate) async fn load(wakes: &Sender<Wake>, listing: &Listing, task: &str, body: &[u8]) -> Result<Reply, Refusal> {
    if let Some(name) = parameters(body)?.keys().next() {
        let found = bias_patch::quoted(name);
        return Err(Refusal::expected("parameters", "none, for tasks come from the directory of patches", found));
    }
    let (sender, receiver) = oneshot::channel();
    wake(wakes, Wake::Load(task.to_owned(), sender))?;
    match receiver.await.map_err(|_| stopping())? {
        Ok(()) => Ok(json(StatusCode::OK, &Map::new())),
        Err(Some(reason)) => Err(Refusal::bad(reason)),
        Err(None) => Err(Refusal::no_task(listing, task)),
    }
}

/// Takes a task out of service until it is loaded, or its file replaced.
///
/// # Errors
/// When no such task answers.
pub(crate) async fn unload(wakes: &Sender<Wake>, listing: &Listing, task: &str, body: &[u8]) -> Result<Reply, Refusal> {
    // "unload_dependents" has nothing to say here: tasks do not depend on each other.
    parameters(body)?;
    let (sender, receiver) = oneshot::channel();
    wake(wakes, Wake::Unload(task.to_owned(), sender))?;
    match receiver.await.map_err(|_| stopping())? {
        true => Ok(json(StatusCode::OK, &Map::new())),
        false => Err(Refusal::no_task(listing, task)),
    }
}

fn parameters(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    #[derive(Deserialize, Default)]
    struct Body {
        #[serde(default)]
        parameters: Map<String, Value>,
    }
    match body.trim_ascii() {
        [] => Ok(Map::new()),
        body => serde_json::from_slice::<Body>(body)
            .map(|body| body.parameters)
            .map_err(|e| Refusal::expected("body", r#"{"parameters": {}} or none"#, e)),
    }
}

fn wake(wakes: &Sender<Wake>, wake: Wake) -> Result<(), Refusal> {
    wakes.send(wake).map_err(|_| stopping())
}

fn stopping() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}
