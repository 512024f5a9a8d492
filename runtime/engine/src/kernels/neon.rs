//! NEON: tiles of five rows by one panel, a panel's row (or four rows of int8 values) being four registers.
//!
//! A job has several such tiles. The code around a job takes as many instructions as a small tile, so it runs once for
//! all of them.
//!
//! There is no prefetching. Its benefit shows only in times, and NEON has only been measured in instructions, under
//! emulation.

#![allow(unsafe_code)]

use core::arch::{
    aarch64::{
        float32x2_t, float32x4_t, int8x16_t, int32x4_t, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vfmaq_f32,
        vfmaq_laneq_f32, vfmaq_n_f32, vfmsq_lane_f32, vget_low_s8, vld1_f32, vld1q_f32, vld1q_s8, vld1q_u16,
        vmull_high_s8, vmull_s8, vmulq_lane_f32, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32, vst1q_f32,
    },
    asm,
};

use crate::layout::{PANEL_GROUP, PANEL_WIDTH};

use super::{
    Scale,
    blocked::{Job, QuantizedJob, QuantizedTile, SIGN, Tile, begins, each_group, tiles_of},
    neon_half::{NeonHalf, widened},
};

vector_unit! {
    /// NEON and the dot products of ARMv8.2, as Cortex-A55, A76 and later have them.
    NeonDot, "neondot", Floats, DotQuantized, ["neon", "dotprod"], halves NeonHalf
}

vector_unit! {
    /// NEON, which every 64-bit ARM has.
    Neon, "neon", Floats, Quantized, ["neon"]
}

/// Values of 32 bits in a register.
pub(super) const LANES: usize = 4;
/// Registers of a panel's row, or of its group of quantized values.
pub(super) const PARTS: usize = PANEL_WIDTH / LANES;
/// Most rows of a job, which is cut into tiles.
const ROWS: usize = 35;

/// Most times [`super::GROUP`] inputs of a job: a panel of them is 16 KB, half of a first-level cache.
pub(super) const GROUPS: usize = 4;

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

    unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
        const EIGHT: usize = 2 * LANES;
        let halves = halves.as_flattened().as_chunks::<EIGHT>().0;
        for (halves, out) in halves.iter().zip(out.as_flattened_mut().as_chunks_mut::<EIGHT>().0) {
            // SAFETY: the caller vouches for NEON; eight floats are two registers, and eight halves one.
            unsafe {
                let [low, high] = widened(vld1q_u16(halves.as_ptr()));
                vst1q_f32(out.as_mut_ptr(), low);
                vst1q_f32(out.as_mut_ptr().add(LANES), high);
            }
        }
    }
}

/// NEON's dot products of bytes.
pub(super) struct DotQuantized;

impl QuantizedTile for DotQuantized {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    const FLIP: u8 = SIGN;
    const GROUPS: usize = GROUPS;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        // SAFETY: the caller vouches for NEON, its dot products and the job; the rows of a tile are those of the
        // instance.
        unsafe { each_tile!(add_quantized_dot, rows, job) }
    }
}

/// NEON without dot products: products of bytes in 16 bits.
pub(super) struct Quantized;

impl QuantizedTile for Quantized {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    const FLIP: u8 = SIGN;
    const GROUPS: usize = GROUPS;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        // SAFETY: the caller vouches for NEON and the job; the rows of a tile are those of the instance.
        unsafe {
            for (first, rows) in tiles_of(rows, 2) {
                match rows {
                    1 => add_quantized::<1>(job, first),
                    _ => add_quantized::<2>(job, first),
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
            core::array::from_fn(|part| vld1q_f32(row.add(part * LANES)))
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

/// Loads one register of quantized values, or the four registers of a panel's group, and advances the address.
///
/// In assembly, because the compiler would load more values than there are registers.
macro_rules! load {
    (one, $from:expr) => {{
        let one: int8x16_t;
        asm!("ldr {:q}, [{}], #16", out(vreg) one, inout(reg) $from, options(readonly, nostack, preserves_flags));
        one
    }};
    (four, $from:expr) => {
        load!($from, "v28", "v29", "v30", "v31")
    };
    (next_four, $from:expr) => {
        load!($from, "v24", "v25", "v26", "v27")
    };
    ($from:expr, $a:tt, $b:tt, $c:tt, $d:tt) => {{
        let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
        asm!(
            concat!("ld1 {{", $a, ".16b, ", $b, ".16b, ", $c, ".16b, ", $d, ".16b}}, [{}], #64"),
            inout(reg) $from,
            out($a) a,
            out($b) b,
            out($c) c,
            out($d) d,
            options(readonly, nostack, preserves_flags),
        );
        [a, b, c, d]
    }};
}

/// Loads two groups of four bytes, each four times, and advances the address.
macro_rules! load_repeated {
    ($from:expr) => {{
        let (even, odd): (int8x16_t, int8x16_t);
        asm!(
            "ld2r {{v22.4s, v23.4s}}, [{}], #8",
            inout(reg) $from,
            out("v22") even,
            out("v23") odd,
            options(readonly, nostack, preserves_flags),
        );
        [even, odd]
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

/// [`QuantizedTile::add`] for `R` rows from `first` on and one panel, the whole tile in registers.
///
/// # Safety
/// As [`QuantizedTile::add`].
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_quantized_dot<const R: usize>(job: &QuantizedJob, first: usize) {
    // SAFETY: every address is within the ranges of the job: rows below `first + R`, `fours` in all. The instructions
    // access what they say.
    unsafe {
        let mut results = Results::<R>::of(job, first);
        let mut rows: [*const i8; R] = begins(job.x.add(first * job.x_stride).cast(), job.x_stride);
        let mut w = job.w;
        for fours in each_group(job) {
            let mut sums: [[int32x4_t; PARTS]; R] = [[vdupq_n_s32(0); PARTS]; R];
            macro_rules! step {
                ($quantized:expr, $lane:literal) => {
                    let weights = load!(four, w);
                    for (row, quantized) in sums.iter_mut().zip($quantized) {
                        for (sum, weight) in row.iter_mut().zip(weights) {
                            dot!(*sum, weight, quantized, $lane);
                        }
                    }
                };
            }
            for _ in 0..fours / LANES {
                let mut quantized = [vdupq_n_s8(0); R];
                for (quantized, row) in quantized.iter_mut().zip(&mut rows) {
                    *quantized = load!(one, *row);
                }
                step!(quantized, 0);
                step!(quantized, 1);
                step!(quantized, 2);
                step!(quantized, 3);
            }
            for _ in 0..fours % LANES {
                step!(rows.map(|row| four_values(row)), 0);
                rows = rows.map(|row| row.add(PANEL_GROUP));
            }
            results.add(sums);
        }
    }
}

/// As [`add_quantized_dot`] without dot products.
///
/// Two groups of four products at a time are summed in 16 bits: 2 times 127 times 128 is less than 2^15, and weights
/// are values from -127 to 127, as is checked where panels are laid out and verified.
///
/// # Safety
/// As [`QuantizedTile::add`].
#[target_feature(enable = "neon")]
unsafe fn add_quantized<const R: usize>(job: &QuantizedJob, first: usize) {
    // SAFETY: every address is within the ranges of the job: rows below `first + R`, `fours` in all.
    unsafe {
        let mut results = Results::<R>::of(job, first);
        let mut rows: [*const i8; R] = begins(job.x.add(first * job.x_stride).cast(), job.x_stride);
        let mut w = job.w;
        for fours in each_group(job) {
            // Each register of weights has four columns. Two sums hold two columns each, with the four products of a
            // column in two halves.
            let mut sums: [[[int32x4_t; 2]; PARTS]; R] = [[[vdupq_n_s32(0); 2]; PARTS]; R];
            for _ in 0..fours / 2 {
                let (one, other) = (load!(four, w), load!(next_four, w));
                for (row, quantized) in sums.iter_mut().zip(&mut rows) {
                    let [even, odd] = load_repeated!(*quantized);
                    for (part, [low, high]) in row.iter_mut().enumerate() {
                        // The compiler would first move the upper halves to lower ones.
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
                            one = in(vreg) one[part],
                            other = in(vreg) other[part],
                            even = in(vreg) even,
                            odd = in(vreg) odd,
                            options(pure, nomem, nostack, preserves_flags),
                        );
                    }
                }
            }
            if fours % 2 == 1 {
                for (row, quantized) in sums.iter_mut().zip(rows) {
                    let quantized = four_values(quantized);
                    for (part, sums) in row.iter_mut().enumerate() {
                        let weights = vld1q_s8(w.add(part * 16));
                        let low = vmull_s8(vget_low_s8(weights), vget_low_s8(quantized));
                        *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], vmull_high_s8(weights, quantized))];
                    }
                }
            }
            results.add(sums.map(|row| row.map(|[low, high]| vpaddq_s32(low, high))));
        }
    }
}

/// Four quantized values, four times.
///
/// # Safety
/// The CPU has NEON, and four bytes can be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn four_values(x: *const i8) -> int8x16_t {
    // SAFETY: the caller vouches for the bytes, which need no alignment.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { x.cast::<i32>().read_unaligned() }))
}

/// Where the sums of `R` rows go, and the scales to dequantize them.
pub(super) struct Results<const R: usize> {
    start: [*const f32; R],
    out: [*const f32; R],
    x_scales: [*const Scale; R],
    scales: *const f32,
    column_sums: *const f32,
    scale_stride: usize,
}

impl<const R: usize> Results<R> {
    /// Those of the rows from `first` on.
    ///
    /// # Safety
    /// The job is as its fields say, and has those rows.
    #[inline]
    pub(super) unsafe fn of(job: &QuantizedJob, first: usize) -> Self {
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
                column_sums: job.column_sums,
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
    pub(super) unsafe fn add(&mut self, sums: [[int32x4_t; PARTS]; R]) {
        // SAFETY: the caller vouches for the group; a `Scale` is two floats, its scale and its zero point.
        unsafe {
            let x_scales: [float32x2_t; R] = self.x_scales.map(|scale| vld1_f32(scale.cast()));
            macro_rules! part {
                ($part:literal) => {
                    let at = $part * LANES;
                    let (scales, column_sums) = (vld1q_f32(self.scales.add(at)), vld1q_f32(self.column_sums.add(at)));
                    for r in 0..R {
                        // The difference is exact: both are whole numbers below 2^24, and so is their difference.
                        let centred = vfmsq_lane_f32::<1>(vcvtq_f32_s32(sums[r][$part]), column_sums, x_scales[r]);
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
            self.column_sums = self.column_sums.wrapping_add(self.scale_stride);
        }
    }
}
