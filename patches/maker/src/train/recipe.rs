//! How a patch is trained, and what is said on the way.

use bias_patch::{Digest, Encoding, Patch, Term};

/// Which parameters of a run are judged, and kept if they are the best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// Those of the last step.
    None,
    /// An exponential moving average over all steps, of this decay.
    Moving(f64),
    /// The mean over the ends of so many passes, the last ones.
    Last(u64),
}

/// How a patch is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The terms that are trained, in every layer; keys never are, for they have no effect.
    pub terms: Vec<Term>,
    /// Highest learning rates to try.
    pub rates: Vec<f64>,
    /// Seeds to try with each: of the head's first values, of the order of texts, and of which weights are trained.
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
    /// The metric that scores are of, by name; none for the first of the task's kind.
    pub metric: Option<String>,
    /// Which parameters are judged.
    pub average: Average,
    /// Bytes of anonymous memory to stay within; none for no limit.
    pub memory_limit: Option<u64>,
    /// A patch to begin with, in place of the encoder's own biases and a random head.
    pub start: Option<Patch>,
    /// How biases and head will be stored: every step rounds them so, and its gradients move them as if it had not.
    pub grid: Option<(Encoding, Encoding)>,
    /// Passes without a better score after which a run stops; none for never.
    pub patience: Option<u64>,
}

impl Recipe {
    /// Of each run its learning rate and seed.
    pub fn runs(&self) -> Vec<(f64, u64)> {
        self.rates.iter().flat_map(|rate| self.seeds.iter().map(move |seed| (*rate, *seed))).collect()
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            terms: Term::ALL.into_iter().filter(|term| *term != Term::Key).collect(),
            // Above the paper's grid (1e-4 to 1e-3): small encoders score better at it.
            rates: vec![3e-3],
            seeds: vec![1],
            epochs: 3,
            batch: 16,
            warmup: 0.06,
            clip: 1.0,
            decay: 0.0,
            metric: None,
            average: Average::None,
            memory_limit: None,
            start: None,
            grid: None,
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
        /// The training it is of: see [`super::fingerprint`].
        training: Digest,
        /// What is trained: terms, or weights, in a word.
        trained: String,
        /// Texts to learn from.
        texts: usize,
        /// Its highest learning rate.
        rate: f64,
        /// Its seed.
        seed: u64,
        /// Steps done.
        step: u64,
        /// All its steps.
        steps: u64,
    },
    /// Texts are left out: no window of theirs holds the whole answer.
    Unheld {
        /// How many.
        texts: usize,
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
        /// What it is of.
        metric: &'static str,
    },
}
