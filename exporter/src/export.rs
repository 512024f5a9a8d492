//! Writes a bundle.
//!
//! In: a checkpoint, and where the bundle goes. Out: the bundle, whole or not at all; the same checkpoint gives the
//! same bytes. Refused, before a byte is written: checkpoints that cannot be exported, and directories that hold
//! something else. Tensors are written some rows at a time, so the largest of them (the word embeddings) does not bound
//! the memory.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bias_patch::{Digest, atomic::StagedDir};
use edge_bundle::{
    Bundle, Config, Element, FileEntry, Golden, MANIFEST, Manifest, PanelIndex, Slot, Store, TensorEntry, VOCABULARY,
    onnx::Graph, vocabulary_of,
};
use hf_checkpoint::Checkpoint;
use ndarray::{Array, Axis};
use prost::Message;

use crate::{
    Error, Result, encoder,
    evaluate::{self, Value},
    families, tokenizer,
    weights::{biases, check_tensors, write_base, write_weights},
};

/// The file of the encoder's graph in a bundle.
pub(crate) const ENCODER: &str = "encoder.onnx";
/// A training graph that earlier versions wrote beside it. Nothing reads it; a bundle with one may be replaced.
const TRAINING: &str = "train.onnx";

/// Where a bundle is written.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Into a store, under its encoder's digest.
    Store(Store),
    /// Into a directory of its own.
    Dir(PathBuf),
}

/// How a bundle is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The number format of the frozen matrices.
    pub weights: Element,
    /// When panels are written.
    pub panels: Panels,
    /// Whether the graph takes low-rank terms as inputs, so that any ONNX runtime can run them. edge-run's own engine
    /// needs no such inputs.
    pub low_rank_inputs: bool,
}

/// When panels (the weights in the order in which the runtime's kernels read them) are written, and whether
/// `weights.bin` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panels {
    /// By edge-run, the first time it loads the encoder.
    #[default]
    Later,
    /// Now, beside `weights.bin`.
    Beside,
    /// Now, without `weights.bin`: the smallest bundle, which only edge-run can run.
    Only,
}

/// What an export is doing, for a progress bar, and what its user should know.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A stage begins: its name, and how many bytes it has to process, or 0 if that is not known.
    Stage(&'static str, u64),
    /// This many more bytes of the stage are done.
    Advance(u64),
    /// The bundle will be right by the checkpoint's files, but perhaps not what was meant.
    Warning(String),
}

/// Exports the checkpoint in `dir`, called `name`.
///
/// # Errors
/// When the checkpoint is not supported, incomplete or damaged, or the bundle cannot be written. Then nothing is left
/// behind.
pub fn export(
    dir: &Path,
    name: &str,
    to: &Destination,
    options: Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Bundle> {
    let checkpoint = Checkpoint::open(dir)?;
    let config = families::config(&checkpoint)?;
    let (tokenizer, warning) = tokenizer::of_checkpoint(&checkpoint, config.vocabulary)?;
    if let Some(warning) = warning {
        progress(Progress::Warning(warning));
    }
    let (model, weights, slots) = encoder::build(&config, options.weights, options.low_rank_inputs).finish(name);
    let family = families::table(config.family);
    let biases = biases(family, &slots);
    let left = check_tensors(&checkpoint, family, &weights, &biases)?;
    if !left.is_empty() {
        progress(Progress::Warning(format!("tensors that config.json leaves out: {}", left.join(", "))));
    }

    let mut staged = Staged::new(to)?;
    let total: u64 = weights.iter().map(|w| w.element.bytes() * w.shape.iter().product::<u64>()).sum();
    progress(Progress::Stage("writing weights", total));
    let (tensors, entry) = write_weights(&checkpoint, &weights, &staged.path("weights.bin"), progress)?;
    staged.files.insert("weights.bin".to_owned(), entry);
    let entry = write_base(&checkpoint, config.shared_zeros()?, &biases, &staged.path("base.bias"))?;
    staged.files.insert("base.bias".to_owned(), entry);
    staged.write_tokenizer(&tokenizer)?;
    staged.write(ENCODER, &model.encode_to_vec())?;

    progress(Progress::Stage("computing the golden output", 0));
    let input_ids: Vec<u32> = (0..config.max_length.min(8)).map(|at| (at * 7919 + 1) % config.vocabulary).collect();
    let graph = model.graph.as_ref().expect("Builder::finish gives a model with a graph");
    let golden = golden(graph, staged.dir.path(), &input_ids)?;
    let manifest = staged.manifest(name, config, Digest::of(&tokenizer), slots, tensors, golden);
    staged.commit(&manifest, to, options.panels, progress)
}

/// A bundle that is being written, beside its place.
pub(crate) struct Staged {
    dir: StagedDir,
    /// The files that are written, by name.
    pub files: BTreeMap<String, FileEntry>,
}

impl Staged {
    /// Refuses a destination that holds something else.
    pub fn new(to: &Destination) -> Result<Self> {
        if let Destination::Dir(target) = to {
            check_replaceable(target)?;
        }
        let parent = match to {
            Destination::Store(store) => store.root().to_owned(),
            Destination::Dir(target) => match target.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            },
        };
        Ok(Staged { dir: StagedDir::new(&parent)?, files: BTreeMap::new() })
    }

    /// Where a file is written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a small file.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, bytes).map_err(|source| Error::Io { path, action: "write", source })?;
        let entry = FileEntry { bytes: bytes.len() as u64, sha256: Digest::of(bytes) };
        self.files.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Writes `tokenizer.json`, and its words where the format has a table of them.
    pub fn write_tokenizer(&mut self, tokenizer: &[u8]) -> Result<()> {
        self.write("tokenizer.json", tokenizer)?;
        match vocabulary_of(tokenizer)? {
            Some(words) => self.write(VOCABULARY, &words),
            None => Ok(()),
        }
    }

    /// The manifest of the files that are written.
    pub fn manifest(
        &self,
        name: &str,
        config: Config,
        tokenizer: Digest,
        slots: Vec<Slot>,
        tensors: Vec<TensorEntry>,
        golden: Golden,
    ) -> Manifest {
        let digests = ["base.bias", ENCODER].map(|name| self.files[name].sha256);
        Manifest {
            version: Manifest::VERSION,
            name: name.to_owned(),
            encoder: Manifest::identity(&config, tokenizer, digests, &tensors),
            config,
            tokenizer,
            slots,
            tensors,
            golden,
            files: self.files.clone(),
        }
    }

    /// Writes the manifest and panels, and puts the bundle in its place.
    pub fn commit(
        self,
        manifest: &Manifest,
        to: &Destination,
        panels: Panels,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Bundle> {
        let mut text = serde_json::to_string_pretty(manifest).expect("numbers, strings and maps by strings are JSON");
        text.push('\n');
        let path = self.path(MANIFEST);
        fs::write(&path, text).map_err(|source| Error::Io { path, action: "write", source })?;
        if panels != Panels::Later {
            progress(Progress::Stage("writing panels", 0));
            let made = Bundle::open(self.dir.path())?;
            PanelIndex::write(&made, &self.path(&PanelIndex::file_name(manifest.weights())))?;
        }
        if panels == Panels::Only {
            let path = self.path("weights.bin");
            fs::remove_file(&path).map_err(|source| Error::Io { path, action: "remove", source })?;
        }
        let target = match to {
            Destination::Store(store) => store.path(manifest.encoder),
            Destination::Dir(target) => target.clone(),
        };
        match to {
            Destination::Store(_) => {
                // A bundle of this encoder may be there already, perhaps in use. It is replaced only if it is damaged,
                // has other files (as one of an earlier version has), or lacks files that are asked for.
                if let Some(staged) = self.dir.commit_if_absent(&target)?
                    && !(is_intact(&target, manifest) && has_files(&target, panels))
                {
                    staged.commit(&target)?;
                }
            }
            Destination::Dir(_) => {
                // Checked again: something may have been put there since.
                check_replaceable(&target)?;
                self.dir.commit(&target)?;
            }
        }
        Ok(Bundle::open(&target)?)
    }
}

/// Whether the directory holds a bundle with this manifest, and every file has its digest.
fn is_intact(target: &Path, manifest: &Manifest) -> bool {
    Bundle::open(target).is_ok_and(|there| there.manifest() == manifest && there.verify(|_| ()).is_ok())
}

/// Whether the bundle there has the files that were asked for.
fn has_files(target: &Path, panels: Panels) -> bool {
    Bundle::open(target).is_ok_and(|there| match panels {
        Panels::Later => there.has_weights(),
        Panels::Beside => there.has_weights() && there.panels().exists(),
        Panels::Only => !there.has_weights(),
    })
}

/// Refuses a directory that holds anything but a bundle and its panels.
fn check_replaceable(target: &Path) -> Result<()> {
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::Occupied { path: target.to_owned() });
        }
        Err(source) => return Err(Error::Io { path: target.to_owned(), action: "read", source }),
    };
    let panels = [Element::F32, Element::F16, Element::I8, Element::I4].map(PanelIndex::file_name);
    let files = ["weights.bin", "base.bias", "tokenizer.json", VOCABULARY, ENCODER, TRAINING, MANIFEST];
    let mut empty = true;
    for entry in entries {
        let entry = entry.map_err(|source| Error::Io { path: target.to_owned(), action: "read", source })?;
        let known = files.into_iter().chain(panels.iter().map(String::as_str)).any(|known| entry.file_name() == *known);
        if !known || !entry.path().is_file() {
            return Err(Error::Occupied { path: entry.path() });
        }
        empty = false;
    }
    if !empty && !target.join(MANIFEST).exists() {
        return Err(Error::Occupied { path: target.to_owned() });
    }
    Ok(())
}

/// The encoder's output for one sequence without padding, all of it of the first type, by the naive evaluator.
pub(crate) fn golden(graph: &Graph, dir: &Path, input_ids: &[u32]) -> Result<Golden> {
    let row = |values: Vec<i64>| Value::Int(Array::from(values).insert_axis(Axis(0)).into_dyn()); // [1, S]
    let inputs = [
        ("input_ids", row(input_ids.iter().map(|id| i64::from(*id)).collect())),
        ("attention_mask", row(vec![1; input_ids.len()])),
        ("token_type_ids", row(vec![0; input_ids.len()])),
    ];
    let mut outputs = evaluate::run(graph, dir, inputs.map(|(name, value)| (name.to_owned(), value)).into())?;
    let hidden = match outputs.remove("last_hidden_state") {
        Some(Value::Float(hidden)) => hidden,
        _ => return Err(Error::graph("last_hidden_state", "an output of floats", "none")),
    };
    let [1, length, _] = hidden.shape()[..] else {
        return Err(Error::graph("last_hidden_state", "shape [1, S, H]", format!("{:?}", hidden.shape())));
    };
    if length != input_ids.len() || length == 0 {
        return Err(Error::graph("last_hidden_state", format!("{} rows, at least 1", input_ids.len()), length));
    }
    let rows = hidden.index_axis(Axis(0), 0); // [S, H]
    let row = |at: usize| rows.index_axis(Axis(0), at).iter().map(|v| *v as f32).collect();
    Ok(Golden { input_ids: input_ids.to_vec(), first: row(0), last: row(length - 1) })
}
