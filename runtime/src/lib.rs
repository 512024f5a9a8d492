//! Runs any number of tasks over one frozen encoder: a task is a **patch** of bias values, and switching tasks swaps
//! patches.
//!
//! Where a token goes: `text` makes token ids of a text, `engine` makes hidden states of ids and bias values, `head`
//! makes outputs of hidden states, `answer` makes a [`Prediction`] of outputs. [`Encoder`] holds what tasks share,
//! [`Task`] what they do not.
//!
//! ```no_run
//! use edge_run::{Encoder, Patch, Request, Text};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let encoder = Encoder::open("minilm".as_ref())?;
//! let task = encoder.attach(&Patch::open("sst2.bias".as_ref())?)?;
//! for prediction in encoder.predict(&[Request { task: &task, text: &Text::one("a joy from start to end") }]) {
//!     println!("{:?}", prediction?.answer);
//! }
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

// Files are little-endian and floats are read where they lie.
#[cfg(target_endian = "big")]
compile_error!("the runtime maps little-endian files and runs on little-endian machines only");

mod answer;
pub mod bench;
mod bpe;
pub mod cli;
mod encoder;
mod engine;
mod error;
mod gradient;
mod head;
mod kernels;
mod mapped;
mod mapped_tokenizer;
mod memory;
mod text;
mod word_piece;

pub use answer::{Answer, Fields, Prediction, Ranked, Span, Tag, Timing};
pub use bias_patch::{Bundle, Patch, Store};
pub use encoder::{Encoder, LoadTiming, Options, RUN_TOKENS, Request, Task};
pub use engine::{Activations, EngineKind, EngineOptions, OwnWeights};
pub use error::{Error, Result, TextError};
pub use gradient::Tokenized;
pub use kernels::cpu_is_known;
pub use memory::{MappedMemory, Memory, ask_memory};
pub use text::Text;
