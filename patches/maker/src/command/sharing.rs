//! `edge-patch push` and `edge-patch pull`: patches on the Hugging Face Hub.

use std::path::PathBuf;

use crate::{Measured, Push, Pushed, Result, data::read_examples, evaluate, pull, push};
use bias_patch::Patch;
use clap::Args;
use edge_bundle::HubPatch;
use edge_run::EngineOptions;

use super::{load_encoder, open_encoder, report_skipped};

#[derive(Args)]
pub(crate) struct PushArguments {
    /// The patch to push, a file called NAME.bias; its signature, NAME.bias.minisig, goes with it
    patch: PathBuf,
    /// The repository; it is made if it is not there
    #[arg(value_name = "hf:ORG/NAME")]
    to: HubPatch,
    /// Give the commit this message [default: Add NAME.bias]
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Make the repository private; one that is there has to be
    #[arg(long)]
    private: bool,
    /// Name this licence in the card, as the Hub does, such as apache-2.0
    #[arg(long, value_name = "LICENSE")]
    license: Option<String>,
    /// Name the encoder in the card, as the Hub does, such as sentence-transformers/all-MiniLM-L6-v2
    #[arg(long, value_name = "ID")]
    base_model: Option<String>,
    /// Score the patch on these labelled texts, and write the scores into the card [default: the score that its
    /// training noted]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Read the encoder, for --data, from this bundle [default: the store]
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE", requires = "data")]
    encoder: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct PullArguments {
    /// The patch: FILE.bias may be left out if it is the only one; REVISION is a branch, a tag or a commit
    #[arg(value_name = "hf:ORG/NAME[/FILE.bias][@REVISION]")]
    from: HubPatch,
    /// Write the patch to this file too, and its signature beside it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Puts a patch into a repository, and gives the lines to print.
pub(crate) fn run_push(arguments: &PushArguments) -> Result<Vec<String>> {
    let PushArguments { patch, to, message, private, license, base_model, data, encoder } = arguments;
    let measured = match data {
        Some(data) => {
            let opened = Patch::open(patch)?;
            let encoder = load_encoder(open_encoder(encoder.as_deref(), &opened)?.0, EngineOptions::default())?;
            let read = read_examples(data, opened.task(), false)?;
            report_skipped(data, &read.skipped);
            let name = data.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            Some(Measured { data: name, evaluation: evaluate(&encoder, &opened, &read.examples)? })
        }
        None => None,
    };
    let what = Push {
        patch,
        message: message.as_deref(),
        private: *private,
        license: license.as_deref(),
        base_model: base_model.as_deref(),
        measured,
    };
    let Pushed { address, commit, files, no_card } = push(&what, to)?;
    let mut lines = vec![format!("{address}: commit {commit}: {}", files.join(", "))];
    lines.extend(no_card.map(|reason| format!("README.md is left as it is: {reason}")));
    Ok(lines)
}

/// Fetches a patch, and gives the lines to print.
pub(crate) fn run_pull(arguments: &PullArguments) -> Result<Vec<String>> {
    let PullArguments { from, output } = arguments;
    if let Some(output) = output {
        Patch::check_output(output)?;
    }
    let pulled = pull(from)?;
    if let Some(reason) = &pulled.unasked {
        eprintln!("edge-patch: {from} is what was fetched before, because the Hub did not answer: {reason}");
    }
    if let Some(output) = output {
        pulled.copy(output)?;
    }
    Ok(vec![output.as_ref().unwrap_or(&pulled.path).display().to_string()])
}
