//! Training: the same patch each time, every metric and average, test sets, and trainings that are refused.

use std::{fs, ops::ControlFlow};

use bias_patch::{Patch, Task};
use edge_patch::{
    data::read_examples,
    train::{Event, Recipe, Run, Sets, best_run, train},
};
use edge_run::{Encoder, EngineOptions};
use serde_json::{Value, json};
use system_tests::{
    assert_misused, assert_refused, assert_succeeded,
    mood::{Mood, on_full_disk},
};

#[test]
fn a_trained_patch_answers_and_is_the_same_each_time() {
    let mood = Mood::default();
    let recipe = ["--lr", "1e-2", "--epochs", "4", "--seeds", "2", "--log", "log.jsonl"];
    let said = assert_succeeded(&mood.train("mood.bias", &recipe).output().unwrap());
    assert!(said.contains("deviation") && said.contains("accuracy 1.0000"), "{said}");
    assert!(!mood.path("mood.bias.training").exists() && !mood.path("mood.bias.lock").exists());
    assert_succeeded(&mood.train("again.bias", &[&recipe[..], &["--threads", "2"]].concat()).output().unwrap());
    assert_eq!(mood.read("mood.bias"), mood.read("again.bias"));
    let log = fs::read_to_string(mood.path("log.jsonl")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> =
        events.iter().filter(|e| e["event"] == "epoch").map(|e| e["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 2 * 2 * 4);
    assert!(losses[3] < 0.7 * losses[0], "{losses:?}");

    let evaluate = |extra: &[&str]| {
        let fixed = ["evaluate", "mood.bias", "dev.tsv", "--encoder", "bundle"];
        assert_succeeded(&mood.edge_patch(&[&fixed[..], extra].concat()).output().unwrap())
    };
    let found: Value = serde_json::from_str(&evaluate(&["--json"])).unwrap();
    assert_eq!(found["confusion"], json!([[20, 0], [0, 20]]));
    assert_eq!(found["metrics"][0], json!(["accuracy", 1.0]));
    let said = evaluate(&[]);
    for part in ["bytes", "accuracy", "Matthews", "calibration", "<- given"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // The note of the score is about these values, so converting renames it.
    let metric = "accuracy 1.0000 on 40 texts";
    assert_eq!(Patch::open(&mood.path("mood.bias")).unwrap().metadata()["metric"], metric);
    let convert = ["convert", "mood.bias", "--encoder", "bundle", "--encoding", "i4", "-o", "small.bias"];
    assert_succeeded(&mood.edge_patch(&convert).output().unwrap());
    let notes = Patch::open(&mood.path("small.bias")).unwrap().metadata().clone();
    assert!(!notes.contains_key("metric") && notes["metric before conversion"] == metric, "{notes:?}");
    // Only the chosen slots are stored; a patch trained with a frozen encoder has a head alone.
    let slots = |name: &str, terms: &str| {
        assert_succeeded(&mood.train(name, &["--epochs", "1", "--slots", terms]).output().unwrap());
        let patch = Patch::open(&mood.path(name)).unwrap();
        patch.check(&mood.bundle.manifest().shape()).unwrap();
        patch.slots().iter().map(|slot| slot.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(slots("two.bias", "bq,bm2"), ["bq.0", "bm2.0", "bq.1", "bm2.1"]);
    assert!(slots("frozen.bias", "none").is_empty());
}

#[test]
fn averages_memory_limits_and_sizes_are_trained_and_kept() {
    let mood = Mood::default();
    let recipe = ["--lr", "1e-2", "--epochs", "3"];
    let train = |output: &str, extra: &[&str]| {
        assert_succeeded(&mood.train(output, &[&recipe[..], extra].concat()).output().unwrap())
    };
    for how in ["ema:0.9", "last:2"] {
        let said = train("average.bias", &["--average", how]);
        assert!(said.contains("accuracy"), "{said}");
    }
    train("limited.bias", &["--memory-limit", "200M"]);
    let sizes = ["--train-sizes", "24,96"];
    let said = train("size.bias", &sizes);
    assert!(said.contains("deviation") && said.lines().count() == 3, "{said}");
    // The second time nothing is trained: the results are there.
    let kept = fs::metadata(mood.path("size-96.bias")).unwrap().modified().unwrap();
    assert_eq!(train("size.bias", &sizes), said);
    assert_eq!(fs::metadata(mood.path("size-96.bias")).unwrap().modified().unwrap(), kept);
    let other = mood.train("size.bias", &[&sizes[..], &["--epochs", "1"]].concat()).output().unwrap();
    assert_refused(&other, &["size-24.bias.json", "remove the file to train again"]);
}

/// What lies below the first trained layer is computed once, computed in every step, or a part of each.
#[test]
fn upper_layers_are_trained_to_the_same_patch_with_kept_states_and_without() {
    let mood = Mood::default();
    let rows = |from: usize, count: usize| -> String {
        let row = |at: usize| format!("the film {}\tvery good {}\t{}\n", at % 7, at % 5, at % 6);
        (from..from + count).map(row).collect()
    };
    mood.write("pairs.tsv", "sentence1\tsentence2\tscore\n".to_owned() + &rows(0, 60));
    let task = json!({ "name": "alike", "kind": "embedding", "pooling": "mean", "max_length": 40 });
    mood.write("alike.json", task.to_string());
    let alike =
        ["train", "--encoder", "bundle", "--task", "alike.json", "--train", "pairs.tsv", "--dev", "pairs.tsv", "-o"];
    let of_slots = ["--epochs", "3", "--lr", "1e-2", "--seeds", "2"];
    for slots in [&["--layers", "1.."][..], &["--layers", "1..", "--slots", "bq,lora:q@1"], &["--slots", "none"]] {
        let mut kept = Vec::new();
        for limit in ["2G", "20K", "0"] {
            let recipe = [&of_slots[..], slots, &["--keep-states", limit]].concat();
            assert_succeeded(&mood.train("upper.bias", &recipe).output().unwrap());
            let mut patches = vec![mood.read("upper.bias")];
            // An embedding has no head to train alone.
            if !slots.contains(&"none") {
                let arguments = [&alike[..], &["alike.bias"], &recipe].concat();
                assert_succeeded(&mood.edge_patch(&arguments).output().unwrap());
                patches.push(mood.read("alike.bias"));
            }
            kept.push(patches);
        }
        assert!(kept.iter().all(|patches| *patches == kept[0]), "{slots:?}");
    }
    // What cannot be kept is computed, so a full disk is found by the checkpoint, which has to be written.
    let full = on_full_disk(&mood.train("full.bias", &["--layers", "1.."]));
    assert_refused(&full, &["full.bias.training"]);
    let left: Vec<String> = mood.names();
    assert!(left.iter().all(|name| !name.starts_with('.') && !name.contains("tmp")), "{left:?}");
}

#[test]
fn answers_are_trained_from_every_form_of_squad() {
    let mood = Mood::default();
    let answers = ["good", "bad", "happy", "film"];
    let context = |answer: &str, other: &str| format!("it was {other} , the cafe is {answer} .");
    let row = |at: usize| {
        let context = context(answers[at % 4], ["not", "very"][at / 4 % 2]);
        let start = context.rfind(answers[at % 4]).unwrap();
        (context, answers[at % 4], start)
    };
    let lines = (0..48).map(row).map(|(context, answer, start)| {
        json!({ "question": "why ?", "context": context, "answer": answer, "answer_start": start }).to_string() + "\n"
    });
    mood.write("train.jsonl", lines.collect::<String>());
    let paragraphs: Vec<Value> = (100..116)
        .map(row)
        .map(|(context, answer, start)| {
            let answers = [json!({ "text": answer, "answer_start": start })];
            json!({ "context": context, "qas": [{ "id": "1", "question": "why ?", "answers": answers }] })
        })
        .collect();
    mood.write("dev.json", json!({ "data": [{ "paragraphs": paragraphs }] }).to_string());
    let task = json!({ "name": "qa", "kind": "span", "inputs": 2, "max_length": 40 });
    mood.write("span.json", task.to_string());
    let train = |extra: &[&str]| {
        let fixed = ["train", "--encoder", "bundle", "--task", "span.json", "--dev", "dev.json", "-o", "qa.bias"];
        mood.edge_patch(&[&fixed[..], extra].concat()).output().unwrap()
    };
    let said = assert_succeeded(&train(&["--train", "train.jsonl", "--lr", "1e-2", "--epochs", "6"]));
    let f1: f64 = said.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(f1 > 0.8, "{said}");
    mood.write("bad.jsonl", r#"{"question":"why ?","context":"a cafe","answer":"cafe","answer_start":1}"#);
    assert_refused(
        &train(&["--train", "bad.jsonl"]),
        &["bad.jsonl", "the answer \"cafe\" at character 1", "--skip-bad"],
    );
}

#[test]
fn bad_trainings_are_refused() {
    let mood = Mood::default();
    let refused = |extra: &[&str], parts: &[&str]| {
        assert_refused(&mood.train("x.bias", extra).output().unwrap(), parts);
        for left in ["", ".training", ".lock"] {
            assert!(!mood.path(&format!("x.bias{left}")).exists(), "{left} after {extra:?}");
        }
    };
    assert_misused(&mood.train("x.bias", &["--slots", "bq,bx"]).output().unwrap(), &["--slots", "bx"]);
    assert_misused(&mood.train("x.bias", &["--weights", "full", "--slots", "bq"]).output().unwrap(), &["--slots"]);
    assert_misused(&mood.train("x.bias", &["--lr", "1e-50"]).output().unwrap(), &["--lr", "from 1e-30 to 1"]);
    refused(&["--average", "last:99"], &["--average: expected last:N with at most the", "found last:99"]);
    refused(&["--slots", "bk"], &["--slots: expected a bias that has an effect in this encoder, found bk"]);
    refused(&["--slots", "bq,bpool"], &["--slots", "modules that this encoder, task and --layers have", "bpool"]);
    refused(&["--metric", "BLEU"], &["metric", "accuracy, F1, Matthews", "BLEU"]);
    refused(&["--memory-limit", "1M"], &["memory limit", "at least", "1000000 bytes"]);
    refused(&["--train-sizes", "97"], &["--train-sizes", "1 to the 96 texts there are, found 97"]);
    refused(
        &["--train-sizes", "1"],
        &["--train-sizes: 1 texts of train.tsv: labels: expected at least two that differ"],
    );
    let task = String::from_utf8(mood.read("task.json")).unwrap();
    mood.write("task.json", task.replace("40", "4000"));
    refused(&[], &["max_length", "expected at most 48"]);
    mood.write("task.json", "{}");
    refused(&[], &["task.json", "not a task"]);
}

#[test]
fn bad_texts_are_refused_in_every_form_of_file() {
    let mood = Mood::default();
    let good = mood.read("train.tsv");
    let header = "a header with one of the columns text";
    let none = "expected labelled texts for this task, found none";
    for (name, text, parts) in [
        ("empty.tsv", "", &[none][..]),
        ("empty.csv", "", &["line 1", header]),
        ("empty.jsonl", "", &[none]),
        ("empty.json", r#"{"data":[]}"#, &[none]),
        ("empty.conll", "", &[none]),
        ("header.tsv", "sentence\tlabel\n", &[none]),
        ("header.csv", "sentence,label\n", &[none]),
        ("no-text.tsv", "words\tlabel\ngood\t1\n", &["line 1", header, "words"]),
        ("no-label.tsv", "sentence\tmood\ngood\t1\n", &["header", "a column of labels, one of label"]),
        ("no-label.csv", "sentence,mood\ngood,1\n", &["header", "a column of labels, one of label"]),
        ("no-label.jsonl", "{\"text\":\"good\"}\n", &["1 that are not", "line 1: expected a label, found none"]),
        ("short.tsv", "sentence\tlabel\ngood\n", &["line 2: expected a label, found none"]),
        ("unknown.tsv", "sentence\tlabel\ngood\t7\n", &["line 2: expected one of bad, good, found \"7\""]),
        (
            "unknown.jsonl",
            "{\"text\":\"good\",\"label\":\"fine\"}\n",
            &["line 1: expected one of bad, good, found \"fine\""],
        ),
        ("pairs.tsv", "sentence1\tsentence2\tlabel\ngood\tbad\t1\n", &["line 2: expected 1 texts, found 2"]),
        ("spans.jsonl", "{\"question\":\"good\",\"answer\":\"good\",\"answer_start\":0}\n", &["expected a label"]),
        ("tags.tsv", "tokens\tlabels\ngood film\tADJ NOUN\n", &["expected one of bad, good, found \"ADJ NOUN\""]),
        ("numbers.tsv", "sentence\tscore\ngood\t0.5\n", &["expected one of bad, good, found \"0.5\""]),
    ] {
        mood.write(name, text);
        // As training texts, and as dev set.
        for (train, dev) in [(name, "dev.tsv"), ("train.tsv", name)] {
            let parts = [&[name][..], parts].concat();
            assert_refused(&mood.train_on(train, dev, "x.bias", &[]).output().unwrap(), &parts);
            assert!(!mood.path("x.bias").exists() && !mood.path("x.bias.lock").exists());
        }
    }
    assert_refused(&mood.train_on("no.tsv", "dev.tsv", "x.bias", &[]).output().unwrap(), &["no.tsv", "cannot open"]);
    mood.write("one.tsv", "sentence\tlabel\ngood\t1\nvery good\t1\n");
    let one = mood.train_on("one.tsv", "dev.tsv", "x.bias", &[]).output().unwrap();
    assert_refused(&one, &["one.tsv", "at least two that differ", "the same on every row"]);

    mood.write("train.tsv", [&good[..], &b"why\t7\n\t1\n"[..]].concat());
    let some = mood.train("x.bias", &[]).output().unwrap();
    assert_refused(&some, &["train.tsv", "2 that are not", "line 98", "found \"7\"", "empty text", "--skip-bad"]);
    assert_succeeded(&mood.train("skip.bias", &["--skip-bad", "--epochs", "1"]).output().unwrap());
}

#[test]
fn a_loss_that_is_no_number_names_its_texts_and_keeps_the_last_checkpoint() {
    let mood = Mood::default();
    let task = json!({ "name": "value", "kind": "regression", "pooling": "mean", "max_length": 40 });
    mood.write("task.json", task.to_string());
    // The squared error of text 96 has no gradient in f32. With seed 1 it is the 91st text.
    let value = |at: usize| if at == 96 { "3e38".to_owned() } else { (at % 2).to_string() };
    let rows: String = (0..100).map(|at| format!("good\t{}\n", value(at))).collect();
    mood.write("train.tsv", format!("sentence\tlabel\n{rows}"));
    let train = || mood.train("x.bias", &["--batch", "1", "--log", "log.jsonl"]).output().unwrap();
    assert_refused(
        &train(),
        &["step 91", "not a finite number", "a lower learning rate", "from 0: [96]", "an earlier state"],
    );
    let kept = mood.read("x.bias.training");
    assert!(!mood.path("x.bias").exists());
    // It resumes from there, and fails in the same way.
    assert_refused(&train(), &["step 91", "from 0: [96]"]);
    assert_eq!(mood.read("x.bias.training"), kept);
    let log = String::from_utf8(mood.read("log.jsonl")).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let runs = events.iter().filter(|event| event["event"] == "run");
    assert_eq!(runs.map(|run| run["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 80]);
}

#[test]
fn a_learning_rate_that_diverges_is_given_up_for_another() {
    let mood = Mood::default();
    let task: Task = serde_json::from_slice(&mood.read("task.json")).unwrap();
    let examples = |name: &str| read_examples(&mood.path(name), &task, false).unwrap().examples;
    let (train_texts, dev_texts) = (examples("train.tsv"), examples("dev.tsv"));
    let encoder = Encoder::load(mood.bundle.clone(), EngineOptions::default()).unwrap();
    let train = |name: &str, rates: &[f64], given_up: &mut Vec<String>| {
        let recipe = Recipe { learning_rates: rates.to_vec(), ..Recipe::default() };
        let sets = Sets { train: &train_texts, dev: &dev_texts, test: None };
        train(&encoder, &task, sets, &recipe, &mood.path(name), &mut |event| {
            if let Event::Diverged { reason } = event {
                given_up.push(reason);
            }
            ControlFlow::Continue(())
        })
    };
    // After one step every value is infinite.
    let huge = 1e40;
    let mut given_up = Vec::new();
    let trained = train("two.training", &[huge, 1e-2], &mut given_up).unwrap();
    assert!(given_up.len() == 1 && given_up[0].starts_with("step 2: "), "{given_up:?}");
    assert_eq!(trained.runs[0], Run::diverged(huge, 1));
    assert!(trained.runs[1].dev.is_some(), "{:?}", trained.runs);
    let error = train("one.training", &[huge], &mut given_up).unwrap_err().to_string();
    assert!(error.starts_with("step 2: the loss is not a finite number"), "{error}");
    assert!(given_up.len() == 1 && !mood.path("one.training").exists());
}

#[test]
fn a_table_and_sizes_whose_runs_all_diverge_say_so_and_are_kept() {
    let mood = Mood::default();
    let task = json!({ "name": "value", "kind": "regression", "pooling": "mean", "max_length": 40 });
    mood.write("value.json", task.to_string());
    // The squared error of the last one overflows f32, whatever the learning rate.
    mood.write("wild.tsv", "sentence\tlabel\ngood\t0\nbad\t1\ngood\t3e38\n");
    let recipe = ["--epochs", "1", "--batch", "1", "--seeds", "2", "--log", "log.jsonl"];
    let data = ["--data", "mood=task.json,train.tsv,dev.tsv", "--data", "wild=value.json,wild.tsv,dev.tsv"];
    let table = || {
        let fixed = ["table", "--encoder", "bundle", "--rows", "frozen,full@1e-3"];
        let files = ["--results", "results", "-o", "table.md"];
        assert_succeeded(&mood.edge_patch(&[&fixed[..], &data, &recipe, &files].concat()).output().unwrap())
    };
    let said = table();
    assert_eq!(mood.read("table.md"), said.as_bytes());
    for row in ["frozen", "full@1e-3"] {
        let line = said.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap();
        assert!(line.contains(" ± ") && line.contains(" | diverged | "), "{line}");
        assert!(mood.path(&format!("results/wild-{row}.bias.json")).exists());
        for left in ["", ".training", ".lock"] {
            assert!(!mood.path(&format!("results/wild-{row}.bias{left}")).exists(), "{row} {left}");
        }
    }
    // Every run is logged; the second time, no run starts.
    let count = |event: &str| {
        let log = fs::read_to_string(mood.path("log.jsonl")).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|found| found["event"] == event).count()
    };
    assert_eq!((count("run"), count("diverged")), (8, 4));
    assert_eq!((table(), count("run"), count("cell")), (said, 8, 4));

    mood.write("task.json", task.to_string());
    let sizes = [&recipe[..], &["--train-sizes", "3"]].concat();
    let said = assert_succeeded(&mood.train_on("wild.tsv", "dev.tsv", "size.bias", &sizes).output().unwrap());
    assert!(said.contains("every run diverged"), "{said}");
}

#[test]
fn weights_are_trained_to_compare_and_leave_no_patch() {
    let mood = Mood::default();
    let table = || {
        let fixed = ["table", "--encoder", "bundle", "--data", "mood=task.json,train.tsv,dev.tsv", "--epochs", "2"];
        let rows = ["--rows", "frozen,random,rows@1e-2,full@1e-3@3e-3", "--lr", "1e-2", "--seeds", "2"];
        let files = ["--results", "results", "-o", "table.md"];
        assert_succeeded(&mood.edge_patch(&[&fixed[..], &rows, &files].concat()).output().unwrap())
    };
    let said = table();
    for row in ["random", "rows@1e-2", "full@1e-3@3e-3"] {
        let line = said.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap();
        assert!(line.contains(" ± ") && line.ends_with("| - | - |"), "{line}");
        assert!(mood.path(&format!("results/mood-{row}.bias.json")).exists());
        assert!(!mood.path(&format!("results/mood-{row}.bias")).exists());
    }
    assert!(mood.path("results/mood-frozen.bias").exists());
    let kept = || fs::metadata(mood.path("results/mood-random.bias.json")).unwrap().modified().unwrap();
    let before = kept();
    assert_eq!((table(), kept()), (said, before));

    let last_loss = |name: &str, what: &[&str]| {
        let log = format!("{name}.jsonl");
        let fixed = ["--lr", "3e-3", "--epochs", "4", "--log", &log];
        let train = |output: &str| mood.train(output, &[&fixed[..], what].concat()).output().unwrap();
        let said = assert_succeeded(&train(&format!("{name}.bias")));
        let log = fs::read_to_string(mood.path(&log)).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let losses: Vec<f64> = events.filter(|e| e["event"] == "epoch").map(|e| e["loss"].as_f64().unwrap()).collect();
        (losses[3], said)
    };
    let ((frozen, _), (full, said)) =
        (last_loss("frozen", &["--slots", "none"]), last_loss("full", &["--weights", "full"]));
    assert!(full < frozen, "full {full}, frozen {frozen}");
    assert!(said.contains("no patch is written, accuracy"), "{said}");
    assert!(!mood.path("full.bias").exists() && !mood.path("full.bias.training").exists());
    // The same steps give the same losses.
    assert_eq!(last_loss("again", &["--weights", "full"]).0, full);
    for (extra, parts) in [
        (["--average", "ema"], ["averages", "none where weights are trained"]),
        (["--memory-limit", "200M"], ["memory limit", "none where weights are trained"]),
    ] {
        let refused = mood.train("x.bias", &[&["--weights", "rows"], &extra[..]].concat()).output().unwrap();
        assert_refused(&refused, &parts);
    }
}

/// Makes the task a regression, whose score differs from epoch to epoch, and writes `test.tsv`.
fn write_test_set(mood: &Mood) {
    let task = json!({ "name": "value", "kind": "regression", "pooling": "mean", "max_length": 40 });
    mood.write("task.json", task.to_string());
    let row = |at: usize| format!("{} {} film\t{}\n", ["not", "very"][at % 2], ["good", "bad"][at / 2 % 2], at % 5);
    mood.write("test.tsv", "sentence\tlabel\n".to_owned() + &(0..30).map(row).collect::<String>());
}

/// The first metric that `edge-patch evaluate` prints.
fn evaluated(mood: &Mood, patch: &str, texts: &str) -> f64 {
    let said = mood.edge_patch(&["evaluate", patch, texts, "--encoder", "bundle", "--json"]).output().unwrap();
    serde_json::from_str::<Value>(&assert_succeeded(&said)).unwrap()["metrics"][0][1].as_f64().unwrap()
}

#[test]
fn a_test_set_is_scored_with_the_best_epoch_and_chooses_nothing() {
    let mood = Mood::default();
    write_test_set(&mood);
    let recipe = ["--lr", "1e-3,1e-2", "--seeds", "2", "--epochs", "8"];
    let train = |output: &str, extra: &[&str]| {
        assert_succeeded(&mood.train(output, &[&recipe[..], extra].concat()).output().unwrap())
    };
    let said = train("tested.bias", &["--test", "test.tsv", "--log", "log.jsonl"]);
    let (dev, test) = (evaluated(&mood, "tested.bias", "dev.tsv"), evaluated(&mood, "tested.bias", "test.tsv"));
    assert!(said.ends_with(&format!("Spearman {dev:.4} on dev, {test:.4} on test\n")) && dev != test, "{said}");
    assert_eq!(said.lines().next().unwrap().matches("deviation").count(), 2, "{said}");
    assert!(!train("plain.bias", &[]).contains("test"));
    assert_eq!(mood.read("tested.bias"), mood.read("plain.bias"));

    // In the log it has a score where dev is better than before, and only there.
    let log = String::from_utf8(mood.read("log.jsonl")).unwrap();
    let (mut best, mut scored, mut others) = (f64::NEG_INFINITY, 0, 0);
    for event in log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if event["event"] == "run" {
            best = f64::NEG_INFINITY;
        }
        let Some(dev) = event["dev"].as_f64() else { continue };
        assert_eq!(event["test"].is_f64(), dev > best, "{event}");
        *(if dev > best { &mut scored } else { &mut others }) += 1;
        best = best.max(dev);
    }
    assert!(scored > 4 && others > 0, "{scored} {others}");
    let plot = |what: &str, log: &str| {
        assert_succeeded(&mood.edge_patch(&["plot", what, log, "-o", "picture.svg"]).output().unwrap());
        String::from_utf8(mood.read("picture.svg")).unwrap()
    };
    assert!(plot("training", "log.jsonl").contains("Spearman on test"));

    // By size, with the scores of every run kept.
    let said = train("size.bias", &["--test", "test.tsv", "--train-sizes", "24,96", "--log", "sizes.jsonl"]);
    assert!(said.lines().next().unwrap().contains("test deviation") && said.matches(" ±").count() == 4, "{said}");
    assert!(plot("sizes", "sizes.jsonl").contains("Spearman on test"));
    let kept: Value = serde_json::from_slice(&mood.read("size-96.bias.json")).unwrap();
    let runs: Vec<Run> = serde_json::from_value(kept["runs"].clone()).unwrap();
    let best = best_run(&runs).unwrap();
    assert_eq!((runs.len(), best.dev, best.test), (4, Some(dev), Some(test)));
    mood.write("no.tsv", "sentence\tlabel\n");
    assert_refused(&mood.train("x.bias", &["--test", "no.tsv"]).output().unwrap(), &["no.tsv", "found none"]);
    // Without the test set it is another training.
    let other = mood.train("size.bias", &[&recipe[..], &["--train-sizes", "24"]].concat()).output().unwrap();
    assert_refused(&other, &["size-24.bias.json", "remove the file to train again"]);
    // As an earlier version kept it.
    let old = String::from_utf8(mood.read("size-24.bias.json")).unwrap();
    let runs = old.find("\"runs\"").unwrap()..=old.find(']').unwrap();
    mood.write("size-24.bias.json", old.replace(&old[runs], r#""runs": [[0.001, 1, 0.5]]"#));
    let other = mood.train("size.bias", &["--train-sizes", "24"]).output().unwrap();
    assert_refused(&other, &["size-24.bias.json", "remove the file to train again", "invalid type"]);
}
