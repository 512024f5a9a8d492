//! Kinds of task, one file each: what the head reads, the loss, the metrics, the answer, and how that is written.
//!
//! In: hidden states, the head's outputs and, for training and evaluation, gold labels. Out: losses with their
//! gradients, scores, and [`Answer`]s as rows, JSON and tensors. Refused: labels that the task does not have. All other
//! code calls the trait [`TaskKind`]. Only this file, import, and what is for embeddings alone match over kinds.
//!
//! Three enums list forms of data, which several kinds may share: [`Answer`], [`Gold`] and [`Label`]. CONTRIBUTING.md
//! says how to add a kind or a form.

mod classification;
mod embedding;
mod entities;
mod gold;
pub mod loss;
pub mod metrics;
mod multi_label;
mod outputs;
pub mod pooling;
mod regression;
mod row;
mod span;
mod tagging;
mod tensor;

use bias_patch::{Kind, Pooling};
use ndarray::ArrayView2;
use serde::Serialize;

pub use self::{
    classification::Ranked,
    embedding::normalize,
    entities::{Entity, Strategy},
    gold::{Gold, Label},
    loss::Loss,
    metrics::Scores,
    multi_label::Labels,
    outputs::{Outputs, softmax},
    span::Span,
    tagging::Tag,
    tensor::{Data, Tensor},
};
pub(crate) use self::{
    embedding::cosine,
    row::{Row, cell, header_of_labels},
};
pub use crate::head::sigmoid;
use crate::{Text, Tokenized};

/// The kind of a task, with the labels or limits of that task.
pub fn of(kind: &Kind) -> Box<dyn TaskKind> {
    match kind {
        Kind::Classification { labels, pooling } => Box::new(classification::Classification::new(labels, *pooling)),
        Kind::Regression { pooling, sigmoid } => Box::new(regression::Regression::new(*pooling, *sigmoid)),
        Kind::Tagging { labels } => Box::new(tagging::Tagging::new(labels)),
        Kind::Span { max_answer_length, no_answer } => {
            Box::new(span::SpanExtraction::new(*max_answer_length, *no_answer))
        }
        Kind::MultiLabel { labels, pooling, thresholds } => {
            Box::new(multi_label::MultiLabel::new(labels, *pooling, thresholds))
        }
        Kind::Embedding(spec) => Box::new(embedding::Embedding::new(spec)),
    }
}

/// As [`of`], with the prompt of a name before each text.
///
/// # Errors
/// When the task has no prompt of that name: what was expected.
pub fn prompted(kind: &Kind, name: &str) -> Result<Box<dyn TaskKind>, String> {
    match kind {
        Kind::Embedding(spec) => Ok(Box::new(embedding::Embedding::prompted(spec, name)?)),
        other => Err(format!("no prompt for a {} task", other.name())),
    }
}

/// As [`of`], with entities in place of tags; none for a kind without tags.
pub fn with_entities(kind: &Kind, strategy: Strategy) -> Option<Box<dyn TaskKind>> {
    match kind {
        Kind::Tagging { labels } => Some(Box::new(tagging::Tagging::new(labels).with_entities(strategy))),
        _ => None,
    }
}

/// The place of a token: its text (0 or 1) and its characters there; none for special tokens.
pub type Place = Option<(usize, (usize, usize))>;

/// One sequence of a text after the head: S tokens, C outputs.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// The place of each of the S tokens.
    pub places: &'a [Place],
    /// Whether each of the S tokens continues the word of the token before it; empty unless [`TaskKind::groups_tokens`].
    pub continuing: &'a [bool],
    /// `[S, C]`, or `[1, C]` of a kind that reads one vector.
    pub outputs: ArrayView2<'a, f32>,
}

/// What training keeps of the places of a sequence's tokens.
#[derive(Clone, Debug, Default)]
pub struct TokenPlaces {
    /// The first token of each word; none for words that were cut off.
    pub words: Vec<Option<usize>>,
    /// Tokens of the second text, with their characters there.
    pub second: Vec<(usize, (usize, usize))>,
}

/// An answer and its gold label.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The text.
    pub text: &'a Text,
    /// What the task says.
    pub answer: &'a Answer,
    /// What is right.
    pub gold: &'a Gold,
}

/// The answer of a task to a text. As JSON, it has the fields of its kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Classification: labels, the likeliest first.
    #[serde(serialize_with = "classification::json")]
    Labels(Vec<Ranked>),
    /// Regression: a number.
    #[serde(serialize_with = "regression::json")]
    Value(f32),
    /// Token tagging: one tag for each word, in order.
    #[serde(serialize_with = "tagging::json")]
    Tags(Vec<Tag>),
    /// Token tagging: the entities that the tags mark, in order.
    #[serde(serialize_with = "entities::json")]
    Entities(Vec<Entity>),
    /// Span extraction: parts of the second text, the likeliest first.
    #[serde(serialize_with = "span::json")]
    Spans(Vec<Span>),
    /// Multi-label classification: the labels that hold.
    #[serde(serialize_with = "multi_label::json")]
    Several(Labels),
    /// Embedding: a vector.
    #[serde(serialize_with = "embedding::json")]
    Vector(Vec<f32>),
}

impl Answer {
    /// The answer as a row of text.
    pub(crate) fn row(&self) -> &dyn Row {
        match self {
            Answer::Labels(ranked) => ranked,
            Answer::Value(value) => value,
            Answer::Tags(tags) => tags,
            Answer::Entities(entities) => entities,
            Answer::Spans(spans) => spans,
            Answer::Several(labels) => labels,
            Answer::Vector(vector) => vector,
        }
    }
}

/// What answering, training, evaluation and serving ask of a kind of task. Shapes: S tokens of a sequence, C outputs of
/// the head, R rows that the head reads.
///
/// A kind is given answers and gold labels of its own form. Given another form, it returns an empty value: an empty
/// text, a score of 0, no loss.
pub trait TaskKind: Send + Sync {
    /// How tokens become the one vector that the head reads; none if the head reads each token.
    fn pooling(&self) -> Option<Pooling> {
        None
    }

    /// What goes before each text.
    fn prompt(&self) -> &str {
        ""
    }

    /// Whether a long second text is read in windows instead of being cut.
    fn in_windows(&self) -> bool {
        false
    }

    /// Whether [`Window::continuing`] is read.
    fn groups_tokens(&self) -> bool {
        false
    }

    /// What [`TaskKind::rows`] and [`TaskKind::loss`] need of the places of a sequence's S tokens.
    fn token_places(&self, _text: &Text, _places: &[Place]) -> TokenPlaces {
        TokenPlaces::default()
    }

    /// The R tokens that the loss reads, where there is no pooling.
    fn rows(&self, _text: &Tokenized) -> Vec<usize> {
        Vec::new()
    }

    /// The answer to a text, from its windows: at most `top` alternatives, the most likely first.
    fn answer(&self, text: &Text, windows: &[Window<'_>], top: usize) -> Answer;

    /// Whether an answer can have alternatives.
    fn has_alternatives(&self) -> bool {
        false
    }

    /// The header over answers in a table for people, whose column of labels is `width` wide.
    fn header(&self, width: usize) -> String {
        row::header_of_labels(width)
    }

    /// The answer's tensors, in the order in which a server gives them.
    fn tensors(&self) -> Vec<Tensor>;

    /// What the label of a text is called in errors.
    fn expects(&self) -> &'static str {
        "a label"
    }

    /// Whether a gold label is of a pair of texts, each of which is answered by itself.
    fn compares(&self) -> bool {
        false
    }

    /// The gold label of a text without one; none where labels are needed.
    fn unlabelled(&self) -> Option<Gold> {
        None
    }

    /// The gold label of a text, from its label in a file.
    ///
    /// # Errors
    /// Saying what was expected and what was found.
    fn gold(&self, text: &Text, label: &Label) -> Result<Gold, String>;

    /// Whether a window contains the gold answer, so that it can be trained on.
    fn holds(&self, _text: &Tokenized, _gold: &Gold) -> bool {
        true
    }

    /// Multiplies losses from now on by the weight of the gold label, of a text or of each word: one for each of the
    /// task's labels. Kinds without such labels have no use for them.
    fn weigh_labels(&mut self, _weights: &[f64]) {}

    /// The loss of a text times `weight`, and its gradient. `outputs` is `[R, C]`: the head's outputs for the pooled
    /// vector or for [`TaskKind::rows`].
    fn loss(&self, text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss;

    /// The names of the metrics. Training selects by the first unless told otherwise.
    fn metrics(&self) -> &'static [&'static str];

    /// Those of the metrics that gold labels of this form have.
    fn metrics_of(&self, _gold: Option<&Gold>) -> &'static [&'static str] {
        self.metrics()
    }

    /// The scores of answers. Metrics come in the order of their names; one that gold labels of this form do not have is
    /// not a number. Where the kind compares, both texts of a pair follow each other, then its negatives, and all have
    /// the pair's gold label.
    fn scores(&self, answered: &[Answered<'_>]) -> Scores;

    /// The kind with thresholds that do best on answers with all their alternatives; none of kinds without thresholds,
    /// and where the task sets its own.
    fn fitted(&self, _answered: &[Answered<'_>]) -> Option<Kind> {
        None
    }

    /// Makes of an answer with all its alternatives the answer by the thresholds of `fitted`, which
    /// [`TaskKind::fitted`] gave.
    fn refit(&self, _answer: &mut Answer, _fitted: &Kind) {}

    /// What the outputs `[R, C]` are, for comparing them with those of another patch.
    fn output_form(&self) -> Outputs {
        Outputs::Rows
    }

    /// A gold label, drawn from the probabilities that a patch gives to a text; of a number, the number. `outputs` is
    /// `[R, C]`; `answer` is the patch's, with all alternatives; `random` gives numbers in 0..1.
    fn drawn(&self, text: &Tokenized, outputs: &[Vec<f64>], answer: &Answer, random: &mut dyn FnMut() -> f64) -> Gold;

    /// What Hugging Face's models of this kind call the head's last layer, the usual name first.
    fn checkpoint_modules(&self) -> &'static [&'static str] {
        &["classifier", "score"]
    }
}
