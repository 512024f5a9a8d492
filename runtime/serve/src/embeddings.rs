//! Embeddings of the texts of one request, for every form in which they are asked for.
//!
//! In: a text or a list of texts, as JSON, and how vectors are to be cut and normalized. Out: a vector for each text, and
//! their tokens. Refused: token ids, no texts, and more dimensions than the task has.

use std::sync::Arc;

use bias_patch::{Kind, quoted};
use edge_run::{Answer, Prediction, Text, tasks::normalize};
use serde_json::Value;

use crate::{ask::ask, clients::Client, reply::Refusal, tasks::Resident};

/// How vectors are asked for. What is not there is as the task has it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// Leading values to keep.
    pub dimensions: Option<usize>,
    /// Whether vectors are divided by their length, after they are cut.
    pub normalize: Option<bool>,
    /// Whether a text that does not fit is refused instead of cut.
    pub whole: bool,
}

/// The vectors of texts, in their order.
pub(crate) struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts, special tokens included.
    pub tokens: usize,
}

/// The texts of a field of a request.
///
/// # Errors
/// When it is neither a text nor a list of texts.
pub(crate) fn texts(field: &'static str, value: Value) -> Result<Vec<String>, Refusal> {
    let wrong = |found: String| Refusal::expected(field, "a text or a list of texts", found).about(field);
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) if list.is_empty() => Err(wrong("an empty list".to_owned())),
        Value::Array(list) => list
            .into_iter()
            .map(|one| match one {
                Value::String(text) => Ok(text),
                Value::Number(_) | Value::Array(_) => {
                    Err(wrong("token ids; send the text itself, for only this server knows its tokens".to_owned()))
                }
                other => Err(wrong(quoted(&other.to_string()))),
            })
            .collect(),
        other => Err(wrong(quoted(&other.to_string()))),
    }
}

/// The vectors of texts under a task of kind embedding. `field` is what the request calls the texts.
///
/// # Errors
/// When the task has fewer dimensions, or a text has no answer.
pub(crate) async fn embed(
    client: &Client,
    resident: &Arc<Resident>,
    field: &'static str,
    texts: Vec<String>,
    wanted: Wanted,
) -> Result<Embedded, Refusal> {
    // Before texts run: a request that is refused costs nothing.
    let width = resident.worker.encoder().dimensions(&resident.task).unwrap_or_default();
    if let Some(dimensions) = wanted.dimensions.filter(|dimensions| !(1..=width).contains(dimensions)) {
        let expected = format!("1 to {width}, as task {} has", resident.name);
        return Err(Refusal::expected("dimensions", expected, dimensions).about("dimensions"));
    }
    let questions = texts.into_iter().map(|text| (resident.clone(), Arc::new(Text::one(text)))).collect();
    let mut embedded = Embedded { vectors: Vec::new(), tokens: 0 };
    for (at, answer) in ask(client, questions).await?.into_iter().enumerate() {
        let place = format!("{field}: text {}", at + 1);
        let prediction = answer.map_err(|refusal| refusal.of(&place).about(field))?.prediction;
        if wanted.whole {
            resident.refuse_cut(&place, &prediction)?;
        }
        embedded.tokens += prediction.timing.tokens;
        embedded.vectors.push(vector(resident, prediction, wanted));
    }
    Ok(embedded)
}

/// The vector of one text.
fn vector(resident: &Resident, prediction: Prediction, wanted: Wanted) -> Vec<f32> {
    let (Answer::Vector(found), Kind::Embedding(spec)) = (prediction.answer, resident.task.spec().kind()) else {
        return Vec::new();
    };
    let width = found.len();
    let dimensions = wanted.dimensions.unwrap_or(width);
    let unit = wanted.normalize.unwrap_or(spec.normalize);
    if (dimensions, unit) == (width, spec.normalize) {
        return found;
    }
    // From the head's outputs, so that nothing is rounded twice.
    let mut vector = prediction.logits;
    vector.truncate(dimensions);
    if unit {
        normalize(&mut vector);
    }
    vector
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_one_or_a_list() {
        assert_eq!(texts("input", json!("a")).unwrap(), ["a"]);
        assert_eq!(texts("input", json!(["a", ""])).unwrap(), ["a", ""]);
        for (value, message) in [
            (json!([]), "input: expected a text or a list of texts, found an empty list"),
            (json!([1, 2]), "found token ids; send the text itself"),
            (json!([[1, 2], [3]]), "found token ids; send the text itself"),
            (json!(["a", null]), "found \"null\""),
            (json!(7), "found \"7\""),
        ] {
            let refusal = texts("input", value).unwrap_err();
            assert!(refusal.message.contains(message), "{}", refusal.message);
        }
    }
}
