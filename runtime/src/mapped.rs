//! A mapped file: read-only, used where it lies, shared by every process that maps it.
//!
//! What happens if the file changes underneath: whoever writes into it changes the weights of a running encoder, and
//! whoever truncates it makes the next touch of a lost page kill the process (SIGBUS). The tools of this project never
//! do either: a file is written beside its place, flushed, and renamed, so a mapping keeps the file it was made of.
#![allow(unsafe_code)]

use std::{fs::File, path::Path};

use memmap2::Mmap;

use crate::{Error, Result};

/// A mapped file.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.to_owned(), action: "map", source };
        let file = File::open(path).map_err(failed)?;
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
