//! Runs an exported graph naively, in f64: the check that a bundle's files still mean what they meant.
//!
//! In: the graph and the files its initializers point to, and its inputs. Out: the named outputs. Refused: operators and
//! attributes that [`crate::encoder`] and [`crate::training`] do not emit. It is slow, and shares no code with the runtime.

mod operators;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use ndarray::ArrayD;

use self::operators::apply;
use crate::{
    Error, Result,
    onnx::{EXTERNAL, FLOAT, Graph, INT8, INT64, Model, Node, Tensor},
};

/// A value of a graph.
#[derive(Clone, Debug)]
pub enum Value {
    /// Floating-point numbers of any width.
    Float(ArrayD<f64>),
    /// Integers of any width.
    Int(ArrayD<i64>),
}

/// Runs a graph that was exported, `encoder.onnx` or `train.onnx` in a bundle, naively and in f64; inputs not given take
/// their defaults. What other engines make of it can be checked against this.
///
/// # Errors
/// When a file cannot be read, or a node is not as edge-export writes it or has no such input.
pub fn evaluate(path: &Path, inputs: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
    let graph = Model::read(path)?.graph.unwrap_or_default();
    run(&graph, path.parent().unwrap_or(Path::new("")), inputs).map_err(|e| e.in_graph_of(path))
}

/// Runs `graph`, whose external data is in `dir`, on the given inputs; inputs not given take their defaults.
pub(crate) fn run(graph: &Graph, dir: &Path, inputs: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
    let mut files = Files { dir, open: HashMap::new() };
    let initializers: HashMap<&str, &Tensor> =
        graph.initializer.iter().map(|t| (t.name.as_deref().unwrap_or(""), t)).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in graph.node.iter().flat_map(|n| &n.input) {
        *uses.entry(name).or_default() += 1;
    }
    let kept: Vec<&str> = graph.output.iter().filter_map(|o| o.name.as_deref()).collect();
    let mut values = inputs;
    for node in &graph.node {
        let mut operands = Vec::with_capacity(node.input.len());
        for name in &node.input {
            // Weights are read where they are used, and values dropped after their last use: BERT-large in f64 would
            // not fit in the memory of many machines.
            let value = match (values.get(name), initializers.get(name.as_str())) {
                (Some(value), _) => value.clone(),
                (None, Some(tensor)) => files.tensor(tensor)?,
                (None, None) => return Err(bad_node(node, format!("input {name} to be computed before"), "nothing")),
            };
            operands.push(value);
            if let Some(left) = uses.get_mut(name.as_str()) {
                *left -= 1;
                if *left == 0 && !kept.contains(&name.as_str()) {
                    values.remove(name);
                }
            }
        }
        values.extend(node.output.iter().cloned().zip(apply(node, &operands)?));
    }
    values.retain(|name, _| kept.contains(&name.as_str()));
    Ok(values)
}

/// The external files of a graph.
struct Files<'a> {
    dir: &'a Path,
    open: HashMap<String, File>,
}

impl Files<'_> {
    fn tensor(&mut self, tensor: &Tensor) -> Result<Value> {
        let name = tensor.name.as_deref().unwrap_or("");
        let dims: Vec<usize> = tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        let bytes = if tensor.data_location == Some(EXTERNAL) {
            self.external(tensor, name)?
        } else {
            tensor.raw_data.clone().unwrap_or_default()
        };
        let shape_error = |e: ndarray::ShapeError| Error::graph(name, format!("{:?}", tensor.dims), e);
        let integers = match tensor.data_type {
            Some(FLOAT) => {
                let values = bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
                return Ok(Value::Float(ArrayD::from_shape_vec(dims, values).map_err(shape_error)?));
            }
            Some(INT8) => bytes.iter().map(|b| i64::from(b.cast_signed())).collect(),
            Some(INT64) => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            other => return Err(Error::graph(name, "a type of float, int8 or int64", format!("{other:?}"))),
        };
        Ok(Value::Int(ArrayD::from_shape_vec(dims, integers).map_err(shape_error)?))
    }

    fn external(&mut self, tensor: &Tensor, name: &str) -> Result<Vec<u8>> {
        let entry = |key: &str| {
            let found = tensor.external_data.iter().find(|e| e.key.as_deref() == Some(key));
            found.and_then(|e| e.value.clone()).ok_or_else(|| Error::graph(name, format!("an entry {key}"), "none"))
        };
        let location = entry("location")?;
        let path = self.dir.join(&location);
        let io = |source| Error::Io { path: path.clone(), action: "read", source };
        let file = match self.open.entry(location) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(File::open(&path).map_err(io)?),
        };
        let number = |key: &str| entry(key).map(|text| text.parse::<u64>().unwrap_or(0));
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(number("offset")?)).map_err(io)?;
        file.take(number("length")?).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }
}

fn bad_node(node: &Node, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::graph(node.name.as_deref().unwrap_or(""), expected, found)
}
