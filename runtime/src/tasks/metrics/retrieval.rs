//! How well vectors find what belongs to a query: recall and nDCG (Jarvelin and Kekalainen 2002) of the nearest texts.
//!
//! In: queries, each with the text that belongs to it, and candidates. Out: means over queries. The candidates of a query
//! are those of all. One query may be there several times with different texts: then all of them are right.

use std::collections::{BTreeMap, BTreeSet};

/// How many of the nearest texts count.
const NEAREST: usize = 10;

/// Queries and candidates, each with its vector.
#[derive(Debug, Default)]
pub struct Retrieval<'a> {
    /// By the bits of the vector, for equal texts have equal vectors.
    queries: BTreeMap<Vec<u32>, (&'a [f32], BTreeSet<&'a str>)>,
    candidates: BTreeMap<&'a str, &'a [f32]>,
}

impl<'a> Retrieval<'a> {
    /// Adds a query and a text that belongs to it.
    pub fn query(&mut self, vector: &'a [f32], right: &'a str) {
        let key = vector.iter().map(|v| v.to_bits()).collect();
        self.queries.entry(key).or_insert((vector, BTreeSet::new())).1.insert(right);
    }

    /// Adds a text that may be found.
    pub fn candidate(&mut self, text: &'a str, vector: &'a [f32]) {
        self.candidates.insert(text, vector);
    }

    /// nDCG of the nearest ten, recall of the nearest, and recall of the nearest ten; not a number without queries.
    pub fn scores(&self, nearness: impl Fn(&[f32], &[f32]) -> f64) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for (vector, right) in self.queries.values() {
            let mut all: Vec<(f64, &str)> =
                self.candidates.iter().map(|(text, candidate)| (nearness(vector, candidate), *text)).collect();
            all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
            let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
            let hits = all.iter().take(NEAREST).enumerate().filter(|(_, (_, text))| right.contains(text));
            let ranks: Vec<usize> = hits.map(|(rank, _)| rank).collect();
            let best: f64 = (0..right.len().min(NEAREST)).map(gain).sum();
            sums[0] += ranks.iter().map(|rank| gain(*rank)).sum::<f64>() / best;
            sums[1] += f64::from(u8::from(ranks.first() == Some(&0))) / right.len() as f64;
            sums[2] += ranks.len() as f64 / right.len() as f64;
        }
        sums.map(|sum| sum / self.queries.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by sklearn.metrics.ndcg_score with k=10, and by hand.
    #[test]
    fn the_nearest_texts_count() {
        let vectors: Vec<[f32; 1]> = (0..12u8).map(|at| [f32::from(at)]).collect();
        let names: Vec<String> = (0..12).map(|at| format!("{at:02}")).collect();
        let mut found = Retrieval::default();
        for (name, vector) in names.iter().zip(&vectors) {
            found.candidate(name, vector);
        }
        // Near 0 are 0, 1, 2, ...: the right ones have ranks 0 and 2.
        found.query(&vectors[0], "00");
        found.query(&vectors[0], "02");
        // Near 11 are 11, 10, ...: the right one has rank 11, which is not among the ten.
        found.query(&vectors[11], "00");
        let scores = found.scores(|a, b| -f64::from((a[0] - b[0]).abs()));
        let due = [(1.0 + 0.5) / (1.0 + 1.0 / 3f64.log2()) / 2.0, 0.25, 0.5];
        assert!(scores.iter().zip(due).all(|(found, due)| (found - due).abs() < 1e-12), "{scores:?}, expected {due:?}");
        assert!(Retrieval::default().scores(|_, _| 0.0)[0].is_nan());
    }
}
