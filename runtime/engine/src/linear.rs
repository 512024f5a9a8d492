//! Linear layers, y = x W + b and perhaps a [low-rank term](low_rank), forward and backward, with W in f32, f16,
//! int8 or int4.
//!
//! Letters: N rows, K inputs, M outputs. x is `[N, K]`, W `[K, M]` in panels, b `[M]` of each row's task, y `[N, M]`.
//! Backward, from dy: db is the sum of the rows of dy, and dx = dy W^T. W is frozen, so x is not needed. Refused: a
//! matrix that is not in panels, and a bias of another length.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{
    Activations, Error, Result,
    batch::{Slot, TaskRows},
    demand::Work,
    gradients::Gradients,
    kernels::{
        GROUP, HalfPanels, HalfRows, Halves, PackedPanels, Panels, QuantizedPanels, QuantizedRows, Rows, Scale, Start,
    },
    layout::{FACTOR_GROUP, PACKED_BYTES, PANEL_GROUP, PANEL_WIDTH},
    low_rank,
    machine::{Machine, Scratch},
    operators::Pass,
    weights::{Matrix, Tensor, Values, Weights},
};

/// Columns that are dequantized and multiplied together: those of the widest tile.
pub(crate) const COLUMNS: usize = 3 * PANEL_WIDTH;
/// Columns that are unpacked and multiplied together: few enough to stay in the second-level cache, and enough that what
/// a product costs beside its tiles does not count.
const UNPACKED: usize = 3 * COLUMNS;

/// A frozen matrix `[K, M]` in panels, and perhaps a slot of M values for its bias.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W.
    pub weight: Tensor,
    /// b; none adds nothing.
    pub bias: Option<Slot>,
    /// The number of the layer's low-rank term among those of a task; none if it has none in any task.
    pub low_rank: Option<usize>,
}

/// Rows of activations: quantized if the matrix is quantized and the machine's activations are int8, halves if the matrix
/// is of halves, the machine's activations too, and its kernel computes with them.
pub(crate) struct Operand<'a> {
    floats: Rows<'a>,
    halves: Vec<u16>,
    quantized: Vec<u8>,
    scales: Vec<Scale>,
}

impl Linear {
    /// K.
    pub fn inputs(&self) -> usize {
        self.weight.rows
    }

    /// M.
    pub fn outputs(&self) -> usize {
        self.weight.columns
    }

    /// Checks that the matrix is in panels and that the bias has M values. Errors name `operator`.
    pub(crate) fn check(&self, operator: &str) -> Result<()> {
        let shape = |what, expected, found| Error::Shape { operator: operator.into(), what, expected, found };
        if !self.weight.in_panels {
            return Err(shape("panels with a width", PANEL_WIDTH, 1));
        }
        match self.bias {
            Some(bias) if bias.len != self.outputs() => Err(shape("a bias", self.outputs(), bias.len)),
            _ => Ok(()),
        }
    }
}

impl<'a> Operand<'a> {
    /// Prepares rows to be multiplied by `weight`, and by other matrices that are stored in the same way.
    pub fn new(machine: &Machine, floats: &'a [f32], weight: &Tensor) -> Self {
        let width = weight.rows;
        let floats = Rows { data: floats, stride: width, count: floats.len() / width };
        let mut operand = Operand { floats, halves: Vec::new(), quantized: Vec::new(), scales: Vec::new() };
        if weight.is_quantized() && machine.activations == Activations::Int8 {
            let (stride, groups) = (width.next_multiple_of(PANEL_GROUP), width.div_ceil(GROUP));
            operand.quantized.resize(floats.count * stride, 0);
            operand.scales.resize(floats.count * groups, Scale::default());
            let places = operand.quantized.chunks_mut(stride).zip(operand.scales.chunks_mut(groups));
            for (row, (quantized, scales)) in floats.data.chunks(width).zip(places) {
                for ((values, quantized), scale) in row.chunks(GROUP).zip(quantized.chunks_mut(GROUP)).zip(scales) {
                    *scale = machine.kernel.quantize(values, quantized);
                }
            }
        }
        if let Some(products) = products_of_halves(machine, weight) {
            operand.halves.resize(HalfRows::len(floats.count, width), 0);
            products.narrow(floats, width, &mut operand.halves);
        }
        operand
    }

    /// x W + b into rows of `out` that are `stride` apart.
    pub fn multiply(&self, pass: &Pass<'_>, layer: &Linear, tasks: TaskRows<'_>, out: &mut [f32], stride: usize) {
        let machine = pass.machine;
        let start = low_rank::start(pass, layer, tasks, self.floats, out, stride);
        match layer.weight.matrix(pass.weights) {
            Matrix::F32(panels) => machine.kernel.multiply(self.floats, panels, start, out, stride),
            Matrix::F16(panels) => match products_of_halves(machine, &layer.weight) {
                // Of layers that share rows the first says how they are prepared.
                Some(products) if !self.halves.is_empty() => {
                    let x = HalfRows { data: &self.halves, count: self.floats.count };
                    products.multiply(x, panels, start, out, stride);
                }
                _ => machine.kernel.multiply_halves(self.floats, panels, start, out, stride),
            },
            Matrix::I8(panels) => self.multiply_quantized(machine, panels, start, out, stride),
            Matrix::I4(packed) => each_unpacked(machine, packed, |first, panels| {
                self.multiply_quantized(machine, panels, beginning_at(start, first), &mut out[first..], stride);
            }),
        }
    }

    /// The product with an int8 matrix: in int8 if the rows are quantized, else in f32.
    fn multiply_quantized(
        &self,
        machine: &Machine,
        panels: QuantizedPanels<'_>,
        start: Start<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        if self.quantized.is_empty() {
            multiply_dequantized(machine, self.floats, panels, start, out, stride);
            return;
        }
        let x = QuantizedRows {
            data: &self.quantized,
            stride: panels.depth.next_multiple_of(PANEL_GROUP),
            count: self.floats.count,
            scales: &self.scales,
        };
        machine.kernel.multiply_quantized(x, panels, start, out, stride);
    }
}

/// The kernel's products of halves, if a matrix and the machine's activations are such.
fn products_of_halves<'m>(machine: &'m Machine, weight: &Tensor) -> Option<&'m dyn Halves> {
    let wanted = matches!(weight.values, Values::F16 { .. }) && machine.activations == Activations::F16;
    wanted.then(|| machine.kernel.halves()).flatten()
}

/// x W + b of some rows of x, for one layer or several of one shape. Their results are side by side in the rows of
/// `out`, `[rows, layers M]`.
pub(crate) fn forward(pass: &Pass<'_>, layers: &[Linear], x: &[f32], rows: Range<usize>, out: &mut [f32]) {
    let (depth, width) = (layers[0].inputs(), layers[0].outputs());
    let x = Operand::new(pass.machine, &x[rows.start * depth..rows.end * depth], &layers[0].weight);
    let tasks = pass.tasks.of(rows);
    for (at, layer) in layers.iter().enumerate() {
        x.multiply(pass, layer, tasks, &mut out[at * width..], layers.len() * width);
    }
}

/// What [`forward`] takes for some rows on each of some threads.
pub(crate) fn works(machine: &Machine, weight: &Tensor, rows: usize, threads: usize) -> Work {
    let (depth, columns, int8) = (weight.rows, weight.columns, machine.activations == Activations::Int8);
    let of_row = depth.next_multiple_of(PANEL_GROUP) + depth.div_ceil(GROUP) * size_of::<Scale>();
    let bytes = match products_of_halves(machine, weight) {
        Some(_) => threads * HalfRows::len(rows, depth) * size_of::<u16>(),
        None if weight.is_quantized() && int8 => threads * rows * of_row,
        None => 0,
    };
    let mut buffers = Vec::new();
    if matches!(weight.values, Values::I4 { .. }) {
        buffers.extend(unpacked_lens(depth, columns));
    }
    if weight.is_quantized() && !int8 {
        buffers.push(depth * COLUMNS);
    }
    Work::Returned { threads, buffers, bytes }
}

/// Floats of what [`each_unpacked`] takes: unpacked panels, and their scales and column sums.
fn unpacked_lens(depth: usize, columns: usize) -> [usize; 2] {
    let width = UNPACKED.min(columns.next_multiple_of(PANEL_WIDTH));
    let height = depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH;
    [height * (width / PANEL_WIDTH) / size_of::<f32>(), 2 * depth.div_ceil(GROUP) * width]
}

/// The backward pass of [`forward`], over all rows: adds to the gradients of the biases and low-rank terms, and gives dx
/// if it is needed. `x` is present only if gradients of weights or of a layer's low-rank term are wanted.
pub(crate) fn backward<'m>(
    pass: &Pass<'m>,
    layers: &[Linear],
    x: &[f32],
    d: &[f32],
    needed: bool,
    gradients: &mut Gradients<'_>,
) -> Option<Scratch<'m>> {
    let width = layers[0].outputs();
    for (at, layer) in layers.iter().enumerate() {
        gradients.add_bias(layer.bias, d.chunks(layers.len() * width).map(|row| &row[at * width..][..width]));
    }
    gradients.add_matrices(pass, layers, x, d);
    low_rank::add_gradients(pass, layers, x, d, gradients);
    needed.then(|| backward_of_input(pass, layers, d))
}

/// The sum over layers of dy W^T and what their low-rank terms add, `[N, K]`.
pub(crate) fn backward_of_input<'m>(pass: &Pass<'m>, layers: &[Linear], d: &[f32]) -> Scratch<'m> {
    let (machine, depth, width) = (pass.machine, layers[0].inputs(), layers[0].outputs());
    let stride = layers.len() * width;
    let mut d_x = machine.scratch(d.len() / stride * depth);
    machine.split(&mut d_x, depth, |rows, d_x| {
        d_x.fill(0.0);
        for (at, layer) in layers.iter().enumerate() {
            let d = Rows { data: &d[rows.start * stride + at * width..], stride, count: rows.len() };
            multiply_transposed(machine, pass.weights, d, &layer.weight, d_x);
            low_rank::add_to_input(pass, layer, d, d_x);
        }
    });
    d_x
}

/// f32 activations times an int8 matrix, which is dequantized a few panels at a time.
fn multiply_dequantized(
    machine: &Machine,
    x: Rows<'_>,
    w: QuantizedPanels<'_>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
) {
    each_dequantized(machine, w, |first, panels| {
        machine.kernel.multiply(x, panels, beginning_at(start, first), &mut out[first..], stride);
    });
}

/// What the columns from `first` on are added to.
fn beginning_at(start: Start<'_>, first: usize) -> Start<'_> {
    match start {
        Start::Zero | Start::There => start,
        Start::Bias { table, stride, rows } => Start::Bias { table: &table[first..], stride, rows },
    }
}

/// Unpacks some panels at a time, so that they stay in the cache, and calls `work` with them and their first column.
fn each_unpacked(machine: &Machine, w: PackedPanels<'_>, mut work: impl FnMut(usize, QuantizedPanels<'_>)) {
    let (height, groups) = (w.depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH, w.depth.div_ceil(GROUP));
    let width = UNPACKED.min(w.columns.next_multiple_of(PANEL_WIDTH));
    let panels = w.data.as_chunks::<PACKED_BYTES>().0.chunks_exact(w.depth.div_ceil(FACTOR_GROUP));
    let [mut bytes, mut of_groups] = unpacked_lens(w.depth, w.columns).map(|len| machine.scratch(len));
    let (scales, column_sums) = of_groups.split_at_mut(groups * width);
    for first in (0..w.columns).step_by(width) {
        let columns = (w.columns - first).min(width);
        let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut bytes);
        for (panel, out) in panels.clone().skip(first / PANEL_WIDTH).zip(bytes.chunks_exact_mut(height)) {
            machine.kernel.unpack(panel, out);
        }
        for (part, whole) in [(&mut *scales, w.scales), (&mut *column_sums, w.column_sums)] {
            for (part, whole) in part.chunks_exact_mut(columns).zip(whole.chunks_exact(w.columns)) {
                part.copy_from_slice(&whole[first..first + columns]);
            }
        }
        work(first, QuantizedPanels { data: bytes, depth: w.depth, columns, scales, column_sums });
    }
}

/// Widens some panels at a time, so that they stay in the cache, and calls `work` with them and their first column.
fn each_widened(machine: &Machine, w: HalfPanels<'_>, mut work: impl FnMut(usize, Panels<'_>)) {
    let mut floats = machine.scratch(w.depth * COLUMNS);
    let panels = w.data.chunks(w.depth * COLUMNS);
    for (first, halves) in (0..w.columns).step_by(COLUMNS).zip(panels) {
        machine.kernel.widen(halves, &mut floats);
        work(first, Panels { data: &floats, depth: w.depth, columns: (w.columns - first).min(COLUMNS) });
    }
}

/// Dequantizes some panels at a time, so that they stay in the cache, and calls `work` with them and their first
/// column.
fn each_dequantized(machine: &Machine, w: QuantizedPanels<'_>, mut work: impl FnMut(usize, Panels<'_>)) {
    let panel = w.depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH;
    let mut floats = machine.scratch(w.depth * COLUMNS);
    for first in (0..w.columns).step_by(COLUMNS) {
        let columns = (w.columns - first).min(COLUMNS);
        for (at, values) in floats.chunks_exact_mut(w.depth * PANEL_WIDTH).enumerate() {
            let column = first + at * PANEL_WIDTH;
            if column >= w.columns {
                break;
            }
            let quantized = &w.data[column / PANEL_WIDTH * panel..][..panel];
            let groups = quantized.chunks(GROUP * PANEL_WIDTH).zip(values.chunks_mut(GROUP * PANEL_WIDTH));
            for ((quantized, values), scales) in groups.zip(w.scales.chunks(w.columns)) {
                machine.kernel.dequantize(quantized, &scales[column..w.columns.min(column + PANEL_WIDTH)], values);
            }
        }
        work(first, Panels { data: &floats, depth: w.depth, columns });
    }
}

/// Adds y W^T to rows of `out`.
fn multiply_transposed(machine: &Machine, weights: Weights<'_>, y: Rows<'_>, weight: &Tensor, out: &mut [f32]) {
    match weight.matrix(weights) {
        Matrix::F32(panels) => machine.kernel.multiply_transposed(y, panels, out, panels.depth),
        Matrix::F16(halves) => each_widened(machine, halves, |first, panels| {
            machine.kernel.multiply_transposed(Rows { data: &y.data[first..], ..y }, panels, out, panels.depth);
        }),
        Matrix::I8(quantized) => multiply_transposed_dequantized(machine, y, quantized, out),
        Matrix::I4(packed) => each_unpacked(machine, packed, |first, panels| {
            multiply_transposed_dequantized(machine, Rows { data: &y.data[first..], ..y }, panels, out);
        }),
    }
}

/// Adds y W^T to rows of `out`, W being an int8 matrix that is dequantized a few panels at a time.
fn multiply_transposed_dequantized(machine: &Machine, y: Rows<'_>, w: QuantizedPanels<'_>, out: &mut [f32]) {
    each_dequantized(machine, w, |first, panels| {
        let y = Rows { data: &y.data[first..], ..y };
        machine.kernel.multiply_transposed(y, panels, out, w.depth);
    });
}

/// The transpose of a matrix, by blocks that stay in the cache.
pub(crate) fn transpose(values: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    for row0 in (0..rows).step_by(PANEL_WIDTH) {
        for column in 0..columns {
            for row in row0..rows.min(row0 + PANEL_WIDTH) {
                out[column * rows + row] = values[row * columns + column];
            }
        }
    }
}
