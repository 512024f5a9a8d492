//! A bundle on disk: one encoder, compiled once for every task.
//!
//! In: a bundle directory. Out: its [`Manifest`], checked against its files, and the [`Base`] bias values. Refused: a
//! file that is missing, short or altered.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use bias_patch::{Digest, Digester};

use crate::{Error, MANIFEST, Manifest, PanelIndex, Result, Slot, TensorEntry, checked};

/// The file of frozen tensors.
const WEIGHTS: &str = "weights.bin";

/// The pre-trained bias values.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    slots: Vec<Vec<f32>>,
}

impl Base {
    /// The values of each slot, in the order of the manifest's.
    pub fn slots(&self) -> &[Vec<f32>] {
        &self.slots
    }
}

/// An opened bundle.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
}

impl Bundle {
    /// Opens a bundle directory: checks the manifest, and that every file has its length.
    ///
    /// # Errors
    /// Naming the file or field that is wrong.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            return Err(Error::NotABundle { dir: dir.to_owned() });
        }
        let text = fs::read(&path).map_err(Error::io(&path, "read"))?;
        let manifest = Manifest::parse(&text).map_err(|e| e.in_file(&path))?;
        let bundle = Bundle { dir: dir.to_owned(), manifest };
        if !bundle.has_weights() && !bundle.panels().exists() {
            let others =
                fs::read_dir(dir).map_err(Error::io(dir, "read"))?.filter_map(|entry| Some(entry.ok()?.file_name()));
            let names = others.filter_map(|name| name.into_string().ok());
            let mut found: Vec<String> = names.filter(|n| n.starts_with("panels-") && n.ends_with(".bin")).collect();
            found.sort();
            let found = if found.is_empty() { "neither".to_owned() } else { found.join(", ") };
            return Err(bundle.no_weights(found));
        }
        for (name, entry) in &bundle.manifest.files {
            if name != WEIGHTS || bundle.has_weights() {
                entry.check_length(&dir.join(name))?;
            }
        }
        Ok(bundle)
    }

    /// Whether `weights.bin` is here; a bundle on a device may have its panels only.
    pub fn has_weights(&self) -> bool {
        self.dir.join(WEIGHTS).exists()
    }

    /// The error when its panels are of no use, as `found` says, and there is no `weights.bin` to make them of.
    pub fn no_weights(&self, found: String) -> Error {
        let weights = self.manifest.weights();
        let expected = PanelIndex::file_name(weights);
        Error::NoWeights { dir: self.dir.clone(), expected, found, weights: weights.option() }
    }

    /// Where its panels are, or will be.
    pub fn panels(&self) -> PathBuf {
        self.dir.join(PanelIndex::file_name(self.manifest.weights()))
    }

    /// What the bundle is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bundle's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file, after checking its digest if it may have changed since that was last done.
    ///
    /// # Errors
    /// When the bundle has no such file or it was altered.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        checked::check(&path, self.manifest.file(name)?)?;
        Ok(path)
    }

    /// The pre-trained bias values.
    ///
    /// # Errors
    /// When `base.bias` was altered or holds a number that is not finite.
    pub fn base(&self) -> Result<Base> {
        let path = self.dir.join("base.bias");
        let bytes = fs::read(&path).map_err(Error::io(&path, "read"))?;
        let (expected, found) = (self.manifest.file("base.bias")?.sha256, Digest::of(&bytes));
        if expected != found {
            return Err(Error::Checksum { expected: expected.to_string(), found: found.to_string() }.in_file(&path));
        }
        let read = |slot: &Slot| {
            let start = usize::try_from(slot.offset).ok()?;
            let end = start.checked_add(usize::try_from(slot.len).ok()?.checked_mul(4)?)?;
            Some(bytes.get(start..end)?.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let mut slots = Vec::with_capacity(self.manifest.slots.len());
        for slot in &self.manifest.slots {
            let values: Vec<f32> = read(slot)
                .ok_or_else(|| Error::field(&slot.name, "a place within the file", slot.offset).in_file(&path))?;
            if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
                return Err(Error::field(&slot.name, "finite numbers", bad).in_file(&path));
            }
            if let Some(other) = values.iter().find(|v| slot.zero && **v != 0.0) {
                return Err(Error::field(&slot.name, "zeros, for the module has no bias", other).in_file(&path));
            }
            slots.push(values);
        }
        Ok(Base { slots })
    }

    /// Some rows and columns of a frozen tensor, as they are stored here, whatever their digest.
    ///
    /// # Errors
    /// When `weights.bin` cannot be read.
    pub fn tensor_part(&self, tensor: &TensorEntry, rows: Range<usize>, columns: Range<usize>) -> Result<Vec<u8>> {
        let path = self.dir.join(WEIGHTS);
        let [_, width] = tensor.matrix();
        let bytes_each = tensor.element.bytes() as usize;
        // Rows that are read whole follow each other.
        let (runs, run) = match columns.len() == width {
            true => (rows.start..rows.start + usize::from(!rows.is_empty()), rows.len() * width),
            false => (rows.clone(), columns.len()),
        };
        let mut file = File::open(&path).map_err(Error::io(&path, "open"))?;
        let mut bytes = vec![0; rows.len() * columns.len() * bytes_each];
        for (row, part) in runs.zip(bytes.chunks_mut((run * bytes_each).max(1))) {
            let at = tensor.offset + (row as u64 * width as u64 + columns.start as u64) * tensor.element.bytes();
            file.seek(SeekFrom::Start(at)).map_err(Error::io(&path, "read"))?;
            file.read_exact(part).map_err(Error::io(&path, "read"))?;
        }
        Ok(bytes)
    }

    /// Gives a frozen tensor to `take` in its [`TensorEntry::row_blocks`], as they are stored here. What was taken is
    /// only good if this succeeds, for the digest is known at the end.
    ///
    /// # Errors
    /// When `weights.bin` cannot be read, the tensor was altered, or `take` fails.
    pub fn stream_tensor<E: From<Error>>(
        &self,
        tensor: &TensorEntry,
        mut take: impl FnMut(Range<usize>, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.dir.join(WEIGHTS);
        let [_, columns] = tensor.matrix();
        let (mut digester, mut of_format) = (Digester::default(), Ok(()));
        for rows in tensor.row_blocks() {
            let bytes = self.tensor_part(tensor, rows.clone(), 0..columns)?;
            digester.update(&bytes);
            of_format = of_format.and(tensor.check_values(&bytes));
            take(rows, &bytes)?;
        }
        // The digest first: of an altered tensor the values say nothing.
        Ok(tensor.check_digest(digester.finish()).and(of_format).map_err(|e| e.in_file(&path))?)
    }

    /// Digests every file, and every tensor in `weights.bin` and in the panels that are beside it, whatever was found
    /// before. `progress` is called with bytes read.
    ///
    /// # Errors
    /// Naming the first file or tensor that is not as the manifest says.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<()> {
        for (name, entry) in self.manifest.files.iter().filter(|(name, _)| *name != WEIGHTS) {
            entry.digest_of(&self.dir.join(name), &mut progress)?;
        }
        if self.has_weights() {
            for tensor in &self.manifest.tensors {
                self.stream_tensor(tensor, |_, bytes| {
                    progress(bytes.len() as u64);
                    Ok::<_, Error>(())
                })?;
            }
            self.manifest.file(WEIGHTS)?.digest_of(&self.dir.join(WEIGHTS), progress)?;
        }
        if self.panels().exists() {
            PanelIndex::verify(&self.panels(), &self.manifest)?;
        }
        Ok(())
    }
}
