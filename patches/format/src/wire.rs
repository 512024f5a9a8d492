//! A patch as bytes: preamble, header, payload, checksum.
//!
//! In: any bytes. Out: a [`Patch`] whose parts agree with each other, or for a patch its bytes. Whether a patch fits an
//! encoder is checked later. Refused: bytes that depart from the layout in `FORMAT.md`; the error names the part.

use serde::{Deserialize, Serialize};

use crate::{
    Activation, Digest, Error, Head, Kind, Linear, Patch, Pooling, Result, SlotId, Stored, StoredSlot, Task,
    entropy::{self, Frequencies},
    kind::{Entry, Fields, POOLINGS},
    patch,
    payload::{Reader, WireForm, WireLinear, short},
    settings::{self, FIRST_WITH_SETTINGS},
    slot::FIRST_WITH_LOW_RANK,
};

pub(crate) const MAGIC: &[u8; 8] = b"BIASPTCH";
/// The newest version. The oldest is 1, and differs as `FORMAT.md` says.
const VERSION: u16 = FIRST_WITH_SETTINGS;
/// The first number of a kind that needs [`FIRST_WITH_SETTINGS`].
const FIRST_NEW_KIND: u8 = 4;
const PREAMBLE_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 8;

#[derive(Serialize, Deserialize)]
struct WireHeader {
    encoder: [u8; 32],
    task: WireTask,
    slots: Vec<WireSlot>,
    dense: Option<WireDense>,
    output: WireLinear,
    frequencies: Vec<WireFrequencies>,
    coded_bytes: u32,
    metadata: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct WireTask {
    name: String,
    kind: u8,
    labels: Vec<String>,
    pooling: u8,
    inputs: u8,
    max_length: u32,
}

#[derive(Serialize, Deserialize)]
struct WireSlot {
    number: u8,
    layer: u16,
    len: u32,
    form: WireForm,
}

#[derive(Serialize, Deserialize)]
struct WireDense {
    activation: u8,
    linear: WireLinear,
}

#[derive(Serialize, Deserialize)]
struct WireFrequencies {
    bits: u8,
    counts: Vec<u16>,
}

impl WireHeader {
    /// The header, and the settings after it.
    fn to_bytes(&self, fields: &Fields, version: u16) -> Result<Vec<u8>> {
        let failed = |e| Error::field("header", "values postcard can write", e);
        let mut bytes = postcard::to_stdvec(self).map_err(failed)?;
        bytes.extend(settings::to_bytes(fields, version)?);
        Ok(bytes)
    }
}

const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh, Activation::Silu];

/// The number that stands for `value` in a header: its place in `table`.
fn number_of<T: PartialEq>(table: &[T], value: &T) -> u8 {
    // Every value of the type is in its table, as `every_value_has_a_number` tests; no table is longer than 11.
    table.iter().position(|v| v == value).map_or(u8::MAX, |at| at as u8)
}

fn value_at<T: Copy>(table: &[T], number: u8, field: &str) -> Result<T> {
    let expected = || format!("a number below {}", table.len());
    table.get(usize::from(number)).copied().ok_or_else(|| Error::field(field, expected(), number))
}

/// The patch as bytes.
pub(crate) fn encode(patch: &Patch) -> Result<Vec<u8>> {
    let arrays = arrays(patch);
    let runs: Vec<(u8, &[i8])> = arrays.iter().filter_map(|array| quantized_of(array)).collect();
    let packed: usize = runs.iter().filter_map(|(bits, values)| entropy::packed_bytes(values.len(), *bits)).sum();
    // Entropy coding has to save more than its frequency tables take, at most two bytes a number in the header.
    let coded = entropy::compress(&runs).filter(|(tables, bytes)| {
        let tables: usize = tables.iter().map(|t| 2 + 2 * t.counts.len()).sum();
        bytes.len() + tables < packed
    });

    let (task, fields, version) = (patch.task(), patch.task().kind().fields(), version_of(patch));
    let header = WireHeader {
        encoder: patch.encoder().0,
        task: WireTask {
            name: task.name().to_owned(),
            kind: task.kind().entry().number,
            labels: task.kind().labels().to_vec(),
            pooling: number_of(&POOLINGS, &fields.pooling),
            inputs: task.inputs(),
            max_length: task.max_length(),
        },
        slots: patch
            .slots()
            .iter()
            .map(|slot| {
                let (number, layer) = slot.id.to_wire();
                Ok(WireSlot { number, layer, len: length(slot.values.len())?, form: form_of(&slot.values) })
            })
            .collect::<Result<_>>()?,
        dense: match &patch.head().dense {
            Some((linear, activation)) => {
                Some(WireDense { activation: number_of(&ACTIVATIONS, activation), linear: wire_linear(linear)? })
            }
            None => None,
        },
        output: patch.head().output.as_ref().map_or(Ok(WireLinear::NONE), wire_linear)?,
        frequencies: coded.iter().flat_map(|(tables, _)| tables).map(WireFrequencies::from).collect(),
        coded_bytes: length(coded.as_ref().map_or(0, |(_, bytes)| bytes.len()))?,
        metadata: patch.metadata().iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    };
    let header = header.to_bytes(&fields, version)?;

    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&length(header.len())?.to_le_bytes());
    bytes.extend_from_slice(&header);
    for array in arrays {
        match array {
            Stored::F32(values) => values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes())),
            Stored::F16(values) => values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes())),
            Stored::Delta { bits, scales, quantized, .. } => {
                scales.iter().for_each(|s| bytes.extend_from_slice(&s.to_le_bytes()));
                if coded.is_none() {
                    bytes.extend_from_slice(&entropy::pack(quantized, *bits));
                }
            }
        }
    }
    if let Some((_, stream)) = coded {
        bytes.extend_from_slice(&stream);
    }
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    Ok(bytes)
}

/// Reads a patch from bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Patch> {
    let (preamble, after) = bytes.split_at_checked(PREAMBLE_BYTES).ok_or_else(|| {
        if MAGIC.starts_with(&bytes[..bytes.len().min(8)]) && !bytes.is_empty() {
            short("preamble", PREAMBLE_BYTES, bytes.len())
        } else {
            Error::NotAPatch
        }
    })?;
    if !preamble.starts_with(MAGIC) {
        return Err(Error::NotAPatch);
    }
    let version = u16::from_le_bytes([preamble[8], preamble[9]]);
    if !(1..=VERSION).contains(&version) {
        return Err(Error::Version { expected: VERSION.into(), found: version.into() });
    }
    let header_bytes = u32::from_le_bytes([preamble[12], preamble[13], preamble[14], preamble[15]]);
    let header_bytes = usize::try_from(header_bytes).unwrap_or(usize::MAX);
    let room = after.len().saturating_sub(CHECKSUM_BYTES);
    if header_bytes > room {
        return Err(short("header", header_bytes, room));
    }
    let (body, stored) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    let computed = checksum(body);
    if computed != stored {
        return Err(Error::Checksum { expected: hex(stored), found: hex(&computed) });
    }
    if preamble[10..12] != [0; 2] {
        return Err(Error::field("preamble bytes 10 and 11", "zeros", hex(&preamble[10..12])));
    }
    let (header, payload) = body[PREAMBLE_BYTES..].split_at(header_bytes);
    let wrong = |e: postcard::Error| Error::field("header", "fields as FORMAT.md lists them", e);
    let (wire, after): (WireHeader, _) = postcard::take_from_bytes(header).map_err(wrong)?;
    let kind = Entry::numbered(wire.task.kind)?;
    let pooling = value_at(&POOLINGS, wire.task.pooling, "pooling")?;
    if !kind.has_labels() && !wire.task.labels.is_empty() {
        return Err(Error::field("labels", format!("none for a {} task", kind.name), wire.task.labels.len()));
    }
    let labels = kind.has_labels().then(|| wire.task.labels.clone());
    let mut fields = Fields { labels, pooling, ..Fields::default() };
    settings::read(after, version, &mut fields)?;
    // One way to write each header: no padded numbers, no bytes after the last field.
    if wire.to_bytes(&fields, version).ok().as_deref() != Some(header) {
        return Err(Error::field(
            "header",
            "the shortest form of every number and nothing after the last",
            "another form",
        ));
    }
    let task = Task::new(
        &wire.task.name,
        Kind::from_fields(kind.name, fields.clone())?,
        wire.task.inputs,
        wire.task.max_length,
    )?;
    // Fields have a default in task.json. Here pooling has none, and nothing is written that is the default.
    let own = task.kind().fields();
    if own.pooling != pooling {
        return Err(Error::field("pooling", "1, 2, 3 or 4 for this kind of task", wire.task.pooling));
    }
    if let Some(field) = fields.present().find(|field| own.present().all(|own| own != *field)) {
        return Err(Error::field(field, "nothing where it is the default", "a value"));
    }
    let patch = read_body(wire, task, payload, version)?;
    let due = version_of(&patch);
    match due == version {
        true => Ok(patch),
        false => Err(Error::field("version", format!("{due}, for it needs no other"), version)),
    }
}

/// The version that a patch is written in: the lowest that has its kind, settings and slots.
fn version_of(patch: &Patch) -> u16 {
    let kind = patch.task().kind();
    let low_rank = patch.slots().iter().any(|slot| slot.id.kind.is_low_rank());
    match (kind.entry().number, kind.pooling()) {
        (FIRST_NEW_KIND.., _) | (_, Some(Pooling::Last)) => FIRST_WITH_SETTINGS,
        _ if settings::need_settings(&kind.fields()) => FIRST_WITH_SETTINGS,
        _ if low_rank => FIRST_WITH_LOW_RANK,
        _ => 1,
    }
}

fn read_body(wire: WireHeader, task: Task, payload: &[u8], version: u16) -> Result<Patch> {
    let mut reader = Reader { payload, at: 0, coded: wire.coded_bytes > 0, runs: Vec::new() };
    let mut slots = Vec::new();
    for slot in &wire.slots {
        let id = SlotId::from_wire(slot.number, slot.layer, version)?;
        let values = reader.array(&format!("slot {id}"), &[slot.len], slot.form)?;
        slots.push(StoredSlot { id, values });
    }
    let dense = match &wire.dense {
        Some(dense) => {
            let activation = value_at(&ACTIVATIONS, dense.activation, "head activation")?;
            Some((reader.linear("head dense", &dense.linear)?, activation))
        }
        None => None,
    };
    let output = match wire.output {
        WireLinear::NONE => None,
        ref output => Some(reader.linear("head output", output)?),
    };
    let mut head = Head { dense, output };

    let rest = &payload[reader.at..];
    let coded_bytes = usize::try_from(wire.coded_bytes).unwrap_or(usize::MAX);
    if rest.len() != coded_bytes {
        return Err(short("payload", reader.at.saturating_add(coded_bytes), payload.len()));
    }
    let tables: Vec<Frequencies> =
        wire.frequencies.into_iter().map(|f| Frequencies { bits: f.bits, counts: f.counts }).collect();
    if reader.coded {
        let used = |bits: &u8| reader.runs.iter().any(|(b, _)| b == bits);
        if let Some(table) = tables.iter().find(|t| !used(&t.bits)) {
            return Err(Error::field(
                "frequency tables",
                "tables of widths in use",
                format!("one of {} bits", table.bits),
            ));
        }
        if tables.windows(2).any(|pair| pair[0].bits <= pair[1].bits) {
            return Err(Error::field("frequency tables", "one for each width, widest first", "another order"));
        }
        let runs = entropy::decompress(&tables, rest, &reader.runs)?;
        fill(&mut slots, &mut head, runs);
    } else if !tables.is_empty() {
        return Err(Error::field("frequency tables", "none without an entropy-coded stream", tables.len()));
    }
    patch::Patch::new(Digest(wire.encoder), task, slots, head, wire.metadata)
}

/// Every array of a patch, in the order of the payload.
fn arrays(patch: &Patch) -> Vec<&Stored> {
    let linears = patch.head().linears().flat_map(|(_, linear)| [&linear.weight, &linear.bias]);
    patch.slots().iter().map(|s| &s.values).chain(linears).collect()
}

/// Puts decompressed runs where [`arrays`] lists their arrays.
fn fill(slots: &mut [StoredSlot], head: &mut Head, runs: Vec<Vec<i8>>) {
    let linears = head.linears_mut().flat_map(|l| [&mut l.weight, &mut l.bias]);
    let arrays = slots.iter_mut().map(|s| &mut s.values).chain(linears);
    let deltas = arrays.filter_map(|array| match array {
        Stored::Delta { quantized, .. } => Some(quantized),
        _ => None,
    });
    deltas.zip(runs).for_each(|(quantized, run)| *quantized = run);
}

fn quantized_of(array: &Stored) -> Option<(u8, &[i8])> {
    match array {
        Stored::Delta { bits, quantized, .. } => Some((*bits, quantized)),
        _ => None,
    }
}

fn form_of(array: &Stored) -> WireForm {
    match array {
        Stored::F32(_) => WireForm { bits: 32, group: 0 },
        Stored::F16(_) => WireForm { bits: 16, group: 0 },
        Stored::Delta { bits, group, .. } => WireForm { bits: *bits, group: *group },
    }
}

fn wire_linear(linear: &Linear) -> Result<WireLinear> {
    let Linear { outputs, inputs, weight, bias } = linear;
    Ok(WireLinear { outputs: *outputs, inputs: *inputs, weight: form_of(weight), bias: form_of(bias) })
}

impl From<&Frequencies> for WireFrequencies {
    fn from(table: &Frequencies) -> Self {
        WireFrequencies { bits: table.bits, counts: table.counts.clone() }
    }
}

fn length(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| Error::field("length", "below 4 GiB", len))
}

/// The first eight bytes of the SHA-256 of everything before: against accidents, not against attackers.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::of(bytes).0;
    std::array::from_fn(|at| digest[at])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pooling;

    /// A product that overflows 32 bits is an error, so that no wrong length fits by accident.
    #[test]
    fn arrays_larger_than_addresses_are_refused() {
        for dims in [[u32::MAX, u32::MAX], [1 << 31, 2], [1 << 16, 1 << 16], [1 << 30, 4], [u32::MAX, 1]] {
            for (bits, group) in [(32, 0), (16, 0), (8, 0), (8, 8), (4, 0), (1, u32::MAX)] {
                for coded in [false, true] {
                    let mut reader = Reader { payload: &[0; 64], at: 0, coded, runs: Vec::new() };
                    let found = reader.array("slot", &dims, WireForm { bits, group });
                    // Values of a stream take no bytes here: `decompress` counts them.
                    let counted = coded && bits <= 8 && found.is_ok();
                    let refused = matches!(&found, Err(Error::Length { part, .. }) if part.starts_with("slot"));
                    let refused_later = counted && entropy::decompress(&[], &[0; 64], &reader.runs).is_err();
                    assert!(refused || refused_later, "{dims:?} of {bits} bits by {group}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn every_value_has_a_number() {
        // Each match lists every value, so a new value has to be added here and to its table.
        for activation in ACTIVATIONS {
            match activation {
                Activation::Gelu | Activation::GeluTanh | Activation::Relu | Activation::Tanh | Activation::Silu => {}
            }
        }
        for pooling in POOLINGS {
            match pooling {
                None | Some(Pooling::Cls | Pooling::Mean | Pooling::Pooler | Pooling::Last) => {}
            }
        }
        assert_eq!((ACTIVATIONS.len(), POOLINGS.len()), (5, 5));
    }
}
