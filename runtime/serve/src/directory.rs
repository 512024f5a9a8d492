//! The directory of patches.
//!
//! In: the files of one directory, and the names of those that were touched. Out: a [`Listing`] at every change. A file
//! is read once, checked and attached before it replaces the previous one. Until then, and if it is refused, the
//! previous one keeps answering.
//!
//! Refused: what `edge-patch verify` refuses, with the same message; a link that leads out of the directory; with keys,
//! a patch that none of them signed. Of two files with the same task name, the one whose file name sorts last is
//! refused, whichever came first, so that a restart changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bias_patch::{Digest, Error as PatchError, Keys, Patch, signature_path};

use crate::{
    encoders::Encoders,
    limits,
    metrics::Metrics,
    tasks::{CurrentListing, Listing, Resident, Unavailable},
};

/// The ending of a patch's file name.
const SUFFIX: &str = ".bias";

/// The directory. Only one thread has it.
pub(crate) struct Directory {
    dir: PathBuf,
    encoders: Encoders,
    keys: Option<Keys>,
    files: BTreeMap<OsString, Known>,
    tasks: BTreeMap<String, Arc<Resident>>,
    unreadable: Option<String>,
    current: Arc<CurrentListing>,
    metrics: Arc<Metrics>,
}

/// What is known of a file.
#[derive(Default)]
struct Known {
    stamp: Stamp,
    /// The task it answers for, or did before it was unloaded.
    task: Option<String>,
    unloaded: bool,
    refused: Option<Refused>,
}

/// Why a file was refused.
#[derive(Debug, PartialEq)]
struct Refused {
    reason: String,
    /// What has to change before the same file is tried again.
    until: Until,
}

#[derive(Debug, PartialEq)]
enum Until {
    /// Nothing but the file itself.
    Replaced,
    /// An error of the system when it read the file; no event tells when that is over.
    Passed,
    /// The encoder's bundle is in the store.
    Stored(Digest),
    /// No other file has the task's name.
    Free(String),
}

/// A value that changes whenever a file, or its signature, is replaced or written to.
type Stamp = [Option<(u64, u64, u64, i64, i64, i64, i64)>; 2];

impl Directory {
    pub fn new(
        dir: PathBuf,
        encoders: Encoders,
        keys: Option<Keys>,
        current: Arc<CurrentListing>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (files, tasks) = Default::default();
        Directory { dir, encoders, keys, files, tasks, unreadable: None, current, metrics }
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The root of the store, where a missing encoder may appear later.
    pub fn store(&self) -> Option<&Path> {
        self.encoders.store()
    }

    /// Whether the last attempt to read the directory succeeded.
    pub fn is_readable(&self) -> bool {
        self.unreadable.is_none()
    }

    /// Scans the whole directory. A file is read if it is new, its stamp has changed or it is among `touched`.
    pub fn scan(&mut self, touched: &BTreeSet<OsString>) {
        match self.list() {
            Ok(found) => self.compare(found, touched),
            Err(error) => {
                // Nothing is known about the files, so the loaded tasks keep answering.
                let reason = error.to_string();
                if self.unreadable.as_ref() != Some(&reason) {
                    tracing::error!(reason, "the patches cannot be read; what is loaded goes on answering");
                }
                self.unreadable = Some(reason);
            }
        }
        self.publish();
    }

    /// Loads a task anew from the file that last had its name.
    ///
    /// # Errors
    /// Why the file was refused; no reason if there is no such file.
    pub fn load(&mut self, task: &str) -> Result<(), Option<String>> {
        if self.file_of(task).is_none() {
            self.scan(&BTreeSet::new());
        }
        let file = self.file_of(task).ok_or(None)?;
        self.read(&file, self.stamp(&file));
        self.publish();
        match self.files.get(&file).and_then(|known| known.refused.as_ref()) {
            Some(refused) => Err(Some(refused.reason.clone())),
            // The file may hold a task of another name.
            None if self.tasks.contains_key(task) => Ok(()),
            None => Err(None),
        }
    }

    /// Takes a task out of service until it is loaded or its file is replaced. Gives whether there was such a task.
    pub fn unload(&mut self, task: &str) -> bool {
        let Some(resident) = self.tasks.remove(task) else { return false };
        if let Some(known) = self.files.get_mut(&resident.file) {
            known.unloaded = true;
        }
        self.metrics.unloads.inc();
        tracing::info!(task, "task unloaded on request");
        self.publish();
        true
    }

    /// The patches in the directory, with their stamps.
    fn list(&self) -> Result<BTreeMap<OsString, Stamp>, PatchError> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(PatchError::io(&self.dir, "read"))? {
            let name = entry.map_err(PatchError::io(&self.dir, "read"))?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.ends_with(SUFFIX.as_bytes()) && !bytes.starts_with(b".") {
                let stamp = self.stamp(&name);
                found.insert(name, stamp);
            }
        }
        Ok(found)
    }

    fn stamp(&self, name: &OsStr) -> Stamp {
        let path = self.dir.join(name);
        let of = |m: Metadata| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        let signature = self.keys.as_ref().and_then(|_| fs::metadata(signature_path(&path)).ok());
        [fs::metadata(&path).ok().map(of), signature.map(of)]
    }

    fn compare(&mut self, found: BTreeMap<OsString, Stamp>, touched: &BTreeSet<OsString>) {
        if self.unreadable.take().is_some() {
            tracing::info!("the patches can be read");
        }
        let gone: Vec<OsString> = self.files.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(task) = self.files.remove(&name).and_then(|known| known.task) {
                self.remove(&task, &name);
            }
        }
        for (name, stamp) in found {
            let known = self.files.get(&name);
            let signature = signature_path(Path::new(&name)).into_os_string();
            let is_touched = touched.contains(&name) || touched.contains(&signature);
            if known.is_none_or(|known| known.stamp != stamp || (is_touched && !known.unloaded)) {
                self.read(&name, stamp);
            }
        }
        self.retry();
    }

    /// Whether something is awaited of which no event tells: that a patch or the directory can be read again, or that a
    /// bundle in the store, which could not be opened, is complete.
    pub fn awaits_unseen(&self) -> bool {
        let waits = |known: &Known| match known.refused.as_ref().map(|refused| &refused.until) {
            Some(Until::Passed) => true,
            Some(Until::Stored(encoder)) => self.encoders.is_stored(*encoder),
            Some(Until::Free(_) | Until::Replaced) | None => false,
        };
        !self.is_readable() || self.files.values().any(waits)
    }

    /// Reads refused files again if the reason may have gone.
    fn retry(&mut self) {
        let due = |known: &Known| match known.refused.as_ref().map(|refused| &refused.until) {
            Some(Until::Passed) => true,
            Some(Until::Stored(encoder)) => self.encoders.is_stored(*encoder),
            Some(Until::Free(task)) => self.holder(task).is_none(),
            Some(Until::Replaced) | None => false,
        };
        let due: Vec<OsString> =
            self.files.iter().filter(|(_, known)| due(known)).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.read(&name, self.stamp(&name));
        }
    }

    /// Reads a file; if it is valid, its task answers from now on.
    fn read(&mut self, name: &OsStr, stamp: Stamp) {
        let outcome = self.resident(name);
        let mut known = self.files.remove(name).unwrap_or_default();
        match outcome {
            Ok(resident) => {
                let before = known.task.replace(resident.name.clone());
                if let Some(before) = before.filter(|before| *before != resident.name) {
                    self.remove(&before, name);
                }
                (known.refused, known.unloaded) = (None, false);
                // The other file's name sorts after this one's; otherwise this file would have been refused.
                if let Some(holder) = self.holder(&resident.name).filter(|holder| *holder != name).map(OsStr::to_owned)
                {
                    self.displace(&holder, &resident);
                }
                self.insert(resident);
            }
            Err(refused) => {
                if known.stamp != stamp || known.refused.as_ref() != Some(&refused) {
                    self.metrics.refusals.inc();
                    let answers = if known.task.is_some() && !known.unloaded { "the one before" } else { "nothing" };
                    tracing::warn!(file = %name.display(), reason = refused.reason, answers, "patch refused");
                }
                known.refused = Some(refused);
            }
        }
        known.stamp = stamp;
        self.files.insert(name.to_owned(), known);
    }

    fn insert(&mut self, resident: Arc<Resident>) {
        let (task, version, bytes) = (resident.name.clone(), resident.version(), resident.bytes);
        match self.tasks.insert(task.clone(), resident.clone()) {
            None => {
                self.metrics.loads.inc();
                tracing::info!(task, version, bytes, "task loaded");
            }
            Some(before) if !Arc::ptr_eq(&before, &resident) => {
                self.metrics.swaps.inc();
                tracing::info!(task, version, bytes, before = before.version(), "task swapped");
            }
            // The same bytes again.
            Some(_) => {}
        }
    }

    /// Takes a task's name from the file that had it. That file is refused from now on.
    fn displace(&mut self, holder: &OsStr, resident: &Resident) {
        let refused = self.taken(holder, &resident.name, &resident.file);
        let Some(known) = self.files.get_mut(holder) else { return };
        (known.task, known.unloaded) = (None, false);
        if known.refused.is_none() {
            self.metrics.refusals.inc();
            tracing::warn!(file = %holder.display(), reason = refused.reason, answers = "nothing", "patch refused");
            known.refused = Some(refused);
        }
    }

    /// Ends a task if it came from `file`.
    fn remove(&mut self, task: &str, file: &OsStr) {
        if self.tasks.get(task).is_some_and(|resident| resident.file == file) {
            self.tasks.remove(task);
            self.metrics.unloads.inc();
            tracing::info!(task, "task unloaded: its file is gone");
        }
    }

    /// The task of a file, checked and attached but not yet answering. If the bytes are those of the task that answers,
    /// that task.
    fn resident(&mut self, name: &OsStr) -> Result<Arc<Resident>, Refused> {
        let path = self.dir.join(name);
        let bytes = self.bytes(&path, limits::PATCH_BYTES).map_err(Refused::of)?;
        if let Some(keys) = &self.keys {
            keys.check_with(&path, &bytes, |signature, most| self.bytes(signature, most)).map_err(Refused::of)?;
        }
        let digest = Digest::of(&bytes);
        let same = |resident: &&Arc<Resident>| resident.file == name && resident.digest == digest;
        let task = self.files.get(name).and_then(|known| known.task.as_ref());
        if let Some(resident) = task.and_then(|task| self.tasks.get(task)).filter(same) {
            return Ok(resident.clone());
        }
        let patch = Patch::from_bytes(&bytes).map_err(|e| Refused::of(e.in_file(&path)))?;
        let task = patch.task().name().to_owned();
        if let Some(holder) = self.holder(&task).filter(|holder| *holder < name) {
            return Err(self.taken(name, &task, holder));
        }
        // The bundle may still be on its way into the store, so any error of it may pass.
        let worker = self
            .encoders
            .worker(patch.encoder(), &self.metrics)
            .map_err(|error| Refused { reason: error.to_string(), until: Until::Stored(patch.encoder()) })?;
        let attached = worker.encoder().attach(&patch).map_err(|error| match error {
            edge_run::Error::Patch(error) => Refused::of(error.in_file(&path)),
            other => Refused::of(other),
        })?;
        let task_of = Arc::new(attached);
        Ok(Arc::new(Resident { name: task, file: name.to_owned(), digest, bytes: bytes.len(), task: task_of, worker }))
    }

    /// Why a file is refused if another file has the same task name.
    fn taken(&self, name: &OsStr, task: &str, holder: &OsStr) -> Refused {
        let reason = format!(
            "{}: task name: expected one that no other file has, found {task}, which {} answers for, as its name sorts \
             first; remove one of the two",
            self.dir.join(name).display(),
            holder.display()
        );
        Refused { reason, until: Until::Free(task.to_owned()) }
    }

    /// The bytes of a regular file of the directory. Links are followed within the directory only.
    fn bytes(&self, path: &Path, most: u64) -> Result<Vec<u8>, PatchError> {
        let place = fs::canonicalize(&self.dir).map_err(PatchError::io(&self.dir, "read"))?;
        let real = fs::canonicalize(path).map_err(PatchError::io(path, "read"))?;
        let field = |expected: String, found: String| PatchError::Field { field: "file".to_owned(), expected, found };
        if !real.starts_with(&place) {
            let expected = format!("one within {}, which alone is read", self.dir.display());
            return Err(field(expected, "a link that leads out of it".to_owned()).in_file(path));
        }
        // Checked before it is opened, because opening a pipe waits for its writer. The real path has no links.
        let metadata = fs::symlink_metadata(&real).map_err(PatchError::io(path, "read"))?;
        if !metadata.is_file() {
            return Err(field("a regular file".to_owned(), "something else".to_owned()).in_file(path));
        }
        let file = File::open(&real).map_err(PatchError::io(path, "read"))?;
        let opened = file.metadata().map_err(PatchError::io(path, "read"))?;
        if (opened.dev(), opened.ino()) != (metadata.dev(), metadata.ino()) {
            return Err(field("one that stays while it is read".to_owned(), "another file".to_owned()).in_file(path));
        }
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(PatchError::io(path, "read"))?;
        if bytes.len() as u64 > most {
            return Err(field(format!("at most {most} bytes"), "more".to_owned()).in_file(path));
        }
        Ok(bytes)
    }

    /// The file that has a task's name: the one that answers, or that was unloaded.
    fn holder(&self, task: &str) -> Option<&OsStr> {
        let answers = self.tasks.get(task).map(|resident| resident.file.as_os_str());
        let unloaded = || self.files.iter().find(|(_, known)| known.unloaded && known.task.as_deref() == Some(task));
        answers.or_else(|| unloaded().map(|(name, _)| name.as_os_str()))
    }

    /// The file that has a task's name; else the file whose own name it is.
    fn file_of(&self, task: &str) -> Option<OsString> {
        let called = || self.files.keys().find(|name| stem(name) == task).map(OsString::as_os_str);
        self.holder(task).or_else(called).map(OsStr::to_owned)
    }

    fn publish(&mut self) {
        let unavailable = |(name, known): (&OsString, &Known)| {
            let task = known.task.clone().unwrap_or_else(|| stem(name));
            let reason = match &known.refused {
                Some(refused) => refused.reason.clone(),
                None if known.unloaded => {
                    format!("unloaded on request; POST /v2/repository/models/{task}/load loads it again")
                }
                None => return None,
            };
            Some(Unavailable { file: name.to_string_lossy().into_owned(), task, reason })
        };
        let listing = Listing {
            tasks: self.tasks.clone(),
            unavailable: self.files.iter().filter_map(unavailable).collect(),
            unreadable: self.unreadable.clone(),
        };
        self.metrics.tasks.set(listing.tasks.len() as i64);
        self.metrics.refused.set(self.files.values().filter(|known| known.refused.is_some()).count() as i64);
        self.current.replace(listing);
        self.metrics.encoders.set(self.encoders.count() as i64);
    }
}

impl Refused {
    /// A refusal that lasts until the file is replaced, or, for a read error, until the system can read the file.
    fn of(error: impl Into<edge_run::Error>) -> Self {
        let error = error.into();
        let until = match &error {
            edge_run::Error::Patch(PatchError::Io { .. }) => Until::Passed,
            _ => Until::Replaced,
        };
        Refused { reason: error.to_string(), until }
    }
}

/// A file's name without the suffix.
fn stem(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned()
}
