//! What a model runs on: a kernel, threads, and scratch memory.
//!
//! In: a kernel, the type of activations, and threads. Out: work split by rows. Each thread gets some rows of an
//! operator's output and computes them completely. Idle threads sleep.

use alloc::{vec, vec::Vec};
use core::{
    fmt,
    ops::{Deref, DerefMut, Range},
};

#[cfg(feature = "std")]
use std::sync::{Mutex, MutexGuard};

#[cfg(not(feature = "std"))]
use spin::{Mutex, MutexGuard};

use crate::{kernels::Kernel, layout::ALIGNMENT, threads::Threads};

/// Fewest rows that are worth a thread of their own: a tile of the widest kernel.
const LEAST_ROWS: usize = 8;

/// The type of activations that are multiplied with weights of fewer bits than f32. f32 weights always use f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Quantized to int8 for quantized weights, with one scale for [`crate::layout::SCALE_GROUP`] values of a token: faster.
    #[default]
    Int8,
    /// Rounded to f16 for weights in f16, if the kernel computes with halves; else f32.
    F16,
    /// Not rounded, so that only the weights are.
    F32,
}

/// A kernel, threads and scratch memory.
pub struct Machine {
    pub(crate) kernel: &'static dyn Kernel,
    pub(crate) activations: Activations,
    threads: Threads,
    spare: Mutex<Vec<Aligned>>,
}

/// Scratch floats with arbitrary initial values. They return to the machine when dropped, so that the next run neither
/// allocates memory nor clears it.
pub struct Scratch<'a> {
    machine: &'a Machine,
    floats: Aligned,
    len: usize,
}

/// Floats that begin on a cache line. In most encoders their rows do too, so that a kernel never loads a register from
/// two lines.
#[derive(Default)]
pub struct Aligned {
    values: Vec<f32>,
    start: usize,
}

/// Memory that an operator writes beside its output: `width` values for each row.
pub(crate) struct Beside<'a> {
    pub values: &'a mut [f32],
    pub width: usize,
}

impl Aligned {
    /// At least `len` of them.
    pub fn zeros(len: usize) -> Self {
        let values = vec![0.0; len + ALIGNMENT / size_of::<f32>()];
        let start = values.as_ptr().align_offset(ALIGNMENT).min(values.len() - len);
        Aligned { values, start }
    }
}

impl Clone for Aligned {
    /// The copy aligns itself anew.
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
        let floats = core::mem::take(&mut self.floats);
        self.machine.spare().push(floats);
    }
}

impl fmt::Debug for Scratch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Machine {
    /// Runs on these threads with this kernel: see [`crate::kernels()`].
    pub fn new(kernel: &'static dyn Kernel, activations: Activations, threads: Threads) -> Self {
        Machine { kernel, activations, threads, spare: Mutex::new(Vec::new()) }
    }

    /// The kernel.
    pub fn kernel(&self) -> &'static dyn Kernel {
        self.kernel
    }

    /// The type of activations that are multiplied with weights of fewer bits than f32.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Runs `work` where it can be split.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.threads.enter(work)
    }

    /// `len` scratch floats: the smallest spare buffer that is large enough, or a new one that replaces the largest
    /// spare buffer.
    pub(crate) fn scratch(&self, len: usize) -> Scratch<'_> {
        let mut spare = self.spare();
        let fitting = (0..spare.len()).filter(|at| spare[*at].len() >= len).min_by_key(|at| spare[*at].len());
        let place = fitting.or_else(|| (0..spare.len()).max_by_key(|at| spare[*at].len()));
        let found = place.map(|at| spare.swap_remove(at));
        // Memory is allocated while the lock is free.
        drop(spare);
        let floats = found.filter(|_| fitting.is_some()).unwrap_or_else(|| Aligned::zeros(len));
        Scratch { machine: self, floats, len }
    }

    /// `len` scratch floats, all zero.
    pub(crate) fn zeros(&self, len: usize) -> Scratch<'_> {
        let mut zeros = self.scratch(len);
        zeros.fill(0.0);
        zeros
    }

    /// Floats of each spare buffer that earlier runs left.
    pub(crate) fn spare_lens(&self) -> Vec<usize> {
        self.spare().iter().map(|floats| floats.len()).collect()
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads.count()
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Aligned>> {
        #[cfg(feature = "std")]
        // No code that can panic runs under the lock, so the list is consistent.
        return self.spare.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        #[cfg(not(feature = "std"))]
        self.spare.lock()
    }

    /// Rows for each thread out of `count`, at least one.
    pub(crate) fn part(&self, count: usize) -> usize {
        count.div_ceil(self.threads.count()).next_multiple_of(LEAST_ROWS).max(1)
    }

    /// Runs `work` on parts of `out` in parallel. A part is a range of rows, with `width` values for each row.
    pub(crate) fn split(&self, out: &mut [f32], width: usize, work: impl Fn(Range<usize>, &mut [f32]) + Sync + Send) {
        self.split_beside(out, width, &mut [], |rows, out, _| work(rows, out));
    }

    /// As [`Machine::split`], with the same rows of `beside`.
    pub(crate) fn split_beside(
        &self,
        out: &mut [f32],
        width: usize,
        beside: &mut [Beside<'_>],
        work: impl Fn(Range<usize>, &mut [f32], &mut [&mut [f32]]) + Sync + Send,
    ) {
        let count = out.len() / width.max(1);
        if count == 0 {
            return;
        }
        let part = self.part(count);
        if part >= count {
            let mut beside: Vec<&mut [f32]> = beside.iter_mut().map(|beside| &mut *beside.values).collect();
            return work(0..count, out, &mut beside);
        }
        let mut chunks: Vec<_> = beside.iter_mut().map(|b| b.values.chunks_mut(part * b.width)).collect();
        let parts = out.chunks_mut(part * width).enumerate().map(|(at, out)| {
            let beside: Vec<&mut [f32]> = chunks.iter_mut().filter_map(Iterator::next).collect();
            (at * part..at * part + out.len() / width, out, beside)
        });
        self.each(parts.collect(), |(rows, out, mut beside)| work(rows, out, &mut beside));
    }

    /// Runs `work` on each of `parts`, in parallel.
    pub(crate) fn each<T: Send>(&self, parts: Vec<T>, work: impl Fn(T) + Sync + Send) {
        self.threads.each(parts, work);
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("kernel", &self.kernel).field("activations", &self.activations).finish()
    }
}
