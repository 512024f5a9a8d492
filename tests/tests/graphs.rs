//! ONNX graphs of encoders that are of no family: export, slots and refusals, against transformers.

use std::{fs, path::Path};

use bias_patch::{Encoding, Head, Linear, Patch, Stored, StoredSlot, Task};
use edge_bundle::Bundle;
use edge_export::{Destination, GraphOptions, export_graph, verify};
use edge_run::{Encoder, Request};
use serde::Deserialize;
use system_tests::{Case, Fixture, assert_refused, assert_succeeded, command, fixtures};
use tempfile::TempDir;

/// tract computes in f32, the fixtures in f64 with seven decimals; hidden values are around 1.
const HIDDEN_BOUND: f32 = 1e-5;
/// Those that `make_graphs.py` writes: linear layers as MatMul and Add; convolutions; Fourier transforms and no mask,
/// with weights in a file beside the graph.
const GRAPHS: [&str; 3] = ["bert", "squeezebert", "fnet"];

/// What `make_graphs.py` wrote.
#[derive(Deserialize)]
struct Graphs {
    files: std::collections::BTreeMap<String, String>,
    graphs: std::collections::BTreeMap<String, Changed>,
}

#[derive(Deserialize)]
struct Changed {
    /// The parameter that is changed.
    bias: String,
    cases: Vec<ChangedCase>,
}

#[derive(Deserialize)]
struct ChangedCase {
    #[serde(flatten)]
    case: Case,
    /// The first row of the last hidden state after the change.
    changed: Vec<f32>,
}

fn read() -> Graphs {
    serde_json::from_slice(&fs::read(fixtures().join("graphs/graphs.json")).unwrap()).unwrap()
}

fn graph(name: &str) -> std::path::PathBuf {
    fixtures().join(format!("graphs/{name}.onnx"))
}

/// Writes the tokenizer's files to a directory beside the bundle's.
fn tokenizer(home: &Path) -> GraphOptions {
    let dir = home.join("tokenizer");
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in read().files {
        fs::write(dir.join(name), text).unwrap();
    }
    GraphOptions { tokenizer: Some(dir), max_length: None }
}

fn bundle(name: &str) -> (TempDir, Bundle) {
    let home = TempDir::new().unwrap();
    let to = Destination::Dir(home.path().join("bundle"));
    let bundle = export_graph(&graph(name), name, &tokenizer(home.path()), &to, &mut |_| ()).unwrap();
    (home, bundle)
}

fn largest(found: impl IntoIterator<Item = f32>, due: &[f32]) -> f32 {
    let found: Vec<f32> = found.into_iter().collect();
    assert_eq!(found.len(), due.len());
    found.iter().zip(due).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A patch that sets one bias, and whose outputs are the first token's hidden state.
fn patch_of(bundle: &Bundle, bias: &str) -> Patch {
    let hidden = bundle.manifest().config.hidden as usize;
    let labels: Vec<String> = (0..hidden).map(|label| label.to_string()).collect();
    let json = serde_json::json!({"name": "t", "kind": "classification", "labels": labels, "pooling": "cls", "max_length": 40});
    let task: Task = serde_json::from_value(json).unwrap();
    let manifest = bundle.manifest();
    let at = manifest.slots.iter().position(|slot| slot.name == bias).unwrap_or_else(|| panic!("no slot {bias}"));
    let slot = &manifest.slots[at];
    let values = Fixture::values(&format!("changed.{bias}"), &[slot.len as usize]);
    let base = bundle.base().unwrap();
    let values = Stored::encode(&values, Some(&base.slots()[at]), Encoding::F32).unwrap();
    let identity: Vec<f32> = (0..hidden * hidden).map(|at| f32::from(at % (hidden + 1) == 0)).collect();
    let head = Head::of(Linear::exact(&identity, &vec![0.0; hidden]).unwrap());
    Patch::new(manifest.encoder, task, vec![StoredSlot { id: slot.id(), values }], head, []).unwrap()
}

#[test]
fn hidden_states_are_those_of_transformers_with_and_without_a_changed_bias() {
    let fixture = read();
    for name in GRAPHS {
        let (_home, bundle) = bundle(name);
        let encoder = Encoder::open(bundle.dir()).unwrap();
        assert!(encoder.uncovered().is_some_and(|why| why.contains("encoder.onnx")), "{name}");
        let Changed { bias, cases } = &fixture.graphs[name];
        let task = encoder.attach(&patch_of(&bundle, bias)).unwrap();
        let (mut worst, mut moved): (f32, f32) = (0.0, 0.0);
        for ChangedCase { case, changed } in cases {
            let (hidden, _) = encoder.hidden(&case.read()).unwrap();
            assert_eq!(hidden.nrows(), case.input_ids.len(), "tokens of {:?}", case.text);
            for (row, due) in hidden.rows().into_iter().zip(&case.hidden) {
                worst = worst.max(largest(row.iter().copied(), due));
            }
            moved = moved.max(largest(hidden.row(0).to_vec(), changed));
            if let [_one] = &case.text[..] {
                let text = case.read();
                let answer = encoder.predict(&[Request { task: &task, text: &text }]).remove(0).unwrap();
                worst = worst.max(largest(answer.logits, changed));
            }
        }
        println!("{name}: largest difference {worst:e}");
        assert!(worst < HIDDEN_BOUND, "{name}: {worst}");
        assert!(moved > 1000.0 * HIDDEN_BOUND, "{name}: the bias should have an effect, found {moved}");
    }
}

/// The slots of each graph: those that its model has biases for, by their names, and none of what is not a bias.
#[test]
fn every_bias_is_a_slot_by_its_name() {
    let layer = |prefix: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{prefix}{name}.bias")).collect()
    };
    for (name, due) in [
        (
            "bert",
            [
                vec!["embeddings.LayerNorm.bias".to_owned()],
                layer("encoder.layer.0.attention.", &["self.query", "self.key", "self.value", "output.dense"]),
                layer("encoder.layer.0.", &["attention.output.LayerNorm", "intermediate.dense", "output.dense"]),
                layer("", &["encoder.layer.0.output.LayerNorm", "pooler.dense"]),
            ]
            .concat(),
        ),
        (
            "squeezebert",
            [
                vec!["embeddings.LayerNorm.bias".to_owned()],
                layer("encoder.layers.0.", &["attention.query", "attention.key", "attention.value"]),
                layer("encoder.layers.0.", &["post_attention.conv1d", "post_attention.layernorm"]),
                layer("encoder.layers.0.", &["intermediate.conv1d", "output.conv1d", "output.layernorm"]),
                layer("", &["pooler.dense"]),
            ]
            .concat(),
        ),
        (
            "fnet",
            [
                layer("embeddings.", &["LayerNorm", "projection"]),
                layer("encoder.layer.0.", &["fourier.output.LayerNorm", "intermediate.dense", "output.dense"]),
                layer("", &["encoder.layer.0.output.LayerNorm", "pooler.dense"]),
            ]
            .concat(),
        ),
    ] {
        let (_home, bundle) = bundle(name);
        let manifest = bundle.manifest();
        let mut found: Vec<&str> = manifest.slots.iter().map(|slot| slot.name.as_str()).collect();
        let symbols: Vec<String> = manifest.slots.iter().map(|slot| slot.id().to_string()).collect();
        assert_eq!(symbols, (0..due.len()).map(|at| format!("bgraph.{at}")).collect::<Vec<_>>());
        found.sort_unstable();
        let mut due: Vec<&str> = due.iter().map(String::as_str).collect();
        due.sort_unstable();
        assert_eq!(found, due, "{name}");
        let config = &manifest.config;
        assert_eq!((config.hidden, config.max_length, config.pooler), (16, 40, true), "{name}");
        assert_eq!(config.token_types, if name == "fnet" { 4 } else { 2 }, "{name}");
        verify(bundle.dir(), &mut |_| ()).unwrap();
        let (_home, again) = self::bundle(name);
        assert_eq!(again.manifest(), manifest, "the same graph gives the same bundle");
    }
}

#[test]
fn what_the_text_pipeline_or_tract_cannot_run_is_refused_with_what_helps() {
    let home = TempDir::new().unwrap();
    let dir = tokenizer(home.path()).tokenizer.unwrap();
    let (graph, fnet) = (|name| graph(name).display().to_string(), home.path().join("fnet.onnx"));
    fs::copy(fixtures().join("graphs/fnet.onnx"), &fnet).unwrap();
    let fnet = fnet.to_str().unwrap();
    let tokenizer = ["--tokenizer", dir.to_str().unwrap()];
    for (arguments, said) in [
        (
            vec![&*graph("vit")],
            "input pixel_values: expected input_ids, attention_mask, token_type_ids: this is an encoder of images",
        ),
        (
            vec![&*graph("bert"), "--max-length", "41"],
            "--max-length: expected at most 40, as the graph has positions, found 41",
        ),
        (vec![fnet], "fnet.onnx.data: cannot open"),
    ] {
        let arguments = [&arguments[..], &tokenizer, &["-o", "bundle"]].concat();
        assert_refused(
            &command("edge-export", home.path()).current_dir(home.path()).args(arguments).output().unwrap(),
            &[said],
        );
    }
    for (arguments, said) in [
        (vec![&*graph("bert"), "-o", "bundle"], "expected a tokenizer.json beside the graph, or --tokenizer FILE"),
        (vec![&*graph("bert"), "--weights", "int8"], "tract runs a graph as it is"),
        (vec![dir.to_str().unwrap(), "--max-length", "9"], "are for a graph"),
    ] {
        let output = command("edge-export", home.path()).current_dir(home.path()).args(arguments).output().unwrap();
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{text}");
    }
    assert!(!home.path().join("bundle").exists());
}

#[test]
fn the_commands_say_that_tract_runs_a_graph_and_training_is_refused() {
    let home = TempDir::new().unwrap();
    let dir = tokenizer(home.path()).tokenizer.unwrap();
    let run = |name: &str, arguments: &[&str]| {
        command(name, home.path()).current_dir(home.path()).args(arguments).output().unwrap()
    };
    let path = graph("squeezebert").display().to_string();
    let exported = run("edge-export", &[&path, "--tokenizer", dir.to_str().unwrap(), "-o", "bundle"]);
    let said = assert_succeeded(&exported);
    assert!(said.contains("engine   tract") && said.contains("one text at a time"), "{said}");
    assert_succeeded(&run("edge-export", &["verify", "bundle"]));
    let prepared = run("edge-run", &["prepare", "bundle"]);
    assert_succeeded(&prepared);
    let said = String::from_utf8(prepared.stderr).unwrap();
    assert!(said.contains("tract runs this encoder") && said.contains("copies the weights"), "{said}");
    // No panels, which would be of no use.
    let files = fs::read_dir(home.path().join("bundle")).unwrap();
    assert!(files.flatten().all(|file| !file.file_name().to_string_lossy().starts_with("panels-")));

    fs::write(home.path().join("t.tsv"), "sentence\tlabel\ngood\tyes\nbad\tno\n").unwrap();
    let task = r#"{"name":"t","kind":"classification","labels":["no","yes"],"pooling":"cls","max_length":40}"#;
    fs::write(home.path().join("t.json"), task).unwrap();
    let arguments =
        ["train", "--encoder", "bundle", "--task", "t.json", "--train", "t.tsv", "--dev", "t.tsv", "-o", "t.bias"];
    assert_refused(&run("edge-patch", &arguments), &["tract runs it, and runs forward only"]);
}
