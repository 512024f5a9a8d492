//! Names the shared library by its ABI, so that a program never starts with a library of another.
#![forbid(unsafe_code)]

#[path = "src/abi.rs"]
mod abi;

fn main() {
    println!("cargo::rerun-if-changed=src/abi.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libedge_run.so.{}", abi::EDGE_RUN_ABI_VERSION);
    }
}
