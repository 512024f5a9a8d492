//! Signs patches, for devices that accept only patches signed by a key they trust.
//!
//! In: a patch and a secret key, as `minisign -G` writes it. Out: the signature beside the patch, in minisign's format;
//! `bias_patch::Keys` checks it. Refused: a file that is not a patch.

use std::path::{Path, PathBuf};

use bias_patch::{Keys, Patch, atomic, signature_path};
use minisign::{ErrorKind, PError, SecretKeyBox};

use crate::{Error, Result};

/// Signs a patch with the key in a file, and gives the path of the signature. If the key has a password, asks for it on
/// the terminal.
///
/// # Errors
/// When the patch or the key is not one, or the signature cannot be written.
pub fn sign(patch: &Path, key: &Path) -> Result<PathBuf> {
    let failed = |error: PError| Error::Content {
        path: key.to_owned(),
        field: "secret key".to_owned(),
        expected: "two lines as minisign -G writes them, and the password if the key has one".to_owned(),
        found: error.to_string(),
    };
    let bytes = Patch::read(patch)?;
    let opened = Patch::from_bytes(&bytes).map_err(|e| e.in_file(patch))?;
    let text = bias_patch::read_text_at_most(key, bias_patch::MOST_SMALL)?;
    if Keys::open(&[key.to_owned()]).is_ok() {
        return Err(Error::Content {
            path: key.to_owned(),
            field: "secret key".to_owned(),
            expected: "the secret key that minisign -G wrote together with this one".to_owned(),
            found: "a public key".to_owned(),
        });
    }
    let key_box = || SecretKeyBox::from_string(&text).map_err(failed);
    let key = match key_box()?.into_unencrypted_secret_key() {
        // It has no password and is damaged.
        Err(error) if matches!(error.kind(), ErrorKind::Verify) => return Err(failed(error)),
        Err(_) => key_box()?.into_secret_key(None).map_err(failed)?,
        Ok(key) => key,
    };
    let comment = format!("task {} for encoder {}", opened.task().name(), opened.encoder());
    let signature = minisign::sign(None, &key, &bytes[..], Some(&comment), None).map_err(failed)?;
    let path = signature_path(patch);
    atomic::write_file(&path, signature.into_string().as_bytes())?;
    Ok(path)
}
