//! One training: steps, epochs, checkpoints, and the patch of given parameters.
//!
//! Parameters are one list: the values of the trained slots in the order of the forward pass, then the head's weight
//! `[outputs, H]` and its bias `[outputs]`. Weights that are trained for comparison are neither in this list nor in a
//! checkpoint.

use std::path::Path;

use bias_patch::{Digest, Encoding, Head as PatchHead, Linear, Module, Patch, Pooling, Stored, StoredSlot, Task};
use edge_bundle::Slot;
use edge_run::{Encoder, Tokenized, tasks};

use super::{
    Average, Event, Recipe, Weights,
    average::Averaged,
    checkpoint::{Best, Checkpoint, Current},
    fingerprint, gradient_with_weights,
    head::Head,
    memory::{Load, fitting},
    optimizer::{AdamW, clip, learning_rate_at},
    trained_weights::TrainedWeights,
    wrong,
};
use crate::{
    Error, Result,
    data::{Example, Gold},
    evaluate, metric_named,
    random::Random,
};

/// A tokenized training text, or a window of one that holds the whole answer.
struct TrainingText<'a> {
    /// The index of its text among the training texts.
    example: usize,
    text: Tokenized,
    gold: &'a Gold,
}

/// What all runs have in common.
pub(super) struct Trainer<'a> {
    encoder: &'a Encoder,
    task: &'a Task,
    train_texts: Vec<TrainingText<'a>>,
    dev_texts: &'a [Example],
    recipe: &'a Recipe,
    /// Which weights are trained, and how many if not all.
    weights: Option<(Weights, usize)>,
    /// For each slot of the encoder whether it is trained.
    wanted: Vec<bool>,
    /// Every slot's values before the first step.
    initial: Vec<Vec<f32>>,
    /// How many tokens run together at most.
    tokens: usize,
    /// The identity of the training, which its checkpoint has to have.
    pub fingerprint: Digest,
    /// The metric of scores.
    pub metric: &'static str,
    /// How many training texts are left out, because no window holds their whole answer.
    pub left_out: usize,
}

impl<'a> Trainer<'a> {
    pub fn new(
        encoder: &'a Encoder,
        task: &'a Task,
        train_texts: &'a [Example],
        dev_texts: &'a [Example],
        recipe: &'a Recipe,
        weights: Option<Weights>,
    ) -> Result<Self> {
        let manifest = encoder.bundle().manifest();
        let pooler = task.kind().pooling() == Some(Pooling::Pooler);
        let trainable = |term: Module| term != Module::Key && (term != Module::Pooler || pooler);
        for (field, there) in [
            ("training texts", train_texts.len()),
            ("dev texts", dev_texts.len()),
            ("texts per step", recipe.batch),
            ("learning rates", recipe.learning_rates.len()),
            ("seeds", recipe.seeds.len()),
            ("epochs", usize::from(recipe.epochs > 0)),
        ] {
            if there == 0 {
                return Err(wrong(field, "at least one", "none"));
            }
        }
        let (tokenized, left_out) = tokenize(encoder, task, train_texts)?;
        if tokenized.is_empty() {
            return Err(wrong("training texts", "one that holds its answer within max_length", "none"));
        }
        let most = u64::MAX / tokenized.len() as u64;
        if recipe.epochs > most {
            return Err(wrong("epochs", &format!("at most {most}"), &recipe.epochs.to_string()));
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
        let initial = match &recipe.start {
            Some(patch) if patch.head().dense.is_some() => {
                return Err(wrong("head to start from", "one linear layer", "one after a hidden layer"));
            }
            Some(patch) => patch.apply(&manifest.shape(), encoder.base().slots())?,
            None => encoder.base().slots().to_vec(),
        };
        let hidden = manifest.config.hidden as usize;
        let of_slots = manifest.slots.iter().zip(&wanted).filter(|(_, wanted)| **wanted);
        let load = Load {
            texts: train_texts.iter().chain(dev_texts).map(|example| 200 + example.text.bytes()).sum::<usize>()
                + tokenized.iter().map(|text| 200 + 8 * text.text.len()).sum::<usize>(),
            parameters: of_slots.map(|(slot, _)| slot.len as usize).sum::<usize>() + Head::count(task, hidden),
            longest: tokenized.iter().map(|text| text.text.len()).max().unwrap_or_default(),
        };
        let tokens = fitting(&manifest.config, load, recipe.memory_limit)?;
        Ok(Trainer {
            encoder,
            task,
            train_texts: tokenized,
            dev_texts,
            recipe,
            weights: weights.map(|weights| (weights, count)),
            wanted,
            initial,
            tokens,
            fingerprint: fingerprint(encoder, task, train_texts, dev_texts, recipe, weights)?,
            metric: metric_named(task.kind(), recipe.metric.as_deref())?,
            left_out,
        })
    }

    fn hidden(&self) -> usize {
        self.encoder.bundle().manifest().config.hidden as usize
    }

    fn steps_of_epoch(&self) -> u64 {
        self.train_texts.len().div_ceil(self.recipe.batch) as u64
    }

    pub fn steps(&self) -> u64 {
        self.recipe.epochs * self.steps_of_epoch()
    }

    /// Refuses a task or recipe whose patch could not be written in the end.
    pub fn check(&self) -> Result<()> {
        Ok(self.patch(&self.begin(0).parameters)?.check(&self.encoder.bundle().manifest().shape())?)
    }

    /// The terms trained, in the order of the forward pass.
    pub fn terms(&self) -> String {
        let trained = |term: &Module| {
            let slots = &self.encoder.bundle().manifest().slots;
            slots.iter().zip(&self.wanted).any(|(slot, wanted)| *wanted && slot.term == *term)
        };
        let symbols: Vec<&str> = Module::ALL.into_iter().filter(trained).map(Module::symbol).collect();
        symbols.join(" ")
    }

    /// What is trained, as on the command line.
    pub fn trained(&self) -> String {
        match (self.weights, self.terms()) {
            (Some((weights, _)), _) => weights.name().to_owned(),
            (None, terms) if terms.is_empty() => "frozen".to_owned(),
            (None, _) if self.recipe.terms == Recipe::default().terms => "all".to_owned(),
            (None, terms) => terms.replace(' ', "+"),
        }
    }

    /// The initial state of a run: the patch to start from, or the encoder's own biases and a head of small random
    /// numbers.
    pub fn begin(&self, seed: u64) -> Current {
        let mut parameters: Vec<f32> = Vec::new();
        for (slot, wanted) in self.initial.iter().zip(&self.wanted) {
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

    /// The values of every slot and of the head: trained ones from the parameters, rounded if training is
    /// quantization-aware.
    fn values(&self, parameters: &[f32]) -> Result<(Vec<Vec<f32>>, Vec<f32>)> {
        let rounded = |values: &[f32], base: Option<&[f32]>, encoding: Option<Encoding>| match encoding {
            Some(encoding) => Ok::<_, Error>(Stored::encode(values, base, encoding)?.values(base)),
            None => Ok(values.to_vec()),
        };
        let (of_slots, of_head) = self.recipe.quantized.unzip();
        let (mut rest, head) = parameters.split_at(parameters.len() - Head::count(self.task, self.hidden()));
        let mut slots = Vec::with_capacity(self.initial.len());
        for ((first, base), wanted) in self.initial.iter().zip(self.encoder.base().slots()).zip(&self.wanted) {
            let mut values = &first[..];
            if *wanted {
                (values, rest) = rest.split_at(first.len());
            }
            slots.push(rounded(values, Some(base), of_slots)?);
        }
        let (weight, bias) = head.split_at(self.task.kind().outputs() * self.hidden());
        Ok((slots, [rounded(weight, None, of_head)?, rounded(bias, None, of_head)?].concat()))
    }

    /// Does the remaining steps of a run, and gives the best parameters.
    pub fn run(
        &self,
        mut current: Current,
        learning_rate: f64,
        seed: u64,
        state: &mut Checkpoint,
        path: &Path,
        event: &mut dyn FnMut(Event),
    ) -> Result<Best> {
        /// Steps between checkpoints: a second or two of work.
        const KEEP: u64 = 20;
        let epoch_steps = self.steps_of_epoch();
        // They are not in a checkpoint, so their run starts at its first step.
        let mut weights = match self.weights {
            Some((weights, count)) => Some(TrainedWeights::begin(self.encoder, weights, count, seed)?),
            None => None,
        };
        let mut order: Vec<usize> = Vec::new();
        let mut ordered = None;
        while current.adam.steps < self.steps() {
            let step = current.adam.steps;
            let (epoch, within) = (step / epoch_steps, step % epoch_steps);
            if ordered != Some(epoch) {
                order = (0..self.train_texts.len()).collect();
                Random::new(seed, 1 + epoch).shuffle(&mut order);
                ordered = Some(epoch);
            }
            let first = within as usize * self.recipe.batch;
            let batch = &order[first..order.len().min(first + self.recipe.batch)];
            let (loss, norm) = self.step(&mut current, weights.as_mut(), batch, learning_rate)?;
            current.loss += loss * batch.len() as f64;
            event(Event::Step { step: step + 1, loss, norm });
            if (step + 1).is_multiple_of(epoch_steps) {
                let evaluated = current.averaged.epoch_end(self.recipe.average, &current.parameters);
                let patch = self.patch(&evaluated)?;
                let found = match &weights {
                    Some(weights) => evaluate(&weights.encoder(self.encoder)?, &patch, self.dev_texts)?,
                    None => evaluate(self.encoder, &patch, self.dev_texts)?,
                };
                let (dev, metric) = (found.metric(self.metric), self.metric);
                event(Event::Epoch {
                    epoch: epoch + 1,
                    loss: current.loss / self.train_texts.len() as f64,
                    dev,
                    metric,
                });
                current.loss = 0.0;
                current.since_best += 1;
                if current.best.as_ref().is_none_or(|best| dev > best.score) {
                    current.best = Some(Best { score: dev, parameters: evaluated });
                    current.since_best = 0;
                }
                if self.recipe.patience.is_some_and(|patience| current.since_best >= patience) {
                    break;
                }
            }
            if weights.is_none() && (step + 1).is_multiple_of(KEEP) {
                state.current = Some(current);
                state.save(path)?;
                current = state.current.take().expect("it was put there two lines above");
            }
        }
        current.best.ok_or_else(|| wrong("epochs", "at least one", "none"))
    }

    /// One step. Gives the mean loss, and the norm of the gradients before clipping.
    fn step(
        &self,
        current: &mut Current,
        mut weights: Option<&mut TrainedWeights>,
        batch: &[usize],
        learning_rate: f64,
    ) -> Result<(f64, f64)> {
        let (slots, head) = self.values(&current.parameters)?;
        let batch = batch.iter().map(|at| &self.train_texts[*at]);
        let texts: Vec<(&Tokenized, &Gold)> = batch.clone().map(|text| (&text.text, text.gold)).collect();
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
                learning_rate,
                texts: batch.map(|text| text.example).collect(),
            });
        }
        let learning_rate = learning_rate_at(learning_rate, current.adam.steps, self.steps(), self.recipe.warmup);
        if let Some(weights) = weights {
            weights.step(learning_rate, self.recipe.weight_decay);
        }
        current.adam.step(&mut current.parameters, &gradients, learning_rate, self.recipe.weight_decay);
        current.averaged.step(self.recipe.average, current.adam.steps, &current.parameters);
        Ok((loss, norm))
    }

    /// The patch of given parameters, without the slots that equal the encoder's.
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

/// Tokenizes training texts; of a span task only the windows that hold the whole answer. Also gives how many texts have
/// none.
///
/// A window without the answer has no target for the loss: its answer is no span of it, and there is no output for "no
/// answer", since prediction takes the best span over all windows.
fn tokenize<'a>(encoder: &Encoder, task: &Task, train_texts: &'a [Example]) -> Result<(Vec<TrainingText<'a>>, usize)> {
    let (mut tokenized, mut left_out) = (Vec::new(), 0);
    let kind = tasks::of(task.kind());
    for (number, Example { text, gold }) in train_texts.iter().enumerate() {
        let before = tokenized.len();
        for text in encoder.tokenized(task, text)? {
            if kind.holds(&text, gold) {
                tokenized.push(TrainingText { example: number, text, gold });
            }
        }
        left_out += usize::from(tokenized.len() == before);
    }
    Ok((tokenized, left_out))
}
