//! Row arithmetic in groups of sixteen lanes, written once for every vector unit.
//!
//! These functions are inlined into callers that enable an instruction set with fused multiply-add, and are compiled to
//! its instructions there. On 32-bit ARM no caller can enable one, so they stay scalar. They are safe Rust, and give
//! the same results for every caller.

use core::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::{LEAST_SPAN, Packed, Scale, parts, times};
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::{
    Activation,
    activation::{GELU_CUBIC, NORMAL_DENSITY, SQRT_2_OVER_PI},
    layout::{FACTOR_GROUP, PANEL_GROUP, PANEL_WIDTH},
};

const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Applies `f` to each value, sixteen at a time; the last group is filled with zeros.
#[inline(always)]
fn map(values: &mut [f32], mut f: impl FnMut(&mut Lanes)) {
    map_from(values, 0.0, &mut f);
}

/// As [`map`], the last group being filled with `neutral`.
#[inline(always)]
fn map_from(values: &mut [f32], neutral: f32, f: &mut impl FnMut(&mut Lanes)) {
    let (groups, rest) = values.as_chunks_mut::<LANES>();
    groups.iter_mut().for_each(&mut *f);
    if !rest.is_empty() {
        let mut group = filled(rest, neutral);
        f(&mut group);
        rest.copy_from_slice(&group[..rest.len()]);
    }
}

/// Fewer than sixteen values, and `neutral` for the others.
#[inline(always)]
fn filled(rest: &[f32], neutral: f32) -> Lanes {
    let mut group = [neutral; LANES];
    group[..rest.len()].copy_from_slice(rest);
    group
}

/// One value of sixteen, by halves.
#[inline(always)]
fn join(lanes: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for lane in 0..8 {
        eight[lane] = f(lanes[lane], lanes[lane + 8]);
    }
    for lane in 0..4 {
        four[lane] = f(eight[lane], eight[lane + 4]);
    }
    f(f(four[0], four[2]), f(four[1], four[3]))
}

/// Folds all values into sixteen with `step`, starting from `first`, and those into one with `both`. `step` with
/// `neutral` changes nothing.
#[inline(always)]
fn fold(
    values: &[f32],
    first: f32,
    neutral: f32,
    step: impl Fn(f32, f32) -> f32,
    both: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut sums = [first; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            sums[lane] = step(sums[lane], group[lane]);
        }
    }
    if !rest.is_empty() {
        let group = filled(rest, neutral);
        for lane in 0..LANES {
            sums[lane] = step(sums[lane], group[lane]);
        }
    }
    join(sums, both)
}

/// a b + c, rounded once where that is one instruction. On 32-bit ARM it may not be, and would be a function call.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "arm") { a * b + c } else { a.mul_add(b, c) }
}

/// The larger of two numbers, and `b` if one is NaN: one instruction where `f32::max` takes three.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// A number between two ends; the nearer one if it is beyond, the first for NaN.
#[inline(always)]
fn between(least: f32, x: f32, most: f32) -> f32 {
    let x = larger(x, least);
    if x < most { x } else { most }
}

/// `y`, but NaN where it was computed of NaN and does not show it.
#[inline(always)]
fn unless_nan(x: f32, y: f32) -> f32 {
    if x.is_nan() { x } else { y }
}

/// e to the power x, within 2 units in the last place, for x from -87.3 to 88; beyond, that of the nearer end.
///
/// x is n ln 2 + r with |r| at most half of ln 2 (in two parts, so that r is exact), and e^r is the polynomial of the
/// Cephes library's expf.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = between(-87.3, x, 88.0);
    let rounded = fma(x, LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x));
    let p = 1.987_569_1e-4f32;
    let p = fma(p, r, 1.398_2e-3);
    let p = fma(p, r, 8.333_452e-3);
    let p = fma(p, r, 4.166_579_6e-2);
    let p = fma(p, r, 1.666_666_5e-1);
    let p = fma(p, r, 0.5);
    let power = fma(p * r, r, r + 1.0);
    // Times 2^n, n being a whole number from -126 to 127: the low bits of `rounded` are n, and go to the exponent.
    f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// The error function, within 2e-7: the rational approximation that XLA and Eigen use, odd over even, on [-4, 4].
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = between(-4.0, x, 4.0);
    let t = x * x;
    // By pairs of terms, because most units would have to copy a constant before adding to it.
    let u = t * t;
    let p = fma(t, 2.770_681_4e-8, -2.101_024e-6);
    let p = fma(u, -2.726_142_3e-10, p);
    let p = fma(u, p, fma(t, -5.692_506_5e-5, -7.349_906_3e-4));
    let p = fma(u, p, fma(t, -2.954_6e-3, -1.609_603_3e-2)) * x;
    let q = fma(t, -2.133_740_2e-4, -1.682_827e-3);
    let q = fma(u, -1.456_607_2e-5, q);
    let q = fma(u, q, fma(t, -7.373_329_2e-3, -1.426_473_9e-2));
    p / q
}

#[inline(always)]
pub(super) fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => map(values, |group| {
            for v in group {
                let half = 0.5 * *v;
                *v = fma(half, erf(*v * FRAC_1_SQRT_2), half);
            }
        }),
        // 0.5 (1 + tanh u) is 1 / (1 + e^-2u).
        Activation::GeluTanh => map(values, |group| {
            for v in group {
                let u = SQRT_2_OVER_PI * (*v + GELU_CUBIC * *v * *v * *v);
                *v /= 1.0 + exp(-2.0 * u);
            }
        }),
        Activation::Relu => map(values, |group| {
            for v in group {
                *v = larger(0.0, *v);
            }
        }),
        Activation::Tanh => map(values, |group| {
            for v in group {
                *v = unless_nan(*v, 2.0 / (1.0 + exp(-2.0 * *v)) - 1.0);
            }
        }),
        Activation::Silu => map(values, |group| {
            for v in group {
                *v /= 1.0 + exp(-*v);
            }
        }),
    }
}

#[inline(always)]
pub(super) fn activate_backward(activation: Activation, values: &[f32], gradients: &mut [f32]) {
    #[inline(always)]
    fn each(values: &[f32], gradients: &mut [f32], slope: impl Fn(f32) -> f32) {
        for (gradient, x) in gradients.iter_mut().zip(values) {
            *gradient *= slope(*x);
        }
    }
    match activation {
        // The normal distribution and, times x, its density.
        Activation::Gelu => each(values, gradients, |x| {
            let distribution = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
            distribution + x * exp(-0.5 * x * x) * NORMAL_DENSITY
        }),
        // x s(2u), s being the logistic function and u what tanh is taken of.
        Activation::GeluTanh => each(values, gradients, |x| {
            let u = SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x);
            let s = 1.0 / (1.0 + exp(-2.0 * u));
            s + x * s * (1.0 - s) * 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * GELU_CUBIC * x * x)
        }),
        Activation::Relu => each(values, gradients, |x| if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Tanh => each(values, gradients, |x| {
            let tanh = 2.0 / (1.0 + exp(-2.0 * x)) - 1.0;
            1.0 - tanh * tanh
        }),
        Activation::Silu => each(values, gradients, |x| {
            let s = 1.0 / (1.0 + exp(-x));
            s + x * s * (1.0 - s)
        }),
    }
}

#[inline(always)]
pub(super) fn exponentials(row: &mut [f32]) -> f32 {
    let top = fold(row, f32::MIN, f32::MIN, larger, larger);
    let mut sums = [0.0; LANES];
    map_from(row, f32::NEG_INFINITY, &mut |group: &mut Lanes| {
        for lane in 0..LANES {
            let below = group[lane] - top;
            group[lane] = unless_nan(below, exp(below));
            sums[lane] += group[lane];
        }
    });
    join(sums, |a, b| a + b)
}

#[inline(always)]
pub(super) fn normalize(row: &mut [f32], gain: &[f32], bias: Option<&[f32]>, epsilon: f32) -> f32 {
    let len = row.len() as f32;
    let mean = fold(row, 0.0, 0.0, |a, b| a + b, |a, b| a + b) / len;
    let squares = fold(row, 0.0, mean, |sum, v| fma(v - mean, v - mean, sum), |a, b| a + b);
    let inverse = 1.0 / (squares / len + epsilon).sqrt();
    match bias {
        Some(bias) => {
            for ((v, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
                *v = fma((*v - mean) * inverse, *gain, *bias);
            }
        }
        None => row.iter_mut().zip(gain).for_each(|(v, gain)| *v = (*v - mean) * inverse * gain),
    }
    inverse
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Two sums, because a multiply-add has to wait some cycles for the one before it.
    let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
    let ((a, rest_of_a), (b, rest_of_b)) = (a.as_chunks::<{ 2 * LANES }>(), b.as_chunks::<{ 2 * LANES }>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            even[lane] = fma(a[lane], b[lane], even[lane]);
            odd[lane] = fma(a[lane + LANES], b[lane + LANES], odd[lane]);
        }
    }
    let rest: f32 = rest_of_a.iter().zip(rest_of_b).fold(0.0, |sum, (a, b)| fma(*a, *b, sum));
    for lane in 0..LANES {
        even[lane] += odd[lane];
    }
    join(even, |a, b| a + b) + rest
}

#[inline(always)]
pub(super) fn add_scaled(factor: f32, x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = fma(factor, *x, *out));
}

/// Adding and subtracting it rounds to a whole number, halves to even.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
pub(super) fn quantize(values: &[f32], quantized: &mut [u8]) -> Scale {
    // The bits of non-negative floats, as unsigned integers, are ordered like the floats, and those of negative floats
    // are above them. So minimum and maximum are one instruction each on every unit.
    let (mut lows, mut highs) = ([0u32; LANES], [0i32; LANES]);
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups.iter().chain((!rest.is_empty()).then(|| filled(rest, 0.0)).iter()) {
        for lane in 0..LANES {
            lows[lane] = lows[lane].max(group[lane].to_bits());
            highs[lane] = highs[lane].max(group[lane].to_bits().cast_signed());
        }
    }
    let low = larger(0.0, -f32::from_bits(lows.into_iter().fold(0, u32::max)));
    let high = f32::from_bits(highs.into_iter().fold(0, i32::max).cast_unsigned());
    let span = high + low;
    let scale = if span <= LEAST_SPAN { 1.0 } else { span / 255.0 };
    let inverse = 1.0 / scale;
    let zero_point = (low * inverse + ROUND) - ROUND;
    // Only values that are not finite have another one, and their quantized values mean nothing.
    let zero_point = if zero_point < 255.0 { zero_point } else { 255.0 };
    // The low bits of a sum with `ROUND` are the whole number. None is below the zero point's, for that is the lowest
    // value's; but the highest may be one too high, if both are rounded up.
    let most = ROUND.to_bits() + 255 - zero_point as u32;
    for (quantized, v) in quantized.iter_mut().zip(values) {
        let whole = (v * inverse + ROUND).to_bits().min(most);
        *quantized = (whole as u8).wrapping_add(zero_point as u8);
    }
    Scale { scale, zero_point }
}

#[inline(always)]
pub(super) fn dequantize(panel: &[i8], scales: &[f32], out: &mut [f32]) {
    let mut lanes = [0.0; PANEL_WIDTH];
    lanes[..scales.len()].copy_from_slice(scales);
    let groups = panel.as_chunks::<{ PANEL_GROUP * PANEL_WIDTH }>().0;
    for (group, rows) in groups.iter().zip(out.chunks_mut(PANEL_GROUP * PANEL_WIDTH)) {
        for (k, row) in rows.chunks_exact_mut(PANEL_WIDTH).enumerate() {
            for lane in 0..PANEL_WIDTH {
                row[lane] = f32::from(group[lane * PANEL_GROUP + k]) * lanes[lane];
            }
        }
    }
}

#[inline(always)]
pub(super) fn unpack(panel: &[Packed], out: &mut [i8]) {
    assert!(out.len() <= panel.len() * FACTOR_GROUP * PANEL_WIDTH, "panels beyond their data");
    let (blocks, rest) = out.as_chunks_mut();
    // A loop, for a closure would not be compiled for the caller's instructions.
    for (packed, block) in panel.iter().zip(&mut *blocks) {
        unpack_block(packed, block);
    }
    // The last rows need not fill a block.
    if !rest.is_empty() {
        let mut block = [0; FACTOR_GROUP * PANEL_WIDTH];
        unpack_block(&panel[blocks.len()], &mut block);
        rest.copy_from_slice(&block[..rest.len()]);
    }
}

/// 64-bit ARM multiplies bytes; to all others a word is four values of a column, which have one factor.
#[inline(always)]
fn unpack_block(packed: &Packed, block: &mut [i8; FACTOR_GROUP * PANEL_WIDTH]) {
    if cfg!(target_arch = "aarch64") { unpack_bytes(packed, block) } else { unpack_words(packed, block) }
}

#[inline(always)]
fn unpack_bytes(packed: &Packed, block: &mut [i8; FACTOR_GROUP * PANEL_WIDTH]) {
    const BYTES: usize = PANEL_GROUP * PANEL_WIDTH;
    let (of_columns, nibbles) = parts(packed);
    let mut factors = [0; BYTES];
    for (at, factor) in factors.iter_mut().enumerate() {
        *factor = of_columns[at / PANEL_GROUP];
    }
    for (pair, eight) in nibbles.iter().zip(block.as_chunks_mut::<{ 2 * BYTES }>().0) {
        for at in 0..BYTES {
            eight[at] = times(pair[at] << 4, factors[at]);
            eight[BYTES + at] = times(pair[at], factors[at]);
        }
    }
}

/// With factors and numbers of the format no product leaves its byte once 128 is added to it; with others the bytes beside
/// it change too.
#[inline(always)]
fn unpack_words(packed: &Packed, block: &mut [i8; FACTOR_GROUP * PANEL_WIDTH]) {
    // A number in each byte of a word.
    const NIBBLE: u32 = 0x0f0f_0f0f;
    const EIGHT: u32 = 0x0808_0808;
    const HALF: u32 = 0x8080_8080;
    // Nibbles in two's complement, as numbers that are 8 larger.
    let shifted = |nibbles: u32| (nibbles & NIBBLE) ^ EIGHT;
    let (of_columns, nibbles) = parts(packed);
    let (mut factors, mut offsets) = ([0u32; PANEL_WIDTH], [0u32; PANEL_WIDTH]);
    for (c, factor) in of_columns.iter().enumerate() {
        factors[c] = (*factor).into();
        // Takes back the 8 times the factor, and adds 128.
        offsets[c] = HALF.wrapping_sub(factors[c].wrapping_mul(EIGHT));
    }
    let eights = block.as_chunks_mut::<PANEL_GROUP>().0.as_chunks_mut::<{ 2 * PANEL_WIDTH }>().0;
    for (pair, eight) in nibbles.iter().zip(eights) {
        for (c, four) in pair.as_chunks::<PANEL_GROUP>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*four);
            let times = |number: u32| number.wrapping_mul(factors[c]).wrapping_add(offsets[c]) ^ HALF;
            eight[c] = times(shifted(word)).to_le_bytes().map(u8::cast_signed);
            eight[PANEL_WIDTH + c] = times(shifted(word >> 4)).to_le_bytes().map(u8::cast_signed);
        }
    }
}

/// The transpose of 16 by 16 values.
#[inline(always)]
pub(super) fn transpose(block: &[f32], transposed: &mut [f32]) {
    let (rows, _) = block.as_chunks::<LANES>();
    let (columns, _) = transposed.as_chunks_mut::<LANES>();
    for (at, column) in columns.iter_mut().enumerate() {
        for (value, row) in column.iter_mut().zip(rows) {
            *value = row[at];
        }
    }
}
