//! What is in a bundle: the content of `bundle.json`.
//!
//! In: the text of a manifest. Out: a [`Manifest`] whose slots, tensors, files and digest agree with each other. The
//! fields are described in `FORMAT.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{Config, Digest, Error, Result, SlotId, Term};

/// The name of the manifest in a bundle.
pub const MANIFEST: &str = "bundle.json";
const VERSION: u32 = 1;
/// Inputs of a linear layer whose weights of eight bits share a scale, output by output.
pub const SCALE_GROUP: u64 = 256;
/// Boundary of every tensor in a bundle's files, in bytes.
pub const ALIGNMENT: u64 = 64;

/// A bias vector of the encoder: an input of its graph, with a default in `base.bias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The graph input's name, which is the checkpoint's.
    pub name: String,
    /// The term's symbol.
    #[serde(with = "term_symbol")]
    pub term: Term,
    /// The layer, if the term is in layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u16>,
    /// Number of values.
    pub len: u32,
    /// Where the values begin in `base.bias`, in bytes.
    pub offset: u64,
}

impl Slot {
    /// Which vector this is.
    pub fn id(&self) -> SlotId {
        SlotId { term: self.term, layer: self.layer }
    }
}

/// What a frozen tensor's values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// f32, little-endian.
    #[default]
    F32,
    /// Codes from -127 to 127; a value is its code times a scale. A transposed matrix has a scale for each output and each
    /// [`SCALE_GROUP`] inputs, a table one for each row.
    I8,
}

impl Element {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::I8 => "i8",
        }
    }

    /// What `edge-export --weights` calls it.
    pub fn option(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::I8 => "int8",
        }
    }

    /// Bytes of one.
    pub fn bytes(self) -> u64 {
        match self {
            Element::F32 => 4,
            Element::I8 => 1,
        }
    }

    fn is_f32(&self) -> bool {
        *self == Element::F32
    }
}

/// A frozen tensor in `weights.bin`, row-major.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// The checkpoint's name, without a family prefix.
    pub name: String,
    /// Dimensions as stored here.
    pub shape: Vec<u64>,
    /// What its values are stored as; codes of a tensor `X` have their scales in a tensor `X.scale`.
    #[serde(default, rename = "type", skip_serializing_if = "Element::is_f32")]
    pub element: Element,
    /// Whether the checkpoint holds it the other way round (`[out, in]`, here `[in, out]`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transposed: bool,
    /// Where it begins in `weights.bin`, in bytes.
    pub offset: u64,
    /// Digest of its bytes as stored here.
    pub sha256: Digest,
}

impl TensorEntry {
    /// Bytes it takes; `None` when that is beyond counting.
    pub fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.element.bytes(), |n, dim| n.checked_mul(*dim))
    }

    /// Bytes it may take at most when it is laid out: the format's limit on one tensor, so that no sum of places overflows.
    const MOST_BYTES: u64 = 1 << 48;

    /// Checks that its values, if they are codes, are those of the format: one more would not have its negative, and kernels
    /// count on the sum of two products to fit 16 bits.
    pub(crate) fn check_codes(&self, values: &[u8]) -> Result<()> {
        if self.element == Element::I8 && values.contains(&i8::MIN.cast_unsigned()) {
            return Err(Error::field(format!("tensor {}", self.name), "codes from -127 to 127", i8::MIN));
        }
        Ok(())
    }

    /// The name of the tensor that holds the scales of a tensor of codes.
    pub fn scales_of(name: &str) -> String {
        format!("{name}.scale")
    }

    /// The shape of the scales of its codes: `[groups, out]` of a transposed matrix `[in, out]`, `[rows, 1]` of a table.
    pub fn scales(&self) -> [u64; 2] {
        let dim = |at: usize| self.shape.get(at).copied().unwrap_or(1);
        if self.transposed { [dim(0).div_ceil(SCALE_GROUP), dim(1)] } else { [dim(0), 1] }
    }
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl FileEntry {
    /// The entry of a file as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
        Ok(FileEntry { bytes, sha256: Digest::of_file(path, |_| ())? })
    }

    /// Checks the length of the file at `path`.
    pub(crate) fn check_length(&self, path: &Path) -> Result<()> {
        let found = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
        if found != self.bytes {
            let error = Error::Length { part: "file".into(), expected: self.bytes, found };
            return Err(error.in_file(path));
        }
        Ok(())
    }

    /// Checks the digest of the file at `path`. `progress` is called with bytes read.
    pub(crate) fn digest_of(&self, path: &Path, progress: impl FnMut(u64)) -> Result<()> {
        let found = Digest::of_file(path, progress)?;
        if found != self.sha256 {
            let error = Error::Checksum { expected: self.sha256.to_string(), found: found.to_string() };
            return Err(error.in_file(path));
        }
        Ok(())
    }
}

/// A small input and what the encoder makes of it, computed at export in f64 by the naive evaluator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Token ids of one sequence.
    pub input_ids: Vec<u32>,
    /// `last_hidden_state` of the first token, `[hidden]`.
    pub first: Vec<f32>,
    /// `last_hidden_state` of the last token, `[hidden]`.
    pub last: Vec<f32>,
}

/// What a bundle is: the content of `bundle.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the bundle format.
    pub version: u32,
    /// Name of the checkpoint, for people.
    pub name: String,
    /// What patches bind to: the digest over the encoder's mathematics, as `FORMAT.md` defines it.
    pub encoder: Digest,
    /// The encoder's shape.
    pub config: Config,
    /// Digest of the tokenizer, which is part of the encoder's identity.
    pub tokenizer: Digest,
    /// Every bias vector, in the order of the forward pass.
    pub slots: Vec<Slot>,
    /// Every frozen tensor.
    pub tensors: Vec<TensorEntry>,
    /// A check of the whole.
    pub golden: Golden,
    /// Every other file of the bundle.
    pub files: BTreeMap<String, FileEntry>,
}

impl Manifest {
    /// The version this program reads and writes.
    pub const VERSION: u32 = VERSION;

    /// The slot of a given term and layer.
    pub fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.id() == id)
    }

    /// What the frozen matrices are stored as.
    pub fn weights(&self) -> Element {
        let codes = self.tensors.iter().any(|t| t.element == Element::I8);
        if codes { Element::I8 } else { Element::F32 }
    }

    /// The encoder digest that the manifest's own entries amount to; `base` is the digest of `base.bias`.
    pub fn identity(config: &Config, tokenizer: Digest, base: Digest, tensors: &[TensorEntry]) -> Digest {
        let c = config;
        let numbers = [
            ("layers", c.layers),
            ("hidden", c.hidden),
            ("embedding", c.embedding),
            ("heads", c.heads),
            ("intermediate", c.intermediate),
            ("vocabulary", c.vocabulary),
            ("max_length", c.max_length),
            ("position_offset", c.position_offset),
            ("token_types", c.token_types),
            ("pooler", c.pooler.into()),
        ];
        let mut lines = vec!["edge encoder 1".to_owned(), format!("family {}", c.family.name())];
        lines.extend(numbers.map(|(name, value)| format!("{name} {value}")));
        lines.push(format!("activation {}", c.activation.name()));
        lines.push(format!("layer_norm_epsilon {:e}", c.layer_norm_epsilon));
        lines.push(format!("tokenizer {tokenizer}"));
        lines.push(format!("base {base}"));
        let mut sorted: Vec<&TensorEntry> = tensors.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let shape = |t: &TensorEntry| t.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        lines.extend(
            sorted.into_iter().map(|t| format!("tensor {} {} {} {}", t.name, t.element.name(), shape(t), t.sha256)),
        );
        let text = lines.join("\n") + "\n";
        Digest::of(text.as_bytes())
    }

    /// The entry of a file.
    pub(crate) fn file(&self, name: &str) -> Result<&FileEntry> {
        self.files.get(name).ok_or_else(|| Error::field("files", format!("an entry for {name}"), "none"))
    }

    /// Reads a manifest and checks that it agrees with itself.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let wrong = |e: serde_json::Error| Error::field("manifest", "fields as FORMAT.md lists them", e);
        // The version first: a later manifest may have other fields.
        let only: OnlyVersion = serde_json::from_slice(text).map_err(wrong)?;
        if only.version != VERSION {
            return Err(Error::Version { what: "bundle", expected: VERSION, found: only.version });
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(wrong)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        self.config.check()?;
        let expected = self.config.slots()?;
        let found: Vec<(SlotId, u32)> = self.slots.iter().map(|slot| (slot.id(), slot.len)).collect();
        if expected != found {
            let at = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
            let show = |slots: &[(SlotId, u32)]| {
                slots.get(at).map_or("none".into(), |(id, len)| format!("{id} of {len} values"))
            };
            return Err(Error::field(format!("slots, number {at}"), show(&expected), show(&found)));
        }
        let base = self.slots.iter().map(|s| (s.name.as_str(), s.offset, Some(4 * u64::from(s.len))));
        check_tiling("base.bias", base, self.file("base.bias")?.bytes)?;
        for tensor in &self.tensors {
            let rank = tensor.shape.len();
            let dims = tensor.shape.iter().all(|dim| (1..=u64::from(u32::MAX)).contains(dim));
            if !dims || !(rank == 2 || rank == 1 && !tensor.transposed) {
                let expected = "one or two dimensions (two if transposed) from 1 to 4294967295";
                return Err(Error::field(format!("tensor {}", tensor.name), expected, format!("{:?}", tensor.shape)));
            }
            if tensor.bytes().is_none_or(|bytes| bytes > TensorEntry::MOST_BYTES) {
                let expected = format!("at most {} bytes", TensorEntry::MOST_BYTES);
                return Err(Error::field(format!("tensor {}", tensor.name), expected, format!("{:?}", tensor.shape)));
            }
            if tensor.element == Element::I8 {
                let name = TensorEntry::scales_of(&tensor.name);
                let scales = self.tensors.iter().find(|t| t.name == name);
                if rank != 2 || scales.is_none_or(|s| !s.element.is_f32() || s.shape != tensor.scales()) {
                    let expected = format!("a matrix, and scales of shape {:?} in {name}", tensor.scales());
                    return Err(Error::field(format!("tensor {}", tensor.name), expected, "another"));
                }
            }
        }
        let tensors = self.tensors.iter().map(|t| (t.name.as_str(), t.offset, t.bytes()));
        check_tiling("weights.bin", tensors, self.file("weights.bin")?.bytes)?;
        if self.tokenizer != self.file("tokenizer.json")?.sha256 {
            return Err(Error::field("tokenizer", "the digest of tokenizer.json", self.tokenizer));
        }
        self.file("encoder.onnx")?;
        for name in self.files.keys() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.starts_with('.') || !name.chars().all(plain) || name == MANIFEST {
                return Err(Error::field("files", "plain file names", name));
            }
        }
        let identity = Self::identity(&self.config, self.tokenizer, self.file("base.bias")?.sha256, &self.tensors);
        if identity != self.encoder {
            return Err(Error::field("encoder", format!("{identity}, by its tensors and shape"), self.encoder));
        }
        Ok(())
    }
}

/// Checks that parts follow each other on 64-byte boundaries and fill the file.
fn check_tiling<'a>(file: &str, parts: impl Iterator<Item = (&'a str, u64, Option<u64>)>, bytes: u64) -> Result<()> {
    let (mut end, mut names) = (0u64, BTreeSet::new());
    for (name, offset, len) in parts {
        let due = end.checked_next_multiple_of(ALIGNMENT);
        if due != Some(offset) {
            let due = due.map_or("a place within the file".into(), |due| format!("offset {due}"));
            return Err(Error::field(format!("{file}, {name}"), due, offset));
        }
        if !names.insert(name) {
            return Err(Error::field(format!("{file}, {name}"), "each name once", "it twice"));
        }
        end = len
            .and_then(|len| offset.checked_add(len))
            .filter(|end| *end <= bytes)
            .ok_or_else(|| Error::field(format!("{file}, {name}"), format!("to end within {bytes} bytes"), "beyond"))?;
    }
    if end != bytes {
        return Err(Error::Length { part: file.to_owned(), expected: end, found: bytes });
    }
    Ok(())
}

/// The one field that manifests of every version have.
#[derive(Deserialize)]
struct OnlyVersion {
    version: u32,
}

mod term_symbol {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::Term;

    pub(super) fn serialize<S: Serializer>(term: &Term, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(term.symbol())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Term, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
