//! The frozen tensors of a bundle: what their values are, and where they lie in `weights.bin`.
//!
//! An entry is checked as a part of its [`crate::Manifest`].

use std::{fmt::Display, ops::Range};

use bias_patch::Digest;
use half::f16;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    packed::{self, FACTOR_GROUP},
};

/// Inputs of a linear layer whose int8 weights share a scale, output by output.
pub const SCALE_GROUP: u64 = 256;

/// Bytes of a tensor, as f32, that are held in memory at once where it is read or written piece by piece.
const BLOCK_BYTES: usize = 4 << 20;

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
    /// int8 values that panels hold in 4 bits: of each output, or each row of a table, [`FACTOR_GROUP`] values at a time
    /// are -7 to 7 times a whole number. To all else they are int8.
    I4,
    /// f16, little-endian.
    F16,
}

impl Element {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::I8 => "i8",
            Element::I4 => "i4",
        }
    }

    /// What `edge-export --weights` calls it.
    pub fn option(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::I8 => "int8",
            Element::I4 => "int4",
        }
    }

    /// Bytes of one in `weights.bin`.
    pub fn bytes(self) -> u64 {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
            Element::I8 | Element::I4 => 1,
        }
    }

    /// Whether they are quantized, and have scales.
    pub fn is_quantized(self) -> bool {
        matches!(self, Element::I8 | Element::I4)
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

    /// Checks that values, of one of the [`TensorEntry::row_blocks`], are those of the format. int8 has no -128: it would
    /// not have its negative, and kernels count on the sum of two products to fit 16 bits. f16 has no infinity.
    pub(crate) fn check_values(&self, values: &[u8]) -> Result<()> {
        let wrong = |expected: &str, found: &dyn Display| {
            Err(Error::field(format!("tensor {}", self.name), expected, found.to_string()))
        };
        let is_finite = |half: &[u8; 2]| f16::from_le_bytes(*half).is_finite();
        if self.element == Element::F16 && !values.as_chunks().0.iter().all(is_finite) {
            return wrong("finite values", &"others");
        }
        if self.element.is_quantized() && values.contains(&i8::MIN.cast_unsigned()) {
            return wrong("quantized values from -127 to 127", &i8::MIN);
        }
        let [_, columns] = self.matrix();
        if self.element == Element::I4 && !packed::can_pack(values, columns, self.transposed) {
            let expected = format!("{FACTOR_GROUP} values at a time that are -7 to 7 times a whole number");
            return wrong(&expected, &"others");
        }
        Ok(())
    }

    /// Its rows and columns; those of a vector are one row.
    pub fn matrix(&self) -> [usize; 2] {
        // Dimensions below 2^32, as a manifest's are. A processor of 32 bits has no room for more either.
        let dim = |at: usize| self.shape.get(at).map_or(1, |dim| usize::try_from(*dim).unwrap_or(usize::MAX));
        if self.shape.len() == 2 { [dim(0), dim(1)] } else { [1, dim(0)] }
    }

    /// Its rows in blocks of some megabytes: what is held in memory at once where a tensor is read or written piece by
    /// piece. Rows that share scales, and rows that lie side by side in panels, are in one block.
    pub fn row_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let [rows, columns] = self.matrix();
        let most = BLOCK_BYTES / 4 / columns.max(1);
        let unit = if self.transposed { SCALE_GROUP as usize } else { 1 };
        let block = (most / unit).max(1) * unit;
        (0..rows).step_by(block).map(move |first| first..rows.min(first.saturating_add(block)))
    }

    /// Its dimensions in the checkpoint.
    pub fn checkpoint_shape(&self) -> Vec<usize> {
        let [rows, columns] = self.matrix();
        match (self.transposed, self.shape.len()) {
            (true, _) => vec![columns, rows],
            (false, 1) => vec![columns],
            (false, _) => vec![rows, columns],
        }
    }

    /// Which rows and columns of the checkpoint's tensor these rows are.
    pub fn checkpoint_part(&self, rows: Range<usize>) -> [Range<usize>; 2] {
        let [_, columns] = self.matrix();
        if self.transposed { [0..columns, rows] } else { [rows, 0..columns] }
    }

    /// Its columns in blocks as large as [`TensorEntry::row_blocks`], of a multiple of `unit` columns each.
    pub(crate) fn column_blocks(&self, unit: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let [rows, columns] = self.matrix();
        let block = (BLOCK_BYTES / 4 / rows.max(1) / unit).max(1) * unit;
        (0..columns).step_by(block).map(move |first| first..columns.min(first.saturating_add(block)))
    }

    /// Checks that its bytes have the digest `found`.
    pub(crate) fn check_digest(&self, found: Digest) -> Result<()> {
        if found != self.sha256 {
            return Err(Error::field(format!("tensor {}", self.name), format!("digest {}", self.sha256), found));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_format_are_refused() {
        let of = |element, transposed, count: usize| {
            let (shape, sha256) = (vec![count as u64 / 2, 2], Digest::of(b""));
            TensorEntry { name: "w".to_owned(), shape, element, transposed, offset: 0, sha256 }
        };
        let halves = |values: [f32; 4]| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
            of(Element::F16, false, 4).check_values(&bytes).map_err(|error| error.to_string())
        };
        assert_eq!(halves([65504.0, -65504.0, 6e-8, -0.0]), Ok(()));
        for odd in [65520.0, f32::NEG_INFINITY, f32::NAN] {
            assert!(halves([0.0, 1.0, odd, 2.0]).unwrap_err().contains("tensor w: expected finite values"));
        }
        let check = |element, transposed, values: &[i8]| {
            let tensor = of(element, transposed, values.len());
            let bytes: Vec<u8> = values.iter().map(|value| value.cast_unsigned()).collect();
            tensor.check_values(&bytes).map_err(|error| error.to_string())
        };
        // Two columns, in both of which all are multiples of the first; the rows have no such factor but 1.
        let columns = [18, 5, -126, 35, 36, -30];
        assert_eq!(check(Element::I4, true, &columns), Ok(()));
        assert!(check(Element::I4, false, &columns).unwrap_err().contains("tensor w: expected 32 values at a time"));
        assert_eq!(check(Element::I8, false, &columns), Ok(()));
        for element in [Element::I8, Element::I4] {
            let error = check(element, true, &[0, 0, i8::MIN, 0]).unwrap_err();
            assert!(error.contains("expected quantized values from -127 to 127, found -128"), "{error}");
        }
    }
}
