//! Gold labels: as a file has them, and as a kind of task uses them.

use std::sync::Arc;

/// The label of a text, as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// A name or a number.
    Name(String),
    /// Several names or numbers.
    Names(Vec<String>),
    /// Answers in the second text, each with the position of its first character.
    Answers(Vec<(String, usize)>),
    /// Negatives: texts that do not match the first of a pair.
    Negatives(Vec<String>),
}

/// What is right of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Gold {
    /// The label's number.
    Class(usize),
    /// The number.
    Value(f32),
    /// The number of each label that holds, in order.
    Classes(Vec<usize>),
    /// For each word its label's number.
    Tags(Vec<usize>),
    /// Answers, each as characters of the second text. Training uses the first; evaluation accepts all.
    Span(Vec<(usize, usize)>),
    /// The second text is a positive of the first; these are its negatives.
    Pair(Vec<String>),
}

impl Gold {
    /// The numbers of labels: of a text, or one of each word; none where the gold label is something else.
    pub fn classes(&self) -> &[usize] {
        match self {
            Gold::Class(class) => std::slice::from_ref(class),
            Gold::Tags(tags) => tags,
            Gold::Classes(classes) => classes,
            Gold::Value(_) | Gold::Span(_) | Gold::Pair(_) => &[],
        }
    }

    /// Whether one text alone has several different labels.
    pub fn varies(&self) -> bool {
        match self {
            Gold::Tags(tags) => tags.windows(2).any(|pair| pair[0] != pair[1]),
            // Pairs are compared with each other.
            Gold::Pair(_) => true,
            _ => false,
        }
    }
}

/// The number of a label, given by its name or, unless the names are numbers, by its number.
pub(super) fn class_of(labels: &[Arc<str>], label: &str) -> Result<usize, String> {
    let named = labels.iter().position(|known| **known == *label);
    let names = labels.iter().any(|known| known.parse::<f64>().is_ok());
    let numbered = || label.parse().ok().filter(|number| !names && *number < labels.len());
    named.or_else(numbered).ok_or_else(|| format!("expected one of {}, found {label:?}", labels.join(", ")))
}

/// The weight of a label in the loss; 1 where none were given.
pub(super) fn weight_of(weights: &[f64], class: usize) -> f64 {
    weights.get(class).copied().unwrap_or(1.0)
}

/// Why a label of another form is refused.
pub(super) fn other_form(expected: &str) -> String {
    format!("expected {expected}, found something else")
}
