//! The words of a tokenizer in a table that is searched where it lies, so that no start has to read them all.
//!
//! In: the text of a `tokenizer.json` whose model is WordPiece. Out: the bytes of a `vocabulary.bin`, and of such bytes a
//! [`Vocabulary`]. Refused: bytes whose parts do not add up. The layout is in `FORMAT.md`.

use std::ops::Range;

use serde_json::Value;

use crate::{Error, Result};

/// The file's name in a bundle.
pub const VOCABULARY: &str = "vocabulary.bin";

const MAGIC: &[u8; 8] = b"BIASVOCB";
const VERSION: u16 = 1;
/// What comes before the settings.
const PREAMBLE_BYTES: usize = 28;

/// A tokenizer's words and numbers over the bytes of a `vocabulary.bin`.
#[derive(Clone, Debug)]
pub struct Vocabulary<B> {
    bytes: B,
    settings: Range<usize>,
    places: Range<usize>,
    tokens: Range<usize>,
    text: Range<usize>,
}

/// The bytes of the `vocabulary.bin` of a `tokenizer.json`; none if its model is not WordPiece.
///
/// # Errors
/// When the text is not JSON, or its vocabulary is not one of words and numbers.
pub fn vocabulary_of(tokenizer: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut json: Value =
        serde_json::from_slice(tokenizer).map_err(|e| Error::field("tokenizer.json", "JSON", e.to_string()))?;
    let model = json.get_mut("model").and_then(Value::as_object_mut);
    let Some(model) = model.filter(|model| is_word_piece(model)) else { return Ok(None) };
    let Some(Value::Object(words)) = model.get_mut("vocab").map(Value::take) else {
        return Err(Error::field("model.vocab", "words and their numbers", "something else"));
    };
    let mut tokens: Vec<(u32, &str)> = Vec::with_capacity(words.len());
    for (word, id) in &words {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let number = number.ok_or_else(|| Error::field(format!("model.vocab, {word:?}"), "a number", id))?;
        tokens.push((number, word));
    }
    tokens.sort_unstable();
    model.insert("vocab".to_owned(), Value::Object(serde_json::Map::new()));
    let mut settings = json.to_string().into_bytes();
    settings.resize(settings.len().next_multiple_of(4), b' ');

    let mut places = vec![0u32; (2 * tokens.len()).next_power_of_two()];
    let mut records = Vec::with_capacity(tokens.len());
    let mut text = Vec::new();
    for (at, (id, word)) in tokens.iter().enumerate() {
        let count = places.len();
        let free = walk(word.as_bytes(), count).find(|place| places[*place] == 0);
        // There are twice as many places as tokens.
        places[free.unwrap_or(0)] = small(at + 1)?;
        text.extend(word.as_bytes());
        records.push((small(text.len())?, *id));
    }
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 2]);
    for count in [settings.len(), places.len(), records.len(), text.len()] {
        bytes.extend(small(count)?.to_le_bytes());
    }
    bytes.extend(&settings);
    bytes.extend(places.iter().flat_map(|place| place.to_le_bytes()));
    bytes.extend(records.iter().flat_map(|(end, id)| [end.to_le_bytes(), id.to_le_bytes()]).flatten());
    bytes.extend(&text);
    Ok(Some(bytes))
}

/// Whether a model says so, or, as old files do, says nothing and has WordPiece's own field.
fn is_word_piece(model: &serde_json::Map<String, Value>) -> bool {
    match model.get("type") {
        Some(name) => name == "WordPiece",
        None => model.contains_key("max_input_chars_per_word"),
    }
}

impl<B: AsRef<[u8]>> Vocabulary<B> {
    /// Checks that the parts of a `vocabulary.bin` add up.
    ///
    /// # Errors
    /// Naming the part that does not.
    pub fn parse(bytes: B) -> Result<Self> {
        let whole = bytes.as_ref();
        if !whole.starts_with(MAGIC) || whole.len() < PREAMBLE_BYTES {
            return Err(Error::field("vocabulary", "a file that begins with \"BIASVOCB\"", "another"));
        }
        let version = u16::from_le_bytes([whole[8], whole[9]]);
        if version != VERSION {
            return Err(Error::Version { what: "vocabulary", expected: VERSION.into(), found: version.into() });
        }
        if whole[10..12] != [0, 0] {
            return Err(Error::field("bytes 10 and 11", "zeros", format!("{:?}", &whole[10..12])));
        }
        let count = |at: usize| u64::from(word_at(&whole[PREAMBLE_BYTES - 16..], at).unwrap_or(0));
        let (places, tokens) = (count(1), count(2));
        // Sums of four numbers below 2^35.
        let ends =
            [count(0), 4 * places, 8 * tokens, count(3)].into_iter().scan(PREAMBLE_BYTES as u64, |end, bytes| {
                *end += bytes;
                Some(*end)
            });
        let ends: Vec<u64> = ends.collect();
        if ends[3] != whole.len() as u64 {
            let found = whole.len() as u64;
            return Err(Error::Length { part: "file".to_owned(), expected: ends[3], found });
        }
        if !places.is_power_of_two() || places < 2 * tokens {
            return Err(Error::field("places", "a power of two, at least twice the tokens", places));
        }
        // No end is beyond the length of what is in memory.
        let end = |at: usize| usize::try_from(ends[at]).unwrap_or(usize::MAX);
        let vocabulary = Vocabulary {
            settings: PREAMBLE_BYTES..end(0),
            places: end(0)..end(1),
            tokens: end(1)..end(2),
            text: end(2)..end(3),
            bytes,
        };
        if std::str::from_utf8(vocabulary.part(&vocabulary.settings)).is_err() {
            return Err(Error::field("settings", "UTF-8", "other bytes"));
        }
        Ok(vocabulary)
    }

    /// The rest of the `tokenizer.json`: its vocabulary left empty.
    pub fn settings(&self) -> &str {
        std::str::from_utf8(self.part(&self.settings)).unwrap_or_default()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len() / 8
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The number of a token.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        let places = self.part(&self.places);
        for place in walk(token, places.len() / 4) {
            let at = word_at(places, place)?.checked_sub(1)?;
            let (found, id) = self.token(usize::try_from(at).ok()?)?;
            if found == token {
                return Some(id);
            }
        }
        None
    }

    /// Tokens and their numbers, by number.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        (0..self.len()).map_while(|at| self.token(at))
    }

    fn token(&self, at: usize) -> Option<(&[u8], u32)> {
        let tokens = self.part(&self.tokens);
        let begin = match at.checked_sub(1) {
            Some(before) => word_at(tokens, 2 * before)?,
            None => 0,
        };
        let range = usize::try_from(begin).ok()?..usize::try_from(word_at(tokens, 2 * at)?).ok()?;
        Some((self.part(&self.text).get(range)?, word_at(tokens, 2 * at + 1)?))
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.as_ref().get(range.clone()).unwrap_or_default()
    }
}

/// Where to look for a token among `count` places, a power of two: from its hash (FNV-1a) on, each place once.
fn walk(token: &[u8], count: usize) -> impl Iterator<Item = usize> {
    let hash = token.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (0..count).map(move |step| (hash as usize).wrapping_add(step) & (count - 1))
}

/// The number at a place of a list of 32-bit numbers.
fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.as_chunks().0.get(at).map(|bytes| u32::from_le_bytes(*bytes))
}

fn small(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::field("vocabulary", "less than 4 GiB", count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &str = r###"{"version":"1.0","model":{"type":"WordPiece","unk_token":"[UNK]",
        "vocab":{"[UNK]":0,"a":5,"##a":2,"été":3,"":4}},"normalizer":null}"###;

    fn made() -> Vec<u8> {
        vocabulary_of(TOKENIZER.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn every_token_is_found_and_no_other() {
        let vocabulary = Vocabulary::parse(made()).unwrap();
        assert_eq!(vocabulary.len(), 5);
        for (token, id) in [("[UNK]", 0), ("a", 5), ("##a", 2), ("été", 3), ("", 4)] {
            assert_eq!(vocabulary.id(token.as_bytes()), Some(id), "{token}");
        }
        for token in ["b", "##", "ét", "A"] {
            assert_eq!(vocabulary.id(token.as_bytes()), None, "{token}");
        }
        let ids: Vec<u32> = vocabulary.iter().map(|(_, id)| id).collect();
        assert_eq!(ids, [0, 2, 3, 4, 5]);
        let settings: Value = serde_json::from_str(vocabulary.settings()).unwrap();
        assert_eq!(settings["model"]["vocab"], Value::Object(serde_json::Map::new()));
        assert_eq!(settings["model"]["unk_token"], "[UNK]");
    }

    #[test]
    fn models_of_other_kinds_have_none() {
        let of = |model: &str| vocabulary_of(format!("{{\"model\":{model}}}").as_bytes());
        assert!(of(r#"{"type":"BPE","vocab":{},"merges":[]}"#).unwrap().is_none());
        assert!(of(r#"{"vocab":{"a":0}}"#).unwrap().is_none());
        assert!(of(r#"{"max_input_chars_per_word":100,"vocab":{"a":0}}"#).unwrap().is_some());
        assert!(of(r#"{"type":"WordPiece","vocab":{"a":-1}}"#).unwrap_err().to_string().contains("\"a\""));
        assert!(vocabulary_of(b"{").is_err());
    }

    #[test]
    fn damaged_bytes_are_refused_or_find_nothing() {
        let whole = made();
        for (at, said) in
            [(0, "BIASVOCB"), (8, "version"), (10, "zeros"), (12, "bytes"), (16, "bytes"), (20, "bytes"), (24, "bytes")]
        {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let error = Vocabulary::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(said), "byte {at}: {error}");
        }
        for length in 0..whole.len() {
            assert!(Vocabulary::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        // Whatever the tables say, a search ends.
        for at in PREAMBLE_BYTES..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] = 0xff;
            if let Ok(vocabulary) = Vocabulary::parse(bytes) {
                let _ = (vocabulary.id(b"a"), vocabulary.id(b"b"), vocabulary.iter().count());
            }
        }
    }
}
