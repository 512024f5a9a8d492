//! NEON's arithmetic on halves: tiles of eight rows by one panel, a panel's row being two registers.
//!
//! One instruction multiplies eight weights by the value of a row and adds the products to eight sums. Sums of halves
//! lose bits as they grow, so a few products are summed, and the sums are added up in floats.

#![allow(unsafe_code)]

use core::arch::{
    aarch64::{float32x4_t, uint16x8_t, vaddq_f32, vdupq_n_f32, vdupq_n_u16, vld1q_f32, vst1q_f32},
    asm,
};

use super::{
    HalfPanels, HalfRows, Halves, Rows, Start,
    blocked::{Cut, Place, TILE, each_tile, tiles_of},
    halves::{STRIP, check_rows},
};
use crate::layout::PANEL_WIDTH;

/// The half-precision arithmetic of ARMv8.2, as Cortex-A55, A76 and later have it.
#[derive(Debug)]
pub(super) struct NeonHalf(());

/// Products that are summed in halves. More would be faster and less exact: with so many hidden states stay within 2e-3 of
/// f32's (tests/peers/README.md has the figures).
const BLOCK: usize = 48;
/// Depth of a tile: 6 KB of a panel, and 3 KB of a strip.
const DEPTH: usize = 4 * BLOCK;
/// Values of 32 bits in a register.
const LANES: usize = 4;
/// Registers of a panel's row.
const PARTS: usize = 2;

impl NeonHalf {
    /// The products, if this CPU can compute them.
    pub(super) fn detect() -> Option<&'static Self> {
        static HALVES: NeonHalf = NeonHalf(());
        (has_feature!("neon") && has_feature!("fp16")).then_some(&HALVES)
    }
}

impl Halves for NeonHalf {
    fn narrow(&self, x: Rows<'_>, depth: usize, out: &mut [u16]) {
        assert!(out.len() >= HalfRows::len(x.count, depth), "halves beyond their place");
        let strips = out.chunks_exact_mut((STRIP * depth).max(1));
        for ((first, rows), strip) in tiles_of(x.count, STRIP).zip(strips) {
            let places = strip.as_chunks_mut::<STRIP>().0;
            for r in 0..rows {
                let row = &x.data[(first + r) * x.stride..][..depth];
                let (fours, rest) = row.as_chunks::<LANES>();
                let mut at = 0;
                let mut put = |four: &[f32; LANES], count: usize| {
                    // SAFETY: `detect`, the only way to these products, has found the feature.
                    let halves = unsafe { narrowed(four) };
                    for half in &halves[..count] {
                        places[at][r] = *half;
                        at += 1;
                    }
                };
                fours.iter().for_each(|four| put(four, LANES));
                if !rest.is_empty() {
                    let mut four = [0.0; LANES];
                    four[..rest.len()].copy_from_slice(rest);
                    put(&four, rest.len());
                }
            }
        }
    }

    fn multiply(&self, x: HalfRows<'_>, w: HalfPanels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
        const { assert!(STRIP * PANEL_WIDTH <= TILE) };
        check_rows(x, w, start, out, stride);
        let HalfPanels { data: panels, depth, columns } = w;
        // One round, so that a tile's number is that of its strip.
        let cut = Cut { rows: STRIP, panels: 1, block: DEPTH, round: usize::MAX };
        each_tile((x.count, depth, columns), cut, start, out, stride, |place| {
            // The tiles of a product are its strips. Without inputs there is nothing to read.
            let x = x.data[(place.tile * depth + place.k) * STRIP..].as_ptr();
            let w = panels[place.column * depth + place.k * PANEL_WIDTH..].as_ptr();
            // SAFETY: `check_rows` has found that `x` has all strips of `depth` values, that `panels` holds every
            // panel up to `columns`, that `out` reaches every row of `columns` values, and that the bias table has the
            // rows that are named; the tile is within those. `detect` has found the features.
            unsafe {
                match place.rows {
                    1 => add::<1>(place, x, w),
                    2 => add::<2>(place, x, w),
                    3 => add::<3>(place, x, w),
                    4 => add::<4>(place, x, w),
                    5 => add::<5>(place, x, w),
                    6 => add::<6>(place, x, w),
                    7 => add::<7>(place, x, w),
                    _ => add::<8>(place, x, w),
                }
            }
        });
    }
}

/// Four floats as halves.
///
/// # Safety
/// The CPU has NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrowed(four: &[f32; LANES]) -> [u16; LANES] {
    let halves: uint16x8_t;
    // SAFETY: four floats are read, and the instructions access no other memory.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {floats:v}.4s",
            halves = out(vreg) halves,
            floats = in(vreg) vld1q_f32(four.as_ptr()),
            options(pure, nomem, nostack),
        );
        let halves: [u16; 2 * LANES] = core::mem::transmute(halves);
        [halves[0], halves[1], halves[2], halves[3]]
    }
}

/// The product of a tile of `R` rows, its sums of halves in registers.
///
/// # Safety
/// The CPU has NEON and its arithmetic on halves. `x` is readable for `depth` times [`STRIP`] values and `w` for `depth`
/// times [`PANEL_WIDTH`]; the pointers of `place` are as [`each_tile`] gives them, for `R` rows and one panel.
#[target_feature(enable = "neon,fp16")]
unsafe fn add<const R: usize>(place: &Place, mut x: *const u16, mut w: *const u16) {
    let (mut start, mut start_stride) = (place.start, place.start_stride);
    let mut left = place.depth;
    // Once even without inputs, so that the product is its start.
    loop {
        let depth = left.min(BLOCK);
        let mut sums: [[uint16x8_t; PARTS]; R] = [[vdupq_n_u16(0); PARTS]; R];
        // SAFETY: the caller vouches for the operands. The instructions access what they say.
        unsafe {
            macro_rules! step {
                ($($lane:literal)*) => {
                    let (values, low, high): (uint16x8_t, uint16x8_t, uint16x8_t);
                    asm!(
                        "ldr {values:q}, [{x}], #16",
                        "ldp {low:q}, {high:q}, [{w}], #32",
                        values = out(vreg_low16) values,
                        low = out(vreg) low,
                        high = out(vreg) high,
                        x = inout(reg) x,
                        w = inout(reg) w,
                        options(readonly, nostack, preserves_flags),
                    );
                    $(if $lane < R {
                        for (sum, weights) in sums[$lane].iter_mut().zip([low, high]) {
                            // The intrinsic is not stable yet.
                            asm!(
                                concat!("fmla {sum:v}.8h, {weights:v}.8h, {values:v}.h[", $lane, "]"),
                                sum = inout(vreg) *sum,
                                weights = in(vreg) weights,
                                values = in(vreg_low16) values,
                                options(pure, nomem, nostack),
                            );
                        }
                    })*
                };
            }
            for _ in 0..depth / 4 {
                step!(0 1 2 3 4 5 6 7);
                step!(0 1 2 3 4 5 6 7);
                step!(0 1 2 3 4 5 6 7);
                step!(0 1 2 3 4 5 6 7);
            }
            for _ in 0..depth % 4 {
                step!(0 1 2 3 4 5 6 7);
            }
            for (r, row) in sums.iter().enumerate() {
                for (part, sum) in row.iter().enumerate() {
                    let at = part * 2 * LANES;
                    let [low, high] = widened(*sum);
                    let (mut a, mut b) = (vdupq_n_f32(0.0), vdupq_n_f32(0.0));
                    if !start.is_null() {
                        let from = start.add(r * start_stride + at);
                        (a, b) = (vld1q_f32(from), vld1q_f32(from.add(LANES)));
                    }
                    let to = place.out.add(r * place.stride + at);
                    vst1q_f32(to, vaddq_f32(a, low));
                    vst1q_f32(to.add(LANES), vaddq_f32(b, high));
                }
            }
        }
        (start, start_stride) = (place.out.cast_const(), place.stride);
        left -= depth;
        if left == 0 {
            break;
        }
    }
}

/// Eight halves as floats.
///
/// # Safety
/// The CPU has NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn widened(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: the instructions access no memory.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack),
        );
    }
    [low, high]
}
