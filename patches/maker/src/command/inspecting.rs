//! The command `edge-patch inspect`: what is in a patch.

use std::path::PathBuf;

use crate::{Result, inspect};
use bias_patch::Patch;
use clap::Args;
use edge_bundle::Store;

use super::{describe::describe, file_bytes, open_encoder};

#[derive(Args)]
pub(crate) struct InspectArguments {
    /// The patch to read
    patch: PathBuf,
    /// Read the encoder from this bundle [default: the store]
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
    /// Show every slot, in place of a row for each module
    #[arg(long)]
    slots: bool,
    /// Print JSON, which always has every slot
    #[arg(long)]
    json: bool,
}

/// Reads a patch, and gives the lines to print.
pub(crate) fn run_inspection(arguments: &InspectArguments) -> Result<Vec<String>> {
    let InspectArguments { patch, encoder, slots, json } = arguments;
    let opened = Patch::open(patch)?;
    // Changes need the encoder; all else can be shown without it.
    let in_store = || Store::of_user().is_ok_and(|store| store.path(opened.encoder()).exists());
    let found = match encoder.is_some() || in_store() {
        true => Some(open_encoder(encoder.as_deref(), &opened)?),
        false => None,
    };
    let encoder = found.as_ref().map(|(bundle, base)| (bundle.manifest(), base));
    let report = inspect(&opened, file_bytes(patch)?, encoder).map_err(|e| e.in_file(patch))?;
    if *json {
        // A report holds only numbers, strings and lists.
        return Ok(vec![serde_json::to_string_pretty(&report).unwrap_or_default()]);
    }
    let mut lines = Vec::new();
    describe(&report, *slots, &mut lines);
    Ok(lines)
}
