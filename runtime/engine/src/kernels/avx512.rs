//! AVX-512: tiles of eight rows by three panels, a panel's row (or four rows of int8 values) being one register.

#![allow(unsafe_code)]

use core::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
};

use crate::layout::{PANEL_GROUP, PANEL_WIDTH};

use super::blocked::{Job, QuantizedJob, QuantizedTile, Tile};

/// Picks the instance of `tile` for a number of rows and panels.
macro_rules! instance {
    ($tile:ident, $rows:expr, $panels:expr, $($argument:expr),+) => {{
        macro_rules! rows {
            ($r:literal) => {
                match $panels {
                    1 => $tile::<$r, 1>($($argument),+),
                    2 => $tile::<$r, 2>($($argument),+),
                    _ => $tile::<$r, 3>($($argument),+),
                }
            };
        }
        match $rows {
            1 => rows!(1),
            2 => rows!(2),
            3 => rows!(3),
            4 => rows!(4),
            5 => rows!(5),
            6 => rows!(6),
            7 => rows!(7),
            _ => rows!(8),
        }
    }};
}

/// AVX-512 F.
pub(super) struct Floats;

impl Tile for Floats {
    const ROWS: usize = 8;
    const PANELS: usize = 3;
    /// 24 KB, half of the cache.
    const BLOCK: usize = 128;

    unsafe fn add(rows: usize, panels: usize, job: &Job) {
        // SAFETY: the caller vouches for AVX-512 F and the job; `rows` and `panels` are those of the instance.
        unsafe { instance!(add, rows, panels, job) }
    }

    fn fetch(line: *const f32) {
        // SAFETY: every x86-64 has the instruction, and fetching an address, wherever it is, changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
        #[target_feature(enable = "avx512f")]
        unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
            for (halves, out) in halves.iter().zip(out) {
                // SAFETY: a row is one register, and half of one.
                unsafe {
                    _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())))
                }
            }
        }
        // SAFETY: the caller vouches for AVX-512 F.
        unsafe { widen(halves, out) }
    }
}

/// AVX-512 VNNI.
pub(super) struct Quantized;

impl QuantizedTile for Quantized {
    const ROWS: usize = 8;
    const PANELS: usize = 3;

    unsafe fn add(rows: usize, panels: usize, job: &QuantizedJob) {
        // SAFETY: the caller vouches for AVX-512 VNNI and the job.
        unsafe { add_to(rows, panels, job, None) }
    }
}

/// What was multiplied before a job: its first inputs.
pub(super) struct Before {
    /// Readable for each panel: [`PANEL_WIDTH`] sums a row, row after row.
    pub sums: *const i32,
    /// From one panel to the next.
    pub panel_stride: usize,
    /// How many times [`PANEL_GROUP`] inputs.
    pub fours: usize,
}

/// [`QuantizedTile::add`], perhaps of a job whose first inputs are multiplied already.
///
/// # Safety
/// As [`QuantizedTile::add`]; `before` is as its fields say, for the rows and panels of the job.
pub(super) unsafe fn add_to(rows: usize, panels: usize, job: &QuantizedJob, before: Option<&Before>) {
    // SAFETY: the caller vouches for AVX-512 VNNI, the job and `before`; `rows` and `panels` are those of the instance.
    unsafe { instance!(add_quantized, rows, panels, job, before) }
}

/// [`Tile::add`] for `R` rows and `P` panels, the whole tile in registers.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "avx512f")]
unsafe fn add<const R: usize, const P: usize>(job: &Job) {
    let Job { x, x_stride, w, panel_stride, depth, start, start_stride, out, stride, fetch } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, panels below `P`, `k` below `depth`.
    // Fetching an address, wherever it is, changes nothing.
    unsafe {
        let mut sums: [[__m512; P]; R] = [[_mm512_setzero_ps(); P]; R];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                for (p, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(start.add(r * start_stride + p * PANEL_WIDTH));
                }
            }
        }
        let mut fetch_at = fetch.from;
        for k in 0..depth {
            if k == fetch_at {
                fetch_at += fetch.step;
                for p in 0..P {
                    let line = fetch.ahead.wrapping_add(p * panel_stride + k * PANEL_WIDTH);
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
            }
            let mut weights = [_mm512_setzero_ps(); P];
            for (p, weight) in weights.iter_mut().enumerate() {
                *weight = _mm512_loadu_ps(w.add(p * panel_stride + k * PANEL_WIDTH));
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*x.add(r * x_stride + k));
                for (sum, weight) in row.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(weight, value, *sum);
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (p, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(out.add(r * stride + p * PANEL_WIDTH), *sum);
            }
        }
    }
}

/// [`add_to`] for `R` rows and `P` panels, the whole tile in registers.
///
/// # Safety
/// As [`add_to`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_quantized<const R: usize, const P: usize>(job: &QuantizedJob, before: Option<&Before>) {
    /// Bytes of a panel's group.
    const LINE: usize = PANEL_GROUP * PANEL_WIDTH;
    let QuantizedJob { x, x_stride, w, panel_stride, fours, start, start_stride, out, stride, fetch, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, panels below `P`, `g` below `fours`; and of
    // what was before. Fetching an address, wherever it is, changes nothing.
    unsafe {
        let mut sums: [[__m512i; P]; R] = [[_mm512_setzero_si512(); P]; R];
        let mut first = 0;
        if let Some(before) = before {
            first = before.fours;
            for (r, row) in sums.iter_mut().enumerate() {
                for (p, sum) in row.iter_mut().enumerate() {
                    let place = before.sums.add(p * before.panel_stride + r * PANEL_WIDTH);
                    *sum = _mm512_loadu_si512(place.cast());
                }
            }
        }
        let mut fetch_at = fetch.from.max(first);
        for g in first..fours {
            if g == fetch_at {
                fetch_at += fetch.step;
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T0>(fetch.ahead.wrapping_add(p * panel_stride + g * LINE));
                }
            }
            let mut weights = [_mm512_setzero_si512(); P];
            for (p, weight) in weights.iter_mut().enumerate() {
                *weight = _mm512_loadu_si512(w.add(p * panel_stride + g * LINE).cast());
            }
            for (r, row) in sums.iter_mut().enumerate() {
                let quantized = x.add(r * x_stride + g * PANEL_GROUP).cast::<i32>().read_unaligned();
                let quantized = _mm512_set1_epi32(quantized);
                for (sum, weight) in row.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, quantized, weight);
                }
            }
        }
        let (mut scales, mut column_sums) = ([_mm512_setzero_ps(); P], [_mm512_setzero_ps(); P]);
        for p in 0..P {
            scales[p] = _mm512_loadu_ps(job.scales.add(p * PANEL_WIDTH));
            column_sums[p] = _mm512_loadu_ps(job.column_sums.add(p * PANEL_WIDTH));
        }
        for (r, row) in sums.iter().enumerate() {
            let scale = *job.x_scales.add(r * job.x_scale_stride);
            let (zero_point, scale) = (_mm512_set1_ps(scale.zero_point), _mm512_set1_ps(scale.scale));
            for (p, sum) in row.iter().enumerate() {
                // The difference is exact: both are whole numbers below 2^24, and so is their difference.
                let centred = _mm512_fnmadd_ps(zero_point, column_sums[p], _mm512_cvtepi32_ps(*sum));
                let before = match start.is_null() {
                    true => _mm512_setzero_ps(),
                    false => _mm512_loadu_ps(start.add(r * start_stride + p * PANEL_WIDTH)),
                };
                let after = _mm512_fmadd_ps(centred, _mm512_mul_ps(scale, scales[p]), before);
                _mm512_storeu_ps(out.add(r * stride + p * PANEL_WIDTH), after);
            }
        }
    }
}
