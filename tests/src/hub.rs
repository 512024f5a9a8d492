//! A Hub in this process: repositories of models, with the paths, headers and refusals that the Hub's clients meet.
//!
//! Tokens are `secret`, which may do everything, and `reader`, which may not write. Nothing waits longer than
//! [`PATIENCE`].

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use bias_patch::Digest;
use serde_json::{Value, json};

use crate::{command, http::PATIENCE};

/// Files by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A Hub that serves until the test ends.
pub struct Hub {
    /// Its address.
    pub address: String,
    state: Arc<Mutex<State>>,
}

/// What the Hub has, and how it behaves.
#[derive(Default)]
pub struct State {
    /// Repositories by their whole name.
    pub repositories: BTreeMap<String, Repository>,
    /// The requests that it got: a line and the token.
    pub requests: Vec<String>,
    /// Whether patches have to come by Git LFS.
    pub lfs: bool,
    /// Whether a file ends after half of its bytes.
    pub truncates: bool,
    /// Paths that contain this get this status.
    pub refuses: Option<(&'static str, u16)>,
    objects: Files,
}

/// A repository.
#[derive(Default)]
pub struct Repository {
    /// Whether reading it takes a token.
    pub private: bool,
    /// Its commits, the oldest first.
    pub commits: Vec<(String, Files)>,
    /// Commits by the names of tags.
    pub tags: BTreeMap<String, String>,
}

impl Repository {
    /// Adds a commit, and gives its name.
    pub fn commit(&mut self, files: Files) -> String {
        let seed = format!("{} {:?}", self.commits.len(), files.keys());
        let name = Digest::of(seed.as_bytes()).to_string()[..40].to_owned();
        self.commits.push((name.clone(), files));
        name
    }

    /// The commit of a branch, a tag or a commit.
    fn at(&self, revision: &str) -> Option<&(String, Files)> {
        match revision {
            "main" => self.commits.last(),
            name => {
                let commit = self.tags.get(name).map_or(name, String::as_str);
                self.commits.iter().find(|(there, _)| there == commit)
            }
        }
    }
}

/// A request.
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// An answer: status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

impl Hub {
    /// A Hub without repositories.
    pub fn start() -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (kept, own) = (state.clone(), address.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                serve(stream, &own, &kept);
            }
        });
        Hub { address, state }
    }

    /// Its state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a repository with one commit, which the tag `v1` names, and gives that commit.
    pub fn add(&self, name: &str, private: bool, files: Files) -> String {
        let mut repository = Repository { private, ..Repository::default() };
        let commit = repository.commit(files);
        repository.tags.insert("v1".to_owned(), commit.clone());
        self.state().repositories.insert(name.to_owned(), repository);
        commit
    }

    /// The files of the newest commit of a repository.
    pub fn files(&self, name: &str) -> Files {
        self.state().repositories[name].commits.last().unwrap().1.clone()
    }

    /// One of the project's commands, which uses this Hub and a home of its own, without a token.
    pub fn command(&self, name: &str, home: &Path) -> Command {
        let mut command = command(name, home);
        command.current_dir(home).env("HF_ENDPOINT", &self.address).env("HF_HOME", home.join("hub"));
        for name in [
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
        ] {
            command.env_remove(name);
        }
        command
    }
}

/// The files of a directory.
pub fn files_of(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn serve(mut stream: TcpStream, own: &str, state: &Mutex<State>) {
    // A client that hangs up early is not this server's failure.
    let Some(request) = read(&stream) else { return };
    let mut state = state.lock().unwrap();
    let token = request.headers.get("authorization").cloned().unwrap_or_else(|| "no token".to_owned());
    state.requests.push(format!("{} {} {token}", request.method, request.path));
    let (status, headers, body) = state.answer(&request, own);
    let sent = if state.truncates && request.path.contains("/resolve/") { body.len() / 2 } else { body.len() };
    let mut head = format!("HTTP/1.1 {status} status\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    let body = if request.method == "HEAD" { &[] } else { &body[..sent] };
    let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body));
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut parts = first.split(' ').map(str::to_owned);
    let (method, path) = (parts.next()?, parts.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

fn refusal(status: u16, code: &'static str, message: &str) -> Answer {
    let headers = vec![("x-error-code", code.to_owned()), ("x-error-message", message.to_owned())];
    (status, headers, json!({ "error": message }).to_string().into_bytes())
}

fn success(value: &Value) -> Answer {
    (200, vec![("content-type", "application/json".to_owned())], value.to_string().into_bytes())
}

impl State {
    fn answer(&mut self, request: &Request, own: &str) -> Answer {
        if let Some((_, status)) = self.refuses.filter(|(part, _)| request.path.contains(part)) {
            return refusal(status, "", "as the test wants");
        }
        let path = request.path.split('?').next().unwrap().trim_start_matches('/').replace("%2F", "/");
        if let Some(digest) = path.strip_prefix("storage/") {
            return self.store(digest, request);
        }
        let token = request.headers.get("authorization").map(|token| token.trim_start_matches("Bearer "));
        if token.is_some_and(|token| token != "secret" && token != "reader") {
            return refusal(401, "", "Invalid credentials in Authorization header");
        }
        if path == "api/repos/create" {
            return self.create(request, token);
        }
        // api/models/ORG/NAME/WHAT or ORG/NAME/WHAT
        let place = path.strip_prefix("api/models/").unwrap_or(&path);
        let mut parts = place.splitn(3, '/');
        let name = [parts.next().unwrap_or_default(), parts.next().unwrap_or_default()].join("/");
        let (name, rest) = (name.trim_end_matches(".git").to_owned(), parts.next().unwrap_or_default());
        let Some(repository) = self.repositories.get(&name) else {
            let status = if token.is_some() { 404 } else { 401 };
            return refusal(status, "RepoNotFound", "Repository not found");
        };
        if repository.private && token.is_none() {
            return refusal(401, "RepoNotFound", "Invalid username or password.");
        }
        if request.method == "POST" && token != Some("secret") {
            return refusal(403, "", "Forbidden: pass a token with write access");
        }
        match (request.method.as_str(), rest.split_once('/').unwrap_or((rest, ""))) {
            ("GET", ("revision", revision)) => info(repository, revision),
            ("GET" | "HEAD", ("resolve", file)) => resolve(repository, file, request),
            ("POST", ("preupload", "main")) => self.modes(request),
            ("POST", ("commit", "main")) => self.commit(&name, request, own),
            ("POST", ("info", "lfs/objects/batch")) => self.batch(&name, request, own),
            ("POST", ("verify", "")) => {
                let oid = request.json()["oid"].as_str().unwrap_or_default().to_owned();
                if self.objects.contains_key(&oid) {
                    (200, Vec::new(), Vec::new())
                } else {
                    refusal(404, "", "no object")
                }
            }
            _ => refusal(404, "EntryNotFound", "no such path"),
        }
    }

    fn create(&mut self, request: &Request, token: Option<&str>) -> Answer {
        if token != Some("secret") {
            return refusal(if token.is_some() { 403 } else { 401 }, "", "You don't have the rights to create a model");
        }
        let wanted = request.json();
        let name = format!("{}/{}", wanted["organization"].as_str().unwrap(), wanted["name"].as_str().unwrap());
        if self.repositories.contains_key(&name) {
            return refusal(409, "", "You already created this model repo");
        }
        let mut repository = Repository { private: wanted["visibility"] == "private", ..Repository::default() };
        repository.commit(BTreeMap::from([(".gitattributes".to_owned(), Vec::new())]));
        self.repositories.insert(name.clone(), repository);
        success(&json!({ "url": format!("/{name}") }))
    }

    fn modes(&self, request: &Request) -> Answer {
        let wanted = request.json();
        let mode = |file: &Value| {
            let path = file["path"].as_str().unwrap();
            let sample = base64::decode(file["sample"].as_str().unwrap()).unwrap();
            assert_eq!(sample.len() as u64, file["size"].as_u64().unwrap().min(512), "the sample of {path}");
            let mode = if self.lfs && path.ends_with(".bias") { "lfs" } else { "regular" };
            json!({ "path": path, "uploadMode": mode, "shouldIgnore": false })
        };
        let files: Vec<Value> = wanted["files"].as_array().unwrap().iter().map(mode).collect();
        success(&json!({ "files": files }))
    }

    fn commit(&mut self, name: &str, request: &Request, own: &str) -> Answer {
        if request.headers.get("content-type").map(String::as_str) != Some("application/x-ndjson") {
            return refusal(415, "", "expected application/x-ndjson");
        }
        let repository = self.repositories.get_mut(name).unwrap();
        let (head, mut files) = repository.commits.last().cloned().unwrap();
        for line in request.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let value = &line["value"];
            let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
            match line["key"].as_str().unwrap() {
                "header" if value["parentCommit"] != head.as_str() => return refusal(412, "", "not the newest commit"),
                "header" => assert!(value["summary"].is_string()),
                "file" => _ = files.insert(text("path"), base64::decode(text("content")).unwrap()),
                "lfsFile" => {
                    let Some(object) = self.objects.get(&text("oid")) else { return refusal(400, "", "no object") };
                    assert_eq!(value["size"].as_u64().unwrap(), object.len() as u64);
                    files.insert(text("path"), object.clone());
                }
                "deletedFile" => _ = files.remove(&text("path")).unwrap(),
                other => return refusal(400, "", other),
            }
        }
        let commit = repository.commit(files);
        success(&json!({ "commitOid": commit, "commitUrl": format!("{own}/{name}/commit/{commit}") }))
    }

    fn batch(&self, name: &str, request: &Request, own: &str) -> Answer {
        const KIND: &str = "application/vnd.git-lfs+json";
        if ["accept", "content-type"].iter().any(|n| request.headers.get(*n).map(String::as_str) != Some(KIND)) {
            return refusal(415, "", "expected Git LFS");
        }
        let object = &request.json()["objects"][0];
        let oid = object["oid"].as_str().unwrap();
        let upload = json!({ "href": format!("{own}/storage/{oid}?signature=1"), "header": { "x-check": "1" } });
        let verify = json!({ "href": format!("{own}/{name}/verify") });
        let mut answer = json!({ "oid": oid, "size": object["size"] });
        if !self.objects.contains_key(oid) {
            answer["actions"] = json!({ "upload": upload, "verify": verify });
        }
        success(&json!({ "transfer": "basic", "objects": [answer] }))
    }

    /// The storage is a service of others: it gets no token, and checks that the address is one that was signed.
    fn store(&mut self, digest: &str, request: &Request) -> Answer {
        let signed = request.path.ends_with("?signature=1") && request.headers.contains_key("x-check");
        let is_it = Digest::of(&request.body).to_string() == digest;
        if request.method != "PUT" || !signed || !is_it || request.headers.contains_key("authorization") {
            return refusal(403, "", "SignatureDoesNotMatch");
        }
        self.objects.insert(digest.to_owned(), request.body.clone());
        (200, Vec::new(), Vec::new())
    }
}

impl Request {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn info(repository: &Repository, revision: &str) -> Answer {
    let Some((commit, files)) = repository.at(revision) else {
        return refusal(404, "RevisionNotFound", "Invalid rev id");
    };
    let siblings: Vec<Value> = files.keys().map(|file| json!({ "rfilename": file })).collect();
    success(&json!({ "sha": commit, "private": repository.private, "siblings": siblings }))
}

/// `REVISION/FILE`, whole or a range of it.
fn resolve(repository: &Repository, place: &str, request: &Request) -> Answer {
    let (revision, file) = place.split_once('/').unwrap_or_default();
    let Some((commit, files)) = repository.at(revision) else {
        return refusal(404, "RevisionNotFound", "Invalid rev id");
    };
    let Some(bytes) = files.get(file) else { return refusal(404, "EntryNotFound", "Entry not found") };
    let etag = format!("\"{}\"", Digest::of(bytes));
    let mut headers = vec![("etag", etag), ("x-repo-commit", commit.clone()), ("accept-ranges", "bytes".to_owned())];
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else { return (200, headers, bytes.clone()) };
    let from: usize = from.parse().unwrap();
    let to = to.parse::<usize>().map_or(bytes.len(), |to| (to + 1).min(bytes.len()));
    headers.push(("content-range", format!("bytes {from}-{}/{}", to - 1, bytes.len())));
    (206, headers, bytes[from..to].to_vec())
}
