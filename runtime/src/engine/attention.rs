//! Scaled dot-product attention, head by head, over tiles that stay in the cache; and its adjoint.
//!
//! Keys and values of a head are laid out in panels, so both products are the kernel's. Of the S by S scores only the rows
//! of one tile exist at a time; backward, those of one head.

use bias_patch::PANEL_WIDTH;

use super::{
    machine::{Machine, Scratch},
    product::transpose,
};
use crate::kernels::{Panels, Rows, Start};

/// Query rows of a tile: enough for the kernel's largest, few enough that scores of 512 keys stay in the first cache.
const TILE_ROWS: usize = 16;

/// Queries, keys and values of a batch, side by side: `[N, 3 H]`, a head being `H / heads` columns of each.
#[derive(Clone, Copy)]
pub(super) struct Projections<'a> {
    pub values: &'a [f32],
    pub hidden: usize,
    pub heads: usize,
}

/// The keys and values of one sequence in panels, head after head.
struct Sequence<'a> {
    start: usize,
    length: usize,
    keys: Scratch<'a>,
    values: Scratch<'a>,
}

/// Some query rows of one sequence, and where their answers go.
struct Tile<'a> {
    sequence: usize,
    row: usize,
    out: &'a mut [f32],
}

/// Writes softmax(q k^T / sqrt(D)) v of every head of every sequence into `out`, `[N, H]`. Sequence `i` has the rows from
/// `starts[i]` to `starts[i + 1]`.
pub(super) fn attend(machine: &Machine, from: Projections<'_>, starts: &[i64], out: &mut [f32]) {
    let Projections { hidden, heads, .. } = from;
    let width = hidden / heads;
    let mut sequences: Vec<Sequence<'_>> = starts
        .windows(2)
        .map(|pair| {
            let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
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
    let scale = 1.0 / (width as f32).sqrt();
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
    machine.each(tiles, |tile| attend_tile(machine, from, &sequences[tile.sequence], tile.row, tile.out));
}

fn attend_tile(machine: &Machine, from: Projections<'_>, sequence: &Sequence<'_>, row: usize, out: &mut [f32]) {
    let Projections { hidden, heads, .. } = from;
    let (length, width) = (sequence.length, hidden / heads);
    let count = out.len() / hidden;
    let stride = length.next_multiple_of(PANEL_WIDTH);
    let mut scores = machine.scratch(count * stride);
    let (kernel, mut sums) = (machine.kernel, [0.0; TILE_ROWS]);
    let keys = sequence.keys.chunks_exact(width * stride);
    let values = sequence.values.chunks_exact(length * width.next_multiple_of(PANEL_WIDTH));
    for (head, (keys, values)) in keys.zip(values).enumerate() {
        let column = head * width;
        let first = (sequence.start + row) * 3 * hidden + column;
        let queries = Rows { data: &from.values[first..], stride: 3 * hidden, count };
        let keys = Panels { data: keys, depth: width, columns: length };
        kernel.multiply(queries, keys, Start::Zero, &mut scores, stride);
        for (sum, scores) in sums.iter_mut().zip(scores.chunks_exact_mut(stride)) {
            *sum = kernel.exponentials(&mut scores[..length]);
        }
        let shares = Rows { data: &scores, stride, count };
        let values = Panels { data: values, depth: length, columns: width };
        kernel.multiply(shares, values, Start::Zero, &mut out[column..], hidden);
        // The softmax's division comes last: there are fewer columns of values than there are scores.
        for (row, sum) in out.chunks_mut(hidden).zip(sums) {
            row[column..column + width].iter_mut().for_each(|value| *value *= 1.0 / sum);
        }
    }
}

/// The adjoint of [`attend`]: from the gradient of its output, `[N, H]`, those of queries, keys and values, `[N, 3 H]`.
///
/// With P the softmax of q k^T / sqrt(D): dv = P^T do, dP = do v^T, dS = P (dP - rowsum(dP P)), and then
/// dq = dS k / sqrt(D), dk = dS^T q / sqrt(D).
pub(super) fn attend_adjoint(
    machine: &Machine,
    from: Projections<'_>,
    starts: &[i64],
    d_out: &[f32],
    d_from: &mut [f32],
) {
    let Projections { hidden, heads, .. } = from;
    let (width, stride) = (hidden / heads, 3 * hidden);
    let scale = 1.0 / (width as f32).sqrt();
    let mut sequences = Vec::new();
    let mut rest = d_from;
    for pair in starts.windows(2) {
        let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
        let (d_from, after) = rest.split_at_mut(length * stride);
        sequences.push((start, length, d_from));
        rest = after;
    }
    machine.each(sequences, |(start, length, d_from)| {
        let head = Head { machine, length, width };
        let mut shares = machine.scratch(length * length);
        let mut d_shares = machine.scratch(length * length);
        let mut transposed = machine.scratch(length * length);
        for column in (0..heads).map(|head| head * width) {
            let part = |at: usize| &from.values[start * stride + at * hidden + column..];
            let (queries, keys, values) = (part(0), part(1), part(2));
            let d_out = &d_out[start * hidden + column..];
            head.shares(queries, keys, stride, scale, &mut shares);
            transpose(&shares, length, length, &mut transposed);
            head.weigh(&transposed, d_out, hidden, &mut d_from[2 * hidden + column..], stride);
            head.products(d_out, hidden, values, stride, 1.0, &mut d_shares);
            for (d, shares) in d_shares.chunks_mut(length).zip(shares.chunks(length)) {
                let mean: f32 = d.iter().zip(shares).map(|(d, share)| d * share).sum();
                d.iter_mut().zip(shares).for_each(|(d, share)| *d = share * (*d - mean) * scale);
            }
            head.weigh(&d_shares, keys, stride, &mut d_from[column..], stride);
            transpose(&d_shares, length, length, &mut transposed);
            head.weigh(&transposed, queries, stride, &mut d_from[hidden + column..], stride);
        }
    });
}

/// One head of one sequence, as the adjoint takes it apart. Rows of its operands are `stride` values apart, those of scores
/// `length`.
struct Head<'a> {
    machine: &'a Machine,
    length: usize,
    width: usize,
}

impl Head<'_> {
    /// softmax(q k^T scale), `[S, S]`.
    fn shares(&self, queries: &[f32], keys: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
        self.products(queries, stride, keys, stride, scale, out);
        for row in out.chunks_mut(self.length) {
            let sum = self.machine.kernel.exponentials(row);
            row.iter_mut().for_each(|share| *share *= 1.0 / sum);
        }
    }

    /// a b^T scale, `[S, S]`, of rows `[S, D]`.
    fn products(&self, a: &[f32], a_stride: usize, b: &[f32], b_stride: usize, scale: f32, out: &mut [f32]) {
        let (length, width) = (self.length, self.width);
        let mut panels = self.machine.scratch(width * length.next_multiple_of(PANEL_WIDTH));
        lay_out_keys(b, b_stride, length, width, scale, &mut panels);
        let b = Panels { data: &panels, depth: width, columns: length };
        self.machine.kernel.multiply(Rows { data: a, stride: a_stride, count: length }, b, Start::Zero, out, length);
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

/// Keys as a matrix `[width, length]` in panels, times `scale`: a panel is sixteen keys, column by column. What is beyond
/// the last key stays as it is, for no score is read from there.
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

/// Values as a matrix `[length, width]` in panels: a panel is sixteen columns, token by token. What is beyond the last
/// column stays as it is, for nothing is read from there.
pub(super) fn lay_out_values(values: &[f32], stride: usize, length: usize, width: usize, panels: &mut [f32]) {
    for (panel, first) in panels.chunks_mut(length * PANEL_WIDTH).zip((0..width).step_by(PANEL_WIDTH)) {
        let count = (width - first).min(PANEL_WIDTH);
        for (row, token) in panel.chunks_mut(PANEL_WIDTH).zip(0..length) {
            row[..count].copy_from_slice(&values[token * stride + first..][..count]);
        }
    }
}
