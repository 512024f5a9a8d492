//! Makes, inspects and compares patches.
//!
//! In: labelled texts ([`data`], [`train`], [`Search`]), a file of biases, a fine-tuned checkpoint or a PEFT adapter
//! ([`import`]), or a patch ([`inspect`], [`evaluate`], [`difference`], [`extract`], [`extract_peft`]). Out: a patch for one
//! encoder, a report, a picture ([`plot`]), or the patch's values as files that other programs read. [`push`] and
//! [`pull`] share patches on the Hugging Face Hub.
#![forbid(unsafe_code)]

mod bootstrap;
pub mod command;
pub mod data;
mod embed;
mod error;
mod evaluate;
mod hub;
mod import;
mod inspect;
pub mod log;
pub mod plot;
mod prompts;
mod random;
mod search;
mod sign;
pub mod table;
pub mod train;

pub use bootstrap::Draws;
pub use edge_run::tasks::metrics;
pub use embed::{embedding, of_sentence_transformers};
pub use error::{Error, Result};
pub use evaluate::{Compared, Evaluation, evaluate, evaluate_against, metric_named, metric_names};
pub use hub::{Measured, Pulled, Push, Pushed, pull, push};
pub use import::{Imported, PeftAdapter, extract, extract_peft, graph_inputs, import};
pub use inspect::{Difference, Report, SlotReport, difference, inspect, largest_change};
pub use search::{Kept, Loss, Point, Refinement, Search, Searched, distinct, kept, point, split, uniform};
pub use sign::sign;
