//! The labelled texts that a training is trained and scored on.
//!
//! In: their files. Out: the texts, and notes on what was left out, does not occur, or is there twice. Refused: what
//! [`read_examples`] refuses, and training texts that all have one label.

use std::path::Path;

use bias_patch::Task;

use crate::{
    Result,
    data::{Example, check_variety, left_out, read_examples, unused_labels},
};

/// The labelled texts of a training.
#[derive(Clone, Copy, Debug)]
pub struct Sets<'a> {
    /// What is trained on.
    pub train: &'a [Example],
    /// What every epoch is scored on. It chooses the epoch, the learning rate and the patch.
    pub dev: &'a [Example],
    /// What the best epoch of each run is scored on too, if there is such a set.
    pub test: Option<&'a [Example]>,
}

/// [`Sets`] as they were read.
#[derive(Clone, Debug)]
pub struct Texts {
    train: Vec<Example>,
    dev: Vec<Example>,
    test: Option<Vec<Example>>,
}

impl Texts {
    /// Reads them. `note` is told of rows that are left out, of labels that no training text has, and of sets that
    /// are the same.
    ///
    /// # Errors
    /// As [`read_examples`]; also when all training texts have the same label.
    pub fn read(
        task: &Task,
        (train, dev, test): (&Path, &Path, Option<&Path>),
        skip_bad: bool,
        note: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let mut read = |path: &Path| -> Result<Vec<Example>> {
            let found = read_examples(path, task, skip_bad)?;
            left_out(path, &found.skipped).iter().for_each(|said| note(said));
            Ok(found.examples)
        };
        let texts = Texts { train: read(train)?, dev: read(dev)?, test: test.map(read).transpose()? };
        check_variety(train, &texts.train)?;
        let of_test = |other: &Vec<Example>| texts.test.as_ref() == Some(other);
        for (is_so, path, what) in [
            (texts.dev == texts.train, Some(dev), "dev texts are those of training"),
            (of_test(&texts.train), test, "test texts are those of training"),
            (of_test(&texts.dev), test, "test texts are those of dev"),
        ] {
            if let Some(path) = path.filter(|_| is_so) {
                note(&format!("{}: the {what}, so scores on them are too good", path.display()));
            }
        }
        let unused = unused_labels(task, &texts.train);
        if !unused.is_empty() {
            note(&format!("{}: labels of the task that no text has: {}", train.display(), unused.join(", ")));
        }
        Ok(texts)
    }

    /// The texts.
    pub fn sets(&self) -> Sets<'_> {
        Sets { train: &self.train, dev: &self.dev, test: self.test.as_deref() }
    }
}
