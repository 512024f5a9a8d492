//! One training: steps, epochs, checkpoints, and the patch of given parameters.
//!
//! Parameters are one list: the values of the trained slots in the order of the forward pass, A and B of each trained
//! low-rank term, then the head's weight `[outputs, H]` and its bias `[outputs]`. Weights that are trained for comparison
//! are neither in this list nor in a checkpoint.

use std::path::Path;

use bias_patch::{
    Digest, Encoding, Head as PatchHead, Kind, Linear, LowRank, Patch, Pooling, SlotKind, Stored, StoredSlot, Task,
    Values,
};
use edge_bundle::Slot;
use edge_run::{Cut, Encoder, Extent, Prediction, Tokenized, tasks};

use super::{
    Average, Event, Listener, Recipe, Sets, Slots, Weights,
    average::Averaged,
    checkpoint::{Best, Checkpoint, Current},
    contrast, fingerprint, gradient_over,
    head::Head,
    labels::label_weights,
    memory::{Load, fitting},
    optimizer::{AdamW, clip, learning_rate_at},
    parts::{Part, kept_inputs, parts, zero_terms},
    recipe::is_residual,
    states::States,
    texts::{TrainingText, tokenize},
    trained_weights::TrainedWeights,
    unless_stopped, wrong,
};
use crate::{
    Error, Result,
    bootstrap::Draws,
    data::{Example, Gold},
    evaluate::{answers, compare, fitted},
    metric_named,
    random::Random,
};

/// Answers to the dev set, and to the test set if there is one.
type Answers = (Vec<Prediction>, Option<Vec<Prediction>>);

/// What all runs have in common.
pub(super) struct Trainer<'a> {
    encoder: &'a Encoder,
    task: &'a Task,
    train_texts: Vec<TrainingText<'a>>,
    sets: Sets<'a>,
    recipe: &'a Recipe,
    /// Which weights are trained, and how many if not all.
    weights: Option<(Weights, usize)>,
    /// For each slot of the encoder, and then each of the low-rank terms, whether it is trained.
    wanted: Vec<bool>,
    /// Below which nothing is trained, if what lies there is kept.
    cut: Option<Cut>,
    /// The task's values before the first step, but for A of the terms, which is random, by the seed.
    initial: Values,
    /// By what the learning rate of each parameter is multiplied.
    rates: Vec<f64>,
    /// What each label counts in the loss; none where all count alike.
    label_weights: Vec<f64>,
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
        sets: Sets<'a>,
        recipe: &'a Recipe,
        weights: Option<Weights>,
    ) -> Result<Self> {
        let manifest = encoder.bundle().manifest();
        let pooler = task.kind().pooling() == Some(Pooling::Pooler);
        for (field, there) in [
            ("training texts", sets.train.len()),
            ("dev texts", sets.dev.len()),
            ("test texts", sets.test.map_or(1, <[Example]>::len)),
            ("texts per step", recipe.batch),
            ("learning rates", recipe.learning_rates.len()),
            ("seeds", recipe.seeds.len()),
            ("epochs", usize::from(recipe.epochs > 0)),
        ] {
            if there == 0 {
                return Err(wrong(field, "at least one", "none"));
            }
        }
        if recipe.slots == Slots::frozen() && weights.is_none() && task.kind().outputs().is_none() {
            let expected = "some, for an embedding has no head to train";
            return Err(wrong("--slots", expected, &recipe.slots.to_string()));
        }
        let (tokenized, left_out) = tokenize(encoder, task, sets.train)?;
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
        recipe.slots.check(manifest, pooler)?;
        let of_recipe = |slot: &&Slot| recipe.slots.has_bias(slot, manifest, pooler);
        let count = manifest.slots.iter().filter(of_recipe).map(|slot| slot.len as usize).sum();
        if count == 0 && matches!(weights, Some(Weights::Random | Weights::Rows)) {
            let expected = "biases, for --weights trains as many weights";
            return Err(wrong("--slots", expected, &recipe.slots.to_string()));
        }
        let wanted = manifest.slots.iter().map(|slot| match weights {
            None => of_recipe(&slot),
            Some(Weights::Full) => Slots::all_biases().has_bias(slot, manifest, pooler),
            Some(Weights::Random | Weights::Rows) => false,
        });
        let mut wanted: Vec<bool> = wanted.collect();
        let rank = |slot: &Slot| recipe.slots.rank(slot, manifest, pooler).filter(|_| weights.is_none());
        let initial = Values { slots: encoder.base().slots().to_vec(), low_rank: zero_terms(manifest, rank) };
        wanted.extend(initial.low_rank.iter().map(|_| true));
        let hidden = manifest.config.hidden as usize;
        let mut rates = Vec::new();
        for part in parts(&initial).zip(&wanted).filter_map(|(part, wanted)| wanted.then_some(part)) {
            let slot = match part {
                Part::Slot(at, _) => Some(&manifest.slots[at]),
                Part::Term(_) => None,
            };
            // Fine-tuning of weights has one rate for all.
            let slowed = weights.is_none() && slot.is_some_and(|slot| is_residual(slot.module, manifest.config.family));
            let rate = if slowed { recipe.residual_rate } else { 1.0 };
            rates.extend(std::iter::repeat_n(rate, part.len()));
        }
        rates.extend(std::iter::repeat_n(1.0, Head::count(task, hidden)));
        let texts = sets.train.iter().chain(sets.dev).chain(sets.test.unwrap_or_default());
        let cut = match weights.is_none() && recipe.keep_states > 0 {
            true => encoder.cut(&initial, &wanted)?,
            false => None,
        };
        let most = tokenized.iter().map(|text| text.lengths().sum::<usize>()).max().unwrap_or_default();
        let load = Load {
            texts: texts.map(|example| 200 + example.text.bytes()).sum::<usize>()
                + tokenized.iter().flat_map(TrainingText::lengths).map(|tokens| 200 + 8 * tokens).sum::<usize>(),
            parameters: rates.len(),
            longest: tokenized.iter().flat_map(TrainingText::lengths).max().unwrap_or_default(),
            kept: cut.as_ref().map_or(0, |cut| size_of::<f32>() * cut.width() * most * recipe.batch),
            inputs: kept_inputs(manifest, &initial),
        };
        let tokens = fitting(&manifest.config, load, recipe.memory_limit)?;
        Ok(Trainer {
            encoder,
            task,
            train_texts: tokenized,
            sets,
            recipe,
            weights: weights.map(|weights| (weights, count)),
            wanted,
            cut,
            initial,
            rates,
            label_weights: label_weights(task, sets.train, recipe.class_weights)?,
            tokens,
            fingerprint: fingerprint(encoder, task, sets, recipe, weights)?.digest,
            metric: metric_named(task.kind(), sets.dev, recipe.metric.as_deref())?,
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

    /// What is trained, as on the command line.
    pub fn trained(&self) -> String {
        match self.weights {
            Some((weights, _)) => weights.name().to_owned(),
            None if self.recipe.slots.first_layer > 0 => {
                format!("{} from layer {}", self.recipe.slots, self.recipe.slots.first_layer)
            }
            None => self.recipe.slots.to_string(),
        }
    }

    /// The initial state of a run: the encoder's own biases, terms that add nothing yet, and a head of small random
    /// numbers.
    pub fn begin(&self, seed: u64) -> Current {
        /// The purpose of the random stream of terms: a number that no epoch reaches.
        const TERMS: u64 = u64::MAX - 2;
        let mut of_terms = Random::new(seed, TERMS);
        let mut parameters: Vec<f32> = Vec::new();
        for part in parts(&self.initial).zip(&self.wanted).filter_map(|(part, wanted)| wanted.then_some(part)) {
            match part {
                Part::Slot(_, values) => parameters.extend(values),
                Part::Term(term) => {
                    // A x is about as large as one value of x; B is zero, so training starts from the encoder.
                    let deviation = 1.0 / ((term.a.len() / term.rank) as f64).sqrt();
                    parameters.extend(term.a.iter().map(|_| (deviation * of_terms.normal()) as f32));
                    parameters.extend(&term.b);
                }
            }
        }
        let (count, mut of_head) = (Head::count(self.task, self.hidden()), Random::new(seed, 0));
        let weight = Head::weights(self.task, self.hidden());
        parameters.extend((0..weight).map(|_| (0.02 * of_head.normal()) as f32));
        parameters.extend(std::iter::repeat_n(0.0, count - weight));
        let adam = AdamW::new(parameters.len());
        Current { parameters, adam, averaged: Averaged::default(), loss: 0.0, best: None, since_best: 0 }
    }

    /// The task's values and the head's: trained ones from the parameters.
    fn values(&self, parameters: &[f32]) -> (Values, Vec<f32>) {
        let (mut rest, head) = parameters.split_at(parameters.len() - Head::count(self.task, self.hidden()));
        let mut trained = |initial: &[f32], wanted: bool| {
            if !wanted {
                return initial.to_vec();
            }
            let (values, after) = rest.split_at(initial.len());
            rest = after;
            values.to_vec()
        };
        let mut values = Values::default();
        for (part, wanted) in parts(&self.initial).zip(&self.wanted) {
            match part {
                Part::Slot(_, initial) => values.slots.push(trained(initial, *wanted)),
                Part::Term(term) => {
                    let (a, b) = (trained(&term.a, *wanted), trained(&term.b, *wanted));
                    values.low_rank.push(LowRank { a, b, ..*term });
                }
            }
        }
        (values, head.to_vec())
    }

    /// Where the states of the texts will be kept, if there are any that stay the same.
    pub fn states(&self, beside: &Path) -> Result<Option<States>> {
        let begin = |cut: &Cut| States::begin(cut.clone(), beside, self.recipe.keep_states);
        self.cut.as_ref().map(begin).transpose()
    }

    /// Does the remaining steps of a run, and gives the best parameters, and their scores over draws of dev and test.
    pub fn run(
        &self,
        mut current: Current,
        learning_rate: f64,
        seed: u64,
        (state, path): (&mut Checkpoint, &Path),
        mut states: Option<&mut States>,
        event: &mut Listener<'_>,
    ) -> Result<(Best, [Draws; 2])> {
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
        let mut best_answers: Option<Answers> = None;
        while !self.ended(&current) {
            let mut stopped = false;
            // A run that was stopped at the last step of an epoch has that epoch to score first.
            if current.adam.steps < (current.scored() + 1) * epoch_steps {
                let step = current.adam.steps;
                let (epoch, within) = (step / epoch_steps, step % epoch_steps);
                if ordered != Some(epoch) {
                    order = (0..self.train_texts.len()).collect();
                    Random::new(seed, 1 + epoch).shuffle(&mut order);
                    ordered = Some(epoch);
                }
                let first = within as usize * self.recipe.batch;
                let batch = &order[first..order.len().min(first + self.recipe.batch)];
                let (loss, norm) =
                    self.step(&mut current, weights.as_mut(), states.as_deref_mut(), batch, learning_rate)?;
                current.loss += loss * batch.len() as f64;
                stopped = event(Event::Step { step: step + 1, loss, norm }).is_break();
            }
            if !stopped && current.adam.steps == (current.scored() + 1) * epoch_steps {
                let evaluated = current.averaged.epoch_end(self.recipe.average, &current.parameters);
                let changed = weights.as_ref().map(|weights| weights.encoder(self.encoder)).transpose()?;
                let encoder = changed.as_ref().unwrap_or(self.encoder);
                let (patch, on_dev) = fitted(encoder, self.patch(&evaluated)?, self.sets.dev)?;
                let score = |answers: &[Prediction], examples: &[Example]| {
                    compare(patch.task(), answers, examples).metric(self.metric)
                };
                let dev = score(&on_dev, self.sets.dev);
                let (epoch, metric) = (current.scored() + 1, self.metric);
                let better = current.best.as_ref().is_none_or(|best| dev > best.dev);
                // Now, because trained weights are not kept.
                let tested = self.sets.test.filter(|_| better);
                let tested = tested.map(|set| Ok::<_, Error>((set, answers(encoder, &patch, set)?)));
                let tested = tested.transpose()?;
                let test = tested.as_ref().map(|(set, on_test)| score(on_test, set));
                let loss = current.loss / self.train_texts.len() as f64;
                stopped = event(Event::Epoch { epoch, loss, dev, test, metric }).is_break();
                current.loss = 0.0;
                current.since_best += 1;
                if better {
                    best_answers = Some((on_dev, tested.map(|(_, on_test)| on_test)));
                    current.best = Some(Best { epoch, dev, test, parameters: evaluated });
                    current.since_best = 0;
                }
            }
            if weights.is_none() && (stopped || current.adam.steps.is_multiple_of(KEEP)) {
                state.current = Some(current);
                state.save(path)?;
                current = state.current.take().expect("it was put there two lines above");
            }
            unless_stopped(stopped)?;
        }
        let best = current.best.ok_or_else(|| wrong("epochs", "at least one", "none"))?;
        let draws = self.draws(&best, best_answers)?;
        Ok((best, draws))
    }

    /// The scores of the best epoch over draws of the dev and the test set. Its answers are not in a checkpoint, and are
    /// given anew where the run went on from one.
    fn draws(&self, best: &Best, answered: Option<Answers>) -> Result<[Draws; 2]> {
        let (on_dev, on_test) = match answered {
            Some(answered) => answered,
            None => {
                let (patch, on_dev) = fitted(self.encoder, self.patch(&best.parameters)?, self.sets.dev)?;
                (on_dev, self.sets.test.map(|set| answers(self.encoder, &patch, set)).transpose()?)
            }
        };
        let of = |answers: &[Prediction], examples: &[Example]| Draws::of(self.task, self.metric, answers, examples);
        let test = on_test.zip(self.sets.test).map(|(on_test, set)| of(&on_test, set));
        Ok([of(&on_dev, self.sets.dev), test.unwrap_or_default()])
    }

    /// Whether a run is at its end: its last epoch is scored, or as many as its patience brought nothing better.
    fn ended(&self, current: &Current) -> bool {
        let out_of_patience = |patience| current.best.is_some() && current.since_best >= patience;
        current.scored() == self.recipe.epochs || self.recipe.patience.is_some_and(out_of_patience)
    }

    /// One step. Gives the mean loss, and the norm of the gradients before clipping.
    fn step(
        &self,
        current: &mut Current,
        mut weights: Option<&mut TrainedWeights>,
        states: Option<&mut States>,
        batch: &[usize],
        learning_rate: f64,
    ) -> Result<(f64, f64)> {
        let (values, head) = self.values(&current.parameters);
        let batch = batch.iter().map(|at| &self.train_texts[*at]);
        let changed = weights.as_ref().map(|weights| weights.encoder(self.encoder)).transpose()?;
        let encoder = changed.as_ref().unwrap_or(self.encoder);
        let kept;
        let extent = match (states, weights.as_mut()) {
            (Some(states), _) => {
                let texts: Vec<(usize, &Tokenized)> = batch.clone().flat_map(TrainingText::numbered).collect();
                kept = states.of(encoder, &values, &texts, self.tokens)?;
                Extent::Above(states.cut(), &kept)
            }
            (None, Some(weights)) => weights.extent(),
            (None, None) => Extent::Encoder,
        };
        let (wanted, tokens) = (&self.wanted[..], self.tokens);
        let found = match self.task.kind() {
            Kind::Embedding(spec) => {
                let pairs: Vec<&TrainingText<'_>> = batch.clone().collect();
                contrast::gradient(encoder, spec, &values, &pairs, wanted, tokens, extent)?
            }
            _ => {
                let texts: Vec<(&Tokenized, &Gold)> = batch.clone().map(|text| (&text.text, text.gold)).collect();
                let task = (self.task, &self.label_weights[..]);
                gradient_over(encoder, task, (&values, &head), &texts, wanted, tokens, extent)?
            }
        };
        drop(changed);
        let loss = found.loss;
        let mut gradients: Vec<f32> = Vec::with_capacity(current.parameters.len());
        for part in parts(&found.values).zip(&self.wanted).filter_map(|(part, wanted)| wanted.then_some(part)) {
            match part {
                Part::Slot(_, d) => gradients.extend(d),
                Part::Term(term) => gradients.extend(term.a.iter().chain(&term.b)),
            }
        }
        gradients.extend(found.head);
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
        let rates = self.rates.iter().map(|rate| rate * learning_rate);
        current.adam.step(&mut current.parameters, &gradients, rates, self.recipe.weight_decay);
        current.averaged.step(self.recipe.average, current.adam.steps, &current.parameters);
        Ok((loss, norm))
    }

    /// As [`Trainer::patch`], with thresholds that do best on the dev set.
    pub fn fitted(&self, parameters: &[f32]) -> Result<Patch> {
        let patch = self.patch(parameters)?;
        match tasks::of(self.task.kind()).fitted(&[]) {
            Some(_) => Ok(fitted(self.encoder, patch, self.sets.dev)?.0),
            None => Ok(patch),
        }
    }

    /// The patch of given parameters, without the biases that equal the encoder's and the terms that are zero.
    pub fn patch(&self, parameters: &[f32]) -> Result<Patch> {
        let manifest = self.encoder.bundle().manifest();
        let (all, head) = self.values(parameters);
        let mut slots = Vec::new();
        for ((slot, base), values) in manifest.slots.iter().zip(self.encoder.base().slots()).zip(all.slots) {
            if values != *base {
                let values = Stored::encode(&values, Some(base), Encoding::F32)?;
                slots.push(StoredSlot { id: slot.id(), values });
            }
        }
        for term in all.low_rank.iter().filter(|term| term.b.iter().any(|value| *value != 0.0)) {
            for (kind, values) in [(SlotKind::LoraA, &term.a), (SlotKind::LoraB, &term.b)] {
                let id = manifest.slots[term.slot].id().with_kind(kind)?;
                slots.push(StoredSlot { id, values: Stored::encode(values, None, Encoding::F32)? });
            }
        }
        slots.sort_by_key(|slot| slot.id);
        let (weight, bias) = head.split_at(Head::weights(self.task, self.hidden()));
        let head = if bias.is_empty() { PatchHead::default() } else { PatchHead::of(Linear::exact(weight, bias)?) };
        Ok(Patch::new(manifest.encoder, self.task.clone(), slots, head, [])?)
    }
}
