//! The patterns that edge-export writes, and the operator that each becomes.

use std::{cell::Cell, collections::HashMap};

use edge_bundle::{Manifest, PanelEntry, TensorEntry, onnx};
use edge_engine::{
    Activation, LayerNorm, Linear, Model, Outputs, Slot, Tensor,
    operators::{Attention, Dense, Embedding, FirstToken, Operator, ResidualNorm},
};

use super::{
    frozen::Stored,
    graph::{Graph, Result, Uncovered, check_int, check_list},
};

/// Operators below each other: those of some 250 layers, few enough for the stack.
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
    operators: Vec<(Box<dyn Operator>, Vec<usize>)>,
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
    fn value(&mut self, name: &'a str) -> Result<usize> {
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
            "Add" | "MatMul" => self.dense(name, node, None)?,
            "Gelu" | "Relu" | "Tanh" => {
                let [before] = &node.input[..] else { return Err(unknown(node)) };
                self.dense(name, self.graph.producer(before)?, activation(node)?)?
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

    /// LayerNormalization of a sum: of embedding rows, or of a linear layer and its block's input.
    fn normalized(&mut self, node: &'a Node) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let norm = self.layer_norm(node)?;
        let sum = self.graph.step(&node.input[0], "Add", 2)?;
        if let Some(embedding) = self.embedding(node, sum, &norm)? {
            return Ok((Box::new(embedding), vec![]));
        }
        let (linear, mut x) = self.linear(self.graph.producer(&sum.input[0])?)?;
        let mut middle = None;
        if let Some(before) = self.graph.producer(x).ok().filter(|node| is_activation(node)) {
            let [input] = &before.input[..] else { return Err(unknown(before)) };
            let (layer, of_layer) = self.linear(self.graph.producer(input)?)?;
            middle = activation(before)?.map(|activation| (layer, activation));
            x = of_layer;
        }
        let inputs = vec![self.value(x)?, self.value(&sum.input[1])?];
        let name = node.name().to_owned();
        Ok((Box::new(ResidualNorm { name, middle, linear, norm }), inputs))
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

    /// The rows of a sum of words, positions and perhaps types; none if the sum is something else.
    fn embedding(&self, node: &'a Node, sum: &'a Node, norm: &LayerNorm) -> Result<Option<Embedding>> {
        let graph = &self.graph;
        let (inner, types) = match (graph.find(&sum.input[0], "Add")?, graph.find(&sum.input[1], "Gather")?) {
            (Some(inner), Some(types)) if inner.input.len() == 2 => (inner, Some(types)),
            _ => (sum, None),
        };
        let (Some(words), Some(positions)) =
            (graph.find(&inner.input[0], "Gather")?, graph.find(&inner.input[1], "Slice")?)
        else {
            return Ok(None);
        };
        let (words_table, ids) = self.gathered(words)?;
        if ids != "input_ids" || !graph.is_input(ids) {
            return Err(Uncovered::node(words, "rows of input_ids", ids));
        }
        let types = types.map(|types| self.types(types)).transpose()?;
        let (positions, first_position) = self.positions(positions)?;
        Ok(Some(Embedding {
            name: node.name().to_owned(),
            words: words_table,
            positions,
            first_position,
            types,
            norm: norm.clone(),
        }))
    }

    /// The table that a node gathers rows of, and the name of their numbers.
    fn gathered(&self, node: &'a Node) -> Result<(Tensor, &'a str)> {
        check_int(node, "axis", &[0], 0)?;
        let [table, numbers] = &node.input[..] else { return Err(unknown(node)) };
        Ok((self.frozen(node, table, Stored::Table)?, numbers))
    }

    /// The table of token types: rows of token_type_ids, or the one row that all tokens have.
    fn types(&self, node: &'a Node) -> Result<Tensor> {
        let (table, numbers) = self.gathered(node)?;
        let only = self.graph.is_constant(numbers);
        if only {
            check_list(node, "rows", &[0], &self.graph.integers(numbers)?)?;
            // More dimensions than the words have would be the sum's too.
            let dims = self.graph.constant(numbers)?.dims.len();
            if dims > 2 {
                return Err(Uncovered::node(node, "rows in at most two dimensions", dims));
            }
        } else if numbers != "token_type_ids" || !self.graph.is_input(numbers) {
            return Err(Uncovered::node(node, "rows of token_type_ids", numbers));
        }
        // The operator reads the types of tokens where the table has several rows.
        match only == (table.rows == 1) {
            true => Ok(table),
            false => Err(Uncovered::node(node, "a row for each token type", format!("{} of them", table.rows))),
        }
    }

    /// Slice(table, first, first + S, 0), S being the length of input_ids: the table and `first`.
    fn positions(&self, node: &'a Node) -> Result<(Tensor, usize)> {
        let graph = &self.graph;
        let (table, first, end, axis) = match &node.input[..] {
            [table, first, end, axis] => (table, first, end, axis),
            [table, first, end, axis, steps] => {
                check_list(node, "steps", &[1], &graph.integers(steps)?)?;
                (table, first, end, axis)
            }
            _ => return Err(unknown(node)),
        };
        check_list(node, "axes", &[0], &graph.integers(axis)?)?;
        let end = graph.step(end, "Add", 2)?;
        let length = graph.step(&end.input[0], "Shape", 1)?;
        check_int(length, "start", &[1, -1], 0)?;
        check_int(length, "end", &[2], i64::MAX)?;
        if end.input[1] != *first || length.input[0] != "input_ids" {
            return Err(Uncovered::node(end, "the length of input_ids after the first position", "another end"));
        }
        let first = graph.integers(first)?;
        let [first] = first[..] else { return Err(Uncovered::node(node, "one first position", first.len())) };
        let table = self.frozen(node, table, Stored::Table)?;
        let inside = usize::try_from(first).ok().filter(|first| *first < table.rows);
        let due = || format!("a first position from 0 below {}", table.rows);
        let first = inside.ok_or_else(|| Uncovered::node(node, due(), first))?;
        Ok((table, first))
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

    /// The heads of Reshape(Transpose(MatMul(Softmax(Add(Mul(MatMul(q, k), scale), penalty)), v))), q, k and v each
    /// being Transpose(Reshape(linear)). The penalty is of padding, which a batch of the engine does not have.
    fn attention(&mut self, join: &'a Node) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let graph = &self.graph;
        let [context, joined] = &join.input[..] else { return Err(unknown(join)) };
        let context = self.transposed(context, &[0, 2, 1, 3])?;
        let context = graph.step(context, "MatMul", 2)?;
        let softmax = graph.step(&context.input[0], "Softmax", 1)?;
        check_int(softmax, "axis", &[-1, 3], -1)?;
        let masked = graph.step(&softmax.input[0], "Add", 2)?;
        self.penalty(&masked.input[1])?;
        let scaled = graph.step(&masked.input[0], "Mul", 2)?;
        let scores = graph.step(&scaled.input[0], "MatMul", 2)?;
        // q and v are [B, n, S, D], k is [B, n, D, S].
        let (query, x, heads) = self.projection(&scores.input[0], &[0, 2, 1, 3])?;
        let (key, of_key, of_key_heads) = self.projection(&scores.input[1], &[0, 2, 3, 1])?;
        let (value, of_value, of_value_heads) = self.projection(&context.input[1], &[0, 2, 1, 3])?;
        if x != of_key || x != of_value || heads != of_key_heads || heads != of_value_heads {
            return Err(Uncovered::node(join, "queries, keys and values of one input", "several"));
        }
        let [count, depth] = heads;
        check_int(join, "allowzero", &[0], 0)?;
        check_list(join, "a shape", &[0, 0, count.saturating_mul(depth)], &graph.integers(joined)?)?;
        let due = 1.0 / (depth as f32).sqrt();
        let found = graph.number(&scaled.input[1])?;
        // Numbers apart by roundings; a NaN is apart from all.
        let close = (found - due).abs() <= 1e-6 * due;
        if !close {
            return Err(Uncovered::node(scaled, format!("a scale of {due}"), found));
        }
        let heads = usize::try_from(count).map_err(|_| Uncovered::node(join, "heads", count))?;
        let (due, width) = (query.weight.columns, count.saturating_mul(depth));
        if usize::try_from(width) != Ok(due) {
            return Err(Uncovered::node(join, format!("heads of {due} columns"), width));
        }
        let inputs = vec![self.value(x)?];
        let name = join.name().to_owned();
        Ok((Box::new(Attention { name, layers: [query, key, value], heads }), inputs))
    }

    /// A query, key or value: its layer, the name of the layer's input, and how many heads of how many columns it has.
    fn projection(&self, name: &str, order: &[i64]) -> Result<(Linear, &'a str, [i64; 2])> {
        let split = self.graph.step(self.transposed(name, order)?, "Reshape", 2)?;
        check_int(split, "allowzero", &[0], 0)?;
        let shape = self.graph.integers(&split.input[1])?;
        let (heads, depth) = match shape[..] {
            [0, 0, heads, depth] if heads > 0 && depth > 0 => (heads, depth),
            _ => return Err(Uncovered::node(split, "a shape of heads, [0, 0, n, D]", format!("{shape:?}"))),
        };
        let (layer, x) = self.linear(self.graph.producer(&split.input[0])?)?;
        Ok((layer, x, [heads, depth]))
    }

    /// What a value is the transpose of, in this order of dimensions.
    pub(super) fn transposed(&self, name: &str, order: &[i64]) -> Result<&'a str> {
        let node = self.graph.step(name, "Transpose", 1)?;
        let found = node.attribute("perm").map_or(&[][..], |a| &a.ints);
        check_list(node, "perm", order, found)?;
        Ok(&node.input[0])
    }

    /// Unsqueeze((1 - attention_mask) * lowest, [1, 2]): nothing where there is a token.
    fn penalty(&self, name: &str) -> Result<()> {
        let graph = &self.graph;
        let unsqueezed = graph.step(name, "Unsqueeze", 2)?;
        check_list(unsqueezed, "axes", &[1, 2], &graph.integers(&unsqueezed.input[1])?)?;
        let penalty = graph.step(&unsqueezed.input[0], "Mul", 2)?;
        let padding = graph.step(&penalty.input[0], "Sub", 2)?;
        let cast = graph.step(&padding.input[1], "Cast", 1)?;
        check_int(cast, "to", &[onnx::FLOAT.into()], 0)?;
        let (one, lowest) = (graph.number(&padding.input[0])?, graph.number(&penalty.input[1])?);
        if one != 1.0 || !lowest.is_finite() || cast.input[0] != "attention_mask" || !graph.is_input(&cast.input[0]) {
            return Err(Uncovered::node(
                penalty,
                "a penalty of padding: (1 - attention_mask) times a number",
                "another",
            ));
        }
        Ok(())
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

fn is_activation(node: &Node) -> bool {
    matches!(node.op_type(), "Gelu" | "Relu" | "Tanh")
}

/// The activation that a node is.
fn activation(node: &Node) -> Result<Option<Activation>> {
    let approximate = node.attribute("approximate").map(|a| a.s());
    match (node.op_type(), approximate) {
        ("Gelu", None | Some(b"none")) => Ok(Some(Activation::Gelu)),
        ("Gelu", Some(b"tanh")) => Ok(Some(Activation::GeluTanh)),
        ("Relu", None) => Ok(Some(Activation::Relu)),
        ("Tanh", None) => Ok(Some(Activation::Tanh)),
        (op, other) => {
            let other = String::from_utf8_lossy(other.unwrap_or_default());
            Err(Uncovered::node(node, "an approximation of none or tanh", format!("{op} by {other}")))
        }
    }
}

pub(super) fn unknown(node: &Node) -> Uncovered {
    Uncovered::node(node, "a pattern that edge-export writes", format!("{} of {}", node.op_type(), node.input.len()))
}
