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
mod manifest;
mod panels;
mod patch;
mod slot;
mod store;
mod task;
mod wire;

pub use bundle::{Base, Bundle};
pub use config::{Activation, Config, Family};
pub use digest::{Digest, Digester};
pub use encoding::{Encoding, Stored};
pub use error::{Error, Result};
pub use manifest::{ALIGNMENT, FileEntry, Golden, MANIFEST, Manifest, Slot, TensorEntry};
pub use panels::{PANEL_LAYOUT, PANEL_WIDTH, PanelEntry, PanelIndex};
pub use patch::{Head, Linear, Patch, StoredSlot};
pub use slot::{SlotId, Term};
pub use store::{Store, cache_dir};
pub use task::{Kind, Pooling, Task};
