//! Answers every record of an input for every task, in order.
//!
//! In: records, tasks and options. Out: a row for each record and task, and totals. A text that cannot be answered
//! becomes a row with the reason. Refused: input that cannot be read, and errors of the engine.

use std::{
    io::{BufRead, Write},
    time::Duration,
};

use super::{LabelVectors, Record, Records, Writer};
use crate::{Encoder, Error, Options, Prediction, Request, Result, Task, Timing};

/// Tasks over one encoder.
pub struct Session<'a> {
    /// The encoder.
    pub encoder: &'a Encoder,
    /// Its tasks, in the order of their answers.
    pub tasks: &'a [Task],
    /// What each task is called in its rows.
    pub names: &'a [String],
    /// Labels that take the place of vectors, if there are any.
    pub labels: Option<&'a LabelVectors>,
}

/// How a session runs.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How texts are answered.
    pub options: Options,
    /// Lines read before any of them is answered.
    pub batch: usize,
    /// Whether each line is answered and flushed before the next is read.
    pub unbuffered: bool,
}

/// What a session did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Records read.
    pub records: usize,
    /// Answers given.
    pub answers: usize,
    /// Answers refused.
    pub refused: usize,
    /// Answers on a text that was cut to the limit.
    pub truncated: usize,
    /// The first line that was cut.
    pub first_truncated: Option<usize>,
    /// Sums over all answers.
    pub timing: Timing,
}

/// Reads all records and writes all answers. `progress` is called with the bytes read so far.
///
/// # Errors
/// When the input cannot be read, the output cannot be written, or the engine fails. A text that cannot be answered is
/// not an error: it becomes a row with the reason.
pub fn run<R: BufRead, W: Write>(
    session: &Session<'_>,
    records: &mut Records<R>,
    writer: &mut Writer<W>,
    how: SessionOptions,
    mut progress: impl FnMut(u64),
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let size = if how.unbuffered { 1 } else { how.batch.max(1) };
    loop {
        let batch = next_batch(records, size)?;
        if batch.is_empty() {
            break;
        }
        answer(session, records.name(), &batch, writer, how.options, &mut outcome)?;
        if how.unbuffered {
            writer.flush().map_err(output)?;
        }
        progress(records.bytes());
    }
    writer.flush().map_err(output)?;
    Ok(outcome)
}

/// The next records: `size` of them, or fewer at the end and before an error.
pub(super) fn next_batch<R: BufRead>(records: &mut Records<R>, size: usize) -> Result<Vec<Record>> {
    // Grown as records come: there may be far fewer.
    let mut batch = Vec::new();
    while batch.len() < size {
        match records.next_record() {
            Ok(Some(record)) => batch.push(record),
            Ok(None) => break,
            Err(error) if batch.is_empty() => return Err(error),
            // What was read before it is answered first.
            Err(error) => {
                records.fail_next(error);
                break;
            }
        }
    }
    Ok(batch)
}

/// An answer to a line of `input`, or why there is none.
///
/// # Errors
/// When what is wrong is not the text: that ends the session.
pub(super) fn of_text(answer: Result<Prediction>, input: &str, line: usize) -> Result<Result<Prediction>> {
    match answer {
        Err(Error::Memory { place, bytes, helps }) => {
            Err(Error::Memory { place: format!("{input}, line {line}: {place}"), bytes, helps })
        }
        Err(error) if !matches!(error, Error::Text(_)) => Err(error),
        answer => Ok(answer),
    }
}

/// Answers one batch of records; `input` names their file in errors. The requests of all tasks run together.
fn answer<W: Write>(
    session: &Session<'_>,
    input: &str,
    batch: &[Record],
    writer: &mut Writer<W>,
    options: Options,
    outcome: &mut Outcome,
) -> Result<()> {
    let texts = batch.iter().filter_map(|record| record.text.as_ref().ok());
    let requests: Vec<Request<'_>> =
        texts.flat_map(|text| session.tasks.iter().map(move |task| Request { task, text })).collect();
    let mut answers = session.encoder.predict_with(&requests, options).into_iter();
    for record in batch {
        outcome.records += 1;
        for (task, name) in session.names.iter().enumerate() {
            let answer = match &record.text {
                // One answer for each request, and one request for each text and task.
                Ok(_) => answers.next().expect("an answer for every request"),
                Err(reason) => Err(reason.clone().into()),
            };
            let answer = of_text(answer, input, record.line)?;
            let answer = match session.labels {
                Some(labels) => answer.map(|prediction| labels.rank(task, prediction, options.top)),
                None => answer,
            };
            count(outcome, record.line, &answer);
            let row = writer.row(record.line, name, record.text.as_ref().ok(), answer.as_ref());
            row.map_err(output)?;
        }
    }
    Ok(())
}

/// Adds an answer, or that there is none, to the totals.
pub(super) fn count(outcome: &mut Outcome, line: usize, answer: &Result<Prediction>) {
    let Ok(prediction) = answer else {
        outcome.refused += 1;
        return;
    };
    outcome.answers += 1;
    if prediction.truncated {
        outcome.truncated += 1;
        outcome.first_truncated.get_or_insert(line);
    }
    let (sum, one) = (&mut outcome.timing, &prediction.timing);
    sum.tokens += one.tokens;
    let add = |sum: &mut Duration, one: Duration| *sum += one;
    add(&mut sum.tokenize, one.tokenize);
    add(&mut sum.switch, one.switch);
    add(&mut sum.encode, one.encode);
    add(&mut sum.answer, one.answer);
}

/// The error of an output that cannot be written.
pub(super) fn output(source: std::io::Error) -> Error {
    Error::Io { path: "standard output".into(), action: "write", source }
}
