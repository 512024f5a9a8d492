//! The log of a training: a JSON object a line, appended while it runs and read back for pictures.
//!
//! In: what happens during training, or a file. Out: lines, or entries. Refused: a line that is no such object. Events of a
//! name that is not known here are passed over, and fields that no picture is made of may be missing, so that other trainers
//! can write such files too.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, train::Event};

/// A line of a log. A number that is not finite is null in JSON, and none here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Entry {
    /// A run begins, or goes on after `step` of `steps` steps.
    Run {
        /// Its number, from 1.
        #[serde(default)]
        run: usize,
        /// How many there are.
        #[serde(default)]
        of: usize,
        /// The training it is of: the same for another run of the same command, and for no other.
        #[serde(default)]
        training: String,
        /// What is trained: terms, or weights, in a word.
        #[serde(default)]
        trained: String,
        /// Texts to learn from.
        #[serde(default)]
        texts: usize,
        /// Its highest learning rate.
        lr: f64,
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
        /// The gradients' norm before they were shortened.
        #[serde(default)]
        norm: Option<f64>,
    },
    /// A pass over the texts is done.
    Pass {
        /// Passes done.
        #[serde(default)]
        pass: u64,
        /// The mean loss of its texts.
        #[serde(default)]
        loss: Option<f64>,
        /// The score on the texts to be judged by.
        dev: Option<f64>,
        /// What the score is of.
        #[serde(default)]
        metric: Option<String>,
    },
    /// All runs on so many texts are done.
    Size {
        /// Texts learned from.
        texts: usize,
        /// The mean score, over the seeds, of the best learning rate; none if every run diverged.
        dev: Option<f64>,
        /// The standard deviation of these scores.
        #[serde(default)]
        deviation: Option<f64>,
        /// The score of the best patch on texts it learned from.
        #[serde(default)]
        train: Option<f64>,
        /// What the scores are of.
        #[serde(default)]
        metric: Option<String>,
    },
    /// Texts are left out: no window of theirs holds the whole answer.
    #[serde(rename = "left out")]
    LeftOut {
        /// How many.
        texts: usize,
    },
    /// A run has diverged and is given up.
    Diverged {
        /// Where and how.
        reason: String,
    },
    /// An event of another trainer's.
    #[serde(other)]
    Other,
}

impl From<&Event> for Entry {
    fn from(event: &Event) -> Self {
        match event {
            Event::Run { run, training, trained, texts, rate, seed, step, steps } => Entry::Run {
                run: run.0 + 1,
                of: run.1,
                training: training.short(),
                trained: trained.clone(),
                texts: *texts,
                lr: *rate,
                seed: *seed,
                step: *step,
                steps: *steps,
            },
            Event::Step { step, loss, norm } => Entry::Step { step: *step, loss: Some(*loss), norm: Some(*norm) },
            Event::Unheld { texts } => Entry::LeftOut { texts: *texts },
            Event::Diverged { reason } => Entry::Diverged { reason: reason.clone() },
            Event::Epoch { epoch, loss, score, metric } => {
                Entry::Pass { pass: *epoch, loss: Some(*loss), dev: Some(*score), metric: Some((*metric).to_owned()) }
            }
        }
    }
}

/// Whether a file is a log, or empty: its first line is an entry.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn check_log(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(bias_patch::Error::io(path, "read"))?;
    let mut first = Vec::new();
    // No entry is as long.
    let read = BufReader::new(file).take(1 << 16).read_until(b'\n', &mut first);
    read.map_err(bias_patch::Error::io(path, "read"))?;
    if first.is_empty() || serde_json::from_slice::<Entry>(&first).is_ok() {
        return Ok(());
    }
    Err(Error::Content {
        path: path.to_owned(),
        field: "line 1".to_owned(),
        expected: "a log to go on with, as edge-patch train --log writes it, or no file".to_owned(),
        found: "a file that is no log".to_owned(),
    })
}

/// Reads a log.
///
/// # Errors
/// When it cannot be read, or a line is not an object of a log.
pub fn read_log(path: &Path) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(path).map_err(bias_patch::Error::io(path, "read"))?;
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
    use bias_patch::Digest;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_less_is_enough() {
        let events = [
            Event::Run {
                run: (0, 2),
                training: Digest::of(b"it"),
                trained: "bq+bm2".to_owned(),
                texts: 64,
                rate: 1e-3,
                seed: 7,
                step: 20,
                steps: 40,
            },
            Event::Step { step: 21, loss: 0.5, norm: 2.0 },
            Event::Unheld { texts: 3 },
            Event::Diverged { reason: "why".to_owned() },
            Event::Epoch { epoch: 2, loss: 0.25, score: 0.75, metric: "F1" },
        ];
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("log.jsonl");
        let entries: Vec<Entry> = events.iter().map(Entry::from).collect();
        let lines: Vec<String> = entries.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
        assert_eq!(lines[2], r#"{"event":"left out","texts":3}"#);
        fs::write(&path, lines.join("\n") + "\n\n").unwrap();
        assert_eq!(read_log(&path).unwrap(), entries);

        let theirs = r#"
            {"event":"run","lr":0.1,"seed":3,"step":0,"steps":9}
            {"event":"step","step":1,"loss":null}
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
            lr: 0.1,
            seed: 3,
            step: 0,
            steps: 9,
        };
        let step = Entry::Step { step: 1, loss: None, norm: None };
        let size = Entry::Size { texts: 100, dev: None, deviation: None, train: None, metric: None };
        assert_eq!(read_log(&path).unwrap(), [run, step, size, Entry::Other]);

        for (text, found) in [("{\"event\":\"step\"}", "missing field"), ("\n{\"event\":", "line 2"), ("x", "expected")]
        {
            fs::write(&path, text).unwrap();
            let error = read_log(&path).unwrap_err().to_string();
            assert!(error.contains("log.jsonl") && error.contains(found), "{error}");
        }
    }
}
