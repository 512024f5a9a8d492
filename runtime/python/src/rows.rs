//! Labelled texts that Python passes.
//!
//! In: texts, and as many labels. Out: records, and which labels are floats; or examples of a task. Refused: numbers that
//! are not finite, and labels that are none, which are named with the number of their text.

use std::path::Path;

use bias_patch::Task;
use edge_patch::data::{Example, Label, Record, check_numbers, label_of as json_label_of, labelled};
use pyo3::{
    prelude::*,
    types::{PyDict, PyString},
};
use pythonize::depythonize;
use serde_json::Value;

use crate::values::{elements, kind, refused, text_of};

/// Which labels are floats.
pub(crate) enum Numbers {
    /// All.
    Floats,
    /// Some; the others are integers, or missing.
    Mixed,
    /// None, or some beside strings.
    Others,
}

/// Rows of texts and labels, numbered from 0, and which labels are floats. `what` is the argument's name; `words` says
/// whether texts may be lists of words.
pub(crate) fn records_of(
    what: &str,
    texts: &Bound<'_, PyAny>,
    labels: &Bound<'_, PyAny>,
    words: bool,
) -> PyResult<(Vec<Record>, Numbers)> {
    let (texts, labels) = (elements("texts", texts)?, elements("labels", labels)?);
    if texts.len() != labels.len() {
        let (due, found) = (texts.len(), labels.len());
        return Err(refused(format!("labels: expected one for each of {due} texts, found {found}")));
    }
    if texts.is_empty() {
        return Err(refused(format!("{what}: expected at least one, found none")));
    }
    let numbers: Vec<Option<f64>> = labels.iter().map(float_of).collect();
    let floats = numbers.iter().all(Option::is_some);
    // Not those that stand for a missing label.
    let some_float = numbers.iter().flatten().any(|number| !number.is_nan());
    let rows = texts.iter().zip(labels.iter().zip(numbers.iter().copied())).enumerate().map(
        |(line, (text, (label, number)))| {
            let said = |error: PyErr| refused(format!("{what}: text {line}: {}", error.value(text.py())));
            let label = match number {
                Some(number) if floats && !number.is_finite() => {
                    return Err(refused(format!("{what}: text {line}: expected a finite number, found {number}")));
                }
                // What a table has in the place of a label that is missing.
                Some(number) if number.is_nan() => None,
                _ => label_of(label).map_err(said)?,
            };
            Ok(Record { line, text: Ok(text_of(text, words).map_err(said)?), label: Ok(label) })
        },
    );
    let rows = rows.collect::<PyResult<_>>()?;
    let integer = |label: &Bound<'_, PyAny>| label.is_none() || label.extract::<i64>().is_ok();
    let mixed = some_float && labels.iter().zip(&numbers).all(|(label, number)| number.is_some() || integer(label));
    let which = if floats {
        Numbers::Floats
    } else if mixed {
        Numbers::Mixed
    } else {
        Numbers::Others
    };
    Ok((rows, which))
}

/// The value of a label that is a float of Python or NumPy, or another number that is no integer.
fn float_of(value: &Bound<'_, PyAny>) -> Option<f64> {
    let may_be = name_of(value).is_none() && value.len().is_err();
    may_be.then(|| value.extract().ok()).flatten()
}

/// The name of a label: a string, or an integer in digits. What has a length is neither this nor a float, although
/// arrays of one number convert to it.
fn name_of(value: &Bound<'_, PyAny>) -> Option<String> {
    if let Ok(text) = value.cast::<PyString>() {
        return text.extract().ok();
    }
    if value.len().is_ok() {
        return None;
    }
    // Also NumPy's, which is no integer.
    if let Ok(truth) = value.extract::<bool>() {
        return Some(i64::from(truth).to_string());
    }
    value.extract::<i64>().ok().map(|number| number.to_string())
}

fn label_of(value: &Bound<'_, PyAny>) -> PyResult<Option<Label>> {
    let one = |value: &Bound<'_, PyAny>| {
        let number = || float_of(value).filter(|number| !number.is_nan());
        name_of(value).or_else(|| number().map(|number| format!("{number:?}")))
    };
    if value.is_none() {
        return Ok(None);
    }
    if let Ok(answer) = value.cast::<PyDict>() {
        return answer_of(answer).map(Some);
    }
    if let Some(name) = one(value) {
        return Ok(Some(Label::Name(name)));
    }
    let wrong = || refused(format!("expected a label, or a list of labels, found {}", kind(value)));
    let parts = elements("labels", value).map_err(|_| wrong())?;
    Ok(Some(Label::Names(parts.iter().map(|part| one(part).ok_or_else(wrong)).collect::<PyResult<_>>()?)))
}

/// Where an answer is: `answer` and `answer_start`, SQuAD's `answers`, or what the column `answers` of its copies holds.
fn answer_of(value: &Bound<'_, PyDict>) -> PyResult<Label> {
    let found: Option<Value> = depythonize(value).ok();
    let found = found.and_then(|value| match value.get("text") {
        Some(_) => json_label_of(&serde_json::json!({ "answers": value })),
        None => json_label_of(&value),
    });
    found.filter(|label| matches!(label, Label::Answers(_))).ok_or_else(|| {
        let keys = value.keys().iter().map(|key| key.to_string()).collect::<Vec<_>>().join(", ");
        let expected =
            r#"{"answer": ..., "answer_start": ...}, or {"text": [...], "answer_start": [...]} as SQuAD has it"#;
        refused(format!("expected an answer as {expected}, found a dict with {keys}"))
    })
}

/// The texts with their gold labels. `what` is the argument's name.
pub(crate) fn examples(what: &str, records: Vec<Record>, task: &Task) -> PyResult<Vec<Example>> {
    let read = labelled(records, task);
    if let Some((number, reason)) = read.skipped.first() {
        return Err(refused(format!("{what}: text {number}: {reason}")));
    }
    check_numbers(Path::new(what), task, &read.examples).map_err(refused)?;
    Ok(read.examples)
}
