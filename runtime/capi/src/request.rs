//! Requests, and what the runtime answers to them.
//!
//! In: requests as C has them. Out: predictions, or why a text has none. Refused, with the number of the request: a
//! request without a task, a pointer that cannot be right, and what fails for other reasons than its text.

use std::ffi::c_char;

use edge_run::{Prediction, Text, TextError};

use crate::{
    Encoder, Task,
    argument::{self, given},
    status::Failure,
};

/// A text, or two, and the task that it is for.
#[repr(C)]
pub struct Request<'a> {
    /// The task.
    pub(crate) task: Option<&'a Task>,
    /// The text. NULL with 0 bytes, as an empty std::string_view has them, is an empty text.
    text: *const c_char,
    /// Its bytes, or EDGE_RUN_NUL_TERMINATED.
    text_bytes: usize,
    /// The second text of a task on two; NULL for a task on one.
    second: *const c_char,
    /// Its bytes, or EDGE_RUN_NUL_TERMINATED; with NULL 0.
    second_bytes: usize,
}

impl<'a> Request<'a> {
    /// Its task, and its text or why that is none.
    ///
    /// # Safety
    /// The texts are as long as it says.
    unsafe fn read(&self) -> Result<(&'a edge_run::Task, Result<Text, TextError>), Failure> {
        let task = given(self.task, "task")?;
        // SAFETY: what the caller of this function promises.
        let first = unsafe { argument::text(self.text, self.text_bytes, "text") }?;
        let second = match (self.second.is_null(), self.second_bytes) {
            (true, 0) => None,
            // SAFETY: what the caller of this function promises.
            (_, bytes) => Some(unsafe { argument::text(self.second, bytes, "second") }?),
        };
        let utf8 = |bytes: &'a [u8]| str::from_utf8(bytes).map_err(|error| TextError::Utf8(error.valid_up_to()));
        let text = utf8(first).and_then(|first| match second {
            Some(second) => Ok(Text::pair(first, utf8(second)?)),
            None => Ok(Text::one(first)),
        });
        Ok((&task.task, text))
    }
}

/// The answers to requests, each with its task. Texts that cannot be answered say why in their place.
///
/// # Safety
/// The texts of the requests are as long as they say.
pub(crate) unsafe fn predict<'a>(
    encoder: Option<&Encoder>,
    requests: &[Request<'a>],
) -> Result<Vec<(&'a edge_run::Task, edge_run::Result<Prediction>)>, Failure> {
    let encoder = &given(encoder, "encoder")?.encoder;
    let read = |(number, request): (usize, &Request<'a>)| {
        // SAFETY: what the caller of this function promises.
        unsafe { request.read() }.map_err(|failure| failure.at(&place(number)))
    };
    let asked = requests.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let texts = asked.iter().filter_map(|(task, text)| Some(edge_run::Request { task, text: text.as_ref().ok()? }));
    let mut predictions = encoder.predict(&texts.collect::<Vec<_>>()).into_iter();
    let mut found = Vec::with_capacity(asked.len());
    for (number, (task, text)) in asked.iter().enumerate() {
        let said = match text {
            // One prediction for each text.
            Ok(_) => predictions.next().expect("a prediction for every request"),
            Err(reason) => Err(reason.clone().into()),
        };
        match said {
            Err(error) if !matches!(error, edge_run::Error::Text(_)) => {
                return Err(Failure::from(error).at(&place(number)));
            }
            said => found.push((*task, said)),
        }
    }
    Ok(found)
}

/// What a request is called in errors.
pub(crate) fn place(number: usize) -> String {
    format!("request {number}")
}
