//! What is checked of outputs and notes before any work is done.
//!
//! In: paths and notes that a user gave. Refused: an output that would replace a patch by something else, a table, a picture
//! or tensors in the place of another file, a kept result whose patch is another file, a note that is given twice.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
};

use bias_patch::Patch;
use hf_checkpoint::Checkpoint;

use crate::{Error, Result, table::SUFFIX};

/// Refuses to replace a patch by something else.
///
/// # Errors
/// When a patch is there.
pub fn check_no_patch(output: &Path) -> Result<()> {
    // An empty file is nobody's patch.
    if fs::metadata(output).is_ok_and(|there| there.is_file() && there.len() > 0) && Patch::check_output(output).is_ok()
    {
        return Err(Error::Content {
            path: output.to_owned(),
            field: "output".to_owned(),
            expected: "a file that is no patch to replace, or none".to_owned(),
            found: "a patch".to_owned(),
        });
    }
    Ok(())
}

/// Refuses to replace something else than a table by one, and the name of a kept result.
///
/// # Errors
/// When there is a file that does not begin with a row, or the name is that of a result.
pub fn check_report(output: &Path) -> Result<()> {
    if output.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(SUFFIX.as_bytes())) {
        return Err(Error::Content {
            path: output.to_owned(),
            field: "output".to_owned(),
            expected: format!("a name that does not end in {SUFFIX}"),
            found: "the name of a kept result".to_owned(),
        });
    }
    check_replaces(output, "a table in Markdown", &[b"|"])
}

/// Refuses to replace something else than a picture by one.
///
/// # Errors
/// When there is another file.
pub fn check_picture(output: &Path) -> Result<()> {
    check_replaces(output, "a picture", &[b"<svg", b"\x89PNG"])
}

/// Refuses to replace a file that begins with none of these bytes, and is not empty.
fn check_replaces(output: &Path, what: &str, begins: &[&[u8]]) -> Result<()> {
    check_no_patch(output)?;
    if !fs::metadata(output).is_ok_and(|there| there.is_file() && there.len() > 0) {
        return Ok(());
    }
    let mut first = Vec::new();
    let read = File::open(output).and_then(|file| file.take(4).read_to_end(&mut first));
    if read.is_ok() && begins.iter().any(|begin| first.starts_with(begin)) {
        return Ok(());
    }
    Err(Error::Content {
        path: output.to_owned(),
        field: "output".to_owned(),
        expected: format!("{what} to replace, or no file"),
        found: "another file".to_owned(),
    })
}

/// Refuses to replace something else than tensors by tensors.
///
/// # Errors
/// When there is a file that is no safetensors file.
pub fn check_tensors(output: &Path) -> Result<()> {
    check_no_patch(output)?;
    let there = fs::metadata(output).is_ok_and(|there| there.is_file() && there.len() > 0);
    if there && Checkpoint::open_file(output).is_err() {
        return Err(Error::Content {
            path: output.to_owned(),
            field: "output".to_owned(),
            expected: "a safetensors file to replace, or none".to_owned(),
            found: "another file".to_owned(),
        });
    }
    Ok(())
}

/// Whether two paths name one file, which need not be there yet.
pub fn same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some((fs::canonicalize(directory).ok()?, path.file_name()?.to_owned()))
    };
    one == other || place(one).is_some_and(|place_of_one| place(other) == Some(place_of_one))
}

/// Refuses a kept result whose patch, of so many bytes, is gone or another file.
///
/// # Errors
/// When it is.
pub fn check_kept(patch: &Path, bytes: usize) -> Result<()> {
    let found = match fs::metadata(patch) {
        Ok(there) if there.len() == bytes as u64 => return Ok(()),
        Ok(there) => format!("a file of {} bytes", there.len()),
        Err(_) => "no file".to_owned(),
    };
    Err(Error::Content {
        path: patch.to_owned(),
        field: "patch".to_owned(),
        expected: format!(
            "{bytes} bytes, as its result beside it says; remove {}.json to train again",
            patch.display()
        ),
        found,
    })
}

/// Refuses notes of which two have one key.
///
/// # Errors
/// When there are such.
pub fn check_notes(notes: &[(String, String)]) -> Result<()> {
    match (1..notes.len()).find(|at| notes[..*at].iter().any(|(key, _)| *key == notes[*at].0)) {
        None => Ok(()),
        Some(at) => {
            let (expected, found) = ("each key once".to_owned(), format!("{} twice", notes[at].0));
            Err(Error::Recipe { field: "--note".to_owned(), expected, found })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_apart_from_patches_logs_and_other_files() {
        let dir = tempfile::TempDir::new().unwrap();
        let [patch, text, none] = ["a.bias", "b.txt", "none"].map(|name| dir.path().join(name));
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../library/embed.bias");
        fs::copy(&shipped, &patch).unwrap();
        fs::write(&text, "text").unwrap();
        for free in [&text, &none, &dir.path().to_owned()] {
            check_no_patch(free).unwrap();
        }
        let refused = check_no_patch(&patch).unwrap_err().to_string();
        assert!(refused.contains("a.bias") && refused.ends_with("found a patch"), "{refused}");
        assert!(check_report(&text).is_err() && check_picture(&text).is_err());
        let [table, picture] = [("t.md", "| a |\n"), ("p.svg", "<svg></svg>")].map(|(name, content)| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        });
        check_report(&table).unwrap();
        check_picture(&picture).unwrap();
        assert!(check_report(&picture).is_err() && check_picture(&table).is_err());
        check_picture(&none).unwrap();
        let refused = check_report(&dir.path().join("cola-all.bias.json")).unwrap_err().to_string();
        assert!(refused.ends_with("found the name of a kept result"), "{refused}");
        let task = dir.path().join("task.json");
        fs::write(&task, r#"{"task":{"name":"t"}}"#).unwrap();
        assert!(check_tensors(&task).is_err());
        assert!(check_report(&patch).is_err() && check_tensors(&patch).is_err() && check_tensors(&text).is_err());
        let tensors = dir.path().join("c.safetensors");
        for free in [&tensors, &none, &dir.path().to_owned()] {
            check_tensors(free).unwrap();
            fs::write(&tensors, b"\x02\0\0\0\0\0\0\0{}").unwrap();
        }

        let bytes = usize::try_from(fs::metadata(&patch).unwrap().len()).unwrap();
        check_kept(&patch, bytes).unwrap();
        assert!(check_kept(&text, bytes).unwrap_err().to_string().ends_with("found a file of 4 bytes"));
        assert!(check_kept(&none, bytes).unwrap_err().to_string().contains("none.json to train again, found no file"));

        assert!(same_place(&none, &dir.path().join(".").join("none")) && same_place(Path::new("x"), Path::new("./x")));
        assert!(!same_place(&none, &text));
    }

    #[test]
    fn a_key_is_noted_once() {
        let note = |key: &str| (key.to_owned(), String::new());
        check_notes(&[note("a"), note("b")]).unwrap();
        let refused = check_notes(&[note("a"), note("b"), note("a")]).unwrap_err().to_string();
        assert_eq!(refused, "--note: expected each key once, found a twice");
    }
}
