//! The normalizers of a mapped vocabulary.
//!
//! In: a text as it was written. Out: the text that is split into words, and for each of its bytes the place it comes
//! from. SentencePiece's charsmap is searched where it is mapped. All others are the `tokenizers` crate's. Refused:
//! settings that are not those of a normalizer.

use std::sync::Arc;

use edge_bundle::{Vocabulary, VocabularyKind};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, Result};
use unicode_segmentation::UnicodeSegmentation;

use crate::mapped::Mapped;

/// Normalizers, in the order in which they run.
pub(crate) struct Normalizers(Vec<Step>);

enum Step {
    Charsmap(Arc<Vocabulary<Mapped>>),
    Other(NormalizerWrapper),
}

impl Normalizers {
    /// The normalizers that `settings` describes, the charsmap in `words`.
    pub fn new(settings: &Value, words: &Arc<Vocabulary<Mapped>>) -> Result<Self> {
        let mut steps = Vec::new();
        add(settings, words, &mut steps)?;
        Ok(Normalizers(steps))
    }

    /// The most bytes that a text has before or after the charsmap, which makes eighteen characters of some.
    pub fn most_bytes(&self, text: &str) -> usize {
        let charsmap = self.0.iter().find_map(|step| match step {
            Step::Charsmap(words) => words.charsmap(),
            Step::Other(_) => None,
        });
        let Some(charsmap) = charsmap else { return text.len() };
        let bytes = |character: char| {
            let new = charsmap.replacement(character.encode_utf8(&mut [0; 4])).map_or(0, str::len);
            new.max(character.len_utf8())
        };
        text.chars().map(bytes).sum()
    }
}

fn add(settings: &Value, words: &Arc<Vocabulary<Mapped>>, steps: &mut Vec<Step>) -> Result<()> {
    if words.kind() == VocabularyKind::Unigram {
        if let Some(parts) = settings.get("normalizers").and_then(Value::as_array) {
            return parts.iter().try_for_each(|part| add(part, words, steps));
        }
        // The crate panics if it finds no charsmap here, so it is not asked.
        let is_charsmap = settings.get("type").is_some_and(|name| name == "Precompiled");
        if is_charsmap || settings.get("precompiled_charsmap").is_some() {
            words.charsmap().ok_or("normalizer: expected a charsmap, found none")?;
            steps.push(Step::Charsmap(words.clone()));
            return Ok(());
        }
    }
    steps.push(Step::Other(NormalizerWrapper::deserialize(settings)?));
    Ok(())
}

impl Normalizer for Normalizers {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        self.0.iter().try_for_each(|step| match step {
            Step::Charsmap(words) => {
                apply_charsmap(words, text);
                Ok(())
            }
            Step::Other(normalizer) => normalizer.normalize(text),
        })
    }
}

/// Replaces what the charsmap has entries for: short clusters of characters as a whole, all others character by
/// character.
fn apply_charsmap<B: AsRef<[u8]>>(words: &Vocabulary<B>, text: &mut NormalizedString) {
    /// SentencePiece's entries are no longer than this.
    const CLUSTER_BYTES: usize = 5;
    let Some(charsmap) = words.charsmap() else { return };
    let mut made = Vec::with_capacity(text.get().len());
    let mut changed = false;
    for cluster in text.get().graphemes(true) {
        if cluster.len() <= CLUSTER_BYTES
            && let Some(new) = charsmap.replacement(cluster)
        {
            put(&mut made, cluster.chars().count(), new);
            changed = true;
            continue;
        }
        for character in cluster.chars() {
            match charsmap.replacement(character.encode_utf8(&mut [0; 4])) {
                Some(new) => {
                    put(&mut made, 1, new);
                    changed = true;
                }
                None => made.push((character, 0)),
            }
        }
    }
    if changed {
        text.transform(made, 0);
    }
}

/// Adds the characters that come in the place of `old` others, each with the change that `NormalizedString` takes: 1 if
/// it is one more, minus the number of characters that are left out after it, or 0.
///
/// As in the `tokenizers` crate, characters that are left out at the very begin are not counted, which moves offsets.
fn put(made: &mut Vec<(char, isize)>, old: usize, new: &str) {
    let before = made.len();
    made.extend(new.chars().enumerate().map(|(at, character)| (character, isize::from(at >= old))));
    let count = made.len() - before;
    if let Some((_, change)) = made.last_mut().filter(|_| count < old) {
        *change -= (old - count) as isize;
    }
}
