//! Remembers which files were found intact, so that a large file is digested once after it changes and not at every
//! start.
//!
//! A stamp (device, inode, size, times of change) of the file is kept in `$XDG_CACHE_HOME/edge-run/checked`. The
//! kernel sets the time of change at every write. Clocks tick coarsely, so a file that changed in the last seconds is
//! not stamped but digested again next time. Where no stamp can be kept (no cache directory, or a system without
//! inodes) the file is digested every time. Damage by the medium itself changes no stamp, and neither does a writer
//! that sets the system's clock back: `edge-export verify` always digests.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bias_patch::{Digest, atomic};

use crate::{Error, FileEntry, Result, store::cache_dir};

/// Checks that `path` holds what `entry` says, digesting it only if it may have changed since that was last found.
pub(crate) fn check(path: &Path, entry: &FileEntry) -> Result<()> {
    check_with(path, &entry.sha256.to_string(), || entry.digest_of(path, |_| ()))
}

/// Runs `verify` on `path` unless the file is as it was when `verify` last found in it what `content` names.
pub(crate) fn check_with(path: &Path, content: &str, verify: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = stamp_of(path, content)?;
    let note = note(path);
    if let (Some(stamp), Some(note)) = (&stamp, &note)
        && fs::read_to_string(note).is_ok_and(|kept| kept == *stamp)
    {
        return Ok(());
    }
    verify()?;
    let settled = stamp
        .filter(|before| stamp_of(path, content).is_ok_and(|after| after.as_ref() == Some(before)) && is_settled(path));
    if let (Some(stamp), Some(note)) = (settled, note) {
        // The note may not reach the medium before what it is about. A read-only medium has nothing to flush, and says
        // so.
        let nothing = [io::ErrorKind::InvalidInput, io::ErrorKind::ReadOnlyFilesystem];
        if File::open(path).and_then(|file| file.sync_all()).is_err_and(|e| !nothing.contains(&e.kind())) {
            return Ok(());
        }
        // Without the note the next start digests again: slower, and no less safe.
        let _ = note.parent().map(fs::create_dir_all);
        let _ = atomic::write_file(&note, stamp.as_bytes());
    }
    Ok(())
}

/// Whether the file has been as it is for longer than any clock's tick.
fn is_settled(path: &Path) -> bool {
    /// FAT counts in units of two seconds.
    const TICK: Duration = Duration::from_secs(3);
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > TICK))
}

#[cfg(unix)]
fn stamp_of(path: &Path, content: &str) -> Result<Option<String>> {
    use std::os::unix::fs::MetadataExt;
    let m = fs::metadata(path).map_err(Error::io(path, "read"))?;
    let times = format!("{}.{} {}.{}", m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    Ok(Some(format!("{content} {} {} {} {times}\n", m.dev(), m.ino(), m.size())))
}

#[cfg(not(unix))]
fn stamp_of(_: &Path, _: &str) -> Result<Option<String>> {
    Ok(None)
}

/// The file that keeps the stamp of `path`.
fn note(path: &Path) -> Option<PathBuf> {
    let whole = fs::canonicalize(path).ok()?;
    let name = Digest::of(whole.as_os_str().as_encoded_bytes()).to_string();
    Some(cache_dir()?.join("checked").join(name))
}
