//! How well a patch answers labelled texts.

use bias_patch::{Kind, Patch, Task};
use edge_run::{Answer, Encoder, Options, Prediction, Request};
use serde::Serialize;

use crate::{
    Error, Result,
    data::{Example, Gold},
    metrics,
};

/// What a patch scores on labelled texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Texts.
    pub texts: usize,
    /// Texts that were cut to the limit.
    pub truncated: usize,
    /// Metrics by name, 0 to 1 (correlations -1 to 1), those of [`metric_names`] in their order.
    pub metrics: Vec<(&'static str, f64)>,
    /// For each label, how often which label was given for it; empty for regression and spans.
    pub confusion: Vec<Vec<usize>>,
    /// The mean difference between the probability of an answer and how often such are right, over ten ranges of
    /// probability (the expected calibration error); none for regression.
    pub calibration: Option<f64>,
}

impl Evaluation {
    /// The value of a metric; the first one's where there is none of this name.
    pub fn metric(&self, name: &str) -> f64 {
        let named = self.metrics.iter().find(|(known, _)| *known == name).or(self.metrics.first());
        named.map_or(0.0, |(_, value)| *value)
    }
}

/// The metrics of a task; the first is the one that training goes by unless it is told otherwise.
pub fn metric_names(kind: &Kind) -> &'static [&'static str] {
    match kind {
        Kind::Regression { .. } => &["Spearman", "Pearson"],
        Kind::Classification { labels, .. } if labels.len() == 2 => &["accuracy", "F1", "Matthews"],
        Kind::Classification { .. } => &["accuracy", "macro F1", "Matthews"],
        Kind::Tagging { labels } if metrics::are_entities(labels) => &["span F1", "token accuracy"],
        Kind::Tagging { .. } => &["token accuracy"],
        Kind::Span { .. } => &["F1", "exact match"],
    }
}

/// The metric of a task that a person means, whatever the case; the first one where none is named.
///
/// # Errors
/// When the task has no such metric.
pub fn metric_named(kind: &Kind, name: Option<&str>) -> Result<&'static str> {
    let names = metric_names(kind);
    let Some(name) = name else { return Ok(names[0]) };
    names.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().ok_or_else(|| Error::Recipe {
        field: "metric".to_owned(),
        expected: format!("one of {} for a {} task", names.join(", "), kind.name()),
        found: name.to_owned(),
    })
}

/// Answers texts with a patch, and compares.
///
/// # Errors
/// When the patch does not fit the encoder, or a text cannot be answered.
pub fn evaluate(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Evaluation> {
    Ok(compare(patch.task(), &answers(encoder, patch, examples)?, examples))
}

/// The answers of a patch to texts.
pub(crate) fn answers(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Vec<Prediction>> {
    let task = encoder.attach(patch)?;
    let requests: Vec<Request<'_>> =
        examples.iter().map(|example| Request { task: &task, text: &example.text }).collect();
    let predictions = encoder.predict_with(&requests, Options::default());
    Ok(predictions.into_iter().collect::<edge_run::Result<_>>()?)
}

/// Compares answers with what is right.
pub(crate) fn compare(task: &Task, predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    let mut found = match task.kind() {
        Kind::Regression { .. } => values(predictions, examples),
        Kind::Classification { labels, .. } | Kind::Tagging { labels } => classes(task, labels, predictions, examples),
        Kind::Span { .. } => spans(predictions, examples),
    };
    found.texts = examples.len();
    found.truncated = predictions.iter().filter(|p| p.truncated).count();
    // In the order in which they are named, whatever each kind computes first.
    let order = metric_names(task.kind());
    found.metrics.sort_by_key(|(name, _)| order.iter().position(|known| known == name));
    found
}

impl Evaluation {
    fn of(metrics: Vec<(&'static str, f64)>) -> Self {
        Evaluation { texts: 0, truncated: 0, metrics, confusion: Vec::new(), calibration: None }
    }
}

fn values(predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    let values = predictions.iter().zip(examples).filter_map(|(found, example)| match (&found.answer, &example.gold) {
        (Answer::Value(found), Gold::Value(gold)) => Some((f64::from(*found), f64::from(*gold))),
        _ => None,
    });
    let (found, gold): (Vec<f64>, Vec<f64>) = values.unzip();
    Evaluation::of(vec![("Spearman", metrics::spearman(&found, &gold)), ("Pearson", metrics::pearson(&found, &gold))])
}

fn classes(task: &Task, labels: &[String], predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    // Labels by number; one that was not given (a word beyond the limit) is beyond the last.
    let none = labels.len();
    let number = |label: &str| labels.iter().position(|l| l == label).unwrap_or(none);
    let (mut found, mut gold, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    let mut sentences = Vec::new();
    for (prediction, example) in predictions.iter().zip(examples) {
        match (&prediction.answer, &example.gold) {
            (Answer::Labels(ranked), Gold::Class(class)) => {
                let best = ranked.first();
                found.push(best.map_or(none, |best| number(&best.label)));
                scores.push(best.map_or(0.0, |best| f64::from(best.score)));
                gold.push(*class);
            }
            (Answer::Tags(tags), Gold::Tags(due)) => {
                let given = tags.iter().map(|tag| tag.label.as_deref().map_or(none, number));
                let given: Vec<usize> = given.chain(std::iter::repeat(none)).take(due.len()).collect();
                let of_tags = tags.iter().map(|tag| tag.score.map_or(0.0, f64::from));
                scores.extend(of_tags.chain(std::iter::repeat(0.0)).take(due.len()));
                let named = |tags: &[usize]| -> Vec<&str> {
                    tags.iter().map(|tag| labels.get(*tag).map_or("O", String::as_str)).collect()
                };
                sentences.push((named(&given), named(due)));
                found.extend(given);
                gold.extend(due);
            }
            _ => {}
        }
    }
    let accuracy = metrics::accuracy(&found, &gold);
    let mut evaluation = match task.kind() {
        Kind::Tagging { .. } if metrics::are_entities(labels) => {
            Evaluation::of(vec![("token accuracy", accuracy), ("span F1", metrics::span_f1(sentences.into_iter()))])
        }
        Kind::Tagging { .. } => Evaluation::of(vec![("token accuracy", accuracy)]),
        _ => {
            let f1 = match labels.len() {
                2 => ("F1", metrics::f1(&found, &gold, 1)),
                _ => ("macro F1", metrics::macro_f1(&found, &gold)),
            };
            Evaluation::of(vec![("accuracy", accuracy), f1, ("Matthews", metrics::matthews(&found, &gold))])
        }
    };
    let right: Vec<bool> = found.iter().zip(&gold).map(|(a, b)| a == b).collect();
    evaluation.calibration = Some(metrics::calibration_error(&scores, &right));
    evaluation.confusion = vec![vec![0; none]; none];
    for (found, gold) in found.iter().zip(&gold) {
        if let Some(cell) = evaluation.confusion.get_mut(*gold).and_then(|row| row.get_mut(*found)) {
            *cell += 1;
        }
    }
    evaluation
}

fn spans(predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    let (mut exact, mut f1, mut scores, mut right) = (0.0, 0.0, Vec::new(), Vec::new());
    for (prediction, example) in predictions.iter().zip(examples) {
        let (Answer::Spans(spans), Gold::Span(answers)) = (&prediction.answer, &example.gold) else { continue };
        let context: Vec<char> = example.text.second().unwrap_or_default().chars().collect();
        // Places were checked against the context when the texts were read.
        let gold = answers.iter().map(|(start, end)| context.get(*start..*end).unwrap_or_default().iter().collect());
        let gold: Vec<String> = gold.collect();
        let best = spans.first();
        let found = best.map_or("", |span| span.text.as_str());
        let hit = metrics::exact_match(found, &gold);
        exact += hit;
        f1 += metrics::answer_f1(found, &gold);
        scores.push(best.map_or(0.0, |span| f64::from(span.score)));
        right.push(hit > 0.0);
    }
    let count = right.len().max(1) as f64;
    let mut evaluation = Evaluation::of(vec![("F1", f1 / count), ("exact match", exact / count)]);
    evaluation.calibration = Some(metrics::calibration_error(&scores, &right));
    evaluation
}
