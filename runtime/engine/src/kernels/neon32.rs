//! NEON of 32-bit ARM, with sixteen registers, in assembly.
//!
//! Rust's intrinsics for it are not stable. A tile is four rows of floats, or two of quantized values, by half a panel,
//! once for each half. A tile with fewer rows computes its last row again, in the same place. Row arithmetic is scalar.

#![allow(unsafe_code)]

use core::{arch::naked_asm, mem::offset_of};

use crate::layout::PANEL_WIDTH;

use super::{
    Scale,
    blocked::{Job, QuantizedJob, QuantizedTile, SIGN, Tile, tiles_of},
};

vector_unit! {
    /// NEON with fused multiplication and addition, as Cortex-A7 and every later processor have it.
    Neon, "neon", Floats, Quantized, [], has_fused_neon()
}

/// Whether the processor has NEON, and VFPv4's instructions in it.
#[cfg(all(feature = "std", target_os = "linux"))]
fn has_fused_neon() -> bool {
    use core::ffi::c_ulong;
    /// The number of the processor's features in the kernel's headers.
    const AT_HWCAP: c_ulong = 16;
    const NEON_AND_VFPV4: c_ulong = 1 << 12 | 1 << 16;
    // SAFETY: every C library of Linux has this function, and it takes any number.
    unsafe extern "C" {
        safe fn getauxval(kind: c_ulong) -> c_ulong;
    }
    getauxval(AT_HWCAP) & NEON_AND_VFPV4 == NEON_AND_VFPV4
}

/// Without std, only the compiler knows the features.
#[cfg(not(all(feature = "std", target_os = "linux")))]
fn has_fused_neon() -> bool {
    cfg!(all(target_feature = "neon", target_feature = "vfp4"))
}

/// Most rows of a job, which is cut into tiles.
const ROWS: usize = 36;
/// Zeros, for sums that start at nothing.
static ZEROS: [f32; PANEL_WIDTH] = [0.0; PANEL_WIDTH];

/// Floats.
pub(super) struct Floats;

impl Tile for Floats {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    /// 8 KB, a quarter of the cache.
    const BLOCK: usize = 128;

    unsafe fn add(rows: usize, _panels: usize, job: &Job) {
        for (first, rows) in tiles_of(rows, 4) {
            let at = |row: usize| first + row.min(rows - 1);
            // SAFETY: the caller vouches for NEON and the job; rows are of the job.
            unsafe {
                add(&FloatTileJob {
                    x: core::array::from_fn(|r| job.x.add(at(r) * job.x_stride)),
                    w: job.w,
                    depth: job.depth,
                    start: core::array::from_fn(|r| begin(job.start, at(r) * job.start_stride)),
                    out: core::array::from_fn(|r| job.out.add(at(r) * job.stride)),
                });
            }
        }
    }

    unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
        for (halves, out) in halves.iter().zip(out) {
            // SAFETY: the caller vouches for NEON with VFPv4, and the rows have what is read and written.
            unsafe { widen(halves, out) }
        }
    }
}

/// Int8 values.
pub(super) struct Quantized;

impl QuantizedTile for Quantized {
    const ROWS: usize = ROWS;
    const PANELS: usize = 1;
    const FLIP: u8 = SIGN;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        for (first, rows) in tiles_of(rows, 2) {
            let at = |row: usize| first + row.min(rows - 1);
            // SAFETY: the caller vouches for NEON and the job; rows are of the job.
            unsafe {
                add_quantized(&QuantizedTileJob {
                    x: core::array::from_fn(|r| job.x.add(at(r) * job.x_stride)),
                    w: job.w,
                    pairs: job.fours / 2,
                    last: job.fours % 2,
                    x_scales: core::array::from_fn(|r| *job.x_scales.add(at(r) * job.x_scale_stride)),
                    scales: job.scales,
                    column_sums: job.column_sums,
                    start: core::array::from_fn(|r| begin(job.start, at(r) * job.start_stride)),
                    out: core::array::from_fn(|r| job.out.add(at(r) * job.stride)),
                });
            }
        }
    }
}

/// Where the sums of a row begin.
///
/// # Safety
/// `start` is null, or what it points to reaches to `at`.
unsafe fn begin(start: *const f32, at: usize) -> *const f32 {
    // SAFETY: the caller vouches for the row.
    if start.is_null() { ZEROS.as_ptr() } else { unsafe { start.add(at) } }
}

/// What [`add`] works on: as [`Job`] has it, of each row.
#[repr(C)]
struct FloatTileJob {
    x: [*const f32; 4],
    w: *const f32,
    depth: usize,
    start: [*const f32; 4],
    out: [*mut f32; 4],
}

/// What [`add_quantized`] works on: as [`QuantizedJob`] has it, of each row.
#[repr(C)]
struct QuantizedTileJob {
    x: [*const u8; 2],
    w: *const i8,
    /// Pairs of groups, and whether there is one more.
    pairs: usize,
    last: usize,
    x_scales: [Scale; 2],
    scales: *const f32,
    column_sums: *const f32,
    start: [*const f32; 2],
    out: [*mut f32; 2],
}

/// The floats of sixteen halves.
///
/// # Safety
/// The CPU has NEON with VFPv4.
#[unsafe(naked)]
unsafe extern "C" fn widen(halves: &[u16; PANEL_WIDTH], out: &mut [f32; PANEL_WIDTH]) {
    naked_asm!(
        ".arch armv7-a",
        ".fpu neon-vfpv4",
        "vld1.16 {{d0-d3}}, [r0]",
        "vcvt.f32.f16 q8, d0",
        "vcvt.f32.f16 q9, d1",
        "vcvt.f32.f16 q10, d2",
        "vcvt.f32.f16 q11, d3",
        "vst1.32 {{d16-d19}}, [r1]!",
        "vst1.32 {{d20-d23}}, [r1]",
        "bx lr",
    )
}

/// [`Tile::add`] for four rows and one panel.
///
/// # Safety
/// As [`Tile::add`]; rows may be the same.
#[unsafe(naked)]
unsafe extern "C" fn add(tile: &FloatTileJob) {
    // Half a panel's sums are q8 to q15, two registers a row; q0 to q3 are four values of each row, q4 to q7 weights.
    naked_asm!(
        ".arch armv7-a",
        ".fpu neon-vfpv4",
        "push {{r4-r11, lr}}",
        "vpush {{q4-q7}}",
        // Bytes into the panel's row.
        "mov r9, #0",
        // From one row of the panel to the next.
        "mov r7, #64",
        "2:",
        "add r8, r0, #{start}",
        "ldm r8, {{r1-r4}}",
        "add r1, r1, r9",
        "add r2, r2, r9",
        "add r3, r3, r9",
        "add r4, r4, r9",
        "vld1.32 {{d16-d19}}, [r1]",
        "vld1.32 {{d20-d23}}, [r2]",
        "vld1.32 {{d24-d27}}, [r3]",
        "vld1.32 {{d28-d31}}, [r4]",
        // Four rows of x, the panel and the depth.
        "ldm r0, {{r1-r6}}",
        "add r5, r5, r9",
        "subs r6, r6, #4",
        "blt 4f",
        "3:",
        "vld1.32 {{d0-d1}}, [r1]!",
        "vld1.32 {{d2-d3}}, [r2]!",
        "vld1.32 {{d4-d5}}, [r3]!",
        "vld1.32 {{d6-d7}}, [r4]!",
        "vld1.32 {{d8-d11}}, [r5], r7",
        "vld1.32 {{d12-d15}}, [r5], r7",
        "vmla.f32 q8, q4, d0[0]",
        "vmla.f32 q9, q5, d0[0]",
        "vmla.f32 q10, q4, d2[0]",
        "vmla.f32 q11, q5, d2[0]",
        "vmla.f32 q12, q4, d4[0]",
        "vmla.f32 q13, q5, d4[0]",
        "vmla.f32 q14, q4, d6[0]",
        "vmla.f32 q15, q5, d6[0]",
        "vld1.32 {{d8-d11}}, [r5], r7",
        "vmla.f32 q8, q6, d0[1]",
        "vmla.f32 q9, q7, d0[1]",
        "vmla.f32 q10, q6, d2[1]",
        "vmla.f32 q11, q7, d2[1]",
        "vmla.f32 q12, q6, d4[1]",
        "vmla.f32 q13, q7, d4[1]",
        "vmla.f32 q14, q6, d6[1]",
        "vmla.f32 q15, q7, d6[1]",
        "vld1.32 {{d12-d15}}, [r5], r7",
        "vmla.f32 q8, q4, d1[0]",
        "vmla.f32 q9, q5, d1[0]",
        "vmla.f32 q10, q4, d3[0]",
        "vmla.f32 q11, q5, d3[0]",
        "vmla.f32 q12, q4, d5[0]",
        "vmla.f32 q13, q5, d5[0]",
        "vmla.f32 q14, q4, d7[0]",
        "vmla.f32 q15, q5, d7[0]",
        "vmla.f32 q8, q6, d1[1]",
        "vmla.f32 q9, q7, d1[1]",
        "vmla.f32 q10, q6, d3[1]",
        "vmla.f32 q11, q7, d3[1]",
        "vmla.f32 q12, q6, d5[1]",
        "vmla.f32 q13, q7, d5[1]",
        "vmla.f32 q14, q6, d7[1]",
        "vmla.f32 q15, q7, d7[1]",
        "subs r6, r6, #4",
        "bge 3b",
        "4:",
        "adds r6, r6, #4",
        "beq 6f",
        "5:",
        "vld1.32 {{d0[0]}}, [r1]!",
        "vld1.32 {{d2[0]}}, [r2]!",
        "vld1.32 {{d4[0]}}, [r3]!",
        "vld1.32 {{d6[0]}}, [r4]!",
        "vld1.32 {{d8-d11}}, [r5], r7",
        "vmla.f32 q8, q4, d0[0]",
        "vmla.f32 q9, q5, d0[0]",
        "vmla.f32 q10, q4, d2[0]",
        "vmla.f32 q11, q5, d2[0]",
        "vmla.f32 q12, q4, d4[0]",
        "vmla.f32 q13, q5, d4[0]",
        "vmla.f32 q14, q4, d6[0]",
        "vmla.f32 q15, q5, d6[0]",
        "subs r6, r6, #1",
        "bne 5b",
        "6:",
        "add r8, r0, #{out}",
        "ldm r8, {{r1-r4}}",
        "add r1, r1, r9",
        "add r2, r2, r9",
        "add r3, r3, r9",
        "add r4, r4, r9",
        "vst1.32 {{d16-d19}}, [r1]",
        "vst1.32 {{d20-d23}}, [r2]",
        "vst1.32 {{d24-d27}}, [r3]",
        "vst1.32 {{d28-d31}}, [r4]",
        "add r9, r9, #32",
        "cmp r9, #64",
        "bne 2b",
        "vpop {{q4-q7}}",
        "pop {{r4-r11, pc}}",
        start = const offset_of!(FloatTileJob, start),
        out = const offset_of!(FloatTileJob, out),
    )
}

/// [`QuantizedTile::add`] for two rows and one panel.
///
/// Two groups of four products at a time are summed in 16 bits: 2 times 127 times 128 is less than 2^15, and weights
/// are values from -127 to 127, as is checked where panels are laid out and verified.
///
/// # Safety
/// As [`QuantizedTile::add`]; rows may be the same.
#[unsafe(naked)]
unsafe extern "C" fn add_quantized(tile: &QuantizedTileJob) {
    // Of half a panel's columns q8 to q11 and q12 to q15 are the sums of either row: of two columns each, by halves of
    // their groups. d0 to d3 and d4 to d7 are the weights of two groups, d8 to d11 the quantized values of both rows.
    naked_asm!(
        ".arch armv7-a",
        ".fpu neon-vfpv4",
        "push {{r4-r11, lr}}",
        "vpush {{q4-q7}}",
        // Bytes into the panel's row.
        "mov r9, #0",
        // From one group of the panel to the next.
        "mov r7, #64",
        "2:",
        "vmov.i32 q8, #0",
        "vmov.i32 q9, #0",
        "vmov.i32 q10, #0",
        "vmov.i32 q11, #0",
        "vmov.i32 q12, #0",
        "vmov.i32 q13, #0",
        "vmov.i32 q14, #0",
        "vmov.i32 q15, #0",
        // Two rows of x, the panel, its pairs of groups and whether there is one more.
        "ldm r0, {{r1-r5}}",
        "add r3, r3, r9",
        "cmp r4, #0",
        "beq 4f",
        "3:",
        "vld1.8 {{d0-d3}}, [r3], r7",
        "vld1.8 {{d4-d7}}, [r3], r7",
        "vld1.32 {{d8[]}}, [r1]!",
        "vld1.32 {{d9[]}}, [r1]!",
        "vld1.32 {{d10[]}}, [r2]!",
        "vld1.32 {{d11[]}}, [r2]!",
        "vmull.s8 q6, d0, d8",
        "vmull.s8 q7, d0, d10",
        "vmlal.s8 q6, d4, d9",
        "vmlal.s8 q7, d4, d11",
        "vpadal.s16 q8, q6",
        "vpadal.s16 q12, q7",
        "vmull.s8 q6, d1, d8",
        "vmull.s8 q7, d1, d10",
        "vmlal.s8 q6, d5, d9",
        "vmlal.s8 q7, d5, d11",
        "vpadal.s16 q9, q6",
        "vpadal.s16 q13, q7",
        "vmull.s8 q6, d2, d8",
        "vmull.s8 q7, d2, d10",
        "vmlal.s8 q6, d6, d9",
        "vmlal.s8 q7, d6, d11",
        "vpadal.s16 q10, q6",
        "vpadal.s16 q14, q7",
        "vmull.s8 q6, d3, d8",
        "vmull.s8 q7, d3, d10",
        "vmlal.s8 q6, d7, d9",
        "vmlal.s8 q7, d7, d11",
        "vpadal.s16 q11, q6",
        "vpadal.s16 q15, q7",
        "subs r4, r4, #1",
        "bne 3b",
        "4:",
        "cmp r5, #0",
        "beq 5f",
        "vld1.8 {{d0-d3}}, [r3]",
        "vld1.32 {{d8[]}}, [r1]",
        "vld1.32 {{d10[]}}, [r2]",
        "vmull.s8 q6, d0, d8",
        "vmull.s8 q7, d0, d10",
        "vpadal.s16 q8, q6",
        "vpadal.s16 q12, q7",
        "vmull.s8 q6, d1, d8",
        "vmull.s8 q7, d1, d10",
        "vpadal.s16 q9, q6",
        "vpadal.s16 q13, q7",
        "vmull.s8 q6, d2, d8",
        "vmull.s8 q7, d2, d10",
        "vpadal.s16 q10, q6",
        "vpadal.s16 q14, q7",
        "vmull.s8 q6, d3, d8",
        "vmull.s8 q7, d3, d10",
        "vpadal.s16 q11, q6",
        "vpadal.s16 q15, q7",
        "5:",
        // The halves of groups are added, four columns to a register. As floats they are exact: whole numbers below
        // 2^24.
        "vpadd.i32 d16, d16, d17",
        "vpadd.i32 d17, d18, d19",
        "vpadd.i32 d18, d20, d21",
        "vpadd.i32 d19, d22, d23",
        "vpadd.i32 d20, d24, d25",
        "vpadd.i32 d21, d26, d27",
        "vpadd.i32 d22, d28, d29",
        "vpadd.i32 d23, d30, d31",
        "vcvt.f32.s32 q8, q8",
        "vcvt.f32.s32 q9, q9",
        "vcvt.f32.s32 q10, q10",
        "vcvt.f32.s32 q11, q11",
        // Scales and column sums of the panel, scales and zero points of the rows, and where sums start.
        "add r8, r0, #{scales}",
        "ldm r8, {{r1-r6}}",
        "add r1, r1, r9",
        "add r2, r2, r9",
        "add r3, r3, r9",
        "add r4, r4, r9",
        "add r5, r5, r9",
        "add r6, r6, r9",
        "add r8, r0, #{x_scales}",
        "vld1.32 {{d0-d1}}, [r8]",
        "vld1.32 {{d4-d7}}, [r1]",
        "vld1.32 {{d8-d11}}, [r2]",
        "vld1.32 {{d24-d27}}, [r3]",
        "vld1.32 {{d28-d31}}, [r4]",
        // Exact: the difference is a whole number below 2^24 too.
        "vmls.f32 q8, q4, d0[1]",
        "vmls.f32 q9, q5, d0[1]",
        "vmls.f32 q10, q4, d1[1]",
        "vmls.f32 q11, q5, d1[1]",
        "vmul.f32 q4, q2, d0[0]",
        "vmul.f32 q5, q3, d0[0]",
        "vmul.f32 q6, q2, d1[0]",
        "vmul.f32 q7, q3, d1[0]",
        "vfma.f32 q12, q8, q4",
        "vfma.f32 q13, q9, q5",
        "vfma.f32 q14, q10, q6",
        "vfma.f32 q15, q11, q7",
        "vst1.32 {{d24-d27}}, [r5]",
        "vst1.32 {{d28-d31}}, [r6]",
        "add r9, r9, #32",
        "cmp r9, #64",
        "bne 2b",
        "vpop {{q4-q7}}",
        "pop {{r4-r11, pc}}",
        x_scales = const offset_of!(QuantizedTileJob, x_scales),
        scales = const offset_of!(QuantizedTileJob, scales),
    )
}
