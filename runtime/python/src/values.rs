//! What Python passes.
//!
//! In: objects of Python. Out: texts, lists, patches and values of flags. Refused: objects of other kinds, which are
//! named.

use std::path::PathBuf;

use clap::ValueEnum;
use edge_run::{Patch, Text};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyString, PyTuple},
};

use crate::Error;

/// A text, two texts in a tuple, or where `words` are wanted, for tagging, a list of them. For other tasks a list is
/// rather several texts, which are not one.
pub(crate) fn text_of(value: &Bound<'_, PyAny>, words: bool) -> PyResult<Text> {
    if let Ok(text) = value.cast::<PyString>() {
        // A string of Python may have halves of characters.
        let text = text.extract::<String>();
        return text
            .map(Text::one)
            .map_err(|error| refused(format!("expected text in Unicode: {}", error.value(value.py()))));
    }
    let expected = if words { "a text, a tuple of two, or a list of words" } else { "a text, or a tuple of two" };
    let found = |kind: String| refused(format!("expected {expected}, found {kind}"));
    if let Ok(tuple) = value.cast::<PyTuple>() {
        let pair = tuple.extract::<(String, String)>();
        let kinds = || tuple.iter().map(|part| kind(&part)).collect::<Vec<_>>().join(" and ");
        return pair
            .map(|(first, second)| Text::pair(first, second))
            .map_err(|_| found(format!("{} of {}", kind(value), kinds())));
    }
    match value.extract::<Vec<String>>() {
        Ok(list) if words => Text::of_words(&list).map_err(refused),
        _ => Err(found(kind(value))),
    }
}

/// What a value is, for errors.
pub(crate) fn kind(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "another".to_owned(), |name| format!("a {name}"))
}

/// The elements of a list, or of anything that gives one after the other. `what` is the argument's name.
pub(crate) fn elements<'py>(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let wrong = || refused(format!("{what}: expected a list of {what}, found {}", kind(value)));
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyDict>() {
        return Err(wrong());
    }
    // A table gives its columns, or their names, one after the other.
    if value.getattr_opt("columns")?.is_some() {
        return Err(refused(format!(
            "{what}: expected a list of {what}, found {}; name one of its columns",
            kind(value)
        )));
    }
    // A column of Arrow gives scalars of its own, one after the other, and strings at once.
    let strings = value.getattr_opt("to_pylist")?.map(|list| list.call0()).transpose()?;
    strings.as_ref().unwrap_or(value).try_iter().map_err(|_| wrong())?.collect()
}

pub(crate) fn refused(error: impl ToString) -> PyErr {
    Error::new_err(error.to_string())
}

/// A value of a flag by its name on the command line.
pub(crate) fn named<T: ValueEnum>(argument: &str, name: &str) -> PyResult<T> {
    T::from_str(name, false).map_err(|_| {
        let known: Vec<_> = T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
        let known: Vec<&str> = known.iter().map(|value| value.get_name()).collect();
        refused(format!("{argument}: expected {}, found {name:?}", known.join(" or ")))
    })
}

/// A patch, by its path or as its bytes.
pub(crate) fn patch_of(value: &Bound<'_, PyAny>) -> PyResult<Patch> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Patch::from_bytes(bytes.as_bytes()).map_err(refused);
    }
    Patch::open(&value.extract::<PathBuf>()?).map_err(refused)
}
