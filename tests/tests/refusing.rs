//! What `edge-run` refuses, and how it says so: files that do not fit, wrong usage, too little memory.

use std::{fs, path::Path, process::Stdio};

use bias_patch::{Encoding, Head, Linear, Patch, Stored};
use system_tests::{assert_refused, assert_succeeded, command, patch, place::Place, small_bundle, task};

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
    assert_refused(&run("bad.bias"), &["bad.bias", "version 9 of the patch format", "reads versions up to 3"]);
    write(b"PK\x03\x04 something else entirely");
    assert_refused(&run("bad.bias"), &["bad.bias", "not a bias patch"]);
    if Path::new("/dev/zero").exists() {
        // It never ends.
        assert_refused(&run("/dev/zero"), &["/dev/zero", "not a bias patch"]);
        let texts = place.run(&["-p", "label.bias", "/dev/zero"], b"");
        assert_refused(&texts, &["/dev/zero", "expected at most 67108864 bytes in line 1, found more"]);
    }
    let mut lines = b"the film was good\nbad\n".to_vec();
    lines.resize(lines.len() + (64 << 20) + 1, b'a');
    let said = place.run(&["-p", "label.bias", "-o", "jsonl"], &lines);
    assert_refused(&said, &["standard input", "expected at most 67108864 bytes in line 3, found more"]);
    // What was read before it has its answers.
    assert_eq!(String::from_utf8_lossy(&said.stdout).lines().count(), 2);

    // The weights are changed, and there are no panels yet.
    let weights = place.home.path().join("bundle/weights.bin");
    let bytes = fs::read(&weights).unwrap();
    let mut altered = bytes.clone();
    altered[40] ^= 1;
    fs::write(&weights, &altered).unwrap();
    fs::remove_file(place.home.path().join("bundle/panels-f32x16.bin")).unwrap();
    assert_refused(&run("label.bias"), &["weights.bin", "tensor embeddings.word_embeddings.weight", "digest"]);
    fs::write(&weights, &bytes).unwrap();
    assert_succeeded(&run("label.bias"));
    // With panels, the changed weights are not read.
    fs::remove_file(&weights).unwrap();
    assert_succeeded(&run("label.bias"));
    fs::remove_file(place.home.path().join("bundle/panels-f32x16.bin")).unwrap();
    assert_refused(&run("label.bias"), &["weights.bin"]);
}

#[test]
fn outputs_that_are_no_finite_numbers_are_no_answers() {
    let place = Place::new("bert");
    let home = place.home.path();
    let good = Patch::open(&home.join("label.bias")).unwrap();
    let output = good.head().output.as_ref().unwrap();
    let weight = vec![3e38; (output.outputs * output.inputs) as usize];
    let output = Linear { weight: Stored::encode(&weight, None, Encoding::F32).unwrap(), ..output.clone() };
    let huge = Patch::new(good.encoder(), task("huge", "classification", 1), Vec::new(), Head::of(output), []).unwrap();
    huge.save(&home.join("huge.bias")).unwrap();
    let said = place.run(&["-p", "huge.bias", "-p", "label.bias", "-o", "tsv"], b"good\n");
    assert_eq!(said.status.code(), Some(3), "{}", String::from_utf8_lossy(&said.stderr));
    let rows = String::from_utf8(said.stdout).unwrap();
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split('\t').collect()).collect();
    let of = |task: &str| rows.iter().find(|row| row[1] == task).unwrap();
    assert!(of("huge")[2].is_empty() && of("huge")[4].contains("expected outputs that are finite numbers"));
    assert!(of("huge")[4].contains("--activations f32"));
    // Others have their answers, by either name of the way to compute.
    assert!(!of("label")[2].is_empty() && of("label")[4].is_empty());
    for activations in ["short", "int8", "f32"] {
        let said = place.run(&["-p", "label.bias", "-o", "tsv", "--activations", activations], b"good\n");
        assert_eq!(assert_succeeded(&said).lines().nth(1).unwrap().split('\t').nth(2), Some(of("label")[2]));
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
    // A text may share its first bytes with a patch.
    let output = place.run(&["-p", "label.bias", "-o", "jsonl"], b"BIAS");
    assert_eq!(assert_succeeded(&output).lines().count(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_text_that_memory_does_not_hold_is_refused() {
    let place = Place::new("bert");
    let arguments = ["--bundle", "bundle", "-p", "label.bias", "texts.txt"];
    let write = |text: &str| fs::write(place.home.path().join("texts.txt"), text).unwrap();
    // A gigabyte of address space: enough for the program, too little for the tokens of the long text.
    const LIMIT: &str = "v 1048576";
    write("good\n");
    let short = place.limited(LIMIT, &arguments, b"");
    assert_succeeded(&short);
    // A long text is read no further than its first tokens need.
    write(&format!("good\n{}\n", "good ".repeat(2 << 20)));
    assert_succeeded(&place.limited(LIMIT, &arguments, b""));
    // Without a space it is one word, and read whole.
    write(&format!("good\n{}\n", "goods".repeat(2 << 20)));
    let refused = place.limited(LIMIT, &arguments, b"");
    assert_refused(&refused, &["texts.txt, line 2: tokens of a text of 10485760 bytes", "bytes of memory", "in parts"]);
    assert_eq!(refused.stdout, short.stdout, "what comes before is answered");
}
