//! A resident process for an encoder and its tasks: patches come and go as files of one directory, and texts are
//! answered over the Open Inference Protocol.
//!
//! Where a request goes: `listen` takes its connection, `tls` encrypts it, `server` takes its HTTP, `guard`, `clients` and
//! `route` say whether and where it goes on. `predict`, `protocol`, `openai`, `tei` or `rerank` makes texts of it; for the
//! last three, `choice` finds the task, and `embeddings` makes the vectors. `ask` keeps it to its limits, `batcher` runs
//! it beside others.
//! Where a patch goes: `watch` hears of it, `directory` checks it, `encoders` runs what it names, `tasks` lets it
//! answer. `sandbox` keeps the process to its own files, and `syscalls` to the system calls that it needs.
#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("edge-serve needs a Unix system");

mod ask;
mod batcher;
mod choice;
mod clients;
pub mod command;
mod directory;
mod embeddings;
mod encoders;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod limits;
mod listen;
mod metrics;
mod openai;
mod predict;
mod protocol;
mod reply;
mod rerank;
mod route;
mod sandbox;
mod serve;
mod server;
mod syscalls;
mod tasks;
mod tei;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod watch;

pub use batcher::Batching;
pub use error::{Error, Result};
pub use listen::{Address, Listener, Supervisor};
pub use sandbox::Enforced;
pub use serve::{Options, TlsFiles, run};
