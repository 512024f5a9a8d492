//! The command `edge-patch convert`: a patch in fewer bytes, in an encoding that is given or in the smallest that scores enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use bias_patch::{Encoding, Patch, Term};
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
    file_bytes, note, open_encoder,
    progress::{Job, Progress, beside},
    report_skipped,
    training::rate,
};

#[derive(Args)]
pub(crate) struct ConvertArguments {
    /// The patch
    patch: PathBuf,
    /// The patch to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// For biases: f32, f16, i8, i4, i3, i2, i1, or with a scale for every 64 values i4/64
    #[arg(long, value_name = "ENCODING", required_unless_present = "max_loss", conflicts_with = "max_loss")]
    encoding: Option<Encoding>,
    /// For the head
    #[arg(long, value_name = "ENCODING", default_value = "f16", conflicts_with = "max_loss")]
    head: Encoding,
    /// Search the smallest encoding of each part that loses at most so many points of the metric, in percent, on --data
    #[arg(long, value_name = "POINTS", requires = "data", value_parser = points)]
    max_loss: Option<f64>,
    /// Labelled texts to search by, as for training
    #[arg(long, value_name = "FILE", requires = "max_loss")]
    data: Option<PathBuf>,
    /// Search by this metric of the task's, and not by its first
    #[arg(long, value_name = "NAME", requires = "max_loss")]
    metric: Option<String>,
    /// Before that, train the values on the grid of --grid for some passes over --train: each step rounds them as they will be
    /// stored, and its gradients move them as if it had not
    #[arg(long, requires = "max_loss", requires = "train")]
    quantization_aware: bool,
    /// Texts to learn from
    #[arg(long, value_name = "FILE", requires = "quantization_aware")]
    train: Option<PathBuf>,
    /// The encoding that biases are trained for; the head stays in f16
    #[arg(long, value_name = "ENCODING", default_value = "i2", requires = "quantization_aware")]
    grid: Encoding,
    /// Passes over the texts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), requires = "quantization_aware")]
    epochs: u32,
    /// The highest learning rate
    #[arg(long = "lr", value_name = "RATE", default_value_t = 3e-4, value_parser = rate, requires = "quantization_aware")]
    rate: f64,
    /// Threads to run on
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Leave out rows that are not labelled texts
    #[arg(long, requires = "max_loss")]
    skip_bad: bool,
    /// A line of free text to keep in the patch, as KEY=VALUE; repeat it for more
    #[arg(long = "note", value_name = "KEY=VALUE", value_parser = note)]
    notes: Vec<(String, String)>,
    /// The encoder's bundle, if it is not in the store
    #[arg(long, value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
}

/// Converts, and writes the patch. Gives the lines to say.
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
            let encoder = Encoder::load(bundle.clone(), engine)?;
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
            let converted = opened.convert(manifest, &base, encoding, arguments.head).map_err(|e| e.in_file(path))?;
            (converted, format!("{encoding}, head {}", arguments.head))
        }
        _ => {
            // clap lets no other combination through.
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

/// Says so when a loss of `points` is less than what one text more or less makes.
pub(crate) fn warn_if_too_few(texts: usize, points: f64) {
    let of_one = 100.0 / texts.max(1) as f64;
    if of_one > points {
        eprintln!(
            "edge-patch: one of {texts} texts is {of_one:.2} points, so that a loss of {points} is not seen on them"
        );
    }
}

/// Searches, and shows how far it is.
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

/// The patch after some passes of training on the grid that its values will be stored on.
fn refine(
    arguments: &ConvertArguments,
    encoder: &Encoder,
    patch: &Patch,
    train: &Path,
    judge: &[Example],
) -> Result<Patch> {
    let learn = read_examples(train, patch.task(), arguments.skip_bad)?;
    report_skipped(train, &learn.skipped);
    let terms: BTreeSet<Term> = patch.slots().iter().map(|slot| slot.id.term).collect();
    let recipe = Recipe {
        terms: terms.into_iter().collect(),
        rates: vec![arguments.rate],
        epochs: arguments.epochs.into(),
        metric: arguments.metric.clone(),
        start: Some(patch.clone()),
        grid: Some((arguments.grid, Encoding::F16)),
        ..Recipe::default()
    };
    let mut progress = Progress::new(None)?;
    let output = beside(&arguments.output, ".refined");
    let (task, learn) = (patch.task(), &learn.examples);
    let job = Job { encoder, task, learn, judge, recipe: &recipe, output: &output };
    let refined = job.alone(|checkpoint| job.train(checkpoint, &mut progress))?;
    progress.finish()?;
    // The search stores it anew.
    fs::remove_file(&output).map_err(bias_patch::Error::io(&output, "remove"))?;
    Ok(refined.patch)
}

/// A converted patch keeps its notes, but for a metric: that was of the values before.
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
