//! Random numbers that are the same on every machine, for the same seed and purpose.
//!
//! The generator is ChaCha with eight rounds, which `rand` documents as portable, and so are shuffling and numbers
//! below a limit (Rand book, "Reproducibility"). Normal numbers are products of table values; about one in four
//! thousand lies in a tail and is a logarithm, whose last bit is the mathematical library's. The test below holds all
//! of them, so that an update of `rand` cannot change them unseen.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};
use rand_distr::StandardNormal;

/// A stream of random numbers.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// The stream of a seed and a purpose: streams of other purposes are independent of it.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(purpose);
        Random(generator)
    }

    /// A number of the normal distribution of mean 0 and variance 1.
    pub fn normal(&mut self) -> f64 {
        self.0.sample(StandardNormal)
    }

    /// A number in 0..1, evenly distributed.
    pub fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// A number below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.random_range(..count)
    }

    /// Puts a list in random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        list.shuffle(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed() {
        let mut random = Random::new(1, 2);
        let normal: [f64; 3] = std::array::from_fn(|_| random.normal());
        let below: [usize; 4] = std::array::from_fn(|_| random.below(1000));
        let mut list: Vec<usize> = (0..10).collect();
        random.shuffle(&mut list);
        assert_eq!(normal, [1.598939784178518, 0.3390612442489347, -0.5978959725236195]);
        assert_eq!((below, &list[..]), ([133, 511, 930, 961], &[1, 5, 0, 4, 7, 2, 9, 6, 3, 8][..]));
    }

    #[test]
    fn numbers_are_spread() {
        let mut random = Random::new(1, 2);
        let numbers: Vec<f64> = (0..10_000).map(|_| random.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 1e4;
        let variance = numbers.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_ne!(Random::new(1, 2).normal(), Random::new(1, 3).normal());
        let mut list: Vec<usize> = (0..100).collect();
        Random::new(1, 3).shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
    }
}
