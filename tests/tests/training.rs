//! Training: gradients against PyTorch's, patches that come out the same however often a run is stopped, and weights to compare.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use bias_patch::{Bundle, Patch, Task, Term};
use edge_patch::{
    data::Gold,
    train::{gradient, gradient_with_weights},
};
use edge_run::{Activations, Encoder, EngineOptions, OwnWeights, RUN_TOKENS, Text, Tokenized};
use serde_json::{Value, json};
use system_tests::{
    ENCODERS, Fixture, Gradients, assert_refused, assert_succeeded, command, int8, small_bundle, small_bundle_with,
};
use tempfile::TempDir;

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
fn gradients_of_weights_are_slopes_of_the_loss() {
    /// The step of central differences, along a direction of length one.
    const STEP: f64 = 2e-2;
    /// What their third order may add, relative to the gradient's norm.
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
        let values = (base, &head[..]);
        let found = gradient_with_weights(&encoder, &task, values, &texts, &wanted, tokens, Some(&mut d)).unwrap();
        let without = gradient(&encoder, &task, base, &head, &texts, &wanted, tokens).unwrap();
        assert_eq!((found.loss, found.slots, found.head), (without.loss, without.slots, without.head));
        let nothing = vec![false; base.len()];
        let loss = |own: &OwnWeights| {
            let changed = encoder.with_weights(own).unwrap();
            gradient(&changed, &task, base, &head, &texts, &nothing, RUN_TOKENS).unwrap().loss
        };
        let mut worst = 0.0f64;
        for tensor in own.tensors() {
            let (rows, columns) = (tensor.rows as usize, tensor.columns as usize);
            let place = |at: usize| own.start(tensor) + tensor.place(at / columns, at % columns);
            let places: Vec<usize> = (0..rows * columns).map(place).collect();
            let gradient: Vec<f32> = places.iter().map(|place| d[*place]).collect();
            let length = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let norm = length(&gradient);
            // Along the gradient, and along what has nothing to do with it.
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
    // The encoder that had them is gone, so they are not copied to be changed; a copy of before stays as it was.
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
    let (_home, bundle) = small_bundle_with("bert", int8());
    let error = Encoder::load(bundle, EngineOptions::default()).unwrap().own_weights().unwrap_err().to_string();
    assert!(error.contains("codes of eight bits") && error.contains("--weights f32"), "{error}");
}

/// An encoder, a task of two labels and texts whose words give the label away.
struct Place {
    home: TempDir,
    bundle: Bundle,
}

impl Place {
    fn new() -> Self {
        let (home, bundle) = small_bundle("bert");
        let rows = |from: usize, count: usize| {
            let row = |at: usize| {
                let words = ["film", "very", "the", "was", "not", "it", "cafe"];
                let (word, other) = (words[at * 3 % 7], words[at * 5 % 6]);
                let (good, label) = if at.is_multiple_of(2) { ("good", 1) } else { ("bad", 0) };
                format!("{word} {good} {other}\t{label}\n")
            };
            "sentence\tlabel\n".to_owned() + &(from..from + count).map(row).collect::<String>()
        };
        fs::write(home.path().join("train.tsv"), rows(0, 96)).unwrap();
        fs::write(home.path().join("dev.tsv"), rows(500, 40)).unwrap();
        let (labels, limit) = (["bad", "good"], 40);
        let task = json!({ "name": "mood", "kind": "classification", "labels": labels, "pooling": "mean", "max_length": limit });
        fs::write(home.path().join("task.json"), task.to_string()).unwrap();
        Place { home, bundle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn train(&self, output: &str, extra: &[&str]) -> std::process::Command {
        let mut train = command("edge-patch", self.home.path());
        let fixed = ["train", "--encoder", "bundle", "--task", "task.json", "--train", "train.tsv", "--dev", "dev.tsv"];
        train.current_dir(self.home.path()).args(fixed).args(["-o", output]).args(extra);
        train
    }
}

#[test]
fn a_trained_patch_answers_and_is_the_same_each_time() {
    let place = Place::new();
    let recipe = ["--lr", "1e-2", "--epochs", "4", "--seeds", "2", "--log", "log.jsonl"];
    let said = assert_succeeded(&place.train("mood.bias", &recipe).output().unwrap());
    assert!(said.contains("deviation") && said.contains("accuracy 1.0000"), "{said}");
    assert!(!place.path("mood.bias.training").exists() && !place.path("mood.bias.lock").exists());
    assert_succeeded(&place.train("again.bias", &[&recipe[..], &["--threads", "2"]].concat()).output().unwrap());
    assert_eq!(fs::read(place.path("mood.bias")).unwrap(), fs::read(place.path("again.bias")).unwrap());
    let log = fs::read_to_string(place.path("log.jsonl")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> =
        events.iter().filter(|e| e["event"] == "pass").map(|e| e["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 2 * 2 * 4);
    assert!(losses[3] < 0.7 * losses[0], "{losses:?}");

    let evaluate = |extra: &[&str]| {
        let mut evaluate = command("edge-patch", place.home.path());
        let fixed = ["evaluate", "mood.bias", "dev.tsv", "--encoder", "bundle"];
        assert_succeeded(&evaluate.current_dir(place.home.path()).args(fixed).args(extra).output().unwrap())
    };
    let found: Value = serde_json::from_str(&evaluate(&["--json"])).unwrap();
    assert_eq!(found["confusion"], json!([[20, 0], [0, 20]]));
    assert_eq!(found["metrics"][0], json!(["accuracy", 1.0]));
    let said = evaluate(&[]);
    for part in ["bytes", "accuracy", "Matthews", "calibration", "<- given"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // The score is of these values: converting them makes it one of before.
    let metric = "accuracy 1.0000 on 40 texts";
    assert_eq!(Patch::open(&place.path("mood.bias")).unwrap().metadata()["metric"], metric);
    let mut convert = command("edge-patch", place.home.path());
    let fixed = ["convert", "mood.bias", "--encoder", "bundle", "--encoding", "i4", "-o", "small.bias"];
    assert_succeeded(&convert.current_dir(place.home.path()).args(fixed).output().unwrap());
    let notes = Patch::open(&place.path("small.bias")).unwrap().metadata().clone();
    assert!(!notes.contains_key("metric") && notes["metric before conversion"] == metric, "{notes:?}");
    // Only what was asked for is stored, and the frozen encoder is a head alone.
    let slots = |name: &str, terms: &str| {
        assert_succeeded(&place.train(name, &["--epochs", "1", "--slots", terms]).output().unwrap());
        let patch = Patch::open(&place.path(name)).unwrap();
        patch.check(place.bundle.manifest()).unwrap();
        patch.slots().iter().map(|slot| slot.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(slots("two.bias", "bq,bm2"), ["bq.0", "bm2.0", "bq.1", "bm2.1"]);
    assert!(slots("frozen.bias", "none").is_empty());
}

#[test]
fn a_training_that_is_killed_goes_on_to_the_same_patch() {
    let place = Place::new();
    // Long enough to be caught in the middle many times.
    let recipe = ["--lr", "3e-3,1e-2", "--epochs", "16", "--batch", "2"];
    assert_succeeded(&place.train("whole.bias", &recipe).output().unwrap());
    let mut kills = 0;
    for attempt in 0u64.. {
        let mut child = place.train("parts.bias", &recipe).stdout(Stdio::null()).spawn().unwrap();
        // Other moments each time, counted from its first new checkpoint, so that every attempt gets further.
        let checkpoint = place.path("parts.bias.training");
        let kept = || fs::metadata(&checkpoint).and_then(|m| m.modified()).ok();
        let before = kept();
        while kept() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(attempt * 7 % 31));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 1000, "it never ends");
    }
    println!("killed {kills} times");
    assert!(kills >= 5, "killed {kills} times only");
    assert_eq!(fs::read(place.path("whole.bias")).unwrap(), fs::read(place.path("parts.bias")).unwrap());
    assert!(!place.path("parts.bias.training").exists());
}

#[test]
fn bad_trainings_are_refused() {
    let place = Place::new();
    let refused = |extra: &[&str], parts: &[&str]| {
        assert_refused(&place.train("x.bias", extra).output().unwrap(), parts);
        assert!(!place.path("x.bias").exists());
    };
    let with = |name: &str, text: &str| fs::write(place.path(name), text).unwrap();
    let good = fs::read_to_string(place.path("train.tsv")).unwrap();

    with("train.tsv", &(good.clone() + "why\t7\n\t1\n"));
    refused(&[], &["train.tsv", "2 that are not", "line 98", "expected one of bad, good, found \"7\"", "--skip-bad"]);
    assert_succeeded(&place.train("skip.bias", &["--skip-bad", "--epochs", "1"]).output().unwrap());
    with("train.tsv", "sentence\tlabel\ngood\t1\nvery good\t1\n");
    refused(&[], &["train.tsv", "at least two that differ", "the same on every row"]);
    with("train.tsv", "sentence\tlabel\n");
    refused(&[], &["train.tsv", "expected labelled texts, found none"]);
    with("train.tsv", "sentence\tmood\ngood\t1\n");
    refused(&[], &["train.tsv", "header", "a column of labels, one of label"]);
    with("train.tsv", "sentence1\tsentence2\tlabel\ngood\tbad\t1\n");
    refused(&[], &["expected 1 texts, found 2"]);
    with("train.tsv", &good);
    for wrong in ["bq,bx", "bk"] {
        let output = place.train("x.bias", &["--slots", wrong]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
    refused(&["--slots", "bq,bpool"], &["--slots", "terms that this encoder and task have", "bpool"]);
    let task = fs::read_to_string(place.path("task.json")).unwrap();
    with("task.json", &task.replace("40", "4000"));
    refused(&[], &["max_length", "expected at most 48"]);
    with("task.json", &task);
    fs::write(place.path("x.bias.training"), "no state").unwrap();
    refused(&[], &["x.bias.training", "damaged", "remove the file"]);
    fs::remove_file(place.path("x.bias.training")).unwrap();
    // The state of another recipe is not mistaken for this one's.
    let mut child = place.train("x.bias", &["--epochs", "400", "--batch", "1"]).spawn().unwrap();
    while !place.path("x.bias.training").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    refused(&["--epochs", "400", "--batch", "1"], &["x.bias", "one training at a time"]);
    child.kill().unwrap();
    child.wait().unwrap();
    refused(&["--epochs", "1"], &["x.bias.training", "of another training", "remove the file"]);
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

#[test]
fn averages_memory_limits_and_sizes_are_trained_and_kept() {
    let place = Place::new();
    let recipe = ["--lr", "1e-2", "--epochs", "3"];
    let train = |output: &str, extra: &[&str]| {
        assert_succeeded(&place.train(output, &[&recipe[..], extra].concat()).output().unwrap())
    };
    for how in ["ema:0.9", "last:2"] {
        let said = train("average.bias", &["--average", how]);
        assert!(said.contains("accuracy"), "{said}");
    }
    train("limited.bias", &["--memory-limit", "200M"]);
    let refused = place.train("x.bias", &["--memory-limit", "1M"]).output().unwrap();
    assert_refused(&refused, &["memory limit", "at least", "1000000 bytes"]);
    let sizes = ["--train-sizes", "24,96"];
    let said = train("size.bias", &sizes);
    assert!(said.contains("deviation") && said.lines().count() == 3, "{said}");
    // The second time nothing is trained: the results are there.
    let kept = fs::metadata(place.path("size-96.bias")).unwrap().modified().unwrap();
    assert_eq!(train("size.bias", &sizes), said);
    assert_eq!(fs::metadata(place.path("size-96.bias")).unwrap().modified().unwrap(), kept);
    let other = place.train("size.bias", &[&sizes[..], &["--epochs", "1"]].concat()).output().unwrap();
    assert_refused(&other, &["size-24.bias.json", "remove the file to train anew"]);
}

#[test]
fn the_smallest_encoding_keeps_the_metric() {
    let place = Place::new();
    assert_succeeded(&place.train("mood.bias", &["--lr", "1e-2", "--epochs", "4"]).output().unwrap());
    let search = |output: &str, extra: &[&str]| {
        let mut convert = command("edge-patch", place.home.path());
        let fixed = ["convert", "mood.bias", "--encoder", "bundle", "--max-loss", "2.5", "--data", "dev.tsv", "-o"];
        let convert = convert.current_dir(place.home.path()).args(fixed).arg(output).args(extra);
        assert_succeeded(&convert.output().unwrap())
    };
    let said = search("small.bias", &[]);
    assert!(said.contains("i2") && said.contains("searched") && said.contains("parts: "), "{said}");
    search("again.bias", &[]);
    search("refined.bias", &["--quantization-aware", "--train", "train.tsv"]);
    assert!(!place.path("refined.bias.refined").exists());
    let bytes = |name: &str| fs::read(place.path(name)).unwrap();
    assert_eq!(bytes("small.bias"), bytes("again.bias"));
    assert!(bytes("small.bias").len() < bytes("mood.bias").len() / 3);
    let evaluate = |patch: &str| {
        let mut evaluate = command("edge-patch", place.home.path());
        let fixed = ["evaluate", patch, "dev.tsv", "--encoder", "bundle", "--json"];
        let said = assert_succeeded(&evaluate.current_dir(place.home.path()).args(fixed).output().unwrap());
        serde_json::from_str::<Value>(&said).unwrap()["metrics"][0][1].as_f64().unwrap()
    };
    for found in ["small.bias", "refined.bias"] {
        assert!(evaluate(found) >= evaluate("mood.bias") - 0.025 - 1e-9, "{found}");
    }
}

#[test]
fn answers_are_learned_from_every_form_of_squad() {
    let place = Place::new();
    let answers = ["good", "bad", "happy", "film"];
    let context = |answer: &str, other: &str| format!("it was {other} , the cafe is {answer} .");
    let row = |at: usize| {
        let context = context(answers[at % 4], ["not", "very"][at / 4 % 2]);
        let start = context.rfind(answers[at % 4]).unwrap();
        (context, answers[at % 4], start)
    };
    let lines = (0..48).map(row).map(|(context, answer, start)| {
        json!({ "question": "why ?", "context": context, "answer": answer, "answer_start": start }).to_string() + "\n"
    });
    fs::write(place.path("train.jsonl"), lines.collect::<String>()).unwrap();
    let paragraphs: Vec<Value> = (100..116)
        .map(row)
        .map(|(context, answer, start)| {
            let answers = [json!({ "text": answer, "answer_start": start })];
            json!({ "context": context, "qas": [{ "id": "1", "question": "why ?", "answers": answers }] })
        })
        .collect();
    fs::write(place.path("dev.json"), json!({ "data": [{ "paragraphs": paragraphs }] }).to_string()).unwrap();
    let task = json!({ "name": "qa", "kind": "span", "inputs": 2, "max_length": 40 });
    fs::write(place.path("span.json"), task.to_string()).unwrap();
    let train = |extra: &[&str]| {
        let mut train = command("edge-patch", place.home.path());
        let fixed = ["train", "--encoder", "bundle", "--task", "span.json", "--dev", "dev.json", "-o", "qa.bias"];
        train.current_dir(place.home.path()).args(fixed).args(extra).output().unwrap()
    };
    let said = assert_succeeded(&train(&["--train", "train.jsonl", "--lr", "1e-2", "--epochs", "6"]));
    let f1: f64 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(f1 > 0.8, "{said}");
    fs::write(place.path("bad.jsonl"), r#"{"question":"why ?","context":"a cafe","answer":"cafe","answer_start":1}"#)
        .unwrap();
    assert_refused(
        &train(&["--train", "bad.jsonl"]),
        &["bad.jsonl", "the answer \"cafe\" at character 1", "--skip-bad"],
    );
}

#[test]
fn losses_that_are_no_numbers_and_disks_that_are_full_are_said() {
    let place = Place::new();
    let task = json!({ "name": "value", "kind": "regression", "pooling": "mean", "max_length": 40 });
    let of_mood = fs::read_to_string(place.path("task.json")).unwrap();
    let texts = fs::read_to_string(place.path("train.tsv")).unwrap();
    fs::write(place.path("task.json"), task.to_string()).unwrap();
    fs::write(place.path("train.tsv"), "sentence\tlabel\ngood\t3e38\nbad\t0\n").unwrap();
    assert_refused(
        &place.train("x.bias", &[]).output().unwrap(),
        &["step 1", "not a finite number", "texts of this step"],
    );
    // Texts of another kind of task are no texts of this one.
    fs::write(place.path("train.tsv"), texts).unwrap();
    fs::write(place.path("dev.tsv"), "tokens\tlabels\ngood film\tADJ NOUN\n").unwrap();
    assert_refused(
        &place.train("x.bias", &[]).output().unwrap(),
        &["dev.tsv", "expected a number, found \"ADJ NOUN\""],
    );
    fs::write(place.path("train.tsv"), "").unwrap();
    assert_refused(&place.train("x.bias", &[]).output().unwrap(), &["train.tsv, line 1", "a header"]);

    let place = Place::new();
    fs::write(place.path("task.json"), of_mood).unwrap();
    let full = place.train("x.bias", &["--log", "/dev/full"]).output().unwrap();
    assert_refused(&full, &["/dev/full", "cannot write"]);
    // What was trained is not lost for a log.
    assert!(place.path("x.bias").exists());
}

#[test]
fn a_table_is_made_once() {
    let place = Place::new();
    let table = |recipe: &[&str]| {
        let mut table = command("edge-patch", place.home.path());
        let fixed = [
            "table",
            "--encoder",
            "bundle",
            "--data",
            "mood=task.json,train.tsv,dev.tsv,F1",
            "--rows",
            "frozen,bq+bm2",
        ];
        let files = ["--results", "results", "-o", "table.md"];
        table.current_dir(place.home.path()).args(fixed).args(files).args(recipe).output().unwrap()
    };
    let recipe = ["--lr", "1e-2", "--epochs", "2", "--seeds", "2"];
    let said = assert_succeeded(&table(&recipe));
    for part in ["mood, F1", "| frozen |", "| bq+bm2 |", " ± ", "over 2 seeds"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(fs::read_to_string(place.path("table.md")).unwrap(), said);
    let kept = || fs::metadata(place.path("results/mood-frozen.bias")).unwrap().modified().unwrap();
    let before = kept();
    assert_eq!(assert_succeeded(&table(&recipe)), said);
    assert_eq!(kept(), before);
    assert_refused(&table(&["--epochs", "1"]), &["mood-frozen.bias.json", "remove the file to train anew"]);
}

#[test]
fn weights_are_trained_to_compare_and_leave_no_patch() {
    let place = Place::new();
    let table = || {
        let mut table = command("edge-patch", place.home.path());
        let fixed = ["table", "--encoder", "bundle", "--data", "mood=task.json,train.tsv,dev.tsv", "--epochs", "2"];
        let rows = ["--rows", "frozen,random,rows@1e-2,full@1e-3@3e-3", "--lr", "1e-2", "--seeds", "2"];
        let files = ["--results", "results", "-o", "table.md"];
        assert_succeeded(&table.current_dir(place.home.path()).args(fixed).args(rows).args(files).output().unwrap())
    };
    let said = table();
    for row in ["random", "rows@1e-2", "full@1e-3@3e-3"] {
        let line = said.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap();
        assert!(line.contains(" ± ") && line.ends_with("| - | - |"), "{line}");
        assert!(place.path(&format!("results/mood-{row}.bias.json")).exists());
        assert!(!place.path(&format!("results/mood-{row}.bias")).exists());
    }
    assert!(place.path("results/mood-frozen.bias").exists());
    let kept = || fs::metadata(place.path("results/mood-random.bias.json")).unwrap().modified().unwrap();
    let before = kept();
    assert_eq!((table(), kept()), (said, before));

    let last_loss = |name: &str, what: &[&str]| {
        let log = format!("{name}.jsonl");
        let fixed = ["--lr", "3e-3", "--epochs", "4", "--log", &log];
        let train = |output: &str| place.train(output, &[&fixed[..], what].concat()).output().unwrap();
        let said = assert_succeeded(&train(&format!("{name}.bias")));
        let log = fs::read_to_string(place.path(&log)).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let losses: Vec<f64> = events.filter(|e| e["event"] == "pass").map(|e| e["loss"].as_f64().unwrap()).collect();
        (losses[3], said)
    };
    let ((frozen, _), (full, said)) =
        (last_loss("frozen", &["--slots", "none"]), last_loss("full", &["--weights", "full"]));
    assert!(full < frozen, "full {full}, frozen {frozen}");
    assert!(said.contains("no patch is written, accuracy"), "{said}");
    assert!(!place.path("full.bias").exists() && !place.path("full.bias.training").exists());
    // The same steps give the same losses.
    assert_eq!(last_loss("again", &["--weights", "full"]).0, full);
    for (extra, parts) in [
        (["--average", "ema"], ["averages", "none where weights are trained"]),
        (["--memory-limit", "200M"], ["memory limit", "none where weights are trained"]),
    ] {
        let refused = place.train("x.bias", &[&["--weights", "rows"], &extra[..]].concat()).output().unwrap();
        assert_refused(&refused, &parts);
    }
}
