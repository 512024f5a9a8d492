//! One training: steps, passes, checkpoints, and the patch that parameters amount to.
//!
//! Parameters are one list: the values of the trained slots in the order of the forward pass, then the head's weight
//! `[outputs, H]` and its bias `[outputs]`.

use std::path::Path;

use bias_patch::{
    Digest, Digester, Encoding, Head as PatchHead, Linear, Patch, Pooling, Stored, StoredSlot, Task, Term,
};
use edge_run::{Encoder, Tokenized};

use super::{
    Event, Recipe,
    checkpoint::{Best, Checkpoint, Current},
    gradient,
    head::Head,
    optimizer::{AdamW, clip, rate_at},
    random::Random,
    wrong,
};
use crate::{
    Error, Result,
    data::{Example, Gold},
    evaluate, metric_named,
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
    /// For each slot of the encoder whether it is trained.
    wanted: Vec<bool>,
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
        let wanted = manifest.slots.iter().map(|slot| recipe.terms.contains(&slot.term) && trainable(slot.term));
        let mut digester = Digester::default();
        let arithmetic = encoder.arithmetic();
        digester.update(format!("{} {arithmetic}\n{task:?}\n{recipe:?}\n", manifest.encoder).as_bytes());
        for example in learn.iter().chain(judge) {
            digester.update(format!("{example:?}\n").as_bytes());
        }
        Ok(Trainer {
            encoder,
            task,
            learn: lessons,
            judge,
            recipe,
            wanted: wanted.collect(),
            fingerprint: digester.finish(),
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

    /// The terms trained, in the order of the forward pass.
    pub fn terms(&self) -> String {
        let trained = |term: &Term| {
            let slots = &self.encoder.bundle().manifest().slots;
            slots.iter().zip(&self.wanted).any(|(slot, wanted)| *wanted && slot.term == *term)
        };
        let symbols: Vec<&str> = Term::ALL.into_iter().filter(trained).map(Term::symbol).collect();
        symbols.join(" ")
    }

    /// The first state of a run: the encoder's own biases, and a head of small random numbers.
    pub fn begin(&self, seed: u64) -> Current {
        let mut parameters: Vec<f32> = Vec::new();
        for (slot, wanted) in self.encoder.base().slots().iter().zip(&self.wanted) {
            if *wanted {
                parameters.extend(slot);
            }
        }
        let (outputs, mut random) = (self.task.kind().outputs(), Random::new(seed, 0));
        parameters.extend((0..outputs * self.hidden()).map(|_| (0.02 * random.normal()) as f32));
        parameters.extend(std::iter::repeat_n(0.0, outputs));
        let adam = AdamW::new(parameters.len());
        Current { parameters, adam, loss: 0.0, best: None, since_best: 0 }
    }

    /// Every slot's values, those that are trained from the parameters.
    fn values(&self, parameters: &[f32]) -> Vec<Vec<f32>> {
        let mut rest = parameters;
        let values = self.encoder.base().slots().iter().zip(&self.wanted).map(|(slot, wanted)| {
            if !wanted {
                return slot.clone();
            }
            let (values, after) = rest.split_at(slot.len());
            rest = after;
            values.to_vec()
        });
        values.collect()
    }

    /// The part of the parameters that is the head's.
    fn head_at(&self, parameters: usize) -> usize {
        parameters - Head::count(self.task, self.hidden())
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
            let (loss, norm) = self.step(&mut current, batch, rate)?;
            current.loss += loss * batch.len() as f64;
            event(Event::Step { step: step + 1, loss, norm });
            if (step + 1).is_multiple_of(epoch_steps) {
                let patch = self.patch(&current.parameters)?;
                let score = evaluate(self.encoder, &patch, self.judge)?.metric(self.metric);
                event(Event::Epoch { epoch: epoch + 1, loss: current.loss / self.learn.len() as f64, score });
                current.loss = 0.0;
                current.since_best += 1;
                if current.best.as_ref().is_none_or(|best| score > best.score) {
                    current.best = Some(Best { score, parameters: current.parameters.clone() });
                    current.since_best = 0;
                }
                if self.recipe.patience.is_some_and(|patience| current.since_best >= patience) {
                    break;
                }
            }
            if (step + 1).is_multiple_of(KEEP) {
                state.current = Some(current);
                state.save(path)?;
                // It was put there a line above.
                current = state.current.take().unwrap_or_default();
            }
        }
        current.best.ok_or_else(|| wrong("passes", "at least one", "none"))
    }

    /// One step: gives the mean loss and the gradients' norm.
    fn step(&self, current: &mut Current, batch: &[usize], rate: f64) -> Result<(f64, f64)> {
        let (of_slots, of_head) = current.parameters.split_at(self.head_at(current.parameters.len()));
        let lessons = batch.iter().map(|at| &self.learn[*at]);
        let texts: Vec<(&Tokenized, &Gold)> = lessons.clone().map(|lesson| (&lesson.text, lesson.gold)).collect();
        let found = gradient(self.encoder, self.task, &self.values(of_slots), of_head, &texts, &self.wanted)?;
        let loss = found.loss;
        let trained = found.slots.into_iter().zip(&self.wanted).filter(|(_, wanted)| **wanted);
        let mut gradients: Vec<f32> = trained.flat_map(|(d, _)| d).chain(found.head).collect();
        let norm = clip(&mut gradients, self.recipe.clip);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::Diverged {
                step: current.adam.steps + 1,
                rate,
                texts: lessons.map(|lesson| lesson.example).collect(),
            });
        }
        let rate = rate_at(rate, current.adam.steps, self.steps(), self.recipe.warmup);
        current.adam.step(&mut current.parameters, &gradients, rate, self.recipe.decay);
        Ok((loss, norm))
    }

    /// The patch that parameters amount to; slots that are as in the encoder are left out.
    pub fn patch(&self, parameters: &[f32]) -> Result<Patch> {
        let manifest = self.encoder.bundle().manifest();
        let (of_slots, of_head) = parameters.split_at(self.head_at(parameters.len()));
        let mut slots = Vec::new();
        for ((slot, base), values) in manifest.slots.iter().zip(self.encoder.base().slots()).zip(self.values(of_slots))
        {
            if values != *base {
                let values = Stored::encode(&values, Some(base), Encoding::F32)?;
                slots.push(StoredSlot { id: slot.id(), values });
            }
        }
        let (weight, bias) = of_head.split_at(self.task.kind().outputs() * self.hidden());
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
