//! The mapped weights of an encoder, by the checkpoint's names.
//!
//! In: a bundle. Out: its panels file, mapped; made the first time, beside the bundle or, where that is read-only, in the
//! cache directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bias_patch::{Bundle, PanelEntry, PanelIndex, cache_dir};

use crate::{Error, Result, mapped::Mapped};

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
}

impl Weights {
    /// Maps the panels of a bundle, making them if need be.
    ///
    /// Several processes may do so at once: each writes a file of its own and renames it, and all have the same bytes.
    pub fn open(bundle: &Bundle) -> Result<Arc<Self>> {
        let manifest = bundle.manifest();
        let beside = bundle.dir().join(PanelIndex::file_name());
        let cached =
            cache_dir().map(|dir| dir.join("panels").join(manifest.encoder.to_string()).join(PanelIndex::file_name()));
        for path in std::iter::once(&beside).chain(&cached).filter(|path| path.exists()) {
            // A file of another version or encoder, or a damaged one, is made again below.
            if let Ok(index) = PanelIndex::open(path, manifest) {
                return Self::map(path, index);
            }
        }
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
        let entry = self.index.entry(name).ok_or_else(|| lost("a tensor of that name"))?.clone();
        // Asked once here, so that `Weight::floats` always has an answer.
        self.mapped.floats(entry.offset, entry.floats()).ok_or_else(|| lost("its floats within the file"))?;
        Ok(Weight { weights: self.clone(), entry })
    }

    fn map(path: &Path, index: PanelIndex) -> Result<Arc<Self>> {
        Ok(Arc::new(Weights { mapped: Mapped::open(path)?, index, path: path.to_owned() }))
    }
}

impl Weight {
    /// Its floats, in panels or row after row.
    pub fn floats(&self) -> &[f32] {
        // `Weights::get` has found them there.
        self.weights.mapped.floats(self.entry.offset, self.entry.floats()).unwrap_or_default()
    }

    /// Whether its floats are in panels.
    pub fn in_panels(&self) -> bool {
        self.entry.in_panels
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
