//! What of a graph does not depend on its inputs: initializers, and what nodes make of them alone.
//!
//! In: a graph and the directory of its external data. Out: constants, whole or in part. A table of words is read by the
//! rows that are looked up, and a matrix by blocks of its columns, so the largest tensor does not bound the memory.
//! Refused: data types and places that edge-export does not write.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use edge_bundle::onnx::{FLOAT, FLOAT16, Graph, INT8, INT64, Node, Tensor};
use half::f16;
use ndarray::{ArrayD, Axis};

use super::{Value, bad_node, operators::apply};
use crate::{Error, Result};

/// Values of a matrix that are held in memory at once.
const BLOCK: usize = 1 << 20;

/// The constants of a graph. None is kept in memory.
pub(super) struct Constants<'a> {
    dir: &'a Path,
    initializers: HashMap<&'a str, &'a Tensor>,
    /// Nodes all of whose inputs are constants, by their output.
    nodes: HashMap<&'a str, &'a Node>,
    open: HashMap<String, File>,
}

/// Some rows and some columns of a matrix. Without a choice, all of a constant of any shape.
#[derive(Clone, Default)]
struct Part {
    rows: Option<Vec<usize>>,
    columns: Option<Range<usize>>,
}

impl<'a> Constants<'a> {
    /// The constants of a graph whose `inputs` are given.
    pub fn new(graph: &'a Graph, dir: &'a Path, inputs: &HashMap<String, Value>) -> Self {
        let defaults = graph.initializer.iter().map(|t| (t.name(), t));
        let initializers: HashMap<&str, &Tensor> = defaults.filter(|(name, _)| !inputs.contains_key(*name)).collect();
        let mut known: HashSet<&str> = initializers.keys().copied().collect();
        let mut nodes = HashMap::new();
        for node in &graph.node {
            if let [output] = &node.output[..]
                && node.input.iter().all(|name| known.contains(name.as_str()))
            {
                known.insert(output);
                nodes.insert(output.as_str(), node);
            }
        }
        Constants { dir, initializers, nodes, open: HashMap::new() }
    }

    /// Whether there is a constant of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.initializers.contains_key(name) || self.nodes.contains_key(name)
    }

    /// All of a constant.
    pub fn whole(&mut self, name: &str) -> Result<Value> {
        self.part(name, &Part::default())
    }

    /// The output of a node that needs only a part of a constant matrix at a time: rows that are looked up or sliced, or
    /// some columns of a product. `operand` gives the node's other inputs. None for nodes that need all of it.
    pub fn in_parts(
        &mut self,
        node: &Node,
        mut operand: impl FnMut(&mut Self, &str) -> Result<Value>,
    ) -> Result<Option<Value>> {
        let by_rows = node.attribute("axis").is_none_or(|axis| axis.i() == 0);
        match (node.op_type(), &node.input[..]) {
            ("Gather", [table, indices]) if by_rows => {
                let (Some([rows, _]), Value::Int(indices)) = (self.shape(table), operand(self, indices)?) else {
                    return Ok(None);
                };
                let picked: Option<Vec<usize>> = indices.iter().map(|index| usize::try_from(*index).ok()).collect();
                let Some(picked) = picked.filter(|picked| rows > 1 && picked.iter().all(|row| *row < rows)) else {
                    return Ok(None);
                };
                let table = self.part(table, &Part { rows: Some(picked), columns: None })?;
                // In this table the first row is that of the first index, and so on.
                let mut count = 0..;
                let places = indices.mapv(|_| count.next().unwrap_or(0));
                apply(node, &[table, Value::Int(places)]).map(Some)
            }
            ("Slice", [table, start, end, axis]) => {
                let Some([rows, _]) = self.shape(table) else { return Ok(None) };
                let mut number = |name: &str| {
                    Ok::<_, Error>(match operand(self, name)? {
                        Value::Int(array) if array.len() == 1 => array.first().and_then(|n| usize::try_from(*n).ok()),
                        _ => None,
                    })
                };
                match [number(start)?, number(end)?, number(axis)?] {
                    [Some(start), Some(end), Some(0)] if rows > 1 && start <= end && end <= rows => {
                        self.part(table, &Part { rows: Some((start..end).collect()), columns: None }).map(Some)
                    }
                    _ => Ok(None),
                }
            }
            ("MatMul", [left, matrix]) => {
                let Some([rows, columns]) = self.shape(matrix) else { return Ok(None) };
                let left = operand(self, left)?;
                let block = (BLOCK / rows.max(1)).max(1);
                let mut joined: Option<ArrayD<f64>> = None;
                for first in (0..columns).step_by(block) {
                    let range = first..columns.min(first + block);
                    let part = self.part(matrix, &Part { rows: None, columns: Some(range.clone()) })?;
                    let Value::Float(product) = apply(node, &[left.clone(), part])? else {
                        return Err(bad_node(node, "a product of floats", "integers"));
                    };
                    let last = product.ndim().saturating_sub(1);
                    // Row-major, as a whole product is: sums over rows have one order.
                    let all = joined.get_or_insert_with(|| {
                        let mut shape = product.shape().to_vec();
                        shape[last] = columns;
                        ArrayD::zeros(shape)
                    });
                    all.slice_axis_mut(Axis(last), range.into()).assign(&product);
                }
                Ok(joined.map(Value::Float))
            }
            _ => Ok(None),
        }
    }

    /// Rows and columns of a constant of which [`Constants::part`] can compute a part: a matrix in a file, or one that is
    /// computed from such value by value, or row by row.
    fn shape(&self, name: &str) -> Option<[usize; 2]> {
        if let Some(tensor) = self.initializers.get(name) {
            let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
            return dims.filter(|_| tensor.is_external())?.try_into().ok();
        }
        let node = self.nodes.get(name)?;
        match (node.op_type(), &node.input[..]) {
            ("Cast", [one]) => self.shape(one),
            ("Add" | "Sub" | "Mul", [a, b]) => {
                let ([rows, columns], [other_rows, other_columns]) = (self.shape(a)?, self.shape(b)?);
                Some([rows.max(other_rows), columns.max(other_columns)])
            }
            ("Gather", [table, indices]) if node.attribute("axis").is_none_or(|axis| axis.i() == 0) => {
                let [count] = self.initializers.get(indices.as_str())?.dims[..] else { return None };
                Some([usize::try_from(count).ok()?, self.shape(table)?[1]])
            }
            _ => None,
        }
    }

    /// A part of a constant that has a [`Constants::shape`], or all of any constant.
    fn part(&mut self, name: &str, part: &Part) -> Result<Value> {
        if let Some(tensor) = self.initializers.get(name).copied() {
            return self.tensor(tensor, part);
        }
        let node = *self.nodes.get(name).ok_or_else(|| Error::graph(name, "a constant", "none"))?;
        let mut operands = Vec::with_capacity(node.input.len());
        match (node.op_type(), &node.input[..]) {
            // Rows of what is looked up are indices, and not rows of the table.
            ("Gather", [table, indices]) => {
                operands.push(self.part(table, &Part { rows: None, columns: part.columns.clone() })?);
                let indices = self.whole(indices)?;
                operands.push(match (indices, &part.rows) {
                    (Value::Int(indices), Some(rows)) => Value::Int(indices.select(Axis(0), rows)),
                    (indices, _) => indices,
                });
            }
            (_, inputs) => {
                for input in inputs {
                    operands.push(self.part(input, part)?);
                }
            }
        }
        apply(node, &operands)
    }

    /// An initializer. A dimension of 1 stays as it is, because it is broadcast.
    fn tensor(&mut self, tensor: &Tensor, part: &Part) -> Result<Value> {
        let name = tensor.name();
        let shape_error =
            || Error::graph(name, format!("values of shape {:?}", tensor.dims), "another number of bytes");
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let mut dims =
            dims.ok_or_else(|| Error::graph(name, "dimensions of at least 0", format!("{:?}", tensor.dims)))?;
        let width = match tensor.data_type() {
            FLOAT => 4,
            FLOAT16 => 2,
            INT8 => 1,
            INT64 => 8,
            other => {
                let expected = "data type 1 (float), 3 (int8), 7 (int64) or 10 (float16)";
                return Err(Error::graph(name, expected, other));
            }
        };
        let bytes = if tensor.is_external() {
            self.external(tensor, &mut dims, width, part)?
        } else {
            tensor.raw_data().to_vec()
        };
        let floats = match tensor.data_type() {
            FLOAT => Some(bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect::<Vec<_>>()),
            FLOAT16 => Some(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect()),
            _ => None,
        };
        if let Some(values) = floats {
            return Ok(Value::Float(ArrayD::from_shape_vec(dims, values).map_err(|_| shape_error())?));
        }
        let integers = match tensor.data_type() {
            INT8 => bytes.iter().map(|b| i64::from(b.cast_signed())).collect(),
            _ => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        };
        Ok(Value::Int(ArrayD::from_shape_vec(dims, integers).map_err(|_| shape_error())?))
    }

    /// The bytes of a part of an external tensor, of values of `width` bytes. `dims` become the part's.
    fn external(&mut self, tensor: &Tensor, dims: &mut [usize], width: usize, part: &Part) -> Result<Vec<u8>> {
        let name = tensor.name();
        let entry = |key: &str| {
            tensor.external(key).ok_or_else(|| Error::graph(name, format!("external data with {key}"), "none"))
        };
        let number = |key: &str| {
            let text = entry(key)?;
            text.parse::<u64>().map_err(|_| Error::graph(name, format!("a number as {key}"), text))
        };
        let (location, offset, length) = (entry("location")?, number("offset")?, number("length")?);
        let count = dims.iter().try_fold(width, |bytes, dim| bytes.checked_mul(*dim));
        if count.map(|bytes| bytes as u64) != Some(length) {
            return Err(Error::graph(name, format!("bytes for shape {dims:?}"), length));
        }
        let path = self.dir.join(location);
        let io = |source| Error::Io { path: path.clone(), action: "read", source };
        let file = match self.open.entry(location.to_owned()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(File::open(&path).map_err(io)?),
        };
        let mut read = |at: usize, bytes: &mut [u8]| {
            file.seek(SeekFrom::Start(offset + (at * width) as u64)).and_then(|_| file.read_exact(bytes)).map_err(io)
        };
        let [rows, columns] = match dims {
            [rows, columns] if part.rows.is_some() || part.columns.is_some() => [rows, columns],
            _ => {
                let mut bytes = vec![0; dims.iter().product::<usize>() * width];
                read(0, &mut bytes)?;
                return Ok(bytes);
            }
        };
        let all = *columns;
        let of_row = part.columns.clone().filter(|_| all != 1).unwrap_or(0..all);
        let picked = part.rows.clone().filter(|_| *rows != 1).unwrap_or_else(|| (0..*rows).collect());
        let mut bytes = vec![0; picked.len() * of_row.len() * width];
        for (row, bytes) in picked.iter().zip(bytes.chunks_mut((of_row.len() * width).max(1))) {
            read(row * all + of_row.start, bytes)?;
        }
        (*rows, *columns) = (picked.len(), of_row.len());
        Ok(bytes)
    }
}
