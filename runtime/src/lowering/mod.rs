//! Lowers an encoder's ONNX graph to a list of fused operators of the engine.
//!
//! In: the nodes of `encoder.onnx`, and where the panels file has each tensor. Out: an [`edge_engine::Model`]. Refused:
//! a graph that our operators do not cover whole; the refusal names the node, what was expected and what was found.
//! tract runs such a graph: see `tract.rs`.
//!
//! The search goes backwards from the outputs: each value asks for the pattern that ends in it, and that for its
//! inputs. Every attribute, constant and width that an operator relies on is read from the nodes and checked.
//!
//! A graph is also what it says about its surroundings: the version of ONNX's operators, and where in `weights.bin`
//! each tensor is. The engine reads the tensors of the manifest, so a graph that reads others of the same name is
//! refused.
//!
//! Letters: B batch, S sequence, E embedding width, H hidden width, n heads, D = H / n.

mod attention;
mod disentangled;
mod embedding;
mod frozen;
mod graph;
mod linear;
mod patterns;

use edge_bundle::{Manifest, PanelEntry, onnx};
use edge_engine::{Model, Tensor};

pub(crate) use self::graph::Uncovered;

/// The model of an encoder's graph whose frozen tensors lie as `tensor` says, in a file of `bytes` bytes.
///
/// # Errors
/// When our operators do not cover the graph.
pub(crate) fn lower(
    encoder: &onnx::Model,
    manifest: &Manifest,
    tensor: &dyn Fn(&str) -> Option<(PanelEntry, Tensor)>,
    bytes: usize,
) -> Result<Model, Uncovered> {
    patterns::lower(encoder, manifest, tensor, bytes)
}
