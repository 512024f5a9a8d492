//! The **patch**: one task for one frozen encoder, in one small file.
//!
//! In: bytes written by anyone. Out: a valid [`Patch`], or an error that names the file, the slot, what was expected
//! and what was found. The byte layout is specified in `FORMAT.md` and nowhere else. There is no inference engine here
//! and no unsafe code.
#![forbid(unsafe_code)]

mod activation;
mod apply;
pub mod atomic;
mod bounded;
mod digest;
mod encoding;
mod entropy;
mod error;
mod kind;
mod patch;
mod payload;
mod settings;
mod signature;
mod slot;
mod task;
mod wire;

pub use activation::Activation;
pub use apply::{LowRank, Values};
pub use bounded::{MOST_SMALL, read_at_most, read_text_at_most};
pub use digest::{Digest, Digester};
pub use encoding::{Encoding, Stored};
pub use error::{Error, Result};
pub use kind::{Embedding, Kind, Pooling};
pub use patch::{EncoderShape, Head, Linear, Patch, SlotShape, StoredSlot};
pub use signature::{Keys, signature_path};
pub use slot::{Module, SlotId, SlotKind};
pub use task::{Task, printable, quoted};
