//! Halves, the 16-bit floats of IEEE 754: matrices of them, which every kernel multiplies, and rows of them, for
//! processors that compute with halves. A half is given by its bits.

use core::fmt::Debug;

use super::{Rows, Start};
#[cfg(target_arch = "aarch64")]
use super::{check_sums, holds, in_panels};

/// A matrix of halves, f16, laid out in panels.
#[derive(Clone, Copy, Debug)]
pub struct HalfPanels<'a> {
    /// As of [`super::Panels`].
    pub data: &'a [u16],
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
}

/// Most rows of a strip of [`HalfRows`]: halves in a register of 128 bits.
pub(super) const STRIP: usize = 8;

/// Rows of activations in halves, in the fewest strips of at most eight rows, which are as equal as possible. Of each
/// value the rows of a strip lie side by side, in eight places; those beyond the rows are not read.
#[derive(Clone, Copy, Debug)]
pub struct HalfRows<'a> {
    /// Strip by strip.
    pub data: &'a [u16],
    /// How many rows there are.
    pub count: usize,
}

/// Products of halves, of processors that compute with them.
pub trait Halves: Debug + Send + Sync {
    /// Rounds rows of `depth` values to halves, into the first [`HalfRows::len`] places of `out`. A value from 65520 on
    /// becomes infinite.
    fn narrow(&self, x: Rows<'_>, depth: usize, out: &mut [u16]);

    /// As [`super::Kernel::multiply`]. Products are summed in halves, some at a time, and these sums in floats.
    fn multiply(&self, x: HalfRows<'_>, w: HalfPanels<'_>, start: Start<'_>, out: &mut [f32], stride: usize);
}

impl HalfRows<'_> {
    /// Places that `count` rows of `depth` values take.
    pub fn len(count: usize, depth: usize) -> usize {
        count.next_multiple_of(STRIP) * depth
    }
}

/// Checks what every implementation of [`Halves::multiply`] relies on.
#[cfg(target_arch = "aarch64")]
pub(super) fn check_rows(x: HalfRows<'_>, w: HalfPanels<'_>, start: Start<'_>, out: &[f32], stride: usize) {
    let needed = x.count.checked_next_multiple_of(STRIP).and_then(|rows| rows.checked_mul(w.depth));
    assert!(holds(x.data, needed), "rows beyond their data");
    assert!(holds(w.data, in_panels(w.columns, w.depth)), "panels beyond their data");
    check_sums(x.count, w.columns, start, out, stride);
}

/// The float that a half is.
#[inline(always)]
pub(crate) fn float_of(half: u16) -> f32 {
    // The exponent of a half counts from 15 and that of a float from 127. Where it is 0, there is no leading one: one is
    // added here and taken away below. Where it is 31, the half is infinite or no number.
    const LEAST: u32 = 113 << 23;
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    let normal = rest + ((127 - 15) << 23);
    let tiny = (f32::from_bits(rest + LEAST) - f32::from_bits(LEAST)).to_bits();
    let bits = match half & 0x7c00 {
        0 => tiny,
        0x7c00 => normal + ((128 - 16) << 23),
        _ => normal,
    };
    f32::from_bits(sign | bits)
}
