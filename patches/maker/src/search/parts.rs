//! The parts of a patch that have an encoding each, the levels that a part may be stored at, and the order in which
//! levels are taken.
//!
//! In: a patch. Out: [`Part`]s; once effects are measured, [`Step`]s from exact to nothing. A part is a bias, a low-rank
//! term or the weight of the head. Its arrays are the bias or the weight, or A and B of the term, which have encodings of
//! their own but are left out together.

use bias_patch::{Encoding, Head as PatchHead, Linear, Patch, SlotId, SlotKind, Stored, StoredSlot, Values};
use edge_bundle::Manifest;
use edge_run::Encoder;

use super::state::State;
use crate::Result;

/// Where the values of an array are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// The bias of the slot of this number.
    Bias(usize),
    /// A of the low-rank term of this number.
    A(usize),
    /// B of it.
    B(usize),
    /// The head's weight.
    Head,
}

/// An array of values: the smallest thing that has an encoding.
pub(super) struct Array {
    pub place: Place,
    /// Its slot; none for the head.
    pub id: Option<SlotId>,
    pub values: Vec<f32>,
    /// What a bias is stored as a change from.
    pub base: Option<Vec<f32>>,
    pub rungs: Vec<Rung>,
    /// The effect of leaving it out; none where it cannot be left out.
    pub dropped: f64,
}

/// One encoding of an array.
pub(super) struct Rung {
    pub encoding: Encoding,
    /// About how many bytes it takes.
    pub bytes: f64,
    /// What it changes in the values.
    pub change: Vec<f32>,
    /// The divergence that the change makes, once it is measured.
    pub effect: f64,
}

/// Arrays that are stored together or not at all.
pub(super) struct Part {
    pub name: String,
    pub arrays: Vec<Array>,
}

/// The encoding of each array of a part; none where the part is left out.
pub(super) type Level = Option<Vec<Encoding>>;

/// One step of one part to fewer bytes.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub part: usize,
    pub to: Level,
    /// Its effect for each byte it saves.
    slope: f64,
    /// The effect that it adds.
    pub effect: f64,
}

impl Array {
    fn new(place: Place, id: Option<SlotId>, values: &[f32], base: Option<&[f32]>, row: usize) -> Result<Self> {
        let fine = [Encoding::F32, Encoding::F16, Encoding::Delta { bits: 8, group: 0 }];
        // A scale for each row of a matrix; of a vector, for each 64 values.
        let row = u32::try_from(row).ok().filter(|row| (8..=1 << 20).contains(row) && (*row as usize) < values.len());
        let groups = [Some(64), row, Some(0)];
        let coarse = [4, 3, 2, 1]
            .into_iter()
            .flat_map(|bits| groups.into_iter().flatten().map(move |group| Encoding::Delta { bits, group }));
        let mut rungs = Vec::new();
        for encoding in fine.into_iter().chain(coarse) {
            let stored = Stored::encode(values, base, encoding)?;
            let change = stored.values(base).iter().zip(values).map(|(found, exact)| found - exact).collect();
            rungs.push(Rung { encoding, bytes: bytes(&stored), change, effect: 0.0 });
        }
        Ok(Array { place, id, values: values.to_vec(), base: base.map(<[f32]>::to_vec), rungs, dropped: 0.0 })
    }

    /// What leaving the array out changes in the values.
    pub fn without(&self) -> Vec<f32> {
        match (&self.base, self.place) {
            (Some(base), _) => base.iter().zip(&self.values).map(|(base, value)| base - value).collect(),
            // Without B there is no term, whatever A is.
            (None, Place::A(_)) => vec![0.0; self.values.len()],
            (None, _) => self.values.iter().map(|value| -value).collect(),
        }
    }
}

/// All parts of a patch: its biases and terms in the order of the forward pass, then the head.
pub(super) fn parts(encoder: &Encoder, patch: &Patch, state: &State) -> Result<Vec<Part>> {
    let manifest = encoder.bundle().manifest();
    let mut parts = Vec::new();
    let of_slots = manifest.slots.iter().zip(&state.values.slots).zip(encoder.base().slots());
    for (at, ((slot, values), base)) in of_slots.enumerate() {
        let id = slot.id();
        if patch.slots().iter().any(|stored| stored.id == id) {
            let array = Array::new(Place::Bias(at), Some(id), values, Some(base), 0)?;
            parts.push(Part { name: id.to_string(), arrays: vec![array] });
        }
        for (number, term) in state.values.low_rank.iter().enumerate().filter(|(_, term)| term.slot == at) {
            let [a, b] = [SlotKind::LoraA, SlotKind::LoraB].map(|kind| id.with_kind(kind));
            let arrays = vec![
                Array::new(Place::A(number), Some(a?), &term.a, None, term.a.len() / term.rank)?,
                Array::new(Place::B(number), Some(b?), &term.b, None, term.b.len() / term.rank)?,
            ];
            parts.push(Part { name: term_name(manifest, at), arrays });
        }
    }
    if let Some(output) = &patch.head().output {
        let weight = output.weight.values(None);
        let head = Array::new(Place::Head, None, &weight, None, output.inputs as usize)?;
        parts.push(Part { name: "head".to_owned(), arrays: vec![head] });
    }
    Ok(parts)
}

fn term_name(manifest: &Manifest, slot: usize) -> String {
    let id = manifest.slots[slot].id();
    let layer = id.layer.map_or(String::new(), |layer| format!(".{layer}"));
    format!("lora.{}{layer}", id.module.short())
}

/// About how many bytes an array takes in a file, where integers are entropy-coded.
fn bytes(stored: &Stored) -> f64 {
    match stored {
        Stored::F32(values) => 4.0 * values.len() as f64,
        Stored::F16(values) => 2.0 * values.len() as f64,
        Stored::Delta { scales, quantized, .. } => {
            let mut counts = [0u32; 256];
            quantized.iter().for_each(|value| counts[usize::from(value.cast_unsigned())] += 1);
            let fraction = |count: u32| f64::from(count) / quantized.len() as f64;
            let bits = |count: u32| -f64::from(count) * fraction(count).log2();
            let bits: f64 = counts.into_iter().filter(|count| *count > 0).map(bits).sum();
            2.0 * scales.len() as f64 + bits / 8.0
        }
    }
}

/// Bytes that a slot takes beside its values: its number, its length and its encoding.
const SLOT_BYTES: f64 = 7.0;

/// All steps of all parts, in the order of their effect for each byte saved.
pub(super) fn steps(parts: &[Part]) -> Vec<Step> {
    let mut steps: Vec<Step> = parts.iter().enumerate().flat_map(|(at, part)| steps_of(at, part)).collect();
    // Stable: of equal slopes the earlier part's comes first, and a part's own steps stay in their order.
    steps.sort_by(|a, b| a.slope.total_cmp(&b.slope));
    steps
}

/// A level with its bytes and effect.
struct Point {
    level: Level,
    bytes: f64,
    effect: f64,
}

fn steps_of(at: usize, part: &Part) -> Vec<Step> {
    // What the arrays of a part change adds up. So its levels are those on the way of the cheapest steps of its arrays.
    let ladders: Vec<Vec<usize>> = part
        .arrays
        .iter()
        .map(|array| hull(&array.rungs.iter().map(|rung| (rung.bytes, rung.effect)).collect::<Vec<_>>()))
        .collect();
    let rung = |array: usize, on: usize| &part.arrays[array].rungs[ladders[array][on]];
    let point = |state: &[usize]| {
        let each = || state.iter().enumerate().map(|(array, on)| rung(array, *on));
        Point {
            level: Some(each().map(|rung| rung.encoding).collect()),
            bytes: each().map(|rung| rung.bytes + SLOT_BYTES).sum(),
            effect: each().map(|rung| rung.effect).sum(),
        }
    };
    let mut state = vec![0; part.arrays.len()];
    let mut points = vec![point(&state)];
    loop {
        let next = (0..state.len()).filter(|array| state[*array] + 1 < ladders[*array].len()).min_by(|a, b| {
            let slope = |array: usize| {
                let (from, to) = (rung(array, state[array]), rung(array, state[array] + 1));
                (to.effect - from.effect).max(0.0) / (from.bytes - to.bytes)
            };
            slope(*a).total_cmp(&slope(*b))
        });
        let Some(array) = next else { break };
        state[array] += 1;
        points.push(point(&state));
    }
    // The head's weight has to be there.
    if part.arrays.iter().all(|array| array.place != Place::Head) {
        let effect = part.arrays.iter().map(|array| array.dropped).sum();
        points.push(Point { level: None, bytes: 0.0, effect });
    }
    let way = hull(&points.iter().map(|point| (point.bytes, point.effect)).collect::<Vec<_>>());
    let step = |pair: &[usize]| {
        let (from, to) = (&points[pair[0]], &points[pair[1]]);
        let effect = (to.effect - from.effect).max(0.0);
        Step { part: at, to: to.level.clone(), slope: effect / (from.bytes - to.bytes), effect }
    };
    way.windows(2).map(step).collect()
}

/// The points `(bytes, effect)` on the lower convex hull of effect over bytes, from the first down to fewer bytes.
fn hull(points: &[(f64, f64)]) -> Vec<usize> {
    let (mut way, mut from) = (vec![0], 0);
    loop {
        let slope = |to: usize| (points[to].1 - points[from].1).max(0.0) / (points[from].0 - points[to].0);
        let saves = (0..points.len()).filter(|to| points[*to].0 < points[from].0);
        // Of equal slopes the one that goes furthest.
        let best = saves.min_by(|a, b| slope(*a).total_cmp(&slope(*b)).then(points[*a].0.total_cmp(&points[*b].0)));
        let Some(to) = best else { return way };
        way.push(to);
        from = to;
    }
}

/// The levels of all parts after some steps; all exact after none.
pub(super) fn after(parts: &[Part], steps: &[Step]) -> Vec<Level> {
    let mut levels: Vec<Level> = parts.iter().map(|part| Some(vec![Encoding::F32; part.arrays.len()])).collect();
    steps.iter().for_each(|step| levels[step.part] = step.to.clone());
    levels
}

/// The encoding of an array at a level.
pub(super) fn encoding(level: &Level, array: usize) -> Option<Encoding> {
    level.as_ref().map(|encodings| encodings[array])
}

/// The patch with each part at its level; `values` has those of each array, one after the other, and `bias` those of the
/// head, which are few and stay in f16.
pub(super) fn build(
    encoder: &Encoder,
    patch: &Patch,
    parts: &[Part],
    levels: &[Level],
    values: &[Vec<f32>],
    bias: &[f32],
) -> Result<Patch> {
    let mut slots: Vec<StoredSlot> = Vec::new();
    let mut head = patch.head().output.clone();
    let mut encodings: Vec<(SlotId, Encoding)> = Vec::new();
    let mut of_head = Encoding::F32;
    let arrays =
        parts.iter().zip(levels).flat_map(|(part, level)| part.arrays.iter().enumerate().map(move |a| (a, level)));
    for (((at, array), level), values) in arrays.zip(values) {
        let Some(encoding) = encoding(level, at) else { continue };
        match array.id {
            Some(id) => {
                slots.push(StoredSlot { id, values: Stored::F32(values.clone()) });
                encodings.push((id, encoding));
            }
            None => {
                head = Some(Linear::exact(values, bias)?);
                of_head = encoding;
            }
        }
    }
    slots.sort_by_key(|slot| slot.id);
    let head = PatchHead { dense: None, output: head };
    let exact = Patch::new(patch.encoder(), patch.task().clone(), slots, head, patch.metadata().clone())?;
    let slot = |wanted: SlotId| encodings.iter().find(|(id, _)| *id == wanted).map(|(_, encoding)| *encoding);
    let head = |array: usize| if array == 0 { of_head } else { Encoding::F16 };
    let shape = encoder.bundle().manifest().shape();
    Ok(exact.convert_each(&shape, encoder.base().slots(), slot, head)?)
}

/// What a task sets with `arrays` in place of those of its parts; parts that are left out are the encoder's, and terms
/// without B are no terms.
pub(super) fn with_arrays(
    exact: &State,
    base: &[Vec<f32>],
    parts: &[Part],
    arrays: &[Option<Vec<f32>>],
    bias: &[f32],
) -> State {
    let mut values = exact.values.clone();
    let mut head = Vec::new();
    for (array, new) in parts.iter().flat_map(|part| &part.arrays).zip(arrays) {
        match (array.place, new) {
            (Place::Bias(at), Some(new)) => values.slots[at].clone_from(new),
            (Place::Bias(at), None) => values.slots[at].clone_from(&base[at]),
            (Place::A(at), Some(new)) => values.low_rank[at].a.clone_from(new),
            (Place::B(at), Some(new)) => values.low_rank[at].b.clone_from(new),
            // Its B is zero too: the term adds nothing.
            (Place::A(_), None) => {}
            (Place::B(at), None) => values.low_rank[at].b.fill(0.0),
            (Place::Head, Some(new)) => head.clone_from(new),
            (Place::Head, None) => {}
        }
    }
    head.extend(bias);
    State { values, head }
}

/// The values of an array among those of a task.
pub(super) fn array_of<'a>(place: Place, values: &'a Values, head: &'a [f32], weight: usize) -> &'a [f32] {
    match place {
        Place::Bias(at) => &values.slots[at],
        Place::A(at) => &values.low_rank[at].a,
        Place::B(at) => &values.low_rank[at].b,
        Place::Head => &head[..weight],
    }
}

#[cfg(test)]
mod tests {
    use bias_patch::Module;

    use super::*;

    fn wave(len: usize) -> Vec<f32> {
        (0..len).map(|at| (at as f32 * 0.37).sin() * 0.1).collect()
    }

    #[test]
    fn the_hull_is_the_lower_one() {
        // 40 bytes lie above the line from 50 to 20.
        let points = [(100.0, 0.0), (50.0, 1.0), (40.0, 9.0), (20.0, 4.0), (0.0, 20.0)];
        assert_eq!(hull(&points), [0, 1, 3, 4]);
        // What has no effect is left out at once.
        assert_eq!(hull(&points.map(|(bytes, _)| (bytes, 0.0))), [0, 4]);
    }

    #[test]
    fn coarser_encodings_take_fewer_bytes_and_change_more() {
        let base = vec![0.5f32; 384];
        let values: Vec<f32> = wave(384).iter().map(|value| 0.5 + value).collect();
        let id = SlotId::new(Module::Query, Some(0)).unwrap();
        let array = Array::new(Place::Bias(0), Some(id), &values, Some(&base), 0).unwrap();
        let names: Vec<String> = array.rungs.iter().map(|rung| rung.encoding.to_string()).collect();
        assert_eq!(names, ["f32", "f16", "i8", "i4/64", "i4", "i3/64", "i3", "i2/64", "i2", "i1/64", "i1"]);
        let squares = |change: &[f32]| change.iter().map(|c| f64::from(*c).powi(2)).sum::<f64>();
        let of = |name: &str| {
            let rung = &array.rungs[names.iter().position(|known| known == name).unwrap()];
            (rung.bytes, squares(&rung.change))
        };
        assert_eq!(of("f32"), (1536.0, 0.0));
        for pair in ["i8", "i4", "i3", "i2", "i1"].windows(2) {
            assert!(of(pair[0]).0 > of(pair[1]).0 && of(pair[0]).1 < of(pair[1]).1, "{pair:?}");
        }
        assert!(array.without().iter().zip(&values).all(|(change, value)| (value + change - 0.5).abs() < 1e-6));
    }

    #[test]
    fn a_term_is_left_out_whole() {
        let id = SlotId::new(Module::Query, Some(0)).unwrap();
        let array = |place, kind, values: &[f32], row| {
            Array::new(place, Some(id.with_kind(kind).unwrap()), values, None, row).unwrap()
        };
        let mut part = Part {
            name: "lora.q.0".to_owned(),
            arrays: vec![
                array(Place::A(0), SlotKind::LoraA, &wave(64), 32),
                array(Place::B(0), SlotKind::LoraB, &wave(64), 32),
            ],
        };
        // A row has a scale of its own.
        let named = |name: &str| part.arrays[0].rungs.iter().any(|rung| rung.encoding.to_string() == name);
        assert!(named("i2/32") && named("i4/32"));
        for array in &mut part.arrays {
            for rung in &mut array.rungs {
                rung.effect = rung.change.iter().map(|change| f64::from(*change).powi(2)).sum();
            }
            array.dropped = array.without().iter().map(|change| f64::from(*change).powi(2)).sum();
        }
        assert_eq!(part.arrays[0].dropped, 0.0);
        let steps = steps(&[part]);
        assert!(steps.windows(2).all(|pair| pair[0].slope <= pair[1].slope));
        assert!(steps.len() > 2 && steps.iter().all(|step| step.to.as_ref().is_none_or(|level| level.len() == 2)));
        assert!(steps.last().unwrap().to.is_none() && steps[..steps.len() - 1].iter().all(|step| step.to.is_some()));
    }
}
