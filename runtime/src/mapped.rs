//! A read-only mapped file. Its pages are shared by every process that maps it.
//!
//! In: the path of a file. Out: its bytes. Refused: a file that cannot be opened or mapped.
//!
//! If another program truncates the file, reading a lost page ends the process (SIGBUS). If another program writes into
//! the file, numbers change while they are computed with. The tools of this project do neither: they write a temporary
//! file, flush it and rename it, so a mapping keeps the old file. Opening is safe nevertheless. Only numbers are read
//! from mapped bytes, and every bit pattern is a number. A length or offset that is read from them is checked each time
//! before memory is accessed with it.
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
    /// When it cannot be opened, or the address space or the system's limits are too small for it.
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
        // SAFETY: no tool of this project writes into or shortens a file in place. The module's documentation says what
        // another program could cause, and why only numbers would change.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Mapped { map })
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
    fn a_mapping_outlives_the_name_of_its_file() {
        let path = std::env::temp_dir().join(format!("edge-run-mapped-{}", std::process::id()));
        std::fs::write(&path, [1u8; 64]).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mapped.as_ref(), [1; 64]);
        let lost = Mapped::open(&path).unwrap_err().to_string();
        assert!(lost.contains("cannot map") && lost.contains("edge-run-mapped-"), "{lost}");
    }
}
