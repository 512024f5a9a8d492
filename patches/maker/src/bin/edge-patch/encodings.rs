//! The command `edge-patch encodings`: a patch and labelled texts in, a table of bytes against the metric out.

use std::path::PathBuf;

use bias_patch::{Patch, atomic};
use clap::Args;
use edge_patch::{Result, data::read_examples, metric_named, uniform};
use edge_run::{Encoder, EngineOptions};

use crate::{
    check_apart,
    convert::{points, search_with_bar, warn_if_too_few},
    open_encoder, report_skipped,
};

#[derive(Args)]
pub(crate) struct EncodingsArguments {
    /// The patch
    patch: PathBuf,
    /// Labelled texts, as for training
    data: PathBuf,
    /// Also search the smallest encoding of each part that loses at most so many points of the metric, in percent
    #[arg(long, value_name = "POINTS,...", value_delimiter = ',', value_parser = points)]
    max_loss: Vec<f64>,
    /// Score by this metric of the task's, and not by its first
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// The table to write, in Markdown
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads to run on
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Leave out rows that are not labelled texts
    #[arg(long)]
    skip_bad: bool,
    /// The encoder's bundle, if it is not in the store
    #[arg(long, value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
}

/// Scores every encoding, and writes the table. Gives its lines.
pub(crate) fn run_encodings(arguments: &EncodingsArguments) -> Result<Vec<String>> {
    if let Some(output) = &arguments.output {
        check_apart(output, &[&arguments.patch, &arguments.data])?;
    }
    let patch = Patch::open(&arguments.patch)?;
    let bundle = open_encoder(arguments.encoder.as_deref(), &patch)?.0;
    let read = read_examples(&arguments.data, patch.task(), arguments.skip_bad)?;
    report_skipped(&arguments.data, &read.skipped);
    let metric = metric_named(patch.task().kind(), arguments.metric.as_deref())?;
    let engine = EngineOptions { threads: arguments.threads as usize, ..EngineOptions::default() };
    let encoder = Encoder::load(bundle, engine)?;
    let mut rows = uniform(&encoder, &patch, &read.examples, metric)?;
    let before = rows[0].score;
    for points in &arguments.max_loss {
        warn_if_too_few(read.examples.len(), *points);
        let mut found = search_with_bar(&encoder, &patch, &read.examples, metric, before - points / 100.0)?.point;
        found.name = format!("searched, at most {points} points lost");
        rows.push(found);
    }
    let mut lines = vec![format!("| stored as | bytes | {metric} |"), "|---|---|---|".to_owned()];
    lines.extend(rows.iter().map(|row| format!("| {} | {} | {:.2} |", row.name, row.bytes, 100.0 * row.score)));
    lines.push(String::new());
    lines.push(format!(
        "In percent on {} texts. Biases are in the encoding, the head is in f16; of a searched patch each part is in an \
         encoding of its own.",
        read.examples.len()
    ));
    if let Some(output) = &arguments.output {
        atomic::write_file(output, (lines.join("\n") + "\n").as_bytes())?;
    }
    Ok(lines)
}
