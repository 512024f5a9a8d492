//! Finds the fused operators in an exported graph.
//!
//! In: the nodes of `encoder.onnx`. Out: the same graph as a tract model of [`Operator`]s, whose inputs are token ids,
//! the places of sequences, and a table of the values of all slots. Refused: a node that is part of no known pattern; such a graph
//! runs only with `--engine reference`.
//!
//! The search goes backwards from the outputs: each value asks for the pattern that ends in it, and that for its inputs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bias_patch::{Activation, Manifest, TensorEntry};
use tract_onnx::{pb, prelude::*, tract_core::internal::*};

use super::{
    embedding::Tables,
    machine::Machine,
    norm::Norm,
    operators::{Operator, Work},
    product::Layer,
    weights::{Weight, Weights},
};

/// Inputs of the lowered model, in their order; see [`super::operators`] for their meaning. What is made of sequences, not
/// of tokens, takes `sequence_rows` for `rows`.
const INPUTS: [&str; 6] = ["ids", "types", "starts", "rows", "sequence_rows", "values"];

/// The lowered model of `graph`. Its outputs are those of the graph.
pub(super) fn lower(
    graph: &pb::GraphProto,
    manifest: &Manifest,
    weights: &Arc<Weights>,
    machine: &Arc<Machine>,
) -> TractResult<TypedModel> {
    check_order(graph)?;
    let producers = graph.node.iter().flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)));
    let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor));
    let mut search = Search {
        producers: producers.collect(),
        constants: constants.collect(),
        weights,
        machine,
        slots: places(manifest)?,
        epsilon: manifest.config.layer_norm_epsilon as f32,
        first_position: usize::try_from(manifest.config.position_offset)?,
        heads: usize::try_from(manifest.config.heads)?,
        model: TypedModel::default(),
        found: HashMap::new(),
    };
    let dim = |name: &str| search.model.symbols.sym(name).to_dim();
    let (tokens, sequences, tasks) = (dim("N"), dim("B"), dim("T"));
    let values: u64 = manifest.slots.iter().map(|slot| u64::from(slot.len)).sum();
    for name in INPUTS {
        let fact = match name {
            "starts" => i64::fact([sequences.clone() + 1]),
            "sequence_rows" => i64::fact([sequences.clone()]),
            "values" => f32::fact([tasks.clone(), values.to_dim()]),
            _ => i64::fact([tokens.clone()]),
        };
        let outlet = search.model.add_source(name, fact)?;
        search.found.insert(name.to_owned(), outlet);
    }
    let outputs = graph.output.iter().map(|output| search.value(&output.name)).collect::<TractResult<Vec<_>>>()?;
    search.model.select_output_outlets(&outputs)?;
    Ok(search.model)
}

/// Where each slot begins among the values of a task and how many it has, by name.
fn places(manifest: &Manifest) -> TractResult<HashMap<&str, (usize, usize)>> {
    let mut end = 0;
    let mut places = HashMap::new();
    for slot in &manifest.slots {
        let len = usize::try_from(slot.len)?;
        places.insert(slot.name.as_str(), (end, len));
        end += len;
    }
    Ok(places)
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
    machine: &'a Arc<Machine>,
    slots: HashMap<&'a str, (usize, usize)>,
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
            "Gelu" | "Relu" | "Tanh" => self.linear(self.producer(&node.input[0])?, activation(node), rows)?,
            "Reshape" => self.attention(node)?,
            "Gather" => (Work::First, vec![self.value(&node.input[0])?, self.input("starts")]),
            _ => return Err(unknown(node)),
        };
        let operator = Operator { name: name.to_owned(), work, machine: self.machine.clone() };
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

    /// LayerNormalization of a sum: of the embeddings, or of a linear layer and its block's input.
    fn norm(&mut self, node: &'a pb::NodeProto, rows: &str) -> TractResult<(Work, Vec<OutletId>)> {
        let [sum, gain, bias] = &node.input[..] else { return Err(unknown(node)) };
        let gain = self.vector(gain)?;
        let norm = Norm { bias: self.slot(bias, gain.columns())?, gain, epsilon: self.epsilon };
        let sum = self.producer(sum)?;
        if let Some(tables) = self.tables(sum)? {
            for table in tables.types.iter().chain([&tables.words, &tables.positions]) {
                same_width("embedding table", norm.gain.columns(), table.columns())?;
            }
            let work = Work::Embed { tables, norm };
            return Ok((work, ["ids", "types", "starts", rows, "values"].map(|name| self.input(name)).to_vec()));
        }
        if sum.op_type != "Add" {
            return Err(unknown(sum));
        }
        let (layer, mut x) = self.layer(self.producer(&sum.input[0])?)?;
        let mut before = None;
        if let Some(activation) = self.producers.get(x).and_then(|node| activation(node)) {
            let (layer, input) = self.layer(self.producer(&self.producer(x)?.input[0])?)?;
            (before, x) = (Some((layer, activation)), input);
        }
        same_width("LayerNorm", layer.weight.columns(), norm.gain.columns())?;
        if let Some((before, _)) = &before {
            same_width("second layer", before.weight.columns(), layer.weight.rows())?;
        }
        let (x, residual) = (self.value(x)?, self.value(&sum.input[1])?);
        Ok((Work::LinearNorm { before, layer, norm }, vec![x, residual, self.input(rows), self.input("values")]))
    }

    /// The tables of a sum of word, position and perhaps type rows; none if the sum is something else.
    fn tables(&self, sum: &'a pb::NodeProto) -> TractResult<Option<Tables>> {
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
                Ok(Some(Tables {
                    types: types.map(|types| self.table(&types.input[0])).transpose()?,
                    words: self.table(&words.input[0])?,
                    positions: self.table(&positions.input[0])?,
                    first_position: self.first_position,
                }))
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
        let (layer, x) = self.layer(add)?;
        let x = self.value(x)?;
        Ok((Work::Linear { layer, activation }, vec![x, self.input(rows), self.input("values")]))
    }

    /// The matrix and bias of Add(MatMul(x, W), b), and the name of x.
    fn layer(&self, add: &'a pb::NodeProto) -> TractResult<(Layer, &'a str)> {
        let product = self.producer(add.input.first().context("an input")?)?;
        if add.op_type != "Add" || product.op_type != "MatMul" {
            return Err(unknown(add));
        }
        let weight = self.laid_out(self.frozen(&product.input[1]).ok_or_else(|| unknown(product))?, true)?;
        Ok((Layer { bias: self.slot(&add.input[1], weight.columns())?, weight }, &product.input[0]))
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
        let projection = |name: &str| -> TractResult<(Layer, &'a str)> {
            let split = step(&step(name, "Transpose")?.input[0], "Reshape")?;
            self.layer(self.producer(&split.input[0])?)
        };
        let (query, x) = projection(&scores.input[0])?;
        let (key, of_key) = projection(&scores.input[1])?;
        let (value, of_value) = projection(&context.input[1])?;
        if x != of_key || x != of_value {
            return Err(unknown(reshape));
        }
        for layer in [&key, &value] {
            same_width("key or value", query.weight.columns(), layer.weight.columns())?;
            same_width("key or value's input", query.weight.rows(), layer.weight.rows())?;
        }
        if self.heads == 0 || !query.weight.columns().is_multiple_of(self.heads) {
            bail!(
                "node {}: expected {} heads of one width, found {}",
                reshape.name,
                self.heads,
                query.weight.columns()
            );
        }
        let due = 1.0 / ((query.weight.columns() / self.heads) as f32).sqrt();
        let found = scale(&scaled.input[1])?;
        if (found - due).abs() > 1e-6 {
            bail!("node {}: expected a scale of {due}, found {found}; --engine reference runs any graph", scaled.name);
        }
        let inputs = vec![self.value(x)?, self.input("starts"), self.input("rows"), self.input("values")];
        Ok((Work::Attention { layers: [query, key, value], heads: self.heads }, inputs))
    }

    fn producer(&self, name: &str) -> TractResult<&'a pb::NodeProto> {
        self.producers
            .get(name)
            .copied()
            .with_context(|| format!("{name}: expected a node that computes it, found none"))
    }

    /// The name of a frozen tensor: a constant X, or Mul(Cast(X), scales), the scales being X's own or gathered from them.
    fn frozen(&self, name: &'a str) -> Option<&'a str> {
        let constant = |name: &'a str| self.constants.contains_key(name).then_some(name);
        let Some(product) = self.producers.get(name) else { return constant(name) };
        let cast = self.producers.get(product.input[0].as_str())?;
        if product.op_type != "Mul" || cast.op_type != "Cast" {
            return None;
        }
        let codes = constant(&cast.input[0])?;
        let scales = match self.producers.get(product.input[1].as_str()) {
            Some(gather) if gather.op_type == "Gather" => constant(&gather.input[0])?,
            Some(_) => return None,
            None => constant(&product.input[1])?,
        };
        (scales == TensorEntry::scales_of(codes)).then_some(codes)
    }

    /// Where a bias of `len` values is among the values of a task.
    fn slot(&self, name: &str, len: usize) -> TractResult<usize> {
        match self.slots.get(name) {
            Some((place, found)) if *found == len => Ok(*place),
            Some((_, found)) => bail!("{name}: expected {len} values, found a slot of {found}"),
            None => bail!("{name}: expected a slot of the manifest, found another"),
        }
    }

    /// A frozen table.
    fn table(&self, name: &'a str) -> TractResult<Weight> {
        self.weight(self.frozen(name).with_context(|| format!("{name}: expected a constant, found a value"))?)
    }

    /// A vector of floats.
    fn vector(&self, name: &str) -> TractResult<Weight> {
        let weight = self.weight(name)?;
        if weight.rows() != 1 || weight.vector().len() != weight.columns() {
            bail!("{name}: expected a vector of floats, found {} rows of {}", weight.rows(), weight.columns());
        }
        Ok(weight)
    }

    /// A table or a vector, row after row.
    fn weight(&self, name: &str) -> TractResult<Weight> {
        self.laid_out(name, false)
    }

    fn laid_out(&self, name: &str, in_panels: bool) -> TractResult<Weight> {
        let weight = self.weights.get(name)?;
        if weight.in_panels() != in_panels {
            let not = if in_panels { "" } else { "not " };
            bail!("{name}: expected it {not}in panels in the weights, found the other");
        }
        Ok(weight)
    }

    /// An input of the lowered model.
    fn input(&self, name: &str) -> OutletId {
        self.found[name]
    }
}

/// Widths that have to be the same for operators to be fused.
fn same_width(what: &str, expected: usize, found: usize) -> TractResult<()> {
    if expected != found {
        bail!("{what}: expected a width of {expected}, found {found}");
    }
    Ok(())
}

/// The activation that a node is.
fn activation(node: &pb::NodeProto) -> Option<Activation> {
    let tanh = node.attribute.iter().any(|a| a.name == "approximate" && a.s == b"tanh");
    match node.op_type.as_str() {
        "Gelu" if tanh => Some(Activation::GeluTanh),
        "Gelu" => Some(Activation::Gelu),
        "Relu" => Some(Activation::Relu),
        "Tanh" => Some(Activation::Tanh),
        _ => None,
    }
}

fn unknown(node: &pb::NodeProto) -> TractError {
    format_err!(
        "node {}: expected a pattern that edge-export emits, found {}; --engine reference runs any graph",
        node.name,
        node.op_type
    )
}
