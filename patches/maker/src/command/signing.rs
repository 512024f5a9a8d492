//! `edge-patch sign`, and the keys of `edge-patch verify`.

use std::path::{Path, PathBuf};

use crate::{Result, sign};
use bias_patch::{Keys, Patch};
use clap::Args;

/// Sign patches.
#[derive(Args)]
pub(crate) struct SignArguments {
    /// The patches to sign
    #[arg(required = true)]
    patches: Vec<PathBuf>,
    /// Sign with this secret key, made by `minisign -G`; asks for its password, if it has one
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Signs each patch.
pub(crate) fn run_signing(arguments: &SignArguments, lines: &mut Vec<String>) -> Result<()> {
    for patch in &arguments.patches {
        lines.push(format!("{}: signs {}", sign(patch, &arguments.key)?.display(), patch.display()));
    }
    Ok(())
}

/// Checks that one of the keys signed a patch, if there are keys.
pub(crate) fn check_signature(patch: &Path, keys: &[PathBuf]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let bytes = Patch::read(patch)?;
    Ok(Keys::open(keys)?.check(patch, &bytes)?)
}
