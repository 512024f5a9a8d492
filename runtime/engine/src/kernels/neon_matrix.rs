//! NEON's matrix products of bytes: tiles of six rows by one panel.
//!
//! One instruction multiplies two rows of eight values by two columns of eight. Panels hold four values of a column
//! side by side, so the columns of a job are paired first, once for all its tiles.

#![allow(unsafe_code)]

use core::{
    arch::{
        aarch64::{
            int8x16_t, int32x4_t, int32x4x2_t, vdupq_n_s8, vdupq_n_s32, vld1q_s32, vreinterpretq_s8_s32,
            vreinterpretq_s32_s64, vreinterpretq_s64_s32, vsetq_lane_s32, vst2q_s32, vzip1q_s64, vzip2q_s64,
        },
        asm,
    },
    mem::MaybeUninit,
};

use crate::layout::{PANEL_GROUP, PANEL_WIDTH};

use super::{
    GROUP,
    blocked::{QuantizedJob, QuantizedTile, SIGN, begins, each_group, tiles_of},
    neon::{Floats, GROUPS, LANES, PARTS, Results},
    neon_half::NeonHalf,
};

vector_unit! {
    /// NEON and the matrix products of ARMv8.6, as Cortex-A510, A710 and later have them.
    NeonMatrix, "neoni8mm", Floats, MatrixQuantized, ["neon", "i8mm"], halves NeonHalf
}

/// Values of a row, or of a column, that an instruction multiplies.
const DEPTH: usize = 2 * PANEL_GROUP;
/// Pairs of columns in a panel.
const PAIRS: usize = PANEL_WIDTH / 2;
/// Most pairs of columns in a job, over all its inputs.
const MOST_PAIRS: usize = GROUPS * GROUP / DEPTH * PAIRS;

/// Products of two rows by two columns.
pub(super) struct MatrixQuantized;

impl QuantizedTile for MatrixQuantized {
    const ROWS: usize = 36;
    const PANELS: usize = 1;
    const FLIP: u8 = SIGN;
    const GROUPS: usize = GROUPS;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        let mut columns = [const { MaybeUninit::uninit() }; MOST_PAIRS];
        // SAFETY: the caller vouches for the instructions and the job; the rows of a tile are those of the instance.
        unsafe {
            pair_columns(job, &mut columns);
            let columns = columns.as_ptr().cast();
            for (first, pairs) in tiles_of(rows.div_ceil(2), 3) {
                let first = 2 * first;
                match (rows - first).min(2 * pairs) {
                    1 => add::<1, 1>(job, first, columns),
                    2 => add::<2, 1>(job, first, columns),
                    3 => add::<3, 2>(job, first, columns),
                    4 => add::<4, 2>(job, first, columns),
                    5 => add::<5, 3>(job, first, columns),
                    _ => add::<6, 3>(job, first, columns),
                }
            }
        }
    }
}

/// Writes [`DEPTH`] values of each of two columns side by side: [`PAIRS`] registers for each [`DEPTH`] inputs. Zeros
/// fill up the last inputs.
///
/// # Safety
/// The CPU has NEON, and the job is as its fields say.
#[target_feature(enable = "neon")]
unsafe fn pair_columns(job: &QuantizedJob, columns: &mut [MaybeUninit<int8x16_t>; MOST_PAIRS]) {
    let whole = job.fours / 2;
    let (mut w, mut columns): (*const i32, *mut i32) = (job.w.cast(), columns.as_mut_ptr().cast());
    // SAFETY: the panel has `fours` times `PARTS` registers, for twice as many pairs at most `MOST_PAIRS`: a job has at most
    // `GROUPS` groups. `columns` is aligned as registers are, and `w` need not be.
    unsafe {
        for _ in 0..whole {
            for _ in 0..PARTS {
                vst2q_s32(columns, int32x4x2_t(vld1q_s32(w), vld1q_s32(w.add(PANEL_WIDTH))));
                (w, columns) = (w.add(LANES), columns.add(2 * LANES));
            }
            w = w.add(PANEL_WIDTH);
        }
        for part in 0..job.fours % 2 * PARTS {
            vst2q_s32(columns.add(part * 2 * LANES), int32x4x2_t(vld1q_s32(w.add(part * LANES)), vdupq_n_s32(0)));
        }
    }
}

/// Loads eight values of each of two rows, and advances their addresses.
macro_rules! load_rows {
    ($even:expr, $odd:expr) => {{
        let pair: int8x16_t;
        asm!(
            "ldr {pair:d}, [{even}], #8",
            "ld1 {{{pair:v}.d}}[1], [{odd}], #8",
            pair = out(vreg) pair,
            even = inout(reg) $even,
            odd = inout(reg) $odd,
            options(readonly, nostack, preserves_flags),
        );
        pair
    }};
    ($even:expr) => {{
        let pair: int8x16_t;
        asm!(
            "ldr {pair:d}, [{even}], #8",
            pair = out(vreg) pair,
            even = inout(reg) $even,
            options(readonly, nostack, preserves_flags),
        );
        pair
    }};
}

/// Loads four pairs of columns, and advances the address.
macro_rules! load_columns {
    ($from:expr) => {{
        let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
        // In assembly, because the compiler would load more values than there are registers.
        asm!(
            "ld1 {{v28.16b, v29.16b, v30.16b, v31.16b}}, [{}], #64",
            inout(reg) $from,
            out("v28") a,
            out("v29") b,
            out("v30") c,
            out("v31") d,
            options(readonly, nostack, preserves_flags),
        );
        [a, b, c, d]
    }};
}

/// [`QuantizedTile::add`] for `R` rows, which are `P` pairs, from `first` on and one panel, the whole tile in registers.
///
/// # Safety
/// As [`QuantizedTile::add`], and `columns` has the paired columns of the job.
#[target_feature(enable = "neon,i8mm")]
unsafe fn add<const R: usize, const P: usize>(job: &QuantizedJob, first: usize, mut columns: *const int8x16_t) {
    // SAFETY: every address is within the ranges of the job: rows below `first + R`, `fours` in all. The instructions
    // access what they say.
    unsafe {
        let mut results = Results::<R>::of(job, first);
        let mut rows: [*const u8; R] = begins(job.x.add(first * job.x_stride), job.x_stride);
        for fours in each_group(job) {
            // Of each pair of rows and each pair of columns: the first row's two sums, then the second row's.
            let mut sums: [[int32x4_t; PAIRS]; P] = [[vdupq_n_s32(0); PAIRS]; P];
            macro_rules! step {
                ($pairs:expr) => {
                    let pairs: [int8x16_t; P] = $pairs;
                    for half in 0..2 {
                        let columns = load_columns!(columns);
                        for (sums, pair) in sums.iter_mut().zip(pairs) {
                            for (sum, columns) in sums[half * LANES..].iter_mut().zip(columns) {
                                // The intrinsic is not stable yet.
                                asm!(
                                    "smmla {sum:v}.4s, {pair:v}.16b, {columns:v}.16b",
                                    sum = inout(vreg) *sum,
                                    pair = in(vreg) pair,
                                    columns = in(vreg) columns,
                                    options(pure, nomem, nostack, preserves_flags),
                                );
                            }
                        }
                    }
                };
            }
            for _ in 0..fours / 2 {
                let mut pairs = [vdupq_n_s8(0); P];
                for (pair, rows) in pairs.iter_mut().zip(rows.chunks_mut(2)) {
                    *pair = match rows {
                        [even, odd] => load_rows!(*even, *odd),
                        rows => load_rows!(rows[0]),
                    };
                }
                step!(pairs);
            }
            if fours % 2 == 1 {
                let mut pairs = [vdupq_n_s8(0); P];
                for (pair, rows) in pairs.iter_mut().zip(rows.chunks(2)) {
                    // Rows need no alignment.
                    let even = vsetq_lane_s32::<0>(rows[0].cast::<i32>().read_unaligned(), vdupq_n_s32(0));
                    *pair = vreinterpretq_s8_s32(match rows {
                        [_, odd] => vsetq_lane_s32::<2>(odd.cast::<i32>().read_unaligned(), even),
                        _ => even,
                    });
                }
                step!(pairs);
            }
            let mut of_rows = [[vdupq_n_s32(0); PARTS]; R];
            for (r, row) in of_rows.iter_mut().enumerate() {
                for (part, of_row) in row.iter_mut().enumerate() {
                    let left = vreinterpretq_s64_s32(sums[r / 2][2 * part]);
                    let right = vreinterpretq_s64_s32(sums[r / 2][2 * part + 1]);
                    let both = if r % 2 == 0 { vzip1q_s64(left, right) } else { vzip2q_s64(left, right) };
                    *of_row = vreinterpretq_s32_s64(both);
                }
            }
            results.add(of_rows);
        }
    }
}
