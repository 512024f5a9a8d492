//! `tokenizer.json`: imported with a checkpoint, and made a `vocabulary.bin` in which every word is found.

#![no_main]

use std::cell::LazyCell;

use edge_bundle::{Vocabulary, VocabularyKind, vocabulary_of};
use edge_fuzz::Place;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<Place> = LazyCell::new(|| Place::with_checkpoint("bert", false));
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with(|place| {
        place.write("checkpoint/tokenizer.json", bytes);
        assert!(!place.refuse_checkpoint().is_empty());
    });
    let Ok(Some(table)) = vocabulary_of(bytes) else { return };
    let vocabulary = Vocabulary::parse(&table[..]).expect("a table that was made can be read");
    for (token, id) in vocabulary.iter() {
        // Of pieces that are the same, the last is found.
        let found = vocabulary.id(token);
        let is_last = found.is_some_and(|found| found > id && vocabulary.kind() == VocabularyKind::Unigram);
        assert!(found == Some(id) || is_last, "{token:?} is {id}, found {found:?}");
    }
});
