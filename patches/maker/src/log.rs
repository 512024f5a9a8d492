//! The log of a training: a JSON object a line, appended while it runs and read back for pictures.
//!
//! In: what happens during training, or a file. Out: lines, or entries. Refused: a line that is not such an object.
//! Other trainers may write logs too: unknown events are ignored, and fields that no picture needs may be missing.

use std::{fs::File, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, train::Event};

/// How every line that [`Entry`] is written as begins.
const FIRST_BYTES: &[u8] = b"{\"event\":\"";

/// The most bytes of a log that is read or appended to: those of a million steps and more.
const MOST_BYTES: u64 = 256 << 20;

/// A line of a log. A number that is not finite is null in JSON, and none here. Names that earlier versions wrote are
/// read too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Entry {
    /// The trainings of a cell of a table start, or resume.
    Cell {
        /// Its number among those of the table, from 1.
        cell: usize,
        /// How many there are.
        of: usize,
        /// Its row: what is trained.
        row: String,
        /// Its data set.
        data: String,
    },
    /// A run starts, or resumes after `step` of `steps` steps.
    Run {
        /// Its number, from 1.
        #[serde(default)]
        run: usize,
        /// How many there are.
        #[serde(default)]
        of: usize,
        /// The identity of its training, shortened: see [`fingerprint`](crate::train::fingerprint).
        #[serde(default)]
        training: String,
        /// What is trained: slots, or weights.
        #[serde(default)]
        trained: String,
        /// How many training texts there are.
        #[serde(default)]
        texts: usize,
        /// Its highest learning rate.
        #[serde(alias = "lr")]
        learning_rate: f64,
        /// Its seed.
        seed: u64,
        /// Steps done.
        step: u64,
        /// All its steps.
        steps: u64,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// The mean loss of its texts.
        loss: Option<f64>,
        /// The norm of the gradients before clipping.
        #[serde(default)]
        norm: Option<f64>,
    },
    /// An epoch is done.
    #[serde(alias = "pass")]
    Epoch {
        /// Epochs done.
        #[serde(default, alias = "pass")]
        epoch: u64,
        /// The mean loss of its texts.
        #[serde(default)]
        loss: Option<f64>,
        /// The score on the dev set.
        dev: Option<f64>,
        /// The score on the test set, if there is one and this is the best epoch so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test: Option<f64>,
        /// The metric of the scores.
        #[serde(default)]
        metric: Option<String>,
    },
    /// All runs on a number of training texts are done.
    Size {
        /// How many training texts.
        texts: usize,
        /// The dev score of the best learning rate, the mean over its seeds; none if every run diverged.
        dev: Option<f64>,
        /// The standard deviation of these scores.
        #[serde(default)]
        deviation: Option<f64>,
        /// The test score of the same runs, the mean over the seeds, if there is a test set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test: Option<f64>,
        /// The standard deviation of these scores.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test_deviation: Option<f64>,
        /// The score of the best patch on training texts.
        #[serde(default)]
        train: Option<f64>,
        /// The metric of the scores.
        #[serde(default)]
        metric: Option<String>,
    },
    /// Training texts are left out: no window of theirs holds the whole answer.
    #[serde(rename = "left out")]
    LeftOut {
        /// How many.
        texts: usize,
    },
    /// A kept result is of another kind of processor, whose kernels round otherwise.
    #[serde(rename = "other kernels")]
    OtherKernels {
        /// The file of the result.
        result: String,
    },
    /// A run diverged and was ended.
    Diverged {
        /// At which step, and why.
        reason: String,
    },
    /// An event of another trainer's.
    #[serde(other)]
    Other,
}

impl From<&Event> for Entry {
    fn from(event: &Event) -> Self {
        match event {
            Event::Cell { cell, row, data } => {
                Entry::Cell { cell: cell.0 + 1, of: cell.1, row: row.clone(), data: data.clone() }
            }
            Event::Run { run, training, trained, texts, learning_rate, seed, step, steps } => Entry::Run {
                run: run.0 + 1,
                of: run.1,
                training: training.short(),
                trained: trained.clone(),
                texts: *texts,
                learning_rate: *learning_rate,
                seed: *seed,
                step: *step,
                steps: *steps,
            },
            Event::OtherKernels { result } => Entry::OtherKernels { result: result.display().to_string() },
            Event::Step { step, loss, norm } => Entry::Step { step: *step, loss: Some(*loss), norm: Some(*norm) },
            Event::LeftOut { texts } => Entry::LeftOut { texts: *texts },
            Event::Diverged { reason } => Entry::Diverged { reason: reason.clone() },
            Event::Epoch { epoch, loss, dev, test, metric } => Entry::Epoch {
                epoch: *epoch,
                loss: Some(*loss),
                dev: Some(*dev),
                test: *test,
                metric: Some((*metric).to_owned()),
            },
        }
    }
}

/// Opens a log to append to, or makes it. What a power cut left behind its last whole line is cut off: a part of a
/// line, or zeros.
///
/// # Errors
/// When it cannot be read or written, or is a file of another kind, by its first line.
pub fn open_log(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path).map_err(bias_patch::Error::io(path, "open"))?;
    // A pipe or a device has no end.
    if !path.is_file() {
        return Ok(file);
    }
    let bytes = bias_patch::read_at_most(path, MOST_BYTES)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let begun = first.iter().zip(FIRST_BYTES).all(|(found, due)| found == due) || first.iter().all(|byte| *byte == 0);
    if !(begun && whole == 0 || serde_json::from_slice::<Entry>(first).is_ok()) {
        return Err(Error::Content {
            path: path.to_owned(),
            field: "line 1".to_owned(),
            expected: "a log to append to, as edge-patch train --log writes it, or no file".to_owned(),
            found: "a file of another kind".to_owned(),
        });
    }
    if whole < bytes.len() {
        file.set_len(whole as u64).map_err(bias_patch::Error::io(path, "write"))?;
    }
    Ok(file)
}

/// Reads a log.
///
/// # Errors
/// When it cannot be read, or a line is not an object of a log.
pub fn read_log(path: &Path) -> Result<Vec<Entry>> {
    let text = bias_patch::read_text_at_most(path, MOST_BYTES)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(at, line)| {
        serde_json::from_str(line).map_err(|e| Error::Content {
            path: path.to_owned(),
            field: format!("line {}", at + 1),
            expected: "a JSON object as edge-patch train --log writes it".to_owned(),
            found: e.to_string(),
        })
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bias_patch::Digest;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_less_is_enough() {
        let events = [
            Event::Cell { cell: (3, 8), row: "bq+bm2".to_owned(), data: "cola".to_owned() },
            Event::Run {
                run: (0, 2),
                training: Digest::of(b"it"),
                trained: "bq+bm2".to_owned(),
                texts: 64,
                learning_rate: 1e-3,
                seed: 7,
                step: 20,
                steps: 40,
            },
            Event::Step { step: 21, loss: 0.5, norm: 2.0 },
            Event::LeftOut { texts: 3 },
            Event::Diverged { reason: "why".to_owned() },
            Event::Epoch { epoch: 2, loss: 0.25, dev: 0.75, test: None, metric: "F1" },
            Event::Epoch { epoch: 3, loss: 0.25, dev: 0.75, test: Some(0.5), metric: "F1" },
            Event::OtherKernels { result: "a.json".into() },
        ];
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("log.jsonl");
        let entries: Vec<Entry> = events.iter().map(Entry::from).collect();
        let lines: Vec<String> = entries.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
        assert_eq!(lines[0], r#"{"event":"cell","cell":4,"of":8,"row":"bq+bm2","data":"cola"}"#);
        assert!(lines[1].contains(r#""learning_rate":0.001,"seed":7"#), "{}", lines[1]);
        assert_eq!(lines[3], r#"{"event":"left out","texts":3}"#);
        assert_eq!(lines[7], r#"{"event":"other kernels","result":"a.json"}"#);
        assert!(!lines[5].contains("test") && lines[6].contains(r#""dev":0.75,"test":0.5"#), "{lines:?}");
        fs::write(&path, lines.join("\n") + "\n\n").unwrap();
        assert_eq!(read_log(&path).unwrap(), entries);

        let theirs = r#"
            {"event":"run","lr":0.1,"seed":3,"step":0,"steps":9}
            {"event":"step","step":1,"loss":null}
            {"event":"pass","pass":1,"dev":0.5}
            {"event":"size","texts":100,"dev":null}
            {"event":"coffee","cups":2}
        "#;
        fs::write(&path, theirs).unwrap();
        let run = Entry::Run {
            run: 0,
            of: 0,
            training: String::new(),
            trained: String::new(),
            texts: 0,
            learning_rate: 0.1,
            seed: 3,
            step: 0,
            steps: 9,
        };
        let step = Entry::Step { step: 1, loss: None, norm: None };
        let size = Entry::Size {
            texts: 100,
            dev: None,
            deviation: None,
            test: None,
            test_deviation: None,
            train: None,
            metric: None,
        };
        let epoch = Entry::Epoch { epoch: 1, loss: None, dev: Some(0.5), test: None, metric: None };
        assert_eq!(read_log(&path).unwrap(), [run, step, epoch, size, Entry::Other]);

        // What a power cut may leave of a line goes; what may be a file of another kind stays.
        let line = lines[2].clone() + "\n";
        for (kept, rest) in
            [("", "{\"ev"), ("", "\0\0"), (&line, "{\"event\":\"st"), (&line, "\0\0"), (&line, ""), ("", "")]
        {
            fs::write(&path, kept.to_owned() + rest).unwrap();
            drop(open_log(&path).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        }
        for other in ["notes", "notes\n\0", "{\"a\":1}\n", "{\"event\":\n"] {
            fs::write(&path, other).unwrap();
            assert!(open_log(&path).unwrap_err().to_string().contains("a log to append to"));
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }

        for (text, found) in [("{\"event\":\"step\"}", "missing field"), ("\n{\"event\":", "line 2"), ("x", "expected")]
        {
            fs::write(&path, text).unwrap();
            let error = read_log(&path).unwrap_err().to_string();
            assert!(error.contains("log.jsonl") && error.contains(found), "{error}");
        }
    }
}
