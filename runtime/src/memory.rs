//! Memory of this process by kind, as the kernel counts it, and a check whether more is available.

use std::{fs, hint::black_box};

use serde::Serialize;

use crate::{Error, Result};

/// Allocates `bytes` of memory and frees them at once. Code that would abort on a failed allocation calls this first. A
/// system that overcommits (Linux without limits) grants the memory here too.
///
/// # Errors
/// What `refused` makes of the bytes, when the system does not give as many.
pub fn ask_memory(bytes: usize, refused: impl FnOnce(u64) -> Error) -> Result<()> {
    /// A process that lacks less than this could not even report it.
    const SMALL: usize = 1 << 20;
    let mut asked: Vec<u8> = Vec::new();
    if bytes > SMALL && asked.try_reserve_exact(bytes).is_err() {
        return Err(refused(bytes as u64));
    }
    // Without this, the compiler removes the unused allocation.
    black_box(&asked);
    Ok(())
}

/// Resident bytes of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Private memory that no file backs: heap, stacks, copies.
    pub anonymous_bytes: u64,
    /// Pages of mapped files, shared with every process that maps them, and code.
    pub file_bytes: u64,
}

impl Memory {
    /// Reads `/proc/self/smaps_rollup`; none on systems that do not have it.
    pub fn now() -> Option<Self> {
        Self::of_rollup(&fs::read_to_string("/proc/self/smaps_rollup").ok()?)
    }

    /// Reads the text of a `smaps_rollup`, for a process that opened it before it locked itself in.
    pub fn of_rollup(rollup: &str) -> Option<Self> {
        let number = |name: &str| rollup.lines().find_map(|line| bytes(line, name));
        let (resident, anonymous) = (number("Rss:")?, number("Anonymous:")?);
        Some(Memory { anonymous_bytes: anonymous, file_bytes: resident.saturating_sub(anonymous) })
    }
}

/// Resident bytes of a mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MappedMemory {
    /// Pages in memory, also those shared with other processes.
    pub resident_bytes: u64,
    /// The same, each page divided by the number of processes that map it.
    pub proportional_bytes: u64,
    /// Pages that this process has changed: copies of its own.
    pub private_dirty_bytes: u64,
}

impl MappedMemory {
    /// Reads `/proc/self/smaps` for files whose name begins with `name`; none on systems that do not have it.
    pub fn of(name: &str) -> Option<Self> {
        parse_mapped(&fs::read_to_string("/proc/self/smaps").ok()?, name)
    }
}

fn parse_mapped(smaps: &str, name: &str) -> Option<MappedMemory> {
    let mut sum = None;
    let mut inside = false;
    for line in smaps.lines() {
        // A mapping begins with its addresses; what follows is "Name: number kB".
        if line.split(' ').next().is_some_and(|first| first.contains('-')) {
            inside = line.rsplit('/').next().is_some_and(|file| line.contains('/') && file.starts_with(name));
            if inside {
                sum.get_or_insert(MappedMemory { resident_bytes: 0, proportional_bytes: 0, private_dirty_bytes: 0 });
            }
        }
        if let (true, Some(sum)) = (inside, &mut sum) {
            sum.resident_bytes += bytes(line, "Rss:").unwrap_or(0);
            sum.proportional_bytes += bytes(line, "Pss:").unwrap_or(0);
            sum.private_dirty_bytes += bytes(line, "Private_Dirty:").unwrap_or(0);
        }
    }
    sum
}

/// The number of a line "Name: number kB".
fn bytes(line: &str, name: &str) -> Option<u64> {
    let number = line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>();
    number.ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_no_system_has_is_refused() {
        let refused = |bytes| Error::Memory { place: "all".to_owned(), bytes, helps: "less" };
        for (bytes, there) in [(0, true), (4 << 20, true), (usize::MAX / 4, false), (usize::MAX, false)] {
            let found = ask_memory(bytes, refused).map_err(|error| error.to_string());
            let due = format!("all: expected {bytes} bytes of memory, found less; less");
            assert_eq!(found, if there { Ok(()) } else { Err(due) });
        }
    }

    #[test]
    fn a_rollup_is_split_by_what_backs_it() {
        let rollup =
            "5500-7ffc ---p 00000000 00:00 0   [rollup]\nRss:      3480 kB\nPss:  1234 kB\nAnonymous:     480 kB\n";
        assert_eq!(Memory::of_rollup(rollup), Some(Memory { anonymous_bytes: 480 * 1024, file_bytes: 3000 * 1024 }));
        assert_eq!(Memory::of_rollup("Rss: x kB"), None);
    }

    #[test]
    fn mappings_are_found_by_their_file() {
        let smaps = "7f00-7f10 r--s 00000000 fe:00 12 /a/panels-x.bin\nSize: 9 kB\nRss:      8 kB\nPss:  4 kB\n\
                     Private_Dirty:  0 kB\n7f10-7f20 rw-p 00000000 00:00 0 \nRss: 100 kB\nPrivate_Dirty: 100 kB\n\
                     7f20-7f30 r--s 00000000 fe:00 12 /a/panels-x.bin\nRss: 2 kB\nPss: 1 kB\nPrivate_Dirty: 1 kB\n";
        let due = MappedMemory { resident_bytes: 10240, proportional_bytes: 5120, private_dirty_bytes: 1024 };
        assert_eq!(parse_mapped(smaps, "panels-"), Some(due));
        assert_eq!(parse_mapped(smaps, "weights"), None);
    }
}
