//! Makes patches, and says what is in them.
//!
//! In: a file of biases or a fine-tuned checkpoint ([`import`]), or a patch ([`inspect`], [`difference`], [`extract`]).
//! Out: a patch for one encoder, a report, or the biases as a file that other programs read.
#![forbid(unsafe_code)]

mod error;
mod import;
mod inspect;

pub use error::{Error, Result};
pub use import::{Imported, extract, import};
pub use inspect::{Difference, Report, SlotReport, difference, inspect, largest_change};
