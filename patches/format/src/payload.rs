//! The arrays of a patch's payload.
//!
//! In: the payload, and from the header the form of each array. Out: the arrays in order, as [`Stored`]. Refused: more
//! values than there are bytes, and forms that are not in `FORMAT.md`.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::{Encoding, Error, Linear, Result, Stored, entropy};

#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct WireLinear {
    pub(crate) outputs: u32,
    pub(crate) inputs: u32,
    pub(crate) weight: WireForm,
    pub(crate) bias: WireForm,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireForm {
    pub(crate) bits: u8,
    pub(crate) group: u32,
}

impl WireLinear {
    /// A layer that is not there.
    pub(crate) const NONE: Self = {
        let form = WireForm { bits: 32, group: 0 };
        WireLinear { outputs: 0, inputs: 0, weight: form, bias: form }
    };
}

/// Reads the payload in order. The quantized values of an entropy-coded patch are not in it, and are only counted.
pub(crate) struct Reader<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) at: usize,
    pub(crate) coded: bool,
    pub(crate) runs: Vec<(u8, usize)>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, what: &str, count: Option<usize>, size: usize) -> Result<&'a [u8]> {
        let left = self.payload.len() - self.at;
        let bytes = count.and_then(|count| count.checked_mul(size)).unwrap_or(usize::MAX);
        let taken = self.payload[self.at..].get(..bytes).ok_or_else(|| short(what, bytes, left))?;
        self.at += bytes;
        Ok(taken)
    }

    /// An array with the product of `dims` values.
    pub(crate) fn array(&mut self, what: &str, dims: &[u32], form: WireForm) -> Result<Stored> {
        let len = dims.iter().try_fold(1usize, |len, dim| len.checked_mul(usize::try_from(*dim).ok()?));
        if len == Some(0) {
            return Err(Error::field(what, "at least one value", 0));
        }
        if form.bits > 8 && form.group != 0 {
            return Err(Error::field(format!("{what}, group"), "0 for floats", form.group));
        }
        match form.bits {
            32 => {
                let bytes = self.take(what, len, 4)?;
                Ok(Stored::F32(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
            }
            16 => Ok(Stored::F16(halves(self.take(what, len, 2)?))),
            bits if Encoding::BITS.contains(&bits) => {
                let count = len.map(|len| Encoding::scales(form.group, len));
                let scales = halves(self.take(&format!("{what}, scales"), count, 2)?);
                let quantized = if self.coded {
                    self.runs.push((bits, len.unwrap_or(usize::MAX)));
                    Vec::new()
                } else {
                    let packed = len.and_then(|len| entropy::packed_bytes(len, bits));
                    let bytes = self.take(what, packed, 1)?;
                    entropy::unpack(bytes, len.expect("its bytes were counted"), bits)
                        .map_err(|e| Error::field(what, "quantized values in range", e))?
                };
                Ok(Stored::Delta { bits, group: form.group, scales, quantized })
            }
            bits => Err(Error::field(format!("{what}, bits"), "32, 16, 8, 4, 3, 2 or 1", bits)),
        }
    }

    pub(crate) fn linear(&mut self, what: &str, wire: &WireLinear) -> Result<Linear> {
        let weight = self.array(&format!("{what} weight"), &[wire.outputs, wire.inputs], wire.weight)?;
        let bias = self.array(&format!("{what} bias"), &[wire.outputs], wire.bias)?;
        Ok(Linear { outputs: wire.outputs, inputs: wire.inputs, weight, bias })
    }
}

fn halves(bytes: &[u8]) -> Vec<f16> {
    bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect()
}

pub(crate) fn short(part: &str, expected: usize, found: usize) -> Error {
    Error::Length { part: part.to_owned(), expected: expected as u64, found: found as u64 }
}
