//! The loops around products in int8.
//!
//! Some units multiply bytes. Others multiply 16-bit integers ([`QuantizedTile::WIDE`]): rows are widened once, and a
//! block of a panel before its first tile, into memory that stays in the cache.
#![allow(unsafe_code)]

use alloc::{vec, vec::Vec};

use super::{AHEAD, Cut, Fetch, TILE, each_tile, round_of};
use crate::{
    kernels::{GROUP, QuantizedPanels, QuantizedRows, Scale, Start, check_quantized},
    layout::{PANEL_GROUP, PANEL_WIDTH},
};

/// [`QuantizedTile::FLIP`] of units that multiply only signed bytes: it maps 0..=255 to -128..=127.
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
pub(in crate::kernels) const SIGN: u8 = 0x80;

/// The innermost product of quantized values: signed bytes of weights, unsigned bytes of activations.
pub(in crate::kernels) trait QuantizedTile {
    /// Most rows of a job. A unit may cut it into several tiles of its registers.
    const ROWS: usize;
    /// Most panels of a job.
    const PANELS: usize;
    /// XORed with the quantized activations before a job, and subtracted from their zero points: 0, or the sign.
    const FLIP: u8 = 0;
    /// The largest number of groups in a job. A group is [`GROUP`] inputs, with scales of its own.
    const GROUPS: usize = 1;
    /// How many [`PANEL_GROUP`]s a job prefetches its own panels ahead, where none before has.
    const AHEAD: usize = AHEAD;
    /// Whether jobs have 16-bit integers in place of bytes. Then of each four values the first and third come before the
    /// second and fourth, and a job has one panel.
    const WIDE: bool = false;

    /// `out[r, c] = start[r, c] + x_scale[r] scale[c] (sum over k of x[r, k] w[k, c] - zero_point[r] column_sums[c])`,
    /// summed over groups. The inner sum is exact; `r` is below `rows` and `c` in `panels` panels. The rest is rounded as
    /// the naive kernel rounds it: one fused multiply-add for the difference, and one for a group's product by
    /// `x_scale[r] scale[c]` and its sum.
    ///
    /// # Safety
    /// The CPU has the unit's instructions, `rows` and `panels` are from 1 to their constants, the pointers of `job` are as
    /// its fields say, and the last call beside others of this was of [`QuantizedTile::begin`], with at least `rows`.
    unsafe fn add(rows: usize, panels: usize, job: &QuantizedJob);

    /// Readies this thread's registers for the jobs of a product, the largest of which has so many rows. All jobs follow on
    /// this thread, then [`QuantizedTile::end`]; of an instance that does nothing here they need not.
    ///
    /// # Safety
    /// The CPU has the unit's instructions.
    unsafe fn begin(_rows: usize) {}

    /// Frees them.
    ///
    /// # Safety
    /// As of [`QuantizedTile::begin`].
    unsafe fn end(_rows: usize) {}

    /// Activations as 16-bit integers, in the order of [`QuantizedTile::WIDE`].
    ///
    /// # Safety
    /// The CPU has the unit's instructions.
    unsafe fn widen_rows(_x: &[[u8; PANEL_GROUP]], _wide: &mut [[u16; PANEL_GROUP]]) {
        unreachable!("only wide units widen")
    }

    /// Weights as 16-bit integers: of each four rows of a panel the first and third of all columns, then the second and
    /// fourth.
    ///
    /// # Safety
    /// The CPU has the unit's instructions.
    unsafe fn widen_panel(_w: &[PanelRows], _wide: &mut [WideRows]) {
        unreachable!("only wide units widen")
    }
}

/// [`PANEL_GROUP`] rows of a panel.
pub(in crate::kernels) type PanelRows = [i8; PANEL_GROUP * PANEL_WIDTH];

/// These rows as 16-bit integers: two lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(in crate::kernels) struct WideRows(
    #[cfg_attr(
        not(any(target_arch = "x86_64", test)),
        expect(dead_code, reason = "only AVX2 multiplies 16-bit integers")
    )]
    pub [i16; PANEL_GROUP * PANEL_WIDTH],
);

/// The operands of a quantized tile. A quantized value has one byte, or two where [`QuantizedTile::WIDE`]. Strides are from
/// one row to the next, in bytes for `x`, else in values.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "NEON's tiles are one panel wide and fetch nothing")
)]
pub(in crate::kernels) struct QuantizedJob {
    /// Readable for each row: `fours` times [`PANEL_GROUP`] quantized values.
    pub x: *const u8,
    pub x_stride: usize,
    /// Rows before its first that are readable too. From the first of those on, as many are as [`QuantizedTile::begin`] was
    /// told.
    #[cfg_attr(
        not(any(target_arch = "x86_64", test)),
        expect(dead_code, reason = "only AMX reads more rows than a job has")
    )]
    pub back: usize,
    /// Readable for each row: one for each [`GROUP`] of quantized values.
    pub x_scales: *const Scale,
    pub x_scale_stride: usize,
    /// Readable for each panel: `fours` times [`PANEL_GROUP`] times [`PANEL_WIDTH`] quantized values.
    pub w: *const i8,
    /// From one panel to the next, in bytes; of no meaning where a job has one panel.
    pub panel_stride: usize,
    /// Its depth in [`PANEL_GROUP`]s: from 1 to what [`QuantizedTile::GROUPS`] groups have.
    pub fours: usize,
    /// Readable, both, for each [`GROUP`] of quantized values: [`PANEL_WIDTH`] values a panel.
    pub scales: *const f32,
    pub column_sums: *const f32,
    /// From one group's to the next's.
    #[cfg_attr(all(target_arch = "arm", not(test)), expect(dead_code, reason = "its jobs are one group"))]
    pub scale_stride: usize,
    /// Null for nothing; or readable for each row: [`PANEL_WIDTH`] values a panel. May be `out`.
    pub start: *const f32,
    pub start_stride: usize,
    /// Writable for each row: [`PANEL_WIDTH`] values a panel.
    pub out: *mut f32,
    pub stride: usize,
    pub fetch: Fetch<i8>,
}

#[cfg(target_arch = "x86_64")]
impl QuantizedJob {
    /// What is left of it from a row and a panel on.
    ///
    /// # Safety
    /// It has the row and the panel, and its pointers are as its fields say.
    pub(in crate::kernels) unsafe fn part(&self, row: usize, panel: usize) -> Self {
        let column = panel * PANEL_WIDTH;
        // SAFETY: the row and the panel are within the ranges of the job.
        unsafe {
            QuantizedJob {
                x: self.x.add(row * self.x_stride),
                back: self.back + row,
                x_scales: self.x_scales.add(row * self.x_scale_stride),
                w: self.w.add(panel * self.panel_stride),
                scales: self.scales.add(column),
                column_sums: self.column_sums.add(column),
                start: if self.start.is_null() { self.start } else { self.start.add(row * self.start_stride + column) },
                out: self.out.add(row * self.stride + column),
                fetch: Fetch { ahead: self.fetch.ahead.wrapping_add(panel * self.panel_stride), ..self.fetch },
                ..*self
            }
        }
    }
}

/// Scales in the one with the most.
const SCALES: usize = 4 * PANEL_WIDTH;

/// How many fours of quantized values there are in each [`GROUP`] of a job. Only the last can have an odd number of them.
#[cfg_attr(all(target_arch = "arm", not(test)), expect(dead_code, reason = "its jobs are one group"))]
pub(in crate::kernels) fn each_group(job: &QuantizedJob) -> impl Iterator<Item = usize> {
    const MOST: usize = GROUP / PANEL_GROUP;
    const { assert!(MOST.is_multiple_of(2)) };
    let fours = job.fours;
    (0..fours).step_by(MOST).map(move |first| (fours - first).min(MOST))
}

/// [`crate::kernels::Kernel::multiply_quantized`] by tiles.
///
/// # Safety
/// The CPU has the instructions of `T`.
pub(in crate::kernels) unsafe fn multiply_quantized<T: QuantizedTile>(
    x: QuantizedRows<'_>,
    w: QuantizedPanels<'_>,
    start: Start<'_>,
    out: &mut [f32],
    stride: usize,
) {
    const { assert!(T::ROWS * T::PANELS * PANEL_WIDTH <= TILE && T::GROUPS * T::PANELS * PANEL_WIDTH <= SCALES) };
    const { assert!(!T::WIDE || T::FLIP == 0 && T::PANELS == 1) };
    check_quantized(x, w, start, out, stride);
    let (groups, depth) = (w.depth.div_ceil(GROUP), w.depth.next_multiple_of(PANEL_GROUP));
    let panels_at = |column: usize, k: usize| w.data[column * depth + k * PANEL_WIDTH..].as_ptr();
    let (quantized, zeros): (Vec<u8>, Vec<Scale>);
    let x = if T::FLIP == 0 {
        x
    } else {
        let lower = f32::from(T::FLIP);
        quantized = x.data.iter().map(|value| value ^ T::FLIP).collect();
        zeros = x.scales.iter().map(|scale| Scale { zero_point: scale.zero_point - lower, ..*scale }).collect();
        QuantizedRows { data: &quantized, scales: &zeros, ..x }
    };
    let mut wide = Wide::default();
    if T::WIDE {
        // SAFETY: the caller vouches for the instructions.
        unsafe { wide.set_rows::<T>(x, depth) }
    }
    // A last panel that is not full has fewer scales and column sums than columns.
    let (mut scales, mut column_sums) = ([0.0; SCALES], [0.0; SCALES]);
    // A round of wide rows widens all panels anew, which is a fortieth of the work of 85 rows.
    let round = round_of(depth * if T::WIDE { 2 } else { 1 });
    let cut = Cut { rows: T::ROWS, panels: T::PANELS, block: T::GROUPS * GROUP, round };
    let most = cut.most_rows(x.count);
    // SAFETY: the caller vouches for the instructions.
    unsafe { T::begin(most) };
    each_tile((x.count, depth, w.columns), cut, start, out, stride, |place| {
        let group = place.k / GROUP;
        let of_columns =
            |group: usize| group * w.columns + place.column..group * w.columns + place.column + place.width;
        let (scales, column_sums, scale_stride) = if place.is_whole() {
            // The slices reach to the end of all groups, because a job of several groups goes from one group to the
            // next.
            let first = of_columns(group).start;
            (w.scales[first..].as_ptr(), w.column_sums[first..].as_ptr(), w.columns)
        } else {
            let stride = place.panels * PANEL_WIDTH;
            for at in 0..place.depth.div_ceil(GROUP) {
                let (from, to) = (of_columns(group + at), at * stride..at * stride + place.width);
                scales[to.clone()].copy_from_slice(&w.scales[from.clone()]);
                column_sums[to].copy_from_slice(&w.column_sums[from]);
            }
            (scales.as_ptr(), column_sums.as_ptr(), stride)
        };
        let fetch = match place.next {
            _ if !T::WIDE => place.fetch(panels_at, PANEL_GROUP * PANEL_WIDTH, T::AHEAD),
            // The tile's own panel is here, widened.
            Some((column, k)) => Fetch { ahead: panels_at(column, k), from: place.tile, step: place.tiles },
            None => Fetch { ahead: w.data.as_ptr(), from: usize::MAX, step: 0 },
        };
        let (rows, x_stride, panel) = if T::WIDE {
            // The other tiles of this block follow the first.
            if place.tile == 0 {
                let panel = &w.data[place.column * depth + place.k * PANEL_WIDTH..][..place.depth * PANEL_WIDTH];
                // SAFETY: the caller vouches for the instructions.
                unsafe { wide.set_panel::<T>(panel) }
            }
            let rows = wide.rows.as_ptr().wrapping_add(place.row * depth + place.k);
            (rows.cast(), 2 * depth, wide.panel.as_ptr().cast())
        } else {
            // From the begin of all, for a job may reach back.
            let rows = x.data.as_ptr().wrapping_add(place.row * x.stride + place.k);
            (rows, x.stride, panels_at(place.column, place.k))
        };
        // SAFETY: `check_quantized` has found that `x` reaches `x.count` rows of `depth` quantized values and of their
        // scales, that the panels, their scales and sums reach every column, that `out` reaches `x.count` rows of
        // `columns` values, and that the bias table has the rows that are named; the tile is within those. Wide rows are
        // as many, and a wide panel has the depth of its tiles. The caller vouches for the instructions.
        unsafe {
            let job = QuantizedJob {
                x: rows,
                x_stride,
                back: (place.row + most).saturating_sub(x.count),
                x_scales: x.scales[place.row * groups + group..].as_ptr(),
                x_scale_stride: groups,
                w: panel,
                panel_stride: depth * PANEL_WIDTH,
                fours: place.depth / PANEL_GROUP,
                scales,
                column_sums,
                scale_stride,
                start: place.start,
                start_stride: place.start_stride,
                out: place.out,
                stride: place.stride,
                fetch,
            };
            T::add(place.rows, place.panels, &job);
        }
    });
    // SAFETY: as above.
    unsafe { T::end(most) }
}

/// The operands of units that multiply 16-bit integers.
#[derive(Default)]
struct Wide {
    /// Whole rows, side by side.
    rows: Vec<u16>,
    /// A block of a panel.
    panel: Vec<WideRows>,
}

impl Wide {
    /// Widens all rows.
    ///
    /// # Safety
    /// The CPU has the instructions of `T`.
    unsafe fn set_rows<T: QuantizedTile>(&mut self, x: QuantizedRows<'_>, depth: usize) {
        self.rows = vec![0; x.count * depth];
        for (row, wide) in self.rows.chunks_exact_mut(depth).enumerate() {
            let bytes = &x.data[row * x.stride..][..depth];
            // SAFETY: the caller vouches for the instructions.
            unsafe { T::widen_rows(bytes.as_chunks().0, wide.as_chunks_mut().0) }
        }
    }

    /// Widens a block of a panel.
    ///
    /// # Safety
    /// As of [`Wide::set_rows`].
    unsafe fn set_panel<T: QuantizedTile>(&mut self, panel: &[i8]) {
        let rows = panel.as_chunks().0;
        self.panel.resize(self.panel.len().max(rows.len()), WideRows([0; PANEL_GROUP * PANEL_WIDTH]));
        // SAFETY: the caller vouches for the instructions.
        unsafe { T::widen_panel(rows, &mut self.panel[..rows.len()]) }
    }
}
