//! Gradients of the frozen weights, for trainings that BitFit is compared with. Builds for devices leave this out.
//!
//! In: the inputs of linear layers, LayerNorms and tables, and the gradients of their outputs. Out: the gradients of
//! their weights, added to a list with the layout of the weights: see [`Tensor::place`]. Quantized weights have no
//! gradients.

use crate::{
    Error, Result,
    batch::Batch,
    kernels::{Panels, Rows, Start},
    layout::PANEL_WIDTH,
    linear::{COLUMNS, Linear, transpose},
    machine::Machine,
    operators::{Embedding, Pass, lay_out_values},
    weights::Tensor,
};

/// Sums of the gradients of weights, if they are wanted: as many floats as the weights have.
#[derive(Default)]
pub struct WeightGradients<'a>(pub Option<&'a mut [f32]>);

impl WeightGradients<'_> {
    pub(crate) fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Checks that there is a float for each of `due` weights.
    pub(crate) fn check(&self, due: usize) -> Result<()> {
        match &self.0 {
            Some(sums) if sums.len() < due => {
                Err(Error::Input { what: "gradients of weights", expected: due, found: sums.len() })
            }
            _ => Ok(()),
        }
    }

    /// x^T d, for layers of one shape that read the same rows `[N, K]`. Their gradients are side by side in the rows of
    /// `d`.
    pub(crate) fn add_matrices(&mut self, pass: &Pass<'_>, layers: &[Linear], x: &[f32], d: &[f32]) {
        let Some(sums) = &mut self.0 else { return };
        let (depth, width) = (layers[0].inputs(), layers[0].outputs());
        let count = x.len() / depth;
        let mut transposed = pass.machine.scratch(x.len());
        transpose(x, count, depth, &mut transposed);
        let transposed = Rows { data: &transposed, stride: count, count: depth };
        for (at, layer) in layers.iter().enumerate() {
            let d = Rows { data: &d[at * width..], stride: layers.len() * width, count };
            add_product(pass.machine, transposed, d, width, &mut sums[layer.weight.place()]);
        }
    }

    /// The sum over rows of d times the normalized row.
    pub(crate) fn add_gain(&mut self, gain: &Tensor, normalized: &[f32], d: &[f32]) {
        let Some(sums) = &mut self.0 else { return };
        let sums = &mut sums[gain.place()];
        let width = gain.columns;
        for (x, d) in normalized.chunks(width).zip(d.chunks(width)) {
            sums.iter_mut().zip(x).zip(d).for_each(|((sum, x), d)| *sum += x * d);
        }
    }

    pub(crate) fn add_rows(&mut self, tables: &Embedding, batch: &Batch, d: &[f32]) {
        let Some(sums) = &mut self.0 else { return };
        for (d, rows) in d.chunks(tables.words.columns).zip(tables.rows(batch)) {
            for (table, row) in rows.into_iter().flatten() {
                // The row exists: the forward pass has read it.
                let sums = &mut sums[table.place()][row * d.len()..][..d.len()];
                sums.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
            }
        }
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
    use alloc::{vec, vec::Vec};

    use super::*;
    use crate::{Activations, Threads, kernels};

    #[test]
    fn products_go_where_panels_have_them() {
        for threads in [1, 2] {
            let threads = Threads::start(threads).unwrap();
            let machine = Machine::new(kernels()[0], Activations::Int8, threads);
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
