//! Gradients of biases, head and weights: compared with PyTorch's, with slopes of the loss, and for every way to split
//! the work.

use bias_patch::{LowRank, Task, Values};
use edge_patch::{
    data::Gold,
    train::{gradient, gradient_over},
};
use edge_run::{Activations, Encoder, EngineOptions, Extent, OwnWeights, RUN_TOKENS, Text, Tokenized};
use serde_json::json;
use system_tests::{Fixture, Gradients, f16, has_effect, int4, int8, small_bundle, small_bundle_with};

/// f32 against f64, relative to the gradient's norm. Measured: 7e-6, near a ReLU's kink and where gradients cancel.
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

/// The fixture's texts as the task reads them, with the gold labels of the script.
fn texts(encoder: &Encoder, fixture: &Fixture, task: &Task, kind: &str) -> Vec<(Tokenized, Gold)> {
    let suits = |texts: usize| match kind {
        "tagging" => texts == 1,
        "span" => texts == 2,
        _ => true,
    };
    // The gradients are those of the texts that every fixture has.
    let cases = fixture.cases.iter().take(Gradients::VALUES.len()).filter(|case| suits(case.text.len()));
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
            "cls" => Gold::Value(Gradients::VALUES[at]),
            _ => Gold::Class(Gradients::CLASSES[at]),
        };
        // The task takes one text; pairs are joined to get longer texts.
        let mut json = serde_json::to_value(task).unwrap();
        json["inputs"] = case.text.len().into();
        let task: Task = serde_json::from_value(json).unwrap();
        (encoder.tokenized(&task, &text).unwrap().remove(0), gold)
    });
    read.collect()
}

fn head_of(task: &Task) -> Vec<f32> {
    let outputs = task.kind().outputs().unwrap();
    [Fixture::values("head weight", &[outputs, 32]), Fixture::values("head bias", &[outputs])].concat()
}

#[test]
fn gradients_are_those_of_pytorch() {
    for expected in Gradients::all() {
        for threads in [1, 2] {
            let engine = EngineOptions { threads, ..EngineOptions::default() };
            let encoder = Encoder::load(expected.bundle.clone(), engine).unwrap();
            for kind in expected.kinds() {
                let task = task_of(kind);
                let texts = texts(&encoder, &expected.fixture, &task, kind);
                let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
                let values = encoder.base().slots();
                let found = gradient(
                    &encoder,
                    &task,
                    &Values::of_slots(values),
                    &head_of(&task),
                    &texts,
                    &vec![true; values.len()],
                    RUN_TOKENS,
                )
                .unwrap();
                let slots = expected.bundle.manifest().slots.iter();
                let slots = slots.zip(&found.values.slots).filter(|(slot, _)| has_effect(&expected.bundle, slot));
                let named = slots.map(|(slot, d)| (slot.name.as_str(), &d[..]));
                let (d_weight, d_bias) = found.head.split_at(found.head.len() - task.kind().outputs().unwrap());
                let gradients = named.chain([("head weight", d_weight), ("head bias", d_bias)]);
                let gradients = gradients.map(|(part, d)| (part, d.iter().copied().map(f64::from).collect()));
                expected.compare(kind, &format!("{threads} threads"), found.loss, gradients, GRADIENT_BOUND);
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
    let of = |wanted: &[bool]| {
        gradient(&encoder, &task, &Values::of_slots(values), &head_of(&task), &texts, wanted, RUN_TOKENS).unwrap()
    };
    let all = of(&vec![true; values.len()]);
    for only in 0..values.len() {
        let wanted: Vec<bool> = (0..values.len()).map(|at| at == only).collect();
        let found = of(&wanted);
        assert_eq!((found.loss, &found.head), (all.loss, &all.head));
        for (at, (d, due)) in found.values.slots.iter().zip(&all.values.slots).enumerate() {
            if at == only {
                assert_eq!(d, due, "slot {at}");
            } else {
                assert!(d.iter().all(|d| *d == 0.0), "slot {at} while only {only} is wanted");
            }
        }
    }
}

/// The encoder's own values, and a low-rank term of rank 2 of every linear layer.
fn with_terms(encoder: &Encoder) -> Values {
    let manifest = encoder.bundle().manifest();
    let mut values = Values::of_slots(encoder.base().slots());
    for (at, slot) in manifest.slots.iter().enumerate().filter(|(_, slot)| manifest.config.takes_low_rank(slot.module))
    {
        let part = |name: &str, len: u32| Fixture::values(&format!("{name} of {}", slot.name), &[2 * len as usize, 1]);
        let (a, b) = (part("A", manifest.config.inputs(slot.module)), part("B", slot.len));
        let halved = |values: Vec<f32>| values.iter().map(|value| 0.5 * value).collect();
        values.low_rank.push(LowRank { slot: at, rank: 2, a: halved(a), b: halved(b) });
    }
    values
}

#[test]
fn the_loss_falls_along_the_gradient() {
    for options in [edge_export::Options::default(), f16(), int8(), int4()] {
        let (_home, bundle) = small_bundle_with("electra", options);
        let engine = EngineOptions { activations: Activations::F32, ..EngineOptions::default() };
        let encoder = Encoder::load(bundle.clone(), engine).unwrap();
        let task = task_of("mean");
        let texts = texts(&encoder, &Fixture::named("electra"), &task, "mean");
        let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
        for values in [Values::of_slots(encoder.base().slots()), with_terms(&encoder)] {
            let parts = |values: &Values| -> Vec<Vec<f32>> {
                let terms = values.low_rank.iter().flat_map(|term| [term.a.clone(), term.b.clone()]);
                values.slots.iter().cloned().chain(terms).collect()
            };
            let wanted = vec![true; values.slots.len() + values.low_rank.len()];
            let at = |values: &Values| {
                gradient(&encoder, &task, values, &head_of(&task), &texts, &wanted, RUN_TOKENS).unwrap()
            };
            let found = at(&values);
            let norm = parts(&found.values).iter().flatten().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
            // Central differences along the gradient's direction.
            let step = 1e-2;
            let moved = |by: f64| -> Values {
                let add = |values: &[f32], d: &[f32]| -> Vec<f32> {
                    values.iter().zip(d).map(|(v, d)| (f64::from(*v) + by * f64::from(*d) / norm) as f32).collect()
                };
                let slots = values.slots.iter().zip(&found.values.slots).map(|(v, d)| add(v, d)).collect();
                let terms = values.low_rank.iter().zip(&found.values.low_rank);
                let terms = terms.map(|(v, d)| LowRank { a: add(&v.a, &d.a), b: add(&v.b, &d.b), ..*v });
                Values { slots, low_rank: terms.collect() }
            };
            let slope = (at(&moved(step)).loss - at(&moved(-step)).loss) / (2.0 * step);
            assert!((slope / norm - 1.0).abs() < 5e-3, "slope {slope}, norm {norm}");
        }
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
    let of = |tokens| {
        gradient(&encoder, &task, &Values::of_slots(values), &head_of(&task), &texts, &vec![true; values.len()], tokens)
            .unwrap()
    };
    let (all, few) = (of(RUN_TOKENS), of(1));
    assert!((all.loss - few.loss).abs() < 1e-6 * all.loss);
    for (slot, due) in few.values.slots.iter().zip(&all.values.slots) {
        let norm = due.iter().map(|d| d * d).sum::<f32>().sqrt();
        let error = slot.iter().zip(due).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 1e-5 * norm, "{error} of {norm}");
    }
}

#[test]
fn gradients_of_weights_are_slopes_of_the_loss() {
    /// The step of central differences, along a direction of length one.
    const STEP: f64 = 2e-2;
    /// The error of third order, relative to the gradient's norm.
    const CURVATURE: f64 = 1e-2;
    /// The rounding of two losses in f32, a few millionths each, over twice the step.
    const ROUNDING: f64 = 2e-4;
    for (name, kind) in [("bert", "pooler"), ("electra", "mean"), ("roberta", "span"), ("distilbert", "tagging")] {
        let (_home, bundle) = small_bundle(name);
        let encoder = Encoder::load(bundle, EngineOptions { threads: 2, ..EngineOptions::default() }).unwrap();
        let task = task_of(kind);
        let texts = texts(&encoder, &Fixture::named(name), &task, kind);
        let texts: Vec<_> = texts.iter().map(|(text, gold)| (text, gold)).collect();
        let (base, head, own) = (encoder.base().slots(), head_of(&task), encoder.own_weights().unwrap());
        let wanted = vec![true; base.len()];
        let mut d = vec![0.0; own.values().len()];
        // In several runs, which add up.
        let tokens = texts.iter().map(|(text, _)| text.len()).max().unwrap();
        let base_values = Values::of_slots(base);
        let values = (&base_values, &head[..]);
        let found =
            gradient_over(&encoder, (&task, &[]), values, &texts, &wanted, tokens, Extent::Weights(&mut d)).unwrap();
        let without = gradient(&encoder, &task, &Values::of_slots(base), &head, &texts, &wanted, tokens).unwrap();
        assert_eq!((found.loss, found.values.slots, found.head), (without.loss, without.values.slots, without.head));
        let nothing = vec![false; base.len()];
        let loss = |own: &OwnWeights| {
            let changed = encoder.with_weights(own).unwrap();
            gradient(&changed, &task, &Values::of_slots(base), &head, &texts, &nothing, RUN_TOKENS).unwrap().loss
        };
        let mut worst = 0.0f64;
        for tensor in own.tensors() {
            let (rows, columns) = (tensor.rows as usize, tensor.columns as usize);
            let place = |at: usize| own.start(tensor) + tensor.place(at / columns, at % columns);
            let places: Vec<usize> = (0..rows * columns).map(place).collect();
            let gradient: Vec<f32> = places.iter().map(|place| d[*place]).collect();
            let length = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let norm = length(&gradient);
            // Along the gradient, and along an unrelated direction.
            for direction in [gradient.clone(), Fixture::values(&format!("probe {}", tensor.name), &[places.len(), 1])]
            {
                let len = length(&direction);
                if len == 0.0 {
                    continue;
                }
                let moved = |by: f64| {
                    let mut own = own.clone();
                    let values = own.values_mut();
                    for (place, v) in places.iter().zip(&direction) {
                        values[*place] = (f64::from(values[*place]) + by * f64::from(*v) / len) as f32;
                    }
                    loss(&own)
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let due =
                    gradient.iter().zip(&direction).map(|(d, v)| f64::from(*d) * f64::from(*v)).sum::<f64>() / len;
                let error = (slope - due).abs();
                assert!(error <= CURVATURE * norm + ROUNDING, "{name} {kind} {}: {slope}, found {due}", tensor.name);
                worst = worst.max(error / (norm + ROUNDING));
            }
        }
        println!("{name:16} {kind:8} worst {worst:.1e}");
    }
}

#[test]
fn a_copy_of_the_weights_answers_as_the_mapped_ones_do() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle, EngineOptions::default()).unwrap();
    let text = Text::one("a good film");
    let hidden = |own: &OwnWeights| encoder.with_weights(own).unwrap().hidden(&text).unwrap();
    let mut own = encoder.own_weights().unwrap();
    assert_eq!(hidden(&own), encoder.hidden(&text).unwrap());
    // The encoder that used them is dropped, so changing them copies nothing. An earlier clone keeps its values.
    let place = own.values().as_ptr();
    assert_eq!(own.values_mut().as_ptr(), place);
    let before = own.clone();
    own.values_mut().iter_mut().for_each(|value| *value *= 1.1);
    assert_ne!(hidden(&own), hidden(&before));
    assert_eq!(hidden(&before), encoder.hidden(&text).unwrap());

    let (_home, bundle) = small_bundle("electra");
    let other = Encoder::load(bundle, EngineOptions::default()).unwrap();
    let error = other.with_weights(&own).err().unwrap().to_string();
    assert!(error.contains("found those of another"), "{error}");
    for (options, said) in [(int8(), "they are int8"), (f16(), "they are f16")] {
        let (_home, bundle) = small_bundle_with("bert", options);
        let error = Encoder::load(bundle, EngineOptions::default()).unwrap().own_weights().unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("--weights f32"), "{error}");
    }
}
