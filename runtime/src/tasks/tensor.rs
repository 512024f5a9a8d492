//! Answers as tensors: named, row-major, a row for each text.

use serde::Serialize;

use crate::Prediction;

/// A tensor that a kind's answers become.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: &'static str,
    columns: Columns,
    values: Values,
}

/// Values for each text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    /// One, which is no list: shape `[texts]`.
    One,
    /// A list of so many: shape `[texts, columns]`.
    Fixed(usize),
    /// A list, as long as the answers' vectors: shape `[texts, columns]`.
    OfVectors,
}

/// What one text adds to a tensor.
#[derive(Clone, Copy, Debug)]
enum Values {
    Bytes(fn(&Prediction) -> String),
    Floats(fn(&Prediction) -> Vec<f32>),
}

/// The values of a tensor, row-major.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Data {
    /// Strings.
    Bytes(Vec<String>),
    /// Numbers.
    Floats(Vec<f32>),
}

impl Tensor {
    /// A tensor of one string for each text.
    pub(super) fn bytes(name: &'static str, value: fn(&Prediction) -> String) -> Self {
        Tensor { name, columns: Columns::One, values: Values::Bytes(value) }
    }

    /// A tensor of numbers for each text: one, or `columns` of them.
    pub(super) fn floats(name: &'static str, columns: Option<usize>, values: fn(&Prediction) -> Vec<f32>) -> Self {
        let columns = columns.map_or(Columns::One, Columns::Fixed);
        Tensor { name, columns, values: Values::Floats(values) }
    }

    /// A tensor of one vector for each text.
    pub(super) fn vectors(name: &'static str, values: fn(&Prediction) -> Vec<f32>) -> Self {
        Tensor { name, columns: Columns::OfVectors, values: Values::Floats(values) }
    }

    /// The head's outputs.
    pub(super) fn logits(outputs: usize) -> Self {
        Tensor::floats("logits", Some(outputs), |prediction| prediction.logits.clone())
    }

    /// The element type, as the Open Inference Protocol calls it.
    pub fn datatype(&self) -> &'static str {
        match self.values {
            Values::Bytes(_) => "BYTES",
            Values::Floats(_) => "FP32",
        }
    }

    /// The shape for any number of texts; -1 stands for what is not known before there are answers.
    pub fn any_shape(&self) -> Vec<i64> {
        match self.columns {
            Columns::One => vec![-1],
            Columns::Fixed(columns) => vec![-1, i64::try_from(columns).unwrap_or(i64::MAX)],
            Columns::OfVectors => vec![-1, -1],
        }
    }

    /// The shape of the tensor of so many texts, which has `values` values.
    pub fn shape(&self, texts: usize, values: usize) -> Vec<usize> {
        match self.columns {
            Columns::One => vec![texts],
            Columns::Fixed(columns) => vec![texts, columns],
            Columns::OfVectors => vec![texts, values.checked_div(texts).unwrap_or_default()],
        }
    }

    /// The tensor of some texts.
    pub fn data<'a>(&self, predictions: impl Iterator<Item = &'a Prediction>) -> Data {
        match self.values {
            Values::Bytes(value) => Data::Bytes(predictions.map(value).collect()),
            Values::Floats(values) => Data::Floats(predictions.flat_map(values).collect()),
        }
    }
}

impl Data {
    /// The number of values.
    pub fn count(&self) -> usize {
        match self {
            Data::Bytes(values) => values.len(),
            Data::Floats(values) => values.len(),
        }
    }

    /// Appends the values as bytes, little-endian: numbers in four bytes, strings after their length in four bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Data::Floats(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Data::Bytes(texts) => {
                for text in texts {
                    // A string of an answer is a label or a part of a request, far below 4 GiB.
                    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
    }
}

/// A list as JSON, for kinds that give one for each text.
pub(super) fn listed(list: &[impl Serialize]) -> String {
    // Only strings, numbers and lists are written, which always serialize.
    serde_json::to_string(list).unwrap_or_default()
}
