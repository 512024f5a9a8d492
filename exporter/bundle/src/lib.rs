//! The **bundle**: one frozen encoder, compiled once for every task.
//!
//! In: directories and bytes written by anyone. Out: valid [`Manifest`], [`Base`], [`PanelIndex`] and [`Vocabulary`]
//! values, or an error that names the file, the slot or tensor, what was expected and what was found. Byte layouts are
//! specified in `FORMAT.md` and nowhere else. There is no inference engine here and no unsafe code.
//!
//! # Example
//! A tokenizer's words as a bundle holds them: in a table that is searched where it lies.
//! ```
//! use edge_bundle::{Vocabulary, vocabulary_of};
//!
//! let tokenizer = br###"{
//!     "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "good": 1, "film": 2, "##s": 3}}
//! }"###;
//! let bytes = vocabulary_of(tokenizer)?.expect("WordPiece has such a table");
//! let vocabulary = Vocabulary::parse(&bytes[..])?;
//! assert_eq!((vocabulary.len(), vocabulary.id(b"film"), vocabulary.id(b"book")), (4, Some(2), None));
//! # Ok::<(), edge_bundle::Error>(())
//! ```
#![forbid(unsafe_code)]

mod bundle;
mod checked;
mod config;
mod distances;
mod error;
mod family;
mod frozen;
mod hub;
mod layout;
mod manifest;
mod names;
pub mod onnx;
mod packed;
mod panels;
mod store;
mod tensor;
mod vocabulary;

pub use bundle::{Base, Bundle};
pub use config::{Config, Disentangled, Relative, Rotary, Window};
pub use distances::DistanceTable;
pub use error::{Error, Result};
pub use family::Family;
pub use frozen::Frozen;
pub use hub::{Hub, HubPatch, patch_file};
pub use manifest::{ALIGNMENT, FileEntry, Golden, MANIFEST, Manifest, Slot};
pub use names::Part;
pub use packed::FACTOR_GROUP;
pub use panels::{PANEL_GROUP, PANEL_WIDTH, PanelEntry, PanelIndex, panel_layout};
pub use store::{Store, cache_dir};
pub use tensor::{Element, SCALE_GROUP, TensorEntry};
pub use vocabulary::{Charsmap, VOCABULARY, Vocabulary, VocabularyKind, take_charsmaps, vocabulary_of};
