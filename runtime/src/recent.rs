//! The values of the tasks that were used last.
//!
//! In: a task's number, and how its values are decoded. Out: the values, decoded now or before. A task is kept as its
//! patch stores it, in a byte or less for most values; only the last few are kept decoded. So a thousand tasks take
//! little memory, and switching between a few costs a lock. Values of a task that was dropped stay until others come.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{Result, engine::TaskValues};

/// How many tasks are kept decoded: as many as a run of short texts mixes.
const KEPT: usize = 32;
/// How many bytes they may take; one task may take more. With biases and terms of rank 1 that is 32 tasks of small encoders
/// and 15 of BERT-base.
const KEPT_BYTES: usize = 16 << 20;

/// A number that no other task of this process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskNumber(u64);

impl TaskNumber {
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        TaskNumber(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Decoded values, those that were used last at the end.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Vec<(TaskNumber, Arc<TaskValues>)>>);

impl Recent {
    /// The values of a task, by `decode` unless they are kept.
    ///
    /// # Errors
    /// Those of `decode`.
    pub fn get(&self, task: TaskNumber, decode: impl FnOnce() -> Result<TaskValues>) -> Result<Arc<TaskValues>> {
        if let Some(values) = self.find(task) {
            return Ok(values);
        }
        // Decoded while the lock is free, so that other threads' tasks do not wait.
        let values = Arc::new(decode()?);
        let mut kept = self.lock();
        // Another thread may have decoded it meanwhile.
        kept.retain(|(number, _)| *number != task);
        kept.push((task, values.clone()));
        let mut bytes: usize = kept.iter().map(|(_, values)| size_of_val(values.all())).sum();
        while kept.len() > KEPT || bytes > KEPT_BYTES && kept.len() > 1 {
            bytes -= size_of_val(kept.remove(0).1.all());
        }
        Ok(values)
    }

    /// The values of a task that are kept; they are then those that were used last.
    fn find(&self, task: TaskNumber) -> Option<Arc<TaskValues>> {
        let mut kept = self.lock();
        let at = kept.iter().position(|(number, _)| *number == task)?;
        kept[at..].rotate_left(1);
        kept.last().map(|(_, values)| values.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(TaskNumber, Arc<TaskValues>)>> {
        // No code that can panic runs under the lock, so the list is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tasks_are_decoded_once() {
        let recent = Recent::default();
        let tasks: Vec<TaskNumber> = (0..=KEPT).map(|_| TaskNumber::next()).collect();
        let mut decoded = 0;
        let mut get = |task: usize| {
            let before = decoded;
            let decode = || {
                decoded += 1;
                Ok(TaskValues::of_slots(&[vec![task as f32]]))
            };
            assert_eq!(recent.get(tasks[task], decode).unwrap().slots(), [task as f32]);
            decoded > before
        };
        for task in 0..KEPT {
            assert!(get(task));
        }
        assert!(!get(0) && !get(3), "they are kept");
        assert!(get(KEPT), "this one is new");
        assert!(get(1), "the one that was used longest ago is not kept");
        assert!(!get(0) && !get(3), "these were used later");
        assert_eq!(recent.lock().len(), KEPT);
    }

    #[test]
    fn large_tasks_are_not_kept_together() {
        let recent = Recent::default();
        for _ in 0..3 {
            let large = || Ok(TaskValues::of_slots(&[vec![0.0; KEPT_BYTES / size_of::<f32>()]]));
            recent.get(TaskNumber::next(), large).unwrap();
            assert_eq!(recent.lock().len(), 1);
        }
    }

    #[test]
    fn a_task_that_two_threads_decode_is_kept_once() {
        let recent = Recent::default();
        let task = TaskNumber::next();
        let values = || Ok(TaskValues::of_slots(&[vec![1.0]]));
        recent.get(task, || recent.get(task, values).and_then(|_| values())).unwrap();
        assert_eq!(recent.lock().len(), 1);
    }
}
