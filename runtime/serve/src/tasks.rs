//! The tasks that answer, as requests see them.
//!
//! In: a [`Listing`] whenever something changes. Out: that listing, replaced whole, so that a request sees one state from
//! its first text to its last.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::{Arc, PoisonError, RwLock},
};

use bias_patch::Digest;
use edge_run::Task;
use serde::Serialize;

use crate::batcher::Station;

/// A task that answers.
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
    pub station: Arc<Station>,
}

impl Resident {
    /// What tells one patch of a task from the next: the first digits of its digest.
    pub fn version(&self) -> String {
        self.digest.short()
    }
}

/// The state of the directory at one moment.
#[derive(Default)]
pub(crate) struct Listing {
    /// Tasks that answer, by name.
    pub tasks: BTreeMap<String, Arc<Resident>>,
    /// Files that do not answer as they are, by file name.
    pub silent: Vec<Silent>,
    /// Why the directory cannot be read, if it cannot.
    pub unreadable: Option<String>,
}

/// A patch that does not answer as it is.
#[derive(Serialize)]
pub(crate) struct Silent {
    /// The file.
    pub file: String,
    /// The task's name, as far as it is known: else the file's.
    pub task: String,
    /// Why.
    pub reason: String,
}

/// Where requests find the listing.
#[derive(Default)]
pub(crate) struct Board(RwLock<Arc<Listing>>);

impl Board {
    /// The listing as it is now.
    pub fn now(&self) -> Arc<Listing> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another one from now on.
    pub fn replace(&self, listing: Listing) {
        let listing = Arc::new(listing);
        let old = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), listing);
        // Only now, so that freeing tasks does not hold up requests.
        drop(old);
    }
}
