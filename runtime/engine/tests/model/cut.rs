//! Backward passes that begin at states against those that begin at tokens: the same bits, wherever the model is cut.

use edge_engine::{Activations, Batch, Cut, Error, Gradients, LowRank, SequenceLoss, States, TaskTerms, kernels};

use super::{HIDDEN, Small, batch, machine, numbers, sequences};

type Make = fn(bool, fn(&str) -> bool) -> Small;

/// The gradients of the wanted values, from states if there are any.
fn gradient(
    small: &Small,
    machine: &edge_engine::Machine,
    (values, places): (&[f32], &[Option<LowRank>]),
    wanted: &[bool],
    states: Option<States<'_>>,
) -> edge_engine::Result<Vec<f32>> {
    let coefficients = numbers(9 * HIDDEN, 20);
    let mut sums = vec![0.0; values.len()];
    let mut begun = 0;
    let mut write = |sequence: SequenceLoss<'_>| {
        let count = sequence.d_tokens.len();
        sequence.d_tokens.copy_from_slice(&coefficients[begun..begun + count]);
        begun += count;
        sequence.d_pooled.unwrap().copy_from_slice(&coefficients[..HIDDEN]);
    };
    let gradients = Gradients::new(&mut sums, wanted, places);
    let mut gradients = match states {
        Some(states) => gradients.above(states),
        None => gradients,
    };
    small.model.gradient(machine, small.weights(), &batch([0; 3]), values, &mut gradients, &mut write)?;
    Ok(sums)
}

fn cut(small: &Small, wanted: &[bool], places: &[Option<LowRank>]) -> Option<Cut> {
    small.model.cut(&Gradients::new(&mut vec![0.0; wanted.len()], wanted, places))
}

#[test]
fn a_pass_that_begins_at_states_has_the_bits_of_one_from_tokens() {
    let makers: [Make; 3] = [Small::new, Small::of_normed, Small::of_distances];
    for (kernel, make) in kernels().into_iter().flat_map(|kernel| makers.map(|make| (kernel, make))) {
        for (quantized, activations) in [(false, Activations::F32), (true, Activations::Int8)] {
            let (small, machine) = (make(quantized, |_| true), machine(kernel, activations));
            let (values, places) = small.with_terms(30, |_| 1);
            let mut cuts = Vec::new();
            // Slots are in the order of the operators. Of the terms none is trained here.
            for first in (0..=small.slots.len()).rev() {
                let mut wanted = vec![false; values.len()];
                small.slots[first..].iter().for_each(|(_, slot)| wanted[slot.at..][..slot.len].fill(true));
                let due = gradient(&small, &machine, (&values, &places), &wanted, None).unwrap();
                let Some(cut) = cut(&small, &wanted, &places) else { continue };
                let task = TaskTerms { values: &values, places: &places };
                // States of each sequence alone, as if it came in other batches before.
                let states: Vec<Vec<f32>> = sequences()
                    .iter()
                    .flat_map(|(ids, types)| {
                        let mut alone = Batch::default();
                        alone.push(ids, types, 0);
                        small.model.states(&machine, small.weights(), &alone, task, &cut).unwrap()
                    })
                    .collect();
                let of_sequences: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
                let states = States { cut: &cut, of_sequences: &of_sequences };
                let found = gradient(&small, &machine, (&values, &places), &wanted, Some(states)).unwrap();
                assert!(found == due, "{} {quantized}, from {}", kernel.name(), small.slots[first].0);
                assert_eq!(due.iter().any(|d| *d != 0.0), first < small.slots.len());
                cuts.push(cut);
            }
            cuts.dedup();
            assert!(cuts.len() > 3, "{cuts:?}");
        }
    }
}

#[test]
fn states_of_others_and_what_is_wanted_below_are_refused() {
    let (small, machine) = (Small::new(false, |_| true), machine(kernels()[0], Activations::F32));
    let (values, places) = small.with_terms(30, |_| 0);
    let (_, last) = *small.slots.last().unwrap();
    let mut wanted = vec![false; values.len()];
    wanted[last.at..][..last.len].fill(true);
    let cut = cut(&small, &wanted, &places).unwrap();
    let task = TaskTerms { values: &values, places: &places };
    let states = small.model.states(&machine, small.weights(), &batch([0; 3]), task, &cut).unwrap();
    let refused = |wanted: &[bool], of_sequences: &[&[f32]]| {
        let states = States { cut: &cut, of_sequences };
        match gradient(&small, &machine, (&values, &places), wanted, Some(states)).unwrap_err() {
            Error::Input { what, .. } => what,
            other => panic!("{other}"),
        }
    };
    let all: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
    assert!(refused(&vec![true; values.len()], &all).contains("above the cut"));
    assert_eq!(refused(&wanted, &all[1..]), "sequences with states");
    assert_eq!(refused(&wanted, &[all[1], all[0], all[2]]), "states of a sequence");
    assert_eq!(refused(&wanted, &[all[0], all[1], &states[2][1..]]), "states of a sequence");
    let longer = [&states[2][..], &[0.0]].concat();
    assert_eq!(refused(&wanted, &[all[0], all[1], &longer]), "states of a sequence beyond its own");
}
