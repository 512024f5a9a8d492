//! Vectors for other programs, and labels that are ranked by vectors.

use std::{
    fs::{self, File, OpenOptions},
    process::{Command, Stdio},
};

use serde_json::Value;
use system_tests::{assert_misused, assert_succeeded, command, place::Place};

/// Texts with one that has no answer.
const TEXTS: &str = "the film was good\n\nvery bad\nunhappy\n";

fn vector(row: &Value) -> Vec<f32> {
    row["embedding"].as_array().map_or(Vec::new(), |values| values.iter().map(|v| v.as_f64().unwrap() as f32).collect())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The rows of an array in NumPy's format.
fn rows_of_npy(bytes: &[u8]) -> Vec<Vec<f32>> {
    assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
    let header = std::str::from_utf8(&bytes[10..128]).unwrap();
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let shape: Vec<usize> = shape.split(", ").map(|n| n.parse().unwrap()).collect();
    assert_eq!(bytes.len(), 128 + 4 * shape[0] * shape[1]);
    assert!(shape[1] > 0, "the task tells how wide rows are");
    floats(&bytes[128..]).chunks(shape[1].max(1)).map(<[f32]>::to_vec).collect()
}

/// `edge-run` with the embedding task and arguments.
fn run(place: &Place, arguments: &[&str]) -> Command {
    fs::write(place.home.path().join("texts.txt"), TEXTS).unwrap();
    let mut run = command("edge-run", place.home.path());
    run.current_dir(place.home.path()).args(["--bundle", "bundle", "-p", "vector.bias"]).args(arguments);
    run
}

#[test]
fn vectors_are_an_array_of_numpy() {
    let place = Place::new("bert");
    let lines = run(&place, &["-o", "jsonl", "texts.txt"]).output().unwrap();
    let lines = String::from_utf8(lines.stdout).unwrap();
    let due: Vec<Vec<f32>> = lines.lines().map(|line| vector(&serde_json::from_str(line).unwrap())).collect();
    let same = |found: &[Vec<f32>], how: &str| {
        assert_eq!(found.len(), 4, "{how}");
        assert!(found[1].iter().all(|v| v.is_nan()) && found[1].len() == due[0].len(), "{how}");
        assert!([0, 2, 3].iter().all(|at| found[*at] == due[*at]), "{how}");
    };
    let path = place.home.path().join("found.npy");
    let to_file = |file: File| {
        let output = run(&place, &["-o", "npy", "-b", "1", "texts.txt"]).stdout(file).output().unwrap();
        // One line is empty, which the exit code and standard error say.
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 4"));
        fs::read(&path).unwrap()
    };
    same(&rows_of_npy(&to_file(File::create(&path).unwrap())), "a file");
    // Behind what the file has, as a shell's >> writes it; and into an empty one.
    fs::write(&path, "before").unwrap();
    let appended = to_file(OpenOptions::new().append(true).open(&path).unwrap());
    assert_eq!(&appended[..6], b"before");
    same(&rows_of_npy(&appended[6..]), "appended");
    fs::write(&path, "").unwrap();
    same(&rows_of_npy(&to_file(OpenOptions::new().append(true).open(&path).unwrap())), "appended to nothing");

    let piped = run(&place, &["-o", "npy", "texts.txt"]).output().unwrap();
    same(&rows_of_npy(&piped.stdout), "a pipe");
    let plain = run(&place, &["-o", "f32", "texts.txt"]).output().unwrap();
    let plain: Vec<Vec<f32>> = floats(&plain.stdout).chunks(due[0].len()).map(<[f32]>::to_vec).collect();
    same(&plain, "f32");
    let nothing = run(&place, &["-o", "npy"]).stdin(Stdio::null()).output().unwrap();
    assert!(nothing.status.success() && rows_of_npy(&nothing.stdout).is_empty());
    let shape = format!("'shape': (0, {}), }}", due[0].len());
    assert!(String::from_utf8_lossy(&nothing.stdout[10..128]).contains(&shape), "{:?}", nothing.stdout);

    let read = "import sys, numpy; a = numpy.load(sys.argv[1]); print(a.shape, a.dtype.str, a.flags['C_CONTIGUOUS'], a[2].tobytes().hex())";
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let numpy = Command::new(python).args(["-c", read]).arg(&path).output();
    match numpy.ok().filter(|output| output.status.success()) {
        Some(output) => {
            let bytes: String = due[2].iter().flat_map(|v| v.to_le_bytes()).map(|b| format!("{b:02x}")).collect();
            let due = format!("(4, {}) <f4 True {bytes}", due[0].len());
            assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), due);
        }
        None => println!("no Python with numpy here: the bytes alone were compared"),
    }
}

#[test]
fn only_vectors_of_one_task_are_an_array() {
    let place = Place::new("bert");
    let refused = |arguments: &[&str], parts: &[&str]| {
        assert_misused(&place.run(&[&["-o", "npy"], arguments].concat(), b"x\n"), parts);
    };
    refused(&["-p", "label.bias"], &["--output", "one embedding task", "a classification task"]);
    refused(&["-p", "vector.bias", "-p", "label.bias"], &["one embedding task", "2 tasks"]);
    refused(&["-p", "vector.bias", "--labels", "good,bad"], &["without --labels", "found --labels"]);
}

#[test]
fn labels_are_ranked_by_their_vectors() {
    let place = Place::new("bert");
    let cosine = |a: &[f32], b: &[f32]| {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        product(a, b) / (product(a, a) * product(b, b)).sqrt()
    };
    for (arguments, texts) in [
        (&["--labels", "good, very bad,happy"][..], ["good", "very bad", "happy"]),
        (&["--labels", "good,bad,it", "--template", "film {}!"], ["film good!", "film bad!", "film it!"]),
    ] {
        let vectors = place.rows(&["-p", "vector.bias"], format!("the film\n{}\n", texts.join("\n")).as_bytes());
        let vectors: Vec<Vec<f32>> = vectors.iter().map(vector).collect();
        let mut due: Vec<(f64, &str)> =
            vectors[1..].iter().zip(texts).map(|(v, t)| (cosine(&vectors[0], v), t)).collect();
        due.sort_by(|a, b| b.0.total_cmp(&a.0));
        let found =
            place.rows(&[&["-p", "vector.bias", "-p", "label.bias", "-k", "3"], arguments].concat(), b"the film\n");
        assert!(found[0]["embedding"].is_null() && found[0]["label"] == found[0]["top"][0]["label"]);
        assert_eq!(found[1]["label"], place.rows(&["-p", "label.bias"], b"the film\n")[0]["label"]);
        for (found, (cosine, text)) in found[0]["top"].as_array().unwrap().iter().zip(due) {
            assert!(text.contains(found["label"].as_str().unwrap()), "{found} {text}");
            // Labels run in one batch, so vectors differ by rounding; the products above are rounded too.
            assert!((found["score"].as_f64().unwrap() - cosine).abs() < 1e-5, "{found} {cosine}");
        }
    }
    let table = assert_succeeded(&place.run(&["-p", "vector.bias", "--labels", "good,bad"], b"good\n"));
    assert!(table.contains("good") && table.contains("1.0000"), "{table}");

    let refused = |arguments: &[&str], parts: &[&str]| {
        assert_misused(&place.run(&[&["-p", "vector.bias"], arguments].concat(), b"x\n"), parts);
    };
    refused(&["--labels", "good,,bad"], &["--labels", "label 2"]);
    refused(&["--labels", "good,bad, good"], &["each label once", "good"]);
    refused(&["--labels", "good", "--template", "about"], &["--template", "{}", "about"]);
    assert_misused(&place.run(&["-p", "label.bias", "--labels", "a"], b"x\n"), &["--labels", "an embedding task"]);
}
