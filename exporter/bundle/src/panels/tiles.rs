//! The tensors of a panels file, piece by piece.
//!
//! In: a tensor of `weights.bin`, or of a panels file. Out: the same tensor laid out, or that it is the bundle's. A tile
//! is some rows of a matrix, or some columns of it, a multiple of sixteen: of a tile, the panels are laid out as those of
//! a whole matrix are. Refused: tensors of another digest, padding that is not zero, column sums of other values.

use std::{
    borrow::Cow,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use bias_patch::Digester;

use super::{PANEL_GROUP, PANEL_WIDTH, PanelEntry};
use crate::{
    Bundle, Element, Error, Result, SCALE_GROUP, TensorEntry,
    packed::{self, FACTOR_GROUP},
};

/// Gives the bytes of a tensor as its entry says, in the order of the file.
pub(super) fn write(
    bundle: &Bundle,
    entry: &PanelEntry,
    tensor: &TensorEntry,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let [rows, columns] = tensor.matrix();
    if !entry.in_panels {
        return bundle.stream_tensor(tensor, |_, bytes| put(&as_rows(bytes, entry.element, columns)));
    }
    // Rows are digested in their order first, and then read in the order of the panels.
    let mut sums = Vec::new();
    bundle.stream_tensor(tensor, |_, bytes| {
        if entry.element.is_quantized() {
            sums.extend(column_sums(bytes, columns));
        }
        Ok::<_, Error>(())
    })?;
    for part in tensor.column_blocks(PANEL_WIDTH) {
        put(&laid_out(&bundle.tensor_part(tensor, 0..rows, part.clone())?, entry.element, part.len()))?;
    }
    put(&sums)
}

/// Compares the tensor at an entry of a panels file with the one of the manifest.
pub(super) fn verify(file: &mut File, path: &Path, entry: &PanelEntry, tensor: &TensorEntry) -> Result<()> {
    let mut read = |offset: u64, bytes: &mut [u8]| {
        file.seek(SeekFrom::Start(offset)).map_err(Error::io(path, "read"))?;
        file.read_exact(bytes).map_err(Error::io(path, "read"))
    };
    let [rows, columns] = tensor.matrix();
    let (mut digester, mut of_format, mut same) = (Digester::default(), Ok(()), true);
    let mut sums_at = entry.column_sums().map(|(offset, _)| offset);
    for part in tensor.row_blocks() {
        let values = if entry.in_panels {
            let height = |rows: usize| panel_bytes(entry.element, rows as u64);
            // The rows of each panel follow each other. What is held at once was chosen to be small.
            let part_bytes = height(part.len()) as usize;
            let mut tile = vec![0; part_bytes * columns.div_ceil(PANEL_WIDTH)];
            for (panel, bytes) in tile.chunks_mut(part_bytes).enumerate() {
                read(entry.offset + panel as u64 * height(rows) + height(part.start), bytes)?;
            }
            let values = taken_out(&tile, entry.element, part.len(), columns);
            same &= laid_out(&values, entry.element, columns) == tile;
            values
        } else {
            let width = row_bytes(entry.element, columns as u64);
            let mut bytes = vec![0; part.len() * width as usize];
            read(entry.offset + part.start as u64 * width, &mut bytes)?;
            match entry.element {
                Element::F32 | Element::F16 | Element::I8 => bytes,
                Element::I4 => {
                    let values = packed::unpack_rows(&bytes, columns);
                    same &= packed::pack_rows(&values, columns) == bytes;
                    values
                }
            }
        };
        if let Some(at) = &mut sums_at {
            let due = column_sums(&values, columns);
            let mut found = vec![0; due.len()];
            read(*at, &mut found)?;
            same &= found == due;
            *at += due.len() as u64;
        }
        digester.update(&values);
        of_format = of_format.and(tensor.check_values(&values));
    }
    let found = digester.finish();
    tensor.check_digest(found).and(of_format)?;
    if !same {
        let expected = "zeros beside the values, the sums of each column, and in int4 the largest factors";
        return Err(Error::field(format!("tensor {}", entry.name), expected, "others"));
    }
    Ok(())
}

/// Bytes of a value.
fn width(element: Element) -> usize {
    match element {
        Element::F32 => 4,
        Element::F16 => 2,
        Element::I8 | Element::I4 => 1,
    }
}

/// Bytes of a panel of so many rows.
pub(super) fn panel_bytes(element: Element, rows: u64) -> u64 {
    match element {
        Element::F32 | Element::F16 => width(element) as u64 * PANEL_WIDTH as u64 * rows,
        Element::I8 => PANEL_WIDTH as u64 * rows.next_multiple_of(PANEL_GROUP as u64),
        Element::I4 => packed::PANEL_BYTES as u64 * rows.div_ceil(FACTOR_GROUP as u64),
    }
}

/// Bytes of a row of so many columns that is not in panels.
pub(super) fn row_bytes(element: Element, columns: u64) -> u64 {
    match element {
        Element::F32 | Element::F16 | Element::I8 => width(element) as u64 * columns,
        Element::I4 => packed::ROW_BYTES as u64 * columns.div_ceil(FACTOR_GROUP as u64),
    }
}

/// Rows that are not in panels.
fn as_rows(values: &[u8], element: Element, columns: usize) -> Cow<'_, [u8]> {
    match element {
        Element::F32 | Element::F16 | Element::I8 => Cow::Borrowed(values),
        Element::I4 => Cow::Owned(packed::pack_rows(values, columns)),
    }
}

/// The panels of a tile, row-major, of `columns` columns.
fn laid_out(values: &[u8], element: Element, columns: usize) -> Vec<u8> {
    match element {
        Element::F32 => lay_out_floats::<4>(values.as_chunks().0, columns),
        Element::F16 => lay_out_floats::<2>(values.as_chunks().0, columns),
        Element::I8 => lay_out_int8(values, columns),
        Element::I4 => packed::pack_panels(values, columns),
    }
}

fn lay_out_floats<const WIDTH: usize>(values: &[[u8; WIDTH]], columns: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(WIDTH * values.len());
    for first in (0..columns).step_by(PANEL_WIDTH) {
        let width = (columns - first).min(PANEL_WIDTH);
        for row in values.chunks(columns) {
            bytes.extend(row[first..][..width].as_flattened());
            bytes.extend(std::iter::repeat_n(0, WIDTH * (PANEL_WIDTH - width)));
        }
    }
    bytes
}

fn lay_out_int8(values: &[u8], columns: usize) -> Vec<u8> {
    let rows = values.len() / columns.max(1);
    let at =
        |row: usize, column: usize| if row < rows && column < columns { values[row * columns + column] } else { 0 };
    let mut bytes = Vec::with_capacity(values.len());
    for first in (0..columns).step_by(PANEL_WIDTH) {
        for group in (0..rows).step_by(PANEL_GROUP) {
            for column in first..first + PANEL_WIDTH {
                bytes.extend((group..group + PANEL_GROUP).map(|row| at(row, column)));
            }
        }
    }
    bytes
}

/// The sums of each column of int8 values, of each group of rows that share a scale, f32.
fn column_sums(values: &[u8], columns: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in values.chunks((SCALE_GROUP as usize).saturating_mul(columns)) {
        let mut sums = vec![0.0f32; columns];
        for row in group.chunks(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f32::from(value.cast_signed()));
        }
        bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    }
    bytes
}

/// The tile, row-major, that [`laid_out`] has laid out.
fn taken_out(bytes: &[u8], element: Element, rows: usize, columns: usize) -> Vec<u8> {
    let (group, width) = match element {
        Element::F32 | Element::F16 => (1, width(element)),
        Element::I8 => (PANEL_GROUP, width(element)),
        Element::I4 => return packed::unpack_panels(bytes, rows, columns),
    };
    let panel = rows.next_multiple_of(group) * PANEL_WIDTH;
    let mut values = Vec::with_capacity(rows * columns * width);
    for row in 0..rows {
        for column in 0..columns {
            let lane = (row / group * PANEL_WIDTH + column % PANEL_WIDTH) * group + row % group;
            values.extend(&bytes[(column / PANEL_WIDTH * panel + lane) * width..][..width]);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_rows_and_of_columns_are_parts_of_the_whole() {
        let (rows, columns) = (262, 40);
        for element in [Element::F32, Element::F16, Element::I8, Element::I4] {
            let width = width(element);
            let number = |at: usize| match element {
                Element::I4 => ((at * 7919 % 15) as i8 - 7).cast_unsigned(),
                _ => (at * 7919 % 251) as u8,
            };
            let values: Vec<u8> = (0..rows * columns * width).map(number).collect();
            let whole = laid_out(&values, element, columns);
            assert_eq!(taken_out(&whole, element, rows, columns), values);
            // Columns: panels follow each other.
            let part = |first: usize, count: usize| {
                let row = |row: &[u8]| row[first * width..(first + count) * width].to_vec();
                laid_out(&values.chunks(columns * width).flat_map(row).collect::<Vec<u8>>(), element, count)
            };
            assert!([part(0, 32), part(32, 8)].concat() == whole, "{element:?}");
            // Rows: a part of each panel.
            let upper = laid_out(&values[..256 * columns * width], element, columns);
            let lower = laid_out(&values[256 * columns * width..], element, columns);
            let panels = columns.div_ceil(PANEL_WIDTH);
            let joined = upper.chunks(upper.len() / panels).zip(lower.chunks(lower.len() / panels));
            assert!(joined.map(|(upper, lower)| [upper, lower].concat()).collect::<Vec<_>>().concat() == whole);
        }
    }
}
