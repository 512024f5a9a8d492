//! Every kernel against the naive one, and the naive one against the formulas.

// Miri has no pages to guard, and checks every access itself.
#[cfg(all(unix, not(miri)))]
mod guarded;
mod halves;
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(super) mod tiles;

use alloc::{format, vec, vec::Vec};

use super::*;
use crate::layout::FACTOR_GROUP;

/// Numbers in [-1, 1) from a fixed linear congruential generator.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Every kernel but the naive one. On the project's processors there has to be at least one, or these tests prove
/// nothing.
fn fast() -> Vec<&'static dyn Kernel> {
    let found: Vec<_> = kernels().into_iter().filter(|k| k.name() != "naive").collect();
    let due = cfg!(all(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"), not(miri)));
    assert!(!found.is_empty() || !due, "this CPU has no vector unit that a kernel is for");
    found
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Summing `depth` products of numbers below 1 in another order moves the sum by a few roundings of its size.
fn product_bound(depth: usize) -> f32 {
    f32::EPSILON * 2.0 * depth as f32
}

/// Rows of a product: those of every tile, and more than one job of any unit has.
const COUNTS: [usize; 13] = [1, 2, 3, 5, 6, 7, 8, 9, 13, 17, 36, 37, 71];

#[test]
fn products_agree_with_the_naive_kernel() {
    for kernel in fast() {
        for count in COUNTS {
            // The last in several rounds of rows.
            let shapes = [(1usize, 16usize), (7, 1), (32, 48), (33, 50), (384, 31), (385, 100), (800, 160), (1400, 17)];
            for (depth, columns) in shapes {
                let (x_stride, stride) = (depth + 3, columns + 5);
                let x = numbers(count * x_stride, 1);
                let panels = numbers(columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * depth, 2);
                let bias_stride = columns + 2;
                let table = numbers(3 * bias_stride, 3);
                let rows: Vec<u32> = (0..count as u32).map(|r| r % 3).collect();
                let same = vec![1; count];
                for start in [
                    Start::Zero,
                    Start::There,
                    Start::Bias { table: &table, stride: bias_stride, rows: &rows },
                    Start::Bias { table: &table, stride: bias_stride, rows: &same },
                ] {
                    let x = Rows { data: &x, stride: x_stride, count };
                    // Values beside the product must not change.
                    let (mut expected, mut found) = (vec![0.5; count * stride], vec![0.5; count * stride]);
                    let w = Panels { data: &panels, depth, columns };
                    naive::Naive.multiply(x, w, start, &mut expected, stride);
                    kernel.multiply(x, w, start, &mut found, stride);
                    let worst = worst(&expected, &found);
                    let what = format!("{}: {count} x {depth} x {columns}", kernel.name());
                    assert!(worst <= product_bound(depth), "{what}: {worst:e}");
                }
            }
        }
    }
}

#[test]
fn transposed_products_agree_with_the_naive_kernel() {
    for kernel in fast() {
        for count in [1, 2, 3, 4, 5, 9] {
            for (depth, columns) in [(1usize, 16usize), (7, 1), (48, 32), (50, 33), (31, 384), (100, 385)] {
                let (y_stride, stride) = (columns + 3, depth + 5);
                let y = numbers(count * y_stride, 1);
                let mut panels = numbers(columns.div_ceil(PANEL_WIDTH) * PANEL_WIDTH * depth, 2);
                for (at, value) in panels.iter_mut().enumerate() {
                    if at / (PANEL_WIDTH * depth) * PANEL_WIDTH + at % PANEL_WIDTH >= columns {
                        *value = 0.0;
                    }
                }
                let y = Rows { data: &y, stride: y_stride, count };
                let w = Panels { data: &panels, depth, columns };
                // Values beside the product must not change.
                let (mut expected, mut found) = (vec![9.0; count * stride], vec![9.0; count * stride]);
                naive::Naive.multiply_transposed(y, w, &mut expected, stride);
                kernel.multiply_transposed(y, w, &mut found, stride);
                let worst = worst(&expected, &found);
                assert!(
                    worst <= 2e-6 + product_bound(columns),
                    "{}: {count} x {depth} x {columns}: {worst:e}",
                    kernel.name()
                );
            }
        }
    }
}

#[test]
fn slopes_are_those_of_the_activations() {
    let values: Vec<f32> = numbers(500, 4).iter().map(|v| v * 5.0).collect();
    for kernel in kernels() {
        for activation in Activation::ALL {
            let mut slopes = vec![1.0; values.len()];
            kernel.activate_backward(activation, &values, &mut slopes);
            for (x, slope) in values.iter().zip(&slopes) {
                // Central differences in f64 of the formulas.
                let f = |x: f64| match activation {
                    Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * core::f64::consts::FRAC_1_SQRT_2)),
                    Activation::GeluTanh => {
                        0.5 * x * (1.0 + ((2.0 / core::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
                    }
                    Activation::Relu => x.max(0.0),
                    Activation::Tanh => x.tanh(),
                    Activation::Silu => x / (1.0 + (-x).exp()),
                };
                let due = (f(f64::from(*x) + 1e-5) - f(f64::from(*x) - 1e-5)) / 2e-5;
                assert!(
                    (due - f64::from(*slope)).abs() < 2e-6,
                    "{} {activation:?} at {x}: {slope}, {due}",
                    kernel.name()
                );
            }
        }
    }
}

/// Quantized values that are as extreme as they can be, so that sums that saturate show.
fn extremes(count: usize, seed: u32) -> Vec<i8> {
    let of = |v: f32| if v.abs() > 0.5 { 127f32.copysign(v) } else { v * 254.0 };
    numbers(count, seed).iter().map(|v| of(*v) as i8).collect()
}

/// The sums of each group's rows, by group and column.
fn sums_of_columns(data: &[i8], depth: usize, columns: usize) -> Vec<f32> {
    let sum_of = |place: usize| -> f32 {
        let (group, column) = (place / columns, place % columns);
        let rows = group * GROUP..depth.next_multiple_of(PANEL_GROUP).min((group + 1) * GROUP);
        rows.map(|k| f32::from(data[naive::quantized_place(depth, k, column)])).sum()
    };
    (0..columns * depth.div_ceil(GROUP)).map(sum_of).collect()
}

#[test]
fn int8_products_are_those_of_the_naive_kernel_to_the_bit() {
    for count in COUNTS {
        for (depth, columns) in [(1usize, 16usize), (7, 1), (32, 48), (33, 50), (384, 31), (1537, 100), (5500, 17)] {
            let (groups, panels) = (depth.div_ceil(PANEL_GROUP), columns.div_ceil(PANEL_WIDTH));
            let (x_stride, stride) = (groups * PANEL_GROUP + 4, columns + 5);
            let mut x: Vec<u8> =
                extremes(count * x_stride, 1).iter().map(|value| value.cast_unsigned() ^ 128).collect();
            // The smallest and the largest quantized activation, side by side.
            x.iter_mut().step_by(3).for_each(|value| *value = 0);
            x[..x_stride].fill(0);
            let data = extremes(panels * groups * PANEL_GROUP * PANEL_WIDTH, 2);
            let of_scales = depth.div_ceil(GROUP);
            let scales = numbers(columns * of_scales, 3);
            let sums = sums_of_columns(&data, depth, columns);
            let x_scales: Vec<Scale> = numbers(count * of_scales, 6)
                .iter()
                .map(|v| Scale { scale: *v, zero_point: (v * 100.0).round() + 128.0 })
                .collect();
            let bias_stride = columns + 1;
            let table = numbers(3 * bias_stride, 4);
            let rows: Vec<u32> = (0..count as u32).map(|r| r % 3).collect();
            let x = QuantizedRows { data: &x, stride: x_stride, count, scales: &x_scales };
            let w = QuantizedPanels { data: &data, depth, columns, scales: &scales, column_sums: &sums };
            for start in [Start::Zero, Start::There, Start::Bias { table: &table, stride: bias_stride, rows: &rows }] {
                let mut expected = vec![9.0; count * stride];
                naive::Naive.multiply_quantized(x, w, start, &mut expected, stride);
                for kernel in fast() {
                    let mut found = vec![9.0; count * stride];
                    kernel.multiply_quantized(x, w, start, &mut found, stride);
                    assert_eq!(found, expected, "{}: {count} x {depth} x {columns}", kernel.name());
                }
            }
        }
    }
}

/// A byte with a number in its lower and one in its upper half.
fn nibbles(low: i8, high: i8) -> u8 {
    low.cast_unsigned() & 15 | high.cast_unsigned() << 4
}

/// The factor of a column in a block of an int4 panel: all that the format has, from 1 to 127.
fn factor_of(block: usize, column: usize) -> u8 {
    (1 + (block * 41 + column * 17) % 127) as u8
}

/// A number of an int4 panel, from -7 to 7, whose product with the factor is from -127 to 127, as the format has them.
fn number_of(at: usize, factor: u8) -> i8 {
    let most = (127 / factor).min(7).cast_signed();
    (at * 7 % 15) as i8 % (most + 1) * if at.is_multiple_of(2) { 1 } else { -1 }
}

#[test]
fn packed_values_are_multiples_of_their_factors() {
    // Each kernel, row by row: the block of rows, its pair of fours, the half of the byte.
    let factor = factor_of;
    let value = |k: usize, c: usize| number_of(k * 31 + c * 7, factor(k / FACTOR_GROUP, c));
    for depth in [1usize, 4, 5, 32, 33, 64, 100, 384] {
        let mut panel = Vec::new();
        for block in 0..depth.div_ceil(FACTOR_GROUP) {
            let mut packed = [0; PACKED_BYTES];
            packed[..PANEL_WIDTH].iter_mut().enumerate().for_each(|(c, place)| *place = factor(block, c));
            for (pair, bytes) in packed[PANEL_WIDTH..].chunks_mut(PANEL_GROUP * PANEL_WIDTH).enumerate() {
                for (at, byte) in bytes.iter_mut().enumerate() {
                    let (k, c) = (block * FACTOR_GROUP + pair * 2 * PANEL_GROUP + at % PANEL_GROUP, at / PANEL_GROUP);
                    *byte = nibbles(value(k, c), value(k + PANEL_GROUP, c));
                }
            }
            panel.push(packed);
        }
        for kernel in kernels() {
            let mut found = vec![0; depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH];
            kernel.unpack(&panel, &mut found);
            for k in 0..depth {
                for c in 0..PANEL_WIDTH {
                    let due = value(k, c) * factor(k / FACTOR_GROUP, c).cast_signed();
                    assert_eq!(found[naive::quantized_place(depth, k, c)], due, "{} {k} {c}", kernel.name());
                }
            }
        }
    }

    let mut row = vec![0u8; 2 * PACKED_ROW_BYTES];
    for (block, bytes) in row.chunks_mut(PACKED_ROW_BYTES).enumerate() {
        bytes[0] = factor(block, 0);
        for (at, byte) in bytes[1..].iter_mut().enumerate() {
            *byte = nibbles(value(32 * block + at, 0), value(32 * block + 16 + at, 0));
        }
    }
    let due: Vec<i8> = (0..64).map(|at| value(at, 0) * factor(at / 32, 0).cast_signed()).collect();
    assert_eq!(unpack_row(&row).collect::<Vec<_>>(), due);
}

#[test]
fn quantized_values_are_within_half_a_scale() {
    for kernel in kernels() {
        for (len, shift) in [(1, 0.0), (5, 0.0), (16, 0.0), (100, 0.0), (256, 1.5), (31, -9.0)] {
            let values: Vec<f32> = numbers(len, 8).iter().map(|v| v * 3.0 + shift).collect();
            let (mut found, mut expected) = (vec![0; len], vec![0; len]);
            let scale = kernel.quantize(&values, &mut found);
            assert_eq!(scale, naive::Naive.quantize(&values, &mut expected));
            assert_eq!(found, expected, "{} of {len}", kernel.name());
            assert!((0.0..=255.0).contains(&scale.zero_point) && scale.zero_point.fract() == 0.0);
            for (value, quantized) in values.iter().zip(&found) {
                // In f64, so that the check itself does not round. The kernel rounds a quotient of up to 255 by at most
                // 255 times half of f32's epsilon.
                let (scale, zero_point) = (f64::from(scale.scale), f64::from(scale.zero_point));
                let error = f64::from(*value) - scale * (f64::from(*quantized) - zero_point);
                let bound = scale * (0.5 + 255.0 * f64::from(f32::EPSILON));
                assert!(error.abs() <= bound, "{} {value} {quantized} {scale} {zero_point}", kernel.name());
            }
            assert_eq!(kernel.quantize(&vec![0.0; len], &mut found), Scale { scale: 1.0, zero_point: 0.0 });
            assert_eq!(found, vec![0; len]);
            // Too close to each other for a scale with a finite inverse.
            let tiny: Vec<f32> = values.iter().map(|v| v * 1e-38).collect();
            assert_eq!(kernel.quantize(&tiny, &mut found), Scale { scale: 1.0, zero_point: 0.0 });
            assert!(found.iter().all(|value| *value == 0), "{} {len}", kernel.name());
            // The quantized values of infinities and NaN mean nothing, but the zero point stays in its range.
            for odd in NOT_FINITE {
                let scale = kernel.quantize(&[&[odd, -1e38][..], &values].concat()[..len], &mut found);
                assert!(scale.zero_point.is_nan() || (0.0..=255.0).contains(&scale.zero_point), "{scale:?}");
                assert!(!scale.scale.is_finite(), "{} {odd}: {scale:?}", kernel.name());
            }
        }
    }
}

#[test]
fn a_dequantized_panel_is_the_naive_kernels_to_the_bit() {
    for depth in [1usize, 4, 6, 33] {
        let panel = extremes(depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH, 9);
        for columns in [1, 15, 16] {
            let scales = numbers(columns, 10);
            let mut expected = vec![9.0; depth * PANEL_WIDTH];
            naive::Naive.dequantize(&panel, &scales, &mut expected);
            assert_eq!(expected[0], f32::from(panel[0]) * scales[0]);
            for kernel in fast() {
                let mut found = vec![9.0; depth * PANEL_WIDTH];
                kernel.dequantize(&panel, &scales, &mut found);
                assert_eq!(found, expected, "{}: {depth} x {columns}", kernel.name());
            }
        }
    }
}

#[test]
fn activations_agree_with_the_naive_kernel() {
    let values: Vec<f32> = numbers(1003, 4).iter().map(|v| v * 12.0).chain([0.0, -0.0, 90.0, -90.0]).collect();
    for kernel in fast() {
        for activation in Activation::ALL {
            let (mut expected, mut found) = (values.clone(), values.clone());
            naive::Naive.activate(activation, &mut expected);
            kernel.activate(activation, &mut found);
            assert!(expected.iter().chain(&found).all(|v| v.is_finite()));
            // An erf or tanh that is off by 4e-7 changes the value by 4e-7 times its argument.
            let errors = expected.iter().zip(&found).zip(&values).map(|((a, b), x)| (a - b).abs() / x.abs().max(1.0));
            let worst = errors.fold(0.0, f32::max);
            assert!(worst < 4e-7, "{} {activation:?}: {worst:e}", kernel.name());
        }
    }
}

/// NaN of both signs, because instructions order them by their bits.
const NOT_FINITE: [f32; 4] = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

#[test]
fn no_row_operation_makes_a_number_of_nan() {
    for kernel in kernels() {
        for nan in [f32::NAN, -f32::NAN] {
            // In a whole group of lanes and in the last values.
            for (at, len) in [(0, 1), (3, 16), (17, 20), (19, 40)] {
                let mut row = numbers(len, 1);
                row[at] = nan;
                for activation in Activation::ALL {
                    let mut found = row.clone();
                    kernel.activate(activation, &mut found);
                    assert!(found[at].is_nan(), "{} {activation:?}: {}", kernel.name(), found[at]);
                }
                assert!(kernel.exponentials(&mut row.clone()).is_nan(), "{}", kernel.name());
                assert!(kernel.dot(&row, &numbers(len, 2)).is_nan(), "{}", kernel.name());
                let mut found = row.clone();
                kernel.normalize(&mut found, &numbers(len, 3), None, 1e-12);
                assert!(found.iter().all(|v| v.is_nan()), "{}", kernel.name());
            }
        }
    }
}

#[test]
fn products_beyond_their_operands_are_refused() {
    let large = 1 << (usize::BITS - 1);
    // Sizes that would wrap around.
    for needed in [reach(3, large, 1), reach(2, 1, usize::MAX), in_panels(usize::MAX, 1), in_panels(16, large)] {
        assert!(!holds(&[0.0; 4], needed), "{needed:?}");
    }
    assert!(holds::<f32>(&[], reach(0, large, large)));
    let (bytes, scales) = ([0; 64], [Scale::default(); 2]);
    for kernel in kernels() {
        let refused = |depth, columns, stride| {
            let x = QuantizedRows { data: &bytes, stride, count: 2, scales: &scales };
            let w = QuantizedPanels { data: &[1; 64], depth, columns, scales: &[1.0; 16], column_sums: &[1.0; 16] };
            let product = || kernel.multiply_quantized(x, w, Start::Zero, &mut [0.0; 32], 16);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(product)).is_err()
        };
        assert!(!refused(4, 16, 4), "{}", kernel.name());
        for (depth, columns, stride) in
            [(0, 16, 4), (4, 17, 4), (5, 16, 4), (4, 16, 61), (4, 16, large), (4, usize::MAX, 4)]
        {
            assert!(refused(depth, columns, stride), "{}: {depth} x {columns}, {stride} apart", kernel.name());
        }
    }
}

#[test]
fn rows_are_multiplied_and_added_as_by_the_naive_kernel() {
    for kernel in fast() {
        for count in [0, 1, 7, 16, 31, 32, 33, 100, 384, 1536] {
            let (a, b) = (numbers(count, 1), numbers(count, 2));
            let apart = (kernel.dot(&a, &b) - naive::Naive.dot(&a, &b)).abs();
            assert!(apart <= product_bound(count), "{}, {count}: {apart:e}", kernel.name());
            let (mut expected, mut found) = (b.clone(), b);
            naive::Naive.add_scaled(0.7, &a, &mut expected);
            kernel.add_scaled(0.7, &a, &mut found);
            // A fused multiply-add rounds once.
            assert!(worst(&expected, &found) <= 2.0 * f32::EPSILON, "{}, {count}", kernel.name());
        }
    }
}

#[test]
fn exponentials_and_normalize_agree_with_the_naive_kernel() {
    for kernel in fast() {
        for len in [1, 2, 15, 16, 17, 100, 384] {
            let scores: Vec<f32> = numbers(len, 5).iter().map(|v| v * 30.0).collect();
            let (mut expected, mut found) = (scores.clone(), scores.clone());
            let sums = (naive::Naive.exponentials(&mut expected), kernel.exponentials(&mut found));
            assert!(worst(&expected, &found) < 1e-6, "{} exponentials of {len}", kernel.name());
            assert!((sums.0 - sums.1).abs() < 1e-5 * sums.0, "{} sum of {len}", kernel.name());

            let (gain, bias) = (numbers(len, 6), numbers(len, 7));
            for bias in [None, Some(&bias[..])] {
                let (mut expected, mut found) = (scores.clone(), scores.clone());
                let due = naive::Naive.normalize(&mut expected, &gain, bias, 1e-12);
                let inverse = kernel.normalize(&mut found, &gain, bias, 1e-12);
                assert!((inverse / due - 1.0).abs() < 1e-6, "{kernel:?}: {inverse}, not {due}");
                assert!(worst(&expected, &found) < 1e-5, "{} normalize of {len}", kernel.name());
            }
        }
    }
}

#[test]
fn scores_that_are_all_lowest_have_even_probabilities() {
    for kernel in kernels() {
        let mut row = vec![f32::MIN; 20];
        let sum = kernel.exponentials(&mut row);
        assert!(row.iter().all(|v| (v / sum - 0.05).abs() < 1e-6), "{}", kernel.name());
    }
}
