//! The tasks of a command's patches.
//!
//! In: patches and an encoder. Out: tasks, and what each is called in its rows. Refused: patches for another encoder,
//! prompts that a task does not have, and entities, alternatives and logits where no task has them.

use std::path::PathBuf;

use bias_patch::{Kind, printable};

use super::OutputFormat;
use crate::{Encoder, Error, Patch, Result, Strategy, Task};

/// How tasks answer, where there is a choice.
#[derive(Clone, Copy, Debug)]
pub struct TaskOptions<'a> {
    /// The prompt of each task.
    pub prompt: Option<&'a str>,
    /// How tagging tasks group tokens into entities; none to give tags.
    pub entities: Option<Strategy>,
}

/// The tasks of patches, which were read from `paths`.
///
/// # Errors
/// When a patch does not fit the encoder, or no task has what the options ask for.
pub fn tasks(encoder: &Encoder, patches: &[Patch], paths: &[PathBuf], options: TaskOptions<'_>) -> Result<Vec<Task>> {
    let tags = |patch: &Patch| matches!(patch.task().kind(), Kind::Tagging { .. });
    if options.entities.is_some() && !patches.iter().any(tags) {
        let kinds: Vec<&str> = patches.iter().map(|patch| patch.task().kind().name()).collect();
        return Err(Error::Usage {
            option: "--entities".to_owned(),
            expected: "a tagging task".to_owned(),
            found: kinds.join(" and "),
        });
    }
    // Tasks without prompts read texts as they are, unless no task has one: that is refused.
    let has_prompts = |patch: &Patch| matches!(patch.task().kind(), Kind::Embedding(_));
    let any_prompts = patches.iter().any(has_prompts);
    let task = |(patch, path): (&Patch, &PathBuf)| {
        let task = encoder.attach(patch).map_err(|e| match e {
            Error::Patch(e) => Error::Patch(e.in_file(path)),
            other => other,
        })?;
        match (options.prompt, options.entities) {
            (Some(name), _) if !any_prompts || has_prompts(patch) => task.prompted(name),
            (_, Some(strategy)) if tags(patch) => task.with_entities(strategy),
            _ => Ok(task),
        }
    };
    patches.iter().zip(paths).map(task).collect()
}

/// What is asked for beside the answers, and what takes their place.
#[derive(Clone, Copy, Debug)]
pub struct Extras {
    /// Alternatives of an answer, if they are asked for.
    pub top: Option<usize>,
    /// Whether the head's outputs are asked for.
    pub logits: bool,
    /// Whether labels take the place of vectors.
    pub labels: bool,
    /// Whether texts are ranked.
    pub query: bool,
    /// The format of the answers.
    pub format: OutputFormat,
}

/// Checks that at least one of `tasks` has what is asked for.
///
/// # Errors
/// When none has.
pub fn check_extras(extras: Extras, tasks: &[Task]) -> Result<()> {
    let Extras { top, logits, labels, query, format } = extras;
    let refused = |option: &str, expected: &str, found: String| {
        Err(Error::Usage { option: option.to_owned(), expected: expected.to_owned(), found })
    };
    let has = |what: &dyn Fn(&Task) -> bool| tasks.iter().any(what);
    let kinds = || tasks.iter().map(|task| task.spec().in_words()).collect::<Vec<_>>().join(" and ");
    let alternatives = labels || query || has(&|task| task.kind().has_alternatives());
    if top.is_some_and(|top| top > 1) && !alternatives {
        return refused("--top-k", "a task whose answers have alternatives", kinds());
    }
    let is_vector = |task: &Task| matches!(task.spec().kind(), Kind::Embedding(_));
    if logits && format.is_array() {
        return refused("--logits", "a format for answers", "one for vectors alone".to_owned());
    }
    if logits && !has(&|task| task.kind().pooling().is_some() && !(labels && is_vector(task))) {
        let found = if labels { "--labels".to_owned() } else { kinds() };
        return refused("--logits", "a task with one row of outputs for a text", found);
    }
    Ok(())
}

/// The name of each task in its rows: the task's own, or the patch's path if several tasks have the same name.
pub fn names(tasks: &[Task], paths: &[PathBuf]) -> Vec<String> {
    let alone = |name: &str| tasks.iter().filter(|task| task.spec().name() == name).count() == 1;
    // A name with tabs or line breaks would break its row.
    let file = |path: &PathBuf| printable(&path.display().to_string());
    let pairs = tasks.iter().zip(paths);
    pairs
        .map(|(task, path)| if alone(task.spec().name()) { task.spec().name().to_owned() } else { file(path) })
        .collect()
}
