//! Scaled dot-product attention of one sequence, head by head, over tiles that stay in the cache.
//!
//! Keys and values of a head are laid out in panels, so both products are the kernel's. Of the S by S scores only the rows
//! of one tile exist at a time.

use bias_patch::PANEL_WIDTH;

use crate::kernels::{Kernel, Panels, Rows, Start};

/// Query rows of a tile: enough for the kernel's largest, few enough that scores of 512 keys stay in the first cache.
const TILE_ROWS: usize = 16;

/// Buffers that heads use in turn.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
}

/// Queries, keys and values of one sequence: `[S, H]` each, a head being `width` columns.
#[derive(Clone, Copy)]
pub(super) struct Projections<'a> {
    pub queries: &'a [f32],
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub hidden: usize,
    pub heads: usize,
}

/// Writes softmax(q k^T / sqrt(D)) v of every head into `out`, `[S, H]`.
pub(super) fn attend(kernel: &dyn Kernel, from: Projections<'_>, out: &mut [f32], scratch: &mut Scratch) {
    let Projections { queries, keys, values, hidden, heads } = from;
    let length = queries.len() / hidden;
    let width = hidden / heads;
    let scale = 1.0 / (width as f32).sqrt();
    let stride = length.next_multiple_of(PANEL_WIDTH);
    scratch.scores.resize(TILE_ROWS * stride, 0.0);
    for head in 0..heads {
        let column = head * width;
        panels_of_keys(&keys[column..], hidden, length, width, scale, &mut scratch.keys);
        panels_of_values(&values[column..], hidden, length, width, &mut scratch.values);
        for row in (0..length).step_by(TILE_ROWS) {
            let count = (length - row).min(TILE_ROWS);
            let tile = Rows { data: &queries[row * hidden + column..], stride: hidden, count };
            let keys = Panels { data: &scratch.keys, depth: width, columns: length };
            kernel.multiply(tile, keys, Start::Zero, &mut scratch.scores, stride);
            for scores in scratch.scores.chunks_mut(stride).take(count) {
                kernel.softmax(&mut scores[..length]);
            }
            let shares = Rows { data: &scratch.scores, stride, count };
            let values = Panels { data: &scratch.values, depth: length, columns: width };
            kernel.multiply(shares, values, Start::Zero, &mut out[row * hidden + column..], hidden);
        }
    }
}

/// Keys as a matrix `[width, length]` in panels, times `scale`: a panel is sixteen keys, column by column.
fn panels_of_keys(keys: &[f32], hidden: usize, length: usize, width: usize, scale: f32, panels: &mut Vec<f32>) {
    panels.clear();
    panels.resize(length.next_multiple_of(PANEL_WIDTH) * width, 0.0);
    for (panel, first) in panels.chunks_mut(width * PANEL_WIDTH).zip((0..length).step_by(PANEL_WIDTH)) {
        for lane in 0..(length - first).min(PANEL_WIDTH) {
            let key = &keys[(first + lane) * hidden..][..width];
            for (k, value) in key.iter().enumerate() {
                panel[k * PANEL_WIDTH + lane] = value * scale;
            }
        }
    }
}

/// Values as a matrix `[length, width]` in panels: a panel is sixteen columns, token by token.
fn panels_of_values(values: &[f32], hidden: usize, length: usize, width: usize, panels: &mut Vec<f32>) {
    panels.clear();
    panels.resize(width.next_multiple_of(PANEL_WIDTH) * length, 0.0);
    for (panel, first) in panels.chunks_mut(length * PANEL_WIDTH).zip((0..width).step_by(PANEL_WIDTH)) {
        let count = (width - first).min(PANEL_WIDTH);
        for (row, token) in panel.chunks_mut(PANEL_WIDTH).zip(0..length) {
            row[..count].copy_from_slice(&values[token * hidden + first..][..count]);
        }
    }
}
