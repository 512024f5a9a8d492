//! Memory of this process by kind, as the kernel counts it.

use std::fs;

/// Resident bytes of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Private memory that no file backs: heap, stacks, copies.
    pub anonymous_bytes: u64,
    /// Pages of mapped files, shared with every process that maps them, and code.
    pub file_bytes: u64,
}

impl Memory {
    /// Reads `/proc/self/smaps_rollup`; none on systems that do not have it.
    pub fn now() -> Option<Self> {
        parse(&fs::read_to_string("/proc/self/smaps_rollup").ok()?)
    }
}

fn parse(rollup: &str) -> Option<Memory> {
    let kilobytes = |name: &str| {
        let line = rollup.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let (resident, anonymous) = (kilobytes("Rss:")?, kilobytes("Anonymous:")?);
    Some(Memory { anonymous_bytes: anonymous * 1024, file_bytes: resident.saturating_sub(anonymous) * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_split_by_what_backs_it() {
        let rollup =
            "5500-7ffc ---p 00000000 00:00 0   [rollup]\nRss:      3480 kB\nPss:  1234 kB\nAnonymous:     480 kB\n";
        assert_eq!(parse(rollup), Some(Memory { anonymous_bytes: 480 * 1024, file_bytes: 3000 * 1024 }));
        assert_eq!(parse("Rss: x kB"), None);
    }
}
