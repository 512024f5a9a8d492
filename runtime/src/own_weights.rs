//! A copy of the weights in memory that can be changed. Only trainings that BitFit is compared with use it.
//!
//! In: the bytes of a panels file in f32. Out: the same values as mutable floats, laid out as in the file. Refused:
//! weights of another type.

use std::{fmt, path::Path, sync::Arc};

use edge_bundle::{Element, PanelEntry};
use edge_engine::Aligned;

use crate::{Error, Result};

/// The weights of an encoder as one list of floats, laid out as in its panels file, with zeros between tensors. Clones
/// share memory until one of them is changed.
#[derive(Clone)]
pub struct OwnWeights {
    values: Arc<Aligned>,
    len: usize,
    tensors: Arc<[PanelEntry]>,
}

impl OwnWeights {
    /// How many floats `bytes` of weights are.
    pub(crate) fn count(bytes: &[u8], tensors: &[PanelEntry], path: &Path) -> Result<usize> {
        if let Some(other) = tensors.iter().map(|tensor| tensor.element).find(|element| *element != Element::F32) {
            let option = other.option();
            return Err(Error::Engine {
                path: path.to_owned(),
                action: "train weights",
                reason: format!(
                    "they are {option}; export the encoder in f32 with\n  edge-export CHECKPOINT --weights f32"
                ),
            });
        }
        Ok(bytes.len() / size_of::<f32>())
    }

    pub(crate) fn copy(bytes: &[u8], tensors: &[PanelEntry], path: &Path) -> Result<Self> {
        let len = Self::count(bytes, tensors, path)?;
        let mut values = Aligned::zeros(len);
        for tensor in tensors {
            // The index was checked against the length of the file.
            let (begin, bytes_of) = (tensor.offset as usize, tensor.bytes() as usize);
            let to = &mut values[begin / size_of::<f32>()..][..bytes_of / size_of::<f32>()];
            to.copy_from_slice(bytemuck::cast_slice(&bytes[begin..][..bytes_of]));
        }
        Ok(OwnWeights { values: Arc::new(values), len, tensors: tensors.into() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.values())
    }

    /// All of them.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// All of them, mutable. They are copied first if an encoder or a clone still has them.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut Arc::make_mut(&mut self.values)[..self.len]
    }

    /// Their tensors, in the order of the list.
    pub fn tensors(&self) -> &[PanelEntry] {
        &self.tensors
    }

    /// Where a tensor begins in the list; [`PanelEntry::place`] is from there.
    pub fn start(&self, tensor: &PanelEntry) -> usize {
        tensor.offset as usize / size_of::<f32>()
    }
}

impl fmt::Debug for OwnWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnWeights").field("len", &self.len).finish_non_exhaustive()
    }
}
