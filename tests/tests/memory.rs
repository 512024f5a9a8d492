//! What a run is said to take, compared with what it takes. Alone in its file, because it counts all allocations of its
//! process.

use std::sync::{Mutex, PoisonError};

use bias_patch::Task as Spec;
use cap::Cap;
use edge_export::Options;
use edge_run::{Activations, Encoder, EngineOptions, Error, Request, Task, Text};
use peak_alloc::PeakAlloc;
use serde_json::json;
use system_tests::{Fixture, f16, int4, int8, patch, patch_with_terms, task};
use tempfile::TempDir;

/// Counts what is allocated, and refuses what is beyond a limit.
#[global_allocator]
static MEMORY: Cap<PeakAlloc> = Cap::new(PeakAlloc, usize::MAX);

/// Held by the test that counts.
static ALONE: Mutex<()> = Mutex::new(());

/// The difference of an estimate from what is counted, as a part of that: lists of operators, tokens and answers are
/// not estimated.
const TOLERANCE: f64 = 0.1;
/// Runs on two threads, of which the one that takes most counts: five, and more while the estimate is too high for all of
/// them. Where others have the processor, one thread may return its buffers before the other takes any, and its half of
/// an MLP's middle is a tenth of the memory.
const RUNS: std::ops::Range<usize> = 5..1000;
/// No estimate below this is asked of the system.
const SMALL: usize = 1 << 20;
/// How much wider than its fixture an encoder is, so that runs are not small.
const WIDER: usize = 12;

/// A fixture with wider rows, and as many more positions.
fn wide(name: &str, dir: &TempDir, options: Options) -> edge_bundle::Bundle {
    let mut fixture = Fixture::named(name);
    let config = fixture.config.as_object_mut().unwrap();
    let sizes = ["hidden_size", "intermediate_size", "max_position_embeddings"];
    let mut dims: Vec<usize> = sizes.iter().filter_map(|size| Some(config.get(*size)?.as_u64()? as usize)).collect();
    // Query, key and value as one matrix; a middle and its gate as one.
    dims.extend([3 * dims[0], 2 * dims[1]]);
    // NomicBERT's names are beside them.
    for size in sizes.into_iter().chain(["n_embd", "n_inner", "n_positions", "max_trained_positions"]) {
        if let Some(value) = config.get_mut(size) {
            *value = json!(value.as_u64().unwrap() as usize * WIDER);
        }
    }
    // MPNet has as many distances as values in a vector.
    let tensors = fixture.tensors.iter_mut().filter(|(name, _)| !name.contains("relative_attention_bias"));
    let shapes = tensors.flat_map(|(_, shape)| shape);
    shapes.filter(|dim| dims.contains(dim)).for_each(|dim| *dim *= WIDER);
    fixture.export(dir.path(), options)
}

/// A number of texts of so many tokens. They differ, for what is asked twice is computed once.
fn texts(tokens: usize, count: usize) -> Vec<String> {
    const WORDS: [&str; 8] = ["film", "very", "the", "was", "not", "it", "good", "bad"];
    let word = |at: usize, place: usize| WORDS[(at >> (3 * place).min(60)) % 8];
    (0..count).map(|at| (0..tokens - 2).map(|place| word(at, place)).collect::<Vec<_>>().join(" ")).collect()
}

/// What the first run of some requests is said to take, unless that is little, and what it takes.
fn estimated_and_counted(encoder: &Encoder, requests: &[Request<'_>], threads: usize) -> (Option<usize>, usize) {
    // Little beside the run; the run itself has to be refused.
    MEMORY.set_limit(MEMORY.allocated() + SMALL).unwrap();
    let refused = encoder.predict(requests).remove(0);
    MEMORY.set_limit(usize::MAX).unwrap();
    let estimated = match refused {
        Err(Error::Memory { bytes, .. }) => Some(bytes as usize),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    };
    let before = PeakAlloc.current_usage();
    drop(encoder.predict(requests));
    // What runs take again and again stays. The second run asks for nothing, so that only what it takes is counted.
    let kept = PeakAlloc.current_usage();
    let mut most = 0;
    for run in 1..=if threads == 1 { 1 } else { RUNS.end } {
        PeakAlloc.reset_peak_usage();
        drop(encoder.predict(requests));
        most = most.max((kept - before) + (PeakAlloc.peak_usage() - kept));
        if run >= RUNS.start && estimated.is_some_and(|estimated| difference(estimated, most) < TOLERANCE) {
            break;
        }
    }
    (estimated, most)
}

/// By what part of what is counted an estimate is higher.
fn difference(estimated: usize, counted: usize) -> f64 {
    estimated as f64 / counted as f64 - 1.0
}

/// The difference, if it is too large.
fn compared(what: String, encoder: &Encoder, requests: &[Request<'_>], threads: usize) -> Option<(String, f64)> {
    let (Some(estimated), counted) = estimated_and_counted(encoder, requests, threads) else {
        panic!("{what}: it takes little");
    };
    let difference = difference(estimated, counted);
    let (said, found) = (estimated as f64 / 1e6, counted as f64 / 1e6);
    println!("{what}: {said:.2} MB, counted {found:.2} MB: {difference:+.3}");
    (difference.abs() > TOLERANCE).then_some((what, difference))
}

#[test]
fn a_run_takes_what_it_is_said_to_take() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut differences = Vec::new();
    for (weights, options) in [("f32", Options::default()), ("f16", f16()), ("int8", int8()), ("int4", int4())] {
        let dir = TempDir::new().unwrap();
        let bundle = wide("bert", &dir, options);
        let kind = |name: &str, kind: &str, inputs: u8| -> Spec {
            let mut spec = serde_json::to_value(task(name, kind, inputs)).unwrap();
            spec["max_length"] = json!(bundle.manifest().config.max_length);
            serde_json::from_value(spec).unwrap()
        };
        let kinds = [
            ("label", "classification", 1),
            ("tags", "tagging", 1),
            ("span", "span", 2),
            ("pair", "classification", 2),
            ("vector", "embedding", 1),
        ];
        for (threads, activations) in [(1, Activations::Short), (2, Activations::Short), (1, Activations::F32)] {
            // With f32 weights activations are f32 in either case.
            if weights == "f32" && activations == Activations::F32 {
                continue;
            }
            let load = || {
                let options = EngineOptions { threads, activations, ..EngineOptions::default() };
                Encoder::load(bundle.clone(), options).unwrap()
            };
            let patches = kinds.map(|(name, of, inputs)| patch(&bundle, kind(name, of, inputs), name));
            let terms = patch_with_terms(&bundle, kind("terms", "classification", 1), "terms");
            let ones = |tokens, count| texts(tokens, count).iter().map(Text::one).collect::<Vec<_>>();
            let mut check = |what: String, tasks: &[&bias_patch::Patch], texts: &[Text]| {
                let encoder = load();
                let tasks: Vec<Task> = tasks.iter().map(|patch| encoder.attach(patch).unwrap()).collect();
                let requests: Vec<Request<'_>> =
                    texts.iter().zip(tasks.iter().cycle()).map(|(text, task)| Request { task, text }).collect();
                let what = format!("{weights} {activations:?}, {threads} threads, {what}");
                differences.extend(compared(what, &encoder, &requests, threads));
            };
            for (length, count) in [(32, 5), (32, 8), (128, 1), (128, 2), (256, 1), (5, 48)] {
                check(format!("{count} of {length} tokens"), &[&patches[0]], &ones(length, count));
            }
            for patch in &patches[1..] {
                let of = patch.task().name().to_owned();
                let whole = match patch.task().inputs() {
                    2 => texts(120, 2).iter().map(|context| Text::pair("why ?", context)).collect(),
                    _ => ones(125, 2),
                };
                check(of, &[patch], &whole);
            }
            check("low-rank terms".to_owned(), &[&terms], &ones(64, 4));
            check("two patches".to_owned(), &[&terms, &patches[0]], &ones(64, 4));

            check(
                "two patches of one text".to_owned(),
                &[&patches[0], &patches[1]],
                &[ones(128, 1), ones(128, 1)].concat(),
            );
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn a_run_of_any_family_takes_what_it_is_said_to_take() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut differences = Vec::new();
    for family in ["roberta", "electra", "albert", "mpnet", "modernbert", "gte-new", "nomic", "deberta-v3"] {
        for (weights, options) in [("f32", Options::default()), ("int8", int8())] {
            let dir = TempDir::new().unwrap();
            let bundle = wide(family, &dir, options);
            for (tokens, count) in [(32, 6), (128, 2)] {
                let mut spec = serde_json::to_value(task("label", "classification", 1)).unwrap();
                // Their vocabularies split words.
                spec["max_length"] = json!(tokens);
                let patch = patch(&bundle, serde_json::from_value(spec).unwrap(), "label");
                for threads in [1, 2] {
                    let options = EngineOptions { threads, ..EngineOptions::default() };
                    let encoder = Encoder::load(bundle.clone(), options).unwrap();
                    let task = encoder.attach(&patch).unwrap();
                    let texts: Vec<Text> = texts(tokens, count).iter().map(Text::one).collect();
                    let requests: Vec<Request<'_>> = texts.iter().map(|text| Request { task: &task, text }).collect();
                    let what = format!("{family} {weights}, {threads} threads, {count} of {tokens} tokens");
                    differences.extend(compared(what, &encoder, &requests, threads));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}
