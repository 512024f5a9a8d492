//! The tasks that answer, as requests see them.
//!
//! In: a [`Listing`] at every change. Out: the current listing. It is replaced whole, so a request sees one state from
//! its first text to its last.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::{Arc, PoisonError, RwLock},
};

use bias_patch::Digest;
use edge_run::{Prediction, Strategy, Task};
use serde::Serialize;

use crate::{batcher::Worker, reply::Refusal};

/// A task that answers.
#[derive(Clone)]
pub(crate) struct Resident {
    /// The task's name.
    pub name: String,
    /// The file it came in.
    pub file: OsString,
    /// Digest of that file.
    pub digest: Digest,
    /// Bytes of that file.
    pub bytes: usize,
    /// Its values, ready to run.
    pub task: Arc<Task>,
    /// The encoder it runs on.
    pub worker: Arc<Worker>,
}

impl Resident {
    /// The version of the task's patch: the first digits of its digest.
    pub fn version(&self) -> String {
        self.digest.short()
    }

    /// The same task, answering with entities in place of tags.
    ///
    /// # Errors
    /// When it is no tagging task.
    pub fn with_entities(&self, strategy: Strategy) -> edge_run::Result<Arc<Self>> {
        Ok(Arc::new(Resident { task: Arc::new(self.task.with_entities(strategy)?), ..self.clone() }))
    }

    /// The same task with the prompt of a name before each text.
    ///
    /// # Errors
    /// When the task has no such prompt.
    pub fn prompted(&self, name: &str) -> Result<Arc<Self>, Refusal> {
        let task = self.task.prompted(name).map_err(|error| Refusal::bad(error.to_string()))?;
        Ok(Arc::new(Resident { task: Arc::new(task), ..self.clone() }))
    }

    /// Refuses an answer to a text that was cut, for a request that asks for whole texts. `place` is what the request
    /// calls the text.
    ///
    /// # Errors
    /// When the text was cut.
    pub fn refuse_cut(&self, place: &str, prediction: &Prediction) -> Result<(), Refusal> {
        if !prediction.truncated {
            return Ok(());
        }
        let most = self.task.spec().max_length().min(self.worker.encoder().bundle().manifest().config.max_length);
        Err(Refusal::too_large(format!(
            "{place}: expected at most {most} tokens, found more; `truncate: true` cuts it"
        )))
    }
}

/// The state of the directory at one moment.
#[derive(Default)]
pub(crate) struct Listing {
    /// Tasks that answer, by name.
    pub tasks: BTreeMap<String, Arc<Resident>>,
    /// Files that do not serve a task now, by file name.
    pub unavailable: Vec<Unavailable>,
    /// Why the directory cannot be read, if it cannot.
    pub unreadable: Option<String>,
}

/// A patch file that does not serve a task now: it was refused, or unloaded on request.
#[derive(Serialize)]
pub(crate) struct Unavailable {
    /// The file.
    pub file: String,
    /// The task's name if it is known, else the file's.
    pub task: String,
    /// Why.
    pub reason: String,
}

/// The listing that requests see.
#[derive(Default)]
pub(crate) struct CurrentListing(RwLock<Arc<Listing>>);

impl CurrentListing {
    /// The current listing.
    pub fn now(&self) -> Arc<Listing> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the listing.
    pub fn replace(&self, listing: Listing) {
        let listing = Arc::new(listing);
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), listing);
        // Dropped after the lock is released, so that freeing tasks does not delay requests.
        drop(old);
    }
}
