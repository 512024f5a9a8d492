//! Files that are read whole.
//!
//! In: a path. Out: the bytes there. Refused: more bytes than such a file has, so that a device without an end does not fill
//! memory.

use std::{fs::File, io::Read, path::Path};

use crate::{Error, Result};

/// The most bytes of a file that people write or programs keep beside others: settings, keys, results.
pub const MOST_SMALL: u64 = 64 << 20;

/// The bytes of a file of at most `most` bytes.
///
/// # Errors
/// When it cannot be read or has more.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io(path, "read"))?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > most {
        return Err(Error::field("size", format!("at most {most} bytes"), "more").in_file(path));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_at_most_so_many_bytes() {
        let path = std::env::temp_dir().join(format!("bounded-{}", std::process::id()));
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read_at_most(&path, 4).unwrap(), b"four");
        let said = read_at_most(&path, 3).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(said.contains("expected at most 3 bytes, found more"), "{said}");
        assert!(read_at_most(&path, 4).is_err());
    }
}
