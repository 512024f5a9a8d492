//! `edge-run` as a person or a program uses it: formats, kinds of task, refusals.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Output, Stdio},
};

use bias_patch::{Bundle, Head, Linear};
use edge_run::{Answer, Encoder, EngineKind, EngineOptions, Patch, Request, Text};
use serde_json::Value;
use system_tests::{
    assert_refused, assert_succeeded, command, int8, patch, small_bundle, small_bundle_with, task, with_input,
    write_patches,
};
use tempfile::TempDir;

struct Place {
    home: TempDir,
    bundle: Bundle,
}

impl Place {
    fn new(encoder: &str) -> Place {
        let (home, bundle) = small_bundle(encoder);
        write_patches(&bundle, home.path());
        Place { home, bundle }
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = command("edge-run", self.home.path());
        with_input(command.current_dir(self.home.path()).args(["--bundle", "bundle"]).args(arguments), input)
    }

    fn rows(&self, arguments: &[&str], input: &[u8]) -> Vec<Value> {
        let output = self.run(&[arguments, &["--output", "jsonl"]].concat(), input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn all_kinds_of_task_run_on_every_family() {
    for family in ["bert", "roberta", "distilbert", "electra"] {
        let place = Place::new(family);
        let label = place.rows(&["-p", "label.bias", "--logits", "-k", "3"], b"the film was good\n");
        assert_eq!(label[0]["line"], 1);
        assert_eq!(label[0]["task"], "label");
        let top: Vec<f64> = label[0]["top"].as_array().unwrap().iter().map(|t| t["score"].as_f64().unwrap()).collect();
        assert!((top.iter().sum::<f64>() - 1.0).abs() < 1e-5 && top.is_sorted_by(|a, b| a >= b), "{top:?}");
        assert_eq!(label[0]["logits"].as_array().unwrap().len(), 3);

        let number = place.rows(&["-p", "number.bias", "-p", "label.bias"], b"the film was good\n");
        assert!(number[0]["value"].is_number() && number[0]["label"].is_null());
        assert_eq!(number[1]["label"], label[0]["label"]);

        let tags = place.rows(&["-p", "tags.bias"], b"  why, very unhappy!\n");
        let words: Vec<(&str, u64)> = tags[0]["tags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| (t["word"].as_str().unwrap(), t["start"].as_u64().unwrap()))
            .collect();
        assert_eq!(words, [("why,", 2), ("very", 7), ("unhappy!", 12)]);
        assert!(tags[0]["tags"][2]["label"].is_string());

        let context = "one two three. ".repeat(30);
        let spans = place.rows(&["-p", "span.bias", "-k", "4"], format!("why\t{context}\n").as_bytes());
        let best = (&spans[0]["label"], &spans[0]["score"]);
        let spans = spans[0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 4);
        assert_eq!(best, (&spans[0]["text"], &spans[0]["score"]));
        for span in spans {
            let (start, end) = (span["start"].as_u64().unwrap() as usize, span["end"].as_u64().unwrap() as usize);
            assert_eq!(span["text"].as_str().unwrap(), &context[start..end]);
        }
    }
}

#[test]
fn spans_beyond_the_first_window_are_found() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let span = encoder.attach(&patch(&bundle, task("span", "span", 2), "span")).unwrap();
    // With windows of 40 tokens, characters past 200 are in later windows only.
    let context = "é one two ".repeat(40);
    let options = edge_run::Options { top: 1000, ..edge_run::Options::default() };
    let text = Text::pair("why", &context);
    let prediction = encoder.predict_with(&[Request { task: &span, text: &text }], options).remove(0).unwrap();
    let Answer::Spans(spans) = prediction.answer else { panic!("not spans") };
    assert!(spans.iter().any(|s| s.start > 200), "no span of a later window");
    let characters: Vec<char> = context.chars().collect();
    for span in &spans {
        assert_eq!(span.text, characters[span.start..span.end].iter().collect::<String>());
    }
    assert!(prediction.timing.tokens > 160, "more tokens ran than the text has, for windows overlap");
}

#[test]
fn answers_are_as_long_as_their_task_allows() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let json = r#"{"name":"s","kind":"span","inputs":2,"max_length":40,"max_answer_length":1}"#;
    let saved = patch(&bundle, serde_json::from_str(json).unwrap(), "span").to_bytes().unwrap();
    let span = encoder.attach(&Patch::from_bytes(&saved).unwrap()).unwrap();
    let options = edge_run::Options { top: 1000, ..edge_run::Options::default() };
    let text = Text::pair("why", "one two three. ".repeat(30));
    let prediction = encoder.predict_with(&[Request { task: &span, text: &text }], options).remove(0).unwrap();
    let Answer::Spans(spans) = prediction.answer else { panic!("not spans") };
    assert!(!spans.is_empty() && spans.iter().all(|span| !span.text.contains(' ')), "{spans:?}");
}

#[test]
fn a_batch_may_mix_tasks_and_switching_changes_nothing() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let tasks: Vec<_> = ["a", "b", "c"]
        .map(|seed| encoder.attach(&patch(&bundle, task(seed, "classification", 1), seed)).unwrap())
        .into_iter()
        .collect();
    let text = Text::one("the film was good, very happy");
    let logits = |requests: &[Request<'_>]| -> Vec<Vec<f32>> {
        encoder.predict(requests).into_iter().map(|p| p.unwrap().logits).collect()
    };
    let alone: Vec<Vec<f32>> = tasks.iter().flat_map(|task| logits(&[Request { task, text: &text }])).collect();
    assert_ne!(alone[0], alone[1]);
    let mixed: Vec<Request<'_>> = [0, 2, 1, 0, 1, 2].map(|at| Request { task: &tasks[at], text: &text }).to_vec();
    let mixed = logits(&mixed);
    for (found, at) in mixed.iter().zip([0, 2, 1, 0, 1, 2]) {
        assert_eq!(*found, alone[at], "bit for bit");
    }

    let (_other_home, other) = small_bundle("bert-relu");
    let other = Encoder::load(other, EngineOptions::default()).unwrap();
    let error = other.predict(&[Request { task: &tasks[0], text: &text }]).remove(0).unwrap_err().to_string();
    assert!(error.contains("attached to encoder"), "{error}");
}

/// Asserts that so many answers were refused, which is no failure.
fn assert_unanswered(output: &Output, refused: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "exit code; it said: {said}");
    assert!(said.contains(&format!("refused, marked in their place: {refused}")), "{said}");
}

#[test]
fn lines_without_an_answer_are_marked_in_their_place() {
    let place = Place::new("bert");
    let input = b"good\n\nbad\tgood\n\xff\xfe\n   \nbad\n";
    let output = place.run(&["-p", "label.bias", "-o", "jsonl"], input);
    assert_unanswered(&output, "4 of 6");
    let rows: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let errors: Vec<&str> = rows.iter().map(|r| r["error"].as_str().unwrap_or("-")).collect();
    let pair = "expected one text, found a pair of texts";
    assert_eq!(errors, ["-", "empty text", pair, "invalid UTF-8 after 0 bytes", "empty text", "-"]);
    assert_eq!(rows.iter().map(|r| r["line"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);

    let one = place.run(&["-p", "pair.bias"], b"good\n");
    assert_unanswered(&one, "1 of 1");
    assert!(String::from_utf8(one.stdout).unwrap().contains("expected a pair of texts, found one text"));
    assert_refused(&place.run(&["-p", "label.bias"], b""), &["standard input", "at least one line", "an empty input"]);
}

#[test]
fn long_texts_are_cut_and_that_is_said_once() {
    let place = Place::new("bert");
    let long = "good ".repeat(200);
    let output = place.run(&["-p", "label.bias", "-o", "jsonl"], format!("good\n{long}\n{long}\n").as_bytes());
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("texts cut to the token limit: 2, the first on line 2"), "{said}");
    let rows = assert_succeeded(&output);
    assert_eq!(rows.lines().filter(|l| l.contains("\"truncated\":true")).count(), 2);
    let none = place.run(&["-p", "pair.bias", "--max-length", "4"], b"good\tbad\n");
    assert!(String::from_utf8(none.stdout).unwrap().contains("leaves no room"));
    let shorter = place.run(&["-p", "label.bias", "--max-length", "5"], b"the film was good\n");
    assert!(String::from_utf8(shorter.stderr).unwrap().contains("cut to the token limit"));
}

#[test]
fn formats_agree_with_each_other() {
    let place = Place::new("bert");
    let label = |rows: &[Value]| rows.iter().map(|r| r["label"].clone()).collect::<Vec<_>>();
    let lines = place.rows(&["-p", "pair.bias"], b"good\tbad\nwhy\tone two\n");
    let tsv =
        place.rows(&["-p", "pair.bias", "-i", "tsv"], b"id\tsentence1\tsentence2\n1\tgood\tbad\n2\twhy\tone two\n");
    let json = place.rows(
        &["-p", "pair.bias", "-i", "jsonl"],
        b"{\"sentence1\":\"good\",\"sentence2\":\"bad\"}\n{\"question\":\"why\",\"context\":\"one two\"}\n",
    );
    assert_eq!(label(&lines), label(&tsv));
    assert_eq!(label(&lines), label(&json));
    assert_eq!(tsv[0]["line"], 2, "the header is a line");
    let write = |name: &str, text: &str| fs::write(place.home.path().join(name), text).unwrap();
    write("pairs.tsv", "sentence1\tsentence2\ngood\tbad\nwhy\tone two\n");
    write("pairs.jsonl", "{\"text\":\"good\",\"text_pair\":\"bad\"}\n{\"text\":\"why\",\"text_pair\":\"one two\"}\n");
    write("pairs.csv", "sentence1,sentence2\ngood,bad\n");
    for file in ["pairs.tsv", "pairs.jsonl"] {
        assert_eq!(label(&place.rows(&["-p", "pair.bias", file], b"")), label(&lines), "{file}");
    }
    // What is said goes before the ending.
    assert_eq!(place.rows(&["-p", "pair.bias", "-i", "lines", "pairs.tsv"], b"").len(), 3);
    let refused = place.run(&["-p", "pair.bias", "pairs.csv"], b"");
    assert_refused(&refused, &["pairs.csv: expected lines, .tsv or .jsonl, found .csv", "> pairs.jsonl"]);

    let table = assert_succeeded(&place.run(&["-p", "pair.bias", "-p", "span.bias"], b"good\tbad\n"));
    assert!(table.lines().next().unwrap().contains("task") && table.contains("span"), "{table}");
    let rows = assert_succeeded(&place.run(&["-p", "pair.bias", "-o", "tsv", "--logits"], b"good\tbad\n"));
    let cells: Vec<Vec<&str>> = rows.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(cells[0], ["line", "task", "label", "score", "logits", "error"]);
    assert_eq!(cells[1].len(), 6);
    assert_refused(
        &place.run(&["-p", "label.bias", "-i", "tsv"], b"id\tname\n1\tx\n"),
        &["line 1", "a header with one of the columns"],
    );
}

#[test]
fn patches_of_one_name_are_told_apart_by_their_files() {
    let place = Place::new("bert");
    fs::copy(place.home.path().join("label.bias"), place.home.path().join("second.bias")).unwrap();
    let rows = place.rows(&["-p", "label.bias", "-p", "second.bias", "-p", "number.bias"], b"good\n");
    let names: Vec<&str> = rows.iter().map(|r| r["task"].as_str().unwrap()).collect();
    assert_eq!(names, ["label.bias", "second.bias", "number"]);
}

#[test]
fn unbuffered_answers_come_before_the_next_line_goes_in() {
    let place = Place::new("bert");
    let mut child = command("edge-run", place.home.path())
        .current_dir(place.home.path())
        .args(["--bundle", "bundle", "-p", "label.bias", "-o", "jsonl", "--unbuffered"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for line in 1..=3 {
        writeln!(stdin, "good").unwrap();
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["line"], line);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new("bert");
    fs::write(place.home.path().join("many.txt"), "good\n".repeat(20_000)).unwrap();
    let mut child = command("edge-run", place.home.path())
        .current_dir(place.home.path())
        .args(["--bundle", "bundle", "-p", "label.bias", "many.txt"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_store_is_searched_by_the_patchs_digest() {
    let place = Place::new("bert");
    let run = || {
        let mut run = command("edge-run", place.home.path());
        with_input(run.current_dir(place.home.path()).args(["-p", "label.bias"]), b"good\n")
    };
    let digest = place.bundle.manifest().encoder.to_string();
    assert_refused(&run(), &["no bundle of encoder", &digest, "edge-export CHECKPOINT", "--bundle"]);
    assert_succeeded(
        &command("edge-export", place.home.path()).arg(place.home.path().join("checkpoint")).output().unwrap(),
    );
    assert!(assert_succeeded(&run()).contains("good"));
}

#[test]
fn a_bundle_is_named_as_edge_patch_names_it_too() {
    let place = Place::new("bert");
    let rows = |name: &str| {
        let mut run = command("edge-run", place.home.path());
        let run = run.current_dir(place.home.path()).args([name, "bundle", "-p", "label.bias", "--logits"]);
        assert_succeeded(&with_input(run, b"good\n"))
    };
    assert_eq!(rows("--encoder"), rows("--bundle"));
}

#[test]
fn patches_and_bundles_that_do_not_fit_are_refused() {
    let place = Place::new("bert");
    let (_other, relu) = small_bundle("bert-relu");
    patch(&relu, task("other", "classification", 1), "x").save(&place.home.path().join("other.bias")).unwrap();
    let good = fs::read(place.home.path().join("label.bias")).unwrap();
    let write = |bytes: &[u8]| fs::write(place.home.path().join("bad.bias"), bytes).unwrap();
    let run = |name: &str| place.run(&["-p", name], b"good\n");

    assert_refused(&run("other.bias"), &["other.bias", "fits encoder", "but this bundle holds"]);
    assert_refused(&run("none.bias"), &["none.bias", "cannot read"]);
    write(&good[..good.len() - 9]);
    assert_refused(&run("bad.bias"), &["bad.bias", "checksum mismatch"]);
    write(&good[..10]);
    assert_refused(&run("bad.bias"), &["bad.bias", "preamble: expected 16 bytes, found 10", "copy it again"]);
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 4;
    write(&altered);
    assert_refused(&run("bad.bias"), &["bad.bias", "checksum mismatch"]);
    altered = good.clone();
    altered[8] = 9;
    write(&altered);
    assert_refused(&run("bad.bias"), &["bad.bias", "version 9 of the patch format", "reads version 1"]);
    write(b"PK\x03\x04 something else entirely");
    assert_refused(&run("bad.bias"), &["bad.bias", "not a bias patch"]);

    // The weights altered, and nothing made of them yet.
    let weights = place.home.path().join("bundle/weights.bin");
    let bytes = fs::read(&weights).unwrap();
    let mut altered = bytes.clone();
    altered[40] ^= 1;
    fs::write(&weights, &altered).unwrap();
    fs::remove_file(place.home.path().join("bundle/panels-f32x16.bin")).unwrap();
    assert_refused(&run("label.bias"), &["weights.bin", "tensor embeddings.word_embeddings.weight", "digest"]);
    fs::write(&weights, &bytes).unwrap();
    assert_succeeded(&run("label.bias"));
    // The panels that were made of them are enough.
    fs::remove_file(&weights).unwrap();
    assert_succeeded(&run("label.bias"));
    fs::remove_file(place.home.path().join("bundle/panels-f32x16.bin")).unwrap();
    assert_refused(&run("label.bias"), &["weights.bin"]);
}

#[test]
fn the_reference_engine_reads_intact_weights_and_is_timed() {
    let place = Place::new("bert");
    let mut bench = command("edge-run", place.home.path());
    bench.current_dir(place.home.path()).args([
        "bench",
        "bundle",
        "--seconds",
        "0.001",
        "-l",
        "5",
        "--engine",
        "reference",
    ]);
    assert_succeeded(&bench.output().unwrap());
    let weights = place.home.path().join("bundle/weights.bin");
    let mut bytes = fs::read(&weights).unwrap();
    bytes[40] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let refused = place.run(&["-p", "label.bias", "--engine", "reference"], b"good\n");
    assert_refused(&refused, &["weights.bin", "checksum mismatch"]);
}

/// The two engines sum in different orders; logits here are below 10.
const ENGINE_BOUND: f64 = 1e-4;

fn logits(rows: &[Value]) -> Vec<f64> {
    rows.iter().flat_map(|r| r["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap())).collect()
}

#[test]
fn the_reference_engine_and_every_kernel_agree() {
    for family in ["bert", "roberta", "distilbert", "electra"] {
        let place = Place::new(family);
        // One token of text up to the limit, so that tiles and panels of every remainder occur.
        let input: String = (1..=45)
            .map(|n| {
                format!(
                    "{}\n",
                    ["good", "very", "bad", "why"].map(|w| w.to_owned() + " ").concat().repeat(12)[..n * 4].to_owned()
                )
            })
            .collect();
        let arguments = ["-p", "label.bias", "-p", "number.bias", "--logits", "--batch", "64"];
        let run = |extra: &[&str], isa: Option<&str>| {
            let mut run = command("edge-run", place.home.path());
            if let Some(isa) = isa {
                run.env("EDGE_RUN_ISA", isa);
            }
            let run = run
                .current_dir(place.home.path())
                .args(["--bundle", "bundle", "-o", "jsonl"])
                .args(arguments)
                .args(extra);
            let rows = assert_succeeded(&with_input(run, input.as_bytes()));
            logits(&rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<_>>())
        };
        let reference = run(&["--engine", "reference"], None);
        assert_eq!(reference.len(), 45 * 4);
        for (what, found) in [
            ("lowered", run(&[], None)),
            ("one at a time", run(&["--unbuffered"], None)),
            ("naive", run(&[], Some("naive"))),
            ("threads", run(&["--threads", "3"], None)),
        ] {
            let worst = reference.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            println!("{family}, {what}: largest difference {worst:e}");
            assert!(worst < ENGINE_BOUND, "{family}, {what}: {worst:e}");
        }
    }
    let place = Place::new("bert");
    let mut run = command("edge-run", place.home.path());
    let run =
        run.current_dir(place.home.path()).env("EDGE_RUN_ISA", "mmx").args(["--bundle", "bundle", "-p", "label.bias"]);
    assert_refused(&with_input(run, b"good\n"), &["EDGE_RUN_ISA", "naive", "mmx"]);
}

#[test]
fn pooling_reads_what_it_says() {
    let (_home, bundle) = small_bundle("bert");
    let base = bundle.base().unwrap();
    let weight: Vec<f32> = (0..64).map(|n| (n % 7) as f32 - 3.0).collect();
    let text = Text::one("the film was good, very happy");
    for engine in [EngineKind::Lowered, EngineKind::Reference] {
        let engine = EngineOptions { engine, ..EngineOptions::default() };
        let encoder = Encoder::load(bundle.clone(), engine).unwrap();
        let (tokens, pooled) = encoder.hidden(&text).unwrap();
        for pooling in ["cls", "mean", "pooler"] {
            let json = format!(
                r#"{{"name":"t","kind":"classification","labels":["a","b"],"pooling":"{pooling}","max_length":40}}"#
            );
            let head = Head { dense: None, output: Linear::exact(&weight, &[0.5, -0.5]).unwrap() };
            let patch =
                Patch::new(bundle.manifest().encoder, serde_json::from_str(&json).unwrap(), vec![], head, []).unwrap();
            assert_eq!(patch.apply(bundle.manifest(), &base).unwrap(), base.slots());
            let task = encoder.attach(&patch).unwrap();
            let found = encoder.predict(&[Request { task: &task, text: &text }]).remove(0).unwrap().logits;
            let vector: Vec<f32> = match pooling {
                "cls" => tokens.row(0).to_vec(),
                "pooler" => pooled.as_ref().unwrap().to_vec(),
                _ => tokens.columns().into_iter().map(|c| c.sum() / c.len() as f32).collect(),
            };
            for (row, (found, bias)) in found.iter().zip([0.5, -0.5]).enumerate() {
                let due: f32 = vector.iter().zip(&weight[row * 32..]).map(|(x, w)| x * w).sum::<f32>() + bias;
                assert!((found - due).abs() < 1e-4, "{pooling}: {found}, expected {due}");
            }
        }
    }
}

#[test]
fn a_prepared_encoder_has_its_panels_before_the_first_text() {
    let place = Place::new("bert");
    let panels = place.home.path().join("bundle/panels-f32x16.bin");
    let prepare = || command("edge-run", place.home.path()).arg("prepare").arg(place.bundle.dir()).output().unwrap();
    assert!(!panels.exists());
    for how in ["made", "found"] {
        let said = assert_succeeded(&prepare());
        let bytes = fs::metadata(&panels).unwrap().len();
        assert_eq!(said, format!("{}: {bytes} bytes, {how}\n", panels.display()));
    }
    fs::remove_file(&panels).unwrap();
    fs::write(place.home.path().join("bundle/weights.bin"), b"short").unwrap();
    assert_refused(&prepare(), &["weights.bin", "expected", "bytes, found 5"]);
}

#[test]
fn panels_are_made_once_and_again_when_they_are_damaged() {
    let place = Place::new("bert");
    let panels = place.home.path().join("bundle/panels-f32x16.bin");
    let run = || assert_succeeded(&place.run(&["-p", "label.bias", "--logits"], b"good\n"));
    let first = run();
    let bytes = fs::read(&panels).unwrap();
    let made = fs::metadata(&panels).unwrap().modified().unwrap();
    assert_eq!(run(), first);
    assert_eq!(fs::metadata(&panels).unwrap().modified().unwrap(), made, "made again for nothing");
    let mut altered = bytes.clone();
    altered[bytes.len() - 100] ^= 1;
    let mut other_version = bytes.clone();
    other_version[8] = 9;
    fs::write(&panels, &altered).unwrap();
    let verified = command("edge-export", place.home.path()).arg("verify").arg(place.bundle.dir()).output().unwrap();
    assert_refused(&verified, &["panels-f32x16.bin", "checksum mismatch"]);
    for damaged in [&altered, &other_version, &bytes[..bytes.len() - 4].to_vec(), &b"short".to_vec()] {
        fs::write(&panels, damaged).unwrap();
        assert_eq!(run(), first);
        assert_eq!(fs::read(&panels).unwrap(), bytes, "panels were not made again");
    }
    // Several processes at once, none of which finds them.
    fs::remove_file(&panels).unwrap();
    fs::write(place.home.path().join("one.txt"), "good\n").unwrap();
    let children: Vec<_> = (0..6)
        .map(|_| {
            let mut run = command("edge-run", place.home.path());
            let run = run.current_dir(place.home.path()).args([
                "--bundle",
                "bundle",
                "-p",
                "label.bias",
                "--logits",
                "one.txt",
            ]);
            run.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        assert_eq!(assert_succeeded(&child.wait_with_output().unwrap()), first);
    }
    assert_eq!(fs::read(&panels).unwrap(), bytes);
    let left = fs::read_dir(place.bundle.dir()).unwrap().count();
    assert_eq!(left, place.bundle.manifest().files.len() + 2, "something is left beside the panels");
}

#[test]
fn panels_of_other_kernels_say_which_and_what_to_do() {
    let place = Place::new("bert");
    let (_other, int8) = small_bundle_with("bert", int8());
    let bundle = place.home.path().join("bundle");
    let panels = bundle.join("panels-f32x16.bin");
    let run = || place.run(&["-p", "label.bias"], b"good\n");
    let answer = assert_succeeded(&run());
    let (good, weights) = (fs::read(&panels).unwrap(), fs::read(bundle.join("weights.bin")).unwrap());
    fs::remove_file(bundle.join("weights.bin")).unwrap();
    assert_eq!(assert_succeeded(&run()), answer);

    // The layout's name follows the preamble of 16 bytes and its own length.
    let mut wider = good.clone();
    assert_eq!(&wider[17..23], b"f32x16");
    wider[17..23].copy_from_slice(b"f32x32");
    let mut later = good.clone();
    later[8] = 2;
    let mut another = good.clone();
    another[23] ^= 1;
    assert_succeeded(&command("edge-run", place.home.path()).arg("prepare").arg(int8.dir()).output().unwrap());
    let codes = fs::read(int8.dir().join("panels-i8x16x4.bin")).unwrap();
    let helps = [
        "expected weights.bin, or the panels of this program's kernels, panels-f32x16.bin",
        "edge-run prepare bundle",
        "edge-export CHECKPOINT --panels only --weights f32",
        "targets/build BOARD",
    ];
    for (what, bytes, said) in [
        ("width", &wider, "layout: expected f32x16, as this program's kernels read, found \"f32x32\", for others"),
        ("version", &later, "version 2 of the panels format, but this program reads version 1"),
        ("encoder", &another, "encoder: expected"),
        ("weights", &codes, "found \"i8x16x4\", for others"),
    ] {
        fs::write(&panels, bytes).unwrap();
        println!("{what}");
        assert_refused(&run(), &[&helps[..], &["panels-f32x16.bin: ", said]].concat());
        assert_eq!(&fs::read(&panels).unwrap(), bytes, "{what}: they are left as they are");
    }
    // Of another name, as another board has them; then none at all.
    fs::rename(&panels, bundle.join("panels-f32x32.bin")).unwrap();
    assert_refused(&run(), &[&helps[..], &["found panels-f32x32.bin"]].concat());
    fs::remove_file(bundle.join("panels-f32x32.bin")).unwrap();
    assert_refused(&run(), &[&helps[..], &["found neither"]].concat());
    // What the message says helps.
    fs::write(bundle.join("weights.bin"), &weights).unwrap();
    assert_succeeded(&command("edge-run", place.home.path()).arg("prepare").arg(&bundle).output().unwrap());
    assert_eq!(assert_succeeded(&run()), answer);
    assert_eq!(fs::read(&panels).unwrap(), good);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_of_the_panels() {
    let place = Place::new("bert");
    let bundle = place.home.path().join("bundle");
    let list = || {
        let names = fs::read_dir(&bundle).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = list();
    assert!(!before.contains(std::ffi::OsStr::new("panels-f32x16.bin")));
    // Four kilobytes a file: more than a note that a file was checked takes, and less than the panels.
    const LIMIT: &str = "f 8";
    for arguments in [&["prepare", "bundle"][..], &["--bundle", "bundle", "-p", "label.bias"]] {
        let refused = limited(&place, LIMIT, arguments, b"good\n");
        assert_refused(&refused, &["bundle/panels-f32x16.bin: cannot write", "large"]);
        assert_eq!(list(), before, "{arguments:?}");
        assert!(!place.home.path().join("cache/edge-run/panels").exists(), "{arguments:?}");
    }
    assert_succeeded(&place.run(&["-p", "label.bias"], b"good\n"));
    assert_eq!(list().len(), before.len() + 1);
}

#[test]
fn long_pairs_are_cut_without_keeping_what_was_cut() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let pair = encoder.attach(&patch(&bundle, task("pair", "classification", 2), "pair")).unwrap();
    // Every pair of the pieces cut off would be ten million tokens, and minutes.
    let text = Text::pair("good ".repeat(40_000), "bad ".repeat(40_000));
    let begun = std::time::Instant::now();
    let found = encoder.predict(&[Request { task: &pair, text: &text }]).remove(0).unwrap();
    assert!(found.truncated);
    assert_eq!(found.timing.tokens, 40);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// Runs a command with so many kilobytes of addresses at most (`v`), or files of so many blocks at most (`f`).
#[cfg(target_os = "linux")]
fn limited(place: &Place, limit: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut run = command("edge-run", place.home.path());
    run.current_dir(place.home.path()).args(arguments);
    // A file above the limit is an error like any other where the signal is ignored.
    with_input(&mut system_tests::in_shell(&run, &format!("trap '' XFSZ; ulimit -{limit}")), input)
}

#[cfg(target_os = "linux")]
#[test]
fn a_text_that_memory_does_not_hold_is_refused() {
    let place = Place::new("bert");
    let arguments = ["--bundle", "bundle", "-p", "label.bias", "texts.txt"];
    let write = |text: &str| fs::write(place.home.path().join("texts.txt"), text).unwrap();
    // A gigabyte of addresses: enough for the program, and less than the tokens of the long text may take.
    const LIMIT: &str = "v 1048576";
    write("good\n");
    let short = limited(&place, LIMIT, &arguments, b"");
    assert_succeeded(&short);
    write(&format!("good\n{}\n", "good ".repeat(2 << 20)));
    let refused = limited(&place, LIMIT, &arguments, b"");
    assert_refused(&refused, &["texts.txt, line 2: tokens of a text of 10485760 bytes", "bytes of memory", "in parts"]);
    assert_eq!(refused.stdout, short.stdout, "what comes before is answered");
}

#[test]
fn a_benchmark_reports_every_figure() {
    let place = Place::new("bert");
    let bench = |extra: &[&str]| {
        let mut bench = command("edge-run", place.home.path());
        let bench = bench.current_dir(place.home.path()).args(["bench", "bundle", "--seconds", "0.001", "-l", "5,9"]);
        assert_succeeded(&bench.args(extra).output().unwrap())
    };
    let report: Value = serde_json::from_str(&bench(&["--json", "--batch", "3"])).unwrap();
    assert_eq!(report["lengths"].as_array().unwrap().len(), 2);
    let first = &report["lengths"][0];
    assert_eq!((first["tokens"].as_u64(), first["batch"].as_u64()), (Some(5), Some(3)));
    assert!(first["min_ms"].as_f64() <= first["median_ms"].as_f64());
    assert!(first["median_ms"].as_f64() <= first["p95_ms"].as_f64());
    for figure in ["/peak_gflops", "/switch_us", "/mixed/ratio", "/batch/tokens_per_second", "/lengths/1/gflops"] {
        assert!(report.pointer(figure).and_then(Value::as_f64).is_some_and(|f| f > 0.0), "{figure} in {report}");
    }
    if cfg!(target_os = "linux") {
        assert_eq!(report.pointer("/mapped/private_dirty_bytes"), Some(&Value::from(0)), "{report}");
    }
    // Weights in f32 meet f32, whatever is asked for.
    assert!(report["arithmetic"].as_str().unwrap().ends_with(" F32"), "{report}");
    let mut longer = command("edge-run", place.home.path());
    let longer = longer.current_dir(place.home.path()).args(["bench", "bundle", "-l", "4000"]).output().unwrap();
    assert_refused(&longer, &["--lengths", "1 to 48 tokens", "4000"]);
    let said = bench(&["--threads", "2"]);
    for part in ["encoder ", "GFLOP/s", "switch ", "mixed ", "batch ", "threads: 2"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let place = Place::new("bert");
    for arguments in [&["--nonsense"][..], &[], &["-p", "label.bias", "-k", "0"], &["-p", "label.bias", "-o", "xml"]] {
        let output = place.run(arguments, b"good\n");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_refused(&place.run(&["-p", "label.bias", "nowhere.txt"], b""), &["nowhere.txt", "cannot read"]);
    assert_refused(&place.run(&["-p", "label.bias", "bundle"], b""), &["bundle", "cannot read"]);
    if Path::new("/dev/full").exists() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut run = command("edge-run", place.home.path());
        fs::write(place.home.path().join("one.txt"), "good\n").unwrap();
        let run = run.current_dir(place.home.path()).args(["--bundle", "bundle", "-p", "label.bias", "one.txt"]);
        let output = run.stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_refused(&output, &["standard output", "cannot write"]);
    }
}

#[test]
fn a_patch_is_no_text_and_needs_an_option_of_its_own() {
    let place = Place::new("bert");
    let patch = fs::read(place.home.path().join("number.bias")).unwrap();
    let said = "expected a text, found a patch; give each patch its own -p";
    for (arguments, input, name) in [
        (&["-p", "label.bias", "number.bias"][..], &b""[..], "number.bias"),
        (&["-p", "label.bias"][..], &patch[..], "standard input"),
    ] {
        let refused = place.run(arguments, input);
        assert_refused(&refused, &[&format!("edge-run: {name}: {said}")]);
        assert!(refused.stdout.is_empty());
    }
    for (arguments, due) in [
        (&["-p", "a.bias", "b.bias", "input.txt"][..], "edge-run -p a.bias -p b.bias input.txt\n"),
        (&["-p", "a.bias", "b.bias", "c.bias", "d e.tsv"], "edge-run -p a.bias -p b.bias -p c.bias d e.tsv\n"),
        (&["b.bias", "c.bias", "-p", "a.bias"], "edge-run -p a.bias -p b.bias -p c.bias\n"),
        (&["-p", "a.bias", "one.txt", "two.txt"], "expected one file of texts, found 2\n"),
    ] {
        let output = place.run(arguments, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(due) && said.contains("Usage: edge-run"), "{said}");
    }
    // A text may begin as a patch does, for a while.
    let output = place.run(&["-p", "label.bias", "-o", "jsonl"], b"BIAS");
    assert_eq!(assert_succeeded(&output).lines().count(), 1);
}

#[test]
fn timing_reports_load_switch_and_memory() {
    let place = Place::new("bert");
    let output = place.run(&["-p", "label.bias", "-p", "number.bias", "--timing"], b"good\nbad\n");
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["load encoder, once", "attach   2 tasks", "switch task", "run encoder", "anonymous memory"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn patches_open_as_a_library_would() {
    let place = Place::new("electra");
    let opened = Patch::open(&place.home.path().join("label.bias")).unwrap();
    let encoder = Encoder::open(place.bundle.dir()).unwrap();
    let label = encoder.attach(&opened).unwrap();
    assert_eq!(label.spec().name(), "label");
    assert!(label.resident_bytes() > 0);
}
