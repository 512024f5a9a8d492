//! What attention knows of where tokens are: rotations of queries and keys, a number added to each score by the distance
//! of its two tokens, vectors of distances that queries and keys meet, and a window beyond which no token sees another.
//!
//! In: tables, and a batch. Out: rotated queries and keys, what scores are added to, and which keys a query sees.
//! Refused: tables of another shape, and sequences that are longer than a table.
//!
//! Letters: S tokens of a sequence, n heads, D width of a head, P the longest sequence of a table. Distances are j - i,
//! of the key j from the query i.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use super::{
    Pass,
    disentangled::{Disentangled, Meeting, Vectors},
    same,
};
#[cfg(not(feature = "std"))]
use crate::float::Float as _;
use crate::{
    Error, Result,
    batch::{Batch, Slot},
    demand::Work,
    kernels::Start,
    layout::PANEL_WIDTH,
    linear::Linear,
    machine::Scratch,
    weights::{Tensor, Weights},
};

/// The kinds of positions that attention has. Without any, it does not know the order of tokens.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    /// Rotary positions (RoFormer: Su and others, 2021): for each place the D / 2 cosines of its angles, then the sines,
    /// `[P, D]`. Column c of a head is rotated with column c + D / 2.
    pub rotary: Option<Tensor>,
    /// What is added to the scores by distance.
    pub relative: Option<Relative>,
    /// Vectors of distances, instead of such numbers.
    pub disentangled: Option<Disentangled>,
    /// The largest distance at which a query sees a key; none if it sees all.
    pub window: Option<usize>,
}

/// A number for each head and bucket of distances (T5: Raffel and others, 2020, 2.1).
#[derive(Clone, Debug)]
pub struct Relative {
    /// The numbers, `[buckets, n]`.
    pub table: Tensor,
    /// The bucket of each distance from 1 - P to P - 1: 2 P - 1 of them, that of distance 0 in the middle.
    pub buckets: Vec<u32>,
}

/// [`Positions`] for a batch.
pub(super) struct Distances<'m> {
    /// The longest sequence, M.
    longest: usize,
    /// What is added to scores, `[n, 2 M - 1]`.
    relative: Option<Scratch<'m>>,
    disentangled: Option<Vectors<'m>>,
    window: Option<usize>,
}

impl Positions {
    /// Checks that its tables suit heads of a width.
    pub(super) fn check(&self, operator: &str, heads: usize, width: usize) -> Result<()> {
        if let Some(table) = &self.rotary {
            same(operator, "a rotary table's width", width, table.columns)?;
            same(operator, "columns left over by pairs of columns that are rotated", 0, width % 2)?;
        }
        if let Some(Relative { table, buckets }) = &self.relative {
            same(operator, "a column for each head of a table of distances", heads, table.columns)?;
            same(operator, "a number of distances that is odd", 1, buckets.len() % 2)?;
            if let Some(row) = buckets.iter().map(|row| *row as usize).find(|row| *row >= table.rows) {
                return Err(Error::Row { operator: operator.into(), row, rows: table.rows });
            }
        }
        if let Some(disentangled) = &self.disentangled {
            disentangled.check(operator, heads, width)?;
            same(operator, "tables of numbers beside vectors of distances", 0, self.relative.iter().count())?;
        }
        for table in self.tables() {
            same(operator, "a table of positions that is not quantized or in panels", 1, plain(table))?;
        }
        Ok(())
    }

    fn tables(&self) -> impl Iterator<Item = &Tensor> {
        self.rotary.iter().chain(self.relative.iter().map(|relative| &relative.table))
    }

    /// Its tables and vectors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tables().chain(self.disentangled.iter().flat_map(Disentangled::tensors))
    }

    /// The slot of the bias of its distances.
    pub(super) fn slot(&self) -> Option<Slot> {
        let (slot, _) = self.disentangled.as_ref()?.bias.as_ref()?;
        Some(*slot)
    }

    /// By what scores are multiplied, for heads of a width.
    pub(super) fn scale(&self, width: usize) -> f32 {
        let parts = if self.disentangled.is_some() { 3.0 } else { 1.0 };
        1.0 / (parts * width as f32).sqrt()
    }

    /// Checks that no sequence of a batch is longer than a table.
    pub(super) fn check_lengths(&self, operator: &str, batch: &Batch) -> Result<()> {
        let rows = self.rotary.iter().map(|table| table.rows);
        let buckets = self.relative.iter().map(|relative| &relative.buckets);
        let buckets = buckets.chain(self.disentangled.iter().map(|disentangled| &disentangled.buckets));
        let rows = rows.chain(buckets.map(|buckets| buckets.len().div_ceil(2))).min();
        match (rows, batch.longest()) {
            (Some(rows), longest) if longest > rows => {
                Err(Error::Row { operator: operator.into(), row: longest - 1, rows })
            }
            _ => Ok(()),
        }
    }

    /// Rotates queries and keys of some tokens of a batch by the angles of their places, or back. A row of `values` is
    /// those of one token, `[q | k | v]`, each of `hidden` columns.
    pub(super) fn rotate(&self, weights: Weights<'_>, places: &[u32], hidden: usize, back: bool, values: &mut [f32]) {
        let Some(table) = &self.rotary else { return };
        let width = table.columns;
        for (values, place) in values.chunks_exact_mut(3 * hidden).zip(places) {
            let (cosines, sines) = table.row(weights, *place as usize).split_at(width / 2);
            for head in values[..2 * hidden].chunks_exact_mut(width) {
                let (first, second) = head.split_at_mut(width / 2);
                let pairs = first.iter_mut().zip(second).zip(cosines.iter().zip(sines));
                for ((first, second), (cosine, sine)) in pairs {
                    let sine = if back { -sine } else { *sine };
                    (*first, *second) = (*first * cosine - *second * sine, *second * cosine + *first * sine);
                }
            }
        }
    }

    /// The most keys that some queries of a sequence see: see [`Distances::seen_by_any`].
    pub(super) fn most_seen(&self, queries: usize, length: usize) -> usize {
        let seen = self.window.map_or(length, |window| window.saturating_mul(2).saturating_add(queries + PANEL_WIDTH));
        if seen > length / 2 { length } else { seen }
    }

    /// What [`Positions::distances`] takes. Products of queries and distances, of some rows at a time, are not counted.
    pub(super) fn works(&self, batch: &Batch, heads: usize, hidden: usize) -> Vec<Work> {
        let columns = self.relative.iter().map(|_| Work::Kept(heads * (2 * batch.longest()).saturating_sub(1)));
        let len = batch.sequences() * hidden;
        let changes = || Work::Returned { threads: 1, buffers: vec![len], bytes: 0 };
        let shifts = self.disentangled.iter().flat_map(|_| [Work::Kept(len), changes()]);
        columns.chain(shifts).collect()
    }

    /// What the scores of a batch need, for `heads` heads. `query` is the query's layer.
    pub(super) fn distances<'m>(&'m self, pass: &Pass<'m>, query: &Linear, heads: usize) -> Distances<'m> {
        let longest = pass.batch.longest();
        let relative = self.relative.as_ref().filter(|_| longest > 0).map(|Relative { table, buckets }| {
            let count = 2 * longest - 1;
            let mut columns = pass.machine.scratch(heads * count);
            let first = buckets.len() / 2 + 1 - longest;
            for (at, bucket) in buckets[first..][..count].iter().enumerate() {
                let row = table.row(pass.weights, *bucket as usize);
                row.iter().enumerate().for_each(|(head, value)| columns[head * count + at] = *value);
            }
            columns
        });
        let disentangled = self.disentangled.as_ref().map(|distances| distances.vectors(pass, query, heads));
        Distances { longest, relative, disentangled, window: self.window }
    }
}

impl Distances<'_> {
    /// What scores are added to.
    pub fn start(&self) -> Start<'static> {
        if self.relative.is_some() || self.disentangled.is_some() { Start::There } else { Start::Zero }
    }

    /// Writes what the scores of some queries of a head with `keys` are added to into `rows` of it, `stride` apart.
    pub fn write_start(&self, meeting: Meeting<'_>, keys: Range<usize>, rows: &mut [f32], stride: usize) {
        if let Some(vectors) = &self.disentangled {
            vectors.write(meeting, keys.clone(), rows, stride);
        }
        let Some(relative) = &self.relative else { return };
        let count = 2 * self.longest - 1;
        let of_head = &relative[meeting.head * count..][..count];
        for (at, row) in rows.chunks_mut(stride).take(meeting.queries.count).enumerate() {
            let first = keys.start + self.longest - 1 - (meeting.token + at);
            row[..keys.len()].copy_from_slice(&of_head[first..][..keys.len()]);
        }
    }

    /// The queries of a sequence that are multiplied by keys, if they are others than those that meet distances.
    pub fn shifted<'a>(&self, meeting: Meeting<'a>, sequence: usize) -> Option<Scratch<'a>> {
        self.disentangled.as_ref().map(|vectors| vectors.shifted(meeting, sequence))
    }

    /// See [`Vectors::backward`]; nothing where scores have no vectors of distances.
    pub fn backward(&self, meeting: Meeting<'_>, d_scores: &[f32], d: (&mut [f32], [usize; 2]), d_shift: &mut [f32]) {
        if let Some(vectors) = &self.disentangled {
            vectors.backward(meeting, d_scores, d, d_shift);
        }
    }

    /// The keys that a query sees, of a sequence of `length` tokens.
    pub fn seen(&self, query: usize, length: usize) -> Range<usize> {
        match self.window {
            None => 0..length,
            Some(window) => query.saturating_sub(window)..query.saturating_add(window).saturating_add(1).min(length),
        }
    }

    /// The keys that some of these queries see, from the beginning of a panel. All, if they see more than half: one
    /// product with all values is then quicker than one for each panel.
    pub fn seen_by_any(&self, queries: Range<usize>, length: usize) -> Range<usize> {
        let (first, last) = (self.seen(queries.start, length), self.seen(queries.end - 1, length));
        let start = first.start / PANEL_WIDTH * PANEL_WIDTH;
        if 2 * (last.end - start) > length { 0..length } else { start..last.end }
    }
}

/// 1 if a table is of floats, row by row.
fn plain(table: &Tensor) -> usize {
    usize::from(table.is_f32() && !table.in_panels)
}
