//! The thread that owns the directory of patches. It sleeps until a file changes or a request loads or unloads a task.
//!
//! In: the kernel's events that a file was closed, renamed or removed, and requests to load and unload. Out: scans of
//! the directory, in the order of the events. The thread polls if the directory cannot be watched, and while something
//! is awaited of which no event tells.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::oneshot;

use crate::{
    directory::Directory,
    error::{Error, Result},
};

/// The polling interval.
const POLL: Duration = Duration::from_secs(2);

/// Why the thread is woken.
pub(crate) enum Wake {
    /// Files of these names were touched. An empty list means that any file may have been.
    Touched(Vec<OsString>),
    /// Load a task again.
    Load(String, oneshot::Sender<Result<(), Option<String>>>),
    /// Take a task out of service.
    Unload(String, oneshot::Sender<bool>),
}

/// Reads the directory and starts its thread, which ends with the process.
///
/// # Errors
/// When the system does not start a thread.
pub(crate) fn keep(mut directory: Directory) -> Result<Sender<Wake>> {
    let (sender, receiver) = mpsc::channel();
    // Watched before the first scan, so that no change is missed.
    let mut watcher = watch(&directory, &sender);
    if watcher.is_none() {
        tracing::warn!("the directory cannot be watched: it is looked at every {} seconds", POLL.as_secs());
    }
    directory.scan(&BTreeSet::new());
    let wakes = sender.clone();
    let run = move || {
        loop {
            if !directory.is_readable() {
                // The watched directory may be gone.
                watcher = None;
            }
            if watcher.is_none() {
                watcher = watch(&directory, &wakes);
            }
            let told = watcher.is_some() && !directory.awaits_unseen();
            handle_wakes(&mut directory, &receiver, told);
        }
    };
    thread::Builder::new().name("patches".to_owned()).spawn(run).map_err(Error::system("start a thread"))?;
    Ok(sender)
}

/// Waits for an event, or, without a watcher, for the polling interval, and handles what has come.
fn handle_wakes(directory: &mut Directory, receiver: &Receiver<Wake>, told: bool) {
    // `recv` cannot fail: this thread holds a sender itself.
    let first = if told { receiver.recv().ok() } else { receiver.recv_timeout(POLL).ok() };
    let mut next = Some(first.unwrap_or_else(|| Wake::Touched(Vec::new())));
    while let Some(wake) = next.take() {
        match wake {
            Wake::Touched(names) => {
                // All files touched meanwhile are handled in one scan.
                let mut touched: BTreeSet<OsString> = names.into_iter().collect();
                loop {
                    match receiver.try_recv() {
                        Ok(Wake::Touched(names)) => touched.extend(names),
                        other => {
                            next = other.ok();
                            break;
                        }
                    }
                }
                directory.scan(&touched);
            }
            // The client has gone, so nothing is done.
            Wake::Load(_, done) if done.is_closed() => {}
            Wake::Unload(_, done) if done.is_closed() => {}
            // The client may have gone meanwhile.
            Wake::Load(task, done) => drop(done.send(directory.load(&task))),
            Wake::Unload(task, done) => drop(done.send(directory.unload(&task))),
        }
    }
}

/// Watches the directory and the store of bundles, if the system can.
fn watch(directory: &Directory, wakes: &Sender<Wake>) -> Option<RecommendedWatcher> {
    let wakes = wakes.clone();
    let handler = move |event: notify::Result<Event>| {
        let names = match event {
            Ok(event) if !matters(&event.kind) => return,
            Ok(event) => event.paths.iter().filter_map(|path| path.file_name()).map(OsString::from).collect(),
            // Events were lost.
            Err(_) => Vec::new(),
        };
        // Sending fails only at the end of the process.
        let _ = wakes.send(Wake::Touched(names));
    };
    let watch = |path: &Path, watcher: &mut RecommendedWatcher| watcher.watch(path, RecursiveMode::NonRecursive);
    let watched = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watch(directory.path(), &mut watcher)?;
        Ok(watcher)
    });
    match watched {
        Ok(mut watcher) => {
            // A patch may wait for its bundle. If the store does not exist yet, it is tried again with the directory.
            if let Some(store) = directory.store() {
                let _ = watch(store, &mut watcher);
            }
            Some(watcher)
        }
        Err(error) => {
            tracing::debug!(%error, "the directory cannot be watched");
            None
        }
    }
}

/// Whether an event may mean a changed file. Opening and reading, which scans do themselves, do not count; a file that
/// is being written counts when it is closed.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => *kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    }
}
