//! A directory to train in: a small encoder, a task with two labels, and texts whose words determine the label.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use edge_bundle::Bundle;
use edge_export::Options;
use serde_json::json;
use tempfile::TempDir;

use crate::{command, in_shell, small_bundle_with};

/// A directory with `bundle`, `task.json`, `train.tsv` of 96 texts and `dev.tsv` of 40.
pub struct Mood {
    /// The directory.
    pub home: TempDir,
    /// The encoder's bundle.
    pub bundle: Bundle,
}

impl Default for Mood {
    fn default() -> Self {
        Mood::of("bert")
    }
}

impl Mood {
    /// With the small encoder of this name.
    pub fn of(encoder: &str) -> Self {
        Mood::with(encoder, Options::default())
    }

    /// The same, with export options.
    pub fn with(encoder: &str, options: Options) -> Self {
        let (home, bundle) = small_bundle_with(encoder, options);
        let mood = Mood { home, bundle };
        let rows = |from: usize, count: usize| {
            let row = |at: usize| {
                let words = ["film", "very", "the", "was", "not", "it", "cafe"];
                let (word, other) = (words[at * 3 % 7], words[at * 5 % 6]);
                let (good, label) = if at.is_multiple_of(2) { ("good", 1) } else { ("bad", 0) };
                format!("{word} {good} {other}\t{label}\n")
            };
            "sentence\tlabel\n".to_owned() + &(from..from + count).map(row).collect::<String>()
        };
        mood.write("train.tsv", rows(0, 96));
        mood.write("dev.tsv", rows(500, 40));
        let (labels, limit) = (["bad", "good"], 40);
        let task = json!({ "name": "mood", "kind": "classification", "labels": labels, "pooling": "mean", "max_length": limit });
        mood.write("task.json", task.to_string());
        mood
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file into the directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Reads a file of the directory.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Names of all files in the directory.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// `edge-patch` in the directory.
    pub fn edge_patch(&self, arguments: &[&str]) -> Command {
        let mut edge_patch = command("edge-patch", self.home.path());
        edge_patch.current_dir(self.home.path()).args(arguments);
        edge_patch
    }

    /// `edge-patch train` on the texts that are there.
    pub fn train(&self, output: &str, extra: &[&str]) -> Command {
        self.train_on("train.tsv", "dev.tsv", output, extra)
    }

    /// `edge-patch train` on other texts.
    pub fn train_on(&self, train: &str, dev: &str, output: &str, extra: &[&str]) -> Command {
        let fixed =
            ["train", "--encoder", "bundle", "--task", "task.json", "--train", train, "--dev", dev, "-o", output];
        self.edge_patch(&[&fixed[..], extra].concat())
    }
}

/// Runs a command that cannot write files of more than a kilobyte, as if the disk were full.
pub fn on_full_disk(command: &Command) -> Output {
    // In sh a block is 512 bytes, in bash 1024; a file that grows beyond the limit is an error once the signal is
    // ignored.
    in_shell(command, "trap '' XFSZ; ulimit -f 1").output().unwrap()
}
