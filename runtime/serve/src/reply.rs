//! Responses: an answer, or a refusal as JSON that says what was expected and what was found.

use bias_patch::quoted;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use crate::tasks::Listing;

/// A response whose body is complete before it is sent.
pub(crate) type Reply = Response<Full<Bytes>>;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub message: String,
    headers: Vec<(HeaderName, &'static str)>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal { status, message: message.into(), headers: Vec::new() }
    }

    /// The request is malformed.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A part of the request has a wrong value.
    pub fn expected(what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Self {
        Self::bad(format!("{what}: expected {expected}, found {found}"))
    }

    /// More than a limit allows.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// No such task answers; with the reason if there is a file of that task.
    pub fn no_task(listing: &Listing, name: &str) -> Self {
        let unavailable = listing.unavailable.iter().find(|unavailable| unavailable.task == name);
        let message = match unavailable {
            Some(unavailable) => format!("task {} does not answer: {}", quoted(name), unavailable.reason),
            None => format!("no task {}; GET /tasks lists them", quoted(name)),
        };
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The server is busy; the same request may succeed in a second.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).with(RETRY_AFTER, "1")
    }

    /// Only another method is allowed.
    pub fn method(allowed: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this address takes {allowed} only")).with(ALLOW, allowed)
    }

    /// No token, or another one.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "expected the header `Authorization: Bearer TOKEN` with this server's token",
        )
        .with(WWW_AUTHENTICATE, "Bearer")
    }

    /// The rest of the request is not read, and the connection closes.
    pub fn closing(self) -> Self {
        self.with(CONNECTION, "close")
    }

    /// Puts what was refused before the message.
    pub fn of(self, place: impl std::fmt::Display) -> Self {
        Refusal { message: format!("{place}: {}", self.message), ..self }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn into_reply(self) -> Reply {
        let mut reply = json(self.status, &Failure { error: &self.message });
        for (name, value) in self.headers {
            reply.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        reply
    }
}

/// The body of every refusal.
#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

/// JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    // Only strings, numbers and lists are written, which always serialize.
    bytes(status, "application/json", serde_json::to_vec(value).unwrap_or_default())
}

/// Any bytes.
pub(crate) fn bytes(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(bytes.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
