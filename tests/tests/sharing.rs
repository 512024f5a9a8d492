//! Several processes with one encoder: the weights are in memory once, and each process needs little memory of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use system_tests::{command, fixtures, real_bundle};
use tempfile::TempDir;

/// Kilobytes of the mappings whose first line `of` accepts, summed over the lines that begin with `name`.
fn kilobytes(smaps: &str, name: &str, of: impl Fn(&str) -> bool) -> u64 {
    let (mut inside, mut sum) = (false, 0);
    for line in smaps.lines() {
        // A mapping begins with its addresses; what follows is "Name: number kB".
        if line.split(' ').next().is_some_and(|first| first.contains('-')) {
            inside = of(line);
        } else if let (true, Some(number)) = (inside, line.strip_prefix(name)) {
            sum += number.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
    }
    sum
}

#[test]
#[ignore = "needs the real encoder"]
fn four_processes_hold_one_copy_of_the_weights() {
    let bundle = real_bundle();
    let patch = fixtures().ancestors().nth(2).unwrap().join("patches/library/sst2.bias");
    let home = TempDir::new().unwrap();
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            let mut command = command("edge-run", home.path());
            command.arg("--bundle").arg(bundle.dir()).arg("--patch").arg(&patch).args(["--unbuffered", "-o", "jsonl"]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    // All have answered, and none has ended.
    for child in &mut children {
        child.stdin.as_mut().unwrap().write_all(b"a joy from the first scene to the last\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert!(answer.contains("positive"), "{answer}");
    }
    let panels = bundle.panels();
    let name = panels.file_name().unwrap().to_str().unwrap();
    let of_panels = |line: &str| line.ends_with(name);
    let (mut proportional, mut dirty, mut own) = (0, 0, Vec::new());
    for child in &children {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap();
        proportional += kilobytes(&smaps, "Pss:", of_panels);
        dirty += kilobytes(&smaps, "Private_Dirty:", of_panels);
        own.push(kilobytes(&smaps, "Anonymous:", |_| true));
    }
    for mut child in children {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    let file = fs::metadata(&panels).unwrap().len() / 1024;
    println!(
        "four processes share {proportional} kB of a panels file of {file} kB, {dirty} kB changed; of their own {own:?} kB"
    );
    assert!(proportional > 0 && proportional <= file, "{proportional} kB of {file}");
    assert_eq!(dirty, 0);
    // The claim is 20 MB for a process.
    assert!(own.iter().all(|own| *own < 20_000), "{own:?}");
}
