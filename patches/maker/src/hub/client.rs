//! Requests to the Hub.
//!
//! In: paths below the endpoint, with bodies. Out: bodies of answers. Refused, with what helps: statuses other than
//! success, and answers above a limit. The token is sent to the endpoint alone.

use std::{collections::BTreeMap, time::Duration};

use edge_bundle::Hub;
use serde::{Deserialize, de::DeserializeOwned};
use ureq::{
    Agent, Body, RequestBuilder,
    config::RedirectAuthHeaders,
    http::{HeaderMap, Response, StatusCode},
};

use crate::{Error, Result};

/// The longest answer that is not a file.
const MOST_JSON: u64 = 16 << 20;

/// Bytes of a reason of the Hub's that are shown.
const REASON: usize = 300;

/// The Hub, with the user's token.
pub(super) struct Client {
    endpoint: String,
    token: Option<(String, String)>,
    agent: Agent,
}

/// What the Hub says about a repository.
#[derive(Deserialize)]
pub(super) struct Info {
    /// The commit.
    pub sha: String,
    /// Whether others cannot read it.
    #[serde(default)]
    pub private: bool,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Info {
    /// The files of the commit.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|sibling| sibling.rfilename.as_str())
    }

    /// Whether the commit has a file.
    pub fn has(&self, file: &str) -> bool {
        self.files().any(|there| there == file)
    }
}

/// What a request is for, to say what was due if it is refused.
#[derive(Clone, Copy)]
pub(super) struct Purpose<'a> {
    /// The repository.
    pub repository: &'a str,
    /// What should happen.
    pub expected: &'a str,
    /// What the token has to permit: "read" or "write".
    pub right: &'a str,
}

/// Where an object of Git LFS is sent.
#[derive(Deserialize)]
pub(super) struct Action {
    pub href: String,
    #[serde(default)]
    pub header: BTreeMap<String, String>,
}

impl Client {
    /// The Hub that the variables of huggingface_hub name.
    pub fn new(hub: &Hub) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("edge-patch/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_recv_body(Some(Duration::from_secs(300)))
            .timeout_send_body(Some(Duration::from_secs(300)));
        Client { endpoint: hub.endpoint(), token: hub.token(), agent: config.build().into() }
    }

    /// Where a path of the Hub is.
    pub fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// What a token was read from; none without one.
    pub fn token_source(&self) -> Option<&str> {
        self.token.as_ref().map(|(_, source)| source.as_str())
    }

    /// Asks for a repository at a revision; gives none if it is not there.
    ///
    /// # Errors
    /// When the Hub does not answer, or refuses for another reason.
    pub fn info(&self, revision: &str, purpose: Purpose<'_>) -> Result<Option<Info>> {
        let revision = revision.replace('/', "%2F");
        let path = format!("api/models/{}/revision/{revision}", purpose.repository);
        let (response, address) = self.send_get(&path)?;
        if response.status() == StatusCode::NOT_FOUND && error_code(response.headers()) != "RevisionNotFound" {
            return Ok(None);
        }
        let info: Info = json(&self.body(response, &address, MOST_JSON, purpose)?, &address)?;
        // It becomes a part of paths and of addresses.
        if info.sha.is_empty() || !info.sha.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(unusable(address, format!("the commit {:?}", info.sha)));
        }
        Ok(Some(info))
    }

    /// The error for a repository that is not there.
    pub fn no_repository(&self, repository: &str) -> Error {
        let helps = match &self.token {
            Some((_, source)) => format!("is the name right, and may the token of {source} read it if it is private?"),
            None => {
                "is the name right? A private repository needs a token, in HF_TOKEN or by `hf auth login`".to_owned()
            }
        };
        Error::Hub {
            address: self.address(repository),
            expected: "a repository of the Hub".to_owned(),
            found: "none, status 404".to_owned(),
            remedy: helps,
        }
    }

    /// A file of a commit, of at most `most` bytes.
    ///
    /// # Errors
    /// When it cannot be had whole.
    pub fn file(&self, commit: &str, file: &str, most: u64, purpose: Purpose<'_>) -> Result<Vec<u8>> {
        let (response, address) = self.send_get(&format!("{}/resolve/{commit}/{file}", purpose.repository))?;
        self.body(response, &address, most, purpose)
    }

    /// Sends a body to a path, and gives the answer.
    ///
    /// # Errors
    /// When the Hub does not answer, refuses, or answers in another form.
    pub fn post<T: DeserializeOwned>(&self, path: &str, kind: &str, body: &[u8], purpose: Purpose<'_>) -> Result<T> {
        let address = self.address(path);
        json(&self.post_to(&address, kind, body, purpose)?, &address)
    }

    /// Sends a body to an address, with the token if that is the Hub's, and gives the body of the answer.
    ///
    /// # Errors
    /// When nobody answers there, or the body is refused.
    pub fn post_to(&self, address: &str, kind: &str, body: &[u8], purpose: Purpose<'_>) -> Result<Vec<u8>> {
        let request = self.agent.post(address).content_type(kind).header("Accept", kind_of_answer(kind));
        let response = self.with_token(request, address).send(body).map_err(|e| no_answer(address, &e))?;
        self.body(response, address, MOST_JSON, purpose)
    }

    /// Sends bytes where an action says, without the token: the address was signed for this.
    ///
    /// # Errors
    /// When nobody answers there, or the bytes are refused.
    pub fn put(&self, action: &Action, bytes: &[u8], purpose: Purpose<'_>) -> Result<()> {
        let request = action.header.iter().fold(self.agent.put(&action.href), |r, (name, value)| r.header(name, value));
        // What follows the question mark is the signature.
        let address = action.href.split('?').next().unwrap_or_default();
        let response = request.send(bytes).map_err(|e| no_answer(address, &e))?;
        self.body(response, address, MOST_JSON, purpose).map(|_| ()).map_err(|error| match error {
            Error::Hub { address, expected, found, .. } => {
                let remedy = "an address is good for some minutes only: run the same command again".to_owned();
                Error::Hub { address, expected, found, remedy }
            }
            other => other,
        })
    }

    fn send_get(&self, path: &str) -> Result<(Response<Body>, String)> {
        let address = self.address(path);
        let request = self.with_token(self.agent.get(&address), &address);
        let response = request.call().map_err(|e| no_answer(&address, &e))?;
        Ok((response, address))
    }

    fn with_token<B>(&self, request: RequestBuilder<B>, address: &str) -> RequestBuilder<B> {
        let is_hub = address.strip_prefix(&self.endpoint).is_some_and(|path| path.starts_with('/'));
        match self.token.as_ref().filter(|_| is_hub) {
            Some((token, _)) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// The body of an answer, if that is a success.
    fn body(&self, mut response: Response<Body>, address: &str, most: u64, purpose: Purpose<'_>) -> Result<Vec<u8>> {
        let status = response.status();
        let read = response.body_mut().with_config().limit(most).read_to_vec();
        if status.is_success() {
            return read.map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(most) => Error::Hub {
                    address: address.to_owned(),
                    expected: format!("at most {most} bytes"),
                    found: "more".to_owned(),
                    remedy: "is this the right file?".to_owned(),
                },
                error => no_answer(address, &error),
            });
        }
        let reason = reason(response.headers(), &read.unwrap_or_default());
        if status.is_server_error() {
            return Err(Error::Unreachable { address: address.to_owned(), reason: format!("status {status}{reason}") });
        }
        Err(Error::Hub {
            address: address.to_owned(),
            expected: purpose.expected.to_owned(),
            found: format!("status {status}{reason}"),
            remedy: self.remedy(status.as_u16(), error_code(response.headers()), purpose),
        })
    }

    fn remedy(&self, status: u16, code: &str, purpose: Purpose<'_>) -> String {
        let Purpose { repository, right, .. } = purpose;
        let settings = self.address("settings/tokens");
        match (status, code, &self.token) {
            (401, _, None) => {
                "is the name right? A private repository needs a token, in HF_TOKEN or by `hf auth login`".to_owned()
            }
            (401, _, Some((_, source))) => {
                format!("the token of {source} is not valid here; {settings} shows those that are")
            }
            (403, "GatedRepo", _) => format!("ask for access at {}", self.address(repository)),
            (403, _, Some((_, source))) => {
                format!("the token of {source} has to permit {right} access to {repository}: see {settings}")
            }
            (403, _, None) => {
                format!("it takes a token with {right} access to {repository}, in HF_TOKEN: see {settings}")
            }
            (404, "RevisionNotFound", _) => {
                "name a branch, a tag or a commit of the repository behind the @".to_owned()
            }
            (404, ..) => "is the name right?".to_owned(),
            (409 | 412, ..) => "somebody else changed the repository; run the same command again".to_owned(),
            (429, ..) => "wait some minutes, and run the same command again".to_owned(),
            _ => format!("the Hub's reason says what to change; the repository is {}", self.address(repository)),
        }
    }
}

/// What the Hub's protocol of Git LFS answers with, if it is asked in that.
fn kind_of_answer(kind: &str) -> &str {
    if kind.starts_with("application/vnd") { kind } else { "application/json" }
}

fn json<T: DeserializeOwned>(body: &[u8], address: &str) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| unusable(address.to_owned(), format!("something else: {e}")))
}

fn unusable(address: String, found: String) -> Error {
    Error::Hub {
        address,
        expected: "an answer of the Hub's API".to_owned(),
        found,
        remedy: "does HF_ENDPOINT, if it is set, name a Hub?".to_owned(),
    }
}

fn no_answer(address: &str, error: &ureq::Error) -> Error {
    Error::Unreachable { address: address.to_owned(), reason: error.to_string() }
}

fn error_code(headers: &HeaderMap) -> &str {
    headers.get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The Hub's own reason, in brackets: of a header, or of the field `error` of the body.
fn reason(headers: &HeaderMap, body: &[u8]) -> String {
    let of_header = headers.get("x-error-message").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let of_body = || serde_json::from_slice::<serde_json::Value>(body).ok()?.get("error")?.as_str().map(str::to_owned);
    let reason = of_header.or_else(of_body).unwrap_or_default();
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(REASON).collect();
    if reason.is_empty() { reason } else { format!(" ({reason})") }
}
