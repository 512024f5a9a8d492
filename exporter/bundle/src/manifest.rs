//! What is in a bundle: the content of `bundle.json`.
//!
//! In: the text of a manifest. Out: a [`Manifest`] whose slots, tensors, files and digest agree with each other. The
//! fields are described in `FORMAT.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use bias_patch::{Digest, EncoderShape, Module, SlotId, SlotKind, SlotShape};
use serde::{Deserialize, Serialize};

use crate::{Config, Element, Error, Result, TensorEntry, layout};

/// The name of the manifest in a bundle.
pub const MANIFEST: &str = "bundle.json";
const VERSION: u32 = 1;
/// Boundary of every tensor in a bundle's files, in bytes.
pub const ALIGNMENT: u64 = 64;

/// A bias vector of the encoder: an input of its graph, with a default in `base.bias`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The graph input's name: the checkpoint's, where it has such a bias for each layer.
    pub name: String,
    /// The module, in files by the symbol of its bias.
    #[serde(rename = "term", with = "bias_symbol")]
    pub module: Module,
    /// The layer, if the module is in layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u16>,
    /// Number of values.
    pub len: u32,
    /// Where the values begin in `base.bias`, in bytes.
    pub offset: u64,
    /// Whether the encoder has no such bias, so that its values are zero. All such slots share one place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero: bool,
}

impl Slot {
    /// Which vector this is.
    pub fn id(&self) -> SlotId {
        SlotId { module: self.module, layer: self.layer, kind: SlotKind::Bias }
    }

    /// The name of its module.
    pub fn module_name(&self) -> &str {
        self.name.strip_suffix(".bias").unwrap_or(&self.name)
    }

    /// The graph inputs of the low-rank term of the module that has this bias, A `[r, K]` and B `[M, r]`, by PEFT's
    /// names.
    pub fn low_rank_inputs(bias: &str) -> [String; 2] {
        let module = bias.strip_suffix(".bias").unwrap_or(bias);
        ["lora_A", "lora_B"].map(|part| format!("{module}.{part}.weight"))
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
            return Err(Error::Checksum { expected: self.sha256.to_string(), found: found.to_string() }.in_file(path));
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
    /// A check of the whole; without token ids for a graph that is of no family.
    pub golden: Golden,
    /// Every other file of the bundle.
    pub files: BTreeMap<String, FileEntry>,
}

impl Manifest {
    /// The version this program reads and writes.
    pub const VERSION: u32 = VERSION;

    /// The slot of an id.
    pub fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.id() == id)
    }

    /// What a patch has to fit.
    pub fn shape(&self) -> EncoderShape<'_> {
        let inputs = |slot: &Slot| self.config.takes_low_rank(slot.module).then(|| self.config.inputs(slot.module));
        let slots = self.slots.iter().map(|s| SlotShape { id: s.id(), name: &s.name, len: s.len, inputs: inputs(s) });
        EncoderShape {
            digest: self.encoder,
            layers: self.config.layers,
            hidden: self.config.hidden,
            max_length: self.config.max_length,
            pooler: self.config.pooler,
            key_bias_counts: self.config.key_bias_counts(),
            slots: slots.collect(),
        }
    }

    /// What the frozen matrices are stored as.
    pub fn weights(&self) -> Element {
        let has = |element| self.tensors.iter().any(|t| t.element == element);
        [Element::I4, Element::I8, Element::F16].into_iter().find(|element| has(*element)).unwrap_or_default()
    }

    /// The encoder digest, computed from its parts; `base` is the digest of `base.bias`, `graph` that of `encoder.onnx`.
    pub fn identity(config: &Config, tokenizer: Digest, [base, graph]: [Digest; 2], tensors: &[TensorEntry]) -> Digest {
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
        if let Some(relative) = c.relative {
            lines.push(format!("relative_buckets {}", relative.buckets));
            lines.push(format!("relative_max_distance {}", relative.max_distance));
        }
        if let Some(disentangled) = c.disentangled {
            lines.push(format!("disentangled_buckets {}", disentangled.buckets));
            lines.push(format!("disentangled_max_distance {}", disentangled.max_distance));
        }
        if let Some(rotary) = c.rotary {
            lines.push(format!("rotary_theta {:e}", rotary.theta));
            lines.push(format!("rotary_local_theta {:e}", rotary.local_theta));
            if rotary.ntk_factor != 1.0 {
                lines.push(format!("rotary_ntk_factor {:e}", rotary.ntk_factor));
            }
        }
        if let Some(window) = c.window {
            lines.push(format!("window_reach {}", window.reach));
            lines.push(format!("window_global_every {}", window.global_every));
        }
        lines.push(format!("tokenizer {tokenizer}"));
        lines.push(format!("base {base}"));
        if c.family.is_graph() {
            lines.push(format!("graph {graph}"));
        }
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
            return Err(Error::Version { what: "bundle", expected: "1", found: only.version });
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(wrong)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The slots of a graph that is of no family: as many as it says, by their numbers; their lengths are the graph's.
    fn slots_of_graph(&self) -> Result<Vec<(SlotId, u32)>> {
        let lengths = self.slots.iter().map(|slot| slot.len).chain(std::iter::repeat(1));
        let slot = |(number, len): (u32, u32)| {
            let number = u16::try_from(number).map_err(|_| Error::field("layers", "at most 65535", number))?;
            if !(1..=1 << 24).contains(&len) {
                return Err(Error::field(format!("slot {number}"), "1 to 16777216 values", len));
            }
            Ok((SlotId::new(Module::Graph, Some(number))?, len))
        };
        (0..self.config.layers).zip(lengths).map(slot).collect()
    }

    fn check(&self) -> Result<()> {
        self.config.check()?;
        let found: Vec<(SlotId, u32)> = self.slots.iter().map(|slot| (slot.id(), slot.len)).collect();
        let expected = if self.config.family.is_graph() { self.slots_of_graph()? } else { self.config.slots()? };
        if expected != found {
            let at = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
            let show = |slots: &[(SlotId, u32)]| {
                slots.get(at).map_or("none".into(), |(id, len)| format!("{id} of {len} values"))
            };
            return Err(Error::field(format!("slots, number {at}"), show(&expected), show(&found)));
        }
        layout::check_base(&self.config, &self.slots, self.file("base.bias")?.bytes)?;
        // All zeros share one place, so the file does not bound them. A module without a bias has a matrix or a gain.
        let zeros = self.slots.iter().filter(|slot| slot.zero).map(|slot| 4 * u64::from(slot.len)).sum::<u64>();
        let weights = self.file("weights.bin")?.bytes;
        if zeros > weights {
            let expected = format!("at most {weights} bytes, as weights.bin has");
            return Err(Error::field("slots of modules without biases", expected, zeros));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.slots.iter().find(|slot| !names.insert(slot.name.as_str())) {
            return Err(Error::field(format!("slot {}", twice.name), "each name once", "it twice"));
        }
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
            if !tensor.element.is_f32() && rank != 2 {
                let found = tensor.element.name();
                return Err(Error::field(format!("tensor {}", tensor.name), "f32, as every vector is", found));
            }
            if tensor.element.is_quantized() {
                let name = TensorEntry::scales_of(&tensor.name);
                let scales = self.tensors.iter().find(|t| t.name == name);
                if scales.is_none_or(|s| !s.element.is_f32() || s.shape != tensor.scales()) {
                    let expected = format!("a matrix, and scales of shape {:?} in {name}", tensor.scales());
                    return Err(Error::field(format!("tensor {}", tensor.name), expected, "another"));
                }
            }
        }
        let tensors = self.tensors.iter().map(|t| (t.name.as_str(), t.offset, t.bytes()));
        layout::check_tiling("weights.bin", tensors, self.file("weights.bin")?.bytes)?;
        if self.tokenizer != self.file("tokenizer.json")?.sha256 {
            return Err(Error::field("tokenizer", "the digest of tokenizer.json", self.tokenizer));
        }
        let graph = self.file("encoder.onnx")?.sha256;
        for name in self.files.keys() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.starts_with('.') || !name.chars().all(plain) || name == MANIFEST {
                return Err(Error::field("files", "plain file names", name));
            }
        }
        let digests = [self.file("base.bias")?.sha256, graph];
        let identity = Self::identity(&self.config, self.tokenizer, digests, &self.tensors);
        if identity != self.encoder {
            return Err(Error::field("encoder", format!("{identity}, by its tensors and shape"), self.encoder));
        }
        Ok(())
    }
}

/// The one field that manifests of every version have.
#[derive(Deserialize)]
struct OnlyVersion {
    version: u32,
}

mod bias_symbol {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use bias_patch::Module;

    pub(super) fn serialize<S: Serializer>(module: &Module, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(module.symbol())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Module, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERT: &str = include_str!("../tests/golden-v1-bert-f32.json");
    const ELECTRA: &str = include_str!("../tests/golden-v1-electra-int8.json");
    const INT4: &str = include_str!("../tests/golden-v1-electra-int4.json");

    /// Parsing also proves the encoder digest, which is computed again.
    #[test]
    fn version_1_stays_readable() {
        for text in [BERT, ELECTRA, INT4] {
            let manifest = Manifest::parse(text.as_bytes()).unwrap();
            assert_eq!(
                serde_json::to_string_pretty(&manifest).unwrap() + "\n",
                text,
                "version 1 is also written as it was"
            );
        }
    }

    #[test]
    fn a_manifest_that_disagrees_with_itself_is_refused() {
        for (from, to, said) in [
            (r#""version": 1"#, r#""version": 2"#, "version 2 of the bundle format, but this program reads version 1"),
            (
                r#""layers": 2"#,
                r#""layers": 3"#,
                "slots, number 17: expected bq.2 of 32 values, found bpool of 32 values",
            ),
            (r#""pooler": true"#, r#""pooler": false"#, "slots, number 17: expected none, found bpool of 32 values"),
            (r#""family": "bert""#, r#""family": "electra""#, "pooler: expected false in family electra, found true"),
            (r#""family": "bert""#, r#""family": "roberta""#, "encoder: expected "),
            (r#""term": "bq""#, r#""term": "bk""#, "slots, number 1: expected bq.0 of 32 values, found bk.0"),
            (r#""term": "bq""#, r#""term": "lora""#, "bias: expected one of beln"),
            (
                r#""offset": 128"#,
                r#""offset": 64"#,
                "base.bias, encoder.layer.0.attention.self.query.bias: expected offset 128, found 64",
            ),
        ] {
            let text = BERT.replacen(from, to, 1);
            assert_ne!(text, BERT, "{from}");
            let error = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said), "{to}: {error}");
        }
    }
}
