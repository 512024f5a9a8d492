//! Tests of the loops, with tiles in plain Rust, so that Miri can run them.

use alloc::{vec, vec::Vec};

use super::*;
use crate::{
    kernels::{
        GROUP, HalfPanels, Kernel as _, QuantizedPanels, QuantizedRows, Scale, float_of,
        naive::{Naive, quantized_place},
    },
    layout::PANEL_GROUP,
};

std::thread_local! {
    /// What [`QuantizedTile::begin`] was told.
    static READABLE: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

/// Tiles of three rows by two panels, and of int8 over two groups.
struct Plain;

impl Tile for Plain {
    const ROWS: usize = 3;
    const PANELS: usize = 2;
    const BLOCK: usize = 5;

    unsafe fn add(rows: usize, panels: usize, job: &Job) {
        for r in 0..rows {
            for c in 0..panels * PANEL_WIDTH {
                // SAFETY: every offset is within the ranges of the job.
                unsafe {
                    let begin = if job.start.is_null() { 0.0 } else { *job.start.add(r * job.start_stride + c) };
                    let w = job.w.add(c / PANEL_WIDTH * job.panel_stride + c % PANEL_WIDTH);
                    let product = |k: usize| *job.x.add(r * job.x_stride + k) * *w.add(k * PANEL_WIDTH);
                    *job.out.add(r * job.stride + c) = (0..job.depth).fold(begin, |sum, k| sum + product(k));
                }
            }
        }
    }

    unsafe fn widen(halves: &[[u16; PANEL_WIDTH]], out: &mut [[f32; PANEL_WIDTH]]) {
        halves.as_flattened().iter().zip(out.as_flattened_mut()).for_each(|(half, out)| *out = float_of(*half));
    }
}

/// The int8 product of a job, whose activations and weights are as `values(row, k, column)` reads them.
///
/// # Safety
/// As [`QuantizedTile::add`].
unsafe fn add_plainly(rows: usize, job: &QuantizedJob, values: impl Fn(usize, usize, usize) -> (i32, i32)) {
    let mut first = 0;
    // Every row that a job says is readable, in Miri too.
    let most = READABLE.get();
    assert!(job.back + rows <= most, "{rows} rows after {} of {most}", job.back);
    for row in 0..most {
        // SAFETY: the job says that it reaches these rows.
        unsafe { core::hint::black_box(*job.x.sub(job.back * job.x_stride).add(row * job.x_stride)) };
    }
    for (group, fours) in each_group(job).enumerate() {
        let inputs = first..first + fours * PANEL_GROUP;
        first = inputs.end;
        for r in 0..rows {
            for c in 0..PANEL_WIDTH {
                // SAFETY: every offset is within the ranges of the job.
                unsafe {
                    let out = job.out.add(r * job.stride + c);
                    let before = match (group, job.start.is_null()) {
                        (0, true) => 0.0,
                        (0, false) => *job.start.add(r * job.start_stride + c),
                        _ => *out,
                    };
                    let of_values = |k: usize| values(r, k, c);
                    let products: i32 = inputs.clone().map(of_values).map(|(x, w)| x * w).sum();
                    let x = *job.x_scales.add(r * job.x_scale_stride + group);
                    let at = group * job.scale_stride + c;
                    let centred = x.zero_point.mul_add(-*job.column_sums.add(at), products as f32);
                    *out = centred.mul_add(x.scale * *job.scales.add(at), before);
                }
            }
        }
    }
}

impl QuantizedTile for Plain {
    const ROWS: usize = 3;
    const PANELS: usize = 1;
    const GROUPS: usize = 2;

    unsafe fn begin(rows: usize) {
        READABLE.set(rows);
    }

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        let values = |r: usize, k: usize, c: usize| {
            let place = (k / PANEL_GROUP * PANEL_WIDTH + c) * PANEL_GROUP + k % PANEL_GROUP;
            // SAFETY: both are within the ranges of the job.
            unsafe { (i32::from(*job.x.add(r * job.x_stride + k)), i32::from(*job.w.add(place))) }
        };
        // SAFETY: the caller vouches for the job.
        unsafe { add_plainly(rows, job, values) }
    }
}

/// As [`Plain`], of 16-bit integers.
struct PlainWide;

/// Of four inputs those at even places first.
const EVEN_FIRST: [usize; PANEL_GROUP] = [0, 2, 1, 3];

impl QuantizedTile for PlainWide {
    const ROWS: usize = 3;
    const PANELS: usize = 1;
    const GROUPS: usize = 2;
    const WIDE: bool = true;

    unsafe fn begin(rows: usize) {
        READABLE.set(rows);
    }

    unsafe fn add(rows: usize, _panels: usize, job: &QuantizedJob) {
        let values = |r: usize, k: usize, c: usize| {
            let (four, at) = (k / PANEL_GROUP, EVEN_FIRST[k % PANEL_GROUP]);
            let place = ((2 * four + at / 2) * PANEL_WIDTH + c) * 2 + at % 2;
            // SAFETY: both are within the ranges of the job.
            unsafe {
                let x = job.x.add(r * job.x_stride).cast::<u16>().add(four * PANEL_GROUP + at);
                (i32::from(*x), i32::from(*job.w.cast::<i16>().add(place)))
            }
        };
        // SAFETY: the caller vouches for the job.
        unsafe { add_plainly(rows, job, values) }
    }

    unsafe fn widen_rows(x: &[[u8; PANEL_GROUP]], wide: &mut [[u16; PANEL_GROUP]]) {
        x.iter().zip(wide).for_each(|(x, wide)| *wide = EVEN_FIRST.map(|at| u16::from(x[at])));
    }

    unsafe fn widen_panel(w: &[PanelRows], wide: &mut [WideRows]) {
        for (w, WideRows(wide)) in w.iter().zip(wide) {
            for (at, wide) in wide.iter_mut().enumerate() {
                let (pair, column) = (at / (2 * PANEL_WIDTH), at / 2 % PANEL_WIDTH);
                *wide = i16::from(w[column * PANEL_GROUP + EVEN_FIRST[2 * pair + at % 2]]);
            }
        }
    }
}

#[test]
fn every_round_of_rows_meets_every_panel() {
    // Rows in rounds of four, some of which are smaller; a last panel that is not full; a last block that is smaller.
    for (count, depth, columns) in [(11usize, 12usize, 40usize), (4, 5, 16), (5, 1, 17), (0, 3, 16)] {
        let cut = Cut { rows: 3, panels: 2, block: 5, round: 4 };
        let mut out = vec![0.0; count * columns];
        let mut met = vec![0; count * columns * depth];
        let mut before = None;
        each_tile((count, depth, columns), cut, Start::Zero, &mut out, columns, |place| {
            // The first tile of a round, panels and depth begins with them, and the others follow it.
            let of = (place.column, place.k, place.tiles);
            match place.tile {
                0 => before = Some(of),
                _ => assert_eq!(before, Some(of)),
            }
            for row in place.row..place.row + place.rows {
                for column in place.column..place.column + place.width {
                    for k in place.k..place.k + place.depth {
                        met[(row * columns + column) * depth + k] += 1;
                    }
                }
            }
        });
        assert!(met.iter().all(|times| *times == 1), "{count} x {depth} x {columns}");
    }
}

fn wholes(count: usize, by: usize) -> Vec<f32> {
    (0..count).map(|at| (at * by % 7) as f32 - 3.0).collect()
}

#[test]
fn every_value_of_a_product_is_reached_within_its_memory() {
    // Whole numbers, whose sums are exact: in panels that are full or not, in blocks of the depth, of one task or
    // more.
    for (count, depth, columns) in [(1usize, 1usize, 1usize), (4, 7, 33), (7, 11, 32), (3, 5, 48)] {
        let (x, w) = (wholes(count * depth, 5), wholes(columns.next_multiple_of(PANEL_WIDTH) * depth, 3));
        let x = Rows { data: &x, stride: depth, count };
        let w = Panels { data: &w, depth, columns };
        let table = wholes(2 * columns, 2);
        let rows: Vec<u32> = (0..count as u32).map(|row| row % 2).collect();
        for start in [Start::Zero, Start::There, Start::Bias { table: &table, stride: columns, rows: &rows }] {
            let (mut found, mut expected) = (vec![1.0; count * columns], vec![1.0; count * columns]);
            // SAFETY: the tile is plain Rust.
            unsafe { multiply::<Plain>(x, w, start, &mut found, columns) };
            Naive.multiply(x, w, start, &mut expected, columns);
            assert_eq!(found, expected, "{count} x {depth} x {columns}");

            // As halves, all of which are 1 or more.
            let halves: Vec<u16> = (0..w.data.len()).map(|at| 0x3c00 + (at * 64 % 0x400) as u16).collect();
            let w = HalfPanels { data: &halves, depth, columns };
            let (mut found, mut expected) = (vec![1.0; count * columns], vec![1.0; count * columns]);
            // SAFETY: the tile is plain Rust.
            unsafe { multiply_halves::<Plain>(x, w, start, &mut found, columns) };
            Naive.multiply_halves(x, w, start, &mut expected, columns);
            assert_eq!(found, expected, "{count} x {depth} x {columns}, halves");
        }
        let y = wholes(count * columns, 4);
        let y = Rows { data: &y, stride: columns, count };
        let mut whole = w.data.to_vec();
        for (at, value) in whole.iter_mut().enumerate() {
            if at / (PANEL_WIDTH * depth) * PANEL_WIDTH + at % PANEL_WIDTH >= columns {
                *value = 0.0;
            }
        }
        let w = Panels { data: &whole, ..w };
        let (mut found, mut expected) = (vec![1.0; count * depth], vec![1.0; count * depth]);
        // SAFETY: the tile is plain Rust.
        unsafe {
            multiply_transposed::<Plain>(y, w, &mut found, depth, crate::kernels::wide::transpose);
        }
        Naive.multiply_transposed(y, w, &mut expected, depth);
        assert_eq!(found, expected, "{count} x {depth} x {columns}, transposed");
    }
}

#[test]
fn every_group_of_an_int8_product_has_its_scales() {
    // One group, two in one job, and three in two jobs; panels that are full or not.
    for (count, depth, columns) in [(1usize, 3usize, 16usize), (4, 2 * GROUP, 17), (2, 2 * GROUP + 5, 32)] {
        let (groups, padded) = (depth.div_ceil(GROUP), depth.next_multiple_of(PANEL_GROUP));
        let x: Vec<u8> = (0..count * padded).map(|at| (at * 37 % 256) as u8).collect();
        let data: Vec<i8> =
            (0..columns.next_multiple_of(PANEL_WIDTH) * padded).map(|at| (at * 29 % 255) as i8).collect();
        let scales: Vec<f32> = (0..groups * columns).map(|at| 1.0 + at as f32).collect();
        let sum_of = |at: usize| -> f32 {
            let rows = at / columns * GROUP..padded.min((at / columns + 1) * GROUP);
            rows.map(|k| f32::from(data[quantized_place(depth, k, at % columns)])).sum()
        };
        let column_sums: Vec<f32> = (0..groups * columns).map(sum_of).collect();
        let x_scales: Vec<Scale> =
            (0..count * groups).map(|at| Scale { scale: 0.5 + at as f32, zero_point: 100.0 + at as f32 }).collect();
        let x = QuantizedRows { data: &x, stride: padded, count, scales: &x_scales };
        let w = QuantizedPanels { data: &data, depth, columns, scales: &scales, column_sums: &column_sums };
        let mut expected = vec![1.0; count * columns];
        Naive.multiply_quantized(x, w, Start::There, &mut expected, columns);
        let (mut found, mut found_wide) = (vec![1.0; count * columns], vec![1.0; count * columns]);
        // SAFETY: the tiles are plain Rust.
        unsafe {
            multiply_quantized::<Plain>(x, w, Start::There, &mut found, columns);
            multiply_quantized::<PlainWide>(x, w, Start::There, &mut found_wide, columns);
        }
        assert_eq!(found, expected, "{count} x {depth} x {columns}");
        assert_eq!(found_wide, expected, "{count} x {depth} x {columns}, wide");
    }
}
