//! Requests to `edge-serve`. The first line of an input is the path, the second one more header, the rest the body.
//! Every answer is one that a client can act on: none says that the server failed.

#![no_main]

use std::cell::LazyCell;

use edge_fuzz::{Place, served};
use edge_serve::fuzzing::InMemory;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static SERVER: LazyCell<(Place, InMemory)> = LazyCell::new(|| {
        let place = served();
        let server = InMemory::new(place.bundle(), &place.path("patches"));
        let body = r#"{"text": "good films"}"#;
        let length = body.len();
        let asked = format!("POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
        assert!(server.answer(asked.as_bytes()).starts_with(b"HTTP/1.1 200"), "nothing is answered");
        (place, server)
    });
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let [path, header, body] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let mut request = [b"POST ", path, b" HTTP/1.1\r\nhost: localhost\r\n"].concat();
    if !header.is_empty() {
        request.extend([header, b"\r\n"].concat());
    }
    request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
    request.extend(body);
    let answer = SERVER.with(|server| server.1.answer(&request));
    let status = answer.get(9..12).unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(&answer));
    // 503 is that of a task that is loaded by name: nothing watches the directory here.
    assert!(!status.starts_with(b"5") || status == b"503", "{}", String::from_utf8_lossy(&answer));
});
