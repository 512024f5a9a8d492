//! Searches for the smallest encoding of a patch that still reaches a least score.
//!
//! In: a patch, labelled texts, and the least score. Out: the patch with an own encoding for each slot and each layer
//! of the head, or without some slots. Refused: a least score that the patch itself does not reach.
//!
//! The order of the search is fixed, so the same input gives the same patch:
//!
//! 1. Sensitivity: each part alone is stored in two bits, and each slot alone is left out. The change of the
//!    predictions on some of the texts is measured. The effect of other encodings is estimated as proportional to the
//!    squared error of their values.
//! 2. Candidates: for each part, the encodings on the lower convex hull of effect over bytes. Each step along a hull,
//!    to fewer bytes, has a cost: effect for each byte saved. The steps of all parts are sorted by cost.
//! 3. Bisection finds the largest number of steps, cheapest first, with which the patch still reaches the least score.
//! 4. The remaining steps are tried one by one. After a step that fails, its part is not changed further.

use bias_patch::{Encoding, Patch, SlotId, Stored};
use edge_bundle::{Base, Manifest};
use edge_run::{Encoder, Prediction, tasks};

use crate::{
    Error, Result,
    data::Example,
    evaluate::{answers, compare},
};

/// The size and score of a patch in some encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The name of the encoding.
    pub name: String,
    /// Bytes of the file.
    pub bytes: usize,
    /// Its score.
    pub score: f64,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Searched {
    /// The smallest patch.
    pub patch: Patch,
    /// Its size and score.
    pub point: Point,
    /// The encoding of each part; none for a slot that is left out.
    pub parts: Vec<(String, Option<Encoding>)>,
}

/// The size and score of a patch as it is, and with all slots in one encoding and the head in f16, from fine to coarse.
///
/// # Errors
/// When the patch does not fit the encoder.
pub fn uniform(encoder: &Encoder, patch: &Patch, texts: &[Example], metric: &str) -> Result<Vec<Point>> {
    let mut progress = |_, _| ();
    let mut trial = Trial { encoder, patch, texts, metric, parts: Vec::new(), tried: 0, progress: &mut progress };
    let mut points = vec![trial.point(patch, "as it is")?];
    let bits = Encoding::BITS.map(|bits| Encoding::Delta { bits, group: 0 });
    for encoding in [Encoding::F32, Encoding::F16].into_iter().chain(bits) {
        let converted =
            patch.convert(&encoder.bundle().manifest().shape(), encoder.base().slots(), encoding, Encoding::F16)?;
        points.push(trial.point(&converted, &encoding.to_string())?);
    }
    Ok(points)
}

/// Searches for the smallest encoding in which a patch scores at least `least` on labelled texts, by a metric of its
/// task. `progress` is called with the number of patches tried, and an upper bound of it.
///
/// # Errors
/// When the patch does not fit the encoder, or scores less than `least` itself ([`Error::Search`]).
pub fn search(
    encoder: &Encoder,
    patch: &Patch,
    texts: &[Example],
    metric: &str,
    least: f64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Searched> {
    let (manifest, base) = (encoder.bundle().manifest(), encoder.base());
    let parts = parts(patch, manifest, base)?;
    let mut trial = Trial { encoder, patch, texts, metric, parts, tried: 0, progress };
    let exact = trial.point(patch, "as it is")?;
    if exact.score < least {
        return Err(Error::Search { metric: metric.to_owned(), least, found: exact.score });
    }
    let steps = trial.steps()?;
    let (state, best) = trial.descend(&steps, least)?;
    if best.score < least || best.bytes >= exact.bytes {
        // Nothing smaller does: the patch may be in few bits already.
        return Ok(Searched { patch: patch.clone(), parts: Vec::new(), point: exact });
    }
    let found = trial.build(&state)?;
    let named = trial.parts.iter().zip(&state).map(|(part, rung)| (part.name(), part.rungs[*rung].encoding));
    Ok(Searched { patch: found, parts: named.collect(), point: best })
}

/// A slot, or the weight of a layer of the head: the smallest thing that has an encoding.
struct Part {
    place: Place,
    /// Encodings from exact to none, with about how many bytes they take.
    rungs: Vec<Rung>,
}

#[derive(Clone, Copy)]
enum Place {
    Slot(SlotId),
    /// The head's layer of this number.
    Head(usize),
}

struct Rung {
    /// None where the slot is left out.
    encoding: Option<Encoding>,
    bytes: f64,
    /// The squared error of the values.
    error: f64,
}

/// One step of one part to a coarser encoding.
struct Step {
    part: usize,
    from: usize,
    to: usize,
    /// Its effect for each byte it saves.
    slope: f64,
}

impl Part {
    fn name(&self) -> String {
        match self.place {
            Place::Slot(id) => id.to_string(),
            Place::Head(layer) => format!("head {layer}"),
        }
    }

    fn new(place: Place, values: &[f32], base: Option<&[f32]>) -> Result<Self> {
        let grouped = |bits| [64, 0].map(|group| Encoding::Delta { bits, group });
        let fine = [Encoding::F32, Encoding::F16, Encoding::Delta { bits: 8, group: 0 }];
        let mut rungs = Vec::new();
        for encoding in fine.into_iter().chain([4, 3, 2, 1].into_iter().flat_map(grouped)) {
            let stored = Stored::encode(values, base, encoding)?;
            let error = squares(values, &stored.values(base));
            rungs.push(Rung { encoding: Some(encoding), bytes: bytes(&stored), error });
        }
        if let Some(base) = base {
            rungs.push(Rung { encoding: None, bytes: 0.0, error: squares(values, base) });
        }
        Ok(Part { place, rungs })
    }

    /// The rung that stands for all that only round, and the one that leaves the slot out.
    fn probes(&self) -> [Option<usize>; 2] {
        let at = |wanted: Option<Encoding>| self.rungs.iter().position(|rung| rung.encoding == wanted);
        [at(Some(Encoding::Delta { bits: 2, group: 0 })), at(None)]
    }
}

/// All parts of a patch: its slots in their order, then the layers of its head.
fn parts(patch: &Patch, manifest: &Manifest, base: &Base) -> Result<Vec<Part>> {
    let values = patch.apply(&manifest.shape(), base.slots())?;
    let mut parts = Vec::new();
    for ((slot, values), base) in manifest.slots.iter().zip(&values).zip(base.slots()) {
        if patch.slots().iter().any(|stored| stored.id == slot.id()) {
            parts.push(Part::new(Place::Slot(slot.id()), values, Some(base))?);
        }
    }
    for (layer, (_, linear)) in patch.head().linears().enumerate() {
        parts.push(Part::new(Place::Head(layer), &linear.weight.values(None), None)?);
    }
    Ok(parts)
}

/// The sum of squared differences.
fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
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

/// A search on its way.
struct Trial<'a> {
    encoder: &'a Encoder,
    patch: &'a Patch,
    texts: &'a [Example],
    metric: &'a str,
    parts: Vec<Part>,
    tried: usize,
    progress: &'a mut dyn FnMut(usize, usize),
}

impl Trial<'_> {
    /// The patch with each part on its rung. Biases of the head are few, and stay in f16.
    fn build(&self, state: &[usize]) -> Result<Patch> {
        let rung = |wanted: &dyn Fn(Place) -> bool| {
            let at = self.parts.iter().position(|part| wanted(part.place))?;
            self.parts[at].rungs[state[at]].encoding
        };
        let slot = |id: SlotId| rung(&|place| matches!(place, Place::Slot(known) if known == id));
        let head = |array: usize| match array % 2 {
            0 => rung(&|place| matches!(place, Place::Head(layer) if layer == array / 2)).unwrap_or(Encoding::F16),
            _ => Encoding::F16,
        };
        Ok(self.patch.convert_each(
            &self.encoder.bundle().manifest().shape(),
            self.encoder.base().slots(),
            slot,
            head,
        )?)
    }

    fn answers(&mut self, patch: &Patch, texts: &[Example]) -> Result<Vec<Prediction>> {
        self.tried += 1;
        // Two probes for each part, some ten halvings, and the rest one by one.
        (self.progress)(self.tried, (12 + 4 * self.parts.len()).max(self.tried));
        answers(self.encoder, patch, texts)
    }

    fn point(&mut self, patch: &Patch, name: &str) -> Result<Point> {
        let texts = self.texts;
        let found = self.answers(patch, texts)?;
        let score = compare(patch.task(), &found, texts).metric(self.metric);
        Ok(Point { name: name.to_owned(), bytes: patch.to_bytes()?.len(), score })
    }

    /// All steps down, in the order of their effect for each byte saved.
    fn steps(&mut self) -> Result<Vec<Step>> {
        /// Texts on which effects are measured: enough to put parts in order.
        const PROBED: usize = 200;
        let every = self.texts.len().div_ceil(PROBED).max(1);
        let probed: Vec<Example> = self.texts.iter().step_by(every).cloned().collect();
        let exact = self.answers(&self.patch.clone(), &probed)?;
        let kind = tasks::of(self.patch.task().kind());
        let mut steps = Vec::new();
        for part in 0..self.parts.len() {
            let effect = |trial: &mut Self, rung: Option<usize>| -> Result<Option<f64>> {
                let Some(rung) = rung else { return Ok(None) };
                let mut state = vec![0; trial.parts.len()];
                state[part] = rung;
                let patch = trial.build(&state)?;
                let found = trial.answers(&patch, &probed)?;
                Ok(Some(exact.iter().zip(&found).map(|(a, b)| kind.distance(a, b)).sum()))
            };
            let [rounded, dropped] = self.parts[part].probes();
            let of_rounded = effect(self, rounded)?.unwrap_or(0.0);
            let of_dropped = effect(self, dropped)?;
            let rungs = &self.parts[part].rungs;
            let error = rounded.map_or(0.0, |at| rungs[at].error);
            let sensitivity = if error > 0.0 { of_rounded / error } else { 0.0 };
            let effects = rungs.iter().map(|rung| match (rung.encoding, of_dropped) {
                (None, Some(measured)) => measured,
                _ => sensitivity * rung.error,
            });
            steps.extend(hull(part, rungs, &effects.collect::<Vec<_>>()));
        }
        // Stable: of equal slopes the earlier part's comes first, and a part's own steps stay in their order.
        steps.sort_by(|a, b| a.slope.total_cmp(&b.slope));
        Ok(steps)
    }

    /// The rung of every part after the best steps, and what the patch is then.
    fn descend(&mut self, steps: &[Step], least: f64) -> Result<(Vec<usize>, Point)> {
        let after = |count: usize, parts: usize| {
            let mut state = vec![0; parts];
            steps[..count].iter().for_each(|step| state[step.part] = step.to);
            state
        };
        let parts = self.parts.len();
        let (mut holds, mut fails) = (0, steps.len() + 1);
        let mut best = None;
        while fails - holds > 1 {
            let middle = (holds + fails) / 2;
            let patch = self.build(&after(middle, parts))?;
            let point = self.point(&patch, "searched")?;
            if point.score >= least {
                (holds, best) = (middle, Some(point));
            } else {
                fails = middle;
            }
        }
        let mut state = after(holds, parts);
        let mut best = match best {
            Some(best) => best,
            None => {
                let patch = self.build(&state)?;
                self.point(&patch, "searched")?
            }
        };
        let mut done = vec![false; parts];
        for step in &steps[holds..] {
            // A step starts at the part's current encoding.
            if done[step.part] || state[step.part] != step.from {
                continue;
            }
            let before = std::mem::replace(&mut state[step.part], step.to);
            let patch = self.build(&state)?;
            let point = self.point(&patch, "searched")?;
            if point.score >= least && point.bytes < best.bytes {
                best = point;
            } else {
                state[step.part] = before;
                done[step.part] = true;
            }
        }
        Ok((state, best))
    }
}

/// The steps along the lower convex hull of effect over bytes, from exact down.
fn hull(part: usize, rungs: &[Rung], effects: &[f64]) -> Vec<Step> {
    let (mut steps, mut from) = (Vec::new(), 0);
    loop {
        let slope = |to: usize| (effects[to] - effects[from]).max(0.0) / (rungs[from].bytes - rungs[to].bytes);
        let saves = (0..rungs.len()).filter(|to| rungs[*to].bytes < rungs[from].bytes);
        // Of equal slopes the one that goes furthest.
        let best =
            saves.min_by(|a, b| slope(*a).total_cmp(&slope(*b)).then(rungs[*a].bytes.total_cmp(&rungs[*b].bytes)));
        let Some(to) = best else { return steps };
        steps.push(Step { part, from, to, slope: slope(to) });
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_the_hull_in_the_order_of_their_slopes() {
        let rung = |bytes: f64| Rung { encoding: None, bytes, error: 0.0 };
        let rungs = [rung(100.0), rung(50.0), rung(40.0), rung(20.0), rung(0.0)];
        // 40 bytes lie above the line from 50 to 20.
        let steps = hull(3, &rungs, &[0.0, 1.0, 9.0, 4.0, 20.0]);
        let found: Vec<(usize, usize)> = steps.iter().map(|step| (step.from, step.to)).collect();
        assert_eq!(found, [(0, 1), (1, 3), (3, 4)]);
        assert!(steps.windows(2).all(|pair| pair[0].slope < pair[1].slope));
        // What has no effect is left out at once.
        assert_eq!(hull(0, &rungs, &[0.0; 5]).iter().map(|step| step.to).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn coarser_encodings_take_fewer_bytes_and_have_larger_errors() {
        let base = vec![0.5f32; 384];
        let values: Vec<f32> = (0..384).map(|at| 0.5 + (at as f32 * 0.37).sin() * 0.1).collect();
        let id = SlotId::new(bias_patch::Module::Query, Some(0)).unwrap();
        let part = Part::new(Place::Slot(id), &values, Some(&base)).unwrap();
        assert_eq!(part.rungs.len(), 12);
        assert_eq!((part.rungs[0].bytes, part.rungs[0].error), (1536.0, 0.0));
        let of =
            |text: &str| part.rungs.iter().find(|rung| rung.encoding.map(|e| e.to_string()).as_deref() == Some(text));
        let of = |text: &str| of(text).unwrap();
        assert!(of("i1").bytes < of("i2").bytes && of("i2").bytes < of("i4").bytes && of("i4").bytes < of("i8").bytes);
        assert!(of("i8").error < of("i4").error && of("i4").error < of("i2").error && of("i2").error < of("i1").error);
        let [rounded, dropped] = part.probes();
        assert_eq!((part.rungs[rounded.unwrap()].encoding.unwrap().to_string().as_str(), dropped), ("i2", Some(11)));
    }
}
