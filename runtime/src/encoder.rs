//! One frozen encoder, and the tasks attached to it.
//!
//! In: a bundle, patches and texts. Out: predictions. Refused: a bundle that no engine runs, and patches that do not
//! fit it. The encoder is loaded once. A text of any attached task runs on it.

use std::{
    borrow::Cow,
    path::Path,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use bias_patch::{Kind, Patch, SlotKind, Task as TaskSpec};
use edge_bundle::{Base, Bundle};
use ndarray::{Array1, Array2, Axis};

#[cfg(feature = "research")]
use crate::OwnWeights;
use crate::{
    Error, Prediction, Result, Text, TextError, Timing,
    engine::{Engine, EngineOptions, Hidden, Sequence, TaskValues},
    memory::ask_memory,
    recent::{Recent, TaskNumber},
    runs::{Cost, RUN_TOKENS, runs_of},
    task::Task,
    tasks::{TaskKind, Window, pooling},
    tokenizer::{Tokenizer, Tokens},
};

/// A loaded encoder.
pub struct Encoder {
    bundle: Bundle,
    base: Base,
    tokenizer: Arc<Tokenizer>,
    pub(crate) engine: Engine,
    recent: Recent,
    /// Why tract runs it although nobody asked for tract.
    uncovered: Option<String>,
    load: LoadTiming,
    /// The process that its threads are of, if there are several.
    process: Option<u32>,
}

/// What loading an encoder took.
#[derive(Clone, Copy, Debug)]
pub struct LoadTiming {
    /// Reading the tokenizer.
    pub tokenizer: Duration,
    /// Reading the base values, checking files, mapping the weights and lowering the graph.
    pub engine: Duration,
}

/// A text and the task it is for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The task.
    pub task: &'a Task,
    /// The text.
    pub text: &'a Text,
}

/// Options for answers.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of labels or spans to give, the most likely first.
    pub top: usize,
    /// A limit on tokens below the task's own.
    pub max_length: Option<u32>,
    /// The largest number of windows for a text of a span task; none for no limit.
    pub most_windows: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options { top: 1, max_length: None, most_windows: None }
    }
}

impl Encoder {
    /// Loads the encoder of a bundle directory.
    ///
    /// # Errors
    /// When a file is missing, short or altered, or no engine runs the graph.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::load(Bundle::open(dir)?, EngineOptions::default())
    }

    /// Loads the encoder of an opened bundle.
    ///
    /// # Errors
    /// As [`Encoder::open`].
    pub fn load(bundle: Bundle, options: EngineOptions) -> Result<Self> {
        let begun = Instant::now();
        let tokenizer = Arc::new(Tokenizer::open(&bundle)?);
        let tokenized = Instant::now();
        let base = bundle.base()?;
        let (engine, uncovered) = Engine::load(&bundle, options)?;
        let load = LoadTiming { tokenizer: tokenized - begun, engine: tokenized.elapsed() };
        let process = (options.threads > 1).then(process::id);
        Ok(Encoder { bundle, base, tokenizer, engine, recent: Recent::default(), uncovered, load, process })
    }

    /// The same encoder with other weights, for comparisons of trainings. Its answers differ from the bundle's, but
    /// patches are still checked against the bundle. The graph is lowered again; no weights are copied.
    ///
    /// # Errors
    /// When the weights are not a changed copy of this encoder's, or tract runs it.
    #[cfg(feature = "research")]
    pub fn with_weights(&self, weights: &OwnWeights) -> Result<Self> {
        Ok(Encoder {
            bundle: self.bundle.clone(),
            base: self.base.clone(),
            tokenizer: self.tokenizer.clone(),
            engine: Engine::Lowered(Box::new(self.lowered()?.with_weights(&self.bundle, weights)?)),
            recent: Recent::default(),
            uncovered: None,
            load: self.load,
            process: self.process,
        })
    }

    /// The bundle it was loaded from.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The pre-trained bias values.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The kernel and the type of activations, which decide how results are rounded; or tract. For people to read.
    pub fn arithmetic(&self) -> String {
        self.engine.arithmetic()
    }

    /// The panels file, and whether loading made it; none with tract.
    pub fn panels(&self) -> Option<(&Path, bool)> {
        self.engine.file()
    }

    /// The node that the engine's operators do not cover, if tract runs the encoder for that reason. tract is slower,
    /// and copies the weights.
    pub fn uncovered(&self) -> Option<&str> {
        self.uncovered.as_deref()
    }

    /// What loading took.
    pub fn load_timing(&self) -> LoadTiming {
        self.load
    }

    /// Makes a task of a patch for this encoder.
    ///
    /// # Errors
    /// When the patch was made for another encoder or does not fit it, or when it has low-rank terms, tract runs the
    /// encoder, and its graph takes no such terms.
    pub fn attach(&self, patch: &Patch) -> Result<Task> {
        let number = TaskNumber::next();
        self.recent.get(number, || self.decode(patch))?;
        Ok(Task::new(number, patch))
    }

    /// The values of a patch, as this engine runs them. It is refused here, not when a task is attached: a task may be
    /// run by another [`Encoder`] of the same digest.
    fn decode(&self, patch: &Patch) -> Result<TaskValues> {
        let manifest = self.bundle.manifest();
        patch.check(&manifest.shape())?;
        // The values of the slots, and once more while they are put together.
        let floats = patch.slots().iter().map(|slot| slot.values.len()).sum::<usize>();
        ask_memory(2 * size_of::<f32>() * floats, |bytes| Error::Memory {
            place: format!("the values of task {}", patch.task().name()),
            bytes,
            helps: "low-rank terms of a lower rank need less",
        })?;
        let values = patch.apply(&manifest.shape(), self.base.slots())?;
        if let Some(term) = values.low_rank.iter().find(|term| !self.engine.takes_term(term.slot)) {
            let slot = manifest.slots[term.slot].id().with_kind(SlotKind::LoraA)?;
            let helps = match self.uncovered() {
                Some(node) => format!("tract runs it, because {node}"),
                None => "or use --engine lowered".to_owned(),
            };
            return Err(Error::Engine {
                path: self.bundle.dir().join("encoder.onnx"),
                action: "run the low-rank terms of a patch",
                reason: format!(
                    "no inputs for slot {slot}; export the bundle with edge-export --low-rank-inputs; {helps}"
                ),
            });
        }
        Ok(TaskValues::of(&values))
    }

    /// Values of an embedding task's vectors; none for a task of another kind.
    pub fn dimensions(&self, task: &Task) -> Option<usize> {
        let Kind::Embedding(spec) = task.spec().kind() else { return None };
        let width = task.patch.head().outputs().unwrap_or(self.bundle.manifest().config.hidden);
        usize::try_from(spec.dimensions.unwrap_or(u32::MAX).min(width)).ok()
    }

    /// Answers texts, each for its own task; the answers come in the order of the requests.
    pub fn predict(&self, requests: &[Request<'_>]) -> Vec<Result<Prediction>> {
        self.predict_with(requests, Options::default())
    }

    /// Answers texts as [`Encoder::predict`] does, with options.
    ///
    /// Texts of all tasks and lengths run together, a few hundred tokens at a time. An answer has the bits that it has
    /// alone, on any number of threads.
    pub fn predict_with(&self, requests: &[Request<'_>], options: Options) -> Vec<Result<Prediction>> {
        if self.check_process().is_err() {
            return requests.iter().map(|_| Err(Error::Forked)).collect();
        }
        let mut pending: Vec<Result<Pending>> =
            requests.iter().map(|request| self.tokenize(*request, options)).collect();
        // Places of windows, as (request, window), in the order of the texts.
        let places: Vec<(usize, usize)> = pending
            .iter()
            .enumerate()
            .flat_map(|(at, p)| (0..p.as_ref().map_or(0, |p| p.windows.len())).map(move |window| (at, window)))
            .collect();
        let costs: Vec<Cost> = (0..places.len()).map(|at| self.cost(requests, &pending, &places[..=at])).collect();
        for run in runs_of(costs.into_iter(), RUN_TOKENS) {
            // A text of several windows may have failed in an earlier run.
            let run: Vec<_> = places[run].iter().copied().filter(|(at, _)| pending[*at].is_ok()).collect();
            if run.is_empty() {
                continue;
            }
            if let Err(error) = self.run(requests, &mut pending, &run) {
                // The engine failed: every text of this run says so.
                let reason = error.to_string();
                let failed = || match &error {
                    Error::Memory { place, bytes, helps } => {
                        Error::Memory { place: place.clone(), bytes: *bytes, helps }
                    }
                    _ => Error::Engine {
                        path: self.bundle.dir().to_owned(),
                        action: "run these texts",
                        reason: reason.clone(),
                    },
                };
                run.iter().for_each(|(at, _)| pending[*at] = Err(failed()));
            }
        }
        let answer = |(pending, request): (Result<Pending>, &Request<'_>)| {
            pending.and_then(|p| p.answer(&self.tokenizer, *request, options))
        };
        pending.into_iter().zip(requests).map(answer).collect()
    }

    /// The pre-trained encoder's output for one text, without any patch: the last hidden state, `[S, H]`, and the
    /// pooler's output, `[H]`, where there is one.
    ///
    /// # Errors
    /// When the text is empty, the engine fails, or this process was forked ([`Error::Forked`]).
    pub fn hidden(&self, text: &Text) -> Result<(Array2<f32>, Option<Array1<f32>>)> {
        self.check_process()?;
        text.check(if text.second().is_some() { 2 } else { 1 })?;
        let tokens = self.tokenizer.encode(text, self.limit(None, u32::MAX))?;
        let values = TaskValues::of_slots(self.base.slots());
        let mut hidden = self.engine.run(&self.engine.bind(&[tokens.sequence(&values)]))?;
        let Hidden { tokens, pooled } = hidden.remove(0);
        Ok((tokens, pooled))
    }

    /// Refuses a process that was forked: it would wait for threads that it does not have.
    pub(crate) fn check_process(&self) -> Result<()> {
        match self.process {
            Some(process) if process != process::id() => Err(Error::Forked),
            _ => Ok(()),
        }
    }

    /// Token ids of a request.
    fn tokenize(&self, Request { task, text }: Request<'_>, options: Options) -> Result<Pending> {
        let spec = task.spec();
        if task.patch.encoder() != self.bundle.manifest().encoder {
            return Err(Error::OtherEncoder {
                task: spec.name().to_owned(),
                expected: task.patch.encoder(),
                found: self.bundle.manifest().encoder,
            });
        }
        let limit = self.limit(options.max_length, spec.max_length());
        let begun = Instant::now();
        let windows = self.windows(spec, task.kind(), text, limit, options.most_windows)?;
        let timing =
            Timing { tokens: windows.iter().map(Tokens::len).sum(), tokenize: begun.elapsed(), ..Timing::default() };
        Ok(Pending { windows, outputs: Vec::new(), timing })
    }

    /// What the last of these places adds to a run: less than its window's tokens if it has those of the place before,
    /// whose layers it may share.
    fn cost(&self, requests: &[Request<'_>], pending: &[Result<Pending>], places: &[(usize, usize)]) -> Cost {
        let window = |(at, window): &(usize, usize)| Some(&pending[*at].as_ref().ok()?.windows[*window]);
        let trunk = |(at, _): &(usize, usize)| requests[*at].task.trunk(self.bundle.manifest().config.layers) as usize;
        let tokens = places.last().and_then(window).map_or(0, Tokens::len);
        match places {
            [.., before, last]
                if self.engine.lowered().is_some()
                    && window(before).zip(window(last)).is_some_and(|(a, b)| a.ids == b.ids) =>
            {
                let layers = self.bundle.manifest().config.layers as usize;
                Cost::sharing(tokens, trunk(before).min(trunk(last)), layers)
            }
            _ => Cost { tokens, own: tokens },
        }
    }

    /// Runs some windows together and keeps the heads' outputs.
    fn run(&self, requests: &[Request<'_>], pending: &mut [Result<Pending>], run: &[(usize, usize)]) -> Result<()> {
        let begun = Instant::now();
        // Each task's values once, however many tasks there are.
        let mut decoded: Vec<(TaskNumber, Arc<TaskValues>)> = Vec::new();
        for (at, _) in run {
            let task = requests[*at].task;
            if decoded.iter().all(|(number, _)| *number != task.number) {
                decoded.push((task.number, self.recent.get(task.number, || self.decode(&task.patch))?));
            }
        }
        let sequence = |(at, window): &(usize, usize)| {
            let pending = pending[*at].as_ref().ok()?;
            let (_, values) = decoded.iter().find(|(number, _)| *number == requests[*at].task.number)?;
            Some(pending.windows[*window].sequence(values))
        };
        let sequences: Vec<Sequence<'_>> = run.iter().filter_map(sequence).collect();
        let tokens: usize = sequences.iter().map(|s| s.ids.len()).sum();
        let inputs = self.engine.bind(&sequences);
        let switch = begun.elapsed();
        let begun = Instant::now();
        let hidden = self.engine.run(&inputs)?;
        let encode = begun.elapsed();
        for ((at, window), hidden) in run.iter().zip(hidden) {
            let Ok(pending) = &mut pending[*at] else { continue };
            let begun = Instant::now();
            let task = requests[*at].task;
            pending.outputs.push(match task.kind.pooling() {
                Some(pooling) => {
                    let pooled = hidden.pooled.as_ref().map(|pooled| pooled.view());
                    let vector = pooling::forward(pooling, hidden.tokens.view(), pooled);
                    task.head.apply(vector.insert_axis(Axis(0)).view())
                }
                None => task.head.apply(hidden.tokens.view()),
            });
            let fraction = pending.windows[*window].len() as f64 / tokens as f64;
            pending.timing.switch += switch.mul_f64(fraction);
            pending.timing.encode += encode.mul_f64(fraction);
            pending.timing.answer += begun.elapsed();
        }
        Ok(())
    }

    /// The tokens of a text for a task: one sequence, or several windows if the kind of task reads windows.
    pub(crate) fn windows(
        &self,
        task: &TaskSpec,
        kind: &dyn TaskKind,
        text: &Text,
        limit: usize,
        most: Option<usize>,
    ) -> Result<Vec<Tokens>> {
        text.check(task.inputs())?;
        let prompted = kind.prompt().is_empty().then_some(text);
        let prompted = prompted.map_or_else(|| Cow::Owned(text.after(kind.prompt())), Cow::Borrowed);
        let text = &*prompted;
        match text.second() {
            Some(context) if kind.in_windows() => {
                self.tokenizer.windows(text.first(), context, limit, most.unwrap_or(usize::MAX))
            }
            _ => {
                let tokens = self.tokenizer.encode(text, limit)?;
                // Only a text that was cut can have lost all that comes after the prompt.
                if tokens.truncated && !kind.prompt().is_empty() {
                    self.check_room(kind.prompt(), limit)?;
                }
                Ok(vec![tokens])
            }
        }
    }

    /// Refuses a prompt that leaves no token for the text.
    fn check_room(&self, prompt: &str, limit: usize) -> Result<()> {
        let found = self.tokenizer.encode(&Text::one(prompt), limit)?.ids.len();
        if found >= limit { Err(TextError::NoRoom { found, limit }.into()) } else { Ok(()) }
    }

    /// The most tokens a sequence may have.
    pub(crate) fn limit(&self, asked: Option<u32>, task: u32) -> usize {
        let limit = self.bundle.manifest().config.max_length.min(task).min(asked.unwrap_or(u32::MAX));
        usize::try_from(limit).unwrap_or(usize::MAX)
    }
}

/// A request in progress: its tokens, and the head's outputs for the windows that have run.
struct Pending {
    windows: Vec<Tokens>,
    outputs: Vec<Array2<f32>>,
    timing: Timing,
}

impl Pending {
    /// The answer, once every window has run.
    fn answer(
        mut self,
        tokenizer: &Tokenizer,
        Request { task, text }: Request<'_>,
        options: Options,
    ) -> Result<Prediction> {
        let begun = Instant::now();
        if !self.outputs.iter().flatten().all(|output| output.is_finite()) {
            return Err(TextError::NotFinite.into());
        }
        let truncated = self.windows.iter().any(|w| w.truncated);
        let grouped = task.kind.groups_tokens();
        let continues = |tokens| if grouped { tokenizer.continuing(text.first(), tokens) } else { Vec::new() };
        let continuing: Vec<Vec<bool>> = self.windows.iter().map(continues).collect();
        let parts = self.windows.iter().zip(&continuing).zip(&self.outputs);
        let windows = parts.map(|((tokens, continuing), outputs)| Window {
            places: &tokens.places,
            continuing,
            outputs: outputs.view(),
        });
        let answer = task.kind.answer(text, &windows.collect::<Vec<_>>(), options.top);
        let logits = if task.kind.pooling().is_some() { self.outputs[0].row(0).to_vec() } else { Vec::new() };
        self.timing.answer += begun.elapsed();
        Ok(Prediction { answer, logits, truncated, timing: self.timing })
    }
}
