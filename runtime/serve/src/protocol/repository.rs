//! The repository extension: lists, loads and unloads models.
//!
//! In: a filter, or the name of a task. Out: the list, or nothing. Refused: a task without a file, and files in the
//! request: a model is loaded only from the directory of patches.

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
    ready: Option<bool>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    state: &'static str,
    reason: &'a str,
}

/// Every task, and every file that does not serve one; with the reason if the file was refused.
///
/// # Errors
/// When the body is neither empty nor a filter.
pub(crate) fn index(listing: &Listing, body: &[u8]) -> Result<Reply, Refusal> {
    let filter: Filter = match body.trim_ascii() {
        [] => Filter::default(),
        body => serde_json::from_slice(body).map_err(|e| Refusal::expected("body", r#"{"ready": true} or none"#, e))?,
    };
    // A task whose new file was refused keeps answering, and has the reason of the refusal.
    let reason = |name: &str| listing.unavailable.iter().find(|s| s.task == name).map_or("", |s| s.reason.as_str());
    let ready = listing.tasks.values().map(|resident| Entry {
        name: &resident.name,
        version: Some(resident.version()),
        state: "READY",
        reason: reason(&resident.name),
    });
    let unavailable = listing
        .unavailable
        .iter()
        .filter(|unavailable| filter.ready != Some(true) && !listing.tasks.contains_key(&unavailable.task));
    let unavailable =
        unavailable.map(|s| Entry { name: &s.task, version: None, state: "UNAVAILABLE", reason: &s.reason });
    Ok(json(StatusCode::OK, &ready.chain(unavailable).collect::<Vec<_>>()))
}

/// Reads a task's file again.
///
/// # Errors
/// When there is no file of that task, when it is refused, or when the request contains files.
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

/// Takes a task out of service until it is loaded or its file is replaced.
///
/// # Errors
/// When no such task answers.
pub(crate) async fn unload(wakes: &Sender<Wake>, listing: &Listing, task: &str, body: &[u8]) -> Result<Reply, Refusal> {
    // "unload_dependents" has no effect: tasks do not depend on each other.
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
        parameters: Option<Map<String, Value>>,
    }
    match body.trim_ascii() {
        [] => Ok(Map::new()),
        body => serde_json::from_slice::<Body>(body)
            .map(|body| body.parameters.unwrap_or_default())
            .map_err(|e| Refusal::expected("body", r#"{"parameters": {}} or none"#, e)),
    }
}

fn wake(wakes: &Sender<Wake>, wake: Wake) -> Result<(), Refusal> {
    wakes.send(wake).map_err(|_| stopping())
}

fn stopping() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_as_good_as_nothing() {
        for body in ["", "{}", r#"{"parameters":null}"#, r#"{"parameters":{}}"#] {
            assert!(parameters(body.as_bytes()).unwrap().is_empty(), "{body}");
        }
        assert_eq!(index(&Listing::default(), br#"{"ready":null}"#).unwrap().status(), StatusCode::OK);
        assert!(parameters(br#"{"parameters":7}"#).is_err());
    }
}
