//! Inference: texts in tensors, answers in tensors.

use std::sync::Arc;

use edge_run::Answer as Said;
use hyper::StatusCode;

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
    let said = answers.iter().map(|answer| &answer.prediction.answer);
    match output {
        Output::Label => Data::Bytes(
            said.map(|said| match said {
                Said::Labels(ranked) => ranked.first().map_or("", |best| &*best.label).to_owned(),
                Said::Spans(spans) => spans.first().map_or("", |best| &*best.text).to_owned(),
                Said::Value(_) | Said::Tags(_) => String::new(),
            })
            .collect(),
        ),
        Output::Score => Data::Floats(
            said.map(|said| match said {
                Said::Labels(ranked) => ranked.first().map_or(0.0, |best| best.score),
                Said::Spans(spans) => spans.first().map_or(0.0, |best| best.score),
                Said::Value(_) | Said::Tags(_) => 0.0,
            })
            .collect(),
        ),
        Output::Value => Data::Floats(
            said.map(|said| match said {
                Said::Value(value) => *value,
                Said::Labels(_) | Said::Tags(_) | Said::Spans(_) => 0.0,
            })
            .collect(),
        ),
        Output::Logits => {
            Data::Floats(answers.iter().flat_map(|answer| answer.prediction.logits.iter().copied()).collect())
        }
        // What is written are strings, numbers and lists, which JSON always holds.
        Output::Tags | Output::Spans => Data::Bytes(
            said.map(|said| match said {
                Said::Tags(tags) => serde_json::to_string(tags).unwrap_or_default(),
                Said::Spans(spans) => serde_json::to_string(spans).unwrap_or_default(),
                Said::Labels(_) | Said::Value(_) => String::new(),
            })
            .collect(),
        ),
    }
}
