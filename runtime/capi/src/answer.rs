//! An answer, in the forms that C asks for.
//!
//! In: a prediction, or why there is none. Out: a label with its score, logits, JSON.

use std::{ffi::CString, sync::OnceLock};

use edge_run::{Answer as Said, Prediction, cli::write_json};

use crate::status::c_string;

/// The answers to the requests of a call.
pub struct Answers(pub(crate) Vec<Answer>);

/// The answer to one request, or why there is none. It belongs to its edge_run_answers.
pub struct Answer {
    task: String,
    pub(crate) said: Result<Prediction, edge_run::Error>,
    pub(crate) error: Option<CString>,
    /// With a NUL behind it, and perhaps one within.
    pub(crate) label: Option<Vec<u8>>,
    json: OnceLock<CString>,
}

impl Answer {
    pub(crate) fn new(task: &edge_run::Task, said: edge_run::Result<Prediction>) -> Self {
        let error = said.as_ref().err().map(|error| c_string(&error.to_string()));
        let label = match said.as_ref().map(|prediction| &prediction.answer) {
            Ok(Said::Labels(ranked)) => ranked.first().map(|best| &*best.label),
            Ok(Said::Spans(spans)) => spans.first().map(|best| &*best.text),
            _ => None,
        };
        let label = label.map(|label| [label.as_bytes(), b"\0"].concat());
        Answer { task: task.spec().name().to_owned(), said, error, label, json: OnceLock::new() }
    }

    pub(crate) fn score(&self) -> f32 {
        match self.said.as_ref().map(|prediction| &prediction.answer) {
            Ok(Said::Labels(ranked)) => ranked.first().map_or(f32::NAN, |best| best.score),
            Ok(Said::Spans(spans)) => spans.first().map_or(f32::NAN, |best| best.score),
            Ok(Said::Value(value)) => *value,
            _ => f32::NAN,
        }
    }

    /// Written when it is first asked for: most callers read one form of an answer.
    pub(crate) fn json(&self) -> &CString {
        self.json.get_or_init(|| {
            let mut json = Vec::new();
            write_json(&mut json, None, &self.task, self.said.as_ref(), true).expect("a vector takes every byte");
            CString::new(json).expect("JSON escapes a NUL")
        })
    }
}
