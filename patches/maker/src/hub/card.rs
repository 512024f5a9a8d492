//! The model card of a patch: the README.md of its repository on the Hub.
//!
//! In: a patch, and what its author says. Out: Markdown with the metadata of the Hub's specification (modelcard.md in
//! its hub-docs) as YAML. A value that is not known is left out.

use std::{collections::BTreeSet, fmt::Write};

use bias_patch::{Digest, Kind, Patch, Task};

use super::Push;
use crate::{Evaluation, metric_names};

/// The line by which a card is known as one that may be written again.
pub(super) const MARK: &str =
    "<!-- Written by edge-patch push, which replaces this file as long as this line is in it. -->";

/// A score, as a card tells it.
struct Score {
    metric: String,
    value: f64,
}

/// Writes the card of `patch`, whose file `name` has `bytes`.
pub(super) fn card(push: &Push<'_>, repository: &str, name: &str, patch: &Patch, bytes: &[u8]) -> String {
    let task = patch.task();
    let (data, scores) = scores(push, patch);
    let mut text = String::from("---\nlibrary_name: edge-run\n");
    // Writing to a string does not fail.
    let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
    line(format!("pipeline_tag: {}", pipeline_tag(task.kind())));
    if let Some(license) = push.license {
        line(format!("license: {}", scalar(license)));
    }
    if let Some(base) = push.base_model {
        line(format!("base_model: {}", scalar(base)));
        line("base_model_relation: adapter".to_owned());
    }
    line("tags:\n- edge-run".to_owned());
    for (tag, low_rank) in [("bitfit", false), ("lora", true)] {
        if patch.slots().iter().any(|slot| slot.id.kind.is_low_rank() == low_rank) {
            line(format!("- {tag}"));
        }
    }
    if !scores.is_empty() {
        let ids: BTreeSet<String> = scores.iter().map(|score| metric_id(&score.metric)).collect();
        line("metrics:".to_owned());
        ids.iter().for_each(|id| line(format!("- {id}")));
        line(format!("model-index:\n- name: {}\n  results:\n  - task:", scalar(task.name())));
        line(format!("      type: {}", pipeline_tag(task.kind())));
        // The type is a data set of the Hub, if it is one.
        line(format!("    dataset:\n      type: unknown\n      name: {}\n    metrics:", scalar(&data)));
        for Score { metric, value } in &scores {
            line(format!("    - type: {}\n      value: {value:.4}\n      name: {}", metric_id(metric), scalar(metric)));
        }
    }
    line(format!("---\n{MARK}\n\n# {}\n", task.name()));
    line("A patch for edge-run: one task for one frozen encoder.\n".to_owned());
    line("| what | |\n|---|---|".to_owned());
    line(format!("| task | {} |", cell(&of_task(task))));
    line(format!(
        "| encoder | `{}`{} |",
        patch.encoder(),
        push.base_model.map(|base| format!(", {}", cell(base))).unwrap_or_default()
    ));
    line(format!("| file | {name}, {} bytes, SHA-256 `{}` |", bytes.len(), Digest::of(bytes)));
    for (key, value) in patch.metadata() {
        line(format!("| {} | {} |", cell(key), cell(value)));
    }
    line(format!("\n```\nedge-patch pull hf:{repository}\nedge-run -p hf:{repository} texts.txt\n```"));
    if !scores.is_empty() {
        line(format!("\nScores on {}:\n\n| metric | score |\n|---|---|", cell(&data)));
        scores.iter().for_each(|Score { metric, value }| line(format!("| {metric} | {value:.4} |")));
    }
    text
}

/// The texts that were scored, and the scores: those of an evaluation, else that of the note that a training leaves.
fn scores(push: &Push<'_>, patch: &Patch) -> (String, Vec<Score>) {
    if let Some(measured) = &push.measured {
        let Evaluation { texts, metrics, .. } = &measured.evaluation;
        let scores = metrics.iter().map(|(metric, value)| Score { metric: (*metric).to_owned(), value: *value });
        return (format!("{}, {texts} texts", measured.data), scores.collect());
    }
    let of_note = patch.metadata().get("metric").and_then(|note| noted(patch.task().kind(), note));
    of_note.map_or_else(Default::default, |(data, score)| (data, vec![score]))
}

/// A score in a note such as "accuracy 0.8521 on 872 texts".
fn noted(kind: &Kind, note: &str) -> Option<(String, Score)> {
    let (metric, rest) = metric_names(kind).iter().find_map(|name| Some((*name, note.strip_prefix(name)?)))?;
    let (value, data) = rest.trim_start().split_once(" on ")?;
    let value: f64 = value.parse().ok().filter(|value: &f64| value.abs() <= 100.0)?;
    // No metric is above 1, so this is in percent.
    let value = if value.abs() > 1.0 { value / 100.0 } else { value };
    Some((format!("dev set, {data}"), Score { metric: metric.to_owned(), value }))
}

/// The Hub's name for tasks of a kind.
fn pipeline_tag(kind: &Kind) -> &'static str {
    match kind {
        Kind::Classification { .. } | Kind::Regression { .. } | Kind::MultiLabel { .. } => "text-classification",
        Kind::Tagging { .. } => "token-classification",
        Kind::Span { .. } => "question-answering",
        Kind::Embedding(_) => "feature-extraction",
    }
}

/// The Hub's name for a metric.
fn metric_id(metric: &str) -> String {
    match metric {
        "Matthews" => "matthews_correlation".to_owned(),
        "Spearman" => "spearmanr".to_owned(),
        "Pearson" => "pearsonr".to_owned(),
        "F1" | "macro F1" | "micro F1" => "f1".to_owned(),
        "token accuracy" => "accuracy".to_owned(),
        other => other.to_lowercase().replace([' ', '@'], "_"),
    }
}

fn of_task(task: &Task) -> String {
    let labels = task.kind().labels();
    let labels = if labels.is_empty() { String::new() } else { format!(": {}", labels.join(", ")) };
    let texts = if task.inputs() == 1 { "one text" } else { "two texts" };
    format!("{} of {texts}{labels}", task.kind().name())
}

/// A string of YAML. JSON's strings are such.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The cell of a table, in which text has no meaning for Markdown.
fn cell(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if c.is_ascii_punctuation() && "\\`*_[]<>|&".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_read_from_the_note_of_a_training() {
        let of = |kind: &str| serde_json::from_value::<Task>(serde_json::json!({ "name": "a", "kind": kind })).unwrap();
        let read = |kind: &str, note: &str| noted(of(kind).kind(), note).map(|(data, s)| (data, s.metric, s.value));
        let of_span = |value| Some(("dev set, 296 texts".to_owned(), "F1".to_owned(), value));
        assert_eq!(read("span", "F1 0.4590 on 296 texts"), of_span(0.459));
        assert_eq!(read("span", "F1 45.90 on 296 texts"), of_span(45.90 / 100.0));
        assert_eq!(read("regression", "Spearman 0.8 on dev").unwrap().1, "Spearman");
        for other in ["", "F1", "F1 0.5", "F1 many on 3 texts", "F1 NaN on 3 texts", "accuracy 0.5 on 3 texts"] {
            assert_eq!(read("span", other), None, "{other}");
        }
    }

    #[test]
    fn notes_and_names_stay_text() {
        assert_eq!(scalar("a: \"b\"\n---"), r#""a: \"b\"\n---""#);
        assert_eq!(cell("a|b\n<!-- [c](d) -->"), r"a\|b \<!-- \[c\](d) --\>");
    }
}
