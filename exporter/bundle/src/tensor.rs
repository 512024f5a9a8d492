//! The frozen tensors of a bundle: what their values are, and where they lie in `weights.bin`.
//!
//! An entry is checked as a part of its [`crate::Manifest`].

use bias_patch::Digest;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Inputs of a linear layer whose int8 weights share a scale, output by output.
pub const SCALE_GROUP: u64 = 256;

/// What a frozen tensor's values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// f32, little-endian.
    #[default]
    F32,
    /// int8: quantized values from -127 to 127, and a weight is its quantized value times a scale. A transposed matrix
    /// has a scale for each output and each [`SCALE_GROUP`] inputs, a table one for each row.
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

    pub(crate) fn is_f32(&self) -> bool {
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
    /// What its values are stored as; the scales of an int8 tensor `X` are in a tensor `X.scale`.
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

    /// Bytes it may take at most when it is laid out: the format's limit on one tensor, so that no sum of places
    /// overflows.
    pub(crate) const MOST_BYTES: u64 = 1 << 48;

    /// Checks that quantized values are those of the format, which has no -128: it would not have its negative, and
    /// kernels count on the sum of two products to fit 16 bits.
    pub(crate) fn check_quantized(&self, values: &[u8]) -> Result<()> {
        if self.element == Element::I8 && values.contains(&i8::MIN.cast_unsigned()) {
            return Err(Error::field(format!("tensor {}", self.name), "quantized values from -127 to 127", i8::MIN));
        }
        Ok(())
    }

    /// The name of the tensor that holds the scales of an int8 tensor.
    pub fn scales_of(name: &str) -> String {
        format!("{name}.scale")
    }

    /// The shape of its scales: `[groups, out]` of a transposed matrix `[in, out]`, `[rows, 1]` of a table.
    pub fn scales(&self) -> [u64; 2] {
        let dim = |at: usize| self.shape.get(at).copied().unwrap_or(1);
        if self.transposed { [dim(0).div_ceil(SCALE_GROUP), dim(1)] } else { [dim(0), 1] }
    }
}
