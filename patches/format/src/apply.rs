//! A patch on its encoder: whether it fits, what it sets there, and the same patch stored otherwise.
//!
//! In: a patch, the shape of an encoder, and the encoder's own values. Out: the values of every bias with the patch
//! applied, and its low-rank terms; or another patch. Refused: any other encoder than the one that the patch was made
//! for, slots and heads of other sizes, values that are not finite.

use crate::{
    Embedding, EncoderShape, Encoding, Error, Kind, Module, Patch, Pooling, Result, SlotId, SlotKind, Stored,
    StoredSlot, patch::other_part,
};

/// What a task sets in an encoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// The values of every bias of the encoder, in the order of [`EncoderShape::slots`].
    pub slots: Vec<Vec<f32>>,
    /// The low-rank terms of the task, in the order of the forward pass.
    pub low_rank: Vec<LowRank>,
}

impl Values {
    /// Those of a task without low-rank terms.
    pub fn of_slots(slots: &[Vec<f32>]) -> Self {
        Values { slots: slots.to_vec(), low_rank: Vec::new() }
    }
}

/// The low-rank term of a linear layer of K inputs and M outputs: it adds B (A x).
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// The number of the layer's bias among [`EncoderShape::slots`].
    pub slot: usize,
    /// r.
    pub rank: usize,
    /// A, `[r, K]`.
    pub a: Vec<f32>,
    /// B by columns, `[r, M]`.
    pub b: Vec<f32>,
}

impl Patch {
    /// Checks that the patch fits an encoder: digest, every slot's name and length, and the head's width.
    ///
    /// # Errors
    /// Naming the first thing that does not fit.
    pub fn check(&self, encoder: &EncoderShape) -> Result<()> {
        if self.encoder != encoder.digest {
            return Err(Error::OtherEncoder { expected: self.encoder, found: encoder.digest });
        }
        let mut ranks = Vec::new();
        for stored in &self.slots {
            let bias = SlotId { kind: SlotKind::Bias, ..stored.id };
            let slot = encoder
                .slots
                .iter()
                .find(|slot| slot.id == bias)
                .ok_or(Error::NoSuchSlot { slot: stored.id, layers: encoder.layers })?;
            if stored.id == bias && bias.module == Module::Key && !encoder.key_bias_counts {
                let expected = "none, for the key's bias has no effect in this encoder";
                return Err(Error::field(format!("slot {bias}"), expected, "one"));
            }
            if stored.id.kind.is_low_rank() && slot.inputs.is_none() {
                let expected = "none, for this encoder takes no low-rank term there";
                return Err(Error::field(format!("slot {} ({})", stored.id, slot.name), expected, "one"));
            }
            let (found, len, inputs) =
                (stored.values.len() as u64, u64::from(slot.len), u64::from(slot.inputs.unwrap_or_default()));
            let field = || format!("slot {} ({})", stored.id, slot.name);
            let width = match stored.id.kind {
                SlotKind::Bias if found == len => continue,
                SlotKind::Bias => return Err(Error::field(field(), format!("{len} values"), found)),
                SlotKind::LoraA => inputs,
                SlotKind::LoraB => len,
            };
            let rank = found.checked_div(width).filter(|rank| rank * width == found && *rank <= inputs.min(len));
            let expected = || format!("1 to {} times {width} values", inputs.min(len));
            ranks.push((stored.id, rank.ok_or_else(|| Error::field(field(), expected(), found))?));
        }
        // A and B follow each other, because both are there.
        for pair in ranks.chunks(2) {
            if let [(a, rank), (b, other)] = pair
                && rank != other
            {
                return Err(Error::field(
                    format!("slot {b}"),
                    format!("rank {rank}, as {a} has"),
                    format!("rank {other}"),
                ));
            }
        }
        if let Some((name, first)) = self.head.linears().next().filter(|(_, first)| first.inputs != encoder.hidden) {
            return Err(Error::field(format!("{name} weight"), format!("{} columns", encoder.hidden), first.inputs));
        }
        if let Kind::Embedding(Embedding { dimensions: Some(dimensions), .. }) = self.task.kind() {
            let width = self.head.outputs().unwrap_or(encoder.hidden);
            if *dimensions > width {
                return Err(Error::field(
                    "dimensions",
                    format!("at most {width}, the width of the vector"),
                    dimensions,
                ));
            }
        }
        if self.task.max_length() > encoder.max_length {
            let expected =
                format!("at most {}, as the encoder takes (a task that does not say has 128)", encoder.max_length);
            return Err(Error::field("max_length", expected, self.task.max_length()));
        }
        if self.task.kind().pooling() == Some(Pooling::Pooler) && !encoder.pooler {
            return Err(Error::field("pooling", "cls, mean or last, for the encoder has no pooler", "pooler"));
        }
        Ok(())
    }

    /// What this patch sets in the encoder; `base` has the encoder's own values of `encoder.slots`, in that order.
    ///
    /// # Errors
    /// As [`Patch::check`], when `base` has other slots than the encoder, or when a value is not finite.
    pub fn apply(&self, encoder: &EncoderShape, base: &[Vec<f32>]) -> Result<Values> {
        self.check(encoder)?;
        if base.len() != encoder.slots.len() {
            return Err(Error::field("base values", format!("{} slots", encoder.slots.len()), base.len()));
        }
        let stored = |id: SlotId, base: Option<&[f32]>| -> Result<Option<Vec<f32>>> {
            let Some(stored) = self.slots.iter().find(|stored| stored.id == id) else { return Ok(None) };
            let values = stored.values.values(base);
            match values.iter().position(|v| !v.is_finite()) {
                Some(bad) => Err(Error::field(format!("slot {id}, value {bad}"), "a finite number", values[bad])),
                None => Ok(Some(values)),
            }
        };
        let mut applied = Values { slots: base.to_vec(), low_rank: Vec::new() };
        for (at, (slot, base)) in encoder.slots.iter().zip(base).enumerate() {
            if base.len() as u64 != u64::from(slot.len) {
                let field = format!("base values of slot {} ({})", slot.id, slot.name);
                return Err(Error::field(field, format!("{} values", slot.len), base.len()));
            }
            if let Some(values) = stored(slot.id, Some(base))? {
                applied.slots[at] = values;
            }
            let part = |kind| stored(SlotId { kind, ..slot.id }, None);
            if let (Some(a), Some(b)) = (part(SlotKind::LoraA)?, part(SlotKind::LoraB)?) {
                applied.low_rank.push(LowRank { slot: at, rank: b.len() / base.len(), a, b });
            }
        }
        Ok(applied)
    }

    /// The same patch with its slots and head stored otherwise. Biases that this leaves equal to the base are dropped,
    /// and low-rank terms that it leaves zero.
    ///
    /// # Errors
    /// When the patch does not fit the encoder, or a value cannot be stored so.
    pub fn convert(&self, encoder: &EncoderShape, base: &[Vec<f32>], slots: Encoding, head: Encoding) -> Result<Self> {
        self.convert_each(encoder, base, |_| Some(slots), |_| head)
    }

    /// As [`Patch::convert`], with an encoding for each slot, none leaving it out (of a low-rank term, both parts), and
    /// for each array of the head: by number, each layer's weight and then its bias.
    ///
    /// # Errors
    /// As [`Patch::convert`].
    pub fn convert_each(
        &self,
        encoder: &EncoderShape,
        base: &[Vec<f32>],
        slots: impl Fn(SlotId) -> Option<Encoding>,
        head: impl Fn(usize) -> Encoding,
    ) -> Result<Self> {
        self.apply(encoder, base)?;
        let mut converted = self.clone();
        converted.slots.clear();
        let mut dropped = Vec::new();
        for stored in &self.slots {
            let bias = SlotId { kind: SlotKind::Bias, ..stored.id };
            let at = encoder.slots.iter().position(|slot| slot.id == bias).filter(|_| stored.id == bias);
            let base = at.and_then(|at| base.get(at)).map(Vec::as_slice);
            let Some(encoding) = slots(stored.id) else {
                dropped.push(stored.id);
                continue;
            };
            let values = stored.values.values(base);
            let encoded = Stored::encode(&values, base, encoding)
                .map_err(|e| Error::field(format!("slot {}", stored.id), format!("values that {encoding} holds"), e))?;
            let decoded = encoded.values(base);
            if base.map_or_else(|| decoded.iter().all(|v| *v == 0.0), |base| decoded == base) {
                dropped.push(stored.id);
            } else {
                converted.slots.push(StoredSlot { id: stored.id, values: encoded });
            }
        }
        for id in dropped {
            let other = other_part(id)?;
            converted.slots.retain(|slot| Some(slot.id) != other);
        }
        let linears = converted.head.linears_mut();
        for (at, array) in linears.flat_map(|linear| [&mut linear.weight, &mut linear.bias]).enumerate() {
            let encoding = head(at);
            *array = Stored::encode(&array.values(None), None, encoding)
                .map_err(|e| Error::field("head", format!("values that {encoding} holds"), e))?;
        }
        Ok(converted)
    }
}
