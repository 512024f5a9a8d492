//! Reads and writes tensors: in JSON, or as bytes after the JSON.
//!
//! In: the body of a request, written by anyone. Out: its texts and the outputs it wants, and the body of a response.
//! Refused: inputs that the task does not have, types other than BYTES, shapes that do not match the data, extra or
//! missing bytes, text that is not UTF-8.

use bias_patch::quoted;
use edge_run::{
    Text,
    tasks::{Data, Tensor},
};
use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{TEXT, TEXT_PAIR};
use crate::{
    limits,
    reply::{Refusal, Reply, bytes, json},
};

/// The header that says how long the JSON is before the bytes of tensors.
pub(crate) const HEADER_BYTES: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A parsed request.
#[derive(Debug)]
pub(super) struct InferRequest {
    pub id: Option<String>,
    pub texts: Vec<Text>,
    /// Outputs in the order of the response, and whether each is to come as bytes.
    pub wanted: Vec<(Tensor, bool)>,
}

/// An output with its values.
pub(super) struct OutputTensor {
    pub tensor: Tensor,
    pub shape: Vec<usize>,
    pub binary: bool,
    pub data: Data,
}

#[derive(Deserialize)]
struct Body {
    id: Option<String>,
    parameters: Option<Parameters>,
    inputs: Vec<Input>,
    outputs: Option<Vec<Wanted>>,
}

/// Parameters that this server uses; others are ignored.
#[derive(Clone, Copy, Deserialize, Default)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data_output: Option<bool>,
    binary_data: Option<bool>,
    classification: Option<u64>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    parameters: Option<Parameters>,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    parameters: Option<Parameters>,
}

/// Reads a request for a task that takes 1 or 2 texts and gives these tensors.
///
/// # Errors
/// Saying what was expected and what was found.
pub(super) fn parse(
    body: &[u8],
    header_bytes: Option<&str>,
    inputs: u8,
    tensors: &[Tensor],
) -> Result<InferRequest, Refusal> {
    let (head, mut rest) = match header_bytes {
        None => (body, &[][..]),
        Some(length) => {
            let split = length.parse().ok().and_then(|length: usize| body.split_at_checked(length));
            let expected = format!("a number of at most {} bytes, as the body has", body.len());
            split.ok_or_else(|| Refusal::expected("inference-header-content-length", expected, quoted(length)))?
        }
    };
    let request: Body =
        serde_json::from_slice(head).map_err(|e| Refusal::expected("body", "an inference request", e))?;
    let names = [TEXT, TEXT_PAIR];
    let due = &names[..usize::from(inputs).clamp(1, 2)];
    let mut columns: [Option<Vec<String>>; 2] = [None, None];
    for input in &request.inputs {
        let known = due.iter().position(|name| *name == input.name);
        let Some(column) = known.and_then(|at| columns.get_mut(at)) else {
            let found = format!("an input {}", quoted(&input.name));
            return Err(Refusal::expected("inputs", due.join(" and "), found));
        };
        if column.is_some() {
            return Err(Refusal::expected("inputs", format!("{} once", input.name), "it twice"));
        }
        *column = Some(texts_of(input, &mut rest)?);
    }
    if !rest.is_empty() {
        return Err(Refusal::expected("body", "no bytes after the tensors", format!("{} more", rest.len())));
    }
    let [first, second] = columns;
    let missing = |name: &str| Refusal::expected("inputs", due.join(" and "), format!("no {name}"));
    let first = first.ok_or_else(|| missing(TEXT))?;
    let texts = match (due, second) {
        ([_], _) => first.into_iter().map(Text::one).collect(),
        (_, None) => return Err(missing(TEXT_PAIR)),
        (_, Some(second)) if second.len() != first.len() => {
            return Err(Refusal::expected(TEXT_PAIR, format!("{} texts, as in text", first.len()), second.len()));
        }
        (_, Some(second)) => first.into_iter().zip(second).map(|(a, b)| Text::pair(a, b)).collect(),
    };
    let binary = request.parameters.unwrap_or_default().binary_data_output.unwrap_or(false);
    Ok(InferRequest { id: request.id, texts, wanted: wanted(request.outputs.as_deref(), binary, tensors)? })
}

/// The requested outputs: all of them if none is named.
fn wanted(named: Option<&[Wanted]>, binary: bool, there: &[Tensor]) -> Result<Vec<(Tensor, bool)>, Refusal> {
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return Ok(there.iter().map(|tensor| (*tensor, binary)).collect());
    };
    let mut wanted: Vec<(Tensor, bool)> = Vec::new();
    for name in named {
        let found = there.iter().find(|tensor| tensor.name == name.name);
        let Some(tensor) = found.filter(|tensor| wanted.iter().all(|(known, _)| known.name != tensor.name)) else {
            let names: Vec<&str> = there.iter().map(|tensor| tensor.name).collect();
            let expected = format!("{}, each at most once", names.join(", "));
            return Err(Refusal::expected("outputs", expected, quoted(&name.name)));
        };
        let parameters = name.parameters.unwrap_or_default();
        if parameters.classification.is_some_and(|count| count > 0) {
            return Err(Refusal::expected("outputs", "no classification parameter", "one"));
        }
        wanted.push((*tensor, parameters.binary_data.unwrap_or(binary)));
    }
    Ok(wanted)
}

/// The texts of an input; binary ones are taken from the front of `rest`.
fn texts_of(input: &Input, rest: &mut &[u8]) -> Result<Vec<String>, Refusal> {
    let field = |part: &str| format!("input {}: {part}", input.name);
    if input.datatype != "BYTES" {
        return Err(Refusal::expected(&field("datatype"), "BYTES", quoted(&input.datatype)));
    }
    if !(1..=2).contains(&input.shape.len()) {
        return Err(Refusal::expected(&field("shape"), "1 or 2 dimensions", input.shape.len()));
    }
    let count = input.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let most = limits::ANSWERS as u64;
    let Some(count) = count.filter(|count| (1..=most).contains(count)) else {
        return Err(Refusal::expected(&field("shape"), format!("1 to {most} texts"), format!("{:?}", input.shape)));
    };
    let texts = match (input.parameters.unwrap_or_default().binary_data_size, &input.data) {
        (Some(size), None) => {
            let Some((raw, after)) = rest.split_at_checked(size) else {
                return Err(Refusal::expected(&field("binary_data_size"), format!("at most {}", rest.len()), size));
            };
            *rest = after;
            elements(raw).map_err(|found| Refusal::expected(&field("data"), "lengths and UTF-8 texts", found))?
        }
        (None, Some(data)) => {
            let mut texts = Vec::new();
            flatten(data, 2, &mut texts)
                .map_err(|found| Refusal::expected(&field("data"), "a list of texts", found))?;
            texts
        }
        (Some(_), Some(_)) => return Err(Refusal::expected(&field("data"), "none beside binary_data_size", "one")),
        (None, None) => return Err(Refusal::expected(&field("data"), "a list of texts", "none")),
    };
    if texts.len() as u64 != count {
        let expected = format!("{count} texts, as the shape says");
        return Err(Refusal::expected(&field("data"), expected, texts.len()));
    }
    Ok(texts)
}

/// The elements of a tensor of BYTES: each a length of four bytes, little-endian, and as many bytes.
fn elements(mut raw: &[u8]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    while !raw.is_empty() {
        let (length, after) = raw.split_first_chunk::<4>().ok_or("a length that is cut short")?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (text, after) =
            after.split_at_checked(length).ok_or_else(|| format!("{} bytes where {length} are due", after.len()))?;
        let text = std::str::from_utf8(text).map_err(|e| format!("invalid UTF-8 after {} bytes", e.valid_up_to()))?;
        texts.push(text.to_owned());
        raw = after;
    }
    Ok(texts)
}

/// The texts of a list, which may have lists within.
fn flatten(data: &Value, depth: usize, texts: &mut Vec<String>) -> Result<(), String> {
    match (data, depth.checked_sub(1)) {
        (Value::Array(parts), Some(left)) => parts.iter().try_for_each(|part| match part {
            Value::String(text) => {
                texts.push(text.clone());
                Ok(())
            }
            part => flatten(part, left, texts),
        }),
        (other, _) => Err(quoted(&other.to_string())),
    }
}

#[derive(Serialize)]
struct Response<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Written<'a>>,
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Data>,
}

#[derive(Serialize)]
struct Size {
    binary_data_size: usize,
}

/// The response with these outputs.
pub(super) fn write(
    status: StatusCode,
    name: &str,
    version: &str,
    id: Option<&str>,
    tensors: &[OutputTensor],
) -> Reply {
    let mut tail = Vec::new();
    let outputs = tensors.iter().map(|tensor| {
        let size = tensor.binary.then(|| {
            let before = tail.len();
            tensor.data.write(&mut tail);
            Size { binary_data_size: tail.len() - before }
        });
        Written {
            name: tensor.tensor.name,
            datatype: tensor.tensor.datatype(),
            shape: &tensor.shape,
            data: size.is_none().then_some(&tensor.data),
            parameters: size,
        }
    });
    let response = Response { model_name: name, model_version: version, id, outputs: outputs.collect() };
    if tail.is_empty() {
        return json(status, &response);
    }
    // Only strings, numbers and lists are written, which always serialize.
    let mut body = serde_json::to_vec(&response).unwrap_or_default();
    let head = body.len();
    body.append(&mut tail);
    let mut reply = bytes(status, "application/octet-stream", body);
    reply.headers_mut().insert(HEADER_BYTES, HeaderValue::from(head));
    reply
}

#[cfg(test)]
mod tests {
    use bias_patch::Task;
    use edge_run::tasks;

    use super::*;

    /// The tensors of a kind of task with two labels, if it has labels.
    fn tensors(kind: &str) -> Vec<Tensor> {
        let labels = (kind != "regression").then_some(["x", "y"]);
        let task = serde_json::json!({ "name": "a", "kind": kind, "labels": labels });
        tasks::of(serde_json::from_value::<Task>(task).unwrap().kind()).tensors()
    }

    fn parse(body: &[u8], header_bytes: Option<&str>, inputs: u8) -> Result<InferRequest, Refusal> {
        super::parse(body, header_bytes, inputs, &tensors("classification"))
    }

    fn named(wanted: &[(Tensor, bool)]) -> Vec<(&'static str, bool)> {
        wanted.iter().map(|(tensor, binary)| (tensor.name, *binary)).collect()
    }

    #[test]
    fn texts_come_as_json_or_as_bytes() {
        let json = br#"{"id":"7","inputs":[{"name":"text","shape":[2,1],"datatype":"BYTES","data":[["a"],["b"]]}],
            "outputs":[{"name":"score","parameters":{"binary_data":true}},{"name":"label"}]}"#;
        let found = parse(json, None, 1).unwrap();
        assert_eq!((found.id.as_deref(), found.texts), (Some("7"), vec![Text::one("a"), Text::one("b")]));
        assert_eq!(named(&found.wanted), [("score", true), ("label", false)]);

        let head = br#"{"parameters":{"binary_data_output":true},"inputs":[
            {"name":"text_pair","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}},
            {"name":"text","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}"#;
        let body = [&head[..], b"\x01\0\0\0b", b"\x02\0\0\0aa"].concat();
        let found = parse(&body, Some(&head.len().to_string()), 2).unwrap();
        assert_eq!(found.texts, [Text::pair("aa", "b")]);
        assert_eq!(named(&found.wanted), [("label", true), ("score", true), ("logits", true)]);
    }

    #[test]
    fn null_is_as_good_as_nothing() {
        let json = br#"{"id":null,"parameters":null,"outputs":[{"name":"label","parameters":null}],
            "inputs":[{"name":"text","shape":[1],"datatype":"BYTES","parameters":null,"data":["a"]}]}"#;
        let found = parse(json, None, 1).unwrap();
        assert_eq!((found.id, found.texts, named(&found.wanted)), (None, vec![Text::one("a")], vec![("label", false)]));
        let json = br#"{"parameters":{"binary_data_output":null},"outputs":null,"inputs":[{"name":"text","shape":[1],
            "datatype":"BYTES","parameters":{"binary_data_size":null},"data":["a"]}]}"#;
        assert_eq!(named(&parse(json, None, 1).unwrap().wanted)[0], ("label", false));
        let json = br#"{"outputs":[{"name":"score","parameters":{"binary_data":null,"classification":null}}],
            "inputs":[{"name":"text","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5},"data":null}]}"#;
        let found = parse(&[&json[..], b"\x01\0\0\0a"].concat(), Some(&json.len().to_string()), 1).unwrap();
        assert_eq!((found.texts, named(&found.wanted)), (vec![Text::one("a")], vec![("score", false)]));
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
}
