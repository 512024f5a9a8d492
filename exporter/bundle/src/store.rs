//! Where bundles live on a machine: a directory of bundles, each under its encoder's digest.

use std::{
    env,
    path::{Path, PathBuf},
};

use bias_patch::Digest;

use crate::{Bundle, Error, Result};

/// A directory of bundles.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The user's store: `$XDG_DATA_HOME/edge-run/bundles`, or `~/.local/share/edge-run/bundles`.
    ///
    /// # Errors
    /// When neither `XDG_DATA_HOME` nor `HOME` is set.
    pub fn of_user() -> Result<Self> {
        let data = user_dir("XDG_DATA_HOME", ".local/share").ok_or_else(|| {
            Error::field(
                "environment",
                "an absolute path in XDG_DATA_HOME or HOME, to find the store of bundles",
                "neither",
            )
        })?;
        Ok(Store { root: data.join("edge-run/bundles") })
    }

    /// The directory that holds the bundles.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The place of an encoder's bundle, whether or not it is there.
    pub fn path(&self, encoder: Digest) -> PathBuf {
        self.root.join(encoder.to_string())
    }

    /// The bundle of an encoder.
    ///
    /// # Errors
    /// When it is not in the store, or is damaged.
    pub fn open(&self, encoder: Digest) -> Result<Bundle> {
        let path = self.path(encoder);
        if !path.exists() {
            return Err(Error::NotInStore { digest: encoder, store: self.root.clone() });
        }
        let bundle = Bundle::open(&path)?;
        if bundle.manifest().encoder != encoder {
            return Err(Error::OtherEncoder { expected: encoder, found: bundle.manifest().encoder }.in_file(&path));
        }
        Ok(bundle)
    }
}

/// Where programs of this project keep what they can make again: `$XDG_CACHE_HOME/edge-run` or `~/.cache/edge-run`.
pub fn cache_dir() -> Option<PathBuf> {
    Some(user_dir("XDG_CACHE_HOME", ".cache")?.join("edge-run"))
}

/// A directory of the XDG base directory specification: from `variable`, or under the home directory.
pub(crate) fn user_dir(variable: &str, under_home: &str) -> Option<PathBuf> {
    // The specification has relative paths ignored. A home directory that is one, or empty, would be a place in the
    // working directory.
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(under_home)))
}
