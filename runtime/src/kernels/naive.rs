//! The oracle: each formula in plain Rust, one value after the other.

use bias_patch::{Activation, PANEL_GROUP, PANEL_WIDTH};

use super::{
    CodePanels, CodeRows, GROUP, Kernel, LEAST_SPAN, Panels, Rows, Scale, Start, check_codes, check_product,
    check_transposed,
};
use crate::head::activate;

/// Plain Rust.
#[derive(Debug)]
pub(crate) struct Naive;

impl Kernel for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn multiply(&self, x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
        check_product(x, w, start, out, stride);
        for r in 0..x.count {
            let row = &x.data[r * x.stride..][..w.depth];
            for c in 0..w.columns {
                let (panel, lane) = (c / PANEL_WIDTH, c % PANEL_WIDTH);
                let weight = |k: usize| w.data[(panel * w.depth + k) * PANEL_WIDTH + lane];
                let sum: f32 = row.iter().enumerate().map(|(k, x)| x * weight(k)).sum();
                let begin = match start {
                    Start::Zero => 0.0,
                    Start::There => out[r * stride + c],
                    Start::Bias { table, stride, rows } => table[rows[r] as usize * stride + c],
                };
                out[r * stride + c] = begin + sum;
            }
        }
    }

    fn multiply_codes(&self, x: CodeRows<'_>, w: CodePanels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
        check_codes(x, w, start, out, stride);
        let groups = w.depth.div_ceil(GROUP);
        for r in 0..x.count {
            for c in 0..w.columns {
                let mut sum = match start {
                    Start::Zero => 0.0,
                    Start::There => out[r * stride + c],
                    Start::Bias { table, stride, rows } => table[rows[r] as usize * stride + c],
                };
                for g in 0..groups {
                    let row = g * GROUP..w.depth.next_multiple_of(PANEL_GROUP).min((g + 1) * GROUP);
                    let product =
                        |k| i32::from(x.data[r * x.stride + k]) * i32::from(w.data[code_place(w.depth, k, c)]);
                    let codes: i32 = row.map(product).sum();
                    let (scale, place) = (x.scales[r * groups + g], g * w.columns + c);
                    let centred = scale.zero.mul_add(-w.sums[place], codes as f32);
                    sum = centred.mul_add(scale.step * w.scales[place], sum);
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

    fn activate_adjoint(&self, activation: Activation, values: &[f32], gradients: &mut [f32]) {
        for (x, gradient) in values.iter().zip(gradients) {
            *gradient *= match activation {
                // The normal distribution and, times x, its density.
                Activation::Gelu => {
                    let share = 0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
                    share + x * (-0.5 * x * x).exp() * 0.398_942_3
                }
                Activation::GeluTanh => {
                    let tanh = (0.797_884_6 * (x + 0.044_715 * x.powi(3))).tanh();
                    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * 0.797_884_6 * (1.0 + 0.134_145 * x * x)
                }
                Activation::Relu => f32::from(u8::from(*x > 0.0)),
                Activation::Tanh => 1.0 - x.tanh().powi(2),
            };
        }
    }

    fn encode(&self, values: &[f32], codes: &mut [u8]) -> Scale {
        let low = values.iter().fold(0.0, |low: f32, v| low.min(*v));
        let high = values.iter().fold(0.0, |high: f32, v| high.max(*v));
        let step = if high - low > LEAST_SPAN { (high - low) / 255.0 } else { 1.0 };
        let inverse = 1.0 / step;
        let zero = (-low * inverse).round_ties_even();
        for (code, v) in codes.iter_mut().zip(values) {
            *code = ((v * inverse).round_ties_even() + zero).clamp(0.0, 255.0) as u8;
        }
        Scale { step, zero }
    }

    fn widen(&self, panel: &[i8], scales: &[f32], out: &mut [f32]) {
        let depth = out.len() / PANEL_WIDTH;
        for (k, row) in out.chunks_mut(PANEL_WIDTH).enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = f32::from(panel[code_place(depth, k, c)]) * scales.get(c).copied().unwrap_or(0.0);
            }
        }
    }

    fn activate(&self, activation: Activation, values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = activate(activation, *v));
    }

    fn exponentials(&self, row: &mut [f32]) -> f32 {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|v| *v = (*v - top).exp());
        row.iter().sum()
    }

    fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) -> f32 {
        let len = row.len() as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / len;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / len;
        let deviation = (variance + f64::from(epsilon)).sqrt();
        for ((v, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
            *v = ((f64::from(*v) - mean) / deviation) as f32 * gain + bias;
        }
        (1.0 / deviation) as f32
    }
}

/// Where panels of codes have row `k` of column `c`.
pub(super) fn code_place(depth: usize, k: usize, c: usize) -> usize {
    let (panel, lane) = (c / PANEL_WIDTH, c % PANEL_WIDTH);
    let (group, byte) = (k / PANEL_GROUP, k % PANEL_GROUP);
    ((panel * depth.div_ceil(PANEL_GROUP) + group) * PANEL_WIDTH + lane) * PANEL_GROUP + byte
}
