//! The oracle: each formula in plain Rust, one value after the other.

use super::{
    GROUP, HalfPanels, Kernel, LEAST_SPAN, Packed, Panels, QuantizedPanels, QuantizedRows, Rows, Scale, Start,
    check_product, check_quantized, check_transposed, parts, times,
};
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::{
    Activation,
    layout::{FACTOR_GROUP, PANEL_GROUP, PANEL_WIDTH},
};

/// Plain Rust.
#[derive(Debug)]
pub(crate) struct Naive;

impl Kernel for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn multiply(&self, x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
        check_product(x, (w.data, w.depth, w.columns), start, out, stride);
        for r in 0..x.count {
            let row = &x.data[r * x.stride..][..w.depth];
            for c in 0..w.columns {
                let (panel, lane) = (c / PANEL_WIDTH, c % PANEL_WIDTH);
                let weight = |k: usize| w.data[(panel * w.depth + k) * PANEL_WIDTH + lane];
                let sum: f32 = row.iter().enumerate().map(|(k, x)| x * weight(k)).sum();
                out[r * stride + c] = start.value(r, c, out[r * stride + c]) + sum;
            }
        }
    }

    fn multiply_halves(&self, x: Rows<'_>, w: HalfPanels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
        check_product(x, (w.data, w.depth, w.columns), start, out, stride);
        for r in 0..x.count {
            let row = &x.data[r * x.stride..][..w.depth];
            for c in 0..w.columns {
                let (panel, lane) = (c / PANEL_WIDTH, c % PANEL_WIDTH);
                let mut weight = [0.0];
                let products = row.iter().enumerate().map(|(k, x)| {
                    self.widen(&w.data[(panel * w.depth + k) * PANEL_WIDTH + lane..], &mut weight);
                    x * weight[0]
                });
                let sum: f32 = products.sum();
                out[r * stride + c] = start.value(r, c, out[r * stride + c]) + sum;
            }
        }
    }

    fn multiply_quantized(
        &self,
        x: QuantizedRows<'_>,
        w: QuantizedPanels<'_>,
        start: Start<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        check_quantized(x, w, start, out, stride);
        let groups = w.depth.div_ceil(GROUP);
        for r in 0..x.count {
            for c in 0..w.columns {
                let mut sum = start.value(r, c, out[r * stride + c]);
                for g in 0..groups {
                    let row = g * GROUP..w.depth.next_multiple_of(PANEL_GROUP).min((g + 1) * GROUP);
                    let product =
                        |k| i32::from(x.data[r * x.stride + k]) * i32::from(w.data[quantized_place(w.depth, k, c)]);
                    let quantized: i32 = row.map(product).sum();
                    let (scale, place) = (x.scales[r * groups + g], g * w.columns + c);
                    let centred = scale.zero_point.mul_add(-w.column_sums[place], quantized as f32);
                    sum = centred.mul_add(scale.scale * w.scales[place], sum);
                }
                out[r * stride + c] = sum;
            }
        }
    }

    fn multiply_transposed(&self, y: Rows<'_>, w: Panels<'_>, out: &mut [f32], stride: usize) {
        check_transposed(y, w, out, stride);
        for r in 0..y.count {
            let row = &y.data[r * y.stride..][..w.columns];
            for k in 0..w.depth {
                let weight = |c: usize| w.data[(c / PANEL_WIDTH * w.depth + k) * PANEL_WIDTH + c % PANEL_WIDTH];
                out[r * stride + k] += row.iter().enumerate().map(|(c, y)| y * weight(c)).sum::<f32>();
            }
        }
    }

    fn activate_backward(&self, activation: Activation, values: &[f32], gradients: &mut [f32]) {
        gradients.iter_mut().zip(values).for_each(|(gradient, x)| *gradient *= activation.slope(*x));
    }

    fn quantize(&self, values: &[f32], quantized: &mut [u8]) -> Scale {
        let low = values.iter().fold(0.0, |low: f32, v| low.min(*v));
        let high = values.iter().fold(0.0, |high: f32, v| high.max(*v));
        let scale = match high - low {
            _ if values.iter().any(|v| !v.is_finite()) => f32::NAN,
            span if span > LEAST_SPAN => span / 255.0,
            _ => 1.0,
        };
        let inverse = 1.0 / scale;
        let zero_point = (-low * inverse).round_ties_even();
        for (quantized, v) in quantized.iter_mut().zip(values) {
            *quantized = ((v * inverse).round_ties_even() + zero_point).clamp(0.0, 255.0) as u8;
        }
        Scale { scale, zero_point }
    }

    fn dequantize(&self, panel: &[i8], scales: &[f32], out: &mut [f32]) {
        let depth = out.len() / PANEL_WIDTH;
        for (k, row) in out.chunks_mut(PANEL_WIDTH).enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = f32::from(panel[quantized_place(depth, k, c)]) * scales.get(c).copied().unwrap_or(0.0);
            }
        }
    }

    fn widen(&self, halves: &[u16], out: &mut [f32]) {
        out.iter_mut().zip(halves).for_each(|(out, half)| {
            let (sign, exponent, fraction) = (half >> 15, i32::from(half >> 10 & 31), f32::from(half & 0x3ff) / 1024.0);
            let size = match exponent {
                0 => fraction * 2f32.powi(-14),
                31 if fraction == 0.0 => f32::INFINITY,
                31 => f32::NAN,
                _ => (1.0 + fraction) * 2f32.powi(exponent - 15),
            };
            *out = if sign == 0 { size } else { -size };
        });
    }

    fn unpack(&self, panel: &[Packed], out: &mut [i8]) {
        for (at, value) in out.iter_mut().enumerate() {
            let (k, c) =
                (at / (PANEL_WIDTH * PANEL_GROUP) * PANEL_GROUP + at % PANEL_GROUP, at / PANEL_GROUP % PANEL_WIDTH);
            let (factors, nibbles) = parts(&panel[k / FACTOR_GROUP]);
            let (pair, half) = (k % FACTOR_GROUP / (2 * PANEL_GROUP), k / PANEL_GROUP % 2);
            let byte = nibbles[pair][c * PANEL_GROUP + k % PANEL_GROUP];
            *value = times(if half == 0 { byte << 4 } else { byte }, factors[c]);
        }
    }

    fn activate(&self, activation: Activation, values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = activation.of(*v));
    }

    fn exponentials(&self, row: &mut [f32]) -> f32 {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - top).exp());
        row.iter().sum()
    }

    fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn add_scaled(&self, factor: f32, x: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
    }

    fn normalize(&self, row: &mut [f32], gain: &[f32], bias: Option<&[f32]>, epsilon: f32) -> f32 {
        let len = row.len() as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / len;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / len;
        let deviation = (variance + f64::from(epsilon)).sqrt();
        for (at, (v, gain)) in row.iter_mut().zip(gain).enumerate() {
            *v = ((f64::from(*v) - mean) / deviation) as f32 * gain + bias.map_or(0.0, |bias| bias[at]);
        }
        (1.0 / deviation) as f32
    }
}

impl Start<'_> {
    /// What the sum at a row and a column begins with, where `there` is in its place.
    fn value(self, row: usize, column: usize, there: f32) -> f32 {
        match self {
            Start::Zero => 0.0,
            Start::There => there,
            Start::Bias { table, stride, rows } => table[rows[row] as usize * stride + column],
        }
    }
}

/// Where panels of int8 values have row `k` of column `c`.
pub(super) fn quantized_place(depth: usize, k: usize, c: usize) -> usize {
    let (panel, lane) = (c / PANEL_WIDTH, c % PANEL_WIDTH);
    let (group, byte) = (k / PANEL_GROUP, k % PANEL_GROUP);
    ((panel * depth.div_ceil(PANEL_GROUP) + group) * PANEL_WIDTH + lane) * PANEL_GROUP + byte
}
