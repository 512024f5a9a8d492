//! LayerNorm of rows, forward and backward.
//!
//! Letters: N rows of H values. Forward: x = (row - mean) / deviation and y = x gain + bias, with the bias of the row's
//! task. Backward, from dy, with g = dy gain: d(row) = (g - mean(g) - x mean(g x)) / deviation. Refused: a gain or bias
//! of another length.

use alloc::vec;

use crate::{
    Error, Result,
    batch::{Slot, TaskRows},
    gradients::Gradients,
    operators::Pass,
    weights::Tensor,
};

/// A frozen gain `[H]`, and perhaps a slot of H values for its bias.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// The gain, a vector of f32.
    pub gain: Tensor,
    /// The bias; none adds nothing.
    pub bias: Option<Slot>,
    /// Added to the variance.
    pub epsilon: f32,
}

impl LayerNorm {
    /// H.
    pub fn width(&self) -> usize {
        self.gain.columns
    }

    /// What backward needs of each row: the H normalized values, and the inverse of the deviation.
    pub(crate) fn saves(&self) -> [usize; 2] {
        [self.width(), 1]
    }

    /// Checks that the gain is a vector of floats and that the bias has the same length.
    pub(crate) fn check(&self, operator: &str) -> Result<()> {
        let shape = |what, expected, found| Error::Shape { operator: operator.into(), what, expected, found };
        if self.gain.in_panels || !self.gain.is_f32() || self.gain.rows != 1 {
            return Err(shape("a gain in f32, with a number of rows", 1, self.gain.rows));
        }
        match self.bias {
            Some(bias) if bias.len != self.width() => Err(shape("a LayerNorm's bias", self.width(), bias.len)),
            _ => Ok(()),
        }
    }

    /// Normalizes some rows in place. If `saved` has room, it gets what backward needs.
    pub(crate) fn forward(&self, pass: &Pass<'_>, tasks: TaskRows<'_>, out: &mut [f32], saved: &mut [&mut [f32]]) {
        let (width, kernel) = (self.width(), pass.machine.kernel);
        let gain = self.gain.vector(pass.weights);
        let used = tasks.used(self.bias);
        let bias = |row| used.map(|bias| tasks.slot(bias, row));
        let [normalized, inverses] = saved else {
            for (row, values) in out.chunks_mut(width).enumerate() {
                kernel.normalize(values, gain, bias(row), self.epsilon);
            }
            return;
        };
        let ones = vec![1.0; width];
        normalized.copy_from_slice(out);
        let rows = out.chunks_mut(width).zip(normalized.chunks_mut(width)).zip(inverses.iter_mut()).enumerate();
        for (row, ((out, normalized), inverse)) in rows {
            *inverse = kernel.normalize(normalized, &ones, None, self.epsilon);
            out.iter_mut().zip(&*normalized).zip(gain).for_each(|((out, x), gain)| *out = *x * gain);
            if let Some(bias) = bias(row) {
                out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
    }

    /// Adds to the gradients of bias and gain.
    pub(crate) fn backward_of_values(&self, saved: &[&[f32]], d: &[f32], gradients: &mut Gradients<'_>) {
        gradients.add_bias(self.bias, d.chunks(self.width()));
        gradients.add_gain(&self.gain, saved[0], d);
    }

    /// Replaces the gradient of the output by the gradient of the input, in place.
    pub(crate) fn backward_of_input(&self, pass: &Pass<'_>, saved: &[&[f32]], d: &mut [f32]) {
        let (width, gain) = (self.width(), self.gain.vector(pass.weights));
        let [normalized, inverses] = saved else { unreachable!("a LayerNorm saves two things") };
        pass.machine.split(d, width, |rows, d| {
            for (row, d) in rows.zip(d.chunks_mut(width)) {
                let x = &normalized[row * width..][..width];
                let (mut mean, mut slope) = (0.0, 0.0);
                for ((d, gain), x) in d.iter_mut().zip(gain).zip(x) {
                    *d *= gain;
                    mean += *d;
                    slope += *d * x;
                }
                let (mean, slope) = (mean / width as f32, slope / width as f32);
                for (d, x) in d.iter_mut().zip(x) {
                    *d = (*d - mean - x * slope) * inverses[row];
                }
            }
        });
    }

    /// The tensors it reads.
    pub(crate) fn tensors(&self) -> [&Tensor; 1] {
        [&self.gain]
    }
}
