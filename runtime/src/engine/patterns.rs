//! Finds the fused operators in an exported graph.
//!
//! In: the nodes of `encoder.onnx`. Out: the same graph as a tract model of [`Operator`]s, whose inputs are token ids,
//! the places of sequences, and a table for every slot. Refused: a node that is part of no known pattern; such a graph
//! runs only with `--engine reference`.
//!
//! The search goes backwards from the outputs: each value asks for the pattern that ends in it, and that for its inputs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bias_patch::{Activation, Manifest};
use tract_onnx::{pb, prelude::*, tract_core::internal::*};

use super::{
    operators::{Operator, Work},
    weights::{Weight, Weights},
};
use crate::kernels::Kernel;

/// Inputs of the lowered model, in their order; the slots follow in the manifest's.
pub(super) const INPUTS: [&str; 5] = ["ids", "types", "starts", "rows", "sequence_rows"];

/// The lowered model of `graph`. Its outputs are those of the graph.
pub(super) fn lower(
    graph: &pb::GraphProto,
    manifest: &Manifest,
    weights: &Arc<Weights>,
    kernel: &'static dyn Kernel,
) -> TractResult<TypedModel> {
    check_order(graph)?;
    let producers = graph.node.iter().flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)));
    let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor));
    let mut search = Search {
        producers: producers.collect(),
        constants: constants.collect(),
        weights,
        kernel,
        epsilon: manifest.config.layer_norm_epsilon as f32,
        first_position: usize::try_from(manifest.config.position_offset)?,
        heads: usize::try_from(manifest.config.heads)?,
        model: TypedModel::default(),
        found: HashMap::new(),
    };
    let dim = |search: &mut Search<'_>, name: &str| search.model.symbols.sym(name).to_dim();
    let (tokens, tasks) = (dim(&mut search, "N"), dim(&mut search, "T"));
    let sequences = dim(&mut search, "B");
    for name in INPUTS {
        let length = match name {
            "starts" => sequences.clone() + 1,
            "sequence_rows" => sequences.clone(),
            _ => tokens.clone(),
        };
        let outlet = search.model.add_source(name, i64::fact([length]))?;
        search.found.insert(name.to_owned(), outlet);
    }
    for slot in &manifest.slots {
        let outlet = search.model.add_source(&slot.name, f32::fact([tasks.clone(), i64::from(slot.len).to_dim()]))?;
        search.found.insert(slot.name.clone(), outlet);
    }
    let outputs = graph.output.iter().map(|output| search.value(&output.name)).collect::<TractResult<Vec<_>>>()?;
    search.model.select_output_outlets(&outputs)?;
    Ok(search.model)
}

/// Nodes come after what they read, as ONNX requires, and known operators have their inputs: so the search below ends, and
/// may name inputs by number.
fn check_order(graph: &pb::GraphProto) -> TractResult<()> {
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    let mut known: HashSet<&str> = inputs.chain(graph.initializer.iter().map(|tensor| tensor.name.as_str())).collect();
    for node in &graph.node {
        let least = match node.op_type.as_str() {
            "Slice" => 4,
            "LayerNormalization" => 3,
            "Add" | "Mul" | "MatMul" | "Gather" | "Reshape" => 2,
            _ => 1,
        };
        let ordered = node.input.iter().all(|name| known.contains(name.as_str()));
        if node.input.len() < least || !ordered {
            bail!("node {}: expected {least} inputs, computed before it, found {:?}", node.name, node.input);
        }
        known.extend(node.output.iter().map(String::as_str));
    }
    Ok(())
}

struct Search<'a> {
    producers: HashMap<&'a str, &'a pb::NodeProto>,
    constants: HashMap<&'a str, &'a pb::TensorProto>,
    weights: &'a Arc<Weights>,
    kernel: &'static dyn Kernel,
    epsilon: f32,
    first_position: usize,
    heads: usize,
    model: TypedModel,
    /// Outlets of values that are lowered already.
    found: HashMap<String, OutletId>,
}

impl<'a> Search<'a> {
    /// Lowers the pattern that ends in a value.
    fn value(&mut self, name: &str) -> TractResult<OutletId> {
        if let Some(outlet) = self.found.get(name) {
            return Ok(*outlet);
        }
        let node = self.producer(name)?;
        let rows = if self.of_sequences(name) { "sequence_rows" } else { "rows" };
        let (work, inputs) = match node.op_type.as_str() {
            "LayerNormalization" => self.norm(node, rows)?,
            "Add" => self.linear(node, None, rows)?,
            "Gelu" => {
                let tanh = node.attribute.iter().any(|a| a.name == "approximate" && a.s == b"tanh");
                let activation = if tanh { Activation::GeluTanh } else { Activation::Gelu };
                self.linear(self.producer(&node.input[0])?, Some(activation), rows)?
            }
            "Relu" => self.linear(self.producer(&node.input[0])?, Some(Activation::Relu), rows)?,
            "Tanh" => self.linear(self.producer(&node.input[0])?, Some(Activation::Tanh), rows)?,
            "Reshape" => self.attention(node)?,
            "Gather" => (Work::First, vec![self.value(&node.input[0])?, self.input("starts")]),
            _ => return Err(unknown(node)),
        };
        let operator = Operator { name: name.to_owned(), work, kernel: self.kernel };
        let outlet = self.model.wire_node(name, operator, &inputs)?[0];
        self.found.insert(name.to_owned(), outlet);
        Ok(outlet)
    }

    /// Whether a value has a row for each sequence and not for each token: it comes from a gathered first token.
    fn of_sequences(&self, name: &str) -> bool {
        let mut name = name;
        while let Some(node) = self.producers.get(name) {
            match node.op_type.as_str() {
                "Gather" => return node.attribute.iter().any(|a| a.name == "axis" && a.i == 1),
                "Tanh" | "Add" | "MatMul" => name = &node.input[0],
                _ => return false,
            }
        }
        false
    }

    /// LayerNormalization of a sum: of the embeddings, or of a block's output and its input.
    fn norm(&mut self, node: &'a pb::NodeProto, rows: &str) -> TractResult<(Work, Vec<OutletId>)> {
        let [sum, gain, bias] = &node.input[..] else { return Err(unknown(node)) };
        let (gain, bias, epsilon) = (self.weight(gain)?, self.value(bias)?, self.epsilon);
        let sum = self.producer(sum)?;
        if let Some((words, positions, types)) = self.embeddings(sum)? {
            let work = Work::Embed { words, positions, first_position: self.first_position, types, gain, epsilon };
            return Ok((
                work,
                vec![self.input("ids"), self.input("types"), self.input("starts"), self.input(rows), bias],
            ));
        }
        if sum.op_type != "Add" {
            return Err(unknown(sum));
        }
        let (a, b) = (self.value(&sum.input[0])?, self.value(&sum.input[1])?);
        Ok((Work::AddNorm { gain, epsilon }, vec![a, b, self.input(rows), bias]))
    }

    /// The tables of a sum of word, position and perhaps type rows; none if the sum is something else.
    fn embeddings(&self, sum: &'a pb::NodeProto) -> TractResult<Option<(Weight, Weight, Option<Weight>)>> {
        let parts = |node: &'a pb::NodeProto| {
            (node.op_type == "Add").then(|| [0, 1].map(|at| self.producers.get(node.input[at].as_str()).copied()))
        };
        let (inner, types) = match parts(sum) {
            Some([Some(inner), Some(types)]) if inner.op_type == "Add" && types.op_type == "Gather" => {
                (inner, Some(types))
            }
            _ => (sum, None),
        };
        match parts(inner) {
            Some([Some(words), Some(positions)]) if words.op_type == "Gather" && positions.op_type == "Slice" => {
                let types = types.map(|types| self.weight(&types.input[0])).transpose()?;
                Ok(Some((self.weight(&words.input[0])?, self.weight(&positions.input[0])?, types)))
            }
            _ => Ok(None),
        }
    }

    /// Add(MatMul(x, W), b).
    fn linear(
        &mut self,
        add: &'a pb::NodeProto,
        activation: Option<Activation>,
        rows: &str,
    ) -> TractResult<(Work, Vec<OutletId>)> {
        let (weight, inputs) = self.linear_parts(add)?;
        let (x, bias) = (self.value(inputs.0)?, self.value(inputs.1)?);
        Ok((Work::Linear { weight, activation }, vec![x, self.input(rows), bias]))
    }

    /// The weight of Add(MatMul(x, W), b), and the names of x and b.
    fn linear_parts(&self, add: &'a pb::NodeProto) -> TractResult<(Weight, (&'a str, &'a str))> {
        let product = self.producer(add.input.first().context("an input")?)?;
        if add.op_type != "Add"
            || product.op_type != "MatMul"
            || !self.constants.contains_key(product.input[1].as_str())
        {
            return Err(unknown(add));
        }
        Ok((self.weight_laid_out(&product.input[1], true)?, (&product.input[0], &add.input[1])))
    }

    /// Reshape(Transpose(MatMul(Softmax(Add(Mul(MatMul(q, k), scale), penalty)), v))), q, k and v each being
    /// Transpose(Reshape(linear)). The penalty is of padding, which a lowered batch does not have.
    fn attention(&mut self, reshape: &'a pb::NodeProto) -> TractResult<(Work, Vec<OutletId>)> {
        let step = |name: &str, op: &str| -> TractResult<&'a pb::NodeProto> {
            let node = self.producer(name)?;
            if node.op_type == op { Ok(node) } else { Err(unknown(node)) }
        };
        let scale = |name: &str| -> TractResult<f32> {
            let raw = self.constants.get(name).and_then(|tensor| <[u8; 4]>::try_from(&tensor.raw_data[..]).ok());
            raw.map(f32::from_le_bytes).with_context(|| format!("{name}: expected one f32, found another constant"))
        };
        let context = step(&step(&reshape.input[0], "Transpose")?.input[0], "MatMul")?;
        let masked = step(&step(&context.input[0], "Softmax")?.input[0], "Add")?;
        let scaled = step(&masked.input[0], "Mul")?;
        let scores = step(&scaled.input[0], "MatMul")?;
        let projection = |name: &str| -> TractResult<(Weight, (&'a str, &'a str))> {
            let split = step(&step(name, "Transpose")?.input[0], "Reshape")?;
            self.linear_parts(self.producer(&split.input[0])?)
        };
        let (query, (x, query_bias)) = projection(&scores.input[0])?;
        let (key, (of_key, key_bias)) = projection(&scores.input[1])?;
        let (value, (of_value, value_bias)) = projection(&context.input[1])?;
        if x != of_key || x != of_value {
            return Err(unknown(reshape));
        }
        let due = 1.0 / ((query.columns() / self.heads) as f32).sqrt();
        let found = scale(&scaled.input[1])?;
        if (found - due).abs() > 1e-6 {
            bail!("node {}: expected a scale of {due}, found {found}; --engine reference runs any graph", scaled.name);
        }
        let biases = [query_bias, key_bias, value_bias].map(|name| self.value(name));
        let mut inputs = vec![self.value(x)?, self.input("starts"), self.input("rows")];
        for bias in biases {
            inputs.push(bias?);
        }
        Ok((Work::Attention { query, key, value, heads: self.heads }, inputs))
    }

    fn producer(&self, name: &str) -> TractResult<&'a pb::NodeProto> {
        self.producers
            .get(name)
            .copied()
            .with_context(|| format!("{name}: expected a node that computes it, found none"))
    }

    /// A table or a vector, row after row.
    fn weight(&self, name: &str) -> TractResult<Weight> {
        self.weight_laid_out(name, false)
    }

    fn weight_laid_out(&self, name: &str, in_panels: bool) -> TractResult<Weight> {
        let weight = self.weights.get(name)?;
        if weight.in_panels() != in_panels {
            bail!(
                "{name}: expected it {} panels in the weights, found the other",
                if in_panels { "in" } else { "not in" }
            );
        }
        Ok(weight)
    }

    /// An input of the lowered model.
    fn input(&self, name: &str) -> OutletId {
        self.found[name]
    }
}

fn unknown(node: &pb::NodeProto) -> TractError {
    format_err!(
        "node {}: expected a pattern that edge-export emits, found {}; --engine reference runs any graph",
        node.name,
        node.op_type
    )
}
