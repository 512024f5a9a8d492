//! The frozen weights: borrowed bytes, and the place of each tensor in them.
//!
//! In: bytes that are aligned to [`ALIGNMENT`], and for each tensor its shape and the offsets of its parts. Out:
//! tensors as slices of those bytes, never a copy. Refused: a part outside the bytes or not aligned.

#[cfg(feature = "research")]
use core::ops::Range;

use bytemuck::AnyBitPattern;

use crate::{
    Error, Result,
    kernels::{GROUP, Panels, QuantizedPanels},
    layout::{ALIGNMENT, PANEL_GROUP, PANEL_WIDTH},
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
}

/// A matrix in panels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix<'a> {
    F32(Panels<'a>),
    I8(QuantizedPanels<'a>),
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
        let floats = |count: Option<usize>| count.and_then(|count| count.checked_mul(size_of::<f32>()));
        let columns =
            if self.in_panels { self.columns.checked_next_multiple_of(PANEL_WIDTH) } else { Some(self.columns) };
        let parts: [(usize, Option<usize>); 3] = match self.values {
            Values::F32 { at } => {
                [(at, floats(columns.and_then(|c| product(c, self.rows)))), (0, Some(0)), (0, Some(0))]
            }
            Values::I8 { at, scales, column_sums } => {
                let rows =
                    if self.in_panels { self.rows.checked_next_multiple_of(PANEL_GROUP) } else { Some(self.rows) };
                let of_groups = floats(product(self.rows.div_ceil(GROUP), self.columns));
                let values = (at, rows.zip(columns).and_then(|(rows, columns)| product(rows, columns)));
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

    /// A vector of `columns` floats.
    pub(crate) fn vector<'a>(&self, weights: Weights<'a>) -> &'a [f32] {
        self.row(weights, 0)
    }

    /// A row of a table of floats, which has it.
    pub(crate) fn row<'a>(&self, weights: Weights<'a>, row: usize) -> &'a [f32] {
        match self.values {
            Values::F32 { at } => weights.numbers(at + row * self.columns * size_of::<f32>(), self.columns),
            // Refused where operators are made.
            Values::I8 { .. } => unreachable!("a quantized vector"),
        }
    }

    /// A matrix in panels.
    pub(crate) fn matrix<'a>(&self, weights: Weights<'a>) -> Matrix<'a> {
        let (depth, columns) = (self.rows, self.columns);
        let padded = columns.next_multiple_of(PANEL_WIDTH);
        match self.values {
            Values::F32 { at } => Matrix::F32(Panels { data: weights.numbers(at, depth * padded), depth, columns }),
            Values::I8 { at, scales, column_sums } => {
                let of_groups = depth.div_ceil(GROUP) * columns;
                Matrix::I8(QuantizedPanels {
                    data: weights.numbers(at, depth.next_multiple_of(PANEL_GROUP) * padded),
                    depth,
                    columns,
                    scales: weights.numbers(scales, of_groups),
                    column_sums: weights.numbers(column_sums, of_groups),
                })
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
            Values::I8 { at: begin, scales, .. } => {
                let scale = weights.numbers::<f32>(scales, self.rows)[at];
                let row: &[i8] = weights.numbers(begin + at * width, width);
                out.iter_mut().zip(row).for_each(|(out, quantized)| *out += f32::from(*quantized) * scale);
            }
        }
        true
    }

    /// The range of its floats in the floats of all weights; none if it is quantized.
    #[cfg(feature = "research")]
    pub(crate) fn place(&self) -> Range<usize> {
        let columns = if self.in_panels { self.columns.next_multiple_of(PANEL_WIDTH) } else { self.columns };
        match self.values {
            Values::F32 { at } => at / size_of::<f32>()..at / size_of::<f32>() + self.rows * columns,
            Values::I8 { .. } => 0..0,
        }
    }

    /// Whether its values are quantized.
    pub fn is_quantized(&self) -> bool {
        matches!(self.values, Values::I8 { .. })
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
    }
}
