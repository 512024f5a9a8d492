//! The command `edge-patch encodings`: reads a patch and labelled texts, and writes a table of bytes and scores.

use std::path::{Path, PathBuf};

use crate::{
    Result, Search,
    data::{check_apart, read_examples},
    metric_named, point, uniform,
};
use bias_patch::{Patch, atomic};
use clap::Args;
use edge_run::EngineOptions;

use super::{
    convert::{SearchArguments, SearchBar, points},
    load_encoder, open_encoder,
    outputs::check_report,
    report_skipped,
};

#[derive(Args)]
pub(crate) struct EncodingsArguments {
    /// The patch to read
    patch: PathBuf,
    /// The labelled texts to score on, in the formats of train
    data: PathBuf,
    /// Also search for the smallest patches that are expected to lose at most this many percentage points. Without --texts,
    /// one half of the labelled texts is searched on, and the other scored on
    #[arg(long, value_name = "POINTS,...", value_delimiter = ',', value_parser = points)]
    max_loss: Vec<f64>,
    #[command(flatten)]
    search: SearchArguments,
    /// Score by this metric [default: the first of the task's kind]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Write the table to this file, in Markdown
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run on this many threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Skip rows that are not labelled texts, in place of refusing the file
    #[arg(long)]
    skip_bad: bool,
    /// Read the encoder from this bundle [default: the store]
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
}

/// Scores every encoding, and writes the table. Gives its lines.
pub(crate) fn run_encodings(arguments: &EncodingsArguments) -> Result<Vec<String>> {
    if let Some(output) = &arguments.output {
        let texts = arguments.search.texts.as_deref();
        let read: Vec<&Path> = [&*arguments.patch, &*arguments.data].into_iter().chain(texts).collect();
        check_apart(output, &read)?;
        check_report(output)?;
    }
    let patch = Patch::open(&arguments.patch)?;
    let bundle = open_encoder(arguments.encoder.as_deref(), &patch)?.0;
    let (texts, labelled) = match arguments.max_loss.is_empty() {
        true => {
            let read = read_examples(&arguments.data, patch.task(), arguments.skip_bad)?;
            report_skipped(&arguments.data, &read.skipped);
            (Vec::new(), read.examples)
        }
        false => arguments.search.read(patch.task(), Some(&arguments.data), arguments.skip_bad)?,
    };
    let metric = metric_named(patch.task().kind(), &labelled, arguments.metric.as_deref())?;
    let engine = EngineOptions { threads: arguments.threads as usize, ..EngineOptions::default() };
    let encoder = load_encoder(bundle, engine)?;
    let mut rows = uniform(&encoder, &patch, &labelled, metric)?;
    if !arguments.max_loss.is_empty() {
        let bar = SearchBar::new();
        let search = Search::new(&encoder, &patch, &texts, metric, &mut bar.progress())?;
        for points in &arguments.max_loss {
            let found = search.smallest(*points, &arguments.search.refinement(), &mut bar.progress())?;
            let name = format!("searched, at most {points} points expected to be lost");
            rows.push(point(&encoder, &found.patch, &labelled, metric, &name)?);
        }
        bar.finish();
    }
    let mut lines = vec![format!("| stored as | bytes | {metric} |"), "|---|---|---|".to_owned()];
    lines.extend(rows.iter().map(|row| format!("| {} | {} | {:.2} |", row.name, row.bytes, 100.0 * row.score)));
    lines.push(String::new());
    lines.push(format!(
        "Scores in percent on {} texts. Biases are in the encoding named, the head is in f16. In a searched patch each part has \
         an encoding of its own, found on other texts.",
        labelled.len()
    ));
    if let Some(output) = &arguments.output {
        atomic::write_file(output, (lines.join("\n") + "\n").as_bytes())?;
    }
    Ok(lines)
}
