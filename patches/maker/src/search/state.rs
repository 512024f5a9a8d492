//! What a patch sets in an encoder, as the search runs it: values and a head, over tokenized texts.

use bias_patch::{Patch, Task, Values};
use edge_run::{Encoder, RUN_TOKENS, Text, Tokenized, tasks::Loss};

use crate::{Error, Result, train::head::Head};

/// The values of a task and its head: the weight `[outputs, H]`, then the bias `[outputs]`.
#[derive(Clone)]
pub(super) struct State {
    pub values: Values,
    pub head: Vec<f32>,
}

/// The sums of the gradients of texts.
pub(super) struct Sums {
    pub values: Values,
    pub head: Vec<f32>,
}

/// A loss of a text's outputs `[R, C]`, by the text's number, with its gradient.
pub(super) type OutputLoss<'l> = dyn FnMut(usize, &[Vec<f64>]) -> Loss + Send + 'l;

impl State {
    /// # Errors
    /// When the patch does not fit the encoder, or its head has a hidden layer.
    pub fn of(encoder: &Encoder, patch: &Patch) -> Result<Self> {
        let (None, Some(output)) = (&patch.head().dense, &patch.head().output) else {
            return Err(Error::Recipe {
                field: "head of the patch to search for".to_owned(),
                expected: "one linear layer (convert --encoding stores other heads)".to_owned(),
                found: format!("{} layers", patch.head().linears().count()),
            });
        };
        let values = patch.apply(&encoder.bundle().manifest().shape(), encoder.base().slots())?;
        Ok(State { values, head: [output.weight.values(None), output.bias.values(None)].concat() })
    }

    /// Runs texts forward, and backward from `loss`.
    ///
    /// # Errors
    /// When tract runs the encoder.
    pub fn gradient(
        &self,
        encoder: &Encoder,
        task: &Task,
        texts: &[&Tokenized],
        wanted: bool,
        loss: &mut OutputLoss<'_>,
    ) -> Result<Sums> {
        let hidden = encoder.bundle().manifest().config.hidden as usize;
        let head = Head::new(task, &self.head, hidden);
        let mut d_head = vec![0.0f32; self.head.len()];
        let wanted = vec![wanted; self.values.slots.len() + self.values.low_rank.len()];
        let values = encoder.gradient(&self.values, texts, &wanted, RUN_TOKENS, &mut |at, tokens, pooled| {
            let found = head.run(tokens, pooled, texts[at], &mut |outputs| loss(at, outputs), &mut d_head);
            (found.d_tokens, found.d_pooled)
        })?;
        Ok(Sums { values, head: d_head })
    }

    /// The outputs `[R, C]` for each text.
    ///
    /// # Errors
    /// As [`State::gradient`].
    pub fn outputs(&self, encoder: &Encoder, task: &Task, texts: &[&Tokenized]) -> Result<Vec<Vec<Vec<f64>>>> {
        let mut all = vec![Vec::new(); texts.len()];
        self.gradient(encoder, task, texts, false, &mut |at, outputs| {
            all[at] = outputs.to_vec();
            // With no gradient of the loss and no wanted values nothing runs backward.
            Loss::none(outputs)
        })?;
        Ok(all)
    }
}

/// The tokens of texts: of a span task all windows.
pub(super) fn tokenized(encoder: &Encoder, task: &Task, texts: &[Text]) -> Result<Vec<Tokenized>> {
    let mut all = Vec::with_capacity(texts.len());
    for text in texts {
        all.extend(encoder.tokenized(task, text)?);
    }
    Ok(all)
}
