//! Which task answers a request of a form that knows one model, or that calls a task a model.
//!
//! In: the sort of task that can answer, and a name, if the request has one. Out: the task. Refused: a task of another
//! sort, two names, and no name where none or several could answer. Every refusal names those that could.

use std::sync::Arc;

use bias_patch::{Kind, quoted};
use hyper::StatusCode;

use crate::{
    reply::Refusal,
    tasks::{Listing, Resident},
};

/// Tasks that answer the same form of request.
#[derive(Clone, Copy)]
pub(crate) enum Sort {
    /// Embeddings.
    Embedding,
    /// A number for two texts, as cross-encoders rank with it.
    Ranking,
    /// Either of them.
    Any,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Sort::Embedding => "embedding task",
            Sort::Ranking => "regression task on two texts",
            Sort::Any => "embedding task or regression task on two texts",
        }
    }

    fn article(self) -> &'static str {
        if matches!(self, Sort::Ranking) { "a" } else { "an" }
    }

    fn has(self, resident: &Resident) -> bool {
        let spec = resident.task.spec();
        let embeds = matches!(spec.kind(), Kind::Embedding(_));
        let ranks = matches!(spec.kind(), Kind::Regression { .. }) && spec.inputs() == 2;
        match self {
            Sort::Embedding => embeds,
            Sort::Ranking => ranks,
            Sort::Any => embeds || ranks,
        }
    }
}

/// The task of this name, or the only one of its sort.
///
/// # Errors
/// When there is no such task, it is of another sort, or no name was given where not exactly one could answer.
pub(crate) fn choose<'a>(listing: &'a Listing, name: Option<&str>, sort: Sort) -> Result<&'a Arc<Resident>, Refusal> {
    let able: Vec<&Arc<Resident>> = listing.tasks.values().filter(|resident| sort.has(resident)).collect();
    let names = || match able[..] {
        [] => format!("no {} answers here", sort.name()),
        _ => {
            let names: Vec<&str> = able.iter().map(|resident| &*resident.name).collect();
            format!("those that answer here: {}", names.join(", "))
        }
    };
    let Some(name) = name else {
        return match able[..] {
            [only] => Ok(only),
            [] => Err(Refusal::new(StatusCode::NOT_FOUND, format!("{}; GET /tasks lists what does", names()))),
            _ => {
                let expected = format!("the name of {} {} at its end", sort.article(), sort.name());
                Err(Refusal::expected("address", expected, format!("none; {}", names())))
            }
        };
    };
    let resident = listing.tasks.get(name).ok_or_else(|| Refusal::no_task(listing, name).and(names()))?;
    match sort.has(resident) {
        true => Ok(resident),
        false => {
            let expected = format!("{} {}", sort.article(), sort.name());
            let found = format!("{}; {}", resident.task.spec().in_words(), names());
            Err(Refusal::expected(&format!("task {name}"), expected, found))
        }
    }
}

/// The name of a task, from the address or from the field `model`; none where neither has one.
///
/// # Errors
/// When the two differ.
pub(crate) fn named<'a>(address: Option<&'a str>, model: Option<&'a str>) -> Result<Option<&'a str>, Refusal> {
    match (address, model) {
        (Some(task), Some(model)) if task != model => {
            Err(Refusal::expected("model", format!("{task}, as the address says"), quoted(model)))
        }
        _ => Ok(address.or(model)),
    }
}
