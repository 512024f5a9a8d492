//! `edge-serve` as clients meet it: addresses, answers, tokens, sockets.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixStream},
        },
    },
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use system_tests::{
    assert_refused, assert_succeeded, command,
    http::{PATIENCE, ask, connect, reply, start, start_at},
    in_shell, int8, patch,
    server::{Server, home_of, names},
    small_bundle_with, task, with_input,
};
use tempfile::TempDir;

#[test]
fn tasks_are_described_and_answer_as_edge_run_does() {
    let server = Server::of(&["a", "b"]);
    patch(&server.bundle, task("two", "regression", 2), "two").save(&server.patches.join("two.bias")).unwrap();
    server.wait("a third task", |tasks| names(tasks) == ["a", "b", "two"]);

    assert_eq!(server.get("/v2/health/live").json(), json!({ "live": true }));
    assert_eq!(server.get("/v2/health/ready").json(), json!({ "ready": true }));
    assert_eq!(server.get("/v2").json()["name"], "edge-serve");
    let model = server.get("/v2/models/two").json();
    let inputs = json!([{"name": "text", "datatype": "BYTES", "shape": [-1]}, {"name": "text_pair", "datatype": "BYTES", "shape": [-1]}]);
    assert_eq!(model["inputs"], inputs);
    assert_eq!(model["outputs"][1], json!({"name": "logits", "datatype": "FP32", "shape": [-1, 1]}));
    let version = model["versions"][0].as_str().unwrap();
    assert_eq!(server.get(&format!("/v2/models/two/versions/{version}/ready")).json()["ready"], true);
    assert_eq!(server.get("/v2/models/two/versions/1/ready").status, 404);

    let mut run = command("edge-run", server.home.path());
    let run = run.current_dir(server.home.path()).args([
        "--bundle",
        "bundle",
        "-p",
        "patches/a.bias",
        "-o",
        "jsonl",
        "--logits",
    ]);
    let due = with_input(run, b"the film was good\n");
    let due: Value = serde_json::from_str(&assert_succeeded(&due)).unwrap();
    let found = server.post("/predict/a", json!({ "text": "the film was good" })).json();
    assert_eq!((&found["label"], &found["logits"]), (&due["label"], &due["logits"]));

    // All tasks at once. The row of a task that takes two texts says so.
    let all = server.post("/predict", json!({ "text": "the film was good" })).json();
    assert_eq!(all["answers"][0]["label"], found["label"]);
    assert!(all["answers"][2]["error"].as_str().unwrap().contains("expected a pair of texts, found one text"));
    let some = server.post("/predict", json!({ "text": "a", "text_pair": "b", "tasks": ["two"] })).json();
    for (tasks, found) in [(json!([]), "found none"), (json!(["two", "two"]), "found \"two\" twice")] {
        let refused = server.post("/predict", json!({ "text": "a", "tasks": tasks }));
        let said = refused.error();
        assert!(refused.status == 400 && said.contains("tasks: expected names of tasks, each once"), "{said}");
        assert!(said.ends_with(found), "{said}");
    }
    assert!(some["answers"][0]["value"].is_number());
}

#[test]
fn activations_are_as_exact_as_edge_runs() {
    let answer = |activations: &'static str| {
        let (home, bundle) = small_bundle_with("bert", int8());
        let patches = home.path().join("patches");
        fs::create_dir(&patches).unwrap();
        patch(&bundle, task("a", "classification", 1), "a").save(&patches.join("a.bias")).unwrap();
        let mut run = command("edge-run", home.path());
        let run = run.current_dir(home.path()).args(["--bundle", "bundle", "-p", "patches/a.bias"]);
        let run = run.args(["-o", "jsonl", "--logits", "--activations", activations]);
        let due: Value = serde_json::from_str(&assert_succeeded(&with_input(run, b"the film was good\n"))).unwrap();
        let server = Server::at(home, bundle, &["--activations", activations]);
        let found = server.post("/predict/a", json!({ "text": "the film was good" })).json();
        assert_eq!(found["logits"], due["logits"], "{activations}");
        due["logits"].clone()
    };
    assert_ne!(answer("short"), answer("f32"));
}

#[test]
fn tensors_come_and_go_as_json_or_as_bytes() {
    let server = Server::of(&["a"]);
    let texts = ["the film was good", "why"];
    let input = json!({"name": "text", "datatype": "BYTES", "shape": [2], "data": texts});
    let found = server.post("/v2/models/a/infer", json!({ "id": "7", "inputs": [input] })).json();
    assert_eq!((&found["model_name"], &found["id"]), (&json!("a"), &json!("7")));
    let (label, score, logits) = (&found["outputs"][0], &found["outputs"][1], &found["outputs"][2]);
    assert_eq!((&label["name"], &label["shape"]), (&json!("label"), &json!([2])));
    assert_eq!((&score["name"], &logits["shape"]), (&json!("score"), &json!([2, 3])));

    let raw: Vec<u8> =
        texts.iter().flat_map(|t| [&(t.len() as u32).to_le_bytes()[..], t.as_bytes()].concat()).collect();
    let parameters = json!({ "binary_data_size": raw.len() });
    let head = json!({
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "parameters": parameters}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": true}}, {"name": "label"}]
    });
    let head = head.to_string();
    let length = head.len().to_string();
    let headers = [("inference-header-content-length", length.as_str())];
    let body = [head.as_bytes(), &raw].concat();
    let reply = ask(&mut server.connect(), "POST", "/v2/models/a/infer", &headers, &body);
    let split = reply.head.lines().find_map(|line| line.strip_prefix("inference-header-content-length: ")).unwrap();
    let (json, tail) = reply.body.split_at(split.parse().unwrap());
    let json: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 24);
    assert_eq!(json["outputs"][1]["data"], label["data"]);
    let values: Vec<f32> = tail.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let due: Vec<f32> = logits["data"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    assert_eq!(values, due);
}

#[test]
fn tasks_are_loaded_and_unloaded_on_request() {
    let server = Server::of(&["a", "b"]);
    let state = |name: &str| {
        let index = server.post("/v2/repository/index", json!({})).json();
        let entry = index.as_array().unwrap().iter().find(|entry| entry["name"] == name).cloned();
        entry.map(|entry| entry["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state("a").as_deref(), Some("READY"));
    assert_eq!(server.post("/v2/repository/models/a/unload", json!({})).status, 200);
    assert_eq!(state("a").as_deref(), Some("UNAVAILABLE"));
    // Wherever it is asked for, the answer says how it comes back.
    let infer = json!({ "inputs": [] });
    for (path, body) in [
        ("/predict/a", json!({ "text": "x" })),
        ("/predict", json!({ "text": "x", "tasks": ["a"] })),
        ("/v2/models/a/infer", infer),
        ("/v2/repository/models/a/unload", json!({})),
    ] {
        let found = server.post(path, body);
        assert_eq!(found.status, 404, "{path}");
        let said = found.error();
        assert!(
            said.contains("unloaded on request; POST /v2/repository/models/a/load loads it again"),
            "{path}: {said}"
        );
    }
    assert_eq!(server.post("/v2/repository/models/a/load", json!({})).status, 200);
    assert_eq!(server.post("/predict/a", json!({ "text": "x" })).status, 200);
    assert_eq!(server.post("/v2/repository/models/none/load", json!({})).status, 404);
    let files = json!({ "parameters": { "file:a.bias": "QUJD" } });
    assert!(server.post("/v2/repository/models/a/load", files).error().contains("tasks come from the directory"));
    let escape = server.post("/v2/repository/models/..%2f..%2fetc%2fpasswd/load", json!({}));
    assert_eq!(escape.status, 404);
}

#[test]
fn a_server_is_ready_while_a_task_answers() {
    let server = Server::of(&[]);
    let ready = |server: &Server| {
        let found = server.get("/v2/health/ready");
        (found.status, found.json()["ready"].as_bool().unwrap())
    };
    assert_eq!(ready(&server), (503, false));
    // A patch that is refused is no task.
    server.put("a.bias", b"no patch");
    server.wait("a refusal", |tasks| tasks["refused"][0]["file"] == "a.bias");
    assert_eq!(ready(&server), (503, false));
    server.put("a.bias", &patch(&server.bundle, task("a", "regression", 1), "a").to_bytes().unwrap());
    server.wait("a task", |tasks| names(tasks) == ["a"]);
    assert_eq!(ready(&server), (200, true));
    assert_eq!(server.post("/v2/repository/models/a/unload", json!({})).status, 200);
    assert_eq!((ready(&server), server.get("/v2/health/live").status), ((503, false), 200));

    let server = Server::with(&[], &["--ready-without-tasks"]);
    assert_eq!(ready(&server), (200, true));
}

#[test]
fn a_port_in_use_is_named() {
    let server = Server::of(&[]);
    let address = server.address.to_string();
    let mut again = command("edge-serve", server.home.path());
    let again = again.current_dir(server.home.path()).args(["--patches", "patches", "--listen", &address]);
    assert_refused(&again.output().unwrap(), &[&address, "another process has it"]);
}

#[test]
fn only_who_knows_the_token_may_ask() {
    let (home, bundle) = home_of(&[]);
    fs::write(home.path().join("token"), "0123456789abcdef\n").unwrap();
    let server = Server::at(home, bundle, &["--token-file", "token"]);
    assert_eq!((server.get("/tasks").status, server.get("/v2/health/live").status), (401, 200));
    for (token, status) in
        [("Bearer 0123456789abcdef", 200), ("Bearer 0123456789abcdeg", 401), ("0123456789abcdef", 401)]
    {
        let found = ask(&mut server.connect(), "GET", "/tasks", &[("authorization", token)], b"");
        assert_eq!(found.status, status, "{token}");
    }
}

#[test]
fn tokens_with_names_have_their_own_rates_and_counts() {
    let (home, bundle) = home_of(&["a", "b"]);
    // Rates at which nothing more comes while the test runs.
    let file = "slow 0123456789abcdef requests=0.001\nwordy fedcba9876543210 texts=0.001\nfree 0123456789abcdeg\n";
    fs::write(home.path().join("token"), file).unwrap();
    let server = Server::at(home, bundle, &["--token-file", "token"]);
    let predict = |token: &str| {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        ask(&mut server.connect(), "POST", "/predict", &headers, br#"{"text":"the film was good"}"#)
    };
    assert_eq!((predict("0123456789abcdef").status, predict("fedcba9876543210").status), (200, 200));
    let slow = predict("0123456789abcdef");
    assert_eq!(slow.status, 429);
    assert!(slow.error().contains("this token has 0.001 requests a second; ask again in"), "{}", slow.error());
    let seconds =
        slow.head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse::<u64>().unwrap();
    assert!((900..=1000).contains(&seconds), "{seconds}");
    // Two texts, for two tasks, of a rate that holds one: as much as half an hour gives.
    let wordy = predict("fedcba9876543210");
    assert!(wordy.status == 429 && wordy.error().contains("0.001 texts a second"), "{}", wordy.head);
    for _ in 0..9 {
        assert_eq!(predict("0123456789abcdeg").status, 200);
    }
    assert_eq!((predict("0123456789abcdeh").status, server.get("/v2/health/live").status), (401, 200));

    let headers = [("authorization", "Bearer 0123456789abcdeg")];
    let metrics = ask(&mut server.connect(), "GET", "/metrics", &headers, b"").body;
    let metrics = String::from_utf8(metrics).unwrap();
    for line in [
        "client_requests_total{client=\"slow\"} 1",
        "client_refusals_total{client=\"slow\"} 1",
        "client_requests_total{client=\"wordy\"} 2",
        "client_texts_total{client=\"wordy\"} 2",
        "client_refusals_total{client=\"wordy\"} 1",
        "client_requests_total{client=\"free\"} 10",
        "client_texts_total{client=\"free\"} 18",
        "client_refusals_total{client=\"free\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    let log = fs::read_to_string(server.home.path().join("log")).unwrap();
    assert!(!metrics.contains("0123456789") && !log.contains("0123456789"), "{log}");
}

#[test]
fn a_bundle_that_others_may_replace_is_warned_of() {
    let (home, bundle) = home_of(&["a"]);
    let run = || {
        let mut run = command("edge-run", home.path());
        let run = run.current_dir(home.path()).args(["--bundle", "bundle", "-p", "patches/a.bias"]);
        let output = system_tests::with_input(run, b"the film was good\n");
        assert_succeeded(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let serve = || {
        let _ = fs::remove_file(home.path().join("log"));
        let (address, child) = start(home.path(), bundle.dir(), &[]);
        let _child = Killed(child);
        // It answers once it has opened everything.
        assert_eq!(ask(&mut connect(address), "GET", "/v2/health/live", &[], b"").status, 200);
        fs::read_to_string(home.path().join("log")).unwrap()
    };
    let others = "other users may replace what is read here";
    assert!(!run().contains(others) && !serve().contains(others), "{}", run());
    fs::set_permissions(bundle.dir(), Permissions::from_mode(0o777)).unwrap();
    for said in [run(), serve()] {
        assert_eq!(said.matches(others).count(), 1, "{said}");
        assert!(said.contains("chmod o-w ") || said.contains("chmod go-w "), "{said}");
    }
}

#[test]
fn a_server_that_is_told_to_stop_answers_what_is_in_flight() {
    let mut server = Server::of(&["a"]);
    let mut stream = server.connect();
    let head = b"POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head).unwrap();
    // It is in flight once the server asks for its body.
    let mut asked = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"text\":").unwrap();
    let told = Command::new("kill").arg(server.child.id().to_string()).status().unwrap();
    assert!(told.success());
    thread::sleep(Duration::from_millis(100));
    stream.write_all(b"\"abc\"}").unwrap();
    assert_eq!(reply(&mut stream).unwrap().status, 200);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "it did not stop");
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn what_cannot_be_served_from_is_named_before_anything_is_served() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("a.bias"), "a patch, not a directory").unwrap();
    fs::write(home.path().join("key.pub"), "no key\n").unwrap();
    for (arguments, parts) in [
        (&["--patches", "a.bias"][..], ["a.bias: expected a directory of *.bias files", "--patches"]),
        (&["--patches", ".", "--trust", "key.pub"], ["key.pub: public key: expected the two lines", "minisign -G"]),
    ] {
        let mut serve = command("edge-serve", home.path());
        let serve = serve.current_dir(home.path()).args(["--listen", "127.0.0.1:0"]).args(arguments);
        assert_refused(&serve.output().unwrap(), &parts);
    }
}

#[test]
fn a_unix_socket_is_served_and_taken_over_from_a_server_that_was_killed() {
    let (home, bundle) = home_of(&["a"]);
    let path = home.path().join("socket");
    let connect = || UnixStream::connect(&path);
    for _ in 0..2 {
        let child = start_at("unix:socket", connect, home.path(), bundle.dir(), &[]);
        let _child = Killed(child);
        let mut stream = connect().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let found = ask(&mut stream, "POST", "/predict/a", &[], br#"{"text":"the film was good"}"#);
        assert_eq!(found.status, 200);
        assert_eq!(names(&ask(&mut stream, "GET", "/tasks", &[], b"").json()), ["a"]);
    }
}

#[test]
fn a_socket_of_systemds_is_served_and_it_is_told_when() {
    let (home, bundle) = home_of(&["a"]);
    let supervisor = UnixDatagram::bind(home.path().join("notify")).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // As systemd does it: the socket is file 3, and the process is named by its number. Were the socket not taken, the
    // address could not be either.
    let mut serve = command("edge-serve", home.path());
    serve.current_dir(home.path()).env("NOTIFY_SOCKET", "notify");
    serve.args(["--patches", "patches", "--listen", "192.0.2.1:1", "--bundle"]).arg(bundle.dir());
    let mut shell = in_shell(&serve, "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$");
    let log = fs::File::create(home.path().join("log")).unwrap();
    let shell = shell.stdin(OwnedFd::from(socket)).stdout(Stdio::null()).stderr(log);
    let _child = Killed(shell.spawn().unwrap());
    let mut state = [0; 64];
    let told = supervisor.recv(&mut state).unwrap_or_else(|e| {
        panic!("{e}; edge-serve said: {}", fs::read_to_string(home.path().join("log")).unwrap());
    });
    assert_eq!(&state[..told], b"READY=1");
    assert_eq!(names(&ask(&mut connect(address), "GET", "/tasks", &[], b"").json()), ["a"]);
}

/// A process that is killed at the end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
