//! The scores of a training's runs.
//!
//! In: runs that are done. Out: mean and standard deviation over the seeds of each learning rate, and the
//! learning rate and the run that are best on dev. A test set chooses nothing.

use serde::{Deserialize, Serialize};

use crate::bootstrap::Draws;

/// A run that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its highest learning rate.
    pub learning_rate: f64,
    /// Its seed.
    pub seed: u64,
    /// The epoch with the best dev score, from 1; none if the run diverged.
    pub epoch: Option<u64>,
    /// The dev score of that epoch; none if the run diverged.
    pub dev: Option<f64>,
    /// The test score of that epoch; none if the run diverged, or without a test set.
    pub test: Option<f64>,
    /// The dev score over draws of its texts. None in results of older versions.
    #[serde(default)]
    pub dev_draws: Draws,
    /// The test score over draws of its texts.
    #[serde(default)]
    pub test_draws: Draws,
}

impl Run {
    /// A run that diverged.
    pub fn diverged(learning_rate: f64, seed: u64) -> Self {
        let (dev_draws, test_draws) = (Draws::default(), Draws::default());
        Run { learning_rate, seed, epoch: None, dev: None, test: None, dev_draws, test_draws }
    }
}

/// Mean and standard deviation of some scores; the mean is not a number where there are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of a sample; none for fewer than two scores.
    pub deviation: Option<f64>,
}

impl Spread {
    pub(crate) fn of(scores: &[f64]) -> Self {
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let squares = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        let deviation = (scores.len() > 1).then(|| (squares / (scores.len() as f64 - 1.0)).sqrt());
        Spread { mean, deviation }
    }
}

/// The scores of one learning rate, over its seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateScores {
    /// The learning rate.
    pub learning_rate: f64,
    /// How many runs did not diverge.
    pub runs: usize,
    /// Their dev scores.
    pub dev: Spread,
    /// The best of these.
    pub best: f64,
    /// Their test scores; none without a test set.
    pub test: Option<Spread>,
}

/// Mean and standard deviation over the seeds of each learning rate, as the paper reports them.
pub fn by_learning_rate(runs: &[Run]) -> Vec<RateScores> {
    let mut rates: Vec<f64> = Vec::new();
    for run in runs {
        if !rates.contains(&run.learning_rate) {
            rates.push(run.learning_rate);
        }
    }
    let of = |rate: f64| {
        let done = runs.iter().filter(|run| run.learning_rate == rate);
        let dev: Vec<f64> = done.clone().filter_map(|run| run.dev).collect();
        let test: Vec<f64> = done.filter_map(|run| run.test).collect();
        RateScores {
            learning_rate: rate,
            runs: dev.len(),
            dev: Spread::of(&dev),
            best: dev.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            test: (!test.is_empty()).then(|| Spread::of(&test)),
        }
    };
    rates.into_iter().map(of).collect()
}

/// The scores of the learning rate with the best mean on dev, the first of several; none if every run diverged.
///
/// Learning rates that were given up after the first seed are not compared with the one that got all seeds.
pub fn best_rate(runs: &[Run]) -> Option<RateScores> {
    let begun = |of: &RateScores| runs.iter().filter(|run| run.learning_rate == of.learning_rate).count();
    let rates = by_learning_rate(runs);
    let most = rates.iter().map(begun).max()?;
    let compared = rates.into_iter().filter(|of| of.runs > 0 && begun(of) == most);
    compared.reduce(|best, of| if of.dev.mean > best.dev.mean { of } else { best })
}

/// The run with the best dev score, the first of several; none if every run diverged.
pub fn best_run(runs: &[Run]) -> Option<&Run> {
    runs.iter().filter(|run| run.dev.is_some()).reduce(|best, run| if run.dev > best.dev { run } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(learning_rate: f64, seed: u64, dev: f64, test: f64) -> Run {
        Run { epoch: Some(1), dev: Some(dev), test: Some(test), ..Run::diverged(learning_rate, seed) }
    }

    #[test]
    fn means_and_deviations_are_those_of_runs_that_did_not_diverge() {
        let runs = [run(1e-3, 1, 0.5, 0.25), Run::diverged(1e-3, 2), run(1e-3, 3, 0.75, 0.75), Run::diverged(3e-3, 1)];
        let rates = by_learning_rate(&runs);
        let dev = Spread { mean: 0.625, deviation: Some(0.03125f64.sqrt()) };
        let test = Some(Spread { mean: 0.5, deviation: Some(0.125f64.sqrt()) });
        assert_eq!(rates[0], RateScores { learning_rate: 1e-3, runs: 2, dev, best: 0.75, test });
        assert!(rates.len() == 2 && rates[1].runs == 0 && rates[1].test.is_none() && rates[1].dev.mean.is_nan());
        // One score has no deviation.
        assert_eq!(by_learning_rate(&runs[..1])[0].dev, Spread { mean: 0.5, deviation: None });
        assert_eq!(best_rate(&runs), Some(rates[0]));
        assert_eq!(best_run(&runs), Some(&runs[2]));
        assert_eq!((best_rate(&runs[3..]), best_run(&runs[3..])), (None, None));
    }

    #[test]
    fn the_test_set_chooses_nothing_and_neither_does_a_rate_that_was_given_up() {
        let runs = [run(1e-3, 1, 0.7, 0.9), run(3e-3, 1, 0.8, 0.1)];
        assert_eq!(best_rate(&runs).unwrap().learning_rate, 3e-3);
        assert_eq!(best_run(&runs), Some(&runs[1]));
        // The second seed of the chosen rate is below the first of the other.
        let runs = [&runs[..], &[run(3e-3, 2, 0.5, 0.1)]].concat();
        assert_eq!(best_rate(&runs).unwrap().learning_rate, 3e-3);
        // Of equal ones the first.
        let equal = [run(1e-3, 1, 0.7, 0.1), run(3e-3, 1, 0.7, 0.9)];
        assert_eq!((best_rate(&equal).unwrap().learning_rate, best_run(&equal)), (1e-3, Some(&equal[0])));
    }
}
