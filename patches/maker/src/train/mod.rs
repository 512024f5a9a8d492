//! Training a patch: BitFit, which moves an encoder's biases and a new head and nothing else.
//!
//! In: an encoder, a task, labelled texts to learn from and others to be judged by, and a [`Recipe`]. Out: the patch that
//! did best on the latter, over all learning rates and seeds of the recipe. A run that is stopped at any moment goes on
//! from its last checkpoint, and ends with the very same patch.

mod checkpoint;
mod data;
mod head;
mod optimizer;
mod random;

use std::path::Path;

use bias_patch::{
    Digest, Digester, Encoding, Head as PatchHead, Linear, Patch, Pooling, Stored, StoredSlot, Task, Term,
};
use edge_run::{Encoder, Tokenized};

pub use data::{Example, Examples, Gold, check_variety, read_examples};

use self::{
    checkpoint::{Best, Checkpoint, Current, Done},
    head::Head,
    optimizer::{AdamW, clip, rate_at},
    random::Random,
};
use crate::{Error, Result, evaluate};

/// How a patch is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The terms that are trained, in every layer; keys never are, for they have no effect.
    pub terms: Vec<Term>,
    /// Highest learning rates to try.
    pub rates: Vec<f64>,
    /// Seeds to try with each: of the head's first values and of the order of texts.
    pub seeds: Vec<u64>,
    /// Passes over the texts.
    pub epochs: u64,
    /// Texts to a step.
    pub batch: usize,
    /// The share of steps over which the learning rate goes up.
    pub warmup: f64,
    /// The norm that gradients are shortened to.
    pub clip: f64,
    /// AdamW's weight decay.
    pub decay: f64,
    /// Passes without a better score after which a run stops; none for never.
    pub patience: Option<u64>,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            terms: Term::ALL.into_iter().filter(|term| *term != Term::Key).collect(),
            rates: vec![1e-3],
            seeds: vec![1],
            epochs: 3,
            batch: 16,
            warmup: 0.06,
            clip: 1.0,
            decay: 0.0,
            patience: None,
        }
    }
}

/// What happens during training, for a progress bar and a log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A run begins, or goes on after `step` of `steps` steps.
    Run {
        /// Its number, from 0, and how many there are.
        run: (usize, usize),
        /// Its highest learning rate.
        rate: f64,
        /// Its seed.
        seed: u64,
        /// Steps done.
        step: u64,
        /// All its steps.
        steps: u64,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// The mean loss of its texts.
        loss: f64,
        /// The gradients' norm before they were shortened.
        norm: f64,
    },
    /// A run has diverged and is given up.
    Diverged {
        /// Where and how.
        reason: String,
    },
    /// A pass over the texts is done.
    Epoch {
        /// Passes done.
        epoch: u64,
        /// The mean loss of its texts.
        loss: f64,
        /// The score on the texts to be judged by.
        score: f64,
    },
}

/// A trained patch.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The patch, its values in f32.
    pub patch: Patch,
    /// The name of the metric that runs were judged by.
    pub metric: &'static str,
    /// For each run its learning rate, seed and best score; none if it diverged.
    pub runs: Vec<(f64, u64, Option<f64>)>,
}

/// Trains a patch for `task`; `checkpoint` is where the state is kept until it is done.
///
/// # Errors
/// When the recipe has nothing to train, texts do not suit the task, the loss stops being a number, or the checkpoint is
/// damaged or of another training.
pub fn train(
    encoder: &Encoder,
    task: &Task,
    learn: &[Example],
    judge: &[Example],
    recipe: &Recipe,
    checkpoint: &Path,
    event: &mut dyn FnMut(Event),
) -> Result<Trained> {
    let runs: Vec<(f64, u64)> =
        recipe.rates.iter().flat_map(|rate| recipe.seeds.iter().map(move |seed| (*rate, *seed))).collect();
    let trainer = Trainer::new(encoder, task, learn, judge, recipe)?;
    // What would be wrong with the patch in the end is said now.
    trainer.patch(&trainer.begin(0).parameters)?.check(encoder.bundle().manifest())?;
    let mut state = Checkpoint::open(checkpoint, trainer.fingerprint)?;
    while state.done.len() < runs.len() {
        let at = state.done.len();
        let (rate, seed) = runs[at];
        let current = match state.current.take() {
            Some(current) => current,
            None => trainer.begin(seed),
        };
        let steps = trainer.steps();
        event(Event::Run { run: (at, runs.len()), rate, seed, step: current.adam.steps, steps });
        match trainer.run(current, rate, seed, &mut state, checkpoint, event) {
            Ok(finished) => {
                state.done.push(Done { rate, seed, score: Some(finished.score) });
                if state.best.as_ref().is_none_or(|best| finished.score > best.score) {
                    state.best = Some(finished);
                }
            }
            // Other runs may do better; if none does, this is why.
            Err(error @ Error::Diverged { .. }) if at + 1 < runs.len() || state.best.is_some() => {
                event(Event::Diverged { reason: error.to_string() });
                state.done.push(Done { rate, seed, score: None });
            }
            Err(error) => return Err(error),
        }
        state.save(checkpoint)?;
    }
    let best = state.best.as_ref().ok_or_else(|| wrong("learning rates", "one that does not diverge", "none"))?;
    let metric = trainer.metric();
    let patch = trainer.patch(&best.parameters)?;
    let made =
        format!("BitFit, at most {} passes over {} texts, {} to a step", recipe.epochs, learn.len(), recipe.batch);
    let score = format!("{metric} {:.4} on {} texts", best.score, judge.len());
    let notes = [("made", made), ("metric", score), ("slots", trainer.terms())];
    let metadata = notes.map(|(key, value)| (key.to_owned(), value));
    Ok(Trained {
        patch: patch.with_metadata(metadata.into()),
        metric,
        runs: state.done.iter().map(|done| (done.rate, done.seed, done.score)).collect(),
    })
}

/// The loss of some texts, and its gradients.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The mean over the texts: cross-entropy, or squared error; of a tagged text the mean over its words.
    pub loss: f64,
    /// With respect to each slot's values, in the order of the manifest; zeros where it was not asked for.
    pub slots: Vec<Vec<f32>>,
    /// With respect to the head's weight `[outputs, H]` and then its bias `[outputs]`.
    pub head: Vec<f32>,
}

/// The mean loss of tokenized texts under a task's values, and its gradients.
///
/// `values` are the slots', `head` its weight `[outputs, H]` and then its bias `[outputs]`, `wanted` says for each slot
/// whether its gradient is asked for.
///
/// # Errors
/// When the encoder cannot run backward.
pub fn gradient(
    encoder: &Encoder,
    task: &Task,
    values: &[Vec<f32>],
    head: &[f32],
    texts: &[(&Tokenized, &Gold)],
    wanted: &[bool],
) -> Result<Gradient> {
    let hidden = encoder.bundle().manifest().config.hidden as usize;
    let share = 1.0 / texts.len().max(1) as f64;
    let mut loss = 0.0;
    let mut d_head = vec![0.0f32; head.len()];
    let head = Head { parameters: head, task, hidden };
    let tokenized: Vec<&Tokenized> = texts.iter().map(|(text, _)| *text).collect();
    let slots = encoder.gradient(values, &tokenized, wanted, |at, tokens, pooled| {
        let (text, gold) = texts[at];
        let found = head.loss(tokens, pooled, text.words(), gold, share, &mut d_head);
        loss += found.value;
        (found.d_tokens, found.d_pooled)
    })?;
    Ok(Gradient { loss, slots, head: d_head })
}

/// What stays the same over all runs.
struct Trainer<'a> {
    encoder: &'a Encoder,
    task: &'a Task,
    learn: Vec<(Tokenized, &'a Gold)>,
    judge: &'a [Example],
    recipe: &'a Recipe,
    /// For each slot of the encoder whether it is trained.
    wanted: Vec<bool>,
    /// What a checkpoint has to be of: everything that decides the result, the kernel's rounding included.
    fingerprint: Digest,
}

impl<'a> Trainer<'a> {
    fn new(
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
        let most = u64::MAX / learn.len() as u64;
        if recipe.epochs > most {
            return Err(wrong("passes", &format!("at most {most}"), &recipe.epochs.to_string()));
        }
        let wanted = manifest.slots.iter().map(|slot| recipe.terms.contains(&slot.term) && trainable(slot.term));
        let tokens = learn.iter().map(|example| Ok((encoder.tokenized(task, &example.text)?, &example.gold)));
        let mut digester = Digester::default();
        let arithmetic = encoder.arithmetic();
        digester.update(format!("{} {arithmetic}\n{task:?}\n{recipe:?}\n", manifest.encoder).as_bytes());
        for example in learn.iter().chain(judge) {
            digester.update(format!("{example:?}\n").as_bytes());
        }
        Ok(Trainer {
            encoder,
            task,
            learn: tokens.collect::<Result<_>>()?,
            judge,
            recipe,
            wanted: wanted.collect(),
            fingerprint: digester.finish(),
        })
    }

    fn hidden(&self) -> usize {
        self.encoder.bundle().manifest().config.hidden as usize
    }

    fn steps_of_epoch(&self) -> u64 {
        self.learn.len().div_ceil(self.recipe.batch) as u64
    }

    fn steps(&self) -> u64 {
        self.recipe.epochs * self.steps_of_epoch()
    }

    fn metric(&self) -> &'static str {
        match self.task.kind() {
            bias_patch::Kind::Regression { .. } => "Spearman",
            bias_patch::Kind::Tagging { .. } => "token accuracy",
            _ => "accuracy",
        }
    }

    /// The terms trained, in the order of the forward pass.
    fn terms(&self) -> String {
        let trained = |term: &Term| {
            let slots = &self.encoder.bundle().manifest().slots;
            slots.iter().zip(&self.wanted).any(|(slot, wanted)| *wanted && slot.term == *term)
        };
        let symbols: Vec<&str> = Term::ALL.into_iter().filter(trained).map(Term::symbol).collect();
        symbols.join(" ")
    }

    /// The first state of a run: the encoder's own biases, and a head of small random numbers.
    fn begin(&self, seed: u64) -> Current {
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
    fn run(
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
                let score = evaluate(self.encoder, &patch, self.judge)?.metrics[0].1;
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
        let texts: Vec<(&Tokenized, &Gold)> = batch.iter().map(|at| (&self.learn[*at].0, self.learn[*at].1)).collect();
        let found = gradient(self.encoder, self.task, &self.values(of_slots), of_head, &texts, &self.wanted)?;
        let loss = found.loss;
        let trained = found.slots.into_iter().zip(&self.wanted).filter(|(_, wanted)| **wanted);
        let mut gradients: Vec<f32> = trained.flat_map(|(d, _)| d).chain(found.head).collect();
        let norm = clip(&mut gradients, self.recipe.clip);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::Diverged { step: current.adam.steps + 1, rate, texts: batch.to_vec() });
        }
        let rate = rate_at(rate, current.adam.steps, self.steps(), self.recipe.warmup);
        current.adam.step(&mut current.parameters, &gradients, rate, self.recipe.decay);
        Ok((loss, norm))
    }

    /// The patch that parameters amount to; slots that are as in the encoder are left out.
    fn patch(&self, parameters: &[f32]) -> Result<Patch> {
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

fn wrong(field: &str, expected: &str, found: &str) -> Error {
    Error::Recipe { field: field.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}
