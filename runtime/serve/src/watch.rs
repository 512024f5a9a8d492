//! The thread that keeps the directory of patches: it sleeps until something happens there, or a request asks for a task.
//!
//! In: the kernel's word that a file was closed, renamed or removed, and requests to load and unload. Out: scans of the
//! directory, in the order of what happened. Where the directory cannot be watched, and while something is waited for that
//! happens unseen, it is looked at now and then.

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

/// How often a directory is looked at of which nothing tells.
const POLL: Duration = Duration::from_secs(2);

/// What the thread is woken for.
pub(crate) enum Wake {
    /// Files of these names were touched; any may have been if there are none.
    Touched(Vec<OsString>),
    /// A task is to be loaded anew.
    Load(String, oneshot::Sender<Result<(), Option<String>>>),
    /// A task is to be taken out of service.
    Unload(String, oneshot::Sender<bool>),
}

/// Reads the directory and starts the thread that keeps it. It ends with the process.
///
/// # Errors
/// When the system has no thread to give.
pub(crate) fn keep(mut directory: Directory) -> Result<Sender<Wake>> {
    let (sender, receiver) = mpsc::channel();
    // Before the first look, so that nothing is missed after it.
    let mut watcher = watch(&directory, &sender);
    if watcher.is_none() {
        tracing::warn!("the directory cannot be watched: it is looked at every {} seconds", POLL.as_secs());
    }
    directory.scan(&BTreeSet::new());
    let wakes = sender.clone();
    let run = move || {
        loop {
            if !directory.is_readable() {
                // What was watched may not be there any more.
                watcher = None;
            }
            if watcher.is_none() {
                watcher = watch(&directory, &wakes);
            }
            let told = watcher.is_some() && !directory.awaits_unseen();
            turn(&mut directory, &receiver, told);
        }
    };
    thread::Builder::new().name("patches".to_owned()).spawn(run).map_err(Error::system("start a thread"))?;
    Ok(sender)
}

/// Waits for something to happen, or where nothing tells of it for a while, and does what is due.
fn turn(directory: &mut Directory, receiver: &Receiver<Wake>, told: bool) {
    // Whoever keeps the directory can always be woken: it holds a sender itself.
    let first = if told { receiver.recv().ok() } else { receiver.recv_timeout(POLL).ok() };
    let mut next = Some(first.unwrap_or_else(|| Wake::Touched(Vec::new())));
    while let Some(wake) = next.take() {
        match wake {
            Wake::Touched(names) => {
                // All that was touched meanwhile is one scan.
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
            // Whoever asked has gone: nothing is read for nobody.
            Wake::Load(_, done) if done.is_closed() => {}
            Wake::Unload(_, done) if done.is_closed() => {}
            // Whoever asked may go.
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
        // The thread is only gone at the end of the process.
        let _ = wakes.send(Wake::Touched(names));
    };
    let watch = |path: &Path, watcher: &mut RecommendedWatcher| watcher.watch(path, RecursiveMode::NonRecursive);
    let watched = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watch(directory.path(), &mut watcher)?;
        Ok(watcher)
    });
    match watched {
        Ok(mut watcher) => {
            // A patch may wait for its bundle. A store that is not there yet is looked at again with the directory.
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

/// Whether a file may be another one now. Opening and reading, which scans do themselves, change nothing, and what is
/// being written is looked at when it is closed.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => *kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    }
}
