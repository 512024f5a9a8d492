//! Training texts as tokens.
//!
//! In: labelled texts. Out: their tokens; of a span task, the windows that can be trained on. Refused: texts that the
//! tokenizer refuses.

use std::borrow::Cow;

use bias_patch::Task;
use edge_run::{Encoder, Tokenized, tasks};

use super::wrong;
use crate::{
    Result,
    data::{Example, Gold},
    prompts,
};

/// A tokenized training text, or a window of one.
pub(super) struct TrainingText<'a> {
    /// The index of its text among the training texts.
    pub example: usize,
    /// How many texts those before it have, with their windows and negatives.
    pub first: usize,
    pub text: Tokenized,
    /// Of a pair whose texts are compared: the second text, then the negatives.
    pub with: Vec<Tokenized>,
    pub gold: &'a Gold,
}

impl TrainingText<'_> {
    /// Its texts.
    pub fn texts(&self) -> impl Iterator<Item = &Tokenized> {
        std::iter::once(&self.text).chain(&self.with)
    }

    /// Its texts with their numbers among all.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Tokenized)> {
        (self.first..).zip(self.texts())
    }

    /// The number of tokens of each of its texts.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.texts().map(Tokenized::len)
    }
}

/// Tokenizes training texts; of a span task only the windows that can be trained on. Also gives how many texts have
/// none.
///
/// A window without the answer has no target for the loss, unless the task allows that there is none.
pub(super) fn tokenize<'a>(
    encoder: &Encoder,
    task: &Task,
    train_texts: &'a [Example],
) -> Result<(Vec<TrainingText<'a>>, usize)> {
    let (mut tokenized, mut left_out) = (Vec::new(), 0);
    let mut count = 0;
    let kind = tasks::of(task.kind());
    for (number, example) in train_texts.iter().enumerate() {
        let gold = &example.gold;
        if kind.compares() {
            let mut texts = Vec::new();
            let [own, others] = prompts::of_pair(task.kind(), gold);
            for (at, text) in example.answered(&*kind).iter().enumerate() {
                let task = match if at == 0 { own } else { others } {
                    Some(name) => Cow::Owned(prompts::prompted(task, name)?),
                    None => Cow::Borrowed(task),
                };
                texts.extend(encoder.tokenized(&task, text)?);
            }
            if texts.len() < 2 {
                return Err(wrong("training texts", "pairs of texts", "one text"));
            }
            let text = texts.remove(0);
            let first = count;
            count += 1 + texts.len();
            tokenized.push(TrainingText { example: number, first, text, with: texts, gold });
            continue;
        }
        let before = tokenized.len();
        for text in encoder.tokenized(task, &example.text)? {
            if kind.holds(&text, gold) {
                tokenized.push(TrainingText { example: number, first: count, text, with: Vec::new(), gold });
                count += 1;
            }
        }
        left_out += usize::from(tokenized.len() == before);
    }
    Ok((tokenized, left_out))
}
