//! `edge-serve` and the directory of patches: files that appear, disappear, are damaged, unsigned, or half-copied.
//! `soak.rs` replaces them under load.

use std::{fs, io::Write, os::unix::fs::symlink, thread, time::Duration};

use edge_bundle::{MANIFEST, VOCABULARY};
use serde_json::{Value, json};
use system_tests::{
    assert_refused, assert_succeeded, command,
    http::ask,
    patch,
    server::{Server, home_of, names, reasons, telling},
    small_bundle, task,
};

#[test]
fn a_patch_waits_for_its_bundle_however_that_comes() {
    let server = Server::of(&["a"]);
    let (_dir, other) = small_bundle("distilbert");
    let waiting = patch(&other, task("b", "classification", 1), "b");
    server.put("b.bias", &waiting.to_bytes().unwrap());
    server.wait("a refusal", |tasks| reasons(tasks).contains("b.bias"));
    // File by file, the manifest first: an incomplete bundle is not taken for a damaged one.
    let place = server.home.path().join("data/edge-run/bundles").join(other.manifest().encoder.to_string());
    fs::create_dir_all(&place).unwrap();
    for name in [MANIFEST, "encoder.onnx", "base.bias", "tokenizer.json", VOCABULARY, "weights.bin"] {
        fs::copy(other.dir().join(name), place.join(name)).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    let served = server.wait("both encoders' tasks", |tasks| names(tasks) == ["a", "b"]);
    assert_eq!(reasons(&served), "[]");
    // Both encoders in one request.
    let found = server.post("/predict", json!({ "text": "the film was good" })).json();
    assert!(found.to_string().contains("\"a\"") && found.to_string().contains("\"b\""), "{found}");
}

#[test]
fn a_bad_file_leaves_the_one_before_answering_and_says_what_verify_says() {
    let server = Server::of(&["a"]);
    let before = server.post("/predict/a", json!({ "text": "x" })).json()["version"].clone();
    let whole = fs::read(server.patches.join("a.bias")).unwrap();
    server.put("a.bias", &whole[..whole.len() / 2]);
    let found = server.wait("a refusal", |tasks| reasons(tasks).contains("a.bias"));
    let verify = command("edge-patch", server.home.path())
        .current_dir(server.home.path())
        .args(["verify", "patches/a.bias", "--encoder", "bundle"])
        .output()
        .unwrap();
    let said = String::from_utf8(verify.stderr).unwrap();
    let reason = found["refused"][0]["reason"].as_str().unwrap();
    assert_eq!(said.trim_end(), format!("edge-patch: {reason}"));
    assert_eq!(server.post("/predict/a", json!({ "text": "x" })).json()["version"], before);
    assert_eq!(server.metric("edge_serve_refused_patches"), 1.0);

    // A request for a task that never answered gets the reason.
    server.put("b.bias", &whole[..whole.len() / 2]);
    server.wait("another refusal", |tasks| reasons(tasks).contains("b.bias"));
    let absent = server.post("/predict/b", json!({ "text": "x" }));
    assert_eq!(absent.status, 404);
    assert!(absent.error().starts_with("task \"b\" does not answer: patches/b.bias: "), "{}", absent.error());
    fs::remove_file(server.patches.join("b.bias")).unwrap();

    // Copied in place, not renamed: the half that is there for a moment changes nothing.
    let next = telling(&server.bundle, "a", 1).to_bytes().unwrap();
    fs::write(server.patches.join("a.bias"), &next).unwrap();
    server.wait("a swap", |tasks| tasks["tasks"][0]["version"] != before && tasks["refused"] == json!([]));
    fs::remove_file(server.patches.join("a.bias")).unwrap();
    server.wait("an end", |tasks| names(tasks).is_empty());
    assert_eq!(server.post("/predict/a", json!({ "text": "x" })).status, 404);
}

#[test]
fn what_is_no_file_of_the_directory_or_has_anothers_name_is_refused() {
    let server = Server::of(&["a"]);
    let outside = server.home.path().join("outside.bias");
    patch(&server.bundle, task("out", "classification", 1), "out").save(&outside).unwrap();
    symlink(&outside, server.patches.join("link.bias")).unwrap();
    fs::create_dir(server.patches.join("dir.bias")).unwrap();
    fs::copy(server.patches.join("a.bias"), server.patches.join("copy.bias")).unwrap();
    let (_other, bundle) = small_bundle("roberta");
    patch(&bundle, task("r", "classification", 1), "r").save(&server.patches.join("r.bias")).unwrap();
    let found = server.wait("four refusals", |tasks| tasks["refused"].as_array().unwrap().len() == 4);
    assert_eq!(names(&found), ["a"]);
    let said = reasons(&found);
    for part in ["a link that leads out of it", "a regular file", "which a.bias answers for", "edge-export CHECKPOINT"]
    {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    // A link within the directory is a file like any other, and the name is free once its holder has gone.
    fs::remove_file(server.patches.join("a.bias")).unwrap();
    let found = server.wait("the copy", |tasks| names(tasks) == ["a"] && tasks["tasks"][0]["file"] == "copy.bias");
    assert!(!reasons(&found).contains("copy.bias"));
}

#[test]
fn of_two_files_with_one_name_the_same_answers_before_and_after_a_restart() {
    let mut server = Server::of(&[]);
    let [first, second] = [0, 1].map(|version| telling(&server.bundle, "t", version).to_bytes().unwrap());
    let mark = |server: &Server| server.post("/predict/t", json!({ "text": "x" })).json()["logits"][0].as_f64();
    let file_is = |name: &'static str| move |tasks: &Value| tasks["tasks"][0]["file"] == name;
    server.put("b.bias", &first);
    server.wait("the task", file_is("b.bias"));
    assert_eq!(mark(&server), Some(0.0));
    // It sorts first and appears later, so it replaces the other.
    server.put("a.bias", &second);
    let live = server.wait("the file that sorts first", file_is("a.bias"));
    assert_eq!(mark(&server), Some(1.0));
    assert_eq!(server.metric("edge_serve_task_swaps_total"), 1.0);
    assert_eq!(server.metric("edge_serve_refused_patches"), 1.0);
    for part in ["patches/b.bias: task name", "found t, which a.bias answers for, as its name sorts first"] {
        assert!(reasons(&live).contains(part), "{part:?} is not in {live}");
    }
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    server.restart();
    assert_eq!(server.get("/tasks").json(), live);
    assert_eq!(mark(&server), Some(1.0));
    // The name is free again, and taken once more.
    fs::remove_file(server.patches.join("a.bias")).unwrap();
    let found = server.wait("the other file", file_is("b.bias"));
    assert_eq!((reasons(&found).as_str(), mark(&server)), ("[]", Some(0.0)));
    // Unloading on request does not prevent a file that sorts first.
    assert_eq!(server.post("/v2/repository/models/t/unload", json!({})).status, 200);
    server.put("a.bias", &second);
    let found = server.wait("the file that sorts first", file_is("a.bias"));
    assert_eq!(found, live);
}

#[cfg(target_os = "linux")]
#[test]
fn a_patch_that_the_system_could_not_read_is_taken_once_it_can() {
    let server = Server::of(&["a"]);
    let mut stream = server.connect();
    // A connection that has been accepted needs no other file.
    assert_eq!(reasons(&ask(&mut stream, "GET", "/tasks", &[], b"").json()), "[]");
    let open_files = |most: u32| {
        let (process, most) = (server.child.id().to_string(), format!("--nofile={most}:"));
        assert!(std::process::Command::new("prlimit").args(["--pid", &process, &most]).status().unwrap().success());
    };
    // Its standard input, output and error, and no file that it opens.
    open_files(3);
    let refused = ask(&mut stream, "POST", "/v2/repository/models/a/load", &[], b"{}");
    assert!(refused.error().contains("a.bias: cannot read"), "{}", refused.error());
    open_files(256);
    // Nothing happens in the directory.
    server.wait("the patch", |tasks| reasons(tasks) == "[]");
}

#[test]
fn a_directory_that_is_not_there_is_made_and_its_first_patch_picked_up() {
    let mut server = Server::of(&[]);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    fs::remove_dir(&server.patches).unwrap();
    server.restart();
    assert!(names(&server.get("/tasks").json()).is_empty());
    patch(&server.bundle, task("a", "classification", 1), "a").save(&server.patches.join("a.bias")).unwrap();
    server.wait("the first task", |tasks| names(tasks) == ["a"]);
    let log = fs::read_to_string(server.home.path().join("log")).unwrap();
    assert!(log.contains("was not there and is made") && log.contains("no task yet"), "{log}");
}

#[test]
fn only_signed_patches_answer_where_keys_are_trusted() {
    let (home, bundle) = home_of(&["a"]);
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let (key, public) = (home.path().join("key"), home.path().join("key.pub"));
    fs::write(&key, pair.sk.to_box(None).unwrap().into_string()).unwrap();
    fs::write(&public, pair.pk.to_box().unwrap().into_string()).unwrap();
    let server = Server::at(home, bundle, &["--trust", "key.pub"]);
    let found = server.wait("a refusal", |tasks| reasons(tasks).contains("expected a signature"));
    assert!(names(&found).is_empty());

    let home = server.home.path();
    let edge_patch = |arguments: &[&str]| {
        let mut command = command("edge-patch", home);
        command.current_dir(home).args(arguments).output().unwrap()
    };
    let verify = ["verify", "patches/a.bias", "--encoder", "bundle", "--key", "key.pub"];
    assert_refused(&edge_patch(&verify), &["a.bias.minisig: expected a signature"]);
    let other = ["sign", "patches/a.bias", "--key", "key.pub"];
    assert_refused(&edge_patch(&other), &["key.pub: secret key: expected the secret key", "a public key"]);
    let other = ["verify", "patches/a.bias", "--encoder", "bundle", "--key", "key"];
    assert_refused(&edge_patch(&other), &["key: public key", "found a secret key"]);
    assert_succeeded(&edge_patch(&["sign", "patches/a.bias", "--key", "key"]));
    assert_succeeded(&edge_patch(&verify));
    server.wait("the signed task", |tasks| names(tasks) == ["a"]);
    // A signature is a file of the directory as well, wherever a link would lead.
    let signature = server.patches.join("a.bias.minisig");
    let outside = home.join("outside.minisig");
    fs::rename(&signature, &outside).unwrap();
    symlink(&outside, &signature).unwrap();
    let refusal = |tasks: &Value| reasons(tasks).contains("minisig: file: expected one within");
    let found = server.wait("a refusal", refusal);
    assert!(reasons(&found).contains("a link that leads out of it"), "{found}");
    assert_eq!(names(&found), ["a"]);
    fs::rename(&outside, &signature).unwrap();
    server.wait("the signed task", |tasks| tasks["refused"] == json!([]));
    // Another patch under the old signature: the signed one goes on.
    server.put("a.bias", &telling(&server.bundle, "a", 1).to_bytes().unwrap());
    let found = server.wait("a refusal", |tasks| reasons(tasks).contains("signed by none"));
    assert_eq!(names(&found), ["a"]);
    assert_refused(&edge_patch(&verify), &["signed by none of the 1 trusted keys"]);
}

/// Kills the server while patches are copied in. After each start all complete patches answer, and no other.
fn kills(count: usize) {
    let mut server = Server::of(&[]);
    let whole = |name: &str| patch(&server.bundle, task(name, "classification", 1), name).to_bytes().unwrap();
    let files: Vec<(String, Vec<u8>)> =
        (0..count).map(|at| format!("t{at:03}")).map(|name| (name.clone(), whole(&name))).collect();
    let mut complete = Vec::new();
    for (at, (name, bytes)) in files.iter().enumerate() {
        let path = server.patches.join(format!("{name}.bias"));
        // Every third is cut short, as a copy is when its program dies too.
        let part = if at % 3 == 2 { bytes.len() * (at % 7 + 1) / 9 } else { bytes.len() };
        let copy = thread::spawn({
            let bytes = bytes[..part].to_vec();
            move || {
                let mut file = fs::File::create(path).unwrap();
                bytes.chunks(1024).for_each(|chunk| file.write_all(chunk).unwrap());
            }
        });
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        copy.join().unwrap();
        if part == bytes.len() {
            complete.push(name.as_str());
        }
        server.restart();
        assert_eq!(names(&server.get("/tasks").json()), complete);
    }
}

#[test]
fn a_server_that_is_killed_comes_back_with_every_whole_patch() {
    kills(6);
}

#[test]
#[ignore = "a minute"]
fn a_server_that_is_killed_fifty_times_comes_back_with_every_whole_patch() {
    kills(50);
}
