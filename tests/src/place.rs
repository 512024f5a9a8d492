//! A directory to run `edge-run` in: a small encoder, and a patch of each kind for it.

use std::process::Output;

use edge_bundle::Bundle;
use serde_json::Value;
use tempfile::TempDir;

use crate::{command, in_shell, small_bundle, with_input, write_patches};

/// A directory with `bundle` and the patches of [`write_patches`].
pub struct Place {
    /// The directory.
    pub home: TempDir,
    /// The encoder's bundle.
    pub bundle: Bundle,
}

impl Place {
    /// With the small encoder of this name.
    pub fn new(encoder: &str) -> Place {
        let (home, bundle) = small_bundle(encoder);
        write_patches(&bundle, home.path());
        Place { home, bundle }
    }

    /// The output of `edge-run` for an input.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = command("edge-run", self.home.path());
        with_input(command.current_dir(self.home.path()).args(["--bundle", "bundle"]).args(arguments), input)
    }

    /// The output of `edge-patch`.
    pub fn patch(&self, arguments: &[&str]) -> Output {
        let mut command = command("edge-patch", self.home.path());
        command.current_dir(self.home.path()).args(arguments).output().unwrap()
    }

    /// Its rows as JSON; asserts that it succeeds.
    pub fn rows(&self, arguments: &[&str], input: &[u8]) -> Vec<Value> {
        let output = self.run(&[arguments, &["--output", "jsonl"]].concat(), input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The output of `edge-run` under a limit of `ulimit`: kilobytes of address space (`v 4096`) or blocks of a file
    /// (`f 8`).
    #[cfg(target_os = "linux")]
    pub fn limited(&self, limit: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut run = command("edge-run", self.home.path());
        run.current_dir(self.home.path()).args(arguments);
        // With the signal ignored, a file above the limit is an ordinary error.
        with_input(&mut in_shell(&run, &format!("trap '' XFSZ; ulimit -{limit}")), input)
    }
}
