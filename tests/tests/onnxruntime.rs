//! ONNX Runtime as the oracle: it runs the exported graph, base and patched, to the same numbers.

use std::{path::Path, process::Command};

use edge_bundle::Bundle;
use edge_export::{Destination, EXAMPLE, Options, export, fetch};
use system_tests::{
    ENCODERS, Fixture, assert_succeeded, command, f16, fixtures, int4, int8, low_rank_inputs, patch_with_terms,
    real_bundle, real_bundle_int8, small_bundle, small_bundle_with, task, with_input, write_patches,
};
use tempfile::TempDir;

/// Runs one of the commands on two texts.
fn run(name: &str, home: &Path, arguments: &[&str]) -> String {
    let texts = b"the film was good\nwhy was it bad? not happy!\n";
    assert_succeeded(&with_input(command(name, home).current_dir(home).args(arguments), texts))
}

/// Runs `check_onnxruntime.py` on a bundle, one of its patches, and what edge-run says of some texts.
fn check(bundle: &Bundle, home: &Path, fixture: Option<&str>) {
    write_patches(bundle, home);
    compare(bundle, home, fixture);
}

/// As [`check`], of a graph that takes low-rank terms, and a patch that has some of every linear layer.
fn check_terms(bundle: &Bundle, home: &Path, fixture: Option<&str>) {
    let patch = patch_with_terms(bundle, task("label", "classification", 1), "label");
    patch.save(&home.join("label.bias")).unwrap();
    compare(bundle, home, fixture);
}

/// Runs `check_onnxruntime.py` on a bundle, `label.bias` and its values.
fn compare(bundle: &Bundle, home: &Path, fixture: Option<&str>) {
    let dir = bundle.dir().to_str().unwrap();
    run("edge-patch", home, &["extract", "label.bias", "--encoder", dir, "-o", "values.safetensors"]);
    let arguments = ["-p", "label.bias", "-o", "jsonl", "--logits", "--activations", "f32"];
    let rows = run("edge-run", home, &[&["--bundle", dir], &arguments[..]].concat());
    std::fs::write(home.join("rows.jsonl"), rows).unwrap();
    let mut check = Command::new(std::env::var("EDGE_PYTHON").unwrap_or_else(|_| "python3".into()));
    check.arg(fixtures().parent().unwrap().join("reference/check_onnxruntime.py")).arg(bundle.dir());
    check.arg(home.join("values.safetensors")).arg(home.join("rows.jsonl"));
    if let Some(name) = fixture {
        check.arg(fixtures().join("encoders").join(format!("{name}.json")));
    }
    print!("{}", assert_succeeded(&check.output().unwrap()));
}

#[test]
#[ignore = "needs Python with tests/reference/requirements.txt; EDGE_PYTHON names it"]
fn small_encoders_of_every_family() {
    for name in ENCODERS {
        assert!(!Fixture::named(name).cases.is_empty());
        let (home, bundle) = small_bundle(name);
        check(&bundle, home.path(), Some(name));
        for rounded in [f16(), int8(), int4()] {
            let (home, bundle) = small_bundle_with(name, rounded);
            check(&bundle, home.path(), None);
        }
        let (home, bundle) = small_bundle_with(name, low_rank_inputs());
        check_terms(&bundle, home.path(), Some(name));
        let (home, bundle) = small_bundle_with(name, Options { low_rank_inputs: true, ..int8() });
        check_terms(&bundle, home.path(), None);
    }
}

#[test]
#[ignore = "needs the real encoder, and Python with tests/reference/requirements.txt"]
fn the_real_encoder() {
    for bundle in [real_bundle(), real_bundle_int8()] {
        let home = TempDir::new().unwrap();
        check(&bundle, home.path(), None);
    }
    // Not in the store: there the same encoder has another graph.
    let (home, source) = (TempDir::new().unwrap(), fetch(EXAMPLE).unwrap());
    let to = Destination::Dir(home.path().join("bundle"));
    let bundle = export(&source.dir, &source.name, &to, low_rank_inputs(), &mut |_| ()).unwrap();
    check_terms(&bundle, home.path(), None);
}
