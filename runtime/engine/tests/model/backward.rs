//! Gradients of every slot against central differences of the loss.

use edge_engine::{Activations, Gradients, LowRank, Machine, SequenceLoss, Table, TaskTerms, kernels, kernels::Kernel};

use super::{HIDDEN, Small, batch, machine, numbers};

/// The step of a difference. The formula's own error grows with its fourth power; the roundings of a loss in f32, some
/// 1e-7 of outputs around 1, are divided by it.
const STEP: f32 = 0.03;
/// Of the largest gradient, twice what was measured: 5e-5.
const BOUND: f64 = 1e-4;

/// By what each output is multiplied in the loss: those of tokens, those of pooled sequences.
fn coefficients() -> (Vec<f32>, Vec<f32>) {
    (numbers(9 * HIDDEN, 20), numbers(3 * HIDDEN, 21))
}

/// The sum of all outputs times their coefficients, in f64.
fn loss(small: &Small, machine: &Machine, values: &[f32], places: &[Option<LowRank>]) -> f64 {
    let table = Table { values, width: small.model.values(), terms: &[TaskTerms { values, places }], zeros: &[] };
    let hidden = small.model.run(machine, small.weights(), &batch([0; 3]), table).unwrap();
    let product = |outputs: &[f32], by: &[f32]| -> f64 {
        assert_eq!(outputs.len(), by.len());
        outputs.iter().zip(by).map(|(output, by)| f64::from(*output) * f64::from(*by)).sum()
    };
    let (tokens, pooled) = coefficients();
    product(&hidden.tokens, &tokens) + product(&hidden.pooled.unwrap(), &pooled)
}

/// The gradient of that loss with respect to the wanted values.
fn gradient(small: &Small, machine: &Machine, values: &[f32], wanted: &[bool], places: &[Option<LowRank>]) -> Vec<f32> {
    let (tokens, pooled) = coefficients();
    let mut sums = vec![0.0; values.len()];
    let mut begun = 0;
    let mut write = |sequence: SequenceLoss<'_>| {
        let count = sequence.d_tokens.len();
        sequence.d_tokens.copy_from_slice(&tokens[begun..begun + count]);
        begun += count;
        let of_sequence = &pooled[sequence.number * HIDDEN..][..HIDDEN];
        sequence.d_pooled.unwrap().copy_from_slice(of_sequence);
    };
    let mut gradients = Gradients::new(&mut sums, wanted, places);
    small.model.gradient(machine, small.weights(), &batch([0; 3]), values, &mut gradients, &mut write).unwrap();
    sums
}

/// The slope of the loss along one value, by the formula of five points.
fn difference(small: &Small, machine: &Machine, values: &[f32], places: &[Option<LowRank>], at: usize) -> f64 {
    let at_step = |steps: f32| {
        let mut moved = values.to_vec();
        moved[at] += steps * STEP;
        (loss(small, machine, &moved, places), f64::from(moved[at]) - f64::from(values[at]))
    };
    let [(up, step), (down, _), (far_up, _), (far_down, _)] = [1.0, -1.0, 2.0, -2.0].map(at_step);
    (8.0 * (up - down) - (far_up - far_down)) / (12.0 * step)
}

fn assert_agrees(kernel: &'static dyn Kernel, quantized: bool, biases: &str, has_bias: fn(&str) -> bool) {
    let biases = &format!("{quantized} {biases}");
    // f32 activations: what is quantized moves in steps, and has no slope to compare with.
    let machine = machine(kernel, Activations::F32);
    let small = Small::new(quantized, has_bias);
    let (values, places) = small.with_terms(30, |_| 0);
    assert_slopes(&small, &machine, &values, &places, biases);
}

/// Checks the gradient of every value.
fn assert_slopes(small: &Small, machine: &Machine, values: &[f32], places: &[Option<LowRank>], what: &str) {
    let found = gradient(small, machine, values, &vec![true; values.len()], places);
    let largest = found.iter().map(|d| f64::from(d.abs())).fold(0.0, f64::max);
    assert!(largest > 0.1, "{what}: {largest}");
    let what = format!("{machine:?} {what}");
    let mut worst = 0.0f64;
    for (at, found) in found.iter().enumerate() {
        let due = difference(small, machine, values, places, at);
        let apart = (f64::from(*found) - due).abs() / largest;
        let name = small.slots.iter().find(|(_, slot)| slot.range().contains(&at)).map_or("a term", |(name, _)| name);
        assert!(apart < BOUND, "{what}, {name} {at}: {found}, expected {due}, the largest being {largest}");
        worst = worst.max(apart);
    }
    println!("{what}: largest difference {worst:.1e} of {largest:.2}");
}

#[test]
fn gradients_agree_with_differences() {
    for kernel in kernels() {
        for quantized in [false, true] {
            assert_agrees(kernel, quantized, "all", |_| true);
        }
    }
}

#[test]
fn gradients_agree_with_differences_where_norms_come_first() {
    // Every kernel once, and both kinds of weights: emulated boards take minutes for more.
    for (at, kernel) in kernels().iter().enumerate() {
        let machine = machine(*kernel, Activations::F32);
        let small = Small::of_normed(at > 0, |_| true);
        let (values, places) = small.with_terms(36, |name| if ["gate", "query"].contains(&name) { 2 } else { 0 });
        assert_slopes(&small, &machine, &values, &places, "norms first");
    }
}

#[test]
fn gradients_agree_with_differences_where_queries_and_keys_meet_distances() {
    // Every kernel once, and both kinds of weights: emulated boards take minutes for more.
    let slopes = |kernel: &'static dyn Kernel, quantized: bool, what: &str, has_bias: fn(&str) -> bool| {
        let small = Small::of_distances(quantized, has_bias);
        let (values, places) = small.with_terms(37, |name| usize::from(name == "value"));
        assert_slopes(&small, &machine(kernel, Activations::F32), &values, &places, what);
    };
    for (at, kernel) in kernels().iter().enumerate() {
        slopes(*kernel, at > 0, "all", |_| true);
    }
    slopes(kernels()[0], true, "none of the distances", |name| name != "distances");
    slopes(kernels()[0], false, "none of the query", |name| name != "query");
}

#[test]
fn gradients_pass_what_has_no_bias() {
    let slowest = *kernels().last().unwrap();
    for quantized in [false, true] {
        assert_agrees(slowest, quantized, "norms", |name| name.ends_with("norm"));
        assert_agrees(slowest, quantized, "linear layers", |name| !name.ends_with("norm"));
        assert_agrees(slowest, quantized, "embedding norm", |name| name == "embedding norm");
    }
}

#[test]
fn only_wanted_slots_get_gradients() {
    let machine = machine(kernels()[0], Activations::F32);
    let small = Small::new(false, |_| true);
    let (values, places) = small.with_terms(31, |_| 2);
    let all = gradient(&small, &machine, &values, &vec![true; values.len()], &places);
    let slots = small.slots.iter().map(|(name, slot)| (*name, slot.range()));
    let terms = small.layers.iter().zip(&places).map(|((name, [inputs, outputs]), place)| {
        let place = place.unwrap();
        assert_eq!(place.b, place.a + 2 * inputs);
        (*name, place.a..place.b + 2 * outputs)
    });
    for (name, range) in slots.chain(terms) {
        let mut wanted = vec![false; values.len()];
        wanted[range.clone()].fill(true);
        let mut due = vec![0.0; values.len()];
        due[range.clone()].copy_from_slice(&all[range]);
        // The same sums in the same order.
        assert_eq!(gradient(&small, &machine, &values, &wanted, &places), due, "{name}");
    }
}

#[test]
fn gradients_of_low_rank_terms_agree_with_differences() {
    // Every kernel once, and both kinds of weights: emulated boards take minutes for more.
    for (at, kernel) in kernels().iter().enumerate() {
        let machine = machine(*kernel, Activations::F32);
        let small = Small::new(at > 0, |name| name != "value");
        let (values, places) = small.with_terms(32, |name| if name == "output" { 3 } else { 1 });
        assert_slopes(&small, &machine, &values, &places, "every layer has a term");
        let (values, places) = small.with_terms(33, |name| if name == "value" || name == "middle" { 2 } else { 0 });
        assert_slopes(&small, &machine, &values, &places, "two layers have a term");
    }
}

/// The scores of a row all change by the same amount, whatever the keys are.
#[test]
fn a_keys_bias_has_no_effect_with_a_term_of_the_key() {
    let machine = machine(kernels()[0], Activations::F32);
    let small = Small::new(false, |_| true);
    let (values, places) = small.with_terms(34, |name| usize::from(name == "key"));
    let found = gradient(&small, &machine, &values, &vec![true; values.len()], &places);
    let (_, key) = small.slots.iter().find(|(name, _)| *name == "key").unwrap();
    let largest = |values: &[f32]| values.iter().fold(0.0, |most: f32, d| most.max(d.abs()));
    assert!(largest(&found[key.range()]) < 1e-5 * largest(&found));
    // The term itself has one.
    assert!(largest(&found[small.model.values()..]) > 1e-3 * largest(&found));
}
