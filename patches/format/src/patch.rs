//! A patch: the changes that one task makes to one frozen encoder.
//!
//! In: a patch file, or slots and a head made by training or import. Out: a [`Patch`] whose parts agree. Refused: a slot
//! twice or out of order, half of a low-rank term, numbers that are not finite, a head that does not suit the task.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use crate::{Activation, Digest, Encoding, Error, Kind, Result, SlotId, SlotKind, Stored, Task, atomic, wire};

/// One slot as a patch stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSlot {
    /// Which slot.
    pub id: SlotId,
    /// Its values, or of a bias their change from the base.
    pub values: Stored,
}

/// A linear layer: `outputs` rows of `inputs` weights, and a bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Rows of the weight, and length of the bias.
    pub outputs: u32,
    /// Columns of the weight.
    pub inputs: u32,
    /// `[outputs, inputs]`, row-major.
    pub weight: Stored,
    /// `[outputs]`.
    pub bias: Stored,
}

/// The head of a task: a linear layer, after a hidden layer where the checkpoint has one. Only an embedding may go
/// without either.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// A hidden layer and its activation, as the heads of RoBERTa, ELECTRA and DistilBERT have.
    pub dense: Option<(Linear, Activation)>,
    /// The layer that gives the task's outputs.
    pub output: Option<Linear>,
}

/// The properties of an encoder that a patch has to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderShape<'a> {
    /// The encoder's digest.
    pub digest: Digest,
    /// Layers.
    pub layers: u32,
    /// Width of the vectors that a head reads.
    pub hidden: u32,
    /// The longest sequence, special tokens included.
    pub max_length: u32,
    /// Whether there is a pooler.
    pub pooler: bool,
    /// Whether the key's bias has an effect: only then a patch may have one.
    pub key_bias_counts: bool,
    /// Every bias, in the order of the forward pass.
    pub slots: Vec<SlotShape<'a>>,
}

/// A bias of an encoder, and the module that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotShape<'a> {
    /// Which bias.
    pub id: SlotId,
    /// The checkpoint's name of it.
    pub name: &'a str,
    /// Number of its values: M.
    pub len: u32,
    /// Inputs of the module, if it is a linear layer: K.
    pub inputs: Option<u32>,
}

/// One task for one encoder: values of slots, a head, labels, and how texts are read.
///
/// ```
/// use bias_patch::{Digest, Encoding, Head, Linear, Patch, SlotId, Stored, StoredSlot, Task, Module};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let task: Task = serde_json::from_str(
///     r#"{"name": "mood", "kind": "classification", "labels": ["bad", "good"], "pooling": "mean"}"#,
/// )?;
/// // A query bias of an encoder 4 wide, stored as its change from the pre-trained values in 4 bits.
/// let (base, trained) = ([0.5; 4], [0.5, 0.7, 0.2, 0.5]);
/// let values = Stored::encode(&trained, Some(&base), "i4".parse()?)?;
/// let slots = vec![StoredSlot { id: SlotId::new(Module::Query, Some(0))?, values }];
/// let output = Linear {
///     outputs: 2,
///     inputs: 4,
///     weight: Stored::encode(&[0.1; 8], None, Encoding::F16)?,
///     bias: Stored::encode(&[0.0; 2], None, Encoding::F16)?,
/// };
/// // The encoder that the patch fits, here one that nobody has.
/// let encoder = Digest::of(b"an encoder");
/// let patch = Patch::new(encoder, task, slots, Head::of(output), [])?;
///
/// let bytes = patch.to_bytes()?;
/// assert_eq!(Patch::from_bytes(&bytes)?, patch);
/// assert!(Patch::from_bytes(&bytes[1..]).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub(crate) encoder: Digest,
    pub(crate) task: Task,
    pub(crate) slots: Vec<StoredSlot>,
    pub(crate) head: Head,
    metadata: BTreeMap<String, String>,
}

impl Patch {
    /// The largest patch file that is read.
    pub const MOST_BYTES: u64 = 1 << 30;

    /// A patch whose parts agree.
    ///
    /// # Errors
    /// When slots are repeated, out of order or half of a low-rank term, a number is not finite, or the head does
    /// not suit the task.
    pub fn new(
        encoder: Digest,
        task: Task,
        slots: Vec<StoredSlot>,
        head: Head,
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        for pair in slots.windows(2) {
            if pair[0].id >= pair[1].id {
                let expected =
                    format!("after slot {}, each slot once and in the order of the forward pass", pair[0].id);
                return Err(Error::field(format!("slot {}", pair[1].id), expected, "here"));
            }
        }
        for (at, slot) in slots.iter().enumerate() {
            slot.values.check(&format!("slot {}", slot.id))?;
            // Slots are in order, so the other part of a term can only be beside this one.
            let mut beside =
                [at.checked_sub(1), at.checked_add(1)].into_iter().flatten().filter_map(|at| slots.get(at));
            if let Some(other) = other_part(slot.id)?.filter(|other| beside.all(|slot| slot.id != *other)) {
                return Err(Error::field(format!("slot {other}"), format!("one, for there is {}", slot.id), "none"));
            }
        }
        let mut outputs = None;
        for (name, linear) in head.linears() {
            linear.weight.check(&format!("{name} weight"))?;
            linear.bias.check(&format!("{name} bias"))?;
            let (rows, columns) = (u64::from(linear.outputs), u64::from(linear.inputs));
            for (part, len, expected) in
                [("weight", linear.weight.len(), rows * columns), ("bias", linear.bias.len(), rows)]
            {
                if len as u64 != expected {
                    return Err(Error::field(format!("{name} {part}"), format!("{expected} values"), len));
                }
            }
            if let Some(before) = outputs.filter(|before| *before != linear.inputs) {
                return Err(Error::field(format!("{name} weight"), format!("{before} columns"), linear.inputs));
            }
            outputs = Some(linear.outputs);
        }
        let found = head.output.as_ref().map_or(0, |output| output.outputs);
        if let Some(due) = task.kind().outputs()
            && usize::try_from(found) != Ok(due)
        {
            let expected = format!("{due} rows, as the {} task has outputs", task.kind().name());
            return Err(Error::field("head output weight", expected, found));
        }
        let mut sorted = BTreeMap::new();
        let mut last: Option<String> = None;
        for (key, value) in metadata {
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Error::field(format!("metadata {key:?}"), "keys in order, each once", "here"));
            }
            last = Some(key.clone());
            sorted.insert(key, value);
        }
        Ok(Patch { encoder, task, slots, head, metadata: sorted })
    }

    /// Reads and checks a patch file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a valid patch; the error names it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(&Self::read(path)?).map_err(|e| e.in_file(path))
    }

    /// The bytes of a patch file, which are not checked further. Of another file, however large, only the first are read.
    ///
    /// # Errors
    /// When the file cannot be read, does not begin as a patch does, or has more than [`Patch::MOST_BYTES`].
    pub fn read(path: &Path) -> Result<Vec<u8>> {
        let mut file = File::open(path).map_err(Error::io(path, "read"))?;
        let mut bytes = Vec::new();
        let mut read = |most: u64, bytes: &mut Vec<u8>| {
            file.by_ref().take(most).read_to_end(bytes).map_err(Error::io(path, "read"))
        };
        read(wire::MAGIC.len() as u64, &mut bytes)?;
        if !wire::MAGIC.starts_with(&bytes) {
            return Err(Error::NotAPatch.in_file(path));
        }
        read(Self::MOST_BYTES, &mut bytes)?;
        match bytes.len() as u64 > Self::MOST_BYTES {
            true => {
                let expected = format!("at most {} bytes", Self::MOST_BYTES);
                Err(Error::field("size", expected, "more").in_file(path))
            }
            false => Ok(bytes),
        }
    }

    /// Whether the first bytes of a file are those of a patch.
    pub fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(wire::MAGIC)
    }

    /// Reads a patch from bytes; safe on any bytes, and allocates no more than in proportion to them.
    ///
    /// # Errors
    /// When they are not a valid patch.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        wire::decode(bytes)
    }

    /// The patch as the bytes of a file.
    ///
    /// # Errors
    /// When a part is 4 GiB or more.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        wire::encode(self)
    }

    /// Writes the patch to `path`, whole or not at all.
    ///
    /// # Errors
    /// As [`Patch::check_output`], or when the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        Self::check_output(path)?;
        atomic::write_file(path, &self.to_bytes()?)
    }

    /// Whether a patch may be written to `path`.
    ///
    /// # Errors
    /// When something else is there than a patch or an empty file.
    pub fn check_output(path: &Path) -> Result<()> {
        if atomic::check_replaceable(path)?.is_none() {
            return Ok(());
        }
        let mut first = Vec::new();
        let read = File::open(path).and_then(|file| file.take(wire::MAGIC.len() as u64).read_to_end(&mut first));
        read.map_err(Error::io(path, "read"))?;
        if first.is_empty() || Self::begins(&first) {
            return Ok(());
        }
        Err(Error::field(path.display().to_string(), "a patch to replace, or no file", "a file that is no patch"))
    }

    /// The encoder it was made for.
    pub fn encoder(&self) -> Digest {
        self.encoder
    }

    /// What the task is.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The stored slots, in the order of the forward pass.
    pub fn slots(&self) -> &[StoredSlot] {
        &self.slots
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Free text about the patch: metric, data, date, how it was made.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The same patch with values of its kind that are set otherwise, such as thresholds.
    ///
    /// # Errors
    /// When the patch does not suit the kind.
    pub fn with_kind(self, kind: Kind) -> Result<Self> {
        let task = self.task.with_kind(kind)?;
        Patch::new(self.encoder, task, self.slots, self.head, self.metadata)
    }

    /// The same patch with other free text.
    pub fn with_metadata(self, metadata: BTreeMap<String, String>) -> Self {
        Patch { metadata, ..self }
    }
}

/// The other part of the low-rank term that a slot is a part of.
pub(crate) fn other_part(id: SlotId) -> Result<Option<SlotId>> {
    let other = match id.kind {
        SlotKind::Bias => return Ok(None),
        SlotKind::LoraA => SlotKind::LoraB,
        SlotKind::LoraB => SlotKind::LoraA,
    };
    id.with_kind(other).map(Some)
}

impl Head {
    /// A head of one layer.
    pub fn of(output: Linear) -> Self {
        Head { dense: None, output: Some(output) }
    }

    /// The layers in order, with the names errors use.
    pub fn linears(&self) -> impl Iterator<Item = (&'static str, &Linear)> {
        let dense = self.dense.iter().map(|(linear, _)| ("head dense", linear));
        dense.chain(self.output.iter().map(|output| ("head output", output)))
    }

    /// The layers in order.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.dense.iter_mut().map(|(linear, _)| linear).chain(&mut self.output)
    }

    /// Outputs of the last layer; none without layers.
    pub fn outputs(&self) -> Option<u32> {
        self.linears().last().map(|(_, linear)| linear.outputs)
    }
}

impl Linear {
    /// A layer of exact values: `weight` is `[outputs, inputs]`, `bias` is `[outputs]`.
    ///
    /// # Errors
    /// When the lengths do not agree or a number is not finite.
    pub fn exact(weight: &[f32], bias: &[f32]) -> Result<Self> {
        let outputs = bias.len().max(1);
        if bias.is_empty() || weight.is_empty() || !weight.len().is_multiple_of(outputs) {
            return Err(Error::field(
                "head weight",
                format!("rows for {} outputs", bias.len()),
                format!("{} values", weight.len()),
            ));
        }
        let size = |n: usize| u32::try_from(n).map_err(|_| Error::field("head", "below 2^32 rows", n));
        Ok(Linear {
            outputs: size(outputs)?,
            inputs: size(weight.len() / outputs)?,
            weight: Stored::encode(weight, None, Encoding::F32)?,
            bias: Stored::encode(bias, None, Encoding::F32)?,
        })
    }
}
