//! Gradients of matrices, for a training that is compared with that of biases alone.
//!
//! In: what went into linear layers, and the gradient of what came out. Out: the gradients of their matrices, added to a
//! list that is laid out as the weights are: see [`super::OwnWeights`]. Letters are those of [`super::adjoint`].

use bias_patch::PANEL_WIDTH;

use super::{
    attention::lay_out_values,
    machine::Machine,
    product::{COLUMNS, Layer, transpose},
};
use crate::kernels::{Panels, Rows, Start};

/// x^T d of layers of one shape that read the same rows `[N, K]`; their gradients are side by side in rows of `d`, as
/// [`super::product::project`] has put what came out.
pub(super) fn add_layers(machine: &Machine, layers: &[Layer], x: &[f32], d: &[f32], d_weights: &mut [f32]) {
    let (depth, width) = (layers[0].weight.rows(), layers[0].weight.columns());
    let count = x.len() / depth;
    let mut transposed = machine.scratch(x.len());
    transpose(x, count, depth, &mut transposed);
    let transposed = Rows { data: &transposed, stride: count, count: depth };
    for (at, layer) in layers.iter().enumerate() {
        let d = Rows { data: &d[at * width..], stride: layers.len() * width, count };
        add_product(machine, transposed, d, width, &mut d_weights[layer.weight.place()]);
    }
}

/// Adds x^T d, `[K, M]`, to a matrix in panels: x^T is `[K, N]`, d `[N, M]`.
fn add_product(machine: &Machine, transposed: Rows<'_>, d: Rows<'_>, width: usize, sums: &mut [f32]) {
    let (depth, count) = (transposed.count, d.count);
    let parts = (0..width).step_by(COLUMNS).zip(sums.chunks_mut(depth * COLUMNS));
    machine.each(parts.collect(), |(first, sums)| {
        let columns = (width - first).min(COLUMNS);
        let mut right = machine.scratch(count * COLUMNS);
        lay_out_values(&d.data[first..], d.stride, count, columns, &mut right);
        let mut product = machine.scratch(depth * columns);
        let right = Panels { data: &right, depth: count, columns };
        machine.kernel.multiply(transposed, right, Start::Zero, &mut product, columns);
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
                let mut transposed = vec![0.0; x.len()];
                transpose(&x, count, depth, &mut transposed);
                let mut sums = vec![0.5; depth * width.next_multiple_of(PANEL_WIDTH)];
                let left = Rows { data: &transposed, stride: count, count: depth };
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
