//! The text output of edge-patch, line by line.

use std::collections::BTreeMap;

use crate::{
    Compared, Difference, Evaluation, Kept, Loss, Report, Searched, SlotReport,
    table::Cell,
    train::{RateScores, Run, Spread, best_rate, by_learning_rate},
};
use bias_patch::{Embedding, Encoding, Kind, Pooling, printable};
use serde::Serialize;

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
    /// What is counted: texts, or pairs.
    #[serde(skip)]
    pub what: &'static str,
    /// Names of the rows and columns of the confusion matrix.
    pub labels: &'a [String],
    #[serde(flatten)]
    pub evaluation: &'a Evaluation,
    /// The difference from another patch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compared: Vec<Compared>,
}

pub(crate) fn describe_evaluation(evaluated: &Evaluated<'_>, lines: &mut Vec<String>) {
    let Evaluated { bytes, what, labels, evaluation: found, compared } = evaluated;
    lines.push(format!("bytes           {bytes:9}"));
    lines.push(format!("{what:15} {:9}", found.texts));
    if found.truncated > 0 {
        lines.push(format!("cut to limit    {:9}", found.truncated));
    }
    lines.extend(found.metrics.iter().map(|(name, value)| {
        let deviation = found.deviations.iter().find(|(of, _)| of == name).map(|(_, deviation)| *deviation);
        let against = compared.iter().find(|compared| compared.metric == *name).map(
            |Compared { difference, deviation, .. }| {
                format!("   against the other {difference:+.4}{}", plus_minus(*deviation))
            },
        );
        format!("{name:15} {value:9.4}{}{}", plus_minus(deviation), against.unwrap_or_default())
    }));
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

fn plus_minus(deviation: Option<f64>) -> String {
    deviation.map_or(String::new(), |deviation| format!(" ± {deviation:.4}"))
}

/// What is expected to be lost, what was measured and on how many texts, and the encoding of each part; whether values
/// were refined.
pub(crate) fn describe_search(
    found: &Searched,
    (judged, fitted): (usize, usize),
    refined: bool,
    measured: Option<(Kept, usize)>,
    metric: &str,
    lines: &mut Vec<String>,
) {
    let named = |encoding: &Option<Encoding>| encoding.map_or("left out".to_owned(), |e| e.to_string());
    let mut stored: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (part, encoding) in &found.parts {
        stored.entry(named(encoding)).or_default().push(part);
    }
    if stored.is_empty() {
        lines.push("all parts as they were, for nothing smaller does".to_owned());
    }
    for (encoding, parts) in stored {
        lines.extend(listed(&encoding, &parts));
    }
    let loss = |loss: Loss| {
        let deviation = loss.deviation.map(|deviation| format!(" ± {:.2}", 100.0 * deviation));
        format!("{:.2}{} points", 100.0 * loss.mean, deviation.unwrap_or_default())
    };
    lines.push(format!(
        "{metric} expected to be lost: {}, by {judged} texts; {} on {fitted} others",
        loss(found.expected),
        if refined { "values refined" } else { "encodings chosen" }
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

/// A title and what it holds, in lines of some length.
fn listed(title: &str, items: &[&str]) -> Vec<String> {
    /// Bytes of a line, at most, and of its beginning.
    const LINE: usize = 100;
    const BEGIN: usize = 10;
    let mut lines = vec![format!("{title:BEGIN$}")];
    for item in items {
        if lines.last().is_some_and(|line| line.len() + item.len() >= LINE) {
            lines.push(" ".repeat(BEGIN));
        }
        if let Some(line) = lines.last_mut() {
            *line += " ";
            *line += item;
        }
    }
    lines
}

pub(crate) fn describe_difference(difference: &Difference) -> String {
    match difference.mean.is_nan() {
        true => format!("{:20} {:>25}", difference.part, "of another shape"),
        false => format!("{:20} {:12.6} {:12.6}", difference.part, difference.mean, difference.largest),
    }
}

/// What only some kinds of task have, a line each.
fn settings(kind: &Kind) -> Vec<(&'static str, String)> {
    match kind {
        Kind::Classification { .. } | Kind::Tagging { .. } | Kind::Regression { sigmoid: false, .. } => Vec::new(),
        Kind::Regression { sigmoid: true, .. } => vec![("answers", "the sigmoid of the output".to_owned())],
        Kind::Span { max_answer_length, no_answer } => {
            let mut facts = vec![("answers", format!("at most {max_answer_length} tokens"))];
            facts.extend(no_answer.map(|threshold| {
                let above = format!("where its logit is above the best answer's by more than {threshold:.4}");
                ("no answer", above)
            }));
            facts
        }
        Kind::MultiLabel { thresholds, .. } => {
            let thresholds: Vec<String> = thresholds.iter().map(f32::to_string).collect();
            vec![("from", thresholds.join(", "))]
        }
        Kind::Embedding(Embedding { dimensions, normalize, prompts, .. }) => {
            let cut = dimensions.map_or("all values".to_owned(), |count| format!("the first {count} values"));
            let length = if *normalize { ", of length 1" } else { "" };
            let prompts = prompts.iter().map(|(name, prompt)| ("prompt", format!("{}: {prompt:?}", printable(name))));
            [("answers", format!("{cut}{length}"))].into_iter().chain(prompts).collect()
        }
    }
}

/// What is in a patch; with `each` a row for each slot, else one for each of its modules.
pub(crate) fn describe(report: &Report, each: bool, lines: &mut Vec<String>) {
    let task = &report.task;
    let mut facts = vec![("task", format!("{} ({})", task.name(), task.kind().name()))];
    if !task.kind().labels().is_empty() {
        facts.push(("labels", task.kind().labels().join(", ")));
    }
    let pooling = task.kind().pooling().map_or("each token", Pooling::name);
    let texts = if task.inputs() == 2 { "texts" } else { "text" };
    facts.push(("reads", format!("{} {texts}, {pooling}, at most {} tokens", task.inputs(), task.max_length())));
    facts.extend(settings(task.kind()));
    facts.push(("encoder", report.encoder.to_string()));
    facts.push(("bytes", report.bytes.to_string()));
    facts.extend(report.head.iter().map(|(outputs, inputs, kind)| ("head", format!("{outputs} x {inputs}, {kind}"))));
    // Notes are whatever somebody wrote.
    let notes: Vec<_> = report.metadata.iter().map(|(key, value)| (printable(key), printable(value))).collect();
    facts.extend(notes.iter().map(|(key, value)| (&**key, value.clone())));
    let width = facts.iter().map(|(name, _)| name.chars().count()).fold(9, usize::max);
    lines.extend(facts.iter().map(|(name, value)| format!("{name:width$} {value}")));
    lines.push(String::new());
    let rows = if each { report.slots.iter().map(SlotRow::of).collect() } else { modules(&report.slots) };
    let width = rows.iter().map(|row| row.name.len()).fold(8, usize::max);
    lines.push(format!("{:width$} {:>7} {:>9} {:>12} {:>12}", "slot", "values", "encoding", "mean change", "largest"));
    let number = |v: Option<f32>| v.map_or("-".to_owned(), |v| format!("{v:.6}"));
    lines.extend(rows.iter().map(|row| {
        let (mean, largest) = (number(row.mean()), number(row.largest));
        format!("{:width$} {:>7} {:>9} {mean:>12} {largest:>12}", row.name, row.values, row.encoding)
    }));
    if report.slots.iter().any(|s| s.mean_change.is_none()) {
        lines.push("changes are not shown: the encoder is not in the store, name its bundle with --encoder".to_owned());
    }
}

/// A row of the table of slots: one slot, or those of a module in several layers.
struct SlotRow {
    name: String,
    values: usize,
    encoding: String,
    /// The sum of all changes; none without the encoder.
    changes: Option<f64>,
    largest: Option<f32>,
}

impl SlotRow {
    fn of(slot: &SlotReport) -> Self {
        SlotRow {
            name: slot.slot.clone(),
            values: slot.values,
            encoding: slot.encoding.clone(),
            changes: slot.mean_change.map(|mean| f64::from(mean) * slot.values as f64),
            largest: slot.largest_change,
        }
    }

    fn mean(&self) -> Option<f32> {
        self.changes.map(|sum| (sum / self.values.max(1) as f64) as f32)
    }

    fn add(&mut self, other: SlotRow) {
        self.values += other.values;
        if self.encoding != other.encoding {
            self.encoding = "several".to_owned();
        }
        self.changes = self.changes.zip(other.changes).map(|(a, b)| a + b);
        self.largest = self.largest.zip(other.largest).map(|(a, b)| a.max(b));
    }
}

/// A row for each module of some slots, in the order in which modules come first. Its name ends with the layers, as in
/// `bq.0-5`.
fn modules(slots: &[SlotReport]) -> Vec<SlotRow> {
    let mut rows: Vec<(&str, Vec<u16>, SlotRow)> = Vec::new();
    for slot in slots {
        let (module, layer) = slot.slot.split_once('.').unwrap_or((&slot.slot, ""));
        let row = SlotRow::of(slot);
        let layer = layer.parse().ok();
        match rows.iter_mut().find(|(known, ..)| *known == module) {
            Some((_, layers, known)) => {
                layers.extend(layer);
                known.add(row);
            }
            None => rows.push((module, layer.into_iter().collect(), row)),
        }
    }
    let named = |(module, mut layers, row): (&str, Vec<u16>, SlotRow)| {
        layers.sort_unstable();
        let runs = layers.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            run => run.iter().map(u16::to_string).collect(),
        });
        let runs = runs.collect::<Vec<_>>().join(",");
        SlotRow { name: if runs.is_empty() { module.to_owned() } else { format!("{module}.{runs}") }, ..row }
    };
    rows.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_module_are_one_row() {
        let slot = |slot: &str, values, encoding: &str, mean, largest| SlotReport {
            slot: slot.to_owned(),
            values,
            encoding: encoding.to_owned(),
            mean_change: mean,
            largest_change: largest,
        };
        let slots = [
            slot("beln", 4, "i4", None, None),
            slot("bq.0", 4, "i4", Some(0.5), Some(1.0)),
            slot("bv.0", 4, "i4", Some(0.0), Some(0.0)),
            slot("bq.1", 12, "i2", Some(1.0), Some(3.0)),
            slot("bq.3", 16, "i2", Some(1.0), Some(2.0)),
            slot("bv.1", 4, "i4", None, None),
        ];
        let found: Vec<_> = modules(&slots)
            .into_iter()
            .map(|row| {
                let mean = row.mean();
                (row.name, row.values, row.encoding, mean, row.largest)
            })
            .collect();
        let due = |name: &str, values, encoding: &str, mean, largest| {
            (name.to_owned(), values, encoding.to_owned(), mean, largest)
        };
        assert_eq!(
            found,
            [
                due("beln", 4, "i4", None, None),
                due("bq.0-1,3", 32, "several", Some(0.9375), Some(3.0)),
                due("bv.0-1", 8, "i4", None, None),
            ]
        );
    }

    #[test]
    fn a_long_list_has_several_lines() {
        let items: Vec<String> = (0..40).map(|at| format!("beln.{at}")).collect();
        let lines = listed("i4", &items.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(
            lines[0].starts_with("i4         beln.0 beln.1 ") && lines[1].starts_with("           beln."),
            "{lines:?}"
        );
        assert!(lines.len() == 4 && lines.iter().all(|line| line.len() <= 100), "{lines:?}");
        let words = lines.iter().flat_map(|line| line.split_whitespace()).skip(1);
        assert_eq!(words.collect::<Vec<_>>(), items);
        assert_eq!(listed("left out", &["head"]), ["left out   head"]);
    }
}
