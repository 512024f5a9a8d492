//! `train.onnx`: its gradients against PyTorch's, and what an export with and without it leaves.

use std::{collections::HashMap, fs};

use bias_patch::{Bundle, FileEntry, MANIFEST, Manifest, Term};
use edge_export::{Options, Training, Value, evaluate, verify};
use ndarray::{Array3, ArrayD, IxDyn};
use system_tests::{
    Case, Fixture, Gradients, Layout, assert_refused, assert_succeeded, command, small_bundle, small_bundle_with,
};
use tempfile::TempDir;

/// f64 against f64, relative to a gradient's norm; constants of the graph are f32: 5e-7 was measured where gradients cancel.
const GRADIENT_BOUND: f64 = 1e-6;

/// Inputs of the graph for the fixture's texts as one padded batch, and what `make_gradients.py` says is right of them.
/// Tags and spans need a tokenizer's offsets: `check_onnxruntime.py` has them.
fn inputs(bundle: &Bundle, cases: &[Case], kind: &str) -> HashMap<String, Value> {
    let (texts, longest) = (cases.len(), cases.iter().map(|case| case.input_ids.len()).max().unwrap());
    let tokens = |of: &dyn Fn(&Case, usize) -> i64| {
        let values = cases
            .iter()
            .flat_map(|case| (0..longest).map(move |at| if at < case.input_ids.len() { of(case, at) } else { 0 }));
        Value::Int(ArrayD::from_shape_vec(IxDyn(&[texts, longest]), values.collect()).unwrap())
    };
    let of_second = |case: &Case, at: usize| {
        let separator = case.input_ids.iter().position(|id| Some(id) == case.input_ids.last()).unwrap();
        i64::from(case.text.len() == 2 && at > separator)
    };
    let mut reads = Array3::<f64>::zeros((texts, 1, longest));
    for (text, case) in cases.iter().enumerate() {
        let length = case.input_ids.len();
        match kind {
            "mean" => reads.slice_mut(ndarray::s![text, 0, ..length]).fill(1.0 / length as f64),
            "cls" => reads[[text, 0, 0]] = 1.0,
            _ => {}
        }
    }
    let outputs = if kind == "cls" { 1 } else { 3 };
    let hidden = bundle.manifest().config.hidden as usize;
    let head = |name: &str, dims: &[usize]| {
        let values = Fixture::values(name, dims).into_iter().map(f64::from).collect();
        Value::Float(ArrayD::from_shape_vec(IxDyn(dims), values).unwrap())
    };
    let float = |array: Array3<f64>| Value::Float(array.into_dyn());
    let share = 1.0 / texts as f64;
    let mut inputs = vec![
        ("input_ids", tokens(&|case, at| i64::from(case.input_ids[at]))),
        ("attention_mask", tokens(&|_, _| 1)),
        ("token_type_ids", tokens(&of_second)),
        ("reads", float(reads)),
        ("head.weight", head("head weight", &[outputs, hidden])),
        ("head.bias", head("head bias", &[outputs])),
    ];
    if kind == "cls" {
        let value = |text: usize| f64::from(Gradients::VALUES[text]);
        inputs.push(("values", float(Array3::from_shape_fn((texts, 1, 1), |(text, ..)| value(text)))));
        inputs.push(("value_shares", float(Array3::from_elem((texts, 1, 1), share))));
    } else {
        let right = |text: usize, output: usize| if Gradients::CLASSES[text] == output { share } else { 0.0 };
        inputs.push(("labels", float(Array3::from_shape_fn((texts, 1, 3), |(text, _, output)| right(text, output)))));
    }
    if kind == "pooler" {
        inputs.push(("reads_pooler", float(Array3::ones((texts, 1, 1)))));
    }
    inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn numbers(outputs: &HashMap<String, Value>, name: &str) -> Vec<f64> {
    match &outputs[name] {
        Value::Float(array) => array.iter().copied().collect(),
        Value::Int(array) => panic!("{name}: {array:?}"),
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    for expected in Gradients::all() {
        let Gradients { bundle, fixture, .. } = &expected;
        for kind in expected.kinds().filter(|kind| ["mean", "cls", "pooler"].contains(kind)) {
            let outputs = evaluate(&bundle.dir().join("train.onnx"), inputs(bundle, &fixture.cases, kind)).unwrap();
            let loss = numbers(&outputs, "loss")[0];
            let slots = bundle.manifest().slots.iter().filter(|slot| slot.term != Term::Key);
            let slots = slots.map(|slot| (slot.name.as_str(), numbers(&outputs, &format!("gradient.{}", slot.name))));
            let head = [("head weight", "gradient.head.weight"), ("head bias", "gradient.head.bias")];
            let head = head.map(|(part, name)| (part, numbers(&outputs, name)));
            expected.compare(kind, "the graph", loss, slots.chain(head), GRADIENT_BOUND);
        }
    }
}

#[test]
fn the_training_graph_changes_nothing_else() {
    let with = |training| small_bundle_with("electra", Options { training, ..Options::default() });
    let (_all, all) = with(Training::All);
    let (_none, none) = with(Training::None);
    let (_two, two) = with(Training::Terms(vec![Term::Query, Term::Middle]));
    let without = |bundle: &Bundle| {
        let mut manifest = bundle.manifest().clone();
        (manifest.files.remove("train.onnx"), manifest)
    };
    let ((whole, all_manifest), (part, two_manifest)) = (without(&all), without(&two));
    assert_eq!((&all_manifest, &two_manifest), (none.manifest(), none.manifest()));
    assert!(part.unwrap().bytes < whole.unwrap().bytes);
    assert!(!none.dir().join("train.onnx").exists());
    for bundle in [&all, &none, &two] {
        verify(bundle.dir(), &mut |_| ()).unwrap();
    }
    let fixture = Fixture::named("electra");
    let run =
        |bundle: &Bundle| evaluate(&bundle.dir().join("train.onnx"), inputs(bundle, &fixture.cases, "mean")).unwrap();
    let (whole, part) = (run(&all), run(&two));
    assert_eq!(part.len(), 4 + 2 * 2);
    for name in part.keys() {
        assert_eq!(numbers(&part, name), numbers(&whole, name), "{name}");
    }
}

#[test]
fn verify_finds_a_training_graph_of_other_weights() {
    let (_home, bundle) = small_bundle("bert");
    let path = bundle.dir().join("train.onnx");
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    damaged(&|bytes| bytes[100] ^= 1);
    let refused = verify(bundle.dir(), &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("train.onnx") && refused.contains("checksum"), "{refused}");
    damaged(&|bytes| bytes[100] ^= 1);
    // A place moved, and the manifest made to fit.
    damaged(&|bytes| {
        let at = bytes.windows(11).position(|w| w == b"weights.bin").unwrap();
        bytes[at..at + 11].copy_from_slice(b"weights.bon");
    });
    let mut manifest: Manifest = bundle.manifest().clone();
    manifest.files.insert("train.onnx".into(), FileEntry::of(&path).unwrap());
    fs::write(bundle.dir().join(MANIFEST), serde_json::to_string(&manifest).unwrap()).unwrap();
    let refused = verify(bundle.dir(), &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("train.onnx") && refused.contains("weights.bon"), "{refused}");
}

#[test]
fn the_command_exports_what_is_asked_for() {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    Fixture::named("distilbert").write(&checkpoint, Layout::default());
    let export = |extra: &[&str]| command("edge-export", home.path()).arg(&checkpoint).args(extra).output().unwrap();
    let store = home.path().join("data/edge-run/bundles");
    let graph = || fs::read_dir(&store).unwrap().next().unwrap().unwrap().path().join("train.onnx");
    assert_succeeded(&export(&["--training=none"]));
    assert!(!graph().exists());
    // A bundle in the store that lacks the graph is replaced; one that has it keeps it.
    assert_succeeded(&export(&[]));
    assert!(graph().exists());
    let bytes = fs::metadata(graph()).unwrap().len();
    assert_succeeded(&export(&["--training=none"]));
    assert_eq!(fs::metadata(graph()).unwrap().len(), bytes);
    assert_succeeded(&export(&["--training=bq,bm2"]));
    assert!(fs::metadata(graph()).unwrap().len() < bytes);
    assert_succeeded(&export(&["--training"]));
    assert_eq!(fs::metadata(graph()).unwrap().len(), bytes);

    assert_refused(&export(&["--training=bq,bpool"]), &["--training", "expected beln bq bv", "found bpool"]);
    for wrong in ["--training=bk", "--training=bx", "--training="] {
        let output = export(&[wrong]);
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
