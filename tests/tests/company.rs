//! The bits of an answer do not depend on what else is asked, in which order, or on how many threads.
//!
//! The engine's own tests have every kernel, operator and layout; these have whole encoders and tasks. The second needs the
//! real encoder.

use std::time::Instant;

use edge_export::Options;
use edge_run::{Encoder, EngineOptions, Request, Task, Text};
use system_tests::{
    FAMILIES, f16, int4, int8, patch, patch_with_terms, real_bundle, real_bundle_int8, small_bundle_with, task,
};

/// The outputs of every request, as bits.
fn bits(encoder: &Encoder, requests: &[Request<'_>]) -> Vec<Vec<u32>> {
    let logits = encoder.predict(requests).into_iter().map(|prediction| prediction.unwrap().logits);
    logits.map(|logits| logits.into_iter().map(f32::to_bits).collect()).collect()
}

/// Texts of 1 to `most` words of a small vocabulary, of many lengths.
fn texts(count: usize, most: usize) -> Vec<Text> {
    let words = ["film", "very", "the", "was", "not", "it", "good", "bad", "cafe", "happy"];
    let word = |at: usize| words[at * 7919 % 997 % words.len()];
    let text = |at: usize| (0..1 + at * 31 % most).map(|place| word(at + 13 * place)).collect::<Vec<_>>().join(" ");
    (0..count).map(|at| Text::one(text(at))).collect()
}

/// Asserts that requests, in an order that mixes tasks and lengths, are answered as each alone: forwards and backwards.
fn assert_alone(what: &str, encoders: &[&Encoder], tasks: &[Task], texts: &[Text]) {
    // Every third text is asked of a second task, which shares with the first what is equal below.
    let asked = |at: usize| (0..1 + usize::from(at.is_multiple_of(3))).map(move |more| at * 7 + more);
    let mut requests: Vec<Request<'_>> = (0..texts.len())
        .flat_map(|at| asked(at).map(move |task| (at, task)))
        .map(|(at, task)| Request { task: &tasks[task % tasks.len()], text: &texts[at] })
        .collect();
    let mut due: Vec<_> = requests.iter().flat_map(|request| bits(encoders[0], &[*request])).collect();
    for _ in 0..2 {
        for (at, encoder) in encoders.iter().enumerate() {
            let found = bits(encoder, &requests);
            let apart = found.iter().zip(&due).filter(|(found, due)| found != due).count();
            assert_eq!((apart, found.len()), (0, due.len()), "{what}, encoder {at}");
        }
        requests.reverse();
        due.reverse();
    }
}

#[test]
fn answers_have_the_same_bits_in_any_company() {
    for family in FAMILIES {
        for options in [Options::default(), f16(), int8(), int4()] {
            let what = format!("{family} {}", options.weights.option());
            let (_home, bundle) = small_bundle_with(family, options);
            // A pool of its own each; patches are decoded by each.
            let encoders = [1, 2, 3].map(|threads| {
                Encoder::load(bundle.clone(), EngineOptions { threads, ..EngineOptions::default() }).unwrap()
            });
            let label = |seed| task(seed, "classification", 1);
            let patches = [
                patch(&bundle, label("a"), "a"),
                patch_with_terms(&bundle, label("b"), "b"),
                patch(&bundle, task("c", "regression", 1), "c"),
                patch_with_terms(&bundle, task("d", "embedding", 1), "d"),
            ];
            let tasks = patches.map(|patch| encoders[0].attach(&patch).unwrap());
            assert_alone(&what, &encoders.each_ref(), &tasks, &texts(60, 40));
        }
    }
}

/// Two thousand texts of 3 to 120 tokens, a third of them for two tasks.
#[test]
#[ignore = "needs the real encoder"]
fn the_real_encoder_gives_the_same_bits_in_any_company() {
    for bundle in [real_bundle(), real_bundle_int8()] {
        let encoders = [1, 2].map(|threads| {
            Encoder::load(bundle.clone(), EngineOptions { threads, ..EngineOptions::default() }).unwrap()
        });
        let begun = Instant::now();
        let label = |seed| task(seed, "classification", 1);
        let patches = ["a", "b", "c"].map(|seed| patch(&bundle, label(seed), seed));
        let terms = ["d", "e"].map(|seed| patch_with_terms(&bundle, label(seed), seed));
        let tasks: Vec<Task> = patches.iter().chain(&terms).map(|patch| encoders[0].attach(patch).unwrap()).collect();
        assert_alone(bundle.manifest().weights().option(), &encoders.each_ref(), &tasks, &texts(2_000, 118));
        println!("{}: 2,000 texts, {:.0?}", bundle.manifest().weights().option(), begun.elapsed());
    }
}
