//! The engine over mapped weights.
//!
//! In: a bundle. Out: a model that is made once and serves every task, length and batch. Refused: a graph that the
//! operators do not cover ([`Refused::Uncovered`]), and a damaged bundle. The weights stay in the page cache, shared by
//! all processes. The values of each task in a batch are a row of a table.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use edge_bundle::{Bundle, Element, onnx};
use edge_engine::{Batch, Cut, Gradients, Hidden, Machine, Model, SequenceLoss, Table, TaskTerms, Threads};

#[cfg(feature = "research")]
use crate::own_weights::OwnWeights;
use crate::{
    Activations, EngineOptions, Error, Result,
    engine::{Sequence, TaskValues},
    kernel::select,
    lowering::{Uncovered, lower},
    memory::ask_memory,
    panels::PanelFile,
};

/// Most threads of an encoder: more than a run of a few hundred tokens has parts.
pub const MOST_THREADS: usize = 256;

/// A loaded encoder.
pub(crate) struct Lowered {
    model: Model,
    machine: Arc<Machine>,
    weights: PanelFile,
    path: PathBuf,
}

/// What a run takes: sequences, the values of their tasks' slots, `[T, L]`, and the tasks' low-rank terms, if any has
/// some.
pub(crate) struct Inputs<'a> {
    batch: Batch,
    values: Cow<'a, [f32]>,
    terms: Vec<TaskTerms<'a>>,
    /// Where slots begin that are zero in every task.
    zeros: Cow<'a, [usize]>,
}

/// Why a bundle has no [`Lowered`].
pub(crate) enum Refused {
    /// Our operators do not cover its graph; tract may run it.
    Uncovered(Uncovered),
    /// No engine can run it.
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Refused::Failed(error.into())
    }
}

impl Lowered {
    /// Lowers the graph of a bundle and maps its weights.
    pub fn load(bundle: &Bundle, options: EngineOptions) -> Result<Self, Refused> {
        // Known before panels are made, which would be of no use.
        if bundle.manifest().config.family.is_graph() {
            let found = "a graph of another program, which tract runs forward only";
            return Err(Refused::Uncovered(Uncovered::at("encoder.onnx", "a graph that edge-export built", found)));
        }
        let activations = match (options.activations, bundle.manifest().weights()) {
            (Activations::F32, _) | (_, Element::F32) => edge_engine::Activations::F32,
            (Activations::Short, Element::F16) => edge_engine::Activations::F16,
            (Activations::Short, Element::I8 | Element::I4) => edge_engine::Activations::Int8,
        };
        if options.threads > MOST_THREADS {
            return Err(Refused::Failed(Error::Usage {
                option: "threads".to_owned(),
                expected: format!("1 to {MOST_THREADS}"),
                found: options.threads.to_string(),
            }));
        }
        let threads = Threads::start(options.threads).map_err(|error| Error::Input {
            place: "threads".to_owned(),
            expected: format!("{} threads to start", options.threads),
            found: error.to_string(),
        })?;
        let machine = Machine::new(select()?, activations, threads);
        Self::over(bundle, Arc::new(machine), PanelFile::open(bundle)?)
    }

    /// The same encoder with other weights, on the same threads.
    #[cfg(feature = "research")]
    pub fn with_weights(&self, bundle: &Bundle, weights: &OwnWeights) -> Result<Self> {
        let changed = Self::over(bundle, self.machine.clone(), self.weights.with(weights)?);
        changed.map_err(|refused| match refused {
            Refused::Failed(error) => error,
            Refused::Uncovered(reason) => self.failed(reason),
        })
    }

    fn over(bundle: &Bundle, machine: Arc<Machine>, weights: PanelFile) -> Result<Self, Refused> {
        let graph = onnx::Model::read(&bundle.file("encoder.onnx")?)?;
        let tensor = |name: &str| weights.tensor(name);
        let model = lower(&graph, bundle.manifest(), &tensor, weights.bytes().len()).map_err(Refused::Uncovered)?;
        Ok(Lowered { model, machine, weights, path: bundle.dir().to_owned() })
    }

    /// The inputs of one run of several sequences.
    ///
    /// The values of a single task are borrowed, and so are all low-rank terms. The slots of several tasks are copied
    /// into one table: some microseconds a task, where a run takes milliseconds.
    pub fn bind<'a>(&self, sequences: &[Sequence<'a>]) -> Inputs<'a> {
        let mut tasks: Vec<&'a TaskValues> = Vec::new();
        let mut batch = Batch::default();
        for sequence in sequences {
            let same = |known: &&TaskValues| std::ptr::eq(*known, sequence.values);
            let task = tasks.iter().position(same).unwrap_or_else(|| {
                tasks.push(sequence.values);
                tasks.len() - 1
            });
            // The cast is exact: a batch has fewer than 2^32 sequences, so fewer tasks.
            batch.push(sequence.ids, sequence.type_ids, task as u32);
        }
        let values = match tasks[..] {
            [one] => Cow::Borrowed(one.slots()),
            _ => Cow::Owned(tasks.iter().flat_map(|task| task.slots()).copied().collect()),
        };
        let terms = if tasks.iter().all(|task| task.terms().is_empty()) {
            Vec::new()
        } else {
            tasks.iter().map(|task| TaskTerms { values: task.all(), places: task.terms() }).collect()
        };
        let zeros = match tasks[..] {
            [one] => Cow::Borrowed(one.zeros()),
            _ => {
                let of_first = tasks.first().map_or(&[][..], |task| task.zeros()).iter().copied();
                of_first.filter(|at| tasks.iter().all(|task| task.zeros().binary_search(at).is_ok())).collect()
            }
        };
        Inputs { batch, values, terms, zeros }
    }

    /// Runs sequences.
    ///
    /// # Errors
    /// When the system does not have enough memory. It is asked for before the run, because an allocation that fails
    /// within an operator would abort the process.
    pub fn run(&self, inputs: &Inputs<'_>) -> Result<Hidden<'_>> {
        let tokens = inputs.batch.tokens();
        let table =
            Table { values: &inputs.values, width: self.model.values(), terms: &inputs.terms, zeros: &inputs.zeros };
        // The hidden states are copied out of the machine's memory.
        let copies = tokens.saturating_mul(self.width()).saturating_mul(size_of::<f32>());
        ask_memory(self.model.run_bytes(&self.machine, &inputs.batch, table).saturating_add(copies), |bytes| {
            Error::Memory {
                place: format!("a run of {tokens} tokens"),
                bytes,
                helps: "fewer tokens (--max-length), fewer --threads or an encoder of --weights int8 need less",
            }
        })?;
        let run = || self.model.run(&self.machine, self.weights.weights()?, &inputs.batch, table);
        run().map_err(|error| self.failed(error))
    }

    /// H, the width of the hidden states.
    pub fn width(&self) -> usize {
        self.model.width()
    }

    /// The kernel and the type of activations that it multiplies.
    pub fn arithmetic(&self) -> String {
        // Identities of trainings contain it, so it depends on no name in the code.
        let activations = match self.machine.activations() {
            edge_engine::Activations::Int8 => "Int8",
            edge_engine::Activations::F16 if self.machine.kernel().halves().is_some() => "F16",
            edge_engine::Activations::F16 | edge_engine::Activations::F32 => "F32",
        };
        format!("{} {activations}", self.machine.kernel().name())
    }

    /// The file of its weights, and whether loading made it.
    pub fn file(&self) -> (&Path, bool) {
        self.weights.file()
    }

    /// The weights it runs on.
    pub fn weights(&self) -> &PanelFile {
        &self.weights
    }

    /// Runs sequences of one task forward and backward: see [`Model::gradient`].
    pub fn gradient(
        &self,
        batch: &Batch,
        values: &[f32],
        gradients: &mut Gradients<'_>,
        loss: &mut (dyn FnMut(SequenceLoss<'_>) + Send),
    ) -> Result<()> {
        let mut run = || self.model.gradient(&self.machine, self.weights.weights()?, batch, values, gradients, loss);
        run().map_err(|error| self.failed(error))
    }

    /// Where training may begin: see [`Model::cut`].
    pub fn cut(&self, gradients: &Gradients<'_>) -> Option<Cut> {
        self.model.cut(gradients)
    }

    /// What crosses a cut, of each sequence of one task: see [`Model::states`].
    pub fn states(&self, batch: &Batch, task: TaskTerms<'_>, cut: &Cut) -> Result<Vec<Vec<f32>>> {
        let run = || self.model.states(&self.machine, self.weights.weights()?, batch, task, cut);
        run().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl ToString) -> Error {
        Error::Engine { path: self.path.clone(), action: "run the graph", reason: error.to_string() }
    }
}
