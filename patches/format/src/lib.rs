//! The two files that outlive us: the **patch** (one task for one frozen encoder) and the **bundle** (that encoder).
//!
//! In: bytes and directories written by anyone. Out: valid [`Patch`], [`Manifest`] and [`Base`] values, or an error
//! that names the file, the slot, what was expected and what was found. Byte layouts are specified in `FORMAT.md`
//! and nowhere else. There is no inference engine here and no unsafe code.
#![forbid(unsafe_code)]

pub mod atomic;
mod bundle;
mod checked;
mod codes;
mod config;
mod digest;
mod encoding;
mod error;
mod frozen;
mod manifest;
mod panels;
mod patch;
mod signature;
mod slot;
mod store;
mod task;
mod vocabulary;
mod wire;

pub use bundle::{Base, Bundle};
pub use config::{Activation, Config, Family};
pub use digest::{Digest, Digester};
pub use encoding::{Encoding, Stored};
pub use error::{Error, Result};
pub use frozen::Frozen;
pub use manifest::{ALIGNMENT, Element, FileEntry, Golden, MANIFEST, Manifest, SCALE_GROUP, Slot, TensorEntry};
pub use panels::{PANEL_GROUP, PANEL_WIDTH, PanelEntry, PanelIndex, panel_layout};
pub use patch::{Head, Linear, Patch, StoredSlot};
pub use signature::{Keys, signature_path};
pub use slot::{SlotId, Term};
pub use store::{Store, cache_dir};
pub use task::{Kind, Pooling, Task, quoted};
pub use vocabulary::{VOCABULARY, Vocabulary, vocabulary_of};
