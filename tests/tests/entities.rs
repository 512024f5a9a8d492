//! Entities of tagged texts: equal to those of transformers' pipeline, in `edge-run` and in `edge-serve`.

use std::{collections::BTreeMap, fs};

use bias_patch::{Head, Linear, Patch};
use edge_run::{Answer, Encoder, EngineOptions, Request, Strategy, Text};
use serde::Deserialize;
use serde_json::{Value, json};
use system_tests::{
    Fixture, assert_misused, assert_succeeded, command, fixtures, patch,
    place::Place,
    server::{Server, home_of},
    task, with_input,
};
use tempfile::TempDir;

/// Scores are given in millionths. Both programs compute in f32, with other kernels: probabilities of the small encoders
/// were 8e-7 apart, half a millionth of it from rounding.
const TOLERANCE: f64 = 5e-6;

/// What `tests/reference/make_entities.py` wrote.
#[derive(Deserialize)]
struct Reference {
    strategies: Vec<String>,
    texts: Vec<String>,
    encoders: Vec<Tagger>,
}

#[derive(Deserialize)]
struct Tagger {
    encoder: String,
    labels: Vec<String>,
    /// For each text and strategy label, start, end and score of each entity.
    entities: Vec<Vec<Vec<Value>>>,
}

/// The tagger of `make_entities.py`: the encoder as it is, and a head.
fn tagger(encoder: &Encoder, labels: &[String]) -> Patch {
    let (manifest, outputs) = (encoder.bundle().manifest(), labels.len());
    let task = json!({ "name": "tags", "kind": "tagging", "labels": labels, "inputs": 1, "max_length": 48 });
    let weight = Fixture::values("entities weight", &[outputs, manifest.config.hidden as usize]);
    let bias = Fixture::values("entities bias", &[outputs]);
    let head = Head::of(Linear::exact(&weight, &bias).unwrap());
    Patch::new(manifest.encoder, serde_json::from_value(task).unwrap(), vec![], head, BTreeMap::new()).unwrap()
}

#[test]
fn entities_are_those_of_transformers() {
    let reference: Reference = serde_json::from_slice(&fs::read(fixtures().join("entities.json")).unwrap()).unwrap();
    assert!(reference.texts.len() == 200 && reference.strategies.len() == 4);
    let (mut compared, mut furthest) = (0, 0.0f64);
    for Tagger { encoder: name, labels, entities } in &reference.encoders {
        let mut fixture = Fixture::named(name);
        if name == "xlm-roberta" {
            let config = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>" });
            fixture.files.insert("tokenizer_config.json".to_owned(), config.to_string());
        }
        let dir = TempDir::new().unwrap();
        let bundle = fixture.export(dir.path(), edge_export::Options::default());
        let encoder = Encoder::load(bundle, EngineOptions::default()).unwrap();
        let task = encoder.attach(&tagger(&encoder, labels)).unwrap();
        for (at, strategy) in reference.strategies.iter().enumerate() {
            let task = task.with_entities(serde_json::from_value::<Strategy>(json!(strategy)).unwrap()).unwrap();
            let texts: Vec<Text> = reference.texts.iter().map(Text::one).collect();
            let requests: Vec<_> = texts.iter().map(|text| Request { task: &task, text }).collect();
            for ((text, answer), due) in reference.texts.iter().zip(encoder.predict(&requests)).zip(entities) {
                let Answer::Entities(found) = answer.unwrap().answer else { panic!("{name}: no entities") };
                let place = format!("{name}, {strategy}, {text:?}: {found:?}, expected {:?}", due[at]);
                assert_eq!(found.len(), due[at].len() / 4, "{place}");
                for (found, due) in found.iter().zip(due[at].chunks(4)) {
                    assert_eq!(json!([found.label, found.start, found.end]), json!(due[..3]), "{place}");
                    let whole: String = text.chars().skip(found.start).take(found.end - found.start).collect();
                    assert_eq!(found.text, whole.trim(), "{place}");
                    furthest = furthest.max((f64::from(found.score) - due[3].as_f64().unwrap() / 1e6).abs());
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} entities; scores differ by at most {furthest:.1e}");
    assert!(compared > 4000 && furthest < TOLERANCE, "{compared} entities, scores {furthest:.1e} apart");
}

#[test]
fn entities_are_grouped_where_they_are_asked_for() {
    let place = Place::new("bert");
    let text = "the film was very unhappily good";
    let tags = place.rows(&["-p", "tags.bias"], text.as_bytes());
    for strategy in ["simple", "first", "average", "max"] {
        let option = format!("--entities={strategy}");
        let rows = place.rows(&["-p", "tags.bias", "-p", "label.bias", &option], text.as_bytes());
        assert!(rows[0]["tags"].is_null() && rows[1]["entities"].is_null() && rows[1]["label"].is_string());
        for entity in rows[0]["entities"].as_array().unwrap() {
            let (start, end) = (entity["start"].as_u64().unwrap() as usize, entity["end"].as_u64().unwrap() as usize);
            assert_eq!(entity["text"], text[start..end], "{strategy}");
        }
    }
    // Neighbours with the same tag are one entity. Without a value, words have the tags that they have without the flag.
    let rows = place.rows(&["-p", "tags.bias", "--entities"], text.as_bytes());
    let mut due: Vec<(Value, Value)> = Vec::new();
    for tag in tags[0]["tags"].as_array().unwrap() {
        match due.last_mut().filter(|last| last.0 == tag["label"]) {
            Some(last) => last.1 = tag["end"].clone(),
            None => due.push((tag["label"].clone(), tag["end"].clone())),
        }
    }
    let found = rows[0]["entities"].as_array().unwrap();
    assert_eq!(found.iter().map(|e| (e["label"].clone(), e["end"].clone())).collect::<Vec<_>>(), due);

    let named = |entity: &Value| format!("{}/{}", entity["text"].as_str().unwrap(), entity["label"].as_str().unwrap());
    let cells = found.iter().map(named).collect::<Vec<_>>().join(" ; ");
    for (format, cells) in [("tsv", format!("\t{cells}\t0.")), ("table", format!("  {cells}\n"))] {
        let written = assert_succeeded(&place.run(&["-p", "tags.bias", "--entities", "-o", format], text.as_bytes()));
        assert!(written.contains(&cells), "{written}");
    }
    assert_misused(
        &place.run(&["-p", "label.bias", "--entities"], b"x\n"),
        &["--entities", "a tagging task", "classification"],
    );
    assert_misused(&place.run(&["-p", "tags.bias", "-k", "2"], b"x\n"), &["--top-k", "alternatives", "tagging"]);
    assert_misused(&place.run(&["-p", "tags.bias", "--logits"], b"x\n"), &["--logits", "tagging"]);
    for more in [&["-o", "npy"][..], &["--labels", "good,bad"]] {
        assert_misused(&place.run(&[&["-p", "vector.bias", "--logits"], more].concat(), b"x\n"), &["--logits"]);
    }
    // One task that has them is enough.
    place.rows(&["-p", "tags.bias", "-p", "label.bias", "-k", "2", "--logits"], text.as_bytes());
    let wrong = place.run(&["-p", "tags.bias", "--entities", "max", "texts.txt"], b"");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--entities=max"));
}

#[test]
fn edge_serve_gives_the_entities_that_edge_run_gives() {
    let (home, bundle) = home_of(&["label"]);
    patch(&bundle, task("tags", "tagging", 1), "tags").save(&home.path().join("patches/tags.bias")).unwrap();
    let server = Server::at(home, bundle, &[]);
    let rows = |option: &str, text: &str| -> Value {
        let mut run = command("edge-run", server.home.path());
        run.current_dir(server.home.path()).args([
            "--bundle",
            "bundle",
            "-p",
            "patches/tags.bias",
            "-o",
            "jsonl",
            option,
        ]);
        serde_json::from_str(&assert_succeeded(&with_input(&mut run, text.as_bytes()))).unwrap()
    };
    for text in ["the film was good!", "東 unhappily, the café"] {
        for strategy in ["simple", "first", "average", "max"] {
            let option = format!("--entities={strategy}");
            let due = rows(&option, text);
            let asked = json!({ "text": text, "entities": strategy });
            let found = server.post("/predict/tags", asked.clone()).json();
            assert_eq!(found["entities"], due["entities"], "{text}, {strategy}");
            assert!(found["tags"].is_null() && found["entities"].is_array());
            let all = server.post("/predict", asked).json();
            assert!(all["answers"][0]["label"].is_string() && all["answers"][0]["entities"].is_null(), "{all}");
            assert_eq!(all["answers"][1]["entities"], due["entities"]);
        }
    }
    let text = "東 unhappily, the café";
    let question = |parameters: Value| {
        let input = json!({ "name": "text", "datatype": "BYTES", "shape": [1], "data": [text] });
        json!({ "inputs": [input], "parameters": parameters })
    };
    let tensors = server.post("/v2/models/tags/infer", question(json!({ "entities": "max" }))).json();
    let tensor = &tensors["outputs"][0];
    assert_eq!((&tensor["name"], &tensor["datatype"]), (&json!("entities"), &json!("BYTES")));
    let found: Value = serde_json::from_str(tensor["data"][0].as_str().unwrap()).unwrap();
    assert_eq!(found, rows("--entities=max", text)["entities"]);
    let tags = server.post("/v2/models/tags/infer", question(json!({}))).json();
    assert_eq!(tags["outputs"][0]["name"], "tags");
    let refused = server.post("/v2/models/label/infer", question(json!({ "entities": "max" })));
    assert!(refused.status == 400 && refused.json()["error"].as_str().unwrap().contains("a tagging task"));
    let refused = server.post("/predict/label", json!({ "text": "x", "entities": "max" }));
    assert!(refused.status == 400 && refused.json()["error"].as_str().unwrap().contains("a tagging task"));
    let refused = server.post("/predict/tags", json!({ "text": "x", "entities": "some" }));
    assert!(refused.status == 400 && refused.json()["error"].as_str().unwrap().contains("average"));
}
