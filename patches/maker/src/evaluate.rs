//! Scores a patch on labelled texts.
//!
//! In: a patch and labelled texts. Out: an [`Evaluation`]. Refused: a patch that does not fit the encoder, and an
//! unknown metric.

use bias_patch::{Kind, Patch, Task};
use edge_run::{
    Encoder, Options, Prediction, Request,
    tasks::{self, Answered, Scores},
};
use serde::Serialize;

use crate::{Error, Result, data::Example};

/// What a patch scores on labelled texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Texts.
    pub texts: usize,
    /// Texts that were cut to the limit.
    pub truncated: usize,
    /// Metrics by name, 0 to 1 (correlations -1 to 1), those of [`metric_names`] in their order.
    pub metrics: Vec<(&'static str, f64)>,
    /// The confusion matrix: for each gold label, how often each label was predicted; empty for regression and spans.
    pub confusion: Vec<Vec<usize>>,
    /// The expected calibration error: the mean difference between predicted probability and accuracy, over ten ranges
    /// of probability; none for regression.
    pub calibration: Option<f64>,
}

impl Evaluation {
    /// The value of a metric; of the first metric if there is none of this name.
    pub fn metric(&self, name: &str) -> f64 {
        let named = self.metrics.iter().find(|(known, _)| *known == name).or(self.metrics.first());
        named.map_or(0.0, |(_, value)| *value)
    }
}

/// The metrics of a task. Training selects by the first unless told otherwise.
pub fn metric_names(kind: &Kind) -> &'static [&'static str] {
    tasks::of(kind).metrics()
}

/// The metric of this name, ignoring case; the first one if no name is given.
///
/// # Errors
/// When the task has no such metric, or is of a kind that is not scored.
pub fn metric_named(kind: &Kind, name: Option<&str>) -> Result<&'static str> {
    let names = metric_names(kind);
    let Some(first) = names.first() else {
        return Err(Error::Recipe {
            field: "kind of the task".to_owned(),
            expected: "one that is scored".to_owned(),
            found: kind.name().to_owned(),
        });
    };
    let Some(name) = name else { return Ok(first) };
    names.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().ok_or_else(|| Error::Recipe {
        field: "metric".to_owned(),
        expected: format!("one of {} for a {} task", names.join(", "), kind.name()),
        found: name.to_owned(),
    })
}

/// Answers texts with a patch, and scores the answers.
///
/// # Errors
/// When the patch does not fit the encoder, or a text cannot be answered.
pub fn evaluate(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Evaluation> {
    Ok(compare(patch.task(), &answers(encoder, patch, examples)?, examples))
}

/// The patch with thresholds that do best on labelled texts, where the task has thresholds that it does not set itself.
pub(crate) fn fitted(encoder: &Encoder, patch: Patch, examples: &[Example]) -> Result<Patch> {
    let kind = tasks::of(patch.task().kind());
    if kind.fitted(&[]).is_none() {
        return Ok(patch);
    }
    let every = Options { top: usize::MAX, ..Options::default() };
    let predictions = answers_with(encoder, &patch, examples, every)?;
    match kind.fitted(&answered(&predictions, examples)) {
        Some(kind) => Ok(patch.with_kind(kind)?),
        None => Ok(patch),
    }
}

/// The answers of a patch to texts.
pub(crate) fn answers(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Vec<Prediction>> {
    answers_with(encoder, patch, examples, Options::default())
}

fn answers_with(encoder: &Encoder, patch: &Patch, examples: &[Example], options: Options) -> Result<Vec<Prediction>> {
    let task = encoder.attach(patch)?;
    let requests: Vec<Request<'_>> =
        examples.iter().map(|example| Request { task: &task, text: &example.text }).collect();
    let predictions = encoder.predict_with(&requests, options);
    Ok(predictions.into_iter().collect::<edge_run::Result<_>>()?)
}

/// Scores answers against gold labels.
pub(crate) fn compare(task: &Task, predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    let kind = tasks::of(task.kind());
    let Scores { metrics, confusion, calibration } = kind.scores(&answered(predictions, examples));
    Evaluation {
        texts: examples.len(),
        truncated: predictions.iter().filter(|p| p.truncated).count(),
        metrics: kind.metrics().iter().copied().zip(metrics).collect(),
        confusion,
        calibration,
    }
}

fn answered<'a>(predictions: &'a [Prediction], examples: &'a [Example]) -> Vec<Answered<'a>> {
    let pairs = predictions.iter().zip(examples);
    pairs.map(|(prediction, Example { text, gold })| Answered { text, answer: &prediction.answer, gold }).collect()
}

#[cfg(test)]
mod tests {
    use bias_patch::Task;

    use super::*;

    #[test]
    fn a_kind_that_is_not_scored_has_no_metric() {
        let task: Task = serde_json::from_str(r#"{"name":"e","kind":"embedding"}"#).unwrap();
        for name in [None, Some("F1")] {
            let error = metric_named(task.kind(), name).unwrap_err().to_string();
            assert!(error.contains("expected one that is scored, found embedding"), "{error}");
        }
    }
}
