//! `edge-serve` in the forms of others: OpenAI's embeddings, and embeddings and ranking as text-embeddings-inference, Jina
//! and Cohere have them.

use std::{fs, thread};

use bias_patch::{Patch, Task};
use serde_json::{Value, json};
use system_tests::{
    http::{Reply, ask},
    patch,
    server::{Server, home_of, names},
    task,
};

/// Serves tasks, each from a patch whose values the seed determines.
fn serve(tasks: &[(Task, &str)]) -> Server {
    let (home, bundle) = home_of(&[]);
    for (task, seed) in tasks {
        let name = format!("patches/{}.bias", task.name());
        patch(&bundle, task.clone(), seed).save(&home.path().join(name)).unwrap();
    }
    Server::at(home, bundle, &[])
}

/// A task whose fields are those of JSON.
fn of(fields: Value) -> Task {
    serde_json::from_value(fields).unwrap()
}

/// Numbers as f32, which they are bit for bit, for they are written with all their digits.
fn floats(list: &Value) -> Vec<f32> {
    list.as_array().unwrap_or_else(|| panic!("{list}")).iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|v| (f64::from(*v) / length) as f32).collect()
}

fn assert_near(found: &[f32], due: &[f32]) {
    assert_eq!(found.len(), due.len());
    assert!(found.iter().zip(due).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, expected {due:?}");
}

/// Asserts that a request was refused, and gives OpenAI's error.
fn openai_error(reply: &Reply, status: u16, part: &str) -> Value {
    let error = reply.json()["error"].clone();
    assert!(reply.status == status && error["message"].as_str().unwrap().contains(part), "{}: {error}", reply.status);
    error
}

fn assert_tei_error(reply: &Reply, status: u16, kind: &str, part: &str) {
    let (found, body) = (reply.error(), reply.json());
    assert!(reply.status == status && body["error_type"] == kind && found.contains(part), "{}: {body}", reply.status);
}

#[test]
fn embeddings_have_the_form_of_openai() {
    let server = serve(&[(task("vector", "embedding", 1), "x"), (task("label", "classification", 1), "x")]);
    let texts = ["the film was good", "no"];
    let plain = texts.map(|text| server.post("/predict/vector", json!({ "text": text })).json());
    let due = plain.each_ref().map(|answer| floats(&answer["embedding"]));
    let ask = |fields: Value| {
        let mut question = json!({ "model": "vector", "input": texts });
        question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.post("/v1/embeddings", question)
    };

    let found = ask(json!({ "user": "someone", "encoding_format": "float", "dimensions": null })).json();
    let tokens: u64 = plain.iter().map(|answer| answer["tokens"].as_u64().unwrap()).sum();
    assert_eq!(found["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    assert_eq!((&found["object"], &found["model"]), (&json!("list"), &json!("vector")));
    for (at, row) in found["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&row["object"], &row["index"]), (&json!("embedding"), &json!(at)));
        assert_eq!(floats(&row["embedding"]), due[at]);
    }
    let found = ask(json!({ "encoding_format": "base64", "input": texts[1] })).json();
    let bytes = base64::decode(found["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!((values, found["data"].as_array().unwrap().len()), (due[1].clone(), 1));
    let width = due[0].len();
    let found = ask(json!({ "dimensions": 3 })).json();
    assert_near(&floats(&found["data"][0]["embedding"]), &unit(&due[0][..3]));
    assert_eq!(floats(&ask(json!({ "dimensions": width })).json()["data"][1]["embedding"]), due[1]);

    let many = format!("1 to {width}, as task vector has");
    for (fields, status, param, part) in [
        (json!({ "input": [1, 2] }), 400, "input", "found token ids"),
        (json!({ "input": [[1, 2]] }), 400, "input", "found token ids"),
        (json!({ "input": [] }), 400, "input", "found an empty list"),
        (json!({ "input": ["a", " "] }), 400, "input", "input: text 2: empty text"),
        (json!({ "input": vec!["a"; 257] }), 413, "", "at most 256 answers"),
        (json!({ "input": "x".repeat(70_000) }), 413, "", "a text of at most 65536 bytes"),
        (json!({ "dimensions": width + 1 }), 400, "dimensions", &many),
        (json!({ "dimensions": 0 }), 400, "dimensions", &many),
        // Before texts run, of which one has no answer.
        (json!({ "dimensions": 0, "input": ["a", " "] }), 400, "dimensions", &many),
        (json!({ "encoding_format": "int8" }), 400, "", "unknown variant `int8`"),
        (json!({ "colour": 1 }), 400, "", "unknown field `colour`"),
        (
            json!({ "model": "label" }),
            400,
            "model",
            "task label: expected an embedding task, found a classification task on one text; those that answer here: vector",
        ),
        (json!({ "model": "nothing" }), 404, "model", "no task \"nothing\""),
    ] {
        let error = openai_error(&ask(fields), status, part);
        let param = Some(param).filter(|param| !param.is_empty());
        assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &json!(param)), "{error}");
        assert_eq!(error["code"], if status == 404 { json!("model_not_found") } else { json!(null) });
    }
    openai_error(&server.get("/v1/embeddings"), 405, "POST only");

    let models = server.get("/v1/models").json();
    let model = json!({ "id": "vector", "object": "model", "created": 0, "owned_by": "edge-serve" });
    assert_eq!((&models["data"][0]["id"], &models["data"][1]), (&json!("label"), &model));
    assert_eq!(server.get("/v1/models/vector").json(), model);
    openai_error(&server.get("/v1/models/nothing"), 404, "no task \"nothing\"");
}

#[test]
fn embeddings_have_the_form_of_text_embeddings_inference() {
    let prompts = json!({ "default": "why ", "query": "the film " });
    let fields = |name: &str| json!({ "name": name, "kind": "embedding", "pooling": "mean", "max_length": 12 });
    let with = |name: &str, field: &str, value: Value| {
        let mut fields = fields(name);
        fields[field] = value;
        of(fields)
    };
    let server = serve(&[(of(fields("plain")), "x")]);
    // The same values and head each time, so that answers can be compared.
    let (text, other) = (json!({ "inputs": "was good" }), json!({ "inputs": ["was good", "no"] }));
    let due = server.post("/embed", text.clone()).json();
    assert_eq!(due[0], server.post("/embed/plain", other).json()[0]);
    assert_eq!(due, server.post("/", text.clone()).json());
    let plain = server.post("/predict/plain", json!({ "text": "was good" })).json();
    assert_eq!(floats(&due[0]), floats(&plain["embedding"]));

    let tasks = [
        (with("raw", "normalize", json!(false)), "x"),
        (with("prompts", "prompts", prompts), "x"),
        (with("short", "dimensions", json!(3)), "x"),
        (task("two", "regression", 2), "y"),
    ];
    for (task, seed) in tasks {
        let name = format!("{}.bias", task.name());
        server.put(&name, &patch(&server.bundle, task, seed).to_bytes().unwrap());
    }
    server.wait("all tasks", |tasks| names(tasks) == ["plain", "prompts", "raw", "short", "two"]);
    let embed = |task: &str, fields: Value| floats(&server.post(&format!("/embed/{task}"), fields).json()[0]);
    let raw = floats(&server.post("/predict/raw", json!({ "text": "was good" })).json()["embedding"]);
    assert_eq!(embed("raw", json!({ "inputs": "was good", "normalize": false })), raw);
    assert_eq!(embed("plain", json!({ "inputs": "was good", "normalize": false })), raw);
    assert_eq!(embed("raw", text.clone()), floats(&due[0]));
    assert_near(&embed("plain", json!({ "inputs": "was good", "dimensions": 2 })), &unit(&raw[..2]));
    assert_near(&embed("short", json!({ "inputs": "was good", "dimensions": 2 })), &unit(&raw[..2]));
    assert_near(&embed("short", json!({ "inputs": "was good", "normalize": false, "model": "short" })), &raw[..3]);
    for (prompt, whole) in [(json!("query"), "the film was good"), (json!(null), "why was good")] {
        let found = embed("prompts", json!({ "inputs": "was good", "prompt_name": prompt }));
        assert_eq!(found, embed("plain", json!({ "inputs": whole })));
    }

    let long = "no ".repeat(30);
    let cut = embed("plain", json!({ "inputs": long, "truncate": true, "truncation_direction": "right" }));
    assert_eq!(cut, embed("plain", json!({ "inputs": long })));
    for (path, fields, status, part) in [
        (
            "/embed/plain",
            json!({ "inputs": ["a", long], "truncate": false }),
            413,
            "inputs: text 2: expected at most 12 tokens",
        ),
        ("/embed/plain", json!({ "inputs": "a", "truncation_direction": "Left" }), 400, "expected Right"),
        ("/embed/plain", json!({ "inputs": "a", "prompt_name": "query" }), 400, "no prompt, for the task has none"),
        ("/embed/prompts", json!({ "inputs": "a", "prompt_name": "x" }), 400, "one of default, query, found \"x\""),
        ("/embed/short", json!({ "inputs": "a", "dimensions": 4 }), 400, "1 to 3, as task short has, found 4"),
        ("/embed/plain", json!({ "inputs": [[7]] }), 400, "found token ids"),
        ("/embed/plain", json!({ "inputs": "a", "model": "raw" }), 400, "model: expected plain, as the address says"),
        ("/embed/plain", json!({}), 400, "missing field `inputs`"),
        ("/embed/two", json!({ "inputs": "a" }), 400, "those that answer here: plain, prompts, raw, short"),
        ("/embed/nothing", json!({ "inputs": "a" }), 404, "those that answer here: plain, prompts, raw, short"),
        (
            "/embed",
            json!({ "inputs": "a" }),
            400,
            "the name of an embedding task at its end, found none; those that answer here: plain, prompts",
        ),
    ] {
        assert_tei_error(&server.post(path, fields), status, "validation", part);
    }

    let info = server.get("/info/short").json();
    assert_eq!(info["model_type"], json!({ "embedding": { "pooling": "mean" } }));
    assert_eq!(info["model_dtype"], "float32");
    assert_eq!((&info["model_id"], &info["max_input_length"]), (&json!("short"), &json!(12)));
    assert!(server.get("/info/two").json()["model_type"]["reranker"].is_object());
    assert_eq!(server.get("/info").status, 400);
    assert_eq!(server.get("/health").status, 200);
    let empty = Server::of(&[]);
    assert_tei_error(&empty.post("/embed", text), 404, "validation", "no embedding task answers here");
    assert_eq!(empty.get("/health").status, 503);
}

#[test]
fn texts_are_ranked_by_their_scores() {
    let sigmoid = json!({ "name": "sigmoid", "kind": "regression", "pooling": "mean", "inputs": 2, "max_length": 40,
        "sigmoid": true });
    let server =
        serve(&[(task("number", "regression", 2), "x"), (of(sigmoid), "x"), (task("one", "regression", 1), "x")]);
    let (query, texts) = ("the film was good", ["no", "the film", "why was the film good", "no"]);
    let logits = texts.map(|text| {
        let pair = json!({ "text": query, "text_pair": text });
        let number = server.post("/predict/number", pair.clone()).json();
        assert_eq!(number["logits"], server.post("/predict/sigmoid", pair.clone()).json()["logits"]);
        let logit = floats(&number["logits"])[0];
        let value = server.post("/predict/sigmoid", pair).json()["value"].as_f64().unwrap() as f32;
        assert_near(&[value], &[1.0 / (1.0 + (-logit).exp())]);
        (logit, value)
    });
    let mut order = [0, 1, 2, 3];
    order.sort_by(|a, b| logits[*b].0.total_cmp(&logits[*a].0));
    assert_ne!(order, [0, 1, 2, 3]);
    for task in ["number", "sigmoid"] {
        let rank = |fields: Value| {
            let mut question = json!({ "query": query, "texts": texts });
            question.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            server.post(&format!("/rerank/{task}"), question).json().as_array().unwrap().clone()
        };
        let found = rank(json!({ "return_text": true }));
        for (row, at) in found.iter().zip(order) {
            assert_eq!((&row["index"], &row["text"]), (&json!(at), &json!(texts[at])));
            assert_near(&[row["score"].as_f64().unwrap() as f32], &[logits[at].1]);
        }
        let found = rank(json!({ "raw_scores": true, "truncate": true }));
        for (row, at) in found.iter().zip(order) {
            assert!(row["index"] == at && row.get("text").is_none(), "{row}");
            assert_eq!(row["score"].as_f64().unwrap() as f32, logits[at].0);
        }
        assert_eq!(found.len(), 4);
    }

    let documents = json!(["no", { "text": "the film", "id": 7 }, "why was the film good", "no"]);
    let question =
        json!({ "model": "sigmoid", "query": query, "documents": documents, "top_n": 2, "return_documents": true });
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let found = server.post(path, question.clone()).json();
        assert_eq!((&found["model"], found["results"].as_array().unwrap().len()), (&json!("sigmoid"), 2));
        for (row, at) in found["results"].as_array().unwrap().iter().zip(order) {
            assert_eq!((&row["index"], &row["document"]), (&json!(at), &json!({ "text": texts[at] })));
            assert_near(&[row["relevance_score"].as_f64().unwrap() as f32], &[logits[at].1]);
        }
        assert!(found["usage"]["total_tokens"].as_u64().unwrap() > 20, "{found}");
    }

    for (path, fields, status, part) in [
        (
            "/rerank/one",
            json!({ "query": "a", "texts": ["b"] }),
            400,
            "task one: expected a regression task on two texts, found a regression task on one text; those that answer",
        ),
        ("/rerank", json!({ "query": "a", "texts": ["b"] }), 400, "those that answer here: number, sigmoid"),
        ("/rerank", json!({ "query": "a", "texts": ["b"], "model": "x" }), 404, "no task \"x\""),
        (
            "/rerank/number",
            json!({ "query": "a", "texts": ["b"], "model": "sigmoid" }),
            400,
            "model: expected number, as the address says, found \"sigmoid\"",
        ),
        ("/rerank/number", json!({ "query": "a", "texts": [] }), 400, "texts: expected at least one text"),
        ("/rerank/number", json!({ "query": "a" }), 400, "texts or documents, found neither"),
        (
            "/rerank/number",
            json!({ "query": "a", "texts": ["b"], "return_documents": true }),
            400,
            "return_documents: expected none beside texts, found true",
        ),
        (
            "/rerank/number",
            json!({ "query": "a", "documents": ["b"], "return_text": true }),
            400,
            "return_text: expected none beside documents, found true",
        ),
        ("/rerank/number", json!({ "query": "a", "texts": ["b"], "documents": ["b"] }), 400, "found both"),
        (
            "/rerank/number",
            json!({ "query": "a", "documents": [{ "body": "b" }] }),
            400,
            "documents: expected texts or objects",
        ),
        (
            "/rerank/number",
            json!({ "query": "a", "texts": ["b", ""] }),
            400,
            "texts: text 2 with the query: empty text",
        ),
        ("/rerank/number", json!({ "query": "a", "texts": vec!["b"; 257] }), 413, "at most 256 answers"),
        (
            "/rerank/number",
            json!({ "query": "a".repeat(60_000), "texts": vec!["b"; 200] }),
            413,
            "bytes of texts times tasks",
        ),
        (
            "/rerank/number",
            json!({ "query": "no ".repeat(40), "texts": ["b"], "truncate": false }),
            413,
            "at most 40 tokens",
        ),
    ] {
        assert_tei_error(&server.post(path, fields), status, "validation", part);
    }
}

#[test]
fn tokens_limits_and_metrics_hold_in_every_form() {
    let (home, bundle) = home_of(&[]);
    fs::write(home.path().join("token"), "0123456789abcdef\n").unwrap();
    let made: Patch = patch(&bundle, task("vector", "embedding", 1), "x");
    made.save(&home.path().join("patches/vector.bias")).unwrap();
    let server = Server::at(home, bundle, &["--token-file", "token", "--queue", "2"]);
    let send = |method: &str, path: &str, token: &str, body: &[u8]| {
        ask(&mut server.connect(), method, path, &[("authorization", token)], body)
    };
    let right = "Bearer 0123456789abcdef";
    for path in ["/v1/embeddings", "/embed", "/embed/vector", "/", "/rerank", "/v1/rerank"] {
        assert_eq!(send("POST", path, "Bearer sk-other", b"{}").status, 401, "{path}");
        assert_ne!(send("POST", path, right, b"{}").status, 401, "{path}");
        assert_eq!(send("POST", path, right, &vec![b' '; (1 << 20) + 1]).status, 413, "{path}");
    }
    for path in ["/v1/models", "/v1/models/vector", "/info"] {
        assert_eq!((send("GET", path, "", b"").status, send("GET", path, right, b"").status), (401, 200), "{path}");
    }
    assert_eq!((server.get("/health").status, server.get("/").status), (200, 200));
    let error = openai_error(&send("POST", "/v1/embeddings", "", b"{}"), 401, "this server's token");
    assert_eq!(error["code"], "invalid_api_key");
    let body = |name: &str, texts: &[&str]| match name {
        "inputs" => json!({ "inputs": texts }).to_string(),
        _ => json!({ "model": "vector", "input": texts }).to_string(),
    };
    let three = ["inputs", "input"].map(|name| body(name, &["a", "b", "c"]));
    let never = "at most 2 answers as the queue holds, found 3";
    assert_tei_error(&send("POST", "/embed", right, three[0].as_bytes()), 413, "validation", never);
    openai_error(&send("POST", "/v1/embeddings", right, three[1].as_bytes()), 413, never);
    // Many clients ask for as much as the queue holds, until one is told that it is full.
    let busy = |path: &str, name: &str| {
        let two = body(name, &["a", "b"]);
        let ask = || (0..1000).map(|_| send("POST", path, right, two.as_bytes())).find(|reply| reply.status == 429);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().filter_map(|client| client.join().unwrap()).next()
        })
        .expect("a queue that is full")
    };
    assert_tei_error(&busy("/embed", "inputs"), 429, "overloaded", "ask again in a second");
    let busy = busy("/v1/embeddings", "input");
    assert_eq!(openai_error(&busy, 429, "ask again in a second")["code"], "rate_limit_exceeded");
    assert!(busy.head.contains("retry-after: 1"), "{}", busy.head);
    let metrics = String::from_utf8(send("GET", "/metrics", right, b"").body).unwrap();
    for label in
        [r#"route="embeddings",status="429""#, r#"route="embed",status="401""#, r#"route="rerank",status="413""#]
    {
        assert!(metrics.contains(label), "no {label} in:\n{metrics}");
    }
}

/// Vectors and several labels are the same by the plain call and by tensors.
#[test]
fn vectors_and_several_labels_come_as_tensors() {
    let server = serve(&[(task("vector", "embedding", 1), "x"), (task("several", "multi-label", 1), "x")]);
    let texts = ["the film was good", "no"];
    let input = json!({"name": "text", "datatype": "BYTES", "shape": [2], "data": texts});
    let all = texts.map(|text| server.post("/predict", json!({ "text": text })).json()["answers"].clone());
    let (several, vectors) = (all.each_ref().map(|rows| &rows[0]), all.each_ref().map(|rows| &rows[1]));

    let found = server.post("/v2/models/vector/infer", json!({ "inputs": [input] })).json();
    let due: Vec<f32> = vectors.iter().flat_map(|row| floats(&row["embedding"])).collect();
    let tensor = &found["outputs"][0];
    assert_eq!((&tensor["name"], &tensor["datatype"]), (&json!("embedding"), &json!("FP32")));
    assert_eq!((&tensor["shape"], floats(&tensor["data"])), (&json!([2, due.len() / 2]), due.clone()));
    // The outputs of the head are the vector again.
    assert!(vectors[0].get("logits").is_none(), "{}", vectors[0]);
    let question = json!({ "inputs": [input], "parameters": { "binary_data_output": true } });
    let reply = server.post("/v2/models/vector/infer", question);
    let split = reply.head.lines().find_map(|line| line.strip_prefix("inference-header-content-length: ")).unwrap();
    let bytes = &reply.body[split.parse().unwrap()..];
    assert_eq!(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>(), due);

    let found = server.post("/v2/models/several/infer", json!({ "inputs": [input] })).json();
    let outputs = found["outputs"].as_array().unwrap();
    let heads: Vec<_> = outputs.iter().map(|t| (t["name"].as_str().unwrap(), t["shape"].clone())).collect();
    assert_eq!(heads, [("labels", json!([2])), ("scores", json!([2, 3])), ("logits", json!([2, 3]))]);
    let scores = floats(&outputs[1]["data"]);
    for (at, row) in several.iter().enumerate() {
        assert_eq!(floats(&row["logits"]), floats(&outputs[2]["data"])[3 * at..][..3]);
        let given: Vec<&str> = row["labels"].as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap()).collect();
        assert_eq!(outputs[0]["data"][at], json!(given).to_string());
        // Half and more is given; all labels are there, the likeliest first.
        let top = row["top"].as_array().unwrap();
        assert!(top.iter().map(|l| &l["label"]).take(given.len()).eq(given.iter()), "{row}");
        for label in top {
            let place = ["no", "maybe", "yes"].iter().position(|name| label["label"] == *name).unwrap();
            assert_eq!(label["score"].as_f64().unwrap() as f32, scores[3 * at + place]);
            assert_eq!(given.contains(&label["label"].as_str().unwrap()), scores[3 * at + place] >= 0.5);
        }
        assert_eq!(top.len(), 3);
    }
}
