//! The kinds of task in patches and task.json: one table, and the values that only some kinds have.
//!
//! In: a kind's name or number, and the fields beside it. Out: a [`Kind`], or its name, number and fields. Refused: a
//! kind that is not in the table, and fields that it does not have. A new kind is a variant of [`Kind`] and an
//! [`Entry`] with the next number; what the kind does with its outputs is in the runtime.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, task::quoted};

/// How the outputs of all tokens become one vector for the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's output (BERT's `[CLS]`).
    Cls,
    /// The mean over the tokens of the text, special tokens included.
    Mean,
    /// The first token's output through the checkpoint's pooler (dense layer and tanh).
    Pooler,
    /// The last token's output.
    Last,
}

/// Poolings by their numbers in a patch.
pub(crate) const POOLINGS: [Option<Pooling>; 5] =
    [None, Some(Pooling::Cls), Some(Pooling::Mean), Some(Pooling::Pooler), Some(Pooling::Last)];

impl Pooling {
    /// The name in task.json.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::Pooler => "pooler",
            Pooling::Last => "last",
        }
    }
}

/// The kind of a task, with what only that kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One label for a text or a pair. Outputs: one logit for each label.
    Classification {
        /// Label names, in the order of the head's outputs.
        labels: Vec<String>,
        /// How tokens become one vector.
        pooling: Pooling,
    },
    /// One number for a text or a pair. Outputs: that number, or its logit.
    Regression {
        /// How tokens become one vector.
        pooling: Pooling,
        /// Whether the number is the sigmoid of the output, as cross-encoders have it.
        sigmoid: bool,
    },
    /// One label for each word of one text, read off the word's first token. Outputs: one logit for each label.
    Tagging {
        /// Label names, in the order of the head's outputs.
        labels: Vec<String>,
    },
    /// The part of the second text that answers the first. Outputs: a start and an end logit for each token.
    Span {
        /// Tokens in the longest answer.
        max_answer_length: u32,
        /// For tasks that may have no answer; none if there always is one. The logit of no answer is the first token's
        /// start logit plus its end logit. There is no answer where it is above the best answer's by more than this.
        no_answer: Option<f32>,
    },
    /// Any number of labels for a text or a pair. Outputs: one logit for each label.
    MultiLabel {
        /// Label names, in the order of the head's outputs.
        labels: Vec<String>,
        /// How tokens become one vector.
        pooling: Pooling,
        /// The probability from which each label is given.
        thresholds: Vec<f32>,
    },
    /// A vector for a text. Outputs: the pooled vector, through the head if there is one.
    Embedding(Embedding),
}

/// How texts become vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// How tokens become one vector.
    pub pooling: Pooling,
    /// Leading values that are kept; none for all.
    pub dimensions: Option<u32>,
    /// Whether a vector is divided by its length, after it is cut to `dimensions`.
    pub normalize: bool,
    /// Texts that go before a text, by their names. The one called `default` is used where none is named.
    pub prompts: BTreeMap<String, String>,
}

/// What is the same for every task of a kind.
pub(crate) struct Entry {
    /// The name in task.json and in tables.
    pub name: &'static str,
    /// The number in a patch's header.
    pub number: u8,
    outputs: Outputs,
    /// The [`Fields`] that the kind has.
    fields: &'static [&'static str],
    /// Numbers of texts that the kind takes, the usual one first.
    inputs: &'static [u8],
    make: fn(Fields) -> Kind,
}

/// Outputs of a head.
#[derive(PartialEq)]
enum Outputs {
    /// One for each label: the kind has labels.
    Labels,
    /// So many: the kind has no labels.
    Fixed(usize),
    /// As many as the head has, or the encoder's width without a head.
    Free,
}

/// All fields of task.json that some kinds have. Those that are not there have their default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields {
    pub labels: Option<Vec<String>>,
    pub pooling: Option<Pooling>,
    pub max_answer_length: Option<u32>,
    pub thresholds: Option<Vec<f32>>,
    pub sigmoid: Option<bool>,
    pub dimensions: Option<u32>,
    pub normalize: Option<bool>,
    pub prompts: Option<BTreeMap<String, String>>,
    pub no_answer: Option<f32>,
}

static CLASSIFICATION: Entry = Entry {
    name: "classification",
    number: 0,
    outputs: Outputs::Labels,
    fields: &["labels", "pooling"],
    inputs: &[1, 2],
    make: |fields| Kind::Classification { labels: fields.labels.unwrap_or_default(), pooling: pooling(fields.pooling) },
};

static REGRESSION: Entry = Entry {
    name: "regression",
    number: 1,
    outputs: Outputs::Fixed(1),
    fields: &["pooling", "sigmoid"],
    inputs: &[1, 2],
    make: |fields| Kind::Regression { pooling: pooling(fields.pooling), sigmoid: fields.sigmoid.unwrap_or_default() },
};

static TAGGING: Entry = Entry {
    name: "tagging",
    number: 2,
    outputs: Outputs::Labels,
    fields: &["labels"],
    inputs: &[1],
    make: |fields| Kind::Tagging { labels: fields.labels.unwrap_or_default() },
};

static SPAN: Entry = Entry {
    name: "span",
    number: 3,
    outputs: Outputs::Fixed(2),
    fields: &["max_answer_length", "no_answer"],
    inputs: &[2],
    make: |fields| Kind::Span {
        max_answer_length: fields.max_answer_length.unwrap_or(BERT_ANSWER),
        no_answer: fields.no_answer,
    },
};

static MULTI_LABEL: Entry = Entry {
    name: "multi-label",
    number: 4,
    outputs: Outputs::Labels,
    fields: &["labels", "pooling", "thresholds"],
    inputs: &[1, 2],
    make: |fields| {
        let labels = fields.labels.unwrap_or_default();
        let thresholds = fields.thresholds.unwrap_or_else(|| vec![EVEN; labels.len()]);
        Kind::MultiLabel { labels, pooling: pooling(fields.pooling), thresholds }
    },
};

static EMBEDDING: Entry = Entry {
    name: "embedding",
    number: 5,
    outputs: Outputs::Free,
    fields: &["pooling", "dimensions", "normalize", "prompts"],
    inputs: &[1],
    make: |fields| {
        Kind::Embedding(Embedding {
            pooling: pooling(fields.pooling),
            dimensions: fields.dimensions,
            normalize: fields.normalize.unwrap_or(true),
            prompts: fields.prompts.unwrap_or_default(),
        })
    },
};

/// Every kind, at the place of its number.
static KINDS: [&Entry; 6] = [&CLASSIFICATION, &REGRESSION, &TAGGING, &SPAN, &MULTI_LABEL, &EMBEDDING];

/// Tokens in the longest answer of BERT's SQuAD reader.
const BERT_ANSWER: u32 = 30;

/// The probability from which a label is more likely than not.
const EVEN: f32 = 0.5;

fn pooling(of_task: Option<Pooling>) -> Pooling {
    of_task.unwrap_or(Pooling::Cls)
}

impl Fields {
    /// The names of the fields that are there.
    pub(crate) fn present(&self) -> impl Iterator<Item = &'static str> {
        let fields = [
            ("max_answer_length", self.max_answer_length.is_some()),
            ("labels", self.labels.is_some()),
            ("pooling", self.pooling.is_some()),
            ("thresholds", self.thresholds.is_some()),
            ("sigmoid", self.sigmoid.is_some()),
            ("dimensions", self.dimensions.is_some()),
            ("normalize", self.normalize.is_some()),
            ("prompts", self.prompts.is_some()),
            ("no_answer", self.no_answer.is_some()),
        ];
        fields.into_iter().filter(|(_, present)| *present).map(|(name, _)| name)
    }
}

impl Kind {
    /// The name used in task.json and in tables.
    pub fn name(&self) -> &'static str {
        self.entry().name
    }

    /// Whether tasks of the kind of this name have labels, and whether they may be on pairs of texts; neither where
    /// there is no such kind.
    pub fn takes(name: &str) -> (bool, bool) {
        let entry = KINDS.into_iter().find(|entry| entry.name == name);
        entry.map_or((false, false), |entry| (entry.has_labels(), entry.inputs.contains(&2)))
    }

    /// Outputs of the head; none where the head decides.
    pub fn outputs(&self) -> Option<usize> {
        match self.entry().outputs {
            Outputs::Labels => Some(self.labels().len()),
            Outputs::Fixed(count) => Some(count),
            Outputs::Free => None,
        }
    }

    /// How tokens become one vector, for the kinds that answer once for a text.
    pub fn pooling(&self) -> Option<Pooling> {
        self.fields().pooling
    }

    /// Texts of one input where a task does not say.
    pub(crate) fn usual_inputs(&self) -> u8 {
        self.entry().inputs[0]
    }

    /// Label names, if the kind has labels.
    pub fn labels(&self) -> &[String] {
        match self {
            Kind::Classification { labels, .. } | Kind::Tagging { labels } | Kind::MultiLabel { labels, .. } => labels,
            Kind::Regression { .. } | Kind::Span { .. } | Kind::Embedding(_) => &[],
        }
    }

    /// The fields of task.json: labels and pooling, and all others that are not the default.
    pub(crate) fn fields(&self) -> Fields {
        match self {
            Kind::Classification { labels, pooling } => {
                Fields { labels: Some(labels.clone()), pooling: Some(*pooling), ..Fields::default() }
            }
            Kind::Regression { pooling, sigmoid } => {
                Fields { pooling: Some(*pooling), sigmoid: sigmoid.then_some(true), ..Fields::default() }
            }
            Kind::Tagging { labels } => Fields { labels: Some(labels.clone()), ..Fields::default() },
            Kind::Span { max_answer_length, no_answer } => Fields {
                max_answer_length: (*max_answer_length != BERT_ANSWER).then_some(*max_answer_length),
                no_answer: *no_answer,
                ..Fields::default()
            },
            Kind::MultiLabel { labels, pooling, thresholds } => Fields {
                labels: Some(labels.clone()),
                pooling: Some(*pooling),
                thresholds: thresholds.iter().any(|t| *t != EVEN).then(|| thresholds.clone()),
                ..Fields::default()
            },
            Kind::Embedding(Embedding { pooling, dimensions, normalize, prompts }) => Fields {
                pooling: Some(*pooling),
                dimensions: *dimensions,
                normalize: (!normalize).then_some(false),
                prompts: (!prompts.is_empty()).then(|| prompts.clone()),
                ..Fields::default()
            },
        }
    }

    /// What is the same for every task of this kind.
    pub(crate) fn entry(&self) -> &'static Entry {
        match self {
            Kind::Classification { .. } => &CLASSIFICATION,
            Kind::Regression { .. } => &REGRESSION,
            Kind::Tagging { .. } => &TAGGING,
            Kind::Span { .. } => &SPAN,
            Kind::MultiLabel { .. } => &MULTI_LABEL,
            Kind::Embedding(_) => &EMBEDDING,
        }
    }

    /// A kind from the fields of task.json.
    ///
    /// # Errors
    /// When there is no kind of this name, a field is missing, or one is there that the kind does not have.
    pub(crate) fn from_fields(name: &str, fields: Fields) -> Result<Self> {
        let entry = KINDS.into_iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|entry| entry.name).collect();
            let (last, others) = names.split_last().unwrap_or((&"", &[]));
            Error::field("kind", format!("{} or {last}", others.join(", ")), quoted(name))
        })?;
        if let Some(field) = fields.present().find(|field| !entry.fields.contains(field)) {
            return Err(Error::field(field, format!("none for a {name} task"), "a value"));
        }
        if entry.has_labels() && fields.labels.is_none() {
            return Err(Error::field("labels", "a list of labels", "none"));
        }
        Ok((entry.make)(fields))
    }

    /// Checks the kind's own values, and that it takes so many texts.
    ///
    /// # Errors
    /// Naming the first that is not allowed.
    pub(crate) fn check(&self, inputs: u8) -> Result<()> {
        let entry = self.entry();
        if !entry.inputs.contains(&inputs) {
            let counts: Vec<String> = entry.inputs.iter().map(u8::to_string).collect();
            let expected = format!("{} texts for a {} task", counts.join(" or "), entry.name);
            return Err(Error::field("inputs", expected, inputs));
        }
        if entry.has_labels() {
            check_labels(self.labels())?;
        }
        match self {
            Kind::Classification { .. } | Kind::Regression { .. } | Kind::Tagging { .. } => Ok(()),
            Kind::Span { max_answer_length: length, .. } if !(1..=1 << 20).contains(length) => {
                Err(Error::field("max_answer_length", "1 to 1048576 tokens", length))
            }
            Kind::Span { no_answer: Some(threshold), .. } if !threshold.is_finite() => {
                Err(Error::field("no_answer", "a number", threshold))
            }
            Kind::Span { .. } => Ok(()),
            Kind::MultiLabel { labels, thresholds, .. } => check_thresholds(thresholds, labels.len()),
            Kind::Embedding(embedding) => embedding.check(),
        }
    }
}

impl Embedding {
    fn check(&self) -> Result<()> {
        if self.dimensions == Some(0) {
            return Err(Error::field("dimensions", "1 or more", 0));
        }
        if self.prompts.len() > 64 {
            return Err(Error::field("prompts", "at most 64", self.prompts.len()));
        }
        // An empty prompt is one: where the default is another, documents may be embedded without.
        match self.prompts.iter().find(|(name, text)| name.is_empty() || name.len().max(text.len()) > 4096) {
            Some((name, text)) => {
                let expected = "names of 1 to 4096 bytes, and texts of at most 4096";
                Err(Error::field("prompts", expected, format!("{} of {} bytes", quoted(name), text.len())))
            }
            None => Ok(()),
        }
    }
}

impl Entry {
    /// The kind of a number in a patch's header.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn numbered(number: u8) -> Result<&'static Self> {
        let entry = KINDS.into_iter().find(|entry| entry.number == number);
        entry.ok_or_else(|| Error::field("task kind", format!("a number below {}", KINDS.len()), number))
    }

    /// Whether tasks of this kind have labels.
    pub(crate) fn has_labels(&self) -> bool {
        self.outputs == Outputs::Labels
    }
}

fn check_thresholds(thresholds: &[f32], labels: usize) -> Result<()> {
    if thresholds.len() != labels {
        return Err(Error::field("thresholds", format!("{labels}, one for each label"), thresholds.len()));
    }
    match thresholds.iter().find(|t| !(0.0..=1.0).contains(*t)) {
        Some(threshold) => Err(Error::field("thresholds", "probabilities from 0 to 1", threshold)),
        None => Ok(()),
    }
}

fn check_labels(labels: &[String]) -> Result<()> {
    if labels.len() < 2 {
        return Err(Error::field("labels", "at least 2", labels.len()));
    }
    let mut sorted: Vec<&String> = labels.iter().collect();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::field("labels", "no label twice", quoted(pair[0])));
    }
    match labels.iter().find(|l| l.is_empty() || l.len() > 256 || l.chars().any(char::is_control)) {
        Some(label) => Err(Error::field("labels", "1 to 256 bytes without control characters", quoted(label))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_number() {
        for (at, entry) in KINDS.into_iter().enumerate() {
            let labels = entry.has_labels().then(|| vec!["a".to_owned(), "b".to_owned()]);
            let made = (entry.make)(Fields { labels, ..Fields::default() });
            assert_eq!((made.name(), usize::from(entry.number)), (entry.name, at));
            assert_eq!(Entry::numbered(entry.number).unwrap().name, entry.name);
            assert_eq!(made.labels().is_empty(), !entry.has_labels());
            assert!(made.fields().present().all(|field| entry.fields.contains(&field)));
            assert_eq!(Kind::from_fields(entry.name, made.fields()).unwrap(), made);
        }
        assert!(Entry::numbered(KINDS.len() as u8).is_err());
    }
}
