//! The command `edge-patch convert`: stores a patch in fewer bytes, in a given encoding or the smallest that scores
//! well enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use bias_patch::{Encoding, Module, Patch};
use clap::Args;
use edge_patch::{
    Error, Result, Searched,
    data::{Example, read_examples},
    evaluate, largest_change, metric_named, search,
    train::Recipe,
    uniform,
};
use edge_run::{Encoder, EngineOptions};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    describe::describe_search,
    file_bytes, load_encoder, note, open_encoder,
    progress::{Job, Progress, beside},
    report_skipped,
    training::learning_rate,
};

#[derive(Args)]
pub(crate) struct ConvertArguments {
    /// The patch to read
    patch: PathBuf,
    /// Write the patch to this file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Store biases in this encoding: f32, f16, i8, i4, i3, i2 or i1; with one scale for every 64 values: i4/64
    #[arg(long, value_name = "ENCODING", required_unless_present = "max_loss", conflicts_with = "max_loss")]
    encoding: Option<Encoding>,
    /// Store the head in this encoding
    #[arg(long, value_name = "ENCODING", default_value = "f16", conflicts_with = "max_loss")]
    head: Encoding,
    /// Search for the smallest encoding of each part that lowers the score on --data by at most this many percentage
    /// points
    #[arg(long, value_name = "POINTS", requires = "data", value_parser = points)]
    max_loss: Option<f64>,
    /// Score on these labelled texts during the search, in the formats of train
    #[arg(long, value_name = "FILE", requires = "max_loss")]
    data: Option<PathBuf>,
    /// Score by this metric [default: the first of the task's kind]
    #[arg(long, value_name = "NAME", requires = "max_loss")]
    metric: Option<String>,
    /// Before the search, train the patch further on --train (quantization-aware training): every forward pass rounds
    /// its values to the encoding of --grid
    #[arg(long, requires = "max_loss", requires = "train")]
    quantization_aware: bool,
    /// Train on these texts
    #[arg(long, value_name = "FILE", requires = "quantization_aware")]
    train: Option<PathBuf>,
    /// Round biases to this encoding in quantization-aware training; the head is rounded to f16
    #[arg(long, value_name = "ENCODING", default_value = "i2", requires = "quantization_aware")]
    grid: Encoding,
    /// Train for this many epochs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), requires = "quantization_aware")]
    epochs: u32,
    /// Train with this learning rate; it is the peak, reached after warm-up
    #[arg(
        long = "lr",
        visible_alias = "learning-rate",
        alias = "rate",
        value_name = "RATE",
        default_value_t = 3e-4,
        value_parser = learning_rate,
        requires = "quantization_aware"
    )]
    learning_rate: f64,
    /// Run on this many threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Skip rows that are not labelled texts, in place of refusing the file
    #[arg(long, requires = "max_loss")]
    skip_bad: bool,
    /// Store a note in the patch, as KEY=VALUE; repeat the flag for more
    #[arg(long = "note", value_name = "KEY=VALUE", value_parser = note)]
    notes: Vec<(String, String)>,
    /// Read the encoder from this bundle [default: the store]
    #[arg(long, value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
}

/// Converts, and writes the patch. Gives the lines to print.
pub(crate) fn run_conversion(arguments: &ConvertArguments) -> Result<Vec<String>> {
    let (path, output) = (&arguments.patch, &arguments.output);
    let opened = Patch::open(path)?;
    let (bundle, base) = open_encoder(arguments.encoder.as_deref(), &opened)?;
    let manifest = bundle.manifest();
    let mut lines = Vec::new();
    let (converted, how) = match (arguments.encoding, arguments.max_loss, &arguments.data) {
        (_, Some(points), Some(data)) => {
            let read = read_examples(data, opened.task(), arguments.skip_bad)?;
            report_skipped(data, &read.skipped);
            warn_if_too_few(read.examples.len(), points);
            let metric = metric_named(opened.task().kind(), arguments.metric.as_deref())?;
            let engine = EngineOptions { threads: arguments.threads as usize, ..EngineOptions::default() };
            let encoder = load_encoder(bundle.clone(), engine)?;
            let before = evaluate(&encoder, &opened, &read.examples)?.metric(metric);
            let refined = match &arguments.train {
                Some(train) => Some(refine(arguments, &encoder, &opened, train, &read.examples)?),
                None => None,
            };
            let exact = refined.as_ref().unwrap_or(&opened);
            let found = search_with_bar(&encoder, exact, &read.examples, metric, before - points / 100.0)?;
            let others = uniform(&encoder, exact, &read.examples, metric)?;
            describe_search(&found, &others, metric, &mut lines);
            (found.patch, format!("searched, at most {points} points of {metric} lost"))
        }
        (Some(encoding), ..) => {
            let converted = opened
                .convert(&manifest.shape(), base.slots(), encoding, arguments.head)
                .map_err(|e| e.in_file(path))?;
            (converted, format!("{encoding}, head {}", arguments.head))
        }
        _ => {
            // clap refuses all other combinations.
            return Err(Error::Recipe {
                field: "convert".to_owned(),
                expected: "--encoding, or --max-loss and --data".to_owned(),
                found: "neither".to_owned(),
            });
        }
    };
    let converted = converted.with_metadata(converted_notes(&opened, &how, arguments.notes.clone()));
    // The output may be the file that was read.
    let before = file_bytes(path)?;
    converted.save(output)?;
    let change = largest_change(&opened, &converted, manifest, &base)?;
    let after = file_bytes(output)?;
    lines.push(format!("{}: {before} -> {after} bytes, largest change of a value {change:.6}", output.display()));
    Ok(lines)
}

/// Warns when a loss of `points` is less than one text of the set.
pub(crate) fn warn_if_too_few(texts: usize, points: f64) {
    let of_one = 100.0 / texts.max(1) as f64;
    if of_one > points {
        eprintln!(
            "edge-patch: one of {texts} texts is {of_one:.2} points: they are too few to measure a loss of {points} points"
        );
    }
}

/// Searches, and shows a progress bar.
pub(crate) fn search_with_bar(
    encoder: &Encoder,
    patch: &Patch,
    texts: &[Example],
    metric: &str,
    least: f64,
) -> Result<Searched> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos} of at most {len} patches tried, {eta} left") {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut progress = |tried: usize, most: usize| {
        bar.set_length(most as u64);
        bar.set_position(tried as u64);
    };
    let found = search(encoder, patch, texts, metric, least, &mut progress);
    bar.finish_and_clear();
    found
}

/// The patch after quantization-aware training.
fn refine(
    arguments: &ConvertArguments,
    encoder: &Encoder,
    patch: &Patch,
    train: &Path,
    dev_texts: &[Example],
) -> Result<Patch> {
    let read = read_examples(train, patch.task(), arguments.skip_bad)?;
    report_skipped(train, &read.skipped);
    let terms: BTreeSet<Module> = patch.slots().iter().map(|slot| slot.id.term).collect();
    let recipe = Recipe {
        terms: terms.into_iter().collect(),
        learning_rates: vec![arguments.learning_rate],
        epochs: arguments.epochs.into(),
        metric: arguments.metric.clone(),
        start: Some(patch.clone()),
        quantized: Some((arguments.grid, Encoding::F16)),
        ..Recipe::default()
    };
    let mut progress = Progress::new(None)?;
    let output = beside(&arguments.output, ".refined");
    let (task, train_texts) = (patch.task(), &read.examples);
    let job = Job { encoder, task, train_texts, dev_texts, recipe: &recipe, output: &output };
    let refined = job.alone(|checkpoint| job.train(checkpoint, &mut progress))?;
    progress.finish()?;
    // Only the result of the search is kept.
    fs::remove_file(&output).map_err(bias_patch::Error::io(&output, "remove"))?;
    Ok(refined.patch)
}

/// A converted patch keeps its notes; the metric, which was measured before conversion, is renamed.
fn converted_notes(patch: &Patch, how: &str, notes: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut kept = patch.metadata().clone();
    if let Some(metric) = kept.remove("metric") {
        kept.insert("metric before conversion".to_owned(), metric);
    }
    kept.insert("stored as".to_owned(), how.to_owned());
    kept.extend(notes);
    kept
}

pub(crate) fn points(text: &str) -> Result<f64, String> {
    let points = text.parse().ok().filter(|points| (0.0..=100.0).contains(points));
    points.ok_or_else(|| "expected a number of points, 0 to 100".to_owned())
}
