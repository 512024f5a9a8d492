//! `edge-patch`: makes and inspects patches.

mod convert;
mod describe;
mod encodings;
mod inspecting;
mod opening;
mod outputs;
mod plotting;
mod progress;
mod reproduce;
mod retarget;
mod sharing;
mod signing;
mod table;
mod training;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use crate::{
    Error, Result,
    data::{check_apart, read_examples, read_task},
    difference, embedding, evaluate_against, extract, extract_peft, import, of_sentence_transformers,
};
use bias_patch::{Patch, SlotKind, atomic};
use clap::{ArgGroup, CommandFactory, Parser, Subcommand, ValueEnum};
use edge_bundle::Bundle;
use edge_run::{EngineOptions, tasks};

use self::{
    convert::{ConvertArguments, run_conversion},
    describe::{Evaluated, describe_difference, describe_evaluation},
    encodings::{EncodingsArguments, run_encodings},
    inspecting::{InspectArguments, run_inspection},
    opening::{file_bytes, load_encoder, open_encoder, report_skipped, say},
    outputs::{check_notes, check_tensors},
    plotting::{PlotArguments, run_plot},
    reproduce::{ReproduceArguments, run_reproduction},
    retarget::{RetargetArguments, run_retargeting},
    sharing::{PullArguments, PushArguments, run_pull, run_push},
    signing::{SignArguments, check_signature, run_signing},
    table::{KeptArguments, TableArguments, run_kept, run_table},
    training::{TrainArguments, run_training},
};

/// Make and inspect patches. A patch is biases, low-rank terms and a head that adapt a frozen encoder to a task.
#[derive(Parser)]
#[command(name = "edge-patch", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a patch on labelled texts
    ///
    /// Files of texts are .tsv or .csv with a header (sentence, or sentence1 and sentence2, and label), .jsonl, .conll
    /// or .conllu for tags, or SQuAD's .json for spans. To resume a training that was stopped, run the same command
    /// again. Its checkpoint, OUTPUT.training, is removed when it is done.
    Train(TrainArguments),
    /// Train several choices of slots on several data sets, and write a table of the scores
    ///
    /// Every result is kept. To resume a table that was stopped, run the same command again.
    Table(TableArguments),
    /// Train the tables of the BitFit paper, by its settings
    ///
    /// Every result is kept. To resume, run the same command again. On one machine it takes days.
    Reproduce(ReproduceArguments),
    /// Write the table of the results that table and reproduce kept in a directory
    ///
    /// Nothing is trained, and neither the data nor the encoder is read. A cell without a result is a dash.
    Results(KeptArguments),
    /// Score a patch on labelled texts
    Evaluate {
        /// The patch to read
        patch: PathBuf,
        /// The labelled texts to score on, in the formats of train
        data: PathBuf,
        /// Read the encoder from this bundle [default: the store]
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: Option<PathBuf>,
        /// Skip rows that are not labelled texts, in place of refusing the file
        #[arg(long)]
        skip_bad: bool,
        /// Compare with another patch of the same task, on the same texts
        #[arg(long, value_name = "PATCH")]
        against: Option<PathBuf>,
        /// Run on this many threads
        #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        threads: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a patch of biases or an adapter that were trained elsewhere
    Import {
        /// Make the patch for the encoder of this bundle
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: PathBuf,
        /// Read values and head from this safetensors file of biases, fine-tuned checkpoint or PEFT adapter (LoRA, BEFT)
        #[arg(long, value_name = "FILE_OR_DIR")]
        from: PathBuf,
        /// Read the task from this JSON file: name, kind and labels; optionally pooling (default cls), inputs (1;
        /// 2 for spans), max_length (128) and fields of one kind, which patches/maker/README.md lists
        #[arg(long, value_name = "JSON")]
        task: PathBuf,
        /// Write the patch to this file
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Store a note in the patch, as KEY=VALUE; repeat the flag for more
        #[arg(long = "note", value_name = "KEY=VALUE", value_parser = note)]
        notes: Vec<(String, String)>,
    },
    /// Make a patch that gives embeddings, of an encoder as it is
    #[command(group = ArgGroup::new("source").required(true))]
    Embed {
        /// Make the patch for the encoder of this bundle
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: PathBuf,
        /// Embed as the sentence-transformers model in this directory: pooling, dense layers, normalization and prompts
        #[arg(long, value_name = "DIR", group = "source")]
        from: Option<PathBuf>,
        /// Read the task from this JSON file: name and kind embedding; optionally pooling (default cls), dimensions
        /// (all), normalize (true), prompts (none) and max_length (128)
        #[arg(long, value_name = "JSON", group = "source")]
        task: Option<PathBuf>,
        /// Call the task this, with --from
        #[arg(long, value_name = "NAME", default_value = "embedding", conflicts_with = "task")]
        name: String,
        /// Write the patch to this file
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show what is in a patch
    Inspect(InspectArguments),
    /// Draw what training changed, or its loss and scores, as a picture or in the terminal
    Plot(PlotArguments),
    /// Check that a patch is intact and fits its encoder
    Verify {
        /// The patch to check
        patch: PathBuf,
        /// Read the encoder from this bundle [default: the store]
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: Option<PathBuf>,
        /// Require a signature by this public key; repeat the flag for more keys: a signature by one of them is enough
        #[arg(long = "key", value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// Sign patches for a device that trusts a key, and write the signature beside each
    Sign(SignArguments),
    /// Put a patch into a repository on the Hugging Face Hub, with a model card
    ///
    /// The token is that of HF_TOKEN, or what `hf auth login` stored. It has to permit writing to the repository.
    /// HF_ENDPOINT names another Hub.
    Push(PushArguments),
    /// Fetch a patch from the Hugging Face Hub into its cache, and print where it is
    ///
    /// `edge-run -p` takes the same name afterwards, without a network. The Hub is asked each time which commit a
    /// branch or a tag is; if it does not answer, the patch that was fetched before is given, and standard error says
    /// so. With HF_HUB_OFFLINE=1 nobody is asked. HF_HOME and HF_HUB_CACHE name another cache, HF_ENDPOINT another Hub.
    Pull(PullArguments),
    /// Show in which slots two patches of one encoder differ
    Diff {
        /// The first patch
        a: PathBuf,
        /// The second patch
        b: PathBuf,
        /// Read the encoder from this bundle [default: the store]
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: Option<PathBuf>,
    },
    /// Store a patch's values in fewer bytes
    Convert(ConvertArguments),
    /// Make a patch for the same encoder in another number format, as f16 or int8
    Retarget(RetargetArguments),
    /// Write a table of a patch's bytes and scores in each encoding
    Encodings(EncodingsArguments),
    /// Write a patch's values and head for other programs
    Extract {
        /// The patch to read
        patch: PathBuf,
        /// Write this form
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Write the safetensors file, or the adapter's directory, here
        #[arg(short, long, value_name = "FILE_OR_DIR")]
        output: PathBuf,
        /// Read the encoder from this bundle [default: the store]
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: Option<PathBuf>,
    },
}

/// What `extract` writes.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    /// All biases of the encoder with the patch applied, its low-rank terms and its head, as one safetensors file
    #[default]
    Biases,
    /// An adapter for PEFT, of a patch with low-rank terms: a directory of adapter_config.json and
    /// adapter_model.safetensors
    Peft,
}

fn biases_and_terms(biases: usize, terms: usize) -> String {
    let terms = if terms > 0 { format!(", {terms} low-rank terms") } else { String::new() };
    format!("{biases} biases{terms}")
}

const EXAMPLES: &str = "\
Examples:
  edge-patch train --encoder minilm --task sst2.json --train train.tsv --dev dev.tsv -o sst2.bias
  edge-patch train --encoder minilm --task sst2.json --train train.tsv --dev dev.tsv -o small.bias \\
      --slots bq,bm2 --lr 1e-3,3e-3,5e-3 --seeds 3
  edge-patch train --encoder minilm --task sst2.json --train train.tsv --dev dev.tsv -o sst2.bias \\
      --train-sizes 100,300,1000
  edge-patch table --encoder minilm --data sst2=sst2.json,train.tsv,dev.tsv --seeds 5 \\
      --rows frozen,bq+bm2,all,random,rows,full@3e-5 --results results -o table.md
  edge-patch evaluate sst2.bias dev.tsv
  edge-patch import --encoder minilm --from biases.safetensors --task sst2.json -o sst2.bias
  edge-patch import --encoder minilm --from lora-sst2 --task sst2.json -o sst2.bias
  edge-patch embed --encoder minilm --from all-MiniLM-L6-v2 -o embed.bias
  edge-patch extract sst2.bias --format peft -o lora-sst2
  edge-patch inspect sst2.bias
  edge-patch plot changes sst2.bias -o changes.svg
  edge-patch plot sizes bitfit.jsonl full.jsonl -o sizes.png
  edge-patch encodings sst2.bias test.tsv --max-loss 0.2,0.5 --texts train.tsv -o encodings.md
  edge-patch convert sst2.bias --encoding i4 -o small.bias
  edge-patch convert sst2.bias --max-loss 0.5 --texts train.tsv --data test.tsv -o small.bias
  edge-patch retarget sst2.bias --to minilm-f16 -o sst2-f16.bias
  edge-patch diff sst2.bias small.bias
  edge-patch sign sst2.bias --key minisign.key
  edge-patch verify sst2.bias --key minisign.pub
  edge-patch push sst2.bias hf:org/sst2 --license mit --data dev.tsv
  edge-patch pull hf:org/sst2 -o sst2.bias";

fn note(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The command line, to write manual pages and completions from.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs the command and gives its exit code. The first of `arguments` is the program's name. Usage errors, `--help` and
/// `--version` end the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match run(Arguments::parse_from(arguments).command, &mut io::stdout().lock()) {
        Ok(()) => 0,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(Failure::Output(error)) => {
            eprintln!("edge-patch: cannot write the output: {error}");
            1
        }
        Err(Failure::Work(error)) => {
            eprintln!("edge-patch: {error}");
            1
        }
    }
}

/// Why the command stopped.
enum Failure {
    Work(Error),
    Output(io::Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Work(error.into())
    }
}

fn run(command: Command, out: &mut impl Write) -> Result<(), Failure> {
    let mut lines = Vec::new();
    match command {
        Command::Train(arguments) => {
            lines = run_training(&arguments)?;
        }
        Command::Table(arguments) => lines = run_table(&arguments)?,
        Command::Reproduce(arguments) => lines = run_reproduction(&arguments)?,
        Command::Results(arguments) => lines = run_kept(&arguments)?,
        Command::Evaluate { patch, data, encoder, skip_bad, against, threads, json } => {
            let opened = Patch::open(&patch)?;
            let bundle = open_encoder(encoder.as_deref(), &opened)?.0;
            let other = against.as_deref().map(Patch::open).transpose()?;
            for (path, patch) in [(Some(&patch), Some(&opened)), (against.as_ref(), other.as_ref())] {
                if let (Some(path), Some(patch)) = (path, patch) {
                    patch.check(&bundle.manifest().shape()).map_err(|e| e.in_file(path))?;
                }
            }
            let engine = EngineOptions { threads: threads as usize, ..EngineOptions::default() };
            let encoder = load_encoder(bundle, engine)?;
            let read = read_examples(&data, opened.task(), skip_bad)?;
            let (found, compared) = evaluate_against(&encoder, &opened, other.as_ref(), &read.examples)?;
            let kind = opened.task().kind();
            let what = if tasks::of(kind).compares() { "pairs" } else { "texts" };
            let evaluated =
                Evaluated { bytes: file_bytes(&patch)?, what, labels: kind.labels(), evaluation: &found, compared };
            if json {
                // An evaluation holds only numbers, strings and lists.
                lines.push(serde_json::to_string_pretty(&evaluated).unwrap_or_default());
            } else {
                describe_evaluation(&evaluated, &mut lines);
            }
            report_skipped(&data, &read.skipped);
        }
        Command::Import { encoder, from, task, output, notes } => {
            check_notes(&notes)?;
            let bundle = Bundle::open(&encoder)?;
            let imported = import(&bundle, &from, read_task(&task)?, &notes)?;
            imported.patch.save(&output)?;
            let stored = imported.patch.slots();
            let terms = stored.iter().filter(|slot| slot.id.kind == SlotKind::LoraA).count();
            lines.push(format!(
                "{}: {} bytes, {}; {} as in the encoder, {} key biases without effect left out",
                output.display(),
                imported.patch.to_bytes()?.len(),
                // A term is stored in two slots.
                biases_and_terms(stored.len() - 2 * terms, terms),
                imported.unchanged,
                imported.keys,
            ));
            lines.extend(imported.of_checkpoint);
            if let Some(base) = imported.base_model {
                let encoder = &bundle.manifest().name;
                lines.push(format!(
                    "the adapter names {base} as its base model; nothing in it proves that encoder {encoder} is that model"
                ));
            }
        }
        Command::Embed { encoder, from, task, name, output } => {
            let bundle = Bundle::open(&encoder)?;
            let patch = match task {
                Some(task) => embedding(&bundle, read_task(&task)?)?,
                // Without a task there is a directory, as the flags say.
                None => of_sentence_transformers(&bundle, &from.unwrap_or_default(), &name)?,
            };
            patch.save(&output)?;
            lines.push(format!("{}: {} bytes", output.display(), patch.to_bytes()?.len()));
        }
        Command::Inspect(arguments) => lines = run_inspection(&arguments)?,
        Command::Plot(arguments) => lines = run_plot(&arguments)?,
        Command::Sign(arguments) => run_signing(&arguments, &mut lines)?,
        Command::Verify { patch, encoder, keys } => {
            check_signature(&patch, &keys)?;
            let opened = Patch::open(&patch)?;
            let (bundle, base) = open_encoder(encoder.as_deref(), &opened)?;
            opened.apply(&bundle.manifest().shape(), base.slots()).map_err(|e| e.in_file(&patch))?;
            lines.push(format!(
                "{}: intact, fits encoder {} ({})",
                patch.display(),
                opened.encoder().short(),
                bundle.manifest().name
            ));
        }
        Command::Diff { a, b, encoder } => {
            let (first, second) = (Patch::open(&a)?, Patch::open(&b)?);
            let (bundle, base) = open_encoder(encoder.as_deref(), &first)?;
            for (patch, path) in [(&first, &a), (&second, &b)] {
                patch.check(&bundle.manifest().shape()).map_err(|e| e.in_file(path))?;
            }
            let found = difference(&first, &second, bundle.manifest(), &base)?;
            lines.push(format!("{:20} {:>12} {:>12}", "part", "mean", "largest"));
            lines.extend(found.iter().map(describe_difference));
            if first.task() != second.task() {
                lines.push("the tasks differ too: see inspect".to_owned());
            }
            lines.push(format!("{} parts differ", found.len()));
        }
        Command::Push(arguments) => lines = run_push(&arguments)?,
        Command::Pull(arguments) => lines = run_pull(&arguments)?,
        Command::Convert(arguments) => lines = run_conversion(&arguments)?,
        Command::Retarget(arguments) => lines = run_retargeting(&arguments)?,
        Command::Encodings(arguments) => lines = run_encodings(&arguments)?,
        Command::Extract { patch, format, output, encoder } => {
            check_apart(&output, &[&patch])?;
            let opened = Patch::open(&patch)?;
            let (bundle, _) = open_encoder(encoder.as_deref(), &opened)?;
            opened.check(&bundle.manifest().shape()).map_err(|e| e.in_file(&patch))?;
            match format {
                Format::Biases => {
                    check_tensors(&output)?;
                    atomic::write_file(&output, &extract(&bundle, &opened)?)?;
                    let head = if opened.head().linears().count() == 0 { "no head" } else { "the head" };
                    let terms = opened.slots().iter().filter(|slot| slot.id.kind == SlotKind::LoraA).count();
                    let written = biases_and_terms(bundle.manifest().slots.len(), terms);
                    lines.push(format!("{}: {written}, {head}", output.display()));
                }
                Format::Peft => {
                    extract_peft(&bundle, &opened)?.save(&output)?;
                    lines.push(format!("{}: a PEFT adapter and the head", output.display()));
                }
            }
        }
    }
    for line in lines {
        writeln!(out, "{line}").map_err(Failure::Output)?;
    }
    Ok(())
}
