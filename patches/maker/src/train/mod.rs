//! Training a patch by BitFit: biases of the encoder, perhaps low-rank terms of its linear layers, and a new head are
//! trained. All weights are frozen.
//!
//! In: an encoder, a task, labelled texts ([`Sets`]), and a [`Recipe`]. Out: the patch with the best dev score over all
//! learning rates and seeds of the recipe, and the scores of every run. A test set is scored and decides nothing. A
//! training that was stopped resumes from its last checkpoint and gives the same patch, byte for byte. For comparison,
//! [`compare`] trains weights and gives scores only.

mod average;
mod checkpoint;
mod contrast;
pub(crate) mod head;
mod identity;
mod job;
mod labels;
mod lines;
mod memory;
pub(crate) mod optimizer;
mod parts;
mod recipe;
mod runs;
mod sets;
mod slots;
mod states;
mod texts;
#[cfg(feature = "research")]
mod trained_weights;
#[cfg(not(feature = "research"))]
#[path = "no_trained_weights.rs"]
mod trained_weights;
mod trainer;
mod weights;

use std::{ops::ControlFlow, path::Path};

use bias_patch::{Patch, Task, Values};
use edge_run::{Encoder, Extent, Tokenized, tasks};
use ndarray::{ArrayView1, ArrayView2};

pub use identity::Identity;
pub(crate) use identity::KERNELS;
pub use job::{Job, beside, check_directory};
pub use lines::Lines;
pub use recipe::{Average, ClassWeights, Event, Recipe};
pub use runs::{RateScores, Run, Spread, best_rate, best_run, by_learning_rate};
pub use sets::{Sets, Texts};
pub use slots::Slots;
pub use weights::Weights;

use self::{
    checkpoint::{Best, Checkpoint},
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
    /// The name of the metric of the scores.
    pub metric: &'static str,
    /// All runs, in the order in which they were done.
    pub runs: Vec<Run>,
}

/// The result of a training of weights.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The name of the metric of the scores.
    pub metric: &'static str,
    /// As in [`Trained`].
    pub runs: Vec<Run>,
}

/// The identity of a training: of the encoder and how its kernels round, the task, the texts, the recipe, and which
/// weights are trained, if any. Trainings of one identity have the same result.
///
/// # Errors
/// When the task cannot be written as JSON.
pub fn fingerprint(
    encoder: &Encoder,
    task: &Task,
    sets: Sets<'_>,
    recipe: &Recipe,
    weights: Option<Weights>,
) -> Result<Identity> {
    let of_encoder = (encoder.bundle().manifest().encoder, &encoder.arithmetic()[..]);
    identity::identity(of_encoder, task, sets, recipe, weights)
}

/// A random subset of `size` texts. Larger subsets contain the smaller ones.
pub fn subset(examples: &[Example], size: usize) -> Vec<Example> {
    /// The purpose of this random stream.
    const PURPOSE: u64 = u64::MAX;
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Random::new(0, PURPOSE).shuffle(&mut order);
    order.into_iter().take(size).map(|at| examples[at].clone()).collect()
}

/// Who listens to the events of a training. A break stops it between two steps; the same training then goes on to the
/// same patch.
pub type Listener<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// Trains a patch for `task`. The state is kept in the file `checkpoint`, from which the training resumes.
///
/// # Errors
/// When the recipe has nothing to train, texts do not suit the task, the checkpoint cannot be used
/// ([`Error::TrainingState`]), every run diverges ([`Error::Diverged`]), or `event` stops it ([`Error::Stopped`]).
pub fn train(
    encoder: &Encoder,
    task: &Task,
    sets: Sets<'_>,
    recipe: &Recipe,
    checkpoint: &Path,
    event: &mut Listener<'_>,
) -> Result<Trained> {
    let trainer = Trainer::new(encoder, task, sets, recipe, None)?;
    let state = run_all(&trainer, sets.train.len(), recipe, checkpoint, event)?;
    let best = state.best.as_ref().ok_or_else(|| wrong("learning rates", "one that does not diverge", "none"))?;
    let metric = trainer.metric;
    let patch = trainer.fitted(&best.parameters)?;
    let made = format!("at most {} epochs over {} texts, {} to a step", recipe.epochs, sets.train.len(), recipe.batch);
    let score = format!("{metric} {:.4} on {} texts", best.dev, sets.dev.len());
    let notes = [("made", made), ("metric", score), ("slots", trainer.trained())];
    let metadata = notes.map(|(key, value)| (key.to_owned(), value));
    Ok(Trained { patch: patch.with_metadata(metadata.into()), metric, runs: state.done })
}

/// Trains weights of the encoder with the same steps as [`train`], and gives their scores: a patch cannot hold weights.
/// The biases of the recipe only decide how many weights are trained: see [`Weights`].
///
/// The file `checkpoint` keeps the runs that are done. A run that was stopped starts again from its first step.
///
/// # Errors
/// As [`train`]; also when the encoder's weights are quantized, the recipe asks for averages or a memory limit, or this
/// is a build without the feature `research`.
pub fn compare(
    encoder: &Encoder,
    task: &Task,
    sets: Sets<'_>,
    recipe: &Recipe,
    weights: Weights,
    checkpoint: &Path,
    event: &mut Listener<'_>,
) -> Result<Compared> {
    weights.check()?;
    let trainer = Trainer::new(encoder, task, sets, recipe, Some(weights))?;
    let state = run_all(&trainer, sets.train.len(), recipe, checkpoint, event)?;
    Ok(Compared { metric: trainer.metric, runs: state.done })
}

/// Does all runs of a recipe that are not done yet, on `texts` training texts. Gives the final state, which the
/// checkpoint holds too.
fn run_all(
    trainer: &Trainer<'_>,
    texts: usize,
    recipe: &Recipe,
    checkpoint: &Path,
    event: &mut Listener<'_>,
) -> Result<Checkpoint> {
    if trainer.left_out > 0 {
        unless_stopped(event(Event::LeftOut { texts: trainer.left_out }).is_break())?;
    }
    // What would be wrong with the patch in the end is refused now.
    trainer.check()?;
    let mut state = Checkpoint::open(checkpoint, trainer.fingerprint)?;
    let mut states = trainer.states(checkpoint)?;
    while let Some((learning_rate, seed)) = recipe.next(&state.done) {
        let current = match state.current.take() {
            Some(current) => current,
            None => trainer.begin(seed),
        };
        let steps = trainer.steps();
        let (run, step) = ((state.done.len(), recipe.count()), current.adam.steps);
        let (training, trained) = (trainer.fingerprint, trainer.trained());
        let run = Event::Run { run, training, trained, texts, learning_rate, seed, step, steps };
        unless_stopped(event(run).is_break())?;
        let mut stopped = false;
        match trainer.run(current, learning_rate, seed, (&mut state, checkpoint), states.as_mut(), event) {
            Ok((finished, [dev_draws, test_draws])) => {
                let Best { epoch, dev, test, .. } = finished;
                let (epoch, of_dev) = (Some(epoch), Some(dev));
                state.done.push(Run { learning_rate, seed, epoch, dev: of_dev, test, dev_draws, test_draws });
                if state.best.as_ref().is_none_or(|best| dev > best.dev) {
                    state.best = Some(finished);
                }
            }
            Err(error @ Error::Diverged { .. }) => {
                state.done.push(Run::diverged(learning_rate, seed));
                // Other runs may not diverge; if all do, this is the error.
                if state.best.is_none() && recipe.next(&state.done).is_none() {
                    return Err(error);
                }
                stopped = event(Event::Diverged { reason: error.to_string() }).is_break();
            }
            Err(error) => return Err(error),
        }
        state.save(checkpoint)?;
        unless_stopped(stopped)?;
    }
    Ok(state)
}

/// The loss of some texts, and its gradients.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The mean over the texts: cross-entropy, or squared error; of a tagged text the mean over its words.
    pub loss: f64,
    /// With respect to the task's values; zeros where `wanted` is false.
    pub values: Values,
    /// With respect to the head's weight `[outputs, H]` and then its bias `[outputs]`.
    pub head: Vec<f32>,
}

/// The mean loss of tokenized texts under a task's values, and its gradients.
///
/// `head` is the head's weight `[outputs, H]`, then its bias `[outputs]`; `wanted` says of each slot, and then of each
/// low-rank term, whether its gradient is computed; at most `tokens` tokens run together:
/// [`edge_run::RUN_TOKENS`], or fewer to save memory.
///
/// # Errors
/// When the encoder cannot run backward, or the loss of the task is not of one text, as that of embeddings.
pub fn gradient(
    encoder: &Encoder,
    task: &Task,
    values: &Values,
    head: &[f32],
    texts: &[(&Tokenized, &Gold)],
    wanted: &[bool],
    tokens: usize,
) -> Result<Gradient> {
    gradient_over(encoder, (task, &[]), (values, head), texts, wanted, tokens, Extent::Encoder)
}

/// As [`gradient`], over an extent, with losses that are multiplied by `label_weights`, one for each of the task's labels,
/// if there are any.
///
/// # Errors
/// As [`gradient`]; also when states are not those of the texts, or gradients of weights are asked for and the encoder's
/// weights are quantized.
pub fn gradient_over(
    encoder: &Encoder,
    (task, label_weights): (&Task, &[f64]),
    (values, head): (&Values, &[f32]),
    texts: &[(&Tokenized, &Gold)],
    wanted: &[bool],
    tokens: usize,
    extent: Extent<'_>,
) -> Result<Gradient> {
    if tasks::of(task.kind()).compares() {
        return Err(wrong("kind of task", "one whose loss is of one text", task.kind().name()));
    }
    let hidden = encoder.bundle().manifest().config.hidden as usize;
    let weight = 1.0 / texts.len().max(1) as f64;
    let mut loss = 0.0;
    let mut d_head = vec![0.0f32; head.len()];
    let head = Head::new(task, head, hidden).weighing(label_weights);
    let tokenized: Vec<&Tokenized> = texts.iter().map(|(text, _)| *text).collect();
    let mut of_text = |at: usize, tokens: ArrayView2<'_, f32>, pooled: Option<ArrayView1<'_, f32>>| {
        let (text, gold) = texts[at];
        let found = head.loss(tokens, pooled, text, gold, weight, &mut d_head);
        loss += found.value;
        (found.d_tokens, found.d_pooled)
    };
    let values = encoder.gradient_over(extent, values, &tokenized, wanted, tokens, &mut of_text)?;
    Ok(Gradient { loss, values, head: d_head })
}

/// The error of a training that its listener stops.
fn unless_stopped(stopped: bool) -> Result<()> {
    if stopped { Err(Error::Stopped) } else { Ok(()) }
}

pub(crate) fn wrong(field: &str, expected: &str, found: &str) -> Error {
    Error::Recipe { field: field.to_owned(), expected: expected.to_owned(), found: found.to_owned() }
}
