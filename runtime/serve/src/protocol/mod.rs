//! The Open Inference Protocol, version 2, as KServe, Triton's clients and gateways speak it over HTTP, with Triton's
//! extensions for binary tensors and for the repository of models. A model is a task; its version is the patch's.
//!
//! <https://github.com/kserve/open-inference-protocol>,
//! <https://github.com/triton-inference-server/server/tree/main/docs/protocol>

mod infer;
mod repository;
mod tensors;

use edge_run::tasks;
use hyper::StatusCode;
use serde::Serialize;

use crate::{
    reply::{Refusal, Reply, json},
    tasks::{Listing, Resident},
};

pub(crate) use infer::infer;
pub(crate) use repository::{index, load, unload};
pub(crate) use tensors::HEADER_BYTES;

/// The name of the first text's input.
const TEXT: &str = "text";
/// The name of the second text's input.
const TEXT_PAIR: &str = "text_pair";

#[derive(Serialize)]
struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 2],
}

#[derive(Serialize)]
struct Model<'a> {
    name: &'a str,
    versions: [String; 1],
    platform: &'static str,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// The metadata of a tensor. In a shape, -1 stands for any number of texts.
#[derive(Serialize)]
struct Tensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

/// The metadata of this server.
pub(crate) fn server() -> Reply {
    let extensions = ["model_repository", "binary_tensor_data"];
    json(StatusCode::OK, &Server { name: "edge-serve", version: env!("CARGO_PKG_VERSION"), extensions })
}

/// The metadata of a task: its inputs and outputs.
pub(crate) fn metadata(resident: &Resident) -> Reply {
    let spec = resident.task.spec();
    let text = |name| Tensor { name, datatype: "BYTES", shape: vec![-1] };
    let output =
        |tensor: &tasks::Tensor| Tensor { name: tensor.name, datatype: tensor.datatype(), shape: tensor.any_shape() };
    let model = Model {
        name: &resident.name,
        versions: [resident.version()],
        platform: "edge_bias_patch",
        inputs: [TEXT, TEXT_PAIR].into_iter().take(usize::from(spec.inputs())).map(text).collect(),
        outputs: resident.task.kind().tensors().iter().map(output).collect(),
    };
    json(StatusCode::OK, &model)
}

/// A task by name and, if one is asked for, version.
///
/// # Errors
/// When there is none, or it has another version now.
pub(crate) fn find<'a>(
    listing: &'a Listing,
    name: &str,
    version: Option<&str>,
) -> Result<&'a std::sync::Arc<Resident>, Refusal> {
    let resident = listing.tasks.get(name).ok_or_else(|| Refusal::no_task(listing, name))?;
    match version.filter(|version| *version != resident.version()) {
        None => Ok(resident),
        Some(other) => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("task {name}: expected version {}, found {}", resident.version(), bias_patch::quoted(other)),
        )),
    }
}
