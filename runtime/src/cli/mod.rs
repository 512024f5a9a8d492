//! The work behind the `edge-run` command: records in, rows out.

mod array;
mod input;
mod output;
mod report;
mod session;

pub use input::{Columns, InputFormat, Record, Records, Row};
pub use output::{OutputFormat, Writer};
pub use report::write_report;
pub use session::{Outcome, Session, SessionOptions, run};
