//! What edge-patch says, line by line.

use bias_patch::{Pooling, Task};
use edge_patch::{Difference, Evaluation, Report, train::Trained};

/// For each learning rate its mean and deviation over the seeds.
pub(crate) fn describe_runs(trained: &Trained, lines: &mut Vec<String>) {
    if trained.runs.len() < 2 {
        return;
    }
    lines.push(format!("{:>8} {:>5} {:>8} {:>9} {:>8}", "rate", "runs", "mean", "deviation", "best"));
    let mut rates: Vec<f64> = trained.runs.iter().map(|run| run.0).collect();
    rates.dedup();
    for rate in rates {
        let scores: Vec<f64> = trained.runs.iter().filter(|run| run.0 == rate).filter_map(|run| run.2).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let squares = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        let deviation = (squares / (scores.len() as f64 - 1.0).max(1.0)).sqrt();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        lines.push(format!("{rate:8.0e} {:5} {mean:8.4} {deviation:9.4} {best:8.4}", scores.len()));
    }
}

pub(crate) fn describe_evaluation(found: &Evaluation, task: &Task, lines: &mut Vec<String>) {
    lines.push(format!("texts           {:9}", found.texts));
    if found.truncated > 0 {
        lines.push(format!("cut to limit    {:9}", found.truncated));
    }
    lines.extend(found.metrics.iter().map(|(name, value)| format!("{name:15} {value:9.4}")));
    if let Some(error) = found.calibration {
        lines.push(format!("calibration off {error:9.4}"));
    }
    if !found.confusion.is_empty() {
        let labels = task.kind().labels();
        let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0).max(7);
        let cells = |cells: Vec<String>| cells.iter().map(|cell| format!(" {cell:>width$}")).collect::<String>();
        lines.push(String::new());
        lines.push(format!("{:width$}{}  <- given", "right", cells(labels.to_vec())));
        for (label, row) in labels.iter().zip(&found.confusion) {
            lines.push(format!("{label:width$}{}", cells(row.iter().map(usize::to_string).collect())));
        }
    }
}

pub(crate) fn describe_difference(difference: &Difference) -> String {
    match difference.mean.is_nan() {
        true => format!("{:20} {:>25}", difference.part, "of another shape"),
        false => format!("{:20} {:12.6} {:12.6}", difference.part, difference.mean, difference.largest),
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
