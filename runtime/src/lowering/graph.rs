//! An ONNX graph, asked for nodes, attributes and constants by name.
//!
//! In: the protobuf messages. Out: what was asked for, checked, or an [`Uncovered`] that says what is there instead.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
};

use edge_bundle::onnx::{self, FLOAT, INT64, Node, OPSET, Tensor};
use thiserror::Error;

/// Why our operators do not cover a graph.
#[derive(Debug, Error)]
#[error("{place}: expected {expected}, found {found}")]
pub(crate) struct Uncovered {
    place: String,
    expected: String,
    found: String,
}

pub(super) type Result<T> = std::result::Result<T, Uncovered>;

impl Uncovered {
    /// A node that is not as due.
    pub fn node(node: &Node, expected: impl Display, found: impl Display) -> Self {
        Self::at(format!("node {}", node.name()), expected, found)
    }

    /// A value or a part that is not as due.
    pub fn at(place: impl Into<String>, expected: impl Display, found: impl Display) -> Self {
        Uncovered { place: place.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

impl From<edge_engine::Error> for Uncovered {
    fn from(error: edge_engine::Error) -> Self {
        Self::at("the operators", "parts that fit each other", error)
    }
}

/// A graph by its names.
pub(super) struct Graph<'a> {
    producers: HashMap<&'a str, &'a Node>,
    constants: HashMap<&'a str, &'a Tensor>,
    inputs: HashSet<&'a str>,
    /// How many nodes and outputs read a value.
    readers: HashMap<&'a str, usize>,
}

impl<'a> Graph<'a> {
    /// Checks that the graph is of the operators that the patterns are written for, that it names each value once, and
    /// that nodes come after what they read, as ONNX requires, so that a search for what a value is made of ends.
    pub fn new(model: &'a onnx::Model) -> Result<Self> {
        let operators = model.opset_import.iter().find(|set| is_of_onnx(set.domain())).map_or(0, |set| set.version());
        if operators != OPSET {
            return Err(Uncovered::at("operator set", format!("version {OPSET} of ONNX's"), operators));
        }
        let graph = model.graph.as_ref().ok_or_else(|| Uncovered::at("encoder.onnx", "a graph", "none"))?;
        let inputs: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
        let constants: HashMap<&str, &Tensor> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        if constants.len() != graph.initializer.len() {
            let found = format!("{} names of {}", constants.len(), graph.initializer.len());
            return Err(Uncovered::at("constants", "each named once", found));
        }
        let mut producers = HashMap::new();
        for node in &graph.node {
            let given = |name: &str| inputs.contains(name) || constants.contains_key(name);
            if let Some(unknown) = node.input.iter().find(|name| !given(name) && !producers.contains_key(name.as_str()))
            {
                return Err(Uncovered::node(node, "inputs that are computed before it", unknown));
            }
            for output in &node.output {
                if given(output) || producers.insert(output.as_str(), node).is_some() {
                    return Err(Uncovered::node(node, "each value computed once", output));
                }
            }
        }
        let mut readers = HashMap::new();
        let outputs = graph.output.iter().map(|output| output.name());
        for name in graph.node.iter().flat_map(|node| node.input.iter().map(String::as_str)).chain(outputs) {
            *readers.entry(name).or_default() += 1;
        }
        Ok(Graph { producers, constants, inputs, readers })
    }

    /// The node whose first output a value is, an operator of ONNX without attributes that nobody here reads.
    pub fn producer(&self, name: &str) -> Result<&'a Node> {
        let node = self.producers.get(name).ok_or_else(|| Uncovered::at(name, "a node that computes it", "none"))?;
        if node.output.first().is_none_or(|first| first != name) {
            return Err(Uncovered::node(node, "its first output to be read", name));
        }
        check_operator(node)?;
        Ok(node)
    }

    /// As [`Graph::producer`], if it is of this type.
    pub fn find(&self, name: &str, op: &str) -> Result<Option<&'a Node>> {
        let is_op = self.producers.get(name).is_some_and(|node| node.op_type() == op);
        is_op.then(|| self.producer(name)).transpose()
    }

    /// The node that computes a value, of this type, with as many inputs.
    pub fn step(&self, name: &str, op: &str, inputs: usize) -> Result<&'a Node> {
        let node = self.producer(name)?;
        if node.op_type() != op || node.input.len() != inputs {
            let found = format!("{} of {}", node.op_type(), node.input.len());
            return Err(Uncovered::node(node, format!("{op} of {inputs} inputs"), found));
        }
        Ok(node)
    }

    /// Whether one node alone reads a value.
    pub fn has_one_reader(&self, name: &str) -> bool {
        self.readers.get(name) == Some(&1)
    }

    /// Whether a value is an input of the graph.
    pub fn is_input(&self, name: &str) -> bool {
        self.inputs.contains(name)
    }

    /// Whether a value is a constant: not the default of an input, which earlier versions wrote for the mask and token
    /// types.
    pub fn is_constant(&self, name: &str) -> bool {
        self.constants.contains_key(name) && !self.is_input(name)
    }

    /// A constant: not the default of an input.
    pub fn constant(&self, name: &str) -> Result<&'a Tensor> {
        let tensor = self.constants.get(name).copied().filter(|_| !self.is_input(name));
        tensor.ok_or_else(|| Uncovered::at(name, "a constant", "another value"))
    }

    /// Checks that a value is an input that need not be given, whose default is of floats and has these dimensions.
    pub fn check_default(&self, name: &str, dims: &[i64]) -> Result<()> {
        if !self.is_input(name) {
            return Err(Uncovered::at(name, "an input of the graph", "another value"));
        }
        let due = || format!("a default of type {FLOAT} and dimensions {dims:?}");
        let default = self.constants.get(name).ok_or_else(|| Uncovered::at(name, due(), "none"))?;
        match default.data_type() == FLOAT && default.dims == dims {
            true => Ok(()),
            false => {
                let found = format!("one of type {} and {:?}", default.data_type(), default.dims);
                Err(Uncovered::at(name, due(), found))
            }
        }
    }

    /// The values of a constant of 64-bit integers.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.raw(name, INT64)?.iter().map(|raw| i64::from_le_bytes(*raw)).collect())
    }

    /// The values of a constant of floats.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.raw(name, FLOAT)?.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
    }

    /// The value of a constant of one f32, which changes no shape where it meets a matrix.
    pub fn number(&self, name: &str) -> Result<f32> {
        let dims = &self.constant(name)?.dims;
        if dims.len() > 1 {
            return Err(Uncovered::at(name, "at most one dimension", dims.len()));
        }
        match self.raw(name, FLOAT)? {
            [raw] => Ok(f32::from_le_bytes(*raw)),
            several => Err(Uncovered::at(name, "one number", several.len())),
        }
    }

    /// The values of a constant in the graph, N bytes each, as many as its dimensions say.
    fn raw<const N: usize>(&self, name: &str, data_type: i32) -> Result<&'a [[u8; N]]> {
        let tensor = self.constant(name)?;
        let raw = tensor.raw_data.as_deref().filter(|_| tensor.data_type() == data_type && !tensor.is_external());
        let other = || Uncovered::at(name, format!("a constant of type {data_type} in the graph"), "another");
        let raw = raw.ok_or_else(other)?;
        let (values, rest) = raw.as_chunks();
        let count = tensor.dims.iter().try_fold(1usize, |n, dim| n.checked_mul(usize::try_from(*dim).ok()?));
        if !rest.is_empty() || count != Some(values.len()) {
            let expected = format!("values of {N} bytes for the dimensions {:?}", tensor.dims);
            return Err(Uncovered::at(name, expected, format!("{} bytes", raw.len())));
        }
        Ok(values)
    }
}

fn is_of_onnx(domain: &str) -> bool {
    ["", "ai.onnx"].contains(&domain)
}

/// Checks that an operator is ONNX's own, and that it has no attributes but those that the patterns check.
fn check_operator(node: &Node) -> Result<()> {
    if !is_of_onnx(node.domain()) {
        return Err(Uncovered::node(node, "an operator of ONNX", format!("{} of {}", node.op_type(), node.domain())));
    }
    let known: &[&str] = match node.op_type() {
        "Cast" => &["to"],
        "Concat" | "Gather" | "GatherElements" | "Softmax" => &["axis"],
        "Gelu" => &["approximate"],
        "LayerNormalization" => &["axis", "epsilon", "stash_type"],
        "Reshape" => &["allowzero"],
        "Shape" => &["start", "end"],
        "Transpose" => &["perm"],
        "Abs" | "Add" | "CumSum" | "Equal" | "Expand" | "MatMul" | "Mul" | "Not" | "Relu" | "Sigmoid" | "Slice"
        | "Sub" | "Tanh" | "Unsqueeze" => &[],
        // No pattern has it.
        _ => return Ok(()),
    };
    match node.attribute.iter().find(|a| !known.contains(&a.name())) {
        None => Ok(()),
        Some(other) => Err(Uncovered::node(node, format!("a {} with known attributes", node.op_type()), other.name())),
    }
}

/// Checks that a node's attribute has a value, `default` where it is not given.
pub(super) fn check_int(node: &Node, name: &str, expected: &[i64], default: i64) -> Result<()> {
    let found = node.attribute(name).map_or(default, |a| a.i());
    match expected.contains(&found) {
        true => Ok(()),
        false => Err(Uncovered::node(node, format!("{name} {}", expected[0]), found)),
    }
}

/// Checks that a list is as due.
pub(super) fn check_list(node: &Node, what: &str, expected: &[i64], found: &[i64]) -> Result<()> {
    match expected == found {
        true => Ok(()),
        false => Err(Uncovered::node(node, format!("{what} {expected:?}"), format!("{found:?}"))),
    }
}
