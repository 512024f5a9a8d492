//! The beginning of a panels file, and the checksum of what follows.
//!
//! In: the bytes of a file, or what a new one says. Out: a [`Header`], or its bytes. Refused: another magic or version,
//! and a header that does not end where its length says.
//!
//! A new file has a CRC-32, which takes few instructions a byte on processors that have none for SHA-256. It finds
//! accidents. The digest that version 1 has in its place found no more: whoever alters the data can alter either.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use bias_patch::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::PanelEntry;
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"BIASPANL";
/// The version that is written.
const VERSION: u16 = 2;
const PREAMBLE_BYTES: usize = 16;

/// What a panels file says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub layout: String,
    pub encoder: Digest,
    pub checksum: Checksum,
    pub tensors: Vec<PanelEntry>,
}

/// The checksum of everything from the first tensor to the end of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Checksum {
    /// Version 1: SHA-256.
    Sha256(Digest),
    /// Version 2: CRC-32 (ISO-HDLC, as in gzip).
    Crc32(u32),
}

/// The header as postcard writes it. The checksum is an array of bytes, little-endian: of one length whatever its value.
#[derive(Serialize, Deserialize)]
struct Wire<C> {
    layout: String,
    encoder: [u8; 32],
    checksum: C,
    tensors: Vec<PanelEntry>,
}

impl Header {
    /// Reads the preamble and the header. Also gives how many bytes both take.
    pub fn read(file: &mut File, path: &Path) -> Result<(Self, u64)> {
        let read = |file: &mut File, bytes: u64| {
            let mut buffer = Vec::new();
            file.take(bytes).read_to_end(&mut buffer).map_err(Error::io(path, "read")).map(|_| buffer)
        };
        let preamble = read(file, PREAMBLE_BYTES as u64)?;
        if !preamble.starts_with(MAGIC) || preamble.len() < PREAMBLE_BYTES {
            return Err(Error::field("panels", "a file that begins with \"BIASPANL\"", "another").in_file(path));
        }
        let [version, zeros] = [8, 10].map(|at| u16::from_le_bytes([preamble[at], preamble[at + 1]]));
        let bytes = u64::from(u32::from_le_bytes([preamble[12], preamble[13], preamble[14], preamble[15]]));
        if zeros != 0 {
            return Err(Error::field("bytes 10 and 11", "zeros", format!("{zeros:#06x}")).in_file(path));
        }
        let header = match version {
            1 => {
                let wire: Wire<[u8; 32]> = parse(&read(file, bytes)?, path)?;
                Header::of(wire, |checksum| Checksum::Sha256(Digest(checksum)))
            }
            2 => {
                let wire: Wire<[u8; 4]> = parse(&read(file, bytes)?, path)?;
                Header::of(wire, |checksum| Checksum::Crc32(u32::from_le_bytes(checksum)))
            }
            other => {
                return Err(Error::Version { what: "panels", expected: "1 or 2", found: other.into() }.in_file(path));
            }
        };
        Ok((header, PREAMBLE_BYTES as u64 + bytes))
    }

    fn of<C>(wire: Wire<C>, checksum: impl Fn(C) -> Checksum) -> Self {
        Header {
            layout: wire.layout,
            encoder: Digest(wire.encoder),
            checksum: checksum(wire.checksum),
            tensors: wire.tensors,
        }
    }

    /// The preamble and the header in version 2, with `checksum` in place of its own: it is known when the data is written.
    pub fn bytes(&self, checksum: u32) -> Result<Vec<u8>> {
        let checksum = checksum.to_le_bytes();
        let (layout, tensors) = (self.layout.clone(), self.tensors.clone());
        let wire = Wire { layout, encoder: self.encoder.0, checksum, tensors };
        let header = postcard::to_stdvec(&wire).map_err(|e| Error::field("header", "values postcard can write", e))?;
        let length = u32::try_from(header.len()).map_err(|_| Error::field("header", "below 4 GiB", header.len()))?;
        Ok([&MAGIC[..], &VERSION.to_le_bytes(), &[0; 2], &length.to_le_bytes(), &header].concat())
    }
}

impl Checksum {
    /// Checks the file's bytes from `begin` on.
    ///
    /// # Errors
    /// When they have another checksum, or cannot be read.
    pub fn check(self, file: &mut File, path: &Path, begin: u64) -> Result<()> {
        file.seek(SeekFrom::Start(begin)).map_err(Error::io(path, "read"))?;
        let (expected, found) = match self {
            Checksum::Sha256(expected) => (expected.to_string(), Digest::of_reader(file, path, |_| ())?.to_string()),
            Checksum::Crc32(expected) => {
                let mut hasher = crc32fast::Hasher::new();
                let mut buffer = vec![0; 1 << 18];
                loop {
                    match file.read(&mut buffer).map_err(Error::io(path, "read"))? {
                        0 => break,
                        read => hasher.update(&buffer[..read]),
                    }
                }
                (format!("{expected:08x}"), format!("{:08x}", hasher.finalize()))
            }
        };
        match expected == found {
            true => Ok(()),
            false => Err(Error::Checksum { expected, found }.in_file(path)),
        }
    }

    /// How a note of a file that was found intact names what is in it.
    pub fn name(self) -> String {
        match self {
            Checksum::Sha256(digest) => format!("panels {digest}"),
            Checksum::Crc32(sum) => format!("panels {sum:08x}"),
        }
    }
}

fn parse<C: DeserializeOwned>(header: &[u8], path: &Path) -> Result<Wire<C>> {
    let (wire, rest) = postcard::take_from_bytes(header)
        .map_err(|e| Error::field("header", "fields as FORMAT.md lists them", e).in_file(path))?;
    match rest.len() {
        0 => Ok(wire),
        more => Err(Error::field("header", "an end after the last tensor", format!("{more} bytes more")).in_file(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Element;

    /// The header of a file with one tensor, as bytes that FORMAT.md gives.
    fn header_bytes(version: u8, checksum: &[u8], more: &[u8]) -> Vec<u8> {
        let name = [&[6][..], b"f32x16"].concat();
        // One tensor: its name, one row, three columns, f32, not in panels, at 128.
        let tensors = [1, 1, b'w', 1, 3, 0, 0, 0x80, 1];
        let header = [&name, &Digest::of(b"encoder").0[..], checksum, &tensors, more].concat();
        let length = u32::try_from(header.len()).unwrap().to_le_bytes();
        [&MAGIC[..], &[version, 0, 0, 0], &length, &header].concat()
    }

    #[test]
    fn both_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("panels");
        let name = "w".to_owned();
        let entry = PanelEntry { name, rows: 1, columns: 3, element: Element::F32, in_panels: false, offset: 128 };
        let data = b"123456789";
        // The check value that catalogues give of this CRC.
        let (digest, sum) = (Digest::of(data), 0xcbf4_3926_u32);
        for (version, bytes, checksum) in
            [(1, &digest.0[..], Checksum::Sha256(digest)), (2, &sum.to_le_bytes()[..], Checksum::Crc32(sum))]
        {
            let bytes = header_bytes(version, bytes, &[]);
            let header = Header {
                layout: "f32x16".to_owned(),
                encoder: Digest::of(b"encoder"),
                checksum,
                tensors: vec![entry.clone()],
            };
            if version == 2 {
                assert_eq!(header.bytes(sum).unwrap(), bytes);
            }
            fs::write(&path, [&bytes, &data[..]].concat()).unwrap();
            let mut file = File::open(&path).unwrap();
            assert_eq!(Header::read(&mut file, &path).unwrap(), (header, bytes.len() as u64));
            checksum.check(&mut file, &path, bytes.len() as u64).unwrap();
            fs::write(&path, [&bytes, &b"123406789"[..]].concat()).unwrap();
            let error = checksum.check(&mut File::open(&path).unwrap(), &path, bytes.len() as u64).unwrap_err();
            assert!(error.to_string().contains("checksum mismatch"), "{error}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("panels");
        let good = header_bytes(2, &[1, 2, 3, 4], &[]);
        let with = |at: usize, byte| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (bytes, said) in [
            (with(0, b'b'), "begins with"),
            (good[..15].to_vec(), "begins with"),
            (with(8, 3), "this program reads version 1 or 2"),
            (with(10, 1), "expected zeros"),
            (good[..good.len() - 1].to_vec(), "fields as FORMAT.md lists them"),
            (header_bytes(2, &[1, 2, 3, 4], &[0]), "found 1 bytes more"),
        ] {
            fs::write(&path, &bytes).unwrap();
            let error = Header::read(&mut File::open(&path).unwrap(), &path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
