//! The loops around a product's innermost tile, the same for every vector unit.
//!
//! The product is cut into tiles of some rows by some panels, and its depth into blocks, so that a block of panels
//! stays in the first-level cache while many rows are multiplied with it. These rows are a round, and stay in the
//! second-level cache while all panels go by. A vector unit implements the tiles: [`Tile`] for floats,
//! [`QuantizedTile`] for int8 values. Its caller has checked the operands.
#![allow(unsafe_code)]

mod halves;
mod quantized;

use alloc::vec;

use super::{Panels, Rows, Start, check_product, check_transposed};
use crate::layout::PANEL_WIDTH;

pub(super) use halves::{multiply_halves, widen};
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
pub(super) use quantized::SIGN;
#[cfg(any(not(target_arch = "arm"), test))]
pub(super) use quantized::each_group;
#[cfg(any(target_arch = "x86_64", test))]
pub(super) use quantized::{PanelRows, WideRows};
pub(super) use quantized::{QuantizedJob, QuantizedTile, multiply_quantized};

/// The innermost product of a vector unit.
pub(super) trait Tile {
    /// Most rows of a job. A unit may cut it into several tiles of its registers.
    const ROWS: usize;
    /// Most panels of a job.
    const PANELS: usize;
    /// Depth of a block. `PANELS` panels of this depth fit into the first-level cache, together with the rows of a
    /// tile.
    const BLOCK: usize;

    /// `out[r, c] = start[r, c] + sum over k of x[r, k] w[k, c]`, `r` below `rows` and `c` in `panels` panels.
    ///
    /// # Safety
    /// The CPU has the unit's instructions, `rows` and `panels` are from 1 to their constants, and the pointers of
    /// `job` are as its fields say.
    unsafe fn add(rows: usize, panels: usize, job: &Job);

    /// Prefetches a cache line, if the unit can. `line` may point anywhere.
    fn fetch(_line: *const f32) {}

    /// The floats that rows of a panel of halves are, exactly.
    ///
    /// # Safety
    /// The CPU has the unit's instructions.
    unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]);
}

/// Where each of `R` rows begins. The assembly hides from the compiler that these are multiples of the stride, which it
/// would compute again in every iteration.
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "the pointer passes through, and is not read")]
pub(super) fn begins<T, const R: usize>(first: *const T, stride: usize) -> [*const T; R] {
    let mut next = first;
    core::array::from_fn(|_| {
        let mut row = next;
        next = next.wrapping_add(stride);
        // SAFETY: there is no instruction, so no memory is accessed and no register changed.
        unsafe { core::arch::asm!("/* {} */", inout(reg) row, options(pure, nomem, nostack, preserves_flags)) }
        row
    })
}

/// The operands of a tile. Strides are from one row to the next, in values.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "NEON's tiles are one panel wide and fetch nothing")
)]
pub(super) struct Job {
    /// Readable for each row: `depth` values.
    pub x: *const f32,
    pub x_stride: usize,
    /// Readable for each panel: `depth` times [`PANEL_WIDTH`] values.
    pub w: *const f32,
    /// From one panel to the next.
    pub panel_stride: usize,
    pub depth: usize,
    /// Null for nothing; or readable for each row: [`PANEL_WIDTH`] values a panel. May be `out`.
    pub start: *const f32,
    pub start_stride: usize,
    /// Writable for each row: [`PANEL_WIDTH`] values a panel.
    pub out: *mut f32,
    pub stride: usize,
    pub fetch: Fetch<f32>,
}

/// What to prefetch during a tile. When the tile is at row (or group) `k`, it prefetches that row of the panels at
/// `ahead`, which have the layout of its own; for `k` = `from`, `from + step` and so on. A tile that takes several rows
/// in a turn counts turns. The processor's own prefetching stops at every page.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "NEON's tiles fetch nothing"))]
#[derive(Clone, Copy)]
pub(super) struct Fetch<T> {
    /// Never read, so it may point anywhere.
    pub ahead: *const T,
    pub from: usize,
    pub step: usize,
}

impl<T> Fetch<T> {
    /// For tile `tile` of `tiles` over the panels at `w`, whose rows have `row` values. The next panels are at `next`.
    ///
    /// Each tile prefetches a part of the next panels. The first panels were not prefetched, and a single tile has no
    /// time to prefetch the next ones. In both cases the tile prefetches its own panels.
    ///
    /// Its own panels it prefetches `ahead` rows ahead.
    fn of(
        tile: usize,
        tiles: usize,
        first: bool,
        w: *const T,
        next: Option<*const T>,
        (row, ahead): (usize, usize),
    ) -> Self {
        match next {
            _ if tile == 0 && (first || tiles == 1) => Fetch { ahead: w.wrapping_add(ahead * row), from: 0, step: 1 },
            // The first tile of the first panels prefetches those.
            Some(ahead) if first => Fetch { ahead, from: tile - 1, step: tiles - 1 },
            Some(ahead) => Fetch { ahead, from: tile, step: tiles },
            None => Fetch { ahead: w, from: usize::MAX, step: 0 },
        }
    }
}

/// How many rows of a panel a tile prefetches its own panels ahead.
const AHEAD: usize = 32;

/// Rows times panels of the largest tile of any unit: AMX's 16 by 4, or NEON's 36 by 1.
const LARGEST: usize = if cfg!(target_arch = "x86_64") { 64 } else { 36 };
/// Values in it.
pub(super) const TILE: usize = LARGEST * PANEL_WIDTH;

/// How a product is cut: into tiles of at most `rows` rows by `panels` panels, and its depth into blocks. As many rows as
/// `round` says go through all panels before the next do.
pub(super) struct Cut {
    pub rows: usize,
    pub panels: usize,
    pub block: usize,
    pub round: usize,
}

impl Cut {
    /// Rows of the largest tile of a product of so many rows.
    fn most_rows(&self, count: usize) -> usize {
        let rounds = count.div_ceil(self.round);
        let of_round = count.div_ceil(rounds.max(1));
        of_round.div_ceil(of_round.div_ceil(self.rows).max(1))
    }
}

/// [`Cut::round`] for rows of so many bytes: those that stay in the second-level cache. Each panel is multiplied with all
/// of them, and would otherwise fetch them anew from further away.
pub(super) fn round_of(row_bytes: usize) -> usize {
    /// Half of that cache of a Zen 3, where it was measured.
    const BYTES: usize = 256 << 10;
    /// Each round reads all panels, so fewer rows would cost more than they spare.
    const LEAST: usize = 48;
    (BYTES / row_bytes.max(1)).max(LEAST)
}

/// A tile of a product: its rows, columns and depth, and where its sums start and go.
pub(super) struct Place {
    pub row: usize,
    pub rows: usize,
    pub column: usize,
    pub panels: usize,
    /// Columns: fewer than its panels have if the last is not full.
    pub width: usize,
    /// The part of the depth.
    pub k: usize,
    pub depth: usize,
    /// Its number among the tiles of the same round, panels and depth, and how many there are.
    pub tile: usize,
    pub tiles: usize,
    /// The column and the depth of the panels after these; none at the end of a round.
    pub next: Option<(usize, usize)>,
    /// As in [`Job`].
    pub start: *const f32,
    pub start_stride: usize,
    pub out: *mut f32,
    pub stride: usize,
}

impl Place {
    /// Whether no panel reaches beyond the product's columns.
    fn is_whole(&self) -> bool {
        self.width == self.panels * PANEL_WIDTH
    }

    /// What to fetch during it; `at` gives the panels at a column and a depth, whose rows have `row` values. Its own panels
    /// are fetched `ahead` rows ahead.
    fn fetch<T>(&self, at: impl Fn(usize, usize) -> *const T, row: usize, ahead: usize) -> Fetch<T> {
        let (w, next) = (at(self.column, self.k), self.next.map(|(column, k)| at(column, k)));
        Fetch::of(self.tile, self.tiles, self.column == 0 && self.k == 0, w, next, (row, ahead))
    }
}

/// Calls `add` for every tile of a product of `count` rows, `depth` deep and `columns` wide. The pointers it gets hold
/// until it returns: from `start` it may read, and to `out` write, whole panels of every row of the tile.
///
/// Rows of `out` are `stride` apart and the caller has checked that they and the bias table reach every column.
pub(super) fn each_tile(
    (count, depth, columns): (usize, usize, usize),
    cut: Cut,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
    mut add: impl FnMut(&Place),
) {
    let (mut spill, spill_stride) = ([0.0f32; TILE], cut.panels * PANEL_WIDTH);
    let all_same = |tasks: &[u32]| tasks.iter().all(|task| *task == tasks[0]);
    let one_task = matches!(start, Start::Bias { rows, .. } if all_same(&rows[..count]));
    let all_panels = columns.div_ceil(PANEL_WIDTH);
    let rounds = tiles_of(count, cut.round);
    for ((first_row, count), (panel, panels)) in
        rounds.flat_map(|round| tiles_of(all_panels, cut.panels).map(move |panels| (round, panels)))
    {
        let tiles = count.div_ceil(cut.rows);
        let column = panel * PANEL_WIDTH;
        let after = column + panels * PANEL_WIDTH;
        let width = columns.min(after) - column;
        // A last panel that is not full would be read and written beyond the row, so it goes through `spill`.
        let whole = width == panels * PANEL_WIDTH;
        for k in (0..depth.max(1)).step_by(cut.block) {
            let next = match (k + cut.block < depth, after < columns) {
                (true, _) => Some((column, k + cut.block)),
                (false, true) => Some((after, 0)),
                (false, false) => None,
            };
            for (tile, (row, rows)) in tiles_of(count, cut.rows).enumerate() {
                let row = first_row + row;
                let place = &mut out[row * stride + column..];
                // The sums start at the row's bias, at the result of the previous block, or at zero.
                let mut shared_bias = None;
                match start {
                    Start::Bias { table, stride: bias_stride, rows: tasks } if k == 0 => {
                        let tasks = &tasks[row..row + rows];
                        let bias = |task: u32| &table[task as usize * bias_stride + column..][..width];
                        if whole && (one_task || all_same(tasks)) {
                            shared_bias = Some(bias(tasks[0]));
                        } else {
                            let (target, target_stride) =
                                if whole { (&mut *place, stride) } else { (&mut spill[..], spill_stride) };
                            for (r, task) in tasks.iter().enumerate() {
                                target[r * target_stride..][..width].copy_from_slice(bias(*task));
                            }
                        }
                    }
                    Start::Zero if k == 0 => {}
                    _ if whole => {}
                    _ => {
                        for r in 0..rows {
                            spill[r * spill_stride..][..width].copy_from_slice(&place[r * stride..][..width]);
                        }
                    }
                }
                // The pointers are taken last: nothing else accesses their memory until the tile is done.
                let (target, target_stride) =
                    if whole { (place.as_mut_ptr(), stride) } else { (spill.as_mut_ptr(), spill_stride) };
                let (from, from_stride) = match (start, shared_bias) {
                    (Start::Zero, _) if k == 0 => (core::ptr::null(), 0),
                    (_, Some(bias)) => (bias.as_ptr(), 0),
                    _ => (target.cast_const(), target_stride),
                };
                add(&Place {
                    row,
                    rows,
                    column,
                    panels,
                    width,
                    k,
                    depth: depth.saturating_sub(k).min(cut.block),
                    tile,
                    tiles,
                    next,
                    start: from,
                    start_stride: from_stride,
                    out: target,
                    stride: target_stride,
                });
                if !whole {
                    let place = &mut out[row * stride + column..];
                    for r in 0..rows {
                        place[r * stride..][..width].copy_from_slice(&spill[r * spill_stride..][..width]);
                    }
                }
            }
        }
    }
}

/// [`super::Kernel::multiply`] by tiles.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(super) unsafe fn multiply<T: Tile>(x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
    const { assert!(T::ROWS * T::PANELS * PANEL_WIDTH <= TILE) };
    check_product(x, (w.data, w.depth, w.columns), start, out, stride);
    let Panels { data: panels, depth, columns } = w;
    let panels_at = |column: usize, k: usize| panels[column * depth + k * PANEL_WIDTH..].as_ptr();
    let cut = Cut { rows: T::ROWS, panels: T::PANELS, block: T::BLOCK, round: round_of(size_of::<f32>() * depth) };
    each_tile((x.count, depth, columns), cut, start, out, stride, |place| {
        // SAFETY: `check_product` has found that `x` reaches `x.count` rows of `depth` values, that `panels` holds
        // every panel up to `columns`, that `out` reaches `x.count` rows of `columns` values, and that the bias table
        // has the rows that are named; the tile is within those. The caller vouches for the instructions.
        unsafe {
            let job = Job {
                x: x.data.as_ptr().add(place.row * x.stride + place.k),
                x_stride: x.stride,
                w: panels_at(place.column, place.k),
                panel_stride: depth * PANEL_WIDTH,
                depth: place.depth,
                start: place.start,
                start_stride: place.start_stride,
                out: place.out,
                stride: place.stride,
                fetch: place.fetch(panels_at, PANEL_WIDTH, AHEAD),
            };
            T::add(place.rows, place.panels, &job);
        }
    });
}

/// [`super::Kernel::multiply_transposed`]: some rows of the panels at a time are transposed, in blocks of 16 by 16 by
/// `transpose(block, transposed block)`, and then multiplied.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(super) unsafe fn multiply_transposed<T: Tile>(
    y: Rows<'_>,
    w: Panels<'_>,
    out: &mut [f32],
    stride: usize,
    transpose: impl Fn(&[f32], &mut [f32]),
) {
    /// Values in a block.
    const SQUARE: usize = PANEL_WIDTH * PANEL_WIDTH;
    /// Floats in a cache line.
    const LINE: usize = 16;
    /// How many panels of `w` the prefetching is ahead of the transposing.
    const AHEAD: usize = 2;
    check_transposed(y, w, out, stride);
    let step = T::PANELS * PANEL_WIDTH;
    // A panel of the transpose has a row for each column of `w`.
    let panel = w.columns * PANEL_WIDTH;
    let mut memory = vec![0.0f32; T::PANELS * panel + LINE];
    let line = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let panels = &mut memory[line..];
    let (mut block, mut transposed) = ([0.0f32; SQUARE], [0.0f32; SQUARE]);
    for first in (0..w.depth).step_by(step) {
        let columns = (w.depth - first).min(step);
        // The next rows of a panel are far away in memory, so they are prefetched while these are transposed.
        for square in 0..w.columns.div_ceil(PANEL_WIDTH) {
            let place = |square: usize, row: usize| (square * w.depth + row) * PANEL_WIDTH;
            for line in (0..columns * PANEL_WIDTH).step_by(LINE) {
                T::fetch(w.data.as_ptr().wrapping_add(place(square + AHEAD, first) + line));
            }
            for (panel, row) in panels.chunks_exact_mut(panel).zip((first..first + columns).step_by(PANEL_WIDTH)) {
                let from = &w.data[place(square, row)..];
                let there = ((w.depth - row) * PANEL_WIDTH).min(SQUARE);
                let end = panel.len().min((square + 1) * SQUARE);
                let to = &mut panel[square * SQUARE..end];
                if there == SQUARE && to.len() == SQUARE {
                    transpose(&from[..SQUARE], to);
                } else {
                    // At the ends of the matrix a block is not full.
                    block[..there].copy_from_slice(&from[..there]);
                    transpose(&block, &mut transposed);
                    to.copy_from_slice(&transposed[..to.len()]);
                }
            }
        }
        let transposed = Panels { data: panels, depth: w.columns, columns };
        // SAFETY: the caller vouches for the instructions.
        unsafe { multiply::<T>(y, transposed, Start::There, &mut out[first..], stride) };
    }
}

/// Cuts `count` rows or panels into the fewest tiles of at most `most`, of sizes as equal as possible, because a tile
/// of one row takes as long as one of four. Gives the first row and the number of rows of each.
pub(super) fn tiles_of(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = count.div_ceil(most);
    let (least, larger) = (count.checked_div(tiles).unwrap_or(0), count.checked_rem(tiles).unwrap_or(0));
    (0..tiles).map(move |tile| (tile * least + tile.min(larger), least + usize::from(tile < larger)))
}

#[cfg(test)]
mod tests;
