//! What several commands open: the encoder that a patch fits, and what they say of it.

use std::{fs, path::Path};

use bias_patch::Patch;
use edge_bundle::{Base, Bundle, Store};
use edge_run::{Encoder, EngineOptions};

use crate::{Result, data::left_out};

/// Bytes of a file.
pub(super) fn file_bytes(path: &Path) -> Result<u64, bias_patch::Error> {
    let failed = |source| bias_patch::Error::Io { path: path.to_owned(), action: "read", source };
    Ok(fs::metadata(path).map_err(failed)?.len())
}

/// The bundle in a directory, or else the one in the store that a patch fits.
pub(super) fn open_encoder(dir: Option<&Path>, patch: &Patch) -> Result<(Bundle, Base)> {
    let bundle = match dir {
        Some(dir) => Bundle::open(dir)?,
        None => Store::of_user()?.open(patch.encoder())?,
    };
    let base = bundle.base()?;
    Ok((bundle, base))
}

/// Loads an encoder to evaluate, and says so if tract runs it although nobody asked for tract. Training refuses tract.
pub(super) fn load_encoder(bundle: Bundle, engine: EngineOptions) -> Result<Encoder> {
    let encoder = Encoder::load(bundle, engine)?;
    if let Some(reason) = encoder.uncovered() {
        eprintln!("edge-patch: tract runs this encoder, more slowly: our operators do not cover its graph: {reason}");
    }
    Ok(encoder)
}

pub(super) fn report_skipped(path: &Path, skipped: &[(usize, String)]) {
    if let Some(said) = left_out(path, skipped) {
        say(&said);
    }
}

/// Says something on standard error.
pub(super) fn say(text: &str) {
    eprintln!("edge-patch: {text}");
}
