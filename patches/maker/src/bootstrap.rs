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

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    data::{Example, Gold},
    evaluate::{answered, texts},
    random::Random,
    train::Spread,
};

/// How often texts are drawn. A deviation is then known to three percent of itself.
const DRAWS: usize = 500;
/// Hundred-thousandths, in which kept scores of draws are counted.
const UNIT: f64 = 1e5;

/// The scores of one metric over draws of the texts of a set, in hundred-thousandths. The draws are the same for all
/// answers to one set, so those of two patches or trainings can be subtracted. Serialized as a text of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draws(Vec<i32>);

impl Draws {
    /// The scores of a metric, by its number. Empty for pairs that are ranked, and where a draw lacks the metric.
    pub(crate) fn of(task: &Task, metric: usize, predictions: &[Prediction], examples: &[Example]) -> Self {
        let kind = tasks::of(task.kind());
        let scores = draws(&*kind, &[predictions], examples, 1, |scores| vec![scores[0][metric]]);
        let whole = scores.into_iter().next().filter(|scores| scores.len() == DRAWS).unwrap_or_default();
        // A metric is a number from -1 to 1.
        Draws(whole.iter().map(|score| (score * UNIT).round() as i32).collect())
    }

    /// The mean over trainings, draw by draw; empty if one of them has none.
    pub fn mean(all: &[&Draws]) -> Vec<f64> {
        let Some(first) = all.first().filter(|first| all.iter().all(|other| other.0.len() == first.0.len())) else {
            return Vec::new();
        };
        let of = |at: usize| all.iter().map(|draws| f64::from(draws.0[at])).sum::<f64>();
        (0..first.0.len()).map(|at| of(at) / all.len() as f64 / UNIT).collect()
    }
}

impl Serialize for Draws {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(i32::to_string).collect::<Vec<_>>().join(" "))
    }
}

impl<'de> Deserialize<'de> for Draws {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let numbers = text.split_whitespace().map(str::parse);
        numbers.collect::<Result<_, _>>().map(Draws).map_err(D::Error::custom)
    }
}

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
    let found = draws(kind, predictions, examples, count, numbers);
    found.iter().map(|numbers| Spread::of(numbers).deviation).collect()
}

/// `count` numbers of each draw, which are made of the scores of every patch; those that are not numbers are left out.
fn draws(
    kind: &dyn TaskKind,
    predictions: &[&[Prediction]],
    examples: &[Example],
    count: usize,
    numbers: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) -> Vec<Vec<f64>> {
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
    found
}
