//! Embeddings: a vector for a text. The head, where there is one, reads the pooled vector. The result is cut to the
//! task's dimensions, and divided by its length if the task says so.
//!
//! A gold label is of a pair of texts: a similarity, or that the second text is a positive of the first. Scores are
//! of the cosines of their vectors. The loss compares all texts of a step, so it is not here but with the training.

use bias_patch::{Embedding as Spec, Pooling};
use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Outputs, Scores, TaskKind, Tensor, Window, gold::other_form, metrics, row::Row,
};
use crate::{Prediction, Text, Tokenized};

/// The prompt that is used where none is named.
const DEFAULT_PROMPT: &str = "default";

/// A task of this kind.
pub(super) struct Embedding {
    spec: Spec,
    prompt: String,
}

impl Embedding {
    /// With the default prompt, if there is one.
    pub fn new(spec: &Spec) -> Self {
        let prompt = spec.prompts.get(DEFAULT_PROMPT).cloned().unwrap_or_default();
        Embedding { spec: spec.clone(), prompt }
    }

    /// With the prompt of a name.
    ///
    /// # Errors
    /// When there is none of that name: what was expected.
    pub fn prompted(spec: &Spec, name: &str) -> Result<Self, String> {
        let prompt = spec.prompts.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = spec.prompts.keys().map(String::as_str).collect();
            match names.is_empty() {
                true => "no prompt, for the task has none".to_owned(),
                false => format!("one of {}", names.join(", ")),
            }
        })?;
        Ok(Embedding { spec: spec.clone(), prompt })
    }
}

impl TaskKind for Embedding {
    fn pooling(&self) -> Option<Pooling> {
        Some(self.spec.pooling)
    }

    fn prompt(&self) -> &str {
        &self.prompt
    }

    fn answer(&self, _text: &Text, windows: &[Window<'_>], _top: usize) -> Answer {
        let mut vector = windows.first().map(|window| window.outputs.row(0).to_vec()).unwrap_or_default();
        if let Some(dimensions) = self.spec.dimensions {
            vector.truncate(usize::try_from(dimensions).unwrap_or(usize::MAX));
        }
        if self.spec.normalize {
            normalize(&mut vector);
        }
        Answer::Vector(vector)
    }

    fn header(&self, _width: usize) -> String {
        "embedding  text".to_owned()
    }

    fn tensors(&self) -> Vec<Tensor> {
        let vector = |prediction: &Prediction| match &prediction.answer {
            Answer::Vector(vector) => vector.clone(),
            _ => Vec::new(),
        };
        vec![Tensor::vectors("embedding", vector)]
    }

    fn expects(&self) -> &'static str {
        "a number that says how alike two texts are"
    }

    fn compares(&self) -> bool {
        true
    }

    fn unlabelled(&self) -> Option<Gold> {
        Some(Gold::Pair(Vec::new()))
    }

    fn gold(&self, _text: &Text, label: &Label) -> Result<Gold, String> {
        match label {
            Label::Name(value) => match value.trim().parse::<f32>() {
                Ok(value) if value.is_finite() => Ok(Gold::Value(value)),
                _ => Err(format!("expected {}, found {value:?}", self.expects())),
            },
            Label::Negatives(texts) if texts.iter().any(|text| text.trim().is_empty()) => {
                Err("expected negatives that are texts, found an empty one".to_owned())
            }
            Label::Negatives(texts) => Ok(Gold::Pair(texts.clone())),
            _ => Err(other_form(self.expects())),
        }
    }

    // Neither is called: the loss is of all texts of a step, and a search refuses embeddings.
    fn loss(&self, _text: &Tokenized, _gold: &Gold, outputs: &[Vec<f64>], _weight: f64) -> Loss {
        Loss::none(outputs)
    }

    fn output_form(&self) -> Outputs {
        Outputs::Numbers
    }

    fn drawn(&self, _: &Tokenized, _: &[Vec<f64>], _: &Answer, _: &mut dyn FnMut() -> f64) -> Gold {
        Gold::Pair(Vec::new())
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["Spearman", "Pearson", "nDCG@10", "recall@1", "recall@10"]
    }

    fn metrics_of(&self, gold: Option<&Gold>) -> &'static [&'static str] {
        let (of_numbers, of_pairs) = self.metrics().split_at(2);
        if matches!(gold, Some(Gold::Pair(_))) { of_pairs } else { of_numbers }
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        let (mut cosines, mut values, mut found) = (Vec::new(), Vec::new(), metrics::Retrieval::default());
        let mut rest = answered;
        while let [first, second, others @ ..] = rest {
            let count = match first.gold {
                Gold::Pair(negatives) => negatives.len().min(others.len()),
                _ => 0,
            };
            let (negatives, after) = others.split_at(count);
            rest = after;
            if let Gold::Value(value) = first.gold {
                cosines.push(cosine(vector(first.answer), vector(second.answer)));
                values.push(f64::from(*value));
                continue;
            }
            found.query(first.text.first(), vector(first.answer), second.text.first());
            for text in std::iter::once(second).chain(negatives) {
                found.candidate(text.text.first(), vector(text.answer));
            }
        }
        let correlation = |of: fn(&[f64], &[f64]) -> f64| match cosines.is_empty() {
            true => f64::NAN,
            false => of(&cosines, &values),
        };
        let mut scores = vec![correlation(metrics::spearman), correlation(metrics::pearson)];
        scores.extend(found.scores());
        Scores { metrics: scores, confusion: Vec::new(), calibration: None }
    }
}

fn vector(answer: &Answer) -> &[f32] {
    match answer {
        Answer::Vector(vector) => vector,
        _ => &[],
    }
}

/// The cosine of the angle between two vectors; 0 if one is all zeros.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (product(a, a) * product(b, b)).sqrt();
    if lengths > 0.0 { product(a, b) / lengths } else { 0.0 }
}

/// Divides a vector by its length. As PyTorch's `normalize`: a vector of zeros stays one.
pub fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length.max(1e-12)) as f32);
}

/// The first values, for people.
const SHOWN: usize = 4;

impl Row for Vec<f32> {
    fn table(&self, _width: usize, text: &str) -> String {
        let first: Vec<String> = self.iter().take(SHOWN).map(|v| format!("{v:7.4}")).collect();
        format!("{} ... {} values  {text}", first.join(" "), self.len())
    }

    fn cells(&self) -> (String, String) {
        let values: Vec<String> = self.iter().map(f32::to_string).collect();
        (values.join(" "), String::new())
    }
}

#[derive(Serialize)]
struct Fields<'a> {
    embedding: &'a [f32],
}

pub(super) fn json<S: Serializer>(vector: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    Fields { embedding: vector }.serialize(serializer)
}
