//! One training: steps, passes, checkpoints, and the patch that parameters amount to.
//!
//! Parameters are one list: the values of the trained slots in the order of the forward pass, then the head's weight
//! `[outputs, H]` and its bias `[outputs]`. Weights that are trained beside them, for a comparison, are not in it, nor in a
//! checkpoint.

use std::path::Path;

use bias_patch::{Digest, Encoding, Head as PatchHead, Linear, Patch, Pooling, Slot, Stored, StoredSlot, Task, Term};
use edge_run::{Encoder, Tokenized};

use super::{
    Average, Event, Recipe, Weights,
    average::Averaged,
    checkpoint::{Best, Checkpoint, Current},
    fingerprint, gradient_with_weights,
    head::Head,
    memory::{Load, fitting},
    optimizer::{AdamW, clip, rate_at},
    weights::Moving,
    wrong,
};
use crate::{
    Error, Result,
    data::{Example, Gold},
    evaluate, metric_named,
    random::Random,
};

/// What a step may learn from: a text, or a window of one that holds its answer.
struct Lesson<'a> {
    /// The text's number.
    example: usize,
    text: Tokenized,
    gold: &'a Gold,
}

/// What stays the same over all runs.
pub(super) struct Trainer<'a> {
    encoder: &'a Encoder,
    task: &'a Task,
    learn: Vec<Lesson<'a>>,
    judge: &'a [Example],
    recipe: &'a Recipe,
    /// Which weights are trained, and how many if not all.
    weights: Option<(Weights, usize)>,
    /// For each slot of the encoder whether it is trained.
    wanted: Vec<bool>,
    /// Every slot's values before the first step.
    first: Vec<Vec<f32>>,
    /// Tokens that run together.
    tokens: usize,
    /// What a checkpoint has to be of: everything that decides the result, the kernel's rounding included.
    pub fingerprint: Digest,
    /// The metric that scores are of.
    pub metric: &'static str,
    /// Texts that no window holds the answer of.
    pub unheld: usize,
}

impl<'a> Trainer<'a> {
    pub fn new(
        encoder: &'a Encoder,
        task: &'a Task,
        learn: &'a [Example],
        judge: &'a [Example],
        recipe: &'a Recipe,
        weights: Option<Weights>,
    ) -> Result<Self> {
        let manifest = encoder.bundle().manifest();
        let pooler = task.kind().pooling() == Some(Pooling::Pooler);
        let trainable = |term: Term| term != Term::Key && (term != Term::Pooler || pooler);
        for (field, there) in [
            ("texts to learn from", learn.len()),
            ("texts to be judged by", judge.len()),
            ("texts to a step", recipe.batch),
            ("learning rates", recipe.rates.len()),
            ("seeds", recipe.seeds.len()),
            ("passes", usize::from(recipe.epochs > 0)),
        ] {
            if there == 0 {
                return Err(wrong(field, "at least one", "none"));
            }
        }
        let (lessons, unheld) = lessons(encoder, task, learn)?;
        if lessons.is_empty() {
            return Err(wrong("texts to learn from", "one that holds its answer within max_length", "none"));
        }
        let most = u64::MAX / lessons.len() as u64;
        if recipe.epochs > most {
            return Err(wrong("passes", &format!("at most {most}"), &recipe.epochs.to_string()));
        }
        if weights.is_some() {
            for (field, asked) in
                [("averages", recipe.average != Average::None), ("memory limit", recipe.memory_limit.is_some())]
            {
                if asked {
                    return Err(wrong(field, "none where weights are trained", "one"));
                }
            }
        }
        let of_recipe = |slot: &&Slot| recipe.terms.contains(&slot.term) && trainable(slot.term);
        let count = manifest.slots.iter().filter(of_recipe).map(|slot| slot.len as usize).sum();
        let wanted = manifest.slots.iter().map(|slot| match weights {
            None => of_recipe(&slot),
            Some(Weights::Full) => trainable(slot.term),
            Some(Weights::Random | Weights::Rows) => false,
        });
        let wanted: Vec<bool> = wanted.collect();
        let first = match &recipe.start {
            Some(patch) if patch.head().dense.is_some() => {
                return Err(wrong("head to begin with", "one linear layer", "one after a hidden layer"));
            }
            Some(patch) => patch.apply(manifest, encoder.base())?,
            None => encoder.base().slots().to_vec(),
        };
        let hidden = manifest.config.hidden as usize;
        let of_slots = manifest.slots.iter().zip(&wanted).filter(|(_, wanted)| **wanted);
        let load = Load {
            texts: learn.iter().chain(judge).map(|example| 200 + example.text.bytes()).sum::<usize>()
                + lessons.iter().map(|lesson| 200 + 8 * lesson.text.len()).sum::<usize>(),
            parameters: of_slots.map(|(slot, _)| slot.len as usize).sum::<usize>() + Head::count(task, hidden),
            longest: lessons.iter().map(|lesson| lesson.text.len()).max().unwrap_or_default(),
        };
        let tokens = fitting(&manifest.config, load, recipe.memory_limit)?;
        Ok(Trainer {
            encoder,
            task,
            learn: lessons,
            judge,
            recipe,
            weights: weights.map(|weights| (weights, count)),
            wanted,
            first,
            tokens,
            fingerprint: fingerprint(encoder, task, learn, judge, recipe, weights),
            metric: metric_named(task.kind(), recipe.metric.as_deref())?,
            unheld,
        })
    }

    fn hidden(&self) -> usize {
        self.encoder.bundle().manifest().config.hidden as usize
    }

    fn steps_of_epoch(&self) -> u64 {
        self.learn.len().div_ceil(self.recipe.batch) as u64
    }

    pub fn steps(&self) -> u64 {
        self.recipe.epochs * self.steps_of_epoch()
    }

    /// Refuses what would be wrong with the patch in the end.
    pub fn check(&self) -> Result<()> {
        Ok(self.patch(&self.begin(0).parameters)?.check(self.encoder.bundle().manifest())?)
    }

    /// The terms trained, in the order of the forward pass.
    pub fn terms(&self) -> String {
        let trained = |term: &Term| {
            let slots = &self.encoder.bundle().manifest().slots;
            slots.iter().zip(&self.wanted).any(|(slot, wanted)| *wanted && slot.term == *term)
        };
        let symbols: Vec<&str> = Term::ALL.into_iter().filter(trained).map(Term::symbol).collect();
        symbols.join(" ")
    }

    /// What is trained, as a command line says it.
    pub fn trained(&self) -> String {
        match (self.weights, self.terms()) {
            (Some((weights, _)), _) => weights.name().to_owned(),
            (None, terms) if terms.is_empty() => "frozen".to_owned(),
            (None, _) if self.recipe.terms == Recipe::default().terms => "all".to_owned(),
            (None, terms) => terms.replace(' ', "+"),
        }
    }

    /// The first state of a run: the encoder's own biases and a head of small random numbers, or what there is to begin with.
    pub fn begin(&self, seed: u64) -> Current {
        let mut parameters: Vec<f32> = Vec::new();
        for (slot, wanted) in self.first.iter().zip(&self.wanted) {
            if *wanted {
                parameters.extend(slot);
            }
        }
        let outputs = self.task.kind().outputs();
        match &self.recipe.start {
            Some(patch) => {
                let output = &patch.head().output;
                parameters.extend(output.weight.values(None));
                parameters.extend(output.bias.values(None));
            }
            None => {
                let mut random = Random::new(seed, 0);
                parameters.extend((0..outputs * self.hidden()).map(|_| (0.02 * random.normal()) as f32));
                parameters.extend(std::iter::repeat_n(0.0, outputs));
            }
        }
        let adam = AdamW::new(parameters.len());
        Current { parameters, adam, averaged: Averaged::default(), loss: 0.0, best: None, since_best: 0 }
    }

    /// Every slot's values, and the head's: those that are trained from the parameters, on their grid if there is one.
    fn values(&self, parameters: &[f32]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        let rounded = |values: &[f32], base: Option<&[f32]>, encoding: Option<Encoding>| match encoding {
            Some(encoding) => Ok::<_, Error>(Stored::encode(values, base, encoding)?.values(base)),
            None => Ok(values.to_vec()),
        };
        let (of_slots, of_head) = self.recipe.grid.unzip();
        let (mut rest, head) = parameters.split_at(parameters.len() - Head::count(self.task, self.hidden()));
        let mut slots = Vec::with_capacity(self.first.len());
        for ((first, base), wanted) in self.first.iter().zip(self.encoder.base().slots()).zip(&self.wanted) {
            let mut values = &first[..];
            if *wanted {
                (values, rest) = rest.split_at(first.len());
            }
            slots.push(rounded(values, Some(base), of_slots)?);
        }
        let (weight, bias) = head.split_at(self.task.kind().outputs() * self.hidden());
        Ok((slots, [rounded(weight, None, of_head)?, rounded(bias, None, of_head)?].concat()))
    }

    /// Runs to the end, and gives the best parameters.
    pub fn run(
        &self,
        mut current: Current,
        rate: f64,
        seed: u64,
        state: &mut Checkpoint,
        path: &Path,
        event: &mut dyn FnMut(Event),
    ) -> Result<Best> {
        /// Steps between checkpoints: a second or two of work.
        const KEEP: u64 = 20;
        let epoch_steps = self.steps_of_epoch();
        // Nothing of them is in a checkpoint: their run begins at its first step.
        let mut weights = match self.weights {
            Some((weights, count)) => Some(Moving::begin(self.encoder, weights, count, seed)?),
            None => None,
        };
        let mut order: Vec<usize> = Vec::new();
        let mut ordered = None;
        while current.adam.steps < self.steps() {
            let step = current.adam.steps;
            let (epoch, within) = (step / epoch_steps, step % epoch_steps);
            if ordered != Some(epoch) {
                order = (0..self.learn.len()).collect();
                Random::new(seed, 1 + epoch).shuffle(&mut order);
                ordered = Some(epoch);
            }
            let first = within as usize * self.recipe.batch;
            let batch = &order[first..order.len().min(first + self.recipe.batch)];
            let (loss, norm) = self.step(&mut current, weights.as_mut(), batch, rate)?;
            current.loss += loss * batch.len() as f64;
            event(Event::Step { step: step + 1, loss, norm });
            if (step + 1).is_multiple_of(epoch_steps) {
                let judged = current.averaged.pass(self.recipe.average, &current.parameters);
                let patch = self.patch(&judged)?;
                let score = match &weights {
                    Some(weights) => evaluate(&weights.encoder(self.encoder)?, &patch, self.judge)?,
                    None => evaluate(self.encoder, &patch, self.judge)?,
                };
                let (score, metric) = (score.metric(self.metric), self.metric);
                event(Event::Epoch { epoch: epoch + 1, loss: current.loss / self.learn.len() as f64, score, metric });
                current.loss = 0.0;
                current.since_best += 1;
                if current.best.as_ref().is_none_or(|best| score > best.score) {
                    current.best = Some(Best { score, parameters: judged });
                    current.since_best = 0;
                }
                if self.recipe.patience.is_some_and(|patience| current.since_best >= patience) {
                    break;
                }
            }
            if weights.is_none() && (step + 1).is_multiple_of(KEEP) {
                state.current = Some(current);
                state.save(path)?;
                // It was put there a line above.
                current = state.current.take().unwrap_or_default();
            }
        }
        current.best.ok_or_else(|| wrong("passes", "at least one", "none"))
    }

    /// One step: gives the mean loss and the gradients' norm.
    fn step(
        &self,
        current: &mut Current,
        mut weights: Option<&mut Moving>,
        batch: &[usize],
        rate: f64,
    ) -> Result<(f64, f64)> {
        let (slots, head) = self.values(&current.parameters)?;
        let lessons = batch.iter().map(|at| &self.learn[*at]);
        let texts: Vec<(&Tokenized, &Gold)> = lessons.clone().map(|lesson| (&lesson.text, lesson.gold)).collect();
        let changed = weights.as_ref().map(|weights| weights.encoder(self.encoder)).transpose()?;
        let encoder = changed.as_ref().unwrap_or(self.encoder);
        let (values, d_weights) = ((&slots[..], &head[..]), weights.as_mut().map(|weights| weights.gradient()));
        let found = gradient_with_weights(encoder, self.task, values, &texts, &self.wanted, self.tokens, d_weights)?;
        drop(changed);
        let loss = found.loss;
        let trained = found.slots.into_iter().zip(&self.wanted).filter(|(_, wanted)| **wanted);
        let mut gradients: Vec<f32> = trained.flat_map(|(d, _)| d).chain(found.head).collect();
        let norm = match &mut weights {
            Some(weights) => clip(&mut [weights.picked(), &mut gradients], self.recipe.clip),
            None => clip(&mut [&mut gradients], self.recipe.clip),
        };
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::Diverged {
                step: current.adam.steps + 1,
                rate,
                texts: lessons.map(|lesson| lesson.example).collect(),
            });
        }
        let rate = rate_at(rate, current.adam.steps, self.steps(), self.recipe.warmup);
        if let Some(weights) = weights {
            weights.step(rate, self.recipe.decay);
        }
        current.adam.step(&mut current.parameters, &gradients, rate, self.recipe.decay);
        current.averaged.step(self.recipe.average, current.adam.steps, &current.parameters);
        Ok((loss, norm))
    }

    /// The patch that parameters amount to; slots that are as in the encoder are left out.
    pub fn patch(&self, parameters: &[f32]) -> Result<Patch> {
        let manifest = self.encoder.bundle().manifest();
        let (all, head) = self.values(parameters)?;
        let mut slots = Vec::new();
        for ((slot, base), values) in manifest.slots.iter().zip(self.encoder.base().slots()).zip(all) {
            if values != *base {
                let values = Stored::encode(&values, Some(base), Encoding::F32)?;
                slots.push(StoredSlot { id: slot.id(), values });
            }
        }
        let (weight, bias) = head.split_at(self.task.kind().outputs() * self.hidden());
        let head = PatchHead { dense: None, output: Linear::exact(weight, bias)? };
        Ok(Patch::new(manifest.encoder, self.task.clone(), slots, head, [])?)
    }
}

/// The lessons of texts: of a span task the windows that hold the whole answer, and how many texts have none.
///
/// A window without the answer teaches nothing: there is no token in it that an answer could be read from, and answering,
/// which takes the best span over all windows, knows no "not here" that such a window could point at.
fn lessons<'a>(encoder: &Encoder, task: &Task, learn: &'a [Example]) -> Result<(Vec<Lesson<'a>>, usize)> {
    let (mut lessons, mut unheld) = (Vec::new(), 0);
    for (number, Example { text, gold }) in learn.iter().enumerate() {
        let before = lessons.len();
        for text in encoder.tokenized(task, text)? {
            let holds = match gold {
                Gold::Span(answers) => answers.first().is_some_and(|answer| text.span(*answer).is_some()),
                _ => true,
            };
            if holds {
                lessons.push(Lesson { example: number, text, gold });
            }
        }
        unheld += usize::from(lessons.len() == before);
    }
    Ok((lessons, unheld))
}
