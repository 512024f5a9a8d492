//! The arithmetic of the engine, one file for each instruction set.
//!
//! In: rows of activations, a matrix in panels, and what the product is added to. Out: rows. A [`Kernel`] computes
//! products in f32 and in int8, and the row operations between them. Refused, by a panic before any memory is accessed:
//! operands of a product that are shorter than their shapes say. Row operations are safe Rust, and of rows that should
//! have one length the shorter counts.
//!
//! `naive` is the oracle: plain safe Rust, in the order of the formulas. The others are tested against it: int8
//! products bit for bit, because their sums are exact; everything else within a few roundings. [`kernels`] lists those
//! that the CPU can run.
//!
//! CONTRIBUTING.md says how to add an instruction set.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
#[macro_use]
mod unit;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
mod blocked;
mod halves;
mod naive;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "arm")]
mod neon32;
#[cfg(target_arch = "aarch64")]
mod neon_half;
#[cfg(target_arch = "aarch64")]
mod neon_matrix;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86;

use alloc::{vec, vec::Vec};
use core::{fmt::Debug, hint::black_box};

pub(crate) use halves::float_of;
pub use halves::{HalfPanels, HalfRows, Halves};

use crate::{
    Activation,
    layout::{PACKED_BYTES, PACKED_ROW_BYTES, PANEL_GROUP, PANEL_WIDTH, SCALE_GROUP},
};

/// Rows of a matrix that lie `stride` values apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The first row begins here.
    pub data: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
}

/// A matrix laid out in panels.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    /// Panels of [`PANEL_WIDTH`] columns, row by row, zeros filling the last.
    pub data: &'a [f32],
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
}

/// How to dequantize activations: `value = scale * (quantized - zero_point)`. The zero point is a whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Scale {
    /// The difference between neighbouring quantized values.
    pub scale: f32,
    /// The quantized value that stands for 0.
    pub zero_point: f32,
}

/// Values with a smaller range are all quantized to 0, because their scale would have no finite inverse.
const LEAST_SPAN: f32 = 1e-30;

/// Inputs whose quantized values share a scale.
pub const GROUP: usize = SCALE_GROUP;

/// Rows of activations in int8, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRows<'a> {
    /// The first row begins here; every row is whole groups of [`PANEL_GROUP`] quantized values.
    pub data: &'a [u8],
    /// From one row to the next.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
    /// For each row, one scale for each [`GROUP`] of its quantized values.
    pub scales: &'a [Scale],
}

/// An int8 matrix laid out in panels: a weight is its quantized value times the scale of its column and group of rows.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedPanels<'a> {
    /// Panels of [`PANEL_WIDTH`] columns; of each column [`PANEL_GROUP`] rows side by side, zeros filling the last.
    pub data: &'a [i8],
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
    /// For each [`GROUP`] of rows, one scale for each column.
    pub scales: &'a [f32],
    /// Column sums: for each group of rows and each column, the sum of the quantized values. A product subtracts the
    /// column sum times the activations' zero point.
    pub column_sums: &'a [f32],
}

/// An int8 matrix whose panels hold 4 bits a value: of each column some rows at a time are -7 to 7 times one factor.
#[derive(Clone, Copy, Debug)]
pub struct PackedPanels<'a> {
    /// Panels of [`PANEL_WIDTH`] columns; each is some [`Packed`], from the first rows to the last.
    pub data: &'a [u8],
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
    /// As of [`QuantizedPanels`].
    pub scales: &'a [f32],
    /// As of [`QuantizedPanels`], of the int8 values.
    pub column_sums: &'a [f32],
}

/// The rows of a packed panel that have one factor in each column: first the factors, then the numbers, as nibbles. The
/// bundle's FORMAT.md says where each is.
pub type Packed = [u8; PACKED_BYTES];

/// The factors of the columns, and the bytes of each twice [`PANEL_GROUP`] rows.
#[inline(always)]
fn parts(packed: &Packed) -> (&[u8], &[[u8; PANEL_GROUP * PANEL_WIDTH]]) {
    let (factors, nibbles) = packed.split_at(PANEL_WIDTH);
    (factors, nibbles.as_chunks().0)
}

/// The values of a row of an int4 table, and zeros that fill it up.
pub(crate) fn unpack_row(row: &[u8]) -> impl Iterator<Item = i8> {
    row.as_chunks::<PACKED_ROW_BYTES>().0.iter().flat_map(|[factor, nibbles @ ..]| {
        let (low, high) = (nibbles.iter().map(|byte| byte << 4), nibbles.iter().copied());
        low.chain(high).map(|byte| times(byte, *factor))
    })
}

/// The number in the upper half of a byte, times a factor.
#[inline(always)]
fn times(byte: u8, factor: u8) -> i8 {
    (byte.cast_signed() >> 4).wrapping_mul(factor.cast_signed())
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// The values that are in `out` already.
    There,
    /// For each row of the product the row of `table` that `rows` names. Rows of `table` begin `stride` values apart
    /// and have at least as many as the product has columns.
    Bias {
        /// Rows of biases.
        table: &'a [f32],
        /// From one row of `table` to the next.
        stride: usize,
        /// For each row of the product, its row of `table`.
        rows: &'a [u32],
    },
}

/// Arithmetic on rows and panels.
pub trait Kernel: Debug + Send + Sync {
    /// A short name, as `avx512vnni`.
    fn name(&self) -> &'static str;

    /// `out[r, c] = start[r, c] + sum over k of x[r, k] w[k, c]`; rows of `out` are `stride` apart.
    fn multiply(&self, x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize);

    /// As [`Kernel::multiply`], with a matrix of halves, which are widened.
    fn multiply_halves(&self, x: Rows<'_>, w: HalfPanels<'_>, start: Start<'_>, out: &mut [f32], stride: usize);

    /// As [`Kernel::multiply`], in int8. The sum of the products of a group is exact, and is then scaled.
    fn multiply_quantized(
        &self,
        x: QuantizedRows<'_>,
        w: QuantizedPanels<'_>,
        start: Start<'_>,
        out: &mut [f32],
        stride: usize,
    );

    /// `out[r, k] += sum over c of y[r, c] w[k, c]`: the backward pass of [`Kernel::multiply`] with respect to its
    /// rows. Rows of `y` have as many values as `w` has columns, those of `out` are `stride` apart.
    fn multiply_transposed(&self, y: Rows<'_>, w: Panels<'_>, out: &mut [f32], stride: usize);

    /// Multiplies each gradient by the derivative of an activation at the activation's input.
    fn activate_backward(&self, activation: Activation, values: &[f32], gradients: &mut [f32]);

    /// Quantizes at most [`GROUP`] finite values and gives their scale and zero point. 0 and 255 stand for the smallest
    /// and the largest value, where 0 counts as a value too, so that 0 is exact. The scale of values that are not all
    /// finite is not finite, so that no sum with it is.
    fn quantize(&self, values: &[f32], quantized: &mut [u8]) -> Scale;

    /// Dequantizes rows of an int8 panel that share scales, row by row, as many as `out` holds. A column without a
    /// scale is 0.
    fn dequantize(&self, panel: &[i8], scales: &[f32], out: &mut [f32]);

    /// The floats that halves are, exactly. Of slices that should have one length the shorter counts.
    fn widen(&self, halves: &[u16], out: &mut [f32]);

    /// Products of halves, if the processor computes with them.
    fn halves(&self) -> Option<&dyn Halves> {
        None
    }

    /// The int8 values of a packed panel, as [`QuantizedPanels`] has them, as many as `out` holds.
    fn unpack(&self, panel: &[Packed], out: &mut [i8]);

    /// Applies an activation to each value.
    fn activate(&self, activation: Activation, values: &mut [f32]);

    /// Replaces each score of a row by exp(score - largest score), and gives their sum. Divided by that sum, they are
    /// the softmax.
    fn exponentials(&self, row: &mut [f32]) -> f32;

    /// The sum over i of `a[i] b[i]`, for rows of one length.
    fn dot(&self, a: &[f32], b: &[f32]) -> f32;

    /// `out[i] += factor x[i]`, for rows of one length.
    fn add_scaled(&self, factor: f32, x: &[f32], out: &mut [f32]);

    /// Normalizes a row to mean 0 and variance 1, multiplies by `gain` and adds `bias`, if any. Gives the inverse of
    /// the row's deviation.
    fn normalize(&self, row: &mut [f32], gain: &[f32], bias: Option<&[f32]>, epsilon: f32) -> f32;
}

/// Checks what every implementation of [`Kernel::multiply`] and [`Kernel::multiply_halves`] relies on.
fn check_product<T>(x: Rows<'_>, w: (&[T], usize, usize), start: Start<'_>, out: &[f32], stride: usize) {
    let (data, depth, columns) = w;
    assert!(holds(x.data, reach(x.count, x.stride, depth)), "rows beyond their data");
    assert!(holds(data, in_panels(columns, depth)), "panels beyond their data");
    check_sums(x.count, columns, start, out, stride);
}

/// Checks what every implementation of [`Kernel::multiply_transposed`] relies on.
fn check_transposed(y: Rows<'_>, w: Panels<'_>, out: &[f32], stride: usize) {
    assert!(holds(y.data, reach(y.count, y.stride, w.columns)), "rows beyond their data");
    assert!(holds(w.data, in_panels(w.columns, w.depth)), "panels beyond their data");
    assert!(holds(out, reach(y.count, stride, w.depth)), "products beyond their place");
}

/// Checks what every implementation of [`Kernel::multiply_quantized`] relies on.
fn check_quantized(x: QuantizedRows<'_>, w: QuantizedPanels<'_>, start: Start<'_>, out: &[f32], stride: usize) {
    let (depth, groups) =
        (w.depth.checked_next_multiple_of(PANEL_GROUP).unwrap_or(usize::MAX), w.depth.div_ceil(GROUP));
    // Without inputs there would be no scale.
    assert!(w.depth > 0, "an int8 product without inputs");
    assert!(holds(x.data, reach(x.count, x.stride, depth)), "rows beyond their data");
    assert!(holds(x.scales, x.count.checked_mul(groups)), "rows beyond their scales");
    assert!(holds(w.data, in_panels(w.columns, depth)), "panels beyond their data");
    let scales = w.columns.checked_mul(groups);
    assert!(holds(w.scales, scales) && holds(w.column_sums, scales), "columns beyond their scales");
    check_sums(x.count, w.columns, start, out, stride);
}

/// Whether there are as many values as needed; none stands for more than can be counted.
fn holds<T>(values: &[T], needed: Option<usize>) -> bool {
    needed.is_some_and(|needed| values.len() >= needed)
}

/// Values from the first of `count` rows to the end of the last.
fn reach(count: usize, stride: usize, width: usize) -> Option<usize> {
    let Some(before) = count.checked_sub(1) else { return Some(0) };
    before.checked_mul(stride)?.checked_add(width)
}

/// Values of panels.
fn in_panels(columns: usize, depth: usize) -> Option<usize> {
    columns.checked_next_multiple_of(PANEL_WIDTH)?.checked_mul(depth)
}

fn check_sums(count: usize, columns: usize, start: Start<'_>, out: &[f32], stride: usize) {
    assert!(holds(out, reach(count, stride, columns)), "products beyond their place");
    if let Start::Bias { table, stride, rows } = start {
        let inside = |row: &u32| {
            let begin = usize::try_from(*row).ok().and_then(|row| row.checked_mul(stride));
            begin.and_then(|begin| begin.checked_add(columns)).is_some_and(|end| end <= table.len())
        };
        assert!(rows.len() >= count && rows[..count].iter().all(inside), "bias rows beyond their table");
    }
}

/// All kernels this CPU can run, the fastest first; the last is `naive`'s.
pub fn kernels() -> Vec<&'static dyn Kernel> {
    let mut found: Vec<&'static dyn Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(x86::Amx::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::Avx512Vnni::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::Avx512::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::AvxVnni::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::Avx2::detect().map(|k| k as &dyn Kernel));
    }
    #[cfg(target_arch = "aarch64")]
    {
        found.extend(neon_matrix::NeonMatrix::detect().map(|k| k as &dyn Kernel));
        found.extend(neon::NeonDot::detect().map(|k| k as &dyn Kernel));
        found.extend(neon::Neon::detect().map(|k| k as &dyn Kernel));
    }
    #[cfg(target_arch = "arm")]
    found.extend(neon32::Neon::detect().map(|k| k as &dyn Kernel));
    found.push(&naive::Naive);
    found
}

/// A product of f32 matrices that fit into the first-level cache, to measure a kernel's peak.
pub struct PeakProduct {
    x: Vec<f32>,
    w: Vec<f32>,
    out: Vec<f32>,
}

impl Default for PeakProduct {
    fn default() -> Self {
        let (x, w) = (vec![1.0; Self::ROWS * Self::DEPTH], vec![1.0; Self::DEPTH * Self::COLUMNS]);
        PeakProduct { x, w, out: vec![0.0; Self::ROWS * Self::COLUMNS] }
    }
}

impl PeakProduct {
    const ROWS: usize = 24;
    const DEPTH: usize = 128;
    const COLUMNS: usize = 3 * PANEL_WIDTH;

    /// Multiplications and additions of one product.
    pub const OPERATIONS: usize = 2 * Self::ROWS * Self::DEPTH * Self::COLUMNS;

    /// Computes the product once.
    pub fn run(&mut self, kernel: &dyn Kernel) {
        let x = Rows { data: &self.x, stride: Self::DEPTH, count: Self::ROWS };
        let w = Panels { data: &self.w, depth: Self::DEPTH, columns: Self::COLUMNS };
        kernel.multiply(black_box(x), black_box(w), Start::Zero, &mut self.out, Self::COLUMNS);
        black_box(&self.out);
    }
}

/// Reads all bytes, to measure how fast that goes. Gives a sum of them.
pub fn read(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in bytes.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests;
