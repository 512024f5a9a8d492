//! Every family from training to an answer, by the commands. `targets/test BOARD --system` runs those of a board.

use std::fs;

use bias_patch::Patch;
use edge_bundle::Slot;
use edge_run::{Encoder, EngineOptions, Request, Text};
use serde_json::{Value, json};
use system_tests::{FAMILIES, assert_succeeded, command, http, mood::Mood, with_input};

/// The default recipe moves every kind of slot that the family has, the loss falls, and edge-run and edge-serve answer with
/// the patch.
#[test]
fn a_patch_is_trained_and_answers_on_every_family() {
    for family in FAMILIES {
        let mood = Mood::of(family);
        let recipe = ["--lr", "1e-2", "--epochs", "6", "--log", "log.jsonl"];
        let said = assert_succeeded(&mood.train("mood.bias", &recipe).output().unwrap());
        let log = fs::read_to_string(mood.path("log.jsonl")).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let epochs: Vec<Value> = events.filter(|event| event["event"] == "epoch").collect();
        let losses: Vec<f64> = epochs.iter().map(|event| event["loss"].as_f64().unwrap()).collect();
        assert!(losses[5] < 0.7 * losses[0], "{family}: {losses:?}");
        let accuracy: f64 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(accuracy > 0.9, "{family}: {said}");

        let manifest = mood.bundle.manifest();
        let pooler = |name: &str| name == "bpool" || name.ends_with(".pool");
        let moved = |id: &str| !pooler(id) && (!id.starts_with("bk.") || manifest.config.key_bias_counts());
        let due: Vec<String> = manifest.slots.iter().map(|slot| slot.id().to_string()).filter(|id| moved(id)).collect();
        let patch = Patch::open(&mood.path("mood.bias")).unwrap();
        let stored: Vec<String> = patch.slots().iter().map(|slot| slot.id.to_string()).collect();
        let biases: Vec<&String> = stored.iter().filter(|id| !id.starts_with("lora")).collect();
        assert_eq!(biases, due.iter().collect::<Vec<_>>(), "{family}");
        let takes = |slot: &&Slot| slot.layer.is_some() && manifest.config.takes_low_rank(slot.module);
        let linear = manifest.slots.iter().filter(takes).count();
        assert_eq!(stored.len() - biases.len(), 2 * linear, "{family}");

        let mut run = command("edge-run", mood.home.path());
        run.current_dir(mood.home.path()).args(["--bundle", "bundle", "-p", "mood.bias", "-o", "jsonl"]);
        let dev = String::from_utf8(mood.read("dev.tsv")).unwrap();
        let (texts, gold): (Vec<&str>, Vec<&str>) =
            dev.lines().skip(1).filter_map(|line| line.split_once('\t')).unzip();
        let answers = assert_succeeded(&with_input(&mut run, (texts.join("\n") + "\n").as_bytes()));
        let rows: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // This process is of this machine, whatever machine the commands are of.
        let encoder = Encoder::load(mood.bundle.clone(), EngineOptions::default()).unwrap();
        let task = encoder.attach(&patch).unwrap();
        let texts_here: Vec<Text> = texts.iter().copied().map(Text::one).collect();
        let requests: Vec<_> = texts_here.iter().map(|text| Request { task: &task, text }).collect();
        let here = encoder.predict(&requests).into_iter().map(|prediction| match prediction.unwrap().logits[..] {
            [bad, good] => Value::from(["bad", "good"][usize::from(good > bad)]),
            ref other => panic!("{other:?}"),
        });
        let labels = rows.iter().map(|row| row["label"].clone());
        assert_eq!(labels.collect::<Vec<_>>(), here.collect::<Vec<_>>(), "{family}");
        let right =
            rows.iter().zip(gold).filter(|(row, gold)| row["label"] == ["bad", "good"][usize::from(*gold == "1")]);
        assert_eq!(right.count(), (accuracy * texts.len() as f64).round() as usize, "{family}");

        fs::create_dir(mood.path("patches")).unwrap();
        fs::copy(mood.path("mood.bias"), mood.path("patches/mood.bias")).unwrap();
        let (address, mut server) = http::start(mood.home.path(), mood.bundle.dir(), &[]);
        let mut connection = http::connect(address);
        for (text, row) in texts.iter().zip(&rows).step_by(8) {
            let body = json!({ "text": text }).to_string();
            let reply = http::ask(&mut connection, "POST", "/predict/mood", &[], body.as_bytes());
            assert_eq!((reply.status, &reply.json()["label"]), (200, &row["label"]), "{family}: {text}");
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
