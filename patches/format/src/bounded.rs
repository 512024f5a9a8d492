//! Files that are read whole.
//!
//! In: a path. Out: the bytes or the text there. Refused: more bytes than such a file has, so that a device without an
//! end does not fill memory.

use std::{fs::File, io::Read, path::Path};

use crate::{Error, Result};

/// The limit for tasks, keys, lists of clients and kept results.
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

/// The text of a file of at most `most` bytes.
///
/// # Errors
/// When it cannot be read, has more, or is not UTF-8.
pub fn read_text_at_most(path: &Path, most: u64) -> Result<String> {
    let wrong = |_| Error::field("content", "text in UTF-8", "other bytes").in_file(path);
    String::from_utf8(read_at_most(path, most)?).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_at_most_so_many_bytes() {
        let path = std::env::temp_dir().join(format!("bounded-{}", std::process::id()));
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read_at_most(&path, 4).unwrap(), b"four");
        assert_eq!(read_text_at_most(&path, 4).unwrap(), "four");
        let said = read_at_most(&path, 3).unwrap_err().to_string();
        std::fs::write(&path, b"\xff").unwrap();
        let bytes = read_text_at_most(&path, 4).unwrap_err().to_string();
        assert!(bytes.contains("expected text in UTF-8, found other bytes"), "{bytes}");
        std::fs::remove_file(&path).unwrap();
        assert!(said.contains("expected at most 3 bytes, found more"), "{said}");
        assert!(read_at_most(&path, 4).is_err());
    }
}
