//! A checkpoint's tensor as a bundle stores it: transposed if it is a linear layer's, rounded if it is f16, and quantized
//! if it is int8 or int4.
//!
//! In: f32 values, of the whole tensor or of some of its rows. Out: the bytes of `weights.bin`. Both are defined here and
//! nowhere else, so the same checkpoint gives the same bytes wherever they are compared.

use std::ops::Range;

use half::f16;

use crate::{
    Element, SCALE_GROUP, TensorEntry,
    packed::{FACTOR_GROUP, MOST, MOST_FACTOR},
};

/// What `weights.bin` holds of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Frozen {
    /// Its values, as its entry says.
    pub bytes: Vec<u8>,
    /// The scales of its quantized values, f32, little-endian; empty if the values are not quantized.
    pub scales: Vec<u8>,
}

impl Frozen {
    /// Stores `values`, which lie as in the checkpoint: for a transposed tensor `[out, in]`.
    ///
    /// f16 is the nearest half, of two the even one; a value from 65520 on becomes infinite, which no bundle holds.
    ///
    /// Quantization is symmetric. A scale is the largest magnitude of the weights that share it, divided by 127, or 1
    /// if they are all zero. A quantized value is the weight divided by the scale, rounded, halves to even. In int4 it is
    /// a multiple of a factor, from -7 to 7 times: of the factors from 1 to 18 that reach half of the largest value of
    /// those that share it, or more, the one with the least sum of squared errors, and of several the smallest.
    pub fn of(values: &[f32], tensor: &TensorEntry) -> Self {
        let [rows, _] = tensor.matrix();
        Self::of_rows(values, tensor, 0..rows)
    }

    /// Stores the rows of one of [`TensorEntry::row_blocks`]. `values` lie as in the checkpoint: of a transposed tensor
    /// they are columns, `[out, rows]`. Blocks in their order give the bytes and the scales of the whole.
    pub fn of_rows(values: &[f32], tensor: &TensorEntry, rows: Range<usize>) -> Self {
        let [_, columns] = tensor.matrix();
        let outputs = if tensor.transposed { columns } else { rows.len() };
        let inputs = values.len() / outputs.max(1);
        match tensor.element {
            Element::F32 => {
                let values: Vec<[u8; 4]> = values.iter().map(|v| v.to_le_bytes()).collect();
                let values = if tensor.transposed { transposed(&values, outputs, inputs) } else { values };
                Frozen { bytes: values.into_flattened(), scales: Vec::new() }
            }
            Element::F16 => {
                let values: Vec<[u8; 2]> = values.iter().map(|v| f16::from_f32(*v).to_le_bytes()).collect();
                let values = if tensor.transposed { transposed(&values, outputs, inputs) } else { values };
                Frozen { bytes: values.into_flattened(), scales: Vec::new() }
            }
            Element::I8 | Element::I4 => {
                let group = if tensor.transposed { SCALE_GROUP as usize } else { inputs };
                let round = if tensor.element == Element::I4 { to_multiples } else { to_integers };
                let (mut quantized, mut scales) = quantize(values, inputs, group, round);
                if tensor.transposed {
                    quantized = transposed(&quantized, outputs, inputs);
                    scales = transposed(&scales, outputs, inputs.div_ceil(group));
                }
                Frozen { bytes: quantized, scales: scales.iter().flat_map(|scale| scale.to_le_bytes()).collect() }
            }
        }
    }
}

/// The quantized values of rows of `len` values, and the scales of each row, one for each `group` values. `round` is given
/// values that share a scale, and the scale.
fn quantize(
    values: &[f32],
    len: usize,
    group: usize,
    round: impl Fn(&[f32], f32, &mut Vec<u8>),
) -> (Vec<u8>, Vec<f32>) {
    let rows = || values.chunks(len.max(1)).flat_map(|row| row.chunks(group.max(1)));
    let scale = |row: &[f32]| {
        let top = row.iter().fold(0.0, |top: f32, v| top.max(v.abs()));
        if top > 0.0 { top / 127.0 } else { 1.0 }
    };
    let scales: Vec<f32> = rows().map(scale).collect();
    let mut quantized = Vec::with_capacity(values.len());
    rows().zip(&scales).for_each(|(row, scale)| round(row, *scale, &mut quantized));
    (quantized, scales)
}

/// The nearest integers to values divided by their scale.
fn to_integers(values: &[f32], scale: f32, quantized: &mut Vec<u8>) {
    // Where weights are so small that their scale has few bits left, a quotient may be beyond 127.
    let nearest = |value: &f32| ((value / scale).round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned();
    quantized.extend(values.iter().map(nearest));
}

/// The nearest multiples of a factor to values divided by their scale, [`FACTOR_GROUP`] at a time.
fn to_multiples(values: &[f32], scale: f32, quantized: &mut Vec<u8>) {
    let most = f32::from(MOST);
    for group in values.chunks(FACTOR_GROUP) {
        let top = group.iter().fold(0.0, |top: f32, v| top.max(v.abs()));
        let multiple = |value: f32, factor: f32| (value / (scale * factor)).round_ties_even().clamp(-most, most);
        let error = |factor: u8| -> f32 {
            let factor = f32::from(factor);
            let errors = group.iter().map(|v| v / scale - factor * multiple(*v, factor));
            errors.map(|error| error * error).sum()
        };
        // One that reaches less than half of the largest value cuts off more than it gains.
        let factors = (1..=MOST_FACTOR).filter(|factor| 2.0 * most * f32::from(*factor) * scale >= top);
        let least = factors.map(|factor| (error(factor), factor)).min_by(|a, b| a.0.total_cmp(&b.0));
        let factor = f32::from(least.map_or(MOST_FACTOR, |(_, factor)| factor));
        quantized.extend(group.iter().map(|v| ((factor * multiple(*v, factor)) as i8).cast_unsigned()));
    }
}

/// `[rows, columns]` as `[columns, rows]`, by blocks that stay in the cache.
fn transposed<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    let mut transposed = vec![T::default(); values.len()];
    for row0 in (0..rows).step_by(BLOCK) {
        for column0 in (0..columns).step_by(BLOCK) {
            for row in row0..rows.min(row0 + BLOCK) {
                for column in column0..columns.min(column0 + BLOCK) {
                    transposed[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;
    use bias_patch::Digest;

    fn entry(element: Element, transposed: bool, shape: [u64; 2]) -> TensorEntry {
        let sha256 = Digest::of(b"");
        TensorEntry { name: "w".to_owned(), shape: shape.to_vec(), element, transposed, offset: 0, sha256 }
    }

    #[test]
    fn quantized_values_are_within_half_a_scale_of_the_weights() {
        /// The quotient of weight and scale is rounded to f32 before it is rounded to an integer: one ulp of 127 at
        /// most.
        const SLACK: f64 = 128.0 * f32::EPSILON as f64;
        // Rows of four: halves and a zero row, scales with few bits left; then a sweep.
        let mut values =
            vec![127.0, 0.5, 1.5, -2.5, 1.0, -2.54, 0.02, 0.0, 0.0, 0.0, -0.0, 0.0, 3e-38, 0.0, 1e-38, -2e-38];
        values.extend((0..4000).map(|at| ((at * 7919 % 4001) as f32 / 4001.0 - 0.5) * 1.7f32.powi(at % 60 - 30)));
        let frozen = Frozen::of(&values, &entry(Element::I8, false, [values.len() as u64 / 4, 4]));
        let quantized: Vec<i8> = frozen.bytes.iter().map(|byte| byte.cast_signed()).collect();
        let scales: Vec<f32> = frozen.scales.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(quantized[..12], [127, 0, 2, -2, 50, -127, 1, 0, 0, 0, 0, 0]);
        assert_eq!((scales[0], scales[2]), (1.0, 1.0));
        let mut worst = 0.0f64;
        for (at, (value, quantized)) in values.iter().zip(&quantized).enumerate() {
            let scale = f64::from(scales[at / 4]);
            worst = worst.max((f64::from(*value) / scale - f64::from(*quantized)).abs());
        }
        assert!((0.49..=0.5 + SLACK).contains(&worst), "largest error: {worst} scales");
    }

    #[test]
    fn a_linear_layer_is_stored_input_by_input() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let frozen = Frozen::of(&values, &entry(Element::F32, true, [3, 2]));
        let floats: Vec<f32> = frozen.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(floats, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let frozen = Frozen::of(&values, &entry(Element::F16, true, [3, 2]));
        let halves: Vec<f32> = frozen.bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect();
        assert_eq!(halves, floats);
        let frozen = Frozen::of(&values, &entry(Element::I8, true, [3, 2]));
        assert_eq!(frozen.bytes, [42, 85, 85, 106, 127, 127]);
        assert_eq!(frozen.scales.len(), 8);

        // Two outputs of 300 inputs: two groups each, the scales input group by input group.
        let values: Vec<f32> =
            (0..600).map(|at| if at % 300 < 256 { 1.0 } else { 2.0 } * (1 + at / 300) as f32).collect();
        let frozen = Frozen::of(&values, &entry(Element::I8, true, [300, 2]));
        assert!(frozen.bytes.iter().all(|quantized| *quantized == 127));
        let scales: Vec<f32> = frozen.scales.as_chunks().0.iter().map(|b| 127.0 * f32::from_le_bytes(*b)).collect();
        assert_eq!(scales, [1.0, 2.0, 2.0, 4.0]);
    }

    #[test]
    fn int4_takes_the_factor_with_the_least_error() {
        let quantized = |values: &[f32]| {
            let frozen = Frozen::of(values, &entry(Element::I4, false, [1, values.len() as u64]));
            frozen.bytes.into_iter().map(u8::cast_signed).collect::<Vec<i8>>()
        };
        // The first value makes the scale 1. 127 is between multiples: 126 is the nearest of those within reach.
        let with_scale = |rest: &[f32]| {
            let mut values = vec![0.0; FACTOR_GROUP];
            values[0] = 127.0;
            values.extend(rest);
            quantized(&values)
        };
        assert_eq!(with_scale(&[])[..2], [126, 0]);
        for (group, due) in [
            // The factor that reaches the largest value, and a larger one that meets all.
            (&[9.0, -9.0, 3.0][..], [9, -9, 3]),
            (&[10.0, -9.0, 4.0], [10, -8, 4]),
            // One that cuts off the largest by little, and meets the others.
            (&[8.0, 3.0, -5.0], [7, 3, -5]),
            (&[0.0, 0.0, 0.0], [0, 0, 0]),
            (&[0.4, -0.6, 7.0], [0, -1, 7]),
        ] {
            assert_eq!(with_scale(group)[FACTOR_GROUP..], due, "{group:?}");
        }
        // Everything that is quantized can be packed.
        let values: Vec<f32> = (0..4000).map(|at| ((at * 7919 % 4001) as f32 / 4001.0 - 0.5).powi(3)).collect();
        let tensor = entry(Element::I4, false, [4, 1000]);
        tensor.check_values(&Frozen::of(&values, &tensor).bytes).unwrap();
    }

    #[test]
    fn blocks_of_rows_give_what_the_whole_tensor_gives() {
        // Both are of some blocks; the last is no whole group of scales, and no whole block.
        for (transposed, shape) in [(true, [300, 4096]), (false, [4000, 300])] {
            let count = (shape[0] * shape[1]) as usize;
            let values: Vec<f32> = (0..count).map(|at| (at % 4001 * 7919 % 4001) as f32 / 4001.0 - 0.5).collect();
            for element in [Element::F32, Element::F16, Element::I8, Element::I4] {
                let tensor = entry(element, transposed, shape);
                let blocks: Vec<_> = tensor.row_blocks().collect();
                assert!(blocks.len() > 1, "{blocks:?}");
                let mut joined = Frozen { bytes: Vec::new(), scales: Vec::new() };
                for rows in blocks {
                    let [height, width] = tensor.matrix();
                    let part: Vec<f32> = match transposed {
                        true => values.chunks(height).flat_map(|output| &output[rows.clone()]).copied().collect(),
                        false => values[rows.start * width..rows.end * width].to_vec(),
                    };
                    let block = Frozen::of_rows(&part, &tensor, rows);
                    joined.bytes.extend(block.bytes);
                    joined.scales.extend(block.scales);
                }
                // Not assert_eq, which would print millions of bytes.
                assert!(joined == Frozen::of(&values, &tensor), "{element:?}, transposed {transposed}");
            }
        }
    }
}
