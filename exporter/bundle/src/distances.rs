//! Vectors of distances, which DeBERTa's queries and keys meet, as a bundle stores them.
//!
//! In: the values of a checkpoint's table of distances, of its LayerNorm, and of the matrix of a layer of queries or
//! keys. Out: the layer's products with the normalized rows. Nothing is refused. They are defined here and nowhere
//! else, and sums are in f64 and in one order, so the same checkpoint gives the same bytes wherever they are made or
//! compared.

/// Rows that are multiplied together, so that a row of the matrix is read once for all of them.
const ROWS: usize = 8;

/// A table of distances and what makes vectors of it. T rows, H columns.
#[derive(Clone, Copy, Debug)]
pub struct DistanceTable<'a> {
    /// `[T, H]`.
    pub table: &'a [f32],
    /// The gain of the LayerNorm that comes first, `[H]`.
    pub gain: &'a [f32],
    /// Its bias in the checkpoint, `[H]`.
    pub bias: &'a [f32],
    /// What it adds to the variance.
    pub epsilon: f64,
    /// The matrix, `[H, H]`, as it lies in the checkpoint: outputs, inputs.
    pub matrix: &'a [f32],
}

impl DistanceTable<'_> {
    /// The name that the vectors of a layer have in a bundle, `module` being the layer's.
    pub fn name_of(module: &str) -> String {
        format!("{module}{DISTANCES}")
    }

    /// The module of the layer whose vectors have this name in a bundle; none if it is the name of something else.
    pub fn module_of(name: &str) -> Option<&str> {
        name.strip_suffix(DISTANCES)
    }

    /// The `[heads T, H / heads]` vectors: head after head, the rows of the table from the last to the first.
    pub fn vectors(&self, heads: usize) -> Vec<f32> {
        let hidden = self.gain.len().max(1);
        let normalized: Vec<f64> = self.table.chunks_exact(hidden).flat_map(|row| self.normalized(row)).collect();
        // By input, so that the sums of all outputs grow together.
        let by_input: Vec<f64> = (0..hidden)
            .flat_map(|input| self.matrix.iter().skip(input).step_by(hidden).map(|weight| f64::from(*weight)))
            .collect();
        let mut products = vec![0.0f64; normalized.len()];
        for (rows, products) in normalized.chunks(ROWS * hidden).zip(products.chunks_mut(ROWS * hidden)) {
            for (input, weights) in by_input.chunks_exact(hidden).enumerate() {
                for (row, sums) in rows.chunks_exact(hidden).zip(products.chunks_exact_mut(hidden)) {
                    let x = row[input];
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
                }
            }
        }
        let depth = hidden / heads.max(1);
        let products = &products;
        let of_head = |head: usize| {
            let rows = products.chunks_exact(hidden).rev();
            rows.flat_map(move |row| row[head * depth..(head + 1) * depth].iter().map(|value| *value as f32))
        };
        (0..heads).flat_map(of_head).collect()
    }

    /// A row after LayerNorm.
    fn normalized(&self, row: &[f32]) -> Vec<f64> {
        let count = row.len() as f64;
        let mean = row.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = row.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        let inverse = 1.0 / (variance + self.epsilon).sqrt();
        let parts = row.iter().zip(self.gain.iter().zip(self.bias));
        parts
            .map(|(value, (gain, bias))| (f64::from(*value) - mean) * inverse * f64::from(*gain) + f64::from(*bias))
            .collect()
    }
}

/// What a module's name is followed by in that of its vectors.
const DISTANCES: &str = ".distances";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_the_products_of_normalized_rows_the_last_first() {
        // Rows (1, 3) and (5, 1) normalize to (-1, 1) and (1, -1).
        let table = DistanceTable {
            table: &[1.0, 3.0, 5.0, 1.0],
            gain: &[2.0, 1.0],
            bias: &[0.5, 0.0],
            epsilon: 1e-12,
            matrix: &[1.0, 10.0, 100.0, 1000.0],
        };
        // The row (-1.5, 1) gives 8.5 and 850; (2.5, -1) gives -7.5 and -750.
        assert_eq!(table.vectors(1), [-7.5, -750.0, 8.5, 850.0]);
        assert_eq!(table.vectors(2), [-7.5, 8.5, -750.0, 850.0]);
    }

    #[test]
    fn vectors_are_named_by_their_layer() {
        let name = DistanceTable::name_of("layer.3.key_proj");
        assert_eq!(DistanceTable::module_of(&name), Some("layer.3.key_proj"));
        assert_eq!(DistanceTable::module_of("layer.3.key_proj.weight"), None);
    }
}
