//! SHA-256 digests: of encoders, of bundle files, of patches.

use std::{fmt, fs::File, io::Read, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// A SHA-256 digest (FIPS 180-4), written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of a file, calling `progress` with the bytes read since the last call.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path, progress: impl FnMut(u64)) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        Self::of_reader(&mut file, path, progress)
    }

    /// The digest of the rest of an opened file. Calls `progress` as [`Digest::of_file`] does.
    ///
    /// # Errors
    /// When the file, whose name is `path`, cannot be read.
    pub fn of_reader(file: &mut File, path: &Path, mut progress: impl FnMut(u64)) -> Result<Self> {
        let mut digester = Digester::default();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
            if read == 0 {
                return Ok(digester.finish());
            }
            digester.update(&buffer[..read]);
            progress(read as u64);
        }
    }

    /// The first twelve digits: enough to tell encoders apart in a table.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

/// Computes a [`Digest`] over bytes that come in pieces.
#[derive(Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::field("digest", "64 lower-case hexadecimal digits", text);
        let hex = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let digits: Vec<u8> = text.as_bytes().iter().map(hex).collect::<Option<_>>().ok_or_else(bad)?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)).collect();
        if digits.len() != 64 {
            return Err(bad());
        }
        Ok(Digest(bytes.try_into().map_err(|_| bad())?))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_back_and_refuse_other_text() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for bad in ["", "ba78", &"g".repeat(64), &"A".repeat(64), &"0".repeat(63), &"0".repeat(66)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was accepted");
        }
    }
}
