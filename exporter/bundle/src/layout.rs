//! Where values lie in a bundle's files.
//!
//! In: slots or tensors, with their places. Out: nothing. Refused: gaps beyond a boundary, overlaps, and bytes that
//! belong to nothing.

use std::collections::BTreeSet;

use crate::{ALIGNMENT, Config, Error, Result, Slot};

/// Checks that the slots' values fill `base.bias`: first the zeros that modules without biases share, then those of
/// the others, one after the other.
pub(crate) fn check_base(config: &Config, slots: &[Slot], bytes: u64) -> Result<()> {
    let family = config.family;
    let named = |slot: &Slot| format!("base.bias, {}", slot.name);
    for slot in slots {
        let zero = family.lacks_bias(slot.module);
        if slot.zero != zero {
            let expected = format!("zero to be {zero} in family {}", family.name());
            return Err(Error::field(named(slot), expected, slot.zero));
        }
        if zero && slot.offset != 0 {
            return Err(Error::field(named(slot), "offset 0, as all zeros", slot.offset));
        }
    }
    let zeros = Some(4 * u64::from(config.shared_zeros()?)).filter(|zeros| *zeros > 0);
    let zeros = zeros.map(|zeros| ("the shared zeros", 0, Some(zeros)));
    let own = slots.iter().filter(|slot| !slot.zero);
    let own = own.map(|slot| (slot.name.as_str(), slot.offset, Some(4 * u64::from(slot.len))));
    check_tiling("base.bias", zeros.into_iter().chain(own), bytes)
}

/// Checks that parts follow each other on 64-byte boundaries and fill the file.
pub(crate) fn check_tiling<'a>(
    file: &str,
    parts: impl Iterator<Item = (&'a str, u64, Option<u64>)>,
    bytes: u64,
) -> Result<()> {
    let (mut end, mut names) = (0u64, BTreeSet::new());
    for (name, offset, len) in parts {
        let due = end.checked_next_multiple_of(ALIGNMENT);
        if due != Some(offset) {
            let due = due.map_or("a place within the file".into(), |due| format!("offset {due}"));
            return Err(Error::field(format!("{file}, {name}"), due, offset));
        }
        if !names.insert(name) {
            return Err(Error::field(format!("{file}, {name}"), "each name once", "it twice"));
        }
        end = len
            .and_then(|len| offset.checked_add(len))
            .filter(|end| *end <= bytes)
            .ok_or_else(|| Error::field(format!("{file}, {name}"), format!("to end within {bytes} bytes"), "beyond"))?;
    }
    if end != bytes {
        return Err(Error::Length { part: file.to_owned(), expected: end, found: bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bias_patch::Module;

    use super::*;
    use crate::{Family, Manifest};

    #[test]
    fn shared_zeros_come_first_and_other_slots_after_them() {
        let bert = include_str!("../tests/golden-v1-bert-f32.json");
        let config = Manifest::parse(bert.as_bytes()).unwrap().config;
        let config = Config { family: Family::Gte, layers: 1, pooler: false, ..config };
        // Zeros for the middle of 48 values take 192 bytes. The others have 32 values.
        let mut end = 192;
        let slots = config.slots().unwrap().into_iter().map(|(id, len)| {
            let zero = matches!(id.module, Module::Middle | Module::Gate);
            let offset = if zero { 0 } else { end };
            end += if zero { 0 } else { 128 };
            Slot { name: id.to_string(), module: id.module, layer: id.layer, len, offset, zero }
        });
        let slots: Vec<Slot> = slots.collect();
        assert_eq!((config.intermediate, end), (48, 192 + 8 * 128));
        check_base(&config, &slots, end).unwrap();
        let refused = |change: &dyn Fn(&mut Slot)| {
            let mut changed = slots.clone();
            changed.iter_mut().for_each(change);
            check_base(&config, &changed, end).unwrap_err().to_string()
        };
        for (found, due) in [
            (
                refused(&|slot| slot.zero |= slot.module == Module::Key),
                "base.bias, bk.0: expected zero to be false in family gte, found true",
            ),
            (
                refused(&|slot| slot.zero &= slot.module != Module::Gate),
                "base.bias, bgate.0: expected zero to be true in family gte, found false",
            ),
            (
                refused(&|slot| slot.offset += u64::from(slot.module == Module::Gate) * 64),
                "base.bias, bgate.0: expected offset 0, as all zeros, found 64",
            ),
            (refused(&|slot| slot.offset -= slot.offset.min(192)), "base.bias, beln: expected offset 192, found 0"),
        ] {
            assert_eq!(found, due);
        }
    }
}
