//! The checkpoint of a training: its state on disk, from which it resumes.
//!
//! The file belongs to this program and exists only while a training does: 8 bytes of magic, the version as u32 in
//! little endian, the SHA-256 of the rest, and the state as postcard. It is written to a temporary file and renamed, so
//! it is whole or not there. Refused: another version, a damaged file, and the state of another training.

use std::{fs, io, path::Path};

use bias_patch::{Digest, atomic};
use serde::{Deserialize, Serialize};

use super::{Run, average::Averaged, optimizer::AdamW};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"BIASCKPT";
/// Raised whenever the state's form changes.
const VERSION: u32 = 3;
const DIGEST_BYTES: usize = 32;

/// The state of a training.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The identity of the training.
    fingerprint: [u8; DIGEST_BYTES],
    /// Runs that are done.
    pub done: Vec<Run>,
    /// The best of them.
    pub best: Option<Best>,
    /// The run in progress.
    pub current: Option<Current>,
}

/// Parameters at the end of an epoch, and their scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// The epoch, from 1.
    pub epoch: u64,
    pub dev: f64,
    /// None without a test set.
    pub test: Option<f64>,
    pub parameters: Vec<f32>,
}

/// The state of a run in progress.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Current {
    /// Values of the trained slots, then of the head.
    pub parameters: Vec<f32>,
    pub adam: AdamW,
    pub averaged: Averaged,
    /// The sum of the losses of this epoch's texts so far.
    pub loss: f64,
    pub best: Option<Best>,
    /// Epochs since the best score.
    pub since_best: u64,
}

impl Current {
    /// Epochs that are scored. The first has the best score until another has a better one.
    pub fn scored(&self) -> u64 {
        self.best.as_ref().map_or(0, |best| best.epoch + self.since_best)
    }
}

impl Checkpoint {
    /// Reads the checkpoint at `path`; where there is none, gives the initial state.
    ///
    /// # Errors
    /// When it has another version, is damaged, or belongs to another training.
    pub fn open(path: &Path, fingerprint: Digest) -> Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Checkpoint { fingerprint: fingerprint.0, ..Checkpoint::default() });
            }
            Err(error) => return Err(bias_patch::Error::io(path, "read")(error).into()),
        };
        let wrong = |expected: &str, found: &str| Error::TrainingState {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let damaged = || wrong("a whole training checkpoint", "a damaged one");
        // Checkpoints before version 1 began with the digest.
        let rest = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| wrong("a training checkpoint", "no mark of one; it is damaged, or older than version 1"))?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(wrong(&format!("version {VERSION}"), &format!("version {version}")));
        }
        let (digest, rest) = rest.split_first_chunk::<DIGEST_BYTES>().ok_or_else(damaged)?;
        if Digest::of(rest).0 != *digest {
            return Err(damaged());
        }
        let state: Checkpoint = postcard::from_bytes(rest).map_err(|_| damaged())?;
        if state.fingerprint != fingerprint.0 {
            return Err(wrong("the checkpoint of this encoder, task, data and recipe", "one of another training"));
        }
        Ok(state)
    }

    /// Writes the checkpoint, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let rest = postcard::to_stdvec(self).map_err(|e| Error::TrainingState {
            path: path.to_owned(),
            expected: "a state that postcard can write".to_owned(),
            found: e.to_string(),
        })?;
        let bytes = [MAGIC, &VERSION.to_le_bytes()[..], &Digest::of(&rest).0, &rest].concat();
        Ok(atomic::write_file(path, &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_read_back_and_all_others_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("x.bias.training");
        let fingerprint = Digest::of(b"this training");
        let mut state = Checkpoint::open(&path, fingerprint).unwrap();
        let best = Best { epoch: 2, dev: 0.5, test: Some(0.25), parameters: vec![1.0, 2.0] };
        state.current = Some(Current { best: Some(best), ..Current::default() });
        state.done.push(Run { epoch: Some(1), dev: Some(0.5), ..Run::diverged(1e-3, 7) });
        state.save(&path).unwrap();
        assert_eq!(Checkpoint::open(&path, fingerprint).unwrap(), state);

        let bytes = fs::read(&path).unwrap();
        let changed = |at: usize, value: u8| {
            let mut changed = bytes.clone();
            changed[at] = value;
            changed
        };
        let older = bytes[MAGIC.len() + 4..].to_vec();
        for (bytes, expected, found) in [
            (changed(8, 1), "expected version 3", "found version 1"),
            (changed(0, b'x'), "a training checkpoint", "no mark of one"),
            (older, "a training checkpoint", "older than version 1"),
            (changed(20, bytes[20] ^ 1), "a whole training checkpoint", "a damaged one"),
            (changed(bytes.len() - 1, bytes[bytes.len() - 1] ^ 1), "a whole training checkpoint", "a damaged one"),
            (bytes[..30].to_vec(), "a whole training checkpoint", "a damaged one"),
            (bytes[..9].to_vec(), "a whole training checkpoint", "a damaged one"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = Checkpoint::open(&path, fingerprint).unwrap_err();
            assert!(matches!(error, Error::TrainingState { .. }), "{error:?}");
            let error = error.to_string();
            let parts = ["x.bias.training", expected, found, "remove the file"];
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        fs::write(&path, &bytes).unwrap();
        let error = Checkpoint::open(&path, Digest::of(b"another")).unwrap_err().to_string();
        assert!(error.contains("one of another training"), "{error}");
    }
}
