//! The loss of a metric that is to be expected of a patch, without labels; and the loss that was measured with them.

use bias_patch::{Kind, Patch, Task};
use edge_run::{
    Encoder, Options, Prediction, Request, Text,
    tasks::{self, Answered, Gold},
};

use super::state::{State, tokenized};
use crate::{
    Result,
    bootstrap::{deviations_against, number_of},
    data::Example,
    evaluate::compare,
    random::Random,
};

/// A loss of a metric, as a fraction, and its standard deviation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the mean; none for a loss that was measured on too few texts to tell.
    pub deviation: Option<f64>,
}

/// Texts on which a loss is expected, and what the exact patch says of them.
pub(super) struct Judge<'a> {
    task: &'a Task,
    metric: usize,
    texts: Vec<Text>,
    exact: Vec<Prediction>,
    /// Gold labels that were drawn from the exact patch's probabilities, one for each text.
    drawn: Vec<Vec<Gold>>,
}

/// The texts are split into this many groups, whose losses give the deviation. So there are at least as many texts.
pub(super) const GROUPS: usize = 20;

impl<'a> Judge<'a> {
    /// # Errors
    /// When the texts do not suit the task.
    pub fn new(
        encoder: &Encoder,
        task: &'a Task,
        metric: &str,
        state: &State,
        exact: Vec<Prediction>,
        texts: Vec<Text>,
    ) -> Result<Self> {
        /// How often labels are drawn: the draws of a thousand texts then add a tenth of a point or less.
        const DRAWS: usize = 64;
        /// The purpose of the random stream of labels.
        const PURPOSE: u64 = u64::MAX - 4;
        let kind = tasks::of(task.kind());
        // Of a span task the first window: its labels are drawn from the answers.
        let mut windows = Vec::with_capacity(texts.len());
        for text in &texts {
            windows.push(tokenized(encoder, task, std::slice::from_ref(text))?.swap_remove(0));
        }
        let outputs = state.outputs(encoder, task, &windows.iter().collect::<Vec<_>>())?;
        let mut random = Random::new(0, PURPOSE);
        let mut uniform = || random.uniform();
        let mut drawn = Vec::with_capacity(DRAWS);
        for _ in 0..DRAWS {
            let of_texts = windows.iter().zip(&outputs).zip(&exact);
            let draw = of_texts.map(|((text, outputs), exact)| kind.drawn(text, outputs, &exact.answer, &mut uniform));
            drawn.push(draw.collect());
        }
        // The value that a regression expects is the same in every draw.
        if drawn.iter().all(|draw| *draw == drawn[0]) {
            drawn.truncate(1);
        }
        Ok(Judge { task, metric: number_of(task, metric), texts, exact, drawn })
    }

    pub fn texts(&self) -> &[Text] {
        &self.texts
    }

    /// The loss that is to be expected of a patch with these answers, if the exact patch's probabilities are right: the
    /// mean over labels that are drawn from them.
    ///
    /// The deviation is that over groups of texts, and not below what [`Judge::least`] says: on few texts no answer may
    /// change by chance.
    pub fn expected(&self, found: &[Prediction]) -> Loss {
        let groups = GROUPS.min(self.texts.len());
        let of_groups: Vec<f64> = (0..groups).map(|group| self.loss(found, |at| at % groups == group)).collect();
        let mean = of_groups.iter().sum::<f64>() / groups as f64;
        let squares: f64 = of_groups.iter().map(|loss| (loss - mean).powi(2)).sum();
        let deviation = (squares / (groups as f64 - 1.0).max(1.0) / groups as f64).sqrt();
        Loss { mean: self.loss(found, |_| true), deviation: Some(deviation.max(self.least(found))) }
    }

    /// The least deviation of the loss. For classification it is the mean total variation distance between the classes'
    /// probabilities, over the root of the number of texts. For other answers that change whole or not at all it is one
    /// answer of all, if any output moved. A regression's answers move with its output.
    fn least(&self, found: &[Prediction]) -> f64 {
        let answers: usize = match self.task.kind() {
            Kind::Classification { .. } => return self.moved(found),
            Kind::Regression { .. } | Kind::Embedding(_) => return 0.0,
            Kind::Tagging { .. } => self.drawn[0].iter().map(|gold| gold.classes().len()).sum(),
            Kind::Span { .. } | Kind::MultiLabel { .. } => self.texts.len(),
        };
        let same =
            |(exact, found): (&Prediction, &Prediction)| exact.answer == found.answer && exact.logits == found.logits;
        let same = self.exact.iter().zip(found).all(same);
        if same { 0.0 } else { 1.0 / answers.max(1) as f64 }
    }

    /// The mean total variation distance between the classes' probabilities, over the root of the number of texts.
    fn moved(&self, found: &[Prediction]) -> f64 {
        let distance = |(exact, found): (&Prediction, &Prediction)| {
            let of = |logits: &[f32]| tasks::softmax(&logits.iter().copied().map(f64::from).collect::<Vec<_>>());
            let pairs = of(&exact.logits).into_iter().zip(of(&found.logits));
            0.5 * pairs.map(|(p, q)| (p - q).abs()).sum::<f64>()
        };
        let sum: f64 = self.exact.iter().zip(found).map(distance).sum();
        sum / (self.texts.len() as f64).powf(1.5)
    }

    /// The mean loss over the drawn labels, on some of the texts.
    fn loss(&self, found: &[Prediction], which: impl Fn(usize) -> bool) -> f64 {
        let kind = tasks::of(self.task.kind());
        let some: Vec<usize> = (0..self.texts.len()).filter(|at| which(*at)).collect();
        let score = |predictions: &[Prediction], gold: &[Gold]| {
            let answered = some.iter().map(|at| Answered {
                text: &self.texts[*at],
                answer: &predictions[*at].answer,
                gold: &gold[*at],
            });
            kind.scores(&answered.collect::<Vec<_>>()).metrics[self.metric]
        };
        let losses = self.drawn.iter().map(|gold| score(&self.exact, gold) - score(found, gold));
        losses.sum::<f64>() / self.drawn.len() as f64
    }
}

/// The answers of a patch to texts, with their alternatives.
pub(super) fn answers(encoder: &Encoder, patch: &Patch, texts: &[Text]) -> Result<Vec<Prediction>> {
    /// Spans of which one is drawn.
    const TOP: usize = 20;
    let task = encoder.attach(patch)?;
    let requests: Vec<Request<'_>> = texts.iter().map(|text| Request { task: &task, text }).collect();
    let predictions = encoder.predict_with(&requests, Options { top: TOP, ..Options::default() });
    Ok(predictions.into_iter().collect::<edge_run::Result<_>>()?)
}

/// The loss of a metric from one patch's answers to another's, by the texts' labels; the deviation is that over
/// resamples of the texts (a paired bootstrap).
pub(super) fn measured(
    task: &Task,
    metric: &str,
    examples: &[Example],
    exact: &[Prediction],
    found: &[Prediction],
) -> Loss {
    let [_, differences] = deviations_against(task, [exact, found], examples);
    let deviation = differences.get(number_of(task, metric)).copied().flatten();
    let of = |predictions: &[Prediction]| compare(task, predictions, examples).metric(metric);
    Loss { mean: of(exact) - of(found), deviation }
}

#[cfg(test)]
mod tests {
    use edge_run::{Answer, Ranked, Timing};

    use super::*;

    fn task() -> Task {
        serde_json::from_str(r#"{"name":"mood","kind":"classification","labels":["bad","good"]}"#).unwrap()
    }

    fn prediction(class: usize) -> Prediction {
        let ranked = Ranked { label: ["bad", "good"][class].into(), score: 0.8 };
        let timing = Timing::default();
        Prediction { answer: Answer::Labels(vec![ranked]), logits: Vec::new(), truncated: false, timing }
    }

    /// Answers "good" to all of 100 texts but those from `changed` on, every tenth of them.
    fn answers(changed: usize) -> Vec<Prediction> {
        (0..100).map(|at| prediction(usize::from(at < changed || at % 10 != 0))).collect()
    }

    #[test]
    fn a_change_costs_what_probabilities_say() {
        let task = task();
        let texts: Vec<Text> = (0..100).map(|at| Text::one(format!("text {at}"))).collect();
        // "good" in eight of ten draws.
        let drawn = (0..10).map(|draw| vec![Gold::Class(usize::from(draw < 8)); 100]).collect();
        let judge = Judge { task: &task, metric: 0, texts, exact: answers(100), drawn };
        assert_eq!(judge.expected(&answers(100)), Loss { mean: 0.0, deviation: Some(0.0) });
        // Ten answers of a hundred are others, each of which is right in two draws of ten and not in eight.
        let found = judge.expected(&answers(0));
        assert!((found.mean - 0.1 * (0.8 - 0.2)).abs() < 1e-12, "{found:?}");
        assert!(found.deviation.unwrap() > 0.0 && judge.expected(&answers(50)).mean < found.mean);
    }

    #[test]
    fn probabilities_that_move_are_uncertain_even_if_no_answer_changes() {
        let task = task();
        let texts: Vec<Text> = (0..4).map(|at| Text::one(format!("text {at}"))).collect();
        let with = |logit: f32| vec![Prediction { logits: vec![0.0, logit], ..prediction(1) }; 4];
        let judge = Judge { task: &task, metric: 0, texts, exact: with(2.0), drawn: vec![vec![Gold::Class(1); 4]] };
        let of = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        let found = judge.expected(&with(1.0));
        assert!(found.mean == 0.0 && (found.deviation.unwrap() - (of(2.0) - of(1.0)) / 2.0).abs() < 1e-7, "{found:?}");
        assert_eq!(judge.expected(&with(2.0)).deviation, Some(0.0));
    }

    #[test]
    fn a_measured_loss_is_that_of_the_labels() {
        let task = task();
        let example = |at: usize| Example { text: Text::one(format!("text {at}")), gold: Gold::Class(1) };
        let examples: Vec<Example> = (0..100).map(example).collect();
        let same = measured(&task, "accuracy", &examples, &answers(0), &answers(0));
        assert_eq!(same, Loss { mean: 0.0, deviation: Some(0.0) });
        let found = measured(&task, "accuracy", &examples, &answers(100), &answers(0));
        assert!((found.mean - 0.1).abs() < 1e-12, "{found:?}");
        // That of the mean of 100 texts, of which a tenth are lost: the root of .1 x .9 / 100, within what 500 resamples
        // tell.
        assert!((found.deviation.unwrap() - 0.03).abs() < 0.004, "{found:?}");
        let few = measured(&task, "accuracy", &examples[..19], &answers(100)[..19], &answers(0)[..19]);
        assert_eq!(few.deviation, None);
    }
}
