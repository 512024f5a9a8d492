//! Gradients of the weights, for a training that is compared with that of biases alone.
//!
//! In: what went into an operator, and the gradient of what came out. Out: the gradients of its matrices, tables and gains,
//! added to a list that is laid out as the weights are: see [`super::OwnWeights`]. Letters are those of [`super::adjoint`].

use bias_patch::PANEL_WIDTH;

use super::{
    adjoint::{Batch, turn},
    attention::lay_out_values,
    machine::Machine,
    operators::Work,
    product::{COLUMNS, Layer},
    weights::Weight,
};
use crate::kernels::{Panels, Rows, Start};

/// x^T d of layers of one shape that read the same rows `[N, K]`; their gradients are side by side in rows of `d`, as
/// [`super::product::project`] has put what came out.
pub(super) fn add_layers(machine: &Machine, layers: &[Layer], x: &[f32], d: &[f32], d_weights: &mut [f32]) {
    let Some(first) = layers.first() else { return };
    let (depth, width) = (first.weight.rows(), first.weight.columns());
    let count = x.len() / depth;
    let mut turned = machine.scratch(x.len());
    turn(x, count, depth, &mut turned);
    let turned = Rows { data: &turned, stride: count, count: depth };
    for (at, layer) in layers.iter().enumerate() {
        let d = Rows { data: &d[at * width..], stride: layers.len() * width, count };
        add_product(machine, turned, d, width, &mut d_weights[layer.weight.place()]);
    }
}

/// The gain of a LayerNorm: the sum over rows of d times the normalised row.
pub(super) fn add_gain(gain: &Weight, normalised: &[f32], d: &[f32], d_weights: &mut [f32]) {
    let sums = &mut d_weights[gain.place()];
    let width = sums.len();
    for (x, d) in normalised.chunks(width).zip(d.chunks(width)) {
        sums.iter_mut().zip(x).zip(d).for_each(|((sum, x), d)| *sum += x * d);
    }
}

/// The tables of an [`Work::Embed`], from the gradient of the sum of their rows.
pub(super) fn add_tables(work: &Work, batch: &Batch<'_>, d: &[f32], d_weights: &mut [f32]) {
    let Work::Embed { words, positions, first_position, types, .. } = work else { return };
    let mut add = |table: &Weight, row: i64, d: &[f32]| {
        // The forward pass has found this row.
        let sums = &mut d_weights[table.place()][row as usize * d.len()..][..d.len()];
        sums.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
    };
    let places = batch.starts.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
    for (((d, id), kind), place) in d.chunks(words.columns()).zip(batch.ids).zip(batch.types).zip(places) {
        add(words, *id, d);
        add(positions, *first_position as i64 + place, d);
        if let Some(types) = types {
            add(types, if types.rows() > 1 { *kind } else { 0 }, d);
        }
    }
}

/// Adds x^T d, `[K, M]`, to a matrix in panels: x^T is `[K, N]`, d `[N, M]`.
fn add_product(machine: &Machine, turned: Rows<'_>, d: Rows<'_>, width: usize, sums: &mut [f32]) {
    let (depth, count) = (turned.count, d.count);
    let parts = (0..width).step_by(COLUMNS).zip(sums.chunks_mut(depth * COLUMNS));
    machine.each(parts.collect(), |(first, sums)| {
        let columns = (width - first).min(COLUMNS);
        let mut right = machine.scratch(count * COLUMNS);
        lay_out_values(&d.data[first..], d.stride, count, columns, &mut right);
        let mut product = machine.scratch(depth * columns);
        let right = Panels { data: &right, depth: count, columns };
        machine.kernel.multiply(turned, right, Start::Zero, &mut product, columns);
        for (panel, column) in sums.chunks_mut(depth * PANEL_WIDTH).zip((0..columns).step_by(PANEL_WIDTH)) {
            for (sums, product) in panel.chunks_mut(PANEL_WIDTH).zip(product.chunks(columns)) {
                sums.iter_mut().zip(&product[column..]).for_each(|(sum, product)| *sum += product);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineOptions;

    #[test]
    fn products_go_where_panels_have_them() {
        for threads in [1, 2] {
            let machine = Machine::new(EngineOptions { threads, ..EngineOptions::default() }).unwrap();
            for (count, depth, width) in [(1usize, 3usize, 1usize), (19, 37, 50), (130, 8, 48), (5, 33, 112)] {
                // Whole numbers: their sums are exact.
                let numbers =
                    |len: usize, by: usize| -> Vec<f32> { (0..len).map(|at| (at * by % 7) as f32 - 3.0).collect() };
                let (x, stride) = (numbers(count * depth, 5), width + 3);
                let d = numbers(count * stride, 3);
                let mut turned = vec![0.0; x.len()];
                turn(&x, count, depth, &mut turned);
                let mut sums = vec![0.5; depth * width.next_multiple_of(PANEL_WIDTH)];
                let left = Rows { data: &turned, stride: count, count: depth };
                machine.enter(|| add_product(&machine, left, Rows { data: &d, stride, count }, width, &mut sums));
                for row in 0..depth {
                    for column in 0..width.next_multiple_of(PANEL_WIDTH) {
                        let product = |at: usize| x[at * depth + row] * d[at * stride + column];
                        let due = if column < width { (0..count).map(product).sum::<f32>() } else { 0.0 };
                        let place = (column / PANEL_WIDTH * depth + row) * PANEL_WIDTH + column % PANEL_WIDTH;
                        assert_eq!(sums[place], 0.5 + due, "{count} x {depth} x {width}, {row}, {column}");
                    }
                }
            }
        }
    }
}
