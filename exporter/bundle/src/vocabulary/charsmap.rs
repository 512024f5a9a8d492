//! The table of SentencePiece's normalizer, searched where it lies.
//!
//! In: the bytes of a `precompiled_charsmap`, and a character or a few that belong together. Out: what comes in their
//! place. Refused: nothing; in damaged bytes nothing is found, or something else.
//!
//! The bytes are those that SentencePiece writes: the length of a trie, the trie, and texts that each end with a zero
//! byte. The trie is a double array of 32-bit units (Darts-clone). Its values are places in the texts.

use super::word_at;

/// What a Unigram model's normalizer puts in the place of characters.
#[derive(Clone, Copy, Debug)]
pub struct Charsmap<'a> {
    trie: &'a [u8],
    texts: &'a [u8],
}

impl<'a> Charsmap<'a> {
    /// The two parts; none if the bytes are too few.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let trie_bytes = usize::try_from(u32::from_le_bytes(*length)).ok()? / 4 * 4;
        let (trie, texts) = rest.split_at_checked(trie_bytes)?;
        Some(Charsmap { trie, texts })
    }

    /// Whether the texts are texts.
    pub(super) fn is_whole(&self) -> bool {
        self.trie.len() >= 4 && std::str::from_utf8(self.texts).is_ok()
    }

    /// What comes in the place of `part`: that of the shortest entry that `part` begins with.
    pub fn replacement(&self, part: &str) -> Option<&'a str> {
        let unit = |at: u32| word_at(self.trie, usize::try_from(at).ok()?);
        // Where the children of a unit are, relative to it.
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut at = offset(unit(0)?);
        for byte in part.bytes().take_while(|byte| *byte != 0) {
            at ^= u32::from(byte);
            let found = unit(at)?;
            // Values have the highest bit, so they are no byte's unit.
            if found & (1 << 31 | 0xff) != u32::from(byte) {
                return None;
            }
            at ^= offset(found);
            if found >> 8 & 1 == 1 {
                let begin = usize::try_from(unit(at)? & !(1 << 31)).ok()?;
                let text = self.texts.get(begin..)?.split(|byte| *byte == 0).next()?;
                return std::str::from_utf8(text).ok();
            }
        }
        None
    }
}
