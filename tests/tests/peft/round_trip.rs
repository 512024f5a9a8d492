//! Import, extract, import again.

use std::fs;

use bias_patch::{LowRank, Patch};
use serde_json::{Value, json};
use system_tests::{Fixture, assert_refused, assert_succeeded, patch_with_terms, task, write_patches};

use crate::{Place, adapters};

/// Folding a scale into B rounds once, by at most 2^-24 of the value.
const SCALE_BOUND: f64 = 1.0 / 16_777_216.0;

/// Scales of some modules: alpha by the rank or its root, by hand from the configurations in `make_peft.py`.
const SCALES: [(&str, &str, f64); 13] = [
    ("bert-r8", "layer.1.attention.self.query", 2.0),
    ("bert-patterns", "layer.0.attention.self.value", 5.0),
    ("bert-patterns", "layer.1.attention.self.value", 7.0),
    ("bert-patterns", "layer.0.attention.self.key", 1.5),
    ("bert-patterns", "layer.0.attention.output.dense", 0.375),
    ("bert-patterns", "layer.0.output.dense", 1.5),
    ("bert-patterns", "layer.1.output.dense", 0.75),
    ("bert-patterns", "pooler.dense", 0.5),
    ("bert-bias", "layer.1.attention.self.key", 1.0),
    ("roberta-rslora", "layer.0.attention.self.query", std::f64::consts::SQRT_2),
    ("roberta-rslora", "layer.1.attention.self.key", 2.309_401_076_758_503),
    ("distilbert-r2", "layer.1.ffn.lin2", 4.0),
    ("electra-r1", "embeddings_project", 2.0),
];

#[test]
fn an_extracted_adapter_is_the_imported_one_with_its_scale_in_b() {
    let mut scaled = 0;
    for (name, adapter) in adapters() {
        let place = adapter.place();
        assert_succeeded(&place.import("adapter"));
        let output = place.extract("t.bias", "peft", "extracted");
        if adapter.encoder == "albert" {
            assert_refused(&output, &["encoder of task t", "found albert"]);
            continue;
        }
        if name == "bert-beft" {
            assert_refused(&output, &["slots of task t", "a low-rank term", "--format biases"]);
            continue;
        }
        assert_succeeded(&output);
        let (config, found) = place.extracted();
        let due = adapter.values();
        assert_eq!(config["bias"], if adapter.config["bias"] == "none" { "none" } else { "all" }, "{name}");
        assert_eq!(config["task_type"], adapter.config["task_type"]);

        // Biases of B are in the layer's bias, so that one differs. A key's has no effect: no patch has it.
        let folded = adapter.config["lora_bias"] == true;
        let same = |tensor: &str| {
            let of_head = tensor.contains("classifier") && !tensor.contains("module");
            of_head
                || tensor.ends_with("lora_A.weight")
                || tensor.ends_with("base_layer.bias") && !folded && !tensor.contains(".key.")
        };
        for (tensor, due) in due.iter().filter(|(tensor, _)| same(tensor)) {
            assert_eq!(&found[tensor], due, "{name}, {tensor}");
        }
        for (tensor, (shape, values)) in due.iter().filter(|(tensor, _)| tensor.ends_with("lora_B.weight")) {
            let (module, _) = tensor.rsplit_once(".lora_B").unwrap();
            assert_eq!(&found[tensor].0, shape, "{name}, {tensor}");
            if let Some((.., scale)) = SCALES.iter().find(|(of, end, _)| *of == name && module.ends_with(end)) {
                scaled += 1;
                let pairs = found[tensor].1.iter().zip(values);
                let errors = pairs.map(|(found, b)| (f64::from(*found) / (f64::from(*b) * scale) - 1.0).abs());
                let worst = errors.fold(0.0, f64::max);
                assert!(worst <= SCALE_BOUND, "{name}, {tensor}: {worst:e}");
            }
            // The extracted term has scale 1: alpha is the rank.
            let of_encoder = module.split('.').skip(3).collect::<Vec<_>>().join(".");
            for (pattern, default) in [("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")] {
                let found = config[pattern].get(&of_encoder).unwrap_or(&config[default]);
                assert_eq!(found, &json!(shape[1]), "{name}, {tensor}: {pattern}");
            }
        }

        fs::copy(place.path("t.bias"), place.path("first.bias")).unwrap();
        let said = assert_succeeded(&place.import("extracted"));
        assert!(said.contains("the adapter names fixture as its base model"), "{said}");
        let same = assert_succeeded(&place.edge_patch(&["diff", "first.bias", "t.bias", "--encoder", "bundle"]));
        assert!(same.ends_with("0 parts differ\n"), "{name}: {same}");
    }
    assert_eq!(scaled, SCALES.len());
}

/// Modules that transformers has as one get one term, of the sum of their ranks where each has an A of its own.
#[test]
fn terms_of_modules_that_are_one_are_written_as_one() {
    let place = Place::new("modernbert");
    let mut made = patch_with_terms(&place.bundle, task("t", "classification", 1), "terms");
    made.save(&place.path("all.bias")).unwrap();
    let refused = place.extract("all.bias", "peft", "extracted");
    assert_refused(&refused, &["slot beln of task t", "no bias there", "--slots lora:all"]);

    let terms = made.slots().iter().filter(|slot| slot.id.kind.is_low_rank()).cloned().collect();
    let (spec, head) = (made.task().clone(), made.head().clone());
    made = Patch::new(made.encoder(), spec, terms, head, made.metadata().clone()).unwrap();
    made.save(&place.path("first.bias")).unwrap();
    assert_succeeded(&place.extract("first.bias", "peft", "extracted"));
    let (config, found) = place.extracted();
    assert_eq!((&config["task_type"], &config["bias"]), (&Value::Null, &json!("none")));
    // Query, key and value have ranks 1, 2 and 3, middle and gate 2 and 3.
    for (module, shapes) in [
        ("attn.Wqkv", [[6, 32], [96, 6]]),
        ("attn.Wo", [[1, 32], [32, 1]]),
        ("mlp.Wi", [[5, 32], [96, 5]]),
        ("mlp.Wo", [[1, 48], [32, 1]]),
    ] {
        for (part, shape) in ["lora_A", "lora_B"].iter().zip(shapes) {
            let name = format!("base_model.model.model.layers.0.{module}.{part}.weight");
            assert_eq!(found[&name].0, shape, "{name}");
        }
    }
    place.write_task(&json!({"kind": "classification", "labels": ["no", "maybe", "yes"], "pooling": "mean"}));
    assert_succeeded(&place.import("extracted"));
    let manifest = place.bundle.manifest();
    let base = place.bundle.base().unwrap();
    let products = |name: &str| {
        let values = Patch::open(&place.path(name)).unwrap().apply(&manifest.shape(), base.slots()).unwrap();
        let product = |term: &LowRank| {
            let (rows, columns) = (term.b.len() / term.rank, term.a.len() / term.rank);
            let at = |row: usize, column: usize| {
                (0..term.rank)
                    .map(|k| f64::from(term.b[k * rows + row]) * f64::from(term.a[k * columns + column]))
                    .sum()
            };
            let values: Vec<f64> = (0..rows * columns).map(|n| at(n / columns, n % columns)).collect();
            (term.slot, values)
        };
        values.low_rank.iter().map(product).collect::<Vec<_>>()
    };
    assert_eq!(products("t.bias"), products("first.bias"));
}

#[test]
fn heads_of_other_tasks_are_imported_and_extracted() {
    let place = Place::new("bert");
    let adapter = &adapters()["bert-r8"];
    let mut terms = adapter.values();
    terms.retain(|name, _| name.contains("lora"));
    let labels = json!(["a", "b", "c"]);
    let mean = json!({"kind": "regression", "pooling": "mean"});
    let pooler = json!({"kind": "regression", "pooling": "pooler"});
    for (task, task_type, head, outputs, extracted) in [
        (json!({"kind": "tagging", "labels": labels}), json!("TOKEN_CLS"), "classifier", 3, json!("TOKEN_CLS")),
        (json!({"kind": "span", "inputs": 2}), json!("QUESTION_ANS"), "qa_outputs", 2, json!("QUESTION_ANS")),
        // A model of one's own may pool as it wants, and call its head score.
        (mean, Value::Null, "score", 1, Value::Null),
        (pooler, json!("FEATURE_EXTRACTION"), "classifier", 1, json!("SEQ_CLS")),
    ] {
        place.write_task(&task);
        let (mut config, mut tensors) = (adapter.config.clone(), terms.clone());
        config["task_type"] = task_type;
        for (part, shape) in [("weight", vec![outputs, 32]), ("bias", vec![outputs])] {
            let name = format!("base_model.model.{head}.{part}");
            tensors.insert(name.clone(), (shape.clone(), Fixture::values(&name, &shape)));
        }
        place.write("adapter", &config, &tensors);
        assert_succeeded(&place.import("adapter"));
        assert_succeeded(&place.extract("t.bias", "peft", "extracted"));
        let (config, found) = place.extracted();
        assert_eq!(config["task_type"], extracted, "{task}");
        let module = if head == "score" { "classifier" } else { head };
        assert_eq!(config["modules_to_save"], json!([module]), "{task}");
        let weight = &tensors[&format!("base_model.model.{head}.weight")];
        assert_eq!(&found[&format!("base_model.model.{module}.weight")], weight, "{task}");
    }
}

#[test]
fn a_patch_of_biases_alone_is_no_adapter() {
    let place = Place::new("bert");
    write_patches(&place.bundle, place.home.path());
    assert_refused(&place.extract("label.bias", "peft", "extracted"), &["slots of task label", "biases alone"]);
    assert!(!place.path("extracted").exists());
}
