//! The parts of a `tokenizer.json`, of which some are changed. The vocabulary stays the text that it is: of a quarter
//! of a million words only those that are asked for, their number and the highest id are looked at.
//!
//! In: the text. Out: the text with its changes, or none if there are none. Refused: text that is not JSON, or whose
//! vocabulary is not one of words.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// A token outside the model, as a `tokenizer.json` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// A `tokenizer.json`.
pub(super) struct Json<'a> {
    parts: BTreeMap<String, Cow<'a, RawValue>>,
    model: BTreeMap<String, &'a RawValue>,
    words: Words,
    added: Vec<Added>,
    changed: bool,
}

/// What is known of the words of a model.
#[derive(Default)]
struct Words {
    count: u32,
    /// How many have capital letters.
    capitals: u32,
    /// The word of the highest id.
    highest: Option<(String, u32)>,
    /// Ids of the words that were asked for.
    ids: BTreeMap<String, u32>,
    /// Whether they are a list, as in a Unigram model, and not names of ids.
    listed: bool,
}

impl<'a> Json<'a> {
    /// Reads a `tokenizer.json`; of its words, ids of those in `names` are kept.
    pub fn parse(text: &'a [u8], names: &[String]) -> serde_json::Result<Self> {
        let parts: BTreeMap<String, &RawValue> = serde_json::from_slice(text)?;
        let of = |name: &str| parts.get(name).map_or("null", |part| part.get());
        let model: BTreeMap<String, &RawValue> = serde_json::from_str(of("model"))?;
        let words = match model.get("vocab") {
            Some(words) => Look { names }.deserialize(&mut serde_json::Deserializer::from_str(words.get()))?,
            None => Words::default(),
        };
        let added: Option<Vec<Added>> = serde_json::from_str(of("added_tokens"))?;
        let parts = parts.into_iter().map(|(name, part)| (name, Cow::Borrowed(part))).collect();
        Ok(Json { parts, model, words, added: added.unwrap_or_default(), changed: false })
    }

    /// A part such as the normalizer; null if there is none.
    pub fn part(&self, name: &str) -> Value {
        self.parts.get(name).and_then(|part| serde_json::from_str(part.get()).ok()).unwrap_or(Value::Null)
    }

    /// Changes a part.
    pub fn set(&mut self, name: &str, value: &impl Serialize) {
        if let Ok(raw) = serde_json::value::to_raw_value(value) {
            self.parts.insert(name.to_owned(), Cow::Owned(raw));
            self.changed = true;
        }
    }

    /// The added token of that text.
    pub fn added(&self, content: &str) -> Option<&Added> {
        self.added.iter().find(|token| token.content == content)
    }

    /// The id that a token has, or gets when it is added.
    pub fn id_of(&self, content: &str) -> u32 {
        let known = self.added(content).map(|token| token.id).or_else(|| self.words.ids.get(content).copied());
        // As the tokenizers library counts on.
        let next = self.added.iter().map(|token| token.id.saturating_add(1)).max().unwrap_or(0);
        known.unwrap_or_else(|| next.max(self.words.count))
    }

    /// Adds a token, or replaces the one of its text.
    pub fn add(&mut self, token: Added) {
        match self.added.iter_mut().find(|there| there.content == token.content) {
            Some(there) if *there == token => return,
            Some(there) => *there = token,
            None => self.added.push(token),
        }
        self.added.sort_by_key(|token| token.id);
        let added = std::mem::take(&mut self.added);
        self.set("added_tokens", &added);
        self.added = added;
    }

    /// The token of the highest id.
    pub fn highest(&self) -> Option<(&str, u32)> {
        let added = self.added.iter().map(|token| (token.content.as_str(), token.id));
        let word = self.words.highest.iter().map(|(word, id)| (word.as_str(), *id));
        added.chain(word).max_by_key(|(_, id)| *id)
    }

    /// How many words have capital letters, added tokens aside, and how many words there are.
    pub fn capitals(&self) -> (u32, u32) {
        let added = self.added.iter().filter(|token| token.id < self.words.count && has_capitals(&token.content));
        (self.words.capitals.saturating_sub(u32::try_from(added.count()).unwrap_or(u32::MAX)), self.words.count)
    }

    /// The whole text, if something was changed.
    pub fn text(&self) -> serde_json::Result<Option<Vec<u8>>> {
        self.changed.then(|| serde_json::to_vec(&self.parts)).transpose()
    }

    /// The text with the first words of a Unigram model only, to try whether all else can be read. The library takes
    /// three hundred megabytes to hold a quarter of a million of them. None for other models, and where few words would
    /// not do.
    pub fn with_few_words(&self) -> serde_json::Result<Option<Vec<u8>>> {
        const FEW: usize = 1024;
        let unknown = self.model.get("unk_id").and_then(|id| serde_json::from_str::<usize>(id.get()).ok());
        if !self.words.listed || unknown.is_some_and(|id| id >= FEW) {
            return Ok(None);
        }
        let Some(words) = self.model.get("vocab") else { return Ok(None) };
        let few: Few<FEW> = serde_json::from_str(words.get())?;
        let few = serde_json::value::to_raw_value(&few.0)?;
        let mut model = self.model.clone();
        model.insert("vocab".to_owned(), &few);
        let model = serde_json::value::to_raw_value(&model)?;
        let mut parts: BTreeMap<&str, &RawValue> =
            self.parts.iter().map(|(name, part)| (name.as_str(), &**part)).collect();
        parts.insert("model", &model);
        serde_json::to_vec(&parts).map(Some)
    }
}

fn has_capitals(word: &str) -> bool {
    word.chars().any(char::is_uppercase)
}

/// Looks through words for some names.
struct Look<'a> {
    names: &'a [String],
}

impl Look<'_> {
    fn see(&self, words: &mut Words, word: Cow<'_, str>, id: u32) {
        words.count += 1;
        words.capitals += u32::from(has_capitals(&word));
        if self.names.iter().any(|name| *name == word) {
            words.ids.insert(word.clone().into_owned(), id);
        }
        if words.highest.as_ref().is_none_or(|(_, highest)| id >= *highest) {
            words.highest = Some((word.into_owned(), id));
        }
    }
}

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = Words;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Words, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("words and their ids, or words and their scores")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Words, M::Error> {
        let mut words = Words::default();
        while let Some((word, id)) = map.next_entry::<Cow<'de, str>, u32>()? {
            self.see(&mut words, word, id);
        }
        Ok(words)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Words, S::Error> {
        let mut words = Words { listed: true, ..Words::default() };
        while let Some((word, _)) = list.next_element::<(Cow<'de, str>, f64)>()? {
            let id = words.count;
            self.see(&mut words, word, id);
        }
        Ok(words)
    }
}

/// The first words of a list.
struct Few<const COUNT: usize>(Vec<(String, f64)>);

impl<'de, const COUNT: usize> Deserialize<'de> for Few<COUNT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First<const COUNT: usize>;
        impl<'de, const COUNT: usize> Visitor<'de> for First<COUNT> {
            type Value = Few<COUNT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words and scores")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Few<COUNT>, S::Error> {
                let mut few = Vec::new();
                while few.len() < COUNT
                    && let Some(word) = list.next_element()?
                {
                    few.push(word);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(First)
    }
}
