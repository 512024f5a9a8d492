//! The arithmetic of the lowered engine, one file for each instruction set.
//!
//! A [`Kernel`] multiplies, in f32 and in codes of eight bits, and does what lies between products to rows of f32.
//! [`naive`] is the oracle: plain Rust, in the order of the formulas. The others are tested against it (products of codes
//! are exact, so they agree to the bit) and chosen at run time by what the CPU has; `EDGE_RUN_ISA` forces one.

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
#[cfg(target_arch = "x86_64")]
mod x86;

use std::{
    fmt::Debug,
    hint::black_box,
    time::{Duration, Instant},
};

use bias_patch::{Activation, PANEL_GROUP, PANEL_WIDTH, SCALE_GROUP};

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

/// How codes of eight bits stand for activations: a value is `step` times (code - `zero`), `zero` being a whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    pub step: f32,
    pub zero: f32,
}

/// Inputs whose codes share a scale.
pub(crate) const GROUP: usize = SCALE_GROUP as usize;

/// Rows of activations in codes of eight bits, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeRows<'a> {
    /// The first row begins here; every row is whole groups of [`PANEL_GROUP`] codes.
    pub data: &'a [u8],
    /// From one row to the next.
    pub stride: usize,
    /// How many there are.
    pub count: usize,
    /// For each row one for each [`GROUP`] of its codes.
    pub scales: &'a [Scale],
}

/// A matrix of codes of eight bits laid out in panels: a value is its code times the scale of its column and group of
/// rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodePanels<'a> {
    /// Panels of [`PANEL_WIDTH`] columns; of each column [`PANEL_GROUP`] rows side by side, zeros filling the last.
    pub data: &'a [i8],
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
    /// For each [`GROUP`] of rows one for each column.
    pub scales: &'a [f32],
    /// For each group of rows and each column the sum of its codes: what a product has too much of, times the zero of the
    /// activations.
    pub sums: &'a [f32],
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start<'a> {
    /// Nothing.
    Zero,
    /// For each row of the product the row of `table` that `rows` names. Rows of `table` begin `stride` values apart and
    /// have at least as many as the product has columns.
    Bias { table: &'a [f32], stride: usize, rows: &'a [i64] },
}

/// Arithmetic on rows and panels.
pub(crate) trait Kernel: Debug + Send + Sync {
    /// The name that `EDGE_RUN_ISA` takes.
    fn name(&self) -> &'static str;

    /// `out[r, c] = start[r, c] + sum over k of x[r, k] w[k, c]`; rows of `out` are `stride` apart.
    fn multiply(&self, x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize);

    /// As [`Kernel::multiply`], for codes: the sum of products of the codes of a group is exact, and then scaled.
    fn multiply_codes(&self, x: CodeRows<'_>, w: CodePanels<'_>, start: Start<'_>, out: &mut [f32], stride: usize);

    /// Codes of at most [`GROUP`] finite values, and their scale: 0 and 255 stand for the smallest and the largest, or
    /// for 0 if all are on one side of it, so that 0 has a code too.
    fn encode(&self, values: &[f32], codes: &mut [u8]) -> Scale;

    /// The values of some rows of a panel of codes that share scales, row by row, as many rows as `out` holds; a column
    /// without a scale is 0.
    fn widen(&self, panel: &[i8], scales: &[f32], out: &mut [f32]);

    /// Applies an activation to each value.
    fn activate(&self, activation: Activation, values: &mut [f32]);

    /// Replaces each score of a row by e to the power of what it is above the largest, and gives their sum: over that sum,
    /// they are the row's softmax.
    fn exponentials(&self, row: &mut [f32]) -> f32;

    /// Normalises a row to mean 0 and variance 1, times `gain`, plus `bias`.
    fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32);
}

/// Checks what every implementation of [`Kernel::multiply`] relies on.
fn check_product(x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &[f32], stride: usize) {
    assert!(x.data.len() >= reach(x.count, x.stride, w.depth), "rows beyond their data");
    assert!(w.data.len() >= w.columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * w.depth, "panels beyond their data");
    check_sums(x.count, w.columns, start, out, stride);
}

/// Checks what every implementation of [`Kernel::multiply_codes`] relies on.
fn check_codes(x: CodeRows<'_>, w: CodePanels<'_>, start: Start<'_>, out: &[f32], stride: usize) {
    let (depth, groups) = (w.depth.next_multiple_of(PANEL_GROUP), w.depth.div_ceil(GROUP));
    assert!(x.data.len() >= reach(x.count, x.stride, depth), "rows beyond their data");
    assert!(x.scales.len() >= x.count * groups, "rows beyond their scales");
    assert!(w.data.len() >= w.columns.next_multiple_of(PANEL_WIDTH) * depth, "panels beyond their data");
    assert!(w.scales.len().min(w.sums.len()) >= w.columns * groups, "columns beyond their scales");
    check_sums(x.count, w.columns, start, out, stride);
}

/// Values from the first of `count` rows to the end of the last.
fn reach(count: usize, stride: usize, width: usize) -> usize {
    if count == 0 { 0 } else { (count - 1) * stride + width }
}

fn check_sums(count: usize, columns: usize, start: Start<'_>, out: &[f32], stride: usize) {
    assert!(out.len() >= reach(count, stride, columns), "products beyond their place");
    if let Start::Bias { table, stride, rows } = start {
        let inside = |row: &i64| {
            let begin = usize::try_from(*row).ok().and_then(|row| row.checked_mul(stride));
            begin.and_then(|begin| begin.checked_add(columns)).is_some_and(|end| end <= table.len())
        };
        assert!(rows.len() >= count && rows[..count].iter().all(inside), "bias rows beyond their table");
    }
}

/// All kernels this CPU can run, the fastest first.
fn available() -> Vec<&'static dyn Kernel> {
    let mut found: Vec<&'static dyn Kernel> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(x86::Avx512Vnni::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::Avx512::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::AvxVnni::detect().map(|k| k as &dyn Kernel));
        found.extend(x86::Avx2::detect().map(|k| k as &dyn Kernel));
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

/// Billions of multiplications and additions a second that a kernel reaches on matrices that are in the first cache, the
/// best of what `time` has room for.
pub(crate) fn peak_gflops(kernel: &dyn Kernel, time: Duration) -> f64 {
    const ROWS: usize = 24;
    const DEPTH: usize = 128;
    const COLUMNS: usize = 3 * PANEL_WIDTH;
    let (x, w) = (vec![1.0; ROWS * DEPTH], vec![1.0; DEPTH * COLUMNS]);
    let mut out = vec![0.0; ROWS * COLUMNS];
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while begun.elapsed() < time {
        const TIMES: usize = 64;
        let begun = Instant::now();
        for _ in 0..TIMES {
            let x = Rows { data: &x, stride: DEPTH, count: ROWS };
            let w = Panels { data: &w, depth: DEPTH, columns: COLUMNS };
            kernel.multiply(black_box(x), black_box(w), Start::Zero, &mut out, COLUMNS);
        }
        best = best.min(begun.elapsed().as_secs_f64() / TIMES as f64);
    }
    black_box(&out);
    2.0 * (ROWS * DEPTH * COLUMNS) as f64 / best / 1e9
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
                    let bias_stride = columns + 2;
                    let table = numbers(3 * bias_stride, 3);
                    let rows: Vec<i64> = (0..count as i64).map(|r| r % 3).collect();
                    let same = vec![1; count];
                    for start in [
                        Start::Zero,
                        Start::Bias { table: &table, stride: bias_stride, rows: &rows },
                        Start::Bias { table: &table, stride: bias_stride, rows: &same },
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

    /// Codes that are as extreme as they can be, so that sums that saturate show.
    fn codes(count: usize, seed: u32) -> Vec<i8> {
        let of = |v: f32| if v.abs() > 0.5 { 127f32.copysign(v) } else { v * 254.0 };
        numbers(count, seed).iter().map(|v| of(*v) as i8).collect()
    }

    #[test]
    fn products_of_codes_are_those_of_the_naive_kernel_to_the_bit() {
        for count in [1, 2, 3, 5, 6, 7, 8, 9, 13, 17] {
            for (depth, columns) in [(1usize, 16usize), (7, 1), (32, 48), (33, 50), (384, 31), (1537, 100)] {
                let (groups, panels) = (depth.div_ceil(PANEL_GROUP), columns.div_ceil(PANEL_WIDTH));
                let (x_stride, stride) = (groups * PANEL_GROUP + 4, columns + 5);
                let x: Vec<u8> = codes(count * x_stride, 1).iter().map(|code| code.cast_unsigned() ^ 128).collect();
                let data = codes(panels * groups * PANEL_GROUP * PANEL_WIDTH, 2);
                let of_scales = depth.div_ceil(GROUP);
                let scales = numbers(columns * of_scales, 3);
                let sums: Vec<f32> = numbers(columns * of_scales, 5).iter().map(|v| (v * 1e4).round()).collect();
                let x_scales: Vec<Scale> = numbers(count * of_scales, 6)
                    .iter()
                    .map(|v| Scale { step: *v, zero: (v * 100.0).round() + 128.0 })
                    .collect();
                let bias_stride = columns + 1;
                let table = numbers(3 * bias_stride, 4);
                let rows: Vec<i64> = (0..count as i64).map(|r| r % 3).collect();
                let x = CodeRows { data: &x, stride: x_stride, count, scales: &x_scales };
                let w = CodePanels { data: &data, depth, columns, scales: &scales, sums: &sums };
                for start in [Start::Zero, Start::Bias { table: &table, stride: bias_stride, rows: &rows }] {
                    let mut expected = vec![9.0; count * stride];
                    naive::Naive.multiply_codes(x, w, start, &mut expected, stride);
                    for kernel in fast() {
                        let mut found = vec![9.0; count * stride];
                        kernel.multiply_codes(x, w, start, &mut found, stride);
                        assert_eq!(found, expected, "{}: {count} x {depth} x {columns}", kernel.name());
                    }
                }
            }
        }
    }

    #[test]
    fn codes_stand_for_values_within_half_a_step() {
        for kernel in available() {
            for (len, shift) in [(1, 0.0), (5, 0.0), (16, 0.0), (100, 0.0), (256, 1.5), (31, -9.0)] {
                let values: Vec<f32> = numbers(len, 8).iter().map(|v| v * 3.0 + shift).collect();
                let (mut found, mut expected) = (vec![0; len], vec![0; len]);
                let scale = kernel.encode(&values, &mut found);
                assert_eq!(scale, naive::Naive.encode(&values, &mut expected));
                assert_eq!(found, expected, "{} codes of {len}", kernel.name());
                assert!((0.0..=255.0).contains(&scale.zero) && scale.zero.fract() == 0.0);
                for (value, code) in values.iter().zip(&found) {
                    // The zero's own rounding moves the ends by up to half a step.
                    let error = value - scale.step * (f32::from(*code) - scale.zero);
                    assert!(error.abs() <= 1.001 * scale.step, "{} {value} {code} {scale:?}", kernel.name());
                }
                assert_eq!(kernel.encode(&vec![0.0; len], &mut found), Scale { step: 1.0, zero: 0.0 });
                assert_eq!(found, vec![0; len]);
            }
        }
    }

    #[test]
    fn a_widened_panel_is_the_naive_kernels_to_the_bit() {
        for depth in [1usize, 4, 6, 33] {
            let panel = codes(depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH, 9);
            for columns in [1, 15, 16] {
                let scales = numbers(columns, 10);
                let mut expected = vec![9.0; depth * PANEL_WIDTH];
                naive::Naive.widen(&panel, &scales, &mut expected);
                assert_eq!(expected[0], f32::from(panel[0]) * scales[0]);
                for kernel in fast() {
                    let mut found = vec![9.0; depth * PANEL_WIDTH];
                    kernel.widen(&panel, &scales, &mut found);
                    assert_eq!(found, expected, "{}: {depth} x {columns}", kernel.name());
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
    fn exponentials_and_normalise_agree_with_the_naive_kernel() {
        for kernel in fast() {
            for len in [1, 2, 15, 16, 17, 100, 384] {
                let scores: Vec<f32> = numbers(len, 5).iter().map(|v| v * 30.0).collect();
                let (mut expected, mut found) = (scores.clone(), scores.clone());
                let sums = (naive::Naive.exponentials(&mut expected), kernel.exponentials(&mut found));
                assert!(worst(&expected, &found) < 1e-6, "{} exponentials of {len}", kernel.name());
                assert!((sums.0 - sums.1).abs() < 1e-5 * sums.0, "{} sum of {len}", kernel.name());

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
            let sum = kernel.exponentials(&mut row);
            assert!(row.iter().all(|v| (v / sum - 0.05).abs() < 1e-6), "{}", kernel.name());
        }
    }
}
