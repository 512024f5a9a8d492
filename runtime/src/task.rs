//! A task attached to an encoder: what a patch says, ready to run.
//!
//! In: a patch that an [`Encoder`](crate::Encoder) has checked. Out: its values, head and kind. Refused: prompts that the
//! task does not have, and entities of a task that does not tag.

use std::sync::Arc;

use bias_patch::{Module, Patch, StoredSlot, Task as TaskSpec, quoted};

use crate::{
    Error, Result,
    head::Head,
    recent::TaskNumber,
    tasks::{self, Strategy, TaskKind},
};

/// A task attached to an encoder: its values as the patch stores them, and its head.
pub struct Task {
    pub(crate) number: TaskNumber,
    pub(crate) patch: Arc<Patch>,
    pub(crate) kind: Box<dyn TaskKind>,
    pub(crate) head: Arc<Head>,
}

impl Task {
    /// The task of a patch, under a number of its own.
    pub(crate) fn new(number: TaskNumber, patch: &Patch) -> Self {
        let (kind, head) = (tasks::of(patch.task().kind()), Head::new(patch.head()));
        Task { number, patch: Arc::new(patch.clone()), kind, head: Arc::new(head) }
    }

    /// What the task is.
    pub fn spec(&self) -> &TaskSpec {
        self.patch.task()
    }

    /// What its kind of task does.
    pub fn kind(&self) -> &dyn TaskKind {
        &*self.kind
    }

    /// The same task with the prompt of a name before each text. Its values and head are shared.
    ///
    /// # Errors
    /// When the task has no such prompt.
    pub fn prompted(&self, name: &str) -> Result<Self> {
        let kind = tasks::prompted(self.spec().kind(), name).map_err(|expected| Error::Usage {
            option: format!("prompt of task {}", self.spec().name()),
            expected,
            found: quoted(name),
        })?;
        Ok(Task { number: self.number, patch: self.patch.clone(), kind, head: self.head.clone() })
    }

    /// The same task, answering with entities in place of tags. Its values and head are shared.
    ///
    /// # Errors
    /// When it is no tagging task.
    pub fn with_entities(&self, strategy: Strategy) -> Result<Self> {
        let kind = tasks::with_entities(self.spec().kind(), strategy).ok_or_else(|| Error::Usage {
            option: format!("entities of task {}", self.spec().name()),
            expected: "a tagging task".to_owned(),
            found: self.spec().in_words(),
        })?;
        Ok(Task { number: self.number, patch: self.patch.clone(), kind, head: self.head.clone() })
    }

    /// The number of lowest layers that the patch leaves as they are, embeddings included; `layers` if it leaves all.
    pub(crate) fn trunk(&self, layers: u32) -> u32 {
        let lowest = |slot: &StoredSlot| match slot.id.module {
            Module::Pooler | Module::FinalNorm => layers,
            _ => slot.id.layer.map_or(0, u32::from),
        };
        self.patch.slots().iter().map(lowest).min().unwrap_or(layers)
    }

    /// Bytes its values take in memory, without the head. The values of the last tasks that were used are there decoded
    /// too.
    pub fn resident_bytes(&self) -> usize {
        self.patch.slots().iter().map(|slot| slot.values.memory_bytes()).sum()
    }
}
