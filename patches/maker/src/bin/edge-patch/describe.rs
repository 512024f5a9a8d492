//! The text output of edge-patch, line by line.

use bias_patch::{Embedding, Encoding, Kind, Pooling};
use edge_patch::{
    Difference, Evaluation, Kept, Loss, Report, Searched,
    train::{RateScores, Run, Spread, best_rate, by_learning_rate},
};
use serde::Serialize;

use crate::cells::Cell;

/// The mean and standard deviation over the seeds, for each learning rate; on a test set too, if there is one.
pub(crate) fn describe_runs(runs: &[Run], lines: &mut Vec<String>) {
    if runs.len() < 2 {
        return;
    }
    let tested = runs.iter().any(|run| run.test.is_some());
    lines.push(format!(
        "{:>13} {:>5} {:>8} {:>9} {:>8}{}",
        "learning rate",
        "runs",
        "mean",
        "deviation",
        "best",
        test_header(tested)
    ));
    for RateScores { learning_rate, runs, dev, best, test } in by_learning_rate(runs) {
        let test = test_columns(tested, test);
        lines.push(format!("{learning_rate:13.0e} {runs:5}{} {best:8.4}{test}", spread(dev)));
    }
}

/// Trainings on more and more texts: the dev and test score of the best learning rate, and the training score of the best
/// patch.
pub(crate) fn describe_cells(cells: &[Cell]) -> Vec<String> {
    let tested = cells.iter().any(Cell::tested);
    let header = format!(
        "{:>8} {:>13} {:>8} {:>9}{} {:>8}  metric",
        "texts",
        "learning rate",
        "dev",
        "deviation",
        test_header(tested),
        "train"
    );
    let rows = cells.iter().map(|cell| match best_rate(&cell.runs) {
        Some(of) => format!(
            "{:8} {:13.0e}{}{} {:>8}  {}",
            cell.texts,
            of.learning_rate,
            spread(of.dev),
            test_columns(tested, of.test),
            cell.patch.as_ref().map_or("-".to_owned(), |patch| format!("{:.4}", patch.train)),
            cell.metric
        ),
        None => format!("{:8} every run diverged", cell.texts),
    });
    std::iter::once(header).chain(rows).collect()
}

/// The heads of the columns of a test set, if there is one.
fn test_header(tested: bool) -> String {
    if tested { format!(" {:>8} {:>9}", "test", "deviation") } else { String::new() }
}

fn test_columns(tested: bool, test: Option<Spread>) -> String {
    match test {
        _ if !tested => String::new(),
        Some(test) => spread(test),
        None => format!(" {:>8} {:>9}", "-", "-"),
    }
}

fn spread(of: Spread) -> String {
    let deviation = of.deviation.map_or("-".to_owned(), |deviation| format!("±{deviation:8.4}"));
    format!(" {:8.4} {deviation:>9}", of.mean)
}

/// The scores of a patch, and its size.
#[derive(Serialize)]
pub(crate) struct Evaluated<'a> {
    /// The size of the patch's file.
    pub bytes: u64,
    /// Names of the rows and columns of the confusion matrix.
    pub labels: &'a [String],
    #[serde(flatten)]
    pub evaluation: &'a Evaluation,
}

pub(crate) fn describe_evaluation(evaluated: &Evaluated<'_>, lines: &mut Vec<String>) {
    let Evaluated { bytes, labels, evaluation: found } = evaluated;
    lines.push(format!("bytes           {bytes:9}"));
    lines.push(format!("texts           {:9}", found.texts));
    if found.truncated > 0 {
        lines.push(format!("cut to limit    {:9}", found.truncated));
    }
    lines.extend(found.metrics.iter().map(|(name, value)| format!("{name:15} {value:9.4}")));
    if let Some(error) = found.calibration {
        lines.push(format!("calibration off {error:9.4}"));
    }
    if !found.confusion.is_empty() {
        let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(7);
        let cells = |cells: Vec<String>| cells.iter().map(|cell| format!(" {cell:>width$}")).collect::<String>();
        lines.push(String::new());
        lines.push(format!("{:width$}{}  <- given", "right", cells(labels.to_vec())));
        for (label, row) in labels.iter().zip(&found.confusion) {
            lines.push(format!("{label:width$}{}", cells(row.iter().map(usize::to_string).collect())));
        }
    }
}

/// What is expected to be lost, what was measured and on how many texts, and the encoding of each part.
pub(crate) fn describe_search(
    found: &Searched,
    (judged, fitted): (usize, usize),
    measured: Option<(Kept, usize)>,
    metric: &str,
    lines: &mut Vec<String>,
) {
    let named = |encoding: &Option<Encoding>| encoding.map_or("left out".to_owned(), |e| e.to_string());
    let parts: Vec<String> = found.parts.iter().map(|(part, e)| format!("{part} {}", named(e))).collect();
    match parts.is_empty() {
        true => lines.push("parts: all as they were, for nothing smaller does".to_owned()),
        false => lines.push(format!("parts: {}", parts.join(", "))),
    }
    let loss = |loss: Loss| format!("{:.2} ± {:.2} points", 100.0 * loss.mean, 100.0 * loss.deviation);
    lines.push(format!(
        "{metric} expected to be lost: {}, by {judged} texts; values refined on {fitted} others",
        loss(found.expected)
    ));
    if let Some((Kept { exact, stored, loss: lost }, texts)) = measured {
        lines.push(format!(
            "{metric} measured on {texts} texts that were not searched on: {:.2} as it was, {:.2} as stored, lost {}",
            100.0 * exact,
            100.0 * stored,
            loss(lost)
        ));
    }
}

pub(crate) fn describe_difference(difference: &Difference) -> String {
    match difference.mean.is_nan() {
        true => format!("{:20} {:>25}", difference.part, "of another shape"),
        false => format!("{:20} {:12.6} {:12.6}", difference.part, difference.mean, difference.largest),
    }
}

/// What only some kinds of task have, a line each.
fn settings(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::Classification { .. } | Kind::Tagging { .. } | Kind::Regression { sigmoid: false, .. } => Vec::new(),
        Kind::Regression { sigmoid: true, .. } => vec!["answers   the sigmoid of the output".to_owned()],
        Kind::Span { max_answer_length, no_answer } => {
            let mut lines = vec![format!("answers   at most {max_answer_length} tokens")];
            lines.extend(no_answer.map(|threshold| {
                format!("no answer where its logit is above the best answer's by more than {threshold:.4}")
            }));
            lines
        }
        Kind::MultiLabel { thresholds, .. } => {
            let thresholds: Vec<String> = thresholds.iter().map(f32::to_string).collect();
            vec![format!("from      {}", thresholds.join(", "))]
        }
        Kind::Embedding(Embedding { dimensions, normalize, prompts, .. }) => {
            let cut = dimensions.map_or("all values".to_owned(), |count| format!("the first {count} values"));
            let length = if *normalize { ", of length 1" } else { "" };
            let prompts = prompts.iter().map(|(name, prompt)| format!("prompt    {name}: {prompt:?}"));
            [format!("answers   {cut}{length}")].into_iter().chain(prompts).collect()
        }
    }
}

pub(crate) fn describe(report: &Report, lines: &mut Vec<String>) {
    let task = &report.task;
    lines.push(format!("task      {} ({})", task.name(), task.kind().name()));
    if !task.kind().labels().is_empty() {
        lines.push(format!("labels    {}", task.kind().labels().join(", ")));
    }
    let pooling = task.kind().pooling().map_or("each token", Pooling::name);
    lines.push(format!(
        "reads     {} text{}, {pooling}, at most {} tokens",
        task.inputs(),
        if task.inputs() == 2 { "s" } else { "" },
        task.max_length()
    ));
    lines.extend(settings(task.kind()));
    lines.push(format!("encoder   {}", report.encoder));
    lines.push(format!("bytes     {}", report.bytes));
    for (outputs, inputs, encoding) in &report.head {
        lines.push(format!("head      {outputs} x {inputs}, {encoding}"));
    }
    lines.extend(report.metadata.iter().map(|(key, value)| format!("{key:9} {value}")));
    lines.push(String::new());
    lines.push(format!("{:8} {:>7} {:>9} {:>12} {:>12}", "slot", "values", "encoding", "mean change", "largest"));
    let number = |v: Option<f32>| v.map_or("-".to_owned(), |v| format!("{v:.6}"));
    lines.extend(report.slots.iter().map(|s| {
        format!(
            "{:8} {:>7} {:>9} {:>12} {:>12}",
            s.slot,
            s.values,
            s.encoding,
            number(s.mean_change),
            number(s.largest_change)
        )
    }));
    if report.slots.iter().any(|s| s.mean_change.is_none()) {
        lines.push("changes are not shown: the encoder is not in the store, name its bundle with --encoder".to_owned());
    }
}
