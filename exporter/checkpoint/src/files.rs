//! The files of a checkpoint: which there are, and where their tensors lie.
//!
//! In: a directory. Out: the content of `config.json`, and the places of all tensors. Refused: directories that hold
//! something else, and pointers of git-lfs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error, Other, Place, Result,
    error::content,
    other::{ADAPTER, WEIGHTS, found},
};

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// A file as it is.
///
/// # Errors
/// When it cannot be read, or is only a pointer of git-lfs.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    check_pointer(path, &bytes)?;
    Ok(bytes)
}

/// What `config.json` of a checkpoint holds.
pub(crate) fn config(dir: &Path) -> Result<Value> {
    let path = dir.join("config.json");
    let text = match read_file(&path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
            return Err(explained(dir, &Value::Null, "config.json"));
        }
        read => read?,
    };
    serde_json::from_slice(&text).map_err(|e| content(&path, "config", "JSON", e))
}

/// The safetensors files of a checkpoint.
pub(crate) fn weight_files(dir: &Path, config: &Value) -> Result<BTreeSet<PathBuf>> {
    let [single, index] = WEIGHTS.map(|name| dir.join(name));
    if single.exists() {
        return Ok([single].into());
    }
    if index.exists() {
        let text = read_file(&index)?;
        let parsed: Index = serde_json::from_slice(&text).map_err(|e| content(&index, "index", "a weight_map", e))?;
        let outside = parsed.weight_map.values().find(|name| name.contains(['/', '\\']) || name.starts_with('.'));
        if let Some(name) = outside {
            return Err(content(&index, "weight_map", "plain file names", name));
        }
        return Ok(parsed.weight_map.values().map(|name| dir.join(name)).collect());
    }
    Err(explained(dir, config, WEIGHTS[0]))
}

/// That a directory without a file of checkpoints is none: what it holds, if that is known.
fn explained(dir: &Path, config: &Value, missing: &str) -> Error {
    let adapter = fs::read(dir.join(ADAPTER)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let found = found(&dir.display().to_string(), &names(dir, 1), config, adapter.as_ref()).unwrap_or_else(|| Other {
        found: format!("no {missing}"),
        remedy: "name the directory that holds both, as save_pretrained of transformers writes it".to_owned(),
    });
    Error::NotACheckpoint { dir: dir.to_owned(), found }
}

/// Files below a directory, by their path in it.
fn names(dir: &Path, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path().is_dir() {
            true if depth > 0 => {
                found.extend(names(&entry.path(), depth - 1).into_iter().map(|inner| format!("{name}/{inner}")))
            }
            true => {}
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// Refuses a pointer of git-lfs.
fn check_pointer(path: &Path, begin: &[u8]) -> Result<()> {
    match begin.starts_with(b"version https://git-lfs.github.com/spec/") {
        true => Err(Error::LfsPointer { path: path.to_owned() }),
        false => Ok(()),
    }
}

/// The places of all tensors of one file.
pub(crate) fn read_header(path: &Path) -> Result<BTreeMap<String, Place>> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut prefix = [0; 8];
    let too_short = |found: u64| content(path, "length", "at least a safetensors header", format!("{found} bytes"));
    file.read_exact(&mut prefix).map_err(|_| too_short(length))?;
    let mut begin = prefix.to_vec();
    Read::take(&mut file, 64).read_to_end(&mut begin).map_err(io)?;
    check_pointer(path, &begin)?;
    file.seek(SeekFrom::Start(8)).map_err(io)?;
    if prefix == *b"BIASPTCH" {
        return Err(content(path, "file", "tensors, as safetensors has them", "a patch"));
    }
    let header_bytes = u64::from_le_bytes(prefix);
    if header_bytes > length.saturating_sub(8) {
        let expected =
            format!("a safetensors file, whose header length is here at most {} bytes", length.saturating_sub(8));
        return Err(content(path, "header length", expected, header_bytes));
    }
    let mut header = Vec::new();
    file.take(header_bytes).read_to_end(&mut header).map_err(io)?;
    // Reading metadata checks that the tensors lie one after the other without gaps, and have their shape's length.
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|e| content(path, "header", "a safetensors header", e))?;
    let start = 8 + header_bytes;
    // The end of the last tensor may be any number.
    let due = start.saturating_add(metadata.data_len() as u64);
    if due != length {
        return Err(content(path, "length", format!("{due} bytes by its header"), format!("{length} bytes")));
    }
    let places = metadata.tensors().into_iter().map(|(name, info)| {
        let (from, _) = info.data_offsets;
        let place =
            Place { path: path.to_owned(), dtype: info.dtype, shape: info.shape.clone(), start: start + from as u64 };
        (name, place)
    });
    Ok(places.collect())
}
