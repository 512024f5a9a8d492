//! Row arithmetic in groups of sixteen lanes, written once for every vector unit.
//!
//! These functions are inlined into callers that enable an instruction set, and become its instructions there. They are
//! safe Rust; what they compute does not depend on who calls them, up to fused multiplication.

use bias_patch::Activation;

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Applies `f` to each value; the last group is filled with zeros.
#[inline(always)]
fn map(values: &mut [f32], f: impl Fn(&mut Lanes)) {
    let (groups, rest) = values.as_chunks_mut::<LANES>();
    groups.iter_mut().for_each(&f);
    if !rest.is_empty() {
        let mut group = [0.0; LANES];
        group[..rest.len()].copy_from_slice(rest);
        f(&mut group);
        rest.copy_from_slice(&group[..rest.len()]);
    }
}

/// One value of sixteen, by halves.
#[inline(always)]
fn join(mut lanes: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = f(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// Folds all values into sixteen with `step`, and those into one with `both`.
#[inline(always)]
fn fold(values: &[f32], neutral: f32, step: impl Fn(f32, f32) -> f32, both: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [neutral; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            sums[lane] = step(sums[lane], group[lane]);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum = step(*sum, *value);
    }
    join(sums, both)
}

/// The larger of two numbers, neither being NaN: one instruction where `f32::max` takes three.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// e to the power x, within 2 units in the last place, for x from -87.3 to 88; beyond, that of the nearer end.
///
/// x is n ln 2 + r with |r| at most half of ln 2 (in two parts, so that r is exact), and e^r is the polynomial of the
/// Cephes library's expf.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = larger(x, -87.3);
    let x = if x < 88.0 { x } else { 88.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let power = p * r * r + r + 1.0;
    // Times 2^n, n being a whole number from -126 to 127: the low bits of `rounded` are n, and go to the exponent.
    f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// The error function, within 2e-7: the rational approximation that XLA and Eigen use, odd over even, on [-4, 4].
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = larger(x, -4.0);
    let x = if x < 4.0 { x } else { 4.0 };
    let t = x * x;
    let p = -2.726_142_3e-10;
    let p = p * t + 2.770_681_4e-8;
    let p = p * t - 2.101_024e-6;
    let p = p * t - 5.692_506_5e-5;
    let p = p * t - 7.349_906_3e-4;
    let p = p * t - 2.954_6e-3;
    let p = (p * t - 1.609_603_3e-2) * x;
    let q = -1.456_607_2e-5;
    let q = q * t - 2.133_740_2e-4;
    let q = q * t - 1.682_827e-3;
    let q = q * t - 7.373_329_2e-3;
    let q = q * t - 1.426_473_9e-2;
    p / q
}

#[inline(always)]
pub(super) fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => map(values, |group| {
            for v in group {
                *v = 0.5 * *v * (1.0 + erf(*v * std::f32::consts::FRAC_1_SQRT_2));
            }
        }),
        // 0.5 (1 + tanh u) is 1 / (1 + e^-2u).
        Activation::GeluTanh => map(values, |group| {
            for v in group {
                let u = 0.797_884_6 * (*v + 0.044_715 * *v * *v * *v);
                *v /= 1.0 + exp(-2.0 * u);
            }
        }),
        Activation::Relu => map(values, |group| {
            for v in group {
                *v = larger(*v, 0.0);
            }
        }),
        Activation::Tanh => map(values, |group| {
            for v in group {
                *v = 2.0 / (1.0 + exp(-2.0 * *v)) - 1.0;
            }
        }),
    }
}

#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let top = fold(row, f32::MIN, larger, larger);
    let mut sums = [0.0; LANES];
    let (groups, rest) = row.as_chunks_mut::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            group[lane] = exp(group[lane] - top);
            sums[lane] += group[lane];
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *value = exp(*value - top);
        *sum += *value;
    }
    let share = 1.0 / join(sums, |a, b| a + b);
    for value in row {
        *value *= share;
    }
}

#[inline(always)]
pub(super) fn normalise(row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
    let len = row.len() as f32;
    let mean = fold(row, 0.0, |a, b| a + b, |a, b| a + b) / len;
    let squares = fold(row, 0.0, |sum, v| sum + (v - mean) * (v - mean), |a, b| a + b);
    let inverse = 1.0 / (squares / len + epsilon).sqrt();
    for ((v, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
        *v = (*v - mean) * inverse * gain + bias;
    }
}
