//! Token ids from text.
//!
//! In: one text or two. Out: token ids with special tokens, and the characters that each token stands for. Long texts
//! are cut as Hugging Face's `truncation=True` cuts them. Refused: a limit that leaves a text no token, more windows
//! than a task takes, a second text of which nothing is seen, a text that has no tokens, and one for which there is too
//! little memory. The `tokenizers` crate runs the checkpoint's tokenizer file. If the bundle has a `vocabulary.bin`,
//! words are looked up there.

use std::path::{Path, PathBuf};

use edge_bundle::{Bundle, VOCABULARY, Vocabulary};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, Encoding, PostProcessorWrapper, Tokenizer as WholeTokenizer,
    tokenizer::PostProcessor,
    utils::truncation::{TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings},
};

use crate::{
    Error, Result,
    beginning::{beginning, ends_words_at_spaces},
    engine::{Sequence, TaskValues},
    error::TextError,
    mapped::Mapped,
    mapped_tokenizer::{MappedTokenizer, Opened, mapped_tokenizer},
    memory::ask_memory,
    post_processor,
    subwords::Subwords,
    text::Text,
};

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
    /// Whether a beginning of a text has the first of its tokens: see [`ends_words_at_spaces`].
    by_words: bool,
    path: PathBuf,
}

/// The parts of a `tokenizer.json` that say which tokens continue a word, and what adds special tokens.
#[derive(Deserialize)]
struct Settings {
    model: Subwords,
    #[serde(default)]
    post_processor: Value,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
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
            let Opened { tokenizer, processor, subwords, by_words } = mapped_tokenizer(words).map_err(failed(&path))?;
            return Ok(Tokenizer { inner: Inner::Mapped(Box::new(tokenizer)), processor, subwords, by_words, path });
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
        let by_words =
            ends_words_at_spaces(settings.normalizer.as_ref(), settings.pre_tokenizer.as_ref(), &settings.added_tokens);
        Ok(Tokenizer { inner: Inner::Whole(Box::new(inner)), processor, subwords: settings.model, by_words, path })
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
        let special = self.special(text.second().is_some());
        let room = limit.saturating_sub(special);
        // Each text keeps at least one token.
        if room < 1 + usize::from(text.second().is_some()) {
            return Err(TextError::NoRoom { found: special, limit }.into());
        }
        let (first, second) = self.beginnings(text, room)?;
        let truncated = first.len() + second.as_ref().map_or(0, Encoding::len) > room;
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
        let mut second = of_second(self.plain(context)?);
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

    /// Tokens of both texts without special tokens, enough to be cut to `room` as those of the whole texts.
    fn beginnings(&self, text: &Text, room: usize) -> Result<(Encoding, Option<Encoding>)> {
        let mut first = self.beginning(text.first(), room)?;
        let Some(other) = text.second() else { return Ok((first.0, None)) };
        let mut second = self.beginning(other, room)?;
        // Of two texts that are cut to an odd number of tokens, the longer one keeps a token more, so both have to be
        // known whole.
        if room % 2 == 1 && first.0.len().min(second.0.len()) > room && !(first.1 && second.1) {
            (first, second) = ((self.plain(text.first())?, true), (self.plain(other)?, true));
        }
        Ok((first.0, Some(of_second(second.0))))
    }

    /// Tokens of a text, or of a beginning that has more than `most`, and whether they are all.
    fn beginning(&self, text: &str, most: usize) -> Result<(Encoding, bool)> {
        /// More bytes than most tokens have. A beginning with too few tokens is taken four times as long.
        const BYTES: usize = 16;
        let mut bytes = most.saturating_mul(BYTES);
        while self.by_words && bytes < text.len() / 2 {
            let tokens = self.plain(beginning(text, bytes))?;
            // One more, because the last token of a beginning may be another.
            if tokens.len() > most {
                return Ok((tokens, false));
            }
            bytes *= 4;
        }
        Ok((self.plain(text)?, true))
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

/// Tokens as those of a second text: of type 1, for post-processors that leave types as they are.
fn of_second(mut tokens: Encoding) -> Encoding {
    tokens.set_type_ids(vec![1; tokens.len()]);
    tokens
}

fn failed(path: &Path) -> impl Fn(tokenizers::Error) -> Error {
    let path = path.to_owned();
    move |e| Error::Tokenizer { path: path.clone(), reason: e.to_string() }
}
