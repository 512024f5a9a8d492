//! Writes answers as a table for people, as TSV or JSON lines for programs, or as an array of vectors.
//!
//! In: an answer or an error for each line and task. Out: rows in one format. Refused: nothing; an error becomes a row.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::{Session, vectors::Rows};
use crate::{
    Answer, Error, Prediction, Result, Text,
    tasks::{cell, header_of_labels},
};

/// The format of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns for people
    Table,
    /// A header, then one row for each line and task
    Tsv,
    /// One JSON object for each line and task
    Jsonl,
    /// Vectors of one embedding task as NumPy's array of float32, a row for each line
    Npy,
    /// The same values alone: float32, little-endian, one row after the other
    F32,
}

impl OutputFormat {
    /// Whether answers are an array of vectors.
    pub(super) fn is_array(self) -> bool {
        matches!(self, OutputFormat::Npy | OutputFormat::F32)
    }
}

/// Characters of the text that a table shows.
const SHOWN_TEXT: usize = 60;

/// Writes rows in one format.
pub struct Writer<W> {
    pub(super) inner: W,
    pub(super) format: OutputFormat,
    pub(super) logits: bool,
    task_width: usize,
    label_width: usize,
    /// What a table's header says of answers.
    header: String,
    begun: bool,
    vectors: Rows,
}

/// An answer as a JSON object.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    task: &'a str,
    #[serde(flatten)]
    answer: Option<&'a Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<W: Write> Writer<W> {
    /// Writes the answers of a session to `inner`. A table makes room for the names and labels of its tasks.
    pub fn new(inner: W, format: OutputFormat, logits: bool, session: &Session<'_>) -> Self {
        let (mut task_width, mut label_width) = (4, 6);
        for (name, task) in session.names.iter().zip(session.tasks) {
            task_width = task_width.max(name.len());
            let given = session.labels.iter().flat_map(|labels| labels.names());
            let labels = task.spec().kind().labels().iter().map(String::as_str).chain(given);
            label_width = labels.map(|label| label.chars().count()).fold(label_width, usize::max).min(24);
        }
        // With one task a table need not repeat its name.
        let task_width = if session.tasks.len() > 1 { task_width } else { 0 };
        // That of labels also where kinds differ, and where labels take the place of vectors.
        let mut headers = session.tasks.iter().map(|task| task.kind().header(label_width));
        let header = headers.next().filter(|first| session.labels.is_none() && headers.all(|other| other == *first));
        let header = header.unwrap_or_else(|| header_of_labels(label_width));
        let width = session.tasks.first().and_then(|task| session.encoder.dimensions(task));
        let vectors = Rows::of(width.unwrap_or_default());
        Writer { inner, format, logits, task_width, label_width, header, begun: false, vectors }
    }

    /// Writes the answer of one task to one line, or why there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn row(
        &mut self,
        line: usize,
        task: &str,
        text: Option<&Text>,
        answer: Result<&Prediction, &Error>,
    ) -> io::Result<()> {
        match self.format {
            OutputFormat::Table => self.table(line, task, text, answer),
            OutputFormat::Tsv => self.tsv(line, task, answer),
            OutputFormat::Jsonl => self.jsonl(line, task, answer),
            OutputFormat::Npy | OutputFormat::F32 => self.vectors.write(&mut self.inner, answer.ok()),
        }
    }

    /// What it wrote to, and the shape of the array of vectors, if it wrote one.
    pub fn into_parts(self) -> (W, (usize, usize)) {
        (self.inner, self.vectors.shape())
    }

    /// Flushes the output.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn table(
        &mut self,
        line: usize,
        task: &str,
        text: Option<&Text>,
        answer: Result<&Prediction, &Error>,
    ) -> io::Result<()> {
        let (tasks, labels) = (self.task_width, self.label_width);
        if !self.begun {
            self.begun = true;
            let header = std::mem::take(&mut self.header);
            self.columns("line", "task", &header)?;
        }
        let shown = text.map_or(String::new(), |text| {
            let whole = text.second().map_or(text.first().to_owned(), |second| format!("{} | {second}", text.first()));
            shorten(&whole)
        });
        let cells = match answer {
            Err(error) => format!("{:labels$}  {:>6}  {error}", "-", "-"),
            Ok(prediction) => prediction.answer.row().table(labels, &shown),
        };
        let tasks = format!("{task:tasks$}");
        self.columns(&line.to_string(), &tasks, &cells)?;
        match answer {
            Ok(prediction) if self.logits && !prediction.logits.is_empty() => {
                let logits: Vec<String> = prediction.logits.iter().map(|v| format!("{v:.6}")).collect();
                self.columns("", "", &format!("logits {}", logits.join(" ")))
            }
            _ => Ok(()),
        }
    }

    fn columns(&mut self, line: &str, task: &str, rest: &str) -> io::Result<()> {
        let width = self.task_width;
        if width == 0 {
            writeln!(self.inner, "{line:>5}  {rest}")
        } else {
            writeln!(self.inner, "{line:>5}  {task:width$}  {rest}")
        }
    }

    fn tsv(&mut self, line: usize, task: &str, answer: Result<&Prediction, &Error>) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            let logits = if self.logits { "\tlogits" } else { "" };
            writeln!(self.inner, "line\ttask\tlabel\tscore{logits}\terror")?;
        }
        let (label, score, error) = match answer {
            Err(error) => (String::new(), String::new(), cell(&error.to_string())),
            Ok(prediction) => {
                let (label, score) = prediction.answer.row().cells();
                (label, score, String::new())
            }
        };
        let logits = answer.map_or(vec![], |p| p.logits.iter().map(|v| format!("{v:.6}")).collect());
        let logits = if self.logits { format!("\t{}", logits.join(" ")) } else { String::new() };
        writeln!(self.inner, "{line}\t{task}\t{label}\t{score}{logits}\t{error}")
    }

    fn jsonl(&mut self, line: usize, task: &str, answer: Result<&Prediction, &Error>) -> io::Result<()> {
        write_json(&mut self.inner, Some(line), task, answer, self.logits)?;
        writeln!(self.inner)
    }
}

/// Writes what `-o jsonl` writes of an answer, or why there is none, without the line break. Requests that are of no
/// file have no line.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(
    out: impl Write,
    line: Option<usize>,
    task: &str,
    answer: Result<&Prediction, &Error>,
    logits: bool,
) -> io::Result<()> {
    let row = match answer {
        Err(error) => Row { line, task, answer: None, logits: None, truncated: false, error: Some(error.to_string()) },
        Ok(prediction) => Row {
            line,
            task,
            answer: Some(&prediction.answer),
            logits: (logits && !prediction.logits.is_empty()).then_some(&prediction.logits[..]),
            truncated: prediction.truncated,
            error: None,
        },
    };
    Ok(serde_json::to_writer(out, &row)?)
}

/// What a table shows of a text: one line of at most [`SHOWN_TEXT`] characters.
pub(super) fn shorten(text: &str) -> String {
    let text = cell(text);
    match text.char_indices().nth(SHOWN_TEXT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
