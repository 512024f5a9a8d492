//! The frozen weights: borrowed bytes, and the place of each tensor in them.
//!
//! In: bytes that are aligned to [`ALIGNMENT`], and for each tensor its shape and the offsets of its parts. Out:
//! tensors as slices of those bytes, never a copy. Refused: a part outside the bytes or not aligned.

#[cfg(feature = "research")]
use core::ops::Range;

use bytemuck::AnyBitPattern;

use crate::{
    Error, Result,
    kernels::{GROUP, HalfPanels, PackedPanels, Panels, QuantizedPanels, float_of, unpack_row},
    layout::{ALIGNMENT, FACTOR_GROUP, PACKED_BYTES, PACKED_ROW_BYTES, PANEL_GROUP, PANEL_WIDTH},
};

/// The bytes of all weights.
#[derive(Clone, Copy)]
pub struct Weights<'a>(&'a [u8]);

/// The place of a tensor in the bytes of all weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Rows: the depth of a product; 1 of a vector.
    pub rows: usize,
    /// Columns: the outputs of a product; the length of a vector.
    pub columns: usize,
    /// Whether it is a matrix in panels, for products, or a table or vector, stored row by row.
    pub in_panels: bool,
    /// The type and the place of its values.
    pub values: Values,
}

/// The type and place of a tensor's values. Offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// f32, little-endian.
    F32 {
        /// Where they begin.
        at: usize,
    },
    /// f16, little-endian.
    F16 {
        /// Where they begin.
        at: usize,
    },
    /// Quantized to int8.
    I8 {
        /// Where they begin.
        at: usize,
        /// Scales, f32. A matrix has one for each group of rows and each column, `[groups, columns]`; a table has one
        /// for each row.
        scales: usize,
        /// For a matrix: column sums of the quantized values, f32, `[groups, columns]`.
        column_sums: usize,
    },
    /// Quantized to int8 values that are packed in 4 bits, because in each group they are small multiples of one number.
    I4 {
        /// Where they begin.
        at: usize,
        /// As of [`Values::I8`].
        scales: usize,
        /// As of [`Values::I8`].
        column_sums: usize,
    },
}

/// A matrix in panels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix<'a> {
    F32(Panels<'a>),
    F16(HalfPanels<'a>),
    I8(QuantizedPanels<'a>),
    I4(PackedPanels<'a>),
}

impl<'a> Weights<'a> {
    /// Weights in these bytes.
    ///
    /// # Errors
    /// When they are not aligned to [`ALIGNMENT`].
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let beyond = bytes.as_ptr().addr() % ALIGNMENT;
        if beyond != 0 {
            return Err(Error::Alignment { expected: ALIGNMENT, found: beyond });
        }
        Ok(Weights(bytes))
    }

    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Numbers at an offset. The model was checked to stay within this many bytes.
    fn numbers<T: AnyBitPattern>(&self, at: usize, count: usize) -> &'a [T] {
        bytemuck::cast_slice(&self.0[at..][..count * size_of::<T>()])
    }
}

impl Tensor {
    /// Checks that it is aligned and within `bytes` bytes.
    ///
    /// # Errors
    /// When it is not; the error has `name`.
    pub(crate) fn check(&self, name: &str, bytes: usize) -> Result<()> {
        let product = |a: usize, b: usize| a.checked_mul(b);
        let bytes_of = |count: Option<usize>, bytes: usize| count.and_then(|count| count.checked_mul(bytes));
        let floats = |count: Option<usize>| bytes_of(count, size_of::<f32>());
        let columns =
            if self.in_panels { self.columns.checked_next_multiple_of(PANEL_WIDTH) } else { Some(self.columns) };
        let plain = |at, bytes| {
            [(at, bytes_of(columns.and_then(|c| product(c, self.rows)), bytes)), (0, Some(0)), (0, Some(0))]
        };
        let parts: [(usize, Option<usize>); 3] = match self.values {
            Values::F32 { at } => plain(at, size_of::<f32>()),
            Values::F16 { at } => plain(at, size_of::<u16>()),
            Values::I8 { at, scales, column_sums } | Values::I4 { at, scales, column_sums } => {
                let of_groups = floats(product(self.rows.div_ceil(GROUP), self.columns));
                let values = (at, self.quantized_bytes());
                match self.in_panels {
                    true => [values, (scales, of_groups), (column_sums, of_groups)],
                    false => [values, (scales, floats(Some(self.rows))), (0, Some(0))],
                }
            }
        };
        let inside = |(at, len): &(usize, Option<usize>)| {
            at.is_multiple_of(size_of::<f32>())
                && len.and_then(|len| at.checked_add(len)).is_some_and(|end| end <= bytes)
        };
        if self.rows == 0 || self.columns == 0 || !parts.iter().all(inside) {
            return Err(Error::Tensor { name: name.into(), bytes });
        }
        Ok(())
    }

    /// Bytes of its quantized values; none if they are beyond counting.
    fn quantized_bytes(&self) -> Option<usize> {
        let (rows, columns) = (self.rows, self.columns);
        match (self.in_panels, matches!(self.values, Values::I4 { .. })) {
            (true, false) => {
                rows.checked_next_multiple_of(PANEL_GROUP)?.checked_mul(columns.checked_next_multiple_of(PANEL_WIDTH)?)
            }
            (true, true) => {
                columns.div_ceil(PANEL_WIDTH).checked_mul(rows.div_ceil(FACTOR_GROUP).checked_mul(PACKED_BYTES)?)
            }
            (false, false) => rows.checked_mul(columns),
            (false, true) => rows.checked_mul(columns.div_ceil(FACTOR_GROUP).checked_mul(PACKED_ROW_BYTES)?),
        }
    }

    /// A vector of `columns` floats.
    pub(crate) fn vector<'a>(&self, weights: Weights<'a>) -> &'a [f32] {
        self.row(weights, 0)
    }

    /// A row of a table of floats, which has it.
    pub(crate) fn row<'a>(&self, weights: Weights<'a>, row: usize) -> &'a [f32] {
        match self.values {
            Values::F32 { at } => weights.numbers(at + row * self.columns * size_of::<f32>(), self.columns),
            // Refused where operators are made.
            Values::F16 { .. } | Values::I8 { .. } | Values::I4 { .. } => unreachable!("a vector that is not f32"),
        }
    }

    /// A matrix in panels.
    pub(crate) fn matrix<'a>(&self, weights: Weights<'a>) -> Matrix<'a> {
        let (depth, columns) = (self.rows, self.columns);
        let padded = columns.next_multiple_of(PANEL_WIDTH);
        // They were checked to be within the weights.
        let bytes = || self.quantized_bytes().expect("a tensor that was checked");
        let of_groups = |at| weights.numbers(at, depth.div_ceil(GROUP) * columns);
        match self.values {
            Values::F32 { at } => Matrix::F32(Panels { data: weights.numbers(at, depth * padded), depth, columns }),
            Values::F16 { at } => Matrix::F16(HalfPanels { data: weights.numbers(at, depth * padded), depth, columns }),
            Values::I8 { at, scales, column_sums } => {
                let (scales, column_sums) = (of_groups(scales), of_groups(column_sums));
                Matrix::I8(QuantizedPanels { data: weights.numbers(at, bytes()), depth, columns, scales, column_sums })
            }
            Values::I4 { at, scales, column_sums } => {
                let (scales, column_sums) = (of_groups(scales), of_groups(column_sums));
                Matrix::I4(PackedPanels { data: weights.numbers(at, bytes()), depth, columns, scales, column_sums })
            }
        }
    }

    /// Adds row `at` of a table to `out`; false if there is no such row.
    #[must_use]
    pub(crate) fn add_row(&self, weights: Weights<'_>, at: usize, out: &mut [f32]) -> bool {
        if at >= self.rows {
            return false;
        }
        let width = self.columns;
        match self.values {
            Values::F32 { at: begin } => {
                let row: &[f32] = weights.numbers(begin + at * width * size_of::<f32>(), width);
                out.iter_mut().zip(row).for_each(|(out, value)| *out += value);
            }
            Values::F16 { at: begin } => {
                let row: &[u16] = weights.numbers(begin + at * width * size_of::<u16>(), width);
                out.iter_mut().zip(row).for_each(|(out, half)| *out += float_of(*half));
            }
            Values::I8 { at: begin, scales, .. } => {
                let scale = weights.numbers::<f32>(scales, self.rows)[at];
                let row: &[i8] = weights.numbers(begin + at * width, width);
                out.iter_mut().zip(row).for_each(|(out, quantized)| *out += f32::from(*quantized) * scale);
            }
            Values::I4 { at: begin, scales, .. } => {
                let scale = weights.numbers::<f32>(scales, self.rows)[at];
                let bytes = width.div_ceil(FACTOR_GROUP) * PACKED_ROW_BYTES;
                let row: &[u8] = weights.numbers(begin + at * bytes, bytes);
                out.iter_mut().zip(unpack_row(row)).for_each(|(out, quantized)| *out += f32::from(quantized) * scale);
            }
        }
        true
    }

    /// The range of its floats in the floats of all weights; none if it is not f32.
    #[cfg(feature = "research")]
    pub(crate) fn place(&self) -> Range<usize> {
        let columns = if self.in_panels { self.columns.next_multiple_of(PANEL_WIDTH) } else { self.columns };
        match self.values {
            Values::F32 { at } => at / size_of::<f32>()..at / size_of::<f32>() + self.rows * columns,
            Values::F16 { .. } | Values::I8 { .. } | Values::I4 { .. } => 0..0,
        }
    }

    /// Whether its values are f32.
    pub fn is_f32(&self) -> bool {
        matches!(self.values, Values::F32 { .. })
    }

    /// Whether its values are quantized.
    pub fn is_quantized(&self) -> bool {
        matches!(self.values, Values::I8 { .. } | Values::I4 { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_beyond_the_bytes_are_refused() {
        let tensor = |at, rows, columns| Tensor { rows, columns, in_panels: true, values: Values::F32 { at } };
        assert!(tensor(64, 2, 17).check("w", 64 + 2 * 32 * 4).is_ok());
        for wrong in [
            tensor(68, 2, 17),
            tensor(2, 1, 1),
            tensor(usize::MAX - 3, 1, 1),
            tensor(0, usize::MAX / 2, 3),
            tensor(0, 0, 1),
            tensor(0, 1, 0),
        ] {
            let error = wrong.check("w", 64 + 2 * 32 * 4).unwrap_err();
            assert!(matches!(error, Error::Tensor { .. }), "{wrong:?}");
        }
        let halves = |at, in_panels| Tensor { rows: 2, columns: 17, in_panels, values: Values::F16 { at } };
        assert!(halves(64, true).check("w", 64 + 2 * 32 * 2).is_ok());
        assert!(halves(68, true).check("w", 64 + 2 * 32 * 2).is_err());
        assert!(halves(64, false).check("w", 64 + 2 * 17 * 2).is_ok());
        assert!(halves(66, false).check("w", 128 + 2 * 17 * 2).is_err());
        let quantized = |scales, column_sums| Tensor {
            rows: 5,
            columns: 3,
            in_panels: true,
            values: Values::I8 { at: 0, scales, column_sums },
        };
        // Two groups of four rows of sixteen columns, three scales, three sums.
        assert!(quantized(128, 140).check("w", 152).is_ok());
        assert!(quantized(128, 144).check("w", 152).is_err());
        assert!(quantized(144, 128).check("w", 152).is_err());

        // Two blocks of 32 rows of sixteen columns; then three scales, three sums.
        let packed = |rows, scales, column_sums| Tensor {
            rows,
            columns: 3,
            in_panels: true,
            values: Values::I4 { at: 0, scales, column_sums },
        };
        assert!(packed(33, 544, 556).check("w", 568).is_ok());
        assert!(packed(65, 544, 556).check("w", 568).is_err());
        assert!(packed(33, 544, 560).check("w", 568).is_err());
        assert!(packed(usize::MAX - 3, 0, 0).check("w", 568).is_err());
        // Rows of three values take a block of 17 bytes each.
        let table = |rows| Tensor { in_panels: false, ..packed(rows, 0, 0) };
        assert!(table(33).check("w", 33 * 17).is_ok());
        assert!(table(34).check("w", 33 * 17).is_err());
    }
}
