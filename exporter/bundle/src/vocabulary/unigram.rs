//! Makes a `vocabulary.bin` of a Unigram model.
//!
//! In: the text of a `tokenizer.json`. Out: bytes. The text is read in one pass: of a vocabulary of 250,002 pieces, no
//! more than their text and their scores is held. Refused: an unknown piece that is not in the vocabulary, and a
//! charsmap that is none.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{
    Charsmap, MAGIC, PIECES,
    build::{not_json, small},
    trie,
};
use crate::{Error, Result};

/// Whether a `tokenizer.json` holds a Unigram model. Old files do not name theirs, but only Unigram's vocabulary is a
/// list.
pub(super) fn is_in(tokenizer: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Whole {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type")]
        name: Option<String>,
        vocab: IsList,
    }
    serde_json::from_slice::<Whole>(tokenizer)
        .is_ok_and(|whole| whole.model.name.map_or(whole.model.vocab.0, |name| name == "Unigram"))
}

/// The bytes of the `vocabulary.bin` of a Unigram model; none if its normalizer has more than one charsmap.
pub(super) fn vocabulary_of(tokenizer: &[u8]) -> Result<Option<Vec<u8>>> {
    #[derive(Deserialize)]
    struct Whole {
        model: Model,
        #[serde(flatten)]
        rest: Map<String, Value>,
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: Pieces,
        #[serde(flatten)]
        rest: Map<String, Value>,
    }
    let Whole { model: Model { vocab: pieces, rest: mut model }, mut rest } =
        serde_json::from_slice(tokenizer).map_err(not_json)?;
    let count = pieces.ends.len();
    if let Some(unknown) = model.get("unk_id").filter(|unknown| !unknown.is_null())
        && unknown.as_u64().is_none_or(|unknown| unknown >= count as u64)
    {
        return Err(Error::field("model.unk_id", format!("a number below {count}, as there are pieces"), unknown));
    }
    let mut charsmaps = rest.get_mut("normalizer").map_or(Ok(Vec::new()), take_charsmaps)?;
    if charsmaps.len() > 1 {
        return Ok(None);
    }
    let charsmap = charsmaps.pop().unwrap_or_default();
    model.insert("vocab".to_owned(), Value::Array(Vec::new()));
    rest.insert("model".to_owned(), Value::Object(model));
    let mut settings = Value::Object(rest).to_string().into_bytes();
    settings.resize(settings.len().next_multiple_of(4), b' ');

    let units = trie::build(&pieces.sorted()?);
    for number in [units.len(), count] {
        if number >= trie::LEAF as usize {
            return Err(Error::field("model.vocab", "less than 2^31 pieces and nodes of their trie", number));
        }
    }
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(PIECES.to_le_bytes());
    bytes.extend([0; 2]);
    for count in [settings.len(), units.len(), count, pieces.text.len(), charsmap.len()] {
        bytes.extend(small(count)?.to_le_bytes());
    }
    bytes.extend(pieces.scores.iter().copied().fold(f64::INFINITY, f64::min).to_le_bytes());
    bytes.extend(&settings);
    for number in units.as_flattened() {
        bytes.extend(number.to_le_bytes());
    }
    for (end, score) in pieces.ends.iter().zip(&pieces.scores) {
        bytes.extend(small(*end)?.to_le_bytes());
        bytes.extend(score.to_le_bytes());
    }
    bytes.extend(&charsmap);
    bytes.extend(pieces.text.as_bytes());
    Ok(Some(bytes))
}

/// Takes the charsmaps out of the normalizer of a `tokenizer.json`, and leaves empty strings.
///
/// # Errors
/// When one is missing or no charsmap. The `tokenizers` crate ends the program at such a one.
pub fn take_charsmaps(normalizer: &mut Value) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    add_charsmaps(normalizer, &mut found)?;
    Ok(found)
}

fn add_charsmaps(normalizer: &mut Value, found: &mut Vec<Vec<u8>>) -> Result<()> {
    let is_charsmap = normalizer.get("type").is_some_and(|name| name == "Precompiled");
    if is_charsmap || normalizer.get("precompiled_charsmap").is_some() {
        let charsmap = &mut normalizer["precompiled_charsmap"];
        let bad = |found: &str| {
            let expected = "a table of SentencePiece's normalizer, in base64";
            Error::field("normalizer.precompiled_charsmap", expected, found)
        };
        let bytes = charsmap.as_str().and_then(|text| base64::decode(text).ok()).ok_or_else(|| bad("another value"))?;
        if !Charsmap::parse(&bytes).is_some_and(|charsmap| charsmap.is_whole()) {
            return Err(bad(&format!("{} bytes that are none", bytes.len())));
        }
        found.push(bytes);
        *charsmap = Value::String(String::new());
    }
    let parts = normalizer.get_mut("normalizers").and_then(Value::as_array_mut);
    parts.into_iter().flatten().try_for_each(|part| add_charsmaps(part, found))
}

/// The list of pieces: their text one after another, where each ends there, and their scores.
#[derive(Default)]
struct Pieces {
    text: String,
    ends: Vec<usize>,
    scores: Vec<f64>,
}

impl Pieces {
    /// The pieces with their numbers, sorted by their bytes. Of pieces that are the same, the last.
    fn sorted(&self) -> Result<Vec<(&[u8], u32)>> {
        let mut begin = 0;
        let mut sorted = Vec::with_capacity(self.ends.len());
        for (number, end) in self.ends.iter().enumerate() {
            sorted.push((&self.text.as_bytes()[begin..*end], small(number)?));
            begin = *end;
        }
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(&a.1)));
        sorted.dedup_by_key(|(piece, _)| *piece);
        Ok(sorted)
    }
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Pieces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pieces and their scores")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pieces, A::Error> {
                let mut pieces = Pieces::default();
                while let Some((piece, score)) = list.next_element::<(String, f64)>()? {
                    pieces.text.push_str(&piece);
                    pieces.ends.push(pieces.text.len());
                    pieces.scores.push(score);
                }
                Ok(pieces)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Whether a value of JSON is a list. Nothing of it is kept.
struct IsList(bool);

impl<'de> Deserialize<'de> for IsList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrMap;
        impl<'de> Visitor<'de> for ListOrMap {
            type Value = IsList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or a map")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<IsList, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(IsList(true))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IsList, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(IsList(false))
            }
        }
        deserializer.deserialize_any(ListOrMap)
    }
}
