//! Patches on the Hub: what is pushed is what is pulled and run, and refusals say what helps. The Hub is one of ours.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bias_patch::{Patch, Task};
use system_tests::{
    assert_misused, assert_refused, assert_succeeded, fixtures,
    hub::{Files, Hub},
    patch_with_terms,
    place::Place,
    task,
};

const TEXTS: &[u8] = b"the film was good\nwhy was it bad? not happy!\n";

/// A Hub, and a directory with a small encoder and patches for it.
fn start() -> (Hub, Place) {
    (Hub::start(), Place::new("bert"))
}

/// `edge-patch` with a token that may write.
fn edge_patch(hub: &Hub, home: &Path, arguments: &[&str]) -> Command {
    let mut command = hub.command("edge-patch", home);
    command.args(arguments).env("HF_TOKEN", "secret");
    command
}

fn succeed(hub: &Hub, home: &Path, arguments: &[&str]) -> String {
    assert_succeeded(&edge_patch(hub, home, arguments).output().unwrap())
}

fn refuse(hub: &Hub, home: &Path, arguments: &[&str], parts: &[&str]) {
    assert_refused(&edge_patch(hub, home, arguments).output().unwrap(), parts);
}

/// All files below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn text(files: &Files, name: &str) -> String {
    String::from_utf8(files[name].clone()).unwrap()
}

#[test]
fn what_is_pushed_is_what_is_pulled_and_runs_without_the_hub() {
    for lfs in [false, true] {
        let (hub, place) = start();
        hub.state().lfs = lfs;
        let home = place.home.path();
        fs::write(home.join("dev.tsv"), "sentence\tlabel\nthe film was good\tyes\nwhy was it bad\tno\n").unwrap();
        patch_with_terms(&place.bundle, task("label", "classification", 1), "label")
            .save(&home.join("label.bias"))
            .unwrap();
        let bytes = fs::read(home.join("label.bias")).unwrap();
        fs::write(home.join("label.bias.minisig"), "a signature").unwrap();
        let scores = ["--data", "dev.tsv", "--encoder", "bundle", "--license", "mit", "--base-model", "org/base"];
        let first = succeed(&hub, home, &[&["push", "label.bias", "hf:org/label"], &scores[..]].concat());
        let files = hub.files("org/label");
        let commit = hub.state().repositories["org/label"].commits.last().unwrap().0.clone();
        assert!(first.contains(&format!("{}/org/label: commit {commit}: label.bias,", hub.address)), "{first}");
        assert_eq!(files["label.bias"], bytes);
        assert_eq!(text(&files, "label.bias.minisig"), "a signature");
        let of_file: Task = serde_json::from_slice(&files["task.json"]).unwrap();
        assert_eq!(&of_file, Patch::from_bytes(&bytes).unwrap().task());
        let card = text(&files, "README.md");
        let evaluated = succeed(&hub, home, &["evaluate", "label.bias", "dev.tsv", "--encoder", "bundle", "--json"]);
        let evaluated: serde_json::Value = serde_json::from_str(&evaluated).unwrap();
        let accuracy = format!("type: accuracy\n      value: {:.4}\n", evaluated["metrics"][0][1].as_f64().unwrap());
        for part in [
            "---\nlibrary_name: edge-run\npipeline_tag: text-classification\nlicense: \"mit\"\n",
            "base_model: \"org/base\"\nbase_model_relation: adapter\n",
            "tags:\n- edge-run\n- bitfit\n- lora\n",
            "metrics:\n- accuracy\n- f1\n",
            "model-index:\n- name: \"label\"\n",
            "name: \"dev.tsv, 2 texts\"\n",
            &accuracy,
            "edge-run -p hf:org/label",
        ] {
            assert!(card.contains(part), "{part:?} is not in: {card}");
        }

        let pulled = succeed(&hub, home, &["pull", "hf:org/label", "-o", "other.bias"]);
        assert_eq!(pulled, "other.bias\n");
        assert_eq!(fs::read(home.join("other.bias")).unwrap(), bytes);
        assert_eq!(fs::read_to_string(home.join("other.bias.minisig")).unwrap(), "a signature");
        let asked = hub.state().requests.len();
        let run = |patch: &str| {
            let mut run = hub.command("edge-run", home);
            assert_succeeded(&system_tests::with_input(run.args(["--bundle", "bundle", "-p", patch]), TEXTS))
        };
        for name in ["hf:org/label", "hf:org/label/label.bias", &format!("hf:org/label@{commit}")] {
            assert_eq!(run(name), run("label.bias"), "{name}");
        }
        assert_eq!(hub.state().requests.len(), asked, "edge-run asks nobody");
    }
}

#[test]
fn a_patch_that_was_fetched_is_fetched_no_more_and_is_there_without_the_hub() {
    let (hub, place) = start();
    let home = place.home.path();
    let bytes = fs::read(home.join("label.bias")).unwrap();
    let commit = hub.add("org/label", false, BTreeMap::from([("label.bias".to_owned(), bytes)]));
    let pull = |spec: &str| hub.command("edge-patch", home).args(["pull", spec]).output().unwrap();
    let requests = || std::mem::take(&mut hub.state().requests);
    let by_tag = assert_succeeded(&pull("hf:org/label@v1"));
    assert_eq!(requests().len(), 2, "the commit and the file");
    assert_eq!(assert_succeeded(&pull("hf:org/label@v1")), by_tag);
    assert_eq!(requests().len(), 1, "the commit");
    assert_eq!(assert_succeeded(&pull(&format!("hf:org/label/label.bias@{commit}"))), by_tag);
    assert_eq!(requests().len(), 0, "a commit never becomes another");

    // A file that another program left damaged is fetched again.
    let file = PathBuf::from(by_tag.trim());
    fs::write(&file, b"BIASPTCH and no more").unwrap();
    assert_succeeded(&pull("hf:org/label@v1"));
    Patch::open(&file).unwrap();

    hub.state().refuses = Some(("", 503));
    let unasked = pull("hf:org/label@v1");
    assert_eq!(assert_succeeded(&unasked), by_tag);
    let said = String::from_utf8(unasked.stderr).unwrap();
    assert!(said.contains("hf:org/label@v1 is what was fetched before") && said.contains("status 503"), "{said}");
    assert_refused(
        &pull("hf:org/label"),
        &["/api/models/org/label/revision/main", "503", "run the same command again later"],
    );
    requests();
    let offline =
        |spec| hub.command("edge-patch", home).args(["pull", spec]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(assert_succeeded(&offline("hf:org/label@v1")), by_tag);
    assert_refused(&offline("hf:org/other"), &["hf:org/other", "HF_HUB_OFFLINE is set, found none in", "unset it"]);
    assert_eq!(requests().len(), 0, "nobody is asked");

    // A newer commit of a branch is fetched when the Hub is asked.
    let newer = fs::read(home.join("number.bias")).unwrap();
    hub.state().refuses = None;
    hub.state().repositories.get_mut("org/label").unwrap().commit(Files::from([("a.bias".to_owned(), newer.clone())]));
    let now = assert_succeeded(&pull("hf:org/label"));
    assert_eq!(fs::read(now.trim()).unwrap(), newer);
}

#[test]
fn what_cannot_be_pulled_is_refused_and_leaves_nothing() {
    let (hub, place) = start();
    let home = place.home.path();
    let bytes = fs::read(home.join("label.bias")).unwrap();
    let of =
        |names: &[&str], bytes: &[u8]| names.iter().map(|name| (name.to_string(), bytes.to_vec())).collect::<Files>();
    hub.add("org/none", false, of(&["README.md"], b"text"));
    hub.add("org/two", false, of(&["a.bias", "b.bias"], &bytes));
    hub.add("org/other", false, of(&["a.bias", "a.bias.minisig"], b"<html>an error page</html>"));
    hub.add("org/damaged", false, of(&["a.bias"], &bytes[..bytes.len() - 1]));
    hub.add("org/private", true, of(&["a.bias"], &bytes));
    let cases: [(&str, &[&str]); 8] = [
        ("hf:org/none", &["hf:org/none", "expected a patch", "found none"]),
        ("hf:org/two", &["expected one patch, or /FILE.bias", "found a.bias, b.bias"]),
        ("hf:org/two/c.bias", &["expected the patch c.bias, found a.bias, b.bias"]),
        ("hf:org/two/a.bias@v2", &["status 404", "Invalid rev id", "name a branch, a tag or a commit"]),
        ("hf:org/other", &["/org/other/resolve/", "a.bias: not a bias patch"]),
        ("hf:org/damaged", &["/org/damaged/resolve/", "found", "copy it again"]),
        ("hf:org/absent", &["/org/absent: expected a repository", "is the name right", "HF_TOKEN"]),
        ("hf:org/private@v2", &["status 404"]),
    ];
    for (spec, parts) in cases {
        refuse(&hub, home, &["pull", spec, "-o", "out.bias"], parts);
    }
    let pull = |spec: &str| hub.command("edge-patch", home).args(["pull", spec]).output().unwrap();
    let no_token =
        ["/api/models/org/private/revision/main", "status 401", "needs a token, in HF_TOKEN or by `hf auth login`"];
    assert_refused(&pull("hf:org/private"), &no_token);
    let wrong = edge_patch(&hub, home, &["pull", "hf:org/private"]).env("HF_TOKEN", "wrong").output().unwrap();
    assert_refused(&wrong, &["status 401", "the token of HF_TOKEN is not valid here", "/settings/tokens"]);
    for (status, parts) in
        [(403, ["status 403", "has to permit read access to org/two"]), (429, ["status 429", "wait some minutes"])]
    {
        hub.state().refuses = Some(("/org/two/", status));
        refuse(&hub, home, &["pull", "hf:org/two/a.bias"], &parts);
    }
    hub.state().refuses = None;
    hub.state().truncates = true;
    refuse(&hub, home, &["pull", "hf:org/two/a.bias"], &["/org/two/resolve/", "is there a network"]);
    assert_eq!(files_below(&home.join("hub")), Vec::<PathBuf>::new());
    assert!(!home.join("out.bias").exists());

    hub.state().truncates = false;
    fs::write(home.join("mine.txt"), "mine").unwrap();
    refuse(&hub, home, &["pull", "hf:org/two/a.bias", "-o", "mine.txt"], &["mine.txt", "a file that is no patch"]);
    assert_eq!(fs::read_to_string(home.join("mine.txt")).unwrap(), "mine");
    let misused = edge_patch(&hub, home, &["pull", "org/two"]).output().unwrap();
    assert_misused(&misused, &["expected hf:ORG/NAME"]);
    let run = |patch: &str| hub.command("edge-run", home).args(["--bundle", "bundle", "-p", patch]).output().unwrap();
    assert_refused(&run("hf:org/two/a.bias"), &["hf:org/two/a.bias: not in", "`edge-patch pull hf:org/two/a.bias`"]);
    assert_refused(&run("hf:org"), &["expected hf:ORG/NAME"]);
}

#[test]
fn what_cannot_be_pushed_is_refused_before_anything_is_sent() {
    let (hub, place) = start();
    let home = place.home.path();
    fs::write(home.join("text.bias"), "no patch").unwrap();
    fs::copy(home.join("label.bias"), home.join("label.patch")).unwrap();
    refuse(&hub, home, &["push", "text.bias", "hf:org/label"], &["text.bias: not a bias patch"]);
    refuse(&hub, home, &["push", "label.patch", "hf:org/label"], &["expected a file NAME.bias"]);
    refuse(&hub, home, &["push", "label.bias", "hf:org/label@v1"], &["expected hf:ORG/NAME;", "goes to main"]);
    refuse(&hub, home, &["push", "label.bias", "hf:org/label", "--data", "no.tsv", "--encoder", "bundle"], &["no.tsv"]);
    let without = hub.command("edge-patch", home).args(["push", "label.bias", "hf:org/label"]).output().unwrap();
    assert_refused(&without, &["token: expected one that may write, in HF_TOKEN or by `hf auth login`"]);
    assert_eq!(hub.state().requests.len(), 0);

    // The token of a login, by a file.
    fs::create_dir(home.join("hub")).unwrap();
    fs::write(home.join("hub/token"), "reader\n").unwrap();
    let reader = || hub.command("edge-patch", home).args(["push", "label.bias", "hf:org/label"]).output().unwrap();
    let parts =
        ["/api/repos/create", "status 403", "You don't have the rights", "hub/token has to permit write access"];
    assert_refused(&reader(), &parts);
    assert!(hub.state().repositories.is_empty());
    hub.add("org/label", false, Files::new());
    assert_refused(&reader(), &["/api/models/org/label/preupload/main", "status 403", "write access to org/label"]);
    let wrong =
        edge_patch(&hub, home, &["push", "label.bias", "hf:org/label"]).env("HF_TOKEN", "wrong").output().unwrap();
    assert_refused(&wrong, &["status 401", "Invalid credentials", "the token of HF_TOKEN is not valid here"]);
    let private = ["expected a private repository, found a public one", "nothing was sent"];
    refuse(&hub, home, &["push", "label.bias", "hf:org/label", "--private"], &private);
    hub.state().refuses = Some(("/commit/", 412));
    refuse(&hub, home, &["push", "label.bias", "hf:org/label"], &["/commit/main", "412", "run the same command again"]);
    hub.state().lfs = true;
    hub.state().refuses = Some(("/storage/", 403));
    refuse(
        &hub,
        home,
        &["push", "label.bias", "hf:org/label"],
        &["/storage/", "status 403", "run the same command again"],
    );
    assert_eq!(hub.state().repositories["org/label"].commits.len(), 1, "nothing was committed");
    let requests = hub.state().requests.clone();
    assert!(requests.iter().filter(|r| r.contains("/storage/")).all(|r| r.ends_with("no token")), "{requests:#?}");
}

#[test]
fn a_private_repository_stays_private_and_a_card_of_others_stays() {
    let (hub, place) = start();
    let home = place.home.path();
    succeed(&hub, home, &["push", "label.bias", "hf:org/label", "--private", "-m", "The first"]);
    assert!(hub.state().repositories["org/label"].private);
    // A card of ours is written again, with what is known now.
    succeed(&hub, home, &["push", "label.bias", "hf:org/label", "--license", "mit"]);
    assert!(text(&hub.files("org/label"), "README.md").contains("license: \"mit\""));

    let mut files = hub.files("org/label");
    files.insert("README.md".to_owned(), b"# By hand".to_vec());
    files.insert("label.bias.minisig".to_owned(), b"of other bytes".to_vec());
    hub.state().repositories.get_mut("org/label").unwrap().commit(files);
    let said = succeed(&hub, home, &["push", "label.bias", "hf:org/label"]);
    assert!(said.contains("README.md is left as it is: somebody else wrote"), "{said}");
    let files = hub.files("org/label");
    assert_eq!(text(&files, "README.md"), "# By hand");
    assert!(!files.contains_key("label.bias.minisig"), "a signature of what was there before");

    // With a second patch, a task of one would mislead.
    let said = succeed(&hub, home, &["push", "tags.bias", "hf:org/label"]);
    assert!(said.contains("README.md is left as it is: the repository has other patches too"), "{said}");
    let names: Vec<String> = hub.files("org/label").into_keys().collect();
    assert_eq!(names, [".gitattributes", "README.md", "label.bias", "tags.bias"]);
}

#[test]
#[ignore = "needs Python with huggingface_hub: EDGE_PYTHON"]
fn the_hubs_own_library_reads_what_was_pushed_and_edge_run_what_it_fetched() {
    let (hub, place) = start();
    let home = place.home.path();
    fs::write(home.join("dev.tsv"), "sentence\tlabel\nthe film was good\tyes\nwhy was it bad\tno\n").unwrap();
    let scores = ["--data", "dev.tsv", "--encoder", "bundle", "--license", "mit", "--base-model", "org/base"];
    succeed(&hub, home, &[&["push", "label.bias", "hf:org/label"], &scores[..]].concat());
    let python = std::env::var("EDGE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = fixtures().parent().unwrap().join("peers/hub_client.py");
    let mut client = hub.command("edge-patch", home);
    let mut fetch = Command::new(python);
    fetch.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(home);
    assert_succeeded(&fetch.arg(script).args(["org/label", "label.bias"]).output().unwrap());
    // The library found the patch, and edge-patch and edge-run find what the library fetched.
    assert_succeeded(&client.args(["pull", "hf:org/label"]).env("HF_HUB_OFFLINE", "1").output().unwrap());
    let mut run = hub.command("edge-run", home);
    let answers = system_tests::with_input(run.args(["--bundle", "bundle", "-p", "hf:org/label"]), TEXTS);
    assert_eq!(assert_succeeded(&answers).lines().count(), 3, "a header and two answers");
}
