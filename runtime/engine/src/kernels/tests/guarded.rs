//! Every kernel over operands that lie between pages that no one may touch: an access beyond one, also from assembly
//! and also under emulation, ends the test. Sizes, strides and so alignments are odd.

#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::{
    cell::RefCell,
    fmt::Debug,
    ops::{Deref, DerefMut},
    ptr, slice,
};

use super::*;

/// Which end of its pages an operand lies at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Start,
    End,
}

/// Values between two guard pages.
struct Guarded<T> {
    pages: *mut libc::c_void,
    bytes: usize,
    values: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn of(values: &[T], side: Side) -> Self {
        // SAFETY: the call only asks.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let used = size_of_val(values).next_multiple_of(page);
        let bytes = used + 2 * page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new pages that nothing else has; those between the first and the last are within them.
        let (pages, middle) = unsafe {
            let pages = libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED, "no pages for an operand");
            let middle = pages.byte_add(page);
            assert_eq!(libc::mprotect(middle, used, libc::PROT_READ | libc::PROT_WRITE), 0, "pages of an operand");
            (pages, middle)
        };
        let shift = if side == Side::End { used - size_of_val(values) } else { 0 };
        // SAFETY: the values fit between the guards, and are aligned, for a page and their size are multiples of it.
        let place = unsafe {
            let place = middle.byte_add(shift).cast::<T>();
            ptr::copy_nonoverlapping(values.as_ptr(), place, values.len());
            place
        };
        Guarded { pages, bytes, values: place, len: values.len() }
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: they were written when this was made, and are its own.
        unsafe { slice::from_raw_parts(self.values, self.len) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: they were written when this was made, and are its own.
        unsafe { slice::from_raw_parts_mut(self.values, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: these are the pages that were mapped, and nothing borrows from them any longer.
        unsafe { libc::munmap(self.pages, self.bytes) };
    }
}

/// Whole numbers from a fixed generator.
struct Random(u32);

impl Random {
    /// One of `from..=to`; every fourth time one of the ends.
    fn within(&mut self, from: usize, to: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let drawn = (self.0 >> 8) as usize;
        match drawn % 8 {
            0 => from,
            1 => to,
            _ => from + drawn / 8 % (to - from + 1),
        }
    }
}

/// Rounds of each test. Each draws new sizes.
const ROUNDS: u32 = 60;

/// Calls `check` for each kernel, the naive one too, with operands at either end of their pages.
fn each(check: impl Fn(&dyn Kernel, Side, &mut Random)) {
    for kernel in kernels() {
        for side in [Side::Start, Side::End] {
            for round in 0..ROUNDS {
                check(kernel, side, &mut Random(round));
            }
        }
    }
}

fn assert_close(found: &[f32], due: &[f32], bound: f32, what: &dyn Debug) {
    let apart = worst(found, due);
    assert!(apart <= bound, "{what:?}: {apart:e}");
}

/// A product of some operands.
type Multiply<'a> = dyn Fn(&dyn Kernel, Start<'_>, &mut [f32]) + 'a;

/// Calls `multiply` with each start of a product, and with its place before and after by the naive kernel.
fn each_start(
    (count, columns, stride, side): (usize, usize, usize, Side),
    multiply: impl Fn(&dyn Kernel, Start<'_>, &mut [f32]),
    compare: impl Fn(&[f32], &[f32]),
    kernel: &dyn Kernel,
) {
    let table = Guarded::of(&numbers(2 * columns + 1, 3), side);
    let rows: Vec<u32> = (0..count as u32).map(|row| row % 2).collect();
    let rows = Guarded::of(&rows, side);
    for start in [Start::Zero, Start::There, Start::Bias { table: &table, stride: columns + 1, rows: &rows }] {
        let before = vec![0.5; reach(count, stride, columns).unwrap()];
        let (mut found, mut due) = (Guarded::of(&before, side), before);
        multiply(kernel, start, &mut found);
        multiply(&naive::Naive, start, &mut due);
        compare(&found, &due);
    }
}

#[test]
fn products_stay_within_their_operands() {
    each(|kernel, side, random| {
        let (count, depth, columns) = (random.within(1, 40), random.within(1, 70), random.within(1, 70));
        let (x_stride, stride) = (depth + random.within(0, 5), columns + random.within(0, 5));
        let x = Guarded::of(&numbers(reach(count, x_stride, depth).unwrap(), 1), side);
        let x = Rows { data: &x, stride: x_stride, count };
        let data = Guarded::of(&numbers(columns.next_multiple_of(PANEL_WIDTH) * depth, 2), side);
        let w = Panels { data: &data, depth, columns };
        each_start(
            (count, columns, stride, side),
            |kernel, start, out| kernel.multiply(x, w, start, out, stride),
            |found, due| assert_close(found, due, product_bound(depth), &(kernel, side, count, depth, columns)),
            kernel,
        );
    });
}

#[test]
fn transposed_products_stay_within_their_operands() {
    each(|kernel, side, random| {
        let (count, depth, columns) = (random.within(1, 20), random.within(1, 70), random.within(1, 70));
        let (y_stride, stride) = (columns + random.within(0, 5), depth + random.within(0, 5));
        let y = Guarded::of(&numbers(reach(count, y_stride, columns).unwrap(), 1), side);
        let y = Rows { data: &y, stride: y_stride, count };
        let mut data = numbers(columns.next_multiple_of(PANEL_WIDTH) * depth, 2);
        for (at, value) in data.iter_mut().enumerate() {
            if at / (PANEL_WIDTH * depth) * PANEL_WIDTH + at % PANEL_WIDTH >= columns {
                *value = 0.0;
            }
        }
        let data = Guarded::of(&data, side);
        let w = Panels { data: &data, depth, columns };
        let before = vec![0.5; reach(count, stride, depth).unwrap()];
        let (mut found, mut due) = (Guarded::of(&before, side), before);
        kernel.multiply_transposed(y, w, &mut found, stride);
        naive::Naive.multiply_transposed(y, w, &mut due, stride);
        assert_close(&found, &due, 2e-6 + product_bound(columns), &(kernel, side, count, depth, columns));
    });
}

#[test]
fn int8_products_stay_within_their_operands() {
    each(|kernel, side, random| {
        let (count, columns) = (random.within(1, 40), random.within(1, 70));
        // Within a group of inputs that share a scale, and beyond one.
        let depth = random.within(1, 70) + [0, GROUP][random.within(0, 1)];
        let padded = depth.next_multiple_of(PANEL_GROUP);
        let (x_stride, stride) = (padded + random.within(0, 9), columns + random.within(0, 5));
        let groups = depth.div_ceil(GROUP);
        let data: Vec<u8> =
            extremes(reach(count, x_stride, padded).unwrap(), 1).iter().map(|v| v.cast_unsigned() ^ 128).collect();
        let x_scales: Vec<Scale> = numbers(count * groups, 6)
            .iter()
            .map(|v| Scale { scale: *v, zero_point: (v * 100.0).round() + 128.0 })
            .collect();
        let (data, x_scales) = (Guarded::of(&data, side), Guarded::of(&x_scales, side));
        let x = QuantizedRows { data: &data, stride: x_stride, count, scales: &x_scales };
        let data = Guarded::of(&extremes(columns.next_multiple_of(PANEL_WIDTH) * padded, 2), side);
        // ARM's kernels flip the sign of activations and mend the result by these sums.
        let column_sums = Guarded::of(&sums_of_columns(&data, depth, columns), side);
        let scales = Guarded::of(&numbers(columns * groups, 3), side);
        let w = QuantizedPanels { data: &data, depth, columns, scales: &scales, column_sums: &column_sums };
        each_start(
            (count, columns, stride, side),
            |kernel, start, out| kernel.multiply_quantized(x, w, start, out, stride),
            |found, due| assert_eq!(found, due, "{kernel:?} {side:?}: {count} x {depth} x {columns}"),
            kernel,
        );
    });
}

#[test]
fn panels_are_unpacked_and_dequantized_within_their_operands() {
    each(|kernel, side, random| {
        let depth = random.within(1, 100);
        let packed = |at: usize| -> Packed {
            // A factor for each column, then pairs of numbers.
            core::array::from_fn(|byte| match byte {
                0..PANEL_WIDTH => factor_of(at, byte),
                _ => {
                    let (at_column, column) = (byte - PANEL_WIDTH, (byte - PANEL_WIDTH) / PANEL_GROUP % PANEL_WIDTH);
                    let number = |k: usize| number_of(k, factor_of(at, column));
                    nibbles(number(at + at_column), number(at + 3 * at_column))
                }
            })
        };
        let panel: Vec<Packed> = (0..depth.div_ceil(FACTOR_GROUP)).map(packed).collect();
        let panel = Guarded::of(&panel, side);
        let before = vec![0i8; depth.next_multiple_of(PANEL_GROUP) * PANEL_WIDTH];
        let (mut found, mut due) = (Guarded::of(&before, side), before);
        kernel.unpack(&panel, &mut found);
        naive::Naive.unpack(&panel, &mut due);
        assert_eq!(*found, due, "{kernel:?} {side:?}: {depth}");

        let scales = Guarded::of(&numbers(random.within(1, PANEL_WIDTH), 10), side);
        let before = vec![9.0f32; depth * PANEL_WIDTH];
        let (mut floats, mut due) = (Guarded::of(&before, side), before);
        kernel.dequantize(&found, &scales, &mut floats);
        naive::Naive.dequantize(&found, &scales, &mut due);
        assert_eq!(*floats, due, "{kernel:?} {side:?}: {depth}");
    });
}

#[test]
fn halves_stay_within_their_operands() {
    each(|kernel, side, random| {
        let (count, depth, columns) = (random.within(1, 40), random.within(1, 70), random.within(1, 70));
        let data = Guarded::of(&halves::whole_numbers(columns.next_multiple_of(PANEL_WIDTH) * depth, 2), side);
        let before = vec![9.0f32; data.len()];
        let (mut floats, mut due) = (Guarded::of(&before, side), before);
        kernel.widen(&data, &mut floats);
        naive::Naive.widen(&data, &mut due);
        assert_eq!(*floats, due, "{kernel:?} {side:?}: {depth} x {columns}");

        let (x_stride, stride) = (depth + random.within(0, 5), columns + random.within(0, 5));
        let floats = halves::floats(&halves::whole_numbers(reach(count, x_stride, depth).unwrap(), 1));
        let x = Rows { data: &Guarded::of(&floats, side), stride: x_stride, count };
        let w = HalfPanels { data: &data, depth, columns };
        let products = |multiply: &Multiply<'_>| {
            each_start(
                (count, columns, stride, side),
                multiply,
                // Numbers up to 2; the bias need not be a whole number.
                |found, due| {
                    assert_close(found, due, 4.0 * product_bound(depth), &(kernel, side, count, depth, columns))
                },
                kernel,
            );
        };
        products(&|kernel, start, out| kernel.multiply_halves(x, w, start, out, stride));
        let narrowed = RefCell::new(Guarded::of(&vec![0u16; HalfRows::len(count, depth)], side));
        products(&|kernel, start, out| match kernel.halves() {
            Some(halves) => {
                halves.narrow(x, depth, &mut narrowed.borrow_mut());
                halves.multiply(HalfRows { data: &narrowed.borrow(), count }, w, start, out, stride);
            }
            None => kernel.multiply_halves(x, w, start, out, stride),
        });
    });
}

#[test]
fn rows_stay_within_their_operands() {
    each(|kernel, side, random| {
        let len = random.within(1, 100);
        let what = (kernel, side, len);
        let [row, other, gain] = [1, 2, 3].map(|seed| Guarded::of(&numbers(len, seed), side));
        let apart = (kernel.dot(&row, &other) - naive::Naive.dot(&row, &other)).abs();
        assert!(apart <= product_bound(len), "{what:?}: {apart:e}");

        let change = |bound: f32, change: &dyn Fn(&dyn Kernel, &mut [f32])| {
            let (mut found, mut due) = (Guarded::of(&row, side), row.to_vec());
            change(kernel, &mut found);
            change(&naive::Naive, &mut due);
            assert_close(&found, &due, bound, &what);
        };
        // The bounds of the tests above, for values below 1.
        change(2.0 * f32::EPSILON, &|kernel, row| kernel.add_scaled(0.7, &other, row));
        change(1e-6, &|kernel, row| assert!(kernel.exponentials(row) > 0.0));
        for bias in [None, Some(&*other)] {
            change(1e-5, &|kernel, row| assert!(kernel.normalize(row, &gain, bias, 1e-3) > 0.0));
        }
        for activation in Activation::ALL {
            change(4e-7, &|kernel, row| kernel.activate(activation, row));
            change(2e-6, &|kernel, row| kernel.activate_backward(activation, &other, row));
        }

        let before = vec![0u8; len];
        let (mut found, mut due) = (Guarded::of(&before, side), before);
        assert_eq!(kernel.quantize(&row, &mut found), naive::Naive.quantize(&row, &mut due), "{what:?}");
        assert_eq!(*found, due, "{what:?}");
    });
}
