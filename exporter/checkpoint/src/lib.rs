//! Reads Hugging Face checkpoints: `config.json` and the tensors of `model.safetensors`, single or sharded.
//!
//! In: a directory, or one safetensors file. Out: tensors as f32 under the base model's names, whatever prefix of a
//! family or of PEFT and whatever old LayerNorm names the file uses. Refused: pickles, tensors that are missing or of
//! another shape, files whose parts do not add up. Tensors are read one at a time, so a checkpoint never has to fit in
//! memory.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorView},
};
use serde::Deserialize;

/// The result of reading a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read.
    #[error("{}: cannot read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Weights are there, but only as a Python pickle.
    #[error(
        "{}: no safetensors here, only {pickle}, a Python pickle that can run any code when it is read; convert it with\n  \
         python3 -c \"from transformers import AutoModel, AutoTokenizer as T; d='{}'; AutoModel.from_pretrained(d).save_pretrained(d+'-safe'); T.from_pretrained(d).save_pretrained(d+'-safe')\"",
        dir.display(), dir.display()
    )]
    OnlyPickle {
        /// The checkpoint.
        dir: PathBuf,
        /// The pickle's file name.
        pickle: String,
    },
    /// A file's content is not what it should be.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{}: no tensor {name}; the checkpoint has {} tensors{hint}", dir.display(), count)]
    MissingTensor {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor's name, without a family prefix.
        name: String,
        /// How many there are.
        count: usize,
        /// The nearest name, if one is near.
        hint: String,
    },
}

/// Prefixes that task models put before the base model's names.
const PREFIXES: [&str; 4] = ["bert.", "roberta.", "distilbert.", "electra."];

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
    bytes: usize,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a checkpoint directory: reads `config.json` and the headers of its safetensors files.
    ///
    /// # Errors
    /// When a file is missing or malformed, or there are only pickles.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let config: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| content(&path, "config", "JSON", e))?;
        let mut tensors = BTreeMap::new();
        for file in weight_files(dir)? {
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
        let found = value.to_string();
        let expected = std::any::type_name::<T>().rsplit("::").next().unwrap_or("a value");
        serde_json::from_value(value)
            .map_err(|_| content(&self.dir.join("config.json"), field, format!("a value of type {expected}"), found))
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
        let place = self.place(name)?;
        if place.shape != shape {
            return Err(content(
                &place.path,
                format!("tensor {name}"),
                format!("shape {shape:?}"),
                format!("{:?}", place.shape),
            ));
        }
        let io = |source| Error::Io { path: place.path.clone(), source };
        let mut file = File::open(&place.path).map_err(io)?;
        file.seek(SeekFrom::Start(place.start)).map_err(io)?;
        let mut bytes = vec![0; place.bytes];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(match place.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                return Err(content(
                    &place.path,
                    format!("tensor {name}"),
                    "type F32, F16 or BF16",
                    format!("{other:?}"),
                ));
            }
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

/// The safetensors files of a checkpoint.
fn weight_files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let index = dir.join("model.safetensors.index.json");
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok([single].into());
    }
    if index.exists() {
        let text = fs::read(&index).map_err(|source| Error::Io { path: index.clone(), source })?;
        let parsed: Index = serde_json::from_slice(&text).map_err(|e| content(&index, "index", "a weight_map", e))?;
        let outside = parsed.weight_map.values().find(|name| name.contains(['/', '\\']) || name.starts_with('.'));
        if let Some(name) = outside {
            return Err(content(&index, "weight_map", "plain file names", name));
        }
        return Ok(parsed.weight_map.values().map(|name| dir.join(name)).collect());
    }
    let pickle = ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|name| dir.join(name).exists());
    match pickle {
        Some(pickle) => Err(Error::OnlyPickle { dir: dir.to_owned(), pickle: pickle.to_owned() }),
        None => Err(Error::Io { path: single, source: std::io::ErrorKind::NotFound.into() }),
    }
}

/// The places of all tensors of one file.
fn read_header(path: &Path) -> Result<BTreeMap<String, Place>> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut prefix = [0; 8];
    let too_short = |found: u64| content(path, "length", "at least a safetensors header", format!("{found} bytes"));
    file.read_exact(&mut prefix).map_err(|_| too_short(length))?;
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
    let data = metadata.data_len() as u64;
    if start + data != length {
        return Err(content(
            path,
            "length",
            format!("{} bytes by its header", start + data),
            format!("{length} bytes"),
        ));
    }
    let places = metadata.tensors().into_iter().map(|(name, info)| {
        let (from, to) = info.data_offsets;
        let place = Place {
            path: path.to_owned(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            start: start + from as u64,
            bytes: to - from,
        };
        (name, place)
    });
    Ok(places.collect())
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

fn content(path: &Path, field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Content { path: path.to_owned(), field: field.into(), expected: expected.into(), found: found.to_string() }
}
