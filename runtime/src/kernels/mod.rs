//! The arithmetic of the lowered engine, one file for each instruction set.
//!
//! A [`Kernel`] does five things to slices of f32. [`naive`] is the oracle: plain Rust, in the order of the formulas.
//! The others are tested against it and chosen at run time by what the CPU has; `EDGE_RUN_ISA` forces one.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod blocked;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod naive;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::fmt::Debug;

use bias_patch::{Activation, PANEL_WIDTH};

use crate::{Error, Result};

/// Rows of a matrix that lie `stride` values apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The first row begins here.
    pub data: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
}

/// A matrix laid out in panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    /// Panels of [`PANEL_WIDTH`] columns, row by row, zeros filling the last.
    pub data: &'a [f32],
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// For each row of the product the row of `table` that `rows` names; `table` has as many columns as the product.
    Bias { table: &'a [f32], rows: &'a [i64] },
}

/// Arithmetic on f32.
pub(crate) trait Kernel: Debug + Send + Sync {
    /// The name that `EDGE_RUN_ISA` takes.
    fn name(&self) -> &'static str;

    /// `out[r, c] = start[r, c] + sum over k of x[r, k] w[k, c]`; rows of `out` are `stride` apart.
    fn multiply(&self, x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize);

    /// Applies an activation to each value.
    fn activate(&self, activation: Activation, values: &mut [f32]);

    /// Replaces a row of scores by their softmax.
    fn softmax(&self, row: &mut [f32]);

    /// Normalises a row to mean 0 and variance 1, times `gain`, plus `bias`.
    fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32);
}

/// Checks what every implementation of [`Kernel::multiply`] relies on.
fn check_product(x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &[f32], stride: usize) {
    let reach = |stride: usize, width: usize| if x.count == 0 { 0 } else { (x.count - 1) * stride + width };
    assert!(x.data.len() >= reach(x.stride, w.depth), "rows beyond their data");
    assert!(w.data.len() >= w.columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * w.depth, "panels beyond their data");
    assert!(out.len() >= reach(stride, w.columns), "products beyond their place");
    if let Start::Bias { table, rows } = start {
        let count = table.len() / w.columns.max(1);
        let inside = |row: &i64| usize::try_from(*row).is_ok_and(|row| row < count);
        assert!(rows.len() >= x.count && rows.iter().all(inside), "bias rows beyond their table");
    }
}

/// All kernels this CPU can run, the fastest first.
fn available() -> Vec<&'static dyn Kernel> {
    let mut found: Vec<&'static dyn Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(avx512::Avx512::detect().map(|k| k as &dyn Kernel));
        found.extend(avx2::Avx2::detect().map(|k| k as &dyn Kernel));
    }
    found.push(&naive::Naive);
    found
}

/// The fastest kernel of this CPU, or the one that `EDGE_RUN_ISA` names.
///
/// # Errors
/// When that one does not exist or this CPU cannot run it.
pub(crate) fn select() -> Result<&'static dyn Kernel> {
    let found = available();
    match std::env::var("EDGE_RUN_ISA") {
        Err(_) => Ok(found[0]),
        Ok(name) => found.iter().copied().find(|kernel| kernel.name() == name).ok_or_else(|| Error::Input {
            place: "EDGE_RUN_ISA".to_owned(),
            expected: format!(
                "one that this CPU runs: {}",
                found.iter().map(|k| k.name()).collect::<Vec<_>>().join(", ")
            ),
            found: name,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in [-1, 1) from a fixed linear congruential generator.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn fast() -> Vec<&'static dyn Kernel> {
        available().into_iter().filter(|k| k.name() != "naive").collect()
    }

    fn worst(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        assert!(b.iter().all(|v| v.is_finite()));
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// Summing `depth` products of numbers below 1 in another order moves the sum by a few roundings of its size.
    fn product_bound(depth: usize) -> f32 {
        f32::EPSILON * 2.0 * depth as f32
    }

    #[test]
    fn products_agree_with_the_naive_kernel() {
        for kernel in fast() {
            for count in [1, 2, 3, 5, 6, 7, 8, 9, 13, 17] {
                for (depth, columns) in
                    [(1usize, 16usize), (7, 1), (32, 48), (33, 50), (384, 31), (385, 100), (800, 160)]
                {
                    let (x_stride, stride) = (depth + 3, columns + 5);
                    let x = numbers(count * x_stride, 1);
                    let panels = numbers(columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * depth, 2);
                    let table = numbers(3 * columns, 3);
                    let rows: Vec<i64> = (0..count as i64).map(|r| r % 3).collect();
                    let same = vec![1; count];
                    for start in [
                        Start::Zero,
                        Start::Bias { table: &table, rows: &rows },
                        Start::Bias { table: &table, rows: &same },
                    ] {
                        let x = Rows { data: &x, stride: x_stride, count };
                        // What is beside the product has to stay as it is.
                        let (mut expected, mut found) = (vec![9.0; count * stride], vec![9.0; count * stride]);
                        let w = Panels { data: &panels, depth, columns };
                        naive::Naive.multiply(x, w, start, &mut expected, stride);
                        kernel.multiply(x, w, start, &mut found, stride);
                        let worst = worst(&expected, &found);
                        let what = format!("{}: {count} x {depth} x {columns}", kernel.name());
                        assert!(worst <= product_bound(depth), "{what}: {worst:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn activations_agree_with_the_naive_kernel() {
        let values: Vec<f32> = numbers(1003, 4).iter().map(|v| v * 12.0).chain([0.0, -0.0, 90.0, -90.0]).collect();
        for kernel in fast() {
            for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh] {
                let (mut expected, mut found) = (values.clone(), values.clone());
                naive::Naive.activate(activation, &mut expected);
                kernel.activate(activation, &mut found);
                // An erf or tanh that is off by 4e-7 moves the value by that share of its argument.
                let errors =
                    expected.iter().zip(&found).zip(&values).map(|((a, b), x)| (a - b).abs() / x.abs().max(1.0));
                let worst = errors.fold(0.0, f32::max);
                assert!(worst < 4e-7, "{} {activation:?}: {worst:e}", kernel.name());
            }
        }
    }

    #[test]
    fn softmax_and_normalise_agree_with_the_naive_kernel() {
        for kernel in fast() {
            for len in [1, 2, 15, 16, 17, 100, 384] {
                let scores: Vec<f32> = numbers(len, 5).iter().map(|v| v * 30.0).collect();
                let (mut expected, mut found) = (scores.clone(), scores.clone());
                naive::Naive.softmax(&mut expected);
                kernel.softmax(&mut found);
                assert!(worst(&expected, &found) < 1e-6, "{} softmax of {len}", kernel.name());
                assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-5);

                let (gain, bias) = (numbers(len, 6), numbers(len, 7));
                let (mut expected, mut found) = (scores.clone(), scores);
                naive::Naive.normalise(&mut expected, &gain, &bias, 1e-12);
                kernel.normalise(&mut found, &gain, &bias, 1e-12);
                assert!(worst(&expected, &found) < 1e-5, "{} normalise of {len}", kernel.name());
            }
        }
    }

    #[test]
    fn scores_that_are_all_lowest_share_evenly() {
        for kernel in available() {
            let mut row = vec![f32::MIN; 20];
            kernel.softmax(&mut row);
            assert!(row.iter().all(|v| (v - 0.05).abs() < 1e-6), "{}", kernel.name());
        }
    }
}
