//! Metrics: those of the paper's Table 5, and those of tags and answers.

mod answers;
mod entities;
mod retrieval;
mod sets;

use std::collections::BTreeSet;

pub use answers::{answer_f1, exact_match};
pub use entities::{are_entities, span_f1};
pub(crate) use retrieval::Retrieval;
pub(crate) use sets::best_threshold;
pub use sets::{label_ranking, macro_f1_of_sets, micro_f1_of_sets};

/// The scores of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The kind's metrics, in the order of their names.
    pub metrics: Vec<f64>,
    /// The confusion matrix: for each gold label, how often each label was predicted; empty for kinds without labels.
    pub confusion: Vec<Vec<usize>>,
    /// The expected calibration error; none for kinds without probabilities.
    pub calibration: Option<f64>,
}

impl Scores {
    /// The scores of predicted classes, with their `probabilities`. Classes are below `labels`; a prediction of
    /// `labels` or above stands for no class.
    pub(super) fn of_classes(
        metrics: Vec<f64>,
        found: &[usize],
        gold: &[usize],
        probabilities: &[f64],
        labels: usize,
    ) -> Self {
        let right: Vec<bool> = found.iter().zip(gold).map(|(a, b)| a == b).collect();
        let calibration = Some(calibration_error(probabilities, &right));
        let mut confusion = vec![vec![0; labels]; labels];
        for (found, gold) in found.iter().zip(gold) {
            if let Some(cell) = confusion.get_mut(*gold).and_then(|row| row.get_mut(*found)) {
                *cell += 1;
            }
        }
        Scores { metrics, confusion, calibration }
    }
}

/// The fraction of correct predictions.
pub fn accuracy(found: &[usize], gold: &[usize]) -> f64 {
    assert_eq!(found.len(), gold.len());
    found.iter().zip(gold).filter(|(a, b)| a == b).count() as f64 / gold.len() as f64
}

/// The harmonic mean of precision and recall of one class.
pub fn f1(found: &[usize], gold: &[usize], class: usize) -> f64 {
    let (both, of_found, of_gold) = counts(found, gold, class);
    or_zero(2.0 * both / (of_found + of_gold))
}

/// The mean F1 over the classes that are predicted or gold at least once.
pub fn macro_f1(found: &[usize], gold: &[usize]) -> f64 {
    let classes: BTreeSet<usize> = found.iter().chain(gold).copied().collect();
    classes.iter().map(|class| f1(found, gold, *class)).sum::<f64>() / classes.len().max(1) as f64
}

/// Matthews' correlation, of several classes as Gorodkin (2004) extends it.
pub fn matthews(found: &[usize], gold: &[usize]) -> f64 {
    let classes: BTreeSet<usize> = found.iter().chain(gold).copied().collect();
    let all = found.len() as f64;
    let (mut right, mut crossed, mut of_found, mut of_gold) = (0.0, 0.0, 0.0, 0.0);
    for class in classes {
        let (both, f, g) = counts(found, gold, class);
        right += both;
        crossed += f * g;
        of_found += f * f;
        of_gold += g * g;
    }
    or_zero((right * all - crossed) / ((all * all - of_found) * (all * all - of_gold)).sqrt())
}

/// How often a class is predicted and gold, predicted, and gold.
fn counts(found: &[usize], gold: &[usize], class: usize) -> (f64, f64, f64) {
    assert_eq!(found.len(), gold.len());
    let count = |list: &[usize]| list.iter().filter(|c| **c == class).count() as f64;
    let both = found.iter().zip(gold).filter(|(f, g)| **f == class && **g == class).count() as f64;
    (both, count(found), count(gold))
}

/// Spearman's rank correlation, ties having the mean of their ranks.
pub fn spearman(found: &[f64], gold: &[f64]) -> f64 {
    assert_eq!(found.len(), gold.len());
    pearson(&ranks(found), &ranks(gold))
}

/// Pearson's correlation; 0 where one side does not vary.
pub fn pearson(found: &[f64], gold: &[f64]) -> f64 {
    assert_eq!(found.len(), gold.len());
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (of_found, of_gold) = (mean(found), mean(gold));
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| found.iter().zip(gold).map(|(x, y)| f(x - of_found, y - of_gold)).sum::<f64>();
    // Of points on a line it may round to more than 1.
    or_zero(sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()).clamp(-1.0, 1.0)
}

/// The expected calibration error (Guo et al. 2017): in each tenth of the probabilities, the difference between the
/// mean probability and the fraction of correct predictions, averaged over texts.
pub fn calibration_error(scores: &[f64], right: &[bool]) -> f64 {
    assert_eq!(scores.len(), right.len());
    let mut tenths = [(0.0, 0.0); 10];
    for (score, right) in scores.iter().zip(right) {
        let tenth = &mut tenths[((score * 10.0) as usize).min(9)];
        *tenth = (tenth.0 + score, tenth.1 + f64::from(u8::from(*right)));
    }
    tenths.iter().map(|(scores, right)| (scores - right).abs()).sum::<f64>() / scores.len() as f64
}

/// A quotient, or 0 if the divisor is 0.
fn or_zero(quotient: f64) -> f64 {
    if quotient.is_finite() { quotient } else { 0.0 }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let end = (at..order.len()).take_while(|i| values[order[*i]] == values[order[at]]).count() + at;
        for i in at..end {
            ranks[order[i]] = (at + end - 1) as f64 / 2.0;
        }
        at = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_agree_with_scikit_learn_and_scipy() {
        // Printed by tests/reference/metrics.py.
        let (found, gold) = ([1, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 1]);
        assert!((accuracy(&found, &gold) - 0.666_666_666_7).abs() < 1e-9);
        assert!((f1(&found, &gold, 1) - 0.75).abs() < 1e-12);
        assert!((matthews(&found, &gold) - 0.25).abs() < 1e-12);
        let (three, due) = ([0, 1, 2, 2, 1, 0, 2], [0, 1, 1, 2, 0, 0, 2]);
        assert!((macro_f1(&three, &due) - 0.7).abs() < 1e-12 && (matthews(&three, &due) - 0.593_75).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0]) - 0.948_683_298_1).abs() < 1e-9);
        assert!((pearson(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 5.0]) - 0.969_458_417_9).abs() < 1e-9);
        assert_eq!((pearson(&[1.0, 1.0], &[1.0, 2.0]), matthews(&[1, 1], &[0, 1]), f1(&[0], &[0], 1)), (0.0, 0.0, 0.0));
        // Two at 0.95 of which one is right, one at 0.65 that is wrong.
        let error = calibration_error(&[0.95, 0.95, 0.65], &[true, false, false]);
        assert!((error - (0.9 + 0.65) / 3.0).abs() < 1e-12);
    }
}
