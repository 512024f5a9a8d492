//! The prompts of a query and of its documents, where an embedding task has one for queries.
//!
//! In: the kind of a task, and a gold label. Out: what goes before the first text of a pair, and before the others.
//! Nothing is refused: other tasks, and pairs with a number, have one prompt for all texts.

use bias_patch::{Embedding, Kind, Task};

use crate::{Result, data::Gold};

/// The prompt of queries.
const QUERY: &str = "query";
/// The prompt of documents: the first that the task has.
const DOCUMENT: [&str; 2] = ["document", "passage"];

/// The names of the prompts of a pair's first text and of its others; none for the task's default.
pub(crate) fn of_pair(kind: &Kind, gold: &Gold) -> [Option<&'static str>; 2] {
    let (Kind::Embedding(Embedding { prompts, .. }), Gold::Pair(_)) = (kind, gold) else { return [None; 2] };
    match prompts.contains_key(QUERY) {
        true => [Some(QUERY), DOCUMENT.into_iter().find(|name| prompts.contains_key(*name))],
        false => [None; 2],
    }
}

/// The task with the prompt of a name as its default, and no other.
///
/// # Errors
/// When the format refuses the prompt as a default.
pub(crate) fn prompted(task: &Task, name: &str) -> Result<Task> {
    let Kind::Embedding(spec) = task.kind() else { return Ok(task.clone()) };
    let default = spec.prompts.get(name).map(|prompt| ("default".to_owned(), prompt.clone()));
    let spec = Embedding { prompts: default.into_iter().collect(), ..spec.clone() };
    Ok(task.with_kind(Kind::Embedding(spec))?)
}
