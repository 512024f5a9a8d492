//! Reads and writes tensors: in JSON, or as bytes after the JSON.
//!
//! In: the body of a request, written by anyone. Out: its texts and the outputs it wants, and the body of a response.
//! Refused: inputs that the task does not have, types other than BYTES, shapes that do not match the data, extra or
//! missing bytes, text that is not UTF-8.

use bias_patch::quoted;
use edge_run::{
    Strategy, Text,
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
    /// How a tagging task groups tags into entities, if it is asked to.
    pub entities: Option<Strategy>,
    /// The outputs that are asked for; all of them if there is none.
    outputs: Vec<Wanted>,
    /// Whether outputs come as bytes where they do not say so themselves.
    binary: bool,
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
#[derive(Clone, Copy, Debug, Deserialize, Default)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data_output: Option<bool>,
    binary_data: Option<bool>,
    classification: Option<u64>,
    entities: Option<Strategy>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    parameters: Option<Parameters>,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
    parameters: Option<Parameters>,
}

/// Reads a request for a task that takes 1 or 2 texts.
///
/// # Errors
/// Saying what was expected and what was found.
pub(super) fn parse(body: &[u8], header_bytes: Option<&str>, inputs: u8) -> Result<InferRequest, Refusal> {
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
    let Parameters { entities, binary_data_output, .. } = request.parameters.unwrap_or_default();
    let outputs = request.outputs.unwrap_or_default();
    Ok(InferRequest { id: request.id, texts, entities, outputs, binary: binary_data_output.unwrap_or(false) })
}

/// The outputs that a request wants of those that are there, in the order of the response, and whether each is to come
/// as bytes.
///
/// # Errors
/// When one of them is not there or is named twice, or asks for classes.
pub(super) fn wanted(request: &InferRequest, there: &[Tensor]) -> Result<Vec<(Tensor, bool)>, Refusal> {
    let binary = request.binary;
    if request.outputs.is_empty() {
        return Ok(there.iter().map(|tensor| (*tensor, binary)).collect());
    }
    let mut wanted: Vec<(Tensor, bool)> = Vec::new();
    for name in &request.outputs {
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
            let expected = "a list of texts";
            texts_in(data, &input.shape).map_err(|found| Refusal::expected(&field("data"), expected, found))?
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

/// The texts of a tensor in JSON: a flat list, or lists within it by the shape.
fn texts_in(data: &Value, shape: &[u64]) -> Result<Vec<String>, String> {
    let list = |data: &Value| data.as_array().cloned().ok_or_else(|| quoted(&data.to_string()));
    let texts = |list: Vec<Value>| -> Result<Vec<String>, String> {
        let text = |value: Value| value.as_str().map(str::to_owned).ok_or_else(|| quoted(&value.to_string()));
        list.into_iter().map(text).collect()
    };
    let rows = list(data)?;
    let [count, columns] = shape else { return texts(rows) };
    if !rows.iter().any(Value::is_array) {
        return texts(rows);
    }
    if rows.len() as u64 != *count {
        return Err(format!("{} lists", rows.len()));
    }
    let mut all = Vec::new();
    for row in &rows {
        let row = texts(list(row)?)?;
        if row.len() as u64 != *columns {
            return Err(format!("a list of {} within", row.len()));
        }
        all.extend(row);
    }
    Ok(all)
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
mod tests;
