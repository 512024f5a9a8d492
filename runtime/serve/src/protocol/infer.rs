//! Inference: texts in tensors, answers in tensors.

use std::sync::Arc;

use hyper::StatusCode;
use serde::Serialize;

use super::{
    Output,
    tensors::{Data, InferRequest, OutputTensor, parse, write},
};
use crate::{
    ask::{Answer, ask},
    reply::{Refusal, Reply},
    tasks::Resident,
};

/// Answers the texts of a request. `header_bytes` is the length of the JSON before binary tensors, where there are any.
///
/// # Errors
/// When the body is not a request for this task, or one of its texts has no answer.
pub(crate) async fn infer(resident: &Arc<Resident>, body: &[u8], header_bytes: Option<&str>) -> Result<Reply, Refusal> {
    let spec = resident.task.spec();
    let InferRequest { id, texts, wanted } = parse(body, header_bytes, spec)?;
    let questions = texts.into_iter().map(|text| (resident.clone(), Arc::new(text))).collect();
    let mut answers = Vec::new();
    for (at, answer) in ask(questions).await?.into_iter().enumerate() {
        answers.push(answer.map_err(|refusal| refusal.of(format_args!("text {}", at + 1)))?);
    }
    let tensors: Vec<OutputTensor> = wanted
        .into_iter()
        .map(|(output, binary)| {
            let mut shape = vec![answers.len()];
            if output == Output::Logits {
                shape.push(spec.kind().outputs());
            }
            OutputTensor { output, shape, binary, data: data(output, &answers) }
        })
        .collect();
    Ok(write(StatusCode::OK, &resident.name, &resident.version(), id.as_deref(), &tensors))
}

/// An output of all texts. [`Output::of`] asks a kind of task only for what its answers have.
fn data(output: Output, answers: &[Answer]) -> Data {
    let fields = answers.iter().map(|answer| answer.prediction.answer.fields());
    match output {
        Output::Label => Data::Bytes(fields.map(|said| said.label.unwrap_or_default().to_owned()).collect()),
        Output::Score => Data::Floats(fields.map(|said| said.score.unwrap_or_default()).collect()),
        Output::Value => Data::Floats(fields.map(|said| said.value.unwrap_or_default()).collect()),
        Output::Logits => {
            Data::Floats(answers.iter().flat_map(|answer| answer.prediction.logits.iter().copied()).collect())
        }
        Output::Tags => Data::Bytes(fields.map(|said| listed(said.tags)).collect()),
        Output::Spans => Data::Bytes(fields.map(|said| listed(said.spans)).collect()),
    }
}

/// A list as JSON.
fn listed(list: Option<&[impl Serialize]>) -> String {
    // What is written are strings, numbers and lists, which JSON always holds.
    serde_json::to_string(list.unwrap_or_default()).unwrap_or_default()
}
