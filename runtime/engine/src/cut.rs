//! Training the upper part of a model: what the lower part computes of a text is the same in every step.
//!
//! In: a model, and which gradients are wanted. Out: where the model is cut, the states that cross the cut, and forward
//! passes that begin at them. Refused: states of other sequences, and wanted gradients below the cut.
//!
//! A sequence's states have the same bits in any batch, so a step that begins at them is the step from its tokens.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{
    Error, Result,
    batch::{Batch, Table},
    gradients::Gradients,
    low_rank::TaskTerms,
    machine::Machine,
    model::{Model, Run, Values},
    weights::Weights,
};

/// The place below which nothing is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first operator above it.
    at: usize,
    /// The operators below it whose outputs are read above it, or are the model's.
    crossing: Vec<usize>,
    /// Floats of a token in all of their outputs, or of a sequence where an output has a row for it.
    width: usize,
}

impl Cut {
    /// The floats that cross it for each token, at most.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// What crosses a cut in a batch.
#[derive(Clone, Copy)]
pub struct States<'a> {
    /// The cut.
    pub cut: &'a Cut,
    /// For each sequence, its rows of each output that crosses the cut, one output after the other.
    pub of_sequences: &'a [&'a [f32]],
}

impl Model {
    /// The highest cut with nothing below it that `gradients` wants: above every operator if they want nothing. None if
    /// that is below every operator.
    pub fn cut(&self, gradients: &Gradients<'_>) -> Option<Cut> {
        let first = self.nodes.iter().position(|node| node.is_wanted(gradients));
        let at = first.unwrap_or(self.nodes.len());
        if at == 0 {
            return None;
        }
        let is_read = |below: &usize| {
            let is_output = *below == self.outputs.tokens || Some(*below) == self.outputs.pooled;
            is_output || self.nodes[at..].iter().any(|node| node.inputs.contains(below))
        };
        let crossing: Vec<usize> = (0..at).filter(is_read).collect();
        let width = crossing.iter().map(|below| self.nodes[*below].operator.width()).sum();
        Some(Cut { at, crossing, width })
    }

    /// For each sequence of a batch of one task, number 0, what crosses a cut: see [`States::of_sequences`]. `values` are
    /// those of the task, with `terms` as [`Gradients::new`] has them.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn states(
        &self,
        machine: &Machine,
        weights: Weights<'_>,
        batch: &Batch,
        task: TaskTerms<'_>,
        cut: &Cut,
    ) -> Result<Vec<Vec<f32>>> {
        let terms = [task];
        let table = Table { values: task.values, width: self.values(), terms: &terms, zeros: &[] };
        let run = self.checked(Run { machine, weights, batch, table })?;
        let mut outputs = Values::new();
        // As a step from the tokens runs them: operators that save round their outputs in other places.
        let kept = vec![false; self.nodes.len()];
        machine.enter(|| self.forward(run, Some(&kept), None, cut.at, &mut outputs))?;
        let mut states = vec![Vec::new(); batch.sequences()];
        for ((number, tokens), states) in batch.ranges().enumerate().zip(&mut states) {
            for at in &cut.crossing {
                let rows = self.part(*at, number, &tokens);
                states.extend_from_slice(&outputs[*at].as_deref().unwrap_or_default()[rows]);
            }
        }
        Ok(states)
    }

    /// The outputs that a forward pass begins with: none, or the states that `gradients` has.
    pub(crate) fn begin<'m>(&self, run: Run<'_, 'm>, gradients: &Gradients<'_>) -> Result<Values<'m>> {
        let Some(States { cut, of_sequences }) = gradients.states else { return Ok(Values::new()) };
        let wrong = |what, expected, found| Err(Error::Input { what, expected, found });
        if let Some(below) = self.nodes.iter().take(cut.at).position(|node| node.is_wanted(gradients)) {
            return wrong("the first operator with wanted values, at or above the cut", cut.at, below);
        }
        if of_sequences.len() != run.batch.sequences() {
            return wrong("sequences with states", run.batch.sequences(), of_sequences.len());
        }
        let mut outputs: Values<'m> = (0..cut.at).map(|_| None).collect();
        let mut rest = of_sequences.to_vec();
        for at in &cut.crossing {
            let node = &self.nodes[*at];
            let mut output = run.machine.scratch(node.rows(run.batch) * node.operator.width());
            for ((number, tokens), states) in run.batch.ranges().enumerate().zip(&mut rest) {
                let into = &mut output[self.part(*at, number, &tokens)];
                let (own, after) = states.split_at_checked(into.len()).unwrap_or_default();
                if own.len() != into.len() {
                    return wrong("states of a sequence", into.len(), states.len());
                }
                into.copy_from_slice(own);
                *states = after;
            }
            outputs[*at] = Some(output);
        }
        match rest.iter().find(|rest| !rest.is_empty()) {
            Some(rest) => wrong("states of a sequence beyond its own", 0, rest.len()),
            None => Ok(outputs),
        }
    }

    /// Where the rows of a sequence lie in an operator's output.
    fn part(&self, at: usize, sequence: usize, tokens: &Range<usize>) -> Range<usize> {
        let (node, width) = (&self.nodes[at], self.nodes[at].operator.width());
        let rows = if node.of_sequences { sequence..sequence + 1 } else { tokens.clone() };
        rows.start * width..rows.end * width
    }
}
