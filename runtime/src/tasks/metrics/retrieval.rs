//! How well vectors find what belongs to a query: recall and nDCG (Jarvelin and Kekalainen 2002) of the nearest texts.
//!
//! In: queries, each with the text that belongs to it, and candidates. Out: means over queries. The candidates of a query
//! are those of all. One query may be there several times with different texts: then all of them are right.

use std::collections::{BTreeMap, BTreeSet};

use crate::tasks::normalize;

/// How many of the nearest texts count.
const NEAREST: usize = 10;

/// Queries and candidates, each with its vector divided by its length.
#[derive(Debug, Default)]
pub(crate) struct Retrieval<'a> {
    queries: BTreeMap<&'a str, (Vec<f32>, BTreeSet<&'a str>)>,
    candidates: BTreeMap<&'a str, Vec<f32>>,
}

impl<'a> Retrieval<'a> {
    /// Adds a query and a text that belongs to it.
    pub fn query(&mut self, text: &'a str, vector: &[f32], right: &'a str) {
        self.queries.entry(text).or_insert_with(|| (unit(vector), BTreeSet::new())).1.insert(right);
    }

    /// Adds a text that may be found.
    pub fn candidate(&mut self, text: &'a str, vector: &[f32]) {
        self.candidates.entry(text).or_insert_with(|| unit(vector));
    }

    /// nDCG of the nearest ten by the cosine, recall of the nearest, and recall of the nearest ten; not a number without
    /// queries.
    pub fn scores(&self) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for (vector, right) in self.queries.values() {
            let cosine = |other: &[f32]| vector.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
            let mut all: Vec<(f32, &str)> =
                self.candidates.iter().map(|(text, candidate)| (cosine(candidate), *text)).collect();
            let nearer = |(a, x): &(f32, &str), (b, y): &(f32, &str)| b.total_cmp(a).then(x.cmp(y));
            if all.len() > NEAREST {
                all.select_nth_unstable_by(NEAREST, nearer);
                all.truncate(NEAREST);
            }
            all.sort_unstable_by(nearer);
            let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
            let hits = all.iter().enumerate().filter(|(_, (_, text))| right.contains(text));
            let ranks: Vec<usize> = hits.map(|(rank, _)| rank).collect();
            let best: f64 = (0..right.len().min(NEAREST)).map(gain).sum();
            sums[0] += ranks.iter().map(|rank| gain(*rank)).sum::<f64>() / best;
            sums[1] += f64::from(u8::from(ranks.first() == Some(&0))) / right.len() as f64;
            sums[2] += ranks.len() as f64 / right.len() as f64;
        }
        sums.map(|sum| sum / self.queries.len() as f64)
    }
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let mut vector = vector.to_vec();
    normalize(&mut vector);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by hand, from the definitions.
    #[test]
    fn the_nearest_texts_count() {
        // Angles from 0 to 165 degrees.
        let vectors: Vec<[f32; 2]> = (0..12u8).map(|at| (f32::from(at) * 15.0).to_radians().sin_cos().into()).collect();
        let names: Vec<String> = (0..12).map(|at| format!("{at:02}")).collect();
        let mut found = Retrieval::default();
        for (name, vector) in names.iter().zip(&vectors) {
            found.candidate(name, &vector.map(|v| 3.0 * v));
        }
        // Near the first are 0, 1, 2, ...: the right ones have ranks 0 and 2.
        found.query("a", &vectors[0], "00");
        found.query("a", &vectors[0], "02");
        // Near the last are 11, 10, ...: the right one has rank 11, which is not among the ten.
        found.query("b", &vectors[11], "00");
        let due = [(1.0 + 0.5) / (1.0 + 1.0 / 3f64.log2()) / 2.0, 0.25, 0.5];
        let scores = found.scores();
        assert!(scores.iter().zip(due).all(|(found, due)| (found - due).abs() < 1e-12), "{scores:?}, expected {due:?}");
        assert!(Retrieval::default().scores()[0].is_nan());
    }
}
