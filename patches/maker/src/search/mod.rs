//! Searches for the smallest patch that is expected to lose at most so much of a metric.
//!
//! In: a patch with a head of one linear layer, and texts; labels are not needed. Out: the patch with an own encoding for
//! each bias, each part of a low-rank term and the head, or without some of them, its values refined on their grids.
//! Refused: fewer than forty texts that differ, and an encoder that does not run backward.
//!
//! The same input gives the same patch. The texts are split at random, the same way each time: one part is judged on, the
//! rest is fitted on.
//!
//! 1. Effects: for every encoding of every part, the divergence of the task's outputs that it causes is estimated, to the
//!    second order, from one backward pass over each of some fitted texts.
//! 2. Candidates: for each part, the encodings on the lower convex hull of effect over bytes. The steps of all parts along
//!    their hulls, to fewer bytes, are sorted by effect for each byte saved.
//! 3. Steps are taken from the cheapest on, as many as keep the expected loss and its deviation within the bound. How
//!    many is found by bisection without refinement; from there more are tried, each candidate refined on the fitted texts.
//!
//! The expected loss is that on the judged texts, if the patch as it is gives right probabilities. See
//! [`Judge::expected`].

mod expected;
mod parts;
mod refine;
mod state;

use std::collections::BTreeSet;

use bias_patch::{Encoding, Patch};
use edge_run::{Encoder, Text, Tokenized, tasks};

pub use self::expected::Loss;
use self::{
    expected::{GROUPS, Judge, answers, measured},
    parts::{Level, Part, Step, after, array_of, build, parts, steps},
    refine::{Latent, Refiner},
    state::{State, tokenized},
};
use crate::{
    Error, Result,
    data::Example,
    evaluate::{answers as answers_of_examples, compare},
    random::Random,
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

/// How values are refined on their grids.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refinement {
    /// Steps for each candidate; 0 for no refinement.
    pub steps: u64,
    /// The highest learning rate.
    pub learning_rate: f64,
}

impl Default for Refinement {
    fn default() -> Self {
        Refinement { steps: 150, learning_rate: 1e-3 }
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Searched {
    /// The smallest patch.
    pub patch: Patch,
    /// The expected loss of the metric.
    pub expected: Loss,
    /// The encoding of each array; none for one that is left out.
    pub parts: Vec<(String, Option<Encoding>)>,
}

/// A patch's scores as it was and as it is stored, on texts that nothing was fitted on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// The score of the patch as it was.
    pub exact: f64,
    /// The score of the patch as it is stored.
    pub stored: f64,
    /// What is lost.
    pub loss: Loss,
}

/// What a search is doing: what, how much of it is done, and how much there is of it.
pub type Progress<'p> = dyn FnMut(&'static str, usize, usize) + 'p;

/// The size and score of a patch as it is, and with all slots in one encoding and the head in f16, from fine to coarse.
///
/// # Errors
/// When the patch does not fit the encoder.
pub fn uniform(encoder: &Encoder, patch: &Patch, texts: &[Example], metric: &str) -> Result<Vec<Point>> {
    let mut points = vec![point(encoder, patch, texts, metric, "as it is")?];
    let bits = Encoding::BITS.map(|bits| Encoding::Delta { bits, group: 0 });
    for encoding in [Encoding::F32, Encoding::F16].into_iter().chain(bits) {
        let converted =
            patch.convert(&encoder.bundle().manifest().shape(), encoder.base().slots(), encoding, Encoding::F16)?;
        points.push(point(encoder, &converted, texts, metric, &encoding.to_string())?);
    }
    Ok(points)
}

/// The size and score of a patch.
///
/// # Errors
/// When the patch does not fit the encoder.
pub fn point(encoder: &Encoder, patch: &Patch, texts: &[Example], metric: &str, name: &str) -> Result<Point> {
    let found = answers_of_examples(encoder, patch, texts)?;
    let score = compare(patch.task(), &found, texts).metric(metric);
    Ok(Point { name: name.to_owned(), bytes: patch.to_bytes()?.len(), score })
}

/// What a patch loses against another, on labelled texts.
///
/// # Errors
/// When a patch does not fit the encoder.
pub fn kept(encoder: &Encoder, exact: &Patch, stored: &Patch, texts: &[Example], metric: &str) -> Result<Kept> {
    let task = exact.task();
    let [of_exact, of_stored] = [exact, stored].map(|patch| answers_of_examples(encoder, patch, texts));
    let (of_exact, of_stored) = (of_exact?, of_stored?);
    let loss = measured(task, metric, texts, &of_exact, &of_stored);
    let score = |found| compare(task, found, texts).metric(metric);
    Ok(Kept { exact: score(&of_exact), stored: score(&of_stored), loss })
}

/// The elements of a list of which no text is there before.
pub fn distinct<T: Clone>(list: &[T], text_of: impl Fn(&T) -> &Text) -> Vec<T> {
    let mut met = BTreeSet::new();
    let mut found = Vec::new();
    for element in list {
        let text = text_of(element);
        if met.insert((text.first(), text.second())) {
            found.push(element.clone());
        }
    }
    found
}

/// Splits a list at random, the same way each time: at most `most`, and at most half of it, and the rest.
pub fn split<T: Clone>(list: &[T], most: usize) -> (Vec<T>, Vec<T>) {
    /// The purpose of this random stream.
    const PURPOSE: u64 = u64::MAX - 3;
    let mut order: Vec<usize> = (0..list.len()).collect();
    Random::new(0, PURPOSE).shuffle(&mut order);
    let (first, rest) = order.split_at(most.min(list.len() / 2));
    let of = |some: &[usize]| some.iter().map(|at| list[*at].clone()).collect();
    (of(first), of(rest))
}

/// A patch, its parts, and the steps by which they are stored in fewer bytes, in their order.
pub struct Search<'a> {
    encoder: &'a Encoder,
    patch: &'a Patch,
    state: State,
    parts: Vec<Part>,
    steps: Vec<Step>,
    judge: Judge<'a>,
    fitted: Vec<Tokenized>,
}

/// A candidate, and what is expected of it.
struct Candidate {
    patch: Patch,
    bytes: usize,
    expected: Loss,
    levels: Vec<Level>,
    latent: Latent,
}

impl<'a> Search<'a> {
    /// Measures the effects of all encodings on texts.
    ///
    /// # Errors
    /// When the patch does not fit the encoder, embeds, or has a head with a hidden layer, there are fewer than forty texts, or tract
    /// runs the encoder.
    pub fn new(
        encoder: &'a Encoder,
        patch: &'a Patch,
        texts: &[Text],
        metric: &str,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        /// Texts that are judged on.
        const JUDGED: usize = 1000;
        /// Texts that are fitted on.
        const FITTED: usize = 4000;
        if tasks::of(patch.task().kind()).compares() {
            return Err(Error::Recipe {
                field: "kind of the patch to search for".to_owned(),
                expected: "one whose texts are scored alone (convert --encoding stores embeddings)".to_owned(),
                found: patch.task().kind().name().to_owned(),
            });
        }
        // Judged on, a text that is there again would count as another; and fitted on, it would be known.
        let texts = &distinct(texts, |text| text);
        if texts.len() < 2 * GROUPS {
            return Err(Error::Recipe {
                field: "texts to search on".to_owned(),
                expected: format!("at least {} that differ; they need no labels", 2 * GROUPS),
                found: texts.len().to_string(),
            });
        }
        let (judged, mut rest) = split(texts, JUDGED);
        rest.truncate(FITTED);
        let task = patch.task();
        let state = State::of(encoder, patch)?;
        let fitted = tokenized(encoder, task, &rest)?;
        let exact = answers(encoder, patch, &judged)?;
        let judge = Judge::new(encoder, task, metric, &state, exact, judged)?;
        let parts = parts(encoder, patch, &state)?;
        let mut search = Search { encoder, patch, state, parts, steps: Vec::new(), judge, fitted };
        search.measure(progress)?;
        search.steps = steps(&search.parts);
        Ok(search)
    }

    /// How many texts are judged on, and how many texts or windows of them are fitted on.
    pub fn texts(&self) -> (usize, usize) {
        (self.judge.texts().len(), self.fitted.len())
    }

    /// Estimates the effect of every encoding of every array: the mean over texts of half the square of its product with
    /// the gradient of a random direction of the outputs.
    fn measure(&mut self, progress: &mut Progress<'_>) -> Result<()> {
        /// Texts that effects are measured on.
        const MEASURED: usize = 512;
        /// The purpose of the random stream of directions.
        const PURPOSE: u64 = u64::MAX - 7;
        let (task, mut random) = (self.patch.task(), Random::new(0, PURPOSE));
        let form = tasks::of(task.kind()).output_form();
        let measured = self.fitted.len().min(MEASURED);
        let share = 0.5 / measured as f64;
        for (number, text) in self.fitted[..measured].iter().enumerate() {
            let mut loss = |_: usize, outputs: &[Vec<f64>]| tasks::Loss {
                value: 0.0,
                d_outputs: form.direction(outputs, &mut || random.uniform()),
            };
            let found = self.state.gradient(self.encoder, task, &[text], true, &mut loss)?;
            let weight = found.head.len() - task.kind().outputs().unwrap_or_default();
            for array in self.parts.iter_mut().flat_map(|part| &mut part.arrays) {
                let d = array_of(array.place, &found.values, &found.head, weight);
                let effect = |change: &[f32]| {
                    let product: f64 = d.iter().zip(change).map(|(d, c)| f64::from(*d) * f64::from(*c)).sum();
                    share * product * product
                };
                array.dropped += effect(&array.without());
                array.rungs.iter_mut().for_each(|rung| rung.effect += effect(&rung.change));
            }
            progress("measuring what each part does", number + 1, measured);
        }
        Ok(())
    }

    /// The smallest patch that is expected to lose at most `points` percentage points of the metric.
    ///
    /// # Errors
    /// When a value cannot be stored, or the engine fails.
    pub fn smallest(&self, points: f64, how: &Refinement, progress: &mut Progress<'_>) -> Result<Searched> {
        let bound = points / 100.0;
        let fits = |Candidate { expected, .. }: &Candidate| {
            expected.deviation.is_some_and(|deviation| expected.mean + deviation <= bound)
        };
        let exact = Latent {
            arrays: self.parts.iter().flat_map(|part| &part.arrays).map(|array| array.values.clone()).collect(),
            bias: self.patch.head().output.as_ref().map(|output| output.bias.values(None)).unwrap_or_default(),
        };
        let mut best: Option<Candidate> = None;
        let (mut holds, mut fails) = (0, self.steps.len() + 1);
        let most = (fails as f64).log2().ceil() as usize;
        for tried in 1.. {
            if fails - holds <= 1 {
                break;
            }
            let middle = (holds + fails) / 2;
            let candidate = self.candidate(middle, exact.clone())?;
            progress("trying encodings", tried, most);
            match fits(&candidate) {
                true => (holds, best) = (middle, Some(candidate)),
                false => fails = middle,
            }
        }
        let mut best = match best {
            Some(best) => best,
            None => self.candidate(holds, exact)?,
        };
        if how.steps > 0 {
            best = self.refined(best, holds, &fits, how, progress)?;
        }
        if best.bytes >= self.patch.to_bytes()?.len() || !fits(&best) {
            // Nothing smaller does: the patch may be in few bits already.
            let expected = Loss { mean: 0.0, deviation: Some(0.0) };
            return Ok(Searched { patch: self.patch.clone(), expected, parts: Vec::new() });
        }
        let named = self.parts.iter().zip(&best.levels).flat_map(|(part, level)| {
            part.arrays.iter().enumerate().map(move |(at, array)| {
                let name = array.id.map_or_else(|| part.name.clone(), |id| id.to_string());
                (name, parts::encoding(level, at))
            })
        });
        Ok(Searched { parts: named.collect(), patch: best.patch, expected: best.expected })
    }

    /// Goes on from a candidate that fits, to candidates that fit once they are refined.
    fn refined(
        &self,
        mut best: Candidate,
        holds: usize,
        fits: &dyn Fn(&Candidate) -> bool,
        how: &Refinement,
        progress: &mut Progress<'_>,
    ) -> Result<Candidate> {
        /// Candidates that are refined.
        const TRIALS: usize = 4;
        /// By what refinement lowers the divergence at most.
        const GAIN: f64 = 16.0;
        let effects: Vec<f64> = self
            .steps
            .iter()
            .scan(0.0, |sum, step| {
                *sum += step.effect;
                Some(*sum)
            })
            .collect();
        let least = effects.iter().copied().find(|effect| *effect > 0.0).unwrap_or(1.0);
        let first = effects[..holds].last().copied().unwrap_or(0.0).max(least);
        let outputs = vec![None; self.fitted.len()];
        let mut refiner = Refiner {
            encoder: self.encoder,
            task: self.patch.task(),
            exact: &self.state,
            parts: &self.parts,
            texts: &self.fitted,
            outputs,
        };
        let all = TRIALS * how.steps as usize;
        // In powers of the gain. Each trial goes on from the values of the one before it.
        let mut latent = best.latent.clone();
        let (mut low, mut high) = (0.0f64, 1.0f64);
        for trial in 0..TRIALS {
            let middle = 0.5 * (low + high);
            let count = effects.partition_point(|effect| *effect <= first * GAIN.powf(middle)).max(holds);
            let levels = after(&self.parts, &self.steps[..count]);
            let mut done = trial * how.steps as usize;
            latent = refiner.refine(latent, &levels, how, &mut || {
                done += 1;
                progress("refining", done, all);
            })?;
            let candidate = self.candidate(count, latent.clone())?;
            match fits(&candidate) {
                true => {
                    low = middle;
                    if candidate.bytes <= best.bytes {
                        best = candidate;
                    }
                }
                false => high = middle,
            }
        }
        Ok(best)
    }

    /// The patch after some steps, with these values, and what is expected of it.
    fn candidate(&self, count: usize, latent: Latent) -> Result<Candidate> {
        let levels = after(&self.parts, &self.steps[..count]);
        let patch = build(self.encoder, self.patch, &self.parts, &levels, &latent.arrays, &latent.bias)?;
        let found = answers(self.encoder, &patch, self.judge.texts())?;
        let expected = self.judge.expected(&found);
        let bytes = patch.to_bytes()?.len();
        Ok(Candidate { bytes, patch, expected, levels, latent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_split_the_same_way_each_time() {
        let list: Vec<usize> = (0..100).collect();
        let (first, rest) = split(&list, 30);
        assert_eq!((first.len(), rest.len()), (30, 70));
        assert_eq!(split(&list, 30), (first.clone(), rest.clone()));
        let mut all = [&first[..], &rest].concat();
        all.sort_unstable();
        assert_eq!(all, list);
        assert!(first.windows(2).any(|pair| pair[0] > pair[1]));
        // At most half of a short list.
        assert_eq!(split(&list[..5], 30).0.len(), 2);
    }
}
