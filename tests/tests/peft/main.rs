//! `edge-patch import` and `extract` of PEFT's adapters: logits as PEFT computes them, the same adapter back, and each
//! refusal.

mod refusals;
mod round_trip;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use bias_patch::Patch;
use edge_bundle::Bundle;
use edge_run::{Encoder, EngineOptions, Request, Text};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};
use system_tests::{
    Fixture, assert_refused, assert_succeeded, command, fixtures, readme_lines, small_bundle, write_tensors,
};
use tempfile::TempDir;

/// The engine computes in f32, the fixture in f64 with seven decimals; logits are around 1.
const LOGIT_BOUND: f32 = 1e-5;

/// What `tests/reference/make_peft.py` wrote.
#[derive(Deserialize)]
struct Adapters {
    adapters: BTreeMap<String, Adapter>,
}

/// An adapter of a sequence classifier, and what PEFT computes with it.
#[derive(Deserialize)]
struct Adapter {
    encoder: String,
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: Vec<String>,
    logits: Vec<f32>,
}

/// Shapes and values by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn adapters() -> BTreeMap<String, Adapter> {
    let text = fs::read(fixtures().join("peft.json")).unwrap();
    serde_json::from_slice::<Adapters>(&text).unwrap().adapters
}

impl Adapter {
    /// Its tensors, with the values that `make_peft.py` gives them.
    fn values(&self) -> Tensors {
        let values = |name: &str, shape: &[usize]| {
            let plain = name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".");
            Fixture::values(&plain, shape)
        };
        self.tensors.iter().map(|(name, shape)| (name.clone(), (shape.clone(), values(name, shape)))).collect()
    }

    /// A bundle of its encoder, a task of one text, and its files in `adapter`.
    fn place(&self) -> Place {
        let place = Place::new(&self.encoder);
        place.write_task(&self.task());
        place.write("adapter", &self.config, &self.values());
        place
    }

    fn task(&self) -> Value {
        let pooling = if ["albert", "bert"].contains(&self.encoder.as_str()) { "pooler" } else { "cls" };
        json!({"kind": "classification", "labels": ["a", "b", "c"], "pooling": pooling})
    }
}

struct Place {
    home: TempDir,
    bundle: Bundle,
}

impl Place {
    fn new(encoder: &str) -> Place {
        let (home, bundle) = small_bundle(encoder);
        Place { home, bundle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write_task(&self, fields: &Value) {
        // The longest text that the encoder takes, because PEFT cuts none.
        let mut task = json!({"name": "t", "max_length": self.bundle.manifest().config.max_length});
        task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        fs::write(self.path("task.json"), task.to_string()).unwrap();
    }

    fn edge_patch(&self, arguments: &[&str]) -> Output {
        command("edge-patch", self.home.path()).current_dir(self.home.path()).args(arguments).output().unwrap()
    }

    fn import(&self, from: &str) -> Output {
        self.edge_patch(&["import", "--encoder", "bundle", "--from", from, "--task", "task.json", "-o", "t.bias"])
    }

    fn extract(&self, patch: &str, format: &str, to: &str) -> Output {
        self.edge_patch(&["extract", patch, "--encoder", "bundle", "--format", format, "-o", to])
    }

    /// Writes an adapter's directory.
    fn write(&self, name: &str, config: &Value, tensors: &Tensors) {
        let dir = self.path(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
        let list: Vec<_> = tensors.iter().map(|(n, (s, v))| (n.clone(), s.clone(), v.clone())).collect();
        write_tensors(&dir.join("adapter_model.safetensors"), Dtype::F32, &list);
    }

    /// Reads the directory that `extract` wrote.
    fn extracted(&self) -> (Value, Tensors) {
        let config = fs::read(self.path("extracted/adapter_config.json")).unwrap();
        (serde_json::from_slice(&config).unwrap(), read(&self.path("extracted/adapter_model.safetensors")))
    }
}

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let read = tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), floats(view.data()))));
    read.collect()
}

#[test]
fn adapters_compute_what_peft_computes() {
    for (name, adapter) in adapters() {
        let place = adapter.place();
        let encoder = Encoder::load(place.bundle.clone(), EngineOptions::default()).unwrap();
        // A task takes one text or two.
        let tasks = [1, 2].map(|inputs| {
            let mut task = adapter.task();
            task["inputs"] = json!(inputs);
            place.write_task(&task);
            assert_succeeded(&place.import("adapter"));
            encoder.attach(&Patch::open(&place.path("t.bias")).unwrap()).unwrap()
        });
        let mut worst: f32 = 0.0;
        for case in &adapter.cases {
            let text = match &case.text[..] {
                [first, second] => Text::pair(first, second),
                one => Text::one(&one[0]),
            };
            let task = &tasks[case.text.len() - 1];
            let found = encoder.predict(&[Request { task, text: &text }]).remove(0).unwrap().logits;
            assert_eq!(found.len(), case.logits.len());
            worst = found.iter().zip(&case.logits).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
        println!("{name}: largest difference {worst:e}");
        assert!(worst < LOGIT_BOUND, "{name}: {worst:e}");
    }
}

#[test]
fn the_readme_takes_an_adapter() {
    let adapter = &adapters()["bert-r8"];
    let place = adapter.place();
    fs::rename(place.path("checkpoint"), place.path("base")).unwrap();
    fs::rename(place.path("adapter"), place.path("lora")).unwrap();
    fs::remove_dir_all(place.path("bundle")).unwrap();
    let case = adapter.cases.iter().find(|case| case.text.len() == 1).unwrap();
    fs::write(place.path("texts.txt"), format!("{}\n", case.text[0])).unwrap();
    let said = assert_succeeded(&readme_lines("--from lora", place.home.path()).output().unwrap());
    let best = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    let label = ["a", "b", "c"][best(&case.logits)];
    assert!(said.lines().last().unwrap().split_whitespace().any(|word| word == label), "{said}, expected {label}");
    let encoder = Encoder::load(Bundle::open(&place.path("bundle")).unwrap(), EngineOptions::default()).unwrap();
    let task = encoder.attach(&Patch::open(&place.path("task.bias")).unwrap()).unwrap();
    let text = Text::one(&case.text[0]);
    let found = encoder.predict(&[Request { task: &task, text: &text }]).remove(0).unwrap().logits;
    let worst = found.iter().zip(&case.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < LOGIT_BOUND, "{worst:e}");
}

/// A term of several modules' tensors side by side is one of each, of their rows.
#[test]
fn a_term_of_fused_modules_is_one_of_each() {
    let place = Place::new("gte");
    place.write_task(&json!({"kind": "classification", "labels": ["a", "b", "c"], "pooling": "cls"}));
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["qkv_proj", "up_gate_proj"]});
    let tensor = |name: &str, shape: [usize; 2]| {
        let name = format!("base_model.model.new.{name}");
        let values = Fixture::values(&name, &shape);
        (name, (shape.to_vec(), values))
    };
    let (qkv, mlp) = ("encoder.layer.1.attention.qkv_proj", "encoder.layer.0.mlp.up_gate_proj");
    let mut tensors: Tensors = [
        tensor(&format!("{qkv}.lora_A.weight"), [2, 32]),
        tensor(&format!("{qkv}.lora_B.weight"), [96, 2]),
        tensor(&format!("{mlp}.lora_A.weight"), [2, 32]),
        tensor(&format!("{mlp}.lora_B.weight"), [96, 2]),
    ]
    .into();
    let written = tensors.clone();
    tensors.insert("base_model.model.classifier.weight".to_owned(), (vec![3, 32], vec![0.1; 96]));
    tensors.insert("base_model.model.classifier.bias".to_owned(), (vec![3], vec![0.0; 3]));
    place.write("adapter", &config, &tensors);
    assert_succeeded(&place.import("adapter"));
    let manifest = place.bundle.manifest();
    let base = place.bundle.base().unwrap();
    let values = Patch::open(&place.path("t.bias")).unwrap().apply(&manifest.shape(), base.slots()).unwrap();
    let mut found = Vec::new();
    for term in &values.low_rank {
        let slot = &manifest.slots[term.slot];
        found.push(slot.id().to_string());
        // Middle and gate are the second and the first half.
        let (of, first) = match slot.module.symbol() {
            "bq" => (qkv, 0),
            "bk" => (qkv, 32),
            "bv" => (qkv, 64),
            "bgate" => (mlp, 0),
            _ => (mlp, 48),
        };
        let tensor = |part: &str| &written[&format!("base_model.model.new.{of}.{part}.weight")].1;
        assert_eq!(term.a, *tensor("lora_A"));
        let rows = &tensor("lora_B")[2 * first..];
        let columns = (0..2).flat_map(|column| rows.iter().skip(column).step_by(2).take(slot.len as usize));
        assert_eq!(term.b, columns.copied().collect::<Vec<_>>(), "{}", slot.name);
    }
    assert_eq!(found, ["bm2.0", "bgate.0", "bq.1", "bk.1", "bv.1"]);
    // transformers has each as a module of its own.
    assert_succeeded(&place.extract("t.bias", "peft", "extracted"));
    let (_, extracted) = place.extracted();
    let key = "base_model.model.gte.layers.1.self_attn.k_proj.lora_A.weight";
    assert_eq!(extracted[key].1, written[&format!("base_model.model.new.{qkv}.lora_A.weight")].1);
    fs::copy(place.path("t.bias"), place.path("first.bias")).unwrap();
    assert_succeeded(&place.import("extracted"));
    let same = assert_succeeded(&place.edge_patch(&["diff", "first.bias", "t.bias", "--encoder", "bundle"]));
    assert!(same.ends_with("0 parts differ\n"), "{same}");
}

#[test]
fn names_are_read_with_and_without_prefixes_and_the_adapters_name() {
    let adapter = &adapters()["bert-bias"];
    let place = adapter.place();
    let said = assert_succeeded(&place.import("adapter"));
    // Layer 1's key and middle have a term, and every bias but the keys' differs.
    assert!(said.contains("16 biases, 2 low-rank terms; 0 as in the encoder, 2 key biases"), "{said}");
    assert!(!said.contains("was trained on"), "{said}");
    let due = fs::read(place.path("t.bias")).unwrap();
    let variants: [&dyn Fn(&str) -> String; 4] = [
        &|name| name.replace("base_model.model.", ""),
        &|name| name.replace("base_model.model.bert.", "base_model.model."),
        &|name| name.replace("base_model.model.", "").replace("bert.", ""),
        &|name| name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    ];
    for (at, rename) in variants.into_iter().enumerate() {
        let tensors: Tensors = adapter.values().into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        place.write("other", &adapter.config, &tensors);
        assert_succeeded(&place.import("other"));
        assert!(fs::read(place.path("t.bias")).unwrap() == due, "variant {at}");
    }
    // The file of the tensors stands for the directory, and needs the configuration beside it.
    assert_succeeded(&place.import("adapter/adapter_model.safetensors"));
    assert!(fs::read(place.path("t.bias")).unwrap() == due);
    fs::copy(place.path("adapter/adapter_model.safetensors"), place.path("alone.safetensors")).unwrap();
    assert_refused(&place.import("alone.safetensors"), &["alone.safetensors: adapter", "adapter_config.json", "none"]);
}

#[test]
fn zero_terms_are_left_out() {
    let adapter = &adapters()["bert-r8"];
    let place = adapter.place();
    let mut tensors = adapter.values();
    let b = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.weight";
    tensors.get_mut(b).unwrap().1.fill(0.0);
    place.write("adapter", &adapter.config, &tensors);
    let said = assert_succeeded(&place.import("adapter"));
    assert!(said.contains("0 biases, 3 low-rank terms; 1 as in the encoder, 0 key biases"), "{said}");
}
