//! The description of a task: how texts are read and what the outputs mean.
//!
//! In: `task.json` as a person writes it, or the task of a patch file. Out: a [`Task`] in which labels, pooling and
//! number of texts agree. Refused: every other combination.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Kind, Result,
    kind::{Fields, Pooling},
};

/// A task: its name, its kind, and how text goes in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "TaskFields", into = "TaskFields")]
pub struct Task {
    name: String,
    kind: Kind,
    inputs: u8,
    max_length: u32,
}

/// A task as in task.json and in a patch's header: the same fields, not yet checked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskFields {
    pub(crate) name: String,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) labels: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) pooling: Option<Pooling>,
    /// None where the kind decides.
    #[serde(default)]
    pub(crate) inputs: Option<u8>,
    #[serde(default = "bert_length")]
    pub(crate) max_length: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_answer_length: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thresholds: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sigmoid: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dimensions: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) normalize: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) no_answer: Option<f32>,
}

fn bert_length() -> u32 {
    128
}

impl Task {
    /// A task whose parts agree.
    ///
    /// `inputs` is the number of texts, 1 or 2; `max_length` the most tokens a text (or pair) becomes, special tokens
    /// included.
    ///
    /// # Errors
    /// When a name or label is not allowed, labels are missing or repeated, or the number of texts does not suit the
    /// kind.
    pub fn new(name: &str, kind: Kind, inputs: u8, max_length: u32) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(Error::field(
                "task name",
                "1 to 64 letters, digits, '.', '_' or '-', not first a '.'",
                quoted(name),
            ));
        }
        kind.check(inputs)?;
        if !(3..=1 << 20).contains(&max_length) {
            return Err(Error::field("max_length", "3 to 1048576 tokens", max_length));
        }
        Ok(Task { name: name.to_owned(), kind, inputs, max_length })
    }

    /// The same task with values of its kind that are set otherwise, such as thresholds.
    ///
    /// # Errors
    /// When a value is not allowed.
    pub fn with_kind(&self, kind: Kind) -> Result<Self> {
        Task::new(&self.name, kind, self.inputs, self.max_length)
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the outputs mean.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Texts that go in together: 1 or 2.
    pub fn inputs(&self) -> u8 {
        self.inputs
    }

    /// What the task is, with an article, as errors say it: "an embedding task on one text".
    pub fn in_words(&self) -> String {
        let kind = self.kind.name();
        let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        let texts = if self.inputs == 2 { "two texts" } else { "one text" };
        format!("{article} {kind} task on {texts}")
    }

    /// The most tokens a text or pair becomes, special tokens included.
    pub fn max_length(&self) -> u32 {
        self.max_length
    }
}

/// A value from a file or a request as an error shows it: quoted, escaped, and not longer than a line.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{dots}")
}

/// A text that a terminal or a row of a table takes as it is: control characters are escaped.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

impl TryFrom<TaskFields> for Task {
    type Error = Error;

    fn try_from(fields: TaskFields) -> Result<Self> {
        let TaskFields { name, kind, inputs, max_length, .. } = fields;
        let of_kind = Fields {
            labels: fields.labels,
            pooling: fields.pooling,
            max_answer_length: fields.max_answer_length,
            thresholds: fields.thresholds,
            sigmoid: fields.sigmoid,
            dimensions: fields.dimensions,
            normalize: fields.normalize,
            prompts: fields.prompts,
            no_answer: fields.no_answer,
        };
        let kind = Kind::from_fields(&kind, of_kind)?;
        let inputs = inputs.unwrap_or(kind.usual_inputs());
        Task::new(&name, kind, inputs, max_length)
    }
}

impl From<Task> for TaskFields {
    fn from(task: Task) -> Self {
        let fields = task.kind.fields();
        TaskFields {
            kind: task.kind.name().to_owned(),
            labels: fields.labels,
            pooling: fields.pooling,
            max_answer_length: fields.max_answer_length,
            thresholds: fields.thresholds,
            sigmoid: fields.sigmoid,
            dimensions: fields.dimensions,
            normalize: fields.normalize,
            prompts: fields.prompts,
            no_answer: fields.no_answer,
            name: task.name,
            inputs: Some(task.inputs),
            max_length: task.max_length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_json_says_what_is_wrong_with_it() {
        let cases = [
            (r#"{"name":"a","kind":"classification","labels":["x"]}"#, "labels: expected at least 2, found 1"),
            (r#"{"name":"a","kind":"classification"}"#, "labels: expected a list of labels, found none"),
            (r#"{"name":"a","kind":"classification","labels":["x","x"]}"#, "no label twice"),
            (r#"{"name":"a/b","kind":"regression"}"#, "task name"),
            (r#"{"name":"a","kind":"regression","labels":["x","y"]}"#, "labels: expected none for a regression task"),
            (r#"{"name":"a","kind":"span","inputs":1}"#, "inputs: expected 2 texts for a span task, found 1"),
            (r#"{"name":"a","kind":"tagging","labels":["x","y"],"inputs":2}"#, "inputs: expected 1 texts"),
            (r#"{"name":"a","kind":"poetry"}"#, "kind: expected classification, "),
            (r#"{"name":"a","kind":"regression","max_length":2}"#, "max_length"),
            (r#"{"name":"a","kind":"regression","max_answer_length":9}"#, "expected none for a regression task"),
            (
                r#"{"name":"a","kind":"span","inputs":2,"max_answer_length":0}"#,
                "max_answer_length: expected 1 to 1048576",
            ),
            (r#"{"name":"a","kind":"regression","colour":2}"#, "unknown field"),
            (r#"{"name":"a","kind":"span","inputs":2,"sigmoid":true}"#, "sigmoid: expected none for a span task"),
            (r#"{"name":"a","kind":"multi-label","labels":["x","y"],"thresholds":[0.5]}"#, "thresholds: expected 2"),
            (r#"{"name":"a","kind":"multi-label","labels":["x","y"],"thresholds":[0.5,2]}"#, "from 0 to 1, found 2"),
            (r#"{"name":"a","kind":"embedding","dimensions":0}"#, "dimensions: expected 1 or more"),
            (r#"{"name":"a","kind":"embedding","prompts":{"":"a"}}"#, "prompts: expected names of 1 to 4096"),
            (r#"{"name":"a","kind":"embedding","inputs":2}"#, "inputs: expected 1 texts for a embedding task"),
        ];
        for (json, message) in cases {
            let error = serde_json::from_str::<Task>(json).unwrap_err().to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn a_task_without_inputs_takes_what_its_kind_takes() {
        for (json, due) in [
            (r#"{"name":"a","kind":"span"}"#, 2),
            (r#"{"name":"a","kind":"span","inputs":null}"#, 2),
            (r#"{"name":"a","kind":"regression"}"#, 1),
            (r#"{"name":"a","kind":"tagging","labels":["x","y"]}"#, 1),
        ] {
            assert_eq!(serde_json::from_str::<Task>(json).unwrap().inputs(), due, "{json}");
        }
    }

    #[test]
    fn task_json_reads_back() {
        for json in [
            r#"{"name":"sst2","kind":"classification","labels":["0","1"],"pooling":"mean","inputs":1,"max_length":128}"#,
            r#"{"name":"stsb","kind":"regression","labels":null,"pooling":"mean","inputs":2,"max_length":128}"#,
            r#"{"name":"pos","kind":"tagging","labels":["NOUN","VERB"],"pooling":null,"inputs":1,"max_length":64}"#,
            r#"{"name":"qa","kind":"span","labels":null,"pooling":null,"inputs":2,"max_length":384}"#,
            r#"{"name":"qa","kind":"span","labels":null,"pooling":null,"inputs":2,"max_length":384,"max_answer_length":90}"#,
            concat!(
                r#"{"name":"e","kind":"embedding","labels":null,"pooling":"last","inputs":1,"max_length":512,"#,
                r#""dimensions":64,"normalize":false,"prompts":{"default":"query: "}}"#
            ),
        ] {
            let task: Task = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&task).unwrap(), json);
        }
    }
}
