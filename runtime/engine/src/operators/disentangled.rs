//! Disentangled attention (DeBERTa: He and others, 2021): the distance of two tokens is a vector that queries and keys
//! meet.
//!
//! In: frozen vectors of buckets of distances, and the queries and keys of a batch. Out: what scores are added to; from
//! the gradient of the scores, those of queries, keys and biases. Refused: vectors that do not suit the heads, buckets
//! that are not in order, and low-rank terms of queries and keys, which would change the vectors.
//!
//! Letters: S tokens of a sequence, n heads, D width of a head, T buckets, P the longest sequence. t is the bucket of
//! the distance j - i of the key j from the query i. A row of the table of distances becomes a key by the key's layer,
//! and a query by the query's. With K_t and Q_t, what those layers' matrices alone make of row t, a score is ((q_i + c)
//! k_j + q_i K_t + k_j Q_t) / sqrt(3 D), c = W_q (b - b') + b_q being what the biases add to every Q_t. b is the bias
//! of the LayerNorm of the table, b' its value in the frozen vectors. What biases add to K_t is the same in all scores
//! of a query, so softmax cancels it. Backward, from ds, divided by sqrt(3 D): dq_i gains sum over j of ds K_t, dk_j
//! the sum over i of ds Q_t, and dc is the sum of ds k_j; db_q gains dc, and db = dc W_q^T.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Pass, same};
use crate::{
    Error, Result,
    batch::Slot,
    gradients::Gradients,
    kernels::{Panels, Rows, Start},
    layout::PANEL_WIDTH,
    linear::{self, Linear, Operand},
    machine::{Machine, Scratch},
    weights::{Matrix, Tensor, Weights},
};

/// Keys whose scores are computed together.
const KEYS: usize = PANEL_WIDTH;

/// Vectors of distances.
#[derive(Clone, Debug)]
pub struct Disentangled {
    /// K, in f32 panels: `[D, n T]`, the T buckets of a head side by side. T is a multiple of 16.
    pub keys: Tensor,
    /// Q, likewise.
    pub queries: Tensor,
    /// The bucket of each distance from 1 - P to P - 1, that of distance 0 in the middle. From one to the next they
    /// rise by one or not at all.
    pub buckets: Vec<u32>,
    /// b, and the vector b'.
    pub bias: Option<(Slot, Tensor)>,
}

/// [`Disentangled`] for a batch.
pub(super) struct Vectors<'m> {
    keys: Panels<'m>,
    queries: Panels<'m>,
    /// T.
    count: usize,
    /// Buckets of the distances from 1 - M to M - 1, M being the longest sequence.
    buckets: &'m [u32],
    longest: usize,
    /// c of each sequence, `[B, n D]`.
    shifts: Scratch<'m>,
}

/// Queries and keys of one head of one sequence, rows of D values.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'a> {
    pub machine: &'a Machine,
    pub head: usize,
    /// The first query is that of token `token`.
    pub queries: Rows<'a>,
    pub token: usize,
    /// The key of the sequence's first token begins here; keys are as far apart as queries.
    pub keys: &'a [f32],
    /// 1 / sqrt(3 D).
    pub scale: f32,
}

impl Disentangled {
    /// Checks that its vectors suit heads of a width.
    pub(super) fn check(&self, operator: &str, heads: usize, width: usize) -> Result<()> {
        for tensor in [&self.keys, &self.queries] {
            same(operator, "vectors of distances with a width", width, tensor.rows)?;
            same(operator, "vectors of distances in f32 panels", 1, panels_of_floats(tensor).into())?;
            same(operator, "as many distances of keys as of queries, a number", self.keys.columns, tensor.columns)?;
        }
        let unit = heads.saturating_mul(PANEL_WIDTH);
        let left = self.keys.columns.checked_rem(unit).unwrap_or(1);
        same(operator, "distances left over by heads and panels", 0, left)?;
        same(operator, "a number of distances that is odd", 1, self.buckets.len() % 2)?;
        let rows = self.keys.columns / unit * PANEL_WIDTH;
        if let Some(row) = self.buckets.iter().map(|row| *row as usize).find(|row| *row >= rows) {
            return Err(Error::Row { operator: operator.into(), row, rows });
        }
        let jumps = self.buckets.windows(2).filter(|pair| !(pair[0]..=pair[0] + 1).contains(&pair[1])).count();
        same(operator, "a number of buckets that do not follow each other", 0, jumps)?;
        if let Some((slot, before)) = &self.bias {
            let hidden = heads * width;
            same(operator, "a bias of distances", hidden, slot.len)?;
            same(operator, "a frozen bias of distances", hidden, before.columns)?;
            let plain = before.rows == 1 && !before.in_panels && before.is_f32();
            same(operator, "a frozen bias that is a vector of floats", 1, plain.into())?;
        }
        Ok(())
    }

    /// Its tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        [&self.keys, &self.queries].into_iter().chain(self.bias.iter().map(|(_, before)| before))
    }

    /// What the scores of a batch need. `query` is the query's layer.
    pub(super) fn vectors<'m>(&'m self, pass: &Pass<'m>, query: &Linear, heads: usize) -> Vectors<'m> {
        let longest = pass.batch.longest();
        // An empty batch has no distances.
        let buckets = match longest {
            0 => &[],
            _ => &self.buckets[self.buckets.len() / 2 + 1 - longest..][..2 * longest - 1],
        };
        Vectors {
            keys: floats(&self.keys, pass.weights),
            queries: floats(&self.queries, pass.weights),
            count: self.keys.columns / heads,
            buckets,
            longest,
            shifts: self.shifts(pass, query),
        }
    }

    /// c of each sequence. The product is left out where no task of the batch has another b than b', as most have not.
    fn shifts<'m>(&self, pass: &Pass<'m>, query: &Linear) -> Scratch<'m> {
        let (machine, width) = (pass.machine, query.outputs());
        let tasks = pass.tasks.with(pass.batch.tasks(true));
        let mut shifts = machine.zeros(pass.batch.sequences() * width);
        let mut changes = machine.zeros(shifts.len());
        for (row, change) in changes.chunks_exact_mut(width).enumerate() {
            let Some((slot, before)) = &self.bias else { break };
            let values = tasks.slot(*slot, row).iter().zip(before.vector(pass.weights));
            change.iter_mut().zip(values).for_each(|(change, (after, before))| *change = after - before);
        }
        if changes.iter().any(|change| *change != 0.0) {
            Operand::new(machine, &changes, &query.weight).multiply(pass, query, tasks, &mut shifts, width);
        } else if let Some(slot) = query.bias {
            let rows = shifts.chunks_exact_mut(width).enumerate();
            rows.for_each(|(row, shift)| shift.copy_from_slice(tasks.slot(slot, row)));
        }
        shifts
    }

    /// Adds to the gradients of the biases, from dc of each sequence, `[B, n D]`.
    pub(super) fn add_gradients(
        &self,
        pass: &Pass<'_>,
        query: &Linear,
        d_shifts: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        gradients.add_bias(query.bias, d_shifts.chunks_exact(query.outputs()));
        let Some((slot, _)) = self.bias.as_ref().filter(|(slot, _)| gradients.wants(*slot)) else { return };
        let layers = core::slice::from_ref(query);
        let d_changes = linear::backward_of_input(pass, layers, d_shifts);
        gradients.add_bias(Some(*slot), d_changes.chunks_exact(query.inputs()));
    }
}

impl Vectors<'_> {
    /// The bucket of the distance of a key from a query.
    fn bucket(&self, query: usize, key: usize) -> usize {
        self.buckets[key + self.longest - 1 - query] as usize
    }

    /// The buckets that some queries and keys meet, from the beginning of a panel.
    fn met(&self, queries: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let first = self.bucket(queries.end - 1, keys.start) / PANEL_WIDTH * PANEL_WIDTH;
        first..self.bucket(queries.start, keys.end - 1) + 1
    }

    /// Some buckets of a head.
    fn part<'a>(&self, of: Panels<'a>, head: usize, met: &Range<usize>) -> Panels<'a> {
        Panels { data: &of.data[(head * self.count + met.start) * of.depth..], columns: met.len(), ..of }
    }

    /// q + c of a head of a sequence, `[queries, D]`.
    pub fn shifted<'m>(&self, meeting: Meeting<'m>, sequence: usize) -> Scratch<'m> {
        let (Meeting { queries, head, .. }, width) = (meeting, self.keys.depth);
        let shift = &self.shifts[sequence * self.hidden() + head * width..][..width];
        let mut shifted = meeting.machine.scratch(queries.count * width);
        for (row, shifted) in shifted.chunks_exact_mut(width).enumerate() {
            let query = &queries.data[row * queries.stride..][..width];
            shifted.iter_mut().zip(query.iter().zip(shift)).for_each(|(sum, (query, shift))| *sum = query + shift);
        }
        shifted
    }

    /// n D.
    fn hidden(&self) -> usize {
        self.keys.columns / self.count * self.keys.depth
    }

    /// Writes (q_i K_t + k_j Q_t) / sqrt(3 D) of these queries and some keys into `rows`, `stride` apart.
    pub fn write(&self, meeting: Meeting<'_>, keys: Range<usize>, rows: &mut [f32], stride: usize) {
        let Meeting { machine, head, queries, token, scale, .. } = meeting;
        let tokens = token..token + queries.count;
        let met = self.met(&tokens, &keys);
        let wide = met.len().next_multiple_of(PANEL_WIDTH);
        let mut products = machine.scratch(queries.count.max(KEYS) * wide);
        machine.kernel.multiply(queries, self.part(self.keys, head, &met), Start::Zero, &mut products, wide);
        for ((query, row), products) in tokens.clone().zip(rows.chunks_mut(stride)).zip(products.chunks_exact(wide)) {
            let buckets = &self.buckets[keys.start + self.longest - 1 - query..][..keys.len()];
            for (row, buckets) in row.chunks_mut(PANEL_WIDTH).zip(buckets.chunks(PANEL_WIDTH)) {
                let (first, last) = (buckets[0] as usize, buckets[buckets.len() - 1] as usize);
                let own = &products[first - met.start..=last - met.start];
                if own.len() == buckets.len() {
                    // A bucket for each distance, as near tokens have: no look-up.
                    row.iter_mut().zip(own).for_each(|(score, product)| *score = product * scale);
                } else {
                    let own = buckets.iter().map(|bucket| own[*bucket as usize - first]);
                    row.iter_mut().zip(own).for_each(|(score, product)| *score = product * scale);
                }
            }
        }
        for first in keys.clone().step_by(KEYS) {
            let some = first..keys.end.min(first + KEYS);
            let met = self.met(&tokens, &some);
            let wide = met.len().next_multiple_of(PANEL_WIDTH);
            let own = Rows { data: &meeting.keys[first * queries.stride..], count: some.len(), ..queries };
            machine.kernel.multiply(own, self.part(self.queries, head, &met), Start::Zero, &mut products, wide);
            for (query, row) in tokens.clone().zip(rows.chunks_mut(stride)) {
                let buckets = &self.buckets[first + self.longest - 1 - query..][..some.len()];
                let row = row[first - keys.start..].iter_mut().zip(buckets);
                for ((score, bucket), products) in row.zip(products.chunks_exact(wide)) {
                    *score += products[*bucket as usize - met.start] * scale;
                }
            }
        }
    }

    /// From the gradient of the scores of all tokens of a sequence, `[S, S]`, divided by sqrt(3 D): adds to those of
    /// the queries and keys of a head, whose rows begin in `d` at two places, and to that of c.
    pub fn backward(
        &self,
        meeting: Meeting<'_>,
        d_scores: &[f32],
        (d, places): (&mut [f32], [usize; 2]),
        d_shift: &mut [f32],
    ) {
        let Meeting { machine, head, queries, .. } = meeting;
        let (length, stride) = (queries.count, queries.stride);
        let met = self.met(&(0..length), &(0..length));
        for ((of_keys, vectors), place) in [(false, self.keys), (true, self.queries)].into_iter().zip(places) {
            let mut sums = machine.zeros(length * met.len());
            for (query, d_scores) in d_scores.chunks_exact(length).enumerate() {
                for (key, d_score) in d_scores.iter().enumerate() {
                    let row = if of_keys { key } else { query };
                    sums[row * met.len() + self.bucket(query, key) - met.start] += d_score;
                }
            }
            let sums = Rows { data: &sums, stride: met.len(), count: length };
            machine.kernel.multiply_transposed(sums, self.part(vectors, head, &met), &mut d[place..], stride);
        }
        for key in 0..length {
            let d: f32 = d_scores[key..].iter().step_by(length).sum();
            machine.kernel.add_scaled(d, &meeting.keys[key * stride..][..d_shift.len()], d_shift);
        }
    }
}

/// Whether a tensor is a matrix of floats in panels.
fn panels_of_floats(tensor: &Tensor) -> bool {
    tensor.in_panels && tensor.is_f32()
}

/// A matrix of floats in panels.
fn floats<'a>(tensor: &Tensor, weights: Weights<'a>) -> Panels<'a> {
    match tensor.matrix(weights) {
        Matrix::F32(panels) => panels,
        Matrix::F16(_) | Matrix::I8(_) | Matrix::I4(_) => unreachable!("refused where operators are made"),
    }
}
