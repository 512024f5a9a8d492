//! Who vouches for a patch: a signature in minisign's format, in a file beside it.
//!
//! In: public keys, and a patch with its signature. Out: whether one of the keys signed these very bytes. Refused: no
//! signature, one that is damaged, of another file or by another key. A patch is not changed by being signed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use minisign_verify::{PublicKey, Signature};

use crate::{Error, Result};

/// Public keys, each of which may vouch for a patch.
#[derive(Clone, Debug)]
pub struct Keys(Vec<PublicKey>);

impl Keys {
    /// Reads key files as `minisign -G` writes them.
    ///
    /// # Errors
    /// When one cannot be read or is not a public key.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| {
            let text = fs::read_to_string(path).map_err(Error::io(path, "read"))?;
            PublicKey::decode(&text)
                .map_err(|e| Error::field("public key", "two lines as minisign -G writes them", e).in_file(path))
        };
        Ok(Keys(paths.iter().map(open).collect::<Result<_>>()?))
    }

    /// Checks that one of the keys signed `bytes`, which were read from `patch`.
    ///
    /// # Errors
    /// When there is no signature beside the patch, or none of the keys made it for these bytes.
    pub fn check(&self, patch: &Path, bytes: &[u8]) -> Result<()> {
        /// Far more than a signature and its comments take.
        const MOST_BYTES: u64 = 64 << 10;
        let path = signature_path(patch);
        let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
        let found = file.ok_or_else(|| Error::Unsigned { signature: path.clone() })?.len();
        if found > MOST_BYTES {
            return Err(Error::field("signature", format!("at most {MOST_BYTES} bytes"), found).in_file(&path));
        }
        let text = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let signature = Signature::decode(&text)
            .map_err(|e| Error::field("signature", "minisign's four lines", e).in_file(&path))?;
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
        for text in ["", "one line", "a comment\nnot base64 at all\n"] {
            fs::write(&path, text).unwrap();
            let error = Keys::open(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains("key.pub: public key: expected"), "{error}");
        }
    }
}
