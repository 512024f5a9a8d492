//! Gradients of a loss with respect to a task's values: what training needs of the runtime.
//!
//! In: values, tokenized texts, and a loss of their hidden states. Out: the gradient of every wanted slot and low-rank
//! term. Refused: an encoder that tract runs, and values that are not its own. The forward pass is the one that answers
//! texts: the same operators over the same mapped weights. The feature `research` adds gradients of the weights.

use bias_patch::{LowRank, Task as TaskSpec, Values};
use edge_bundle::Slot;
use edge_engine::{Batch, Cut, Gradients, SequenceLoss, States, TaskTerms};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::{
    Encoder, Error, Result, Text,
    engine::TaskValues,
    lowered::Lowered,
    runs::runs,
    tasks::{self, TaskKind, TokenPlaces},
    tokenizer::Tokens,
};

/// The tokens of a text, or of one window of a long text. Of the places of tokens it keeps only those that the task's
/// head needs, because training keeps all texts in memory.
#[derive(Clone, Debug)]
pub struct Tokenized {
    ids: Vec<u32>,
    type_ids: Vec<u32>,
    words: Vec<Option<usize>>,
    second: Vec<(usize, (usize, usize))>,
}

impl Tokenized {
    /// Token ids, without words.
    pub(crate) fn of_ids(ids: Vec<u32>) -> Self {
        Tokenized { type_ids: vec![0; ids.len()], ids, words: Vec::new(), second: Vec::new() }
    }

    fn new(kind: &dyn TaskKind, text: &Text, tokens: Tokens) -> Self {
        let TokenPlaces { words, second } = kind.token_places(text, &tokens.places);
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

    /// For span extraction, the first and the last token of the characters `start..end` of the second text; none where
    /// this window does not hold all of them.
    pub fn span(&self, (start, end): (usize, usize)) -> Option<(usize, usize)> {
        let overlaps = |(_, (from, to)): &&(usize, (usize, usize))| *from < end && *to > start && to > from;
        let (first, (from, _)) = self.second.iter().find(overlaps)?;
        let (last, (_, to)) = self.second.iter().rev().find(overlaps)?;
        (*from <= start && *to >= end).then_some((*first, *last))
    }
}

/// What of an encoder runs, forward and backward.
pub enum Extent<'e> {
    /// All of it.
    Encoder,
    /// What lies above a cut, from the states of each text: see [`Encoder::states`].
    Above(&'e Cut, &'e [Vec<f32>]),
    /// All of it, and the gradient of every weight is added to these floats, in the order of [`crate::OwnWeights`].
    #[cfg(feature = "research")]
    Weights(&'e mut [f32]),
}

impl Extent<'_> {
    /// The same for a pass that adds to no weight's gradient.
    #[must_use]
    pub fn without_weights(&self) -> Extent<'_> {
        match self {
            Extent::Above(cut, states) => Extent::Above(cut, states),
            _ => Extent::Encoder,
        }
    }
}

impl Encoder {
    /// Tokens of a text for a task: one sequence, cut at the task's limit. For span extraction, the same windows of the
    /// second text as when answering.
    ///
    /// # Errors
    /// When the text is empty or there are not as many texts as the task takes.
    pub fn tokenized(&self, task: &TaskSpec, text: &Text) -> Result<Vec<Tokenized>> {
        let kind = tasks::of(task.kind());
        let windows = self.windows(task, &*kind, text, self.limit(None, task.max_length()), None)?;
        Ok(windows.into_iter().map(|tokens| Tokenized::new(&*kind, text, tokens)).collect())
    }

    /// The gradient of a loss with respect to a task's values. `wanted` says of each slot, and then of each low-rank
    /// term, whether its gradient is computed; where it is not, it is zero.
    ///
    /// `loss` is called once for each text, in order,
    /// with its last hidden state `[S, H]` and, where there is one, the pooler's output `[H]`. It gives the gradients
    /// of the loss with respect to both; none for a pooler's output that it does not use.
    ///
    /// Where a key's bias has no effect, its gradient is zero. Texts run together up to `tokens` tokens, and a longer
    /// text runs alone. This bounds memory, whatever the number of texts; [`crate::RUN_TOKENS`] is fast.
    ///
    /// # Errors
    /// When tract runs the encoder, because tract does not run backward; when this process was forked
    /// ([`Error::Forked`]); when the engine fails; when `values` are not the encoder's; or when a gradient of `loss`
    /// has the wrong shape.
    pub fn gradient(
        &self,
        values: &Values,
        texts: &[&Tokenized],
        wanted: &[bool],
        tokens: usize,
        loss: &mut LossFn<'_>,
    ) -> Result<Values> {
        self.gradient_over(Extent::Encoder, values, texts, wanted, tokens, loss)
    }

    /// The place in the encoder below which nothing is `wanted`; none if that is below all of it. What the encoder
    /// computes there of a text stays the same when wanted values change. Where nothing is wanted, that is everything.
    ///
    /// # Errors
    /// As [`Encoder::gradient`].
    pub fn cut(&self, values: &Values, wanted: &[bool]) -> Result<Option<Cut>> {
        let engine = self.lowered()?;
        self.check_values(values, wanted)?;
        let flat = TaskValues::of(values);
        let wanted = self.wanted_values(values, wanted);
        // It gets no gradient: only a backward pass adds one.
        let mut sums = vec![0.0; flat.all().len()];
        Ok(engine.cut(&Gradients::new(&mut sums, &wanted, flat.terms())))
    }

    /// For each text, the floats that cross a cut. Texts run together as in [`Encoder::gradient`].
    ///
    /// # Errors
    /// As [`Encoder::gradient`].
    pub fn states(&self, cut: &Cut, values: &Values, texts: &[&Tokenized], tokens: usize) -> Result<Vec<Vec<f32>>> {
        let engine = self.lowered()?;
        self.check_process()?;
        self.check_values(values, &vec![false; values.slots.len() + values.low_rank.len()])?;
        let flat = TaskValues::of(values);
        let task = TaskTerms { values: flat.all(), places: flat.terms() };
        let mut states = Vec::with_capacity(texts.len());
        for run in runs(texts.iter().map(|text| text.len()), tokens) {
            states.extend(engine.states(&batch_of(&texts[run]), task, cut)?);
        }
        Ok(states)
    }

    /// As [`Encoder::gradient`], over an extent. Gradients of weights take half as much time again, and keep every
    /// operator's output.
    ///
    /// # Errors
    /// As [`Encoder::gradient`]; also when states are not those of the texts, or something below their cut is wanted; with
    /// gradients of weights as [`Encoder::own_weights`].
    pub fn gradient_over(
        &self,
        extent: Extent<'_>,
        values: &Values,
        texts: &[&Tokenized],
        wanted: &[bool],
        tokens: usize,
        loss: &mut LossFn<'_>,
    ) -> Result<Values> {
        let engine = self.lowered()?;
        self.check_process()?;
        self.check_values(values, wanted)?;
        let flat = TaskValues::of(values);
        let wanted = self.wanted_values(values, wanted);
        let wrong = |place: &str, expected: String, found: usize| {
            Err(Error::Input { place: place.to_owned(), expected, found: found.to_string() })
        };
        match &extent {
            Extent::Above(_, states) if states.len() != texts.len() => {
                return wrong("states", format!("those of {} texts", texts.len()), states.len());
            }
            #[cfg(feature = "research")]
            Extent::Weights(d) if d.len() != engine.weights().floats()? => {
                return wrong("gradients of weights", format!("{} places", engine.weights().floats()?), d.len());
            }
            _ => {}
        }
        let mut extent = extent;
        let mut sums = vec![0.0f32; flat.all().len()];
        for run in runs(texts.iter().map(|text| text.len()), tokens) {
            let batch = batch_of(&texts[run.clone()]);
            let mut of_sequences: Vec<&[f32]> = Vec::new();
            let mut misshapen = None;
            let mut of_run = |sequence: SequenceLoss<'_>| {
                let at = run.start + sequence.number;
                let hidden = ArrayView2::from_shape((texts[at].len(), engine.width()), sequence.tokens);
                // As many values as the shape has: a row for each token.
                let hidden = hidden.expect("rows of one width");
                let (d, d_pooled) = loss(at, hidden, sequence.pooled.map(ArrayView1::from));
                let same = |into: &mut [f32], d: &[f32]| {
                    into.len() == d.len() && {
                        into.copy_from_slice(d);
                        true
                    }
                };
                let pooled_fits = match (sequence.d_pooled, d_pooled) {
                    (Some(into), Some(d)) => same(into, &d.to_vec()),
                    (_, None) => true,
                    (None, Some(_)) => false,
                };
                if d.dim() != hidden.dim()
                    || !same(sequence.d_tokens, d.as_standard_layout().as_slice().unwrap_or(&[]))
                    || !pooled_fits
                {
                    misshapen = Some(at);
                }
            };
            let gradients = Gradients::new(&mut sums, &wanted, flat.terms());
            let mut gradients = match &mut extent {
                Extent::Encoder => gradients,
                Extent::Above(cut, states) => {
                    of_sequences.extend(states[run.clone()].iter().map(Vec::as_slice));
                    gradients.above(States { cut, of_sequences: &of_sequences })
                }
                #[cfg(feature = "research")]
                Extent::Weights(d) => gradients.with_weights(edge_engine::WeightGradients(Some(d))),
            };
            engine.gradient(&batch, flat.all(), &mut gradients, &mut of_run)?;
            if let Some(at) = misshapen {
                return Err(Error::Input {
                    place: format!("gradients of sequence {at}"),
                    expected: "the shapes of its hidden states and of the pooler's output".to_owned(),
                    found: "others".to_owned(),
                });
            }
        }
        let mut rest = sums.into_iter();
        let mut part = |like: &[f32]| rest.by_ref().take(like.len()).collect();
        let slots = values.slots.iter().map(|slot| part(slot)).collect();
        let terms = values.low_rank.iter().map(|term| LowRank { a: part(&term.a), b: part(&term.b), ..*term });
        Ok(Values { slots, low_rank: terms.collect() })
    }

    /// Of each value, whether its gradient is computed.
    fn wanted_values(&self, values: &Values, wanted: &[bool]) -> Vec<bool> {
        let (of_slots, of_terms) = wanted.split_at(values.slots.len());
        let manifest = self.bundle().manifest();
        let slots = manifest.slots.iter().zip(of_slots);
        // Where a key's bias has no effect, its gradient is zero.
        let slots =
            slots.map(|(slot, wanted)| (slot.len as usize, *wanted && manifest.config.bias_counts(slot.module)));
        let terms = values.low_rank.iter().zip(of_terms).map(|(term, wanted)| (term.a.len() + term.b.len(), *wanted));
        slots.chain(terms).flat_map(|(len, wanted)| vec![wanted; len]).collect()
    }

    /// Checks that values are the encoder's, and that `wanted` says something of each.
    fn check_values(&self, values: &Values, wanted: &[bool]) -> Result<()> {
        let manifest = self.bundle().manifest();
        let wrong = |place: &str, expected: String, found: String| {
            Err(Error::Input { place: place.to_owned(), expected, found })
        };
        if !values.slots.iter().map(Vec::len).eq(manifest.slots.iter().map(|slot| slot.len as usize)) {
            return wrong("values", format!("those of {} slots", manifest.slots.len()), "others".to_owned());
        }
        for term in &values.low_rank {
            let takes = |slot: &&Slot| manifest.config.takes_low_rank(slot.module);
            let slot = manifest.slots.get(term.slot).filter(takes);
            let due = slot.map(|slot| (manifest.config.inputs(slot.module) as usize, slot.len as usize));
            let fits = |(inputs, outputs): (usize, usize)| {
                let parts = (term.rank.checked_mul(inputs), term.rank.checked_mul(outputs));
                parts == (Some(term.a.len()), Some(term.b.len()))
            };
            if term.rank == 0 || !due.is_some_and(fits) {
                let expected = "A and B of one rank, of a linear layer".to_owned();
                return wrong(&format!("low-rank term of slot {}", term.slot), expected, "others".to_owned());
            }
        }
        if !values.low_rank.is_sorted_by(|a, b| a.slot < b.slot) {
            return wrong("low-rank terms", "each slot once, in order".to_owned(), "others".to_owned());
        }
        let due = values.slots.len() + values.low_rank.len();
        match wanted.len() == due {
            true => Ok(()),
            false => wrong("wanted values", format!("one for each of {due}"), wanted.len().to_string()),
        }
    }

    /// A copy of the weights, to be changed and given to [`Encoder::with_weights`].
    ///
    /// # Errors
    /// When they are not f32, when some are made of others, as vectors of distances are, or when tract runs the encoder.
    #[cfg(feature = "research")]
    pub fn own_weights(&self) -> Result<crate::OwnWeights> {
        if self.bundle().manifest().config.disentangled.is_some() {
            return Err(Error::Engine {
                path: self.bundle().dir().to_owned(),
                action: "train weights",
                reason: "its vectors of distances are made of matrices of queries and keys, and would stay as they are"
                    .to_owned(),
            });
        }
        self.lowered()?.weights().own()
    }

    /// The engine that runs backward.
    pub(crate) fn lowered(&self) -> Result<&Lowered> {
        self.engine.lowered().ok_or_else(|| Error::Engine {
            path: self.bundle().dir().to_owned(),
            action: "run backward",
            reason: match self.uncovered() {
                Some(node) => format!("tract runs it, and runs forward only, because {node}"),
                None => "tract runs it, and runs forward only; --engine lowered runs backward".to_owned(),
            },
        })
    }
}

/// Texts of one task, number 0.
fn batch_of(texts: &[&Tokenized]) -> Batch {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(&text.ids, &text.type_ids, 0));
    batch
}

/// A loss. In: the number of a text, its last hidden state `[S, H]` and the pooler's output `[H]`. Out: the gradients
/// with respect to both.
pub type LossFn<'l> = dyn FnMut(usize, ArrayView2<'_, f32>, Option<ArrayView1<'_, f32>>) -> (Array2<f32>, Option<Array1<f32>>)
    + Send
    + 'l;
