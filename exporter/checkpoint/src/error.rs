//! Why a checkpoint was refused, and what to do about it.

use std::path::{Path, PathBuf};

use crate::Other;

/// The result of reading a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read.
    #[error("{}: cannot read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The directory holds something else than a checkpoint, or not all of one.
    #[error("{}: {found}", dir.display())]
    NotACheckpoint {
        /// The directory.
        dir: PathBuf,
        /// What it holds, and what to do.
        found: Other,
    },
    /// The file is not here, only what git keeps in its place.
    #[error(
        "{}: a pointer of git-lfs, not the file itself; fetch it with\n  git -C {} lfs pull",
        path.display(), shell_quoted(path.parent().unwrap_or(path))
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file's content is not what it should be.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{}: no tensor {name}; the checkpoint has {} tensors{hint}", dir.display(), count)]
    MissingTensor {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor's name, without a family prefix.
        name: String,
        /// How many there are.
        count: usize,
        /// The nearest name, if one is near.
        hint: String,
    },
}

pub(crate) fn content(
    path: &Path,
    field: impl Into<String>,
    expected: impl Into<String>,
    found: impl ToString,
) -> Error {
    Error::Content { path: path.to_owned(), field: field.into(), expected: expected.into(), found: found.to_string() }
}

/// A path as one word of a shell's command.
pub fn shell_quoted(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_of_a_command() {
        for (path, due) in [("/a/b-c_1.2", "/a/b-c_1.2"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell_quoted(path), due);
        }
    }
}
