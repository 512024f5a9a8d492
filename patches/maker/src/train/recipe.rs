//! How a patch is trained, and the events that are reported on the way.

use bias_patch::{Digest, Module};

use super::Slots;

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

/// How a patch is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// What is trained.
    pub slots: Slots,
    /// Learning rates to try; each is the highest of its run.
    pub learning_rates: Vec<f64>,
    /// Factor of the learning rate for the biases on the residual stream, which move every later layer: beln, bm1, bln1,
    /// bm3 and bln2. Where weights are trained, all have one rate.
    pub residual_rate: f64,
    /// Seeds to try with each learning rate. A seed decides the initial values of the head and of low-rank terms, the order
    /// of texts, and which weights are trained.
    pub seeds: Vec<u64>,
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
    /// The metric of scores, by name; none for the first of the task's kind.
    pub metric: Option<String>,
    /// Which parameters are evaluated.
    pub average: Average,
    /// Bytes of anonymous memory to stay within; none for no limit.
    pub memory_limit: Option<u64>,
    /// Epochs without a better score after which a run ends; none for never.
    pub patience: Option<u64>,
}

impl Recipe {
    /// The learning rate and seed of each run.
    pub fn runs(&self) -> Vec<(f64, u64)> {
        self.learning_rates.iter().flat_map(|rate| self.seeds.iter().map(move |seed| (*rate, *seed))).collect()
    }
}

/// Whether a module's result is added to the residual stream, or is the stream.
pub(super) fn is_residual(module: Module) -> bool {
    matches!(
        module,
        Module::EmbeddingNorm | Module::AttentionOutput | Module::AttentionNorm | Module::Output | Module::OutputNorm
    )
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
            epochs: 3,
            batch: 16,
            warmup: 0.06,
            clip: 1.0,
            weight_decay: 0.0,
            metric: None,
            average: Average::None,
            memory_limit: None,
            patience: None,
        }
    }
}

/// What happens during training, for a progress bar and a log.
#[derive(Clone, Debug)]
pub enum Event {
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
        /// The metric of the score.
        metric: &'static str,
    },
}
