//! Hidden states from token ids and bias values. Only this directory knows which engine runs the graph.
//!
//! [`lowered`] runs fused operators over mapped panels, several sequences at once; [`reference`] runs the graph as it
//! is, one sequence after the other, and is what the first is tested against; boards are built without it.

pub(crate) mod adjoint;
mod attention;
mod embedding;
pub(crate) mod lowered;
mod machine;
mod norm;
mod operators;
mod patterns;
mod product;
#[cfg(feature = "reference")]
mod reference;
mod weights;
mod weights_adjoint;

use bias_patch::Bundle;
use clap::ValueEnum;
use ndarray::{Array1, Array2};
use tract_onnx::prelude::{TValue, TVec};

pub use self::weights::OwnWeights;
use crate::Result;

/// Which engine runs the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Fused operators over mapped weights
    #[default]
    Lowered,
    /// The graph as it is, in stock tract, with weights of its own
    #[cfg(feature = "reference")]
    Reference,
}

/// What meets weights in codes of eight bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    /// Codes of eight bits too, with a scale for every 256 values of a token: faster
    #[default]
    Int8,
    /// Floats, so that only the weights are rounded
    F32,
}

/// How an encoder runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Which engine runs the graph.
    pub engine: EngineKind,
    /// What meets weights in codes; weights in f32 always meet f32. The reference engine has f32 only.
    pub activations: Activations,
    /// Threads the lowered engine runs on.
    pub threads: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { engine: EngineKind::default(), activations: Activations::default(), threads: 1 }
    }
}

/// A loaded encoder.
pub(crate) enum Engine {
    Lowered(lowered::Lowered),
    #[cfg(feature = "reference")]
    Reference(reference::Reference),
}

/// The bias values of one task, ready to be inputs: all slots in one for the lowered engine, one each for the other.
#[derive(Clone, Debug)]
pub(crate) struct Biases(Vec<TValue>);

/// Token ids of one sequence: S numbers each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence<'a> {
    /// Token ids; at least one.
    pub ids: &'a [u32],
    /// Token types; ignored by encoders without.
    pub type_ids: &'a [u32],
    /// The task's values.
    pub biases: &'a Biases,
}

/// Sequences with their values, as the engine takes them.
pub(crate) struct Bound {
    /// One list of inputs for each run.
    runs: Vec<TVec<TValue>>,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
}

/// What the encoder makes of one sequence.
#[derive(Debug)]
pub(crate) struct Hidden {
    /// The last hidden state, `[S, H]`.
    pub tokens: Array2<f32>,
    /// The pooler's output, `[H]`, where the encoder has one.
    pub pooled: Option<Array1<f32>>,
}

impl Engine {
    /// Loads and plans the graph of a bundle, once for every task and length.
    pub fn load(bundle: &Bundle, options: EngineOptions) -> Result<Self> {
        Ok(match options.engine {
            EngineKind::Lowered => Engine::Lowered(lowered::Lowered::load(bundle, options)?),
            #[cfg(feature = "reference")]
            EngineKind::Reference => Engine::Reference(reference::Reference::load(bundle)?),
        })
    }

    /// Prepares the values of every slot, in the order of the manifest's.
    pub fn prepare(&self, values: Vec<Vec<f32>>) -> Biases {
        Biases(match self {
            Engine::Lowered(_) => vec![lowered::table(values)],
            #[cfg(feature = "reference")]
            Engine::Reference(_) => values.into_iter().map(reference::vector).collect(),
        })
    }

    /// The inputs of a run. Values of one task are shared, not copied: this is all that switching a task takes.
    pub fn bind(&self, sequences: &[Sequence<'_>]) -> Result<Bound> {
        let runs = match self {
            Engine::Lowered(engine) => vec![engine.bind(sequences)?],
            #[cfg(feature = "reference")]
            Engine::Reference(engine) => sequences.iter().map(|sequence| engine.bind(*sequence)).collect(),
        };
        Ok(Bound { runs, lengths: sequences.iter().map(|s| s.ids.len()).collect() })
    }

    /// What decides the rounding of its numbers.
    pub fn arithmetic(&self) -> String {
        match self {
            Engine::Lowered(engine) => engine.arithmetic(),
            #[cfg(feature = "reference")]
            Engine::Reference(_) => "reference".to_owned(),
        }
    }

    /// The lowered engine, which alone runs backward.
    pub fn lowered(&self) -> Option<&lowered::Lowered> {
        match self {
            Engine::Lowered(engine) => Some(engine),
            #[cfg(feature = "reference")]
            Engine::Reference(_) => None,
        }
    }

    /// Runs bound sequences; the results come in their order.
    pub fn run(&self, bound: Bound) -> Result<Vec<Hidden>> {
        match self {
            Engine::Lowered(engine) => {
                let mut found = Vec::new();
                for inputs in bound.runs {
                    found.extend(engine.run(inputs, &bound.lengths)?);
                }
                Ok(found)
            }
            #[cfg(feature = "reference")]
            Engine::Reference(engine) => bound.runs.into_iter().map(|inputs| engine.run(inputs)).collect(),
        }
    }
}
