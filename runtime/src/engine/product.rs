//! Linear layers over some rows: x W + b, however W is stored, and its adjoint with respect to the rows.

use bias_patch::{PANEL_GROUP, PANEL_WIDTH};

use super::{
    Activations,
    machine::{Machine, Scratch},
    weights::{Matrix, Weight},
};
use crate::kernels::{CodePanels, CodeRows, GROUP, Panels, Rows, Scale, Start};

/// Columns that are made ready and multiplied together: the widest tile's.
pub(super) const COLUMNS: usize = 3 * PANEL_WIDTH;

/// A frozen matrix `[K, M]`, and where its bias is among the values of a task.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub weight: Weight,
    pub bias: usize,
}

/// The bias values of the tasks of a batch: `[T, L]`, a row holding every slot, one after the other; and for each row of
/// activations the task it is of.
#[derive(Clone, Copy)]
pub(super) struct Biases<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub rows: &'a [i64],
}

/// Rows of activations, and their codes if they are to meet weights in codes.
pub(super) struct Operand<'a> {
    floats: Rows<'a>,
    codes: Vec<u8>,
    scales: Vec<Scale>,
}

impl<'a> Biases<'a> {
    /// Those of some rows.
    pub fn of(self, rows: std::ops::Range<usize>) -> Self {
        Biases { rows: &self.rows[rows], ..self }
    }

    /// The values of the slot at `offset` that row `row` has.
    pub fn slot(&self, offset: usize, width: usize, row: usize) -> &'a [f32] {
        // Tasks are counted where rows are made, so they are in the table.
        &self.values[self.rows[row] as usize * self.stride + offset..][..width]
    }
}

impl<'a> Operand<'a> {
    /// Makes rows ready to be multiplied by `weight`, and by others that are stored as it is.
    pub fn new(machine: &Machine, floats: &'a [f32], weight: &Weight) -> Self {
        let width = weight.rows();
        let floats = Rows { data: floats, stride: width, count: floats.len() / width.max(1) };
        let mut operand = Operand { floats, codes: Vec::new(), scales: Vec::new() };
        if let (Matrix::Codes(_), Activations::Int8) = (weight.matrix(), machine.activations) {
            let (stride, groups) = (width.next_multiple_of(PANEL_GROUP), width.div_ceil(GROUP));
            operand.codes.resize(floats.count * stride, 0);
            operand.scales.resize(floats.count * groups, Scale::default());
            let places = operand.codes.chunks_mut(stride).zip(operand.scales.chunks_mut(groups));
            for (row, (codes, scales)) in floats.data.chunks(width).zip(places) {
                for ((values, codes), scale) in row.chunks(GROUP).zip(codes.chunks_mut(GROUP)).zip(scales) {
                    *scale = machine.kernel.encode(values, codes);
                }
            }
        }
        operand
    }

    /// x W + b into rows of `out` that are `stride` apart.
    pub fn multiply(&self, machine: &Machine, layer: &Layer, biases: Biases<'_>, out: &mut [f32], stride: usize) {
        let start = Start::Bias { table: &biases.values[layer.bias..], stride: biases.stride, rows: biases.rows };
        match layer.weight.matrix() {
            Matrix::Floats(panels) => machine.kernel.multiply(self.floats, panels, start, out, stride),
            Matrix::Codes(panels) if self.codes.is_empty() => {
                multiply_widened(machine, self.floats, panels, start, out, stride);
            }
            Matrix::Codes(panels) => {
                let code_stride = panels.depth.next_multiple_of(PANEL_GROUP);
                let count = self.floats.count;
                let codes = CodeRows { data: &self.codes, stride: code_stride, count, scales: &self.scales };
                machine.kernel.multiply_codes(codes, panels, start, out, stride);
            }
        }
    }
}

/// x W + b of one layer, or of several of one shape that read the same rows `[N, K]`, side by side in rows.
pub(super) fn project<'m>(machine: &'m Machine, x: &[f32], layers: &[Layer], biases: Biases<'_>) -> Scratch<'m> {
    let weight = &layers[0].weight;
    let (depth, width) = (weight.rows(), weight.columns());
    let stride = layers.len() * width;
    let mut out = machine.scratch(x.len() / depth * stride);
    machine.split(&mut out, stride, |rows, out| {
        let x = Operand::new(machine, &x[rows.start * depth..rows.end * depth], weight);
        for (at, layer) in layers.iter().enumerate() {
            x.multiply(machine, layer, biases.of(rows.clone()), &mut out[at * width..], stride);
        }
    });
    out
}

/// The adjoint of [`project`]: the sum of d W^T, `[N, K]`, of the gradients of what it gave.
pub(super) fn project_adjoint<'m>(machine: &'m Machine, d: &[f32], layers: &[Layer]) -> Scratch<'m> {
    let (depth, width) = (layers[0].weight.rows(), layers[0].weight.columns());
    let stride = layers.len() * width;
    let mut d_x = machine.scratch(d.len() / stride * depth);
    machine.split(&mut d_x, depth, |rows, d_x| {
        d_x.fill(0.0);
        for (at, layer) in layers.iter().enumerate() {
            let d = Rows { data: &d[rows.start * stride + at * width..], stride, count: rows.len() };
            multiply_transposed(machine, d, &layer.weight, d_x);
        }
    });
    d_x
}

/// Weights in codes and activations in f32.
fn multiply_widened(
    machine: &Machine,
    x: Rows<'_>,
    w: CodePanels<'_>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
) {
    each_widened(machine, w, |first, panels| {
        let start = match start {
            Start::Zero | Start::There => start,
            Start::Bias { table, stride, rows } => Start::Bias { table: &table[first..], stride, rows },
        };
        machine.kernel.multiply(x, panels, start, &mut out[first..], stride);
    });
}

/// Makes floats of some panels of codes at a time, so that they stay in the cache, and calls `work` with them and their
/// first column.
fn each_widened(machine: &Machine, w: CodePanels<'_>, mut work: impl FnMut(usize, Panels<'_>)) {
    let panel = w.depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH;
    let mut floats = machine.scratch(w.depth * COLUMNS);
    for first in (0..w.columns).step_by(COLUMNS) {
        let columns = (w.columns - first).min(COLUMNS);
        for (at, values) in floats.chunks_exact_mut(w.depth * PANEL_WIDTH).enumerate() {
            let column = first + at * PANEL_WIDTH;
            if column >= w.columns {
                break;
            }
            let codes = &w.data[column / PANEL_WIDTH * panel..][..panel];
            let groups = codes.chunks(GROUP * PANEL_WIDTH).zip(values.chunks_mut(GROUP * PANEL_WIDTH));
            for ((codes, values), scales) in groups.zip(w.scales.chunks(w.columns)) {
                machine.kernel.widen(codes, &scales[column..w.columns.min(column + PANEL_WIDTH)], values);
            }
        }
        work(first, Panels { data: &floats, depth: w.depth, columns });
    }
}

/// Adds y W^T to rows of `out`.
fn multiply_transposed(machine: &Machine, y: Rows<'_>, weight: &Weight, out: &mut [f32]) {
    match weight.matrix() {
        Matrix::Floats(panels) => machine.kernel.multiply_transposed(y, panels, out, panels.depth),
        Matrix::Codes(codes) => each_widened(machine, codes, |first, panels| {
            let y = Rows { data: &y.data[first..], ..y };
            machine.kernel.multiply_transposed(y, panels, out, codes.depth);
        }),
    }
}

/// The transpose of a matrix, by blocks that stay in the cache.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    for row0 in (0..rows).step_by(PANEL_WIDTH) {
        for column in 0..columns {
            for row in row0..rows.min(row0 + PANEL_WIDTH) {
                out[column * rows + row] = values[row * columns + column];
            }
        }
    }
}
