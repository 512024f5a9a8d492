//! How much memory a run takes, found before it runs.
//!
//! In: the spare buffers of a machine, and what operators ask for, in order. Out: bytes. Buffers are taken, replaced
//! and returned by the machine's rule, without memory behind them. Threads are taken to ask at the same time.

use alloc::vec::Vec;

use crate::{batch::Batch, layout::ALIGNMENT, machine::Machine};

/// What an operator takes beside its output, in the order in which it takes it.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Floats until it is done.
    Kept(usize),
    /// Floats of each buffer and bytes of other memory that some threads take at once, and return.
    Returned {
        /// How many threads.
        threads: usize,
        /// Floats of each buffer.
        buffers: Vec<usize>,
        /// Bytes that are not the machine's.
        bytes: usize,
    },
}

/// What an operator runs.
#[derive(Clone, Copy)]
pub struct Demand<'a> {
    /// On what.
    pub machine: &'a Machine,
    /// Over which sequences.
    pub batch: &'a Batch,
    /// For how many rows of its output.
    pub rows: usize,
}

impl Demand<'_> {
    /// Rows of each thread, and how many threads that makes.
    pub(crate) fn split(&self) -> (usize, usize) {
        let part = self.machine.part(self.rows).min(self.rows);
        (part, self.rows.div_ceil(part.max(1)))
    }
}

/// The scratch memory of a machine, in bytes that nobody allocates.
pub(crate) struct Pool {
    spare: Vec<usize>,
    all: usize,
    most: usize,
}

impl Pool {
    pub fn of(machine: &Machine) -> Self {
        let spare: Vec<usize> = machine.spare_lens();
        let all = spare.iter().sum();
        Pool { spare, all, most: all }
    }

    /// Takes a buffer as [`Machine::scratch`] does, and gives its length.
    pub fn take(&mut self, len: usize) -> usize {
        let fitting = (0..self.spare.len()).filter(|at| self.spare[*at] >= len).min_by_key(|at| self.spare[*at]);
        if let Some(at) = fitting {
            return self.spare.swap_remove(at);
        }
        let largest = (0..self.spare.len()).max_by_key(|at| self.spare[*at]);
        self.all -= largest.map_or(0, |at| self.spare.swap_remove(at));
        let made = len + ALIGNMENT / size_of::<f32>();
        self.all += made;
        self.most = self.most.max(self.all);
        made
    }

    pub fn give(&mut self, len: usize) {
        self.spare.push(len);
    }

    /// Takes what an operator asks for, and returns it.
    pub fn work(&mut self, works: &[Work]) {
        let mut kept = Vec::new();
        for work in works {
            match work {
                Work::Kept(len) => kept.push(self.take(*len)),
                Work::Returned { threads, buffers, bytes } => {
                    let taken: Vec<usize> =
                        buffers.iter().flat_map(|len| (0..*threads).map(|_| *len)).map(|len| self.take(len)).collect();
                    self.most = self.most.max(self.all + bytes / size_of::<f32>());
                    taken.into_iter().for_each(|len| self.give(len));
                }
            }
        }
        kept.into_iter().for_each(|len| self.give(len));
    }

    /// The most bytes at any time, beyond those of `machine`'s spare buffers.
    pub fn most_bytes(&self, machine: &Machine) -> usize {
        self.most.saturating_sub(machine.spare_lens().iter().sum()) * size_of::<f32>()
    }
}
