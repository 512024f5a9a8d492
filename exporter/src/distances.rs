//! Vectors of distances, which DeBERTa's queries and keys meet: where the checkpoint has what makes them, and the
//! bucket of a distance.
//!
//! In: the names of tensors, and distances. Out: the vectors, and rows of them. Refused: tensors of another shape, and
//! numbers that are not finite.

use edge_bundle::{Disentangled, DistanceTable};
use hf_checkpoint::Checkpoint;

use crate::{Result, graph::Distances, weights::read_finite};

impl Distances {
    /// The tensors that it reads, and their dimensions, for `[n T, D]` vectors.
    pub fn tensors(&self, [vectors, depth]: [usize; 2]) -> [(&str, Vec<usize>); 4] {
        let (rows, hidden) = (vectors / self.heads as usize, depth * self.heads as usize);
        let [gain, bias] = &self.norm;
        [
            (&self.table, vec![rows, hidden]),
            (gain, vec![hidden]),
            (bias, vec![hidden]),
            (&self.matrix, vec![hidden, hidden]),
        ]
    }

    /// The `[n T, D]` vectors.
    pub fn vectors(&self, checkpoint: &Checkpoint, shape: [usize; 2]) -> Result<Vec<f32>> {
        let read = |(name, shape): (&str, Vec<usize>)| {
            let (rows, columns) = if shape.len() == 2 { (shape[0], shape[1]) } else { (1, shape[0]) };
            read_finite(checkpoint, name, &shape, [0..rows, 0..columns])
        };
        let [table, gain, bias, matrix] = self.tensors(shape);
        let (table, gain, bias, matrix) = (read(table)?, read(gain)?, read(bias)?, read(matrix)?);
        let table = DistanceTable { table: &table, gain: &gain, bias: &bias, epsilon: self.epsilon, matrix: &matrix };
        Ok(table.vectors(self.heads as usize))
    }
}

/// The bucket of a distance, of the key from the query: of two for every bucket to a side, those of the nearest tokens
/// in the middle. In f32, as PyTorch computes it.
pub(crate) fn bucket(distance: i64, Disentangled { buckets, max_distance }: Disentangled) -> u32 {
    let (buckets, middle) = (i64::from(buckets), f64::from(buckets / 2));
    let apart = distance.unsigned_abs() as f32;
    let signed = if apart <= middle as f32 {
        distance
    } else {
        let range = libm::logf(((f64::from(max_distance) - 1.0) / middle) as f32);
        let beyond = libm::logf(apart / middle as f32) / range * (middle as f32 - 1.0);
        distance.signum() * (beyond.ceil() as i64 + middle as i64)
    };
    // Within a few millions: both are below 2^24, and a logarithm is small.
    (buckets - 1 + signed).clamp(0, 2 * buckets - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_transformers() {
        // By transformers 5.23: 2 K - 1 less the row that make_log_bucket_position gives, K being the buckets.
        let published = [
            (-511, 0),
            (-510, 0),
            (-216, 78),
            (-130, 125),
            (-129, 126),
            (-128, 127),
            (-127, 128),
            (-1, 254),
            (0, 255),
            (1, 256),
            (127, 382),
            (128, 383),
            (129, 384),
            (130, 385),
            (131, 386),
            (216, 432),
            (217, 432),
            (300, 462),
            (402, 488),
            (420, 493),
            (500, 509),
            (510, 510),
            (511, 510),
        ];
        let small = [
            (-63, 0),
            (-62, 0),
            (-26, 0),
            (-25, 1),
            (-11, 1),
            (-10, 2),
            (-5, 2),
            (-4, 3),
            (-3, 4),
            (0, 7),
            (3, 10),
            (4, 11),
            (5, 12),
            (10, 12),
            (11, 13),
            (25, 13),
            (26, 14),
            (62, 14),
            (63, 14),
        ];
        for (buckets, max_distance, rows) in [(256, 512, &published[..]), (8, 64, &small)] {
            for (distance, due) in rows {
                let found = bucket(*distance, Disentangled { buckets, max_distance });
                assert_eq!(found, *due, "{distance} of {max_distance}");
            }
        }
    }
}
