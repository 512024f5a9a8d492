//! The version of the binary interface.

/// The version of the binary interface that this header describes. It grows when a program that was compiled before
/// would no longer run; new functions alone leave it.
pub const EDGE_RUN_ABI_VERSION: u32 = 1;
