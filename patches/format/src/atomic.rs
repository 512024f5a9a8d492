//! Files and directories that appear whole or not at all.
//!
//! What is written goes to a hidden sibling first, is flushed to the medium, and is then renamed into place. A reader,
//! or a live mapping, therefore never sees a part; a crash leaves at most a hidden sibling. Its writer holds a lock on
//! it, which ends with the process: the next one to write there takes away what nobody holds.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Writes `bytes` to `path`, replacing what is there.
///
/// # Errors
/// When the file cannot be written; then `path` is as before and nothing is left beside it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes).map_err(Error::io(path, "write")))
}

/// Writes what `fill` puts into a file to `path`, replacing the regular file that is there or that a link there leads
/// to.
///
/// # Errors
/// When `fill` fails, the file cannot be written, or something else than a file is there; then `path` is as before and
/// nothing is left beside it.
pub fn write_with<E: From<Error>>(path: &Path, fill: impl FnOnce(&mut File) -> Result<(), E>) -> Result<(), E> {
    let there = check_replaceable(path)?;
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    remove_abandoned(&target);
    let (temporary, mut file) =
        make_sibling(&target, |at| OpenOptions::new().write(true).create_new(true).open(at), |made| Some(made))
            .map_err(|e| renamed(e, path))?;
    let guard = Remove(&temporary);
    fill(&mut file)?;
    if let Some(permissions) = there {
        file.set_permissions(permissions).map_err(Error::io(path, "write"))?;
    }
    file.sync_all().map_err(Error::io(path, "write"))?;
    fs::rename(&temporary, &target).map_err(Error::io(path, "write"))?;
    std::mem::forget(guard);
    Ok(sync_parent(&target)?)
}

/// Makes a directory and those above it that are missing, and flushes their names to the medium.
///
/// # Errors
/// When one cannot be made.
pub fn create_dirs(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::create_dir_all(path).map_err(Error::io(path, "create"))?;
    missing.into_iter().rev().try_for_each(sync_parent)
}

/// Removes a file. What is done afterwards is on the medium only if the removal is too.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_file(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(Error::io(path, "remove"))?;
    sync_parent(path)
}

/// Whether [`write_with`] may write to `path`. Gives the permissions of the file that is there, or none.
///
/// # Errors
/// When something else than a regular file is there.
pub fn check_replaceable(path: &Path) -> Result<Option<Permissions>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.permissions())),
        Ok(_) => Err(Error::field(path.display().to_string(), "a regular file to replace, or none", "something else")),
        Err(_) => Ok(None),
    }
}

/// An error that names `path`, as the user gave it, instead of the target of a link.
fn renamed(error: Error, path: &Path) -> Error {
    match error {
        Error::Io { action, source, .. } => Error::Io { path: path.to_owned(), action, source },
        other => other,
    }
}

/// A directory that is being written.
pub struct StagedDir {
    staged: PathBuf,
    /// Says that somebody is at it.
    _lock: Option<File>,
}

impl StagedDir {
    /// Begins a hidden directory in `parent`, which is made if it is not there.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(parent: &Path) -> Result<Self> {
        create_dirs(parent)?;
        let place = parent.join("bundle");
        remove_abandoned(&place);
        let (staged, lock) = make_sibling(
            &place,
            |at| {
                fs::create_dir(at)?;
                // Directories cannot be opened everywhere.
                if cfg!(unix) { File::open(at).map(Some) } else { Ok(None) }
            },
            Option::as_ref,
        )?;
        Ok(StagedDir { staged, _lock: lock })
    }

    /// Where to write until it is committed.
    pub fn path(&self) -> &Path {
        &self.staged
    }

    /// Flushes every file and moves the directory to `target`, in the same parent. If something is there, gives the
    /// directory back. If several processes do this at once, one succeeds.
    ///
    /// # Errors
    /// When flushing or moving fails.
    pub fn commit_if_absent(self, target: &Path) -> Result<Option<Self>> {
        sync_tree(&self.staged)?;
        match fs::rename(&self.staged, target) {
            Ok(()) => sync_parent(target).map(|()| None),
            Err(_) if target.exists() => Ok(Some(self)),
            Err(error) => Err(Error::io(target, "create")(error)),
        }
    }

    /// Flushes every file and moves the directory to `target`, in the same parent, and removes the directory that was
    /// there. A process that has mapped old files keeps them: they are unlinked, never overwritten.
    ///
    /// # Errors
    /// When flushing or moving fails; then the old directory is as before.
    pub fn commit(self, target: &Path) -> Result<()> {
        sync_tree(&self.staged)?;
        if target.exists() {
            let old = sibling(target)?;
            // Once renamed it looks like one that was left, until it is removed.
            let _lock = File::open(target).ok().filter(|directory| directory.try_lock().is_ok());
            fs::rename(target, &old).map_err(Error::io(target, "replace"))?;
            if let Err(error) = fs::rename(&self.staged, target) {
                // Put back what was there; the error to report is the first one.
                let _ = fs::rename(&old, target);
                return Err(Error::io(target, "replace")(error));
            }
            // A power cut in the midst of the removal may not find it under its old name.
            sync_parent(target)?;
            fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
        } else {
            fs::rename(&self.staged, target).map_err(Error::io(target, "create"))?;
            sync_parent(target)?;
        }
        // One that was renamed and not replaced, when the power was cut between, is here under its hidden name.
        remove_abandoned(target);
        sync_parent(target)
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // After a commit it is gone already; otherwise the error cannot be reported.
        let _ = fs::remove_dir_all(&self.staged);
    }
}

struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Makes something new at a hidden path in the same directory, and locks it.
fn make_sibling<T>(
    path: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
    file: impl Fn(&T) -> Option<&File>,
) -> Result<(PathBuf, T)> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let hidden = sibling(path)?;
        match make(&hidden) {
            Ok(made) => {
                // Another process may take it for abandoned before it is locked: then it holds the lock, or it is gone.
                let taken = file(&made).is_some_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
                if !taken && hidden.exists() {
                    return Ok((hidden, made));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // Taken for abandoned, and removed, while it was made.
            Err(error) if error.kind() == io::ErrorKind::NotFound && hidden.parent().is_some_and(is_there) => {}
            Err(error) => return Err(Error::io(path, "write")(error)),
        }
    }
    Err(Error::io(path, "write")(io::ErrorKind::AlreadyExists.into()))
}

/// Whether there is such a directory; that without a name is the current one.
fn is_there(dir: &Path) -> bool {
    dir.as_os_str().is_empty() || dir.exists()
}

/// Removes what processes that were killed left beside `path`: hidden siblings that nobody has locked. What cannot be
/// looked at, locked or removed stays.
fn remove_abandoned(path: &Path) {
    let Some(begin) = path.file_name().map(|name| format!(".{}.tmp-", name.to_string_lossy())) else { return };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let numbers = name.to_str().and_then(|name| name.strip_prefix(&begin)?.split_once('-'));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !numbers.is_some_and(|(process, call)| is_number(process) && is_number(call)) {
            continue;
        }
        let hidden = entry.path();
        // Held until it is removed, so that nobody begins to use it meanwhile.
        let Some(_lock) = File::open(&hidden).ok().filter(|file| file.try_lock().is_ok()) else { continue };
        let _ = if hidden.is_dir() { fs::remove_dir_all(&hidden) } else { fs::remove_file(&hidden) };
    }
}

/// A hidden path in the same directory, distinct for each process and call.
fn sibling(path: &Path) -> Result<PathBuf> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| Error::field("output path", "a file name", path.display()))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".tmp-{}-{}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(hidden))
}

fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Flushes every file and directory below `dir`, and `dir`.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "read"))? {
        let path = entry.map_err(Error::io(dir, "read"))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io(&path, "flush"))?;
        }
    }
    sync_dir(dir)
}

fn sync_dir(path: &Path) -> Result<()> {
    if cfg!(unix) { File::open(path).and_then(|d| d.sync_all()).map_err(Error::io(path, "flush")) } else { Ok(()) }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_in_its_place_with_its_mode() {
        let dir = tempfile::TempDir::new().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        assert!(write_file(dir.path(), b"new").unwrap_err().to_string().contains("a regular file"));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(write_file(&socket, b"new").is_err());
        assert!(!fs::symlink_metadata(&socket).unwrap().is_file());
    }

    #[test]
    fn what_a_killed_process_left_is_taken_away_and_what_is_held_stays() {
        let dir = tempfile::TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at(".file.tmp-1-0"), "half").unwrap();
        fs::create_dir(at(".bundle.tmp-1-0")).unwrap();
        fs::write(at(".bundle.tmp-1-0").join("weights.bin"), "half").unwrap();
        // Others' files are no business of ours, and neither is what is still written.
        for name in [".file.tmp-mine", ".file.tmp-1-0-0", ".other.tmp-1-0"] {
            fs::write(at(name), "kept").unwrap();
        }
        fs::write(at(".file.tmp-2-0"), "held").unwrap();
        let held = File::open(at(".file.tmp-2-0")).unwrap();
        held.try_lock().unwrap();
        write_file(&at("file"), b"new").unwrap();
        let first = StagedDir::new(dir.path()).unwrap();
        let second = StagedDir::new(dir.path()).unwrap();
        let left = || {
            let mut names: Vec<String> =
                fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names.retain(|name| !name.starts_with(".bundle"));
            names
        };
        assert!(first.path().exists() && second.path().exists() && !at(".bundle.tmp-1-0").exists());
        assert_eq!(left(), [".file.tmp-1-0-0", ".file.tmp-2-0", ".file.tmp-mine", ".other.tmp-1-0", "file"]);
        drop(held);
        write_file(&at("file"), b"newer").unwrap();
        assert_eq!(left(), [".file.tmp-1-0-0", ".file.tmp-mine", ".other.tmp-1-0", "file"]);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "old").unwrap();
        let failed = write_with(&file, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::NotAPatch)
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
