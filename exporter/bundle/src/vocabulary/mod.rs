//! The words of a tokenizer in a table that is searched where it lies, so that no start has to read them all.
//!
//! In: the bytes of a `vocabulary.bin`. Out: a [`Vocabulary`]. Refused: bytes whose parts do not add up.
//! [`vocabulary_of`] makes such bytes of a `tokenizer.json`. The layout is in `FORMAT.md`.

mod build;
mod charsmap;
mod trie;
mod unigram;

use std::ops::Range;

pub use build::vocabulary_of;
pub use charsmap::Charsmap;
pub use unigram::take_charsmaps;

use crate::{Error, Result};

/// The file's name in a bundle.
pub const VOCABULARY: &str = "vocabulary.bin";

const MAGIC: &[u8; 8] = b"BIASVOCB";
/// Words of a WordPiece model.
const WORDS: u16 = 1;
/// Words and the merges of a BPE model.
const MERGES: u16 = 2;
/// Pieces of a Unigram model, and the charsmap of its normalizer.
const PIECES: u16 = 3;
/// Words and the merges of a BPE model with options, which its settings give.
const MERGES_WITH_OPTIONS: u16 = 4;
/// What comes before the numbers that say how long the parts are.
const HEAD_BYTES: usize = 12;

/// The models that a `vocabulary.bin` can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VocabularyKind {
    /// Words.
    WordPiece,
    /// Words, and how they merge.
    Bpe,
    /// Pieces, and their scores.
    Unigram,
}

/// A tokenizer's words, their numbers and how they merge or what they score, over the bytes of a `vocabulary.bin`.
#[derive(Clone, Debug)]
pub struct Vocabulary<B> {
    bytes: B,
    kind: VocabularyKind,
    /// Of a Unigram model, the lowest score of a piece.
    lowest: f64,
    settings: Range<usize>,
    /// The hash table of the tokens, or the trie of the pieces.
    index: Range<usize>,
    tokens: Range<usize>,
    merge_places: Range<usize>,
    merges: Range<usize>,
    charsmap: Range<usize>,
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
        let (kind, preamble_bytes) = match version {
            WORDS => (VocabularyKind::WordPiece, HEAD_BYTES + 4 * 4),
            MERGES | MERGES_WITH_OPTIONS => (VocabularyKind::Bpe, HEAD_BYTES + 6 * 4),
            PIECES => (VocabularyKind::Unigram, HEAD_BYTES + 5 * 4 + 8),
            _ => return Err(Error::Version { what: "vocabulary", expected: "1 to 4", found: version.into() }),
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
        // Sums of a few numbers below 2^36: settings, index, tokens, places of merges, merges, charsmap, text.
        let parts = match kind {
            VocabularyKind::Unigram => [count(0), 8 * count(1), 12 * count(2), 0, 0, count(4), count(3)],
            _ => [count(0), 4 * count(1), 8 * count(2), 4 * count(4), 12 * count(5), 0, count(3)],
        };
        let ends = parts.map({
            let mut end = preamble_bytes as u64;
            move |bytes| {
                end += bytes;
                end
            }
        });
        if ends[6] != whole.len() as u64 {
            return Err(length(ends[6]));
        }
        let tables = match kind {
            VocabularyKind::Unigram => &[][..],
            VocabularyKind::WordPiece => &[("places", 1, 2)],
            VocabularyKind::Bpe => &[("places", 1, 2), ("places of merges", 4, 5)],
        };
        for (name, places, keys) in tables {
            if !count(*places).is_power_of_two() || count(*places) < 2 * count(*keys) {
                return Err(Error::field(*name, "a power of two, at least twice what they are for", count(*places)));
            }
        }
        let end = |at: usize| usize::try_from(ends[at]).expect("no end is beyond the length of what is in memory");
        let lowest = record::<8>(&counts[counts.len() - 8..], 0).map_or(0.0, |bytes| f64::from_le_bytes(*bytes));
        let vocabulary = Vocabulary {
            kind,
            lowest,
            settings: preamble_bytes..end(0),
            index: end(0)..end(1),
            tokens: end(1)..end(2),
            merge_places: end(2)..end(3),
            merges: end(3)..end(4),
            charsmap: end(4)..end(5),
            text: end(5)..end(6),
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

    /// The model that it is the vocabulary of.
    pub fn kind(&self) -> VocabularyKind {
        self.kind
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.token_bytes()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The number of a token.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        match self.kind {
            VocabularyKind::Unigram => {
                self.prefixes(token).find_map(|(bytes, id)| (bytes == token.len()).then_some(id))
            }
            _ => find(self.part(&self.index), token, |at| self.token(at)),
        }
    }

    /// The first token of a number.
    pub fn token_of(&self, id: u32) -> Option<&[u8]> {
        let at = match self.kind {
            VocabularyKind::Unigram => usize::try_from(id).ok()?,
            _ => {
                let records: &[[u8; 8]] = self.part(&self.tokens).as_chunks().0;
                records.partition_point(|record| word_at(record, 1).is_some_and(|found| found < id))
            }
        };
        self.token(at).filter(|(_, found)| *found == id).map(|(token, _)| token)
    }

    /// Tokens and their numbers, by number.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        (0..self.len()).map_while(|at| self.token(at))
    }

    /// The place in the list of merges of two tokens' merge, and the number of the token that they make.
    pub fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        find(self.part(&self.merge_places), &pair(left, right), |at| {
            let record: &[u8; 12] = record(self.part(&self.merges), at)?;
            let key = pair(word_at(record, 0)?, word_at(record, 1)?);
            Some((key, (u32::try_from(at).ok()?, word_at(record, 2)?)))
        })
    }

    /// The pieces of a Unigram model that a text begins with, shortest first: their bytes and their numbers. Of pieces
    /// that are the same, the last.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        // A leaf of the trie stands for a piece that has the first bytes of the text, and maybe others after them.
        trie::candidates(self.part(&self.index), text).filter_map(|at| {
            let (piece, id) = self.token(usize::try_from(at).ok()?)?;
            text.starts_with(piece).then_some((piece.len(), id))
        })
    }

    /// The score of a piece of a Unigram model: the logarithm of its probability.
    pub fn score(&self, id: u32) -> Option<f64> {
        if self.kind != VocabularyKind::Unigram {
            return None;
        }
        let record: &[u8; 12] = record(self.part(&self.tokens), usize::try_from(id).ok()?)?;
        let (_, score) = record.split_last_chunk()?;
        Some(f64::from_le_bytes(*score))
    }

    /// The lowest score of a piece of a Unigram model.
    pub fn lowest_score(&self) -> Option<f64> {
        (self.kind == VocabularyKind::Unigram).then_some(self.lowest)
    }

    /// What a Unigram model's normalizer puts in the place of characters, if it has such a table.
    pub fn charsmap(&self) -> Option<Charsmap<'_>> {
        Charsmap::parse(self.part(&self.charsmap))
    }

    fn token(&self, at: usize) -> Option<(&[u8], u32)> {
        // A token's end in the text, and its number, which in a Unigram model is its place.
        let end = |at: usize| match self.kind {
            VocabularyKind::Unigram => {
                let record: &[u8; 12] = record(self.part(&self.tokens), at)?;
                Some((usize::try_from(word_at(record, 0)?).ok()?, u32::try_from(at).ok()?))
            }
            _ => {
                let record: &[u8; 8] = record(self.part(&self.tokens), at)?;
                Some((usize::try_from(word_at(record, 0)?).ok()?, word_at(record, 1)?))
            }
        };
        let begin = match at.checked_sub(1) {
            Some(before) => end(before)?.0,
            None => 0,
        };
        let (end, id) = end(at)?;
        Some((self.part(&self.text).get(begin..end)?, id))
    }

    /// Bytes of what is said of each token.
    fn token_bytes(&self) -> usize {
        match self.kind {
            VocabularyKind::Unigram => 12,
            _ => 8,
        }
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
mod tests;
