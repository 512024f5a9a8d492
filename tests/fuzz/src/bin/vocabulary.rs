//! `vocabulary.bin`. What parses is searched for every token it has and for words that it may not have; then it stands
//! in the place of an encoder's own, and texts run.

#![no_main]

use std::cell::LazyCell;

use bias_patch::Patch;
use edge_bundle::{Bundle, Manifest, VOCABULARY, Vocabulary, VocabularyKind};
use edge_fuzz::{Place, patch};
use edge_run::{Encoder, EngineOptions, Options, Request, Text};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PLACE: LazyCell<(Place, Manifest, Patch)> = LazyCell::new(|| {
        let place = Place::with_bundle("bert");
        let manifest = place.bundle().manifest().clone();
        let patch = patch(&manifest, "tagging", "t");
        (place, manifest, patch)
    });
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(vocabulary) = Vocabulary::parse(bytes) else { return };
    search(&vocabulary);
    PLACE.with(|places| {
        let (place, manifest, patch) = &**places;
        place.write_into_bundle(manifest, VOCABULARY, bytes);
        run(&place.bundle(), patch);
    });
});

fn search(vocabulary: &Vocabulary<&[u8]>) {
    for (token, id) in vocabulary.iter() {
        let _ = (vocabulary.id(token), vocabulary.token_of(id), vocabulary.score(id), vocabulary.merge(id, id ^ 1));
        assert!(vocabulary.prefixes(token).all(|(length, _)| length <= token.len()));
    }
    if let Some(charsmap) = vocabulary.charsmap() {
        for part in ["", "a", "é", "\u{fb01}", "\u{1f600}", "ａ"] {
            let _ = charsmap.replacement(part);
        }
    }
    assert_eq!(vocabulary.lowest_score().is_some(), vocabulary.kind() == VocabularyKind::Unigram);
}

fn run(bundle: &Bundle, patch: &Patch) {
    let Ok(encoder) = Encoder::load(bundle.clone(), EngineOptions { threads: 1, ..EngineOptions::default() }) else {
        return;
    };
    let task = encoder.attach(patch).expect("a patch for this encoder");
    let texts = ["good films", "Ünïcode ﬁne, or n0t? ａ\u{0}\u{fffd}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
        .map(Text::one);
    let requests: Vec<Request<'_>> = texts.iter().map(|text| Request { task: &task, text }).collect();
    for answer in encoder.predict_with(&requests, Options::default()) {
        if let Err(error) = answer {
            assert!(!error.to_string().is_empty());
        }
    }
}
