//! `edge-patch`: makes and inspects patches. The work is in `edge_patch::command`.
#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    edge_patch::command::main(env::args_os()).into()
}
