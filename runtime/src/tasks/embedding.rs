//! Embeddings: a vector for a text. The head, where there is one, reads the pooled vector. The result is cut to the
//! task's dimensions and divided by its length. Training and evaluation of embeddings are refused.

use bias_patch::{Embedding as Spec, Pooling};
use serde::{Serialize, Serializer};

use super::{Answer, Answered, Gold, Label, Loss, Outputs, Scores, TaskKind, Tensor, Window, row::Row};
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
            let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            // As PyTorch's `normalize`: a vector of zeros stays one.
            vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length.max(1e-12)) as f32);
        }
        Answer::Vector(vector)
    }

    fn tensors(&self) -> Vec<Tensor> {
        let vector = |prediction: &Prediction| match &prediction.answer {
            Answer::Vector(vector) => vector.clone(),
            _ => Vec::new(),
        };
        vec![Tensor::vectors("embedding", vector)]
    }

    fn gold(&self, _text: &Text, _label: &Label) -> Result<Gold, String> {
        Err("an embedding has no labels, so it is neither trained nor scored".to_owned())
    }

    fn loss(&self, _text: &Tokenized, _gold: &Gold, outputs: &[Vec<f64>], _weight: f64) -> Loss {
        Loss::none(outputs)
    }

    fn output_form(&self) -> Outputs {
        Outputs::Numbers
    }

    fn drawn(&self, _: &Tokenized, _: &[Vec<f64>], _: &Answer, _: &mut dyn FnMut() -> f64) -> Gold {
        Gold::Classes(Vec::new())
    }

    fn metrics(&self) -> &'static [&'static str] {
        &[]
    }

    fn scores(&self, _answered: &[Answered<'_>]) -> Scores {
        Scores { metrics: Vec::new(), confusion: Vec::new(), calibration: None }
    }
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
