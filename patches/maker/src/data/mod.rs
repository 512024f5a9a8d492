//! Labelled texts for a task.
//!
//! In: a file of labelled texts in any of the usual forms, and the task. Out: texts with what is right of each. Refused: a
//! file without labels or rows, and unless the caller leaves them out, rows without a text, with a label that the task does
//! not have, or with an answer that is not where it is said to be.
//!
//! The name's ending says which form a file has: `.jsonl`, `.json`, `.csv`, `.conll`, `.conllu`, `.bio`,
//! `.iob`; everything else is TSV as GLUE's files are.

mod conll;
mod csv;
mod json;

use std::{collections::BTreeSet, fs::File, io::BufReader, path::Path};

use bias_patch::{Kind, Task};
use edge_run::{
    Text,
    cli::{InputFormat, LABEL, Label, Record, Records},
};

use crate::{Error, Result};

/// What is right of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Gold {
    /// The label's number.
    Class(usize),
    /// The number.
    Value(f32),
    /// For each word its label's number.
    Tags(Vec<usize>),
    /// Answers, each as characters of the second text; the first is learned from, all of them count as right.
    Span(Vec<(usize, usize)>),
}

/// A text and what is right of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The text.
    pub text: Text,
    /// What is right.
    pub gold: Gold,
}

/// Labelled texts, and the rows that were none.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// The labelled texts.
    pub examples: Vec<Example>,
    /// Rows left out, with the reason: only where the caller allows it.
    pub skipped: Vec<(usize, String)>,
}

/// Reads a file of labelled texts. Labels are names, or numbers from 0 in the order of the task's labels, unless the names
/// are numbers.
///
/// # Errors
/// When the file has no rows or no labels, or, unless `skip_bad`, a row that is not a labelled text.
pub fn read_examples(path: &Path, task: &Task, skip_bad: bool) -> Result<Examples> {
    /// Bad rows named in the refusal.
    const LISTED: usize = 3;
    let mut read = Examples::default();
    for record in records(path)? {
        let label = record.label.ok_or_else(|| format!("expected {}, found none", due(task)));
        let example = record.text.map_err(|e| e.to_string()).and_then(|text| {
            check_inputs(task, &text)?;
            let gold = gold(task, &text, &label?)?;
            Ok(Example { text, gold })
        });
        match example {
            Ok(example) => read.examples.push(example),
            Err(reason) => read.skipped.push((record.line, reason)),
        }
    }
    if !read.skipped.is_empty() && (!skip_bad || read.examples.is_empty()) {
        let list: Vec<String> =
            read.skipped.iter().take(LISTED).map(|(line, reason)| format!("line {line}: {reason}")).collect();
        let count = read.skipped.len();
        let found =
            format!("{count} that are not\n  {}{}", list.join("\n  "), if count > LISTED { "\n  ..." } else { "" });
        let expected = "labelled texts for this task (--skip-bad leaves others out)".to_owned();
        return Err(content(path, "rows", expected, found));
    }
    if read.examples.is_empty() {
        return Err(content(path, "rows", "labelled texts".to_owned(), "none".to_owned()));
    }
    Ok(read)
}

/// Refuses texts to train on that have one label only: there is nothing to learn.
///
/// # Errors
/// When all labels are the same.
pub fn check_variety(path: &Path, examples: &[Example]) -> Result<()> {
    let seen: BTreeSet<String> = examples.iter().map(|example| format!("{:?}", example.gold)).collect();
    // Of tags one row has several already.
    let tags = examples
        .iter()
        .any(|example| matches!(&example.gold, Gold::Tags(tags) if tags.windows(2).any(|t| t[0] != t[1])));
    if seen.len() > 1 || tags {
        return Ok(());
    }
    Err(content(path, "labels", "at least two that differ".to_owned(), "the same on every row".to_owned()))
}

/// All rows of a file, whatever its form.
fn records(path: &Path) -> Result<Vec<Record>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "csv" => csv::records(path),
        "conll" | "conllu" | "bio" | "iob" => conll::records(path, ending == "conllu"),
        "json" => json::records(path),
        "jsonl" => lines(BufReader::new(open(path)?), InputFormat::Jsonl, path),
        _ => lines(BufReader::new(open(path)?), InputFormat::Tsv, path),
    }
}

/// Rows that are lines.
fn lines(reader: impl std::io::BufRead, format: InputFormat, path: &Path) -> Result<Vec<Record>> {
    let mut records = Records::new(reader, format, &path.display().to_string())?;
    if !records.labelled() {
        return Err(no_labels(path));
    }
    let mut all = Vec::new();
    while let Some(record) = records.next_record()? {
        all.push(record);
    }
    Ok(all)
}

fn open(path: &Path) -> Result<File> {
    Ok(File::open(path).map_err(bias_patch::Error::io(path, "open"))?)
}

fn no_labels(path: &Path) -> Error {
    let expected = format!("a column of labels, one of {}, or answer and answer_start", LABEL.join(", "));
    content(path, "header", expected, "none".to_owned())
}

fn content(path: &Path, field: &str, expected: String, found: String) -> Error {
    Error::Content { path: path.to_owned(), field: field.to_owned(), expected, found }
}

/// What a row of a task says beside its text.
fn due(task: &Task) -> &'static str {
    if matches!(task.kind(), Kind::Span { .. }) { "an answer and its answer_start" } else { "a label" }
}

fn check_inputs(task: &Task, text: &Text) -> Result<(), String> {
    let blank = |text: &str| text.trim().is_empty();
    match (task.inputs(), text.second()) {
        _ if blank(text.first()) || text.second().is_some_and(blank) => Err("empty text".to_owned()),
        (1, None) | (2, Some(_)) => Ok(()),
        (due, _) => Err(format!("expected {due} texts, found {}", 1 + usize::from(text.second().is_some()))),
    }
}

fn gold(task: &Task, text: &Text, label: &Label) -> Result<Gold, String> {
    let labels = task.kind().labels();
    let class = |label: &str| {
        let named = labels.iter().position(|known| known == label);
        // Where names are numbers themselves, a number is a name.
        let names = labels.iter().any(|known| known.parse::<f64>().is_ok());
        let numbered = || label.parse().ok().filter(|number| !names && *number < labels.len());
        named.or_else(numbered).ok_or_else(|| format!("expected one of {}, found {label:?}", labels.join(", ")))
    };
    match (task.kind(), label) {
        (Kind::Classification { .. }, Label::Name(label)) => Ok(Gold::Class(class(label.trim())?)),
        (Kind::Regression { .. }, Label::Name(label)) => {
            let number = label.trim().parse().ok().filter(|number: &f32| number.is_finite());
            Ok(Gold::Value(number.ok_or_else(|| format!("expected a number, found {label:?}"))?))
        }
        (Kind::Tagging { .. }, Label::Name(label)) => {
            let tags = label.split_whitespace().map(class).collect::<Result<Vec<_>, _>>()?;
            let words = text.first().split_whitespace().count();
            if tags.len() != words {
                return Err(format!("expected {words} labels, one for each word, found {}", tags.len()));
            }
            Ok(Gold::Tags(tags))
        }
        (Kind::Span { .. }, Label::Answers(answers)) if !answers.is_empty() => {
            let context: Vec<char> = text.second().unwrap_or_default().chars().collect();
            answers
                .iter()
                .map(|(answer, start)| place(&context, answer, *start))
                .collect::<Result<_, _>>()
                .map(Gold::Span)
        }
        _ => Err(format!("expected {}, found something else", due(task))),
    }
}

/// The characters of an answer, without white space around it.
fn place(context: &[char], answer: &str, start: usize) -> Result<(usize, usize), String> {
    let wanted: Vec<char> = answer.chars().collect();
    let found = start.checked_add(wanted.len()).and_then(|end| context.get(start..end)).unwrap_or_default();
    if found != wanted {
        let found: String = found.iter().collect();
        return Err(format!("expected the answer {answer:?} at character {start} of the context, found {found:?}"));
    }
    let before = wanted.iter().take_while(|c| c.is_whitespace()).count();
    let inside = answer.trim().chars().count();
    if inside == 0 { Err("empty answer".to_owned()) } else { Ok((start + before, start + before + inside)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_where_they_are_said_to_be() {
        let context: Vec<char> = "Été was hot".chars().collect();
        assert_eq!(place(&context, "was", 4), Ok((4, 7)));
        assert_eq!(place(&context, " was ", 3), Ok((4, 7)));
        for (answer, start, reason) in [
            ("was", 6, "at character 6"),
            ("hot!", 8, "expected the answer"),
            ("hot", usize::MAX, "found \"\""),
            (" ", 3, "empty answer"),
        ] {
            let error = place(&context, answer, start).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
