//! Runs an encoder's graph in f64, by plain loops: the reference for a bundle's golden output.
//!
//! In: the graph, the directory of its external data, and values of its inputs. Out: its outputs. Refused: operators
//! and attributes that [`crate::encoder`] does not emit. It is slow, and has no code in common with the runtime.

mod operators;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use edge_bundle::onnx::{FLOAT, Graph, INT8, INT64, Node, Tensor};
use ndarray::ArrayD;

use self::operators::apply;
use crate::{Error, Result};

/// A value of a graph.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Floating-point numbers of any width.
    Float(ArrayD<f64>),
    /// Integers of any width.
    Int(ArrayD<i64>),
}

/// Runs `graph`, whose external data is in `dir`, on the given inputs; inputs not given take their defaults.
///
/// # Errors
/// When a file cannot be read, an input has neither value nor default, or a node is not as edge-export writes it.
pub(crate) fn run(graph: &Graph, dir: &Path, inputs: HashMap<String, Value>) -> Result<HashMap<String, Value>> {
    let mut files = Files { dir, open: HashMap::new() };
    let initializers: HashMap<&str, &Tensor> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in graph.node.iter().flat_map(|n| &n.input) {
        *uses.entry(name).or_default() += 1;
    }
    let kept: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
    let mut values = inputs;
    for node in &graph.node {
        let mut operands = Vec::with_capacity(node.input.len());
        for name in &node.input {
            // Weights are read when a node needs them, and values dropped after their last use: all of BERT-large in
            // f64 does not fit in the memory of many machines.
            let value = match (values.get(name), initializers.get(name.as_str())) {
                (Some(value), _) => value.clone(),
                (None, Some(tensor)) => files.tensor(tensor)?,
                (None, None) => return Err(bad_node(node, format!("a value for its input {name}"), "none")),
            };
            operands.push(value);
            if let Some(left) = uses.get_mut(name.as_str()) {
                *left -= 1;
                if *left == 0 && !kept.contains(&name.as_str()) {
                    values.remove(name);
                }
            }
        }
        let [output] = &node.output[..] else {
            return Err(bad_node(node, "one output", node.output.len()));
        };
        values.insert(output.clone(), apply(node, &operands)?);
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
        let name = tensor.name();
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let dims = dims.ok_or_else(|| Error::graph(name, "dimensions of at least 0", format!("{:?}", tensor.dims)))?;
        let bytes = if tensor.is_external() { self.external(tensor)? } else { tensor.raw_data().to_vec() };
        let shape_error = |e: ndarray::ShapeError| Error::graph(name, format!("values of shape {:?}", tensor.dims), e);
        let integers = match tensor.data_type() {
            FLOAT => {
                let values = bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
                return Ok(Value::Float(ArrayD::from_shape_vec(dims, values).map_err(shape_error)?));
            }
            INT8 => bytes.iter().map(|b| i64::from(b.cast_signed())).collect(),
            INT64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            other => return Err(Error::graph(name, "data type 1 (float), 3 (int8) or 7 (int64)", other)),
        };
        Ok(Value::Int(ArrayD::from_shape_vec(dims, integers).map_err(shape_error)?))
    }

    fn external(&mut self, tensor: &Tensor) -> Result<Vec<u8>> {
        let name = tensor.name();
        let entry = |key: &str| {
            tensor.external(key).ok_or_else(|| Error::graph(name, format!("external data with {key}"), "none"))
        };
        let number = |key: &str| {
            let text = entry(key)?;
            text.parse::<u64>().map_err(|_| Error::graph(name, format!("a number as {key}"), text))
        };
        let location = entry("location")?;
        let path = self.dir.join(location);
        let io = |source| Error::Io { path: path.clone(), action: "read", source };
        let file = match self.open.entry(location.to_owned()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(File::open(&path).map_err(io)?),
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(number("offset")?)).map_err(io)?;
        file.take(number("length")?).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }
}

fn bad_node(node: &Node, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::graph(node.name(), expected, found)
}
