//! Compiles a frozen encoder once, for every task: a Hugging Face checkpoint becomes a **bundle**, whose graph takes
//! its bias vectors as inputs.
//!
//! In: a checkpoint ([`fetch`]). Out: a bundle ([`export`]), or the word that one is intact ([`verify`]).
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
mod verify;

pub use error::{Error, Result};
pub use export::{Destination, Options, Panels, Progress, export};
pub use fetch::{Source, fetch};
pub use verify::verify;
