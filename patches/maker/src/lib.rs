//! Makes, inspects and compares patches.
//!
//! In: labelled texts ([`data`], [`train`], [`search`]), a file of biases or a fine-tuned checkpoint ([`import`]), or a
//! patch ([`inspect`], [`evaluate`], [`difference`], [`extract`]). Out: a patch for one encoder, a report, a picture
//! ([`plot`]), or the biases as a file that other programs read.
#![forbid(unsafe_code)]

pub mod data;
mod error;
mod evaluate;
mod import;
mod inspect;
pub mod log;
pub mod plot;
mod random;
mod search;
mod sign;
pub mod train;

pub use edge_run::tasks::metrics;
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate, metric_named, metric_names};
pub use import::{Imported, extract, import};
pub use inspect::{Difference, Report, SlotReport, difference, inspect, largest_change};
pub use search::{Point, Searched, search, uniform};
pub use sign::sign;
