//! The task of labelled texts.
//!
//! In: a task.json; or fields of one, perhaps none, the path of the patch, and labelled texts. Out: the task. Refused:
//! what a task.json may not have.

use std::{collections::BTreeSet, path::Path};

use bias_patch::{Kind, Task, quoted};
use edge_run::tasks::Label;
use serde_json::{Map, Value};

use super::{BYTE_ORDER_MARK, Record};
use crate::{Error, Result};

/// Reads a task.json.
///
/// # Errors
/// When it cannot be read, or is no task.
pub fn read_task(path: &Path) -> Result<Task> {
    let failed = |reason: String| Error::Task { path: path.to_owned(), reason };
    let text = bias_patch::read_at_most(path, bias_patch::MOST_SMALL)?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    let task: Task = serde_json::from_slice(text).map_err(|e| failed(e.to_string()))?;
    // No row could have such a label, for what is around one is left out there.
    match task.kind().labels().iter().find(|label| label.trim() != **label) {
        Some(label) => {
            Err(failed(format!("labels: expected names without white space around them, found {}", quoted(label))))
        }
        None => Ok(task),
    }
}

/// The task of these fields. If it has no name, its name is that of the output; if it has no kind, it is a
/// classification. Its labels are those of the texts, in order, and it is on pairs if the first text is one, unless the
/// fields say otherwise.
///
/// # Errors
/// When there is no such task.
pub fn task_of(mut fields: Map<String, Value>, output: &Path, records: &[Record]) -> Result<Task> {
    fields.entry("name").or_insert_with(|| name_of(output).into());
    let kind = fields.entry("kind").or_insert_with(|| "classification".into());
    let (labelled, paired) = Kind::takes(kind.as_str().unwrap_or_default());
    if labelled && !records.is_empty() {
        fields.entry("labels").or_insert_with(|| labels_of(records).into());
    }
    let first = records.first().and_then(|record| record.text.as_ref().ok());
    if paired && first.is_some_and(|text| text.second().is_some()) {
        fields.entry("inputs").or_insert_with(|| 2.into());
    }
    serde_json::from_value(fields.into()).map_err(|e| Error::Recipe {
        field: "task".to_owned(),
        expected: "the fields of a task.json".to_owned(),
        found: e.to_string(),
    })
}

/// The labels of texts: numbers by their value, then names in the order of their characters.
fn labels_of(records: &[Record]) -> Vec<String> {
    let names =
        records.iter().filter_map(|record| record.label.as_ref().ok()?.as_ref()).flat_map(|label| match label {
            Label::Name(name) => std::slice::from_ref(name),
            Label::Names(names) => names,
            Label::Answers(_) | Label::Negatives(_) => &[],
        });
    let names = names.map(|name| name.trim());
    let sorted: BTreeSet<(i64, &str)> = names.map(|name| (name.parse().unwrap_or(i64::MAX), name)).collect();
    sorted.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The name of a file as that of a task, without what is not allowed there.
fn name_of(output: &Path) -> String {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = stem.chars().map(plain).skip_while(|c| *c == '.').take(64).collect();
    if name.is_empty() { "task".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use edge_run::Text;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_may_begin_with_a_byte_order_mark() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("task.json");
        std::fs::write(&path, "\u{feff}{\"name\":\"a\",\"kind\":\"span\"}").unwrap();
        assert_eq!(read_task(&path).unwrap().name(), "a");
    }

    #[test]
    fn what_fields_do_not_say_comes_from_output_and_texts() {
        let record = |text: Text, label: &str| Record {
            line: 1,
            text: Ok(text),
            label: Ok(Some(Label::Name(label.to_owned()))),
        };
        let one = |labels: &[&str]| labels.iter().map(|label| record(Text::one("x"), label)).collect::<Vec<_>>();
        let pairs = [record(Text::pair("x", "y"), "0.5")];
        for (fields, output, records, due) in [
            (
                json!({}),
                "a b.bias",
                &one(&["10", "9", "10", "no"])[..],
                json!({"name": "a-b", "labels": ["9", "10", "no"]}),
            ),
            (
                json!({"pooling": "mean"}),
                ".x",
                &one(&["b", " a", "b"]),
                json!({"name": "x", "pooling": "mean", "labels": ["a", "b"]}),
            ),
            (json!({}), "x", &one(&["1", " 1", "0"]), json!({"name": "x", "labels": ["0", "1"]})),
            (json!({"labels": ["n", "y"]}), "../é", &one(&["1", "0"]), json!({"name": "-", "labels": ["n", "y"]})),
            (
                json!({"kind": "regression", "name": "s"}),
                "x",
                &pairs,
                json!({"name": "s", "kind": "regression", "inputs": 2}),
            ),
            (json!({"kind": "embedding"}), "x.bias", &pairs, json!({"name": "x", "kind": "embedding"})),
            (
                json!({"kind": "tagging", "labels": ["a", "b"]}),
                "..",
                &[],
                json!({"name": "task", "kind": "tagging", "labels": ["a", "b"]}),
            ),
        ] {
            let Value::Object(fields) = fields else { panic!("{fields} is no object") };
            let mut due = due;
            due.as_object_mut().unwrap().entry("kind").or_insert("classification".into());
            let due: Task = serde_json::from_value(due).unwrap();
            assert_eq!(task_of(fields, Path::new(output), records).unwrap(), due);
        }
        for (fields, records, reason) in [
            (
                json!({}),
                &one(&["a", "a"])[..],
                "task: expected the fields of a task.json, found labels: expected at least 2",
            ),
            (json!({"kind": "poetry"}), &one(&["a", "b"]), "kind: expected classification"),
            (json!({"colour": 1}), &one(&["a", "b"]), "unknown field `colour`"),
        ] {
            let Value::Object(fields) = fields else { panic!("{fields} is no object") };
            let error = task_of(fields, Path::new("x"), records).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
