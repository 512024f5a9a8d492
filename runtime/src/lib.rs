//! Runs any number of tasks over one frozen encoder: a task is a **patch** of biases and low-rank terms, and switching
//! tasks swaps patches.
//!
//! The path of a text: `tokenizer` turns it into token ids. The crate edge-engine turns ids and a task's values into
//! hidden states; `lowering` chooses its operators, and `panels` maps their weights. `head` turns hidden states into
//! outputs, and the kind of task in [`tasks`] turns outputs into an [`Answer`]. [`Encoder`] holds what all tasks share,
//! [`Task`] what belongs to one.
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

mod beginning;
pub mod bench;
mod bpe;
mod charsmap;
pub mod cli;
pub mod command;
mod encoder;
mod engine;
mod error;
mod gradient;
mod head;
mod kernel;
mod lowered;
mod lowering;
mod mapped;
mod mapped_tokenizer;
mod memory;
mod neighbours;
#[cfg(feature = "research")]
mod own_weights;
mod panels;
mod post_processor;
mod prediction;
mod recent;
mod runs;
mod subwords;
mod task;
pub mod tasks;
mod text;
mod tokenizer;
#[cfg(feature = "tract")]
mod tract;
mod unigram;
mod word_piece;

pub use bias_patch::Patch;
pub use edge_bundle::{Bundle, Store, cache_dir, patch_file};
pub use edge_engine::Cut;
pub use encoder::{Encoder, LoadTiming, Options, Request};
pub use engine::{Activations, EngineKind, EngineOptions};
pub use error::{Error, Result, TextError};
pub use gradient::{Extent, LossFn, Tokenized};
pub use kernel::cpu_is_known;
pub use lowered::MOST_THREADS;
pub use memory::{MappedMemory, Memory, ask_memory};
pub use neighbours::replaceable_by_others;
#[cfg(feature = "research")]
pub use own_weights::OwnWeights;
pub use prediction::{Prediction, Timing};
pub use runs::RUN_TOKENS;
pub use task::Task;
pub use tasks::{Answer, Entity, Ranked, Span, Strategy, Tag};
pub use text::Text;
