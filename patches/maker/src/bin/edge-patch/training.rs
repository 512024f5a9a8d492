//! The command `edge-patch train`: flags in, a patch out, a bar and a log on the way.

use std::path::{Path, PathBuf};

use bias_patch::{Bundle, Manifest, Pooling, Task, Term};
use clap::Args;
use edge_patch::{
    Error, Result,
    data::{Example, check_variety, read_examples},
    log::Entry,
    train::{Average, Recipe, Weights, subset},
};
use edge_run::{Encoder, EngineOptions};

use crate::{
    cells::{Cell, file_of_size},
    describe::describe_cells,
    progress::{Job, Progress},
    read_task, report_skipped,
};

#[derive(Args)]
pub(crate) struct TrainArguments {
    /// The encoder's bundle
    #[arg(long, value_name = "BUNDLE")]
    encoder: PathBuf,
    /// The task: name, kind, labels, and if they are not cls, 1, 128 and 30 pooling, inputs, max_length and max_answer_length
    #[arg(long, value_name = "JSON")]
    task: PathBuf,
    /// Texts to learn from
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Texts to be judged by, after every pass
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// The patch to write, its values in f32; edge-patch convert makes it small. Beside it is kept what a training that was
    /// stopped goes on from, so that --weights wants it too
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Biases to train, by the paper's terms, with , or + between: bq bv bm1 bln1 bm2 bm3 bln2; beln, beproj of the
    /// embeddings, bpool of the pooler; all, or frozen for the head alone
    #[arg(long, value_name = "TERM,...", default_value = "all", value_parser = slots)]
    slots: Slots,
    /// Train weights in place of biases, to compare: as many, random ones or whole rows and columns, as the terms of --slots have
    /// biases; or all, and all biases. No patch is written, for none can hold weights: the scores are said, and with
    /// --train-sizes kept. A run that was stopped begins anew, finished ones are kept. The encoder has to be in f32
    #[arg(long, value_name = "WHICH")]
    weights: Option<Weights>,
    /// How a text's tokens become one vector, if not as the task says
    #[arg(long, value_name = "HOW", value_parser = ["cls", "mean", "pooler"])]
    pooling: Option<String>,
    /// Judge by this metric of the task's, such as F1 or Matthews, and not by its first
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Train on so many of the texts, once for each number, each also on the fewer before; the patches are OUTPUT-N.bias
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    train_sizes: Vec<usize>,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// What every training asks for.
#[derive(Args)]
pub(crate) struct RecipeArguments {
    /// Highest learning rates to try [default: 3e-3; 3e-5 where all weights are trained]
    #[arg(long = "lr", value_name = "RATE,...", value_delimiter = ',', value_parser = rate)]
    pub rates: Vec<f64>,
    /// Runs of each learning rate, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub seeds: u32,
    /// The first of the seeds
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u32,
    /// Passes over the texts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: u32,
    /// Texts to a step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Which parameters are judged and kept: none (the last), ema or ema:DECAY over all steps, last:N over the ends of N passes
    #[arg(long, value_name = "HOW", default_value = "none", value_parser = average)]
    pub average: Average,
    /// Stay within so much memory beside the mapped weights, such as 60M: fewer tokens run together
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<u64>,
    /// Stop a run after N passes without a better score
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: Option<u64>,
    /// Threads to run on
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Leave out rows that are not labelled texts
    #[arg(long)]
    pub skip_bad: bool,
    /// Append what happens to FILE, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

impl RecipeArguments {
    /// The recipe of these terms, with `rates` or, where there are none, the usual one.
    pub fn recipe(&self, terms: Vec<Term>, weights: Option<Weights>, rates: &[f64], metric: Option<String>) -> Recipe {
        let usual = if weights == Some(Weights::Full) { vec![3e-5] } else { Recipe::default().rates };
        Recipe {
            terms,
            rates: if rates.is_empty() { usual } else { rates.to_vec() },
            seeds: (0..self.seeds).map(|at| u64::from(self.seed) + u64::from(at)).collect(),
            epochs: self.epochs.into(),
            batch: self.batch as usize,
            average: self.average,
            memory_limit: self.memory_limit,
            metric,
            patience: self.patience,
            ..Recipe::default()
        }
    }

    /// Reads texts to learn from and to be judged by.
    pub fn read(&self, task: &Task, train: &Path, dev: &Path) -> Result<(Vec<Example>, Vec<Example>)> {
        let (learn, judge) = (read_examples(train, task, self.skip_bad)?, read_examples(dev, task, self.skip_bad)?);
        report_skipped(train, &learn.skipped);
        report_skipped(dev, &judge.skipped);
        check_variety(train, &learn.examples)?;
        Ok((learn.examples, judge.examples))
    }

    pub fn load(&self, bundle: Bundle) -> Result<Encoder> {
        let engine = EngineOptions { threads: self.threads as usize, ..EngineOptions::default() };
        Ok(Encoder::load(bundle, engine)?)
    }
}

/// Trains, and writes the patch, or one for each size. Gives the lines to say.
pub(crate) fn run_training(arguments: &TrainArguments) -> Result<Vec<String>> {
    let mut task = read_task(&arguments.task)?;
    if let Some(pooling) = &arguments.pooling {
        task = with_pooling(&task, pooling, &arguments.task)?;
    }
    let terms = arguments.slots.terms();
    let (rates, metric) = (&arguments.recipe.rates, arguments.metric.clone());
    let recipe = arguments.recipe.recipe(terms, arguments.weights, rates, metric);
    let (learn, judge) = arguments.recipe.read(&task, &arguments.train, &arguments.dev)?;
    let bundle = Bundle::open(&arguments.encoder)?;
    check_terms(&arguments.slots, bundle.manifest(), &task)?;
    let encoder = arguments.recipe.load(bundle)?;
    let mut progress = Progress::new(arguments.recipe.log.as_deref())?;
    let mut cells = Vec::new();
    if arguments.train_sizes.is_empty() {
        let job = Job {
            encoder: &encoder,
            task: &task,
            learn: &learn,
            judge: &judge,
            recipe: &recipe,
            output: &arguments.output,
        };
        let (what, metric, runs) = match arguments.weights {
            Some(weights) => {
                let compared = job.alone(|checkpoint| job.compare(weights, checkpoint, &mut progress))?;
                ("weights, so no patch is written".to_owned(), compared.metric, compared.runs)
            }
            None => {
                let trained = job.alone(|checkpoint| job.train(checkpoint, &mut progress))?;
                let bytes = trained.patch.to_bytes()?.len();
                (format!("{}: {bytes} bytes", arguments.output.display()), trained.metric, trained.runs)
            }
        };
        progress.finish()?;
        let mut lines = Vec::new();
        crate::describe::describe_runs(&runs, &mut lines);
        let best = runs.iter().filter_map(|run| run.2).fold(f64::NEG_INFINITY, f64::max);
        lines.push(format!("{what}, {metric} {best:.4}"));
        return Ok(lines);
    }
    for size in &arguments.train_sizes {
        if *size == 0 || *size > learn.len() {
            return Err(Error::Recipe {
                field: "--train-sizes".to_owned(),
                expected: format!("1 to the {} texts there are", learn.len()),
                found: size.to_string(),
            });
        }
        let part = subset(&learn, *size);
        check_variety(&arguments.train, &part)?;
        let output = file_of_size(&arguments.output, *size);
        let job = Job { encoder: &encoder, task: &task, learn: &part, judge: &judge, recipe: &recipe, output: &output };
        let cell = Cell::of(&job, arguments.weights, &size.to_string(), &mut progress)?;
        let of = cell.best_rate();
        progress.log(&Entry::Size {
            texts: *size,
            dev: of.map(|of| of.mean),
            deviation: of.map(|of| of.deviation),
            train: cell.patch.as_ref().map(|patch| patch.train),
            metric: Some(cell.metric.clone()),
        });
        cells.push(cell);
    }
    progress.finish()?;
    Ok(describe_cells(&cells))
}

/// Refuses a single term that would train nothing.
pub(crate) fn check_terms(slots: &Slots, manifest: &Manifest, task: &Task) -> Result<()> {
    for term in slots.0.iter().filter(|terms| terms.len() == 1).flatten() {
        let pooler = *term != Term::Pooler || task.kind().pooling() == Some(Pooling::Pooler);
        if !pooler || manifest.slots.iter().all(|slot| slot.term != *term) {
            return Err(Error::Recipe {
                field: "--slots".to_owned(),
                expected: "terms that this encoder and task have".to_owned(),
                found: term.symbol().to_owned(),
            });
        }
    }
    Ok(())
}

fn average(text: &str) -> Result<Average, String> {
    let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
    let decay = |text: &str| text.parse().ok().filter(|decay| (0.0..1.0).contains(decay));
    let found = match (name, number) {
        ("none", None) => Some(Average::None),
        ("ema", number) => decay(number.unwrap_or("0.999")).map(Average::Moving),
        ("last", Some(number)) => number.parse().ok().filter(|passes| *passes > 0).map(Average::Last),
        _ => None,
    };
    found.ok_or_else(|| "expected none, ema, ema:DECAY with a decay in [0, 1), or last:PASSES".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1_000),
        Some((at, 'M' | 'm')) => (&text[..at], 1_000_000),
        Some((at, 'G' | 'g')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "expected a number of bytes, or one with K, M or G".to_owned())
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| *rate > 0.0 && *rate < 1.0).ok_or_else(|| "expected a number in (0, 1)".to_owned())
}

/// What is trained: the terms that each word names.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Vec<Vec<Term>>);

impl Slots {
    pub fn terms(&self) -> Vec<Term> {
        self.0.concat()
    }
}

pub(crate) fn slots(text: &str) -> Result<Slots, String> {
    let terms = |word: &str| match word.trim() {
        "all" => Ok(Recipe::default().terms),
        // A head without any bias: the frozen encoder.
        "none" | "frozen" => Ok(Vec::new()),
        "bk" => Err("a key's bias has no effect, so it cannot be trained".to_owned()),
        symbol => symbol.parse().map(|term| vec![term]).map_err(|e: bias_patch::Error| e.to_string()),
    };
    text.split([',', '+']).map(terms).collect::<Result<_, _>>().map(Slots)
}

/// The same task, its tokens pooled otherwise.
fn with_pooling(task: &Task, pooling: &str, path: &Path) -> Result<Task> {
    let mut json = serde_json::to_value(task).unwrap_or_default();
    json["pooling"] = pooling.into();
    serde_json::from_value(json).map_err(|e| Error::Task { path: path.to_owned(), reason: e.to_string() })
}
