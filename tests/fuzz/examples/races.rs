//! Several clients ask while patches are replaced, loaded and unloaded: what `.ci/sanitize thread` runs. Every answer
//! is one, says that the task is not there, or that the task of this name now takes something else.
#![forbid(unsafe_code)]

use std::thread;

use edge_fuzz::{patch, served};
use edge_serve::fuzzing::InMemory;

/// Requests of each client.
const REQUESTS: usize = 150;
const CLIENTS: usize = 4;

fn main() {
    let place = served();
    let server = InMemory::watching(place.bundle(), &place.path("patches"));
    let (place, manifest) = (&place, place.bundle().manifest().clone());
    let clients = (0..CLIENTS).map(|client| (client, server.again()));
    thread::scope(|scope| {
        for (client, server) in clients {
            scope.spawn(move || (0..REQUESTS).for_each(|at| ask(&server, client + at)));
        }
        scope.spawn(move || {
            for at in 0..REQUESTS {
                let name = ["a", "tags", "vector"][at % 3];
                let kind = ["classification", "multi-label", "embedding"][at / 3 % 3];
                patch(&manifest, kind, name).save(&place.path(&format!("patches/{name}.bias"))).unwrap();
                if at % 10 == 0 {
                    std::fs::remove_file(place.path(&format!("patches/{name}.bias"))).unwrap();
                }
            }
        });
    });
    println!("{} requests of {CLIENTS} clients were answered", CLIENTS * REQUESTS);
}

fn ask(server: &InMemory, at: usize) {
    let (path, body) = [
        ("/predict", r#"{"text": "good films", "text_pair": "bad"}"#),
        ("/predict/a", r#"{"text": "good"}"#),
        ("/embed", r#"{"inputs": ["a", "b", "c"]}"#),
        ("/rerank", r#"{"query": "a", "texts": ["b", "c"]}"#),
        ("/v2/repository/models/a/unload", ""),
        ("/v2/repository/models/a/load", ""),
        ("/v2/repository/index", ""),
    ][at % 7];
    let length = body.len();
    let request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
    let answer = server.answer(request.as_bytes());
    let status = std::str::from_utf8(answer.get(9..12).unwrap_or_default()).unwrap_or_default();
    assert!(["200", "400", "404"].contains(&status), "{path}: {}", String::from_utf8_lossy(&answer));
}
