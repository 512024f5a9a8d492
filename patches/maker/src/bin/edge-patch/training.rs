//! The command `edge-patch train`: flags in, a patch out, a bar and a log on the way.

use std::{
    fs::{self, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use bias_patch::{Bundle, Pooling, Task, Term};
use clap::Args;
use edge_patch::{
    Error, Result,
    data::{check_variety, read_examples},
    train::{Event, Recipe, Trained, train},
};
use edge_run::{Encoder, EngineOptions};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{read_task, report_skipped};

#[derive(Args)]
pub(crate) struct TrainArguments {
    /// The encoder's bundle
    #[arg(long, value_name = "BUNDLE")]
    encoder: PathBuf,
    /// The task: name, kind, labels, and if they are not cls, 1 and 128 pooling, inputs and max_length
    #[arg(long, value_name = "JSON")]
    task: PathBuf,
    /// Texts to learn from
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Texts to be judged by, after every pass
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// The patch to write, its values in f32; edge-patch convert makes it small
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Biases to train, by the paper's terms: bq bv bm1 bln1 bm2 bm3 bln2; beln, beproj of the embeddings, bpool of the
    /// pooler; all, or frozen for the head alone
    #[arg(long, value_name = "TERM,...", value_delimiter = ',', default_value = "all", value_parser = terms)]
    slots: Vec<Terms>,
    /// How a text's tokens become one vector, if not as the task says
    #[arg(long, value_name = "HOW", value_parser = ["cls", "mean", "pooler"])]
    pooling: Option<String>,
    /// Highest learning rates to try
    #[arg(long = "lr", value_name = "RATE,...", value_delimiter = ',', default_value = "1e-3", value_parser = rate)]
    rates: Vec<f64>,
    /// Runs of each learning rate, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// The first of the seeds
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
    /// Passes over the texts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Texts to a step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Judge by this metric of the task's, such as F1 or Matthews, and not by its first
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Stop a run after N passes without a better score
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    patience: Option<u64>,
    /// Threads to run on
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Leave out rows that are not labelled texts
    #[arg(long)]
    skip_bad: bool,
    /// Append what happens to FILE, a JSON object a line
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Trains, and writes the patch. Gives its best score too.
pub(crate) fn run_training(arguments: &TrainArguments) -> Result<(Trained, f64)> {
    let mut task = read_task(&arguments.task)?;
    if let Some(pooling) = &arguments.pooling {
        task = with_pooling(&task, pooling, &arguments.task)?;
    }
    let recipe = Recipe {
        terms: arguments.slots.iter().flat_map(|terms| terms.0.clone()).collect(),
        rates: arguments.rates.clone(),
        seeds: (0..arguments.seeds).map(|at| u64::from(arguments.seed) + u64::from(at)).collect(),
        epochs: arguments.epochs.into(),
        batch: arguments.batch as usize,
        metric: arguments.metric.clone(),
        patience: arguments.patience,
        ..Recipe::default()
    };
    let (learn, judge) = (
        read_examples(&arguments.train, &task, arguments.skip_bad)?,
        read_examples(&arguments.dev, &task, arguments.skip_bad)?,
    );
    report_skipped(&arguments.train, &learn.skipped);
    report_skipped(&arguments.dev, &judge.skipped);
    check_variety(&arguments.train, &learn.examples)?;
    let engine = EngineOptions { threads: arguments.threads as usize, ..EngineOptions::default() };
    let bundle = Bundle::open(&arguments.encoder)?;
    for term in arguments.slots.iter().filter(|terms| terms.0.len() == 1).flat_map(|terms| &terms.0) {
        let pooler = *term != Term::Pooler || task.kind().pooling() == Some(Pooling::Pooler);
        if !pooler || bundle.manifest().slots.iter().all(|slot| slot.term != *term) {
            return Err(Error::Recipe {
                field: "--slots".to_owned(),
                expected: "terms that this encoder and task have".to_owned(),
                found: term.symbol().to_owned(),
            });
        }
    }
    let encoder = Encoder::load(bundle, engine)?;

    let beside = |suffix: &str| {
        let mut name = arguments.output.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (checkpoint, lock) = (beside(".training"), beside(".lock"));
    let locked = fs::File::create(&lock).map_err(bias_patch::Error::io(&lock, "create"))?;
    match locked.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(bias_patch::Error::io(&lock, "lock")(error).into()),
        Err(TryLockError::WouldBlock) => {
            return Err(Error::Content {
                path: arguments.output.clone(),
                field: "output".to_owned(),
                expected: "one training at a time".to_owned(),
                found: "another that writes it".to_owned(),
            });
        }
    }
    let mut log = match &arguments.log {
        Some(path) => {
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            Some((path, file.map_err(bias_patch::Error::io(path, "open"))?))
        }
        None => None,
    };
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} steps, {eta} left  {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut log_failed = None;
    let trained = train(&encoder, &task, &learn.examples, &judge.examples, &recipe, &checkpoint, &mut |event| {
        show(&bar, &event);
        if let Some((path, file)) = &mut log
            && let Err(error) = writeln!(file, "{}", logged(&event))
        {
            log_failed.get_or_insert(bias_patch::Error::io(path, "write")(error));
        }
    });
    bar.finish_and_clear();
    let trained = trained?;
    trained.patch.save(&arguments.output)?;
    // The patch is there: what is left beside it has done its work.
    for path in [&checkpoint, &lock] {
        fs::remove_file(path).map_err(bias_patch::Error::io(path, "remove"))?;
    }
    if let Some(error) = log_failed {
        return Err(error.into());
    }
    let best = trained.runs.iter().filter_map(|(_, _, score)| *score).fold(f64::NEG_INFINITY, f64::max);
    Ok((trained, best))
}

fn show(bar: &ProgressBar, event: &Event) {
    match event {
        Event::Run { run, rate, seed, step, steps } => {
            bar.set_prefix(format!("run {}/{} rate {rate:e} seed {seed}", run.0 + 1, run.1));
            bar.set_length(*steps);
            bar.set_position(*step);
            bar.reset_eta();
        }
        Event::Step { step, loss, .. } => {
            bar.set_position(*step);
            bar.set_message(format!("loss {loss:.3}"));
        }
        Event::Unheld { texts } => {
            bar.println(format!("texts left out, for no window holds the whole answer: {texts}"))
        }
        Event::Diverged { reason } => bar.println(format!("{}  given up: {reason}", bar.prefix())),
        Event::Epoch { epoch, loss, score } => {
            bar.println(format!("{}  pass {epoch}: loss {loss:.4}, dev {score:.4}", bar.prefix()));
        }
    }
}

/// An event as a line of the log.
fn logged(event: &Event) -> serde_json::Value {
    match event {
        Event::Run { run, rate, seed, step, steps } => {
            serde_json::json!({ "event": "run", "run": run.0 + 1, "of": run.1, "lr": rate, "seed": seed, "step": step, "steps": steps })
        }
        Event::Step { step, loss, norm } => {
            serde_json::json!({ "event": "step", "step": step, "loss": loss, "norm": norm })
        }
        Event::Unheld { texts } => serde_json::json!({ "event": "left out", "texts": texts }),
        Event::Diverged { reason } => serde_json::json!({ "event": "diverged", "reason": reason }),
        Event::Epoch { epoch, loss, score } => {
            serde_json::json!({ "event": "pass", "pass": epoch, "loss": loss, "dev": score })
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate| *rate > 0.0 && *rate < 1.0).ok_or_else(|| "expected a number in (0, 1)".to_owned())
}

/// Terms that one word of `--slots` names.
#[derive(Clone, Debug)]
struct Terms(Vec<Term>);

fn terms(word: &str) -> Result<Terms, String> {
    match word.trim() {
        "all" => Ok(Terms(Recipe::default().terms)),
        // A head without any bias: the frozen encoder.
        "none" | "frozen" => Ok(Terms(Vec::new())),
        "bk" => Err("a key's bias has no effect, so it cannot be trained".to_owned()),
        symbol => symbol.parse().map(|term| Terms(vec![term])).map_err(|e: bias_patch::Error| e.to_string()),
    }
}

/// The same task, its tokens pooled otherwise.
fn with_pooling(task: &Task, pooling: &str, path: &Path) -> Result<Task> {
    let mut json = serde_json::to_value(task).unwrap_or_default();
    json["pooling"] = pooling.into();
    serde_json::from_value(json).map_err(|e| Error::Task { path: path.to_owned(), reason: e.to_string() })
}
