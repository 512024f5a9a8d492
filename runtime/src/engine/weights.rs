//! The mapped weights of an encoder, by the checkpoint's names; or, for training them, a copy in memory.
//!
//! In: a bundle. Out: its panels file, mapped; made the first time, beside the bundle or, where that is read-only, in the
//! cache directory.

use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bias_patch::{Bundle, Element, PanelEntry, PanelIndex, TensorEntry, cache_dir};

use super::machine::Aligned;
use crate::{
    Error, Result,
    kernels::{CodePanels, Panels},
    mapped::Mapped,
};

/// The weights of an encoder.
#[derive(Debug)]
pub(crate) struct Weights {
    values: Values,
    index: PanelIndex,
    path: PathBuf,
    /// Whether the file is there since they were opened, not before.
    made: bool,
}

#[derive(Debug)]
enum Values {
    Mapped(Mapped),
    Own(OwnWeights),
}

/// The weights of an encoder in memory of their own, where they can be changed: to train them, which nothing but a comparison
/// does.
///
/// They are one list of floats, laid out as in the panels file of the bundle: see [`OwnWeights::tensors`]. Copies share
/// their memory until one is changed.
#[derive(Clone)]
pub struct OwnWeights {
    values: Arc<Aligned>,
    len: usize,
    tensors: Arc<[PanelEntry]>,
}

impl OwnWeights {
    /// All of them, with zeros between.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// All of them, to be changed; copied first if an encoder or a copy of these still has them.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut Arc::make_mut(&mut self.values)[..self.len]
    }

    /// Their tensors, in the order of the list.
    pub fn tensors(&self) -> &[PanelEntry] {
        &self.tensors
    }

    /// Where a tensor begins in the list; [`PanelEntry::place`] is from there.
    pub fn start(&self, tensor: &PanelEntry) -> usize {
        place(&self.tensors, tensor).start
    }
}

impl fmt::Debug for OwnWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnWeights").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Where the values of one of `tensors` are in the list of all.
fn place(tensors: &[PanelEntry], tensor: &PanelEntry) -> Range<usize> {
    let begin = tensors.first().map_or(0, |first| first.offset);
    let start = (tensor.offset.saturating_sub(begin) / Element::F32.bytes()) as usize;
    start..start + (tensor.bytes() / Element::F32.bytes()) as usize
}

/// One tensor of them.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    weights: Arc<Weights>,
    entry: PanelEntry,
    /// Of the scales of its codes, if it is in codes.
    scales: Option<PanelEntry>,
}

/// A matrix in panels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix<'a> {
    Floats(Panels<'a>),
    Codes(CodePanels<'a>),
}

impl Weights {
    /// Maps the panels of a bundle, making them if need be.
    ///
    /// Several processes may do so at once: each writes a file of its own and renames it, and all have the same bytes.
    pub fn open(bundle: &Bundle) -> Result<Arc<Self>> {
        let manifest = bundle.manifest();
        let beside = bundle.panels();
        let name = PanelIndex::file_name(manifest.weights());
        let cached = cache_dir().map(|dir| dir.join("panels").join(manifest.encoder.to_string()).join(name));
        let mut reason = None;
        for path in std::iter::once(&beside).chain(&cached).filter(|path| path.exists()) {
            match PanelIndex::open(path, manifest) {
                Ok(index) => return Self::map(path, index, false),
                Err(error) => reason = Some(error),
            }
        }
        if let (false, Some(reason)) = (bundle.has_weights(), reason) {
            return Err(bundle.no_weights(reason.to_string()).into());
        }
        // There are none, or they are of another version or damaged: they are made again.
        let path = match (PanelIndex::write(bundle, &beside), cached) {
            (Ok(()), _) => beside,
            (Err(error), Some(cached)) if is_read_only(&error) => {
                let dir = cached.parent().unwrap_or(Path::new("."));
                std::fs::create_dir_all(dir).map_err(|source| Error::Io {
                    path: dir.to_owned(),
                    action: "create",
                    source,
                })?;
                PanelIndex::write(bundle, &cached)?;
                cached
            }
            (Err(error), _) => return Err(error.into()),
        };
        let index = PanelIndex::open(&path, manifest)?;
        Self::map(&path, index, true)
    }

    /// Their file, and whether it was made when they were opened.
    pub fn file(&self) -> (&Path, bool) {
        (&self.path, self.made)
    }

    /// A tensor by name.
    pub fn get(self: &Arc<Self>, name: &str) -> Result<Weight> {
        let lost = |found: &str| Error::Engine {
            path: self.path.clone(),
            action: "find a weight",
            reason: format!("{name}: expected {found}, found none"),
        };
        let entry = |name: &str| self.index.entry(name).cloned();
        let found = entry(name).ok_or_else(|| lost("a tensor of that name"))?;
        let scales = match found.element {
            Element::F32 => None,
            Element::I8 => Some(entry(&TensorEntry::scales_of(name)).ok_or_else(|| lost("a tensor of its scales"))?),
        };
        let weight = Weight { weights: self.clone(), entry: found, scales };
        // Asked once here, so that what is asked later is there.
        let floats = |entry: &PanelEntry| self.numbers::<f32>(entry.offset, entry.bytes()).is_some();
        let there = match &weight.scales {
            None => floats(&weight.entry),
            Some(scales) => {
                let codes = self.numbers::<i8>(weight.entry.offset, weight.entry.bytes()).is_some();
                let sums = weight.entry.sums();
                let sums = sums.is_none_or(|(at, bytes)| self.numbers::<f32>(at, bytes).is_some());
                codes && sums && floats(scales)
            }
        };
        if there { Ok(weight) } else { Err(lost("its values within the file")) }
    }

    /// All of them, if they are floats.
    ///
    /// # Errors
    /// When they are codes.
    pub fn all(&self) -> Result<&[f32]> {
        let (begin, end) = self.whole();
        let floats = self.index.tensors().iter().all(|tensor| tensor.element == Element::F32);
        let all = if floats { self.numbers(begin, end - begin) } else { None };
        all.ok_or_else(|| Error::Engine {
            path: self.path.clone(),
            action: "train weights",
            reason:
                "they are codes of eight bits; export the encoder in f32 with\n  edge-export CHECKPOINT --weights f32"
                    .to_owned(),
        })
    }

    /// A copy of all of them.
    ///
    /// # Errors
    /// When they are codes.
    pub fn own(&self) -> Result<OwnWeights> {
        let all = self.all()?;
        let mut values = Aligned::zeros(all.len());
        values[..all.len()].copy_from_slice(all);
        Ok(OwnWeights { values: Arc::new(values), len: all.len(), tensors: self.index.tensors().into() })
    }

    /// The same tensors with other values.
    ///
    /// # Errors
    /// When they are of another encoder.
    pub fn with(&self, own: &OwnWeights) -> Result<Arc<Self>> {
        if self.index.tensors() != own.tensors() {
            return Err(Error::Engine {
                path: self.path.clone(),
                action: "change its weights",
                reason: "expected a copy of this encoder's, found those of another".to_owned(),
            });
        }
        let (index, path) = (self.index.clone(), self.path.clone());
        Ok(Arc::new(Weights { values: Values::Own(own.clone()), index, path, made: false }))
    }

    fn map(path: &Path, index: PanelIndex, made: bool) -> Result<Arc<Self>> {
        Ok(Arc::new(Weights { values: Values::Mapped(Mapped::open(path)?), index, path: path.to_owned(), made }))
    }

    /// Where the tensors begin in the file, and where they end.
    fn whole(&self) -> (u64, u64) {
        let tensors = self.index.tensors();
        let begin = tensors.first().map_or(0, |first| first.offset);
        (begin, tensors.last().map_or(begin, |last| last.offset + last.bytes()))
    }

    /// The numbers in `bytes` bytes at an offset of the file; none if they are not there.
    fn numbers<T: bytemuck::AnyBitPattern>(&self, offset: u64, bytes: u64) -> Option<&[T]> {
        match &self.values {
            Values::Mapped(mapped) => mapped.numbers(offset, bytes),
            Values::Own(own) => {
                let start = usize::try_from(offset.checked_sub(self.whole().0)?).ok()?;
                let all: &[u8] = bytemuck::cast_slice(own.values());
                let part = all.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)?;
                bytemuck::try_cast_slice(part).ok()
            }
        }
    }
}

impl Weight {
    /// The floats of a vector; none of codes.
    pub fn vector(&self) -> &[f32] {
        match self.entry.element {
            Element::F32 => self.floats(&self.entry),
            Element::I8 => &[],
        }
    }

    /// A matrix in panels.
    pub fn matrix(&self) -> Matrix<'_> {
        let (depth, columns) = (self.rows(), self.columns());
        match (&self.scales, self.entry.sums()) {
            (Some(scales), Some((at, bytes))) => Matrix::Codes(CodePanels {
                data: self.codes(),
                depth,
                columns,
                scales: self.floats(scales),
                sums: self.weights.numbers(at, bytes).unwrap_or_default(),
            }),
            _ => Matrix::Floats(Panels { data: self.floats(&self.entry), depth, columns }),
        }
    }

    /// Adds row `at` of a table to `out`; false if there is no such row.
    #[must_use]
    pub fn add_row(&self, at: i64, out: &mut [f32]) -> bool {
        let width = self.columns();
        let Some(at) = usize::try_from(at).ok().filter(|at| *at < self.rows()) else { return false };
        match &self.scales {
            None => {
                let row = &self.floats(&self.entry)[at * width..][..width];
                out.iter_mut().zip(row).for_each(|(out, value)| *out += value);
            }
            Some(scales) => {
                let scale = self.floats(scales)[at];
                let row = &self.codes()[at * width..][..width];
                out.iter_mut().zip(row).for_each(|(out, code)| *out += f32::from(*code) * scale);
            }
        }
        true
    }

    /// Where its values are in the list of all weights.
    pub fn place(&self) -> Range<usize> {
        place(self.weights.index.tensors(), &self.entry)
    }

    /// Whether it is in panels.
    pub fn in_panels(&self) -> bool {
        self.entry.in_panels
    }

    // `Weights::get` has found these in the file.
    fn floats(&self, entry: &PanelEntry) -> &[f32] {
        self.weights.numbers(entry.offset, entry.bytes()).unwrap_or_default()
    }

    fn codes(&self) -> &[i8] {
        self.weights.numbers(self.entry.offset, self.entry.bytes()).unwrap_or_default()
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.entry.rows as usize
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.entry.columns as usize
    }
}

fn is_read_only(error: &bias_patch::Error) -> bool {
    let read_only = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
    matches!(error, bias_patch::Error::Io { source, .. } if read_only.contains(&source.kind()))
}
