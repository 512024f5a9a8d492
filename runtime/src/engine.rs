//! Hidden states from token ids and a task's values, with one of two engines.
//!
//! In: a bundle. Out: an [`Engine`]. [`Lowered`] runs fused operators over mapped weights, several sequences at once.
//! tract runs the exported graph, one sequence after the other, over its own copy of the weights. [`EngineKind::Auto`]
//! takes tract only for a graph that the fused operators do not cover. Refused: such a graph with
//! [`EngineKind::Lowered`], or in a build without the feature `tract`. Tests compare the two.

use std::{path::Path, sync::Arc};

use bias_patch::Values;
use clap::ValueEnum;
use edge_bundle::Bundle;
use edge_engine::LowRank;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

#[cfg(feature = "tract")]
use crate::tract::Tract;
use crate::{
    Error, Result,
    lowered::{Inputs, Lowered, Refused},
};

/// Which engine runs the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// lowered if its operators cover the graph, else tract
    #[default]
    Auto,
    /// Fused operators over mapped weights; several texts at once, on several threads
    Lowered,
    /// The exported graph in tract: any graph, but slower, one text at a time, over a copy of the weights
    #[cfg(feature = "tract")]
    #[value(alias("reference"))]
    Tract,
}

/// The type of activations that are multiplied with weights of fewer bits than f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// Rounded as the weights are: to int8 with int8 and int4 weights, with one scale for 256 values of a token, which is
    /// faster; to f16 with f16 weights, on processors that compute with it
    #[default]
    #[value(alias("int8"))]
    Short,
    /// In f32, so that only the weights are rounded: slower
    F32,
}

/// How an encoder runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Which engine runs the graph.
    pub engine: EngineKind,
    /// The type of activations that are multiplied with the weights. f32 weights, and tract, use f32 always.
    pub activations: Activations,
    /// Threads of the lowered engine.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { engine: EngineKind::default(), activations: Activations::default(), threads: 1 }
    }
}

/// A loaded encoder.
pub(crate) enum Engine {
    Lowered(Box<Lowered>),
    #[cfg(feature = "tract")]
    Tract(Tract),
}

/// The values of one task, as the engine takes them.
#[derive(Clone, Debug)]
pub(crate) struct TaskValues {
    /// Those of all slots in the order of the manifest, `[L]`; behind them those of the low-rank terms.
    all: Arc<[f32]>,
    /// L.
    of_slots: usize,
    /// For each slot, where the term of its layer is; empty without terms.
    terms: Arc<[Option<LowRank>]>,
    /// Where slots begin whose values are all zero, as those of modules without biases are until a patch sets them.
    zeros: Arc<[usize]>,
}

/// Token ids of one sequence: S numbers each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence<'a> {
    /// Token ids; at least one.
    pub ids: &'a [u32],
    /// Token types; an encoder without token types ignores them.
    pub type_ids: &'a [u32],
    /// The task's values.
    pub values: &'a TaskValues,
}

/// Sequences with their values, as the engine takes them.
pub(crate) struct Bound<'a> {
    lowered: Option<Inputs<'a>>,
    sequences: Vec<Sequence<'a>>,
}

/// What the encoder makes of one sequence.
#[derive(Debug)]
pub(crate) struct Hidden {
    /// The last hidden state, `[S, H]`.
    pub tokens: Array2<f32>,
    /// The pooler's output, `[H]`, where the encoder has one.
    pub pooled: Option<Array1<f32>>,
}

/// Where slots begin whose values are all zero.
fn zeros_of(slots: &[Vec<f32>]) -> Arc<[usize]> {
    let mut end = 0;
    let begins = slots.iter().map(|values| {
        let begin = end;
        end += values.len();
        values.iter().all(|value| *value == 0.0).then_some(begin)
    });
    begins.flatten().collect()
}

impl TaskValues {
    /// The values of a task without low-rank terms.
    pub fn of_slots(slots: &[Vec<f32>]) -> Self {
        let all = slots.concat();
        TaskValues { of_slots: all.len(), all: all.into(), terms: [].into(), zeros: zeros_of(slots) }
    }

    pub fn of(values: &Values) -> Self {
        let mut all = values.slots.concat();
        let of_slots = all.len();
        let mut terms = vec![None; if values.low_rank.is_empty() { 0 } else { values.slots.len() }];
        for term in &values.low_rank {
            let a = all.len();
            all.extend(&term.a);
            terms[term.slot] = Some(LowRank { rank: term.rank, a, b: all.len() });
            all.extend(&term.b);
        }
        TaskValues { all: all.into(), of_slots, terms: terms.into(), zeros: zeros_of(&values.slots) }
    }

    /// Where slots begin whose values are all zero, in ascending order.
    pub fn zeros(&self) -> &[usize] {
        &self.zeros
    }

    /// All values: those of slots, then those of low-rank terms.
    pub fn all(&self) -> &[f32] {
        &self.all
    }

    /// The values of all slots, `[L]`.
    pub fn slots(&self) -> &[f32] {
        &self.all[..self.of_slots]
    }

    /// Where each slot's layer has its low-rank term among [`TaskValues::all`]; empty without terms.
    pub fn terms(&self) -> &[Option<LowRank>] {
        &self.terms
    }
}

impl Engine {
    /// Loads the graph of a bundle; the engine serves every task and length. Also gives the reason if tract runs it
    /// because our operators do not cover it.
    pub fn load(bundle: &Bundle, options: EngineOptions) -> Result<(Self, Option<String>)> {
        #[cfg(feature = "tract")]
        if options.engine == EngineKind::Tract {
            return Ok((Engine::Tract(Tract::load(bundle)?), None));
        }
        let uncovered = match Lowered::load(bundle, options) {
            Ok(lowered) => return Ok((Engine::Lowered(Box::new(lowered)), None)),
            Err(Refused::Failed(error)) => return Err(error),
            Err(Refused::Uncovered(reason)) => reason,
        };
        #[cfg(feature = "tract")]
        if options.engine == EngineKind::Auto {
            // A bundle that tract cannot run either has both reasons in its error.
            let tract = Tract::load(bundle).map_err(|error| match error {
                Error::Engine { path, action, reason } => {
                    Error::Engine { path, action, reason: format!("{reason}; our operators do not cover {uncovered}") }
                }
                other => other,
            })?;
            return Ok((Engine::Tract(tract), Some(uncovered.to_string())));
        }
        let helps =
            if cfg!(feature = "tract") { "--engine tract runs any graph" } else { "a build with tract runs any graph" };
        Err(Error::Engine {
            path: bundle.dir().join("encoder.onnx"),
            action: "lower the graph",
            reason: format!("{uncovered}; {helps}"),
        })
    }

    /// The inputs of a run. A single task's values are borrowed, not copied.
    pub fn bind<'a>(&self, sequences: &[Sequence<'a>]) -> Bound<'a> {
        let lowered = self.lowered().map(|engine| engine.bind(sequences));
        Bound { lowered, sequences: sequences.to_vec() }
    }

    /// The kernel and the type of activations, which decide how results are rounded; or tract.
    pub fn arithmetic(&self) -> String {
        match self {
            Engine::Lowered(engine) => engine.arithmetic(),
            #[cfg(feature = "tract")]
            Engine::Tract(_) => "tract".to_owned(),
        }
    }

    /// The lowered engine; only it runs backward.
    pub fn lowered(&self) -> Option<&Lowered> {
        match self {
            Engine::Lowered(engine) => Some(engine),
            #[cfg(feature = "tract")]
            Engine::Tract(_) => None,
        }
    }

    /// Whether it runs the low-rank term of a slot's module, if a task has one.
    #[cfg_attr(not(feature = "tract"), expect(unused_variables, reason = "the operators run every term"))]
    pub fn takes_term(&self, slot: usize) -> bool {
        match self {
            Engine::Lowered(_) => true,
            #[cfg(feature = "tract")]
            Engine::Tract(engine) => engine.takes_term(slot),
        }
    }

    /// The mapped file of weights, and whether loading made it; none with tract.
    pub fn file(&self) -> Option<(&Path, bool)> {
        self.lowered().map(Lowered::file)
    }

    /// Runs bound sequences; the results come in their order.
    pub fn run(&self, bound: &Bound<'_>) -> Result<Vec<Hidden>> {
        match (self, &bound.lowered) {
            (Engine::Lowered(engine), Some(inputs)) => {
                let (hidden, width) = (engine.run(inputs)?, engine.width());
                let mut rest = &hidden.tokens[..];
                let mut pooled = hidden.pooled.as_ref().map(|pooled| pooled.chunks(width));
                let part = |sequence: &Sequence<'_>| {
                    let length = sequence.ids.len();
                    let (tokens, after) = rest.split_at(length * width);
                    rest = after;
                    // As many values as the shape has: a row for each token.
                    let tokens = ArrayView2::from_shape((length, width), tokens).expect("rows of one width").to_owned();
                    let pooled = pooled.as_mut().and_then(Iterator::next);
                    Hidden { tokens, pooled: pooled.map(|pooled| ArrayView1::from(pooled).to_owned()) }
                };
                Ok(bound.sequences.iter().map(part).collect())
            }
            #[cfg(feature = "tract")]
            (Engine::Tract(engine), _) => bound.sequences.iter().map(|sequence| engine.run(*sequence)).collect(),
            (Engine::Lowered(_), None) => unreachable!("bound by another engine"),
        }
    }
}
