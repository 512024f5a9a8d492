//! Regression: one number for a text or a pair. The head reads one vector and gives the number; the loss is its squared
//! error. Where the number is a sigmoid, as in cross-encoders that rank, the head gives its logit; the loss is the
//! binary cross-entropy.

use bias_patch::Pooling;
use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Outputs, Scores, TaskKind, Tensor, Window, gold::other_form,
    loss::binary_cross_entropy, metrics, row::Row,
};
use crate::{Prediction, Text, Tokenized, head};

/// A task of this kind.
pub(super) struct Regression {
    pooling: Pooling,
    sigmoid: bool,
}

impl Regression {
    pub fn new(pooling: Pooling, sigmoid: bool) -> Self {
        Regression { pooling, sigmoid }
    }
}

impl TaskKind for Regression {
    fn pooling(&self) -> Option<Pooling> {
        Some(self.pooling)
    }

    fn answer(&self, _text: &Text, windows: &[Window<'_>], _top: usize) -> Answer {
        let output = windows.first().map_or(f32::NAN, |window| window.outputs[[0, 0]]);
        Answer::Value(if self.sigmoid { head::sigmoid(output) } else { output })
    }

    fn header(&self, width: usize) -> String {
        format!("{:width$}  {:6}  text", "value", "")
    }

    fn tensors(&self) -> Vec<Tensor> {
        let value = |prediction: &Prediction| match prediction.answer {
            Answer::Value(value) => vec![value],
            _ => vec![0.0],
        };
        vec![Tensor::floats("value", None, value), Tensor::logits(1)]
    }

    fn gold(&self, _text: &Text, label: &Label) -> Result<Gold, String> {
        let Label::Name(label) = label else { return Err(other_form(self.expects())) };
        let number: Option<f32> = label.trim().parse().ok();
        match self.sigmoid {
            true => number.filter(|number| (0.0..=1.0).contains(number)).ok_or("a number from 0 to 1"),
            false => number.filter(|number| number.is_finite()).ok_or("a number"),
        }
        .map(Gold::Value)
        .map_err(|expected| format!("expected {expected}, found {label:?}"))
    }

    fn loss(&self, _text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss {
        let ([found], Gold::Value(due)) = (outputs, gold) else { return Loss::none(outputs) };
        if self.sigmoid {
            let (value, d) = binary_cross_entropy(found[0], f64::from(*due));
            return Loss { value: value * weight, d_outputs: vec![vec![d * weight]] };
        }
        let error = found[0] - f64::from(*due);
        Loss { value: error * error * weight, d_outputs: vec![vec![2.0 * error * weight]] }
    }

    fn output_form(&self) -> Outputs {
        if self.sigmoid { Outputs::Sigmoids } else { Outputs::Numbers }
    }

    fn drawn(&self, _: &Tokenized, outputs: &[Vec<f64>], _: &Answer, _: &mut dyn FnMut() -> f64) -> Gold {
        let output = outputs.first().and_then(|row| row.first()).map_or(0.0, |value| *value as f32);
        Gold::Value(if self.sigmoid { head::sigmoid(output) } else { output })
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["Spearman", "Pearson"]
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        let values = answered.iter().filter_map(|one| match (one.answer, one.gold) {
            (Answer::Value(found), Gold::Value(gold)) => Some((f64::from(*found), f64::from(*gold))),
            _ => None,
        });
        let (found, gold): (Vec<f64>, Vec<f64>) = values.unzip();
        let metrics = vec![metrics::spearman(&found, &gold), metrics::pearson(&found, &gold)];
        Scores { metrics, confusion: Vec::new(), calibration: None }
    }
}

impl Row for f32 {
    fn table(&self, width: usize, text: &str) -> String {
        format!("{self:<width$.4}  {:>6}  {text}", "")
    }

    fn cells(&self) -> (String, String) {
        (format!("{self:.6}"), String::new())
    }
}

#[derive(Serialize)]
struct Fields {
    value: f32,
}

pub(super) fn json<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    Fields { value: *value }.serialize(serializer)
}
