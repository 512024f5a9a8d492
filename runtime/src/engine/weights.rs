//! The mapped weights of an encoder, by the checkpoint's names.
//!
//! In: a bundle. Out: its panels file, mapped; made the first time, beside the bundle or, where that is read-only, in the
//! cache directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bias_patch::{Bundle, Element, PanelEntry, PanelIndex, TensorEntry, cache_dir};

use crate::{
    Error, Result,
    kernels::{CodePanels, Panels},
    mapped::Mapped,
};

/// The weights of an encoder.
#[derive(Debug)]
pub(crate) struct Weights {
    mapped: Mapped,
    index: PanelIndex,
    path: PathBuf,
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
                Ok(index) => return Self::map(path, index),
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
        Self::map(&path, index)
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
        let floats = |entry: &PanelEntry| self.mapped.numbers::<f32>(entry.offset, entry.bytes()).is_some();
        let there = match &weight.scales {
            None => floats(&weight.entry),
            Some(scales) => {
                let codes = self.mapped.numbers::<i8>(weight.entry.offset, weight.entry.bytes()).is_some();
                let sums = weight.entry.sums();
                let sums = sums.is_none_or(|(at, bytes)| self.mapped.numbers::<f32>(at, bytes).is_some());
                codes && sums && floats(scales)
            }
        };
        if there { Ok(weight) } else { Err(lost("its values within the file")) }
    }

    fn map(path: &Path, index: PanelIndex) -> Result<Arc<Self>> {
        Ok(Arc::new(Weights { mapped: Mapped::open(path)?, index, path: path.to_owned() }))
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
                sums: self.weights.mapped.numbers(at, bytes).unwrap_or_default(),
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

    /// Whether it is in panels.
    pub fn in_panels(&self) -> bool {
        self.entry.in_panels
    }

    // `Weights::get` has found these in the file.
    fn floats(&self, entry: &PanelEntry) -> &[f32] {
        self.weights.mapped.numbers(entry.offset, entry.bytes()).unwrap_or_default()
    }

    fn codes(&self) -> &[i8] {
        self.weights.mapped.numbers(self.entry.offset, self.entry.bytes()).unwrap_or_default()
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
