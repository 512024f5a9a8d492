//! A training and the files beside its output.
//!
//! In: a training and the path of its patch, OUTPUT. Out: the patch. OUTPUT.training is its checkpoint, OUTPUT.lock
//! keeps others away; both are gone in the end. Refused: an output that another training writes, or that no patch may
//! replace.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use bias_patch::{Patch, Task};
use edge_run::Encoder;

use super::{Compared, Listener, Recipe, Sets, Trained, Weights, compare, train};
use crate::{Error, Result};

/// A training and its output.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// What is adapted.
    pub encoder: &'a Encoder,
    /// What is learnt.
    pub task: &'a Task,
    /// From which texts.
    pub sets: Sets<'a>,
    /// How.
    pub recipe: &'a Recipe,
    /// The patch to write.
    pub output: &'a Path,
}

impl Job<'_> {
    /// Trains, from the state in `checkpoint` if there is one, and writes the patch.
    ///
    /// # Errors
    /// As [`train`]; also when the patch cannot be written.
    pub fn train(&self, checkpoint: &Path, event: &mut Listener<'_>) -> Result<Trained> {
        let Job { encoder, task, sets, recipe, output } = *self;
        let trained = train(encoder, task, sets, recipe, checkpoint, event)?;
        trained.patch.save(output)?;
        Ok(trained)
    }

    /// Trains weights in place of the biases, and writes nothing: a patch cannot hold weights.
    ///
    /// # Errors
    /// As [`compare`].
    pub fn compare(&self, weights: Weights, checkpoint: &Path, event: &mut Listener<'_>) -> Result<Compared> {
        let Job { encoder, task, sets, recipe, .. } = *self;
        compare(encoder, task, sets, recipe, weights, checkpoint, event)
    }

    /// Does `work` under a lock on the output. `work` gets the path of its checkpoint, which is removed when it is
    /// done: by then it has to have written its result. If it fails, its checkpoint stays and the lock goes.
    ///
    /// # Errors
    /// When `work` fails, another training has the lock, or the output is something that no patch may replace.
    pub fn alone<T>(&self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        // Refused before the work, not after it.
        Patch::check_output(self.output)?;
        let (checkpoint, lock) = (beside(self.output, ".training"), beside(self.output, ".lock"));
        let _locked = locked(self.output, &lock)?;
        let done = work(&checkpoint);
        // A first run that diverged within a few steps leaves no checkpoint.
        if done.is_ok() && checkpoint.exists() {
            fs::remove_file(&checkpoint).map_err(bias_patch::Error::io(&checkpoint, "remove"))?;
        }
        let removed = fs::remove_file(&lock).map_err(bias_patch::Error::io(&lock, "remove"));
        let done = done?;
        removed?;
        Ok(done)
    }
}

/// The path of a file beside another.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Checks that the directory that a file is to be written to is there.
///
/// # Errors
/// When it is not.
pub fn check_directory(output: &Path) -> Result<()> {
    let Some(directory) = output.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let failed = || bias_patch::Error::io(directory, "write to");
    match fs::metadata(directory).map_err(failed())?.is_dir() {
        true => Ok(()),
        false => Err(failed()(io::ErrorKind::NotADirectory.into()).into()),
    }
}

fn locked(output: &Path, lock: &Path) -> Result<File> {
    check_directory(output)?;
    let file = File::create(lock).map_err(bias_patch::Error::io(lock, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(bias_patch::Error::io(lock, "lock")(error).into()),
        Err(TryLockError::WouldBlock) => Err(Error::Content {
            path: output.to_owned(),
            field: "output".to_owned(),
            expected: "one training at a time".to_owned(),
            found: "another that writes it".to_owned(),
        }),
    }
}
