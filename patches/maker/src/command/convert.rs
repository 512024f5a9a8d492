//! The command `edge-patch convert`: stores a patch in fewer bytes, in a given encoding or the smallest that is expected
//! to lose no more than was asked for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    Error, Refinement, Result, Search,
    data::{Example, Texts, read_examples, read_texts},
    distinct, kept, largest_change, metric_named, split,
};
use bias_patch::{Encoding, Patch, Task};
use clap::{ArgGroup, Args};
use edge_run::{EngineOptions, Text};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    describe::describe_search, file_bytes, load_encoder, note, open_encoder, report_skipped, training::learning_rate,
};

#[derive(Args)]
#[command(group = ArgGroup::new("how").required(true))]
pub(crate) struct ConvertArguments {
    /// The patch to read
    patch: PathBuf,
    /// Write the patch to this file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Store biases in this encoding: f32, f16, i8, i4, i3, i2 or i1; with one scale for every 64 values: i4/64
    #[arg(long, value_name = "ENCODING", group = "how",
        conflicts_with_all = ["max_loss", "data", "metric", "skip_bad", "texts", "refine_steps", "learning_rate"])]
    encoding: Option<Encoding>,
    /// Store the head in this encoding
    #[arg(long, value_name = "ENCODING", default_value = "f16", conflicts_with = "max_loss")]
    head: Encoding,
    /// Search for the smallest patch that is expected to lose at most this many percentage points of the metric: an own
    /// encoding for each part, or none, and values refined on their grids
    #[arg(long, value_name = "POINTS", value_parser = points, group = "how")]
    max_loss: Option<f64>,
    #[command(flatten)]
    search: SearchArguments,
    /// Measure what is lost on these labelled texts, in the formats of train. Without --texts, one half of them is searched
    /// on, and the loss is measured on the other
    #[arg(long, value_name = "FILE", requires = "max_loss")]
    data: Option<PathBuf>,
    /// Lose at most so much of this metric [default: the first of the task's kind]
    #[arg(long, value_name = "NAME", requires = "max_loss")]
    metric: Option<String>,
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
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
}

/// The flags of every search.
#[derive(Args)]
pub(crate) struct SearchArguments {
    /// Search and refine on these texts, in the formats of train, or one a line in .txt; labels are not read
    #[arg(long, visible_alias = "train", value_name = "FILE", requires = "max_loss")]
    pub texts: Option<PathBuf>,
    /// Refine the values of each candidate in this many steps of 16 texts (quantization-aware training); 0 for none
    #[arg(long, value_name = "N", default_value_t = Refinement::default().steps, requires = "max_loss")]
    refine_steps: u64,
    /// Refine with this learning rate; it is the peak, reached after warm-up
    #[arg(
        long = "lr",
        visible_alias = "learning-rate",
        alias = "rate",
        value_name = "RATE",
        default_value_t = Refinement::default().learning_rate,
        value_parser = learning_rate,
        requires = "max_loss"
    )]
    learning_rate: f64,
}

impl SearchArguments {
    pub fn refinement(&self) -> Refinement {
        Refinement { steps: self.refine_steps, learning_rate: self.learning_rate }
    }

    /// The texts to search on, and the labelled ones to measure on. Without `--texts` they are the halves of the latter.
    ///
    /// # Errors
    /// When a file cannot be read, or there is none.
    pub fn read(&self, task: &Task, data: Option<&Path>, skip_bad: bool) -> Result<(Vec<Text>, Vec<Example>)> {
        let labelled = match data {
            Some(data) => {
                let read = read_examples(data, task, skip_bad)?;
                report_skipped(data, &read.skipped);
                read.examples
            }
            None => Vec::new(),
        };
        if let Some(path) = &self.texts {
            let Texts { texts, skipped } = read_texts(path, task, skip_bad)?;
            report_skipped(path, &skipped);
            return Ok((texts, labelled));
        }
        if labelled.is_empty() {
            return Err(Error::Recipe {
                field: "--max-loss".to_owned(),
                expected: "--texts or --data, to search on".to_owned(),
                found: "neither".to_owned(),
            });
        }
        let labelled = distinct(&labelled, |example| &example.text);
        let (searched, rest) = split(&labelled, labelled.len());
        Ok((searched.into_iter().map(|example| example.text).collect(), rest))
    }
}

/// Converts, and writes the patch. Gives the lines to print.
pub(crate) fn run_conversion(arguments: &ConvertArguments) -> Result<Vec<String>> {
    let (path, output) = (&arguments.patch, &arguments.output);
    let opened = Patch::open(path)?;
    let (bundle, base) = open_encoder(arguments.encoder.as_deref(), &opened)?;
    let manifest = bundle.manifest();
    let mut lines = Vec::new();
    let (converted, how) = match (arguments.encoding, arguments.max_loss) {
        (_, Some(points)) => {
            let data = arguments.data.as_deref();
            let (texts, labelled) = arguments.search.read(opened.task(), data, arguments.skip_bad)?;
            let metric = metric_named(opened.task().kind(), &labelled, arguments.metric.as_deref())?;
            let engine = EngineOptions { threads: arguments.threads as usize, ..EngineOptions::default() };
            let encoder = load_encoder(bundle.clone(), engine)?;
            let bar = SearchBar::new();
            let search = Search::new(&encoder, &opened, &texts, metric, &mut bar.progress())?;
            let found = search.smallest(points, &arguments.search.refinement(), &mut bar.progress())?;
            bar.finish();
            let measured = match labelled.is_empty() {
                true => None,
                false => Some(kept(&encoder, &opened, &found.patch, &labelled, metric)?),
            };
            let measured = measured.map(|kept| (kept, labelled.len()));
            describe_search(&found, search.texts(), arguments.search.refine_steps > 0, measured, metric, &mut lines);
            (found.patch, format!("searched, at most {points} points of {metric} expected to be lost"))
        }
        (Some(encoding), None) => {
            let converted = opened
                .convert(&manifest.shape(), base.slots(), encoding, arguments.head)
                .map_err(|e| e.in_file(path))?;
            (converted, format!("{encoding}, head {}", arguments.head))
        }
        (None, None) => {
            // clap refuses this combination.
            return Err(Error::Recipe {
                field: "convert".to_owned(),
                expected: "--encoding or --max-loss".to_owned(),
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

/// The progress bar of a search.
pub(crate) struct SearchBar(ProgressBar);

impl SearchBar {
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len}, {eta} left") {
            bar.set_style(style.progress_chars("=> "));
        }
        SearchBar(bar)
    }

    /// What a search calls.
    pub fn progress(&self) -> impl FnMut(&'static str, usize, usize) {
        let bar = self.0.clone();
        move |what, done, of| {
            if bar.prefix() != what {
                bar.set_prefix(what);
                bar.reset_eta();
            }
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        }
    }

    pub fn finish(self) {
        self.0.finish_and_clear();
    }
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
