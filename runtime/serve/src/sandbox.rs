//! Restricts the process before it reads the first request: to its own files, and to no outgoing connections.
//!
//! In: directories to read, and one to write. Out: whether the kernel enforces this from now on. Threads that start
//! later inherit it, and it cannot be undone.

use std::path::Path;

use crate::error::Result;

/// What the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All of it.
    Fully,
    /// Files, but not everything else that was asked for, because the kernel is too old.
    Partly,
    /// Nothing: it has no Landlock, or it is switched off.
    Not,
}

/// Restricts the calling thread, and those it starts, to reading below `read`, and reading and writing below `write`.
///
/// # Errors
/// When the kernel has Landlock and does not accept the rules.
#[cfg(target_os = "linux")]
pub fn enter(read: &[&Path], write: Option<&Path>) -> Result<Enforced> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    };

    /// The newest rules that are requested; an older kernel enforces those it knows.
    const KNOWN: ABI = ABI::V6;
    let readable = BitFlags::from(AccessFs::ReadFile) | AccessFs::ReadDir;
    // The rights to write a temporary file and rename it.
    let writable = readable
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    let restrict = || -> Result<RestrictionStatus, RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?;
        let rights = read.iter().map(|path| (*path, readable)).chain(write.map(|path| (path, writable)));
        for (path, rights) in rights {
            // A store that is not there cannot be read anyway.
            if let Ok(place) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(place, rights))?;
            }
        }
        rules.restrict_self()
    };
    let status = restrict().map_err(|e| crate::error::Error::Sandbox { reason: e.to_string() })?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

/// Other systems have no Landlock.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub fn enter(_: &[&Path], _: Option<&Path>) -> Result<Enforced> {
    Ok(Enforced::Not)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs,
        io::{self, ErrorKind, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    #[test]
    fn nothing_but_its_own_files_is_left_to_the_process() {
        let (inside, outside) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
        for dir in [inside.path(), outside.path()] {
            fs::write(dir.join("file"), "text").unwrap();
            fs::create_dir(dir.join("cache")).unwrap();
        }
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let denied = |result: io::Result<()>| result.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        // Only this thread is restricted, and it ends with the test.
        let enforced = thread::scope(|scope| {
            let restricted = scope.spawn(|| {
                let enforced = enter(&[inside.path()], Some(&inside.path().join("cache"))).unwrap();
                if enforced == Enforced::Not {
                    return enforced;
                }
                assert_eq!(fs::read_to_string(inside.path().join("file")).unwrap(), "text");
                fs::write(inside.path().join("cache/new"), "text").unwrap();
                assert!(denied(fs::write(inside.path().join("new"), "text")));
                assert!(denied(fs::remove_file(inside.path().join("file"))));
                assert!(denied(fs::read(outside.path().join("file")).map(drop)));
                assert!(denied(fs::write(outside.path().join("cache/new"), "text")));
                assert!(denied(fs::read_dir(outside.path()).map(drop)));
                let connected = TcpStream::connect(peer.local_addr().unwrap()).map(drop);
                assert!(enforced == Enforced::Partly || denied(connected));
                enforced
            });
            restricted.join().unwrap()
        });
        // Not print, which is kept back where a test succeeds.
        if enforced != Enforced::Fully {
            let _ = writeln!(io::stderr(), "skipped, as this kernel enforces it {enforced:?}: tests of the sandbox");
        }
    }
}
