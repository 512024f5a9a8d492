//! AVX2 with FMA: tiles of six rows by one panel, a panel's row (or four rows of int8 values) being two registers.

#![allow(unsafe_code)]

use core::arch::{
    asm,
    x86_64::{
        __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_epi32, _mm256_and_si256,
        _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_dpbusd_avx_epi32, _mm256_fmadd_ps, _mm256_fnmadd_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srai_epi16,
        _mm256_srli_epi16, _mm256_storeu_ps,
    },
};

use crate::layout::{PANEL_GROUP, PANEL_WIDTH};

use super::blocked::{Job, QuantizedJob, QuantizedTile, Tile, begins};

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
    const ROWS: usize = 4;
    const PANELS: usize = 1;

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        // SAFETY: the caller vouches for AVX2, FMA and the job; `rows` is that of the instance.
        unsafe { instance!(add_quantized, rows, job) }
    }
}

/// AVX-VNNI.
pub(super) struct VnniQuantized;

impl QuantizedTile for VnniQuantized {
    const ROWS: usize = 6;
    const PANELS: usize = 1;

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
        let (low, high): (__m256, __m256);
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
        let value: __m256;
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

/// Bytes at even and odd places as 16-bit integers with their signs.
#[inline]
#[target_feature(enable = "avx2")]
fn signed_halves(w: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w)]
}

/// Bytes at even and odd places as 16-bit integers without signs.
#[inline]
#[target_feature(enable = "avx2")]
fn unsigned_halves(x: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x)]
}

/// Adds the products of four bytes to each sum. AVX2's instruction for bytes saturates, so the one for 16-bit integers
/// is used.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(sum: __m256i, x: [__m256i; 2], w: [__m256i; 2]) -> __m256i {
    _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(x[0], w[0]), _mm256_madd_epi16(x[1], w[1])))
}

/// The quantized values as they are.
#[inline(always)]
fn same(quantized: __m256i) -> __m256i {
    quantized
}

/// A tile of quantized values: how weights and activations are loaded, and how their products are added.
macro_rules! quantized_tile {
    ($name:ident, $features:literal, $weights:expr, $activations:expr, $add:expr) => {
        /// [`QuantizedTile::add`] for `R` rows and one panel, the whole tile in registers.
        ///
        /// # Safety
        /// As [`QuantizedTile::add`].
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize>(job: &QuantizedJob) {
            /// Bytes of a panel's group, and of half of it.
            const LINE: usize = PANEL_GROUP * PANEL_WIDTH;
            const HALF: usize = LINE / 2;
            let QuantizedJob { x, x_stride, w, fours, start, start_stride, out, stride, fetch, .. } = *job;
            // SAFETY: every offset is within the ranges of the job: rows below `R`, `g` below `fours`. Fetching an
            // address, wherever it is, changes nothing.
            unsafe {
                let mut sums: [[__m256i; 2]; R] = [[_mm256_setzero_si256(); 2]; R];
                let mut fetch_at = fetch.from;
                for g in 0..fours {
                    if g == fetch_at {
                        fetch_at += fetch.step;
                        _mm_prefetch::<_MM_HINT_T0>(fetch.ahead.wrapping_add(g * LINE));
                    }
                    let low = $weights(_mm256_loadu_si256(w.add(g * LINE).cast()));
                    let high = $weights(_mm256_loadu_si256(w.add(g * LINE + HALF).cast()));
                    for (r, row) in sums.iter_mut().enumerate() {
                        let quantized = x.add(r * x_stride + g * PANEL_GROUP).cast::<i32>().read_unaligned();
                        let quantized = $activations(_mm256_set1_epi32(quantized));
                        row[0] = $add(row[0], quantized, low);
                        row[1] = $add(row[1], quantized, high);
                    }
                }
                for half in 0..2 {
                    let scales = _mm256_loadu_ps(job.scales.add(half * LANES));
                    let column_sums = _mm256_loadu_ps(job.column_sums.add(half * LANES));
                    for (r, row) in sums.iter().enumerate() {
                        let scale = *job.x_scales.add(r * job.x_scale_stride);
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
            }
        }
    };
}

quantized_tile!(add_quantized, "avx2,fma", signed_halves, unsigned_halves, add_products);
quantized_tile!(add_quantized_vnni, "avx2,fma,avxvnni", same, same, _mm256_dpbusd_avx_epi32);
