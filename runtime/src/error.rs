//! Errors of loading an encoder and answering texts.

use std::path::PathBuf;

use bias_patch::Digest;

/// The result of loading or running.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an encoder could not be loaded, or a text not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A patch cannot be read or does not fit.
    #[error(transparent)]
    Patch(#[from] bias_patch::Error),
    /// A bundle cannot be read or is damaged.
    #[error(transparent)]
    Bundle(#[from] edge_bundle::Error),
    /// The operating system refused to read or write.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted, as a verb.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The panels are missing, and there is no place to write them.
    #[error(
        "{}: the weights are not laid out for this processor yet, and there is no place to write that: {reason}; export the \
         bundle with --panels beside, run `edge-run prepare` as a user who may write there, or name a directory that may be \
         written in XDG_CACHE_HOME",
        path.display()
    )]
    NoPlace {
        /// The file that is missing.
        path: PathBuf,
        /// Why it cannot be written, there and in the cache.
        reason: String,
    },
    /// The engine cannot run the graph.
    #[error("{}: the engine cannot {action}: {reason}", path.display())]
    Engine {
        /// The bundle.
        path: PathBuf,
        /// What was attempted, as a verb.
        action: &'static str,
        /// The engine's reason.
        reason: String,
    },
    /// The tokenizer cannot be read or refuses a text.
    #[error("{}: tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// Its reason.
        reason: String,
    },
    /// The system does not have enough memory.
    #[error("{place}: expected {bytes} bytes of memory, found less; {helps}")]
    Memory {
        /// What the memory is for; with file and line if known.
        place: String,
        /// Bytes that were asked for.
        bytes: u64,
        /// A hint: what needs less memory.
        helps: &'static str,
    },
    /// A request pairs a task with an encoder that it was not attached to.
    #[error("task {task} was attached to encoder {expected}, this is encoder {found}")]
    OtherEncoder {
        /// The task's name.
        task: String,
        /// The encoder it was attached to.
        expected: Digest,
        /// The encoder it was given to.
        found: Digest,
    },
    /// The process was forked, and the threads that an encoder runs on stayed in the other one.
    #[error(
        "encoder: expected one that this process loaded, found one with threads of the process that forked it; load it \
         here, or with one thread"
    )]
    Forked,
    /// A text that has no answer.
    #[error("{0}")]
    Text(#[from] TextError),
    /// An option has a wrong value, or does not suit the task or the other options.
    #[error("{option}: expected {expected}, found {found}")]
    Usage {
        /// The option.
        option: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An input file or a variable has a wrong value.
    #[error("{place}: expected {expected}, found {found}")]
    Input {
        /// File and line, or the variable.
        place: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// Why one text has no answer. Other texts are still answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Nothing but white space.
    #[error("empty text")]
    Empty,
    /// One text for a task on two, or the reverse.
    #[error("expected {expected}, found {found}")]
    Inputs {
        /// What the task takes.
        expected: &'static str,
        /// What there is.
        found: &'static str,
    },
    /// Special tokens, and the question of a span task or the prompt of an embedding, leave no room for the text.
    #[error("{found} tokens come before the text, which leaves no room for it within the limit of {limit}")]
    NoRoom {
        /// Special tokens, and those of the question or prompt.
        found: usize,
        /// The longest sequence.
        limit: usize,
    },
    /// The second text of a span task needs too many windows: it is long, or the first text leaves little room.
    #[error("the second text takes {found} windows beside the first, and at most {expected} are read; shorten either")]
    Windows {
        /// The most.
        expected: usize,
        /// What it would take.
        found: usize,
    },
    /// The tokenizer drops all that an answer could be of.
    #[error("the second text has no character that the tokenizer keeps, so there is nothing to answer with")]
    NoSpan,
    /// What the task makes of the text is infinite or no number.
    #[error(
        "expected outputs that are finite numbers, found others; with weights in f16, activations in f32 hold larger ones: \
         `--activations f32` of edge-run and edge-serve"
    )]
    NotFinite,
    /// The bytes are not text.
    #[error("invalid UTF-8 after {0} bytes")]
    Utf8(usize),
    /// The line is not a record of the input format.
    #[error("{0}")]
    Record(String),
}
