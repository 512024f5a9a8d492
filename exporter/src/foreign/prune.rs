//! Keeps of a graph what its hidden states need.
//!
//! In: a graph with any outputs. Out: the graph with the outputs `last_hidden_state` and perhaps `pooler_output`, and
//! without nodes, constants and defaults that these do not need. Refused: graphs without hidden states.

use std::{collections::HashSet, path::Path};

use edge_bundle::onnx::{Graph, ValueInfo};

use super::{OUTPUTS, refused};
use crate::Result;

/// What other programs call the hidden states.
const HIDDEN: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// Keeps the outputs that a bundle has, under its names.
pub(super) fn outputs(file: &Path, graph: &mut Graph) -> Result<()> {
    let names = graph.output.iter().map(|output| output.name()).collect::<Vec<_>>().join(", ");
    let all = std::mem::take(&mut graph.output);
    if let Some(kept) = all.iter().find(|output| output.name().starts_with("present")) {
        let expected = "the outputs of an encoder; a decoder's past keys and values are not supported";
        return Err(refused(file, "outputs", expected, kept.name()));
    }
    let named = |name: &str| all.iter().find(|output| output.name() == name);
    // Without a name that says so, the first output may be hidden states if it has their dimensions.
    let first = all.first().filter(|output| output.dims().len() == 3 && !output.name().contains("logits"));
    let Some(hidden) = HIDDEN.into_iter().find_map(named).or(first) else {
        let expected = "last_hidden_state of [batch, sequence, hidden], as `optimum-cli export onnx --task \
                        feature-extraction` gives";
        return Err(refused(file, "outputs", expected, names));
    };
    let pooled = named(OUTPUTS[1]).filter(|output| matches!(output.dims().len(), 0 | 2));
    let pairs: Vec<(ValueInfo, &str)> = [(Some(hidden), OUTPUTS[0]), (pooled, OUTPUTS[1])]
        .into_iter()
        .filter_map(|(o, n)| Some((o?.clone(), n)))
        .collect();
    for (mut output, name) in pairs {
        if output.name() != name {
            rename(file, graph, output.name(), name)?;
            output.name = Some(name.to_owned());
        }
        graph.output.push(output);
    }
    unused(graph);
    // Initializers that are inputs too are defaults; here they are constants.
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    graph.input.retain(|input| !constants.contains(input.name()));
    Ok(())
}

/// Gives a value that a node computes another name.
fn rename(file: &Path, graph: &mut Graph, from: &str, to: &str) -> Result<()> {
    let computed = |name: &str| graph.node.iter().any(|node| node.output.iter().any(|output| output == name));
    if !computed(from) || computed(to) {
        return Err(refused(file, from, format!("a value that can be called {to}"), "another of that name"));
    }
    let names = graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
    names.filter(|name| *name == from).for_each(|name| to.clone_into(name));
    Ok(())
}

/// Drops nodes and constants that no output needs.
pub(super) fn unused(graph: &mut Graph) {
    let mut needed: HashSet<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let mut nodes = std::mem::take(&mut graph.node);
    // Nodes come in an order in which they can run, so those that read a value come after the one that computes it.
    nodes.reverse();
    nodes.retain(|node| {
        let kept = node.output.iter().any(|name| needed.contains(name));
        if kept {
            needed.extend(node.input.iter().cloned());
        }
        kept
    });
    nodes.reverse();
    graph.node = nodes;
    graph.initializer.retain(|tensor| needed.contains(tensor.name()));
}
