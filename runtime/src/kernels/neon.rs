//! NEON: tiles of five rows by one panel, a panel's row (or four rows of codes) being four registers.
//!
//! Nothing is fetched ahead here: on the cores that were at hand only instructions could be counted, not time.

#![allow(unsafe_code)]

use std::arch::{
    aarch64::{
        float32x4_t, int8x8_t, int8x16_t, int32x4_t, vcombine_s8, vcvtq_f32_s32, vdup_n_s32, vdup_n_u8, vdupq_n_f32,
        vdupq_n_s32, vdupq_n_u8, veor_u8, veorq_u8, vfmaq_f32, vfmaq_laneq_f32, vfmaq_n_f32, vfmsq_f32, vget_low_s8,
        vld1q_f32, vld1q_s8, vld1q_s8_x4, vld1q_u8, vmlal_high_s8, vmlal_s8, vmull_high_s8, vmull_s8, vmulq_f32,
        vpadalq_s16, vpaddq_s32, vreinterpret_s8_u8, vreinterpret_u8_s32, vreinterpretq_s8_u8, vst1q_f32,
    },
    asm, is_aarch64_feature_detected,
};

use bias_patch::{PANEL_GROUP, PANEL_WIDTH};

use super::blocked::{CodeJob, CodeTile, Job, Tile};

vector_unit! {
    /// NEON and the dot products of ARMv8.2, as Cortex-A55, A76 and later have them.
    NeonDot, "neondot", Floats, DotCodes, "neon,dotprod",
    is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod")
}

vector_unit! {
    /// NEON, which every 64-bit ARM has.
    Neon, "neon", Floats, Codes, "neon", is_aarch64_feature_detected!("neon")
}

/// Values of 32 bits in a register.
const LANES: usize = 4;
/// Registers of a panel's row, or of its group of codes.
const PARTS: usize = PANEL_WIDTH / LANES;
/// Bytes of a panel's group.
const LINE: usize = PANEL_GROUP * PANEL_WIDTH;
/// Takes codes from 0 to 255 to codes from -128 to 127, which is what NEON multiplies.
const SIGN: u8 = 0x80;

/// Picks the instance of `tile` for a number of rows.
macro_rules! instance {
    ($tile:ident, $rows:expr, $job:expr) => {
        match $rows {
            1 => $tile::<1>($job),
            2 => $tile::<2>($job),
            3 => $tile::<3>($job),
            4 => $tile::<4>($job),
            _ => $tile::<5>($job),
        }
    };
}

/// Calls a macro with each lane of a register.
macro_rules! each_lane {
    ($step:ident) => {
        $step!(0);
        $step!(1);
        $step!(2);
        $step!(3);
    };
}

/// NEON.
pub(super) struct Floats;

impl Tile for Floats {
    const ROWS: usize = 5;
    const PANELS: usize = 1;

    unsafe fn add(rows: usize, _panels: usize, job: &Job) {
        // SAFETY: the caller vouches for NEON and the job; `rows` is that of the instance.
        unsafe { instance!(add, rows, job) }
    }
}

/// NEON's dot products of bytes.
pub(super) struct DotCodes;

impl CodeTile for DotCodes {
    const ROWS: usize = 5;
    const PANELS: usize = 1;

    unsafe fn add(rows: usize, _panels: usize, job: &CodeJob) {
        // SAFETY: the caller vouches for NEON, its dot products and the job; `rows` is that of the instance.
        unsafe { instance!(add_codes_dot, rows, job) }
    }
}

/// NEON without dot products: products of bytes in 16 bits.
pub(super) struct Codes;

impl CodeTile for Codes {
    const ROWS: usize = 2;
    const PANELS: usize = 1;

    unsafe fn add(rows: usize, _panels: usize, job: &CodeJob) {
        // SAFETY: the caller vouches for NEON and the job; `rows` is that of the instance.
        unsafe {
            match rows {
                1 => add_codes::<1>(job),
                _ => add_codes::<2>(job),
            }
        }
    }
}

/// [`Tile::add`] for `R` rows and one panel, the whole tile in registers.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "neon")]
unsafe fn add<const R: usize>(job: &Job) {
    let Job { x, x_stride, w, depth, start, start_stride, out, stride, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, `k` below `depth`.
    unsafe {
        let mut sums: [[float32x4_t; PARTS]; R] = [[vdupq_n_f32(0.0); PARTS]; R];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                for (part, sum) in row.iter_mut().enumerate() {
                    *sum = vld1q_f32(start.add(r * start_stride + part * LANES));
                }
            }
        }
        let weights = |k: usize| -> [float32x4_t; PARTS] {
            let row = w.add(k * PANEL_WIDTH);
            std::array::from_fn(|part| vld1q_f32(row.add(part * LANES)))
        };
        let whole = depth / LANES * LANES;
        let mut k = 0;
        while k < whole {
            let values: [float32x4_t; R] = std::array::from_fn(|r| vld1q_f32(x.add(r * x_stride + k)));
            macro_rules! step {
                ($lane:literal) => {
                    let weights = weights(k + $lane);
                    for (row, value) in sums.iter_mut().zip(values) {
                        for (sum, weight) in row.iter_mut().zip(weights) {
                            *sum = vfmaq_laneq_f32::<$lane>(*sum, weight, value);
                        }
                    }
                };
            }
            each_lane!(step);
            k += LANES;
        }
        for k in whole..depth {
            let weights = weights(k);
            for (r, row) in sums.iter_mut().enumerate() {
                for (sum, weight) in row.iter_mut().zip(weights) {
                    *sum = vfmaq_n_f32(*sum, weight, *x.add(r * x_stride + k));
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (part, sum) in row.iter().enumerate() {
                vst1q_f32(out.add(r * stride + part * LANES), *sum);
            }
        }
    }
}

/// Adds the products of four bytes to each sum; the four of `x` are those of a lane.
macro_rules! dot {
    ($sum:expr, $w:expr, $x:expr, $lane:literal) => {
        // The intrinsic is not stable yet.
        asm!(
            concat!("sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
            sum = inout(vreg) $sum,
            w = in(vreg) $w,
            x = in(vreg) $x,
            options(pure, nomem, nostack, preserves_flags),
        )
    };
}

/// [`CodeTile::add`] for `R` rows and one panel, the whole tile in registers.
///
/// # Safety
/// As [`CodeTile::add`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_codes_dot<const R: usize>(job: &CodeJob) {
    let CodeJob { x, x_stride, w, groups, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, groups below `groups`. The instruction reads
    // and writes registers only.
    unsafe {
        let sign = vdupq_n_u8(SIGN);
        let mut sums: [[int32x4_t; PARTS]; R] = [[vdupq_n_s32(0); PARTS]; R];
        let weights = |group: usize| -> [int8x16_t; PARTS] {
            let quad = vld1q_s8_x4(w.add(group * LINE));
            [quad.0, quad.1, quad.2, quad.3]
        };
        let whole = groups / LANES * LANES;
        let mut group = 0;
        while group < whole {
            let codes: [int8x16_t; R] = std::array::from_fn(|r| {
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(x.add(r * x_stride + group * PANEL_GROUP)), sign))
            });
            macro_rules! step {
                ($lane:literal) => {
                    let weights = weights(group + $lane);
                    for (row, codes) in sums.iter_mut().zip(codes) {
                        for (sum, weight) in row.iter_mut().zip(weights) {
                            dot!(*sum, weight, codes, $lane);
                        }
                    }
                };
            }
            each_lane!(step);
            group += LANES;
        }
        for group in whole..groups {
            let weights = weights(group);
            for (r, row) in sums.iter_mut().enumerate() {
                let codes = four_codes(x.add(r * x_stride + group * PANEL_GROUP));
                let codes = vcombine_s8(codes, codes);
                for (sum, weight) in row.iter_mut().zip(weights) {
                    dot!(*sum, weight, codes, 0);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            finish(job, r, sums);
        }
    }
}

/// As [`add_codes_dot`] without dot products.
///
/// Two groups of four products at a time are summed in 16 bits: 2 times 127 times 128 is less than 2^15, and weights are
/// codes from -127 to 127, as is checked where panels are laid out and verified.
///
/// # Safety
/// As [`CodeTile::add`].
#[target_feature(enable = "neon")]
unsafe fn add_codes<const R: usize>(job: &CodeJob) {
    let CodeJob { x, x_stride, w, groups, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, groups below `groups`.
    unsafe {
        // Of each register of weights, four columns, the sums of two columns and two halves of their four products, twice.
        let mut sums: [[[int32x4_t; 2]; PARTS]; R] = [[[vdupq_n_s32(0); 2]; PARTS]; R];
        let weights = |group: usize, part: usize| vld1q_s8(w.add(group * LINE + part * 16));
        let pairs = groups / 2;
        for pair in 0..pairs {
            let codes: [_; R] = std::array::from_fn(|r| {
                let first = x.add(r * x_stride + 2 * pair * PANEL_GROUP);
                [four_codes(first), four_codes(first.add(PANEL_GROUP))]
            });
            for part in 0..PARTS {
                let (first, second) = (weights(2 * pair, part), weights(2 * pair + 1, part));
                for (row, [even, odd]) in sums.iter_mut().zip(codes) {
                    let low = vmlal_s8(vmull_s8(vget_low_s8(first), even), vget_low_s8(second), odd);
                    let (wide_even, wide_odd) = (vcombine_s8(even, even), vcombine_s8(odd, odd));
                    let high = vmlal_high_s8(vmull_high_s8(first, wide_even), second, wide_odd);
                    row[part] = [vpadalq_s16(row[part][0], low), vpadalq_s16(row[part][1], high)];
                }
            }
        }
        if groups % 2 == 1 {
            for (r, row) in sums.iter_mut().enumerate() {
                let codes = four_codes(x.add(r * x_stride + 2 * pairs * PANEL_GROUP));
                for (part, sums) in row.iter_mut().enumerate() {
                    let weights = weights(2 * pairs, part);
                    let high = vmull_high_s8(weights, vcombine_s8(codes, codes));
                    *sums = [vpadalq_s16(sums[0], vmull_s8(vget_low_s8(weights), codes)), vpadalq_s16(sums[1], high)];
                }
            }
        }
        for (r, row) in sums.into_iter().enumerate() {
            finish(job, r, row.map(|[low, high]| vpaddq_s32(low, high)));
        }
    }
}

/// Four codes, twice.
///
/// # Safety
/// The CPU has NEON, and four bytes can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn four_codes(x: *const u8) -> int8x8_t {
    // SAFETY: the caller vouches for the bytes.
    let codes = unsafe { x.cast::<i32>().read_unaligned() };
    vreinterpret_s8_u8(veor_u8(vreinterpret_u8_s32(vdup_n_s32(codes)), vdup_n_u8(SIGN)))
}

/// Scales the sums of a row and adds them to where they begin.
///
/// # Safety
/// The CPU has NEON, the job is as its fields say, and `r` is one of its rows.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn finish(job: &CodeJob, r: usize, sums: [int32x4_t; PARTS]) {
    // SAFETY: the caller vouches for the row.
    unsafe {
        let scale = *job.x_scales.add(r * job.x_scale_stride);
        // The codes that were multiplied are lower than those that the zero is of.
        let (zero, step) = (vdupq_n_f32(scale.zero - f32::from(SIGN)), vdupq_n_f32(scale.step));
        for (part, sum) in sums.into_iter().enumerate() {
            let (scales, code_sums) =
                (vld1q_f32(job.scales.add(part * LANES)), vld1q_f32(job.code_sums.add(part * LANES)));
            // Both are whole numbers below 2^24, and so is their difference: it is exact.
            let centred = vfmsq_f32(vcvtq_f32_s32(sum), zero, code_sums);
            let before = match job.start.is_null() {
                true => vdupq_n_f32(0.0),
                false => vld1q_f32(job.start.add(r * job.start_stride + part * LANES)),
            };
            let after = vfmaq_f32(before, centred, vmulq_f32(step, scales));
            vst1q_f32(job.out.add(r * job.stride + part * LANES), after);
        }
    }
}
