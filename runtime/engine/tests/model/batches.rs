//! Batches of several tasks and lengths against runs of one sequence: the same bits, by every kernel.

use edge_engine::{Activations, Batch, Table, TaskTerms, kernels};

use super::{HIDDEN, Small, batch, machine, sequences};

#[test]
fn several_tasks_are_answered_as_one() {
    for kernel in kernels() {
        for (quantized, activations) in [(false, Activations::F32), (true, Activations::F32), (true, Activations::Int8)]
        {
            let (small, machine) = (Small::new(quantized, |_| true), machine(kernel, activations));
            let width = small.model.values();
            let values = [small.values(40), small.values(41), small.values(42)];
            let tasks = [2, 0, 2];
            let table = values.concat();
            let table = Table { values: &table, width, terms: &[], zeros: &[] };
            let together = small.model.run(&machine, small.weights(), &batch(tasks), table).unwrap();
            let (mut tokens, mut pooled) = (&together.tokens[..], &together.pooled.as_ref().unwrap()[..]);
            for ((ids, types), task) in sequences().into_iter().zip(tasks) {
                let mut alone = Batch::default();
                alone.push(&ids, &types, 0);
                let table = Table { values: &values[task as usize], width, terms: &[], zeros: &[] };
                let due = small.model.run(&machine, small.weights(), &alone, table).unwrap();
                for (found, due) in [(&mut tokens, &due.tokens), (&mut pooled, due.pooled.as_ref().unwrap())] {
                    let (first, rest) = found.split_at(due.len());
                    let what = format!("{} {quantized} {activations:?}, {} tokens", kernel.name(), ids.len());
                    assert_eq!(first, &**due, "{what}");
                    *found = rest;
                }
            }
            assert!(tokens.is_empty() && pooled.is_empty());
        }
    }
}

#[test]
fn a_task_changes_its_own_sequences_only() {
    let machine = machine(kernels()[0], Activations::F32);
    let small = Small::new(false, |_| true);
    let width = small.model.values();
    let run = |second: u32| {
        let table = [small.values(40), small.values(second)].concat();
        let table = Table { values: &table, width, terms: &[], zeros: &[] };
        small.model.run(&machine, small.weights(), &batch([0, 1, 0]), table).unwrap().tokens.to_vec()
    };
    let (before, after) = (run(41), run(42));
    let part = |values: &[f32], rows: std::ops::Range<usize>| values[rows.start * HIDDEN..rows.end * HIDDEN].to_vec();
    assert_eq!(part(&before, 0..1), part(&after, 0..1));
    assert_ne!(part(&before, 1..6), part(&after, 1..6));
    assert_eq!(part(&before, 6..9), part(&after, 6..9));
}

/// With one token, a term is a bias.
#[test]
fn a_term_adds_what_its_formula_says() {
    /// The sum is rounded in another order than the kernel's: a few roundings of outputs around 1.
    const BOUND: f32 = 1e-5;
    let machine = machine(kernels()[0], Activations::F32);
    for quantized in [false, true] {
        let small = Small::new(quantized, |_| true);
        let width = small.model.values();
        let mut one = Batch::default();
        one.push(&[3], &[1], 0);
        let run = |values: &[f32], places: &[_]| {
            let terms = [TaskTerms { values, places }];
            let table = Table { values: &values[..width], width, terms: &terms, zeros: &[] };
            small.model.run(&machine, small.weights(), &one, table).unwrap().tokens.to_vec()
        };
        let (plain, _) = small.with_terms(60, |_| 0);
        let (mut with, places) = small.with_terms(60, |name| if name == "projection" { 2 } else { 0 });
        let place = places[0].unwrap();
        let (a, b) = (with[place.a..place.b].to_vec(), with[place.b..].to_vec());
        // x, the projection's input.
        let x = small.embedded(&machine, &plain[..width], &one);
        let (_, slot) = small.slots.iter().find(|(name, _)| *name == "projection").unwrap();
        let mut moved = plain.clone();
        for rank in 0..2 {
            let scale: f32 = x.iter().zip(&a[rank * x.len()..]).map(|(x, a)| x * a).sum();
            let column = &b[rank * slot.len..][..slot.len];
            moved[slot.range()].iter_mut().zip(column).for_each(|(value, b)| *value += scale * b);
        }
        let (found, due) = (run(&with, &places), run(&moved, &[]));
        let apart = found.iter().zip(&due).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= BOUND, "{quantized}: {apart:e}");
        assert_ne!(run(&plain, &[]), due);
        // A term of zeros changes nothing, to the bit.
        with[place.b..].fill(0.0);
        assert_eq!(run(&with, &places), run(&plain, &[]));
    }
}

#[test]
fn tasks_with_terms_of_any_rank_are_answered_as_alone() {
    for kernel in kernels() {
        for (quantized, activations) in [(false, Activations::F32), (true, Activations::F32), (true, Activations::Int8)]
        {
            let (small, machine) = (Small::new(quantized, |_| true), machine(kernel, activations));
            let width = small.model.values();
            let tasks = [
                small.with_terms(61, |_| 1),
                small.with_terms(62, |_| 0),
                small.with_terms(63, |name| if name == "query" || name == "pooler" { 3 } else { 0 }),
            ];
            let table: Vec<f32> = tasks.iter().flat_map(|(values, _)| values[..width].to_vec()).collect();
            let terms = tasks.each_ref().map(|(values, places)| TaskTerms { values, places });
            let table = Table { values: &table, width, terms: &terms, zeros: &[] };
            let together = small.model.run(&machine, small.weights(), &batch([0, 1, 2]), table).unwrap();
            let (mut tokens, mut pooled) = (&together.tokens[..], &together.pooled.as_ref().unwrap()[..]);
            for ((ids, types), (values, places)) in sequences().into_iter().zip(&tasks) {
                let mut alone = Batch::default();
                alone.push(&ids, &types, 0);
                let terms = [TaskTerms { values, places }];
                let table = Table { values: &values[..width], width, terms: &terms, zeros: &[] };
                let due = small.model.run(&machine, small.weights(), &alone, table).unwrap();
                for (found, due) in [(&mut tokens, &due.tokens), (&mut pooled, due.pooled.as_ref().unwrap())] {
                    let (first, rest) = found.split_at(due.len());
                    assert_eq!(first, &**due, "{} {quantized}, {} tokens", kernel.name(), ids.len());
                    *found = rest;
                }
            }
            assert!(tokens.is_empty() && pooled.is_empty());
        }
    }
}

/// A slot that is zero in every task is not read: here it holds what would spoil every sum.
#[test]
fn slots_that_are_zero_in_every_task_are_not_read() {
    for small in [Small::new(false, |_| true), Small::of_normed(true, |_| true)] {
        let width = small.model.values();
        for kernel in kernels() {
            let machine = machine(kernel, Activations::Int8);
            let run = |values: &[f32], zeros: &[usize]| {
                let table = Table { values, width, terms: &[], zeros };
                let hidden = small.model.run(&machine, small.weights(), &batch([0, 1, 0]), table).unwrap();
                [&hidden.tokens[..], &hidden.pooled.unwrap()].concat()
            };
            let values = [small.values(50), small.values(51)].concat();
            for (name, slot) in &small.slots {
                let with = |value: f32| {
                    let mut changed = values.clone();
                    changed.chunks_mut(width).for_each(|values| values[slot.range()].fill(value));
                    changed
                };
                assert_eq!(run(&with(f32::NAN), &[slot.at]), run(&with(0.0), &[]), "{kernel:?}, {name}");
            }
        }
    }
}

/// One text for tasks that differ from some slot on. What lies below is computed once.
#[test]
fn tasks_of_one_text_are_answered_as_alone() {
    for make in [Small::new as fn(bool, fn(&str) -> bool) -> Small, Small::of_normed, Small::of_distances] {
        for (kernel, quantized) in kernels().into_iter().flat_map(|kernel| [(kernel, false), (kernel, true)]) {
            let small = make(quantized, |_| true);
            let width = small.model.values();
            let machine = machine(kernel, Activations::Int8);
            let (first, places) = small.with_terms(60, |_| 1);
            let run = |tasks: &[&[f32]], texts: &[usize]| {
                let mut batch = Batch::default();
                for (text, task) in texts.iter().flat_map(|text| (0..).zip(tasks).map(move |(task, _)| (text, task))) {
                    let (ids, types) = &sequences()[*text];
                    batch.push(ids, types, task);
                }
                let table: Vec<f32> = tasks.iter().flat_map(|values| values[..width].to_vec()).collect();
                let terms: Vec<_> = tasks.iter().map(|values| TaskTerms { values, places: &places }).collect();
                let table = Table { values: &table, width, terms: &terms, zeros: &[] };
                let hidden = small.model.run(&machine, small.weights(), &batch, table).unwrap();
                (hidden.tokens.to_vec(), hidden.pooled.unwrap().to_vec())
            };
            let term = places.iter().flatten().map(|place| place.b);
            for at in small.slots.iter().map(|(_, slot)| slot.at).chain(term) {
                let mut second = first.clone();
                second[at] += 0.25;
                let alone = [1, 2].iter().flat_map(|text| [&first, &second].map(|task| run(&[task], &[*text])));
                let due: (Vec<_>, Vec<_>) = alone.unzip();
                assert_eq!(run(&[&first, &second], &[1, 2]), (due.0.concat(), due.1.concat()), "{kernel:?} value {at}");
            }
        }
    }
}
