//! Responses: an answer, or a refusal as JSON that says what was expected and what was found.

use bias_patch::quoted;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::tasks::Listing;

/// A response whose body is complete before it is sent.
pub(crate) type Reply = Response<Full<Bytes>>;

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub message: String,
    /// The field of the request that is wrong, where the form of the answer names it.
    field: Option<&'static str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal { status, message: message.into(), field: None, headers: Vec::new() }
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
        Self::later(message, 1)
    }

    /// A client asks for more than it may; the same request may succeed after some seconds.
    pub fn later(message: impl Into<String>, seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).with(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Only another method is allowed.
    pub fn method(allowed: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this address takes {allowed} only"))
            .with(ALLOW, HeaderValue::from_static(allowed))
    }

    /// No token, or another one.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "expected the header `Authorization: Bearer TOKEN` with this server's token",
        )
        .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// The rest of the request is not read, and the connection closes.
    pub fn closing(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Puts what was refused before the message.
    pub fn of(self, place: impl std::fmt::Display) -> Self {
        Refusal { message: format!("{place}: {}", self.message), ..self }
    }

    /// Adds more to the message.
    pub fn and(self, more: impl std::fmt::Display) -> Self {
        Refusal { message: format!("{}; {more}", self.message), ..self }
    }

    /// Says which field of the request is wrong.
    pub fn about(self, field: &'static str) -> Self {
        Refusal { field: Some(field), ..self }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The response, in the form in which clients of the address read errors.
    pub fn into_reply(self, form: Form) -> Reply {
        let (status, message) = (self.status, &*self.message);
        let mut reply = match form {
            Form::Own => json(status, &Failure { error: message, error_type: None }),
            Form::Tei => json(status, &Failure { error: message, error_type: Some(tei_type(status)) }),
            Form::OpenAi => {
                let (kind, code) = openai_type(status);
                json(status, &Failure { error: OpenAi { message, kind, param: self.field, code }, error_type: None })
            }
        };
        for (name, value) in self.headers {
            reply.headers_mut().insert(name, value);
        }
        reply
    }
}

/// Forms of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `{"error": "..."}`, as the Open Inference Protocol has it.
    Own,
    /// The same with the type that text-embeddings-inference gives.
    Tei,
    /// OpenAI's, whose error is an object.
    OpenAi,
}

/// The body of every refusal.
#[derive(Serialize)]
struct Failure<E> {
    error: E,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_type: Option<&'static str>,
}

#[derive(Serialize)]
struct OpenAi<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

fn tei_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "overloaded",
        StatusCode::SERVICE_UNAVAILABLE => "unhealthy",
        status if status.is_server_error() => "backend",
        _ => "validation",
    }
}

/// OpenAI's type and code of an error.
fn openai_type(status: StatusCode) -> (&'static str, Option<&'static str>) {
    match status {
        StatusCode::UNAUTHORIZED => ("invalid_request_error", Some("invalid_api_key")),
        StatusCode::NOT_FOUND => ("invalid_request_error", Some("model_not_found")),
        StatusCode::TOO_MANY_REQUESTS => ("requests", Some("rate_limit_exceeded")),
        status if status.is_server_error() => ("server_error", None),
        _ => ("invalid_request_error", None),
    }
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

/// The question in a body: a JSON object. `example` is one.
///
/// # Errors
/// When the body is no such object.
pub(crate) fn question<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Refusal> {
    let refused = |found: &dyn std::fmt::Display| Refusal::expected("body", format!("JSON such as {example}"), found);
    // serde takes an array for an object, its elements for the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(refused(&"an array"));
    }
    serde_json::from_slice(body).map_err(|e| refused(&e))
}
