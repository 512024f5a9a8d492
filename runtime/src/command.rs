//! `edge-run`: answers texts, times an encoder, or prepares one.
//!
//! In: patches and texts, or a bundle. Out: a row for each text and task on standard output, or a report. Refused: an
//! unknown flag or value, or one that does not suit the task (exit code 2); a file that cannot be used (exit code 1). Only
//! this file prints.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Activations, Bundle, Encoder, EngineKind, EngineOptions, Error, Options, Patch, Result, Store, Strategy,
    bench::{BenchOptions, bench},
    cache_dir,
    cli::{
        Destination, Extras, InputFormat, LabelVectors, OutputFormat, Query, Records, Session, SessionOptions,
        TaskOptions, Times, Writer, check_extras, check_format, names, run, tasks, write_report, write_times,
        write_totals,
    },
    cpu_is_known, patch_file, replaceable_by_others,
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};

/// Answer texts with one or more patches over one encoder
///
/// A patch names its encoder by digest. The encoder's bundle is looked up in the store, to which edge-export writes.
#[derive(Parser)]
#[command(
    name = "edge-run",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Answer with this patch; repeat the flag to run several tasks at once
    ///
    /// hf:ORG/NAME[/FILE.bias][@REVISION] is a patch that edge-patch pull, or another program, fetched from the Hugging
    /// Face Hub into its cache; edge-run does not fetch.
    #[arg(short, long = "patch", value_name = "FILE", required = true)]
    patches: Vec<PathBuf>,
    /// The file of texts; - or no file reads standard input
    file: Option<PathBuf>,
    /// Further files, as a shell pattern gives them: refused, with the right command in the message
    #[arg(hide = true)]
    surplus: Vec<PathBuf>,
    /// Read the encoder from this bundle [default: the store]
    #[arg(long, visible_alias = "encoder", value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Read texts in this format [default: by the file's ending, .tsv, .jsonl or .json; else lines]
    #[arg(short, long, value_enum)]
    input: Option<InputFormat>,
    /// Write answers in this format
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
    /// Give the N most likely labels or spans, the most likely first, of several labels only in
    /// JSON [default: 1]; with --query, the N best texts [all]
    #[arg(short = 'k', long, value_name = "N", value_parser = at_least_one)]
    top_k: Option<usize>,
    /// Also write the head's outputs (logits)
    #[arg(long)]
    logits: bool,
    /// Read N lines, then answer them together
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = at_least_one)]
    batch: usize,
    /// Put this prompt of each task before its texts; for embeddings [default: the one called default, if there is one]
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Answer tagging tasks with entities: neighbouring tags of one name together, with their characters and a score
    ///
    /// STRATEGY is one of transformers' token-classification pipeline. Without it, words have the tags that they have
    /// without the flag: that of their first token, the only one that edge-patch trains.
    #[arg(long, value_enum, value_name = "STRATEGY", num_args = 0..=1, require_equals = true,
        default_missing_value = "first")]
    entities: Option<Strategy>,
    /// Rank these labels for each text of an embedding task, by the cosine of their embeddings (zero-shot)
    ///
    /// The score is a similarity from -1 to 1, not the probability that a trained head gives.
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    labels: Vec<String>,
    /// Embed each label in this text, in the place of {}; such as "This text is about {}."
    #[arg(long, value_name = "TEXT", default_value = "{}", requires = "labels")]
    template: String,
    /// Rank the lines by how well each suits this query, the best first; for a regression task on two texts
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["unbuffered", "labels", "entities", "prompt"])]
    query: Option<String>,
    /// Cut texts to N tokens, or to the patch's own limit if that is lower
    #[arg(long, value_name = "N", value_parser = at_least_three)]
    max_length: Option<u32>,
    /// Answer each line before reading the next; --batch has no effect then
    #[arg(short, long)]
    unbuffered: bool,
    #[command(flatten)]
    engine: EngineArguments,
    /// Report times and memory on standard error
    #[arg(long)]
    timing: bool,
}

impl Arguments {
    /// The error for several files. If patches are among them, it gives the right command.
    fn wrong_files(&self) -> clap::Error {
        let files = || self.file.iter().chain(&self.surplus);
        let (patches, texts): (Vec<_>, Vec<_>) =
            files().partition(|file| file.extension().is_some_and(|e| e == "bias"));
        let mut message = format!("expected one file of texts, found {}", files().count());
        if texts.len() < 2 {
            let patches = self.patches.iter().chain(patches).map(|patch| format!(" -p {}", patch.display()));
            let texts = texts.iter().map(|text| format!(" {}", text.display()));
            message += "; give each patch its own -p:\n  edge-run";
            message.extend(patches.chain(texts));
        }
        if self.file.as_ref().and_then(|file| file.to_str()).is_some_and(|file| Strategy::from_str(file, false).is_ok())
        {
            message += "; a strategy stands behind =, as in --entities=max";
        }
        Self::command().error(ErrorKind::TooManyValues, message)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Measure the time and memory that an encoder takes, with generated token ids
    Bench(BenchArguments),
    /// Write the weights in this processor's layout and check every file, to make the first answer fast
    ///
    /// Prints one line: the file that holds the weights in that layout, its size in bytes, and whether it was made or
    /// found.
    Prepare {
        /// The encoder's bundle
        bundle: PathBuf,
    },
}

#[derive(Args)]
struct BenchArguments {
    /// The encoder's bundle
    bundle: PathBuf,
    /// Measure sequences of these lengths, in tokens [default: those of 8,16,32,128,256 that the encoder takes]
    #[arg(short, long, value_name = "N,...", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..))]
    lengths: Vec<u32>,
    /// Run N sequences together
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    batch: usize,
    /// Run with the values of this patch, in place of the encoder's own
    #[arg(short, long, value_name = "FILE")]
    patch: Option<PathBuf>,
    /// Also measure forward and backward together, as in training
    #[arg(long)]
    gradients: bool,
    /// Measure each figure for S seconds
    #[arg(short, long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Write the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArguments,
}

#[derive(Args)]
struct EngineArguments {
    /// Run the encoder with this engine
    #[arg(long, value_enum, default_value = "auto")]
    engine: EngineKind,
    /// How exactly to compute with activations; with f32 weights it is always in f32
    #[arg(long, value_enum, default_value = "short")]
    activations: Activations,
    /// Run on N threads; tract always runs on one
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    threads: usize,
}

impl EngineArguments {
    fn options(&self) -> EngineOptions {
        EngineOptions { engine: self.engine, activations: self.activations, threads: self.threads }
    }
}

const EXAMPLES: &str = "\
Examples:
  edge-run --patch sst2.bias reviews.txt              a label for each line
  edge-run -p sst2.bias -p topic.bias reviews.txt     two tasks over one encoder
  edge-run -p hf:org/sst2 reviews.txt                 after edge-patch pull hf:org/sst2
  edge-run -p mrpc.bias -o jsonl pairs.tsv            columns sentence1 and sentence2
  edge-run -p ner.bias --entities news.txt            people and places with their characters
  edge-run -p embed.bias -o npy docs.txt > docs.npy   a vector for each line, for NumPy
  edge-run -p embed.bias --labels sports,politics docs.txt
                                                      labels by similarity, without training
  edge-run -p rank.bias --query 'how do planes fly?' docs.txt
                                                      the lines that suit the query best, first
  tail -f log | edge-run -p alarm.bias --unbuffered   answers each line as it comes
  edge-run bench minilm --lengths 8,32 --threads 2    how fast is this machine?
  edge-run prepare minilm                             once, before the first answer is needed

Lines hold one text, or two with a tab between. In TSV and JSON the first text
is called text, sentence, sentence1, question, premise, text_a, question1 or
tokens, the second text_pair, sentence2, context, hypothesis, text_b, question2
or passage.

A line that cannot be answered (empty, or two texts for a task on one) keeps its
row, with the reason. Without lines there are no rows, and that is no failure;
of a file without lines, standard error says so.

Exit codes: 0 every line was answered, 1 failure, 2 wrong usage, 3 some lines
were not answered.";

/// The exit code when some lines have no answer and nothing else is wrong.
const UNANSWERED: u8 = 3;

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("expected 1 to {}", usize::MAX))
}

fn at_least_three(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n > 2).ok_or_else(|| format!("expected 3 to {}", u32::MAX))
}

fn seconds(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|n| (0.0..=3600.0).contains(n));
    found.ok_or_else(|| "expected a number from 0 to 3600".to_owned())
}

/// The command line, to write manual pages and completions from.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs the command and gives its exit code. The first of `arguments` is the program's name. Usage errors, `--help` and
/// `--version` end the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = Arguments::parse_from(arguments);
    if !arguments.surplus.is_empty() {
        arguments.wrong_files().exit();
    }
    let done = match &arguments.command {
        Some(Command::Bench(arguments)) => measure(arguments).map(|()| true),
        Some(Command::Prepare { bundle }) => prepare(bundle).map(|()| true),
        None => answer(&arguments),
    };
    match done {
        Ok(true) => 0,
        Ok(false) => UNANSWERED,
        // The reader of our output closed it: that is success.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            eprintln!("edge-run: {error}");
            if matches!(error, Error::Usage { .. }) { 2 } else { 1 }
        }
    }
}

/// The lengths that are measured where none are given.
const LENGTHS: [u32; 5] = [8, 16, 32, 128, 256];

/// The lengths that are measured. Those that were given stay: [`bench`] refuses what the encoder does not take.
fn lengths(given: &[u32], limit: u32) -> Vec<u32> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let (kept, left): (Vec<u32>, Vec<u32>) = LENGTHS.iter().partition(|length| **length <= limit);
    if !left.is_empty() {
        let left: Vec<String> = left.iter().map(u32::to_string).collect();
        eprintln!("edge-run: lengths left out: {}; the encoder takes at most {limit} tokens", left.join(", "));
    }
    if kept.is_empty() { vec![limit] } else { kept }
}

fn measure(arguments: &BenchArguments) -> Result<()> {
    let bundle = Bundle::open(&arguments.bundle)?;
    let options = BenchOptions {
        engine: arguments.engine.options(),
        lengths: lengths(&arguments.lengths, bundle.manifest().config.max_length),
        batch: arguments.batch,
        gradients: arguments.gradients,
        patch: arguments.patch.as_deref().map(open_patch).transpose()?,
        time: Duration::from_secs_f64(arguments.seconds),
    };
    let report = bench(bundle, &options)?;
    report_tract(report.uncovered.as_deref());
    let mut out = io::stdout().lock();
    let written = match arguments.json {
        true => serde_json::to_writer(&mut out, &report).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => write_report(&mut out, &report),
    };
    written.map_err(unwritten)
}

/// Opens a patch in a file, or one that `edge-patch pull` fetched.
fn open_patch(patch: &Path) -> Result<Patch> {
    Ok(Patch::open(&patch_file(patch)?)?)
}

fn prepare(bundle: &Path) -> Result<()> {
    let encoder = Encoder::open(bundle)?;
    report_tract(encoder.uncovered());
    let Some((path, made)) = encoder.panels() else { return Ok(()) };
    let metadata = path.metadata().map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })?;
    let how = if made { "made" } else { "found" };
    writeln!(io::stdout(), "{}: {} bytes, {how}", path.display(), metadata.len()).map_err(unwritten)
}

/// Says that tract runs the encoder although nobody asked for it. `reason` names the node that our operators do not
/// cover. Every command loads one encoder, so a process says it once.
fn report_tract(reason: Option<&str>) {
    if let Some(reason) = reason {
        eprintln!(
            "edge-run: tract runs this encoder, because our operators do not cover its graph: {reason}; tract is slower, \
             runs one text at a time on one thread, and copies the weights into memory of this process"
        );
    }
}

/// Says who else may replace what is read, if anybody may: the bundle, or notes that it is intact.
fn report_neighbours(bundle: &Path) {
    let exposed = replaceable_by_others(bundle).or_else(|| replaceable_by_others(&cache_dir()?));
    if let Some(exposed) = exposed {
        eprintln!("edge-run: {exposed}");
    }
}

fn unwritten(source: io::Error) -> Error {
    Error::Io { path: "standard output".into(), action: "write", source }
}

/// Answers all lines. Gives whether every line has an answer.
fn answer(arguments: &Arguments) -> Result<bool> {
    let format = match (arguments.input, &arguments.file) {
        (Some(format), _) => format,
        (None, Some(file)) => InputFormat::of(file)?,
        (None, None) => InputFormat::Lines,
    };
    let begun = Instant::now();
    let patches: Vec<Patch> = arguments.patches.iter().map(|path| open_patch(path)).collect::<Result<_>>()?;
    let bundle = match (&arguments.bundle, patches.first()) {
        (Some(dir), _) => Bundle::open(dir)?,
        (None, Some(patch)) => Store::of_user()?.open(patch.encoder())?,
        (None, None) => return Ok(true),
    };
    let opened = begun.elapsed();
    report_neighbours(bundle.dir());
    if !cpu_is_known() {
        eprintln!(
            "edge-run: expected a CPU with AVX2, or with NEON and VFPv4, found neither: plain code runs, many times slower"
        );
    }
    let encoder = Encoder::load(bundle, arguments.engine.options())?;
    report_tract(encoder.uncovered());
    let begun = Instant::now();
    let how = TaskOptions { prompt: arguments.prompt.as_deref(), entities: arguments.entities };
    let tasks = tasks(&encoder, &patches, &arguments.patches, how)?;
    let options = Options { top: arguments.top_k.unwrap_or(1), max_length: arguments.max_length, most_windows: None };
    let labels = match &arguments.labels[..] {
        [] => None,
        labels => Some(LabelVectors::new(&encoder, &tasks, labels, &arguments.template, options)?),
    };
    let query = arguments.query.as_deref();
    let query = query.map(|text| Query::new(text, arguments.top_k, &tasks, arguments.output)).transpose()?;
    check_format(arguments.output, &tasks, labels.is_some())?;
    let extras = Extras {
        top: arguments.top_k,
        logits: arguments.logits,
        labels: labels.is_some(),
        query: query.is_some(),
        format: arguments.output,
    };
    check_extras(extras, &tasks)?;
    let attached = begun.elapsed();

    let (mut reader, name, length) = open(arguments)?;
    // The check reads the buffer without consuming it, because standard input cannot be read twice. A read error is
    // ignored here: the next read gives it again.
    if reader.fill_buf().is_ok_and(Patch::begins) {
        return Err(Error::Input {
            place: name,
            expected: "a text".to_owned(),
            found: "a patch; give each patch its own -p".to_owned(),
        });
    }
    let bar = progress_bar(length);
    let mut records = Records::new(reader, format, &name)?;
    let names = names(&tasks, &arguments.patches);
    let session = Session { encoder: &encoder, tasks: &tasks, names: &names, labels: labels.as_ref() };
    let out = Destination::of(arguments.output).map_err(unwritten)?;
    let mut writer = Writer::new(out, arguments.output, arguments.logits, &session);
    let how = SessionOptions { options, batch: arguments.batch, unbuffered: arguments.unbuffered };
    let progress = |bytes| bar.set_position(bytes);
    let outcome = match &query {
        Some(query) => query.rank(&session, &mut records, &mut writer, how, progress),
        None => run(&session, &mut records, &mut writer, how, progress),
    };
    bar.finish_and_clear();
    // The rows before a failure stay.
    let (out, shape) = writer.into_parts();
    let finished = out.finish(shape).map_err(unwritten);
    let outcome = outcome?;
    finished?;
    // A pipe without lines is usual. A file without lines may be the wrong one.
    if outcome.records == 0 && arguments.file.as_ref().is_some_and(|file| file.as_os_str() != "-") {
        eprintln!("edge-run: {name}: no texts");
    }
    let place = if query.is_some() { "listed last" } else { "marked in their place" };
    // Standard error may be closed; the answers are written all the same.
    let _ = write_totals(&mut io::stderr(), &outcome, place);
    if arguments.timing {
        let times = Times { opened, load: encoder.load_timing(), attached };
        let _ = write_times(&mut io::stderr(), times, &tasks, &outcome);
    }
    Ok(outcome.refused == 0)
}

fn open(arguments: &Arguments) -> Result<(Box<dyn BufRead>, String, Option<u64>)> {
    match &arguments.file {
        Some(path) if path.as_os_str() != "-" => {
            let failed = |source| Error::Io { path: path.clone(), action: "read", source };
            let file = File::open(path).map_err(|source| match source.kind() {
                // A text, perhaps.
                io::ErrorKind::NotFound if path.to_string_lossy().contains(' ') => Error::Input {
                    place: path.display().to_string(),
                    expected: "a file of texts; to answer one text: echo 'a text' | edge-run -p PATCH".to_owned(),
                    found: "no such file".to_owned(),
                },
                _ => failed(source),
            })?;
            let metadata = file.metadata().map_err(failed)?;
            if metadata.is_dir() {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            Ok((Box::new(BufReader::new(file)), path.display().to_string(), Some(metadata.len())))
        }
        _ => Ok((Box::new(io::stdin().lock()), "standard input".to_owned(), None)),
    }
}

/// A progress bar over a file; hidden if the answers themselves go to the terminal.
fn progress_bar(length: Option<u64>) -> ProgressBar {
    match length {
        Some(length) if !io::stdout().is_terminal() => {
            let style = ProgressStyle::with_template("[{bar:40}] {percent:>3} %  {eta} left");
            let bar = ProgressBar::new(length);
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        }
        _ => ProgressBar::hidden(),
    }
}
