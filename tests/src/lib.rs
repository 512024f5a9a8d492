//! Helpers of the system tests: small encoders made from a seed, patches for them, and the commands under test.
//!
//! A helper panics if something is wrong: the test fails.
#![forbid(unsafe_code)]

pub mod gradients;
pub mod graph;
pub mod http;
pub mod hub;
pub mod mood;
pub mod place;
pub mod server;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use bias_patch::{Encoding, Head, Kind, Linear, Patch, SlotKind, Stored, StoredSlot, Task};
use edge_bundle::{Bundle, Element, Slot, Store};
use edge_export::{Destination, EXAMPLE, Options, export, fetch};
use edge_run::Text;
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde::Deserialize;
use tempfile::TempDir;

pub use gradients::Gradients;

/// What transformers computes on a small encoder, as `tests/reference/make_encoders.py` wrote it.
#[derive(Deserialize)]
pub struct Fixture {
    /// The encoder's `config.json`.
    pub config: serde_json::Value,
    /// Tokenizer files, by name.
    pub files: BTreeMap<String, String>,
    /// Shape of every tensor, by name.
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// Texts, and the expected values.
    pub cases: Vec<Case>,
}

/// A text, and the expected values.
#[derive(Deserialize)]
pub struct Case {
    /// One text or two.
    pub text: Vec<String>,
    /// Its token ids.
    pub input_ids: Vec<u32>,
    /// The last hidden state, a row for each token.
    pub hidden: Vec<Vec<f32>>,
    /// The pooler's output.
    #[serde(default)]
    pub pooled: Vec<f32>,
}

impl Case {
    /// Its one text or two.
    pub fn read(&self) -> Text {
        match &self.text[..] {
            [one] => Text::one(one),
            [first, second] => Text::pair(first, second),
            other => panic!("{other:?}"),
        }
    }
}

/// How a checkpoint is written.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    /// Before every tensor's name.
    pub prefix: &'a str,
    /// Type of every tensor: F32, F16 or BF16.
    pub dtype: Dtype,
    /// Number of files the tensors are spread over.
    pub shards: usize,
}

impl Default for Layout<'_> {
    fn default() -> Self {
        Layout { prefix: "", dtype: Dtype::F32, shards: 1 }
    }
}

/// Names of all fixtures.
pub const ENCODERS: [&str; 16] = [
    "bert",
    "bert-cased-tanh",
    "bert-relu",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "electra",
    "mpnet",
    "modernbert",
    "modernbert-2",
    "albert",
    "deberta-v3",
    "nomic",
    "gte",
    "gte-new",
];

/// A fixture of each family.
pub const FAMILIES: [&str; 10] =
    ["bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "albert", "deberta-v3", "nomic", "gte"];

impl Fixture {
    /// Reads a fixture.
    pub fn named(name: &str) -> Self {
        let path = fixtures().join("encoders").join(format!("{name}.json"));
        let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The values of a tensor, as `value` in `make_encoders.py` computes them.
    pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
        let mut state =
            name.bytes().fold(2_166_136_261u32, |state, byte| (state ^ u32::from(byte)).wrapping_mul(16_777_619));
        let count: usize = shape.iter().product();
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        };
        let scaled = |n: f64| match (name.ends_with("bias"), shape.len()) {
            (true, _) => 0.2 * n,
            (false, 1) => 1.0 + 0.2 * n,
            (false, _) => 0.3 * n,
        };
        (0..count).map(|_| scaled(next()) as f32).collect()
    }

    /// Writes the checkpoint into `dir`.
    pub fn write(&self, dir: &Path, layout: Layout<'_>) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        for (name, text) in &self.files {
            fs::write(dir.join(name), text).unwrap();
        }
        let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = self
            .tensors
            .iter()
            .map(|(name, shape)| (format!("{}{name}", layout.prefix), shape.clone(), Self::values(name, shape)))
            .collect();
        if layout.shards == 1 {
            return write_tensors(&dir.join("model.safetensors"), layout.dtype, &tensors);
        }
        let mut map = serde_json::Map::new();
        for (at, part) in tensors.chunks(tensors.len().div_ceil(layout.shards)).enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", at + 1, layout.shards);
            write_tensors(&dir.join(&file), layout.dtype, part);
            map.extend(part.iter().map(|(name, ..)| (name.clone(), file.clone().into())));
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": map });
        fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    /// Writes the checkpoint and exports it.
    pub fn export(&self, dir: &Path, options: Options) -> Bundle {
        let checkpoint = dir.join("checkpoint");
        self.write(&checkpoint, Layout::default());
        export(&checkpoint, "fixture", &Destination::Dir(dir.join("bundle")), options, &mut |_| ()).unwrap()
    }
}

/// A bundle of a fixture in a temporary directory.
pub fn small_bundle(name: &str) -> (TempDir, Bundle) {
    small_bundle_with(name, Options::default())
}

/// A bundle of a fixture in a temporary directory, with export options.
pub fn small_bundle_with(name: &str, options: Options) -> (TempDir, Bundle) {
    let dir = TempDir::new().unwrap();
    let bundle = Fixture::named(name).export(dir.path(), options);
    (dir, bundle)
}

/// Options for f16 weights.
pub fn f16() -> Options {
    Options { weights: Element::F16, ..Options::default() }
}

/// Options for int8 weights.
pub fn int8() -> Options {
    Options { weights: Element::I8, ..Options::default() }
}

/// Options for int4 weights.
pub fn int4() -> Options {
    Options { weights: Element::I4, ..Options::default() }
}

/// Options for a graph that takes low-rank terms.
pub fn low_rank_inputs() -> Options {
    Options { low_rank_inputs: true, ..Options::default() }
}

/// The bundle of the real encoder, in the user's store; fetched and exported the first time.
pub fn real_bundle() -> Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| make_real_bundle(Options::default())).clone()
}

/// As [`real_bundle`], with int8 weights.
pub fn real_bundle_int8() -> Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| make_real_bundle(int8())).clone()
}

fn make_real_bundle(options: Options) -> Bundle {
    let to = Destination::Store(Store::of_user().unwrap());
    let source = fetch(EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    export(&source.dir, &source.name, &to, options, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Writes a safetensors file.
pub fn write_tensors(path: &Path, dtype: Dtype, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let encode = |values: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    };
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(.., values)| encode(values)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A task of some kind that suits every encoder.
pub fn task(name: &str, kind: &str, inputs: u8) -> Task {
    let labels = matches!(kind, "classification" | "tagging" | "multi-label").then(|| vec!["no", "maybe", "yes"]);
    let pooling = (!matches!(kind, "tagging" | "span")).then_some("mean");
    let json = serde_json::json!({
        "name": name, "kind": kind, "labels": labels, "pooling": pooling, "inputs": inputs, "max_length": 40
    });
    serde_json::from_value(json).unwrap()
}

/// Whether a patch may have a bias of the bundle's encoder.
pub fn has_effect(bundle: &Bundle, slot: &Slot) -> bool {
    bundle.manifest().config.bias_counts(slot.module)
}

/// A patch that changes every slot of the bundle's encoder that has an effect. The seed determines the values.
pub fn patch(bundle: &Bundle, task: Task, seed: &str) -> Patch {
    let base = bundle.base().unwrap();
    let slots = bundle.manifest().slots.iter().zip(base.slots()).filter(|(slot, _)| has_effect(bundle, slot));
    let slots = slots.map(|(slot, base)| {
        let change = Fixture::values(&format!("{seed} {} bias", slot.id()), &[base.len()]);
        let values: Vec<f32> = base.iter().zip(change).map(|(b, c)| b + 0.5 * c).collect();
        StoredSlot { id: slot.id(), values: Stored::encode(&values, Some(base), Encoding::F32).unwrap() }
    });
    let slots = slots.collect();
    let inputs = bundle.manifest().config.hidden as usize;
    let outputs = task.kind().outputs().unwrap_or(inputs / 2);
    let weight = Fixture::values(&format!("{seed} weight"), &[outputs, inputs]);
    let bias = Fixture::values(&format!("{seed} bias"), &[outputs]);
    let head = Head::of(Linear::exact(&weight, &bias).unwrap());
    let metadata = [("made".to_owned(), "by a test".to_owned())];
    Patch::new(bundle.manifest().encoder, task, slots, head, metadata).unwrap()
}

/// A patch as [`patch`] makes it, with low-rank terms of every linear layer: of rank 1, 2 and 3 by turns.
pub fn patch_with_terms(bundle: &Bundle, task: Task, seed: &str) -> Patch {
    let plain = patch(bundle, task, seed);
    let shape = bundle.manifest().shape();
    let layers = shape.slots.iter().filter_map(|slot| Some((slot, slot.inputs?)));
    let terms = layers.enumerate().flat_map(|(at, (slot, inputs))| {
        [(SlotKind::LoraA, inputs), (SlotKind::LoraB, slot.len)].map(|(kind, width)| {
            let id = slot.id.with_kind(kind).unwrap();
            let values = Fixture::values(&format!("{seed} {id} bias"), &[at % 3 + 1, width as usize]);
            StoredSlot { id, values: Stored::encode(&values, None, Encoding::F32).unwrap() }
        })
    });
    let mut slots: Vec<StoredSlot> = plain.slots().iter().cloned().chain(terms).collect();
    slots.sort_by_key(|slot| slot.id);
    let (task, head) = (plain.task().clone(), plain.head().clone());
    Patch::new(plain.encoder(), task, slots, head, plain.metadata().clone()).unwrap()
}

/// A patch of each kind of task, by file name, written into `dir`.
pub fn write_patches(bundle: &Bundle, dir: &Path) -> BTreeMap<&'static str, PathBuf> {
    let kinds = [
        ("label", "classification", 1),
        ("pair", "classification", 2),
        ("number", "regression", 1),
        ("tags", "tagging", 1),
        ("span", "span", 2),
        ("several", "multi-label", 1),
        ("vector", "embedding", 1),
    ];
    kinds
        .into_iter()
        .map(|(name, kind, inputs)| {
            let path = dir.join(format!("{name}.bias"));
            let made = patch(bundle, task(name, kind, inputs), name);
            assert!(matches!((made.task().kind(), kind), (Kind::Span { .. }, "span")) == (kind == "span"));
            made.save(&path).unwrap();
            (name, path)
        })
        .collect()
}

/// One of the project's commands, with a store and a cache of its own under `home`.
pub fn command(name: &str, home: &Path) -> Command {
    let mut command = Command::new(program(name));
    command.env("XDG_DATA_HOME", home.join("data")).env("XDG_CACHE_HOME", home.join("cache")).stdin(Stdio::null());
    command
}

/// The lines of README.md that have this part, in a shell that finds the project's commands.
pub fn readme_lines(part: &str, home: &Path) -> Command {
    let readme = fs::read_to_string(fixtures().join("../../README.md")).unwrap();
    let lines =
        readme.split("```").skip(1).step_by(2).find(|lines| lines.contains(part)).expect("lines with that part");
    let mut path = program("edge-run").parent().unwrap().as_os_str().to_owned();
    path.push(":/usr/bin:/bin");
    let mut shell = Command::new("sh");
    shell.args(["-euc", lines]).env("PATH", path).current_dir(home);
    shell.env("XDG_DATA_HOME", home.join("data")).env("XDG_CACHE_HOME", home.join("cache")).stdin(Stdio::null());
    shell
}

/// The command, started by `sh` after `before`, with the limits, variables and open files that `before` sets.
pub fn in_shell(command: &Command, before: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!(r#"{before} && exec "$@""#))
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell
}

/// Runs a command, with text on its standard input.
pub fn with_input(command: &mut Command, input: &[u8]) -> Output {
    use std::io::Write;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The command may stop before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// Asserts that a command failed with exit code 1 and said all of `parts`.
pub fn assert_refused(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "exit code; it said: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Asserts that a command was used wrongly, with exit code 2, and said all of `parts`.
pub fn assert_misused(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "exit code; it said: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Asserts that a command succeeded, and gives its standard output.
pub fn assert_succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Files that tests share.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A command: the file of that name in the directory `EDGE_COMMANDS`, such as another machine's under an emulator, or
/// else this machine's.
fn program(name: &str) -> PathBuf {
    if let Some(directory) = env::var_os("EDGE_COMMANDS").map(PathBuf::from) {
        assert!(directory.is_dir(), "EDGE_COMMANDS: expected a directory, found {}", directory.display());
        if directory.join(name).exists() {
            return directory.join(name);
        }
    }
    binaries().join(name)
}

/// Where the project's libraries for other languages are, built as this test was.
pub fn libraries() -> PathBuf {
    build("--lib")
}

/// Where the project's commands are, built as this test was.
fn binaries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("--bins"))
}

/// Builds what no test depends on, as this test was built: cargo does so only when asked. Gives where it is.
fn build(targets: &str) -> PathBuf {
    // target/<profile>/deps/<this test>
    let test = env::current_exe().unwrap();
    let directory =
        test.ancestors().find(|d| d.ends_with("deps") || d.ends_with("examples")).unwrap().parent().unwrap();
    let profile = match directory.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", targets, "--offline", "--profile", profile, "--target-dir"])
        .arg(directory.parent().unwrap())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "building {targets} failed");
    directory.to_owned()
}
