//! Inference.
//!
//! In: texts in tensors. Out: answers in tensors. Refused: a body that is not a request for this task,
//! and entities of a task that does not tag.

use std::sync::Arc;

use edge_run::tasks::Tensor;
use hyper::StatusCode;

use super::tensors::{InferRequest, OutputTensor, parse, wanted, write};
use crate::{
    ask::ask,
    clients::Client,
    reply::{Refusal, Reply},
    tasks::Resident,
};

/// Answers the texts of a request. `header_bytes` is the length of the JSON before binary tensors, where there are any.
///
/// # Errors
/// When the body is not a request for this task, or one of its texts has no answer.
pub(crate) async fn infer(
    client: &Client,
    resident: &Arc<Resident>,
    body: &[u8],
    header_bytes: Option<&str>,
) -> Result<Reply, Refusal> {
    let request = parse(body, header_bytes, resident.task.spec().inputs())?;
    let grouped = match request.entities {
        Some(strategy) => Some(resident.with_entities(strategy).map_err(|error| Refusal::bad(error.to_string()))?),
        None => None,
    };
    let resident = grouped.as_ref().unwrap_or(resident);
    let wanted = wanted(&request, &resident.task.kind().tensors())?;
    let InferRequest { id, texts, .. } = request;
    let questions = texts.into_iter().map(|text| (resident.clone(), Arc::new(text))).collect();
    let mut answers = Vec::new();
    for (at, answer) in ask(client, questions).await?.into_iter().enumerate() {
        answers.push(answer.map_err(|refusal| refusal.of(format_args!("text {}", at + 1)))?);
    }
    let output = |(tensor, binary): (Tensor, bool)| {
        let data = tensor.data(answers.iter().map(|answer| &answer.prediction));
        OutputTensor { tensor, shape: tensor.shape(answers.len(), data.count()), binary, data }
    };
    let tensors: Vec<OutputTensor> = wanted.into_iter().map(output).collect();
    Ok(write(StatusCode::OK, &resident.name, &resident.version(), id.as_deref(), &tensors))
}
