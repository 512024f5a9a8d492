//! Gradients of every slot against central differences of the loss.

use edge_engine::{Activations, Gradients, Machine, SequenceLoss, Table, kernels, kernels::Kernel};

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
fn loss(small: &Small, machine: &Machine, values: &[f32]) -> f64 {
    let table = Table { values, width: values.len() };
    let hidden = small.model.run(machine, small.weights(), &batch([0; 3]), table).unwrap();
    let product = |outputs: &[f32], by: &[f32]| -> f64 {
        assert_eq!(outputs.len(), by.len());
        outputs.iter().zip(by).map(|(output, by)| f64::from(*output) * f64::from(*by)).sum()
    };
    let (tokens, pooled) = coefficients();
    product(&hidden.tokens, &tokens) + product(&hidden.pooled.unwrap(), &pooled)
}

/// The gradient of that loss with respect to the wanted values.
fn gradient(small: &Small, machine: &Machine, values: &[f32], wanted: &[bool]) -> Vec<f32> {
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
    let mut gradients = Gradients::new(&mut sums, wanted);
    small.model.gradient(machine, small.weights(), &batch([0; 3]), values, &mut gradients, &mut write).unwrap();
    sums
}

/// The slope of the loss along one value, by the formula of five points.
fn difference(small: &Small, machine: &Machine, values: &[f32], at: usize) -> f64 {
    let at_step = |steps: f32| {
        let mut moved = values.to_vec();
        moved[at] += steps * STEP;
        (loss(small, machine, &moved), f64::from(moved[at]) - f64::from(values[at]))
    };
    let [(up, step), (down, _), (far_up, _), (far_down, _)] = [1.0, -1.0, 2.0, -2.0].map(at_step);
    (8.0 * (up - down) - (far_up - far_down)) / (12.0 * step)
}

fn assert_agrees(kernel: &'static dyn Kernel, quantized: bool, biases: &str, has_bias: fn(&str) -> bool) {
    // f32 activations: what is quantized moves in steps, and has no slope to compare with.
    let machine = machine(kernel, Activations::F32);
    let small = Small::new(quantized, has_bias);
    let values = small.values(30);
    let found = gradient(&small, &machine, &values, &vec![true; values.len()]);
    let largest = found.iter().map(|d| f64::from(d.abs())).fold(0.0, f64::max);
    assert!(largest > 0.1, "{biases}: {largest}");
    let mut worst = 0.0f64;
    for (name, slot) in &small.slots {
        for at in slot.range() {
            let due = difference(&small, &machine, &values, at);
            let apart = (f64::from(found[at]) - due).abs() / largest;
            let what = format!("{} {quantized} {biases}, {name} {at}", kernel.name());
            assert!(apart < BOUND, "{what}: {}, expected {due}, the largest being {largest}", found[at]);
            worst = worst.max(apart);
        }
    }
    println!("{} {quantized} {biases}: largest difference {worst:.1e} of {largest:.2}", kernel.name());
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
    let values = small.values(31);
    let all = gradient(&small, &machine, &values, &vec![true; values.len()]);
    for (name, slot) in &small.slots {
        let mut wanted = vec![false; values.len()];
        wanted[slot.range()].fill(true);
        let mut due = vec![0.0; values.len()];
        due[slot.range()].copy_from_slice(&all[slot.range()]);
        // The same sums in the same order.
        assert_eq!(gradient(&small, &machine, &values, &wanted), due, "{name}");
    }
}
