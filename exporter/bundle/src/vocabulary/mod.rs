//! The words of a tokenizer in a table that is searched where it lies, so that no start has to read them all.
//!
//! In: the bytes of a `vocabulary.bin`. Out: a [`Vocabulary`]. Refused: bytes whose parts do not add up.
//! [`vocabulary_of`] makes such bytes of a `tokenizer.json`. The layout is in `FORMAT.md`.

mod build;

use std::ops::Range;

pub use build::vocabulary_of;

use crate::{Error, Result};

/// The file's name in a bundle.
pub const VOCABULARY: &str = "vocabulary.bin";

const MAGIC: &[u8; 8] = b"BIASVOCB";
/// Words of a WordPiece model.
const WORDS: u16 = 1;
/// Words and the merges of a BPE model.
const MERGES: u16 = 2;
/// What comes before the numbers that say how long the parts are.
const HEAD_BYTES: usize = 12;

/// A tokenizer's words, their numbers and how they merge, over the bytes of a `vocabulary.bin`.
#[derive(Clone, Debug)]
pub struct Vocabulary<B> {
    bytes: B,
    settings: Range<usize>,
    places: Range<usize>,
    tokens: Range<usize>,
    merge_places: Range<usize>,
    merges: Range<usize>,
    text: Range<usize>,
}

impl<B: AsRef<[u8]>> Vocabulary<B> {
    /// Checks that the parts of a `vocabulary.bin` add up.
    ///
    /// # Errors
    /// Naming the part that does not.
    pub fn parse(bytes: B) -> Result<Self> {
        let whole = bytes.as_ref();
        if !whole.starts_with(MAGIC) || whole.len() < HEAD_BYTES {
            return Err(Error::field("vocabulary", "a file that begins with \"BIASVOCB\"", "another"));
        }
        let version = u16::from_le_bytes([whole[8], whole[9]]);
        let preamble_bytes = match version {
            WORDS => HEAD_BYTES + 4 * 4,
            MERGES => HEAD_BYTES + 6 * 4,
            _ => return Err(Error::Version { what: "vocabulary", expected: "1 or 2", found: version.into() }),
        };
        if whole[10..12] != [0, 0] {
            return Err(Error::field("bytes 10 and 11", "zeros", format!("{:?}", &whole[10..12])));
        }
        let length = |expected| {
            let found = whole.len() as u64;
            Error::Length { part: "file".to_owned(), expected, found }
        };
        let counts = whole.get(HEAD_BYTES..preamble_bytes).ok_or_else(|| length(preamble_bytes as u64))?;
        let count = |at: usize| u64::from(word_at(counts, at).unwrap_or(0));
        let (places, tokens, merge_places, merges) = (count(1), count(2), count(4), count(5));
        // Sums of a few numbers below 2^36.
        let parts = [count(0), 4 * places, 8 * tokens, 4 * merge_places, 12 * merges, count(3)];
        let ends = parts.map({
            let mut end = preamble_bytes as u64;
            move |bytes| {
                end += bytes;
                end
            }
        });
        if ends[5] != whole.len() as u64 {
            return Err(length(ends[5]));
        }
        let mut tables = vec![("places", places, tokens)];
        if version == MERGES {
            tables.push(("places of merges", merge_places, merges));
        }
        for (name, places, keys) in tables {
            if !places.is_power_of_two() || places < 2 * keys {
                return Err(Error::field(name, "a power of two, at least twice what they are for", places));
            }
        }
        let end = |at: usize| usize::try_from(ends[at]).expect("no end is beyond the length of what is in memory");
        let vocabulary = Vocabulary {
            settings: preamble_bytes..end(0),
            places: end(0)..end(1),
            tokens: end(1)..end(2),
            merge_places: end(2)..end(3),
            merges: end(3)..end(4),
            text: end(4)..end(5),
            bytes,
        };
        if std::str::from_utf8(vocabulary.part(&vocabulary.settings)).is_err() {
            return Err(Error::field("settings", "UTF-8", "other bytes"));
        }
        Ok(vocabulary)
    }

    /// The rest of the `tokenizer.json`: its vocabulary left empty.
    pub fn settings(&self) -> &[u8] {
        self.part(&self.settings)
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
        find(self.part(&self.places), token, |at| self.token(at))
    }

    /// The first token of a number.
    pub fn token_of(&self, id: u32) -> Option<&[u8]> {
        let records: &[[u8; 8]] = self.part(&self.tokens).as_chunks().0;
        let at = records.partition_point(|record| word_at(record, 1).is_some_and(|found| found < id));
        self.token(at).filter(|(_, found)| *found == id).map(|(token, _)| token)
    }

    /// Tokens and their numbers, by number.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        (0..self.len()).map_while(|at| self.token(at))
    }

    /// Whether the model is BPE, and not WordPiece.
    pub fn has_merges(&self) -> bool {
        !self.merge_places.is_empty()
    }

    /// The place in the list of merges of two tokens' merge, and the number of the token that they make.
    pub fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        find(self.part(&self.merge_places), &pair(left, right), |at| {
            let record: &[u8; 12] = record(self.part(&self.merges), at)?;
            let key = pair(word_at(record, 0)?, word_at(record, 1)?);
            Some((key, (u32::try_from(at).ok()?, word_at(record, 2)?)))
        })
    }

    fn token(&self, at: usize) -> Option<(&[u8], u32)> {
        let end = |at| {
            let record: &[u8; 8] = record(self.part(&self.tokens), at)?;
            Some((usize::try_from(word_at(record, 0)?).ok()?, word_at(record, 1)?))
        };
        let begin = match at.checked_sub(1) {
            Some(before) => end(before)?.0,
            None => 0,
        };
        let (end, id) = end(at)?;
        Some((self.part(&self.text).get(begin..end)?, id))
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        // `parse` has found every part in these bytes.
        &self.bytes.as_ref()[range.clone()]
    }
}

/// Looks for a key in a table: `item` gives the key at a place of the list, and what is asked of it.
fn find<K: AsRef<[u8]>, T>(places: &[u8], key: &[u8], item: impl Fn(usize) -> Option<(K, T)>) -> Option<T> {
    for place in walk(key, places.len() / 4) {
        let at = word_at(places, place)?.checked_sub(1)?;
        let (found, value) = item(usize::try_from(at).ok()?)?;
        if found.as_ref() == key {
            return Some(value);
        }
    }
    None
}

/// What a merge is looked up by.
fn pair(left: u32, right: u32) -> [u8; 8] {
    (u64::from(left) | u64::from(right) << 32).to_le_bytes()
}

/// Where to look for a key among `count` places, a power of two: from its hash (FNV-1a) on, each place once.
fn walk(key: &[u8], count: usize) -> impl Iterator<Item = usize> {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (0..count).map(move |step| (hash as usize).wrapping_add(step) & (count - 1))
}

/// The record at a place of a list.
fn record<const BYTES: usize>(list: &[u8], at: usize) -> Option<&[u8; BYTES]> {
    list.as_chunks().0.get(at)
}

/// The number at a place of a list of 32-bit numbers.
fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    record::<4>(bytes, at).map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const TOKENIZER: &str = r###"{"version":"1.0","model":{"type":"WordPiece","unk_token":"[UNK]",
        "vocab":{"[UNK]":0,"a":5,"##a":2,"été":3,"":4}},"normalizer":null}"###;

    /// As RoBERTa's. A merge that is said twice counts where it is said last.
    const BPE: &str = r#"{"version":"1.0","model":{"type":"BPE","dropout":null,"unk_token":null,
        "continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":false,
        "vocab":{"a":7,"b":1,"é":2,"ab":3,"aba":9,"éé":4},
        "merges":[["a","b"],["é","é"],["ab","a"],["a","b"]]}}"#;

    fn made() -> Vec<u8> {
        vocabulary_of(TOKENIZER.as_bytes()).unwrap().unwrap()
    }

    fn made_of(model: &str) -> Result<Option<Vec<u8>>> {
        vocabulary_of(format!("{{\"model\":{model}}}").as_bytes())
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
        let settings: Value = serde_json::from_slice(vocabulary.settings()).unwrap();
        assert_eq!(settings["model"]["vocab"], Value::Object(serde_json::Map::new()));
        assert_eq!(settings["model"]["unk_token"], "[UNK]");
        assert!(!vocabulary.has_merges() && vocabulary.merge(5, 2).is_none());
        for (id, token) in [(0, Some("[UNK]")), (4, Some("")), (5, Some("a")), (1, None), (6, None)] {
            assert_eq!(vocabulary.token_of(id), token.map(str::as_bytes), "{id}");
        }
    }

    #[test]
    fn every_merge_is_found_and_no_other() {
        let vocabulary = Vocabulary::parse(vocabulary_of(BPE.as_bytes()).unwrap().unwrap()).unwrap();
        assert!(vocabulary.has_merges());
        assert_eq!(vocabulary.id("éé".as_bytes()), Some(4));
        assert_eq!(vocabulary.token_of(9), Some(&b"aba"[..]));
        for (left, right, due) in [(7, 1, Some((3, 3))), (2, 2, Some((1, 4))), (3, 7, Some((2, 9))), (1, 7, None)] {
            assert_eq!(vocabulary.merge(left, right), due, "{left} {right}");
        }
        let settings: Value = serde_json::from_slice(vocabulary.settings()).unwrap();
        assert_eq!(settings["model"]["merges"], Value::Array(Vec::new()));
        // The same merges as older files write them.
        let older = BPE.replace("[\"a\",\"b\"]", "\"a b\"").replace("[\"é\",\"é\"]", "\"é é\"");
        let older =
            older.replace("\"merges\":[", "\"merges\":[\"#version: 0.2\",").replace("[\"ab\",\"a\"]", "\"ab a\"");
        assert_eq!(vocabulary_of(older.as_bytes()).unwrap(), vocabulary_of(BPE.as_bytes()).unwrap());
        for merges in [r#"["a"]"#, r#"[["a","b","ab"]]"#, r#"[["a","c"]]"#, r#"["b a"]"#, "[1]", "{}"] {
            let error = made_of(&format!(r#"{{"type":"BPE","vocab":{{"a":0,"b":1,"ab":2}},"merges":{merges}}}"#));
            let error = error.unwrap_err().to_string();
            assert!(error.contains("model.merges"), "{merges}: {error}");
        }
    }

    #[test]
    fn models_of_other_kinds_have_none() {
        for (model, due) in [
            (r#"{"type":"Unigram","vocab":[]}"#, false),
            (r#"{"vocab":{"a":0}}"#, false),
            (r#"{"max_input_chars_per_word":100,"vocab":{"a":0}}"#, true),
            (r#"{"type":"BPE","vocab":{},"merges":[]}"#, true),
            (r#"{"vocab":{},"merges":[],"byte_fallback":false}"#, true),
            (r#"{"type":"BPE","vocab":{},"merges":[],"dropout":0.1}"#, false),
            (r#"{"type":"BPE","vocab":{},"merges":[],"unk_token":"<unk>"}"#, false),
            (r###"{"type":"BPE","vocab":{},"merges":[],"continuing_subword_prefix":"##"}"###, false),
            (r#"{"type":"BPE","vocab":{},"merges":[],"end_of_word_suffix":"</w>"}"#, false),
            (r#"{"type":"BPE","vocab":{},"merges":[],"byte_fallback":true}"#, false),
            (r#"{"type":"BPE","vocab":{},"merges":[],"ignore_merges":true}"#, false),
        ] {
            assert_eq!(made_of(model).unwrap().is_some(), due, "{model}");
        }
        assert!(made_of(r#"{"type":"WordPiece","vocab":{"a":-1}}"#).unwrap_err().to_string().contains("\"a\""));
        assert!(vocabulary_of(b"{").is_err());
    }

    #[test]
    fn damaged_bytes_are_refused_or_find_nothing() {
        let heads = [(0, "BIASVOCB"), (8, "version"), (10, "zeros")];
        // The numbers that say how long the parts are.
        for (whole, preamble_bytes) in [(made(), 28), (vocabulary_of(BPE.as_bytes()).unwrap().unwrap(), 36)] {
            let counts = (HEAD_BYTES..preamble_bytes).step_by(4).map(|at| (at, "bytes"));
            for (at, said) in heads.into_iter().chain(counts) {
                let mut bytes = whole.clone();
                // No version is the other's.
                bytes[at] ^= if at == 8 { 0x40 } else { 1 };
                let error = Vocabulary::parse(bytes).unwrap_err().to_string();
                assert!(error.contains(said), "byte {at}: {error}");
            }
            for length in 0..whole.len() {
                assert!(Vocabulary::parse(&whole[..length]).is_err(), "{length} bytes");
            }
            // Whatever the tables say, a search ends.
            for at in preamble_bytes..whole.len() {
                for value in [0, 1, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    if let Ok(vocabulary) = Vocabulary::parse(bytes) {
                        let _ = (vocabulary.id(b"a"), vocabulary.id(b"c"), vocabulary.iter().count());
                        let _ = (vocabulary.merge(7, 1), vocabulary.merge(1, 1), vocabulary.token_of(3));
                    }
                }
            }
        }
    }

    #[test]
    fn tables_without_room_are_refused() {
        let whole = vocabulary_of(BPE.as_bytes()).unwrap().unwrap();
        let number = |at: usize| word_at(&whole[HEAD_BYTES..], at).unwrap();
        for (at, record_bytes, said) in [(1, 8, "places:"), (4, 12, "places of merges:")] {
            // A record more and its bytes as places fewer leave the length as it is.
            let places = number(at) - record_bytes / 4;
            let mut bytes = whole.clone();
            bytes[HEAD_BYTES + 4 * at..][..4].copy_from_slice(&places.to_le_bytes());
            let records = at + 1;
            bytes[HEAD_BYTES + 4 * records..][..4].copy_from_slice(&(number(records) + 1).to_le_bytes());
            let error = Vocabulary::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
