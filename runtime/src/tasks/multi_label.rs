//! Multi-label classification: any number of labels for a text or a pair. The head reads one vector and gives a logit for
//! each of C labels; a label's probability is its sigmoid. A label is given from its threshold on. The loss is the mean
//! over labels of the binary cross-entropy, as PyTorch's `BCEWithLogitsLoss`.

use std::sync::Arc;

use bias_patch::{Kind, Pooling};
use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Outputs, Ranked, Scores, TaskKind, Tensor, Window,
    gold::{class_of, other_form},
    loss::binary_cross_entropy,
    metrics,
    row::{Row, join},
    tensor::listed,
};
use crate::{Prediction, Text, Tokenized, head};

/// The threshold of a label that is given when it is more likely than not.
const EVEN: f32 = 0.5;

/// The labels of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// Labels by probability, the likeliest first, each with whether it reaches its threshold.
    ranked: Vec<(Ranked, bool)>,
    /// How many of those that do not reach their threshold are written too.
    shown: usize,
}

impl Labels {
    /// The labels that reach their threshold, the likeliest first.
    pub fn given(&self) -> impl Iterator<Item = &Ranked> {
        self.ranked.iter().filter(|(_, given)| *given).map(|(label, _)| label)
    }
}

/// A task of this kind.
pub(super) struct MultiLabel {
    labels: Vec<Arc<str>>,
    pooling: Pooling,
    thresholds: Vec<f32>,
}

impl MultiLabel {
    pub fn new(labels: &[String], pooling: Pooling, thresholds: &[f32]) -> Self {
        let labels = labels.iter().map(|label| label.as_str().into()).collect();
        MultiLabel { labels, pooling, thresholds: thresholds.to_vec() }
    }
}

impl TaskKind for MultiLabel {
    fn pooling(&self) -> Option<Pooling> {
        Some(self.pooling)
    }

    fn has_alternatives(&self) -> bool {
        true
    }

    fn answer(&self, _text: &Text, windows: &[Window<'_>], top: usize) -> Answer {
        let logits = windows.first().map(|window| window.outputs.row(0).to_vec()).unwrap_or_default();
        let each = self.labels.iter().zip(logits).zip(&self.thresholds).map(|((label, logit), threshold)| {
            let score = head::sigmoid(logit);
            (Ranked { label: label.clone(), score }, score >= *threshold)
        });
        let mut ranked: Vec<(Ranked, bool)> = each.collect();
        // Stable: of equal scores the first label stays first.
        ranked.sort_by(|(a, _), (b, _)| b.score.total_cmp(&a.score));
        Answer::Several(Labels { ranked, shown: top })
    }

    fn tensors(&self) -> Vec<Tensor> {
        let labels = |prediction: &Prediction| match &prediction.answer {
            Answer::Several(labels) => listed(&labels.given().map(|given| &*given.label).collect::<Vec<_>>()),
            _ => String::new(),
        };
        let scores = |prediction: &Prediction| prediction.logits.iter().map(|logit| head::sigmoid(*logit)).collect();
        let count = self.labels.len();
        vec![Tensor::bytes("labels", labels), Tensor::floats("scores", Some(count), scores), Tensor::logits(count)]
    }

    fn expects(&self) -> &'static str {
        "a list of labels"
    }

    /// A list, or one cell with commas between labels.
    fn gold(&self, _text: &Text, label: &Label) -> Result<Gold, String> {
        let named: Vec<&str> = match label {
            Label::Names(labels) => labels.iter().map(String::as_str).collect(),
            Label::Name(label) if label.trim().is_empty() => Vec::new(),
            Label::Name(label) if class_of(&self.labels, label.trim()).is_ok() => vec![label],
            Label::Name(label) => label.split(',').collect(),
            Label::Answers(_) | Label::Negatives(_) => return Err(other_form(self.expects())),
        };
        let classes = named.into_iter().map(|label| class_of(&self.labels, label.trim()));
        let mut classes = classes.collect::<Result<Vec<_>, _>>()?;
        classes.sort_unstable();
        classes.dedup();
        Ok(Gold::Classes(classes))
    }

    fn loss(&self, _text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss {
        let ([logits], Gold::Classes(classes)) = (outputs, gold) else { return Loss::none(outputs) };
        let weight = weight / logits.len().max(1) as f64;
        let mut loss = Loss { value: 0.0, d_outputs: vec![Vec::with_capacity(logits.len())] };
        for (at, logit) in logits.iter().enumerate() {
            let (value, d) = binary_cross_entropy(*logit, f64::from(u8::from(classes.contains(&at))));
            loss.value += value * weight;
            loss.d_outputs[0].push(d * weight);
        }
        loss
    }

    fn output_form(&self) -> Outputs {
        Outputs::Sigmoids
    }

    fn drawn(&self, _: &Tokenized, outputs: &[Vec<f64>], _: &Answer, random: &mut dyn FnMut() -> f64) -> Gold {
        let logits = outputs.first().map_or(&[][..], Vec::as_slice).iter().enumerate();
        let drawn = logits.filter(|(_, logit)| random() < 1.0 / (1.0 + (-**logit).exp()));
        Gold::Classes(drawn.map(|(at, _)| at).collect())
    }

    /// For each label the threshold of its highest F1, half way between two texts; of a label that no text has, the even
    /// one.
    fn fitted(&self, answered: &[Answered<'_>]) -> Option<Kind> {
        if self.thresholds.iter().any(|threshold| *threshold != EVEN) {
            return None;
        }
        let thresholds = self.labels.iter().enumerate().map(|(at, label)| {
            let texts = answered.iter().filter_map(|one| match (one.answer, one.gold) {
                (Answer::Several(labels), Gold::Classes(classes)) => {
                    let (found, _) = labels.ranked.iter().find(|(ranked, _)| ranked.label == *label)?;
                    Some((found.score, classes.contains(&at)))
                }
                _ => None,
            });
            metrics::best_threshold(texts.collect()).unwrap_or(EVEN)
        });
        Some(Kind::MultiLabel {
            labels: self.labels.iter().map(|label| (**label).to_owned()).collect(),
            pooling: self.pooling,
            thresholds: thresholds.collect(),
        })
    }

    fn refit(&self, answer: &mut Answer, fitted: &Kind) {
        let (Answer::Several(labels), Kind::MultiLabel { thresholds, .. }) = (answer, fitted) else { return };
        for (label, given) in &mut labels.ranked {
            let at = self.labels.iter().position(|known| *known == label.label);
            *given = at.and_then(|at| thresholds.get(at)).is_some_and(|threshold| label.score >= *threshold);
        }
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["micro F1", "macro F1", "exact match", "label ranking"]
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        let (mut found, mut gold, mut scores) = (Vec::new(), Vec::new(), Vec::new());
        let (mut probabilities, mut right) = (Vec::new(), Vec::new());
        for one in answered {
            let (Answer::Several(labels), Gold::Classes(classes)) = (one.answer, one.gold) else { continue };
            let (mut given, mut score) = (vec![false; self.labels.len()], vec![0.0; self.labels.len()]);
            for (label, reached) in &labels.ranked {
                let Some(at) = self.labels.iter().position(|known| *known == label.label) else { continue };
                (given[at], score[at]) = (*reached, label.score);
                probabilities.push(f64::from(label.score.max(1.0 - label.score)));
                right.push((label.score >= 0.5) == classes.contains(&at));
            }
            found.push(given);
            gold.push((0..self.labels.len()).map(|at| classes.contains(&at)).collect::<Vec<bool>>());
            scores.push(score);
        }
        let exact = found.iter().zip(&gold).filter(|(found, gold)| found == gold).count() as f64;
        Scores {
            metrics: vec![
                metrics::micro_f1_of_sets(&found, &gold),
                metrics::macro_f1_of_sets(&found, &gold),
                exact / found.len().max(1) as f64,
                metrics::label_ranking(&scores, &gold),
            ],
            confusion: Vec::new(),
            calibration: Some(metrics::calibration_error(&probabilities, &right)),
        }
    }
}

impl Row for Labels {
    fn table(&self, width: usize, text: &str) -> String {
        let cells: Vec<String> = self.given().map(|r| format!("{:width$}  {:6.4}", r.label, r.score)).collect();
        match cells.is_empty() {
            true => format!("{:width$}  {:>6}  {text}", "-", "-"),
            false => format!("{}  {text}", cells.join("  ")),
        }
    }

    fn cells(&self) -> (String, String) {
        (join(self.given().map(|r| r.label.to_string())), join(self.given().map(|r| format!("{:.6}", r.score))))
    }
}

/// The labels that are given; also the likeliest labels, if several were asked for.
#[derive(Serialize)]
struct Fields<'a> {
    labels: Vec<&'a Ranked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<&'a Ranked>>,
}

pub(super) fn json<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    let top = (labels.shown > 1).then(|| labels.ranked.iter().take(labels.shown).map(|(label, _)| label).collect());
    Fields { labels: labels.given().collect(), top }.serialize(serializer)
}
