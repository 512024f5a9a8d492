//! The patterns that edge-export writes, and the operator that each becomes.

use std::{cell::Cell, collections::HashMap};

use edge_bundle::{Manifest, PanelEntry, TensorEntry, onnx};
use edge_engine::{
    Activation, LayerNorm, Model, Outputs, Slot, Tensor,
    operators::{Dense, FirstToken, Middle, Norm, Operator, Residual},
};

use super::{
    frozen::Stored,
    graph::{Graph, Result, Uncovered, check_int, check_list},
};

/// Operators below each other: those of some 100 layers, few enough for the stack.
const MOST_DEPTH: usize = 512;

type Node = onnx::Node;

/// See [`super::lower`].
pub(super) fn lower<'a>(
    encoder: &'a onnx::Model,
    manifest: &'a Manifest,
    tensor: &dyn Fn(&str) -> Option<(PanelEntry, Tensor)>,
    bytes: usize,
) -> Result<Model> {
    let (slots, values) = places(manifest);
    let mut search = Search {
        graph: Graph::new(encoder)?,
        tensor,
        manifest,
        tensors: manifest.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
        slots,
        operators: Vec::new(),
        found: HashMap::new(),
        depth: Cell::new(0),
    };
    let outputs = encoder.graph.iter().flat_map(|graph| &graph.output);
    let names: Vec<&str> = outputs.map(|output| output.name()).collect();
    let (tokens, pooled) = match (&names[..], manifest.config.pooler) {
        ([tokens], false) => (*tokens, None),
        ([tokens, pooled], true) => (*tokens, Some(*pooled)),
        (_, pooler) => return Err(Uncovered::at("outputs", 1 + usize::from(pooler), names.len())),
    };
    let tokens = search.output(tokens, manifest)?;
    let pooled = pooled.map(|pooled| search.output(pooled, manifest)).transpose()?;
    Ok(Model::new(search.operators, Outputs { tokens, pooled }, values, bytes)?)
}

/// Where each slot is among the values of a task, by name, with its number; and how many values there are.
fn places(manifest: &Manifest) -> (HashMap<&str, (usize, Slot)>, usize) {
    let mut end = 0;
    let mut places = HashMap::new();
    for (number, slot) in manifest.slots.iter().enumerate() {
        // Lengths are below 2^24, as a manifest checks.
        let len = slot.len as usize;
        places.insert(slot.name.as_str(), (number, Slot { at: end, len }));
        end += len;
    }
    (places, end)
}

pub(super) struct Search<'a> {
    pub(super) graph: Graph<'a>,
    /// Where the engine has a tensor.
    pub(super) tensor: &'a dyn Fn(&str) -> Option<(PanelEntry, Tensor)>,
    pub(super) manifest: &'a Manifest,
    /// The manifest's tensors.
    pub(super) tensors: HashMap<&'a str, &'a TensorEntry>,
    slots: HashMap<&'a str, (usize, Slot)>,
    pub(super) operators: Vec<(Box<dyn Operator>, Vec<usize>)>,
    /// Operators of values that are lowered already.
    found: HashMap<&'a str, usize>,
    depth: Cell<usize>,
}

impl<'a> Search<'a> {
    /// Lowers an output, which is as wide as the manifest says: heads rely on it.
    fn output(&mut self, name: &'a str, manifest: &Manifest) -> Result<usize> {
        let at = self.value(name)?;
        let (due, found) = (manifest.config.hidden as usize, self.operators[at].0.width());
        match due == found {
            true => Ok(at),
            false => Err(Uncovered::at(name, format!("a width of {due}"), found)),
        }
    }

    /// Lowers the pattern that ends in a value, and gives its operator's number.
    pub(super) fn value(&mut self, name: &'a str) -> Result<usize> {
        if let Some(at) = self.found.get(name) {
            return Ok(*at);
        }
        let node = self.graph.producer(name)?;
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > MOST_DEPTH {
            return Err(Uncovered::node(node, format!("at most {MOST_DEPTH} operators below each other"), "more"));
        }
        let (operator, inputs): (Box<dyn Operator>, Vec<usize>) = match node.op_type() {
            "LayerNormalization" => self.normalized(node)?,
            "Add" if node.input.len() == 2 && !self.slots.contains_key(node.input[1].as_str()) => {
                self.residual(node, node, None)?
            }
            "Add" | "MatMul" => self.dense(name, node, None)?,
            "Gelu" | "Relu" | "Tanh" | "Mul" => {
                let (activation, before) = self.active(name)?.ok_or_else(|| unknown(node))?;
                self.dense(name, self.graph.producer(before)?, Some(activation))?
            }
            "Reshape" => self.attention(node)?,
            "Gather" => self.first_token(node)?,
            _ => return Err(unknown(node)),
        };
        self.depth.set(self.depth.get() - 1);
        self.operators.push((operator, inputs));
        self.found.insert(name, self.operators.len() - 1);
        Ok(self.operators.len() - 1)
    }

    /// LayerNormalization: of embedding rows; of the sum of a block and its input, if nothing else reads that sum; or of
    /// another operator's output.
    fn normalized(&mut self, node: &'a Node) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let norm = self.layer_norm(node)?;
        if let Some(embedding) = self.embedding(node, &norm)? {
            return Ok((Box::new(embedding), vec![]));
        }
        match self.graph.find(&node.input[0], "Add")? {
            Some(sum) if sum.input.len() == 2 && self.graph.has_one_reader(&node.input[0]) => {
                self.residual(node, sum, Some(norm))
            }
            _ => {
                let inputs = vec![self.value(&node.input[0])?];
                Ok((Box::new(Norm { name: node.name().to_owned(), norm }), inputs))
            }
        }
    }

    /// Add(block, x): a linear layer or an MLP, and what it is added to. `node` is what it ends in.
    fn residual(
        &mut self,
        node: &'a Node,
        sum: &'a Node,
        norm: Option<LayerNorm>,
    ) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let (linear, mut x) = self.linear(self.graph.producer(&sum.input[0])?)?;
        let middle = self.middle(x)?.map(|(middle, of_middle)| {
            x = of_middle;
            middle
        });
        let inputs = vec![self.value(x)?, self.value(&sum.input[1])?];
        Ok((Box::new(Residual { name: node.name().to_owned(), middle, linear, norm }), inputs))
    }

    /// The middle of an MLP that a value is, f(linear) or Mul(f(linear), linear), and the name of what it reads; none if
    /// the value is something else.
    fn middle(&self, name: &'a str) -> Result<Option<(Middle, &'a str)>> {
        let gated = self.graph.find(name, "Mul")?.map(|gated| (gated, &gated.input[..]));
        let (active, gate) = match (self.active(name)?, gated) {
            // SiLU is a Mul too.
            (Some(active), _) => (Some(active), None),
            (None, Some((gated, [active, gate]))) => (self.active(active)?, Some((gated, gate))),
            (None, _) => (None, None),
        };
        let Some((activation, before)) = active else { return Ok(None) };
        let (layer, x) = self.linear(self.graph.producer(before)?)?;
        let mut layers = vec![layer];
        if let Some((gated, gate)) = gate {
            let (gate, of_gate) = self.linear(self.graph.producer(gate)?)?;
            if of_gate != x {
                return Err(Uncovered::node(gated, "middle and gate of one input", format!("{x} and {of_gate}")));
            }
            layers.push(gate);
        }
        Ok(Some((Middle { layers, activation }, x)))
    }

    /// The activation that a value is of another one, and that one's name; none if it is something else. SiLU is Mul(x,
    /// Sigmoid(x)).
    fn active(&self, name: &str) -> Result<Option<(Activation, &'a str)>> {
        let Ok(node) = self.graph.producer(name) else { return Ok(None) };
        match (node.op_type(), &node.input[..]) {
            ("Gelu" | "Relu" | "Tanh", [x]) => Ok(Some((activation(node)?, x))),
            ("Gelu" | "Relu" | "Tanh", _) => Err(unknown(node)),
            ("Mul", [x, factor]) => {
                let sigmoid = self.graph.find(factor, "Sigmoid")?;
                Ok(sigmoid.filter(|sigmoid| sigmoid.input == [x.as_str()]).map(|_| (Activation::Silu, x.as_str())))
            }
            _ => Ok(None),
        }
    }

    /// LayerNormalization over the last axis, with a frozen gain, and a slot for its bias or none.
    fn layer_norm(&self, node: &'a Node) -> Result<LayerNorm> {
        // Over the last axis: -1 is ONNX's default. Its default epsilon is 1e-5, and its statistics are f32's.
        check_int(node, "axis", &[-1], -1)?;
        check_int(node, "stash_type", &[1], 1)?;
        let epsilon = node.attribute("epsilon").map_or(1e-5, |a| a.f());
        let (gain, bias) = match &node.input[..] {
            [_, gain] => (gain, None),
            [_, gain, bias] => (gain, Some(self.slot(node, bias)?.1)),
            _ => return Err(unknown(node)),
        };
        let gain = self.frozen(node, gain, Stored::Vector)?;
        Ok(LayerNorm { gain, bias, epsilon })
    }

    /// A linear layer, and its activation.
    fn dense(
        &mut self,
        name: &str,
        layer: &'a Node,
        activation: Option<Activation>,
    ) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let (linear, x) = self.linear(layer)?;
        let x = self.value(x)?;
        Ok((Box::new(Dense { name: name.to_owned(), linear, activation }), vec![x]))
    }

    /// What a value is the transpose of, in this order of dimensions.
    pub(super) fn transposed(&self, name: &str, order: &[i64]) -> Result<&'a str> {
        let node = self.graph.step(name, "Transpose", 1)?;
        let found = node.attribute("perm").map_or(&[][..], |a| &a.ints);
        check_list(node, "perm", order, found)?;
        Ok(&node.input[0])
    }

    /// Gather(x, 0, axis 1): the first token of each sequence.
    fn first_token(&mut self, node: &'a Node) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let [x, index] = &node.input[..] else { return Err(unknown(node)) };
        check_int(node, "axis", &[1], 0)?;
        check_list(node, "the token", &[0], &self.graph.integers(index)?)?;
        // A scalar, so that the dimension goes.
        check_list(node, "an index of shape", &[], &self.graph.constant(index)?.dims)?;
        let x = self.value(x)?;
        let width = self.operators[x].0.width();
        Ok((Box::new(FirstToken { name: node.name().to_owned(), width }), vec![x]))
    }

    /// The slot that a value is, and its number.
    pub(super) fn slot(&self, node: &Node, name: &str) -> Result<(usize, Slot)> {
        let slot = self.slots.get(name).copied().filter(|_| self.graph.is_input(name));
        slot.ok_or_else(|| Uncovered::node(node, "a bias that is a slot of the manifest", name))
    }
}

/// The activation that a node of one input is.
fn activation(node: &Node) -> Result<Activation> {
    let approximate = node.attribute("approximate").map(|a| a.s());
    match (node.op_type(), approximate) {
        ("Gelu", None | Some(b"none")) => Ok(Activation::Gelu),
        ("Gelu", Some(b"tanh")) => Ok(Activation::GeluTanh),
        ("Relu", None) => Ok(Activation::Relu),
        ("Tanh", None) => Ok(Activation::Tanh),
        (op, other) => {
            let other = String::from_utf8_lossy(other.unwrap_or_default());
            Err(Uncovered::node(node, "an approximation of none or tanh", format!("{op} by {other}")))
        }
    }
}

pub(super) fn unknown(node: &Node) -> Uncovered {
    Uncovered::node(node, "a pattern that edge-export writes", format!("{} of {}", node.op_type(), node.input.len()))
}
