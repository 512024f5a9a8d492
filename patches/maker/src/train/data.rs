//! Labelled texts for a task.
//!
//! In: a TSV file with a header or a JSON-lines file, and the task. Out: texts with what is right of each. Refused: a file
//! without labels or rows, a row without a text, a label that the task does not have.

use std::{collections::BTreeSet, fs::File, io::BufReader, path::Path};

use bias_patch::{Kind, Task};
use edge_run::{
    Text,
    cli::{InputFormat, Records},
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

/// Reads a file of labelled texts: `.jsonl` and `.json` as JSON lines, everything else as TSV. Labels are names, or numbers
/// from 0 in the order of the task's labels, unless the names are numbers.
///
/// # Errors
/// When the file has no rows or no labels, or, unless `skip_bad`, a row that is not a labelled text.
pub fn read_examples(path: &Path, task: &Task, skip_bad: bool) -> Result<Examples> {
    /// Bad rows named in the refusal.
    const LISTED: usize = 3;
    let content = |field: String, expected: String, found: String| Error::Content {
        path: path.to_owned(),
        field,
        expected,
        found,
    };
    if matches!(task.kind(), Kind::Span) {
        let expected = "classification, regression or tagging: spans cannot be trained yet".to_owned();
        return Err(content("task kind".to_owned(), expected, "span".to_owned()));
    }
    let json = path.extension().is_some_and(|e| e == "jsonl" || e == "json");
    let format = if json { InputFormat::Jsonl } else { InputFormat::Tsv };
    let file = File::open(path).map_err(bias_patch::Error::io(path, "open"))?;
    let mut records = Records::new(BufReader::new(file), format, &path.display().to_string())?;
    let mut read = Examples::default();
    while let Some(record) = records.next_record()? {
        let text = record.text.map_err(|e| e.to_string());
        let label = record.label.ok_or_else(|| "expected a label, found none".to_owned());
        let example = text.and_then(|text| {
            check_inputs(task, &text)?;
            let gold = gold(task, text.first(), &label?)?;
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
        return Err(content("rows".to_owned(), expected, found));
    }
    if read.examples.is_empty() {
        return Err(content("rows".to_owned(), "labelled texts".to_owned(), "none".to_owned()));
    }
    Ok(read)
}

/// Refuses texts to train on that have one label only: there is nothing to learn.
///
/// # Errors
/// When all labels are the same.
pub fn check_variety(path: &Path, examples: &[Example]) -> Result<()> {
    let seen: BTreeSet<String> = examples.iter().map(|example| format!("{:?}", example.gold)).collect();
    if seen.len() > 1 {
        return Ok(());
    }
    Err(Error::Content {
        path: path.to_owned(),
        field: "labels".to_owned(),
        expected: "at least two that differ".to_owned(),
        found: "the same on every row".to_owned(),
    })
}

fn check_inputs(task: &Task, text: &Text) -> Result<(), String> {
    let blank = |text: &str| text.trim().is_empty();
    match (task.inputs(), text.second()) {
        _ if blank(text.first()) || text.second().is_some_and(blank) => Err("empty text".to_owned()),
        (1, None) | (2, Some(_)) => Ok(()),
        (due, _) => Err(format!("expected {due} texts, found {}", 1 + usize::from(text.second().is_some()))),
    }
}

fn gold(task: &Task, text: &str, label: &str) -> Result<Gold, String> {
    let labels = task.kind().labels();
    let class = |label: &str| {
        let named = labels.iter().position(|known| known == label);
        // Where names are numbers themselves, a number is a name.
        let names = labels.iter().any(|known| known.parse::<f64>().is_ok());
        let numbered = || label.parse().ok().filter(|number| !names && *number < labels.len());
        named.or_else(numbered).ok_or_else(|| format!("expected one of {}, found {label:?}", labels.join(", ")))
    };
    Ok(match task.kind() {
        Kind::Classification { .. } | Kind::Span => Gold::Class(class(label.trim())?),
        Kind::Regression { .. } => {
            let number = label.trim().parse().ok().filter(|number: &f32| number.is_finite());
            Gold::Value(number.ok_or_else(|| format!("expected a number, found {label:?}"))?)
        }
        Kind::Tagging { .. } => {
            let tags = label.split_whitespace().map(class).collect::<Result<Vec<_>, _>>()?;
            let words = text.split_whitespace().count();
            if tags.len() != words {
                return Err(format!("expected {words} labels, one for each word, found {}", tags.len()));
            }
            Gold::Tags(tags)
        }
    })
}
