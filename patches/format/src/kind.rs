//! The kinds of task in patches and task.json: one table, and the values that only some kinds have.
//!
//! In: a kind's name or number, and the fields beside it. Out: a [`Kind`], or its name, number and fields. Refused: a
//! kind that is not in the table, and fields that it does not have. A new kind is a variant of [`Kind`] and an
//! [`Entry`] with the next number; what the kind does with its outputs is in the runtime.

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
}

/// Poolings by their numbers in a patch.
pub(crate) const POOLINGS: [Option<Pooling>; 4] =
    [None, Some(Pooling::Cls), Some(Pooling::Mean), Some(Pooling::Pooler)];

impl Pooling {
    /// The name in task.json.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::Pooler => "pooler",
        }
    }
}

/// The kind of a task, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One label for a text or a pair. Outputs: one logit for each label.
    Classification {
        /// Label names, in the order of the head's outputs.
        labels: Vec<String>,
        /// How tokens become one vector.
        pooling: Pooling,
    },
    /// One number for a text or a pair. Outputs: that number.
    Regression {
        /// How tokens become one vector.
        pooling: Pooling,
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
    },
}

/// What is the same for every task of a kind.
pub(crate) struct Entry {
    /// The name in task.json and in tables.
    pub name: &'static str,
    /// The number in a patch's header.
    pub number: u8,
    outputs: Outputs,
    pooling: bool,
    answer_length: bool,
    /// Numbers of texts that the kind takes.
    inputs: &'static [u8],
    make: fn(Values) -> Kind,
}

/// Outputs of a head.
#[derive(PartialEq)]
enum Outputs {
    /// One for each label: the kind has labels.
    Labels,
    /// So many: the kind has no labels.
    Fixed(usize),
}

/// All fields that a kind may have; fields of other kinds are ignored.
struct Values {
    labels: Vec<String>,
    pooling: Pooling,
    max_answer_length: u32,
}

static CLASSIFICATION: Entry = Entry {
    name: "classification",
    number: 0,
    outputs: Outputs::Labels,
    pooling: true,
    answer_length: false,
    inputs: &[1, 2],
    make: |values| Kind::Classification { labels: values.labels, pooling: values.pooling },
};

static REGRESSION: Entry = Entry {
    name: "regression",
    number: 1,
    outputs: Outputs::Fixed(1),
    pooling: true,
    answer_length: false,
    inputs: &[1, 2],
    make: |values| Kind::Regression { pooling: values.pooling },
};

static TAGGING: Entry = Entry {
    name: "tagging",
    number: 2,
    outputs: Outputs::Labels,
    pooling: false,
    answer_length: false,
    inputs: &[1],
    make: |values| Kind::Tagging { labels: values.labels },
};

static SPAN: Entry = Entry {
    name: "span",
    number: 3,
    outputs: Outputs::Fixed(2),
    pooling: false,
    answer_length: true,
    inputs: &[2],
    make: |values| Kind::Span { max_answer_length: values.max_answer_length },
};

/// Every kind, at the place of its number.
static KINDS: [&Entry; 4] = [&CLASSIFICATION, &REGRESSION, &TAGGING, &SPAN];

/// Tokens in the longest answer of BERT's SQuAD reader.
const BERT_ANSWER: u32 = 30;

impl Kind {
    /// The name used in task.json and in tables.
    pub fn name(&self) -> &'static str {
        self.entry().name
    }

    /// Outputs of the head.
    pub fn outputs(&self) -> usize {
        match self.entry().outputs {
            Outputs::Labels => self.labels().len(),
            Outputs::Fixed(count) => count,
        }
    }

    /// How tokens become one vector, for the kinds that answer once for a text.
    pub fn pooling(&self) -> Option<Pooling> {
        match self {
            Kind::Classification { pooling, .. } | Kind::Regression { pooling } => Some(*pooling),
            Kind::Tagging { .. } | Kind::Span { .. } => None,
        }
    }

    /// Label names, if the kind has labels.
    pub fn labels(&self) -> &[String] {
        match self {
            Kind::Classification { labels, .. } | Kind::Tagging { labels } => labels,
            Kind::Regression { .. } | Kind::Span { .. } => &[],
        }
    }

    /// Tokens in the longest answer, if the kind has answers.
    pub fn max_answer_length(&self) -> Option<u32> {
        match self {
            Kind::Span { max_answer_length } => Some(*max_answer_length),
            Kind::Classification { .. } | Kind::Regression { .. } | Kind::Tagging { .. } => None,
        }
    }

    /// [`Kind::max_answer_length`] where it is not as in BERT's SQuAD reader: files leave that one out.
    pub(crate) fn own_answer_length(&self) -> Option<u32> {
        self.max_answer_length().filter(|length| *length != BERT_ANSWER)
    }

    /// What is the same for every task of this kind.
    pub(crate) fn entry(&self) -> &'static Entry {
        match self {
            Kind::Classification { .. } => &CLASSIFICATION,
            Kind::Regression { .. } => &REGRESSION,
            Kind::Tagging { .. } => &TAGGING,
            Kind::Span { .. } => &SPAN,
        }
    }

    /// A kind from the fields of task.json.
    ///
    /// # Errors
    /// When there is no kind of this name, a field is missing, or one is there that the kind does not have.
    pub(crate) fn from_fields(
        name: &str,
        labels: Option<Vec<String>>,
        pooling: Option<Pooling>,
        max_answer_length: Option<u32>,
    ) -> Result<Self> {
        let entry = KINDS.into_iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|entry| entry.name).collect();
            let (last, others) = names.split_last().unwrap_or((&"", &[]));
            Error::field("kind", format!("{} or {last}", others.join(", ")), quoted(name))
        })?;
        for (field, allowed, present) in [
            ("max_answer_length", entry.answer_length, max_answer_length.is_some()),
            ("labels", entry.has_labels(), labels.is_some()),
            ("pooling", entry.pooling, pooling.is_some()),
        ] {
            if present && !allowed {
                return Err(Error::field(field, format!("none for a {name} task"), "a value"));
            }
        }
        if entry.has_labels() && labels.is_none() {
            return Err(Error::field("labels", "a list of labels", "none"));
        }
        Ok((entry.make)(Values {
            labels: labels.unwrap_or_default(),
            pooling: pooling.unwrap_or(Pooling::Cls),
            max_answer_length: max_answer_length.unwrap_or(BERT_ANSWER),
        }))
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
        match self.max_answer_length() {
            Some(length) if !(1..=1 << 20).contains(&length) => {
                Err(Error::field("max_answer_length", "1 to 1048576 tokens", length))
            }
            _ => Ok(()),
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
            let labels = vec!["a".to_owned(), "b".to_owned()];
            let made = (entry.make)(Values { labels, pooling: Pooling::Cls, max_answer_length: BERT_ANSWER });
            assert_eq!((made.name(), usize::from(entry.number)), (entry.name, at));
            assert_eq!(Entry::numbered(entry.number).unwrap().name, entry.name);
            assert_eq!(made.labels().is_empty(), !entry.has_labels());
            assert_eq!(made.pooling().is_some(), entry.pooling);
            assert_eq!(made.max_answer_length().is_some(), entry.answer_length);
            let found =
                Kind::from_fields(entry.name, entry.has_labels().then(|| made.labels().to_vec()), made.pooling(), None);
            assert_eq!(found.unwrap(), made);
        }
        assert!(Entry::numbered(KINDS.len() as u8).is_err());
    }
}
