//! Reads Hugging Face checkpoints: `config.json` and the tensors of `model.safetensors`, single or sharded.
//!
//! In: a directory, or one safetensors file. Out: tensors as f32 under the base model's names, whatever prefix of a
//! family or of PEFT and whatever old LayerNorm names the file uses. Refused: pickles, tensors that are missing or of
//! another shape, files whose parts do not add up. Tensors are read one at a time, so a checkpoint never has to fit in
//! memory.
#![forbid(unsafe_code)]

mod error;
mod files;
mod other;
mod rotation;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};

use error::content;
pub use error::{Error, Result, shell_quoted};
pub use files::read_file;
use files::{config, read_header, weight_files};
pub use other::{Other, found};
pub use rotation::{Rotation, rotation};

/// Prefixes that task models put before the base model's names.
const PREFIXES: [&str; 11] = [
    "bert.",
    "roberta.",
    "distilbert.",
    "electra.",
    "mpnet.",
    "albert.",
    "nomic_bert.",
    "new.",
    "gte.",
    "deberta.",
    "model.",
];

/// What PEFT puts before the names of the model that it wraps.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: serde_json::Value,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor is.
#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
}

impl Checkpoint {
    /// Opens a checkpoint directory: reads `config.json` and the headers of its safetensors files.
    ///
    /// # Errors
    /// When a file is missing or malformed, or the directory holds something else; the message says what helps.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = config(dir)?;
        let mut tensors = BTreeMap::new();
        for file in weight_files(dir, &config)? {
            base_names(read_header(&file)?, &mut tensors)?;
        }
        Ok(Checkpoint { dir: dir.to_owned(), config, tensors })
    }

    /// Reads tensors of one safetensors file that has no config beside it, such as a file of biases.
    ///
    /// # Errors
    /// When the file is malformed.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        base_names(read_header(path)?, &mut tensors)?;
        Ok(Checkpoint { dir: path.to_owned(), config: serde_json::Value::Null, tensors })
    }

    /// A directory of a model's other files: `config.json`, if there is one, and those of its tokenizer. It has no
    /// tensors.
    ///
    /// # Errors
    /// When `config.json` cannot be read.
    pub fn open_without_tensors(dir: &Path) -> Result<Self> {
        let config = if dir.join("config.json").exists() { config(dir)? } else { serde_json::Value::Null };
        Ok(Checkpoint { dir: dir.to_owned(), config, tensors: BTreeMap::new() })
    }

    /// The same tensors under other names. Those for which `rename` gives none are left out.
    ///
    /// # Errors
    /// When two tensors get one name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let tensors = std::mem::take(&mut self.tensors);
        for (name, place) in tensors {
            if let Some(other) = rename(&name) {
                insert(&mut self.tensors, &name, other, place)?;
            }
        }
        Ok(self)
    }

    /// The directory, or the file of [`Checkpoint::open_file`].
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What `config.json` holds.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// A field of `config.json`.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn config_field<T: serde::de::DeserializeOwned>(&self, field: &str) -> Result<T> {
        let value = self.config.get(field).cloned().unwrap_or(serde_json::Value::Null);
        let found = if value.is_null() { "none".to_owned() } else { value.to_string() };
        let expected = match std::any::type_name::<T>().rsplit("::").next().unwrap_or_default() {
            "String" => "a text".to_owned(),
            "f32" | "f64" => "a number".to_owned(),
            "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
            other => format!("a value of type {other}"),
        };
        serde_json::from_value(value).map_err(|_| content(&self.dir.join("config.json"), field, expected, found))
    }

    /// Names of all tensors, without family prefixes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The dimensions of a tensor.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.place(name)?.shape)
    }

    /// A tensor of the given dimensions as f32, row-major. f16 and bf16 are converted exactly.
    ///
    /// # Errors
    /// When it is missing, of another shape, of another type, or the file cannot be read.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let [rows, columns] = matrix(shape);
        self.read_part(name, shape, 0..rows, 0..columns)
    }

    /// Rows and columns of a tensor, as [`Checkpoint::read`] gives all of them. Columns are the last dimension, rows all
    /// others. Only the part is held in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::read`], and when the tensor has no such rows or columns.
    pub fn read_part(
        &self,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Vec<f32>> {
        let place = self.place(name)?;
        let refused = |expected: &str, found: String| content(&place.path, format!("tensor {name}"), expected, found);
        if place.shape != shape {
            return Err(refused(&format!("shape {shape:?}"), format!("{:?}", place.shape)));
        }
        let [height, width] = matrix(shape);
        if rows.end > height || columns.end > width {
            return Err(refused(&format!("at least {rows:?} x {columns:?}"), format!("{height} x {width}")));
        }
        let bytes_each = match place.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => return Err(refused("type F32, F16 or BF16", format!("{other:?}"))),
        };
        // Rows that are read whole follow each other.
        let (runs, run) = match columns.len() == width {
            true => (rows.start..rows.start + usize::from(!rows.is_empty()), rows.len() * width),
            false => (rows.clone(), columns.len()),
        };
        let io = |source| Error::Io { path: place.path.clone(), source };
        let mut file = File::open(&place.path).map_err(io)?;
        let mut bytes = vec![0; rows.len() * columns.len() * bytes_each];
        for (row, part) in runs.zip(bytes.chunks_mut((run * bytes_each).max(1))) {
            let at = place.start + ((row * width + columns.start) * bytes_each) as u64;
            file.seek(SeekFrom::Start(at)).map_err(io)?;
            file.read_exact(part).map_err(io)?;
        }
        Ok(match place.dtype {
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        })
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| {
            let last = name.rsplit('.').take(2).collect::<Vec<_>>();
            let near = self.names().find(|n| n.rsplit('.').take(2).collect::<Vec<_>>() == last);
            Error::MissingTensor {
                dir: self.dir.clone(),
                name: name.to_owned(),
                count: self.tensors.len(),
                hint: near.map_or(String::new(), |n| format!(" (such as {n})")),
            }
        })
    }
}

/// A tensor's rows and columns. Where a dimension is 0, others may be any numbers.
fn matrix(shape: &[usize]) -> [usize; 2] {
    let (columns, others) = shape.split_last().unwrap_or((&1, &[]));
    [others.iter().fold(1usize, |rows, dim| rows.saturating_mul(*dim)), *columns]
}

/// A named tensor to write: name, dimensions, values.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// Tensors as the bytes of a safetensors file, f32.
///
/// # Errors
/// When a tensor's dimensions are not those of its values, or a name is repeated.
pub fn to_safetensors(tensors: &[NamedTensor]) -> Result<Vec<u8>> {
    let failed = |e| content(Path::new("output"), "tensors", "tensors that safetensors can hold", e);
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for ((name, shape, _), bytes) in tensors.iter().zip(&bytes) {
        views.push((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?));
    }
    safetensors::serialize(views, None).map_err(failed)
}

/// A tensor's name in the base model: without PEFT's prefix and a family's, and with the present names of LayerNorm's
/// tensors (`gamma` and `beta` in the oldest checkpoints).
pub fn base_name(name: &str) -> String {
    let name = name.strip_prefix(PEFT_PREFIX).unwrap_or(name);
    let base = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    match base.rsplit_once('.') {
        Some((module, "gamma")) => format!("{module}.weight"),
        Some((module, "beta")) => format!("{module}.bias"),
        _ => base.to_owned(),
    }
}

/// Gives tensors the base model's names.
fn base_names(from: BTreeMap<String, Place>, into: &mut BTreeMap<String, Place>) -> Result<()> {
    from.into_iter().try_for_each(|(name, place)| insert(into, &name, base_name(&name), place))
}

/// Adds the tensor `from` under the name `to`.
fn insert(into: &mut BTreeMap<String, Place>, from: &str, to: String, place: Place) -> Result<()> {
    let path = place.path.clone();
    match into.insert(to.clone(), place) {
        None => Ok(()),
        Some(_) => Err(content(&path, format!("tensor {from}"), format!("one tensor {to}"), "several")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_counting_are_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let open = |header: &str| {
            std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
            Checkpoint::open_file(&path)
        };
        let shape = [0, 1 << 31, 1 << 31, 1 << 31, 1];
        let opened = open(&format!(r#"{{"w":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,0]}}}}"#)).unwrap();
        assert!(opened.read("w", &shape).unwrap().is_empty());

        let tensor = |at: u64| {
            let bytes = if at < 15 { 1 << 60 } else { (1 << 60) - 8 };
            let (begin, elements) = (at << 60, bytes / 8);
            format!(r#""{at}":{{"dtype":"F64","shape":[{elements}],"data_offsets":[{begin},{}]}}"#, begin + bytes)
        };
        let error = open(&format!("{{{}}}", (0..16).map(tensor).collect::<Vec<_>>().join(","))).unwrap_err();
        assert!(error.to_string().contains("bytes by its header"), "{error}");
    }
}
