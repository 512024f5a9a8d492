//! Chooses the engine's kernel: the fastest that this CPU can run, or the one that `EDGE_RUN_ISA` names. Refused: a
//! name that does not exist or that this CPU cannot run.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use edge_engine::{
    kernels,
    kernels::{Kernel, PeakProduct, read},
};

use crate::{Error, Result};

/// Whether a kernel uses this CPU's vector instructions. Without one, plain Rust runs, many times slower.
pub fn cpu_is_known() -> bool {
    kernels().len() > 1
}

/// The fastest kernel of this CPU, or the one that `EDGE_RUN_ISA` names.
///
/// # Errors
/// When that one does not exist or this CPU cannot run it.
pub(crate) fn select() -> Result<&'static dyn Kernel> {
    let found = kernels();
    match std::env::var("EDGE_RUN_ISA") {
        Err(_) => Ok(found[0]),
        Ok(name) => found.iter().copied().find(|kernel| kernel.name() == name).ok_or_else(|| Error::Input {
            place: "EDGE_RUN_ISA".to_owned(),
            expected: format!(
                "one that this CPU runs: {}",
                found.iter().map(|k| k.name()).collect::<Vec<_>>().join(", ")
            ),
            found: name,
        }),
    }
}

/// Billions of multiplications and additions a second that a kernel reaches on f32 matrices in the first cache, the
/// best of what `time` has room for.
pub(crate) fn peak_gflops(kernel: &dyn Kernel, time: Duration) -> f64 {
    const TIMES: usize = 64;
    let mut product = PeakProduct::default();
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while begun.elapsed() < time {
        let begun = Instant::now();
        (0..TIMES).for_each(|_| product.run(kernel));
        best = best.min(begun.elapsed().as_secs_f64() / TIMES as f64);
    }
    PeakProduct::OPERATIONS as f64 / best / 1e9
}

/// Billions of bytes a second that one thread reads of `weights`, the best of what `time` has room for.
pub(crate) fn read_gbytes(weights: &[u8], time: Duration) -> f64 {
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || begun.elapsed() < time {
        let begun = Instant::now();
        black_box(read(black_box(weights)));
        best = best.min(begun.elapsed().as_secs_f64());
    }
    weights.len() as f64 / best / 1e9
}
