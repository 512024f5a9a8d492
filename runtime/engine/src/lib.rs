//! Runs transformer encoders, forward and backward, over borrowed weights.
//!
//! In: the bytes of the weights, a [`Model`], token ids, and the values of tasks. Out: hidden states, and gradients of
//! a loss with respect to a task's values. Refused: a model, batch or weights whose sizes do not fit. The crate reads
//! no files, no command line and no environment. The caller gives it memory, threads and a kernel as a [`Machine`].
//! Without the feature `std` it needs only `alloc`.
//!
//! The path of a token: [`operators::Embedding`] looks up its rows, [`operators::Attention`] and
//! [`operators::Residual`] of each layer transform them, and [`Model::run`] gives the last hidden state.
//! [`mod@kernels`] do the arithmetic.
//!
//! # Example
//! A model of one linear layer, y = x W + b, behind an embedding of two words:
//! ```
//! use edge_engine::{
//!     Activations, Aligned, Batch, LayerNorm, Linear, Machine, Model, Outputs, Slot, Table, Tensor, Threads, Values,
//! Weights,
//!     kernels, operators::{Dense, Embedding, PositionRows},
//! };
//!
//! // Two words and one position, each a row of two; a gain; W, 2 by 1, in a panel of sixteen columns.
//! let mut bytes = Aligned::zeros(64);
//! bytes[..4].copy_from_slice(&[1.0, -1.0, -2.0, 2.0]);
//! bytes[16..18].copy_from_slice(&[1.0, 1.0]);
//! (bytes[32], bytes[48]) = (3.0, 1.0);
//! let tensor = |rows, columns, in_panels, at| Tensor { rows, columns, in_panels, values: Values::F32 { at } };
//! let norm = LayerNorm { gain: tensor(1, 2, false, 64), bias: None, epsilon: 1e-12 };
//! let embedding = Embedding {
//!     name: "words".into(),
//!     words: tensor(2, 2, false, 0),
//!     positions: Some(PositionRows { table: tensor(1, 2, false, 16), first: 0, uncounted: None }),
//!     types: None,
//!     norm,
//! };
//! let linear = Linear { weight: tensor(2, 1, true, 128), bias: Some(Slot { at: 0, len: 1 }), low_rank: None };
//! let dense = Dense { name: "score".into(), linear, activation: None };
//! let outputs = Outputs { tokens: 1, pooled: None };
//! let model = Model::new(vec![(Box::new(embedding), vec![]), (Box::new(dense), vec![0])], outputs, 1, 256)?;
//!
//! let machine = Machine::new(kernels()[0], Activations::F32, Threads::one());
//! let mut batch = Batch::default();
//! batch.push(&[0], &[0], 0);
//! batch.push(&[1], &[0], 1);
//! // One value each, the bias, for two tasks in one batch.
//! let table = Table { values: &[10.0, 20.0], width: 1, terms: &[], zeros: &[] };
//! let weights = Weights::new(bytemuck::cast_slice(&bytes[..64]))?;
//! let hidden = model.run(&machine, weights, &batch, table)?;
//! // Normalized, the words are (1, -1) and (-1, 1): 3 - 1 + 10 and -3 + 1 + 20.
//! assert_eq!(&hidden.tokens[..], [12.0, 18.0]);
//! # Ok::<(), edge_engine::Error>(())
//! ```
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

// The weights are little-endian, and are used without conversion.
#[cfg(target_endian = "big")]
compile_error!("weights are little-endian and are used where they lie, on little-endian machines only");

extern crate alloc;

mod activation;
mod batch;
mod cut;
mod demand;
mod error;
#[cfg(not(feature = "std"))]
mod float;
mod gradients;
pub mod kernels;
mod layer_norm;
pub mod layout;
mod linear;
mod low_rank;
mod machine;
mod model;
pub mod operators;
#[cfg(feature = "research")]
mod research;
mod sharing;
mod threads;
mod weights;

#[cfg(feature = "research")]
pub use research::WeightGradients;

pub use activation::Activation;
pub use batch::{Batch, Slot, Table};
pub use cut::{Cut, States};
pub use demand::{Demand, Work};
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use kernels::kernels;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use low_rank::{LowRank, TaskTerms};
pub use machine::{Activations, Aligned, Machine, Scratch};
pub use model::{Hidden, Model, Outputs, SequenceLoss};
pub use threads::Threads;
pub use weights::{Tensor, Values, Weights};
