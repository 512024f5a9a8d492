//! The project's commands, so that a wheel has them without a second copy of the engine.
//!
//! In: a command's name and its arguments. Out: its exit code. Refused: another name.

use std::ffi::OsString;

use pyo3::prelude::*;

use crate::values::refused;

/// Runs a command in this process and gives its exit code. The first of `arguments` is the program's name.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, name: &str, arguments: Vec<OsString>) -> PyResult<u8> {
    let main: fn(Vec<OsString>) -> u8 = match name {
        "edge-run" => edge_run::command::main,
        "edge-patch" => edge_patch::command::main,
        "edge-export" => edge_export::command::main,
        "edge-serve" => edge_serve::command::main,
        _ => return Err(refused(format!("expected one of this project's commands, found {name}"))),
    };
    Ok(py.detach(|| main(arguments)))
}
