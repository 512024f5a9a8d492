//! A batch of sequences, and the values of their tasks.
//!
//! In: token ids, token types and a task for each sequence. Out: where each sequence begins, and the task of each row.
//! Refused: nothing here; a model checks tasks and ids when it runs.
//!
//! A batch has no padding: its sequences are concatenated to N tokens. Each sequence has a task, which is a row of a
//! table of values. So one batch may mix tasks and lengths.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{kernels::Start, low_rank::TaskTerms};

/// B sequences, end to end, N tokens in all.
#[derive(Clone, Debug)]
pub struct Batch {
    ids: Vec<u32>,
    types: Vec<u32>,
    /// The place of each token in its sequence, `[N]`.
    places: Vec<u32>,
    /// Where each sequence begins, and N: B + 1 numbers.
    starts: Vec<usize>,
    /// The task of each sequence, `[B]`, and of each token, `[N]`.
    sequence_tasks: Vec<u32>,
    token_tasks: Vec<u32>,
}

/// The values of T tasks: `[T, L]`. A row has the values of all slots of the model, concatenated.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The values.
    pub values: &'a [f32],
    /// L.
    pub width: usize,
    /// The low-rank terms of each task, `[T]`; or none, where no task has any.
    pub terms: &'a [TaskTerms<'a>],
    /// Where slots begin whose values are zero in every task, in ascending order: nothing is computed for them.
    pub zeros: &'a [usize],
}

/// The values for the rows of an operator's output: a table, and the task of each row.
#[derive(Clone, Copy)]
pub(crate) struct TaskRows<'a> {
    table: Table<'a>,
    tasks: &'a [u32],
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            ids: Vec::new(),
            types: Vec::new(),
            places: Vec::new(),
            starts: vec![0],
            sequence_tasks: Vec::new(),
            token_tasks: Vec::new(),
        }
    }
}

impl Batch {
    /// Adds a sequence of a task: its token ids, and as many token types. Types that are missing are 0, and those
    /// beyond the ids are left out. An empty sequence is not added, so the next one has its number.
    pub fn push(&mut self, ids: &[u32], types: &[u32], task: u32) {
        if ids.is_empty() {
            return;
        }
        self.ids.extend_from_slice(ids);
        self.types.extend_from_slice(types);
        self.types.resize(self.ids.len(), 0);
        // Texts are far shorter than 2^32 tokens: a table has a row for each place.
        self.places.extend((0u32..).take(ids.len()));
        self.starts.push(self.ids.len());
        self.sequence_tasks.push(task);
        self.token_tasks.resize(self.ids.len(), task);
    }

    /// N, the tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// B.
    pub fn sequences(&self) -> usize {
        self.sequence_tasks.len()
    }

    /// The range of each sequence's tokens.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|pair| pair[0]..pair[1])
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn types(&self) -> &[u32] {
        &self.types
    }

    /// The place of each token in its sequence.
    pub(crate) fn places(&self) -> &[u32] {
        &self.places
    }

    /// The tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        self.ranges().map(|range| range.len()).max().unwrap_or(0)
    }

    /// The task of each token, or of each sequence.
    pub(crate) fn tasks(&self, of_sequences: bool) -> &[u32] {
        if of_sequences { &self.sequence_tasks } else { &self.token_tasks }
    }

    /// The largest task number plus 1.
    pub(crate) fn task_count(&self) -> usize {
        self.sequence_tasks.iter().max().map_or(0, |most| (*most as usize).saturating_add(1))
    }
}

impl<'a> TaskRows<'a> {
    pub fn new(table: Table<'a>, tasks: &'a [u32]) -> Self {
        TaskRows { table, tasks }
    }

    /// The same for some of the rows.
    pub fn of(self, rows: Range<usize>) -> Self {
        TaskRows { tasks: &self.tasks[rows], ..self }
    }

    /// A slot, unless its values are zero in every task.
    pub fn used(&self, slot: Option<Slot>) -> Option<Slot> {
        slot.filter(|slot| self.table.zeros.binary_search(&slot.at).is_err())
    }

    /// The same values for rows of other tasks.
    pub fn with(self, tasks: &'a [u32]) -> Self {
        TaskRows { tasks, ..self }
    }

    /// The values of a slot for row `row`. Task numbers are checked before a run, so they are in the table.
    pub fn slot(&self, slot: Slot, row: usize) -> &'a [f32] {
        &self.table.values[self.tasks[row] as usize * self.table.width + slot.at..][..slot.len]
    }

    /// The low-rank terms of the task of row `row`; none if there is no such row.
    pub fn terms(&self, row: usize) -> TaskTerms<'a> {
        let task = self.tasks.get(row);
        task.and_then(|task| self.table.terms.get(*task as usize)).copied().unwrap_or_default()
    }

    /// Whether no task has low-rank terms.
    pub fn has_no_terms(&self) -> bool {
        self.table.terms.is_empty()
    }

    /// A slot as the start of products; zero without a slot.
    pub fn start(&self, slot: Option<Slot>) -> Start<'a> {
        match self.used(slot) {
            Some(slot) => {
                Start::Bias { table: &self.table.values[slot.at..], stride: self.table.width, rows: self.tasks }
            }
            None => Start::Zero,
        }
    }
}

/// The place of a slot in the values of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its first value.
    pub at: usize,
    /// How many it has.
    pub len: usize,
}

impl Slot {
    /// The range of its values.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.len
    }
}
