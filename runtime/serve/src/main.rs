//! `edge-serve`: a resident process that answers texts over HTTP. The work is in `edge_serve::command`.
#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    edge_serve::command::main(env::args_os()).into()
}
