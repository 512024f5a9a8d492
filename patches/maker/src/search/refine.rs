//! Refines values on their grids, so that the stored patch answers as the exact one does.
//!
//! In: a start, the level of each part, and texts without labels. Out: values whose rounding diverges less from the exact
//! patch. This is quantization-aware training: every forward pass rounds the values to their encodings, and the gradient
//! of the divergence is applied to the values before rounding (a straight-through estimator). Scales are those of
//! [`Stored::encode`] at every step.

use bias_patch::{Encoding, Stored, Task};
use edge_run::{Encoder, Tokenized, tasks};

use super::{
    Refinement,
    parts::{Level, Part, array_of, encoding, with_arrays},
    state::State,
};
use crate::{
    Result,
    random::Random,
    train::optimizer::{AdamW, learning_rate_at},
};

/// The values of all arrays of all parts before rounding, in their order, and the head's bias.
#[derive(Clone)]
pub(super) struct Latent {
    pub arrays: Vec<Vec<f32>>,
    pub bias: Vec<f32>,
}

/// What refinement needs of a search.
pub(super) struct Refiner<'a> {
    pub encoder: &'a Encoder,
    pub task: &'a Task,
    pub exact: &'a State,
    pub parts: &'a [Part],
    pub texts: &'a [Tokenized],
    /// The exact patch's outputs for those texts that were used.
    pub outputs: Vec<Option<Vec<Vec<f64>>>>,
}

impl Refiner<'_> {
    /// Refines from `start`. `done` is called after every step.
    pub fn refine(
        &mut self,
        start: Latent,
        levels: &[Level],
        how: &Refinement,
        done: &mut dyn FnMut(),
    ) -> Result<Latent> {
        /// Texts of a step.
        const BATCH: usize = 16;
        /// The fraction of steps over which the learning rate is warmed up.
        const WARMUP: f64 = 0.06;
        /// The purpose of the random order of texts.
        const PURPOSE: u64 = u64::MAX - 5;
        let mut random = Random::new(0, PURPOSE);
        let mut order: Vec<usize> = Vec::new();
        let mut latent = start;
        let of_array: Vec<Option<Encoding>> = self
            .parts
            .iter()
            .zip(levels)
            .flat_map(|(part, level)| (0..part.arrays.len()).map(move |array| encoding(level, array)))
            .collect();
        let count = latent.arrays.iter().map(Vec::len).sum::<usize>() + latent.bias.len();
        let mut adam = AdamW::new(count);
        for step in 0..how.steps {
            while order.len() < BATCH {
                let mut next: Vec<usize> = (0..self.texts.len()).collect();
                random.shuffle(&mut next);
                order.extend(next);
            }
            let batch: Vec<usize> = order.drain(..BATCH).collect();
            self.fill(&batch)?;
            let state = self.rounded(&latent, &of_array)?;
            let form = tasks::of(self.task.kind()).output_form();
            let texts: Vec<&Tokenized> = batch.iter().map(|at| &self.texts[*at]).collect();
            let exact: Vec<&[Vec<f64>]> =
                batch.iter().map(|at| self.outputs[*at].as_deref().unwrap_or_default()).collect();
            let mut loss = |at: usize, found: &[Vec<f64>]| form.divergence(exact[at], found, 1.0 / BATCH as f64);
            let found = state.gradient(self.encoder, self.task, &texts, true, &mut loss)?;
            let (mut parameters, mut gradients) = (Vec::with_capacity(count), Vec::with_capacity(count));
            let arrays = self.parts.iter().flat_map(|part| &part.arrays);
            let weight = found.head.len() - latent.bias.len();
            for (array, values) in arrays.zip(&latent.arrays) {
                parameters.extend(values);
                gradients.extend(array_of(array.place, &found.values, &found.head, weight));
            }
            parameters.extend(&latent.bias);
            gradients.extend(&found.head[weight..]);
            let rate = learning_rate_at(how.learning_rate, step, how.steps, WARMUP);
            adam.step(&mut parameters, &gradients, std::iter::repeat_n(rate, count), 0.0);
            let mut rest = parameters.into_iter();
            for (values, encoding) in latent.arrays.iter_mut().zip(&of_array) {
                let stepped: Vec<f32> = rest.by_ref().take(values.len()).collect();
                // The gradient of a part that is left out means nothing.
                if encoding.is_some() {
                    *values = stepped;
                }
            }
            latent.bias = rest.collect();
            done();
        }
        Ok(latent)
    }

    /// The exact patch's outputs for these texts, where they are not there yet.
    fn fill(&mut self, batch: &[usize]) -> Result<()> {
        let missing: Vec<usize> = batch.iter().copied().filter(|at| self.outputs[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let texts: Vec<&Tokenized> = missing.iter().map(|at| &self.texts[*at]).collect();
        for (at, outputs) in missing.iter().zip(self.exact.outputs(self.encoder, self.task, &texts)?) {
            self.outputs[*at] = Some(outputs);
        }
        Ok(())
    }

    fn rounded(&self, latent: &Latent, encodings: &[Option<Encoding>]) -> Result<State> {
        let arrays = self.parts.iter().flat_map(|part| &part.arrays);
        let mut rounded = Vec::with_capacity(encodings.len());
        for ((array, values), encoding) in arrays.zip(&latent.arrays).zip(encodings) {
            let base = array.base.as_deref();
            rounded.push(match encoding {
                Some(encoding) => Some(Stored::encode(values, base, *encoding)?.values(base)),
                None => None,
            });
        }
        Ok(with_arrays(self.exact, self.encoder.base().slots(), self.parts, &rounded, &latent.bias))
    }
}
