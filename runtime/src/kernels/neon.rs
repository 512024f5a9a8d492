//! NEON: tiles of five rows by one panel, a panel's row (or four rows of codes) being four registers.
//!
//! A job is cut into such tiles here, so that what is around one, which takes as many instructions as a small one, is paid
//! for once for several.
//!
//! Nothing is fetched ahead here: what that brings shows in time alone, and NEON is only counted, under emulation.

#![allow(unsafe_code)]

use std::arch::{
    aarch64::{
        float32x2_t, float32x4_t, int8x16_t, int32x4_t, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vfmaq_f32,
        vfmaq_laneq_f32, vfmaq_n_f32, vfmsq_lane_f32, vget_low_s8, vld1_f32, vld1q_dup_s32, vld1q_f32, vld1q_s8,
        vmull_high_s8, vmull_s8, vmulq_lane_f32, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32, vst1q_f32,
    },
    asm, is_aarch64_feature_detected,
};

use bias_patch::{PANEL_GROUP, PANEL_WIDTH};

use super::{
    GROUP, Scale,
    blocked::{CodeJob, CodeTile, Job, Tile, tiles_of},
};

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

/// Most rows of a job, which is cut into tiles.
const ROWS: usize = 35;

/// Most times [`GROUP`] inputs of a job: a panel of them is 16 KB, half of a first-level cache.
const GROUPS: usize = 4;

/// Calls the instance of `tile` for the rows of each tile of a job.
macro_rules! each_tile {
    ($tile:ident, $rows:expr, $job:expr) => {
        for (first, rows) in tiles_of($rows, 5) {
            match rows {
                1 => $tile::<1>($job, first),
                2 => $tile::<2>($job, first),
                3 => $tile::<3>($job, first),
                4 => $tile::<4>($job, first),
                _ => $tile::<5>($job, first),
            }
        }
    };
}

/// NEON.
pub(super) struct Floats;

impl Tile for Floats {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    /// 8 KB, a quarter of the cache.
    const BLOCK: usize = 128;

    unsafe fn add(rows: usize, _panels: usize, job: &Job) {
        // SAFETY: the caller vouches for NEON and the job; the rows of a tile are those of the instance.
        unsafe { each_tile!(add, rows, job) }
    }
}

/// NEON's dot products of bytes.
pub(super) struct DotCodes;

impl CodeTile for DotCodes {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    const FLIP: u8 = SIGN;
    const GROUPS: usize = GROUPS;

    unsafe fn add(rows: usize, _panels: usize, job: &CodeJob) {
        // SAFETY: the caller vouches for NEON, its dot products and the job; the rows of a tile are those of the instance.
        unsafe { each_tile!(add_codes_dot, rows, job) }
    }
}

/// NEON without dot products: products of bytes in 16 bits.
pub(super) struct Codes;

impl CodeTile for Codes {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    const FLIP: u8 = SIGN;
    const GROUPS: usize = GROUPS;

    unsafe fn add(rows: usize, _panels: usize, job: &CodeJob) {
        // SAFETY: the caller vouches for NEON and the job; the rows of a tile are those of the instance.
        unsafe {
            for (first, rows) in tiles_of(rows, 2) {
                match rows {
                    1 => add_codes::<1>(job, first),
                    _ => add_codes::<2>(job, first),
                }
            }
        }
    }
}

/// [`Tile::add`] for `R` rows from `first` on and one panel, the whole tile in registers.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "neon")]
unsafe fn add<const R: usize>(job: &Job, first: usize) {
    let Job { x, x_stride, w, depth, start, start_stride, out, stride, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `first + R`, `k` below `depth`.
    unsafe {
        let (x, out) = (x.add(first * x_stride), out.add(first * stride));
        let mut sums: [[float32x4_t; PARTS]; R] = [[vdupq_n_f32(0.0); PARTS]; R];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                for (part, sum) in row.iter_mut().enumerate() {
                    *sum = vld1q_f32(start.add((first + r) * start_stride + part * LANES));
                }
            }
        }
        let rows: [*const f32; R] = begins(x, x_stride);
        let weights = |k: usize| -> [float32x4_t; PARTS] {
            let row = w.add(k * PANEL_WIDTH);
            std::array::from_fn(|part| vld1q_f32(row.add(part * LANES)))
        };
        let whole = depth / LANES * LANES;
        let mut k = 0;
        while k < whole {
            let values: [float32x4_t; R] = rows.map(|row| vld1q_f32(row.add(k)));
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
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            k += LANES;
        }
        for k in whole..depth {
            let weights = weights(k);
            for (row, x) in sums.iter_mut().zip(rows) {
                for (sum, weight) in row.iter_mut().zip(weights) {
                    *sum = vfmaq_n_f32(*sum, weight, *x.add(k));
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

/// Loads codes, and moves the address on to what is after them: a register of them, or four, which are a panel's group.
///
/// Not from memory whenever it suits the compiler: it would fetch more than there are registers.
macro_rules! load {
    (one, $from:expr) => {{
        let one: int8x16_t;
        asm!("ldr {:q}, [{}], #16", out(vreg) one, inout(reg) $from, options(readonly, nostack, preserves_flags));
        one
    }};
    (four, $from:expr) => {{
        let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
        asm!(
            "ld1 {{v28.16b-v31.16b}}, [{}], #64",
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

/// Adds the products of four bytes to each sum; the four of `x` are those of a lane.
macro_rules! dot {
    ($sum:expr, $w:expr, $x:expr, $lane:literal) => {
        // The intrinsic is not stable yet.
        asm!(
            concat!("sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[", $lane, "]"),
            sum = inout(vreg) $sum,
            w = in(vreg) $w,
            x = in(vreg) $x,
            options(nomem, nostack, preserves_flags),
        )
    };
}

/// [`CodeTile::add`] for `R` rows from `first` on and one panel, the whole tile in registers.
///
/// # Safety
/// As [`CodeTile::add`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_codes_dot<const R: usize>(job: &CodeJob, first: usize) {
    // SAFETY: every address is within the ranges of the job: rows below `first + R`, `groups` in all. The instructions
    // access what they say.
    unsafe {
        let mut results = Results::<R>::of(job, first);
        let mut rows: [*const i8; R] = begins(job.x.add(first * job.x_stride).cast(), job.x_stride);
        let mut w = job.w;
        for groups in each_group(job) {
            let mut sums: [[int32x4_t; PARTS]; R] = [[vdupq_n_s32(0); PARTS]; R];
            macro_rules! step {
                ($codes:expr, $lane:literal) => {
                    let weights = load!(four, w);
                    for (row, codes) in sums.iter_mut().zip($codes) {
                        for (sum, weight) in row.iter_mut().zip(weights) {
                            dot!(*sum, weight, codes, $lane);
                        }
                    }
                };
            }
            for _ in 0..groups / LANES {
                let mut codes = [vdupq_n_s8(0); R];
                for (codes, row) in codes.iter_mut().zip(&mut rows) {
                    *codes = load!(one, *row);
                }
                step!(codes, 0);
                step!(codes, 1);
                step!(codes, 2);
                step!(codes, 3);
            }
            for _ in 0..groups % LANES {
                step!(rows.map(|row| four_codes(row)), 0);
                rows = rows.map(|row| row.add(PANEL_GROUP));
            }
            results.add(sums);
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
unsafe fn add_codes<const R: usize>(job: &CodeJob, first: usize) {
    // SAFETY: every address is within the ranges of the job: rows below `first + R`, `groups` in all.
    unsafe {
        let mut results = Results::<R>::of(job, first);
        let mut rows: [*const i8; R] = begins(job.x.add(first * job.x_stride).cast(), job.x_stride);
        let mut w = job.w;
        let weights = |w: *const i8, part: usize| vld1q_s8(w.add(part * 16));
        for groups in each_group(job) {
            // Of each register of weights, four columns, the sums of two columns and two halves of their four products,
            // twice.
            let mut sums: [[[int32x4_t; 2]; PARTS]; R] = [[[vdupq_n_s32(0); 2]; PARTS]; R];
            for _ in 0..groups / 2 {
                let codes = rows.map(|row| [four_codes(row), four_codes(row.add(PANEL_GROUP))]);
                macro_rules! part {
                    ($part:literal) => {
                        let (one, other) = (weights(w, $part), weights(w.add(LINE), $part));
                        for (row, [even, odd]) in sums.iter_mut().zip(codes) {
                            let [low, high] = &mut row[$part];
                            // The compiler would make the upper halves lower ones first.
                            asm!(
                                "smull {a:v}.8h, {one:v}.8b, {even:v}.8b",
                                "smull2 {b:v}.8h, {one:v}.16b, {even:v}.16b",
                                "smlal {a:v}.8h, {other:v}.8b, {odd:v}.8b",
                                "smlal2 {b:v}.8h, {other:v}.16b, {odd:v}.16b",
                                "sadalp {low:v}.4s, {a:v}.8h",
                                "sadalp {high:v}.4s, {b:v}.8h",
                                a = out(vreg) _,
                                b = out(vreg) _,
                                low = inout(vreg) *low,
                                high = inout(vreg) *high,
                                one = in(vreg) one,
                                other = in(vreg) other,
                                even = in(vreg) even,
                                odd = in(vreg) odd,
                                options(pure, nomem, nostack, preserves_flags),
                            );
                        }
                    };
                }
                part!(0);
                part!(1);
                part!(2);
                part!(3);
                w = w.add(2 * LINE);
                rows = rows.map(|row| row.add(2 * PANEL_GROUP));
            }
            if groups % 2 == 1 {
                for (row, codes) in sums.iter_mut().zip(rows) {
                    let codes = four_codes(codes);
                    for (part, sums) in row.iter_mut().enumerate() {
                        let weights = weights(w, part);
                        let low = vmull_s8(vget_low_s8(weights), vget_low_s8(codes));
                        *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], vmull_high_s8(weights, codes))];
                    }
                }
            }
            results.add(sums.map(|row| row.map(|[low, high]| vpaddq_s32(low, high))));
        }
    }
}

/// How many groups of [`PANEL_GROUP`] codes there are in each [`GROUP`] of a job.
fn each_group(job: &CodeJob) -> impl Iterator<Item = usize> {
    const MOST: usize = GROUP / PANEL_GROUP;
    let groups = job.groups;
    (0..groups).step_by(MOST).map(move |first| (groups - first).min(MOST))
}

/// Where each of `R` rows begins. The compiler does not know that they are one address and multiples of the stride, which
/// it would compute again at every turn.
fn begins<T, const R: usize>(first: *const T, stride: usize) -> [*const T; R] {
    let mut next = first;
    std::array::from_fn(|_| {
        let mut row = next;
        next = next.wrapping_add(stride);
        // SAFETY: nothing happens.
        unsafe { asm!("/* {} */", inout(reg) row, options(pure, nomem, nostack, preserves_flags)) }
        row
    })
}

/// Four codes, four times.
///
/// # Safety
/// The CPU has NEON, and four bytes can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn four_codes(x: *const i8) -> int8x16_t {
    // SAFETY: the caller vouches for the bytes.
    vreinterpretq_s8_s32(unsafe { vld1q_dup_s32(x.cast()) })
}

/// Where the sums of `R` rows go, and what makes values of them.
struct Results<const R: usize> {
    start: [*const f32; R],
    out: [*const f32; R],
    x_scales: [*const Scale; R],
    scales: *const f32,
    code_sums: *const f32,
    scale_stride: usize,
}

impl<const R: usize> Results<R> {
    /// Those of the rows from `first` on.
    ///
    /// # Safety
    /// The job is as its fields say, and has those rows.
    #[inline]
    unsafe fn of(job: &CodeJob, first: usize) -> Self {
        static ZEROS: [f32; PANEL_WIDTH] = [0.0; PANEL_WIDTH];
        // SAFETY: the caller vouches for the rows.
        unsafe {
            Results {
                start: match job.start.is_null() {
                    true => [ZEROS.as_ptr(); R],
                    false => begins(job.start.add(first * job.start_stride), job.start_stride),
                },
                out: begins(job.out.add(first * job.stride), job.stride),
                x_scales: begins(job.x_scales.add(first * job.x_scale_stride), job.x_scale_stride),
                scales: job.scales,
                code_sums: job.code_sums,
                scale_stride: job.scale_stride,
            }
        }
    }

    /// Scales the sums of a group and adds them.
    ///
    /// # Safety
    /// The CPU has NEON, and the job has another group.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(&mut self, sums: [[int32x4_t; PARTS]; R]) {
        // SAFETY: the caller vouches for the group; a scale is two floats, its step and its zero.
        unsafe {
            let x_scales: [float32x2_t; R] = self.x_scales.map(|scale| vld1_f32(scale.cast()));
            macro_rules! part {
                ($part:literal) => {
                    let at = $part * LANES;
                    let (scales, code_sums) = (vld1q_f32(self.scales.add(at)), vld1q_f32(self.code_sums.add(at)));
                    for r in 0..R {
                        // Both are whole numbers below 2^24, and so is their difference: it is exact.
                        let centred = vfmsq_lane_f32::<1>(vcvtq_f32_s32(sums[r][$part]), code_sums, x_scales[r]);
                        let before = vld1q_f32(self.start[r].add(at));
                        let after = vfmaq_f32(before, centred, vmulq_lane_f32::<0>(scales, x_scales[r]));
                        vst1q_f32(self.out[r].add(at).cast_mut(), after);
                    }
                };
            }
            part!(0);
            part!(1);
            part!(2);
            part!(3);
            self.start = self.out;
            self.x_scales = self.x_scales.map(|scale| scale.wrapping_add(1));
            self.scales = self.scales.wrapping_add(self.scale_stride);
            self.code_sums = self.code_sums.wrapping_add(self.scale_stride);
        }
    }
}
