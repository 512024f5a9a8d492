//! The loops around a product's innermost tile, the same for every vector unit.
//!
//! The product is cut into tiles of some rows by some panels, and its depth into blocks, so that a block of panels stays
//! in the cache while all rows pass over it. A unit brings the tiles: [`Tile::add`] for floats, [`CodeTile::dot`] for codes
//! of eight bits.
#![allow(unsafe_code)]

use bias_patch::{PANEL_GROUP, PANEL_WIDTH};

use super::{
    CodePanels, CodeRows, GROUP, Panels, Rows, Scale, Start, check_codes, check_product, check_transposed, wide,
};

/// The innermost product of a vector unit.
pub(super) trait Tile {
    /// Most rows of a tile.
    const ROWS: usize;
    /// Most panels of a tile.
    const PANELS: usize;

    /// `out[r, c] = start[r, c] + sum over k of x[r, k] w[k, c]`, `r` below `rows` and `c` in `panels` panels.
    ///
    /// # Safety
    /// The CPU has the unit's instructions, `rows` and `panels` are from 1 to their constants, and the pointers of `job`
    /// are as its fields say.
    unsafe fn add(rows: usize, panels: usize, job: &Job);
}

/// Where a tile's numbers are. Strides are from one row to the next, in values.
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

    /// `out[r, c] = sum over k of x[r, k] w[k, c]`, exactly, `r` below `rows` and `c` in `panels` panels.
    ///
    /// # Safety
    /// The CPU has the unit's instructions, `rows` and `panels` are from 1 to their constants, and the pointers of `job`
    /// are as its fields say.
    unsafe fn dot(rows: usize, panels: usize, job: &CodeJob);
}

/// Where a tile's codes are. Strides of `x` are in bytes, those of `out` in values.
pub(super) struct CodeJob {
    /// Readable for each row: `groups` times [`PANEL_GROUP`] bytes.
    pub x: *const u8,
    pub x_stride: usize,
    /// Readable for each panel: `groups` times [`PANEL_GROUP`] times [`PANEL_WIDTH`] bytes.
    pub w: *const i8,
    /// From one panel to the next, in bytes.
    pub panel_stride: usize,
    pub groups: usize,
    /// Writable for each row: [`PANEL_WIDTH`] values a panel.
    pub out: *mut i32,
    pub stride: usize,
    pub fetch: Fetch<i8>,
}

/// A [`super::Kernel`] for a vector unit: `detect`, two tiles in their loops, and row arithmetic compiled for the unit's
/// features.
macro_rules! vector_unit {
    ($(#[$doc:meta])* $unit:ident, $name:literal, $floats:ty, $codes:ty, $features:literal, $($feature:tt),+) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $unit(());

        impl $unit {
            /// The kernel, if this CPU can run it.
            pub(crate) fn detect() -> Option<&'static Self> {
                static KERNEL: $unit = $unit(());
                ($(is_x86_feature_detected!($feature))&&+).then_some(&KERNEL)
            }
        }

        impl crate::kernels::Kernel for $unit {
            fn name(&self) -> &'static str {
                $name
            }

            fn multiply(
                &self,
                x: crate::kernels::Rows<'_>,
                w: crate::kernels::Panels<'_>,
                start: crate::kernels::Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                // SAFETY: `detect`, the only way to a kernel, has found the unit's features.
                unsafe { crate::kernels::blocked::multiply::<$floats>(x, w, start, out, stride) }
            }

            fn multiply_codes(
                &self,
                x: crate::kernels::CodeRows<'_>,
                w: crate::kernels::CodePanels<'_>,
                start: crate::kernels::Start<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                #[target_feature(enable = $features)]
                fn add_scaled(tile: crate::kernels::blocked::ScaledTile<'_>) {
                    tile.add();
                }
                // SAFETY: as above.
                unsafe { crate::kernels::blocked::multiply_codes::<$codes>(x, w, start, out, stride, |t| add_scaled(t)) }
            }

            fn multiply_transposed(
                &self,
                y: crate::kernels::Rows<'_>,
                w: crate::kernels::Panels<'_>,
                out: &mut [f32],
                stride: usize,
            ) {
                #[target_feature(enable = $features)]
                fn turn(block: &[f32], turned: &mut [f32]) {
                    crate::kernels::wide::turn(block, turned);
                }
                // SAFETY: as above.
                unsafe {
                    crate::kernels::blocked::multiply_transposed::<$floats>(y, w, out, stride, |a, b| turn(a, b))
                }
            }

            fn activate_adjoint(&self, activation: bias_patch::Activation, values: &[f32], gradients: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn activate_adjoint(activation: bias_patch::Activation, values: &[f32], gradients: &mut [f32]) {
                    crate::kernels::wide::activate_adjoint(activation, values, gradients);
                }
                // SAFETY: as above.
                unsafe { activate_adjoint(activation, values, gradients) }
            }

            fn encode(&self, values: &[f32], codes: &mut [u8]) -> crate::kernels::Scale {
                #[target_feature(enable = $features)]
                fn encode(values: &[f32], codes: &mut [u8]) -> crate::kernels::Scale {
                    crate::kernels::wide::encode(values, codes)
                }
                // SAFETY: as above.
                unsafe { encode(values, codes) }
            }

            fn widen(&self, panel: &[i8], scales: &[f32], out: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn widen(panel: &[i8], scales: &[f32], out: &mut [f32]) {
                    crate::kernels::wide::widen(panel, scales, out);
                }
                // SAFETY: as above.
                unsafe { widen(panel, scales, out) }
            }

            fn activate(&self, activation: bias_patch::Activation, values: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn activate(activation: bias_patch::Activation, values: &mut [f32]) {
                    crate::kernels::wide::activate(activation, values);
                }
                // SAFETY: as above.
                unsafe { activate(activation, values) }
            }

            fn exponentials(&self, row: &mut [f32]) -> f32 {
                #[target_feature(enable = $features)]
                fn exponentials(row: &mut [f32]) -> f32 {
                    crate::kernels::wide::exponentials(row)
                }
                // SAFETY: as above.
                unsafe { exponentials(row) }
            }

            fn normalise(&self, row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
                #[target_feature(enable = $features)]
                fn normalise(row: &mut [f32], gain: &[f32], bias: &[f32], epsilon: f32) {
                    crate::kernels::wide::normalise(row, gain, bias, epsilon);
                }
                // SAFETY: as above.
                unsafe { normalise(row, gain, bias, epsilon) }
            }
        }
    };
}

/// Depth of a block: three panels of it are 24 KB, half of a first-level cache.
const BLOCK: usize = 128;
/// Values in the largest tile of any unit.
const TILE: usize = 8 * SPILL_STRIDE;
/// Values in a row of it.
const SPILL_STRIDE: usize = 3 * PANEL_WIDTH;

/// [`super::Kernel::multiply`] by tiles.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(super) unsafe fn multiply<T: Tile>(x: Rows<'_>, w: Panels<'_>, start: Start<'_>, out: &mut [f32], stride: usize) {
    const { assert!(T::ROWS * SPILL_STRIDE <= TILE && T::PANELS * PANEL_WIDTH <= SPILL_STRIDE) };
    check_product(x, w, start, out, stride);
    let Panels { data: panels, depth, columns } = w;
    let mut spill = [0.0f32; TILE];
    let panels_at = |column: usize, block: usize| panels[column * depth + block * PANEL_WIDTH..].as_ptr();
    let tiles = x.count.div_ceil(T::ROWS);
    for (panel, count) in tiles_of(columns.div_ceil(PANEL_WIDTH), T::PANELS) {
        let column = panel * PANEL_WIDTH;
        let after = column + count * PANEL_WIDTH;
        let width = columns.min(after) - column;
        // A last panel that is not full would be read and written beyond the row: it goes through `spill`.
        let whole = width == count * PANEL_WIDTH;
        for block in (0..depth.max(1)).step_by(BLOCK) {
            let block_depth = depth.saturating_sub(block).min(BLOCK);
            let next = match (block + BLOCK < depth, after < columns) {
                (true, _) => Some(panels_at(column, block + BLOCK)),
                (false, true) => Some(panels_at(after, 0)),
                (false, false) => None,
            };
            for (tile, (row, rows)) in tiles_of(x.count, T::ROWS).enumerate() {
                let place = &mut out[row * stride + column..];
                // Where the sums begin: at the row's bias, at what the blocks before have left, or at nothing.
                let mut shared_bias = None;
                match start {
                    Start::Bias { table, stride: bias_stride, rows: tasks } if block == 0 => {
                        let tasks = &tasks[row..row + rows];
                        let bias = |task: i64| &table[task as usize * bias_stride + column..][..width];
                        if whole && tasks.iter().all(|task| *task == tasks[0]) {
                            shared_bias = Some(bias(tasks[0]));
                        } else {
                            let (target, target_stride) =
                                if whole { (&mut *place, stride) } else { (&mut spill[..], SPILL_STRIDE) };
                            for (r, task) in tasks.iter().enumerate() {
                                target[r * target_stride..][..width].copy_from_slice(bias(*task));
                            }
                        }
                    }
                    Start::Zero if block == 0 => {}
                    _ if whole => {}
                    _ => {
                        for r in 0..rows {
                            spill[r * SPILL_STRIDE..][..width].copy_from_slice(&place[r * stride..][..width]);
                        }
                    }
                }
                // Pointers last: nothing else touches their memory until the tile is done.
                let (target, target_stride) =
                    if whole { (place.as_mut_ptr(), stride) } else { (spill.as_mut_ptr(), SPILL_STRIDE) };
                let (from, from_stride) = match (start, shared_bias) {
                    (Start::Zero, _) if block == 0 => (std::ptr::null(), 0),
                    (_, Some(bias)) => (bias.as_ptr(), 0),
                    _ => (target.cast_const(), target_stride),
                };
                // SAFETY: `check_product` has found that `x` reaches `x.count` rows of `depth` values, that `panels`
                // holds every panel up to `columns`, that `out` reaches `x.count` rows of `columns` values, and that the
                // bias table has the rows that are named; the ranges here are within those. `spill` has room for the
                // largest tile. The caller vouches for the instructions.
                unsafe {
                    let w = panels_at(column, block);
                    let first = column == 0 && block == 0;
                    let job = Job {
                        x: x.data.as_ptr().add(row * x.stride + block),
                        x_stride: x.stride,
                        w,
                        panel_stride: depth * PANEL_WIDTH,
                        depth: block_depth,
                        start: from,
                        start_stride: from_stride,
                        out: target,
                        stride: target_stride,
                        fetch: Fetch::of(tile, tiles, first, w, next, PANEL_WIDTH),
                    };
                    T::add(rows, count, &job);
                }
                if !whole {
                    let place = &mut out[row * stride + column..];
                    for r in 0..rows {
                        place[r * stride..][..width].copy_from_slice(&spill[r * SPILL_STRIDE..][..width]);
                    }
                }
            }
        }
    }
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
        for (panel, rows) in panels.chunks_exact_mut(panel).zip((first..first + columns).step_by(PANEL_WIDTH)) {
            let there = ((w.depth - rows) * PANEL_WIDTH).min(SQUARE);
            for (square, to) in panel.chunks_mut(SQUARE).enumerate() {
                let from = &w.data[(square * w.depth + rows) * PANEL_WIDTH..];
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

/// The sums of a tile of codes, on their way into the product.
pub(super) struct ScaledTile<'a> {
    /// Rows of sums, [`SPILL_STRIDE`] apart.
    sums: &'a [i32],
    /// Of the columns, for this group.
    scales: &'a [f32],
    code_sums: &'a [f32],
    /// Of the rows, for this group: every `groups`-th.
    x_scales: &'a [Scale],
    groups: usize,
    rows: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl ScaledTile<'_> {
    /// Adds them.
    #[inline(always)]
    pub fn add(self) {
        let width = self.scales.len();
        for r in 0..self.rows {
            let (sums, out) = (&self.sums[r * SPILL_STRIDE..][..width], &mut self.out[r * self.stride..][..width]);
            wide::add_scaled(sums, self.scales, self.code_sums, self.x_scales[r * self.groups], out);
        }
    }
}

/// [`super::Kernel::multiply_codes`] by tiles, group after group. `add` is [`ScaledTile::add`] compiled for the unit.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(super) unsafe fn multiply_codes<T: CodeTile>(
    x: CodeRows<'_>,
    w: CodePanels<'_>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
    add: impl Fn(ScaledTile<'_>),
) {
    const { assert!(T::ROWS * SPILL_STRIDE <= TILE && T::PANELS * PANEL_WIDTH <= SPILL_STRIDE) };
    check_codes(x, w, start, out, stride);
    for r in 0..x.count {
        let out = &mut out[r * stride..][..w.columns];
        match start {
            Start::Zero => out.fill(0.0),
            Start::There => {}
            Start::Bias { table, stride, rows } => {
                out.copy_from_slice(&table[rows[r] as usize * stride..][..w.columns]);
            }
        }
    }
    let groups = w.depth.div_ceil(GROUP);
    let depth = w.depth.next_multiple_of(PANEL_GROUP);
    let panel_stride = depth * PANEL_WIDTH;
    let panels_at = |column: usize, k: usize| w.data[column * depth + k * PANEL_WIDTH..].as_ptr();
    let mut sums = [0i32; TILE];
    let tiles = x.count.div_ceil(T::ROWS);
    for (panel, count) in tiles_of(w.columns.div_ceil(PANEL_WIDTH), T::PANELS) {
        let column = panel * PANEL_WIDTH;
        let after = column + count * PANEL_WIDTH;
        let width = w.columns.min(after) - column;
        for group in 0..groups {
            let k = group * GROUP;
            let panels = panels_at(column, k);
            let next = match (k + GROUP < depth, after < w.columns) {
                (true, _) => Some(panels_at(column, k + GROUP)),
                (false, true) => Some(panels_at(after, 0)),
                (false, false) => None,
            };
            for (tile, (row, rows)) in tiles_of(x.count, T::ROWS).enumerate() {
                let first = column == 0 && group == 0;
                // SAFETY: `check_codes` has found that `x` reaches `x.count` rows of `depth` codes and that the panels
                // reach every column; `sums` has room for the largest tile. The caller vouches for the instructions.
                unsafe {
                    let job = CodeJob {
                        x: x.data[row * x.stride + k..].as_ptr(),
                        x_stride: x.stride,
                        w: panels,
                        panel_stride,
                        groups: (depth - k).min(GROUP) / PANEL_GROUP,
                        out: sums.as_mut_ptr(),
                        stride: SPILL_STRIDE,
                        fetch: Fetch::of(tile, tiles, first, panels, next, PANEL_GROUP * PANEL_WIDTH),
                    };
                    T::dot(rows, count, &job);
                }
                let place = group * w.columns + column;
                add(ScaledTile {
                    sums: &sums,
                    scales: &w.scales[place..][..width],
                    code_sums: &w.sums[place..][..width],
                    x_scales: &x.scales[row * groups + group..],
                    groups,
                    rows,
                    out: &mut out[row * stride + column..],
                    stride,
                });
            }
        }
    }
}

/// Cuts `count` rows or panels into as few tiles of at most `most` as there can be, all as even as they can be: a tile of
/// one row takes as long as one of four. Gives the first row and the rows of each.
fn tiles_of(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = count.div_ceil(most);
    let bound = move |tile: usize| tile * count / tiles;
    (0..tiles).map(move |tile| (bound(tile), bound(tile + 1) - bound(tile)))
}
