//! Makes a `vocabulary.bin`.
//!
//! In: the text of a `tokenizer.json`. Out: bytes, if its model is WordPiece, BPE without marks within words, or
//! Unigram. Refused: text that is not JSON, or whose words, ids and merges do not fit each other.

use serde_json::{Map, Value};

use super::{MAGIC, MERGES, MERGES_WITH_OPTIONS, WORDS, pair, unigram, walk};
use crate::{Error, Result};

/// The bytes of the `vocabulary.bin` of a `tokenizer.json`; none if its model is not WordPiece, BPE without dropout
/// and marks within words, or Unigram.
///
/// # Errors
/// When the text is not JSON, its vocabulary is not one of words and numbers or of pieces and scores, its merges are not
/// of these words, or its charsmap is damaged.
pub fn vocabulary_of(tokenizer: &[u8]) -> Result<Option<Vec<u8>>> {
    if unigram::is_in(tokenizer) {
        return unigram::vocabulary_of(tokenizer);
    }
    let mut json: Value = serde_json::from_slice(tokenizer).map_err(not_json)?;
    let Some(model) = json.get_mut("model").and_then(Value::as_object_mut) else { return Ok(None) };
    let Some(version) = version_of(model) else { return Ok(None) };
    let Some(Value::Object(words)) = model.get_mut("vocab").map(Value::take) else {
        return Err(Error::field("model.vocab", "words and their numbers", "something else"));
    };
    let mut tokens: Vec<(u32, &str)> = Vec::with_capacity(words.len());
    for (word, id) in &words {
        let number = number(id).ok_or_else(|| Error::field(format!("model.vocab, {word:?}"), "a number", id))?;
        tokens.push((number, word));
    }
    tokens.sort_unstable();
    model.insert("vocab".to_owned(), Value::Object(Map::new()));
    let merges = if version != WORDS {
        let listed = model.insert("merges".to_owned(), Value::Array(Vec::new()));
        merges_of(listed.as_ref(), &words)?
    } else {
        Vec::new()
    };
    let mut settings = json.to_string().into_bytes();
    settings.resize(settings.len().next_multiple_of(4), b' ');

    let mut records = Vec::with_capacity(tokens.len());
    let mut text = Vec::new();
    for (id, word) in &tokens {
        text.extend(word.as_bytes());
        records.push([small(text.len())?, *id]);
    }
    let places = table(&tokens.iter().map(|(_, word)| word.as_bytes()).collect::<Vec<_>>())?;
    let mut counts = vec![settings.len(), places.len(), records.len(), text.len()];
    let mut merge_places = Vec::new();
    if version != WORDS {
        merge_places = table(&merges.iter().map(|[left, right, _]| pair(*left, *right)).collect::<Vec<_>>())?;
        counts.extend([merge_places.len(), merges.len()]);
    }

    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(version.to_le_bytes());
    bytes.extend([0; 2]);
    for count in counts {
        bytes.extend(small(count)?.to_le_bytes());
    }
    bytes.extend(&settings);
    let records = records.as_flattened();
    for number in [&places[..], records, &merge_places[..], merges.as_flattened()].into_iter().flatten() {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(&text);
    Ok(Some(bytes))
}

/// The version that holds a model. Old files do not name theirs: the `tokenizers` crate tries BPE's fields, then
/// WordPiece's.
fn version_of(model: &Map<String, Value>) -> Option<u16> {
    let named = |name: &str, field: &str| match model.get("type") {
        Some(found) => found == name,
        None => model.contains_key(field),
    };
    if named("BPE", "merges") {
        return version_of_bpe(model);
    }
    named("WordPiece", "max_input_chars_per_word").then_some(WORDS)
}

/// The version that holds a BPE; none if merges are left out by chance, or there are marks within words. RoBERTa's is
/// nothing but words and merges. SentencePiece's has tokens for what is unknown: a reader of version 2 would drop that.
fn version_of_bpe(model: &Map<String, Value>) -> Option<u16> {
    let option = |name: &str| model.get(name).unwrap_or(&Value::Null);
    let unset = |name: &str| option(name).is_null();
    let empty = |name: &str| unset(name) || option(name).as_str() == Some("");
    let off = |name: &str| unset(name) || option(name).as_bool() == Some(false);
    if !unset("dropout") || !["continuing_subword_prefix", "end_of_word_suffix"].into_iter().all(empty) {
        return None;
    }
    let is_plain = unset("unk_token") && ["byte_fallback", "ignore_merges"].into_iter().all(off);
    Some(if is_plain { MERGES } else { MERGES_WITH_OPTIONS })
}

/// The numbers of the two words of each merge, and of the word that they make.
fn merges_of(listed: Option<&Value>, words: &Map<String, Value>) -> Result<Vec<[u32; 3]>> {
    let listed = listed.and_then(Value::as_array);
    let listed = listed.ok_or_else(|| Error::field("model.merges", "a list", "something else"))?;
    // Older files have the two words in one string, and may begin with the first line of the file they were made of.
    let merges = listed.iter().filter(|merge| !merge.as_str().is_some_and(|line| line.starts_with("#version")));
    let numbers = |merge: &Value| {
        let (left, right) = match merge {
            Value::String(line) => line.split_once(' ')?,
            Value::Array(two) => match two.as_slice() {
                [left, right] => (left.as_str()?, right.as_str()?),
                _ => return None,
            },
            _ => return None,
        };
        let id = |word: &str| number(words.get(word)?);
        Some([id(left)?, id(right)?, id(&format!("{left}{right}"))?])
    };
    let unknown = |merge: &Value| Error::field("model.merges", "two words of the vocabulary that make a third", merge);
    merges.map(|merge| numbers(merge).ok_or_else(|| unknown(merge))).collect()
}

/// A table of keys: 1 + a key's place in their list, 0 where there is none. Of equal keys the last is found.
fn table<K: AsRef<[u8]>>(keys: &[K]) -> Result<Vec<u32>> {
    let mut places = vec![0u32; (2 * keys.len()).next_power_of_two()];
    for (at, key) in keys.iter().map(AsRef::as_ref).enumerate() {
        let free = walk(key, places.len())
            .find(|place| places[*place].checked_sub(1).is_none_or(|taken| keys[taken as usize].as_ref() == key));
        places[free.expect("there are twice as many places as keys")] = small(at + 1)?;
    }
    Ok(places)
}

/// A number of JSON that fits.
fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

pub(super) fn not_json(error: serde_json::Error) -> Error {
    Error::field("tokenizer.json", "JSON", error.to_string())
}

pub(super) fn small(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::field("vocabulary", "less than 4 GiB", count))
}
