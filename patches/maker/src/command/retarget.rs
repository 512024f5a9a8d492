//! The command `edge-patch retarget`: a patch for the same encoder in another number format.
//!
//! In: a patch, the bundle that it fits, and another bundle of the same checkpoint, as f16 is of f32. Out: the same values
//! in the same encodings, for the other bundle; biases are the same in every number format. Refused: a bundle of another
//! checkpoint.

use std::path::PathBuf;

use bias_patch::Patch;
use clap::Args;
use edge_bundle::{Bundle, Element, Manifest};

use super::opening::{file_bytes, open_encoder};
use crate::{Error, Result};

#[derive(Args)]
pub(crate) struct RetargetArguments {
    /// The patch to read
    patch: PathBuf,
    /// Make the patch for this bundle, of the same checkpoint in another number format
    #[arg(long, value_name = "BUNDLE")]
    to: PathBuf,
    /// Write the patch to this file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Read the encoder that the patch fits from this bundle [default: the store]
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: Option<PathBuf>,
}

/// Writes the patch. Gives the lines to print.
pub(crate) fn run_retargeting(arguments: &RetargetArguments) -> Result<Vec<String>> {
    let (path, output) = (&arguments.patch, &arguments.output);
    let opened = Patch::open(path)?;
    let (from, _) = open_encoder(arguments.encoder.as_deref(), &opened)?;
    opened.check(&from.manifest().shape()).map_err(|e| e.in_file(path))?;
    let to = Bundle::open(&arguments.to)?;
    if let Some((field, expected, found)) = difference(from.manifest(), to.manifest()) {
        let expected = format!("{expected}, as the encoder that {} fits has", path.display());
        return Err(Error::Content { path: arguments.to.clone(), field, expected, found });
    }
    let mut notes = opened.metadata().clone();
    if let Some(metric) = notes.remove("metric") {
        let weights = from.manifest().weights().option();
        notes.insert(format!("metric with {weights} weights"), metric);
    }
    let (task, head) = (opened.task().clone(), opened.head().clone());
    let retargeted = Patch::new(to.manifest().encoder, task, opened.slots().to_vec(), head, notes)?;
    retargeted.check(&to.manifest().shape()).map_err(|e| e.in_file(path))?;
    retargeted.save(output)?;
    let [before, after] = [from, to].map(|bundle| bundle.manifest().weights().option());
    Ok(vec![format!("{}: {} bytes, from {before} to {after} weights", output.display(), file_bytes(output)?)])
}

/// The first thing in which two bundles are not of one checkpoint: what it is, what one has, what the other has.
fn difference(one: &Manifest, other: &Manifest) -> Option<(String, String, String)> {
    if one.config != other.config {
        return Some(("config".to_owned(), "the same sizes".to_owned(), "others".to_owned()));
    }
    let base = |manifest: &Manifest| manifest.files.get("base.bias").map(|file| file.sha256);
    let pair = |name: &str, one: Option<bias_patch::Digest>, other: Option<bias_patch::Digest>| {
        let text = |digest: Option<bias_patch::Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
        (one != other).then(|| (name.to_owned(), format!("digest {}", text(one)), text(other)))
    };
    let files = pair("tokenizer", Some(one.tokenizer), Some(other.tokenizer));
    let files = files.or_else(|| pair("base.bias", base(one), base(other)));
    // Vectors, as the gains of LayerNorm are, are f32 in every number format.
    let vectors = one.tensors.iter().filter(|tensor| tensor.element == Element::F32 && tensor.shape.len() == 1);
    let mut vectors = vectors.map(|tensor| {
        let found = other.tensors.iter().find(|other| other.name == tensor.name);
        pair(&format!("tensor {}", tensor.name), Some(tensor.sha256), found.map(|found| found.sha256))
    });
    files.or_else(|| vectors.find_map(|different| different))
}
