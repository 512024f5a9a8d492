//! LayerNorm, and its adjoint.
//!
//! In: rows `[N, H]`, a frozen gain, and for each row the bias of its task. Out: the rows normalised, in place; backward,
//! from the gradients of what came out those of what went in, in place too.

use super::{
    machine::{Machine, Scratch},
    product::Biases,
    weights::Weight,
};

/// A frozen gain `[H]`, and where its bias is among the values of a task.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub gain: Weight,
    pub bias: usize,
    pub epsilon: f32,
}

/// What the adjoint needs of the forward pass: rows normalised but for gain and bias, and what each was multiplied by, the
/// inverse of its deviation.
pub(super) struct Normalised<'m> {
    rows: Scratch<'m>,
    inverses: Vec<f32>,
}

impl Norm {
    /// Normalises some rows, on the thread that has them.
    pub fn apply(&self, machine: &Machine, biases: Biases<'_>, out: &mut [f32]) {
        let width = self.gain.columns();
        for (row, values) in out.chunks_mut(width).enumerate() {
            let bias = biases.slot(self.bias, width, row);
            machine.kernel.normalise(values, self.gain.vector(), bias, self.epsilon);
        }
    }

    /// Normalises all rows, on all threads, and keeps what the adjoint needs.
    pub fn apply_and_keep<'m>(&self, machine: &'m Machine, biases: Biases<'_>, out: &mut [f32]) -> Normalised<'m> {
        let width = self.gain.columns();
        let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
        let mut kept = Normalised { rows: machine.scratch(out.len()), inverses: vec![0.0; out.len() / width] };
        let part = machine.part(kept.inverses.len());
        let places = kept.rows.chunks_mut(part * width).zip(kept.inverses.chunks_mut(part));
        let parts = out.chunks_mut(part * width).zip(places);
        machine.each(parts.enumerate().collect(), |(at, (out, (normalised, inverses)))| {
            normalised.copy_from_slice(out);
            let rows = out.chunks_mut(width).zip(normalised.chunks_mut(width)).zip(inverses).enumerate();
            for (row, ((out, normalised), inverse)) in rows {
                *inverse = machine.kernel.normalise(normalised, &ones, &zeros, self.epsilon);
                let bias = biases.slot(self.bias, width, at * part + row);
                for (((out, x), gain), bias) in out.iter_mut().zip(normalised).zip(self.gain.vector()).zip(bias) {
                    *out = *x * gain + bias;
                }
            }
        });
        kept
    }

    /// With g = d gain: (g - mean(g) - x mean(g x)) over the deviation, x being the normalised row.
    pub fn adjoint(&self, machine: &Machine, kept: &Normalised<'_>, d: &mut [f32]) {
        let (width, gain) = (self.gain.columns(), self.gain.vector());
        machine.split(d, width, |rows, d| {
            for (row, d) in rows.zip(d.chunks_mut(width)) {
                let x = &kept.rows[row * width..][..width];
                let (mut mean, mut slope) = (0.0, 0.0);
                for ((d, gain), x) in d.iter_mut().zip(gain).zip(x) {
                    *d *= gain;
                    mean += *d;
                    slope += *d * x;
                }
                let (mean, slope) = (mean / width as f32, slope / width as f32);
                for (d, x) in d.iter_mut().zip(x) {
                    *d = (*d - mean - x * slope) * kept.inverses[row];
                }
            }
        });
    }

    /// Adds the gradient of the gain: the sum over rows of d times the normalised row.
    pub fn add_gain(&self, kept: &Normalised<'_>, d: &[f32], d_weights: &mut [f32]) {
        let sums = &mut d_weights[self.gain.place()];
        let width = sums.len();
        for (x, d) in kept.rows.chunks(width).zip(d.chunks(width)) {
            sums.iter_mut().zip(x).zip(d).for_each(|((sum, x), d)| *sum += x * d);
        }
    }
}
