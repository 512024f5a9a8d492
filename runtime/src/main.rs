//! `edge-run`: answers texts, times an encoder, or prepares one. The work is in `edge_run::command`.
#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    edge_run::command::main(env::args_os()).into()
}
