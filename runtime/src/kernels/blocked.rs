//! The loops around a product's innermost tile, the same for every vector unit.
//!
//! The product is cut into tiles of some rows by some panels, and its depth into blocks, so that a block of panels stays
//! in the cache while all rows pass over it. A unit brings the tile: [`Tile::add`].
#![allow(unsafe_code)]

use bias_patch::PANEL_WIDTH;

use super::{Panels, Rows, Start, check_product};

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
    /// Whether the panels are not in the cache yet.
    pub fetch: bool,
}

/// A [`super::Kernel`] for a vector unit that has a [`Tile`]: `detect`, the tile in its loops, and row arithmetic compiled
/// for the unit's features.
macro_rules! vector_unit {
    ($(#[$doc:meta])* $unit:ident, $name:literal, $features:literal, $($feature:tt),+) => {
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
                unsafe { crate::kernels::blocked::multiply::<Self>(x, w, start, out, stride) }
            }

            fn activate(&self, activation: bias_patch::Activation, values: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn activate(activation: bias_patch::Activation, values: &mut [f32]) {
                    crate::kernels::wide::activate(activation, values);
                }
                // SAFETY: as above.
                unsafe { activate(activation, values) }
            }

            fn softmax(&self, row: &mut [f32]) {
                #[target_feature(enable = $features)]
                fn softmax(row: &mut [f32]) {
                    crate::kernels::wide::softmax(row);
                }
                // SAFETY: as above.
                unsafe { softmax(row) }
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

/// Depth of a block: three panels of it are 72 KB, which a second-level cache holds beside the rows.
const BLOCK: usize = 384;
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
    for column in (0..columns).step_by(T::PANELS * PANEL_WIDTH) {
        let width = (columns - column).min(T::PANELS * PANEL_WIDTH);
        let count = width.div_ceil(PANEL_WIDTH);
        // A last panel that is not full would be read and written beyond the row: it goes through `spill`.
        let whole = width == count * PANEL_WIDTH;
        for block in (0..depth.max(1)).step_by(BLOCK) {
            let block_depth = depth.saturating_sub(block).min(BLOCK);
            for row in (0..x.count).step_by(T::ROWS) {
                let rows = (x.count - row).min(T::ROWS);
                let place = &mut out[row * stride + column..];
                // Where the sums begin: at the row's bias, at what the blocks before have left, or at nothing.
                let mut shared_bias = None;
                match start {
                    Start::Bias { table, rows: tasks } if block == 0 => {
                        let tasks = &tasks[row..row + rows];
                        let bias = |task: i64| &table[task as usize * columns + column..][..width];
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
                    _ if whole || block == 0 => {}
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
                    let job = Job {
                        x: x.data.as_ptr().add(row * x.stride + block),
                        x_stride: x.stride,
                        w: panels.as_ptr().add(column * depth + block * PANEL_WIDTH),
                        panel_stride: depth * PANEL_WIDTH,
                        depth: block_depth,
                        start: from,
                        start_stride: from_stride,
                        out: target,
                        stride: target_stride,
                        fetch: row == 0,
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
