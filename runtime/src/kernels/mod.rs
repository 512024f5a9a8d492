//! The arithmetic of the lowered engine, one file for each instruction set.
//!
//! A [`Kernel`] multiplies, in f32 and in codes of eight bits, and does what lies between products to rows of f32.
//! [`naive`] is the oracle: plain Rust, in the order of the formulas. The others are tested against it (products of codes
//! are exact, so they agree to the bit) and chosen at run time by what the CPU has; `EDGE_RUN_ISA` forces one.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
#[macro_use]
mod unit;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
mod blocked;
mod naive;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "arm")]
mod neon32;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
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
#[repr(C)]
pub(crate) struct Scale {
    pub step: f32,
    pub zero: f32,
}

/// Values that span less are all encoded as 0: steps between them would have no finite inverse.
const LEAST_SPAN: f32 = 1e-30;

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
    /// What is in its place already.
    There,
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

    /// `out[r, k] += sum over c of y[r, c] w[k, c]`: the adjoint of [`Kernel::multiply`] with respect to its rows. Rows of
    /// `y` have as many values as `w` has columns, those of `out` are `stride` apart.
    fn multiply_transposed(&self, y: Rows<'_>, w: Panels<'_>, out: &mut [f32], stride: usize);

    /// Multiplies each gradient by the slope of an activation at the value that went into it.
    fn activate_adjoint(&self, activation: Activation, values: &[f32], gradients: &mut [f32]);

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

    /// Normalises a row to mean 0 and variance 1, times `gain`, plus `bias`. Gives the inverse of the deviation it had.
    fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) -> f32;
}

/// Checks what every implementation of [`Kernel::multiply`] relies on.
fn check_product(x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &[f32], stride: usize) {
    assert!(x.data.len() >= reach(x.count, x.stride, w.depth), "rows beyond their data");
    assert!(w.data.len() >= w.columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * w.depth, "panels beyond their data");
    check_sums(x.count, w.columns, start, out, stride);
}

/// Checks what every implementation of [`Kernel::multiply_transposed`] relies on.
fn check_transposed(y: Rows<'_>, w: Panels<'_>, out: &[f32], stride: usize) {
    assert!(y.data.len() >= reach(y.count, y.stride, w.columns), "rows beyond their data");
    assert!(w.data.len() >= w.columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * w.depth, "panels beyond their data");
    assert!(out.len() >= reach(y.count, stride, w.depth), "products beyond their place");
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
    #[cfg(target_arch = "aarch64")]
    {
        found.extend(neon::NeonDot::detect().map(|k| k as &dyn Kernel));
        found.extend(neon::Neon::detect().map(|k| k as &dyn Kernel));
    }
    #[cfg(target_arch = "arm")]
    found.extend(neon32::Neon::detect().map(|k| k as &dyn Kernel));
    found.push(&naive::Naive);
    found
}

/// Whether one of the kernels is for this CPU's vector instructions; without, plain code runs, many times slower.
pub fn cpu_is_known() -> bool {
    available().len() > 1
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
mod tests;
