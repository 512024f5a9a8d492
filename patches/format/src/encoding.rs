//! How the values of one array are stored: as f32, as f16, or as small integers times a scale.
//!
//! In: f32 values and, for a slot, its base. Out: a [`Stored`] array of the same length. Refused: values that are not
//! finite. The integers of a slot are its change from the pre-trained base, those of a head are the values themselves.

use std::{fmt, str::FromStr};

use half::f16;

use crate::{Error, Result};

/// How an array is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Values as 32-bit floats: exact.
    F32,
    /// Values as 16-bit floats.
    F16,
    /// Change from the base as integers of `bits` bits, each times the f16 scale of its group.
    Delta {
        /// 1, 2, 3, 4 or 8.
        bits: u8,
        /// Values that share a scale; 0 for the whole array.
        group: u32,
    },
}

impl Encoding {
    /// Widths an integer may have.
    pub const BITS: [u8; 5] = [8, 4, 3, 2, 1];

    /// Number of different integers: `-limit..=limit`, or -1 and 1 when there is one bit.
    pub(crate) fn levels(bits: u8) -> u16 {
        if bits == 1 { 2 } else { (1 << bits) - 1 }
    }

    /// Scales of an array of `len` values.
    pub(crate) fn scales(group: u32, len: usize) -> usize {
        match usize::try_from(group) {
            Ok(0) | Err(_) => len.min(1),
            Ok(group) => len.div_ceil(group),
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::F32 => f.pad("f32"),
            Encoding::F16 => f.pad("f16"),
            Encoding::Delta { bits, group: 0 } => f.pad(&format!("i{bits}")),
            Encoding::Delta { bits, group } => f.pad(&format!("i{bits}/{group}")),
        }
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::field("encoding", "f32, f16, i8, i4, i3, i2, i1, or one like i4/64 with a scale for 64 values", text)
        };
        let (form, group) = match text.split_once('/') {
            Some((form, group)) => (form, group.parse().ok().filter(|g| (8..=1 << 20).contains(g)).ok_or_else(bad)?),
            None => (text, 0),
        };
        match form {
            "f32" if group == 0 => Ok(Encoding::F32),
            "f16" if group == 0 => Ok(Encoding::F16),
            _ => {
                let bits = form.strip_prefix('i').and_then(|b| b.parse().ok()).filter(|b| Encoding::BITS.contains(b));
                Ok(Encoding::Delta { bits: bits.ok_or_else(bad)?, group })
            }
        }
    }
}

/// One array of values as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// Values, exact.
    F32(Vec<f32>),
    /// Values, to 11 significant bits.
    F16(Vec<f16>),
    /// Integers and their scales.
    Delta {
        /// Width of an integer.
        bits: u8,
        /// Values that share a scale; 0 for all.
        group: u32,
        /// One for each group.
        scales: Vec<f16>,
        /// The quantized values, one for each value.
        quantized: Vec<i8>,
    },
}

impl Stored {
    /// Stores `values`, integers being the change from `base` (from zero where there is none).
    ///
    /// # Errors
    /// When a value, or its change, is not finite in the encoding.
    pub fn encode(values: &[f32], base: Option<&[f32]>, encoding: Encoding) -> Result<Self> {
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::field(format!("value {at}"), "a finite number", values[at]));
        }
        let too_large = |at: usize| Error::field(format!("value {at}"), "at most 65504, as f16 holds", values[at]);
        match encoding {
            Encoding::F32 => Ok(Stored::F32(values.to_vec())),
            Encoding::F16 => {
                let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
                match halves.iter().position(|h| !h.is_finite()) {
                    Some(at) => Err(too_large(at)),
                    None => Ok(Stored::F16(halves)),
                }
            }
            Encoding::Delta { bits, group } => {
                let change: Vec<f32> = match base {
                    Some(base) => values.iter().zip(base).map(|(v, b)| v - b).collect(),
                    None => values.to_vec(),
                };
                let size = match usize::try_from(group) {
                    Ok(0) | Err(_) => change.len().max(1),
                    Ok(group) => group,
                };
                let mut scales = Vec::new();
                let mut quantized = Vec::with_capacity(change.len());
                for (index, part) in change.chunks(size).enumerate() {
                    let scale = best_scale(part, bits);
                    if !scale.is_finite() {
                        return Err(too_large(index * size));
                    }
                    quantized.extend(part.iter().map(|v| nearest(*v, scale.to_f32(), bits)));
                    scales.push(scale);
                }
                Ok(Stored::Delta { bits, group, scales, quantized })
            }
        }
    }

    /// The values; `base` has to be the one given to `encode`.
    pub fn values(&self, base: Option<&[f32]>) -> Vec<f32> {
        match self {
            Stored::F32(values) => values.clone(),
            Stored::F16(values) => values.iter().map(|v| v.to_f32()).collect(),
            Stored::Delta { group, scales, quantized, .. } => {
                let size = usize::try_from(*group).ok().filter(|g| *g > 0).unwrap_or(quantized.len().max(1));
                let mut values: Vec<f32> = Vec::with_capacity(quantized.len());
                for (part, scale) in quantized.chunks(size).zip(scales) {
                    let scale = scale.to_f32();
                    values.extend(part.iter().map(|value| scale * f32::from(*value)));
                }
                if let Some(base) = base {
                    values.iter_mut().zip(base).for_each(|(v, b)| *v += b);
                }
                values
            }
        }
    }

    /// Checks that the parts agree: finite numbers, at least one; scales for every group; integers in range.
    pub(crate) fn check(&self, what: &str) -> Result<()> {
        if self.is_empty() {
            return Err(Error::field(what, "at least one value", 0));
        }
        let not_finite = match self {
            Stored::F32(values) => values.iter().position(|v| !v.is_finite()).map(|at| (at, values[at])),
            Stored::F16(values) => values.iter().position(|v| !v.is_finite()).map(|at| (at, values[at].to_f32())),
            Stored::Delta { scales, .. } => {
                scales.iter().position(|v| !v.is_finite()).map(|at| (at, scales[at].to_f32()))
            }
        };
        if let Some((at, value)) = not_finite {
            return Err(Error::field(format!("{what}, number {at}"), "a finite number", value));
        }
        let Stored::Delta { bits, group, scales, quantized } = self else { return Ok(()) };
        if !Encoding::BITS.contains(bits) {
            return Err(Error::field(format!("{what}, bits"), "8, 4, 3, 2 or 1", bits));
        }
        if scales.len() != Encoding::scales(*group, quantized.len()) {
            let due = Encoding::scales(*group, quantized.len());
            return Err(Error::field(format!("{what}, scales"), due.to_string(), scales.len()));
        }
        let limit = if *bits == 1 { 1 } else { Encoding::levels(*bits) / 2 };
        let outside = |value: &&i8| u16::from(value.unsigned_abs()) > limit || (*bits == 1 && **value == 0);
        match quantized.iter().find(outside) {
            Some(value) => Err(Error::field(format!("{what}, quantized value"), format!("one of {bits} bits"), value)),
            None => Ok(()),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Stored::F32(values) => values.len(),
            Stored::F16(values) => values.len(),
            Stored::Delta { quantized, .. } => quantized.len(),
        }
    }

    /// Bytes that the numbers take in memory.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Stored::F32(values) => size_of_val(&values[..]),
            Stored::F16(values) => size_of_val(&values[..]),
            Stored::Delta { scales, quantized, .. } => size_of_val(&scales[..]) + size_of_val(&quantized[..]),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the array is stored.
    pub fn encoding(&self) -> Encoding {
        match self {
            Stored::F32(_) => Encoding::F32,
            Stored::F16(_) => Encoding::F16,
            Stored::Delta { bits, group, .. } => Encoding::Delta { bits: *bits, group: *group },
        }
    }
}

/// The integer whose product with `scale` is nearest to `value`.
fn nearest(value: f32, scale: f32, bits: u8) -> i8 {
    if bits == 1 {
        return if value < 0.0 { -1 } else { 1 };
    }
    if scale == 0.0 {
        return 0;
    }
    let limit = f32::from(Encoding::levels(bits) / 2);
    // Within -127..=127 by the clamp.
    (value / scale).round().clamp(-limit, limit) as i8
}

/// The f16 scale of least squared error among fractions of the one that reaches the largest value: clipping a few large
/// values is often better than a coarse grid for all.
fn best_scale(change: &[f32], bits: u8) -> f16 {
    let largest = change.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    if bits == 1 {
        // The mean absolute value is the least-squares optimum for two levels.
        let sum: f64 = change.iter().map(|v| f64::from(v.abs())).sum();
        return f16::from_f64(sum / change.len() as f64);
    }
    let full = largest / f32::from(Encoding::levels(bits) / 2);
    let candidate = |part: u16| f16::from_f32(full * f32::from(part) / 32.0);
    let error = |scale: f16| -> f64 {
        let scale = scale.to_f32();
        change.iter().map(|v| f64::from(v - scale * f32::from(nearest(*v, scale, bits))).powi(2)).sum()
    };
    // Clipping helps narrow integers, and does not help wide ones.
    let first = if bits == 8 { 31 } else { 8 };
    (first..=33).map(candidate).min_by(|a, b| error(*a).total_cmp(&error(*b))).expect("there are candidates")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.37).sin() * 0.2).collect()
    }

    #[test]
    fn encodings_read_back_as_text() {
        for text in ["f32", "f16", "i8", "i4", "i3", "i2", "i1", "i4/64"] {
            assert_eq!(text.parse::<Encoding>().unwrap().to_string(), text);
        }
        for bad in ["", "f64", "i5", "i0", "f32/64", "i4/0", "i4/7", "i4/x", "4"] {
            assert!(bad.parse::<Encoding>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn each_encoding_stays_within_its_scale() {
        let (values, base) = (wave(200), vec![0.5; 200]);
        let shifted: Vec<f32> = values.iter().map(|v| v + 0.5).collect();
        // The largest error allowed: half a scale for a change of at most 0.2, or what clipping may cost.
        for (text, bound) in
            [("f32", 0.0), ("f16", 0.0003), ("i8", 0.0009), ("i4", 0.02), ("i3", 0.05), ("i2", 0.13), ("i1", 0.2)]
        {
            let stored = Stored::encode(&shifted, Some(&base), text.parse().unwrap()).unwrap();
            let back = stored.values(Some(&base));
            let worst = back.iter().zip(&shifted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= bound, "{text}: largest error {worst}");
            assert_eq!(stored.len(), 200);
        }
    }

    #[test]
    fn groups_have_a_scale_each() {
        let mut values = wave(100);
        values[..50].iter_mut().for_each(|v| *v *= 100.0);
        let stored = Stored::encode(&values, None, "i8/50".parse().unwrap()).unwrap();
        let worst = stored.values(None)[50..].iter().zip(&values[50..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.0009, "{worst}");
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for (value, text) in [(f32::NAN, "f32"), (f32::INFINITY, "i4"), (1e6, "f16"), (1e9, "i8")] {
            assert!(Stored::encode(&[0.0, value], None, text.parse().unwrap()).is_err(), "{value} as {text}");
        }
    }
}
