//! Reads or builds the `tokenizer.json` of a checkpoint.
//!
//! In: a checkpoint directory. Out: its `tokenizer.json` as it is, or built from the files it has instead ([`build`]),
//! with what transformers' own settings change in it ([`settings`]). Refused: SentencePiece models without a
//! `tokenizer.json`, tokenizers that need more than such a file, and vocabularies that name rows the embedding table does
//! not have.

mod build;
mod json;
mod sentencepiece;
mod settings;

use std::path::{Path, PathBuf};

use edge_bundle::take_charsmaps;
use hf_checkpoint::Checkpoint;
use tokenizers::Tokenizer;

pub(crate) use self::sentencepiece::MODELS as SENTENCE_PIECE;
use self::{build::build, json::Json, settings::Settings};
use crate::{Error, Result};

/// The checkpoint's tokenizer, checked against an embedding table of `rows` rows, and what is odd about it.
pub(crate) fn of_checkpoint(checkpoint: &Checkpoint, rows: u32) -> Result<(Vec<u8>, Option<String>)> {
    of_file(checkpoint, checkpoint.path().join("tokenizer.json"), rows)
}

/// As [`of_checkpoint`], of a file that may have another name than `tokenizer.json`. The checkpoint has the settings.
pub(crate) fn of_file(checkpoint: &Checkpoint, ready: PathBuf, rows: u32) -> Result<(Vec<u8>, Option<String>)> {
    let settings = Settings::of_checkpoint(checkpoint)?;
    let (path, bytes) = if ready.exists() {
        let bytes = read(&ready)?;
        (ready, bytes)
    } else {
        let (path, tokenizer) = build(checkpoint, &settings)?;
        let text = tokenizer.to_string(false).map_err(|e| unsupported(&path, "vocabulary", "a tokenizer", e))?;
        (path, text.into_bytes())
    };
    let unreadable = |e: &dyn ToString| {
        let expected = "a tokenizer.json that the tokenizers library can read";
        unsupported(&path, "tokenizer", expected, e.to_string())
    };
    let mut json = Json::parse(&bytes, &settings.names()).map_err(|e| unreadable(&e))?;
    settings.apply(&mut json, rows);
    if let Some((token, id)) = json.highest().filter(|(_, id)| *id >= rows) {
        let expected = format!("ids below {rows}, as the word embedding table has rows");
        return Err(unsupported(&path, "vocabulary", &expected, format!("{id} for {token:?}")));
    }
    if json.highest().is_none() {
        return Err(unsupported(&path, "vocabulary", "at least one token", "none"));
    }
    let text = json.text().map_err(|e| unreadable(&e))?;
    take_charsmaps(&mut json.part("normalizer")).map_err(|e| unreadable(&e))?;
    let small = json.with_few_words().map_err(|e| unreadable(&e))?;
    Tokenizer::from_bytes(small.as_deref().or(text.as_deref()).unwrap_or(&bytes)).map_err(|e| unreadable(&e))?;
    let warning = lost_words(&json).map(|lost| format!("{}: {lost}", path.display()));
    Ok((text.unwrap_or(bytes), warning))
}

/// Whether lower-casing keeps a good part of the words from ever being found, as those of chemical formulas.
fn lost_words(json: &Json<'_>) -> Option<String> {
    let lower_cases = json.part("normalizer").get("lowercase").is_some_and(|flag| flag == true);
    let (lost, count) = json.capitals();
    (lower_cases && lost > count / 20).then(|| {
        format!(
            "{lost} of {count} words have capital letters and are never found, because texts are lower-cased; if the encoder \
             was trained on texts as they are, set \"do_lower_case\": false in tokenizer_config.json"
        )
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(hf_checkpoint::read_file(path)?)
}

fn unsupported(path: &Path, field: &str, expected: &str, found: impl ToString) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}
