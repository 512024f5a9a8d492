//! What is made of trained patches: tables, pictures, and the same patch in fewer bytes.

use std::{collections::BTreeSet, fs};

use bias_patch::Patch;
use serde_json::{Value, json};
use system_tests::{assert_misused, assert_refused, assert_succeeded, command, fixtures, mood::Mood, patch, task};

/// The cells of a row of a Markdown table.
fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn pictures_are_of_patches_and_of_logs() {
    let mood = Mood::default();
    for (output, log, rates, trained) in [
        ("all.bias", "all.jsonl", "3e-3,1e-2", ["--slots", "all"]),
        ("head.bias", "head only.jsonl", "3e-3,1e-2", ["--slots", "frozen"]),
        ("full.bias", "full.jsonl", "1e-3", ["--weights", "full"]),
    ] {
        let recipe = ["--lr", rates, "--epochs", "2", "--train-sizes", "24,96", "--log", log];
        let extra = [&recipe[..], &trained].concat();
        assert_succeeded(&mood.train(output, &extra).output().unwrap());
    }
    let changes = ["changes", "all-96.bias", "--encoder", "bundle"];
    let several = ["changes", "all-24.bias", "all-96.bias", "--encoder", "bundle"];
    let cases: [(&[&str], &[&str]); 4] = [
        (&several, &["mean absolute change by term and layer", "layer, all-24", "layer, all-96"]),
        (&changes, &["mood: mean absolute change", "beln", "bln2", "layer"]),
        (
            &["training", "all.jsonl"],
            &[
                "accuracy on dev",
                "learning rate 3e-3, seed 1, 24 texts",
                "learning rate 1e-2, seed 1, 96 texts",
                "step",
            ],
        ),
        (
            &["sizes", "all.jsonl", "head only.jsonl", "full.jsonl"],
            &["accuracy on dev", "head only", "full", "training texts", "20", "100"],
        ),
    ];
    for (of, parts) in cases {
        let plot = |extra: &[&str]| mood.edge_patch(&[&["plot"][..], of, extra].concat()).output().unwrap();
        let shown = assert_succeeded(&plot(&[]));
        for output in ["picture.svg", "picture.png", "picture.PNG"] {
            let said = assert_succeeded(&plot(&["-o", output]));
            assert_eq!(said, format!("{output}: {} bytes\n", mood.read(output).len()));
        }
        let svg = String::from_utf8(mood.read("picture.svg")).unwrap();
        for part in parts {
            assert!(shown.contains(part) && svg.contains(part), "{part} in {shown}{svg}");
        }
        assert!(mood.read("picture.png").starts_with(b"\x89PNG\r\n\x1a\n"));
        assert_eq!(mood.read("picture.png"), mood.read("picture.PNG"));
        assert_eq!(plot(&["-o", "picture.jpeg"]).status.code(), Some(2));
    }
    mood.write("torn.jsonl", "{\"event\":\"size\",\"te");
    mood.write(
        "run.jsonl",
        "{\"event\":\"run\",\"run\":1,\"of\":1,\"learning_rate\":0.1,\"seed\":1,\"step\":0,\"steps\":9}\n",
    );
    for (of, parts) in [
        (["training", "torn.jsonl"], ["torn.jsonl", "line 1: expected a JSON object"]),
        (["training", "run.jsonl"], ["run.jsonl", "expected steps of a training, found none"]),
        (["sizes", "run.jsonl"], ["run.jsonl", "--train-sizes"]),
        (["sizes", "no.jsonl"], ["no.jsonl", "cannot read"]),
        (["training", "all-96.bias"], ["all-96.bias", "expected text in UTF-8, found other bytes"]),
        // It has no end.
        (["training", "/dev/zero"], ["/dev/zero", "expected at most 268435456 bytes, found more"]),
    ] {
        assert_refused(&mood.edge_patch(&[&["plot"][..], &of].concat()).output().unwrap(), &parts);
    }
}

#[test]
fn a_training_without_a_terminal_says_what_it_does() {
    let mood = Mood::default();
    let said = |extra: &[&str]| {
        let output = mood.train("x.bias", extra).output().unwrap();
        assert_succeeded(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    // 96 texts, 16 to a step.
    let few = said(&["--epochs", "2", "--lr", "1e-2"]);
    let lines: Vec<&str> = few.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("a run has few steps, 12: a patch hardly moves in them"), "{few}");
    for (at, line) in lines[1..].iter().enumerate() {
        assert!(
            line.starts_with(&format!("run 1/1, learning rate 1e-2, seed 1  epoch {}: training loss", at + 1)),
            "{line}"
        );
        assert!(line.contains("dev accuracy "), "{line}");
    }
    let enough = said(&["--epochs", "3", "--batch", "4", "--lr", "1e-2,2e-2"]);
    assert!(enough.lines().count() == 6 && !enough.contains("hardly moves"), "{enough}");
}

#[test]
fn scores_have_deviations_and_are_compared() {
    let mood = Mood::default();
    assert_succeeded(&mood.train("mood.bias", &["--lr", "1e-2", "--epochs", "12"]).output().unwrap());
    assert_succeeded(
        &mood.train("frozen.bias", &["--slots", "frozen", "--lr", "1e-5", "--epochs", "1"]).output().unwrap(),
    );
    // A quarter of the labels is wrong, of either label as many.
    let dev = String::from_utf8(mood.read("dev.tsv")).unwrap();
    let other = |line: &str| line.strip_suffix('0').map_or_else(|| line.replace('1', "0"), |text| format!("{text}1"));
    let noisy = dev
        .lines()
        .enumerate()
        .map(|(at, line)| if matches!(at % 8, 1 | 2) { other(line) } else { line.to_owned() } + "\n");
    mood.write("noisy.tsv", noisy.collect::<String>());
    let evaluate = |patch: &str, extra: &[&str]| {
        let evaluate = ["evaluate", patch, "noisy.tsv", "--encoder", "bundle"];
        mood.edge_patch(&[&evaluate[..], extra].concat()).output().unwrap()
    };
    let json = |extra: &[&str]| -> Value {
        serde_json::from_str(&assert_succeeded(&evaluate("mood.bias", &[&["--json"], extra].concat()))).unwrap()
    };

    let found = json(&[]);
    assert_eq!((&found["metrics"][0][1], &found["deviations"][0][0]), (&0.75.into(), &"accuracy".into()));
    assert!(found["compared"].is_null());
    // Of a fraction the bootstrap gives the binomial deviation.
    let (deviation, due) = (found["deviations"][0][1].as_f64().unwrap(), (0.75_f64 * 0.25 / 40.0).sqrt());
    assert!((deviation / due - 1.0).abs() < 0.1, "{deviation} {due}");

    let same = &json(&["--against", "mood.bias"])["compared"][0];
    assert_eq!((same["difference"].as_f64(), same["deviation"].as_f64()), (Some(0.0), Some(0.0)));
    let better = &json(&["--against", "frozen.bias"])["compared"][0];
    let (difference, deviation) = (better["difference"].as_f64().unwrap(), better["deviation"].as_f64().unwrap());
    assert!(difference > 0.0 && deviation > 0.0, "{better}");
    let said = assert_succeeded(&evaluate("mood.bias", &["--against", "frozen.bias"]));
    let line = format!("against the other {difference:+.4} ± {deviation:.4}");
    assert!(said.contains(&line) && said.contains("accuracy           0.7500 ± "), "{said}");
    patch(&mood.bundle, task("other", "classification", 1), "x").save(&mood.path("other.bias")).unwrap();
    let unlike = ["task other of the other patch: expected classification of bad, good, on 1 texts"];
    assert_refused(&evaluate("mood.bias", &["--against", "other.bias"]), &unlike);
}

#[test]
fn a_search_keeps_the_metric() {
    let mood = Mood::default();
    // Long enough for its probabilities to be as right as its answers: the expected loss relies on them.
    assert_succeeded(&mood.train("mood.bias", &["--lr", "1e-2", "--epochs", "12"]).output().unwrap());
    let search = |output: &str, extra: &[&str]| {
        let fixed = ["convert", "mood.bias", "--encoder", "bundle", "--max-loss", "2.5", "-o", output];
        assert_succeeded(&mood.edge_patch(&[&fixed[..], extra].concat()).output().unwrap())
    };
    // 96 texts that differ, as most of the training texts do not.
    let words = ["film", "very", "the", "was", "not", "it", "cafe"];
    let row = |at: usize| {
        let (mood, label) = if at < 49 { ("good", 1) } else { ("bad", 0) };
        format!("{} {mood} {}\t{label}\n", words[at % 7], words[at / 7 % 7])
    };
    mood.write("many.tsv", "sentence\tlabel\n".to_owned() + &(0..96).map(row).collect::<String>());
    let on_texts = ["--texts", "many.tsv", "--refine-steps", "40"];
    let said = search("small.bias", &[&on_texts[..], &["--data", "dev.tsv"]].concat());
    for part in [" beln", "accuracy expected to be lost: ", " by 48 texts", "measured on 40 texts", "100.00 as it was"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    // Neither labels nor the texts that the loss is measured on decide anything.
    let texts: String = String::from_utf8(mood.read("many.tsv")).unwrap();
    let lines = texts.lines().skip(1).map(|line| line.split('\t').next().unwrap());
    mood.write("texts.txt", lines.collect::<Vec<_>>().join("\n"));
    let said = search("again.bias", &["--texts", "texts.txt", "--refine-steps", "40"]);
    assert!(!said.contains("measured on"), "{said}");
    // Without texts, half of the labelled ones are searched on.
    let said = search("half.bias", &["--data", "many.tsv", "--refine-steps", "40"]);
    assert!(said.contains(" by 24 texts") && said.contains("measured on 48 texts"), "{said}");
    search("unrefined.bias", &["--texts", "many.tsv", "--refine-steps", "0"]);
    assert!(mood.read("small.bias").len() < mood.read("unrefined.bias").len());
    let small = mood.read("small.bias");
    assert_eq!(small, mood.read("again.bias"));
    assert!(small.len() < mood.read("mood.bias").len() / 3);
    let evaluate = |patch: &str| {
        let evaluate = ["evaluate", patch, "dev.tsv", "--encoder", "bundle", "--json"];
        let said = assert_succeeded(&mood.edge_patch(&evaluate).output().unwrap());
        serde_json::from_str::<Value>(&said).unwrap()["metrics"][0][1].as_f64().unwrap()
    };
    for found in ["small.bias", "half.bias", "unrefined.bias"] {
        assert!(evaluate(found) >= evaluate("mood.bias") - 0.025 - 1e-9, "{found}");
    }

    // The table says the same of the same patches.
    let table = ["encodings", "mood.bias", "dev.tsv", "--encoder", "bundle", "--max-loss", "2.5,0.1", "-o", "table.md"];
    let said = assert_succeeded(&mood.edge_patch(&[&table[..], &on_texts].concat()).output().unwrap());
    assert_eq!(mood.read("table.md"), said.as_bytes());
    mood.write("notes.md", "# Notes\n");
    for (output, texts, part) in
        [("notes.md", "dev.tsv", "a table in Markdown to replace"), ("same.md", "same.md", "same.md")]
    {
        mood.write("same.md", "| good film\n");
        let over = [
            "encodings",
            "mood.bias",
            "dev.tsv",
            "--encoder",
            "bundle",
            "--texts",
            texts,
            "--max-loss",
            "1",
            "-o",
            output,
        ];
        assert_refused(&mood.edge_patch(&over).output().unwrap(), &[output, part]);
    }
    let rows: Vec<Vec<&str>> = said.lines().take_while(|line| !line.is_empty()).skip(2).map(cells).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let uniform = ["as it is", "f32", "f16", "i8", "i4", "i3", "i2", "i1"];
    let searched = ["2.5", "0.1"].map(|points| format!("searched, at most {points} points expected to be lost"));
    let searched = [&searched[0][..], &searched[1][..]];
    assert_eq!(names, [&uniform[..], &searched].concat());
    let bytes = |row: usize| rows[row][1].parse::<usize>().unwrap();
    let score = |row: usize| rows[row][2].parse::<f64>().unwrap();
    // The file that convert wrote also notes how its values are stored.
    let [exact, small] = ["mood.bias", "small.bias"].map(|name| Patch::open(&mood.path(name)).unwrap());
    let small = small.with_metadata(exact.metadata().clone());
    assert_eq!((bytes(0), bytes(8)), (mood.read("mood.bias").len(), small.to_bytes().unwrap().len()));
    assert!((1..7).all(|row| bytes(row) > bytes(row + 1)) && bytes(9) < bytes(0), "{said}");
    assert!(score(8) >= score(0) - 2.5 - 1e-9, "{said}");
    let metric = ["encodings", "mood.bias", "dev.tsv", "--encoder", "bundle", "--metric", "BLEU"];
    assert_refused(&mood.edge_patch(&metric).output().unwrap(), &["metric", "accuracy, F1, Matthews", "BLEU"]);
    let fixed = ["convert", "mood.bias", "--encoder", "bundle", "--max-loss", "1", "-o", "no.bias"];
    let refused = |extra: &[&str], parts: &[&str]| {
        assert_refused(&mood.edge_patch(&[&fixed[..], extra].concat()).output().unwrap(), parts);
    };
    refused(&[], &["--max-loss: expected --texts or --data", "neither"]);
    mood.write("one.txt", "good film\n");
    refused(&["--texts", "one.txt"], &["texts to search on: expected at least 40", "found 1"]);
    // The same text many times is one.
    mood.write("same.txt", "good film\n".repeat(60));
    refused(&["--texts", "same.txt"], &["texts to search on: expected at least 40 that differ", "found 1"]);
    let exact =
        ["convert", "mood.bias", "--encoder", "bundle", "--encoding", "i4", "--data", "dev.tsv", "-o", "no.bias"];
    assert_misused(
        &mood.edge_patch(&exact).output().unwrap(),
        &["'--encoding <ENCODING>' cannot be used with '--data <FILE>'"],
    );
    mood.write("pair.txt", "good\tfilm\n");
    refused(&["--texts", "pair.txt"], &["pair.txt", "expected 1 texts, found 2"]);
}

#[test]
fn a_table_is_made_once() {
    let mood = Mood::default();
    let table = |recipe: &[&str]| {
        let fixed = [
            "table",
            "--encoder",
            "bundle",
            "--data",
            "mood=task.json,train.tsv,dev.tsv,F1",
            "--rows",
            "frozen,bq+lora:q@1",
        ];
        let files = ["--results", "results", "-o", "table.md"];
        mood.edge_patch(&[&fixed[..], &files, recipe].concat()).output().unwrap()
    };
    let recipe = ["--lr", "1e-2", "--epochs", "2", "--seeds", "2"];
    let first = table(&recipe);
    let progress = String::from_utf8_lossy(&first.stderr);
    for line in ["cell 1/2, frozen on mood, run 1/2, ", "cell 2/2, bq+lora:q@1 on mood, run 2/2, "] {
        assert!(progress.contains(line), "{line} in {progress}");
    }
    let said = assert_succeeded(&first);
    for part in ["mood, F1", "| frozen |", "| bq+lora:q@1 |", " ± ", "over 2 seeds"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(mood.read("table.md"), said.as_bytes());
    let kept = || fs::metadata(mood.path("results/mood-frozen.bias")).unwrap().modified().unwrap();
    let before = kept();
    assert!(mood.path("results/mood-bq+lora.q@1.bias.json").exists());
    assert_eq!(assert_succeeded(&table(&recipe)), said);
    assert_eq!(kept(), before);
    let picture = |more: &[&str]| mood.edge_patch(&[&["plot", "results", "results"], more].concat()).output().unwrap();
    let drawn = assert_succeeded(&picture(&[]));
    for part in ["mood: F1 on dev", "a  frozen", "b  bq+lora:q@1", "bytes of the patch"] {
        assert!(drawn.contains(part), "{part} in {drawn}");
    }
    assert_succeeded(&picture(&["--data", "mood", "-o", "bytes.svg"]));
    // A mark for each row, its deviation and the sample beside its name.
    let svg = String::from_utf8(mood.read("bytes.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
    assert_refused(&picture(&["--data", "other"]), &["data set: expected one of mood, found other"]);

    // The same table of its results alone.
    let results = |more: &[&str]| mood.edge_patch(&[&["results", "results"], more].concat()).output().unwrap();
    assert_eq!(assert_succeeded(&results(&["-o", "again.md"])), said);
    assert_eq!(mood.read("again.md"), said.as_bytes());
    let turned = assert_succeeded(&results(&["--rows", "bq+lora:q@1,frozen", "--data", "mood"]));
    assert_eq!(turned.lines().nth(2), said.lines().nth(3));
    fs::copy(mood.path("results/mood-frozen.bias.json"), mood.path("results/other-frozen.bias.json")).unwrap();
    let row = assert_succeeded(&results(&[]));
    assert_eq!(cells(row.lines().nth(3).unwrap())[2], "-", "{row}");
    let absent: [(&[&str], &str); 2] = [
        (&["--rows", "all"], "row: expected one of frozen, bq+lora:q@1, found all"),
        (&["--data", "mod"], "data set: expected one of mood, other, found mod"),
    ];
    for (flags, due) in absent {
        assert_refused(&results(flags), &["results: ", due]);
    }
    fs::rename(mood.path("results/other-frozen.bias.json"), mood.path("results/other-all.bias.json")).unwrap();
    assert_refused(&results(&[]), &["other-all.bias.json: name: expected DATA-frozen.bias.json"]);
    fs::remove_file(mood.path("results/other-all.bias.json")).unwrap();
    let other = String::from_utf8(mood.read("results/mood-frozen.bias.json")).unwrap();
    mood.write("results/mood-frozen.bias.json", other.replace("\"F1\"", "\"accuracy\""));
    assert_refused(&results(&[]), &["results of mood: expected the same metric and sets, "]);
    // Scores of other texts, and what no training gives.
    let kept: Value = serde_json::from_str(&other).unwrap();
    let changes: [(&str, Value, &str); 4] = [
        (
            "/parts/dev set",
            json!("000000000000"),
            "results of mood: expected one dev set for all of them, found another",
        ),
        ("/runs", json!([]), "found no runs"),
        ("/runs/0/dev", json!(2.0), "found a score of 2"),
        ("/runs", json!([kept["runs"][0], kept["runs"][0]]), "found two runs of seed 1 and learning rate"),
    ];
    for (place, value, due) in changes {
        let mut changed = kept.clone();
        *changed.pointer_mut(place).unwrap() = value;
        mood.write("results/mood-frozen.bias.json", changed.to_string());
        assert_refused(&results(&[]), &[due]);
    }
    mood.write("results/mood-frozen.bias.json", other);
    assert_refused(&results(&["--rows", "frozen,frozen"]), &["names of rows: expected each once, found frozen twice"]);
    assert_refused(&results(&["-o", "results/mood-frozen.bias.json"]), &["output", "the name of a kept result"]);
    // A pipe is no result, and would be waited for.
    let pipe = std::process::Command::new("mkfifo").arg(mood.path("results/mood-bm2.bias.json")).status();
    assert!(pipe.unwrap().success());
    assert_eq!(assert_succeeded(&results(&["--rows", "bq+lora:q@1,frozen", "--data", "mood"])), turned);
    let zeros = ["train", "--encoder", "bundle", "--task", "/dev/zero", "--train", "train.tsv", "--dev", "dev.tsv"];
    let zeros = mood.edge_patch(&[&zeros[..], &["-o", "zeros.bias"]].concat()).output().unwrap();
    assert_refused(&zeros, &["/dev/zero", "expected at most 67108864 bytes, found more"]);
    fs::create_dir(mood.path("empty")).unwrap();
    assert_refused(&mood.edge_patch(&["results", "empty"]).output().unwrap(), &["empty: directory: expected results"]);

    // A result of another kind of processor counts, and is named; one of any other training does not.
    let other = |changes: &[(&str, &str)]| {
        let mut cell: Value = serde_json::from_slice(&mood.read("results/mood-frozen.bias.json")).unwrap();
        cell["fingerprint"] = "0".repeat(64).into();
        changes.iter().for_each(|(part, digest)| cell["parts"][*part] = (*digest).into());
        mood.write("results/mood-frozen.bias.json", cell.to_string());
        table(&recipe)
    };
    let kept = mood.read("results/mood-frozen.bias.json");
    assert_refused(&other(&[]), &["found another training\n"]);
    let elsewhere = other(&[("processor's kernels", "000000000000")]);
    assert_eq!(assert_succeeded(&elsewhere), said);
    let progress = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(progress.contains("mood-frozen.bias.json: kept, though another kind of processor made it"), "{progress}");
    let both = other(&[("processor's kernels", "000000000000"), ("dev set", "000000000000")]);
    assert_refused(&both, &["found a training that differs in its dev set, processor's kernels\n"]);
    mood.write("results/mood-frozen.bias.json", kept);
    let found = "remove the file to train again, found a training that differs in its recipe\n";
    assert_refused(&table(&["--epochs", "1"]), &["mood-frozen.bias.json", found]);
    mood.write("train.tsv", mood.read("dev.tsv"));
    assert_refused(&table(&recipe), &["found a training that differs in its training texts\n"]);
}

#[test]
fn tables_of_the_paper_are_of_its_encoders() {
    let mood = Mood::default();
    let fixed = ["reproduce", "bert-base", "--encoder", "bundle", "--data", ".", "--results", "results"];
    let small = mood.edge_patch(&[&fixed[..], &["-o", "table.md"]].concat()).output().unwrap();
    assert_refused(&small, &["encoder: expected bert, 12 layers of 768 values, found bert, 2 layers of "]);
    assert!(!mood.path("results").exists());
    let absent =
        ["reproduce", "other", "--encoder", "bundle", "--data", "absent", "--results", "results", "-o", "t.md"];
    assert_refused(&mood.edge_patch(&absent).output().unwrap(), &["absent: cannot read"]);
    let nowhere = mood.edge_patch(&fixed).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2), "neither a table nor a cell");

    // What is wrong is said before anything is trained.
    let table = |rows: &str, data: &str, output: &str| {
        let fixed = ["table", "--encoder", "bundle", "--results", "none", "--data", "mood=task.json,train.tsv,dev.tsv"];
        mood.edge_patch(&[&fixed[..], &["--rows", rows, "--data", data, "-o", output]].concat()).output().unwrap()
    };
    for (rows, data, output, said) in [
        ("bq", "b=task.json,train.tsv,absent.tsv", "t.md", "absent.tsv: cannot open"),
        ("bq", "b=task.json,train.tsv,dev.tsv,nothing", "t.md", "metric: expected one of accuracy"),
        ("bq", "mood=task.json,train.tsv,dev.tsv", "t.md", "names of data sets: expected each once, found mood twice"),
        ("bq,bq", "b=task.json,train.tsv,dev.tsv", "t.md", "names of rows: expected each once, found bq twice"),
        ("bq", "b=task.json,train.tsv,dev.tsv", "absent/t.md", "absent: cannot write to"),
    ] {
        assert_refused(&table(rows, data, output), &[said]);
        assert!(!mood.path("none").exists(), "{said}");
    }

    // A list may end at a rank.
    let rank = table("lora:q@1+beln", "b=task.json,train.tsv,absent.tsv", "t.md");
    assert_refused(&rank, &["absent.tsv: cannot open"]);
    let rate = table("full@1e-4@1e9", "b=task.json,train.tsv,dev.tsv", "t.md");
    assert!(String::from_utf8_lossy(&rate.stderr).contains("expected learning rates in (0, 1)"), "{rate:?}");

    // Another encoder has the rows of Table 3 and the data sets that there are.
    fs::create_dir_all(mood.path("glue/SST-2")).unwrap();
    for (from, to) in [("train.tsv", "train.tsv"), ("dev.tsv", "dev.tsv"), ("dev.tsv", "test.tsv")] {
        mood.write(&format!("glue/SST-2/{to}"), mood.read(from));
    }
    let fixed = ["reproduce", "other", "--encoder", "bundle", "--data", "glue", "--results", "results"];
    let few = ["--epochs", "1", "--seeds", "2", "-o", "table.md"];
    let said = assert_succeeded(&mood.edge_patch(&[&fixed[..], &few].concat()).output().unwrap());
    let rows: Vec<&str> = said.lines().map(|line| cells(line)[0]).collect();
    let names = ["frozen", "bq", "bm2", "bq+bm2", "all", "random", "rows", "full"];
    assert_eq!((rows[0], &rows[2..10]), ("trained", &names[..]));
    assert!(said.starts_with("| trained | sst2, accuracy, dev | sst2, accuracy, test |"), "{said}");
    let task: Value = serde_json::from_slice(&mood.read("results/tasks/sst2.json")).unwrap();
    assert_eq!((&task["labels"][0], &task["pooling"]), (&"negative".into(), &"mean".into()));
    let kept: Value = serde_json::from_slice(&mood.read("results/sst2-bq.bias.json")).unwrap();
    // Three rates with the first seed, and one with the second.
    assert_eq!(kept["runs"].as_array().unwrap().len(), 4);
}

#[test]
fn a_table_has_a_column_for_a_test_set() {
    let mood = Mood::default();
    let table = |data: &str, extra: &[&str]| {
        let fixed = ["table", "--encoder", "bundle", "--results", "results", "-o", "table.md", "--rows", "bq,full"];
        let recipe = ["--epochs", "2", "--lr", "3e-3,1e-3,1e-2"];
        mood.edge_patch(&[&fixed[..], &recipe, &["--data", data], extra].concat()).output().unwrap()
    };
    let chosen = ["--seeds", "2", "--rate-by-first-seed", "--data", "other=task.json,train.tsv,dev.tsv"];
    let said = assert_succeeded(&table("mood=task.json,train.tsv,dev.tsv,F1,test=dev.tsv", &chosen));
    let heads = ["trained", "mood, F1, dev", "mood, F1, test", "other, accuracy", "bytes, exact", "bytes, i4"];
    assert_eq!(cells(said.lines().next().unwrap()), heads);
    assert!(said.contains("best on dev with seed 1") && said.contains("test chose nothing"), "{said}");
    for (row, runs) in [("bq", 3 + 1), ("full", 2)] {
        let found = cells(said.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap());
        // The test set is the dev set; in brackets is the score on training texts.
        assert_eq!(found[1].split(" (").next(), Some(found[2]), "{said}");
        let kept: Value = serde_json::from_slice(&mood.read(&format!("results/mood-{row}.bias.json"))).unwrap();
        let kept = kept["runs"].as_array().unwrap();
        assert_eq!(kept.len(), runs, "{kept:?}");
        for run in kept {
            assert!(run["dev"].is_f64() && run["dev"] == run["test"] && run["epoch"].is_u64(), "{run}");
        }
        let other: Value = serde_json::from_slice(&mood.read(&format!("results/other-{row}.bias.json"))).unwrap();
        assert!(other["runs"][0]["dev"].is_f64() && other["runs"][0]["test"].is_null(), "{other}");
    }
    // The test set of the one and the dev set of the other are one file.
    assert!(said.contains("| trained, points above full | mood | other | mean |"), "{said}");
    let distance = cells(said.lines().rfind(|line| line.starts_with("| bq |")).unwrap());
    let percent = |cell: &str| cell.split(" ±").next().unwrap().parse::<f64>().unwrap();
    let scores = |row: &str| cells(said.lines().find(|line| line.starts_with(&format!("| {row} |"))).unwrap());
    let due = percent(scores("bq")[2]) - percent(scores("full")[2]);
    assert!((percent(distance[1]) - due).abs() < 0.15, "{said}");
    assert!(distance[1..].iter().all(|cell| cell.starts_with(['+', '-']) && cell.contains(" ± ")), "{said}");
    // The rate of the last run is the one that was best with the first seed.
    let kept: Value = serde_json::from_slice(&mood.read("results/mood-bq.bias.json")).unwrap();
    let dev = |at: usize| kept["runs"][at]["dev"].as_f64().unwrap();
    let best = (1..3).fold(0, |best, at| if dev(at) > dev(best) { at } else { best });
    assert_eq!(kept["runs"][3]["learning_rate"], kept["runs"][best]["learning_rate"]);
    assert_eq!(kept["runs"][3]["seed"], 2);
    for data in ["mood=task.json,test=dev.tsv", "mood=task.json,train.tsv,dev.tsv,test=dev.tsv,F1"] {
        let refused = table(data, &[]);
        assert!(refused.status.code() == Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    }
}

#[test]
fn the_page_of_the_paper_is_that_of_its_results() {
    let library = fixtures().ancestors().nth(2).unwrap().join("patches/library");
    let home = tempfile::TempDir::new().unwrap();
    let edge_patch = |arguments: &[&str]| {
        let mut command = command("edge-patch", home.path());
        assert_succeeded(&command.current_dir(&library).args(arguments).output().unwrap())
    };
    let page = fs::read_to_string(library.join("PAPER.md")).unwrap();
    let made = |mark: &str| {
        let begin = format!("<!-- made by paper.py: {mark} -->");
        page.split_once(&begin).unwrap().1.split_once("<!-- end -->").unwrap().0.trim()
    };
    // A data set without full fine-tuning has nothing to be compared with.
    let files: Vec<String> = fs::read_dir(library.join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let names: BTreeSet<&str> = files.iter().filter_map(|file| file.split('-').next()).collect();
    let is_whole = |name: &&&str| files.iter().any(|file| file.starts_with(&format!("{name}-full@")));
    let list = |whole: bool| {
        let some = names.iter().filter(|name| is_whole(name) == whole);
        some.copied().collect::<Vec<_>>().join(",")
    };
    let whole = edge_patch(&["results", "results", "--data", &list(true)]);
    assert_eq!(made("results"), whole.trim());
    if list(false).is_empty() {
        assert_eq!(made("begun"), "None.");
    } else {
        let begun = edge_patch(&["results", "results", "--data", &list(false)]);
        let begun = begun.split("\n\n").next().unwrap().lines().filter(|row| !row.contains("| - | - |"));
        assert_eq!(made("begun"), begun.collect::<Vec<_>>().join("\n"));
    }
    let picture = home.path().join("bytes.svg");
    edge_patch(&["plot", "results", "results", "--data", &list(true), "-o", picture.to_str().unwrap()]);
    assert_eq!(fs::read(&picture).unwrap(), fs::read(library.join("pictures/bytes.svg")).unwrap());
}
