//! One frozen encoder, and the tasks attached to it.
//!
//! In: a bundle and patches. Out: predictions. The encoder is loaded and planned once; attaching a task decodes its
//! patch, and a text of any task then runs without the encoder being touched.

use std::{
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bias_patch::{Base, Bundle, Digest, Kind, Patch, Pooling, Task as TaskSpec};
use ndarray::{Array1, Array2, Axis};

use crate::{
    Answer, Error, Prediction, Result, Text, Timing,
    answer::{candidates, rank, spans, tag},
    engine::{Biases, Engine, EngineOptions, Hidden, OwnWeights, Sequence},
    head::Head,
    text::{Tokenizer, Tokens},
};

/// Tokens that run together: enough rows for the kernels, few enough that a layer's values stay in the cache.
pub const RUN_TOKENS: usize = 256;

/// A loaded encoder.
pub struct Encoder {
    bundle: Bundle,
    base: Base,
    tokenizer: Arc<Tokenizer>,
    pub(crate) engine: Engine,
    load: LoadTiming,
}

/// What loading an encoder took.
#[derive(Clone, Copy, Debug)]
pub struct LoadTiming {
    /// Reading the tokenizer.
    pub tokenizer: Duration,
    /// Reading the base values, checking files, mapping the weights and planning the graph.
    pub engine: Duration,
}

/// A task attached to an encoder: its bias values and head, decoded.
pub struct Task {
    spec: TaskSpec,
    encoder: Digest,
    labels: Vec<Arc<str>>,
    head: Head,
    biases: Biases,
    bytes: usize,
}

/// A text and the task it is for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The task.
    pub task: &'a Task,
    /// The text.
    pub text: &'a Text,
}

/// How texts are answered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Labels or spans to give, the likeliest first.
    pub top: usize,
    /// A limit on tokens below the task's own.
    pub max_length: Option<u32>,
    /// The most windows that a text of a span task is read in; none for as many as it takes.
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
    /// When a file is missing, short or altered, or the engine cannot run the graph.
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
        let engine = Engine::load(&bundle, options)?;
        let load = LoadTiming { tokenizer: tokenized - begun, engine: tokenized.elapsed() };
        Ok(Encoder { bundle, base, tokenizer, engine, load })
    }

    /// The same encoder with other weights: a comparison of trainings has use for it, and its answers are not the bundle's,
    /// although patches are checked against that. It lowers the graph again, and copies no weights.
    ///
    /// # Errors
    /// When the weights are not a changed copy of this encoder's, or the engine is the reference engine.
    pub fn with_weights(&self, weights: &OwnWeights) -> Result<Self> {
        Ok(Encoder {
            bundle: self.bundle.clone(),
            base: self.base.clone(),
            tokenizer: self.tokenizer.clone(),
            engine: Engine::Lowered(self.lowered()?.with_weights(&self.bundle, weights)?),
            load: self.load,
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

    /// What decides the rounding of its numbers, for people: the engine, the kernel and the activations.
    pub fn arithmetic(&self) -> String {
        self.engine.arithmetic()
    }

    /// The file of its panels, and whether that was made when it was loaded; none with the reference engine.
    pub fn panels(&self) -> Option<(&Path, bool)> {
        self.engine.lowered().map(|engine| engine.weights().file())
    }

    /// What loading took.
    pub fn load_timing(&self) -> LoadTiming {
        self.load
    }

    /// Decodes a patch for this encoder. The patch is not needed any more afterwards.
    ///
    /// # Errors
    /// When the patch was made for another encoder or does not fit it.
    pub fn attach(&self, patch: &Patch) -> Result<Task> {
        let values = patch.apply(self.bundle.manifest(), &self.base)?;
        let bytes = 4 * values.iter().map(Vec::len).sum::<usize>();
        Ok(Task {
            spec: patch.task().clone(),
            encoder: patch.encoder(),
            labels: patch.task().kind().labels().iter().map(|l| l.as_str().into()).collect(),
            head: Head::new(patch.head()),
            biases: self.engine.prepare(values),
            bytes,
        })
    }

    /// Answers texts, each for its own task; the answers come in the order of the requests.
    pub fn predict(&self, requests: &[Request<'_>]) -> Vec<Result<Prediction>> {
        self.predict_with(requests, Options::default())
    }

    /// Answers texts as [`Encoder::predict`] does, with options.
    ///
    /// Texts run together, whatever their tasks and lengths, some hundred tokens at a time. What runs beside a text
    /// does not change its answer by more than the rounding of sums.
    pub fn predict_with(&self, requests: &[Request<'_>], options: Options) -> Vec<Result<Prediction>> {
        let mut pending: Vec<Result<Pending>> =
            requests.iter().map(|request| self.tokenize(*request, options)).collect();
        // Places of windows, as (request, window), in the order of the texts.
        let places: Vec<(usize, usize)> = pending
            .iter()
            .enumerate()
            .flat_map(|(at, p)| (0..p.as_ref().map_or(0, |p| p.windows.len())).map(move |window| (at, window)))
            .collect();
        let length = |(at, window): &(usize, usize)| pending[*at].as_ref().map_or(0, |p| p.windows[*window].len());
        for run in runs(places.iter().map(length), RUN_TOKENS) {
            // A text of several windows may have failed with its first.
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
        let answer = |(pending, request): (Result<Pending>, &Request<'_>)| pending.map(|p| p.answer(*request, options));
        pending.into_iter().zip(requests).map(answer).collect()
    }

    /// The last hidden state of one text without any patch, `[S, H]`, and the pooler's output, `[H]`, where there is one:
    /// the pre-trained encoder.
    ///
    /// # Errors
    /// When the text is empty or the engine fails.
    pub fn hidden(&self, text: &Text) -> Result<(Array2<f32>, Option<Array1<f32>>)> {
        text.check(if text.second().is_some() { 2 } else { 1 })?;
        let tokens = self.tokenizer.encode(text, self.limit(None, u32::MAX))?;
        let biases = self.engine.prepare(self.base.slots().to_vec());
        let mut hidden = self.engine.run(self.engine.bind(&[tokens.sequence(&biases)])?)?;
        let Hidden { tokens, pooled } = hidden.remove(0);
        Ok((tokens, pooled))
    }

    /// Token ids of a request.
    fn tokenize(&self, Request { task, text }: Request<'_>, options: Options) -> Result<Pending> {
        if task.encoder != self.bundle.manifest().encoder {
            return Err(Error::OtherEncoder {
                task: task.spec.name().to_owned(),
                expected: task.encoder,
                found: self.bundle.manifest().encoder,
            });
        }
        let limit = self.limit(options.max_length, task.spec.max_length());
        let begun = Instant::now();
        let windows = self.windows(&task.spec, text, limit, options.most_windows)?;
        let timing =
            Timing { tokens: windows.iter().map(Tokens::len).sum(), tokenize: begun.elapsed(), ..Timing::default() };
        Ok(Pending { windows, logits: Vec::new(), timing })
    }

    /// Runs some windows together and keeps what the heads make of them.
    fn run(&self, requests: &[Request<'_>], pending: &mut [Result<Pending>], run: &[(usize, usize)]) -> Result<()> {
        let sequence = |(at, window): &(usize, usize)| {
            let pending = pending[*at].as_ref().ok()?;
            Some(pending.windows[*window].sequence(&requests[*at].task.biases))
        };
        let sequences: Vec<Sequence<'_>> = run.iter().filter_map(sequence).collect();
        let tokens: usize = sequences.iter().map(|s| s.ids.len()).sum();
        let begun = Instant::now();
        let inputs = self.engine.bind(&sequences)?;
        let switch = begun.elapsed();
        let begun = Instant::now();
        let hidden = self.engine.run(inputs)?;
        let encode = begun.elapsed();
        for ((at, window), hidden) in run.iter().zip(hidden) {
            let Ok(pending) = &mut pending[*at] else { continue };
            let begun = Instant::now();
            let task = requests[*at].task;
            pending.logits.push(match task.spec.kind().pooling() {
                Some(pooling) => task.head.apply(pool(&hidden, pooling).view()),
                None => task.head.apply(hidden.tokens.view()),
            });
            let share = pending.windows[*window].len() as f64 / tokens as f64;
            pending.timing.switch += switch.mul_f64(share);
            pending.timing.encode += encode.mul_f64(share);
            pending.timing.answer += begun.elapsed();
        }
        Ok(())
    }

    /// The tokens of a text for a task: one sequence, or for the context of a span task as many as it takes.
    pub(crate) fn windows(
        &self,
        task: &TaskSpec,
        text: &Text,
        limit: usize,
        most: Option<usize>,
    ) -> Result<Vec<Tokens>> {
        text.check(task.inputs())?;
        match (task.kind(), text.second()) {
            (Kind::Span { .. }, Some(context)) => {
                self.tokenizer.windows(text.first(), context, limit, most.unwrap_or(usize::MAX))
            }
            _ => Ok(vec![self.tokenizer.encode(text, limit)?]),
        }
    }

    /// The most tokens a sequence may have.
    pub(crate) fn limit(&self, asked: Option<u32>, task: u32) -> usize {
        let limit = self.bundle.manifest().config.max_length.min(task).min(asked.unwrap_or(u32::MAX));
        usize::try_from(limit).unwrap_or(usize::MAX)
    }
}

/// Which sequences run together: as many as have `most` tokens, and at least one.
pub(crate) fn runs(lengths: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let (mut runs, mut tokens) = (Vec::<Range<usize>>::new(), 0);
    for (at, length) in lengths.enumerate() {
        tokens += length;
        match runs.last_mut() {
            Some(run) if tokens <= most => run.end = at + 1,
            _ => {
                runs.push(at..at + 1);
                tokens = length;
            }
        }
    }
    runs
}

/// A request on its way: its tokens, and the head's outputs for those that have run.
struct Pending {
    windows: Vec<Tokens>,
    logits: Vec<Array2<f32>>,
    timing: Timing,
}

impl Pending {
    /// The answer, once every window has run.
    fn answer(mut self, Request { task, text }: Request<'_>, options: Options) -> Prediction {
        let begun = Instant::now();
        let truncated = self.windows.iter().any(|w| w.truncated);
        let first = &self.logits[0];
        let answer = match task.spec.kind() {
            Kind::Classification { .. } => Answer::Labels(rank(&task.labels, &first.row(0).to_vec(), options.top)),
            Kind::Regression { .. } => Answer::Value(first[[0, 0]]),
            Kind::Tagging { .. } => Answer::Tags(tag(text.first(), &self.windows[0], first.view(), &task.labels)),
            Kind::Span { max_answer_length } => {
                let longest = usize::try_from(*max_answer_length).unwrap_or(usize::MAX);
                let windows = self.windows.iter().zip(&self.logits);
                let found = windows.flat_map(|(tokens, logits)| candidates(tokens, logits.view(), longest)).collect();
                Answer::Spans(spans(text.second().unwrap_or_default(), found, options.top))
            }
        };
        let logits = if task.spec.kind().pooling().is_some() { first.row(0).to_vec() } else { Vec::new() };
        self.timing.answer += begun.elapsed();
        Prediction { answer, logits, truncated, timing: self.timing }
    }
}

impl Task {
    /// What the task is.
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    /// Bytes its bias values take in memory.
    pub fn resident_bytes(&self) -> usize {
        self.bytes
    }
}

/// One vector for a sequence, `[1, H]`.
fn pool(hidden: &Hidden, pooling: Pooling) -> Array2<f32> {
    let vector = match (pooling, &hidden.pooled) {
        (Pooling::Pooler, Some(pooled)) => pooled.clone(),
        // A patch that asks for a pooler where there is none was refused when it was attached.
        (Pooling::Cls | Pooling::Pooler, _) => hidden.tokens.row(0).to_owned(),
        (Pooling::Mean, _) => hidden.tokens.sum_axis(Axis(0)) / hidden.tokens.nrows() as f32,
    };
    vector.insert_axis(Axis(0))
}
