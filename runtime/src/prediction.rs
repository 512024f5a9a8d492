//! A task's answer to a text, and its cost.

use std::time::Duration;

use crate::Answer;

/// The answer to one text, and its cost.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// What the task says.
    pub answer: Answer,
    /// The head's outputs, for kinds of task with one answer for a text.
    pub logits: Vec<f32>,
    /// Whether the text was cut to the limit.
    pub truncated: bool,
    /// What it took.
    pub timing: Timing,
}

/// Times and tokens that an answer took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Tokens, special tokens included, over all windows.
    pub tokens: usize,
    /// Making token ids.
    pub tokenize: Duration,
    /// Binding this task's values to the encoder's inputs, and decoding them if they were not kept.
    pub switch: Duration,
    /// Running the encoder.
    pub encode: Duration,
    /// Running the head and turning its outputs into an answer.
    pub answer: Duration,
}
