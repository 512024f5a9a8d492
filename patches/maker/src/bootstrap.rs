//! How much a score would differ on other texts of the same kind.
//!
//! In: answers of one or more patches to labelled texts. Out: the standard deviation of each metric, or of the
//! difference of a metric, by the bootstrap (Efron 1979): as many texts are drawn, with replacement, and scored, again
//! and again. Nothing is given for pairs that are ranked against each other, of which one drawn twice would be another
//! task.

use bias_patch::Task;
use edge_run::{
    Prediction,
    tasks::{self, Answered, TaskKind},
};

use crate::{
    data::{Example, Gold},
    evaluate::{answered, texts},
    random::Random,
    train::Spread,
};

/// How often texts are drawn. A deviation is then known to three percent of itself.
const DRAWS: usize = 500;

/// The deviation of each metric of the kind; none where fewer than two draws have that metric. Empty for pairs that are
/// ranked.
pub(crate) fn deviations(task: &Task, predictions: &[Prediction], examples: &[Example]) -> Vec<Option<f64>> {
    let kind = tasks::of(task.kind());
    spread(&*kind, &[predictions], examples, kind.metrics().len(), |scores| scores[0].clone())
}

/// The deviation of the difference of a metric, by its number, between one patch's answers and another's to the same
/// texts. None for pairs that are ranked.
pub(crate) fn deviation_of_difference(
    task: &Task,
    metric: usize,
    [first, second]: [&[Prediction]; 2],
    examples: &[Example],
) -> Option<f64> {
    let kind = tasks::of(task.kind());
    let difference = |scores: &[Vec<f64>]| vec![scores[0][metric] - scores[1][metric]];
    spread(&*kind, &[first, second], examples, 1, difference).first().copied().flatten()
}

/// The deviations over draws of `count` numbers, which are made of the scores of every patch.
fn spread(
    kind: &dyn TaskKind,
    predictions: &[&[Prediction]],
    examples: &[Example],
    count: usize,
    numbers: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) -> Vec<Option<f64>> {
    /// The purpose of the random stream of draws.
    const PURPOSE: u64 = u64::MAX - 6;
    if examples.is_empty() || examples.iter().any(|example| matches!(example.gold, Gold::Pair(_))) {
        return Vec::new();
    }
    let texts = texts(kind, examples);
    let of_patches: Vec<_> = predictions.iter().map(|predictions| answered(&texts, predictions)).collect();
    // An example may have several answers, one for each of its texts.
    let mut end = 0;
    let places: Vec<_> = examples
        .iter()
        .map(|example| {
            let begin = end;
            end += example.answered(kind).len();
            begin..end
        })
        .collect();
    let mut random = Random::new(0, PURPOSE);
    let mut found = vec![Vec::with_capacity(DRAWS); count];
    for _ in 0..DRAWS {
        let some: Vec<usize> = examples.iter().map(|_| random.below(examples.len())).collect();
        let scores: Vec<Vec<f64>> = of_patches
            .iter()
            .map(|all| {
                let drawn: Vec<Answered<'_>> = some.iter().flat_map(|at| &all[places[*at].clone()]).copied().collect();
                kind.scores(&drawn).metrics
            })
            .collect();
        for (found, number) in found.iter_mut().zip(numbers(&scores)) {
            if !number.is_nan() {
                found.push(number);
            }
        }
    }
    found.iter().map(|numbers| Spread::of(numbers).deviation).collect()
}
