//! One encoder at work: texts of all its tasks wait in one queue and run together.
//!
//! In: texts, each with its task and a place to put the answer. Out: answers. Refused: more texts than the queue holds.
//!
//! A batch is what one run of the encoder takes: the oldest text, then whatever else fits by its length, the oldest first.
//! Nobody waits for company: a text that finds the encoder idle runs at once. Only after a batch, the encoder waits for as
//! many texts as that one had, since clients that were just answered tend to ask again together; it waits no longer than
//! [`Batching::wait`] from the end of that batch, so this is the most that batching adds to any text's time.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bias_patch::Kind;
use edge_run::{Encoder, Options, Prediction, RUN_TOKENS, Request, Task, Text};
use tokio::sync::oneshot;

use crate::{limits, metrics::Metrics};

/// How texts are put together.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Texts that may wait.
    pub queue: usize,
    /// The most that is waited for others, from the end of the batch before.
    pub wait: Duration,
}

/// A text on its way to an answer.
pub(crate) struct Job {
    task: Arc<Task>,
    text: Arc<Text>,
    answer: oneshot::Sender<Answered>,
    entered: Instant,
    tokens: usize,
}

/// What becomes of a text, and how long it waited before it ran.
pub(crate) type Answered = (edge_run::Result<Prediction>, Duration);

/// The queue has no room.
#[derive(Debug)]
pub(crate) struct Full;

/// An encoder with its thread, which ends when nobody holds the station any more.
pub(crate) struct Station {
    shared: Arc<Shared>,
}

struct Shared {
    encoder: Encoder,
    batching: Batching,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// The batch before.
struct Before {
    texts: usize,
    ended: Instant,
}

// One thread runs what others attach and ask.
const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Encoder>();
    shared_by_threads::<Task>();
};

impl Job {
    /// A text for a task, and where its answer will be. Dropping the receiver cancels it.
    pub fn new(task: Arc<Task>, text: Arc<Text>) -> (Self, oneshot::Receiver<Answered>) {
        let (answer, receiver) = oneshot::channel();
        let tokens = likely_tokens(&task, &text);
        (Job { task, text, answer, entered: Instant::now(), tokens }, receiver)
    }
}

impl Station {
    /// Starts the thread of an encoder.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(encoder: Encoder, batching: Batching, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, changed) = Default::default();
        let shared = Arc::new(Shared { encoder, batching, metrics, queue, changed });
        let worker = shared.clone();
        thread::Builder::new().name("encoder".to_owned()).spawn(move || worker.work())?;
        Ok(Station { shared })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.shared.encoder
    }

    /// Queues all of some texts, or none.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn submit(&self, jobs: Vec<Job>) -> Result<(), Full> {
        let mut queue = self.shared.lock();
        if queue.jobs.len() + jobs.len() > self.shared.batching.queue {
            return Err(Full);
        }
        self.shared.metrics.queued.inc_by(jobs.len() as i64);
        queue.jobs.extend(jobs);
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        // The thread itself may be who drops the last task, so it is told and not waited for.
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock, so a queue is never left half-changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut before = Before { texts: 0, ended: Instant::now() };
        while let Some(batch) = self.next(&before) {
            let texts = batch.len();
            if texts > 0 {
                self.answer(batch);
            }
            before = Before { texts, ended: Instant::now() };
        }
    }

    /// Waits for the next batch; none when nobody is left who could ask.
    fn next(&self, before: &Before) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() {
            if queue.closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let until = before.ended + self.batching.wait;
        loop {
            let tokens: usize = queue.jobs.iter().take(before.texts).map(|job| job.tokens).sum();
            let left = until.saturating_duration_since(Instant::now());
            if queue.closed || queue.jobs.len() >= before.texts || tokens >= RUN_TOKENS || left.is_zero() {
                break;
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let waiting = queue.jobs.len();
        let batch = take(&mut queue.jobs);
        self.metrics.queued.dec_by((waiting - queue.jobs.len()) as i64);
        Some(batch)
    }

    fn answer(&self, batch: Vec<Job>) {
        let begun = Instant::now();
        let run = || {
            let requests: Vec<Request<'_>> =
                batch.iter().map(|job| Request { task: &job.task, text: &job.text }).collect();
            self.encoder.predict_with(
                &requests,
                Options { top: limits::TOP, most_windows: Some(limits::WINDOWS), ..Options::default() },
            )
        };
        // A text that makes the tokenizer panic is a bug, but not one that the other texts should feel. Only where panics
        // unwind: a build of the board profile aborts, says so when it starts, and is for a supervisor to start again.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(answers) => {
                self.metrics.batch(&answers);
                for (job, answer) in batch.into_iter().zip(answers) {
                    let waited = begun.saturating_duration_since(job.entered);
                    self.metrics.wait_seconds.observe(waited.as_secs_f64());
                    // Whoever asked may have gone.
                    let _ = job.answer.send((answer, waited));
                }
            }
            Err(_) if batch.len() > 1 => batch.into_iter().for_each(|job| self.answer(vec![job])),
            Err(_) => tracing::error!("the engine panicked on a text, which gets no answer"),
        }
    }
}

/// Takes a batch out of a queue, and drops the texts that nobody waits for any more.
fn take(jobs: &mut VecDeque<Job>) -> Vec<Job> {
    let (mut batch, mut room) = (Vec::new(), RUN_TOKENS);
    let mut left = VecDeque::with_capacity(jobs.len());
    for job in jobs.drain(..).filter(|job| !job.answer.is_closed()) {
        if batch.is_empty() || job.tokens <= room {
            room = room.saturating_sub(job.tokens);
            batch.push(job);
        } else {
            left.push_back(job);
        }
    }
    *jobs = left;
    batch
}

/// About how many tokens a text becomes. It only decides what runs together, so it need not be right.
fn likely_tokens(task: &Task, text: &Text) -> usize {
    /// Bytes of a token in most languages' text, white space included.
    const TOKEN_BYTES: usize = 4;
    /// Special tokens.
    const SPECIAL: usize = 3;
    let bytes = text.first().len() + text.second().map_or(0, str::len);
    let tokens = bytes / TOKEN_BYTES + SPECIAL;
    match task.spec().kind() {
        // A long context is read whole, in windows.
        Kind::Span { .. } => tokens,
        _ => tokens.min(usize::try_from(task.spec().max_length()).unwrap_or(usize::MAX)),
    }
}
