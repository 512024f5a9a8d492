//! `edge-serve` on a small encoder and a directory of patches, for as long as a test needs it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use bias_patch::{Head, Linear, Patch};
use edge_bundle::Bundle;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{PATIENCE, Reply, ask, connect, start, start_after},
    patch, small_bundle, task,
};

/// A server of its own, with a directory of patches; it is killed at the end.
pub struct Server {
    /// The directory of the store, the cache, the log and everything else.
    pub home: TempDir,
    /// The encoder.
    pub bundle: Bundle,
    /// The directory of patches.
    pub patches: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub child: Child,
    arguments: Vec<&'static str>,
}

impl Server {
    /// Serves some tasks of one text, each with a patch of its own.
    pub fn of(tasks: &[&str]) -> Server {
        Self::with(tasks, &[])
    }

    /// The same, with arguments.
    pub fn with(tasks: &[&str], arguments: &[&'static str]) -> Server {
        let (home, bundle) = home_of(tasks);
        Self::at(home, bundle, arguments)
    }

    /// The same, in a home that [`home_of`] made.
    pub fn at(home: TempDir, bundle: Bundle, arguments: &[&'static str]) -> Server {
        let (address, child) = start(home.path(), bundle.dir(), arguments);
        Server { patches: home.path().join("patches"), home, bundle, address, child, arguments: arguments.to_vec() }
    }

    /// Serves no task yet, started by `sh` after `before`.
    pub fn after(before: &str) -> Server {
        let (home, bundle) = home_of(&[]);
        let (address, child) = start_after(before, home.path(), bundle.dir());
        Server { patches: home.path().join("patches"), home, bundle, address, child, arguments: Vec::new() }
    }

    /// Starts it again after its end, with the same arguments.
    pub fn restart(&mut self) {
        (self.address, self.child) = start(self.home.path(), self.bundle.dir(), &self.arguments);
    }

    /// A new connection.
    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Asks for an address.
    pub fn get(&self, path: &str) -> Reply {
        ask(&mut self.connect(), "GET", path, &[], b"")
    }

    /// Sends JSON to an address.
    pub fn post(&self, path: &str, body: Value) -> Reply {
        ask(&mut self.connect(), "POST", path, &[], body.to_string().as_bytes())
    }

    /// Waits until `holds` accepts the answer of `GET /tasks`.
    pub fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let found = self.get("/tasks").json();
            if holds(&found) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} did not happen; the tasks are {found}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
    }

    /// Writes a file beside the patches and renames it into place.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let beside = self.home.path().join(format!("{name}.new"));
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, self.patches.join(name)).unwrap();
    }
}

/// A directory with a bundle and, in `patches`, a patch for each of some tasks of one text.
pub fn home_of(tasks: &[&str]) -> (TempDir, Bundle) {
    let (home, bundle) = small_bundle("bert");
    let patches = home.path().join("patches");
    fs::create_dir(&patches).unwrap();
    for name in tasks {
        patch(&bundle, task(name, "classification", 1), name).save(&patches.join(format!("{name}.bias"))).unwrap();
    }
    (home, bundle)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A patch that can be recognized by its answer: the head's weights are zero, so its logits are its biases.
pub fn telling(bundle: &Bundle, name: &str, version: usize) -> Patch {
    let like = patch(bundle, task(name, "classification", 1), name);
    let weight = vec![0.0; 3 * bundle.manifest().config.hidden as usize];
    let mark = version as f32;
    let head = Head::of(Linear::exact(&weight, &[mark, -mark, mark + 0.5]).unwrap());
    Patch::new(bundle.manifest().encoder, like.task().clone(), like.slots().to_vec(), head, []).unwrap()
}

/// Names of the tasks of a `GET /tasks`.
pub fn names(tasks: &Value) -> Vec<&str> {
    tasks["tasks"].as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap()).collect()
}

/// The refused files in it, with reasons.
pub fn reasons(tasks: &Value) -> String {
    tasks["refused"].to_string()
}
