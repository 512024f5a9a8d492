//! `edge-serve` as attackers meet it: limits, slow clients, malformed requests.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use system_tests::{
    http::{PATIENCE, connect, reply},
    server::Server,
};

#[test]
fn limits_are_named() {
    let server = Server::with(&["a"], &["--queue", "8"]);
    let infer = |texts: Vec<&str>| {
        let input = json!({"name": "text", "datatype": "BYTES", "shape": [texts.len()], "data": texts});
        server.post("/v2/models/a/infer", json!({ "inputs": [input] }))
    };
    // It would never fit, so it is not to be asked again.
    let large = infer(vec!["a"; 9]);
    assert_eq!((large.status, large.head.contains("retry-after")), (413, false), "{}", large.head);
    assert_eq!(infer(vec!["a"; 8]).status, 200);
    assert!(infer(vec!["a"; 257]).error().contains("1 to 256 texts"));
    assert_eq!(server.post("/predict/a", json!({ "text": "x".repeat(70_000) })).status, 413);
    let mut stream = server.connect();
    stream.write_all(b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n").unwrap();
    assert_eq!(reply(&mut stream).unwrap().status, 413);
    let flood: String = (0..1000).map(|at| format!("x{at}: y\r\n")).collect();
    let mut stream = server.connect();
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: localhost\r\n{flood}\r\n").as_bytes()).unwrap();
    assert!(reply(&mut stream).is_none_or(|reply| reply.status == 431));
    // A missing body is waited for only for a limited time, and other requests are answered meanwhile.
    let mut slow = server.connect();
    slow.write_all(b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{").unwrap();
    assert_eq!(infer(vec!["a"]).status, 200);
    assert_eq!(reply(&mut slow).unwrap().status, 408);
}

/// Requests that are wrong in one way each.
fn malformed() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 22] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{\"text\":7}",
        b"{\"text\":null}",
        b"{}",
        b"{\"text\":\"\"}",
        b"{\"text\":\" \"}",
        b"{\"text\":\"a\",\"colour\":1}",
        b"\xff\xfe",
        b"{\"text\":\"\\ud800\"}",
        b"{\"text\":\"a\",\"text_pair\":\"b\"}",
        b"{\"inputs\":{}}",
        b"{\"inputs\":[[1,2],3]}",
        b"{\"inputs\":\"a\",\"dimensions\":-1}",
        b"{\"model\":\"../../etc/passwd\",\"input\":\"a\"}",
        b"{\"model\":\"a\",\"input\":[1,2]}",
        b"{\"query\":\"a\",\"texts\":\"b\"}",
        b"{\"query\":\"a\",\"documents\":[{\"text\":7},{}]}",
        b"{\"inputs\":[{\"name\":\"text\",\"shape\":[1e99],\"datatype\":\"BYTES\"}]}",
        b"{\"inputs\":[{\"name\":\"text\",\"shape\":[18446744073709551615,2],\"datatype\":\"BYTES\",\"data\":[]}]}",
    ];
    let paths = [
        "/predict/a",
        "/v2/models/a/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/predict/../../etc/passwd",
        "/v1/embeddings",
        "/embed",
        "/embed/..%2f..%2fetc",
        "/rerank/a",
        "/v1/rerank",
        "/predict/%00",
        "/v2/models//infer",
        "/v2/models/a.bias/infer",
        "/v2/models/a/versions/x/infer",
        "/v2/repository/models/%2e%2e/unload",
        "//",
        "/nothing",
    ];
    let mut all: Vec<Vec<u8>> = Vec::new();
    for path in paths {
        for body in bodies {
            let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
            all.push([head.as_bytes(), body].concat());
        }
    }
    let deep = format!("{{\"text\":{}", "[".repeat(100_000));
    all.push(
        format!("POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{deep}", deep.len()).into(),
    );
    let raw: [&[u8]; 14] = [
        b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nhost\r\n\r\n",
        b"DELETE /predict/a HTTP/1.1\r\nhost: localhost\r\n\r\n", b"PUT / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST /v2/models/a/infer HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: 99\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    ];
    all.extend(raw.iter().map(|bytes| bytes.to_vec()));
    all
}

/// Sends a request and nothing after it. The response has to be a 4xx with a JSON error, or hyper's empty 4xx or
/// nothing and then a closed connection. With `valid`, an answer is accepted too, because a mutation may leave a
/// request valid.
///
/// Gives whether it was answered.
fn survive(address: SocketAddr, request: &[u8], valid: bool) -> bool {
    let mut stream = connect(address);
    // The server may have refused it before it was all written.
    let _ = stream.write_all(request);
    if valid {
        // The rest of a request that a mutation cut short never comes.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let Some(found) = reply(&mut stream) else { return false };
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    if valid && found.status == 200 {
        return true;
    }
    assert!((400..500).contains(&found.status), "{} for {shown:?}", found.status);
    match found.body.is_empty() {
        true => {
            let rest = stream.read(&mut [0]).map_err(|e| e.kind());
            let open = [Ok(1), Err(ErrorKind::WouldBlock), Err(ErrorKind::TimedOut)];
            assert!(!open.contains(&rest), "still open after {}", found.head);
        }
        false => {
            // OpenAI's errors are objects.
            let body = found.json();
            let said = body["error"].as_str().or_else(|| body["error"]["message"].as_str());
            assert!(said.is_some_and(|said| !said.is_empty()), "{body} for {shown:?}");
        }
    }
    true
}

/// Mutations of good requests, by a seed. Gives how many were answered.
fn fuzz(server: &Server, count: usize) -> usize {
    let good: [&[u8]; 3] = [
        b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 14\r\n\r\n{\"text\":\"abc\"}",
        b"POST /v2/models/a/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 76\r\n\r\n\
          {\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"abcdefg\"]}]}",
        b"GET /v2/models/a HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let table = malformed();
    let mut answered = 0;
    for at in 0..count {
        if at % 8 == 0 {
            answered += usize::from(survive(server.address, &table[at / 8 % table.len()], false));
            continue;
        }
        let mut request = good[next(good.len())].to_vec();
        for _ in 0..=next(4) {
            let place = next(request.len());
            match next(4) {
                0 => request[place] = next(256) as u8,
                1 => request.truncate(place.max(1)),
                2 => request.insert(place, next(256) as u8),
                _ => {
                    let part = request[place..].to_vec();
                    request.extend(part);
                }
            }
        }
        answered += usize::from(survive(server.address, &request, true));
    }
    answered
}

fn malformed_requests(count: usize) {
    let server = Server::of(&["a"]);
    let question = || {
        let mut found = server.post("/predict/a", json!({ "text": "the film was good" })).json();
        (found["label"].take(), found["logits"].take())
    };
    let due = question();
    for request in malformed() {
        survive(server.address, &request, false);
    }
    // Memory that is needed once has been allocated by now.
    fuzz(&server, count / 10);
    let before = server.metric("edge_serve_anonymous_bytes");
    let answered = fuzz(&server, count);
    let grown = server.metric("edge_serve_anonymous_bytes") - before;
    println!("{answered} of {count} malformed requests answered, anonymous memory {:+.2} MB after them", grown / 1e6);
    // The others were cut short, and their connections closed; a panic would close one too.
    assert!(answered > count / 4, "{answered}");
    let log = fs::read_to_string(server.home.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    assert!(grown < 2e6, "{grown} bytes more");
    assert_eq!(question(), due);
}

#[test]
fn malformed_requests_are_refused() {
    malformed_requests(2_000);
}

#[test]
#[ignore = "minutes"]
fn a_hundred_thousand_malformed_requests_are_refused() {
    malformed_requests(100_000);
}

#[test]
fn bodies_that_are_only_announced_take_no_room_from_others() {
    let server = Server::of(&["a"]);
    let head = b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n\r\n{";
    let waiting: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(head).unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.post("/predict/a", json!({ "text": "the film was good" })).status, 200);
    drop(waiting);
}

#[test]
fn bodies_that_come_and_are_held_are_bounded_and_give_their_room_back() {
    let server = Server::of(&["a"]);
    let most = 1 << 20;
    let head = format!("POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {most}\r\n\r\n");
    let body = [head.as_bytes(), &vec![b' '; most - 1]].concat();
    // All but a byte of 1 MiB each: once 32 are held, 32 bytes are left of 32 MiB, and a question takes more.
    let question = || server.post("/predict/a", json!({ "text": "the film was good, and not bad" })).status;
    let mut held: Vec<TcpStream> = Vec::new();
    let refused = loop {
        let status = question();
        if status != 200 {
            break status;
        }
        // A question may take the last room from a body that is still coming, which is refused then: so there are more.
        assert!(held.len() < 64, "more bodies are held than there is room for");
        let mut stream = server.connect();
        // One that finds no room is told so before it has sent everything.
        let _ = stream.write_all(&body);
        held.push(stream);
    };
    assert_eq!(refused, 429);
    assert!(held.len() >= 32, "{} bodies take all room", held.len());
    drop(held);
    let begun = Instant::now();
    while question() != 200 {
        // Sooner than bodies that do not come are given up.
        assert!(begun.elapsed() < PATIENCE / 4, "the room of clients that are gone is not given back");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "a minute"]
fn whoever_dribbles_a_body_or_sips_an_answer_is_cut_off() {
    let server = Server::of(&["a"]);
    let begun = Instant::now();
    let mut stream = server.connect();
    stream.write_all(b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let refused = loop {
        if let Some(found) = reply(&mut stream) {
            break found;
        }
        assert!(begun.elapsed() < PATIENCE, "a byte a second keeps a request open");
        let _ = stream.write_all(b" ");
    };
    assert_eq!(refused.status, 408);

    // Far more answers than sockets buffer, read so slowly that some always remain: each write succeeds soon, but the
    // whole never does.
    let mut stream = server.connect();
    stream.write_all(&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(8_000)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let begun = Instant::now();
    let mut part = vec![0; 1 << 10];
    // A connection that the server has closed refuses what is written to it.
    while stream.write_all(b"G").is_ok() {
        assert!(begun.elapsed() < 3 * PATIENCE, "1 KiB a second keeps a connection open");
        let _ = stream.read(&mut part);
        thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(server.get("/v2/health/live").status, 200);
}
