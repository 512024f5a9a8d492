//! Who gives a value of a graph: a node, or a constant.
//!
//! In: a graph. Out: lookups by name. Nothing is refused: of a name that nothing gives there is nothing.

use std::collections::HashMap;

use edge_bundle::onnx::{FLOAT, Graph, Node, Tensor};

/// Operators that give what they take, in another shape or type.
pub(super) const SAME_VALUES: [&str; 8] =
    ["Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Flatten"];
/// How many nodes are followed from one to the next.
const DEPTH: usize = 16;

/// A graph by the names of its values.
pub(super) struct Wiring<'g> {
    producers: HashMap<&'g str, &'g Node>,
    constants: HashMap<&'g str, &'g Tensor>,
}

impl<'g> Wiring<'g> {
    pub fn of(graph: &'g Graph) -> Self {
        let outputs = |node: &'g Node| node.output.iter().map(move |name| (name.as_str(), node));
        Wiring {
            producers: graph.node.iter().flat_map(outputs).collect(),
            constants: graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect(),
        }
    }

    /// The node that computes a value.
    pub fn producer(&self, name: &str) -> Option<&'g Node> {
        self.producers.get(name).copied()
    }

    /// The constant of that name, or that nodes of these operators make it of.
    pub fn constant(&self, name: &str, through: &[&str]) -> Option<&'g Tensor> {
        let mut name = name;
        for _ in 0..DEPTH {
            if let Some(tensor) = self.constants.get(name) {
                return Some(tensor);
            }
            let node = self.producer(name).filter(|node| through.contains(&node.op_type()))?;
            name = node.input.first()?;
        }
        None
    }

    /// A constant vector of floats.
    pub fn vector(&self, name: &str) -> Option<&'g Tensor> {
        let found = self.constant(name, &[]);
        found.filter(|tensor| tensor.data_type() == FLOAT && matches!(tensor.dims[..], [count] if count > 0))
    }

    /// A constant matrix of floats, or one of more dimensions, in any order of them.
    pub fn matrix(&self, name: &str) -> Option<&'g Tensor> {
        let found = self.constant(name, &SAME_VALUES);
        found.filter(|tensor| tensor.data_type() == FLOAT && tensor.dims.len() > 1)
    }
}
