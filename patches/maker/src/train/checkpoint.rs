//! The state of a training on disk, from which it goes on after it was stopped.
//!
//! The file is this program's own and lives only while a training does: a digest of the rest, then postcard. It is written
//! beside its place and renamed, so it is whole or not there.

use std::{fs, io, path::Path};

use bias_patch::{Digest, atomic};
use serde::{Deserialize, Serialize};

use super::{average::Averaged, optimizer::AdamW};
use crate::{Error, Result};

const DIGEST_BYTES: usize = 32;

/// Everything that a training has come to.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// What is trained on what and how.
    fingerprint: [u8; DIGEST_BYTES],
    /// Runs that are done.
    pub done: Vec<Done>,
    /// The best of them.
    pub best: Option<Best>,
    /// The run that is not.
    pub current: Option<Current>,
}

/// A run that is done.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub rate: f64,
    pub seed: u64,
    /// None if it diverged.
    pub score: Option<f64>,
}

/// Parameters and their score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub score: f64,
    pub parameters: Vec<f32>,
}

/// A run on its way.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Current {
    /// Values of the trained slots, then of the head.
    pub parameters: Vec<f32>,
    pub adam: AdamW,
    pub averaged: Averaged,
    /// The sum of the losses of this epoch's texts so far.
    pub loss: f64,
    pub best: Option<Best>,
    /// Epochs since it was found.
    pub since_best: u64,
}

impl Checkpoint {
    /// Reads the checkpoint at `path`, or begins where there is none.
    ///
    /// # Errors
    /// When it is damaged, or of another training.
    pub fn open(path: &Path, fingerprint: Digest) -> Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Checkpoint { fingerprint: fingerprint.0, ..Checkpoint::default() });
            }
            Err(error) => return Err(bias_patch::Error::io(path, "read")(error).into()),
        };
        let wrong = |expected: &str, found: &str| Error::Content {
            path: path.to_owned(),
            field: "checkpoint".to_owned(),
            expected: format!("{expected}; remove the file to begin anew"),
            found: found.to_owned(),
        };
        let (digest, rest) = bytes.split_at(bytes.len().min(DIGEST_BYTES));
        let state: Option<Checkpoint> = postcard::from_bytes(rest).ok();
        let state = state.filter(|_| Digest::of(rest).0 == digest);
        let state = state.ok_or_else(|| wrong("a whole state of training", "a damaged one"))?;
        if state.fingerprint != fingerprint.0 {
            return Err(wrong("that of this encoder, task, data and recipe", "one of another training"));
        }
        Ok(state)
    }

    /// Of each run that is done its rate, seed and score.
    pub fn runs(&self) -> Vec<(f64, u64, Option<f64>)> {
        self.done.iter().map(|done| (done.rate, done.seed, done.score)).collect()
    }

    /// Writes the checkpoint, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let rest = postcard::to_stdvec(self).map_err(|e| Error::Recipe {
            field: "checkpoint".to_owned(),
            expected: "a state that postcard can write".to_owned(),
            found: e.to_string(),
        })?;
        let bytes = [&Digest::of(&rest).0[..], &rest].concat();
        Ok(atomic::write_file(path, &bytes)?)
    }
}
