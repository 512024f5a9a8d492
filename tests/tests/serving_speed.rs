//! The speed of `edge-serve` with the real encoder. Alone in its file, because other tests would disturb the times.

use std::{
    fs,
    net::SocketAddr,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use bias_patch::{Patch, Task};
use edge_run::{Encoder, EngineOptions, Memory, Request, Text};
use serde_json::json;
use system_tests::{
    fixtures,
    http::{ask, connect, start},
    real_bundle,
};
use tempfile::TempDir;

/// Clients, each with a connection of its own.
const CLIENTS: usize = 8;

struct Server {
    _home: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Server {
    /// Serves as many tasks as asked, all with the values of one that ships.
    fn of(tasks: usize) -> Server {
        let home = TempDir::new().unwrap();
        let patches = home.path().join("patches");
        fs::create_dir(&patches).unwrap();
        for at in 0..tasks {
            named(&format!("t{at}")).save(&patches.join(format!("t{at}.bias"))).unwrap();
        }
        // Digests of the bundle's files are remembered in the cache, which a device's first start fills.
        drop(Self::started(&home));
        let (address, child) = Self::started(&home).into_parts();
        Server { _home: home, address, child }
    }

    fn started(home: &TempDir) -> Started {
        let (address, child) = start(home.path(), real_bundle().dir(), &[]);
        Started(Some((address, child)))
    }

    /// CPU time of all its threads.
    fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |path: std::path::PathBuf| -> u64 {
            fs::read_to_string(path.join("schedstat")).unwrap().split(' ').next().unwrap().parse().unwrap()
        };
        Duration::from_nanos(threads.map(|thread| of(thread.unwrap().path())).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that is killed unless it is taken out.
struct Started(Option<(SocketAddr, Child)>);

impl Started {
    fn into_parts(mut self) -> (SocketAddr, Child) {
        self.0.take().unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some((address, child)) = &mut self.0 {
            ask(&mut connect(*address), "GET", "/tasks", &[], b"");
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The patch of sst2 under another name.
fn named(name: &str) -> Patch {
    let library = fixtures().ancestors().nth(2).unwrap().join("patches/library");
    let patch = Patch::open(&library.join("sst2.bias")).unwrap();
    let of = patch.task();
    let task = Task::new(name, of.kind().clone(), of.inputs(), of.max_length()).unwrap();
    Patch::new(patch.encoder(), task, patch.slots().to_vec(), patch.head().clone(), []).unwrap()
}

/// Texts of 3 to 40 words.
fn texts(count: usize) -> Vec<String> {
    let words = "a joy from the first scene to the last two hours i will never get back the cast is wonderful and music \
                 even better flat loud far too long";
    let words: Vec<&str> = words.split_whitespace().collect();
    (0..count)
        .map(|at| {
            (0..3 + at * 7 % 38).map(|word| words[(at * 5 + word * 3) % words.len()]).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Texts a second of a batch of 32 after the other in this process, as edge-run takes them.
fn alone(encoder: &Encoder, task: &edge_run::Task, texts: &[Text]) -> f64 {
    let begun = Instant::now();
    for batch in texts.chunks(32) {
        let requests: Vec<Request<'_>> = batch.iter().map(|text| Request { task, text }).collect();
        encoder.predict(&requests).into_iter().for_each(|answer| drop(answer.unwrap()));
    }
    texts.len() as f64 / begun.elapsed().as_secs_f64()
}

/// Times of the requests of all clients, each on its own task or all on one. With `pause`, requests are that far apart.
fn load(address: SocketAddr, texts: &[String], one_task: bool, pause: Option<Duration>) -> (f64, Vec<Duration>) {
    let begun = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let client = |at: usize| {
            scope.spawn(move || {
                let mut stream = connect(address);
                let path = format!("/predict/t{}", if one_task { 0 } else { at });
                let mut times = Vec::new();
                let mut due = Instant::now() + pause.unwrap_or_default().mul_f64(at as f64 / CLIENTS as f64);
                for text in texts.iter().skip(at).step_by(CLIENTS) {
                    if let Some(pause) = pause {
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        due += pause;
                    }
                    let begun = Instant::now();
                    let found = ask(&mut stream, "POST", &path, &[], json!({ "text": text }).to_string().as_bytes());
                    assert_eq!(found.status, 200);
                    times.push(begun.elapsed());
                }
                times
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let rate = texts.len() as f64 / begun.elapsed().as_secs_f64();
    times.sort();
    (rate, times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "needs the real encoder, a release build and the machine to itself"]
fn eight_clients_on_eight_tasks_are_as_fast_as_one_batch() {
    let server = Server::of(CLIENTS);
    let encoder = Encoder::load(real_bundle(), EngineOptions::default()).unwrap();
    let task = encoder.attach(&named("t0")).unwrap();
    let written = texts(800);
    let read: Vec<Text> = written.iter().map(Text::one).collect();
    load(server.address, &written, false, None);
    let (mut share, mut mixed, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let batched = alone(&encoder, &task, &read);
        let (eight, _) = load(server.address, &written, false, None);
        let (one, _) = load(server.address, &written, true, None);
        println!("texts a second: {batched:.0} batched, {eight:.0} of eight tasks, {one:.0} of one task");
        share.push(eight / batched);
        mixed.push(eight / one);
        rates.push(eight);
    }
    let pause = Duration::from_secs_f64(2.0 * CLIENTS as f64 / median(rates));
    let (_, times) = load(server.address, &written, false, Some(pause));
    let (half, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let (share, mixed) = (median(share), median(mixed));
    println!("of the batched figure {share:.3}, eight tasks over one {mixed:.3}; at half load {half:?}, p99 {p99:?}");
    assert!(share >= 0.85 && (mixed - 1.0).abs() < 0.05 && p99 <= 3 * half);
}

#[test]
#[ignore = "needs the real encoder and a release build"]
fn the_first_answer_a_hundred_tasks_and_idleness_are_cheap() {
    let few = Server::of(3);
    let text = json!({ "text": "a joy from the first scene to the last" }).to_string();
    let mut stream = connect(few.address);
    assert_eq!(ask(&mut stream, "POST", "/predict/t0", &[], text.as_bytes()).status, 200);
    let first = few.cpu();
    thread::sleep(Duration::from_secs(3));
    let idle = few.cpu() - first;

    let many = Server::of(100);
    for at in 0..100 {
        let path = format!("/predict/t{at}");
        assert_eq!(ask(&mut connect(many.address), "POST", &path, &[], text.as_bytes()).status, 200);
    }
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", many.child.id())).unwrap();
    let anonymous = Memory::of_rollup(&rollup).unwrap().anonymous_bytes as f64 / 1e6;
    println!("CPU to the first answer {first:?}, in 3 s without requests {idle:?}; a hundred tasks {anonymous:.1} MB");
    assert!(first < Duration::from_millis(40) && idle < Duration::from_millis(1) && anonymous <= 30.0);
}
