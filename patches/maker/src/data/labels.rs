//! The label that a file gives a text: in a column of a table, or in a field of a JSON object.

use std::path::Path;

use edge_run::tasks::Label;
use serde_json::Value;

use super::{Labels, content, no_labels};
use crate::Result;

/// Names of columns and fields that hold a label.
const LABELS: [&str; 5] = ["label", "labels", "gold_label", "tags", "gold"];

/// Names of those that hold it where none of the former is there: a score may stand beside a label.
const OTHER_LABELS: [&str; 3] = ["score", "quality", "is_duplicate"];

/// Names of columns and fields that hold a negative: a text that does not match the first of a pair.
const NEGATIVES: [&str; 3] = ["negative", "negatives", "neg"];

/// All names of labels.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    LABELS.into_iter().chain(OTHER_LABELS)
}

/// The one of `names` that is there, if one is.
///
/// # Errors
/// Naming them, when there are several: which of them is meant nobody can tell.
fn only(names: &[&'static str], count: &impl Fn(&str) -> usize) -> Result<Option<&'static str>, String> {
    let found: Vec<&str> = names.iter().flat_map(|name| std::iter::repeat_n(*name, count(name))).collect();
    match found[..] {
        [] => Ok(None),
        [name] => Ok(Some(name)),
        _ => Err(found.join(" and ")),
    }
}

/// The name of the label, or else of the negatives, among names that are there so many times.
fn name_of_label(count: impl Fn(&str) -> usize) -> Result<Option<&'static str>, String> {
    for names in [&LABELS[..], &OTHER_LABELS, &NEGATIVES] {
        if let Some(name) = only(names, &count)? {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The columns of a table's labels.
#[derive(Clone, Copy, Debug)]
pub(super) struct LabelColumns {
    label: Option<usize>,
    /// Columns of an answer and of its first character.
    answer: Option<(usize, usize)>,
    /// The column of a negative.
    negative: Option<usize>,
}

impl LabelColumns {
    /// The columns of a table without a header, which is CoLA's.
    pub const HEADLESS: LabelColumns = LabelColumns { label: Some(1), answer: None, negative: None };

    /// The columns of labels in the header of a file; none if there are none.
    ///
    /// # Errors
    /// When two columns are labels.
    pub fn of<S: AsRef<str>>(header: &[S], path: &Path) -> Result<Option<Self>> {
        let is = |name: &S, wanted: &str| name.as_ref().trim().eq_ignore_ascii_case(wanted);
        let find = |wanted: &str| header.iter().position(|name| is(name, wanted));
        let name = name_of_label(|wanted| header.iter().filter(|name| is(name, wanted)).count())
            .map_err(|found| content(path, "header", "one column of labels".to_owned(), found))?;
        let (negatives, labels): (Vec<_>, Vec<_>) = name.into_iter().partition(|name| NEGATIVES.contains(name));
        let [label, negative] = [labels, negatives].map(|names| names.first().and_then(|name| find(name)));
        let answer = find("answer").zip(find("answer_start"));
        let there = label.is_some() || answer.is_some() || negative.is_some();
        Ok(there.then_some(LabelColumns { label, answer, negative }))
    }

    /// The columns of labels in the header of a file; where they are optional, perhaps none.
    ///
    /// # Errors
    /// When they are required and not there, or there are two.
    pub fn required<S: AsRef<str>>(header: &[S], path: &Path, labels: Labels) -> Result<Self> {
        match (Self::of(header, path)?, labels) {
            (Some(columns), _) => Ok(columns),
            (None, Labels::Optional) => Ok(LabelColumns { label: None, answer: None, negative: None }),
            (None, Labels::Required) => Err(no_labels(path)),
        }
    }

    /// The label of a row, or its answer.
    pub fn label(&self, cells: &[&str]) -> Option<Label> {
        if let Some((answer, start)) = self.answer {
            let answer = *cells.get(answer)?;
            if answer.trim().is_empty() {
                return Some(Label::Answers(Vec::new()));
            }
            let start = cells.get(start)?.trim().parse().ok()?;
            return Some(Label::Answers(vec![(answer.to_owned(), start)]));
        }
        match (self.label, self.negative) {
            (Some(label), _) => Some(Label::Name((*cells.get(label)?).to_owned())),
            (None, Some(negative)) => Some(Label::Negatives(vec![(*cells.get(negative)?).to_owned()])),
            (None, None) => None,
        }
    }
}

/// The fields of a JSON object that are labels, if there are several.
pub(super) fn several_labels(value: &Value) -> Option<String> {
    name_of_label(|name| value.get(name).is_some_and(|label| !label.is_null()).into()).err()
}

/// The label of a JSON object; answers as SQuAD has them (a list of `text` and `answer_start`), as its copies have them
/// (a list of each), or one, as `answer` and `answer_start`. An empty list, an empty answer, null, and
/// SQuAD's `is_impossible` are no answer.
pub fn label_of(value: &Value) -> Option<Label> {
    let answer = |text: &Value, start: &Value| Some((text.as_str()?.to_owned(), start.as_u64()?.try_into().ok()?));
    if value.get("is_impossible") == Some(&Value::Bool(true)) {
        return Some(Label::Answers(Vec::new()));
    }
    let labelled = || names().any(|name| value.get(name).is_some());
    if !labelled()
        && value.get("answer").is_some_and(|text| text.is_null() || text.as_str().is_some_and(|t| t.trim().is_empty()))
    {
        return Some(Label::Answers(Vec::new()));
    }
    if let (Some(text), Some(start)) = (value.get("answer"), value.get("answer_start")) {
        return Some(Label::Answers(vec![answer(text, start)?]));
    }
    if let Some(answers) = value.get("answers") {
        let answers: Option<Vec<_>> = match answers {
            Value::Array(list) => list.iter().map(|a| answer(a.get("text")?, a.get("answer_start")?)).collect(),
            other => {
                let part = |name: &str| other.get(name).and_then(Value::as_array);
                part("text")?.iter().zip(part("answer_start")?).map(|(text, start)| answer(text, start)).collect()
            }
        };
        return answers.map(Label::Answers);
    }
    let label = names().find_map(|name| value.get(name).filter(|label| !label.is_null()));
    let Some(label) = label else { return negatives_of(value) };
    match label {
        Value::String(label) => Some(Label::Name(label.clone())),
        Value::Array(parts) => {
            let part = |part: &Value| match part {
                Value::String(name) => Some(name.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            let parts: Option<Vec<String>> = parts.iter().map(part).collect();
            Some(Label::Names(parts?))
        }
        other => Some(Label::Name(other.to_string())),
    }
}

/// The negatives of a JSON object; an empty text in place of a value that is no text.
fn negatives_of(value: &Value) -> Option<Label> {
    let text = |text: &Value| text.as_str().unwrap_or_default().to_owned();
    Some(Label::Negatives(match NEGATIVES.iter().find_map(|name| value.get(name))? {
        Value::Array(texts) => texts.iter().map(text).collect(),
        other => vec![text(other)],
    }))
}

#[cfg(test)]
mod tests {
    use bias_patch::Task;
    use edge_run::{
        Text,
        tasks::{self, Gold},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn two_columns_of_labels_are_refused() {
        let of = |header: &[&str]| LabelColumns::of(header, Path::new("t.tsv"));
        // A score may stand beside a label.
        for (header, at) in
            [(&["text", "label"][..], 1), (&["text", "score", "Tags"], 2), (&["label", "score", "quality"], 0)]
        {
            assert_eq!(of(header).unwrap().unwrap().label, Some(at));
        }
        assert!(of(&["text"]).unwrap().is_none());
        for header in [
            ["label", "text", "label"],
            ["gold", "text", " Labels"],
            ["tags", "text", "label"],
            ["score", "text", "Score"],
            ["text", "quality", "score"],
            ["negative", "text", "neg"],
        ] {
            let refused = of(&header).unwrap_err().to_string();
            assert!(refused.starts_with("t.tsv: header: expected one column of labels"), "{refused}");
        }
    }

    #[test]
    fn two_fields_of_labels_are_refused() {
        assert_eq!(several_labels(&json!({ "text": "a", "label": 1, "score": 0.5 })), None);
        assert_eq!(several_labels(&json!({ "gold": 1, "label": 0 })).as_deref(), Some("label and gold"));
        assert_eq!(several_labels(&json!({ "score": 1, "quality": 0 })).as_deref(), Some("score and quality"));
        assert_eq!(several_labels(&json!({ "neg": ["a"], "negative": "b" })).as_deref(), Some("negative and neg"));
        // A table that was made JSON may have a null for each empty cell.
        let empty = json!({ "gold": "yes", "label": null });
        assert_eq!((several_labels(&empty), label_of(&empty)), (None, Some(Label::Name("yes".to_owned()))));
    }

    #[test]
    fn there_may_be_no_answer() {
        let none = Some(Label::Answers(Vec::new()));
        for label in [
            json!({ "answers": [], "is_impossible": true }),
            json!({ "answers": { "text": [], "answer_start": [] } }),
            json!({ "answer": "", "answer_start": -1 }),
            json!({ "answer": null }),
            json!({ "is_impossible": true, "plausible_answers": [{ "text": "a", "answer_start": 0 }] }),
        ] {
            assert_eq!(label_of(&label), none, "{label}");
        }
        let columns =
            LabelColumns::of(&["question", "context", "answer", "answer_start"], Path::new("t")).unwrap().unwrap();
        assert_eq!(columns.label(&["q", "c", "", ""]), none);
        assert_eq!(columns.label(&["q", "c", "a", ""]), None);
    }

    #[test]
    fn negatives_are_labels_where_there_is_no_other() {
        let negatives = |texts: &[&str]| Some(Label::Negatives(texts.iter().map(|text| (*text).to_owned()).collect()));
        assert_eq!(label_of(&json!({ "negative": "a" })), negatives(&["a"]));
        assert_eq!(label_of(&json!({ "neg": ["a", "b"] })), negatives(&["a", "b"]));
        // An embedding task refuses an empty text.
        assert_eq!(label_of(&json!({ "negative": 7 })), negatives(&[""]));
        let named = Some(Label::Name("x".to_owned()));
        assert_eq!(label_of(&json!({ "negative": "a", "label": "x" })), named);
        assert_eq!(label_of(&json!({ "answer": "", "label": "x" })), named);
        assert_eq!(
            LabelColumns::of(&["text", "label", "negative"], Path::new("t")).unwrap().unwrap().label(&["t", "x", "a"]),
            named
        );
    }

    #[test]
    fn tags_may_be_numbers() {
        let gold = |names: &[&str], tags: Value| {
            let task = json!({ "name": "a", "kind": "tagging", "labels": names });
            let task: Task = serde_json::from_value(task).unwrap();
            tasks::of(task.kind()).gold(&Text::one("Ann sat"), &label_of(&json!({ "labels": tags })).unwrap())
        };
        let names = ["O", "B-PER", "I-PER"];
        for tags in [json!([1, 0]), json!(["1", "0"]), json!(["B-PER", "O"]), json!(["B-PER", 0])] {
            assert_eq!(gold(&names, tags.clone()), Ok(Gold::Tags(vec![1, 0])), "{tags}");
        }
        // Where names are numbers, a number is a name.
        assert_eq!(gold(&["1", "0"], json!([1, 0])), Ok(Gold::Tags(vec![0, 1])));
        for (tags, reason) in [(json!([3, 0]), "expected one of O, B-PER"), (json!([-1, 0]), "found \"-1\"")] {
            let error = gold(&names, tags).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for label in [json!({ "labels": [[1], 0] }), json!({ "labels": [null] }), json!({ "label": null })] {
            assert_eq!(label_of(&label), None, "{label}");
        }
    }
}
