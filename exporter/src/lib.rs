//! Compiles a frozen encoder once, for every task: a Hugging Face checkpoint becomes a **bundle**, whose graph takes
//! its bias vectors as inputs.
//!
//! In: a checkpoint ([`fetch`]). Out: a bundle ([`export`]), or the word that one is intact ([`verify`]). What its graphs
//! compute, [`evaluate`] computes from the same files in the plainest way.
#![forbid(unsafe_code)]

mod encoder;
mod error;
mod evaluate;
mod export;
mod family;
mod fetch;
mod graph;
mod onnx;
mod tokenizer;
mod training;
mod verify;

pub use error::{Error, Result};
pub use evaluate::{Value, evaluate};
pub use export::{Destination, Options, Panels, Progress, export};
pub use fetch::{Source, fetch};
pub use training::Training;
pub use verify::verify;
