//! Writes a checkpoint's values into a bundle: `weights.bin` and `base.bias`.
//!
//! In: a checkpoint, and the weights and slots of a graph. Out: the two files, and what the manifest says of them. Refused:
//! tensors of other dimensions, tensors of layers that the graph has no use for, and numbers that are not finite. A part of a
//! tensor is in memory at a time, however large the tensor is.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Write},
    ops::Range,
    path::Path,
};

use bias_patch::{Digest, Digester};
use edge_bundle::{ALIGNMENT, Element, FileEntry, Frozen, Part, Slot, TensorEntry};
use half::f16;
use hf_checkpoint::Checkpoint;

use crate::{
    Error, Progress, Result,
    families::FamilyTable,
    graph::{self, Source},
};

/// The tensors of the checkpoint that a weight of this shape there comes from, and the dimensions of all of them.
fn in_checkpoint(source: &Source, mut shape: Vec<usize>) -> Vec<(&str, Vec<usize>)> {
    match source {
        Source::Tensor(name, part) => {
            shape[0] *= part.of;
            vec![(name, shape)]
        }
        Source::Distances(distances) => distances.tensors([shape[0], shape[1]]).into(),
        Source::Computed(_) | Source::Scales => Vec::new(),
    }
}

/// Where the checkpoint has the pre-trained values of a slot, and where they go.
pub(crate) struct Bias {
    tensor: String,
    /// The part of the tensor.
    part: Part,
    /// Values of the slot.
    len: usize,
    /// Byte offset in `base.bias`.
    offset: u64,
}

impl Bias {
    /// The tensor's dimensions.
    fn shape(&self) -> Vec<usize> {
        vec![self.len * self.part.of]
    }
}

/// The pre-trained values of the slots whose modules have a bias.
pub(crate) fn biases(family: &FamilyTable, slots: &[Slot]) -> Vec<Bias> {
    let bias_of = |slot: &Slot| {
        let (module, part) = family.source(slot.module, slot.layer);
        Bias { tensor: format!("{module}.bias"), part, len: slot.len as usize, offset: slot.offset }
    };
    slots.iter().filter(|slot| !slot.zero).map(bias_of).collect()
}

/// Endings of tensors that hold nothing learnt: numbers of positions and of token types, and angles.
const BUFFERS: [&str; 3] = ["position_ids", "token_type_ids", "inv_freq"];

/// Checks that the checkpoint has every tensor, with the dimensions that its `config.json` implies, and no others in its
/// layers. Gives the names of others in its embeddings.
///
/// # Errors
/// Naming the first that it has not, or with others, or that would be left out of a layer.
pub(crate) fn check_tensors(
    checkpoint: &Checkpoint,
    family: &FamilyTable,
    weights: &[graph::Weight],
    biases: &[Bias],
) -> Result<Vec<String>> {
    let shape_of = |weight: &graph::Weight| {
        // Dimensions are products of a Config's numbers, far below the limits of usize.
        let mut shape: Vec<usize> = weight.shape.iter().map(|d| *d as usize).collect();
        if weight.transposed {
            shape.reverse();
        }
        shape
    };
    let weights = weights.iter().flat_map(|weight| in_checkpoint(&weight.source, shape_of(weight)));
    let biases = biases.iter().map(|bias| (bias.tensor.as_str(), bias.shape()));
    let wrong = |name: &str, expected: String, found: String| Error::Unsupported {
        path: checkpoint.path().to_owned(),
        field: format!("tensor {name}"),
        expected,
        found,
    };
    let mut used = HashSet::new();
    for (name, expected) in weights.chain(biases) {
        let found = checkpoint.shape(name)?;
        if found != expected {
            return Err(wrong(name, format!("shape {expected:?}, as config.json says"), format!("{found:?}")));
        }
        used.insert(name);
    }
    let within = |name: &str, module: &str| name.split('.').next() == module.split('.').next();
    let is_left = |name: &&str| !used.contains(name) && !BUFFERS.iter().any(|buffer| name.ends_with(buffer));
    let left: Vec<&str> = checkpoint.names().filter(is_left).collect();
    let modules = &family.modules;
    if let Some(name) = left.iter().find(|name| within(name, modules.layers)) {
        let expected = "only what the encoder of config.json computes with".to_owned();
        return Err(wrong(name, expected, format!("another, of shape {:?}", checkpoint.shape(name)?)));
    }
    Ok(left.into_iter().filter(|name| within(name, modules.word_embeddings)).map(str::to_owned).collect())
}

/// The values of some rows of a tensor of `weights.bin`, as they lie in the checkpoint.
fn values_of(checkpoint: &Checkpoint, source: &Source, entry: &TensorEntry, rows: Range<usize>) -> Result<Vec<f32>> {
    match source {
        Source::Tensor(name, part) => {
            let mut shape = entry.checkpoint_shape();
            let first = part.at * shape[0];
            shape[0] *= part.of;
            let [of_rows, columns] = entry.checkpoint_part(rows);
            read_finite(checkpoint, name, &shape, [first + of_rows.start..first + of_rows.end, columns])
        }
        Source::Computed(values) => {
            let width = values.len() / entry.shape[0].max(1) as usize;
            Ok(values[rows.start * width..rows.end * width].to_vec())
        }
        Source::Distances(distances) => {
            let [vectors, depth] = entry.checkpoint_shape()[..] else { unreachable!("they are a matrix") };
            let values = distances.vectors(checkpoint, [vectors, depth])?;
            // Rows here are columns there.
            Ok(values.chunks_exact(depth).flat_map(|vector| &vector[rows.clone()]).copied().collect())
        }
        Source::Scales => unreachable!("scales are written with what they scale"),
    }
}

/// Checks that the largest of some values is one of f16's normal numbers, where they are stored so: larger ones would
/// become infinite, and of smaller ones little or nothing would be left.
fn check_range(checkpoint: &Checkpoint, entry: &TensorEntry, values: &[f32]) -> Result<()> {
    let largest = values.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let held = largest == 0.0 || f16::from_f32(largest).is_normal();
    if entry.element != Element::F16 || held {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: checkpoint.path().to_owned(),
        field: format!("tensor {}", entry.name),
        expected: "a largest magnitude from 6.2e-5 to 65519, as f16 holds; other --weights hold any".to_owned(),
        found: format!("{largest:e}"),
    })
}

/// Writes `weights.bin`, some rows of a tensor at a time. Gives the entries of its tensors and of the file.
///
/// # Errors
/// When a tensor cannot be read or holds a number that is not finite, or too large for its type, or the file cannot be
/// written.
pub(crate) fn write_weights(
    checkpoint: &Checkpoint,
    weights: &[graph::Weight],
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<TensorEntry>, FileEntry)> {
    let io = |source| Error::Io { path: path.to_owned(), action: "write", source };
    let mut file = Aligned::new(BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?));
    let mut tensors = Vec::with_capacity(weights.len());
    // Scales come right after the quantized matrix they belong to.
    let mut scales: Option<Vec<u8>> = None;
    for weight in weights {
        let mut entry = TensorEntry {
            name: weight.name.clone(),
            shape: weight.shape.clone(),
            element: weight.element,
            transposed: weight.transposed,
            offset: weight.offset,
            sha256: Digest([0; 32]),
        };
        let mut digester = Digester::default();
        file.align(weight.offset).map_err(io)?;
        let mut put = |bytes: &[u8]| {
            digester.update(bytes);
            progress(Progress::Advance(bytes.len() as u64));
            file.write(bytes).map_err(io)
        };
        match scales.take() {
            Some(scales) => put(&scales)?,
            None => {
                let mut of_blocks = Vec::new();
                for rows in entry.row_blocks() {
                    let values = values_of(checkpoint, &weight.source, &entry, rows.clone())?;
                    check_range(checkpoint, &entry, &values)?;
                    let frozen = Frozen::of_rows(&values, &entry, rows);
                    put(&frozen.bytes)?;
                    of_blocks.extend(frozen.scales);
                }
                scales = weight.element.is_quantized().then_some(of_blocks);
            }
        }
        entry.sha256 = digester.finish();
        tensors.push(entry);
    }
    Ok((tensors, file.finish().map_err(io)?))
}

/// Writes `base.bias`: so many zeros, which slots share, and the `biases` of the checkpoint.
///
/// # Errors
/// As [`write_weights`].
pub(crate) fn write_base(checkpoint: &Checkpoint, zeros: u32, biases: &[Bias], path: &Path) -> Result<FileEntry> {
    let io = |source| Error::Io { path: path.to_owned(), action: "write", source };
    let mut file = Aligned::new(BufWriter::new(File::create(path).map_err(io)?));
    file.write(&vec![0; zeros as usize * size_of::<f32>()]).map_err(io)?;
    for bias in biases {
        let first = bias.part.at * bias.len;
        let values = read_finite(checkpoint, &bias.tensor, &bias.shape(), [0..1, first..first + bias.len])?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.align(bias.offset).and_then(|()| file.write(&bytes)).map_err(io)?;
    }
    file.finish().map_err(io)
}

/// Rows and columns of a tensor, all of them finite.
pub(crate) fn read_finite(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &[usize],
    [rows, columns]: [Range<usize>; 2],
) -> Result<Vec<f32>> {
    let values = checkpoint.read_part(name, shape, rows.clone(), columns.clone())?;
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let width = shape.last().copied().unwrap_or(1);
            let (row, column) = (rows.start + at / columns.len(), columns.start + at % columns.len());
            Err(Error::Unsupported {
                path: checkpoint.path().to_owned(),
                field: format!("tensor {name}, value {}", row * width + column),
                expected: "a finite number".to_owned(),
                found: values[at].to_string(),
            })
        }
    }
}

/// Writes tensors at increasing offsets, with zeros between them, and digests the whole.
pub(crate) struct Aligned<W> {
    file: W,
    digester: Digester,
    end: u64,
}

impl<W: Write> Aligned<W> {
    pub fn new(file: W) -> Self {
        Aligned { file, digester: Digester::default(), end: 0 }
    }

    /// Writes zeros up to the offset of the next tensor.
    pub fn align(&mut self, offset: u64) -> io::Result<()> {
        let gap = offset.checked_sub(self.end).filter(|gap| *gap < ALIGNMENT);
        let gap = gap.expect("the graph's tensors come in file order, less than an alignment apart");
        self.write(&vec![0; gap as usize])
    }

    /// Writes some bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digester.update(bytes);
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// What was written.
    pub fn finish(mut self) -> io::Result<FileEntry> {
        self.file.flush()?;
        Ok(FileEntry { bytes: self.end, sha256: self.digester.finish() })
    }
}
