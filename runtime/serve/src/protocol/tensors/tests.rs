//! Requests that are read, refused, and answered.

use bias_patch::Task;
use edge_run::tasks;

use super::*;

/// The tensors of a kind of task with two labels, if it has labels.
fn tensors(kind: &str) -> Vec<Tensor> {
    let labels = (kind != "regression").then_some(["x", "y"]);
    let task = serde_json::json!({ "name": "a", "kind": kind, "labels": labels });
    tasks::of(serde_json::from_value::<Task>(task).unwrap().kind()).tensors()
}

/// The outputs that a request wants of a classification.
fn named(request: &InferRequest) -> Vec<(&'static str, bool)> {
    let wanted = wanted(request, &tensors("classification")).unwrap();
    wanted.iter().map(|(tensor, binary)| (tensor.name, *binary)).collect()
}

#[test]
fn texts_come_as_json_or_as_bytes() {
    let json = br#"{"id":"7","inputs":[{"name":"text","shape":[2,1],"datatype":"BYTES","data":[["a"],["b"]]}],
        "outputs":[{"name":"score","parameters":{"binary_data":true}},{"name":"label"}]}"#;
    let found = parse(json, None, 1).unwrap();
    assert_eq!((found.id.as_deref(), &found.texts), (Some("7"), &vec![Text::one("a"), Text::one("b")]));
    assert_eq!(named(&found), [("score", true), ("label", false)]);

    let head = br#"{"parameters":{"binary_data_output":true},"inputs":[
        {"name":"text_pair","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}},
        {"name":"text","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}"#;
    let body = [&head[..], b"\x01\0\0\0b", b"\x02\0\0\0aa"].concat();
    let found = parse(&body, Some(&head.len().to_string()), 2).unwrap();
    assert_eq!(found.texts, [Text::pair("aa", "b")]);
    assert_eq!(named(&found), [("label", true), ("score", true), ("logits", true)]);
}

#[test]
fn null_is_as_good_as_nothing() {
    let json = br#"{"id":null,"parameters":null,"outputs":[{"name":"label","parameters":null}],
        "inputs":[{"name":"text","shape":[1],"datatype":"BYTES","parameters":null,"data":["a"]}]}"#;
    let found = parse(json, None, 1).unwrap();
    assert_eq!((&found.id, &found.texts, named(&found)), (&None, &vec![Text::one("a")], vec![("label", false)]));
    let json = br#"{"parameters":{"binary_data_output":null},"outputs":null,"inputs":[{"name":"text","shape":[1],
        "datatype":"BYTES","parameters":{"binary_data_size":null},"data":["a"]}]}"#;
    assert_eq!(named(&parse(json, None, 1).unwrap())[0], ("label", false));
    let json = br#"{"outputs":[{"name":"score","parameters":{"binary_data":null,"classification":null}}],
        "inputs":[{"name":"text","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5},"data":null}]}"#;
    let found = parse(&[&json[..], b"\x01\0\0\0a"].concat(), Some(&json.len().to_string()), 1).unwrap();
    assert_eq!((&found.texts, named(&found)), (&vec![Text::one("a")], vec![("score", false)]));
}

#[test]
fn what_does_not_agree_is_refused_with_its_place() {
    let input = |fields: &str| format!(r#"{{"inputs":[{{"name":"text",{fields}}}]}}"#);
    let cases = [
        (String::new(), "body: expected an inference request"),
        ("[".repeat(5000), "body: expected an inference request"),
        (r#"{"inputs":[]}"#.into(), "inputs: expected text, found no text"),
        (r#"{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}]}"#.into(), "found an input \"x\""),
        (input(r#""shape":[1],"datatype":"FP32","data":[1]"#), "input text: datatype: expected BYTES"),
        (input(r#""shape":[],"datatype":"BYTES","data":["a"]"#), "input text: shape: expected 1 or 2 dimensions"),
        (input(r#""shape":[0],"datatype":"BYTES","data":[]"#), "input text: shape: expected 1 to 256 texts"),
        (input(r#""shape":[9999999999,9999999999],"datatype":"BYTES","data":[]"#), "expected 1 to 256 texts"),
        (input(r#""shape":[-1],"datatype":"BYTES","data":["a"]"#), "body: expected an inference request"),
        (input(r#""shape":[2],"datatype":"BYTES","data":["a"]"#), "expected 2 texts, as the shape says, found 1"),
        (input(r#""shape":[1],"datatype":"BYTES","data":[7]"#), "data: expected a list of texts, found \"7\""),
        (input(r#""shape":[1],"datatype":"BYTES","data":[[["a"]]]"#), "data: expected a list of texts"),
        (input(r#""shape":[2],"datatype":"BYTES","data":[["a"],"b"]"#), "data: expected a list of texts"),
        (input(r#""shape":[2,1],"datatype":"BYTES","data":[["a","b"]]"#), "found 1 lists"),
        (input(r#""shape":[2,1],"datatype":"BYTES","data":[["a","b"],[]]"#), "found a list of 2 within"),
        (input(r#""shape":[1],"datatype":"BYTES""#), "data: expected a list of texts, found none"),
        (
            input(r#""shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":9}"#),
            "binary_data_size: expected at most 0, found 9",
        ),
    ];
    for (body, message) in cases {
        let error = parse(body.as_bytes(), None, 1).unwrap_err();
        assert!(error.message.contains(message), "{body:.80}: {}", error.message);
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
    }
}

#[test]
fn binary_elements_are_checked() {
    let cases: [(&[u8], &str); 4] = [
        (b"\x01\0\0", "a length that is cut short"),
        (b"\x05\0\0\0abc", "3 bytes where 5 are due"),
        (b"\xff\xff\xff\xffabc", "3 bytes where 4294967295 are due"),
        (b"\x01\0\0\0\xff", "invalid UTF-8 after 0 bytes"),
    ];
    for (raw, message) in cases {
        assert_eq!(elements(raw).unwrap_err(), message);
    }
    assert_eq!(elements(b"\0\0\0\0\x02\0\0\0hi").unwrap(), ["", "hi"]);
}

#[test]
fn bytes_follow_the_json_in_the_order_of_the_outputs() {
    let (class, number) = (tensors("classification"), tensors("regression"));
    let tensor = |tensor: &Tensor, binary, data| OutputTensor { tensor: *tensor, shape: vec![1], binary, data };
    let tensors = [
        tensor(&class[0], true, Data::Bytes(vec!["x".into()])),
        tensor(&class[1], true, Data::Floats(vec![0.5])),
        tensor(&number[0], false, Data::Floats(vec![1.0])),
    ];
    let reply = write(StatusCode::OK, "a", "1", None, &tensors);
    let head: usize = reply.headers()[HEADER_BYTES].to_str().unwrap().parse().unwrap();
    let body = futures_free_bytes(reply);
    let json: Value = serde_json::from_slice(&body[..head]).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 5);
    assert_eq!(json["outputs"][2]["data"][0], 1.0);
    assert_eq!(body[head..], *b"\x01\0\0\0x\0\0\0\x3f");
}

/// The bytes of a complete body.
fn futures_free_bytes(reply: Reply) -> Vec<u8> {
    use http_body_util::BodyExt;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { reply.into_body().collect().await.unwrap().to_bytes().to_vec() })
}
