//! Trainings whose results are kept as JSON, so that a command with many trainings resumes where it was stopped.
//!
//! In: a training, and perhaps its kept result. Out: the result, in a file beside the training's output. Refused: a
//! kept result of another training.

use std::{collections::BTreeMap, path::Path};

use bias_patch::{Encoding, atomic};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, evaluate, metric_named,
    train::{Event, Identity, Job, KERNELS, Listener, Recipe, Run, Trained, Weights, beside, fingerprint, subset},
};

/// The result of a training: a cell of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The name of its row or size.
    pub name: String,
    /// The digest of the identity of the training.
    fingerprint: String,
    /// Shortened digests of its parts; none in results that earlier versions kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    parts: BTreeMap<String, String>,
    /// The metric of the scores.
    pub metric: String,
    /// How many training texts.
    pub texts: usize,
    /// All runs, with the scores of the best epoch of each.
    pub runs: Vec<Run>,
    /// About the best patch; none where weights were trained, or every run diverged.
    #[serde(flatten)]
    pub patch: Option<OfPatch>,
}

/// About the best patch of a training.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct OfPatch {
    /// Its score on training texts, as many as the dev set has.
    pub train: f64,
    /// Its bytes: exact, and with biases in four bits and the head in f16.
    pub bytes: [usize; 2],
}

impl Cell {
    /// The result kept beside the job's output. If there is none, trains, weights in place of biases if they are given,
    /// and keeps the result. That every run diverges is a result too.
    ///
    /// # Errors
    /// When the kept result is of another training and not only of another kind of processor, or training fails.
    pub fn of(job: &Job<'_>, weights: Option<Weights>, name: &str, event: &mut Listener<'_>) -> Result<Self> {
        let path = beside(job.output, ".json");
        let identity = fingerprint(job.encoder, job.task, job.sets, job.recipe, weights)?;
        let digest = identity.digest.to_string();
        if Cell::kept(job) {
            let cell = Cell::read(&path)?;
            if cell.fingerprint == digest {
                return Ok(cell);
            }
            if cell.differing(&identity) != [KERNELS] {
                return Err(cell.of_another(&path, &identity));
            }
            // Many machines may share the work of a table.
            return if event(Event::OtherKernels { result: path }).is_break() { Err(Error::Stopped) } else { Ok(cell) };
        }
        job.alone(|checkpoint| {
            let done = match weights {
                Some(weights) => job.compare(weights, checkpoint, event).map(|compared| (compared.runs, None)),
                None => job.train(checkpoint, event).and_then(|trained| {
                    let patch = OfPatch::of(job, &trained)?;
                    Ok((trained.runs, Some(patch)))
                }),
            };
            let (runs, patch) = match done {
                // Every run has diverged.
                Err(error @ Error::Diverged { .. }) => {
                    if event(Event::Diverged { reason: error.to_string() }).is_break() {
                        return Err(Error::Stopped);
                    }
                    (all_diverged(job.recipe), None)
                }
                done => done?,
            };
            let metric = metric_named(job.task.kind(), job.sets.dev, job.recipe.metric.as_deref())?.to_owned();
            let (name, texts) = (name.to_owned(), job.sets.train.len());
            let cell = Cell { name, fingerprint: digest, parts: identity.parts, metric, texts, runs, patch };
            // A cell holds only numbers, strings and lists.
            atomic::write_file(&path, serde_json::to_string_pretty(&cell).unwrap_or_default().as_bytes())?;
            Ok(cell)
        })
    }

    /// Whether a result is kept beside the job's output.
    pub fn kept(job: &Job<'_>) -> bool {
        beside(job.output, ".json").exists()
    }

    /// The parts in which its training differs from another; none of a result that has no parts.
    fn differing<'i>(&self, identity: &'i Identity) -> Vec<&'i str> {
        let differs = |(name, digest): &(&String, &String)| self.parts.get(*name).is_some_and(|kept| kept != *digest);
        identity.parts.iter().filter(differs).map(|(name, _)| &**name).collect()
    }

    /// That this kept result is of another training, and what differs.
    fn of_another(&self, path: &Path, identity: &Identity) -> Error {
        let differing = self.differing(identity);
        let found = match &differing[..] {
            [] => "another training".to_owned(),
            differing => format!("a training that differs in its {}", differing.join(", ")),
        };
        Error::Content {
            path: path.to_owned(),
            field: "training".to_owned(),
            expected: "one of this encoder, task, data and recipe; remove the file to train again".to_owned(),
            found,
        }
    }

    /// Whether both say what this part of their identities was, and it was not the same.
    pub(super) fn differs_in(&self, other: &Cell, part: &str) -> bool {
        self.parts.get(part).zip(other.parts.get(part)).is_some_and(|(one, other)| one != other)
    }

    /// Whether its runs were scored on a test set.
    pub fn tested(&self) -> bool {
        self.runs.iter().any(|run| run.test.is_some())
    }

    /// Reads a kept result.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = bias_patch::read_at_most(path, bias_patch::MOST_SMALL)?;
        let wrong = |found: String| Error::Content {
            path: path.to_owned(),
            field: "result".to_owned(),
            expected: "the result of a training as edge-patch keeps it; remove the file to train again".to_owned(),
            found,
        };
        let cell: Cell = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        cell.check().map_err(wrong)?;
        Ok(cell)
    }

    /// Refuses what no training gives, and says what it is.
    fn check(&self) -> Result<(), String> {
        if self.runs.is_empty() {
            return Err("no runs".to_owned());
        }
        for (at, run) in self.runs.iter().enumerate() {
            // A correlation may be negative, and is rounded.
            let is_score = |score: &f64| score.abs() <= 1.0 + 1e-9;
            if let Some(score) = [run.dev, run.test].into_iter().flatten().find(|score| !is_score(score)) {
                return Err(format!("a score of {score}"));
            }
            if self.runs[..at].iter().any(|other| (other.seed, other.learning_rate) == (run.seed, run.learning_rate)) {
                return Err(format!("two runs of seed {} and learning rate {}", run.seed, run.learning_rate));
            }
        }
        Ok(())
    }
}

impl OfPatch {
    fn of(job: &Job<'_>, trained: &Trained) -> Result<Self> {
        // A random subset, because a file may be sorted by label.
        let trained_on = subset(job.sets.train, job.sets.dev.len());
        let (manifest, base) = (job.encoder.bundle().manifest(), job.encoder.base());
        let small = trained.patch.convert(
            &manifest.shape(),
            base.slots(),
            Encoding::Delta { bits: 4, group: 0 },
            Encoding::F16,
        )?;
        Ok(OfPatch {
            train: evaluate(job.encoder, &trained.patch, &trained_on)?.metric(trained.metric),
            bytes: [trained.patch.to_bytes()?.len(), small.to_bytes()?.len()],
        })
    }
}

/// The runs of a recipe whose runs all diverge.
fn all_diverged(recipe: &Recipe) -> Vec<Run> {
    let mut runs = Vec::new();
    while let Some((learning_rate, seed)) = recipe.next(&runs) {
        runs.push(Run::diverged(learning_rate, seed));
    }
    runs
}
