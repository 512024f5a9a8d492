//! Gradients of biases and head: against PyTorch's, against the loss itself, and however the work is parted.

use bias_patch::{Task, Term};
use edge_patch::{data::Gold, train::gradient};
use edge_run::{Activations, Encoder, EngineOptions, RUN_TOKENS, Text, Tokenized};
use serde_json::json;
use system_tests::{ENCODERS, Fixture, Gradients, int8, small_bundle, small_bundle_with};

/// f32 against f64, relative to the gradient's norm: 7e-6 was measured, at a ReLU's bend and where gradients cancel.
const GRADIENT_BOUND: f64 = 3e-5;

/// The answer to the only pair among the fixture's texts, as in `make_gradients.py`.
const ANSWER: &str = "was happy";

fn task_of(kind: &str) -> Task {
    let labels = ["a", "b", "c"];
    let json = match kind {
        "tagging" => json!({ "name": "t", "kind": "tagging", "labels": labels }),
        "cls" => json!({ "name": "t", "kind": "regression", "pooling": "cls" }),
        "span" => json!({ "name": "t", "kind": "span", "inputs": 2 }),
        pooling => json!({ "name": "t", "kind": "classification", "labels": labels, "pooling": pooling }),
    };
    serde_json::from_value(json).unwrap()
}

/// The fixture's texts as the task reads them, and what the script says is right of them.
fn texts(encoder: &Encoder, fixture: &Fixture, task: &Task, kind: &str) -> Vec<(Tokenized, Gold)> {
    let suits = |texts: usize| match kind {
        "tagging" => texts == 1,
        "span" => texts == 2,
        _ => true,
    };
    let cases = fixture.cases.iter().filter(|case| suits(case.text.len()));
    let read = cases.enumerate().map(|(at, case)| {
        let text = match &case.text[..] {
            [one] => Text::one(one),
            [first, second] => Text::pair(first, second),
            other => panic!("{other:?}"),
        };
        let gold = match kind {
            "tagging" => Gold::Tags((0..case.text[0].split_whitespace().count()).map(|word| word % 3).collect()),
            "span" => {
                // Characters are bytes here.
                let start = case.text[1].find(ANSWER).unwrap();
                Gold::Span(vec![(start, start + ANSWER.len())])
            }
            "cls" => Gold::Value([0.5, -1.0, 2.0, 0.0][at]),
            _ => Gold::Class([0, 1, 2, 0][at]),
        };
        // The task takes one text; a pair is only another way to have longer ones.
        let mut json = serde_json::to_value(task).unwrap();
        json["inputs"] = case.text.len().into();
        let task: Task = serde_json::from_value(json).unwrap();
        (encoder.tokenized(&task, &text).unwrap().remove(0), gold)
    });
    read.collect()
}

fn head_of(task: &Task) -> Vec<f32> {
    let outputs = task.kind().outputs();
    [Fixture::values("head weight", &[outputs, 32]), Fixture::values("head bias", &[outputs])].concat()
}

#[test]
fn gradients_are_those_of_pytorch() {
    let expected = Gradients::read();
    for name in ENCODERS {
        let (_home, bundle) = small_bundle(name);
        let fixture = Fixture::named(name);
        for threads in [1, 2] {
            let encoder = Encoder::load(bundle.clone(), EngineOptions { threads, ..EngineOptions::default() }).unwrap();
            for (kind, expected) in expected.kinds(name) {
                let task = task_of(kind);
                let texts = texts(&encoder, &fixture, &task, kind);
                let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
                let values = encoder.base().slots();
                let found =
                    gradient(&encoder, &task, values, &head_of(&task), &texts, &vec![true; values.len()], RUN_TOKENS)
                        .unwrap();
                let slots = bundle.manifest().slots.iter();
                let slots = slots.zip(&found.slots).filter(|(slot, _)| slot.term != Term::Key);
                let named = slots.map(|(slot, d)| (slot.name.as_str(), &d[..]));
                let (d_weight, d_bias) = found.head.split_at(found.head.len() - task.kind().outputs());
                let gradients = named.chain([("head weight", d_weight), ("head bias", d_bias)]);
                let gradients = gradients.map(|(part, d)| (part, d.iter().copied().map(f64::from).collect()));
                let worst = expected.compare(&format!("{name} {kind}"), found.loss, gradients, GRADIENT_BOUND);
                println!("{name:16} {kind:8} {threads} threads: worst {worst:.1e}");
            }
        }
    }
}

#[test]
fn slots_that_are_not_wanted_change_nothing() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let task = task_of("pooler");
    let texts = texts(&encoder, &Fixture::named("bert"), &task, "pooler");
    let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
    let values = encoder.base().slots();
    let of = |wanted: &[bool]| gradient(&encoder, &task, values, &head_of(&task), &texts, wanted, RUN_TOKENS).unwrap();
    let all = of(&vec![true; values.len()]);
    for only in 0..values.len() {
        let wanted: Vec<bool> = (0..values.len()).map(|at| at == only).collect();
        let found = of(&wanted);
        assert_eq!((found.loss, &found.head), (all.loss, &all.head));
        for (at, (d, due)) in found.slots.iter().zip(&all.slots).enumerate() {
            if at == only {
                assert_eq!(d, due, "slot {at}");
            } else {
                assert!(d.iter().all(|d| *d == 0.0), "slot {at} while only {only} is wanted");
            }
        }
    }
}

#[test]
fn the_loss_falls_along_the_gradient() {
    for options in [edge_export::Options::default(), int8()] {
        let (_home, bundle) = small_bundle_with("electra", options);
        let engine = EngineOptions { activations: Activations::F32, ..EngineOptions::default() };
        let encoder = Encoder::load(bundle.clone(), engine).unwrap();
        let task = task_of("mean");
        let texts = texts(&encoder, &Fixture::named("electra"), &task, "mean");
        let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
        let base = encoder.base().slots();
        let wanted = vec![true; base.len()];
        let at = |values: &[Vec<f32>]| {
            gradient(&encoder, &task, values, &head_of(&task), &texts, &wanted, RUN_TOKENS).unwrap()
        };
        let found = at(base);
        let norm = found.slots.iter().flatten().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
        // Central differences along the gradient's direction.
        let step = 1e-2;
        let moved = |by: f64| -> Vec<Vec<f32>> {
            let slot = |(base, d): (&Vec<f32>, &Vec<f32>)| {
                base.iter().zip(d).map(|(v, d)| (f64::from(*v) + by * f64::from(*d) / norm) as f32).collect()
            };
            base.iter().zip(&found.slots).map(slot).collect()
        };
        let slope = (at(&moved(step)).loss - at(&moved(-step)).loss) / (2.0 * step);
        assert!((slope / norm - 1.0).abs() < 5e-3, "slope {slope}, norm {norm}");
    }
}

#[test]
fn gradients_are_the_same_however_few_tokens_run_together() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle, EngineOptions::default()).unwrap();
    let task = task_of("mean");
    let texts = texts(&encoder, &Fixture::named("bert"), &task, "mean");
    let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
    let values = encoder.base().slots();
    let of =
        |tokens| gradient(&encoder, &task, values, &head_of(&task), &texts, &vec![true; values.len()], tokens).unwrap();
    let (all, few) = (of(RUN_TOKENS), of(1));
    assert!((all.loss - few.loss).abs() < 1e-6 * all.loss);
    for (slot, due) in few.slots.iter().zip(&all.slots) {
        let norm = due.iter().map(|d| d * d).sum::<f32>().sqrt();
        let error = slot.iter().zip(due).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 1e-5 * norm, "{error} of {norm}");
    }
}
