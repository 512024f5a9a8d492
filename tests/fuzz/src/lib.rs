//! What several targets start from: a small encoder of the tests' fixtures, in a temporary directory.
//!
//! A function here panics if something is wrong: the target fails before it reads an input.
#![forbid(unsafe_code)]

mod panels;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use bias_patch::{Digest, Head, Linear, Patch, Task};
use edge_bundle::{Bundle, FileEntry, MANIFEST, Manifest};
use edge_export::{Destination, Options, Panels, export};
use hf_checkpoint::to_safetensors;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use panels::{ELEMENTS, SmallPanels};

/// A directory that one input after another writes its file into.
pub struct Place {
    home: TempDir,
}

impl Place {
    /// An empty one.
    pub fn empty() -> Self {
        Place { home: TempDir::new().unwrap() }
    }

    /// With the checkpoint of a fixture in `checkpoint`, of one layer. Without tensors it is refused only when all else
    /// was read.
    pub fn with_checkpoint(fixture: &str, with_tensors: bool) -> Self {
        let place = Self::empty();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/encoders").join(format!("{fixture}.json"));
        let mut fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        fixture["config"]["num_hidden_layers"] = 1.into();
        fs::create_dir(place.path("checkpoint")).unwrap();
        place.write("checkpoint/config.json", fixture["config"].to_string().as_bytes());
        for (name, text) in fixture["files"].as_object().unwrap() {
            place.write(&format!("checkpoint/{name}"), text.as_str().unwrap().as_bytes());
        }
        let mut shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(fixture["tensors"].clone()).unwrap();
        // Those of the second layer would be refused, for config.json has one.
        shapes.retain(|name, _| name.split('.').all(|part| part != "1"));
        let tensor = |(name, shape): (String, Vec<usize>)| {
            // Small, different, and of both signs.
            let values =
                (0..shape.iter().product::<usize>()).map(|at| (at * 7919 % 401) as f32 / 1000.0 - 0.2).collect();
            (name, shape, values)
        };
        let tensors: Vec<_> = if with_tensors { shapes.into_iter().map(tensor).collect() } else { Vec::new() };
        place.write("checkpoint/model.safetensors", &to_safetensors(&tensors).unwrap());
        place
    }

    /// With the bundle of a fixture in `bundle`, panels included.
    pub fn with_bundle(fixture: &str) -> Self {
        let place = Self::with_checkpoint(fixture, true);
        let options = Options { panels: Panels::Beside, ..Options::default() };
        export(&place.path("checkpoint"), "fuzz", &place.to_bundle(), options, &mut |_| ()).unwrap();
        place
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Exports `checkpoint`, from which tensors are missing. Gives the error.
    pub fn refuse_checkpoint(&self) -> String {
        let exported = export(&self.path("checkpoint"), "fuzz", &self.to_bundle(), Options::default(), &mut |_| ());
        exported.expect_err("a checkpoint without tensors was exported").to_string()
    }

    /// Writes a file of `bundle`, and into its manifest what is true of that file. The manifest was `manifest` before.
    pub fn write_into_bundle(&self, manifest: &Manifest, name: &str, bytes: &[u8]) {
        self.write(&format!("bundle/{name}"), bytes);
        let mut manifest = manifest.clone();
        manifest.files.insert(name.to_owned(), FileEntry { bytes: bytes.len() as u64, sha256: Digest::of(bytes) });
        self.write(&format!("bundle/{MANIFEST}"), &serde_json::to_vec(&manifest).unwrap());
    }

    /// Writes the two files of an adapter into `adapter`.
    pub fn write_adapter(&self, config: &[u8], tensors: &[u8]) {
        fs::create_dir_all(self.path("adapter")).unwrap();
        self.write("adapter/adapter_config.json", config);
        self.write("adapter/adapter_model.safetensors", tensors);
    }

    /// What is in `bundle`.
    pub fn bundle(&self) -> Bundle {
        Bundle::open(&self.path("bundle")).unwrap()
    }

    fn to_bundle(&self) -> Destination {
        Destination::Dir(self.path("bundle"))
    }
}

/// A task of a kind, such as `classification 2` on two texts.
pub fn task(kind: &str, name: &str) -> Task {
    let (kind, inputs) = kind.split_once(' ').unwrap_or((kind, "1"));
    let labels = matches!(kind, "classification" | "tagging" | "multi-label").then_some(["no", "yes"]);
    let pooling = (!matches!(kind, "tagging" | "span")).then_some("mean");
    let inputs: u8 = if kind == "span" { 2 } else { inputs.parse().unwrap() };
    let task =
        json!({ "name": name, "kind": kind, "labels": labels, "pooling": pooling, "inputs": inputs, "max_length": 40 });
    serde_json::from_value(task).unwrap()
}

/// An adapter for the fixture `bert` of one layer: its configuration, and its tensors. LoRA of rank 2 on query, of rank
/// 1 on value, a bias, and a head of two labels.
pub fn adapter() -> (String, Vec<u8>) {
    const HIDDEN: usize = 32;
    let config = json!({
        "peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "lora_alpha": 4, "bias": "lora_only",
        "rank_pattern": { "value": 1 }, "target_modules": ["query", "value"], "modules_to_save": ["classifier"],
    });
    let layer = "base_model.model.bert.encoder.layer.0.attention.self";
    let tensors = [
        (format!("{layer}.query.lora_A.weight"), vec![2, HIDDEN]),
        (format!("{layer}.query.lora_B.weight"), vec![HIDDEN, 2]),
        (format!("{layer}.query.base_layer.bias"), vec![HIDDEN]),
        (format!("{layer}.value.lora_A.weight"), vec![1, HIDDEN]),
        (format!("{layer}.value.lora_B.weight"), vec![HIDDEN, 1]),
        ("base_model.model.classifier.weight".to_owned(), vec![2, HIDDEN]),
        ("base_model.model.classifier.bias".to_owned(), vec![2]),
    ]
    .map(|(name, shape)| {
        let values = (1..=shape.iter().product::<usize>()).map(|at| at as f32 / 64.0).collect();
        (name, shape, values)
    });
    (config.to_string(), to_safetensors(&tensors).unwrap())
}

/// A patch for an encoder that changes nothing but the head.
pub fn patch(manifest: &Manifest, kind: &str, name: &str) -> Patch {
    let (task, inputs) = (task(kind, name), manifest.config.hidden as usize);
    let outputs = task.kind().outputs().unwrap_or(inputs);
    let weight: Vec<f32> = (0..outputs * inputs).map(|at| (at * 7919 % 401) as f32 / 400.0 - 0.5).collect();
    let head = Head::of(Linear::exact(&weight, &vec![0.0; outputs]).unwrap());
    Patch::new(manifest.encoder, task, Vec::new(), head, BTreeMap::new()).unwrap()
}

/// A place with a bundle, and in `patches` a patch of each kind of task, by names that requests have.
pub fn served() -> Place {
    let place = Place::with_bundle("bert");
    fs::create_dir(place.path("patches")).unwrap();
    for (name, kind) in [
        ("a", "classification"),
        ("pair", "classification 2"),
        ("rank", "regression 2"),
        ("tags", "tagging"),
        ("span", "span"),
        ("several", "multi-label"),
        ("vector", "embedding"),
    ] {
        let patch = patch(place.bundle().manifest(), kind, name);
        patch.save(&place.path(&format!("patches/{name}.bias"))).unwrap();
    }
    place
}
