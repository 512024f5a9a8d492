//! Halves: as floats they are exact, and products of them are within their bound.

use super::*;
use crate::kernels::halves::STRIP;

/// Whole numbers from -2 to 2, as halves. Sums of some thousand of their products are exact in halves too.
pub(super) fn whole_numbers(count: usize, seed: u32) -> Vec<u16> {
    const NUMBERS: [u16; 5] = [0xc000, 0xbc00, 0, 0x3c00, 0x4000];
    numbers(count, seed).iter().map(|v| NUMBERS[((v + 1.0) * 2.5) as usize]).collect()
}

/// Numbers from .5 to below 1, as halves.
fn fractions(count: usize) -> Vec<u16> {
    numbers(count, 2).iter().map(|v| 0x3800 | (v.abs() * 1023.0) as u16).collect()
}

/// What halves are, by the naive kernel.
pub(super) fn floats(halves: &[u16]) -> Vec<f32> {
    let mut floats = vec![0.0; halves.len()];
    naive::Naive.widen(halves, &mut floats);
    floats
}

#[test]
fn every_half_is_the_float_that_its_formula_gives() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let due = floats(&all);
    for (half, value) in [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (1, 2f32.powi(-24)), (0x03ff, 6.097_555e-5)]
    {
        assert_eq!(due[half], value);
    }
    for kernel in kernels() {
        // Of a length that fills no register; and the shorter of two lengths counts.
        let mut short = vec![9.0; 40];
        kernel.widen(&all[..20], &mut short);
        assert!(short[..20] == due[..20] && short[20..].iter().all(|v| *v == 9.0), "{}", kernel.name());
        let mut found = vec![9.0; all.len() - 3];
        kernel.widen(&all, &mut found);
        for (half, (found, due)) in found.iter().zip(&due).enumerate() {
            let same = found.to_bits() == due.to_bits() || found.is_nan() && due.is_nan();
            assert!(same, "{} {half:#06x}: {found} for {due}", kernel.name());
        }
    }
}

#[test]
fn rows_are_rounded_to_the_nearest_half() {
    for kernel in kernels() {
        let Some(products) = kernel.halves() else { continue };
        // Two strips of five and four rows, of five values: one register and one value.
        let x: Vec<f32> = numbers(9 * 7, 11).iter().map(|v| v * 100.0).collect();
        let mut halves = vec![0; HalfRows::len(9, 5)];
        products.narrow(Rows { data: &x, stride: 7, count: 9 }, 5, &mut halves);
        let found = floats(&halves);
        for (row, values) in x.chunks(7).enumerate() {
            for (k, value) in values[..5].iter().enumerate() {
                let (strip, lane) = if row < 5 { (0, row) } else { (1, row - 5) };
                let half = found[(strip * 5 + k) * STRIP + lane];
                assert!((half - value).abs() <= value.abs() / 2048.0, "{} {row} {k}: {half}, {value}", kernel.name());
            }
        }
        let mut halves = [0; 8];
        products.narrow(Rows { data: &[65519.0, 1e9, f32::NAN, 1e-9], stride: 1, count: 4 }, 1, &mut halves);
        assert_eq!(halves[..2], [0x7bff, 0x7c00]);
        assert!(floats(&halves)[2].is_nan() && halves[3] == 0);
    }
}

#[test]
fn products_of_halves_agree_with_the_naive_kernel() {
    for kernel in fast() {
        let Some(products) = kernel.halves() else { continue };
        for count in COUNTS {
            for (depth, columns) in [(1usize, 16usize), (7, 1), (32, 48), (33, 50), (384, 31), (385, 100), (800, 160)] {
                let (x_stride, stride) = (depth + 3, columns + 5);
                let panels = columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * depth;
                let bias_stride = columns + 2;
                let table = floats(&whole_numbers(3 * bias_stride, 3));
                let rows: Vec<u32> = (0..count as u32).map(|r| r % 3).collect();
                let same = vec![1; count];
                for start in [
                    Start::Zero,
                    Start::There,
                    Start::Bias { table: &table, stride: bias_stride, rows: &rows },
                    Start::Bias { table: &table, stride: bias_stride, rows: &same },
                ] {
                    let product = |x: &[f32], w: &[u16]| {
                        let x = Rows { data: x, stride: x_stride, count };
                        // Values beside the product must not change.
                        let (mut due, mut found) = (vec![0.5; count * stride], vec![0.5; count * stride]);
                        let of_floats = Panels { data: &floats(w), depth, columns };
                        naive::Naive.multiply(x, of_floats, start, &mut due, stride);
                        let mut halves = vec![0; HalfRows::len(count, depth)];
                        products.narrow(x, depth, &mut halves);
                        let x = HalfRows { data: &halves, count };
                        products.multiply(x, HalfPanels { data: w, depth, columns }, start, &mut found, stride);
                        (due, found)
                    };
                    let what = || format!("{}: {count} x {depth} x {columns}", kernel.name());
                    let (due, found) = product(&floats(&whole_numbers(count * x_stride, 1)), &whole_numbers(panels, 2));
                    assert_eq!(found, due, "{}", what());

                    // Numbers that are rounded: products below 1, by 2^-11 of each, and their sums.
                    let (due, found) = product(&numbers(count * x_stride, 1), &fractions(panels));
                    let bound = 1e-3 * (depth as f32).max(4.0);
                    assert!(worst(&due, &found) <= bound, "{}: {:e}", what(), worst(&due, &found));
                }
            }
        }
    }
}

#[test]
fn a_matrix_of_halves_gives_the_bits_of_the_same_floats() {
    for kernel in fast() {
        for count in COUNTS {
            for (depth, columns) in [(1usize, 16usize), (7, 1), (33, 50), (384, 31), (385, 100), (800, 160)] {
                let (x_stride, stride) = (depth + 3, columns + 5);
                let x = numbers(count * x_stride, 1);
                let x = Rows { data: &x, stride: x_stride, count };
                let panels = columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * depth;
                let halves = fractions(panels);
                let w = HalfPanels { data: &halves, depth, columns };
                let (table, rows) = (numbers(2 * columns, 3), (0..count as u32).map(|r| r % 2).collect::<Vec<u32>>());
                let bias = Start::Bias { table: &table, stride: columns, rows: &rows };
                for start in [Start::Zero, Start::There, bias] {
                    // Values beside the product must not change.
                    let (mut due, mut found) = (vec![0.5; count * stride], vec![0.5; count * stride]);
                    kernel.multiply(x, Panels { data: &floats(&halves), depth, columns }, start, &mut due, stride);
                    kernel.multiply_halves(x, w, start, &mut found, stride);
                    assert!(found == due, "{}: {count} x {depth} x {columns}", kernel.name());
                    naive::Naive.multiply_halves(x, w, start, &mut found, stride);
                    // `There` has added the product to itself.
                    if !matches!(start, Start::There) {
                        assert!(worst(&due, &found) <= product_bound(depth), "{}", kernel.name());
                    }
                }
            }
        }
    }
}

/// A row's sums do not depend on the rows beside it.
#[test]
fn products_of_halves_have_the_same_bits_in_any_company() {
    let (depth, columns) = (100, 20);
    for kernel in kernels() {
        let Some(products) = kernel.halves() else { continue };
        let w = fractions(32 * depth);
        let w = HalfPanels { data: &w, depth, columns };
        let rows = numbers(71 * depth, 1);
        let product = |rows: &[f32]| {
            let x = Rows { data: rows, stride: depth, count: rows.len() / depth };
            let mut halves = vec![0; HalfRows::len(x.count, depth)];
            products.narrow(x, depth, &mut halves);
            let mut out = vec![0.0; x.count * columns];
            products.multiply(HalfRows { data: &halves, count: x.count }, w, Start::Zero, &mut out, columns);
            out
        };
        let alone: Vec<f32> = rows.chunks(depth).flat_map(product).collect();
        for count in COUNTS {
            let last = &rows[(71 - count) * depth..];
            assert_eq!(product(last), alone[(71 - count) * columns..], "{}: {count} rows", kernel.name());
        }
    }
}

#[test]
fn products_without_inputs_are_what_they_start_with() {
    for kernel in kernels() {
        let (table, mut found) = (numbers(17, 3), vec![9.0; 2 * 17]);
        let start = Start::Bias { table: &table, stride: 0, rows: &[0, 0] };
        let w = HalfPanels { data: &[], depth: 0, columns: 17 };
        kernel.multiply_halves(Rows { data: &[], stride: 0, count: 2 }, w, start, &mut found, 17);
        assert_eq!(found, [&table[..], &table].concat(), "{}", kernel.name());
        kernel.multiply_halves(Rows { data: &[], stride: 0, count: 0 }, w, start, &mut [], 17);
        if let Some(products) = kernel.halves() {
            found.fill(9.0);
            products.multiply(HalfRows { data: &[], count: 2 }, w, start, &mut found, 17);
            assert_eq!(found, [&table[..], &table].concat(), "{}", kernel.name());
            products.narrow(Rows { data: &[], stride: 0, count: 2 }, 0, &mut []);
            products.multiply(HalfRows { data: &[], count: 0 }, w, start, &mut [], 17);
        }
    }
}

#[test]
fn halves_beyond_their_operands_are_refused() {
    for kernel in kernels() {
        let Some(products) = kernel.halves() else { continue };
        let refused = |x: usize, w: usize, out: usize| {
            let (x, w, mut out) = (vec![0; x], vec![0; w], vec![0.0; out]);
            let (x, w) = (HalfRows { data: &x, count: 9 }, HalfPanels { data: &w, depth: 4, columns: 17 });
            let product = || products.multiply(x, w, Start::Zero, &mut out, 17);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(product)).is_err()
        };
        assert!(!refused(64, 128, 153), "{}", kernel.name());
        for (x, w, out) in [(63, 128, 153), (64, 127, 153), (64, 128, 152)] {
            assert!(refused(x, w, out), "{}: {x} {w} {out}", kernel.name());
        }
        let narrow = || products.narrow(Rows { data: &[0.0; 36], stride: 4, count: 9 }, 4, &mut [0; 63]);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(narrow)).is_err(), "{}", kernel.name());
    }
}
