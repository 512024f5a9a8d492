//! Scaled dot-product attention of each sequence, head by head, over tiles that stay in the cache.
//!
//! Forward: x `[N, H]` to `[N, H]`: q, k, v = x W + b each; P = softmax(q k^T / sqrt(D)) of each head and sequence,
//! `[S, S]`; y = P v. [`Positions`] may rotate q and k, add to the scores, and limit the keys that a query sees. Keys
//! and values of a head are laid out in panels, so that the kernel computes both products. P, the attention
//! probabilities, exists for the rows of one tile at a time; in the backward pass, for one head. Backward, from dy: dv
//! = P^T dy, dP = dy v^T, dS = P (dP - rowsum(dP P)) / sqrt(D), dq = dS k, dk = dS^T q; then as [`linear`] says. Saved:
//! q, k and v, rotated, `[N, 3 H]`.

use alloc::{string::String, vec, vec::Vec};

use super::{
    Operator, Pass,
    disentangled::Meeting,
    positions::{Distances, Positions},
    same,
};
use crate::{
    Result,
    batch::{Batch, Slot},
    demand::{Demand, Work},
    gradients::Gradients,
    kernels::{Panels, Rows, Start},
    layout::PANEL_WIDTH,
    linear::{self, Linear, transpose},
    machine::{Machine, Scratch},
    weights::Tensor,
};

/// Query rows of a tile: a few tiles of the kernel's registers, and few enough that the scores of 512 keys fit into the
/// first-level cache.
const TILE_ROWS: usize = 16;

/// Self-attention with its three projections.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The name of its node in the graph.
    pub name: String,
    /// Query, key and value.
    pub layers: [Linear; 3],
    /// Heads, each of H / heads = D columns.
    pub heads: usize,
    /// What it knows of where tokens are.
    pub positions: Positions,
}

impl Operator for Attention {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        vec![self.layers[0].inputs()]
    }

    fn width(&self) -> usize {
        self.layers[0].outputs()
    }

    fn of_sequences(&self, inputs: &[bool]) -> Option<bool> {
        // It looks from token to token.
        (inputs == [false]).then_some(false)
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.layers.iter().map(|layer| &layer.weight).chain(self.positions.tensors()).collect()
    }

    fn slots(&self) -> Vec<Slot> {
        self.layers.iter().filter_map(|layer| layer.bias).chain(self.positions.slot()).collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.layers.iter().collect()
    }

    fn saves(&self) -> Vec<usize> {
        vec![3 * self.width()]
    }

    fn works(&self, demand: Demand<'_>) -> Vec<Work> {
        let Demand { machine, batch, rows } = demand;
        let (hidden, longest, width) = (self.width(), batch.longest(), self.width() / self.heads.max(1));
        let (part, threads) = demand.split();
        let mut works = vec![Work::Kept(rows * 3 * hidden)];
        works.push(linear::works(machine, &self.layers[0].weight, part, threads));
        works.extend(self.positions.works(batch, self.heads, hidden));
        for length in batch.ranges().map(|range| range.len()) {
            works.push(Work::Kept(hidden * length.next_multiple_of(PANEL_WIDTH)));
            works.push(Work::Kept(self.heads * length * width.next_multiple_of(PANEL_WIDTH)));
        }
        let tiles = batch.ranges().map(|range| range.len().div_ceil(TILE_ROWS)).sum();
        let seen = self.positions.most_seen(TILE_ROWS, longest).next_multiple_of(PANEL_WIDTH);
        let buffers = vec![TILE_ROWS.min(longest) * seen];
        works.push(Work::Returned { threads: machine.threads().min(tiles), buffers, bytes: 0 });
        works
    }

    fn check(&self) -> Result<()> {
        for layer in &self.layers {
            layer.check(&self.name)?;
            same(&self.name, "keys and values with a width", self.layers[0].outputs(), layer.outputs())?;
            same(&self.name, "keys and values with a number of inputs", self.layers[0].inputs(), layer.inputs())?;
        }
        if self.positions.disentangled.is_some() {
            // A term would change the frozen vectors of distances too.
            let terms = self.layers[..2].iter().filter(|layer| layer.low_rank.is_some()).count();
            same(&self.name, "low-rank terms of queries and keys that meet distances", 0, terms)?;
        }
        let rest = self.width().checked_rem(self.heads).unwrap_or(1);
        same(&self.name, "a number of columns left over by heads of equal width", 0, rest)?;
        self.positions.check(&self.name, self.heads, self.width() / self.heads)
    }

    fn forward(&self, pass: &Pass<'_>, inputs: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()> {
        let (hidden, count) = (self.width(), pass.batch.tokens());
        self.positions.check_lengths(&self.name, pass.batch)?;
        let mut own;
        let values: &mut [f32] = match saved {
            [saved] => saved,
            _ => {
                own = pass.machine.scratch(count * 3 * hidden);
                &mut own
            }
        };
        pass.machine.split(values, 3 * hidden, |rows, values| {
            linear::forward(pass, &self.layers, inputs[0], rows.clone(), values);
            self.positions.rotate(pass.weights, &pass.batch.places()[rows], hidden, false, values);
        });
        let distances = self.positions.distances(pass, &self.layers[0], self.heads);
        let scale = self.positions.scale(hidden / self.heads);
        attend(pass.machine, Projections { values, hidden, heads: self.heads, scale }, pass.batch, &distances, out);
        Ok(())
    }

    fn backward<'m>(
        &self,
        pass: &Pass<'m>,
        inputs: &[&[f32]],
        saved: &[&[f32]],
        d_out: Scratch<'m>,
        needed: &[bool],
        gradients: &mut Gradients<'_>,
    ) -> Vec<Option<Scratch<'m>>> {
        let (hidden, heads) = (self.width(), self.heads);
        let from = Projections { values: saved[0], hidden, heads, scale: self.positions.scale(hidden / heads) };
        let mut d = pass.machine.scratch(saved[0].len());
        let distances = self.positions.distances(pass, &self.layers[0], heads);
        let mut d_shifts = pass.machine.zeros(pass.batch.sequences() * hidden);
        attend_backward(pass.machine, from, pass.batch, &distances, &d_out, &mut d, &mut d_shifts);
        if let Some(disentangled) = &self.positions.disentangled {
            disentangled.add_gradients(pass, &self.layers[0], &d_shifts, gradients);
        }
        pass.machine.split(&mut d, 3 * from.hidden, |rows, d| {
            self.positions.rotate(pass.weights, &pass.batch.places()[rows], from.hidden, true, d);
        });
        vec![linear::backward(pass, &self.layers, inputs[0], &d, needed[0], gradients)]
    }
}

/// Queries, keys and values of a batch, side by side: `[N, 3 H]`, a head being `H / heads` columns of each.
#[derive(Clone, Copy)]
struct Projections<'a> {
    values: &'a [f32],
    hidden: usize,
    heads: usize,
    /// By what scores are multiplied.
    scale: f32,
}

/// The keys and values of one sequence in panels, head after head.
struct Sequence<'a> {
    start: usize,
    length: usize,
    keys: Scratch<'a>,
    values: Scratch<'a>,
}

/// Some query rows of one sequence, and where their results go.
struct Tile<'a> {
    sequence: usize,
    row: usize,
    out: &'a mut [f32],
}

/// Writes softmax(q k^T / sqrt(D)) v of every head of every sequence into `out`, `[N, H]`.
fn attend(machine: &Machine, from: Projections<'_>, batch: &Batch, distances: &Distances<'_>, out: &mut [f32]) {
    let Projections { hidden, heads, scale, .. } = from;
    let width = hidden / heads;
    let mut sequences: Vec<Sequence<'_>> = batch
        .ranges()
        .map(|range| {
            let (start, length) = (range.start, range.len());
            let keys = machine.scratch(heads * width * length.next_multiple_of(PANEL_WIDTH));
            let values = machine.scratch(heads * length * width.next_multiple_of(PANEL_WIDTH));
            Sequence { start, length, keys, values }
        })
        .collect();
    let mut parts = Vec::with_capacity(sequences.len() * heads);
    for sequence in &mut sequences {
        let (first, length) = (sequence.start * 3 * hidden, sequence.length);
        let keys = sequence.keys.chunks_exact_mut(width * length.next_multiple_of(PANEL_WIDTH));
        let values = sequence.values.chunks_exact_mut(length * width.next_multiple_of(PANEL_WIDTH));
        let heads = keys.zip(values).enumerate();
        parts.extend(heads.map(|(head, (keys, values))| (first + head * width, length, keys, values)));
    }
    machine.each(parts, |(first, length, keys, values)| {
        lay_out_keys(&from.values[first + hidden..], 3 * hidden, length, width, scale, keys);
        lay_out_values(&from.values[first + 2 * hidden..], 3 * hidden, length, width, values);
    });

    let mut tiles = Vec::with_capacity(out.len() / hidden / TILE_ROWS + sequences.len());
    let mut rest = out;
    for (at, sequence) in sequences.iter().enumerate() {
        for row in (0..sequence.length).step_by(TILE_ROWS) {
            let (out, after) = rest.split_at_mut((sequence.length - row).min(TILE_ROWS) * hidden);
            tiles.push(Tile { sequence: at, row, out });
            rest = after;
        }
    }
    machine.each(tiles, |tile| {
        attend_tile(machine, from, &sequences[tile.sequence], distances, tile);
    });
}

fn attend_tile(
    machine: &Machine,
    from: Projections<'_>,
    sequence: &Sequence<'_>,
    distances: &Distances<'_>,
    Tile { sequence: number, row, out }: Tile<'_>,
) {
    let Projections { hidden, heads, scale, .. } = from;
    let (length, width) = (sequence.length, hidden / heads);
    let count = out.len() / hidden;
    let seen = distances.seen_by_any(row..row + count, length);
    let stride = seen.len().next_multiple_of(PANEL_WIDTH);
    let mut scores = machine.scratch(count * stride);
    let (kernel, mut sums) = (machine.kernel, [0.0; TILE_ROWS]);
    let keys = sequence.keys.chunks_exact(width * length.next_multiple_of(PANEL_WIDTH));
    let values = sequence.values.chunks_exact(length * width.next_multiple_of(PANEL_WIDTH));
    for (head, (keys, values)) in keys.zip(values).enumerate() {
        let column = head * width;
        let first = (sequence.start + row) * 3 * hidden + column;
        let queries = Rows { data: &from.values[first..], stride: 3 * hidden, count };
        let rows = &from.values[sequence.start * 3 * hidden + hidden + column..];
        let meeting = Meeting { machine, head, queries, token: row, keys: rows, scale };
        distances.write_start(meeting, seen.clone(), &mut scores, stride);
        let shifted = distances.shifted(meeting, number);
        let queries = shifted.as_deref().map_or(queries, |data| Rows { data, stride: width, count });
        let keys = Panels { data: &keys[seen.start * width..], depth: width, columns: seen.len() };
        kernel.multiply(queries, keys, distances.start(), &mut scores, stride);
        for (query, (sum, scores)) in sums.iter_mut().zip(scores.chunks_exact_mut(stride)).enumerate() {
            let own = distances.seen(row + query, length);
            let (before, end) = (own.start - seen.start, own.end - seen.start);
            scores[..before].fill(0.0);
            scores[end..seen.len()].fill(0.0);
            *sum = kernel.exponentials(&mut scores[before..end]);
        }
        let probabilities = Rows { data: &scores, stride, count };
        if seen.len() == length {
            let values = Panels { data: values, depth: length, columns: width };
            kernel.multiply(probabilities, values, Start::Zero, &mut out[column..], hidden);
        } else {
            // Of each panel of values the rows that are seen.
            for (panel, first) in values.chunks_exact(length * PANEL_WIDTH).zip((0..width).step_by(PANEL_WIDTH)) {
                let data = &panel[seen.start * PANEL_WIDTH..];
                let values = Panels { data, depth: seen.len(), columns: (width - first).min(PANEL_WIDTH) };
                kernel.multiply(probabilities, values, Start::Zero, &mut out[column + first..], hidden);
            }
        }
        // The softmax's division comes last, because there are fewer columns of values than scores.
        for (row, sum) in out.chunks_mut(hidden).zip(sums) {
            row[column..column + width].iter_mut().for_each(|value| *value *= 1.0 / sum);
        }
    }
}

/// The backward pass of [`attend`]: from the gradient of its output, `[N, H]`, those of queries, keys and values, `[N,
/// 3 H]`; adds to those of what queries are shifted by, `[B, H]`.
fn attend_backward(
    machine: &Machine,
    from: Projections<'_>,
    batch: &Batch,
    distances: &Distances<'_>,
    d_out: &[f32],
    d_from: &mut [f32],
    d_shifts: &mut [f32],
) {
    let Projections { hidden, heads, scale, .. } = from;
    let (width, stride) = (hidden / heads, 3 * hidden);
    let mut sequences = Vec::new();
    let mut rest = d_from;
    for (number, (range, d_shift)) in batch.ranges().zip(d_shifts.chunks_exact_mut(hidden)).enumerate() {
        let (d_from, after) = rest.split_at_mut(range.len() * stride);
        sequences.push((number, range, d_from, d_shift));
        rest = after;
    }
    machine.each(sequences, |(number, range, d_from, d_shift)| {
        let (start, length) = (range.start, range.len());
        let head = Head { machine, length, width };
        let mut probabilities = machine.scratch(length * length);
        let mut d_scores = machine.scratch(length * length);
        let mut transposed = machine.scratch(length * length);
        for at in 0..heads {
            let column = at * width;
            let part = |at: usize| &from.values[start * stride + at * hidden + column..];
            let (queries, keys, values) = (part(0), part(1), part(2));
            let d_out = &d_out[start * hidden + column..];
            let rows = Rows { data: queries, stride, count: length };
            let meeting = Meeting { machine, head: at, queries: rows, token: 0, keys, scale };
            distances.write_start(meeting, 0..length, &mut probabilities, length);
            let shifted = distances.shifted(meeting, number);
            let (queries, query_stride) = shifted.as_deref().map_or((queries, stride), |shifted| (shifted, width));
            head.probabilities((queries, query_stride), (keys, stride), scale, distances, &mut probabilities);
            transpose(&probabilities, length, length, &mut transposed);
            head.weigh(&transposed, d_out, hidden, &mut d_from[2 * hidden + column..], stride);
            head.products(d_out, hidden, values, stride, 1.0, Start::Zero, &mut d_scores);
            for (d, probabilities) in d_scores.chunks_mut(length).zip(probabilities.chunks(length)) {
                let mean: f32 = d.iter().zip(probabilities).map(|(d, p)| d * p).sum();
                d.iter_mut().zip(probabilities).for_each(|(d, p)| *d = p * (*d - mean) * scale);
            }
            head.weigh(&d_scores, keys, stride, &mut d_from[column..], stride);
            transpose(&d_scores, length, length, &mut transposed);
            head.weigh(&transposed, queries, query_stride, &mut d_from[hidden + column..], stride);
            let places = [column, hidden + column];
            distances.backward(meeting, &d_scores, (&mut *d_from, places), &mut d_shift[column..column + width]);
        }
    });
}

/// The backward pass of one head of one sequence. Rows of its operands are `stride` values apart, rows of scores
/// `length`.
struct Head<'a> {
    machine: &'a Machine,
    length: usize,
    width: usize,
}

impl Head<'_> {
    /// softmax(q k^T scale + start), `[S, S]`; `out` has the start, if scores have one.
    fn probabilities(
        &self,
        (queries, query_stride): (&[f32], usize),
        (keys, key_stride): (&[f32], usize),
        scale: f32,
        distances: &Distances<'_>,
        out: &mut [f32],
    ) {
        self.products(queries, query_stride, keys, key_stride, scale, distances.start(), out);
        for (query, row) in out.chunks_mut(self.length).enumerate() {
            let seen = distances.seen(query, self.length);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen];
            let sum = self.machine.kernel.exponentials(row);
            row.iter_mut().for_each(|p| *p *= 1.0 / sum);
        }
    }

    /// a b^T scale + start, `[S, S]`, of rows `[S, D]`.
    #[expect(clippy::too_many_arguments, reason = "two operands, each with its stride")]
    fn products(
        &self,
        a: &[f32],
        a_stride: usize,
        b: &[f32],
        b_stride: usize,
        scale: f32,
        start: Start<'_>,
        out: &mut [f32],
    ) {
        let (length, width) = (self.length, self.width);
        let mut panels = self.machine.scratch(width * length.next_multiple_of(PANEL_WIDTH));
        lay_out_keys(b, b_stride, length, width, scale, &mut panels);
        let b = Panels { data: &panels, depth: width, columns: length };
        self.machine.kernel.multiply(Rows { data: a, stride: a_stride, count: length }, b, start, out, length);
    }

    /// w x, `[S, D]`, of scores `[S, S]` and rows `[S, D]`.
    fn weigh(&self, scores: &[f32], x: &[f32], stride: usize, out: &mut [f32], out_stride: usize) {
        let (length, width) = (self.length, self.width);
        let mut panels = self.machine.scratch(length * width.next_multiple_of(PANEL_WIDTH));
        lay_out_values(x, stride, length, width, &mut panels);
        let x = Panels { data: &panels, depth: length, columns: width };
        let scores = Rows { data: scores, stride: length, count: length };
        self.machine.kernel.multiply(scores, x, Start::Zero, out, out_stride);
    }
}

/// Keys as a matrix `[width, length]` in panels, times `scale`. A panel is sixteen keys, column by column. Columns
/// beyond the last key are not written, because their scores are not read.
fn lay_out_keys(keys: &[f32], stride: usize, length: usize, width: usize, scale: f32, panels: &mut [f32]) {
    for (panel, first) in panels.chunks_mut(width * PANEL_WIDTH).zip((0..length).step_by(PANEL_WIDTH)) {
        for lane in 0..(length - first).min(PANEL_WIDTH) {
            let key = &keys[(first + lane) * stride..][..width];
            for (row, value) in panel.chunks_exact_mut(PANEL_WIDTH).zip(key) {
                row[lane] = value * scale;
            }
        }
    }
}

/// Values as a matrix `[length, width]` in panels. A panel is sixteen columns, token by token. Columns beyond the last
/// are not written, because their results are not read.
pub(crate) fn lay_out_values(values: &[f32], stride: usize, length: usize, width: usize, panels: &mut [f32]) {
    for (panel, first) in panels.chunks_mut(length * PANEL_WIDTH).zip((0..width).step_by(PANEL_WIDTH)) {
        let count = (width - first).min(PANEL_WIDTH);
        for (row, token) in panel.chunks_mut(PANEL_WIDTH).zip(0..length) {
            row[..count].copy_from_slice(&values[token * stride + first..][..count]);
        }
    }
}
