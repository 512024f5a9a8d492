//! How far the rows of a table are from full fine-tuning, with what chance may make of it.
//!
//! In: the cells of one data set. Out: for each row the difference of its score from that of the row `full`, and the
//! standard deviation of the difference. It has two causes: other texts, of which the same draws are subtracted (see
//! [`Draws`]), and other seeds.

use super::Cell;
use crate::{
    Draws,
    train::{Run, Spread, best_rate},
};

/// A difference in a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Distance {
    pub difference: f64,
    pub deviation: f64,
}

impl Distance {
    /// The mean over data sets; none where one of them has none. They are taken as independent.
    pub fn mean(all: &[Option<Distance>]) -> Option<Distance> {
        let known: Vec<Distance> = all.iter().copied().collect::<Option<_>>()?;
        let count = known.len() as f64;
        Some(Distance {
            difference: known.iter().map(|of| of.difference).sum::<f64>() / count,
            deviation: known.iter().map(|of| of.deviation.powi(2)).sum::<f64>().sqrt() / count,
        })
    }
}

/// The distance of a cell from another of the same data set, on test if there is a test set. None where one of them
/// diverged, has but one seed, or was kept without draws.
pub(super) fn distance(cell: &Cell, from: &Cell) -> Option<Distance> {
    let (own, other) = (Scores::of(cell)?, Scores::of(from)?);
    if own.draws.is_empty() || own.draws.len() != other.draws.len() {
        return None;
    }
    let differences: Vec<f64> = own.draws.iter().zip(&other.draws).map(|(own, other)| own - other).collect();
    let of_texts = Spread::of(&differences).deviation?.powi(2);
    Some(Distance {
        difference: own.spread.mean - other.spread.mean,
        deviation: (of_texts + own.of_seeds()? + other.of_seeds()?).sqrt(),
    })
}

/// The scores of the runs at a cell's best learning rate.
struct Scores {
    spread: Spread,
    runs: usize,
    /// Their mean over draws of texts.
    draws: Vec<f64>,
}

impl Scores {
    fn of(cell: &Cell) -> Option<Self> {
        let of = best_rate(&cell.runs)?;
        let runs: Vec<&Run> =
            cell.runs.iter().filter(|run| run.learning_rate == of.learning_rate && run.dev.is_some()).collect();
        let tested = of.test.is_some();
        let draws: Vec<&Draws> = runs.iter().map(|run| if tested { &run.test_draws } else { &run.dev_draws }).collect();
        Some(Scores { spread: of.test.unwrap_or(of.dev), runs: runs.len(), draws: Draws::mean(&draws) })
    }

    /// The variance of the mean over seeds.
    fn of_seeds(&self) -> Option<f64> {
        Some(self.spread.deviation?.powi(2) / self.runs as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(runs: &[(f64, &str)]) -> Cell {
        let runs = runs.iter().enumerate().map(|(seed, (dev, draws))| Run {
            epoch: Some(1),
            dev: Some(*dev),
            dev_draws: serde_json::from_value((*draws).into()).unwrap(),
            ..Run::diverged(1e-3, seed as u64)
        });
        let runs = serde_json::to_value(runs.collect::<Vec<_>>()).unwrap();
        let fields = serde_json::json!({
            "name": "row", "fingerprint": "", "metric": "accuracy", "texts": 1, "runs": runs, "train": 1.0, "bytes": [1, 1],
        });
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn a_distance_has_the_deviation_of_texts_and_of_seeds() {
        // Texts on which both are bad are no difference.
        let better = cell(&[(0.8, "70000 80000 90000"), (0.8, "72000 82000 92000")]);
        let full = cell(&[(0.7, "60000 70000 80000"), (0.72, "62000 72000 82000")]);
        let found = distance(&better, &full).unwrap();
        assert!((found.difference - 0.09).abs() < 1e-12, "{found:?}");
        assert!((found.deviation - (0.0002_f64 / 2.0).sqrt()).abs() < 1e-12, "{found:?}");
        // On others the draws differ.
        let other = cell(&[(0.7, "60000 70000 90000"), (0.7, "60000 70000 90000")]);
        let found = distance(&other, &other).unwrap();
        assert_eq!(found, Distance { difference: 0.0, deviation: 0.0 });
        let of_texts = Spread::of(&[0.11, 0.11, 0.01]).deviation.unwrap();
        assert!((distance(&better, &other).unwrap().deviation - of_texts).abs() < 1e-12);
    }

    #[test]
    fn results_without_draws_and_single_seeds_have_no_distance() {
        let one = cell(&[(0.8, "70000 80000 90000")]);
        let none = cell(&[(0.8, ""), (0.8, "")]);
        let two = cell(&[(0.8, "70000 80000 90000"), (0.8, "70000 80000 90000")]);
        assert_eq!((distance(&one, &two), distance(&none, &two), distance(&two, &none)), (None, None, None));
        let found = distance(&two, &two);
        assert_eq!(Distance::mean(&[found, None]), None);
        let mean = Distance::mean(&[
            Some(Distance { difference: 0.02, deviation: 0.03 }),
            Some(Distance { difference: 0.04, deviation: 0.04 }),
        ]);
        let mean = mean.unwrap();
        assert!((mean.difference - 0.03).abs() < 1e-12 && (mean.deviation - 0.025).abs() < 1e-12, "{mean:?}");
    }
}
