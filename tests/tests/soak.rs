//! `edge-serve` while its patches are swapped under eight clients, for as long as wanted.
//!
//! In: how many swaps, in `EDGE_SOAK_SWAPS`. Out: a table with a row for each tenth of them. Refused: a request that
//! fails, an answer of two versions, memory or open files that grow, answers that become slow. Linux alone.
#![cfg(target_os = "linux")]

use std::{
    env,
    fs::{self, File},
    mem,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use bias_patch::Digest;
use serde_json::json;
use system_tests::{
    http::{PATIENCE, ask, connect},
    server::{Server, names, telling},
};

const TASKS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const VERSIONS: usize = 4;
const TENTHS: usize = 10;

/// From the end of the first tenth to that of the last. A few hundred swaps are over before the allocator has settled.
const MOST_GROWTH_BYTES: f64 = 1e6;
const SETTLED_SWAPS: usize = 10_000;
/// Connections of the last questions about metrics, which are still being closed.
const CLOSING_FILES: usize = 4;
/// The median time of an answer in the second half over that in the first. Other programs share the processor, so of
/// each half its fastest tenth counts.
const MOST_SLOWER: u32 = 2;

/// More than the server's anonymous memory, and less than that and what it maps of files.
const LITTLE_MEMORY: u64 = 8 << 20;
/// How many times memory becomes short.
const SHORTAGES: usize = 100;

/// What a tenth of the swaps ended with.
struct Tenth {
    anonymous_bytes: f64,
    files: usize,
    median_us: u32,
}

/// Swaps patches until the server has seen `count` swaps while eight clients ask without pause. No request fails, and
/// every answer comes from one version: its logits carry one mark, and its score fits them. Every hundredth file is cut
/// short at first, as on a full disk, and all times of change are random. `press` is called [`SHORTAGES`] times.
fn soak(server: &Server, count: usize, press: &dyn Fn()) {
    let versions: Vec<Vec<Vec<u8>>> = TASKS
        .iter()
        .map(|name| (0..VERSIONS).map(|v| telling(&server.bundle, name, v).to_bytes().unwrap()).collect())
        .collect();
    for (name, versions) in TASKS.iter().zip(&versions) {
        server.put(&format!("{name}.bias"), &versions[0]);
    }
    server.wait("eight tasks", |found| names(found) == TASKS);
    let (done, times) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let mut tenths: Vec<Tenth> = Vec::new();
    println!("   swaps  seconds   answers  median ms  p99 ms  anonymous MB  resident MB  files");
    thread::scope(|scope| {
        for (name, versions) in TASKS.iter().zip(&versions) {
            scope.spawn(|| client(server, name, versions, &done, &times));
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let (mut begun, mut pressed) = (Instant::now(), 0);
        for at in 0.. {
            let (task, version) = (at % TASKS.len(), (at / TASKS.len() + 1) % VERSIONS);
            let (name, bytes) = (format!("{}.bias", TASKS[task]), &versions[task][version]);
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if at % 100 == 99 {
                put(server, &name, &bytes[..state as usize % bytes.len()], state);
                thread::sleep(Duration::from_millis(2));
            }
            put(server, &name, bytes, state);
            // So that the swaps are seen one by one, not as one.
            thread::sleep(Duration::from_millis(1));
            if at % 100 != 0 {
                continue;
            }
            let swaps = server.metric("edge_serve_task_swaps_total");
            if swaps >= (count * pressed) as f64 / SHORTAGES as f64 {
                press();
                pressed += 1;
            }
            if swaps >= (count * (tenths.len() + 1)) as f64 / TENTHS as f64 {
                tenths.push(Tenth::of(server, swaps, begun.elapsed(), mem::take(&mut *times.lock().unwrap())));
                begun = Instant::now();
                if tenths.len() == TENTHS {
                    break;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let (first, last) = (&tenths[0], &tenths[TENTHS - 1]);
    let grown = last.anonymous_bytes - first.anonymous_bytes;
    assert!(count < SETTLED_SWAPS || grown.abs() < MOST_GROWTH_BYTES, "{grown} bytes more");
    assert!(last.files <= first.files + CLOSING_FILES, "open files: {} and then {}", first.files, last.files);
    let best = |half: &[Tenth]| half.iter().map(|tenth| tenth.median_us).min().unwrap();
    let [before, after] = [best(&tenths[..TENTHS / 2]), best(&tenths[TENTHS / 2..])];
    assert!(count < SETTLED_SWAPS || after < MOST_SLOWER * before, "answers take {before} µs and then {after} µs");
    assert!(!fs::read_to_string(server.home.path().join("log")).unwrap().contains("panicked"));
}

/// Asks one task until the swaps are done, and adds the times of its answers in µs.
fn client(server: &Server, name: &str, versions: &[Vec<u8>], done: &AtomicBool, times: &Mutex<Vec<u32>>) {
    let digests: Vec<String> = versions.iter().map(|bytes| Digest::of(bytes).to_string()).collect();
    let (mut stream, path) = (connect(server.address), format!("/predict/{name}"));
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let found = ask(&mut stream, "POST", &path, &[], br#"{"text":"the film was good"}"#);
        times.lock().unwrap().push(begun.elapsed().as_micros() as u32);
        assert_eq!(found.status, 200, "{}", String::from_utf8_lossy(&found.body));
        let found = found.json();
        let logits: Vec<f64> = serde_json::from_value(found["logits"].clone()).unwrap();
        let mark = logits[0];
        assert!((0.0..VERSIONS as f64).contains(&mark) && mark.fract() == 0.0, "{logits:?}");
        assert_eq!(logits, [mark, -mark, mark + 0.5], "two versions in one answer");
        let version = found["version"].as_str().unwrap();
        assert!(digests[mark as usize].starts_with(version), "another version's answer under {version}");
    }
}

/// As [`Server::put`], with a time of change between 1970 and 2106.
fn put(server: &Server, name: &str, bytes: &[u8], random: u64) {
    let beside = server.home.path().join("new");
    fs::write(&beside, bytes).unwrap();
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(random >> 32);
    File::options().write(true).open(&beside).unwrap().set_modified(changed).unwrap();
    fs::rename(beside, server.patches.join(name)).unwrap();
}

impl Tenth {
    /// What the server holds now; prints it.
    fn of(server: &Server, swaps: f64, time: Duration, mut times: Vec<u32>) -> Self {
        let process = PathBuf::from(format!("/proc/{}", server.child.id()));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let resident_mb = resident.unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6;
        times.sort_unstable();
        let [median_us, p99_us] = [50, 99].map(|part| times[times.len() * part / 100]);
        let anonymous_bytes = server.metric("edge_serve_anonymous_bytes");
        let files = fs::read_dir(process.join("fd")).unwrap().count();
        let (seconds, answers, [median, p99]) =
            (time.as_secs_f64(), times.len(), [median_us, p99_us].map(|us| f64::from(us) / 1e3));
        println!(
            "{swaps:8} {seconds:8.1} {answers:9} {median:10.2} {p99:7.2} {:13.2} {resident_mb:12.2} {files:6}",
            anonymous_bytes / 1e6
        );
        Tenth { anonymous_bytes, files, median_us }
    }
}

#[test]
fn patches_are_swapped_without_losing_a_request() {
    soak(&Server::of(&[]), 300, &|| ());
}

/// The time of day jumps, nothing more can be written once the log has a megabyte, and memory becomes short, so that
/// pages of the program have to be read again. Needs a C compiler and, for the last, memory cgroups.
#[test]
#[ignore = "minutes, or hours with EDGE_SOAK_SWAPS"]
fn swaps_without_end_lose_no_request_on_a_full_disk_in_little_memory_while_clocks_jump() {
    let count = env::var("EDGE_SOAK_SWAPS").map_or(SETTLED_SWAPS, |count| count.parse().unwrap());
    let dir = tempfile::TempDir::new().unwrap();
    let (clock, group) = (dir.path().join("clock.so"), Group::new());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/soak/clock.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).args([&clock, &source]);
    assert!(compiler.status().unwrap().success());
    // In sh a block is 512 bytes. A file that grows beyond the limit is an error once the signal is ignored.
    let full_disk = "trap '' XFSZ; ulimit -f 2048";
    // Pages belong to the group that reads or writes them first: so the program is a copy of the group's own.
    let little_memory = group.as_ref().map_or(":".to_owned(), |group| {
        let own = dir.path().join("edge-serve").display().to_string();
        format!("echo $$ >{}/cgroup.procs; cp \"$1\" {own}; shift; set -- {own} \"$@\"", group.0.display())
    });
    // Preloaded last, so that sh keeps the right time.
    let clocks = format!("export LD_PRELOAD={}", clock.display());
    let server = Server::after(&format!("{little_memory}; {full_disk}; {clocks}"));
    let year = || server.get("/tasks").head.split("date: ").nth(1).unwrap()[12..16].to_owned();
    let (first, begun) = (year(), Instant::now());
    while year() == first {
        assert!(begun.elapsed() < PATIENCE, "the clock does not jump");
        thread::sleep(Duration::from_millis(20));
    }
    soak(&server, count, &|| group.iter().for_each(Group::press));
    let answer = server.post("/predict/a", json!({ "text": "x" }));
    assert_eq!(answer.status, 200);
    let faults = fs::read_to_string(format!("/proc/{}/stat", server.child.id())).unwrap();
    let read_again: u64 = faults.rsplit(") ").next().unwrap().split(' ').nth(9).unwrap().parse().unwrap();
    println!("memory cgroup: {}, times that a page was read again: {read_again}", group.is_some());
    assert!(group.is_none() || read_again > SHORTAGES as u64, "memory was not short");
}

/// A memory cgroup; removed at the end.
struct Group(PathBuf);

impl Group {
    /// None where the system has no memory cgroups that this process may use.
    fn new() -> Option<Self> {
        let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let group = Group(if one.is_dir() { one } else { two }.join(format!("edge-run-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        ["memory.limit_in_bytes", "memory.max"].iter().any(|limit| group.0.join(limit).exists()).then_some(group)
    }

    /// Takes the pages of files away from its processes, as another that needs memory does.
    fn press(&self) {
        let limits = [("memory.limit_in_bytes", "-1"), ("memory.max", "max")];
        let (limit, none) = limits.iter().find(|(limit, _)| self.0.join(limit).exists()).unwrap();
        // Not all that it asks for may be there to take.
        let _ = fs::write(self.0.join(limit), LITTLE_MEMORY.to_string());
        fs::write(self.0.join(limit), none).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let begun = Instant::now();
        // The server that was killed leaves the group within moments.
        while self.0.exists() && fs::remove_dir(&self.0).is_err() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
    }
}
