//! What a call came to: a code, and a text for the thread.
//!
//! In: the work of a call. Out: its result, or a code beside a text that `edge_run_last_error` gives. The text is of
//! the thread, not of a handle, as in dlerror and libgit2: opening fails before there is a handle, and threads that
//! share one do not take each other's text.

use std::{
    any::Any,
    cell::RefCell,
    ffi::{CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use edge_run::Error;

/// What a call came to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did what it says.
    OK = 0,
    /// An argument is wrong: the program has to be changed.
    MISUSE = 1,
    /// A bundle or a patch is missing, damaged or for another encoder.
    FILE = 2,
    /// No engine runs the bundle's graph, or it failed.
    ENGINE = 3,
    /// The system gave too little memory.
    MEMORY = 4,
    /// A text cannot be answered: it is empty, not UTF-8, or not one of as many as the task takes.
    TEXT = 5,
    /// A fault of this library. Built with panic = "abort" it ends the process instead.
    PANIC = 6,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub status: Status,
    message: String,
}

impl Failure {
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    /// An argument of a wrong value.
    pub fn misuse(argument: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Self {
        Failure::new(Status::MISUSE, format!("{argument}: expected {expected}, found {found}"))
    }

    /// The same, of a part of what was asked.
    pub fn at(self, place: &str) -> Self {
        Failure { message: format!("{place}: {}", self.message), ..self }
    }

    fn of_panic(payload: &(dyn Any + Send)) -> Self {
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let said = said.unwrap_or("a panic that says nothing");
        Failure::new(Status::PANIC, format!("a fault of edge-run, please report it: {said}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::OtherEncoder { .. } | Error::Usage { .. } | Error::Forked => Status::MISUSE,
            Error::Engine { .. } => Status::ENGINE,
            Error::Memory { .. } => Status::MEMORY,
            Error::Text(_) => Status::TEXT,
            // The rest are of files; a kind of error that is new is most likely so, too.
            _ => Status::FILE,
        };
        Failure::new(status, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// The text of the last call of this thread that failed.
pub(crate) fn last() -> *const c_char {
    // A thread that is ending has no texts any more.
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A text as C has it. A NUL would end it early, so it is shown.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| CString::new(text.replace('\0', "\\0")).unwrap_or_default())
}

/// Runs the work of a call. If it fails or panics, the text is kept, and `failed` gives the result.
pub(crate) fn guard<T>(failed: impl FnOnce(Status) -> T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    // After a panic a handle is as whole as before: calls share it by reference alone, and its locks refuse what was
    // left half-done.
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Failure::of_panic(&*payload)));
    done.unwrap_or_else(|failure| {
        let _ = LAST.try_with(|last| last.replace(c_string(&failure.message)));
        failed(failure.status)
    })
}

/// As [`guard`], for a call that gives its code.
pub(crate) fn status(work: impl FnOnce() -> Result<(), Failure>) -> Status {
    guard(|status| status, || work().map(|()| Status::OK))
}

/// As [`guard`], for a call that gives a pointer; NULL if it fails.
pub(crate) fn pointer<T>(work: impl FnOnce() -> Result<*const T, Failure>) -> *const T {
    guard(|_| ptr::null(), work)
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn said() -> String {
        // SAFETY: the text is that of this thread, and no call fails while it is copied.
        unsafe { CStr::from_ptr(last()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_code_and_a_text() {
        assert_eq!(status(|| panic!("{} is wrong", "this")), Status::PANIC);
        assert!(said().ends_with("please report it: this is wrong"), "{}", said());
        assert!(pointer::<u8>(|| panic!("that")).is_null());
        assert!(said().ends_with("please report it: that"), "{}", said());
        assert_eq!(status(|| Ok(())), Status::OK);
        assert!(said().ends_with("that"), "a call that succeeds leaves the text");
    }

    #[test]
    fn a_text_is_of_its_thread_and_whole() {
        assert_eq!(status(|| Err(Failure::misuse("name", "one", "a\0b"))), Status::MISUSE);
        assert_eq!(said(), "name: expected one, found a\\0b");
        assert_eq!(std::thread::spawn(said).join().unwrap(), "");
    }
}
