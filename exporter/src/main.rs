//! `edge-export`: exports a checkpoint as a bundle, and checks bundles. The work is in `edge_export::command`.
#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    edge_export::command::main(env::args_os()).into()
}
