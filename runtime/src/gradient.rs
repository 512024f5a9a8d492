//! Gradients of a loss with respect to an encoder's bias values: what training needs of the runtime.
//!
//! In: bias values, tokenized texts, and a loss of their hidden states. Out: the gradient of every wanted slot. The
//! arithmetic is that of running: the same fused operators over the same mapped weights, and their adjoints. For a training that
//! is compared with it there are gradients of the weights too.

use bias_patch::{Kind, Task as TaskSpec, Term};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::{
    Encoder, Error, Result, Text,
    answer::{first_tokens, second_tokens},
    encoder::runs,
    engine::{OwnWeights, adjoint::Batch, lowered::Lowered},
    text::Tokens,
};

/// A text as the encoder reads it, or a window of one that is too long, with no more of its places than its task's head
/// asks for: a training holds all its texts.
#[derive(Clone, Debug)]
pub struct Tokenized {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    words: Vec<Option<usize>>,
    second: Vec<(usize, (usize, usize))>,
}

impl Tokenized {
    /// Token ids as they are, without words.
    pub(crate) fn of_ids(ids: Vec<u32>) -> Self {
        Tokenized { type_ids: vec![0; ids.len()], ids, words: Vec::new(), second: Vec::new() }
    }

    fn new(task: &TaskSpec, text: &Text, tokens: Tokens) -> Self {
        let (mut words, mut second) = (Vec::new(), Vec::new());
        match task.kind() {
            Kind::Tagging { .. } => {
                words = first_tokens(text.first(), &tokens).into_iter().map(|(_, token)| token).collect();
            }
            Kind::Span { .. } => second = second_tokens(&tokens),
            Kind::Classification { .. } | Kind::Regression { .. } => {}
        }
        Tokenized { ids: tokens.ids, type_ids: tokens.type_ids, words, second }
    }

    /// Number of tokens, special tokens included.
    #[expect(clippy::len_without_is_empty, reason = "special tokens are always there")]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Token ids, special tokens included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// For tagging, the first token of each word; none for words that were cut off.
    pub fn words(&self) -> &[Option<usize>] {
        &self.words
    }

    /// For span extraction, the tokens of the second text.
    pub fn second(&self) -> impl Iterator<Item = usize> {
        self.second.iter().map(|(token, _)| *token)
    }

    /// For span extraction, the first and the last token of the characters `start..end` of the second text; none where this
    /// window does not hold all of them.
    pub fn span(&self, (start, end): (usize, usize)) -> Option<(usize, usize)> {
        let overlaps = |(_, (from, to)): &&(usize, (usize, usize))| *from < end && *to > start && to > from;
        let (first, (from, _)) = self.second.iter().find(overlaps)?;
        let (last, (_, to)) = self.second.iter().rev().find(overlaps)?;
        (*from <= start && *to >= end).then_some((*first, *last))
    }
}

impl Encoder {
    /// Tokens of a text for a task: one sequence, cut at the task's limit; for span extraction the same windows of the
    /// second text as an answer is looked for in.
    ///
    /// # Errors
    /// When the text is empty or there are not as many texts as the task takes.
    pub fn tokenized(&self, task: &TaskSpec, text: &Text) -> Result<Vec<Tokenized>> {
        let windows = self.windows(task, text, self.limit(None, task.max_length()), None)?;
        Ok(windows.into_iter().map(|tokens| Tokenized::new(task, text, tokens)).collect())
    }

    /// The gradient of a loss with respect to the values of each slot; of slots that are not `wanted` it is zeros, and
    /// what only they would need is not computed.
    ///
    /// `values` are the slots' in the order of the manifest. `loss` is called once for each text, in their order, with its
    /// last hidden state `[S, H]` and the pooler's output `[H]` where there is one, and gives the gradients of the loss
    /// with respect to the two (none for a pooler's output that it does not use).
    ///
    /// A key's bias has no effect, so its gradient is zeros too. Texts run `tokens` tokens at a time, or one by one where they
    /// are longer, whatever their number, so memory is bounded by that; [`crate::RUN_TOKENS`] is fast.
    ///
    /// Where there is `d_weights`, the gradient of every weight is added to it, in the order of [`OwnWeights`]: half as much
    /// work again, and every operator's output is kept.
    ///
    /// # Errors
    /// When the engine is the reference engine, which does not run backward, or fails, when values are not the slots', or
    /// a gradient has another shape than what it is of; with `d_weights` also as [`Encoder::own_weights`].
    pub fn gradient(
        &self,
        values: &[Vec<f32>],
        texts: &[&Tokenized],
        wanted: &[bool],
        tokens: usize,
        mut d_weights: Option<&mut [f32]>,
        mut loss: impl FnMut(usize, ArrayView2<'_, f32>, Option<ArrayView1<'_, f32>>) -> (Array2<f32>, Option<Array1<f32>>)
        + Send,
    ) -> Result<Vec<Vec<f32>>> {
        let engine = self.lowered()?;
        if let Some(d_weights) = &d_weights {
            let expected = engine.weights().all()?.len();
            if d_weights.len() != expected {
                return Err(Error::Input {
                    place: "gradients of weights".to_owned(),
                    expected: format!("{expected} places"),
                    found: d_weights.len().to_string(),
                });
            }
        }
        let manifest = self.bundle().manifest();
        let lengths = || manifest.slots.iter().map(|slot| slot.len as usize);
        if !values.iter().map(Vec::len).eq(lengths()) || wanted.len() != values.len() {
            return Err(Error::Input {
                place: "values".to_owned(),
                expected: format!("those of {} slots, and as many that are wanted or not", manifest.slots.len()),
                found: format!("{} and {}, or other lengths", values.len(), wanted.len()),
            });
        }
        let flat = values.concat();
        // A key's bias shifts all scores of a row alike, which softmax does not see: its gradient is zero.
        let wanted = manifest.slots.iter().zip(wanted).zip(values);
        let wanted: Vec<bool> =
            wanted.flat_map(|((slot, wanted), values)| vec![*wanted && slot.term != Term::Key; values.len()]).collect();
        let mut sums = vec![0.0f32; flat.len()];
        for run in runs(texts.iter().map(|text| text.len()), tokens) {
            let (mut ids, mut types, mut starts) = (Vec::new(), Vec::new(), vec![0]);
            for text in &texts[run.clone()] {
                ids.extend(text.ids.iter().map(|id| i64::from(*id)));
                types.extend(text.type_ids.iter().map(|id| i64::from(*id)));
                starts.push(ids.len() as i64);
            }
            let batch = Batch { ids: &ids, types: &types, starts: &starts, values: &flat, wanted: &wanted };
            let mut of_run = |at: usize, tokens: ArrayView2<'_, f32>, pooled: Option<ArrayView1<'_, f32>>| {
                loss(run.start + at, tokens, pooled)
            };
            let gradient = engine.gradient(&batch, d_weights.as_deref_mut(), &mut of_run)?;
            sums.iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
        }
        let mut rest = &sums[..];
        let parts = values.iter().map(|slot| {
            let (part, after) = rest.split_at(slot.len());
            rest = after;
            part.to_vec()
        });
        Ok(parts.collect())
    }

    /// A copy of the weights, to be changed and given to [`Encoder::with_weights`].
    ///
    /// # Errors
    /// When they are codes of eight bits, or the engine is the reference engine.
    pub fn own_weights(&self) -> Result<OwnWeights> {
        self.lowered()?.weights().own()
    }

    /// The engine that runs backward.
    pub(crate) fn lowered(&self) -> Result<&Lowered> {
        self.engine.lowered().ok_or_else(|| Error::Engine {
            path: self.bundle().dir().to_owned(),
            action: "run backward",
            reason: "it is the reference engine; --engine lowered does".to_owned(),
        })
    }
}
