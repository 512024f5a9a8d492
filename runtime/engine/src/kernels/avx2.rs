//! AVX2 with FMA: tiles of six rows by one panel. Two registers hold a row of the panel, or two rows of int8 values, which
//! are widened to 16 bits, or four where AVX-VNNI multiplies bytes.

#![allow(unsafe_code)]

use core::arch::{
    asm,
    x86_64::{
        __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_cvtepi32_ps, _mm256_cvtph_ps,
        _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srai_epi16,
        _mm256_storeu_ps, _mm256_storeu_si256,
    },
};

use crate::layout::{PANEL_GROUP, PANEL_WIDTH};

use super::blocked::{Job, PanelRows, QuantizedJob, QuantizedTile, Tile, WideRows, begins, each_group};

/// Values of 32 bits in a register.
const LANES: usize = 8;
/// Inputs that a turn of a loop multiplies.
const UNROLLED: usize = 8;

/// Picks the instance of `tile` for a number of rows.
macro_rules! instance {
    ($tile:ident, $rows:expr, $job:expr) => {
        match $rows {
            1 => $tile::<1>($job),
            2 => $tile::<2>($job),
            3 => $tile::<3>($job),
            4 => $tile::<4>($job),
            5 => $tile::<5>($job),
            _ => $tile::<6>($job),
        }
    };
}

/// AVX2, FMA and F16C.
pub(super) struct Floats;

impl Tile for Floats {
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    /// 24 KB, half of the cache. A deeper block stores its sums less often.
    const BLOCK: usize = 384;

    unsafe fn add(rows: usize, _panels: usize, job: &Job) {
        // SAFETY: the caller vouches for AVX2, FMA and the job; `rows` is that of the instance.
        unsafe { instance!(add, rows, job) }
    }

    fn fetch(line: *const f32) {
        // SAFETY: every x86-64 has the instruction, and fetching an address, wherever it is, changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
            let halves = halves.as_flattened().as_chunks::<LANES>().0;
            for (halves, out) in halves.iter().zip(out.as_flattened_mut().as_chunks_mut::<LANES>().0) {
                // SAFETY: eight floats are one register, and eight halves half of one.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()))) }
            }
        }
        // SAFETY: the caller vouches for AVX2 and F16C.
        unsafe { widen(halves, out) }
    }
}

/// AVX2, which multiplies int8 values as 16-bit integers.
pub(super) struct Quantized;

impl QuantizedTile for Quantized {
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const GROUPS: usize = 2;
    const WIDE: bool = true;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        // SAFETY: the caller vouches for AVX2, FMA and the job; `rows` is that of the instance.
        unsafe { instance!(add_quantized, rows, job) }
    }

    unsafe fn widen_rows(x: &[[u8; PANEL_GROUP]], wide: &mut [[u16; PANEL_GROUP]]) {
        #[target_feature(enable = "avx2")]
        fn widen(x: &[[u8; PANEL_GROUP]], wide: &mut [[u16; PANEL_GROUP]]) {
            for ([a, b, c, d], wide) in x.iter().zip(wide) {
                *wide = [a, c, b, d].map(|byte| u16::from(*byte));
            }
        }
        // SAFETY: the caller vouches for AVX2.
        unsafe { widen(x, wide) }
    }

    unsafe fn widen_panel(w: &[PanelRows], wide: &mut [WideRows]) {
        #[target_feature(enable = "avx2")]
        fn widen(w: &[PanelRows], wide: &mut [WideRows]) {
            for (rows, WideRows(wide)) in w.iter().zip(wide) {
                let (even, odd) = wide.split_at_mut(2 * PANEL_WIDTH);
                for (at, bytes) in rows.as_chunks::<32>().0.iter().enumerate() {
                    // SAFETY: 32 bytes are one register, and each half of `wide` two.
                    unsafe {
                        let w = _mm256_loadu_si256(bytes.as_ptr().cast());
                        let (even, odd) = (even[at * 16..].as_mut_ptr(), odd[at * 16..].as_mut_ptr());
                        _mm256_storeu_si256(even.cast(), _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)));
                        _mm256_storeu_si256(odd.cast(), _mm256_srai_epi16::<8>(w));
                    }
                }
            }
        }
        // SAFETY: the caller vouches for AVX2.
        unsafe { widen(w, wide) }
    }
}

/// AVX-VNNI.
pub(super) struct VnniQuantized;

impl QuantizedTile for VnniQuantized {
    const ROWS: usize = 6;
    const PANELS: usize = 1;
    const GROUPS: usize = 2;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        // SAFETY: the caller vouches for AVX2, FMA, AVX-VNNI and the job; `rows` is that of the instance.
        unsafe { instance!(add_quantized_vnni, rows, job) }
    }
}

/// Loads row `$at` of a panel.
///
/// In assembly, as `broadcast`: the compiler would load more values than there are registers.
macro_rules! load_row {
    ($w:expr, $at:literal) => {{
        let (low, high);
        asm!(
            concat!("vmovups {low}, [{w} + 64 * ", $at, "]"),
            concat!("vmovups {high}, [{w} + 64 * ", $at, " + 32]"),
            low = out(ymm_reg) low,
            high = out(ymm_reg) high,
            w = in(reg) $w,
            options(readonly, nostack, preserves_flags),
        );
        [low, high]
    }};
}

/// Value `$k + $at` of a row, eight times.
macro_rules! broadcast {
    ($x:expr, $k:expr, $at:literal) => {{
        let value;
        asm!(
            concat!("vbroadcastss {value}, dword ptr [{x} + 4 * {k} + 4 * ", $at, "]"),
            value = lateout(ymm_reg) value,
            x = in(reg) $x,
            k = in(reg) $k,
            options(readonly, nostack, preserves_flags),
        );
        value
    }};
}

/// [`Tile::add`] for `R` rows and one panel, the whole tile in registers.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const R: usize>(job: &Job) {
    let Job { x, x_stride, w, depth, start, start_stride, out, stride, fetch, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, `k` below `depth`. Fetching an address,
    // wherever it is, changes nothing.
    unsafe {
        let mut sums: [[__m256; 2]; R] = [[_mm256_setzero_ps(); 2]; R];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                for (half, sum) in row.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(start.add(r * start_stride + half * LANES));
                }
            }
        }
        let rows: [*const f32; R] = begins(x, x_stride);
        // A turn fetches the lines of all its inputs, or none of them.
        let mut fetch_at = fetch.from.saturating_mul(UNROLLED);
        let (mut w, mut k) = (w, 0);
        macro_rules! step {
            ($at:literal) => {
                let [low, high] = load_row!(w, $at);
                for (row, x) in sums.iter_mut().zip(rows) {
                    let value = broadcast!(x, k, $at);
                    row[0] = _mm256_fmadd_ps(low, value, row[0]);
                    row[1] = _mm256_fmadd_ps(high, value, row[1]);
                }
            };
        }
        // Several inputs at a time, so that the loop itself takes few instructions.
        while k + UNROLLED <= depth {
            if k == fetch_at {
                let line = |at: usize| fetch.ahead.wrapping_add((k + at) * PANEL_WIDTH).cast();
                (0..UNROLLED).for_each(|at| _mm_prefetch::<_MM_HINT_T0>(line(at)));
                fetch_at += fetch.step * UNROLLED;
            }
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            step!(4);
            step!(5);
            step!(6);
            step!(7);
            w = w.add(UNROLLED * PANEL_WIDTH);
            k += UNROLLED;
        }
        while k < depth {
            step!(0);
            w = w.add(PANEL_WIDTH);
            k += 1;
        }
        for (r, row) in sums.iter().enumerate() {
            for (half, sum) in row.iter().enumerate() {
                _mm256_storeu_ps(out.add(r * stride + half * LANES), *sum);
            }
        }
    }
}

/// Adds a row's products of four bytes.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn add_bytes(sums: &mut [__m256i; 2], x: __m256i, w: [__m256i; 2]) {
    *sums = [_mm256_dpbusd_avx_epi32(sums[0], x, w[0]), _mm256_dpbusd_avx_epi32(sums[1], x, w[1])];
}

/// Adds a row's products of two 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
fn add_pairs(sums: &mut [__m256i; 2], x: __m256i, w: [__m256i; 2]) {
    // The compiler would add each product at once, which takes a Zen 3 longer.
    //
    // SAFETY: the caller has AVX2, and the instructions access registers only.
    unsafe {
        asm!(
            "vpmaddwd {product}, {x}, {low}",
            "vpmaddwd {x}, {x}, {high}",
            "vpaddd {low_sums}, {low_sums}, {product}",
            "vpaddd {high_sums}, {high_sums}, {x}",
            product = out(ymm_reg) _,
            x = inout(ymm_reg) x => _,
            low = in(ymm_reg) w[0],
            high = in(ymm_reg) w[1],
            low_sums = inout(ymm_reg) sums[0],
            high_sums = inout(ymm_reg) sums[1],
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// Makes the tile of a unit. `$line` lists the lines of the cache that four inputs of a panel take; `$add` adds a row's
/// products with one line.
macro_rules! quantized_tile {
    ($name:ident, $features:literal, [$($line:literal),+], $add:expr) => {
        /// [`QuantizedTile::add`] for `R` rows and one panel, the whole tile in registers.
        ///
        /// # Safety
        /// As [`QuantizedTile::add`].
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(job: &QuantizedJob) {
            /// Bytes of a line.
            const LINE: usize = 64;
            /// Lines of [`PANEL_GROUP`] inputs.
            const LINES: usize = [$($line),+].len();
            let QuantizedJob { mut start, mut start_stride, mut scales, mut column_sums, mut x_scales, .. } = *job;
            let QuantizedJob { w, out, stride, fetch, .. } = *job;
            // SAFETY: every offset is within the ranges of the job: rows below `R`, `g` below its `fours`, and groups
            // as many as it has. Fetching an address, wherever it is, changes nothing.
            unsafe {
                let rows: [*const u8; R] = begins(job.x, job.x_stride);
                let (mut g, mut fetch_at) = (0, fetch.from);
                for fours in each_group(job) {
                    let mut sums: [[__m256i; 2]; R] = [[_mm256_setzero_si256(); 2]; R];
                    for _ in 0..fours {
                        if g == fetch_at {
                            fetch_at += fetch.step;
                            _mm_prefetch::<_MM_HINT_T0>(fetch.ahead.wrapping_add(g * PANEL_GROUP * PANEL_WIDTH));
                        }
                        $(
                            let weights = load_row!(w.add(g * LINES * LINE), $line);
                            for (row, x) in sums.iter_mut().zip(rows) {
                                $add(row, broadcast!(x, g * LINES, $line), weights);
                            }
                        )+
                        g += 1;
                    }
                    for half in 0..2 {
                        let scales = _mm256_loadu_ps(scales.add(half * LANES));
                        let column_sums = _mm256_loadu_ps(column_sums.add(half * LANES));
                        for (r, row) in sums.iter().enumerate() {
                            let scale = *x_scales.add(r * job.x_scale_stride);
                            let (zero_point, scale) = (_mm256_set1_ps(scale.zero_point), _mm256_set1_ps(scale.scale));
                            // The difference is exact: both are whole numbers below 2^24, and so is their difference.
                            let centred = _mm256_fnmadd_ps(zero_point, column_sums, _mm256_cvtepi32_ps(row[half]));
                            let before = match start.is_null() {
                                true => _mm256_setzero_ps(),
                                false => _mm256_loadu_ps(start.add(r * start_stride + half * LANES)),
                            };
                            let after = _mm256_fmadd_ps(centred, _mm256_mul_ps(scale, scales), before);
                            _mm256_storeu_ps(out.add(r * stride + half * LANES), after);
                        }
                    }
                    (start, start_stride, x_scales) = (out, stride, x_scales.wrapping_add(1));
                    scales = scales.wrapping_add(job.scale_stride);
                    column_sums = column_sums.wrapping_add(job.scale_stride);
                }
            }
        }
    };
}

quantized_tile!(add_quantized, "avx2,fma", [0, 1], add_pairs);
quantized_tile!(add_quantized_vnni, "avx2,fma,avxvnni", [0], add_bytes);
