//! The loops around a product's innermost tile, the same for every vector unit.
//!
//! The product is cut into tiles of some rows by some panels, and its depth into blocks, so that a block of panels stays
//! in the cache while all rows pass over it. A unit brings the tiles: [`Tile`] for floats, [`CodeTile`] for codes of eight bits.
#![allow(unsafe_code)]

use bias_patch::{PANEL_GROUP, PANEL_WIDTH};

use super::{CodePanels, CodeRows, GROUP, Panels, Rows, Scale, Start, check_codes, check_product, check_transposed};

/// The innermost product of a vector unit.
pub(super) trait Tile {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Most panels of a tile.
    const PANELS: usize;
    /// Depth of a block: that of as many panels stays in the first cache, with the rows that pass over it.
    const BLOCK: usize;

    /// `out[r, c] = start[r, c] + sum over k of x[r, k] w[k, c]`, `r` below `rows` and `c` in `panels` panels.
    ///
    /// # Safety
    /// The CPU has the unit's instructions, `rows` and `panels` are from 1 to their constants, and the pointers of `job`
    /// are as its fields say.
    unsafe fn add(rows: usize, panels: usize, job: &Job);

    /// Asks for a line of memory to be brought into the cache, where the unit can; `line` may point anywhere.
    fn fetch(_line: *const f32) {}
}

/// Where a tile's numbers are. Strides are from one row to the next, in values.
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

/// What to bring into the cache during a tile: when it is at row (or group) `k`, that row of the panels at `ahead`, which
/// lie as the tile's own; for `k` being `from`, `from + step` and so on. The processor's own fetching ahead stops at every
/// page.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "NEON's tiles fetch nothing"))]
#[derive(Clone, Copy)]
pub(super) struct Fetch<T> {
    /// Never read, so it may point anywhere.
    pub ahead: *const T,
    pub from: usize,
    pub step: usize,
}

impl<T> Fetch<T> {
    /// For tile `tile` of `tiles` over the panels at `w`, whose rows have `row` values, the panels that are worked on next
    /// being at `next`.
    ///
    /// Each tile fetches its share of the next panels. Nothing has fetched the first ones, and a single tile has no time
    /// to fetch that far ahead: then the tile stays a little ahead of itself.
    fn of(tile: usize, tiles: usize, first: bool, w: *const T, next: Option<*const T>, row: usize) -> Self {
        /// Rows that a tile is ahead of itself.
        const AHEAD: usize = 32;
        match next {
            _ if tile == 0 && (first || tiles == 1) => Fetch { ahead: w.wrapping_add(AHEAD * row), from: 0, step: 1 },
            // The first tile of the first panels is busy with those.
            Some(ahead) if first => Fetch { ahead, from: tile - 1, step: tiles - 1 },
            Some(ahead) => Fetch { ahead, from: tile, step: tiles },
            None => Fetch { ahead: w, from: usize::MAX, step: 0 },
        }
    }
}

/// The innermost product of codes: weights of eight bits with a sign, activations of eight bits without.
pub(super) trait CodeTile {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Most panels of a tile.
    const PANELS: usize;
    /// What codes of activations are combined with, by exclusive or, before a job gets them: 0 leaves them as they are, and
    /// 0x80 takes 128 from each, and from the zeros, and gives them a sign, for units that multiply nothing else.
    const FLIP: u8 = 0;
    /// Most times [`GROUP`] inputs of a job, each of which have their scales.
    const GROUPS: usize = 1;

    /// `out[r, c] = start[r, c] + step[r] scale[c] (sum over k of x[r, k] w[k, c] - zero[r] code_sum[c])`, summed over
    /// groups, the inner sum exactly, `r` below `rows` and `c` in `panels` panels.
    ///
    /// # Safety
    /// The CPU has the unit's instructions, `rows` and `panels` are from 1 to their constants, and the pointers of `job`
    /// are as its fields say.
    unsafe fn add(rows: usize, panels: usize, job: &CodeJob);
}

/// Where a tile's codes are. Strides are from one row to the next, of `x` in bytes, else in values.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "NEON's tiles are one panel wide and fetch nothing")
)]
pub(super) struct CodeJob {
    /// Readable for each row: `groups` times [`PANEL_GROUP`] bytes.
    pub x: *const u8,
    pub x_stride: usize,
    /// Readable for each row: one for each [`GROUP`] of codes.
    pub x_scales: *const Scale,
    pub x_scale_stride: usize,
    /// Readable for each panel: `groups` times [`PANEL_GROUP`] times [`PANEL_WIDTH`] bytes.
    pub w: *const i8,
    /// From one panel to the next, in bytes.
    pub panel_stride: usize,
    pub groups: usize,
    /// Readable, both, for each [`GROUP`] of codes: [`PANEL_WIDTH`] values a panel.
    pub scales: *const f32,
    pub code_sums: *const f32,
    /// From one group's to the next's.
    #[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "other units' jobs are one group"))]
    pub scale_stride: usize,
    /// Null for nothing; or readable for each row: [`PANEL_WIDTH`] values a panel. May be `out`.
    pub start: *const f32,
    pub start_stride: usize,
    /// Writable for each row: [`PANEL_WIDTH`] values a panel.
    pub out: *mut f32,
    pub stride: usize,
    pub fetch: Fetch<i8>,
}

/// Values in the largest tile of any unit.
const TILE: usize = 36 * PANEL_WIDTH;
/// Scales in the one with the most.
const SCALES: usize = 4 * PANEL_WIDTH;

/// How a product is cut: into tiles of at most `rows` rows by `panels` panels, and its depth into blocks.
struct Cut {
    rows: usize,
    panels: usize,
    block: usize,
}

/// A tile of a product: what of it, and where its sums come from and go.
struct Place {
    row: usize,
    rows: usize,
    column: usize,
    panels: usize,
    /// Columns, fewer than those of its panels if the last is not full.
    width: usize,
    /// The part of the depth.
    k: usize,
    depth: usize,
    /// Its number among those of the same panels and depth, and how many there are.
    tile: usize,
    tiles: usize,
    /// The column and the depth of the panels after these.
    next: Option<(usize, usize)>,
    /// As in [`Job`].
    start: *const f32,
    start_stride: usize,
    out: *mut f32,
    stride: usize,
}

impl Place {
    /// Whether no panel reaches beyond the product's columns.
    fn is_whole(&self) -> bool {
        self.width == self.panels * PANEL_WIDTH
    }

    /// What to fetch during it; `at` gives the panels at a column and a depth, whose rows have `row` values.
    fn fetch<T>(&self, at: impl Fn(usize, usize) -> *const T, row: usize) -> Fetch<T> {
        let (w, next) = (at(self.column, self.k), self.next.map(|(column, k)| at(column, k)));
        Fetch::of(self.tile, self.tiles, self.column == 0 && self.k == 0, w, next, row)
    }
}

/// Calls `add` for every tile of a product of `count` rows, `depth` deep and `columns` wide. The pointers it gets hold
/// until it returns: from `start` it may read, and to `out` write, whole panels of every row of the tile.
///
/// Rows of `out` are `stride` apart and the caller has checked that they and the bias table reach every column.
fn each_tile(
    (count, depth, columns): (usize, usize, usize),
    cut: Cut,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
    mut add: impl FnMut(&Place),
) {
    let (mut spill, spill_stride) = ([0.0f32; TILE], cut.panels * PANEL_WIDTH);
    let tiles = count.div_ceil(cut.rows);
    let all_same = |tasks: &[i64]| tasks.iter().all(|task| *task == tasks[0]);
    let one_task = matches!(start, Start::Bias { rows, .. } if all_same(&rows[..count]));
    for (panel, panels) in tiles_of(columns.div_ceil(PANEL_WIDTH), cut.panels) {
        let column = panel * PANEL_WIDTH;
        let after = column + panels * PANEL_WIDTH;
        let width = columns.min(after) - column;
        // A last panel that is not full would be read and written beyond the row: it goes through `spill`.
        let whole = width == panels * PANEL_WIDTH;
        for k in (0..depth.max(1)).step_by(cut.block) {
            let next = match (k + cut.block < depth, after < columns) {
                (true, _) => Some((column, k + cut.block)),
                (false, true) => Some((after, 0)),
                (false, false) => None,
            };
            for (tile, (row, rows)) in tiles_of(count, cut.rows).enumerate() {
                let place = &mut out[row * stride + column..];
                // Where the sums begin: at the row's bias, at what the blocks before have left, or at nothing.
                let mut shared_bias = None;
                match start {
                    Start::Bias { table, stride: bias_stride, rows: tasks } if k == 0 => {
                        let tasks = &tasks[row..row + rows];
                        let bias = |task: i64| &table[task as usize * bias_stride + column..][..width];
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
                // Pointers last: nothing else touches their memory until the tile is done.
                let (target, target_stride) =
                    if whole { (place.as_mut_ptr(), stride) } else { (spill.as_mut_ptr(), spill_stride) };
                let (from, from_stride) = match (start, shared_bias) {
                    (Start::Zero, _) if k == 0 => (std::ptr::null(), 0),
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
    check_product(x, w, start, out, stride);
    let Panels { data: panels, depth, columns } = w;
    let panels_at = |column: usize, k: usize| panels[column * depth + k * PANEL_WIDTH..].as_ptr();
    let cut = Cut { rows: T::ROWS, panels: T::PANELS, block: T::BLOCK };
    each_tile((x.count, depth, columns), cut, start, out, stride, |place| {
        // SAFETY: `check_product` has found that `x` reaches `x.count` rows of `depth` values, that `panels` holds every
        // panel up to `columns`, that `out` reaches `x.count` rows of `columns` values, and that the bias table has the
        // rows that are named; the tile is within those. The caller vouches for the instructions.
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
                fetch: place.fetch(panels_at, PANEL_WIDTH),
            };
            T::add(place.rows, place.panels, &job);
        }
    });
}

/// [`super::Kernel::multiply_codes`] by tiles.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(super) unsafe fn multiply_codes<T: CodeTile>(
    x: CodeRows<'_>,
    w: CodePanels<'_>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
) {
    const { assert!(T::ROWS * T::PANELS * PANEL_WIDTH <= TILE && T::GROUPS * T::PANELS * PANEL_WIDTH <= SCALES) };
    check_codes(x, w, start, out, stride);
    let (groups, depth) = (w.depth.div_ceil(GROUP), w.depth.next_multiple_of(PANEL_GROUP));
    let panels_at = |column: usize, k: usize| w.data[column * depth + k * PANEL_WIDTH..].as_ptr();
    let (codes, zeros): (Vec<u8>, Vec<Scale>);
    let x = if T::FLIP == 0 {
        x
    } else {
        let lower = f32::from(T::FLIP);
        codes = x.data.iter().map(|code| code ^ T::FLIP).collect();
        zeros = x.scales.iter().map(|scale| Scale { zero: scale.zero - lower, ..*scale }).collect();
        CodeRows { data: &codes, scales: &zeros, ..x }
    };
    // Of a last panel that is not full there are fewer scales and sums than it has columns.
    let (mut scales, mut code_sums) = ([0.0; SCALES], [0.0; SCALES]);
    let cut = Cut { rows: T::ROWS, panels: T::PANELS, block: T::GROUPS * GROUP };
    each_tile((x.count, depth, w.columns), cut, start, out, stride, |place| {
        let group = place.k / GROUP;
        let of_columns =
            |group: usize| group * w.columns + place.column..group * w.columns + place.column + place.width;
        let (scales, code_sums, scale_stride) = if place.is_whole() {
            let first = of_columns(group);
            (w.scales[first.clone()].as_ptr(), w.sums[first].as_ptr(), w.columns)
        } else {
            let stride = place.panels * PANEL_WIDTH;
            for at in 0..place.depth.div_ceil(GROUP) {
                let (from, to) = (of_columns(group + at), at * stride..at * stride + place.width);
                scales[to.clone()].copy_from_slice(&w.scales[from.clone()]);
                code_sums[to].copy_from_slice(&w.sums[from]);
            }
            (scales.as_ptr(), code_sums.as_ptr(), stride)
        };
        // SAFETY: `check_codes` has found that `x` reaches `x.count` rows of `depth` codes and of their scales, that the
        // panels, their scales and sums reach every column, that `out` reaches `x.count` rows of `columns` values, and that
        // the bias table has the rows that are named; the tile is within those. The caller vouches for the instructions.
        unsafe {
            let job = CodeJob {
                x: x.data[place.row * x.stride + place.k..].as_ptr(),
                x_stride: x.stride,
                x_scales: x.scales[place.row * groups + group..].as_ptr(),
                x_scale_stride: groups,
                w: panels_at(place.column, place.k),
                panel_stride: depth * PANEL_WIDTH,
                groups: place.depth / PANEL_GROUP,
                scales,
                code_sums,
                scale_stride,
                start: place.start,
                start_stride: place.start_stride,
                out: place.out,
                stride: place.stride,
                fetch: place.fetch(panels_at, PANEL_GROUP * PANEL_WIDTH),
            };
            T::add(place.rows, place.panels, &job);
        }
    });
}

/// [`super::Kernel::multiply_transposed`]: some rows of the panels at a time become panels of the transpose, by
/// `turn(block, transposed block)` of 16 by 16, and those are multiplied.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(super) unsafe fn multiply_transposed<T: Tile>(
    y: Rows<'_>,
    w: Panels<'_>,
    out: &mut [f32],
    stride: usize,
    turn: impl Fn(&[f32], &mut [f32]),
) {
    /// Values in a block.
    const SQUARE: usize = PANEL_WIDTH * PANEL_WIDTH;
    /// Floats in a cache line.
    const LINE: usize = 16;
    /// Panels of `w` between what is turned and what is fetched.
    const AHEAD: usize = 2;
    check_transposed(y, w, out, stride);
    let step = T::PANELS * PANEL_WIDTH;
    // A panel of the transpose has a row for each column of `w`.
    let panel = w.columns * PANEL_WIDTH;
    let mut memory = vec![0.0f32; T::PANELS * panel + LINE];
    let line = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let panels = &mut memory[line..];
    let (mut block, mut turned) = ([0.0f32; SQUARE], [0.0f32; SQUARE]);
    for first in (0..w.depth).step_by(step) {
        let columns = (w.depth - first).min(step);
        // Panel by panel of `w`, whose next rows lie far away: fetched while these are turned.
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
                    turn(&from[..SQUARE], to);
                } else {
                    // At the ends of the matrix a block is not full.
                    block[..there].copy_from_slice(&from[..there]);
                    turn(&block, &mut turned);
                    to.copy_from_slice(&turned[..to.len()]);
                }
            }
        }
        let turned = Panels { data: panels, depth: w.columns, columns };
        // SAFETY: the caller vouches for the instructions.
        unsafe { multiply::<T>(y, turned, Start::There, &mut out[first..], stride) };
    }
}

/// Cuts `count` rows or panels into as few tiles of at most `most` as there can be, all as even as they can be: a tile of
/// one row takes as long as one of four. Gives the first row and the rows of each.
pub(super) fn tiles_of(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = count.div_ceil(most);
    let (least, larger) = (count.checked_div(tiles).unwrap_or(0), count.checked_rem(tiles).unwrap_or(0));
    (0..tiles).map(move |tile| (tile * least + tile.min(larger), least + usize::from(tile < larger)))
}
