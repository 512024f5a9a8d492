//! AVX-512: tiles of eight rows by three panels, a panel's row being one register.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use bias_patch::PANEL_WIDTH;

use super::blocked::{Job, Tile};

/// Rows of a panel to fetch before they are due.
const AHEAD: usize = 64;

vector_unit! {
    /// AVX-512 F, which every CPU with AVX-512 has, and the FMA and AVX2 below it.
    Avx512, "avx512", "avx512f,avx2,fma", "avx512f", "avx2", "fma"
}

impl Tile for Avx512 {
    const ROWS: usize = 8;
    const PANELS: usize = 3;

    unsafe fn add(rows: usize, panels: usize, job: &Job) {
        macro_rules! tile {
            ($rows:literal) => {
                match (panels, job.fetch) {
                    (1, false) => tile::<$rows, 1, false>(job),
                    (1, true) => tile::<$rows, 1, true>(job),
                    (2, false) => tile::<$rows, 2, false>(job),
                    (2, true) => tile::<$rows, 2, true>(job),
                    (_, false) => tile::<$rows, 3, false>(job),
                    (_, true) => tile::<$rows, 3, true>(job),
                }
            };
        }
        // SAFETY: the caller vouches for AVX-512 F and the job; `rows` and `panels` are those of the instance.
        unsafe {
            match rows {
                1 => tile!(1),
                2 => tile!(2),
                3 => tile!(3),
                4 => tile!(4),
                5 => tile!(5),
                6 => tile!(6),
                7 => tile!(7),
                _ => tile!(8),
            }
        }
    }
}

/// [`Tile::add`] for `R` rows and `P` panels, the whole tile in registers.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const P: usize, const FETCH: bool>(job: &Job) {
    let Job { x, x_stride, w, panel_stride, depth, start, start_stride, out, stride, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, panels below `P`, `k` below `depth`. Fetching
    // an address, wherever it is, changes nothing.
    unsafe {
        let mut sums: [[__m512; P]; R] = [[_mm512_setzero_ps(); P]; R];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                for (p, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(start.add(r * start_stride + p * PANEL_WIDTH));
                }
            }
        }
        for k in 0..depth {
            let mut weights = [_mm512_setzero_ps(); P];
            for (p, weight) in weights.iter_mut().enumerate() {
                let line = w.add(p * panel_stride + k * PANEL_WIDTH);
                if FETCH {
                    // The processor's own fetching ahead stops at every page.
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD * PANEL_WIDTH).cast());
                }
                *weight = _mm512_loadu_ps(line);
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
