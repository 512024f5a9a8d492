//! Weights laid out for multiplication, in a file that is mapped and used where it lies.
//!
//! In: an opened bundle. Out: a panels file beside it, and for a panels file its [`PanelIndex`], checked against the
//! bundle. Refused: another layout, another encoder, parts that do not add up. The layout is in `FORMAT.md`. Tensors are
//! read and written in blocks, so the largest of them does not bound the memory.

mod header;
mod tiles;

use std::{
    fs::File,
    io::{BufWriter, Seek, SeekFrom, Write},
    path::Path,
};

use bias_patch::{atomic, quoted};
use serde::{Deserialize, Serialize};

use self::header::{Checksum, Header};
use crate::{ALIGNMENT, Bundle, Element, Error, Manifest, Result, SCALE_GROUP, checked};

/// Columns in a panel: one register of AVX-512, two of AVX2, four of NEON.
pub const PANEL_WIDTH: usize = 16;
/// Rows of int8 values that lie side by side in a panel: what one dot-product instruction of VNNI or NEON sums.
pub const PANEL_GROUP: usize = 4;

/// The id of the layout for weights of a kind, and part of the file's name.
pub fn panel_layout(weights: Element) -> &'static str {
    match weights {
        Element::F32 => "f32x16",
        Element::F16 => "f16x16",
        Element::I8 => "i8x16x4",
        Element::I4 => "i4x16x8",
    }
}

/// Where the tensors of a panels file are.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelIndex {
    tensors: Vec<PanelEntry>,
}

/// A tensor of a panels file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanelEntry {
    /// The checkpoint's name.
    pub name: String,
    /// Rows: the depth of a product.
    pub rows: u32,
    /// Columns; of vectors their length, with one row.
    pub columns: u32,
    /// What its values are.
    pub element: Element,
    /// Whether it is in panels, and not row after row.
    pub in_panels: bool,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
}

impl PanelEntry {
    /// Bytes its values take in the file.
    pub fn bytes(&self) -> u64 {
        let (rows, columns) = (u64::from(self.rows), u64::from(self.columns));
        match self.in_panels {
            true => tiles::panel_bytes(self.element, rows) * columns.div_ceil(PANEL_WIDTH as u64),
            false => tiles::row_bytes(self.element, columns) * rows,
        }
    }

    /// Where its column sums are, and how many bytes they take: f32 `[groups, columns]`, after the last panel of int8 or
    /// int4, each the sum of the quantized values that share a scale. With them kernels correct for the zero point of
    /// quantized inputs.
    pub fn column_sums(&self) -> Option<(u64, u64)> {
        let has = self.in_panels && self.element.is_quantized();
        let count = u64::from(self.rows).div_ceil(SCALE_GROUP) * u64::from(self.columns);
        // Panels are a multiple of 16 bytes, so floats may follow them.
        has.then(|| (self.offset + self.bytes(), Element::F32.bytes() * count))
    }

    /// Where the value of a row and a column is among its values, if these are not quantized.
    pub fn place(&self, row: usize, column: usize) -> usize {
        let (rows, columns) = (self.rows as usize, self.columns as usize);
        match self.in_panels {
            true => (column / PANEL_WIDTH * rows + row) * PANEL_WIDTH + column % PANEL_WIDTH,
            false => row * columns + column,
        }
    }

    /// Where the next tensor may begin.
    fn end(&self) -> u64 {
        self.column_sums().map_or(self.offset + self.bytes(), |(offset, bytes)| offset + bytes)
    }
}

impl PanelIndex {
    /// The file's name in a bundle whose weights are of a kind.
    pub fn file_name(weights: Element) -> String {
        format!("panels-{}.bin", panel_layout(weights))
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[PanelEntry] {
        &self.tensors
    }

    /// The entry of a tensor.
    pub fn entry(&self, name: &str) -> Option<&PanelEntry> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Opens a panels file and checks it against the bundle it is for; its data is digested if it may have changed
    /// since that was last done.
    ///
    /// # Errors
    /// When the file is of another layout or encoder, short, or altered.
    pub fn open(path: &Path, manifest: &Manifest) -> Result<Self> {
        Self::read(path, manifest, |content, verify| checked::check_with(path, content, verify))
    }

    /// As [`PanelIndex::open`], but digests the data whatever was found before, and each tensor as the manifest does:
    /// so the panels are those of the encoder, whoever made them.
    ///
    /// # Errors
    /// As [`PanelIndex::open`], and naming the first tensor that is another.
    pub fn verify(path: &Path, manifest: &Manifest) -> Result<Self> {
        let index = Self::read(path, manifest, |_, verify| verify())?;
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        for (entry, tensor) in index.tensors.iter().zip(&manifest.tensors) {
            tiles::verify(&mut file, path, entry, tensor).map_err(|e| e.in_file(path))?;
        }
        Ok(index)
    }

    fn read(
        path: &Path,
        manifest: &Manifest,
        check: impl FnOnce(&str, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        let (header, header_bytes) = Header::read(&mut file, path)?;
        let expected = entries(manifest, header_bytes)?;
        let layout = panel_layout(manifest.weights());
        for (field, same, due, found) in [
            (
                "layout",
                header.layout == layout,
                format!("{layout}, as this program's kernels read"),
                format!("{}, for others", quoted(&header.layout)),
            ),
            ("encoder", header.encoder == manifest.encoder, manifest.encoder.to_string(), header.encoder.to_string()),
            ("tensors", header.tensors == expected, "those of the bundle".to_owned(), "others".to_owned()),
        ] {
            if !same {
                return Err(Error::field(field, due, found).in_file(path));
            }
        }
        let end = expected.last().map_or(0, PanelEntry::end);
        if length != end {
            return Err(Error::Length { part: "file".to_owned(), expected: end, found: length }.in_file(path));
        }
        let begin = expected.first().map_or(0, |t| t.offset);
        check(&header.checksum.name(), &mut || header.checksum.check(&mut file, path, begin))?;
        Ok(PanelIndex { tensors: expected })
    }

    /// Writes the panels of a bundle to `path`, whole or not at all.
    ///
    /// # Errors
    /// When the bundle's weights cannot be read, are not what the manifest says, or the file cannot be written.
    pub fn write(bundle: &Bundle, path: &Path) -> Result<()> {
        let manifest = bundle.manifest();
        let header = |tensors: Vec<PanelEntry>| {
            let layout = panel_layout(manifest.weights()).to_owned();
            Header { layout, encoder: manifest.encoder, checksum: Checksum::Crc32(0), tensors }
        };
        let mut begin = 0;
        // Offsets are varints, so a longer header may push one over a boundary: two rounds settle it, a third proves
        // it.
        for _ in 0..3 {
            begin = header(entries(manifest, begin as u64)?).bytes(0)?.len();
        }
        let tensors = entries(manifest, begin as u64)?;
        atomic::write_with(path, |file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let begin = tensors.first().map_or(0, |t| t.offset);
            out.seek(SeekFrom::Start(begin)).map_err(Error::io(path, "write"))?;
            let mut checksum = crc32fast::Hasher::new();
            let mut at = begin;
            for (entry, tensor) in tensors.iter().zip(&manifest.tensors) {
                let padding =
                    usize::try_from(entry.offset - at).expect("tensors follow each other on the next boundary");
                let mut put = |bytes: &[u8]| {
                    checksum.update(bytes);
                    at += bytes.len() as u64;
                    out.write_all(bytes).map_err(Error::io(path, "write"))
                };
                put(&vec![0; padding])?;
                tiles::write(bundle, entry, tensor, &mut put)?;
            }
            out.seek(SeekFrom::Start(0)).map_err(Error::io(path, "write"))?;
            let header = header(tensors.clone()).bytes(checksum.finalize())?;
            out.write_all(&header).map_err(Error::io(path, "write"))?;
            out.flush().map_err(Error::io(path, "write"))
        })
    }
}

/// Where each tensor of a bundle goes in a panels file whose data may begin at `end`.
///
/// # Errors
/// When a tensor is neither a vector nor a matrix of dimensions below 2^32; a manifest that was parsed has none such.
fn entries(manifest: &Manifest, mut end: u64) -> Result<Vec<PanelEntry>> {
    let mut entries = Vec::new();
    for tensor in &manifest.tensors {
        let wrong = || {
            let expected = "one or two dimensions below 2^32";
            Error::field(format!("tensor {}", tensor.name), expected, format!("{:?}", tensor.shape))
        };
        let dims: Vec<u32> = tensor.shape.iter().map_while(|dim| u32::try_from(*dim).ok()).collect();
        let (rows, columns) = match (dims.as_slice(), tensor.shape.len()) {
            (&[columns], 1) => (1, columns),
            (&[rows, columns], 2) => (rows, columns),
            _ => return Err(wrong()),
        };
        let offset = end.next_multiple_of(ALIGNMENT);
        let (name, element) = (tensor.name.clone(), tensor.element);
        let entry = PanelEntry { name, rows, columns, element, in_panels: tensor.transposed, offset };
        end = entry.end();
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_beyond_32_bits() {
        let of = |rows, columns, element, in_panels| {
            let entry = PanelEntry { name: String::new(), rows, columns, element, in_panels, offset: 64 };
            (entry.bytes(), entry.end())
        };
        let most = u32::MAX;
        for (found, bytes, end) in [
            (of(1, most, Element::F32, false), 4 * 0xffff_ffff, 64 + 4 * 0xffff_ffff),
            (of(1 << 16, 1 << 16, Element::F32, true), 1 << 34, 64 + (1 << 34)),
            (of(1 << 16, 1 << 16, Element::F16, true), 1 << 33, 64 + (1 << 33)),
            (of(1 << 16, 1 << 16, Element::I8, true), 1 << 32, 64 + (1 << 32) + 4 * (1 << 8) * (1 << 16)),
            (of(most, 1, Element::I8, true), 16 << 32, 64 + (16 << 32) + 4 * (1 << 24)),
            (of(1, most, Element::I8, true), 4 << 32, 64 + (4 << 32) + 4 * 0xffff_ffff),
            (of(1 << 16, 1 << 16, Element::I4, true), 17 << 27, 64 + (17 << 27) + 4 * (1 << 8) * (1 << 16)),
            (of(most, 64, Element::I4, false), 34 * 0xffff_ffff, 64 + 34 * 0xffff_ffff),
        ] {
            assert_eq!(found, (bytes, end));
        }
    }
}
