//! The memory and time that many attached tasks take. Alone in its file, because it measures the memory of its process.

use std::time::{Duration, Instant};

use bias_patch::Patch;
use edge_run::{Encoder, EngineOptions, Memory, Request, Task, Text};
use system_tests::{fixtures, real_bundle};

#[test]
#[ignore = "needs the real encoder"]
fn a_thousand_tasks_cost_their_values_only() {
    let encoder = Encoder::load(real_bundle(), EngineOptions::default()).unwrap();
    let library = fixtures().ancestors().nth(2).unwrap().join("patches/library");
    let patch = Patch::open(&library.join("sst2.bias")).unwrap();
    let text = Text::one("a film to see twice");
    let time = |task: &Task| {
        let begun = Instant::now();
        encoder.predict(&[Request { task, text: &text }]).remove(0).unwrap();
        begun.elapsed()
    };
    let one = encoder.attach(&patch).unwrap();
    for _ in 0..10 {
        time(&one);
    }
    let before = Memory::now().unwrap().anonymous_bytes;
    let tasks: Vec<Task> = (0..1000).map(|_| encoder.attach(&patch).unwrap()).collect();
    let cost = (Memory::now().unwrap().anonymous_bytes - before) as f64 / 1e6;
    // Alternately, so that both see the same load of the machine.
    let (mut of_one, mut of_many): (Vec<Duration>, Vec<Duration>) =
        (0..400).map(|at| (time(&one), time(&tasks[at * 7 % tasks.len()]))).unzip();
    of_one.sort();
    of_many.sort();
    let (one, many) = (of_one[200], of_many[200]);
    println!(
        "a thousand tasks: {cost:.1} MB; a text of one task again and again {one:?}, of a thousand in turn {many:?}"
    );
    assert!(cost < 110.0);
    // Values that were not in the cache have to be read from memory, and the machine has other users.
    assert!(many < one.mul_f64(1.5));
}
