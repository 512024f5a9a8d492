//! `edge-run` as a person or a program uses it: kinds of task, formats, where the encoder is found.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use edge_run::{Answer, Encoder, EngineOptions, Patch, Request, Text};
use serde_json::Value;
use system_tests::{
    FAMILIES, assert_refused, assert_succeeded, command, http::PATIENCE, patch, place::Place, small_bundle, task,
    with_input,
};

#[test]
fn all_kinds_of_task_run_on_every_family() {
    for family in FAMILIES {
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

/// Asserts exit code 3, and the number of refused answers.
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
}

#[test]
fn no_lines_are_no_failure() {
    let place = Place::new("bert");
    for arguments in [&[][..], &["-o", "tsv"], &["-o", "jsonl", "-i", "tsv"], &["-i", "jsonl"], &["--unbuffered"]] {
        let output = place.run(&[&["-p", "label.bias"][..], arguments].concat(), b"");
        assert_eq!(assert_succeeded(&output), "", "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (name, text) in [("empty.txt", ""), ("empty.tsv", ""), ("header.tsv", "text\n"), ("empty.json", "[]")] {
        fs::write(place.home.path().join(name), text).unwrap();
        let output = place.run(&["-p", "label.bias", name], b"");
        assert_eq!(assert_succeeded(&output), "", "{name}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("{name}: no texts")), "{said}");
    }
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
    // --input takes precedence over the file's ending.
    assert_eq!(place.rows(&["-p", "pair.bias", "-i", "lines", "pairs.tsv"], b"").len(), 3);
    let refused = place.run(&["-p", "pair.bias", "pairs.csv"], b"");
    assert_refused(&refused, &["pairs.csv: expected lines, .tsv, .jsonl or .json, found .csv", "> pairs.jsonl"]);

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
fn a_table_says_what_its_answers_are() {
    let place = Place::new("bert");
    for (arguments, header) in [
        (&["-p", "label.bias"][..], " line  label    score  text"),
        (&["-p", "several.bias"], " line  label    score  text"),
        (&["-p", "number.bias"], " line  value           text"),
        (&["-p", "tags.bias"], " line  tags"),
        (&["-p", "tags.bias", "--entities"], " line  entities"),
        (&["-p", "span.bias"], " line  answer, characters, score"),
        (&["-p", "vector.bias"], " line  embedding  text"),
        (&["-p", "vector.bias", "--labels", "good,bad"], " line  label    score  text"),
        (&["-p", "tags.bias", "-p", "number.bias"], " line  task    label    score  text"),
    ] {
        let output = place.run(arguments, b"good\n");
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(table.lines().next(), Some(header), "{arguments:?}");
    }
}

#[test]
fn two_columns_for_one_text_are_refused() {
    let place = Place::new("bert");
    let table = place.run(&["-p", "label.bias", "-i", "tsv"], b"sentence\ttext\na\tb\n");
    assert_refused(&table, &["line 1", "one column for a text, found text and sentence"]);
    let input = b"{\"text\":\"a\",\"sentence\":\"b\"}\n{\"text\":\"a\",\"sentence\":null}\n";
    let output = place.run(&["-p", "label.bias", "-i", "jsonl", "-o", "jsonl"], input);
    assert_unanswered(&output, "1 of 2");
    let rows = String::from_utf8(output.stdout).unwrap();
    assert!(rows.lines().next().unwrap().contains("one field for a text, found text and sentence"), "{rows}");
}

#[test]
fn patches_of_one_name_are_told_apart_by_their_files() {
    let place = Place::new("bert");
    fs::copy(place.home.path().join("label.bias"), place.home.path().join("second.bias")).unwrap();
    let rows = place.rows(&["-p", "label.bias", "-p", "second.bias", "-p", "number.bias"], b"good\n");
    let names: Vec<&str> = rows.iter().map(|r| r["task"].as_str().unwrap()).collect();
    assert_eq!(names, ["label.bias", "second.bias", "number"]);
}

/// A run that answers each line as it comes.
fn unbuffered(place: &Place) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let edge_run = command("edge-run", place.home.path());
    // Whoever runs the tests in the background of a shell may ignore interrupts, and programs inherit that.
    let mut child = Command::new("env")
        .envs(edge_run.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .arg("--default-signal=INT")
        .arg(edge_run.get_program())
        .current_dir(place.home.path())
        .args(["--bundle", "bundle", "-p", "label.bias", "-o", "jsonl", "--unbuffered"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    (child, stdin, stdout)
}

#[test]
fn unbuffered_answers_come_before_the_next_line_goes_in() {
    let place = Place::new("bert");
    let (mut child, mut stdin, mut stdout) = unbuffered(&place);
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
fn an_interrupt_ends_a_run_that_waits_for_a_line() {
    let place = Place::new("bert");
    let (mut child, mut stdin, mut stdout) = unbuffered(&place);
    writeln!(stdin, "good").unwrap();
    // After its answer it waits.
    stdout.read_line(&mut String::new()).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // Its input stays open, so nothing else ends it.
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "it still runs");
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.signal(), Some(2));
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
fn long_pairs_are_cut_without_keeping_what_was_cut() {
    let (_home, bundle) = small_bundle("bert");
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let pair = encoder.attach(&patch(&bundle, task("pair", "classification", 2), "pair")).unwrap();
    // All pairs of the cut pieces would be ten million tokens, and take minutes.
    let text = Text::pair("good ".repeat(40_000), "bad ".repeat(40_000));
    let begun = std::time::Instant::now();
    let found = encoder.predict(&[Request { task: &pair, text: &text }]).remove(0).unwrap();
    assert!(found.truncated);
    assert_eq!(found.timing.tokens, 40);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
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
