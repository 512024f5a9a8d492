//! Adapters that no patch can hold: each refusal names the field or tensor, and what is supported.

use std::fs;

use serde_json::{Value, json};
use system_tests::assert_refused;

use crate::{Tensors, adapters};

/// Something to do to a good adapter.
type Change = fn(&mut Value, &mut Tensors);

const ENCODER: &str = "base_model.model.bert.";
const QUERY: &str = "base_model.model.bert.encoder.layer.1.attention.self.query";

/// Puts a tensor of 0.5s under the name of a module and a part.
fn add(tensors: &mut Tensors, module: &str, part: &str, shape: &[usize]) {
    tensors.insert(format!("{module}.{part}"), (shape.to_vec(), vec![0.5; shape.iter().product()]));
}

fn remove(tensors: &mut Tensors, module: &str, part: &str) {
    assert!(tensors.remove(&format!("{module}.{part}")).is_some());
}

fn assert_all_refused(cases: &[(Change, &[&str])]) {
    let adapter = &adapters()["bert-r8"];
    let place = adapter.place();
    for (change, parts) in cases {
        let (mut config, mut tensors) = (adapter.config.clone(), adapter.values());
        change(&mut config, &mut tensors);
        place.write("adapter", &config, &tensors);
        assert_refused(&place.import("adapter"), parts);
        assert!(!place.path("t.bias").exists(), "a patch was written: {parts:?}");
    }
}

#[test]
fn configurations_that_compute_something_else_are_refused() {
    assert_all_refused(&[
        (|c, _| c["peft_type"] = json!("ADALORA"), &["adapter_config.json: peft_type", "LORA or BEFT", "ADALORA"]),
        (|c, _| c["peft_type"] = json!("IA3"), &["peft_type", "found IA3"]),
        (|c, _| c["peft_type"] = json!("PREFIX_TUNING"), &["peft_type", "found PREFIX_TUNING"]),
        (|c, _| c["peft_type"] = Value::Null, &["peft_type", "found none"]),
        (|c, _| c["use_dora"] = json!(true), &["use_dora", "without DoRA's magnitudes", "true"]),
        (|c, _| c["fan_in_fan_out"] = json!(true), &["fan_in_fan_out", "false, for the encoder's layers are Linear"]),
        (|c, _| c["layer_replication"] = json!([[0, 2], [1, 2]]), &["layer_replication"]),
        (
            |c, _| c["trainable_token_indices"] = json!([3]),
            &["trainable_token_indices", "the encoder's own embeddings"],
        ),
        (|c, _| c["alora_invocation_tokens"] = json!([3]), &["alora_invocation_tokens"]),
        (|c, _| c["use_qalora"] = json!(true), &["use_qalora", "use_rslora"]),
        (|c, _| c["init_lora_weights"] = json!("pissa_niter_4"), &["init_lora_weights", "path_initial_model"]),
        (|c, _| c["r"] = json!("eight"), &["adapter_config.json: configuration", "as PEFT writes them", "eight"]),
        (|c, _| c["r"] = json!(4), &["rank_pattern, r", "expected 8 for encoder.layer.", "found 4"]),
        (|c, _| c["rank_pattern"] = json!({"query": 2}), &["rank_pattern", "expected 8 for", ".query", "found 2"]),
        (
            |c, _| c["target_modules"] = json!(["value"]),
            &["target_modules", "the end of encoder.layer.", "found value"],
        ),
        (
            |c, _| c["layers_to_transform"] = json!([1]),
            &["layers_to_transform", "that of encoder.layer.0.", "found [1]"],
        ),
        (|c, _| c["layers_to_transform"] = json!(0), &["layers_to_transform", "that of encoder.layer.1.", "found [0]"]),
        (|c, _| c["alpha_pattern"] = json!({".*query": 2}), &["alpha_pattern", "regular expressions", ".*query"]),
        (|c, _| c["task_type"] = json!("TOKEN_CLS"), &["task_type", "classification", "found TOKEN_CLS"]),
        (|c, _| c["task_type"] = json!("CAUSAL_LM"), &["task_type", "found CAUSAL_LM"]),
    ]);
}

#[test]
fn tensors_without_a_place_are_refused() {
    assert_all_refused(&[
        (
            |_, t| t.retain(|name, _| name.contains("lora")),
            &["adapter_model.safetensors: head", "modules_to_save=[\"classifier\"]", "found none"],
        ),
        (|_, t| remove(t, "base_model.model.classifier", "bias"), &["no tensor classifier.bias"]),
        (|_, t| remove(t, QUERY, "lora_B.weight"), &["query.lora_B.weight", "for there is", "found none"]),
        (|_, t| remove(t, QUERY, "lora_A.weight"), &["query.lora_A.weight", "for there is", "found none"]),
        (
            |_, t| add(t, QUERY, "lora_B.weight", &[32, 4]),
            &["query.lora_B.weight", "expected shape [32, 8], found [32, 4]"],
        ),
        (|_, t| add(t, QUERY, "lora_A.weight", &[8, 31]), &["query.lora_A.weight", "expected shape [8, 32]"]),
        (|_, t| add(t, QUERY, "lora_A.weight", &[256]), &["query.lora_A.weight", "two dimensions"]),
        (
            |_, t| t.get_mut(&format!("{QUERY}.lora_B.weight")).unwrap().1[5] = f32::NAN,
            &["low-rank term of encoder.layer.1.attention.self.query", "finite"],
        ),
        (|_, t| add(t, QUERY, "lora_magnitude_vector", &[32]), &["lora_magnitude_vector", "without DoRA's magnitudes"]),
        (
            |_, t| add(t, &format!("{ENCODER}embeddings.word_embeddings"), "lora_embedding_A", &[8, 53]),
            &["word_embeddings.lora_embedding_A", "not of embeddings"],
        ),
        (
            |_, t| add(t, &format!("{ENCODER}encoder.layer.7.output.dense"), "lora_A.weight", &[8, 48]),
            &["encoder.layer.7.output.dense.lora_A.weight", "a linear layer of the encoder, such as", "another module"],
        ),
        (
            |_, t| add(t, &format!("{ENCODER}embeddings.LayerNorm"), "lora_A.weight", &[8, 32]),
            &["embeddings.LayerNorm.lora_A.weight", "a linear layer of the encoder"],
        ),
        (
            |_, t| add(t, "base_model.model.pre_classifier", "lora_A.weight", &[8, 32]),
            &["pre_classifier.lora_A.weight", "modules_to_save"],
        ),
        (
            |_, t| add(t, &format!("{ENCODER}pooler.dense"), "weight", &[32, 32]),
            &["tensor pooler.dense.weight", "a low-rank term or a bias of the encoder, or a tensor of the head"],
        ),
        (|_, t| add(t, QUERY, "lora_A.default.weight", &[8, 32]), &["one tensor", "query.lora_A.weight", "several"]),
        (
            |c, t| {
                c["r"] = json!(40);
                t.retain(|name, _| !name.contains("lora"));
                add(t, QUERY, "lora_A.weight", &[40, 32]);
                add(t, QUERY, "lora_B.weight", &[32, 40]);
            },
            &["slot lora_a.q.1", "1 to 32 times 32 values", "1280"],
        ),
    ]);
}

#[test]
fn a_task_that_the_classifier_is_not_of_is_refused() {
    let adapter = &adapters()["bert-r8"];
    let place = adapter.place();
    let mut task = adapter.task();
    task["pooling"] = json!("mean");
    place.write_task(&task);
    assert_refused(&place.import("adapter"), &["adapter_config.json: pooling", "expected pooler", "found mean"]);
    let mut task = adapter.task();
    task["labels"] = json!(["a", "b"]);
    place.write_task(&task);
    assert_refused(&place.import("adapter"), &["head output weight", "expected 2 rows"]);
}

/// PEFT saves DistilBERT's `pre_classifier` only if somebody says so, and without it the head is lost.
#[test]
fn a_classifier_without_its_hidden_layer_is_refused() {
    for (name, hidden, said) in [
        ("distilbert-r2", "pre_classifier.", &["head", "pre_classifier and classifier", "found classifier"][..]),
        ("roberta-rslora", "classifier.dense.", &["head", "expected the weight of", "found none"]),
    ] {
        let adapter = &adapters()[name];
        let place = adapter.place();
        let mut tensors = adapter.values();
        tensors.retain(|name, _| !name.contains(hidden));
        place.write("adapter", &adapter.config, &tensors);
        assert_refused(&place.import("adapter"), said);
    }
}

#[test]
fn other_forms_of_adapters_are_refused() {
    let place = adapters()["bert-r8"].place();
    let tensors = place.path("adapter/adapter_model.safetensors");
    fs::rename(&tensors, tensors.with_extension("bin")).unwrap();
    assert_refused(&place.import("adapter"), &["adapter: tensors", "adapter_model.safetensors", "pickle"]);
    fs::write(place.path("a.onnx_adapter"), b"\x10\0\0\0TORT\0\0\0\0").unwrap();
    assert_refused(&place.import("a.onnx_adapter"), &["a.onnx_adapter: format", "PEFT adapter", "ONNX Runtime"]);
}
