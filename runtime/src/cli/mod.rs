//! The work behind the `edge-run` command: records in, rows out.

mod array;
mod columns;
mod input;
mod labels;
mod output;
mod ranking;
mod report;
mod session;
mod tasks;
mod unambiguous;
mod vectors;

pub use columns::Columns;
pub use input::{InputFormat, Record, Records, Row};
pub use labels::LabelVectors;
pub use output::{OutputFormat, Writer, write_json};
pub use ranking::Query;
pub use report::{Times, write_report, write_times, write_totals};
pub use session::{Outcome, Session, SessionOptions, run};
pub use tasks::{Extras, TaskOptions, check_extras, names, tasks};
pub use unambiguous::Unambiguous;
pub use vectors::{Destination, check_format};
