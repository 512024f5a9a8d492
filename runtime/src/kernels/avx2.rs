//! AVX2 with FMA: tiles of six rows by one panel, a panel's row being two registers.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use bias_patch::PANEL_WIDTH;

use super::blocked::{Job, Tile};

/// Values in a register.
const LANES: usize = 8;

vector_unit! {
    /// AVX2 and FMA.
    Avx2, "avx2", "avx2,fma", "avx2", "fma"
}

impl Tile for Avx2 {
    const ROWS: usize = 6;
    const PANELS: usize = 1;

    unsafe fn add(rows: usize, _panels: usize, job: &Job) {
        // SAFETY: the caller vouches for AVX2, FMA and the job; `rows` is that of the instance.
        unsafe {
            match rows {
                1 => tile::<1>(job),
                2 => tile::<2>(job),
                3 => tile::<3>(job),
                4 => tile::<4>(job),
                5 => tile::<5>(job),
                _ => tile::<6>(job),
            }
        }
    }
}

/// [`Tile::add`] for `R` rows and one panel, the whole tile in registers.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize>(job: &Job) {
    let Job { x, x_stride, w, depth, start, start_stride, out, stride, .. } = *job;
    // SAFETY: every offset is within the ranges of the job: rows below `R`, `k` below `depth`.
    unsafe {
        let mut sums: [[__m256; 2]; R] = [[_mm256_setzero_ps(); 2]; R];
        if !start.is_null() {
            for (r, row) in sums.iter_mut().enumerate() {
                for (half, sum) in row.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(start.add(r * start_stride + half * LANES));
                }
            }
        }
        for k in 0..depth {
            let low = _mm256_loadu_ps(w.add(k * PANEL_WIDTH));
            let high = _mm256_loadu_ps(w.add(k * PANEL_WIDTH + LANES));
            for (r, row) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*x.add(r * x_stride + k));
                row[0] = _mm256_fmadd_ps(low, value, row[0]);
                row[1] = _mm256_fmadd_ps(high, value, row[1]);
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (half, sum) in row.iter().enumerate() {
                _mm256_storeu_ps(out.add(r * stride + half * LANES), *sum);
            }
        }
    }
}
