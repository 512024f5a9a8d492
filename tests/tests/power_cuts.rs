//! Commands that a power cut ends. A command's calls are recorded with strace, and the directory is made as a disk may
//! hold it after any of them. There the same command ends with the same files.
//!
//! What a disk may hold: of data that no fsync of its file followed everything, nothing, half or zeros; of names that
//! no fsync of their directory followed any. `EDGE_POWER_CUTS` says how many such directories are made for a command,
//! or `all`.
#![cfg(target_os = "linux")]

#[path = "power_cuts/recording.rs"]
mod recording;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
};

use bias_patch::Digest;
use recording::{Recording, Tree, Unsynced};
use system_tests::{
    assert_succeeded, command,
    hub::{Hub, files_of},
    mood::Mood,
    patch, patch_with_terms, task,
};
use tempfile::TempDir;

/// Directories for a command, so that all commands together take less than a minute.
const SAMPLE: usize = 12;
/// As many random ones after each call as there are others.
const RANDOM: u64 = 4;

/// A command in the directory `home`.
type Made<'a> = &'a dyn Fn(&Path) -> Command;

/// What is checked beside.
struct Check<'a> {
    /// How paths begin whose bytes tell of the time and place, and of logs, which may end early.
    free: &'a [&'a str],
    /// Files that belong together. If the first is there, all are: those from before, or those that are due. One that
    /// is alone and was there before stays there.
    together: &'a [&'a str],
}

fn is_free(path: &Path, check: &Check<'_>) -> bool {
    check.free.iter().any(|begin| path.to_str().unwrap().starts_with(begin))
}

/// Cuts the power while a command runs in `home`, and lets the command run again.
fn cut(what: &str, home: &Path, made: Made<'_>, check: &Check<'_>) {
    let before = read(home);
    let recording = Recording::of(home, &made(home));
    let due = read(home);
    let whole = |tree: &Tree| -> Tree {
        tree.iter().filter(|(path, _)| !is_free(path, check)).map(|(p, b)| (p.clone(), b.clone())).collect()
    };
    let all = recording.len();
    assert_eq!(differences(&recording.after(all, &|_| true, &|_| Unsynced::Kept), &due), "", "{what}: replayed");
    // What a command has written is there when it has ended, whatever happens then.
    let durable = recording.after(all, &|_| false, &|_| Unsynced::Lost);
    let lost = differences(&whole(&durable), &whole(&due));
    // A name that is gone may come back.
    let lost: Vec<&str> = lost.lines().filter(|line| !line.ends_with("only in the first")).collect();
    assert!(lost.is_empty(), "{what}: a power cut after its end loses {lost:?}");
    let mut states: BTreeMap<Digest, (String, Tree)> = BTreeMap::new();
    for count in 0..=all {
        let mut add = |name: String, tree: Tree| {
            let digest = Digest::of(format!("{tree:?}").as_bytes());
            states.entry(digest).or_insert((name, tree));
        };
        for names in [false, true] {
            for data in [Unsynced::Kept, Unsynced::Lost, Unsynced::Half, Unsynced::Zeros] {
                add(format!("{count} calls, names {names}, {data:?}"), recording.after(count, &|_| names, &|_| data));
            }
        }
        for random in 0..RANDOM {
            let coin = |at: usize| Digest::of(format!("{count} {random} {at}").as_bytes()).to_string().as_bytes()[0];
            let data = |file: usize| {
                [Unsynced::Kept, Unsynced::Lost, Unsynced::Half, Unsynced::Zeros][usize::from(coin(file) % 4)]
            };
            add(
                format!("{count} calls, random {random}"),
                recording.after(count, &|at| coin(at).is_multiple_of(2), &data),
            );
        }
    }
    let found = states.len();
    let sample = match env::var("EDGE_POWER_CUTS") {
        Ok(text) if text == "all" => found,
        Ok(text) => text.parse().unwrap(),
        Err(_) => SAMPLE,
    };
    // Digests are in no order of the calls.
    let mut failed = BTreeSet::new();
    for (name, tree) in states.into_values().take(sample) {
        let is = |of: &Tree| check.together.iter().map(Path::new).all(|path| tree.get(path) == of.get(path));
        let first = check.together.first().map(Path::new);
        let absent = |path: &Path| !tree.contains_key(path) && (check.together.len() > 1 || !before.contains_key(path));
        if !first.is_none_or(absent) && !is(&before) && !is(&due) {
            failed.insert(format!("neither old nor new after {name}: {:?}", check.together));
        }
        let dir = TempDir::new().unwrap();
        write(dir.path(), &tree);
        let output = made(dir.path()).output().unwrap();
        if output.status.success() {
            let difference = differences(&whole(&read(dir.path())), &whole(&due));
            if !difference.is_empty() {
                failed.insert(format!("after {name}: {difference}"));
            }
        } else {
            failed.insert(format!("after {name}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    println!("{what}: {all} calls, {found} directories, {} tried", sample.min(found));
    let shown: Vec<&String> = failed.iter().take(12).collect();
    assert!(failed.is_empty(), "{what}: {} failed: {shown:#?}", failed.len());
}

/// Paths at which two directories differ.
fn differences(first: &Tree, second: &Tree) -> String {
    let paths: BTreeSet<_> = first.keys().chain(second.keys()).collect();
    let differ = paths.into_iter().filter(|path| first.get(*path) != second.get(*path));
    let how = |path| match (first.get(path), second.get(path)) {
        (Some(_), None) => "only in the first",
        (None, Some(_)) => "only in the second",
        _ => "other bytes",
    };
    differ.map(|path| format!("{}: {}\n", path.display(), how(path))).collect()
}

fn read(dir: &Path) -> Tree {
    fn add(root: &Path, dir: &Path, tree: &mut Tree) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(root).unwrap();
            if path.is_dir() {
                tree.insert(name.join(""), Vec::new());
                add(root, &path, tree);
            } else {
                tree.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut tree = Tree::new();
    add(dir, dir, &mut tree);
    tree
}

fn write(dir: &Path, tree: &Tree) {
    for (path, bytes) in tree {
        let path = dir.join(path);
        if path.to_str().unwrap().ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::write(path, bytes).unwrap();
        }
    }
}

fn made<'a>(program: &'a str, arguments: &'a [&'a str]) -> impl Fn(&Path) -> Command + 'a {
    move |home| {
        let mut command = command(program, home);
        command.current_dir(home).args(arguments);
        command
    }
}

/// Notes of what was checked, which are about inodes. A cache may be lost.
const FREE: &[&str] = &["cache/"];

#[test]
#[ignore = "needs strace"]
fn an_export() {
    let mood = Mood::default();
    let home = mood.home.path();
    let check = Check { free: FREE, together: &[] };
    cut("export to the store", home, &made("edge-export", &["checkpoint"]), &check);
    cut("export", home, &made("edge-export", &["checkpoint", "-o", "new"]), &check);
    let int8 = ["checkpoint", "-o", "new", "--weights", "int8"];
    let bundle = ["new/bundle.json", "new/base.bias", "new/encoder.onnx", "new/weights.bin", "new/vocabulary.bin"];
    let together = Check { free: FREE, together: &bundle };
    cut("export over a bundle", home, &made("edge-export", &int8), &together);
}

#[test]
#[ignore = "needs strace"]
fn a_first_run() {
    let mood = Mood::default();
    patch(&mood.bundle, task("x", "classification", 1), "x").save(&mood.path("x.bias")).unwrap();
    let run = made("edge-run", &["--bundle", "bundle", "--patch", "x.bias", "dev.tsv"]);
    cut("panels", mood.home.path(), &run, &Check { free: FREE, together: &[] });
}

#[test]
#[ignore = "needs strace"]
fn a_training() {
    let mood = Mood::default();
    let train = |home: &Path| {
        let mut train = command("edge-patch", home);
        train.current_dir(home).args(["train", "--encoder", "bundle", "--task", "task.json", "--train", "train.tsv"]);
        train.args(["--dev", "dev.tsv", "-o", "x.bias", "--lr", "3e-3,1e-2", "--epochs", "2", "--batch", "8"]);
        train.args(["--log", "log.jsonl"]);
        train
    };
    assert_succeeded(&mood.train("x.bias", &["--epochs", "1"]).output().unwrap());
    cut("training", mood.home.path(), &train, &Check { free: &["cache/", "log.jsonl"], together: &["x.bias"] });
}

#[test]
#[ignore = "needs strace"]
fn other_files() {
    let mood = Mood::default();
    let home = mood.home.path();
    patch_with_terms(&mood.bundle, task("x", "classification", 1), "x").save(&mood.path("x.bias")).unwrap();
    patch_with_terms(&mood.bundle, task("y", "classification", 1), "y").save(&mood.path("y.bias")).unwrap();
    let convert = ["convert", "x.bias", "--encoder", "bundle", "--encoding", "i4", "-o", "y.bias"];
    cut("conversion over a patch", home, &made("edge-patch", &convert), &Check { free: FREE, together: &["y.bias"] });
    let extract = |from| ["extract", from, "--encoder", "bundle", "--format", "peft", "-o", "adapter"];
    cut("adapter", home, &made("edge-patch", &extract("x.bias")), &Check { free: FREE, together: &[] });
    let together =
        Check { free: FREE, together: &["adapter/adapter_config.json", "adapter/adapter_model.safetensors"] };
    cut("adapter over another", home, &made("edge-patch", &extract("y.bias")), &together);
}

#[test]
#[ignore = "needs strace"]
fn a_pull() {
    let mood = Mood::default();
    let hub = Hub::start();
    let dir = TempDir::new().unwrap();
    patch(&mood.bundle, task("x", "classification", 1), "x").save(&dir.path().join("x.bias")).unwrap();
    fs::write(dir.path().join("x.bias.minisig"), "a signature").unwrap();
    hub.add("org/x", false, files_of(dir.path()));
    let pull = |home: &Path| {
        let mut pull = hub.command("edge-patch", home);
        pull.args(["pull", "hf:org/x", "-o", "x.bias"]);
        pull
    };
    cut("pull", mood.home.path(), &pull, &Check { free: FREE, together: &[] });
}
