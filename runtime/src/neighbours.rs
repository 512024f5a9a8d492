//! Who else may replace the files of an encoder. Whoever can, decides its answers, and can end the process: see
//! SECURITY.md.
//!
//! In: a directory. Out: the first place, from the root to its files, that users other than root and this process's own
//! may change, with what mends it. Access lists count as the bits of the group that they show as.

use std::path::Path;

/// Says what lets other users replace files in a directory; none if nothing does, or the directory cannot be read.
#[cfg(unix)]
pub fn replaceable_by_others(dir: &Path) -> Option<String> {
    use std::{
        fs::{self, Metadata},
        os::unix::fs::MetadataExt,
    };

    /// Of an entry in a directory with this bit, only its owner changes the name.
    const STICKY: u32 = 0o1000;
    let own = rustix::process::geteuid().as_raw();
    let found = |path: &Path, metadata: &Metadata, is_above: bool| {
        let (mode, owner, shown) = (metadata.mode(), metadata.uid(), path.display());
        // Where each user has a group, it has the user's number: nobody else is in it.
        let by_group = mode & 0o020 != 0 && metadata.gid() != owner && metadata.gid() != 0;
        let by_all = mode & 0o002 != 0;
        let why = if owner != 0 && owner != own {
            format!("user {owner} owns {shown}: use a copy that is yours or root's")
        } else if (by_group || by_all) && !(is_above && mode & STICKY != 0) {
            let who = if by_all { "o-w" } else { "g-w" };
            format!(
                "its mode lets others write to {shown}: chmod {} {shown}",
                if by_group && by_all { "go-w" } else { who }
            )
        } else {
            return None;
        };
        Some(format!("{}: other users may replace what is read here, and so change answers; {why}", dir.display()))
    };
    let real = dir.canonicalize().ok()?;
    let above: Vec<&Path> = real.ancestors().skip(1).collect();
    let above = above.into_iter().rev().find_map(|path| found(path, &path.metadata().ok()?, true));
    let own_files = || {
        let mut files: Vec<_> = fs::read_dir(&real).ok()?.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().find_map(|path| found(path, &path.metadata().ok()?, false))
    };
    above.or_else(|| found(&real, &real.metadata().ok()?, false)).or_else(own_files)
}

/// Other systems have other rights.
#[cfg(not(unix))]
pub fn replaceable_by_others(_: &Path) -> Option<String> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    };

    use super::*;

    #[test]
    fn directories_that_others_may_change_are_named_with_the_remedy() {
        // In /tmp, which everyone may write to, and whose sticky bit keeps what is in there to its owner.
        let home = tempfile::TempDir::new().unwrap();
        let home = home.path().canonicalize().unwrap();
        let dir = home.join("above/bundle");
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("weights.bin");
        fs::write(&file, "").unwrap();
        let link = home.join("link");
        symlink(&dir, &link).unwrap();
        let above = dir.parent().unwrap();
        let set = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (path, usual) in [(above, 0o755), (&*dir, 0o755), (&*file, 0o644)] {
            set(above, 0o755);
            set(&dir, 0o755);
            set(&file, 0o644);
            assert_eq!(replaceable_by_others(&dir), None);
            set(path, usual | 0o002);
            for named in [&dir, &link] {
                let found = replaceable_by_others(named).unwrap();
                assert!(found.ends_with(&format!("write to {0}: chmod o-w {0}", path.display())), "{found}");
                assert!(found.starts_with(&format!("{}: other users", named.display())), "{found}");
            }
            set(path, usual | 0o1002);
            assert_eq!(replaceable_by_others(&dir).is_none(), path == above, "{}, sticky", path.display());
            set(path, usual);
            // Groups and owners are for root to choose.
            if rustix::process::geteuid().is_root() {
                let found = |owner, group, mode| {
                    chown(path, Some(owner), Some(group)).unwrap();
                    set(path, mode);
                    let found = replaceable_by_others(&dir);
                    chown(path, Some(0), Some(0)).unwrap();
                    set(path, usual);
                    found.unwrap_or_default()
                };
                let ending = |remedy: &str| format!(": {remedy} {}", path.display());
                assert!(found(0, 4321, usual | 0o020).ends_with(&ending("chmod g-w")));
                assert!(found(0, 4321, usual | 0o022).ends_with(&ending("chmod go-w")));
                assert_eq!(found(0, 0, usual | 0o020), "", "root's group");
                assert_eq!(found(0, 4321, usual), "", "a group that may only read");
                assert!(found(4321, 0, usual).contains(&format!("user 4321 owns {}: use a copy", path.display())));
            }
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, usual);
        }
        assert_eq!(replaceable_by_others(&home.join("absent")), None);
    }
}
