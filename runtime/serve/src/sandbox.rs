//! What is taken from the process before it reads the first request: all files but its own, and all connections outward.
//!
//! In: directories to read, and one to write. Out: whether the kernel keeps the process to them from now on. Threads that
//! are started later inherit it; there is no way back.

use std::path::Path;

use crate::error::Result;

/// What the kernel does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All of it.
    Fully,
    /// Files, but not everything else that was asked for: the kernel is older than that.
    Partly,
    /// Nothing: it has no Landlock, or it is switched off.
    Not,
}

/// Keeps the calling thread, and those it starts, to reading below `read` and to writing below `write` too.
///
/// # Errors
/// When the kernel has Landlock and does not accept the rules.
#[cfg(target_os = "linux")]
pub fn enter(read: &[&Path], write: Option<&Path>) -> Result<Enforced> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    };

    /// The newest rules that are asked for; an older kernel does what it can.
    const KNOWN: ABI = ABI::V6;
    let readable = BitFlags::from(AccessFs::ReadFile) | AccessFs::ReadDir;
    // What it takes to write a file beside its place and rename it.
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
