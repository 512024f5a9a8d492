//! The quantized values of a patch as bytes: packed to their width, or entropy-coded where that is smaller.
//!
//! In: runs of quantized values, each of one width. Out: bytes, and with entropy coding a frequency table for each
//! width. Refused on reading: values outside their range, tables that are not distributions, streams that do not end
//! with the last value. The layout is in `FORMAT.md`.

use constriction::stream::{
    Decode,
    model::{ContiguousCategoricalEntropyModel, SmallContiguousLookupDecoderModel},
    stack::SmallAnsCoder,
};

use crate::{Encoding, Error, Result};

/// Frequencies sum to `1 << PRECISION`.
const PRECISION: usize = 12;
/// Entropy coding may not claim more values than this for a byte, so that a small file never asks for much memory.
const MAX_VALUES_PER_BYTE: usize = 64;

/// How often each quantized value of one width occurs, lowest first, as parts of 4096; none is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frequencies {
    pub(crate) bits: u8,
    pub(crate) counts: Vec<u16>,
}

/// A quantized value as an unsigned symbol: its distance from the lowest.
fn symbol(quantized: i8, bits: u8) -> u16 {
    let lowest = if bits == 1 { -1 } else { -((Encoding::levels(bits) / 2) as i16) };
    let distance = (i16::from(quantized) - lowest) as u16;
    if bits == 1 { distance / 2 } else { distance }
}

/// The reverse of [`symbol`].
fn quantized(symbol: u16, bits: u8) -> i8 {
    if bits == 1 {
        if symbol == 0 { -1 } else { 1 }
    } else {
        (symbol as i16 - (Encoding::levels(bits) / 2) as i16) as i8
    }
}

/// Bytes that `len` packed values take.
pub(crate) fn packed_bytes(len: usize, bits: u8) -> Option<usize> {
    Some(len.checked_mul(usize::from(bits))?.div_ceil(8))
}

/// Packs quantized values, lowest bits first.
pub(crate) fn pack(values: &[i8], bits: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packed_bytes(values.len(), bits).unwrap_or(0));
    let (mut pending, mut filled) = (0u32, 0);
    for value in values {
        pending |= u32::from(symbol(*value, bits)) << filled;
        filled += u32::from(bits);
        while filled >= 8 {
            bytes.push(pending as u8);
            pending >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        bytes.push(pending as u8);
    }
    bytes
}

/// Reads `len` quantized values from exactly the bytes [`pack`] makes of them.
pub(crate) fn unpack(bytes: &[u8], len: usize, bits: u8) -> Result<Vec<i8>> {
    let mut values = room_for(len)?;
    let (mut pending, mut filled, mut bytes) = (0u32, 0u8, bytes.iter());
    for at in 0..len {
        while filled < bits {
            pending |= u32::from(bytes.next().copied().unwrap_or(0)) << filled;
            filled += 8;
        }
        let symbol = (pending & ((1 << bits) - 1)) as u16;
        if symbol >= Encoding::levels(bits) {
            return Err(Error::field(
                format!("quantized value {at}"),
                format!("below {}", Encoding::levels(bits)),
                symbol,
            ));
        }
        values.push(quantized(symbol, bits));
        pending >>= bits;
        filled -= bits;
    }
    if pending != 0 {
        return Err(Error::field("bits after the last value", "zeros", format!("{pending:#b}")));
    }
    Ok(values)
}

/// An empty list with room for `len` values. One byte of a file may stand for many values, so on a 32-bit system this
/// may fail.
fn room_for(len: usize) -> Result<Vec<i8>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::field("quantized values", "as many as memory holds", len))?;
    Ok(values)
}

/// Entropy-codes all runs as one stream; `None` when that would be refused on reading.
pub(crate) fn compress(runs: &[(u8, &[i8])]) -> Option<(Vec<Frequencies>, Vec<u8>)> {
    let tables: Vec<Frequencies> =
        Encoding::BITS.into_iter().filter_map(|bits| Frequencies::count(runs, bits)).collect();
    let mut coder = SmallAnsCoder::new();
    // A stack: what is written last is read first.
    for (bits, values) in runs.iter().rev() {
        let table = tables.iter().find(|t| t.bits == *bits)?;
        let model =
            ContiguousCategoricalEntropyModel::<u16, Vec<u16>, PRECISION>::from_nonzero_fixed_point_probabilities(
                table.counts.iter().copied(),
                false,
            )
            .ok()?;
        coder.encode_iid_symbols_reverse(values.iter().map(|v| usize::from(symbol(*v, *bits))), &model).ok()?;
    }
    let bytes: Vec<u8> = coder.into_compressed().ok()?.iter().flat_map(|word| word.to_le_bytes()).collect();
    let total: usize = runs.iter().map(|(_, values)| values.len()).sum();
    (total <= bytes.len().saturating_mul(MAX_VALUES_PER_BYTE)).then_some((tables, bytes))
}

/// Reads the runs of the given widths and lengths from a stream of [`compress`].
pub(crate) fn decompress(tables: &[Frequencies], bytes: &[u8], runs: &[(u8, usize)]) -> Result<Vec<Vec<i8>>> {
    let total = runs.iter().try_fold(0usize, |sum, (_, len)| sum.checked_add(*len));
    if total.is_none_or(|total| total > bytes.len().saturating_mul(MAX_VALUES_PER_BYTE)) {
        let found = total.map_or("more than memory holds".into(), |t| t.to_string());
        return Err(Error::field(
            "values in the entropy-coded stream",
            format!("at most {MAX_VALUES_PER_BYTE} a byte"),
            found,
        ));
    }
    let (words, odd) = bytes.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(Error::field("entropy-coded stream", "an even number of bytes", bytes.len()));
    }
    let words: Vec<u16> = words.iter().map(|w| u16::from_le_bytes(*w)).collect();
    let mut coder = SmallAnsCoder::from_compressed(words)
        .map_err(|_| Error::field("entropy-coded stream", "a last word other than zero", "zero"))?;
    let mut models = Vec::new();
    for table in tables {
        models.push((table.bits, table.model()?));
    }
    let mut all = Vec::with_capacity(runs.len());
    for (bits, len) in runs {
        let (_, model) = models
            .iter()
            .find(|(b, _)| b == bits)
            .ok_or_else(|| Error::field(format!("frequencies of {bits}-bit values"), "a table", "none"))?;
        let mut values = room_for(*len)?;
        for symbol in coder.decode_iid_symbols(*len, model) {
            // Infallible for a stack held in memory: past its end it reads zeros, which the check below finds.
            let symbol = symbol.map_err(|_| Error::field("entropy-coded stream", "more data", "its end"))?;
            values.push(quantized(symbol as u16, *bits));
        }
        all.push(values);
    }
    if !coder.is_empty() {
        return Err(Error::field("entropy-coded stream", "to end with the last value", "a different end"));
    }
    Ok(all)
}

impl Frequencies {
    /// Counts the values of one width in all runs and scales the counts to parts of 4096.
    fn count(runs: &[(u8, &[i8])], bits: u8) -> Option<Self> {
        let mut counts = vec![0u64; usize::from(Encoding::levels(bits))];
        for (_, values) in runs.iter().filter(|(b, _)| *b == bits) {
            values.iter().for_each(|v| counts[usize::from(symbol(*v, bits))] += 1);
        }
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        // Every symbol gets one part, so that none has probability zero; the rest go by frequency.
        let spare = (1u64 << PRECISION) - counts.len() as u64;
        let mut parts: Vec<u16> = counts.iter().map(|c| 1 + (c * spare / total) as u16).collect();
        // The remainder of rounding down goes to the most frequent symbol.
        let left = (1u16 << PRECISION) - parts.iter().sum::<u16>();
        *parts.iter_mut().max().expect("every width has symbols") += left;
        Some(Frequencies { bits, counts: parts })
    }

    fn model(&self) -> Result<SmallContiguousLookupDecoderModel> {
        let field = || format!("frequencies of {}-bit values", self.bits);
        if !Encoding::BITS.contains(&self.bits) {
            return Err(Error::field(field(), "a width of 8, 4, 3, 2 or 1 bits", self.bits));
        }
        let sum: u64 = self.counts.iter().map(|c| u64::from(*c)).sum();
        let levels = usize::from(Encoding::levels(self.bits));
        if self.counts.len() != levels || self.counts.contains(&0) || sum != 1 << PRECISION {
            let found = format!("{} numbers that sum to {sum}", self.counts.len());
            return Err(Error::field(field(), format!("{levels} numbers above 0 that sum to 4096"), found));
        }
        SmallContiguousLookupDecoderModel::from_nonzero_fixed_point_probabilities(&self.counts, false)
            .map_err(|()| Error::field(field(), "a distribution", "another list"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantized values of one width from a fixed linear congruential generator, zero more often than the rest.
    fn random_values(len: usize, bits: u8) -> Vec<i8> {
        let mut state = 12345u32;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                let levels = u32::from(Encoding::levels(bits));
                let (a, b) = ((state >> 8) % levels, (state >> 20) % levels);
                quantized(((a + b) / 2) as u16, bits)
            })
            .collect()
    }

    #[test]
    fn packed_values_read_back() {
        for bits in Encoding::BITS {
            for len in [0, 1, 7, 8, 9, 384] {
                let values = random_values(len, bits);
                let bytes = pack(&values, bits);
                assert_eq!(bytes.len(), packed_bytes(len, bits).unwrap());
                assert_eq!(unpack(&bytes, len, bits).unwrap(), values, "{bits} bits, {len} values");
            }
        }
        assert!(unpack(&[0xff], 1, 8).is_err(), "a value above the highest");
        assert!(unpack(&[0b0001_0000], 1, 4).is_err(), "bits after the last value");
    }

    #[test]
    fn compressed_values_read_back_and_are_smaller() {
        let runs: Vec<(u8, Vec<i8>)> =
            Encoding::BITS.into_iter().map(|bits| (bits, random_values(3000, bits))).collect();
        let borrowed: Vec<(u8, &[i8])> = runs.iter().map(|(b, c)| (*b, c.as_slice())).collect();
        let (tables, bytes) = compress(&borrowed).unwrap();
        let packed: usize = runs.iter().map(|(b, c)| packed_bytes(c.len(), *b).unwrap()).sum();
        assert!(bytes.len() < packed, "{} bytes coded, {packed} packed", bytes.len());
        let shape: Vec<(u8, usize)> = runs.iter().map(|(b, c)| (*b, c.len())).collect();
        let back = decompress(&tables, &bytes, &shape).unwrap();
        assert_eq!(back, runs.iter().map(|(_, c)| c.clone()).collect::<Vec<_>>());

        let cut = decompress(&tables, &bytes[..bytes.len() - 2], &shape);
        assert!(cut.is_err(), "a cut stream was accepted");
        let more = [(8, 3000), (4, 3000), (3, 3000), (2, 3000), (1, 1 << 30)];
        assert!(decompress(&tables, &bytes, &more).unwrap_err().to_string().contains("at most 64 a byte"));
    }

    #[test]
    fn tables_that_are_no_distribution_are_refused() {
        for counts in [vec![], vec![4096, 0], vec![2048], vec![2048, 2047], vec![65535, 65535], vec![2048, 1024, 1024]]
        {
            let table = Frequencies { bits: 1, counts };
            assert!(decompress(std::slice::from_ref(&table), &[1, 1], &[(1, 4)]).is_err(), "{table:?} was accepted");
        }
    }
}
