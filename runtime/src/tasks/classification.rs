//! Single-label classification: one label for a text or a pair. The head reads one vector and gives a logit for each of
//! C labels. The loss is the cross-entropy of the gold label.

use std::sync::Arc;

use bias_patch::Pooling;
use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Scores, TaskKind, Tensor, Window,
    gold::{class_of, other_form, weight_of},
    loss::cross_entropy,
    metrics,
    outputs::{self, draw},
    row::{Row, join},
};
use crate::{Prediction, Text, Tokenized, head};

/// A label with its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The label.
    pub label: Arc<str>,
    /// Its probability, 0 to 1.
    pub score: f32,
}

/// A task of this kind.
pub(super) struct Classification {
    labels: Vec<Arc<str>>,
    pooling: Pooling,
    /// Weights of the labels in the loss; none where all are 1.
    weights: Vec<f64>,
}

impl Classification {
    pub fn new(labels: &[String], pooling: Pooling) -> Self {
        let labels = labels.iter().map(|label| label.as_str().into()).collect();
        Classification { labels, pooling, weights: Vec::new() }
    }
}

impl TaskKind for Classification {
    fn pooling(&self) -> Option<Pooling> {
        Some(self.pooling)
    }

    fn has_alternatives(&self) -> bool {
        true
    }

    fn answer(&self, _text: &Text, windows: &[Window<'_>], top: usize) -> Answer {
        let logits = windows.first().map(|window| window.outputs.row(0).to_vec()).unwrap_or_default();
        Answer::Labels(rank(&self.labels, &logits, top))
    }

    fn tensors(&self) -> Vec<Tensor> {
        let label = |prediction: &Prediction| best(prediction).map_or(String::new(), |best| best.label.to_string());
        let score = |prediction: &Prediction| vec![best(prediction).map_or(0.0, |best| best.score)];
        vec![Tensor::bytes("label", label), Tensor::floats("score", None, score), Tensor::logits(self.labels.len())]
    }

    fn gold(&self, _text: &Text, label: &Label) -> Result<Gold, String> {
        match label {
            Label::Name(label) => Ok(Gold::Class(class_of(&self.labels, label.trim())?)),
            Label::Names(_) | Label::Answers(_) | Label::Negatives(_) => Err(other_form(self.expects())),
        }
    }

    fn weigh_labels(&mut self, weights: &[f64]) {
        self.weights = weights.to_vec();
    }

    fn loss(&self, _text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss {
        let ([logits], Gold::Class(class)) = (outputs, gold) else { return Loss::none(outputs) };
        let (value, d) = cross_entropy(logits, *class);
        let weight = weight * weight_of(&self.weights, *class);
        Loss { value: value * weight, d_outputs: vec![d.iter().map(|d| d * weight).collect()] }
    }

    fn drawn(&self, _: &Tokenized, outputs: &[Vec<f64>], _: &Answer, random: &mut dyn FnMut() -> f64) -> Gold {
        Gold::Class(outputs.first().map_or(0, |logits| draw(&outputs::softmax(logits), random())))
    }

    fn metrics(&self) -> &'static [&'static str] {
        match self.labels.len() {
            2 => &["accuracy", "F1", "Matthews"],
            _ => &["accuracy", "macro F1", "Matthews"],
        }
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        // A label that the task does not have counts as class C.
        let none = self.labels.len();
        let (mut found, mut gold, mut probabilities) = (Vec::new(), Vec::new(), Vec::new());
        for one in answered {
            let (Answer::Labels(ranked), Gold::Class(class)) = (one.answer, one.gold) else { continue };
            let best = ranked.first();
            let number = best.and_then(|best| self.labels.iter().position(|label| *label == best.label));
            found.push(number.unwrap_or(none));
            probabilities.push(best.map_or(0.0, |best| f64::from(best.score)));
            gold.push(*class);
        }
        let f1 = match none {
            2 => metrics::f1(&found, &gold, 1),
            _ => metrics::macro_f1(&found, &gold),
        };
        let values = vec![metrics::accuracy(&found, &gold), f1, metrics::matthews(&found, &gold)];
        Scores::of_classes(values, &found, &gold, &probabilities, none)
    }
}

/// Labels by probability, the first `top`.
pub(super) fn rank(labels: &[Arc<str>], logits: &[f32], top: usize) -> Vec<Ranked> {
    let scores = head::softmax(logits);
    let mut ranked: Vec<Ranked> =
        labels.iter().zip(scores).map(|(label, score)| Ranked { label: label.clone(), score }).collect();
    // Stable: of equal scores the first label stays first.
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked.truncate(top.max(1));
    ranked
}

fn best(prediction: &Prediction) -> Option<&Ranked> {
    match &prediction.answer {
        Answer::Labels(ranked) => ranked.first(),
        _ => None,
    }
}

impl Row for Vec<Ranked> {
    fn table(&self, width: usize, text: &str) -> String {
        let named = |r: &Ranked| format!("{:width$}  {:6.4}", r.label, r.score);
        let cells: Vec<String> = self.iter().map(named).collect();
        format!("{}  {text}", cells.join("  "))
    }

    fn cells(&self) -> (String, String) {
        (join(self.iter().map(|r| r.label.to_string())), join(self.iter().map(|r| format!("{:.6}", r.score))))
    }
}

/// The most likely label and its probability; all labels if several were asked for.
#[derive(Serialize)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<&'a [Ranked]>,
}

pub(super) fn json<S: Serializer>(ranked: &[Ranked], serializer: S) -> Result<S::Ok, S::Error> {
    let (label, score) = ranked.first().map(|best| (&*best.label, best.score)).unzip();
    Fields { label, score, top: (ranked.len() > 1).then_some(ranked) }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_counts_as_much_as_its_weight() {
        let mut kind = Classification::new(&["a".to_owned(), "b".to_owned()], Pooling::Cls);
        let loss = |kind: &Classification, class| {
            kind.loss(&Tokenized::of_ids(vec![1]), &Gold::Class(class), &[vec![0.3, -0.2]], 0.5)
        };
        let plain = [loss(&kind, 0), loss(&kind, 1)];
        kind.weigh_labels(&[2.0, 0.25]);
        for (class, factor) in [(0, 2.0), (1, 0.25)] {
            let found = loss(&kind, class);
            assert_eq!(found.value, factor * plain[class].value);
            let due: Vec<f64> = plain[class].d_outputs[0].iter().map(|d| d * factor).collect();
            assert_eq!(found.d_outputs, [due]);
        }
    }
}
