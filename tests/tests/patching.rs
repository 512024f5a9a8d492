//! `edge-patch`: import, inspect, verify, diff, convert, extract.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use bias_patch::{Module, Patch};
use edge_bundle::Bundle;
use safetensors::Dtype;
use serde_json::Value;
use system_tests::{
    ENCODERS, Fixture, Layout, assert_refused, assert_succeeded, command, patch_with_terms, small_bundle, task,
    write_patches, write_tensors,
};
use tempfile::TempDir;

/// Something to do to good tensors.
type Change = Box<dyn Fn(&mut Tensors)>;
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const TASK: &str = r#"{"name":"t","kind":"classification","labels":["no","yes"],"pooling":"cls","max_length":32}"#;

struct Place {
    home: TempDir,
    bundle: Bundle,
}

impl Place {
    fn new(encoder: &str) -> Place {
        let (home, bundle) = small_bundle(encoder);
        fs::write(home.path().join("task.json"), TASK).unwrap();
        Place { home, bundle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn edge_patch(&self, arguments: &[&str]) -> Output {
        command("edge-patch", self.home.path()).current_dir(self.home.path()).args(arguments).output().unwrap()
    }

    fn import(&self, from: &str) -> Output {
        self.edge_patch(&["import", "--encoder", "bundle", "--from", from, "--task", "task.json", "-o", "t.bias"])
    }

    /// Biases that differ from the encoder's in every slot, and a head.
    fn biases(&self) -> Tensors {
        let base = self.bundle.base().unwrap();
        let slots = self.bundle.manifest().slots.iter().zip(base.slots());
        let moved = |values: &Vec<f32>| values.iter().map(|v| v + 0.125).collect();
        let mut tensors: Tensors = slots.map(|(slot, v)| (slot.name.clone(), (vec![v.len()], moved(v)))).collect();
        tensors.insert("classifier.weight".into(), (vec![2, 32], vec![0.5; 64]));
        tensors.insert("classifier.bias".into(), (vec![2], vec![0.25, -0.25]));
        tensors
    }

    fn write(&self, name: &str, tensors: &Tensors) {
        let list: Vec<_> = tensors.iter().map(|(n, (s, v))| (n.clone(), s.clone(), v.clone())).collect();
        write_tensors(&self.path(name), Dtype::F32, &list);
    }
}

#[test]
fn biases_are_imported_without_keys_and_unchanged_slots() {
    let place = Place::new("bert");
    let mut tensors = place.biases();
    let base = place.bundle.base().unwrap();
    let first = &place.bundle.manifest().slots[0];
    tensors.insert(first.name.clone(), (vec![32], base.slots()[0].clone()));
    place.write("b.safetensors", &tensors);
    let said = assert_succeeded(&place.import("b.safetensors"));
    assert!(said.contains("15 biases; 1 as in the encoder, 2 key biases without effect left out"), "{said}");
    let patch = Patch::open(&place.path("t.bias")).unwrap();
    let applied = patch.apply(&place.bundle.manifest().shape(), base.slots()).unwrap();
    for (slot, values) in place.bundle.manifest().slots.iter().zip(&applied.slots) {
        let key = slot.name.contains("key");
        let expected = if key {
            &base.slots()[place.bundle.manifest().slots.iter().position(|s| s == slot).unwrap()]
        } else {
            &tensors[&slot.name].1
        };
        assert_eq!(values, expected, "{}", slot.name);
    }
}

#[test]
fn an_embedding_is_extracted_and_imported() {
    let place = Place::new("bert");
    let mut tensors = place.biases();
    tensors.retain(|name, _| !name.starts_with("classifier"));
    place.write("b.safetensors", &tensors);
    let task = r#"{"name": "t", "kind": "embedding", "pooling": "mean", "max_length": 32}"#;
    fs::write(place.path("task.json"), task).unwrap();
    place.write("head.safetensors", &place.biases());
    assert_refused(
        &place.import("head.safetensors"),
        &["head: expected none, for an embedding has none", "classifier"],
    );
    assert_succeeded(&place.import("b.safetensors"));
    let patch = Patch::open(&place.path("t.bias")).unwrap();
    assert!(patch.head().linears().count() == 0 && patch.slots().len() == 16);
    let extract = ["extract", "t.bias", "--bundle", "bundle", "-o", "again.safetensors"];
    let said = assert_succeeded(&place.edge_patch(&extract));
    assert!(said.contains("18 biases, no head"), "{said}");
    assert_succeeded(&place.import("again.safetensors"));
    let again = Patch::open(&place.path("t.bias")).unwrap();
    assert_eq!(again.slots(), patch.slots());
    // A whole checkpoint too, unless what would be left out of it is a part of the model.
    Fixture::named("bert").write(&place.path("c"), Layout::default());
    assert_succeeded(&place.import("c"));
    let modules = r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#;
    fs::write(place.path("c/modules.json"), modules).unwrap();
    assert_refused(&place.import("c"), &["modules.json: modules: expected none of type Dense"]);
    assert_refused(&place.import("c/config.json"), &["config.json: format: expected safetensors, or the directory"]);
    // A patch is no tensors, and neither is a task.
    assert_refused(&place.import("t.bias"), &["t.bias", "tensors, as safetensors has them", "a patch"]);
    let over = ["extract", "t.bias", "--bundle", "bundle", "-o", "task.json"];
    assert_refused(&place.edge_patch(&over), &["task.json", "a safetensors file to replace"]);
    assert_eq!(fs::read_to_string(place.path("task.json")).unwrap(), task);
}

#[test]
fn files_that_do_not_fit_name_the_tensor() {
    let place = Place::new("bert");
    let query = "encoder.layer.1.attention.self.query.bias";
    let cases: Vec<(Change, Vec<&str>)> = vec![
        (Box::new(move |t| t.get_mut(query).unwrap().1[3] = f32::NAN), vec![query, "finite"]),
        (Box::new(move |t| t.get_mut(query).unwrap().1[3] = f32::INFINITY), vec![query, "finite"]),
        (Box::new(move |t| drop(t.insert(query.into(), (vec![31], vec![0.0; 31])))), vec![query, "[32]", "[31]"]),
        (
            Box::new(move |t| {
                let slot = t.remove(query).unwrap();
                t.insert("encoder.layer.1.attention.self.kwery.bias".into(), slot);
            }),
            vec!["kwery", "a bias of the encoder"],
        ),
        (
            Box::new(|t| {
                let slot = t["encoder.layer.1.output.dense.bias"].clone();
                t.insert("encoder.layer.7.output.dense.bias".into(), slot);
            }),
            vec!["encoder.layer.7.output.dense.bias"],
        ),
        (Box::new(|t| drop(t.remove("classifier.weight"))), vec!["head", "classifier", "none"]),
        (Box::new(|t| drop(t.remove("classifier.bias"))), vec!["classifier.bias"]),
        (
            Box::new(|t| drop(t.insert("classifier.weight".into(), (vec![2, 31], vec![0.0; 62])))),
            vec!["head", "32 columns", "31"],
        ),
        (
            Box::new(|t| {
                t.insert("classifier.weight".into(), (vec![3, 32], vec![0.0; 96]));
                t.insert("classifier.bias".into(), (vec![3], vec![0.0; 3]));
            }),
            vec!["head", "2 rows", "3"],
        ),
    ];
    for (change, parts) in &cases {
        let mut tensors = place.biases();
        change(&mut tensors);
        place.write("b.safetensors", &tensors);
        assert_refused(&place.import("b.safetensors"), parts);
        assert!(!place.path("t.bias").exists(), "a patch was written");
    }
    fs::write(place.path("b.safetensors"), b"nonsense").unwrap();
    assert_refused(&place.import("b.safetensors"), &["b.safetensors"]);
    place.write("b.safetensors", &place.biases());
    fs::write(place.path("task.json"), r#"{"name":"t","kind":"poetry"}"#).unwrap();
    assert_refused(&place.import("b.safetensors"), &["task.json", "expected classification, "]);
    fs::write(place.path("task.json"), TASK).unwrap();
    let output = place.edge_patch(&[
        "import",
        "--encoder",
        "bundle",
        "--from",
        "b.safetensors",
        "--task",
        "task.json",
        "-o",
        "no/where/t.bias",
    ]);
    assert_refused(&output, &["no/where/t.bias", "cannot write"]);
}

/// Writes a fine-tuned checkpoint: the fixture with moved biases and a head, after `change`.
fn fine_tuned(dir: &Path, family: &str, head: &[(&str, Vec<usize>)], change: impl Fn(&mut Tensors)) {
    let fixture = Fixture::named(family);
    fixture.write(dir, Layout::default());
    let mut config = fixture.config.clone();
    config["architectures"] = serde_json::json!([match family {
        "bert" => "BertForSequenceClassification",
        "roberta" => "RobertaForSequenceClassification",
        "electra" => "ElectraForSequenceClassification",
        "mpnet" => "MPNetForSequenceClassification",
        "albert" => "AlbertForSequenceClassification",
        "deberta-v3" => "DebertaV2ForSequenceClassification",
        "modernbert" => "ModernBertModel",
        "nomic" => "NomicBertModel",
        "gte" => "GteModel",
        "gte-new" => "NewModel",
        _ => "DistilBertForSequenceClassification",
    }]);
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let prefix = match family {
        "modernbert" => "model.".to_owned(),
        "nomic" => "nomic_bert.".to_owned(),
        "gte-new" => "new.".to_owned(),
        _ => format!("{}.", family.strip_suffix("-v3").unwrap_or(family)),
    };
    let mut tensors: Tensors = fixture
        .tensors
        .iter()
        .map(|(name, shape)| {
            let mut values = Fixture::values(name, shape);
            if name.ends_with("bias") {
                values.iter_mut().for_each(|v| *v += 0.125);
            }
            (format!("{prefix}{name}"), (shape.clone(), values))
        })
        .collect();
    for (name, shape) in head {
        tensors.insert((*name).to_owned(), (shape.clone(), Fixture::values(name, shape)));
    }
    change(&mut tensors);
    let list: Vec<_> = tensors.into_iter().map(|(n, (s, v))| (n, s, v)).collect();
    write_tensors(&dir.join("model.safetensors"), Dtype::F32, &list);
}

const LINEAR_HEAD: [(&str, &[usize]); 2] = [("classifier.weight", &[2, 32]), ("classifier.bias", &[2])];

fn linear_head() -> Vec<(&'static str, Vec<usize>)> {
    LINEAR_HEAD.iter().map(|(n, s)| (*n, s.to_vec())).collect()
}

#[test]
fn a_fine_tuned_checkpoint_is_imported_if_only_biases_moved() {
    let place = Place::new("bert");
    fs::write(place.path("task.json"), TASK.replace("cls", "pooler")).unwrap();
    fine_tuned(&place.path("tuned"), "bert", &linear_head(), |_| ());
    let said = assert_succeeded(&place.import("tuned"));
    assert!(said.contains("16 biases; 0 as in the encoder, 2 key biases"), "{said}");

    let weight = "bert.encoder.layer.0.intermediate.dense.weight";
    fine_tuned(&place.path("tuned"), "bert", &linear_head(), |t| {
        t.get_mut(weight).unwrap().1[5] += 0.5;
        t.get_mut("bert.encoder.layer.1.output.LayerNorm.weight").unwrap().1[0] -= 0.25;
    });
    let parts = [
        "2 of 21 frozen tensors differ",
        "encoder.layer.0.intermediate.dense.weight: 1 of 1536 values, by up to 5e-1",
        "LayerNorm.weight: 1 of 32 values, by up to 2.5e-1",
    ];
    assert_refused(&place.import("tuned"), &parts);

    fine_tuned(&place.path("tuned"), "bert", &linear_head(), |t| drop(t.remove(weight)));
    assert_refused(&place.import("tuned"), &["no tensor encoder.layer.0.intermediate.dense.weight"]);
    fine_tuned(&place.path("tuned"), "bert", &linear_head(), |_| ());
    fs::write(place.path("task.json"), TASK).unwrap();
    assert_refused(&place.import("tuned"), &["pooling", "pooler", "BertForSequenceClassification"]);
}

#[test]
fn heads_with_a_hidden_layer_are_kept() {
    let roberta = [
        ("classifier.dense.weight", vec![32, 32]),
        ("classifier.dense.bias", vec![32]),
        ("classifier.out_proj.weight", vec![2, 32]),
        ("classifier.out_proj.bias", vec![2]),
    ];
    let distilbert = [
        ("pre_classifier.weight", vec![32, 32]),
        ("pre_classifier.bias", vec![32]),
        ("classifier.weight", vec![2, 32]),
        ("classifier.bias", vec![2]),
    ];
    let (electra, mpnet) = (roberta.clone(), roberta.clone());
    let deberta = [
        ("pooler.dense.weight", vec![32, 32]),
        ("pooler.dense.bias", vec![32]),
        ("classifier.weight", vec![2, 32]),
        ("classifier.bias", vec![2]),
    ];
    for (family, head, activation) in [
        ("roberta", roberta, "Tanh"),
        ("distilbert", distilbert, "Relu"),
        ("electra", electra, "Gelu"),
        ("mpnet", mpnet, "Tanh"),
        ("deberta-v3", deberta, "Gelu"),
    ] {
        let place = Place::new(family);
        fine_tuned(&place.path("tuned"), family, &head, |_| ());
        assert_succeeded(&place.import("tuned"));
        let patch = Patch::open(&place.path("t.bias")).unwrap();
        let (dense, found) = patch.head().dense.as_ref().expect("a hidden layer");
        assert_eq!(format!("{found:?}"), activation);
        assert_eq!(dense.weight.values(None), Fixture::values(head[0].0, &head[0].1));
        // As a file of biases it says the same.
        assert_succeeded(&place.edge_patch(&["extract", "t.bias", "--encoder", "bundle", "-o", "v.safetensors"]));
        fs::copy(place.path("t.bias"), place.path("first.bias")).unwrap();
        assert_succeeded(&place.import("v.safetensors"));
        let same = assert_succeeded(&place.edge_patch(&["diff", "first.bias", "t.bias", "--encoder", "bundle"]));
        assert!(same.ends_with("0 parts differ\n"), "{same}");
    }
}

/// The layer that ALBERT has once is in the bundle as often as it runs, each time with slots of its own.
#[test]
fn a_bias_of_a_repeated_layer_is_one_of_every_repetition() {
    let place = Place::new("albert");
    fs::write(place.path("task.json"), TASK.replace("cls", "pooler")).unwrap();
    fine_tuned(&place.path("tuned"), "albert", &linear_head(), |_| ());
    let said = assert_succeeded(&place.import("tuned"));
    // Of three repetitions seven biases each, and those of embeddings, projection and pooler.
    assert!(said.contains("24 biases; 0 as in the encoder, 3 key biases"), "{said}");
    let base = place.bundle.base().unwrap();
    let manifest = place.bundle.manifest();
    let values = Patch::open(&place.path("t.bias")).unwrap().apply(&manifest.shape(), base.slots()).unwrap();
    for (slot, (base, values)) in manifest.slots.iter().zip(base.slots().iter().zip(values.slots)) {
        let moved = if slot.module == Module::Key { 0.0 } else { 0.125 };
        assert!(values.iter().zip(base).all(|(value, base)| *value == base + moved), "{}", slot.name);
    }
}

/// Its config.json says by which angles queries and keys are rotated: no tensor shows it.
#[test]
fn a_checkpoint_with_rotary_positions_is_compared_by_its_angles_too() {
    type Set = fn(&mut Value);
    let cases: [(&str, Set, &str); 6] = [
        ("nomic", |c| c["type_vocab_size"] = 2.into(), ""),
        (
            "nomic",
            |c| {
                c["rotary_emb_base"] = 500.into();
                c["rope_parameters"]["rope_theta"] = 500.into();
            },
            "base of rotary positions: expected 1000, found 500",
        ),
        ("gte", |c| c["rope_parameters"]["rope_type"] = "linear".into(), "rope_type: expected default, found linear"),
        ("gte-new", |c| c["rope_scaling"]["factor"] = 4.into(), "factor of NTK scaling: expected 8, found 4"),
        (
            "modernbert",
            |c| c["local_rope_theta"] = 500.into(),
            "base of rotary positions in layers with a window: expected 10000, found 500",
        ),
        ("modernbert", |c| c["local_attention"] = 8.into(), "window: expected 2 tokens to each side"),
    ];
    for (family, set, refused) in cases {
        let place = Place::new(family);
        fine_tuned(&place.path("tuned"), family, &linear_head(), |_| ());
        let said = assert_succeeded(&place.import("tuned"));
        assert!(said.contains(" 0 as in the encoder"), "{said}");
        let (base, manifest) = (place.bundle.base().unwrap(), place.bundle.manifest());
        let values = Patch::open(&place.path("t.bias")).unwrap().apply(&manifest.shape(), base.slots()).unwrap();
        for (slot, (base, values)) in manifest.slots.iter().zip(base.slots().iter().zip(values.slots)) {
            // The checkpoint has no bias where the family has none.
            let moved = if slot.zero { 0.0 } else { 0.125 };
            assert!(values.iter().zip(base).all(|(value, base)| *value == base + moved), "{family}, {}", slot.name);
        }
        let path = place.path("tuned/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        set(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        match refused {
            "" => drop(assert_succeeded(&place.import("tuned"))),
            refused => assert_refused(&place.import("tuned"), &[refused]),
        }
    }
}

#[test]
fn a_checkpoint_that_computes_something_else_is_refused() {
    let place = Place::new("roberta");
    let head = [
        ("classifier.dense.weight", vec![32, 32]),
        ("classifier.dense.bias", vec![32]),
        ("classifier.out_proj.weight", vec![2, 32]),
        ("classifier.out_proj.bias", vec![2]),
    ];
    for (key, value, parts) in [
        ("num_attention_heads", Value::from(8), ["num_attention_heads", "expected 4, found 8"]),
        ("num_hidden_layers", Value::from(1), ["num_hidden_layers", "expected 2, found 1"]),
        ("hidden_act", Value::from("relu"), ["hidden_act", "expected gelu, found relu"]),
        ("layer_norm_eps", Value::from(0.001), ["layer_norm_eps", "found 0.001"]),
        ("id2label", serde_json::json!({"0": "yes", "1": "no"}), ["id2label 0", "\"no\", as the task says"]),
        ("problem_type", Value::from("regression"), ["kind of task", "expected regression, for config.json"]),
    ] {
        fine_tuned(&place.path("tuned"), "roberta", &head, |_| ());
        let path = place.path("tuned/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert_refused(&place.import("tuned"), &parts);
    }
}

/// transformers reads the outputs of such a checkpoint as sigmoids.
#[test]
fn labels_that_do_not_exclude_each_other_stay_so() {
    let place = Place::new("bert");
    fs::write(place.path("task.json"), TASK.replace("cls", "pooler")).unwrap();
    fine_tuned(&place.path("tuned"), "bert", &linear_head(), |_| ());
    let path = place.path("tuned/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["problem_type"] = "multi_label_classification".into();
    fs::write(&path, config.to_string()).unwrap();
    let said = assert_succeeded(&place.import("tuned"));
    assert!(said.contains("the task is multi-label, for config.json has problem_type multi_label"), "{said}");
    let task = serde_json::to_value(Patch::open(&place.path("t.bias")).unwrap().task()).unwrap();
    assert!(task["kind"] == "multi-label" && task["labels"].as_array().unwrap().len() == 2, "{task}");
}

/// A cross-encoder of sentence-transformers says whether its number is a sigmoid.
#[test]
fn the_sigmoid_of_a_cross_encoder_is_kept() {
    let place = Place::new("bert");
    let task = r#"{"name": "rank", "kind": "regression", "pooling": "pooler", "inputs": 2, "max_length": 40}"#;
    fs::write(place.path("task.json"), task).unwrap();
    let head = [("classifier.weight", vec![1, 32]), ("classifier.bias", vec![1])];
    for (field, value, sigmoid) in [
        ("sentence_transformers", serde_json::json!({ "activation_fn": "torch.nn.modules.activation.Sigmoid" }), true),
        ("sentence_transformers", serde_json::json!({ "activation_fn": "torch.nn.modules.linear.Identity" }), false),
        ("sbert_ce_default_activation_function", "torch.nn.modules.activation.Sigmoid".into(), true),
    ] {
        fine_tuned(&place.path("tuned"), "bert", &head, |_| ());
        let path = place.path("tuned/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        config["id2label"] = serde_json::json!({ "0": "LABEL_0" });
        fs::write(&path, config.to_string()).unwrap();
        let said = assert_succeeded(&place.import("tuned"));
        assert_eq!(said.contains("the task is a sigmoid"), sigmoid, "{said}");
        let task = serde_json::to_value(Patch::open(&place.path("t.bias")).unwrap().task()).unwrap();
        assert_eq!(task["sigmoid"] == true, sigmoid, "{task}");
    }
}

#[test]
fn converting_makes_patches_smaller_and_says_by_how_much() {
    let place = Place::new("bert");
    write_patches(&place.bundle, place.home.path());
    let mut last = fs::metadata(place.path("label.bias")).unwrap().len();
    for encoding in ["f16", "i8", "i4", "i3", "i2", "i1"] {
        let said = assert_succeeded(&place.edge_patch(&[
            "convert",
            "label.bias",
            "--encoding",
            encoding,
            "-o",
            "small.bias",
            "--encoder",
            "bundle",
        ]));
        let bytes = fs::metadata(place.path("small.bias")).unwrap().len();
        assert!(bytes < last, "{encoding}: {bytes} bytes, {last} before");
        assert!(said.contains(&format!("-> {bytes} bytes, largest change of a value 0.")), "{said}");
        last = bytes;
        assert_succeeded(&place.edge_patch(&["verify", "small.bias", "--encoder", "bundle"]));
    }
    let shown = assert_succeeded(&place.edge_patch(&["inspect", "small.bias"]));
    assert!(shown.contains("stored as") && shown.contains("i1, head f16"), "{shown}");
    let difference = assert_succeeded(&place.edge_patch(&["diff", "label.bias", "small.bias", "--encoder", "bundle"]));
    assert!(difference.contains("bq.0") && difference.contains("parts differ"), "{difference}");
    let same = assert_succeeded(&place.edge_patch(&["diff", "label.bias", "label.bias", "--encoder", "bundle"]));
    assert!(same.ends_with("0 parts differ\n"), "{same}");
    let wrong = place.edge_patch(&["convert", "label.bias", "--encoding", "i5", "-o", "small.bias"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_patch_is_retargeted_to_other_number_formats_and_no_other_checkpoint() {
    let place = Place::new("bert");
    let patch = patch_with_terms(&place.bundle, task("label", "classification", 1), "label");
    patch.save(&place.path("label.bias")).unwrap();
    for weights in ["f16", "int8", "int4"] {
        let mut export = command("edge-export", place.home.path());
        let export = export.arg(place.path("checkpoint")).args(["--weights", weights, "-o"]).arg(place.path(weights));
        assert_succeeded(&export.output().unwrap());
    }
    let retarget = |from: &str, encoder: &str, to: &str, output: &str| {
        place.edge_patch(&["retarget", from, "--encoder", encoder, "--to", to, "-o", output])
    };
    let said = assert_succeeded(&retarget("label.bias", "bundle", "f16", "half.bias"));
    assert!(said.contains("half.bias: ") && said.contains(", from f32 to f16 weights"), "{said}");
    assert_succeeded(&retarget("half.bias", "f16", "int4", "int4.bias"));
    assert_succeeded(&retarget("int4.bias", "int4", "bundle", "back.bias"));
    let (there, back) =
        (Patch::open(&place.path("half.bias")).unwrap(), Patch::open(&place.path("back.bias")).unwrap());
    assert_ne!(there.encoder(), patch.encoder());
    assert_eq!((there.slots(), there.head(), there.task()), (patch.slots(), patch.head(), patch.task()));
    assert_eq!(back, patch);
    assert_succeeded(&place.edge_patch(&["verify", "half.bias", "--encoder", "f16"]));
    // It says what it needs where it does not fit.
    let refused = place.edge_patch(&["verify", "label.bias", "--encoder", "f16"]);
    assert_refused(&refused, &["label.bias", "but this bundle holds encoder", "edge-patch retarget"]);

    let (other_home, _other) = small_bundle("bert-relu");
    let other = other_home.path().join("bundle");
    let refused = retarget("label.bias", "bundle", other.to_str().unwrap(), "other.bias");
    assert_refused(&refused, &["config: expected the same sizes, as the encoder that label.bias fits has"]);
    // The same sizes, and another gain of a LayerNorm.
    let fixture = Fixture::named("bert");
    let mut tensors: Vec<_> = fixture
        .tensors
        .iter()
        .map(|(name, shape)| (name.clone(), shape.clone(), Fixture::values(name, shape)))
        .collect();
    let (.., gain) = tensors.iter_mut().find(|(name, ..)| name == "embeddings.LayerNorm.weight").unwrap();
    gain[3] += 0.5;
    write_tensors(&place.path("checkpoint").join("model.safetensors"), Dtype::F32, &tensors);
    let mut export = command("edge-export", place.home.path());
    assert_succeeded(&export.arg(place.path("checkpoint")).arg("-o").arg(place.path("tuned")).output().unwrap());
    let refused = retarget("label.bias", "bundle", "tuned", "other.bias");
    assert_refused(
        &refused,
        &["tuned: tensor embeddings.LayerNorm.weight: expected digest", "as the encoder that label.bias fits"],
    );
    assert!(!place.path("other.bias").exists());
}

#[test]
fn inspect_shows_slots_with_and_without_the_encoder() {
    let place = Place::new("bert");
    write_patches(&place.bundle, place.home.path());
    let with = assert_succeeded(&place.edge_patch(&["inspect", "label.bias", "--encoder", "bundle", "--slots"]));
    assert!(with.contains("label (classification)") && with.contains("made      by a test"), "{with}");
    let row = with.lines().find(|l| l.starts_with("bm2.1")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[1..3], ["48", "f32"]);
    assert!(cells[3].parse::<f32>().unwrap() > 0.0);
    let of_modules = assert_succeeded(&place.edge_patch(&["inspect", "label.bias", "--encoder", "bundle"]));
    let row = of_modules.lines().find(|l| l.starts_with("bm2")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..3], ["bm2.0-1", "96", "f32"]);
    let without = assert_succeeded(&place.edge_patch(&["inspect", "label.bias"]));
    assert!(without.contains("changes are not shown"), "{without}");
}

#[test]
fn verify_refuses_another_encoder() {
    let place = Place::new("bert");
    write_patches(&place.bundle, place.home.path());
    let (other, _) = small_bundle("bert-relu");
    let other = other.path().join("bundle");
    assert_succeeded(&place.edge_patch(&["verify", "label.bias", "--encoder", "bundle"]));
    let refused = place.edge_patch(&["verify", "label.bias", "--encoder", other.to_str().unwrap()]);
    assert_refused(&refused, &["label.bias", "the patch fits encoder", "but this bundle holds encoder"]);
}

#[test]
fn what_was_extracted_imports_to_the_same_values() {
    let same = |place: &Place| {
        assert_succeeded(&place.edge_patch(&["extract", "label.bias", "--encoder", "bundle", "-o", "v.safetensors"]));
        let labels = TASK.replace("[\"no\",\"yes\"]", "[\"no\",\"maybe\",\"yes\"]");
        fs::write(place.path("task.json"), labels).unwrap();
        assert_succeeded(&place.import("v.safetensors"));
        let same = assert_succeeded(&place.edge_patch(&["diff", "label.bias", "t.bias", "--encoder", "bundle"]));
        assert!(same.contains("0 parts differ"), "{same}");
    };
    let place = Place::new("bert");
    write_patches(&place.bundle, place.home.path());
    same(&place);
    // Low-rank terms of every linear layer, also of those that checkpoints and PEFT have as one.
    for encoder in ENCODERS {
        let place = Place::new(encoder);
        let patch = patch_with_terms(&place.bundle, task("label", "classification", 1), "label");
        patch.save(&place.path("label.bias")).unwrap();
        same(&place);
    }
    // A term's other half.
    let mut tensors = place.biases();
    tensors.insert("encoder.layer.0.attention.self.query.lora_B.weight".to_owned(), (vec![32, 1], vec![1.0; 32]));
    place.write("half.safetensors", &tensors);
    assert_refused(&place.import("half.safetensors"), &["query.lora_A.weight"]);
}
