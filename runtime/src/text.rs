//! Token ids from text.
//!
//! In: one text or two. Out: token ids with special tokens, and the characters that each token stands for. Long texts
//! are cut as Hugging Face's `truncation=True` cuts them. Refused: empty texts, lists with empty words, and one text for
//! a task on two or the reverse. The `tokenizers` crate runs the checkpoint's tokenizer file. If the bundle has a
//! `vocabulary.bin`, words are looked up there.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use edge_bundle::{Bundle, VOCABULARY, Vocabulary};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    Encoding, PostProcessorWrapper, Tokenizer as WholeTokenizer,
    tokenizer::PostProcessor,
    utils::truncation::{TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings},
};

use crate::{
    Error, Result,
    engine::{Sequence, TaskValues},
    error::TextError,
    mapped::Mapped,
    mapped_tokenizer::{MappedTokenizer, mapped_tokenizer},
    memory::ask_memory,
    post_processor,
    subwords::Subwords,
};

/// The input of a task: one text, or two that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    first: String,
    second: Option<String>,
    /// The characters of each word of the first text, where white space does not tell words apart.
    words: Option<Vec<(usize, usize)>>,
}

impl Text {
    /// One text.
    pub fn one(text: impl Into<String>) -> Self {
        Text { first: text.into(), second: None, words: None }
    }

    /// Two texts, such as two sentences to compare, or a question and its context.
    pub fn pair(first: impl Into<String>, second: impl Into<String>) -> Self {
        Text { first: first.into(), second: Some(second.into()), words: None }
    }

    /// One text, as the list of its words. A word may hold white space, as Vietnamese ones do; white space around a word
    /// is not of the word. In the text a space stands between words.
    ///
    /// # Errors
    /// When there are no words, or one of them is empty.
    pub fn of_words(words: &[impl AsRef<str>]) -> Result<Self, TextError> {
        let words: Vec<&str> = words.iter().map(|word| word.as_ref().trim()).collect();
        if words.is_empty() {
            return Err(TextError::Empty);
        }
        if words.contains(&"") {
            return Err(TextError::Record("expected a list of words, found an empty word".to_owned()));
        }
        let mut next = 0;
        let places = words.iter().map(|word| {
            let start = next;
            next = start + word.chars().count() + 1;
            (start, next - 1)
        });
        let several = words.iter().any(|word| word.contains(char::is_whitespace));
        let places = several.then(|| places.collect());
        Ok(Text { first: words.join(" "), second: None, words: places })
    }

    /// The first text.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The same text after `prompt`.
    pub(crate) fn after(&self, prompt: &str) -> Self {
        Text { first: format!("{prompt}{}", self.first), ..self.clone() }
    }

    /// The second text.
    pub fn second(&self) -> Option<&str> {
        self.second.as_deref()
    }

    /// The characters of each word of the first text, in order: words as they were given, or else what white space
    /// tells apart.
    pub fn words(&self) -> Cow<'_, [(usize, usize)]> {
        self.words.as_deref().map_or_else(|| words(&self.first).into(), Cow::from)
    }

    /// Bytes of all its text.
    pub fn bytes(&self) -> usize {
        self.first.len() + self.second.as_ref().map_or(0, String::len)
    }

    /// Checks that there are as many texts as the task takes, and that none is empty.
    pub(crate) fn check(&self, inputs: u8) -> Result<(), TextError> {
        let name = |two| if two { "a pair of texts" } else { "one text" };
        if (inputs == 2) != self.second.is_some() {
            return Err(TextError::Inputs { expected: name(inputs == 2), found: name(self.second.is_some()) });
        }
        let blank = |text: &str| text.chars().all(char::is_whitespace);
        if blank(&self.first) || self.second.as_deref().is_some_and(blank) {
            return Err(TextError::Empty);
        }
        Ok(())
    }
}

/// Tokens of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    pub type_ids: Vec<u32>,
    /// For each token, the text it is of (0 or 1; none for special tokens) and its characters there.
    pub places: Vec<Option<(usize, (usize, usize))>>,
    /// Whether text was cut off.
    pub truncated: bool,
}

impl Tokens {
    /// The tokens as the engine takes them, with a task's values.
    pub fn sequence<'a>(&'a self, values: &'a TaskValues) -> Sequence<'a> {
        Sequence { ids: &self.ids, type_ids: &self.type_ids, values }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether a token stands for a character of the second text, `second`, that is no white space.
    pub fn shows(&self, second: &str) -> bool {
        let blank: Vec<bool> = second.chars().map(char::is_whitespace).collect();
        let shown = |(from, to): (usize, usize)| blank.get(from..to).is_some_and(|part| part.contains(&false));
        self.places.iter().any(|place| place.is_some_and(|(text, place)| text == 1 && shown(place)))
    }

    fn new(encoding: &Encoding, truncated: bool) -> Self {
        let texts = encoding.get_sequence_ids();
        let places = texts.into_iter().zip(encoding.get_offsets()).map(|(text, place)| Some((text?, *place))).collect();
        Tokens { ids: encoding.get_ids().to_vec(), type_ids: encoding.get_type_ids().to_vec(), places, truncated }
    }
}

/// A checkpoint's tokenizer.
pub(crate) struct Tokenizer {
    inner: Inner,
    /// Removed from `inner`, which would run it on each text alone and then on both, and it moves offsets every time.
    processor: Option<PostProcessorWrapper>,
    subwords: Subwords,
    path: PathBuf,
}

/// The parts of a `tokenizer.json` that say which tokens continue a word, and what adds special tokens.
#[derive(Deserialize)]
struct Settings {
    model: Subwords,
    #[serde(default)]
    post_processor: Value,
}

/// The `tokenizers` crate's, with its words in memory or in a mapped file.
enum Inner {
    Whole(Box<WholeTokenizer>),
    Mapped(Box<MappedTokenizer>),
}

impl Inner {
    fn encode(&self, text: &str) -> tokenizers::Result<Encoding> {
        match self {
            Inner::Whole(inner) => inner.encode_char_offsets(text, false),
            Inner::Mapped(inner) => inner.encode_char_offsets(text, false),
        }
    }

    /// The most bytes that the text has while it is normalized, as far as the bundle tells.
    fn most_bytes(&self, text: &str) -> usize {
        match self {
            Inner::Whole(_) => text.len(),
            Inner::Mapped(inner) => inner.get_normalizer().map_or(text.len(), |steps| steps.most_bytes(text)),
        }
    }

    /// Joins two texts if the checkpoint has no post-processor.
    fn join(&self, first: Encoding, second: Option<Encoding>) -> tokenizers::Result<Encoding> {
        match self {
            Inner::Whole(inner) => inner.post_process(first, second, true),
            Inner::Mapped(inner) => inner.post_process(first, second, true),
        }
    }
}

impl Tokenizer {
    /// The tokenizer of a bundle.
    pub fn open(bundle: &Bundle) -> Result<Self> {
        if bundle.manifest().files.contains_key(VOCABULARY) {
            let path = bundle.file(VOCABULARY)?;
            let words = Vocabulary::parse(Mapped::open(&path)?).map_err(|e| e.in_file(&path))?;
            let (inner, processor, subwords) = mapped_tokenizer(words).map_err(failed(&path))?;
            return Ok(Tokenizer { inner: Inner::Mapped(Box::new(inner)), processor, subwords, path });
        }
        let path = bundle.file("tokenizer.json")?;
        let json = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), action: "read", source })?;
        let mut inner = WholeTokenizer::from_bytes(&json).map_err(failed(&path))?;
        let settings: Settings = serde_json::from_slice(&json).map_err(|error| failed(&path)(error.into()))?;
        // The task sets the limit, and sequences are never padded.
        inner.with_truncation(None).map_err(failed(&path))?.with_padding(None);
        post_processor::check(&settings.post_processor).map_err(failed(&path))?;
        let processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Tokenizer { inner: Inner::Whole(Box::new(inner)), processor, subwords: settings.model, path })
    }

    /// Whether each token of `text` continues the word of the token before it.
    pub fn continuing(&self, text: &str, tokens: &Tokens) -> Vec<bool> {
        let places = tokens.places.iter().map(|place| place.map(|(_, place)| place));
        let tokens = tokens.ids.iter().copied().zip(places);
        match &self.inner {
            Inner::Whole(inner) => {
                self.subwords.continuing(text, tokens, |t| inner.token_to_id(t), |id| inner.id_to_token(id))
            }
            Inner::Mapped(inner) => {
                self.subwords.continuing(text, tokens, |t| inner.token_to_id(t), |id| inner.id_to_token(id))
            }
        }
    }

    /// Tokens of one text or a pair, at most `limit`; of a pair the longer text is cut first.
    pub fn encode(&self, text: &Text, limit: usize) -> Result<Tokens> {
        let first = self.plain(&text.first)?;
        let second = text.second.as_deref().map(|t| self.second(t)).transpose()?;
        let whole = first.len() + second.as_ref().map_or(0, Encoding::len);
        let special = self.special(second.is_some());
        let room = limit.saturating_sub(special);
        // Each text keeps at least one token.
        if room < 1 + usize::from(second.is_some()) {
            return Err(TextError::NoRoom { found: special, limit }.into());
        }
        let truncated = whole > room;
        let (first, second) = if truncated {
            let params = TruncationParams {
                max_length: room,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: TruncationDirection::Right,
            };
            let (mut first, mut second) = truncate_encodings(first, second, &params).map_err(failed(&self.path))?;
            // The pieces that were cut off are dropped first, because post-processing would copy every pair of them.
            first.take_overflowing();
            second.as_mut().map(Encoding::take_overflowing);
            (first, second)
        } else {
            (first, second)
        };
        self.finish(first, second, truncated)
    }

    /// Tokens of a pair with a long second text: several sequences, each with the whole first text and a window of the
    /// second that overlaps the previous window. Refused: a second text of which no character is left.
    pub fn windows(&self, first: &str, context: &str, limit: usize, most: usize) -> Result<Vec<Tokens>> {
        /// Tokens that consecutive windows share, as in BERT's reading of SQuAD.
        const OVERLAP: usize = 128;
        let first = self.plain(first)?;
        let mut second = self.second(context)?;
        let taken = first.len() + self.special(true);
        let room = limit.saturating_sub(taken);
        if room == 0 {
            return Err(TextError::NoRoom { found: taken, limit }.into());
        }
        let overlap = OVERLAP.min(room / 2);
        let count = 1 + second.len().saturating_sub(room).div_ceil(room - overlap);
        if count > most {
            return Err(TextError::Windows { expected: most, found: count }.into());
        }
        second.truncate(room, overlap, TruncationDirection::Right);
        let rest = second.take_overflowing();
        let parts = std::iter::once(second).chain(rest);
        let windows = parts.map(|part| self.finish(first.clone(), Some(part), false)).collect::<Result<Vec<_>>>()?;
        if windows.iter().any(|window| window.shows(context)) { Ok(windows) } else { Err(TextError::NoSpan.into()) }
    }

    /// Tokens of a text without special tokens.
    ///
    /// The `tokenizers` crate aborts if it gets no memory, so the memory is asked for first.
    fn plain(&self, text: &str) -> Result<Encoding> {
        /// An upper bound of the crate's memory for each byte of a text: offsets for every character, and for each word
        /// (two bytes with its space) strings, offsets and a token.
        const BYTES: usize = 256;
        ask_memory(self.inner.most_bytes(text).saturating_mul(BYTES), |bytes| Error::Memory {
            place: format!("tokens of a text of {} bytes", text.len()),
            bytes,
            helps: "give it in parts, each a text of its own",
        })?;
        self.inner.encode(text).map_err(failed(&self.path))
    }

    /// Tokens of a second text: of type 1, for post-processors that leave types as they are.
    fn second(&self, text: &str) -> Result<Encoding> {
        let mut encoding = self.plain(text)?;
        encoding.set_type_ids(vec![1; encoding.len()]);
        Ok(encoding)
    }

    /// Number of special tokens.
    fn special(&self, pair: bool) -> usize {
        self.processor.as_ref().map_or(0, |p| p.added_tokens(pair))
    }

    /// Adds special tokens.
    fn finish(&self, first: Encoding, second: Option<Encoding>, truncated: bool) -> Result<Tokens> {
        let joined = match &self.processor {
            Some(processor) => processor.process(first, second, true),
            None => self.inner.join(first, second),
        };
        let encoding = joined.map_err(failed(&self.path))?;
        // A tokenizer without special tokens, and a text of characters that it drops: there is nothing to run.
        if encoding.is_empty() {
            return Err(TextError::Empty.into());
        }
        Ok(Tokens::new(&encoding, truncated))
    }
}

fn failed(path: &Path) -> impl Fn(tokenizers::Error) -> Error {
    let path = path.to_owned();
    move |e| Error::Tokenizer { path: path.clone(), reason: e.to_string() }
}

/// Words of a text as runs of characters without white space: character ranges, in order.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut start = None;
    let mut count = 0;
    for (at, c) in text.chars().enumerate() {
        count = at + 1;
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|from| (from, count)));
    words
}

/// A text by its characters, any of which is found at once: a long text has many words.
pub(crate) struct Characters<'t> {
    text: &'t str,
    /// The byte at which each character begins, and the end.
    begins: Vec<usize>,
}

impl<'t> Characters<'t> {
    pub fn of(text: &'t str) -> Self {
        let begins = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        Characters { text, begins: begins.collect() }
    }

    /// The characters `from..to`, as far as the text has them.
    pub fn part(&self, (from, to): (usize, usize)) -> &'t str {
        let byte = |at: usize| self.begins.get(at).copied().unwrap_or(self.text.len());
        &self.text[byte(from)..byte(to.max(from))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_character_ranges() {
        assert_eq!(words("  été à\tb "), [(2, 5), (6, 7), (8, 9)]);
        assert_eq!(words(""), []);
        let text = Characters::of("  été à");
        assert_eq!([(2, 5), (6, 9), (9, 12), (5, 2)].map(|range| text.part(range)), ["été", "à", "", ""]);
    }

    #[test]
    fn words_of_a_list_may_hold_spaces() {
        let text = Text::of_words(&["Hồ Chí Minh", " sinh ", "năm"]).unwrap();
        assert_eq!(text.first(), "Hồ Chí Minh sinh năm");
        assert_eq!(*text.words(), [(0, 11), (12, 16), (17, 20)]);
        // Where white space tells words apart, a list is the same as its text.
        assert_eq!(Text::of_words(&["a", "b"]), Ok(Text::one("a b")));
        assert_eq!(*Text::one("a  b").words(), [(0, 1), (3, 4)]);
        assert_eq!(Text::of_words(&[""; 0]), Err(TextError::Empty));
        assert!(matches!(Text::of_words(&["a", " "]), Err(TextError::Record(_))));
    }
}
