//! Kinds of task that answer with several labels or with a vector: training, answers, and the commands that make them.

use std::fs;

use bias_patch::Patch;
use edge_bundle::Bundle;
use edge_run::{Encoder, Request, Text};
use safetensors::Dtype;
use serde_json::{Value, json};
use system_tests::{
    Fixture, Layout, assert_misused, assert_refused, assert_succeeded, place::Place, readme_lines, task, write_tensors,
};

/// The product of two vectors, and their lengths.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn vector(row: &Value) -> Vec<f64> {
    row["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn an_embedding_is_the_pooled_hidden_state() {
    let place = Place::new("bert");
    let task = json!({ "name": "embed", "kind": "embedding", "pooling": "mean", "max_length": 40 });
    fs::write(place.home.path().join("embed.json"), task.to_string()).unwrap();
    let made = place.patch(&["embed", "--encoder", "bundle", "--task", "embed.json", "-o", "embed.bias"]);
    assert_succeeded(&made);
    let rows = place.rows(&["-p", "embed.bias"], b"a film to see\nno\n");
    let prompts = json!({ "default": "why was the film so good" });
    let task = json!({ "name": "long", "kind": "embedding", "max_length": 4, "prompts": prompts });
    fs::write(place.home.path().join("long.json"), task.to_string()).unwrap();
    assert_succeeded(&place.patch(&["embed", "--encoder", "bundle", "--task", "long.json", "-o", "long.bias"]));
    let none = place.run(&["-p", "long.bias"], b"a film\n");
    assert!(none.status.code() == Some(3) && String::from_utf8_lossy(&none.stdout).contains("leaves no room"));
    let encoder = Encoder::load(place.bundle.clone(), Default::default()).unwrap();
    for (row, text) in rows.iter().zip(["a film to see", "no"]) {
        let (tokens, _) = encoder.hidden(&Text::one(text)).unwrap();
        let mean: Vec<f64> = tokens
            .columns()
            .into_iter()
            .map(|c| c.iter().map(|v| f64::from(*v)).sum::<f64>() / c.len() as f64)
            .collect();
        let found = vector(row);
        let length: f64 = found.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-6 && cosine(&found, &mean) > 1.0 - 1e-6, "{text}: {row}");
    }
}

/// Pooling, dense layers, prompts and limits come from the files of a sentence-transformers model.
#[test]
fn a_model_of_sentence_transformers_becomes_a_patch() {
    let place = Place::new("bert");
    let hidden = place.bundle.manifest().config.hidden as usize;
    let model = place.home.path().join("model");
    for dir in ["1_Pooling", "2_Dense"] {
        fs::create_dir_all(model.join(dir)).unwrap();
    }
    let module = |name: &str, class: &str, path: &str| json!({ "idx": 0, "name": name, "path": path, "type": format!("sentence_transformers.models.{class}") });
    let write = |file: &str, content: Value| fs::write(model.join(file), content.to_string()).unwrap();
    let modules = [
        module("0", "Transformer", ""),
        module("1", "Pooling", "1_Pooling"),
        module("2", "Dense", "2_Dense"),
        module("3", "Normalize", "3_Normalize"),
    ];
    write("modules.json", json!(modules));
    write("sentence_bert_config.json", json!({ "max_seq_length": 30, "do_lower_case": false }));
    let prompts = json!({ "query": "query: ", "document": "" });
    write("config_sentence_transformers.json", json!({ "prompts": prompts, "default_prompt_name": "query" }));
    write(
        "1_Pooling/config.json",
        json!({ "word_embedding_dimension": hidden, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false }),
    );
    write(
        "2_Dense/config.json",
        json!({ "in_features": hidden, "out_features": 2, "bias": false,
            "activation_function": "torch.nn.modules.linear.Identity" }),
    );
    let weight: Vec<f32> = (0..2 * hidden).map(|at| (at % 5) as f32 - 2.0).collect();
    write_tensors(
        &model.join("2_Dense/model.safetensors"),
        Dtype::F32,
        &[("linear.weight".to_owned(), vec![2, hidden], weight.clone())],
    );

    let arguments = ["embed", "--encoder", "bundle", "--from", "model", "-o", "st.bias"];
    assert_succeeded(&place.patch(&arguments));
    let patch = Patch::open(&place.home.path().join("st.bias")).unwrap();
    assert_eq!(
        serde_json::to_value(patch.task()).unwrap(),
        json!({ "name": "embedding", "kind": "embedding", "labels": null, "pooling": "cls", "inputs": 1, "max_length": 30,
            "prompts": { "default": "query: ", "document": "", "query": "query: " } })
    );
    let row = &place.rows(&["-p", "st.bias"], b"a film\n")[0];
    let encoder = Encoder::load(place.bundle.clone(), Default::default()).unwrap();
    let (tokens, _) = encoder.hidden(&Text::one("query: a film")).unwrap();
    let due: Vec<f64> =
        weight.chunks(hidden).map(|row| row.iter().zip(tokens.row(0)).map(|(w, x)| f64::from(w * x)).sum()).collect();
    let found = vector(row);
    assert!(found.len() == 2 && cosine(&found, &due) > 1.0 - 1e-6, "{row}, expected {due:?}");

    assert_eq!(place.rows(&["-p", "st.bias", "--prompt", "query"], b"a film\n")[0]["embedding"], row["embedding"]);
    // The model's prompt for documents is none.
    let document = &place.rows(&["-p", "st.bias", "--prompt", "document"], b"query: a film\n")[0];
    assert_eq!(document["embedding"], row["embedding"]);
    let unknown = place.run(&["-p", "st.bias", "--prompt", "passage"], b"a film\n");
    assert_misused(&unknown, &["prompt of task embedding", "one of default, document, query", "\"passage\""]);
    assert_misused(
        &place.run(&["-p", "label.bias", "--prompt", "query"], b"a\n"),
        &["no prompt for a classification task"],
    );

    write("config_sentence_transformers.json", json!({ "prompts": prompts, "default_prompt_name": "nope" }));
    assert_refused(&place.patch(&arguments), &["default_prompt_name: expected one of document, query", "\"nope\""]);
    write("config_sentence_transformers.json", json!({ "prompts": prompts }));
    write("1_Pooling/config.json", json!({ "pooling_mode_cls_token": true, "include_prompt": false }));
    assert_refused(&place.patch(&arguments), &["1_Pooling/config.json: include_prompt", "tokens of prompts"]);
    write("1_Pooling/config.json", json!({ "pooling_mode_cls_token": true, "word_embedding_dimension": hidden + 1 }));
    assert_refused(&place.patch(&arguments), &["1_Pooling/config.json: word_embedding_dimension"]);
    write("1_Pooling/config.json", json!({ "pooling_mode_cls_token": true }));
    fs::rename(model.join("sentence_bert_config.json"), model.join("sentence_roberta_config.json")).unwrap();
    assert_succeeded(&place.patch(&arguments));
    assert_eq!(Patch::open(&place.home.path().join("st.bias")).unwrap().task().max_length(), 30);
    assert_refused(
        &place.patch(&["embed", "--encoder", "bundle", "--from", "1_Pooling", "-o", "n.bias"]),
        &["1_Pooling"],
    );
    write("1_Pooling/config.json", json!({ "pooling_mode_max_tokens": true }));
    assert_refused(&place.patch(&arguments), &["1_Pooling/config.json", "cls_token, mean_tokens and lasttoken"]);
    write("modules.json", json!([module("0", "Transformer", ""), module("1", "WordWeights", "1")]));
    assert_refused(&place.patch(&arguments), &["modules.json", "WordWeights"]);
}

#[test]
fn the_readme_takes_a_model_of_sentence_transformers() {
    let home = tempfile::TempDir::new().unwrap();
    let model = home.path().join("model");
    Fixture::named("bert").write(&model, Layout::default());
    fs::create_dir(model.join("1_Pooling")).unwrap();
    let module =
        |path: &str, class: &str| json!({ "path": path, "type": format!("sentence_transformers.models.{class}") });
    let modules =
        json!([module("", "Transformer"), module("1_Pooling", "Pooling"), module("2_Normalize", "Normalize")]);
    fs::write(model.join("modules.json"), modules.to_string()).unwrap();
    fs::write(model.join("sentence_bert_config.json"), json!({ "max_seq_length": 40 }).to_string()).unwrap();
    fs::write(model.join("1_Pooling/config.json"), json!({ "pooling_mode_mean_tokens": true }).to_string()).unwrap();
    fs::write(home.path().join("texts.txt"), "a film to see\nno\n").unwrap();
    let said = assert_succeeded(&readme_lines("--from model", home.path()).output().unwrap());
    let rows: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let encoder = Encoder::load(Bundle::open(&home.path().join("bundle")).unwrap(), Default::default()).unwrap();
    assert_eq!(rows.len(), 2, "{said}");
    for (row, text) in rows.iter().zip(["a film to see", "no"]) {
        let (tokens, _) = encoder.hidden(&Text::one(text)).unwrap();
        let mean: Vec<f64> =
            (0..tokens.ncols()).map(|at| tokens.column(at).iter().map(|v| f64::from(*v)).sum()).collect();
        assert!(cosine(&vector(row), &mean) > 1.0 - 1e-6, "{row}");
    }
}

#[test]
fn several_labels_are_trained_scored_and_given() {
    let place = Place::new("bert");
    let task = json!({ "name": "topics", "kind": "multi-label", "labels": ["film", "food", "sport"], "pooling": "mean",
        "max_length": 40 });
    fs::write(place.home.path().join("topics.json"), task.to_string()).unwrap();
    let parts = [("film", "a film to see"), ("food", "the soup is hot"), ("sport", "they won the game")];
    let mut lines = Vec::new();
    for set in 0..8usize {
        let chosen: Vec<&(&str, &str)> =
            parts.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, p)| p).collect();
        let labels: Vec<&str> = chosen.iter().map(|(label, _)| *label).collect();
        let text = chosen.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(" , ");
        let text = if text.is_empty() { "nothing at all".to_owned() } else { text };
        lines.push(json!({ "sentence": text, "labels": labels }).to_string());
    }
    fs::write(place.home.path().join("train.jsonl"), lines.join("\n")).unwrap();
    let trained = place.patch(&[
        "train",
        "--encoder",
        "bundle",
        "--task",
        "topics.json",
        "--train",
        "train.jsonl",
        "--dev",
        "train.jsonl",
        "-o",
        "topics.bias",
        "--epochs",
        "150",
        "--batch",
        "4",
        "--lr",
        "1e-2",
    ]);
    assert_succeeded(&trained);
    let scored = place.patch(&["evaluate", "topics.bias", "train.jsonl", "--encoder", "bundle", "--json"]);
    let scores: Value = serde_json::from_slice(&scored.stdout).unwrap();
    assert!(scores.to_string().contains("micro F1"), "{scores}");

    let rows = place.rows(&["-p", "topics.bias"], b"a film to see , they won the game\nnothing at all\n");
    let given = |row: &Value| -> Vec<String> {
        let mut labels: Vec<String> =
            row["labels"].as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap().to_owned()).collect();
        labels.sort();
        labels
    };
    assert_eq!((given(&rows[0]), given(&rows[1])), (vec!["film".to_owned(), "sport".to_owned()], vec![]), "{rows:?}");
}

/// Trains `task` on `data`, which is the dev set too, and gives the scores before and after, by their names.
fn trained(place: &Place, task: &Value, data: &[Value], options: &[&str]) -> (Value, Value) {
    let name = task["name"].as_str().unwrap();
    let file = |ending: &str| format!("{name}.{ending}");
    fs::write(place.home.path().join(file("json")), task.to_string()).unwrap();
    let lines: Vec<String> = data.iter().map(Value::to_string).collect();
    fs::write(place.home.path().join(file("jsonl")), lines.join("\n")).unwrap();
    let scores = |patch: &str| -> Value {
        let scored = place.patch(&["evaluate", patch, &file("jsonl"), "--encoder", "bundle", "--json"]);
        assert_succeeded(&scored);
        serde_json::from_slice::<Value>(&scored.stdout).unwrap()["metrics"].take()
    };
    let (json, jsonl, bias) = (file("json"), file("jsonl"), file("bias"));
    let fixed = ["train", "--encoder", "bundle", "--task", &json, "--train", &jsonl, "--dev", &jsonl, "-o", &bias];
    // One step of a rate that changes nothing: the head as it starts.
    let start = ["--epochs", "1", "--batch", "1000", "--lr", "1e-12"];
    assert_succeeded(&place.patch(&[&fixed[..], &start].concat()));
    let before = scores(&bias);
    fs::remove_file(place.home.path().join(&bias)).unwrap();
    assert_succeeded(&place.patch(&[&fixed[..], options].concat()));
    (before, scores(&bias))
}

/// The value of a metric.
fn metric(scores: &Value, name: &str) -> f64 {
    let found = scores.as_array().unwrap().iter().find(|metric| metric[0] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {scores}"))[1].as_f64().unwrap()
}

#[test]
fn embeddings_are_trained_on_pairs() {
    let place = Place::new("bert");
    let words = ["film", "good", "bad", "very", "happy", "cafe", "not", "it", "one", "two", "three", "who"];
    let options = ["--epochs", "60", "--batch", "12", "--lr", "1e-2"];
    let task = |name: &str| json!({ "name": name, "kind": "embedding", "pooling": "mean", "max_length": 20 });

    // Positives, each with a negative.
    let pairs: Vec<Value> = (0..words.len())
        .map(|at| {
            let (word, other) = (words[at], words[(at + 1) % words.len()]);
            json!({ "anchor": format!("why is {word}"), "positive": format!("{} was a", words[(at + 5) % 12]),
                "negative": format!("the {other} !") })
        })
        .collect();
    let (before, after) = trained(&place, &task("pairs"), &pairs, &options);
    assert!(metric(&before, "nDCG@10") < 0.7 && metric(&after, "nDCG@10") > 0.95, "{before} {after}");
    assert!(metric(&after, "recall@1") > 0.9 && metric(&after, "recall@10") == 1.0, "{after}");
    assert_eq!(after.as_array().unwrap().len(), 3, "without numbers there is no correlation: {after}");

    // Pairs with a number; vectors are cut to eight dimensions.
    let scored: Vec<Value> = (0..words.len())
        .flat_map(|at| (1..4).map(move |by| (at, by)))
        .map(|(at, by)| json!({ "sentence1": words[at], "sentence2": words[(at + by) % 12], "score": (at * by) % 5 }))
        .collect();
    let mut cut = task("scored");
    cut["dimensions"] = json!(8);
    let (before, after) = trained(&place, &cut, &scored, &options);
    assert!(metric(&after, "Spearman") > metric(&before, "Spearman") + 0.3, "{before} {after}");

    // The patch gives vectors of the task.
    let row = &place.rows(&["-p", "scored.bias"], b"film\n")[0];
    assert_eq!(vector(row).len(), 8, "{row}");
    let wrong = json!({ "sentence1": "a", "sentence2": "b", "score": "alike" });
    fs::write(place.home.path().join("wrong.jsonl"), wrong.to_string()).unwrap();
    assert_refused(
        &place.patch(&["evaluate", "pairs.bias", "wrong.jsonl", "--encoder", "bundle"]),
        &["a number that says how alike two texts are", "\"alike\""],
    );
}

/// Prompts of a query and of documents train and score as texts that begin with them.
#[test]
fn queries_and_documents_have_their_prompts() {
    let place = Place::new("bert");
    let words = ["film", "good", "bad", "very", "happy", "cafe"];
    let pairs = |query: &str, document: &str| -> Vec<Value> {
        let pair = |at: usize| {
            json!({ "anchor": format!("{query}{}", words[at]), "positive": format!("{document}{}", words[(at + 2) % 6]),
                "negative": format!("{document}the {}", words[(at + 3) % 6]) })
        };
        (0..words.len()).map(pair).collect()
    };
    let task = |name: &str, prompts: Value| json!({ "name": name, "kind": "embedding", "pooling": "mean", "max_length": 20, "prompts": prompts });
    let options = ["--epochs", "20", "--batch", "6", "--lr", "1e-2"];
    let slots = |name: &str| {
        let patch = Patch::open(&place.home.path().join(format!("{name}.bias"))).unwrap();
        patch.slots().iter().map(|slot| (slot.id, slot.values.values(None))).collect::<Vec<_>>()
    };
    let (_, due) = trained(&place, &task("written", json!({})), &pairs("why ", "it was "), &options);
    for (name, prompts) in [
        ("document", json!({ "query": "why ", "document": "it was ", "default": "not " })),
        ("passage", json!({ "query": "why ", "passage": "it was " })),
        ("default", json!({ "query": "why ", "default": "it was " })),
    ] {
        let (_, found) = trained(&place, &task(name, prompts), &pairs("", ""), &options);
        assert_eq!((found, slots(name)), (due.clone(), slots("written")), "{name}");
    }
    // An empty prompt is one: documents do not get the default.
    let (_, due) = trained(&place, &task("bare-written", json!({})), &pairs("why ", ""), &options);
    let prompts = json!({ "query": "why ", "document": "", "default": "not " });
    let (_, found) = trained(&place, &task("bare", prompts), &pairs("", ""), &options);
    assert_eq!((found, slots("bare")), (due, slots("bare-written")));
    // Without a prompt for queries all texts have the default.
    let (_, found) =
        trained(&place, &task("all", json!({ "default": "why ", "document": "it was " })), &pairs("", ""), &options);
    let (_, due) = trained(&place, &task("all-written", json!({})), &pairs("why ", "why "), &options);
    assert_eq!((found, slots("all")), (due, slots("all-written")));
}

#[test]
fn a_question_may_have_no_answer() {
    let place = Place::new("bert");
    let names = ["b", "c", "d", "e"];
    let texts: Vec<Value> = (0..16)
        .map(|at| {
            let context = format!("the film {} was good", names[(at / 2) % 4]);
            let found = if at % 2 == 0 { names[(at / 2) % 4] } else { "" };
            let start = if found.is_empty() { -1 } else { 9 };
            let question = if found.is_empty() { "why" } else { "who" };
            json!({ "question": question, "context": context, "answer": found, "answer_start": start })
        })
        .collect();
    let task = json!({ "name": "answer", "kind": "span", "inputs": 2, "max_length": 40, "no_answer": 0 });
    let (before, after) = trained(&place, &task, &texts, &["--epochs", "60", "--batch", "8", "--lr", "1e-2"]);
    assert!(metric(&before, "F1") < 0.8 && metric(&after, "F1") > 0.95, "{before} {after}");
    assert!(metric(&after, "HasAns F1") > 0.9 && metric(&after, "NoAns accuracy") > 0.9, "{after}");
    let patch = Patch::open(&place.home.path().join("answer.bias")).unwrap();
    let spec = serde_json::to_value(patch.task()).unwrap();
    assert!(spec["no_answer"].as_f64().unwrap() != 0.0, "the threshold is chosen on dev: {spec}");
    let asked = json!({ "question": "why", "context": "the film d was good" }).to_string();
    let row = &place.rows(&["-p", "answer.bias", "--input", "jsonl"], asked.as_bytes())[0];
    assert!(row["label"] == "" && row["spans"][0]["start"] == 0 && row["spans"][0]["end"] == 0, "{row}");
}

/// Texts of every kind in one batch have the answers that each has alone.
#[test]
fn kinds_mix_in_a_batch() {
    let place = Place::new("bert");
    let encoder = Encoder::load(place.bundle.clone(), Default::default()).unwrap();
    let kinds = [
        ("label", "classification", 1),
        ("number", "regression", 1),
        ("tags", "tagging", 1),
        ("several", "multi-label", 1),
        ("vector", "embedding", 1),
        ("span", "span", 2),
    ];
    let tasks: Vec<_> = kinds
        .iter()
        .map(|(name, kind, inputs)| {
            encoder.attach(&system_tests::patch(&place.bundle, task(name, kind, *inputs), name)).unwrap()
        })
        .collect();
    let (one, two) = (Text::one("a film to see"), Text::pair("what", "a film to see with friends"));
    let requests: Vec<Request<'_>> =
        tasks.iter().map(|task| Request { task, text: if task.spec().inputs() == 2 { &two } else { &one } }).collect();
    let answers = |requests: &[Request<'_>]| -> Vec<String> {
        let answered = encoder.predict(requests).into_iter();
        answered.map(|answer| serde_json::to_string(&answer.unwrap().answer).unwrap()).collect()
    };
    let together = answers(&requests);
    let alone: Vec<String> = requests.iter().flat_map(|request| answers(&[*request])).collect();
    assert_eq!(together, alone);
    let found: Vec<Value> = together.iter().map(|answer| serde_json::from_str(answer).unwrap()).collect();
    assert!(found[3]["labels"].is_array() && found[4]["embedding"].is_array(), "{found:?}");
}
