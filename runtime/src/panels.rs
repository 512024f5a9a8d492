//! The weights of an encoder: its panels file, mapped.
//!
//! In: a bundle. Out: the bytes of its panels file, and the place of each tensor in them. The file is made the first
//! time: in the bundle, or in the cache directory if the bundle is read-only. Refused: a bundle with neither panels for
//! this processor nor `weights.bin`.

use std::{
    io,
    path::{Path, PathBuf},
};

use edge_bundle::{Bundle, Element, PanelEntry, PanelIndex, TensorEntry, cache_dir};
use edge_engine::{Tensor, Values, Weights};

#[cfg(feature = "research")]
use crate::own_weights::OwnWeights;
use crate::{Error, Result, mapped::Mapped};

// The bundle's format and the engine each name the layout; here it is the same one.
const _: () = assert!(
    edge_bundle::PANEL_WIDTH == edge_engine::layout::PANEL_WIDTH
        && edge_bundle::PANEL_GROUP == edge_engine::layout::PANEL_GROUP
        && edge_bundle::SCALE_GROUP as usize == edge_engine::layout::SCALE_GROUP
        && edge_bundle::FACTOR_GROUP == edge_engine::layout::FACTOR_GROUP
        && edge_bundle::ALIGNMENT as usize == edge_engine::layout::ALIGNMENT
);

/// The weights of an encoder.
#[derive(Debug)]
pub(crate) struct PanelFile {
    bytes: Bytes,
    index: PanelIndex,
    path: PathBuf,
    /// Whether opening made the file.
    made: bool,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mapped),
    #[cfg(feature = "research")]
    Own(OwnWeights),
}

impl PanelFile {
    /// Maps the panels of a bundle, and makes them first if they are missing or damaged.
    ///
    /// Several processes may do this at once: each writes its own temporary file and renames it, and all files have the
    /// same bytes.
    pub fn open(bundle: &Bundle) -> Result<Self> {
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
        // They are missing, damaged or of another version, so they are made again.
        let path = match PanelIndex::write(bundle, &beside) {
            Ok(()) => beside,
            Err(error) if is_read_only(&error) => {
                let write = |path: PathBuf| {
                    let dir = path.parent().unwrap_or(Path::new("."));
                    std::fs::create_dir_all(dir).map_err(edge_bundle::Error::io(dir, "create"))?;
                    PanelIndex::write(bundle, &path).map(|()| path)
                };
                let nowhere = |also: String| Error::NoPlace { path: beside.clone(), reason: format!("{error}{also}") };
                let none = || nowhere("; neither XDG_CACHE_HOME nor HOME is an absolute path".to_owned());
                write(cached.ok_or_else(none)?).map_err(|e| nowhere(format!("; {e}")))?
            }
            Err(error) => return Err(error.into()),
        };
        let index = PanelIndex::open(&path, manifest)?;
        Self::map(&path, index, true)
    }

    fn map(path: &Path, index: PanelIndex, made: bool) -> Result<Self> {
        Ok(PanelFile { bytes: Bytes::Mapped(Mapped::open(path)?), index, path: path.to_owned(), made })
    }

    /// The file, and whether opening made it.
    pub fn file(&self) -> (&Path, bool) {
        (&self.path, self.made)
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped.as_ref(),
            #[cfg(feature = "research")]
            Bytes::Own(own) => own.bytes(),
        }
    }

    /// All bytes, as the engine takes them.
    pub fn weights(&self) -> edge_engine::Result<Weights<'_>> {
        Weights::new(self.bytes())
    }

    /// A tensor by its name in the checkpoint, in the form that the engine takes.
    pub fn tensor(&self, name: &str) -> Option<(PanelEntry, Tensor)> {
        let entry = self.index.entry(name)?;
        // Offsets within a mapped file fit in `usize`; the engine checks them against the file's length.
        let at = usize::try_from(entry.offset).ok()?;
        let values = match entry.element {
            Element::F32 => Values::F32 { at },
            Element::F16 => Values::F16 { at },
            element @ (Element::I8 | Element::I4) => {
                let scales = usize::try_from(self.index.entry(&TensorEntry::scales_of(name))?.offset).ok()?;
                let column_sums = match entry.column_sums() {
                    Some((at, _)) => usize::try_from(at).ok()?,
                    None => 0,
                };
                match element {
                    Element::I4 => Values::I4 { at, scales, column_sums },
                    _ => Values::I8 { at, scales, column_sums },
                }
            }
        };
        let (rows, columns) = (entry.rows as usize, entry.columns as usize);
        Some((entry.clone(), Tensor { rows, columns, in_panels: entry.in_panels, values }))
    }

    /// How many floats they are.
    ///
    /// # Errors
    /// When they are quantized.
    #[cfg(feature = "research")]
    pub fn floats(&self) -> Result<usize> {
        OwnWeights::count(self.bytes(), self.index.tensors(), &self.path)
    }

    /// A copy of all weights, to be changed.
    ///
    /// # Errors
    /// When they are quantized.
    #[cfg(feature = "research")]
    pub fn own(&self) -> Result<OwnWeights> {
        OwnWeights::copy(self.bytes(), self.index.tensors(), &self.path)
    }

    /// The same tensors with other values.
    ///
    /// # Errors
    /// When they are of another encoder.
    #[cfg(feature = "research")]
    pub fn with(&self, own: &OwnWeights) -> Result<Self> {
        if self.index.tensors() != own.tensors() {
            return Err(Error::Engine {
                path: self.path.clone(),
                action: "change its weights",
                reason: "expected a copy of this encoder's, found those of another".to_owned(),
            });
        }
        Ok(PanelFile {
            bytes: Bytes::Own(own.clone()),
            index: self.index.clone(),
            path: self.path.clone(),
            made: false,
        })
    }
}

fn is_read_only(error: &edge_bundle::Error) -> bool {
    let read_only = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
    let (edge_bundle::Error::Io { source, .. } | edge_bundle::Error::Patch(bias_patch::Error::Io { source, .. })) =
        error
    else {
        return false;
    };
    read_only.contains(&source.kind())
}
