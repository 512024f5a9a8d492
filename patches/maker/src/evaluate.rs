//! Scores a patch on labelled texts.
//!
//! In: a patch and labelled texts. Out: an [`Evaluation`]. Refused: a patch that does not fit the encoder, and an
//! unknown metric.

use std::borrow::Cow;

use bias_patch::{Kind, Patch, Task};
use edge_run::{
    Encoder, Options, Prediction, Request, Text,
    tasks::{self, Answered, Scores, TaskKind},
};
use serde::Serialize;

use crate::{
    Error, Result,
    bootstrap::{deviations, deviations_against, number_of},
    data::{Example, Gold},
    prompts,
};

/// What a patch scores on labelled texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Texts; pairs of texts, where the task compares them.
    pub texts: usize,
    /// How many of them have a text that was cut to the limit.
    pub truncated: usize,
    /// Metrics by name, 0 to 1 (correlations -1 to 1), those of [`metric_names`] in their order that the labels have.
    pub metrics: Vec<(&'static str, f64)>,
    /// The standard deviation of each metric over draws of as many such texts (bootstrap). Empty where it was not asked
    /// for, and for pairs that are ranked against each other.
    pub deviations: Vec<(&'static str, f64)>,
    /// The confusion matrix: for each gold label, how often each label was predicted; empty for kinds
    /// without one label a text or word.
    pub confusion: Vec<Vec<usize>>,
    /// The expected calibration error: the mean difference between predicted probability and accuracy, over ten ranges
    /// of probability; none for kinds without probabilities.
    pub calibration: Option<f64>,
}

impl Evaluation {
    /// The value of a metric; not a number if there is none of this name.
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics.iter().find(|(known, _)| *known == name).map_or(f64::NAN, |(_, value)| *value)
    }
}

/// The metrics of a task. Training selects by the first unless told otherwise.
pub fn metric_names(kind: &Kind) -> &'static [&'static str] {
    tasks::of(kind).metrics()
}

/// The metric of this name, ignoring case; the usual one for such labels if no name is given.
///
/// # Errors
/// When such labels have no such metric.
pub fn metric_named(kind: &Kind, examples: &[Example], name: Option<&str>) -> Result<&'static str> {
    let of_kind = tasks::of(kind);
    let metrics = of_kind.metrics_of(examples.first().map(|example| &example.gold));
    let found = match name {
        None => metrics.first().copied(),
        Some(name) => metrics.iter().find(|known| known.eq_ignore_ascii_case(name)).copied(),
    };
    found.ok_or_else(|| Error::Recipe {
        field: "metric".to_owned(),
        expected: format!("one of {} for a {} task with such labels", metrics.join(", "), kind.name()),
        found: name.unwrap_or("none").to_owned(),
    })
}

/// Answers texts with a patch, and scores the answers.
///
/// # Errors
/// When the patch does not fit the encoder, or a text cannot be answered.
pub fn evaluate(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Evaluation> {
    Ok(compare(patch.task(), &answers(encoder, patch, examples)?, examples))
}

/// The difference of a metric between two patches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The metric.
    pub metric: &'static str,
    /// By how much it is higher with the first patch.
    pub difference: f64,
    /// The standard deviation of the difference over draws of as many such texts; none for pairs that are ranked against
    /// each other.
    pub deviation: Option<f64>,
}

/// As [`evaluate`], with deviations; and compares each metric with that of another patch of the same kind and labels, if
/// there is one.
///
/// # Errors
/// As [`evaluate`], and when the other patch has another kind of task, other labels, or reads pairs where this does not.
pub fn evaluate_against(
    encoder: &Encoder,
    patch: &Patch,
    other: Option<&Patch>,
    examples: &[Example],
) -> Result<(Evaluation, Vec<Compared>)> {
    let task = patch.task();
    if let Some(other) = other.map(Patch::task) {
        let alike = other.kind().name() == task.kind().name() && other.kind().labels() == task.kind().labels();
        if !alike || other.inputs() != task.inputs() {
            let named = |task: &Task| {
                let labels = task.kind().labels();
                let of = if labels.is_empty() { String::new() } else { format!(" of {}", labels.join(", ")) };
                format!("{}{of}, on {} texts", task.kind().name(), task.inputs())
            };
            return Err(Error::Recipe {
                field: format!("task {} of the other patch", other.name()),
                expected: named(task),
                found: named(other),
            });
        }
    }
    let own = answers(encoder, patch, examples)?;
    let mut evaluation = compare(task, &own, examples);
    let others = other.map(|other| answers(encoder, other, examples)).transpose()?;
    let [deviations, differences] = match &others {
        Some(others) => deviations_against(task, [&own, others], examples),
        None => [deviations(task, &own, examples), Vec::new()],
    };
    let known = tasks::of(task.kind()).metrics().iter().copied().zip(deviations);
    let known = known.filter_map(|(name, deviation)| Some((name, deviation?)));
    evaluation.deviations = known.filter(|(name, _)| !evaluation.metric(name).is_nan()).collect();
    let of_other = other.zip(others).map(|(other, others)| compare(other.task(), &others, examples));
    let compared = of_other.iter().flat_map(|of_other| {
        evaluation.metrics.iter().map(|(metric, value)| Compared {
            metric,
            difference: value - of_other.metric(metric),
            deviation: differences.get(number_of(task, metric)).copied().flatten(),
        })
    });
    // A task may lack a metric that another of its kind has, as a span task without `no_answer`.
    let compared = compared.filter(|compared| !compared.difference.is_nan()).collect();
    Ok((evaluation, compared))
}

/// The patch with thresholds that do best on labelled texts, where the task has thresholds that it does not set itself;
/// and its answers to the texts, which run once.
pub(crate) fn fitted(encoder: &Encoder, patch: Patch, examples: &[Example]) -> Result<(Patch, Vec<Prediction>)> {
    let kind = tasks::of(patch.task().kind());
    if kind.fitted(&[]).is_none() {
        let answers = answers(encoder, &patch, examples)?;
        return Ok((patch, answers));
    }
    let every = Options { top: usize::MAX, ..Options::default() };
    let mut predictions = answers_with(encoder, &patch, examples, every)?;
    let texts = texts(&*kind, examples);
    let Some(of_fitted) = kind.fitted(&answered(&texts, &predictions)) else { return Ok((patch, predictions)) };
    for prediction in &mut predictions {
        kind.refit(&mut prediction.answer, &of_fitted);
    }
    Ok((patch.with_kind(of_fitted)?, predictions))
}

/// The answers of a patch to texts: to those of [`Example::answered`].
pub(crate) fn answers(encoder: &Encoder, patch: &Patch, examples: &[Example]) -> Result<Vec<Prediction>> {
    answers_with(encoder, patch, examples, Options::default())
}

fn answers_with(encoder: &Encoder, patch: &Patch, examples: &[Example], options: Options) -> Result<Vec<Prediction>> {
    let task = encoder.attach(patch)?;
    let kind = tasks::of(patch.task().kind());
    // A query and its documents may have prompts of their own.
    let mut prompted: Vec<(&str, edge_run::Task)> = Vec::new();
    let mut texts: Vec<(Option<&str>, Cow<'_, Text>)> = Vec::new();
    for example in examples {
        let [first, others] = prompts::of_pair(patch.task().kind(), &example.gold);
        for (at, text) in example.answered(&*kind).into_iter().enumerate() {
            let prompt = if at == 0 { first } else { others };
            if let Some(name) = prompt.filter(|name| prompted.iter().all(|(known, _)| known != name)) {
                prompted.push((name, task.prompted(name)?));
            }
            texts.push((prompt, text));
        }
    }
    let of =
        |prompt: Option<&str>| prompted.iter().find(|(name, _)| Some(*name) == prompt).map_or(&task, |(_, task)| task);
    let requests: Vec<Request<'_>> = texts.iter().map(|(prompt, text)| Request { task: of(*prompt), text }).collect();
    let predictions = encoder.predict_with(&requests, options);
    Ok(predictions.into_iter().collect::<edge_run::Result<_>>()?)
}

/// Scores answers against gold labels.
pub(crate) fn compare(task: &Task, predictions: &[Prediction], examples: &[Example]) -> Evaluation {
    let kind = tasks::of(task.kind());
    let texts = texts(&*kind, examples);
    let Scores { metrics, confusion, calibration } = kind.scores(&answered(&texts, predictions));
    // An example may have several answers, one for each of its texts.
    let mut rest = predictions;
    let cut = examples.iter().filter(|example| {
        let (answers, others) = rest.split_at(example.answered(&*kind).len().min(rest.len()));
        rest = others;
        answers.iter().any(|answer| answer.truncated)
    });
    Evaluation {
        texts: examples.len(),
        truncated: cut.count(),
        metrics: kind.metrics().iter().copied().zip(metrics).filter(|(_, value)| !value.is_nan()).collect(),
        deviations: Vec::new(),
        confusion,
        calibration,
    }
}

/// The texts that are answered, each with its gold label.
pub(crate) fn texts<'e>(kind: &dyn TaskKind, examples: &'e [Example]) -> Vec<(Cow<'e, Text>, &'e Gold)> {
    let each = examples.iter().flat_map(|example| example.answered(kind).into_iter().map(|text| (text, &example.gold)));
    each.collect()
}

/// Each text with its answer.
pub(crate) fn answered<'a>(texts: &'a [(Cow<'_, Text>, &'a Gold)], predictions: &'a [Prediction]) -> Vec<Answered<'a>> {
    let pairs = predictions.iter().zip(texts);
    pairs.map(|(prediction, (text, gold))| Answered { text, answer: &prediction.answer, gold }).collect()
}
