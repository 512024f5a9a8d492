//! Runs one encoder on a thread of its own: the texts of all its tasks wait in one queue and run in batches.
//!
//! In: texts, each with its task and a place to put the answer. Out: answers. Refused: more texts than the queue holds.
//!
//! A batch is what one run of the encoder takes: the oldest text, then other texts that fit by their length, oldest
//! first. A text that finds the encoder idle runs at once. After a batch, the encoder waits until as many texts as it
//! had are queued again, because clients that were just answered tend to ask again together. It waits no longer than
//! [`Batching::wait`] from the end of the batch, so batching delays no text by more than that.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use edge_run::{Encoder, Options, Prediction, RUN_TOKENS, Request, Task, Text};
use tokio::sync::oneshot;

use crate::{limits, metrics::Metrics};

/// How texts are batched.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Texts that may wait.
    pub queue: usize,
    /// The longest wait for further texts, from the end of the previous batch.
    pub wait: Duration,
}

/// A queued text.
pub(crate) struct Job {
    task: Arc<Task>,
    text: Arc<Text>,
    answer: oneshot::Sender<Answered>,
    entered: Instant,
    tokens: usize,
}

/// The result for a text, and how long it waited before it ran.
pub(crate) type Answered = (edge_run::Result<Prediction>, Duration);

/// The queue has no room; it holds so many texts.
#[derive(Debug)]
pub(crate) struct Full(pub usize);

/// An encoder and its thread. The thread ends when the worker is dropped.
pub(crate) struct Worker {
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

/// The previous batch.
struct Before {
    texts: usize,
    ended: Instant,
}

// Other threads attach tasks and queue texts; the worker's thread runs them.
const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Encoder>();
    shared_by_threads::<Task>();
};

impl Job {
    /// A text for a task, and the receiver of its answer. Dropping the receiver cancels the text.
    pub fn new(task: Arc<Task>, text: Arc<Text>) -> (Self, oneshot::Receiver<Answered>) {
        let (answer, receiver) = oneshot::channel();
        let tokens = likely_tokens(&task, &text);
        (Job { task, text, answer, entered: Instant::now(), tokens }, receiver)
    }
}

impl Worker {
    /// Starts the thread of an encoder.
    ///
    /// # Errors
    /// When the system does not start a thread.
    pub fn start(encoder: Encoder, batching: Batching, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, changed) = Default::default();
        let shared = Arc::new(Shared { encoder, batching, metrics, queue, changed });
        let on_thread = shared.clone();
        thread::Builder::new().name("encoder".to_owned()).spawn(move || on_thread.work())?;
        Ok(Worker { shared })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.shared.encoder
    }

    /// Queues all of these texts, or none.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn submit(&self, jobs: Vec<Job>) -> Result<(), Full> {
        let mut queue = self.shared.lock();
        if queue.jobs.len() + jobs.len() > self.shared.batching.queue {
            return Err(Full(self.shared.batching.queue));
        }
        self.shared.metrics.queued.inc_by(jobs.len() as i64);
        queue.jobs.extend(jobs);
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread itself may drop the last task, so the thread is told to end but not joined.
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under the lock, so the queue is consistent even if the lock is poisoned.
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

    /// Waits for the next batch; none when the worker was dropped and the queue is empty.
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
        // A text that makes the tokenizer panic is a bug, but the other texts must still be answered. This works only
        // where panics unwind. A build of the board profile aborts instead: it says so at start, and a supervisor has
        // to restart it.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(answers) => {
                self.metrics.batch(&answers);
                for (job, answer) in batch.into_iter().zip(answers) {
                    let waited = begun.saturating_duration_since(job.entered);
                    self.metrics.wait_seconds.observe(waited.as_secs_f64());
                    // The client may have gone.
                    let _ = job.answer.send((answer, waited));
                }
            }
            Err(_) if batch.len() > 1 => batch.into_iter().for_each(|job| self.answer(vec![job])),
            Err(_) => tracing::error!("the engine panicked on a text, which gets no answer"),
        }
    }
}

/// Takes a batch from a queue, and drops cancelled texts.
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

/// An estimate of a text's number of tokens. It only decides which texts run together, so it need not be exact.
fn likely_tokens(task: &Task, text: &Text) -> usize {
    /// Bytes for each token in most languages, white space included.
    const TOKEN_BYTES: usize = 4;
    /// Special tokens.
    const SPECIAL: usize = 3;
    let bytes = text.first().len() + text.second().map_or(0, str::len);
    let tokens = bytes / TOKEN_BYTES + SPECIAL;
    if task.kind().in_windows() {
        return tokens;
    }
    tokens.min(usize::try_from(task.spec().max_length()).unwrap_or(usize::MAX))
}
