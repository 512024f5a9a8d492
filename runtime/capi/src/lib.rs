//! edge-run as a C library.
//!
//! In: names of files, texts and room for vectors, as C has them. Out: handles, answers and vectors. Refused, with a
//! code and a text: pointers and counts that cannot be right, bytes that are not UTF-8, and what the runtime refuses,
//! in its words. A panic ends at the boundary and is a code too.
//!
//! `include/edge_run.h` is made of this crate, comments included, so they are written for readers of C. What a caller
//! has to keep stands once, at the head of the header (`cbindgen.toml`). Where a pointer is NULL or to one value, its
//! type here says so: an `Option` of a reference. Raw pointers are left for texts, arrays and options, whose extent the
//! caller gives.
#![allow(clippy::missing_safety_doc, reason = "the head of the header has what callers keep, for all functions")]

mod abi;
mod answer;
mod argument;
mod options;
mod request;
mod status;

use std::{
    ffi::{CString, c_char},
    mem::MaybeUninit,
    ptr,
};

use edge_run::{Answer as Said, Bundle, EngineOptions, Patch, Prediction, Store};

pub use crate::{
    abi::EDGE_RUN_ABI_VERSION,
    answer::{Answer, Answers},
    options::{
        EDGE_RUN_ACTIVATIONS_F32, EDGE_RUN_ACTIVATIONS_INT8, EDGE_RUN_ENGINE_AUTO, EDGE_RUN_ENGINE_LOWERED,
        EDGE_RUN_ENGINE_TRACT, Options,
    },
    request::Request,
    status::Status,
};
use crate::{
    argument::given,
    request::{place, predict},
    status::{Failure, c_string, guard, last, pointer, status},
};

/// A loaded encoder. Its weights are mapped: processes on one machine share them.
pub struct Encoder {
    encoder: edge_run::Encoder,
    arithmetic: CString,
}

/// A task: a patch, attached to an encoder.
pub struct Task {
    task: edge_run::Task,
    labels: Vec<CString>,
}

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of its binary interface. It equals EDGE_RUN_ABI_VERSION, unless a program loaded another library by
/// hand.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_abi_version() -> u32 {
    EDGE_RUN_ABI_VERSION
}

/// Why the last call of this thread that failed did; empty if none has. A call that succeeds leaves it. It lasts until
/// the next call of this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_last_error() -> *const c_char {
    last()
}

/// Loads the encoder of a bundle, a directory. `options` may be NULL. After a failure `*encoder` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_open(
    bundle: *const c_char,
    options: *const Options,
    encoder: Option<&mut MaybeUninit<*mut Encoder>>,
) -> Status {
    give(encoder, "encoder", || {
        // SAFETY: the caller passes a name that ends with a NUL.
        let bundle = unsafe { argument::name(bundle, "bundle") }?;
        // SAFETY: the caller passes options that begin with their size.
        let options = unsafe { Options::read(options) }?;
        Encoder::load(opened(Bundle::open(bundle.as_ref()))?, options)
    })
}

/// Loads the encoder that a patch was made for, from the user's store, to which edge-export writes. The patch is not
/// attached. The rest is as with edge_run_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_open_for_patch(
    patch: *const c_char,
    options: *const Options,
    encoder: Option<&mut MaybeUninit<*mut Encoder>>,
) -> Status {
    give(encoder, "encoder", || {
        // SAFETY: the caller passes a name that ends with a NUL.
        let patch = unsafe { argument::name(patch, "patch") }?;
        // SAFETY: the caller passes options that begin with their size.
        let options = unsafe { Options::read(options) }?;
        let patch = opened(Patch::open(patch.as_ref()))?;
        Encoder::load(opened(Store::of_user().and_then(|store| store.open(patch.encoder())))?, options)
    })
}

/// What computes: the kernel and the type of activations; or "tract", which runs graphs that EDGE_RUN_ENGINE_LOWERED
/// does not cover. For people to read.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_encoder_arithmetic(encoder: Option<&Encoder>) -> *const c_char {
    pointer(|| Ok(given(encoder, "encoder")?.arithmetic.as_ptr()))
}

/// Frees an encoder. NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_encoder_free(encoder: Option<Box<Encoder>>) {
    free(encoder);
}

/// Makes a task of a patch, a file. A patch for another encoder is EDGE_RUN_FILE. After a failure `*task` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_attach(
    encoder: Option<&Encoder>,
    patch: *const c_char,
    task: Option<&mut MaybeUninit<*mut Task>>,
) -> Status {
    give(task, "task", || {
        let encoder = &given(encoder, "encoder")?.encoder;
        // SAFETY: the caller passes a name that ends with a NUL.
        let patch = unsafe { argument::name(patch, "patch") }?;
        let patch = opened(Patch::open(patch.as_ref()))?;
        let task = encoder.attach(&patch)?;
        let labels = task.spec().kind().labels().iter().map(|label| c_string(label)).collect();
        Ok(Task { task, labels })
    })
}

/// A label of a task, by its number from 0, which is also that of its logit. NULL past the last; a task without labels
/// has none.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_task_label(task: Option<&Task>, number: usize) -> *const c_char {
    pointer(|| Ok(given(task, "task")?.labels.get(number).map_or(ptr::null(), |label| label.as_ptr())))
}

/// Frees a task. NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_task_free(task: Option<Box<Task>>) {
    free(task);
}

/// Answers `count` requests, which may be of different tasks; they run together. `*answers` has one for each, in their
/// order. A text that cannot be answered has an answer that says why, and is no failure. A task that was attached to an
/// encoder of another bundle is EDGE_RUN_MISUSE. After a failure `*answers` is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_predict(
    encoder: Option<&Encoder>,
    requests: *const Request<'_>,
    count: usize,
    answers: Option<&mut MaybeUninit<*mut Answers>>,
) -> Status {
    give(answers, "answers", || {
        // SAFETY: the caller passes as many requests as it counts.
        let requests = unsafe { argument::values(requests, count, "requests") }?;
        // SAFETY: the caller passes requests whose texts are as long as they say.
        let predictions = unsafe { predict(encoder, requests) }?;
        Ok(Answers(predictions.into_iter().map(|(task, said)| Answer::new(task, said)).collect()))
    })
}

/// The answer to a request, by its number from 0; NULL past the last.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answer_at(answers: Option<&Answers>, number: usize) -> *const Answer {
    pointer(|| {
        let answers = &given(answers, "answers")?.0;
        let past = || Failure::misuse("number", format!("one below {}", answers.len()), number);
        Ok(ptr::from_ref(answers.get(number).ok_or_else(past)?))
    })
}

/// Why there is no answer; NULL if there is one.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answer_error(answer: Option<&Answer>) -> *const c_char {
    pointer(|| Ok(given(answer, "answer")?.error.as_ref().map_or(ptr::null(), |error| error.as_ptr())))
}

/// The label: of a classification the likeliest, of a span task the text of the best span, which is empty if the second
/// text has no answer. NULL for tasks of other kinds: edge_run_answer_json has what they say. `*bytes` is its length
/// without the NUL behind it, for a span may hold a NUL of its text; `bytes` may be NULL.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answer_label(
    answer: Option<&Answer>,
    bytes: Option<&mut MaybeUninit<usize>>,
) -> *const c_char {
    let label = guard(|_| None, || Ok(given(answer, "answer")?.label.as_deref()));
    counted(bytes, label.map_or(0, |label| label.len() - 1));
    label.map_or(ptr::null(), |label| label.as_ptr().cast())
}

/// The score of the label, from 0 to 1; of a regression its number. NaN for tasks of other kinds, and without an
/// answer.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answer_score(answer: Option<&Answer>) -> f32 {
    guard(|_| f32::NAN, || Ok(given(answer, "answer")?.score()))
}

/// The head's outputs, `*count` floats: a logit for each label, in the order of edge_run_task_label; of a regression
/// one; of an embedding the vector before it is cut and normalized. NULL, and 0, for tasks that have many of them for a
/// text, and without an answer.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answer_logits(
    answer: Option<&Answer>,
    count: Option<&mut MaybeUninit<usize>>,
) -> *const f32 {
    let logits = || match &given(answer, "answer")?.said {
        Ok(prediction) if !prediction.logits.is_empty() => Ok(Some(&prediction.logits[..])),
        _ => Ok(None),
    };
    let logits = guard(|_| None, logits);
    counted(count, logits.map_or(0, <[f32]>::len));
    logits.map_or(ptr::null(), <[f32]>::as_ptr)
}

/// The answer, or the error, as a line of `edge-run -o jsonl --logits`, without its field `line` and the line break.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answer_json(answer: Option<&Answer>) -> *const c_char {
    pointer(|| Ok(given(answer, "answer")?.json().as_ptr()))
}

/// Frees answers. NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_answers_free(answers: Option<Box<Answers>>) {
    free(answers);
}

/// Floats of a task's vectors; 0 if it is no embedding task.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_dimensions(encoder: Option<&Encoder>, task: Option<&Task>) -> usize {
    guard(|_| 0, || dimensions(&given(encoder, "encoder")?.encoder, given(task, "task")?))
}

/// Writes a vector for each of `count` requests into `vectors`, which has room for `floats` floats: `count` rows of
/// edge_run_dimensions, row after row. The tasks may differ, in their prompts for one, but not in their dimensions.
///
/// A text that cannot be answered has a row of NaN. The call then gives EDGE_RUN_TEXT and names the first such request,
/// by its number from 0; all other rows hold. After any other failure nothing was written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_embed(
    encoder: Option<&Encoder>,
    requests: *const Request<'_>,
    count: usize,
    vectors: *mut f32,
    floats: usize,
) -> Status {
    status(|| {
        // SAFETY: the caller passes as many requests as it counts.
        let requests = unsafe { argument::values(requests, count, "requests") }?;
        // SAFETY: the caller passes the room that it counts, for this call alone.
        let vectors = unsafe { argument::room(vectors, floats, "vectors") }?;
        let width = dimensions_of_all(&given(encoder, "encoder")?.encoder, requests)?;
        let needed = count.saturating_mul(width);
        let short = || Failure::misuse("floats", format!("at least {needed}"), floats);
        let vectors = vectors.get_mut(..needed).ok_or_else(short)?;
        // SAFETY: the caller passes requests whose texts are as long as they say.
        let predictions = unsafe { predict(encoder, requests) }?;
        let vector = |prediction: Prediction| match prediction.answer {
            Said::Vector(vector) if vector.len() == width => vector,
            other => unreachable!("an embedding task of {width} dimensions gives {other:?}"),
        };
        let found: Vec<_> = predictions.into_iter().map(|(_, said)| said.map(vector)).collect();
        let mut done = Ok(());
        for (number, (row, vector)) in vectors.chunks_exact_mut(width).zip(found).enumerate() {
            let vector = match vector {
                Ok(vector) => vector,
                Err(error) => {
                    done = done.and(Err(Failure::from(error).at(&place(number))));
                    vec![f32::NAN; width]
                }
            };
            row.iter_mut().zip(vector).for_each(|(to, value)| _ = to.write(value));
        }
        done
    })
}

/// Makes what a call gives, and puts it where the caller wants it; NULL if there is none.
fn give<T>(to: Option<&mut MaybeUninit<*mut T>>, argument: &str, make: impl FnOnce() -> Result<T, Failure>) -> Status {
    status(|| {
        let to = given(to, argument)?.write(ptr::null_mut());
        *to = Box::into_raw(Box::new(make()?));
        Ok(())
    })
}

/// A file that was opened, or why it was not.
fn opened<T>(file: Result<T, impl Into<edge_run::Error>>) -> Result<T, Failure> {
    Ok(file.map_err(Into::into)?)
}

fn free<T>(handle: Option<Box<T>>) {
    status(|| {
        drop(handle);
        Ok(())
    });
}

/// Writes a count for a caller that asks for it.
fn counted(to: Option<&mut MaybeUninit<usize>>, count: usize) {
    if let Some(to) = to {
        to.write(count);
    }
}

/// The dimensions that the tasks of requests have in common.
fn dimensions_of_all(encoder: &edge_run::Encoder, requests: &[Request<'_>]) -> Result<usize, Failure> {
    let mut width = None;
    for (number, request) in requests.iter().enumerate() {
        let found = given(request.task, "task").and_then(|task| dimensions(encoder, task));
        let found = found.map_err(|failure| failure.at(&place(number)))?;
        let width = *width.get_or_insert(found);
        if width != found {
            let expected = format!("one of {width} dimensions, as the first");
            return Err(Failure::misuse("task", expected, found).at(&place(number)));
        }
    }
    Ok(width.unwrap_or_default())
}

fn dimensions(encoder: &edge_run::Encoder, Task { task, .. }: &Task) -> Result<usize, Failure> {
    let dimensions = encoder.dimensions(task).filter(|dimensions| *dimensions > 0);
    dimensions.ok_or_else(|| Failure::misuse("task", "an embedding task", task.spec().in_words()))
}

impl Encoder {
    fn load(bundle: Bundle, options: EngineOptions) -> Result<Self, Failure> {
        let encoder = edge_run::Encoder::load(bundle, options)?;
        let arithmetic = c_string(&encoder.arithmetic());
        Ok(Encoder { encoder, arithmetic })
    }
}

/// The header promises that these may be shared by threads.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    (shared::<Encoder>(), shared::<Task>(), shared::<Answers>()).0
};
