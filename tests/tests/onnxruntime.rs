//! ONNX Runtime as the oracle: it runs the exported graph, base and patched, to the same numbers.

use std::{path::Path, process::Command};

use edge_bundle::Bundle;
use system_tests::{
    ENCODERS, Fixture, assert_succeeded, command, fixtures, int8, real_bundle, real_bundle_int8, small_bundle,
    small_bundle_with, with_input, write_patches,
};
use tempfile::TempDir;

/// Runs `check_onnxruntime.py` on a bundle, one of its patches, and what edge-run says of some texts.
fn check(bundle: &Bundle, home: &Path, fixture: Option<&str>) {
    write_patches(bundle, home);
    let run = |name: &str, arguments: &[&str]| {
        let mut command = command(name, home);
        let texts = b"the film was good\nwhy was it bad? not happy!\n";
        assert_succeeded(&with_input(command.current_dir(home).args(arguments), texts))
    };
    let dir = bundle.dir().to_str().unwrap();
    run("edge-patch", &["extract", "label.bias", "--encoder", dir, "-o", "values.safetensors"]);
    let rows =
        run("edge-run", &["--bundle", dir, "-p", "label.bias", "-o", "jsonl", "--logits", "--activations", "f32"]);
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
        let (home, bundle) = small_bundle_with(name, int8());
        check(&bundle, home.path(), None);
    }
}

#[test]
#[ignore = "needs the real encoder, and Python with tests/reference/requirements.txt"]
fn the_real_encoder() {
    for bundle in [real_bundle(), real_bundle_int8()] {
        let home = TempDir::new().unwrap();
        check(&bundle, home.path(), None);
    }
}
