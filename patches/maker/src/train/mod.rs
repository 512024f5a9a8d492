//! Training a patch: BitFit, which moves an encoder's biases and a new head and nothing else.
//!
//! In: an encoder, a task, labelled texts to learn from and others to be judged by, and a [`Recipe`]. Out: the patch that
//! did best on the latter, over all learning rates and seeds of the recipe. A run that is stopped at any moment goes on
//! from its last checkpoint, and ends with the very same patch. To compare with it, [`compare`] trains weights: out come
//! scores alone.

mod average;
mod checkpoint;
mod head;
mod memory;
mod optimizer;
mod recipe;
mod trainer;
mod weights;

use std::path::Path;

use bias_patch::{Digest, Digester, Patch, Task};
use edge_run::{Encoder, Tokenized};

pub use recipe::{Average, Event, Recipe};
pub use weights::Weights;

use self::{
    checkpoint::{Checkpoint, Done},
    head::Head,
    trainer::Trainer,
};
use crate::{
    Error, Result,
    data::{Example, Gold},
    random::Random,
};

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

/// What a training of weights came to.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The name of the metric that runs were judged by.
    pub metric: &'static str,
    /// As of [`Trained`].
    pub runs: Vec<(f64, u64, Option<f64>)>,
}

/// What a training is of: another fingerprint, another result. It tells apart encoders, the rounding of their kernels, tasks,
/// texts and recipes, and which weights are trained, if any.
pub fn fingerprint(
    encoder: &Encoder,
    task: &Task,
    learn: &[Example],
    judge: &[Example],
    recipe: &Recipe,
    weights: Option<Weights>,
) -> Digest {
    let mut digester = Digester::default();
    let (digest, arithmetic) = (encoder.bundle().manifest().encoder, encoder.arithmetic());
    digester.update(format!("{digest} {arithmetic}\n{task:?}\n{recipe:?}\n").as_bytes());
    if let Some(weights) = weights {
        digester.update(format!("{weights:?}\n").as_bytes());
    }
    for example in learn.iter().chain(judge) {
        digester.update(format!("{example:?}\n").as_bytes());
    }
    digester.finish()
}

/// What the seeds of one learning rate came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OfRate {
    /// The learning rate.
    pub rate: f64,
    /// Runs that did not diverge.
    pub runs: usize,
    /// Their mean score; not a number where there are none.
    pub mean: f64,
    /// The standard deviation of their scores.
    pub deviation: f64,
    /// The best score.
    pub best: f64,
}

/// Mean and deviation over the seeds of each learning rate, as the paper reports them.
pub fn by_rate(runs: &[(f64, u64, Option<f64>)]) -> Vec<OfRate> {
    let mut rates: Vec<f64> = runs.iter().map(|run| run.0).collect();
    rates.dedup();
    let of = |rate: f64| {
        let scores: Vec<f64> = runs.iter().filter(|run| run.0 == rate).filter_map(|run| run.2).collect();
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let squares = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        let deviation = (squares / (scores.len() as f64 - 1.0).max(1.0)).sqrt();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        OfRate { rate, runs: scores.len(), mean, deviation, best }
    };
    rates.into_iter().map(of).collect()
}

/// So many of the texts, and the same ones among more of them.
pub fn subset(examples: &[Example], size: usize) -> Vec<Example> {
    /// The stream of random numbers that is this order's.
    const PURPOSE: u64 = u64::MAX;
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Random::new(0, PURPOSE).shuffle(&mut order);
    order.into_iter().take(size).map(|at| examples[at].clone()).collect()
}

/// Trains a patch for `task`; `checkpoint` is where the state is kept until it is done.
///
/// # Errors
/// When the recipe has nothing to train, texts do not suit the task, the checkpoint is damaged or of another training, or
/// the loss of every run stops being a number: that alone is [`Error::Diverged`].
pub fn train(
    encoder: &Encoder,
    task: &Task,
    learn: &[Example],
    judge: &[Example],
    recipe: &Recipe,
    checkpoint: &Path,
    event: &mut dyn FnMut(Event),
) -> Result<Trained> {
    let trainer = Trainer::new(encoder, task, learn, judge, recipe, None)?;
    let state = run_all(&trainer, learn.len(), recipe, checkpoint, event)?;
    let best = state.best.as_ref().ok_or_else(|| wrong("learning rates", "one that does not diverge", "none"))?;
    let metric = trainer.metric;
    let patch = trainer.patch(&best.parameters)?;
    let made =
        format!("BitFit, at most {} passes over {} texts, {} to a step", recipe.epochs, learn.len(), recipe.batch);
    let score = format!("{metric} {:.4} on {} texts", best.score, judge.len());
    let notes = [("made", made), ("metric", score), ("slots", trainer.terms())];
    let metadata = notes.map(|(key, value)| (key.to_owned(), value));
    Ok(Trained { patch: patch.with_metadata(metadata.into()), metric, runs: state.runs() })
}

/// Trains weights of the encoder, which no patch can hold, with the same steps as [`train`]: what comes out is how well that
/// does. [`Weights::Full`] trains all biases too, the others none; as many weights as the terms of the recipe have biases.
///
/// `checkpoint` keeps the runs that are done: one that is stopped begins anew.
///
/// # Errors
/// As [`train`], when the encoder's weights are not floats, or the recipe asks for averages or a limit of memory.
#[expect(clippy::too_many_arguments, reason = "those of train, and which weights")]
pub fn compare(
    encoder: &Encoder,
    task: &Task,
    learn: &[Example],
    judge: &[Example],
    recipe: &Recipe,
    weights: Weights,
    checkpoint: &Path,
    event: &mut dyn FnMut(Event),
) -> Result<Compared> {
    let trainer = Trainer::new(encoder, task, learn, judge, recipe, Some(weights))?;
    let state = run_all(&trainer, learn.len(), recipe, checkpoint, event)?;
    Ok(Compared { metric: trainer.metric, runs: state.runs() })
}

/// All runs of a recipe that are not done yet, over so many texts. Gives the state in the end, which is also in the checkpoint.
fn run_all(
    trainer: &Trainer<'_>,
    texts: usize,
    recipe: &Recipe,
    checkpoint: &Path,
    event: &mut dyn FnMut(Event),
) -> Result<Checkpoint> {
    let runs = recipe.runs();
    if trainer.unheld > 0 {
        event(Event::Unheld { texts: trainer.unheld });
    }
    // What would be wrong with the patch in the end is said now.
    trainer.check()?;
    let mut state = Checkpoint::open(checkpoint, trainer.fingerprint)?;
    while state.done.len() < runs.len() {
        let at = state.done.len();
        let (rate, seed) = runs[at];
        let current = match state.current.take() {
            Some(current) => current,
            None => trainer.begin(seed),
        };
        let steps = trainer.steps();
        let (run, step) = ((at, runs.len()), current.adam.steps);
        let (training, trained) = (trainer.fingerprint, trainer.trained());
        event(Event::Run { run, training, trained, texts, rate, seed, step, steps });
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
    Ok(state)
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
/// whether its gradient is asked for, and `tokens` is how many run together at most: [`edge_run::RUN_TOKENS`], or fewer for
/// less memory.
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
    tokens: usize,
) -> Result<Gradient> {
    gradient_with_weights(encoder, task, (values, head), texts, wanted, tokens, None)
}

/// As [`gradient`], `values` coming with the head; and where there is `d_weights`, the gradient of every weight is added to it,
/// in the order of [`edge_run::OwnWeights`].
///
/// # Errors
/// As [`gradient`], and when the encoder's weights are not floats.
pub fn gradient_with_weights(
    encoder: &Encoder,
    task: &Task,
    (values, head): (&[Vec<f32>], &[f32]),
    texts: &[(&Tokenized, &Gold)],
    wanted: &[bool],
    tokens: usize,
    d_weights: Option<&mut [f32]>,
) -> Result<Gradient> {
    let hidden = encoder.bundle().manifest().config.hidden as usize;
    let share = 1.0 / texts.len().max(1) as f64;
    let mut loss = 0.0;
    let mut d_head = vec![0.0f32; head.len()];
    let head = Head { parameters: head, task, hidden };
    let tokenized: Vec<&Tokenized> = texts.iter().map(|(text, _)| *text).collect();
    let slots = encoder.gradient(values, &tokenized, wanted, tokens, d_weights, |at, tokens, pooled| {
        let (text, gold) = texts[at];
        let found = head.loss(tokens, pooled, text, gold, share, &mut d_head);
        loss += found.value;
        (found.d_tokens, found.d_pooled)
    })?;
    Ok(Gradient { loss, slots, head: d_head })
}

fn wrong(field: &str, expected: &str, found: &str) -> Error {
    Error::Recipe { field: field.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}
