//! Ranks the texts of an input by how well each suits a query, as a cross-encoder does.
//!
//! In: a query, a regression task on two texts, and records of one text each. Out: a row for each text, the best first,
//! with its line and its score: the sigmoid of the head's output for the query and the text. Rows of texts without a
//! score follow, each with the reason. Refused: tasks of another kind, several tasks, an empty query, and an array as
//! the format.

use std::io::{self, BufRead, Write};

use bias_patch::Kind;
use serde::Serialize;

use super::{
    Outcome, OutputFormat, Records, Session, SessionOptions, Writer,
    output::shorten,
    session::{count, next_batch, of_text, output},
};
use crate::{
    Error, Request, Result, Task, Text, TextError,
    tasks::{cell, sigmoid},
};

/// A query for which texts are ranked.
pub struct Query<'a> {
    text: &'a str,
    /// Rows of ranked texts; the others are dropped.
    top: usize,
}

/// A text with its score.
#[derive(Debug)]
struct Candidate {
    line: usize,
    /// The head's output, whether or not the task's own answer is its sigmoid.
    output: f32,
    /// What a table shows of the text.
    shown: String,
    truncated: bool,
}

/// A ranked text, or the reason that it has no score, as a JSON object.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    line: usize,
    task: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<[f32; 1]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// A query for which `tasks` rank texts, with rows of the best `top`, or of all.
    ///
    /// # Errors
    /// When there is not one regression task on two texts, the query is empty, or the format is an array.
    pub fn new(text: &'a str, top: Option<usize>, tasks: &[Task], format: OutputFormat) -> Result<Self> {
        let refused = |expected: &str, found: String| {
            Err(Error::Usage { option: "--query".to_owned(), expected: expected.to_owned(), found })
        };
        let needed = "one regression task on two texts, as edge-patch import makes of a cross-encoder";
        match tasks {
            [task] if matches!(task.spec().kind(), Kind::Regression { .. }) && task.spec().inputs() == 2 => {}
            [task] => return refused(needed, task.spec().in_words()),
            several => return refused(needed, format!("{} tasks", several.len())),
        }
        if text.trim().is_empty() {
            return refused("a text", "an empty one".to_owned());
        }
        if format.is_array() {
            return refused("--output table, tsv or jsonl", "an array of vectors".to_owned());
        }
        Ok(Query { text, top: top.unwrap_or(usize::MAX) })
    }

    /// Reads all records and writes their rows, once all have their scores. `progress` is called with the bytes read so
    /// far.
    ///
    /// # Errors
    /// As [`run`](super::run). Nothing is written then, for a part of the texts has another order.
    pub fn rank<R: BufRead, W: Write>(
        &self,
        session: &Session<'_>,
        records: &mut Records<R>,
        writer: &mut Writer<W>,
        how: SessionOptions,
        mut progress: impl FnMut(u64),
    ) -> Result<Outcome> {
        let (task, name) = session.tasks.iter().zip(session.names).next().expect("the one task that was checked");
        let (mut outcome, mut ranked, mut unranked) = (Outcome::default(), Vec::new(), Vec::new());
        loop {
            let batch = next_batch(records, how.batch.max(1))?;
            if batch.is_empty() {
                break;
            }
            let pairs: Vec<Result<Text, TextError>> = batch
                .iter()
                .map(|record| record.text.as_ref().map_err(Clone::clone).and_then(|t| self.pair(t)))
                .collect();
            let requests: Vec<Request<'_>> = pairs.iter().flatten().map(|text| Request { task, text }).collect();
            let mut answers = session.encoder.predict_with(&requests, how.options).into_iter();
            for (record, pair) in batch.iter().zip(&pairs) {
                outcome.records += 1;
                let answer = match pair {
                    // One answer for each request, and one request for each pair.
                    Ok(_) => answers.next().expect("an answer for every request"),
                    Err(reason) => Err(reason.clone().into()),
                };
                let answer = of_text(answer, records.name(), record.line)?;
                count(&mut outcome, record.line, &answer);
                match answer {
                    Ok(prediction) => ranked.push(Candidate {
                        line: record.line,
                        output: prediction.logits.first().copied().unwrap_or(f32::NAN),
                        shown: pair.as_ref().ok().and_then(Text::second).map_or(String::new(), shorten),
                        truncated: prediction.truncated,
                    }),
                    Err(reason) => unranked.push((record.line, reason.to_string())),
                }
            }
            // By outputs, for sigmoids of large outputs are equal. Stable: of equal ones the first line stays first.
            ranked.sort_by(|a: &Candidate, b| b.output.total_cmp(&a.output));
            ranked.truncate(self.top);
            progress(records.bytes());
        }
        write(writer, name, &ranked, &unranked).map_err(output)?;
        Ok(outcome)
    }

    /// The query and a text.
    fn pair(&self, text: &Text) -> Result<Text, TextError> {
        match text.second() {
            None => Ok(Text::pair(self.text, text.first())),
            Some(_) => Err(TextError::Inputs { expected: "one text, beside the query", found: "a pair of texts" }),
        }
    }
}

/// Writes the rows of ranked texts, then those of the others, which have a line and a reason.
fn write<W: Write>(
    writer: &mut Writer<W>,
    task: &str,
    ranked: &[Candidate],
    unranked: &[(usize, String)],
) -> io::Result<()> {
    let (out, logits) = (&mut writer.inner, writer.logits);
    let header = match writer.format {
        _ if ranked.is_empty() && unranked.is_empty() => "",
        OutputFormat::Table => " rank   line   score  text\n",
        OutputFormat::Tsv if logits => "rank\tline\ttask\tscore\tlogits\terror\n",
        OutputFormat::Tsv => "rank\tline\ttask\tscore\terror\n",
        _ => "",
    };
    out.write_all(header.as_bytes())?;
    for (at, Candidate { line, output, shown, truncated }) in ranked.iter().enumerate() {
        let (rank, score) = (at + 1, sigmoid(*output));
        match writer.format {
            OutputFormat::Table => {
                writeln!(out, "{rank:5}  {line:5}  {score:6.4}  {shown}")?;
                if logits {
                    writeln!(out, "{:12}  logits {output:.6}", "")?;
                }
            }
            OutputFormat::Tsv => {
                let logits = if logits { format!("\t{output:.6}") } else { String::new() };
                writeln!(out, "{rank}\t{line}\t{task}\t{score:.6}{logits}\t")?;
            }
            _ => {
                let logits = logits.then_some([*output]);
                let (score, truncated) = (Some(score), *truncated);
                json(out, &Row { rank: Some(rank), line: *line, task, score, logits, truncated, error: None })?;
            }
        }
    }
    for (line, reason) in unranked {
        match writer.format {
            OutputFormat::Table => writeln!(out, "{:>5}  {line:5}  {:>6}  {reason}", "-", "-")?,
            OutputFormat::Tsv => {
                let logits = if logits { "\t" } else { "" };
                writeln!(out, "\t{line}\t{task}\t{logits}\t{}", cell(reason))?;
            }
            _ => {
                let (line, error) = (*line, Some(&**reason));
                json(out, &Row { rank: None, line, task, score: None, logits: None, truncated: false, error })?;
            }
        }
    }
    out.flush()
}

fn json(out: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    writeln!(out)
}
