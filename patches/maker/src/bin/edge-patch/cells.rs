//! Trainings whose results are kept as JSON, so that a command of many goes on where it was stopped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bias_patch::{Encoding, atomic};
use edge_patch::{
    Error, Result, evaluate, metric_named,
    train::{Event, OfRate, Trained, Weights, by_rate, fingerprint, subset},
};
use serde::{Deserialize, Serialize};

use crate::progress::{Job, Progress, beside};

/// What a training came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// What it is called in a table.
    pub name: String,
    /// What it is of: encoder, task, texts and recipe.
    fingerprint: String,
    pub metric: String,
    /// Texts learned from.
    pub texts: usize,
    /// Of each run learning rate, seed and best score; none if it diverged.
    pub runs: Vec<(f64, u64, Option<f64>)>,
    /// Of the best patch; none where weights were trained, or every run diverged.
    #[serde(flatten)]
    pub patch: Option<OfPatch>,
}

/// What the best patch of a training is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OfPatch {
    /// Its score on texts it has learned from, as many as there are to be judged by.
    pub train: f64,
    /// Its bytes, exact and in four bits with its head in f16.
    pub bytes: [usize; 2],
}

impl Cell {
    /// The result that is kept beside the job's output, or that of carrying it out, with weights in place of biases if so
    /// asked.
    ///
    /// # Errors
    /// When the result that is there is of another training, or training fails otherwise than that every run diverges.
    pub fn of(job: &Job<'_>, weights: Option<Weights>, name: &str, progress: &mut Progress) -> Result<Self> {
        let path = beside(job.output, ".json");
        let digest = fingerprint(job.encoder, job.task, job.learn, job.judge, job.recipe, weights).to_string();
        if path.exists() {
            return Cell::read(&path).and_then(|cell| match cell.fingerprint == digest {
                true => Ok(cell),
                false => Err(Error::Content {
                    path: path.clone(),
                    field: "training".to_owned(),
                    expected: "one of this encoder, task, data and recipe; remove the file to train anew".to_owned(),
                    found: "another".to_owned(),
                }),
            });
        }
        job.alone(|checkpoint| {
            let done = match weights {
                Some(weights) => job.compare(weights, checkpoint, progress).map(|compared| (compared.runs, None)),
                None => job.train(checkpoint, progress).and_then(|trained| {
                    let patch = OfPatch::of(job, &trained)?;
                    Ok((trained.runs, Some(patch)))
                }),
            };
            let (runs, patch) = match done {
                // Every run has, which is a result too.
                Err(error @ Error::Diverged { .. }) => {
                    progress.event(&Event::Diverged { reason: error.to_string() });
                    (job.recipe.runs().into_iter().map(|(rate, seed)| (rate, seed, None)).collect(), None)
                }
                done => done?,
            };
            let metric = metric_named(job.task.kind(), job.recipe.metric.as_deref())?.to_owned();
            let (name, texts) = (name.to_owned(), job.learn.len());
            let cell = Cell { name, fingerprint: digest, metric, texts, runs, patch };
            // A cell holds only numbers, strings and lists.
            atomic::write_file(&path, serde_json::to_string_pretty(&cell).unwrap_or_default().as_bytes())?;
            Ok(cell)
        })
    }

    /// Reads a kept result.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(bias_patch::Error::io(path, "read"))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Content {
            path: path.to_owned(),
            field: "result".to_owned(),
            expected: "the result of a training as edge-patch keeps it".to_owned(),
            found: e.to_string(),
        })
    }

    /// The learning rate whose seeds score best in the mean.
    pub fn best_rate(&self) -> Option<OfRate> {
        by_rate(&self.runs).into_iter().filter(|of| of.runs > 0).max_by(|a, b| a.mean.total_cmp(&b.mean))
    }
}

impl OfPatch {
    fn of(job: &Job<'_>, trained: &Trained) -> Result<Self> {
        // By chance: their order may say which label they have.
        let learned = subset(job.learn, job.judge.len());
        let (manifest, base) = (job.encoder.bundle().manifest(), job.encoder.base());
        let small = trained.patch.convert(manifest, base, Encoding::Delta { bits: 4, group: 0 }, Encoding::F16)?;
        Ok(OfPatch {
            train: evaluate(job.encoder, &trained.patch, &learned)?.metric(trained.metric),
            bytes: [trained.patch.to_bytes()?.len(), small.to_bytes()?.len()],
        })
    }
}

/// The patch of a training on some of the texts.
pub(crate) fn file_of_size(output: &Path, size: usize) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{size}.bias"))
}
