//! A mapped file: read-only, used where it lies, shared by every process that maps it.
//!
//! What happens if the file changes underneath: whoever writes into it changes the weights of a running encoder, and
//! whoever truncates it makes the next touch of a lost page kill the process (SIGBUS). The tools of this project never
//! do either: a file is written beside its place, flushed, and renamed, so a mapping keeps the file it was made of.
#![allow(unsafe_code)]

use std::{fs::File, io, path::Path};

use memmap2::Mmap;

use crate::{Error, Result};

/// A mapped file.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps a file.
    ///
    /// # Errors
    /// When it cannot be opened, or this processor or the system's limits leave no addresses for all of it.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), action: "map", source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let failed = |source: io::Error| match (source.kind(), usize::try_from(bytes)) {
            (io::ErrorKind::OutOfMemory, _) | (_, Err(_)) => Error::Memory {
                place: format!("{}: its mapping", path.display()),
                bytes,
                helps: "an encoder of --weights int8 takes a quarter of the addresses, and fewer --threads leave more",
            },
            _ => failed(source),
        };
        // SAFETY: the file is one that this project wrote under this name and that nothing of it ever writes into; the
        // module's text says what another program could do.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Mapped { map })
    }

    /// The numbers in `bytes` bytes at an offset; none if the file does not hold them or they are not aligned.
    pub fn numbers<T: bytemuck::AnyBitPattern>(&self, offset: u64, bytes: u64) -> Option<&[T]> {
        let start = usize::try_from(offset).ok()?;
        let part = self.map.get(start..start.checked_add(usize::try_from(bytes).ok()?)?)?;
        // The machine's own byte order is the file's on every target: see `lib.rs`.
        bytemuck::try_cast_slice(part).ok()
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_the_file_or_its_addresses_are_none() {
        let path = std::env::temp_dir().join(format!("edge-run-mapped-{}", std::process::id()));
        std::fs::write(&path, [1u8; 64]).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mapped.numbers::<u32>(60, 4), Some(&[0x0101_0101][..]));
        assert_eq!(mapped.numbers::<u32>(64, 0), Some(&[][..]));
        // What would be within the file if only its lowest 32 bits counted, and sums that go round.
        for (offset, bytes) in
            [(60, 8), (65, 0), (2, 4), (0, 6), (1 << 32, 4), (0, (1 << 32) + 4), (u64::MAX - 3, 4), (4, u64::MAX - 3)]
        {
            assert_eq!(mapped.numbers::<u32>(offset, bytes), None, "{bytes} bytes at {offset}");
        }
        let lost = Mapped::open(&path).unwrap_err().to_string();
        assert!(lost.contains("cannot map") && lost.contains("edge-run-mapped-"), "{lost}");
    }
}
