//! The words of a tokenizer in a table that is searched where it lies, so that no start has to read them all.
//!
//! In: the text of a `tokenizer.json` whose model is WordPiece or a BPE like RoBERTa's. Out: the bytes of a
//! `vocabulary.bin`, and of such bytes a [`Vocabulary`]. Refused: bytes whose parts do not add up. The layout is in
//! `FORMAT.md`.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The file's name in a bundle.
pub const VOCABULARY: &str = "vocabulary.bin";

const MAGIC: &[u8; 8] = b"BIASVOCB";
/// Words alone.
const WORDS: u16 = 1;
/// Words, and the merges of BPE.
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

/// The bytes of the `vocabulary.bin` of a `tokenizer.json`; none if its model is neither WordPiece nor a BPE like
/// RoBERTa's.
///
/// # Errors
/// When the text is not JSON, its vocabulary is not one of words and numbers, or its merges are not of these words.
pub fn vocabulary_of(tokenizer: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut json: Value =
        serde_json::from_slice(tokenizer).map_err(|e| Error::field("tokenizer.json", "JSON", e.to_string()))?;
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
    let merges = if version == MERGES {
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
    if version == MERGES {
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
        return is_plain(model).then_some(MERGES);
    }
    named("WordPiece", "max_input_chars_per_word").then_some(WORDS)
}

/// Whether a BPE is nothing but words and merges, as RoBERTa's is: no merge left out by chance or for a word that is
/// whole, no token for what is unknown, no marks within words.
fn is_plain(model: &Map<String, Value>) -> bool {
    let option = |name: &str| model.get(name).unwrap_or(&Value::Null);
    let unset = |name: &str| option(name).is_null();
    let empty = |name: &str| unset(name) || option(name).as_str() == Some("");
    let off = |name: &str| unset(name) || option(name).as_bool() == Some(false);
    ["dropout", "unk_token"].into_iter().all(unset)
        && ["continuing_subword_prefix", "end_of_word_suffix"].into_iter().all(empty)
        && ["byte_fallback", "ignore_merges"].into_iter().all(off)
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
        // There are twice as many places as keys.
        places[free.unwrap_or(0)] = small(at + 1)?;
    }
    Ok(places)
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
            _ => return Err(Error::Version { what: "vocabulary", expected: MERGES.into(), found: version.into() }),
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
        // No end is beyond the length of what is in memory.
        let end = |at: usize| usize::try_from(ends[at]).unwrap_or(usize::MAX);
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
        self.bytes.as_ref().get(range.clone()).unwrap_or_default()
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

/// A number of JSON that fits.
fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn small(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::field("vocabulary", "less than 4 GiB", count))
}

#[cfg(test)]
mod tests {
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
        let settings: Value = serde_json::from_str(vocabulary.settings()).unwrap();
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
        let settings: Value = serde_json::from_str(vocabulary.settings()).unwrap();
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
