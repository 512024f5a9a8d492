//! Sums of gradients, to which a backward pass adds: of a task's values and, with the feature `research`, of frozen
//! weights.

use core::ops::Range;

#[cfg(feature = "research")]
use crate::research::WeightGradients;
use crate::{
    batch::{Batch, Slot},
    cut::States,
    linear::Linear,
    low_rank::LowRank,
    operators::{Embedding, Pass},
    weights::Tensor,
};

/// Sums of gradients.
pub struct Gradients<'a> {
    /// Of every value of the task: those of slots, `[L]`, and behind them those of low-rank terms.
    pub(crate) values: &'a mut [f32],
    /// Which of them are wanted; a slot is wanted whole, and so is a term.
    pub(crate) wanted: &'a [bool],
    /// Where the task has low-rank terms.
    pub(crate) terms: &'a [Option<LowRank>],
    /// Where the forward pass begins, if not at the tokens.
    pub(crate) states: Option<States<'a>>,
    /// Of every weight.
    #[cfg(feature = "research")]
    pub(crate) weights: WeightGradients<'a>,
}

impl<'a> Gradients<'a> {
    /// Adds to `values` the gradients of those that are `wanted`. Both are as long as the task's values: L of slots, then
    /// those of its terms. `terms` says where each layer's term is, as [`crate::TaskTerms::places`] does. A slot is wanted
    /// whole, and so is a term: what `wanted` says of the first value of A counts.
    pub fn new(values: &'a mut [f32], wanted: &'a [bool], terms: &'a [Option<LowRank>]) -> Self {
        Gradients {
            values,
            wanted,
            terms,
            states: None,
            #[cfg(feature = "research")]
            weights: WeightGradients::default(),
        }
    }

    /// Begins the forward pass at states of the batch's sequences, instead of at their tokens.
    #[must_use]
    pub fn above(self, states: States<'a>) -> Self {
        Gradients { states: Some(states), ..self }
    }

    /// Also adds the gradients of the weights, to one float for each weight.
    #[cfg(feature = "research")]
    #[must_use]
    pub fn with_weights(self, weights: WeightGradients<'a>) -> Self {
        Gradients { weights, ..self }
    }

    /// Whether the gradient of a slot is wanted.
    pub(crate) fn wants(&self, slot: Slot) -> bool {
        self.wanted[slot.at]
    }

    /// Whether the gradient of a layer's low-rank term is wanted.
    pub(crate) fn wants_term(&self, layer: &Linear) -> bool {
        let place = layer.low_rank.and_then(|number| self.terms.get(number).copied().flatten());
        place.is_some_and(|place| self.wanted[place.a])
    }

    /// Whether gradients of weights are wanted.
    pub(crate) fn of_weights(&self) -> bool {
        #[cfg(feature = "research")]
        return self.weights.are_wanted();
        #[cfg(not(feature = "research"))]
        false
    }

    /// A bias is added to every row, so its gradient is the sum of the result's gradient over the rows.
    pub(crate) fn add_bias<'d>(&mut self, slot: Option<Slot>, rows: impl Iterator<Item = &'d [f32]>) {
        if let Some(slot) = slot.filter(|slot| self.wants(*slot)) {
            let Range { start, end } = slot.range();
            let sums = &mut self.values[start..end];
            rows.for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, d)| *sum += d));
        }
    }

    /// Adds the gradients of the matrices of linear layers that read `x`.
    pub(crate) fn add_matrices(&mut self, _pass: &Pass<'_>, _layers: &[Linear], _x: &[f32], _d: &[f32]) {
        #[cfg(feature = "research")]
        self.weights.add_matrices(_pass, _layers, _x, _d);
    }

    /// Adds the gradient of a LayerNorm's gain. `normalized` has the values that were multiplied by the gain.
    pub(crate) fn add_gain(&mut self, _gain: &Tensor, _normalized: &[f32], _d: &[f32]) {
        #[cfg(feature = "research")]
        self.weights.add_gain(_gain, _normalized, _d);
    }

    /// Adds the gradient of each token to that of the embedding rows that it read.
    pub(crate) fn add_rows(&mut self, _tables: &Embedding, _batch: &Batch, _d: &[f32]) {
        #[cfg(feature = "research")]
        self.weights.add_rows(_tables, _batch, _d);
    }
}
