//! The values of a graph's constants, from its file or from a file beside it.
//!
//! In: a constant. Out: its bytes, little-endian, some megabytes at a time where they are in another file. Refused: files
//! that are missing or too short, places outside the graph's directory, as many values as the dimensions do not have, and
//! floats that are not finite.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path},
};

use edge_bundle::onnx::Tensor;

use super::refused;
use crate::{Error, Result};

/// Bytes that are in memory at once.
const BLOCK_BYTES: u64 = 4 << 20;

/// Where a graph has its constants.
pub(super) struct Values<'a> {
    /// The graph.
    pub file: &'a Path,
    /// Its directory.
    pub dir: &'a Path,
}

impl Values<'_> {
    /// Gives the values of a constant of 32-bit floats to `take`.
    pub fn floats(&self, tensor: &Tensor, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut finite = |bytes: &[u8]| {
            let mut values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            match values.find(|value| !value.is_finite()) {
                Some(value) => Err(self.wrong(tensor, "finite numbers", value)),
                None => take(bytes),
            }
        };
        if tensor.is_external() {
            return self.read_file(tensor, 4, &mut finite);
        }
        let bytes = match &tensor.raw_data {
            Some(raw) if tensor.float_data.is_empty() => raw.clone(),
            _ => tensor.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let due = self.bytes(tensor, 4)?;
        if bytes.len() as u64 != due {
            return Err(self.wrong(tensor, &format!("{due} bytes for shape {:?}", tensor.dims), bytes.len()));
        }
        finite(&bytes)
    }

    /// All bytes of a constant that is in another file.
    pub fn whole(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        // By TensorProto.DataType.
        let each = match tensor.data_type() {
            2 | 3 | 9 => 1,
            4 | 5 | 10 | 16 => 2,
            1 | 6 | 12 => 4,
            7 | 11 | 13 => 8,
            other => return Err(self.wrong(tensor, "numbers of a type that has a fixed width", other)),
        };
        let mut bytes = Vec::new();
        self.read_file(tensor, each, &mut |block| {
            bytes.extend_from_slice(block);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Bytes that the dimensions ask for.
    fn bytes(&self, tensor: &Tensor, each: u64) -> Result<u64> {
        let mut dims = tensor.dims.iter().map(|dim| u64::try_from(*dim).ok());
        let bytes = dims.try_fold(each, |bytes, dim: Option<u64>| bytes.checked_mul(dim?));
        bytes.filter(|bytes| *bytes < 1 << 48).ok_or_else(|| {
            self.wrong(tensor, "dimensions of 0 or more, and at most 2^48 bytes", format!("{:?}", tensor.dims))
        })
    }

    fn read_file(&self, tensor: &Tensor, each: u64, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let due = self.bytes(tensor, each)?;
        let location = tensor.external("location").unwrap_or_default();
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !Path::new(location).components().all(plain) {
            return Err(self.wrong(tensor, "a file beside the graph", format!("{location:?}")));
        }
        let number = |key: &str, default: u64| match tensor.external(key) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| self.wrong(tensor, &format!("a number as {key}"), text)),
        };
        let (offset, length) = (number("offset", 0)?, number("length", due)?);
        if length != due {
            return Err(self.wrong(tensor, &format!("{due} bytes for shape {:?}", tensor.dims), length));
        }
        let path = self.dir.join(location);
        let io = |action| {
            let path = path.clone();
            move |source| Error::Io { path, action, source }
        };
        let mut file = File::open(&path).map_err(io("open"))?;
        let found = file.metadata().map_err(io("read"))?.len();
        if offset.checked_add(due).is_none_or(|end| end > found) {
            let expected = format!("{due} bytes at {offset} in {location}; the file is not whole, copy it again");
            return Err(self.wrong(tensor, &expected, format!("{found} bytes in all")));
        }
        file.seek(SeekFrom::Start(offset)).map_err(io("read"))?;
        let mut left = due;
        while left > 0 {
            // At most BLOCK_BYTES, so the cast is exact.
            let mut block = vec![0; left.min(BLOCK_BYTES) as usize];
            file.read_exact(&mut block).map_err(io("read"))?;
            take(&block)?;
            left -= block.len() as u64;
        }
        Ok(())
    }

    fn wrong(&self, tensor: &Tensor, expected: &str, found: impl ToString) -> Error {
        refused(self.file, tensor.name(), expected, found)
    }
}
