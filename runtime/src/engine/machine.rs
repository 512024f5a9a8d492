//! What operators run on: a kernel, threads, and memory to work in.
//!
//! Work is split over rows: each thread has some rows of an operator's output and does all that the operator does to
//! them. Threads sleep when there is nothing to do.

use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
    sync::{Mutex, PoisonError},
};

use bias_patch::ALIGNMENT;
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

use super::{Activations, EngineOptions};
use crate::{
    Error, Result,
    kernels::{self, Kernel},
};

/// Fewest rows that are worth a thread of their own: a tile of the widest kernel.
const LEAST_ROWS: usize = 8;

/// A kernel and its threads.
pub(super) struct Machine {
    pub kernel: &'static dyn Kernel,
    pub activations: Activations,
    pool: Option<ThreadPool>,
    spare: Mutex<Vec<Aligned>>,
}

/// Floats to work in, of any values at first. They go back to the machine in the end, so that a run neither asks the
/// system for memory nor fills it with zeros.
pub(super) struct Scratch<'a> {
    machine: &'a Machine,
    floats: Aligned,
    len: usize,
}

/// Floats that begin on the boundary of a cache line: so do their rows in most encoders, and then no register of a kernel
/// is loaded from two lines.
pub(super) struct Aligned {
    values: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// At least `len` of them.
    pub fn zeros(len: usize) -> Self {
        let values = vec![0.0; len + ALIGNMENT as usize / size_of::<f32>()];
        let start = values.as_ptr().align_offset(ALIGNMENT as usize).min(values.len() - len);
        Aligned { values, start }
    }
}

impl Clone for Aligned {
    /// The copy begins on a boundary of its own.
    fn clone(&self) -> Self {
        let mut copy = Aligned::zeros(self.len());
        let len = self.len();
        copy[..len].copy_from_slice(self);
        copy
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..]
    }
}

impl Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.floats[..self.len]
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats[..self.len]
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let floats = std::mem::replace(&mut self.floats, Aligned { values: Vec::new(), start: 0 });
        // A thread that panicked has left no list half-changed.
        self.machine.spare.lock().unwrap_or_else(PoisonError::into_inner).push(floats);
    }
}

impl Machine {
    /// Chooses the kernel and starts the threads.
    pub fn new(options: EngineOptions) -> Result<Self> {
        let pool = || {
            let name = |at| format!("edge-run {at}");
            let pool = ThreadPoolBuilder::new().num_threads(options.threads).thread_name(name).build();
            pool.map_err(|error| Error::Input {
                place: "--threads".to_owned(),
                expected: format!("{} threads to start", options.threads),
                found: error.to_string(),
            })
        };
        let pool = if options.threads > 1 { Some(pool()?) } else { None };
        let spare = Mutex::new(Vec::new());
        Ok(Machine { kernel: kernels::select()?, activations: options.activations, pool, spare })
    }

    /// Runs `work` where it can be split.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// `len` floats to work in: the spare ones that fit best, or new ones in the place of the largest that do not.
    pub fn scratch(&self, len: usize) -> Scratch<'_> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..spare.len()).filter(|at| spare[*at].len() >= len).min_by_key(|at| spare[*at].len());
        let floats = match fitting {
            Some(at) => spare.swap_remove(at),
            None => {
                if let Some(at) = (0..spare.len()).max_by_key(|at| spare[*at].len()) {
                    spare.swap_remove(at);
                }
                Aligned::zeros(len)
            }
        };
        Scratch { machine: self, floats, len }
    }

    /// Bytes that earlier runs have left to work in.
    pub fn spare_bytes(&self) -> usize {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.iter().map(|floats| size_of_val(&**floats)).sum()
    }

    /// Rows that each thread gets of `count`, at least one.
    pub fn part(&self, count: usize) -> usize {
        let threads = self.pool.as_ref().map_or(1, ThreadPool::current_num_threads);
        count.div_ceil(threads).next_multiple_of(LEAST_ROWS).max(1)
    }

    /// Runs `work` on parts of `out`, side by side: each the numbers of some rows and their `width` values each.
    pub fn split(&self, out: &mut [f32], width: usize, work: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let count = out.len() / width.max(1);
        let part = self.part(count);
        if part >= count {
            return work(0..count, out);
        }
        let parts = out.par_chunks_mut(part * width).enumerate();
        parts.for_each(|(at, out)| work(at * part..at * part + out.len() / width, out));
    }

    /// Runs `work` on each of `parts`, side by side.
    pub fn each<T: Send>(&self, parts: Vec<T>, work: impl Fn(T) + Sync + Send) {
        match &self.pool {
            Some(_) => parts.into_par_iter().for_each(work),
            None => parts.into_iter().for_each(work),
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("kernel", &self.kernel).field("activations", &self.activations).finish()
    }
}
