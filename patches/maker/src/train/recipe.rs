//! How a patch is trained, and the events that are reported on the way.

use std::path::PathBuf;

use bias_patch::{Digest, Module};
use edge_bundle::Family;

use super::{Run, Slots, Weights, best_rate};

/// Which parameters of a run are evaluated at the end of each epoch, and kept if they score best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// Those of the last step.
    None,
    /// The exponential moving average over all steps, with this decay.
    Ema(f64),
    /// The mean of the parameters at the ends of the last epochs, this many of them.
    Last(u64),
}

/// What a label counts in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClassWeights {
    /// All labels alike
    None,
    /// The number of texts or words, divided by how many have the label and by the number of labels
    Balanced,
}

/// How a patch is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// What is trained.
    pub slots: Slots,
    /// Learning rates to try; each is the highest of its run.
    pub learning_rates: Vec<f64>,
    /// Factor of the learning rate for the biases on the residual stream, which move every later layer: beln, bm1, bln1,
    /// bm3, bln2 and bfln. Where weights are trained, all have one rate.
    pub residual_rate: f64,
    /// Seeds to try with each learning rate. A seed decides the initial values of the head and of low-rank terms, the
    /// order of texts, and which weights are trained.
    pub seeds: Vec<u64>,
    /// Whether only the first seed is trained with every learning rate, and the others with the one that is best on dev
    /// there, as in the paper.
    pub rate_by_first_seed: bool,
    /// Epochs of each run.
    pub epochs: u64,
    /// Texts per step.
    pub batch: usize,
    /// The fraction of steps over which the learning rate is warmed up.
    pub warmup: f64,
    /// The norm that gradients are clipped to.
    pub clip: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// What each label counts in the loss, in training.
    pub class_weights: ClassWeights,
    /// The metric of scores, by name; none for the first of the task's kind.
    pub metric: Option<String>,
    /// Which parameters are evaluated.
    pub average: Average,
    /// Bytes of anonymous memory to stay within; none for no limit.
    pub memory_limit: Option<u64>,
    /// Bytes of a file for what the encoder computes below the first trained layer; 0 to compute it in every step. The
    /// patch is the same.
    pub keep_states: u64,
    /// Epochs without a better score after which a run ends; none for never.
    pub patience: Option<u64>,
}

impl Recipe {
    /// Whether a learning rate is one that may be asked for. Higher ones are no error, but diverge.
    pub fn takes_rate(rate: f64) -> bool {
        // Products with what is smaller would be 0 in f32.
        (1e-30..1.0).contains(&rate)
    }

    /// The recipe with these learning rates, or where there are none with the default of what is trained.
    pub fn with_rates(self, rates: &[f64], weights: Option<Weights>) -> Self {
        let learning_rates = match (rates, weights) {
            // What suits biases is too much for all weights.
            ([], Some(Weights::Full)) => vec![3e-5],
            ([], _) => Recipe::default().learning_rates,
            // A rate that is given twice would count as another seed.
            (rates, _) => rates
                .iter()
                .enumerate()
                .filter(|(at, rate)| !rates[..*at].contains(rate))
                .map(|(_, rate)| *rate)
                .collect(),
        };
        Recipe { learning_rates, ..self }
    }

    /// How many runs there are, if the first seed does not diverge with every learning rate.
    pub fn count(&self) -> usize {
        let (rates, seeds) = (self.learning_rates.len(), self.seeds.len());
        if self.rate_by_first_seed { (rates + seeds).saturating_sub(1) } else { rates * seeds }
    }

    /// The learning rate and seed of the run that comes after those that are done; none after the last.
    pub fn next(&self, done: &[Run]) -> Option<(f64, u64)> {
        let (at, rates) = (done.len(), self.learning_rates.len());
        if !self.rate_by_first_seed {
            let seeds = self.seeds.len();
            return Some((*self.learning_rates.get(at.checked_div(seeds)?)?, self.seeds[at % seeds]));
        }
        match self.learning_rates.get(at) {
            Some(rate) => Some((*rate, *self.seeds.first()?)),
            None => Some((best_rate(&done[..rates])?.learning_rate, *self.seeds.get(1 + at - rates)?)),
        }
    }
}

/// Whether a module's result is added to the residual stream, or is the stream. LayerNorms that come before attention and
/// MLP are not on it.
pub(super) fn is_residual(module: Module, family: Family) -> bool {
    match module {
        Module::EmbeddingNorm | Module::AttentionOutput | Module::Output | Module::FinalNorm => true,
        Module::AttentionNorm | Module::OutputNorm => !family.norms_come_first(),
        _ => false,
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            slots: Slots::default(),
            // Above the paper's grid (1e-4 to 1e-3): small encoders score better at it.
            learning_rates: vec![3e-3],
            // At the full rate they spoil tasks that the encoder knows little of.
            residual_rate: 0.17,
            seeds: vec![1],
            rate_by_first_seed: false,
            // Tasks that are far from what the encoder was trained for need them; patches/library/README.md compares.
            epochs: 5,
            batch: 16,
            warmup: 0.06,
            clip: 1.0,
            weight_decay: 0.0,
            class_weights: ClassWeights::None,
            metric: None,
            average: Average::None,
            memory_limit: None,
            keep_states: 2_000_000_000,
            patience: None,
        }
    }
}

/// What happens during training, for a progress bar and a log.
#[derive(Clone, Debug)]
pub enum Event {
    /// The trainings of a cell of a table start, or resume.
    Cell {
        /// Its number among those of the table, from 0, and how many there are.
        cell: (usize, usize),
        /// Its row: what is trained.
        row: String,
        /// Its data set.
        data: String,
    },
    /// A run starts, or resumes after `step` of `steps` steps.
    Run {
        /// Its number, from 0, and how many there are.
        run: (usize, usize),
        /// The identity of its training: see [`super::fingerprint`].
        training: Digest,
        /// What is trained: slots, or weights.
        trained: String,
        /// How many training texts there are.
        texts: usize,
        /// Its highest learning rate.
        learning_rate: f64,
        /// Its seed.
        seed: u64,
        /// Steps done.
        step: u64,
        /// All its steps.
        steps: u64,
    },
    /// A kept result is of another kind of processor, whose kernels round otherwise. It counts as this training's.
    OtherKernels {
        /// The file of the result.
        result: PathBuf,
    },
    /// Training texts are left out: no window of theirs holds the whole answer.
    LeftOut {
        /// How many.
        texts: usize,
    },
    /// A step is done.
    Step {
        /// Steps done.
        step: u64,
        /// The mean loss of its texts.
        loss: f64,
        /// The norm of the gradients before clipping.
        norm: f64,
    },
    /// A run diverged and was ended.
    Diverged {
        /// At which step, and why.
        reason: String,
    },
    /// An epoch is done.
    Epoch {
        /// Epochs done.
        epoch: u64,
        /// The mean loss of its texts.
        loss: f64,
        /// The score on the dev set.
        dev: f64,
        /// The score on the test set, if there is one and this is the best epoch so far.
        test: Option<f64>,
        /// The metric of the scores.
        metric: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_once() {
        let recipe = Recipe::default().with_rates(&[3e-3, 1e-3, 3e-3], None);
        assert_eq!(recipe.learning_rates, [3e-3, 1e-3]);
        assert_eq!(Recipe::default().with_rates(&[], Some(Weights::Full)).learning_rates, [3e-5]);
    }

    /// All runs of a recipe, whose dev scores are a function of the learning rate and the seed.
    fn all(recipe: &Recipe, dev: impl Fn(f64, u64) -> Option<f64>) -> Vec<(f64, u64)> {
        let mut done = Vec::new();
        while let Some((learning_rate, seed)) = recipe.next(&done) {
            let dev = dev(learning_rate, seed);
            done.push(Run { epoch: dev.map(|_| 1), dev, ..Run::diverged(learning_rate, seed) });
        }
        done.iter().map(|run| (run.learning_rate, run.seed)).collect()
    }

    #[test]
    fn every_rate_gets_every_seed_or_the_best_of_the_first_seed_gets_the_others() {
        let grid = Recipe { learning_rates: vec![1e-3, 2e-3, 3e-3], seeds: vec![7, 8, 9], ..Recipe::default() };
        // The middle rate is best with the first seed, and worst with the others.
        let dev = |rate: f64, seed: u64| Some(if (rate == 2e-3) == (seed == 7) { 0.9 } else { 0.1 });
        let runs = all(&grid, dev);
        let all_of = |rate: f64| [(rate, 7), (rate, 8), (rate, 9)];
        assert_eq!(runs, [1e-3, 2e-3, 3e-3].map(all_of).concat());
        assert_eq!(runs.len(), grid.count());

        let chosen = Recipe { rate_by_first_seed: true, ..grid };
        let runs = all(&chosen, dev);
        assert_eq!(runs, [(1e-3, 7), (2e-3, 7), (3e-3, 7), (2e-3, 8), (2e-3, 9)]);
        assert_eq!(runs.len(), chosen.count());
        // A rate that diverges is not chosen; if all do, there is none to go on with.
        let runs = all(&chosen, |rate, seed| dev(rate, seed).filter(|_| rate != 2e-3));
        assert_eq!(runs[3..], [(1e-3, 8), (1e-3, 9)]);
        assert_eq!(all(&chosen, |_, _| None).len(), 3);
        let one = Recipe { seeds: vec![7], ..chosen };
        assert_eq!((all(&one, dev).len(), one.count()), (3, 3));
        assert_eq!(Recipe { seeds: Vec::new(), ..one }.next(&[]), None);
    }
}
