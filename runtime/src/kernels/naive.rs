//! The oracle: each formula in plain Rust, one value after the other.

use bias_patch::{Activation, PANEL_WIDTH};

use super::{Kernel, Panels, Rows, Start, check_product};
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
                    Start::Bias { table, rows } => table[rows[r] as usize * w.columns + c],
                };
                out[r * stride + c] = begin + sum;
            }
        }
    }

    fn activate(&self, activation: Activation, values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = activate(activation, *v));
    }

    fn softmax(&self, row: &mut [f32]) {
        let scores = crate::head::softmax(row);
        row.copy_from_slice(&scores);
    }

    fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
        let len = row.len() as f64;
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / len;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / len;
        let deviation = (variance + f64::from(epsilon)).sqrt();
        for ((v, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
            *v = ((f64::from(*v) - mean) / deviation) as f32 * gain + bias;
        }
    }
}
