//! Weights laid out for multiplication, in a file that is mapped and used where it lies.
//!
//! In: an opened bundle. Out: a panels file beside it, and for a panels file its [`PanelIndex`], checked against the
//! bundle. Refused: another layout, another encoder, parts that do not add up. The layout is in `FORMAT.md`.

use std::{
    fs::File,
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{ALIGNMENT, Bundle, Digest, Digester, Error, Manifest, Result, checked};

/// Columns in a panel: one register of AVX-512, two of AVX2, four of NEON.
pub const PANEL_WIDTH: usize = 16;
/// The id of this layout, and part of the file's name.
pub const PANEL_LAYOUT: &str = "f32x16";

const MAGIC: &[u8; 8] = b"BIASPANL";
const VERSION: u16 = 1;
const PREAMBLE_BYTES: usize = 16;

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
    /// Whether it is in panels, and not row after row.
    pub in_panels: bool,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
}

#[derive(Serialize, Deserialize)]
struct WireHeader {
    layout: String,
    encoder: [u8; 32],
    data: [u8; 32],
    tensors: Vec<PanelEntry>,
}

impl PanelEntry {
    /// Number of floats it takes in the file.
    pub fn floats(&self) -> u64 {
        let columns = u64::from(self.columns);
        let width = PANEL_WIDTH as u64;
        u64::from(self.rows) * if self.in_panels { columns.div_ceil(width) * width } else { columns }
    }
}

impl PanelIndex {
    /// The file's name in a bundle.
    pub fn file_name() -> String {
        format!("panels-{PANEL_LAYOUT}.bin")
    }

    /// The entry of a tensor.
    pub fn entry(&self, name: &str) -> Option<&PanelEntry> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Opens a panels file and checks it against the bundle it is for; its data is digested if it may have changed since
    /// that was last done.
    ///
    /// # Errors
    /// When the file is of another layout or encoder, short, or altered.
    pub fn open(path: &Path, manifest: &Manifest) -> Result<Self> {
        Self::read(path, manifest, |content, verify| checked::check_with(path, content, verify))
    }

    /// As [`PanelIndex::open`], but digests the data whatever was found before.
    ///
    /// # Errors
    /// As [`PanelIndex::open`].
    pub fn verify(path: &Path, manifest: &Manifest) -> Result<Self> {
        Self::read(path, manifest, |_, verify| verify())
    }

    fn read(
        path: &Path,
        manifest: &Manifest,
        check: impl FnOnce(&str, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "read"))?.len();
        let read = |file: &mut File, bytes: u64| {
            let mut buffer = Vec::new();
            file.take(bytes).read_to_end(&mut buffer).map_err(Error::io(path, "read")).map(|_| buffer)
        };
        let preamble = read(&mut file, PREAMBLE_BYTES as u64)?;
        let number = |at: usize| preamble.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
        if !preamble.starts_with(MAGIC) || preamble.len() < PREAMBLE_BYTES {
            return Err(Error::field("panels", "a file that begins with \"BIASPANL\"", "another").in_file(path));
        }
        if number(8) != VERSION {
            let error = Error::Version { what: "panels", expected: VERSION.into(), found: number(8).into() };
            return Err(error.in_file(path));
        }
        let header_bytes = u64::from(number(12)) | u64::from(number(14)) << 16;
        let header = read(&mut file, header_bytes)?;
        let wire: WireHeader = postcard::from_bytes(&header)
            .map_err(|e| Error::field("header", "fields as FORMAT.md lists them", e).in_file(path))?;
        let expected = entries(manifest, PREAMBLE_BYTES as u64 + header_bytes);
        for (field, same, due, found) in [
            ("layout", wire.layout == PANEL_LAYOUT, PANEL_LAYOUT.to_owned(), wire.layout.clone()),
            (
                "encoder",
                wire.encoder == manifest.encoder.0,
                manifest.encoder.to_string(),
                Digest(wire.encoder).to_string(),
            ),
            ("tensors", wire.tensors == expected, "those of the bundle".to_owned(), "others".to_owned()),
        ] {
            if !same {
                return Err(Error::field(field, due, found).in_file(path));
            }
        }
        let end = expected.last().map_or(0, |t| t.offset + 4 * t.floats());
        if length != end {
            return Err(Error::Length { part: "file".to_owned(), expected: end, found: length }.in_file(path));
        }
        check(&format!("panels {}", Digest(wire.data)), &mut || {
            let begin = expected.first().map_or(0, |t| t.offset);
            file.seek(SeekFrom::Start(begin)).map_err(Error::io(path, "read"))?;
            let found = Digest::of_reader(&mut file, path, |_| ())?;
            if found.0 == wire.data {
                return Ok(());
            }
            let error = Error::Checksum { expected: Digest(wire.data).to_string(), found: found.to_string() };
            Err(error.in_file(path))
        })?;
        Ok(PanelIndex { tensors: expected })
    }

    /// Writes the panels of a bundle to `path`, whole or not at all.
    ///
    /// # Errors
    /// When the bundle's weights cannot be read, are not what the manifest says, or the file cannot be written.
    pub fn write(bundle: &Bundle, path: &Path) -> Result<()> {
        let manifest = bundle.manifest();
        let header = |data: Digest, tensors: Vec<PanelEntry>| {
            let wire =
                WireHeader { layout: PANEL_LAYOUT.to_owned(), encoder: manifest.encoder.0, data: data.0, tensors };
            postcard::to_stdvec(&wire).map_err(|e| Error::field("header", "values postcard can write", e))
        };
        let mut header_bytes = 0;
        // Offsets are varints, so a longer header may push one over a boundary: two rounds settle it, a third proves it.
        for _ in 0..3 {
            header_bytes = header(Digest([0; 32]), entries(manifest, (PREAMBLE_BYTES + header_bytes) as u64))?.len();
        }
        let tensors = entries(manifest, (PREAMBLE_BYTES + header_bytes) as u64);
        crate::atomic::write_with(path, |file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let begin = tensors.first().map_or(0, |t| t.offset);
            out.seek(SeekFrom::Start(begin)).map_err(Error::io(path, "write"))?;
            let mut digester = Digester::default();
            let mut at = begin;
            for (entry, tensor) in tensors.iter().zip(&manifest.tensors) {
                let values = bundle.tensor(tensor)?;
                let mut bytes = vec![0; usize::try_from(entry.offset - at).unwrap_or(0)];
                lay_out(&values, entry, &mut bytes);
                digester.update(&bytes);
                out.write_all(&bytes).map_err(Error::io(path, "write"))?;
                at += bytes.len() as u64;
            }
            let header = header(digester.finish(), tensors.clone())?;
            let length =
                u32::try_from(header.len()).map_err(|_| Error::field("header", "below 4 GiB", header.len()))?;
            out.seek(SeekFrom::Start(0)).map_err(Error::io(path, "write"))?;
            let parts = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 2], &length.to_le_bytes(), &header];
            for part in parts {
                out.write_all(part).map_err(Error::io(path, "write"))?;
            }
            out.flush().map_err(Error::io(path, "write"))
        })
    }
}

/// Where each tensor of a bundle goes in a panels file whose data may begin at `end`.
fn entries(manifest: &Manifest, mut end: u64) -> Vec<PanelEntry> {
    let mut entries = Vec::new();
    for tensor in &manifest.tensors {
        // Dimensions are those of a checked manifest, below 2^32.
        let dim = |at: usize| tensor.shape.get(at).and_then(|d| u32::try_from(*d).ok()).unwrap_or(1);
        let (rows, columns) = if tensor.shape.len() < 2 { (1, dim(0)) } else { (dim(0), dim(1)) };
        let offset = end.next_multiple_of(ALIGNMENT);
        let entry = PanelEntry { name: tensor.name.clone(), rows, columns, in_panels: tensor.transposed, offset };
        end = offset + 4 * entry.floats();
        entries.push(entry);
    }
    entries
}

/// Appends a tensor to `bytes` as its entry says.
fn lay_out(values: &[f32], entry: &PanelEntry, bytes: &mut Vec<u8>) {
    let (rows, columns) = (entry.rows as usize, entry.columns as usize);
    if !entry.in_panels {
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        return;
    }
    for first in (0..columns).step_by(PANEL_WIDTH) {
        let width = (columns - first).min(PANEL_WIDTH);
        for row in 0..rows {
            let part = &values[row * columns + first..][..width];
            bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
            bytes.extend(std::iter::repeat_n(0, 4 * (PANEL_WIDTH - width)));
        }
    }
}
