//! How well a patch answers labelled texts.

use bias_patch::{Kind, Patch, Task};
use edge_run::{Answer, Encoder, Options, Prediction, Request};
use serde::Serialize;

use crate::{
    Result, metrics,
    train::{Example, Gold},
};

/// What a patch scores on labelled texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Texts.
    pub texts: usize,
    /// Texts that were cut to the limit.
    pub truncated: usize,
    /// Metrics by name, 0 to 1 (correlations -1 to 1); the first is the one that training goes by.
    pub metrics: Vec<(&'static str, f64)>,
    /// For each label, how often which label was given for it; empty for regression.
    pub confusion: Vec<Vec<usize>>,
    /// The mean difference between the probability of a given label and how often it is right, over ten ranges of
    /// probability (the expected calibration error); for classification.
    pub calibration: Option<f64>,
}

/// Answers texts with a patch, and compares.
///
/// # Errors
/// When the patch does not fit the encoder, or a text cannot be answered.
pub fn evaluate(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Evaluation> {
    let task = encoder.attach(patch)?;
    let requests: Vec<Request<'_>> =
        examples.iter().map(|example| Request { task: &task, text: &example.text }).collect();
    let predictions = encoder.predict_with(&requests, Options::default());
    let predictions: Vec<Prediction> = predictions.into_iter().collect::<edge_run::Result<_>>()?;
    Ok(compare(patch.task(), &predictions, examples))
}

fn compare(task: &Task, predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    let pairs = || predictions.iter().zip(examples);
    let labels = task.kind().labels();
    let mut evaluation = Evaluation {
        texts: examples.len(),
        truncated: predictions.iter().filter(|p| p.truncated).count(),
        metrics: Vec::new(),
        confusion: Vec::new(),
        calibration: None,
    };
    if let Kind::Regression { .. } = task.kind() {
        let values = pairs().filter_map(|(found, example)| match (&found.answer, &example.gold) {
            (Answer::Value(found), Gold::Value(gold)) => Some((f64::from(*found), f64::from(*gold))),
            _ => None,
        });
        let (found, gold): (Vec<f64>, Vec<f64>) = values.unzip();
        let (spearman, pearson) = (metrics::spearman(&found, &gold), metrics::pearson(&found, &gold));
        evaluation.metrics = vec![("Spearman", spearman), ("Pearson", pearson)];
        return evaluation;
    }
    // Labels by number; one that was not given (a word beyond the limit) is beyond the last.
    let mut found = Vec::new();
    let mut gold = Vec::new();
    let mut scores = Vec::new();
    for (prediction, example) in pairs() {
        let number = |label: &str| labels.iter().position(|l| l == label).unwrap_or(labels.len());
        match (&prediction.answer, &example.gold) {
            (Answer::Labels(ranked), Gold::Class(class)) => {
                found.push(ranked.first().map_or(labels.len(), |best| number(&best.label)));
                scores.push(ranked.first().map_or(0.0, |best| f64::from(best.score)));
                gold.push(*class);
            }
            (Answer::Tags(tags), Gold::Tags(due)) => {
                let given = tags.iter().map(|tag| tag.label.as_deref().map_or(labels.len(), number));
                found.extend(given.chain(std::iter::repeat(labels.len())).take(due.len()));
                gold.extend(due);
            }
            _ => {}
        }
    }
    let tagging = matches!(task.kind(), Kind::Tagging { .. });
    let name = if tagging { "token accuracy" } else { "accuracy" };
    evaluation.metrics.push((name, metrics::accuracy(&found, &gold)));
    if !tagging && labels.len() == 2 {
        evaluation.metrics.push(("F1", metrics::f1(&found, &gold)));
        evaluation.metrics.push(("Matthews", metrics::matthews(&found, &gold)));
    }
    if !tagging {
        let right: Vec<bool> = found.iter().zip(&gold).map(|(a, b)| a == b).collect();
        evaluation.calibration = Some(metrics::calibration_error(&scores, &right));
    }
    evaluation.confusion = vec![vec![0; labels.len()]; labels.len()];
    for (found, gold) in found.iter().zip(&gold) {
        if let Some(cell) = evaluation.confusion.get_mut(*gold).and_then(|row| row.get_mut(*found)) {
            *cell += 1;
        }
    }
    evaluation
}
