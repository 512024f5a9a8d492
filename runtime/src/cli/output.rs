//! Answers as a table for people, or TSV or JSON lines for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::{Answer, Error, Fields, Prediction, Ranked, Result, Text};

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns for people
    Table,
    /// A header, then one row for each line and task
    Tsv,
    /// One JSON object for each line and task
    Jsonl,
}

/// Characters of the text that a table shows.
const SHOWN_TEXT: usize = 60;

/// Writes rows in one format.
pub struct Writer<W> {
    inner: W,
    format: OutputFormat,
    logits: bool,
    task_width: usize,
    label_width: usize,
    begun: bool,
}

/// An answer as a JSON object.
#[derive(Serialize)]
struct Row<'a> {
    line: usize,
    task: &'a str,
    #[serde(flatten)]
    said: Option<Fields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<W: Write> Writer<W> {
    /// Writes to `inner`. `tasks` are the names and labels that a table makes room for.
    pub fn new<'a>(
        inner: W,
        format: OutputFormat,
        logits: bool,
        tasks: impl Iterator<Item = (&'a str, &'a [String])>,
    ) -> Self {
        let (mut task_width, mut label_width, mut count) = (4, 6, 0);
        for (name, labels) in tasks {
            count += 1;
            task_width = task_width.max(name.len());
            label_width = labels.iter().map(|l| l.chars().count()).fold(label_width, usize::max).min(24);
        }
        // With one task a table need not repeat its name.
        let task_width = if count > 1 { task_width } else { 0 };
        Writer { inner, format, logits, task_width, label_width, begun: false }
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
        }
    }

    /// Hands everything on.
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
            self.columns("line", "task", &format!("{:labels$}  {:>6}  text", "label", "score"))?;
        }
        let shown = text.map_or(String::new(), |text| {
            let whole = text.second().map_or(text.first().to_owned(), |second| format!("{} | {second}", text.first()));
            shorten(&whole)
        });
        let cells = match answer {
            Err(error) => format!("{:labels$}  {:>6}  {error}", "-", "-"),
            Ok(prediction) => match &prediction.answer {
                Answer::Labels(ranked) => {
                    let named = |r: &Ranked| format!("{:labels$}  {:6.4}", r.label, r.score);
                    let cells: Vec<String> = ranked.iter().map(named).collect();
                    format!("{}  {shown}", cells.join("  "))
                }
                Answer::Value(value) => format!("{value:<labels$.4}  {:>6}  {shown}", ""),
                Answer::Tags(tags) => {
                    let tagged: Vec<String> = tags
                        .iter()
                        .map(|t| format!("{}/{}", cell(&t.word), t.label.as_deref().unwrap_or("-")))
                        .collect();
                    tagged.join(" ")
                }
                Answer::Spans(spans) => {
                    let named: Vec<String> =
                        spans.iter().map(|s| format!("{:?} {}-{} {:.4}", s.text, s.start, s.end, s.score)).collect();
                    if named.is_empty() { "-".to_owned() } else { named.join("  ") }
                }
            },
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
                let (label, score) = match &prediction.answer {
                    Answer::Labels(ranked) => (
                        join(ranked.iter().map(|r| r.label.to_string())),
                        join(ranked.iter().map(|r| format!("{:.6}", r.score))),
                    ),
                    Answer::Value(value) => (format!("{value:.6}"), String::new()),
                    Answer::Tags(tags) => {
                        let labels: Vec<&str> = tags.iter().map(|t| t.label.as_deref().unwrap_or("-")).collect();
                        (labels.join(" "), String::new())
                    }
                    Answer::Spans(spans) => (
                        join(spans.iter().map(|s| cell(&s.text))),
                        join(spans.iter().map(|s| format!("{:.6}", s.score))),
                    ),
                };
                (label, score, String::new())
            }
        };
        let logits = answer.map_or(vec![], |p| p.logits.iter().map(|v| format!("{v:.6}")).collect());
        let logits = if self.logits { format!("\t{}", logits.join(" ")) } else { String::new() };
        writeln!(self.inner, "{line}\t{task}\t{label}\t{score}{logits}\t{error}")
    }

    fn jsonl(&mut self, line: usize, task: &str, answer: Result<&Prediction, &Error>) -> io::Result<()> {
        let row = match answer {
            Err(error) => {
                Row { line, task, said: None, logits: None, truncated: false, error: Some(error.to_string()) }
            }
            Ok(prediction) => Row {
                line,
                task,
                said: Some(prediction.answer.fields()),
                logits: (self.logits && !prediction.logits.is_empty()).then_some(&prediction.logits[..]),
                truncated: prediction.truncated,
                error: None,
            },
        };
        serde_json::to_writer(&mut self.inner, &row)?;
        writeln!(self.inner)
    }
}

/// Several values in one cell.
fn join(values: impl Iterator<Item = String>) -> String {
    values.collect::<Vec<_>>().join(" ; ")
}

/// A text that keeps to its cell.
fn cell(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn shorten(text: &str) -> String {
    let text = cell(text);
    match text.char_indices().nth(SHOWN_TEXT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
