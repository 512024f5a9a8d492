//! int8 values in 4 bits.
//!
//! In: quantized values of some rows of a matrix or table, row-major. Out: the same values packed, and back.
//! [`FACTOR_GROUP`] values at a time, of a column of a matrix or of a row of a table, are -7 to 7 times one whole number,
//! their factor: it is stored once, and of each value only the small number, in two's complement. FORMAT.md has the
//! bytes. Nothing is refused here: where [`can_pack`] is false, the bytes stand for other values.

use crate::{PANEL_GROUP, PANEL_WIDTH};

/// Values that have one factor.
pub const FACTOR_GROUP: usize = 32;
/// The largest multiple of a factor.
pub(crate) const MOST: i8 = 7;
/// The largest factor whose sevenfold is an int8 value.
pub(crate) const MOST_FACTOR: u8 = 18;
/// Bytes of a panel for each [`FACTOR_GROUP`] rows: a factor for each column, then a nibble for each value.
pub(crate) const PANEL_BYTES: usize = PANEL_WIDTH + FACTOR_GROUP * PANEL_WIDTH / 2;
/// Bytes of a row of a table for each [`FACTOR_GROUP`] values: their factor, then a nibble for each.
pub(crate) const ROW_BYTES: usize = 1 + FACTOR_GROUP / 2;

/// The factor of some values: the largest whole number that divides them all; 1 if they are all zero.
fn factor(values: impl Iterator<Item = u8>) -> u8 {
    let divisor = |mut a: u8, mut b: u8| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    values.fold(0, |all, value| divisor(all, value.cast_signed().unsigned_abs())).max(1)
}

/// A value by its factor, as the lower half of a byte.
fn nibble(value: u8, factor: u8) -> u8 {
    (i16::from(value.cast_signed()) / i16::from(factor)) as u8 & 15
}

/// The value of the upper half of a byte.
fn value(byte: u8, factor: u8) -> u8 {
    (byte.cast_signed() >> 4).wrapping_mul(factor.cast_signed()).cast_unsigned()
}

/// The values that have one factor, group by group: of matrices by columns, of tables by rows.
fn groups(values: &[u8], columns: usize, by_columns: bool) -> impl Iterator<Item = impl Iterator<Item = u8> + Clone> {
    let (height, width) = if by_columns { (FACTOR_GROUP, 1) } else { (1, FACTOR_GROUP) };
    values.chunks((height * columns).max(1)).flat_map(move |rows| {
        (0..columns).step_by(width).map(move |first| {
            let last = columns.min(first + width);
            rows.chunks(columns).flat_map(move |row| &row[first..last]).copied()
        })
    })
}

/// Whether packing keeps the values of some rows. Rows of a matrix, `by_columns`, begin with a whole group.
pub(crate) fn can_pack(values: &[u8], columns: usize, by_columns: bool) -> bool {
    groups(values, columns, by_columns).all(|group| {
        let factor = factor(group.clone());
        group.map(|value| value.cast_signed().unsigned_abs()).all(|value| value / factor <= MOST.unsigned_abs())
    })
}

/// Rows of a matrix as panels.
pub(crate) fn pack_panels(values: &[u8], columns: usize) -> Vec<u8> {
    let rows = values.len() / columns.max(1);
    let at =
        |row: usize, column: usize| if row < rows && column < columns { values[row * columns + column] } else { 0 };
    let mut bytes = Vec::with_capacity(values.len() / 2 + values.len() / 16);
    for first in (0..columns).step_by(PANEL_WIDTH) {
        for row in (0..rows).step_by(FACTOR_GROUP) {
            let factors: Vec<u8> = (first..first + PANEL_WIDTH)
                .map(|column| factor((row..row + FACTOR_GROUP).map(|row| at(row, column))))
                .collect();
            bytes.extend(&factors);
            for low in (row..row + FACTOR_GROUP).step_by(2 * PANEL_GROUP) {
                for (column, factor) in (first..).zip(&factors) {
                    bytes.extend((low..low + PANEL_GROUP).map(|row| {
                        nibble(at(row, column), *factor) | nibble(at(row + PANEL_GROUP, column), *factor) << 4
                    }));
                }
            }
        }
    }
    bytes
}

/// The rows that [`pack_panels`] has packed, `rows` of them.
pub(crate) fn unpack_panels(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    let height = rows.div_ceil(FACTOR_GROUP);
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let block = &bytes[(column / PANEL_WIDTH * height + row / FACTOR_GROUP) * PANEL_BYTES..][..PANEL_BYTES];
            let (factors, nibbles) = block.split_at(PANEL_WIDTH);
            let (pair, half) = (row % FACTOR_GROUP / (2 * PANEL_GROUP), row / PANEL_GROUP % 2);
            let byte = nibbles[(pair * PANEL_WIDTH + column % PANEL_WIDTH) * PANEL_GROUP + row % PANEL_GROUP];
            values.push(value(if half == 0 { byte << 4 } else { byte }, factors[column % PANEL_WIDTH]));
        }
    }
    values
}

/// Rows of a table, each by itself.
pub(crate) fn pack_rows(values: &[u8], columns: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() / 2 + values.len() / 16);
    for group in values.chunks(columns.max(1)).flat_map(|row| row.chunks(FACTOR_GROUP)) {
        let mut whole = [0; FACTOR_GROUP];
        whole[..group.len()].copy_from_slice(group);
        let factor = factor(group.iter().copied());
        bytes.push(factor);
        let (low, high) = whole.split_at(FACTOR_GROUP / 2);
        bytes.extend(low.iter().zip(high).map(|(low, high)| nibble(*low, factor) | nibble(*high, factor) << 4));
    }
    bytes
}

/// The rows that [`pack_rows`] has packed.
pub(crate) fn unpack_rows(bytes: &[u8], columns: usize) -> Vec<u8> {
    let row = columns.div_ceil(FACTOR_GROUP) * ROW_BYTES;
    let of_row = |row: &[u8]| {
        let mut values = Vec::with_capacity(columns);
        for [factor, nibbles @ ..] in row.as_chunks::<ROW_BYTES>().0 {
            values.extend(nibbles.iter().map(|byte| value(byte << 4, *factor)));
            values.extend(nibbles.iter().map(|byte| value(*byte, *factor)));
        }
        values.truncate(columns);
        values
    };
    bytes.chunks(row.max(1)).flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiples of numbers that differ from group to group.
    fn multiples(rows: usize, columns: usize, by_columns: bool) -> Vec<u8> {
        let place = |at: usize| (at / columns, at % columns);
        let number = |at: usize| (at * 7919 % 15) as i16 - 7;
        (0..rows * columns)
            .map(|at| {
                let (row, column) = place(at);
                let group = if by_columns { row / FACTOR_GROUP + 3 * column } else { row + column / FACTOR_GROUP };
                (number(at) * (1 + group % 18) as i16) as u8
            })
            .collect()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for (rows, columns) in [(1, 1), (31, 16), (32, 17), (70, 40), (262, 3)] {
            let values = multiples(rows, columns, true);
            assert!(can_pack(&values, columns, true), "{rows} x {columns}");
            let bytes = pack_panels(&values, columns);
            assert_eq!(bytes.len(), columns.div_ceil(16) * rows.div_ceil(32) * 272);
            assert_eq!(unpack_panels(&bytes, rows, columns), values, "{rows} x {columns}");

            let values = multiples(rows, columns, false);
            assert!(can_pack(&values, columns, false), "{rows} x {columns}");
            let bytes = pack_rows(&values, columns);
            assert_eq!(bytes.len(), rows * columns.div_ceil(32) * 17);
            assert_eq!(unpack_rows(&bytes, columns), values, "{rows} x {columns}");
        }
    }

    #[test]
    fn values_lie_where_format_md_says() {
        // Rows 0 to 7 of one column: multiples of 18. The fifth is in the upper half of the first byte.
        let column: [i8; 8] = [126, -126, 18, 0, -18, 36, 54, -90];
        let bytes = pack_panels(&column.map(i8::cast_unsigned), 1);
        assert_eq!(bytes[..2], [18, 1], "the factor, and that of a column that is not there");
        assert_eq!(bytes[16..20], [0xf7, 0x29, 0x31, 0xb0]);
        assert!(bytes[20..].iter().all(|byte| *byte == 0));

        let bytes = pack_rows(&column.map(i8::cast_unsigned), 8);
        assert_eq!(bytes[..9], [18, 7, 9, 1, 0, 15, 2, 3, 11]);
        assert!(bytes[9..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_no_multiple_cannot_be_packed() {
        let mut values = multiples(40, 40, true);
        for (at, to) in [(0, 127), (33 * 40, 1)] {
            let kept = values[at];
            values[at] = to;
            assert!(!can_pack(&values, 40, true), "value {at}");
            assert!(unpack_panels(&pack_panels(&values, 40), 40, 40) != values);
            values[at] = kept;
        }
        assert!(!can_pack(&values, 40, false));
        assert!(unpack_rows(&pack_rows(&values, 40), 40) != values);
    }
}
