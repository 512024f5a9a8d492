//! The C library as programs in C, C++ and JavaScript use it. Needs compilers, pkg-config, nm, readelf, and Node with
//! koffi:
//!
//! ```text
//! npm install --prefix target/node koffi
//! NODE_PATH=$PWD/target/node/node_modules cargo test -p system-tests --test c_library -- --ignored
//! ```

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::Value;
use system_tests::{assert_succeeded, libraries, place::Place, small_bundle, with_input};
use tempfile::TempDir;

/// Texts, and lines that all tasks or some cannot answer. The fourth is blank, as check.c expects.
const LINES: &[u8] = b"the film was good\n\xc3\xa9t\xc3\xa9 \"why\"\nvery unhappy, very happy\n \nwhy\tone two three\n\
    no text \xff\na film that goes on and on for so long that it has more words than the forty tokens that a task of \
    these tests reads, and is cut, which its answer has to say, so that nobody takes it for an answer to the whole\n";

/// The library's interface. Taking one away, or changing what it takes or gives, makes it another binary interface:
/// `EDGE_RUN_ABI_VERSION` grows then.
const SYMBOLS: [&str; 20] = [
    "edge_run_abi_version",
    "edge_run_answer_at",
    "edge_run_answer_error",
    "edge_run_answer_json",
    "edge_run_answer_label",
    "edge_run_answer_logits",
    "edge_run_answer_score",
    "edge_run_answers_free",
    "edge_run_attach",
    "edge_run_dimensions",
    "edge_run_embed",
    "edge_run_encoder_arithmetic",
    "edge_run_encoder_free",
    "edge_run_last_error",
    "edge_run_open",
    "edge_run_open_for_patch",
    "edge_run_predict",
    "edge_run_task_free",
    "edge_run_task_label",
    "edge_run_version",
];

#[derive(Clone, Copy, PartialEq)]
enum Linked {
    Shared,
    Static,
    /// Shared, with the program under AddressSanitizer, which also finds what the library does not free.
    Sanitized,
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("runtime/capi")
}

/// Where install.sh put the library.
fn prefix() -> &'static Path {
    static PREFIX: OnceLock<TempDir> = OnceLock::new();
    let prefix = PREFIX.get_or_init(|| {
        let prefix = TempDir::new().unwrap();
        let install = Command::new(sources().join("install.sh")).arg(prefix.path()).arg(libraries()).output();
        assert_succeeded(&install.unwrap());
        prefix
    });
    prefix.path()
}

/// What pkg-config says of the library.
fn pkg_config(arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    let said = command.args(arguments).arg("edge_run").env("PKG_CONFIG_PATH", prefix().join("lib/pkgconfig")).output();
    assert_succeeded(&said.unwrap()).split_whitespace().map(str::to_owned).collect()
}

/// Compiles a program into `to`, with the warnings of careful projects as errors. A name that ends with `cpp` is C++.
fn compile(source: &Path, to: &Path, linked: Linked) -> Command {
    let (compiler, standard) =
        if source.extension().is_some_and(|e| e == "cpp") { ("c++", "-std=c++17") } else { ("cc", "-std=c99") };
    let mut command = Command::new(compiler);
    command
        .args([standard, "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"])
        .args(pkg_config(&["--cflags"]));
    if linked == Linked::Sanitized {
        command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    }
    command.arg(source).arg("-o").arg(to);
    match linked {
        Linked::Static => {
            let libraries = pkg_config(&["--static", "--libs"]);
            command.args(libraries.iter().map(|word| match &**word {
                // Its file, for -l takes the shared one.
                "-ledge_run" => "-l:libedge_run.a",
                other => other,
            }))
        }
        _ => command.args(pkg_config(&["--libs"])),
    };
    let compiled = command.output().unwrap();
    assert_succeeded(&compiled);
    assert_eq!(String::from_utf8_lossy(&compiled.stderr), "", "the linker warns");
    let mut program = Command::new(to);
    // What a stack or a register still has of a pointer when a program ends is no use of it.
    program.env("LD_LIBRARY_PATH", prefix().join("lib")).env("LSAN_OPTIONS", "use_stacks=0:use_registers=0");
    program
}

/// A program with a store of its own, in which the place's encoder is.
fn at_home<'c>(program: &'c mut Command, place: &Place) -> &'c mut Command {
    let home = place.home.path();
    program.current_dir(home).env("XDG_DATA_HOME", home.join("data")).env("XDG_CACHE_HOME", home.join("cache"));
    let store = home.join("data/edge-run/bundles");
    fs::create_dir_all(&store).unwrap();
    let _ = symlink(place.bundle.dir(), store.join(place.bundle.manifest().encoder.to_string()));
    program
}

/// What check.c writes of the accessors, from a row of the command.
fn accessors(row: &Value) -> String {
    let number = |value: &Value| value.to_string().parse::<f32>().unwrap();
    let text = |field: &str| row[field].as_str().unwrap_or("none").to_owned();
    let score = row.get("score").or(row.get("value")).map_or(f32::NAN, number);
    let logits: Vec<f32> = row["logits"].as_array().into_iter().flatten().map(number).collect();
    format!("{}\t{score:?}\t{logits:?}\t{}", text("label"), text("error"))
}

/// The same, from what it writes: floats with the nine digits that tell all of them apart.
fn accessed(line: &str) -> String {
    let [label, score, logits, error] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let logits: Vec<f32> = logits.split_whitespace().map(|logit| logit.parse().unwrap()).collect();
    let score =
        score.trim_start_matches('-').parse::<f32>().map(|_| score.replace("-nan", "nan").parse::<f32>().unwrap());
    format!("{label}\t{:?}\t{logits:?}\t{error}", score.unwrap())
}

#[test]
#[ignore = "needs a C and a C++ compiler"]
fn a_c_program_reads_what_the_command_writes_and_is_refused_what_is_wrong() {
    let (place, (_other, other)) = (Place::new("bert"), small_bundle("bert-relu"));
    let names = ["label", "pair", "number", "tags", "span", "several", "vector"].map(|name| format!("{name}.bias"));
    let patches: Vec<&str> = names.iter().flat_map(|name| ["-p", name]).collect();
    let rows = place.run(&[&patches[..], &["-o", "jsonl", "--logits"]].concat(), LINES);
    assert_eq!(rows.status.code(), Some(3), "some lines have no answer: {}", String::from_utf8_lossy(&rows.stderr));
    let rows = String::from_utf8(rows.stdout).unwrap();
    let vectors = place.run(&["-p", "vector.bias", "-o", "f32"], LINES).stdout;

    for (name, linked) in [("shared", Linked::Shared), ("static", Linked::Static), ("sanitized", Linked::Sanitized)] {
        let mut program = compile(&sources().join("tests/check.c"), &place.home.path().join(name), linked);
        at_home(&mut program, &place).args(["bundle", ".", "vectors"]).arg(other.dir());
        let found = assert_succeeded(&with_input(&mut program, LINES));
        let (found_rows, found) = found.split_at(rows.len());
        assert_eq!(found_rows, rows, "{name}: JSON");
        let due: Vec<String> = rows.lines().map(|row| accessors(&serde_json::from_str(row).unwrap())).collect();
        assert_eq!(found.lines().map(accessed).collect::<Vec<_>>(), due, "{name}: label, score, logits, error");
        assert!(fs::read(place.home.path().join("vectors")).unwrap() == vectors, "{name}: vectors, byte for byte");
    }
}

#[test]
#[ignore = "needs a C and a C++ compiler"]
fn threads_of_a_cpp_program_share_an_encoder() {
    let place = Place::new("bert");
    for (name, linked) in [("shared", Linked::Shared), ("static", Linked::Static), ("sanitized", Linked::Sanitized)] {
        let mut program = compile(&sources().join("tests/threads.cpp"), &place.home.path().join(name), linked);
        // The threads of an encoder that was freed may end after the program, with what is theirs.
        program.env("ASAN_OPTIONS", "detect_leaks=0");
        let text = "the film was good, and very happy it was";
        assert_succeeded(&at_home(&mut program, &place).args(["label.bias", text]).output().unwrap());
    }
}

#[test]
#[ignore = "needs a C and a C++ compiler"]
fn the_example_of_the_manual_labels_a_text() {
    let place = Place::new("bert");
    let home = place.home.path();
    let manual = fs::read_to_string(sources().join("README.md")).unwrap();
    let example = manual.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(home.join("example.c"), example).unwrap();
    fs::copy(home.join("label.bias"), home.join("sst2.bias")).unwrap();
    let mut program = compile(&home.join("example.c"), &home.join("example"), Linked::Sanitized);
    let said = assert_succeeded(&at_home(&mut program, &place).output().unwrap());
    let row = &place.rows(&["-p", "label.bias"], b"a joy from the first scene to the last\n")[0];
    let due = format!("{} {:.4}\n", row["label"].as_str().unwrap(), row["score"].as_f64().unwrap());
    assert_eq!(said, due);
}

#[test]
#[ignore = "needs Node with koffi"]
fn the_example_for_node_writes_what_the_command_writes() {
    let place = Place::new("bert");
    let text = "\u{e9}t\u{e9}, the film was good";
    let mut node = Command::new("node");
    node.arg(sources().join("examples/label.js")).arg(prefix().join("lib/libedge_run.so")).args(["label.bias", text]);
    let said = assert_succeeded(&at_home(&mut node, &place).output().unwrap());
    let row = assert_succeeded(&place.run(&["-p", "label.bias", "-o", "jsonl", "--logits"], text.as_bytes()));
    assert_eq!(said, row.replace("\"line\":1,", ""));
}

#[test]
#[ignore = "needs nm and readelf"]
fn the_library_exports_its_interface_alone() {
    let library = prefix().join("lib/libedge_run.so");
    let said = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().unwrap();
    let mut found: Vec<String> =
        assert_succeeded(&said).lines().map(|line| line.split(' ').next_back().unwrap().to_owned()).collect();
    found.sort();
    assert_eq!(found, SYMBOLS);
    let header = fs::read_to_string(prefix().join("include/edge_run.h")).unwrap();
    let version = header.lines().find_map(|line| line.strip_prefix("#define EDGE_RUN_ABI_VERSION ")).unwrap();
    let said = Command::new("readelf").arg("-d").arg(&library).output().unwrap();
    assert!(assert_succeeded(&said).contains(&format!("soname: [libedge_run.so.{version}]")));
}
