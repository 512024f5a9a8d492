//! The command `edge-patch train`: its flags, and a training that writes a patch or one for each number of texts.

use std::path::{Path, PathBuf};

use crate::{
    Error, Result,
    data::{check_variety, read_task},
    log::Entry,
    table::Cell,
    train::{
        Average, ClassWeights, Job, Recipe, Sets, Slots, Texts, Weights, beside, best_rate, best_run, subset, wrong,
    },
};
use bias_patch::{Pooling, Task};
use clap::Args;
use edge_bundle::Bundle;
use edge_run::{Encoder, EngineOptions};

use super::{
    describe::describe_cells,
    outputs::{check_kept, same_place},
    progress::Progress,
    say,
};

#[derive(Args)]
pub(crate) struct TrainArguments {
    /// Train for the encoder of this bundle
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: PathBuf,
    /// Read the task from this JSON file: name, kind and labels; optionally pooling (default cls), inputs (1; 2 for spans),
    /// max_length (128) and fields of one kind, such as no_answer, which patches/maker/README.md lists
    #[arg(long, value_name = "JSON")]
    task: PathBuf,
    /// Train on these texts
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Score on these texts after every epoch, and keep the best patch
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// Score the best epoch of each run on these texts too; they choose nothing
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// Write the patch to this file, with values in f32; edge-patch convert makes it smaller. With --weights no patch
    /// is written; the name is that of the checkpoint and of kept results
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Train these slots, separated by , or +. Biases of every layer: bq bk bv bm1 bln1 bm2 bgate bm3 bln2, as in the
    /// BitFit paper; bk only with rotary positions or in DeBERTa, bgate only with a gate. Of the embeddings: beln
    /// beproj. Of DeBERTa's distances: bdln. After the last layer: bfln bpool. All biases: all. Low-rank terms (LoRA):
    /// lora:MODULE+...@RANK, of the modules q k v m1 m2 gate m3, eproj and pool, or lora:all@RANK for those of every
    /// layer. The head alone: frozen
    #[arg(long, value_name = "SLOT,...", default_value_t = Slots::default(), value_parser = slots, conflicts_with = "weights")]
    slots: Slots,
    /// Train no slots below layer N, counted from 0; those of the embeddings only if N is 0
    #[arg(long, value_name = "N..", value_parser = layers, conflicts_with = "weights")]
    layers: Option<u16>,
    /// Train weights in place of biases, for comparison, and print the scores. No patch is written, because a patch
    /// cannot hold weights. A run that was stopped starts again; finished runs are kept. The encoder has to be in f32
    #[arg(long, value_name = "WHICH")]
    weights: Option<Weights>,
    /// Pool a text's tokens into one vector this way, in place of the task's
    #[arg(long, value_name = "HOW", value_parser = ["cls", "mean", "pooler", "last"])]
    pooling: Option<String>,
    /// Score by this metric, such as F1 or Matthews [default: the first of the task's kind]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// For each N, train on a random subset of N training texts, and write OUTPUT-N.bias; larger subsets contain the
    /// smaller ones
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    train_sizes: Vec<usize>,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// The flags of every training.
#[derive(Args)]
pub(crate) struct RecipeArguments {
    /// Try each of these learning rates; each is the peak, reached after warm-up [default: 3e-3; with --weights full
    /// 3e-5]
    #[arg(
        long = "lr",
        visible_alias = "learning-rate",
        alias = "rate",
        value_name = "RATE,...",
        value_delimiter = ',',
        value_parser = learning_rate
    )]
    pub learning_rates: Vec<f64>,
    /// Multiply the learning rate by this for the biases on the residual stream, beln bm1 bln1 bm3 bln2 bfln; 1 trains
    /// all biases alike
    #[arg(long, value_name = "FACTOR", default_value_t = Recipe::default().residual_rate, value_parser = factor)]
    pub residual_rate: f64,
    /// Do this many runs with each learning rate, with consecutive seeds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub seeds: u32,
    /// Start at this seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u32,
    /// Choose the learning rate by the dev score of the first seed, and run the other seeds at that one only
    #[arg(long)]
    pub rate_by_first_seed: bool,
    /// Train for this many epochs
    #[arg(long, value_name = "N", default_value_t = Recipe::default().epochs, value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: u64,
    /// Use this many texts per step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Score and keep averaged parameters: none (no average), ema or ema:DECAY (exponential moving average over steps),
    /// last:N (mean over the ends of the last N epochs)
    #[arg(long, value_name = "HOW", default_value = "none", value_parser = average)]
    pub average: Average,
    /// What each label counts in the loss, where labels are unequally frequent; for classification and tagging
    #[arg(long, value_enum, value_name = "HOW", default_value = "none")]
    pub class_weights: ClassWeights,
    /// Use at most this much memory, such as 60M, apart from the mapped weights; fewer tokens then run together
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<u64>,
    /// Keep what the encoder computes below the first trained layer in a file of at most this size beside the output; 0
    /// computes it in every step. The patch is the same
    #[arg(long, value_name = "BYTES", default_value = "2G", value_parser = bytes)]
    pub keep_states: u64,
    /// End a run after this many epochs without a better dev score
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: Option<u64>,
    /// Run on this many threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Skip rows that are not labelled texts, in place of refusing the file
    #[arg(long)]
    pub skip_bad: bool,
    /// Append the events of the training to this file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

impl RecipeArguments {
    /// The recipe, for the default slots.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            residual_rate: self.residual_rate,
            learning_rates: self.learning_rates.clone(),
            seeds: (0..self.seeds).map(|at| u64::from(self.seed) + u64::from(at)).collect(),
            rate_by_first_seed: self.rate_by_first_seed,
            epochs: self.epochs,
            batch: self.batch as usize,
            average: self.average,
            memory_limit: self.memory_limit,
            keep_states: self.keep_states,
            class_weights: self.class_weights,
            patience: self.patience,
            ..Recipe::default()
        }
    }

    pub fn load(&self, bundle: Bundle) -> Result<Encoder> {
        let engine = EngineOptions { threads: self.threads as usize, ..EngineOptions::default() };
        Ok(Encoder::load(bundle, engine)?)
    }
}

/// Trains, and writes the patch, or one for each number of texts. Gives the lines to print.
pub(crate) fn run_training(arguments: &TrainArguments) -> Result<Vec<String>> {
    arguments.weights.map_or(Ok(()), Weights::check)?;
    let mut task = read_task(&arguments.task)?;
    if let Some(pooling) = &arguments.pooling {
        task = with_pooling(&task, pooling, &arguments.task)?;
    }
    let slots = arguments.slots.clone().from_layer(arguments.layers.unwrap_or(0));
    let recipe = Recipe { slots, metric: arguments.metric.clone(), ..arguments.recipe.recipe() };
    let recipe = recipe.with_rates(&arguments.recipe.learning_rates, arguments.weights);
    if let Average::Last(epochs) = recipe.average
        && epochs > recipe.epochs
    {
        let expected = format!("last:N with at most the {} epochs that are trained", recipe.epochs);
        return Err(wrong("--average", &expected, &format!("last:{epochs}")));
    }
    let files = (&*arguments.train, &*arguments.dev, arguments.test.as_deref());
    let texts = Texts::read(&task, files, arguments.recipe.skip_bad, &mut say)?;
    let sets = texts.sets();
    let bundle = Bundle::open(&arguments.encoder)?;
    recipe.slots.check(bundle.manifest(), task.kind().pooling() == Some(Pooling::Pooler))?;
    let encoder = arguments.recipe.load(bundle)?;
    let sizes = arguments.train_sizes.iter().map(|size| file_of_size(&arguments.output, *size));
    for output in std::iter::once(arguments.output.clone()).chain(sizes) {
        let own = ["", ".training", ".lock", ".json"].map(|ending| beside(&output, ending));
        let log = arguments.recipe.log.as_ref();
        if let Some(file) = own.iter().find(|file| log.is_some_and(|log| same_place(log, file))) {
            return Err(wrong("--log", "another file than those of the training", &file.display().to_string()));
        }
    }
    if !arguments.train_sizes.is_empty() && arguments.output.is_dir() {
        return Err(wrong("--output", "the name of a file", "a directory"));
    }
    let mut progress = Progress::new(arguments.recipe.log.as_deref())?;
    let mut cells = Vec::new();
    if arguments.train_sizes.is_empty() {
        let job = Job { encoder: &encoder, task: &task, sets, recipe: &recipe, output: &arguments.output };
        let (what, metric, runs) = match arguments.weights {
            Some(weights) => {
                let compared = job.alone(|checkpoint| job.compare(weights, checkpoint, &mut progress.listener()))?;
                ("weights trained, no patch is written".to_owned(), compared.metric, compared.runs)
            }
            None => {
                let trained = job.alone(|checkpoint| job.train(checkpoint, &mut progress.listener()))?;
                let bytes = trained.patch.to_bytes()?.len();
                (format!("{}: {bytes} bytes", arguments.output.display()), trained.metric, trained.runs)
            }
        };
        progress.finish()?;
        let mut lines = Vec::new();
        super::describe::describe_runs(&runs, &mut lines);
        let best = best_run(&runs).and_then(|run| Some((run.dev?, run.test)));
        lines.push(match best {
            Some((dev, Some(test))) => format!("{what}, {metric} {dev:.4} on dev, {test:.4} on test"),
            Some((dev, None)) => format!("{what}, {metric} {dev:.4}"),
            None => what,
        });
        return Ok(lines);
    }
    for size in &arguments.train_sizes {
        if *size == 0 || *size > sets.train.len() {
            return Err(Error::Recipe {
                field: "--train-sizes".to_owned(),
                expected: format!("1 to the {} texts there are", sets.train.len()),
                found: size.to_string(),
            });
        }
        let part = subset(sets.train, *size);
        check_variety(&arguments.train, &part).map_err(|error| match error {
            Error::Content { expected, found, .. } => Error::Recipe {
                field: format!("--train-sizes: {size} texts of {}: labels", arguments.train.display()),
                expected,
                found,
            },
            other => other,
        })?;
        let output = file_of_size(&arguments.output, *size);
        let sets = Sets { train: &part, ..sets };
        let job = Job { encoder: &encoder, task: &task, sets, recipe: &recipe, output: &output };
        let cell = Cell::of(&job, arguments.weights, &size.to_string(), &mut progress.listener())?;
        if let Some(patch) = cell.patch {
            check_kept(&output, patch.bytes[0])?;
        }
        let of = best_rate(&cell.runs);
        let test = of.and_then(|of| of.test);
        progress.log(&Entry::Size {
            texts: *size,
            dev: of.map(|of| of.dev.mean),
            deviation: of.and_then(|of| of.dev.deviation),
            test: test.map(|test| test.mean),
            test_deviation: test.and_then(|test| test.deviation),
            train: cell.patch.as_ref().map(|patch| patch.train),
            metric: Some(cell.metric.clone()),
        });
        cells.push(cell);
    }
    progress.finish()?;
    Ok(describe_cells(&cells))
}

/// The patch of a training on some of the texts.
fn file_of_size(output: &Path, size: usize) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{size}.bias"))
}

fn average(text: &str) -> Result<Average, String> {
    let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
    let decay = |text: &str| text.parse().ok().filter(|decay| (0.0..1.0).contains(decay));
    let found = match (name, number) {
        ("none", None) => Some(Average::None),
        ("ema", number) => decay(number.unwrap_or("0.999")).map(Average::Ema),
        ("last", Some(number)) => number.parse().ok().filter(|epochs| *epochs > 0).map(Average::Last),
        _ => None,
    };
    found.ok_or_else(|| "expected none, ema, ema:DECAY with a decay in [0, 1), or last:EPOCHS".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("expected more than none".to_owned()),
        bytes => Ok(bytes),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1_000),
        Some((at, 'M' | 'm')) => (&text[..at], 1_000_000),
        Some((at, 'G' | 'g')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "expected a number of bytes, or one with K, M or G".to_owned())
}

pub(crate) fn learning_rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| Recipe::takes_rate(*rate))
        .ok_or_else(|| "expected a number from 1e-30 to 1".to_owned())
}

pub(crate) fn slots(text: &str) -> Result<Slots, String> {
    text.parse().map_err(|e: Error| e.to_string())
}

/// `4..`: the first of the layers that are trained.
fn layers(text: &str) -> Result<u16, String> {
    let first = text.strip_suffix("..").and_then(|first| first.parse().ok());
    first.ok_or_else(|| "expected N.., as in 4.. for the layers from the fifth on".to_owned())
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (0.0..=1.0).contains(factor));
    factor.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// The task with another pooling.
fn with_pooling(task: &Task, pooling: &str, path: &Path) -> Result<Task> {
    let mut json = serde_json::to_value(task).unwrap_or_default();
    json["pooling"] = pooling.into();
    serde_json::from_value(json).map_err(|e| Error::Task { path: path.to_owned(), reason: e.to_string() })
}
