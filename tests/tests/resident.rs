//! The memory and time that many attached tasks take. Alone in its file, because it measures the memory of its process.

use std::time::{Duration, Instant};

use bias_patch::{Patch, SlotKind, Stored, StoredSlot};
use edge_run::{Encoder, EngineOptions, Memory, Request, Task, Text};
use system_tests::{Fixture, fixtures, patch, real_bundle, task};

/// A patch of every bias in 4 bits.
fn of_biases(encoder: &Encoder) -> Patch {
    let bundle = encoder.bundle();
    let exact = patch(bundle, task("resident", "classification", 1), "resident");
    let (base, four_bits) = (bundle.base().unwrap(), "i4".parse().unwrap());
    exact.convert(&bundle.manifest().shape(), base.slots(), four_bits, four_bits).unwrap()
}

/// The patch with a low-rank term of rank 1 of every linear layer in 4 bits beside its biases.
fn with_terms(encoder: &Encoder, patch: &Patch) -> Patch {
    let manifest = encoder.bundle().manifest();
    let mut slots = patch.slots().to_vec();
    for slot in manifest.slots.iter().filter(|slot| manifest.config.takes_low_rank(slot.module)) {
        for (kind, len) in [(SlotKind::LoraA, manifest.config.inputs(slot.module)), (SlotKind::LoraB, slot.len)] {
            let values = Fixture::values(&format!("{kind:?} of {}", slot.name), &[len as usize, 1]);
            let small: Vec<f32> = values.iter().map(|value| 0.01 * value).collect();
            let values = Stored::encode(&small, None, "i4".parse().unwrap()).unwrap();
            slots.push(StoredSlot { id: slot.id().with_kind(kind).unwrap(), values });
        }
    }
    slots.sort_by_key(|slot| slot.id);
    Patch::new(patch.encoder(), patch.task().clone(), slots, patch.head().clone(), []).unwrap()
}

#[test]
#[ignore = "needs the real encoder"]
fn a_thousand_tasks_cost_their_values_only() {
    let encoder = Encoder::load(real_bundle(), EngineOptions::default()).unwrap();
    let library = fixtures().ancestors().nth(2).unwrap().join("patches/library");
    let biases = of_biases(&encoder);
    let shipped = Patch::open(&library.join("sst2.bias")).unwrap();
    // Tasks stay, for memory that is free again would be taken by the next ones and not be counted.
    let _shipped = assert_costs(&encoder, &shipped, 40.0);
    let _biases = assert_costs(&encoder, &biases, 40.0);
    let _with_terms = assert_costs(&encoder, &with_terms(&encoder, &biases), 100.0);
}

/// Attaches a patch a thousand times, which may take so many megabytes, and answers by each.
fn assert_costs(encoder: &Encoder, patch: &Patch, megabytes: f64) -> Vec<Task> {
    let text = Text::one("a film to see twice");
    let time = |task: &Task| {
        let begun = Instant::now();
        encoder.predict(&[Request { task, text: &text }]).remove(0).unwrap();
        begun.elapsed()
    };
    let one = encoder.attach(patch).unwrap();
    for _ in 0..10 {
        time(&one);
    }
    let before = Memory::now().unwrap().anonymous_bytes;
    let tasks: Vec<Task> = (0..1000).map(|_| encoder.attach(patch).unwrap()).collect();
    let cost = (Memory::now().unwrap().anonymous_bytes - before) as f64 / 1e6;
    // Alternately, so that both see the same load of the machine.
    let (mut of_one, mut of_many): (Vec<Duration>, Vec<Duration>) =
        (0..400).map(|at| (time(&one), time(&tasks[at * 7 % tasks.len()]))).unzip();
    of_one.sort();
    of_many.sort();
    let (one, many) = (of_one[200], of_many[200]);
    println!(
        "a thousand tasks of {} slots: {cost:.1} MB; a text of one task again and again {one:?}, of a thousand in turn {many:?}",
        patch.slots().len()
    );
    let stored = patch.to_bytes().unwrap().len() as f64 / 1e3;
    assert!(stored < cost && cost < megabytes, "{stored} MB as files");
    // Values that were not in the cache have to be read from memory, and the machine has other users.
    assert!(many < one.mul_f64(1.5));
    tasks
}
