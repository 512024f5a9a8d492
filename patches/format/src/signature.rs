//! Signatures of patches, in minisign's format, in a file beside the patch.
//!
//! In: public keys, and a patch with its signature. Out: whether one of the keys signed exactly these bytes. Refused:
//! no signature, one that is damaged, of another file or by another key. A patch is not changed by being signed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use minisign_verify::{PublicKey, Signature};

use crate::{
    Error, Result,
    bounded::{MOST_SMALL, read_at_most},
};

/// Public keys; a signature by any of them is accepted.
#[derive(Clone, Debug)]
pub struct Keys(Vec<PublicKey>);

impl Keys {
    /// Reads key files as `minisign -G` writes them.
    ///
    /// # Errors
    /// When one cannot be read or is not a public key.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| {
            let bytes = read_at_most(path, MOST_SMALL)?;
            let expected =
                "the two lines of a .pub file as minisign -G writes it: a comment, and a key that begins with RW";
            let wrong = |found: String| Error::field("public key", expected, found).in_file(path);
            let text = std::str::from_utf8(&bytes).map_err(|_| wrong("bytes that are no text".to_owned()))?;
            // A secret key's line is four times as long.
            let is_secret = || text.lines().nth(1).is_some_and(|line| line.len() > 100);
            PublicKey::decode(text)
                .map_err(|e| wrong(if is_secret() { "a secret key".to_owned() } else { e.to_string() }))
        };
        Ok(Keys(paths.iter().map(open).collect::<Result<_>>()?))
    }

    /// Checks that one of the keys signed `bytes`, which were read from `patch`.
    ///
    /// # Errors
    /// When there is no signature beside the patch, or none of the keys made it for these bytes.
    pub fn check(&self, patch: &Path, bytes: &[u8]) -> Result<()> {
        self.check_with(patch, bytes, |path, most| {
            let found = fs::metadata(path).map_err(Error::io(path, "read"))?;
            if !found.is_file() {
                return Err(Error::Unsigned { signature: path.to_owned() });
            }
            if found.len() > most {
                return Err(Error::field("signature", format!("at most {most} bytes"), found.len()).in_file(path));
            }
            fs::read(path).map_err(Error::io(path, "read"))
        })
    }

    /// As [`Keys::check`], for a caller that restricts which files are read. `read` gets the path of the signature and
    /// a limit in bytes, and gives its bytes or refuses.
    ///
    /// # Errors
    /// Those of [`Keys::check`], and those of `read`.
    pub fn check_with(
        &self,
        patch: &Path,
        bytes: &[u8],
        read: impl FnOnce(&Path, u64) -> Result<Vec<u8>>,
    ) -> Result<()> {
        /// Far more than a signature and its comments take.
        const MOST_BYTES: u64 = 64 << 10;
        let path = signature_path(patch);
        if fs::symlink_metadata(&path).is_err() {
            return Err(Error::Unsigned { signature: path });
        }
        let wrong = |found: String| Error::field("signature", "minisign's four lines", found).in_file(&path);
        let text = String::from_utf8(read(&path, MOST_BYTES)?).map_err(|e| wrong(e.to_string()))?;
        let signature = Signature::decode(&text).map_err(|e| wrong(e.to_string()))?;
        match self.0.iter().any(|key| key.verify(bytes, &signature, false).is_ok()) {
            true => Ok(()),
            false => Err(Error::BadSignature { keys: self.0.len() }.in_file(patch)),
        }
    }
}

/// Where the signature of a patch is: beside it, under its name and `.minisig`.
pub fn signature_path(patch: &Path) -> PathBuf {
    let mut path = patch.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key, and its signature of the bytes "test", from minisign-verify's own documentation.
    const KEY: &str = "untrusted comment: a key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";

    #[test]
    fn only_the_signed_bytes_are_vouched_for() {
        let dir = tempfile::TempDir::new().unwrap();
        let (key, patch) = (dir.path().join("key.pub"), dir.path().join("a.bias"));
        fs::write(&key, KEY).unwrap();
        let keys = Keys::open(&[key]).unwrap();
        let refused = |bytes: &[u8]| keys.check(&patch, bytes).unwrap_err().to_string();

        assert!(refused(b"test").contains("a.bias.minisig: expected a signature"));
        fs::write(signature_path(&patch), SIGNATURE).unwrap();
        keys.check(&patch, b"test").unwrap();
        assert!(refused(b"tess").contains("a.bias: signed by none of the 1 trusted keys"));
        for damaged in [&SIGNATURE[..SIGNATURE.len() / 2], "", "\n\n\n\n", "a\nb\nc\nd\n"] {
            fs::write(signature_path(&patch), damaged).unwrap();
            assert!(refused(b"test").contains("a.bias.minisig: signature: expected minisign's four lines"));
        }
        fs::write(signature_path(&patch), vec![b'x'; 65 << 10]).unwrap();
        assert!(refused(b"test").contains("at most 65536 bytes"));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("key.pub");
        for bytes in [&b""[..], b"one line", b"a comment\nnot base64 at all\n", b"\xff\xfe"] {
            fs::write(&path, bytes).unwrap();
            let error = Keys::open(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains("key.pub: public key: expected the two lines of a .pub file"), "{error}");
        }
    }
}
