//! How much a score would differ on other texts of the same kind.
//!
//! In: answers of one or more patches to labelled texts. Out: the standard deviation of each metric, or of the
//! difference of a metric, by the bootstrap (Efron 1979): as many texts are drawn, with replacement, and scored, again
//! and again. Nothing is given for pairs that are ranked against each other, of which one drawn twice would be another
//! task, and for fewer than 20 texts.

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

/// The fewest texts of which draws say anything.
const LEAST: usize = 20;
/// How often texts are drawn. A deviation is then known to three percent of itself.
const DRAWS: usize = 500;
/// Hundred-thousandths, in which kept scores of draws are counted.
const UNIT: f64 = 1e5;

/// The scores of one metric over draws of the texts of a set, in hundred-thousandths. The draws are the same for all
/// answers to one set, so those of two patches or trainings can be subtracted. Serialized as a text of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draws(Vec<i32>);

impl Draws {
    /// The scores of a metric. Empty for pairs that are ranked, and where a draw lacks the metric.
    pub(crate) fn of(task: &Task, metric: &str, predictions: &[Prediction], examples: &[Example]) -> Self {
        let (kind, metric) = (tasks::of(task.kind()), number_of(task, metric));
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

/// The deviation of each metric of the first patch's answers, and of its difference from that of the second's to the
/// same texts. Empty for pairs that are ranked.
pub(crate) fn deviations_against(
    task: &Task,
    [first, second]: [&[Prediction]; 2],
    examples: &[Example],
) -> [Vec<Option<f64>>; 2] {
    let kind = tasks::of(task.kind());
    let count = kind.metrics().len();
    let both = |scores: &[Vec<f64>]| {
        let differences = scores[0].iter().zip(&scores[1]).map(|(first, second)| first - second);
        scores[0].iter().copied().chain(differences).collect()
    };
    let mut own = spread(&*kind, &[first, second], examples, 2 * count, both);
    let differences = own.split_off(own.len() / 2);
    [own, differences]
}

/// The place of a metric among those of its kind.
///
/// # Panics
/// When the kind has no such metric.
pub(crate) fn number_of(task: &Task, metric: &str) -> usize {
    let place = tasks::of(task.kind()).metrics().iter().position(|name| *name == metric);
    place.expect("a metric of the kind")
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
    if examples.len() < LEAST || examples.iter().any(|example| matches!(example.gold, Gold::Pair(_))) {
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

#[cfg(test)]
mod tests {
    use edge_run::{Answer, Text, Timing};

    use super::*;

    fn answers(values: &[f32]) -> Vec<Prediction> {
        let answer = |value: &f32| Prediction {
            answer: Answer::Value(*value),
            logits: Vec::new(),
            truncated: false,
            timing: Timing::default(),
        };
        values.iter().map(answer).collect()
    }

    fn examples(golds: impl Iterator<Item = Gold>) -> Vec<Example> {
        golds.map(|gold| Example { text: Text::one("a"), gold }).collect()
    }

    fn task() -> Task {
        serde_json::from_str(r#"{"name":"n","kind":"regression"}"#).unwrap()
    }

    #[test]
    fn draws_are_those_of_the_set_and_are_read_back() {
        let examples = examples((0..20).map(|at| Gold::Value(at as f32)));
        let (good, bad): (Vec<f32>, Vec<f32>) = (0..20).map(|at| (at as f32, (at * 7 % 20) as f32)).unzip();
        let of = |values: &[f32]| Draws::of(&task(), "Spearman", &answers(values), &examples);
        // Whoever is right is right on every draw.
        let (good, again, bad) = (of(&good), of(&good), of(&bad));
        assert_eq!(good, again);
        assert_eq!(Draws::mean(&[&good]), [1.0; DRAWS]);
        let mean = Draws::mean(&[&good, &bad]);
        assert!(mean.len() == DRAWS && mean.iter().any(|score| *score < 0.9), "{mean:?}");
        assert!(Draws::mean(&[&good, &Draws::default()]).is_empty());
        let text = serde_json::to_string(&bad).unwrap();
        assert_eq!(serde_json::from_str::<Draws>(&text).unwrap(), bad);
        assert!(serde_json::from_str::<Draws>("\"1 x\"").is_err());
    }

    #[test]
    fn pairs_that_are_ranked_and_few_texts_have_no_deviation() {
        let few = examples((0..19).map(|at| Gold::Value(at as f32)));
        let ranked = examples((0..30).map(|_| Gold::Pair(Vec::new())));
        for examples in [few, ranked] {
            let answers = answers(&vec![1.0; examples.len()]);
            assert!(deviations(&task(), &answers, &examples).is_empty());
            let found = deviations_against(&task(), [&answers, &answers], &examples);
            assert!(found.iter().all(Vec::is_empty));
        }
    }
}
