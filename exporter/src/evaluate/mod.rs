//! Runs an encoder's graph in f64, by plain loops: the reference for a bundle's golden output.
//!
//! In: the graph, the directory of its external data, and values of its inputs. Out: its outputs. Refused: operators
//! and attributes that [`crate::encoder`] does not emit. It is slow, and has no code in common with the runtime.

mod constants;
mod operators;

use std::{collections::HashMap, path::Path};

use edge_bundle::onnx::{Graph, Node};
use ndarray::ArrayD;

use self::{constants::Constants, operators::apply};
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
    let mut constants = Constants::new(graph, dir, &inputs);
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in graph.node.iter().flat_map(|n| &n.input) {
        *uses.entry(name).or_default() += 1;
    }
    let kept: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
    let mut values = inputs;
    for node in &graph.node {
        let [output] = &node.output[..] else {
            return Err(bad_node(node, "one output", node.output.len()));
        };
        // Constants are computed where a node needs them, and values dropped after their last use: all of BERT-large in
        // f64 does not fit in the memory of many machines.
        if constants.contains(output) {
            continue;
        }
        let operand = |constants: &mut Constants<'_>, name: &str| match values.get(name) {
            Some(value) => Ok(value.clone()),
            None if constants.contains(name) => constants.whole(name),
            None => Err(bad_node(node, format!("a value for its input {name}"), "none")),
        };
        let value = match constants.in_parts(node, operand)? {
            Some(value) => value,
            None => {
                let operands =
                    node.input.iter().map(|name| operand(&mut constants, name)).collect::<Result<Vec<_>>>()?;
                apply(node, &operands)?
            }
        };
        for name in &node.input {
            if let Some(left) = uses.get_mut(name.as_str()) {
                *left -= 1;
                if *left == 0 && !kept.contains(&name.as_str()) {
                    values.remove(name);
                }
            }
        }
        values.insert(output.clone(), value);
    }
    values.retain(|name, _| kept.contains(&name.as_str()));
    Ok(values)
}

fn bad_node(node: &Node, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::graph(node.name(), expected, found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bias_patch::Activation;
    use edge_bundle::{Config, Element, Family};
    use half::f16;
    use ndarray::Array;

    use super::*;
    use crate::encoder;

    /// A graph whose tables have many rows and whose widest matrices are of several blocks, and its files.
    fn wide(element: Element) -> (Graph, tempfile::TempDir) {
        let config = Config {
            family: Family::Electra,
            layers: 1,
            hidden: 8,
            embedding: 4,
            heads: 2,
            intermediate: 280_000,
            vocabulary: 5000,
            max_length: 6,
            position_offset: 0,
            token_types: 2,
            activation: Activation::Gelu,
            layer_norm_epsilon: 1e-5,
            pooler: false,
            relative: None,
            disentangled: None,
            rotary: None,
            window: None,
        };
        let (model, weights, slots) = encoder::build(&config, element, false).finish("test");
        let dir = tempfile::TempDir::new().unwrap();
        let number = |at: usize| ((at * 7919 + 13) % 4001) as f32 / 4001.0 - 0.5;
        let float = |at: usize| number(at).to_le_bytes();
        let mut bytes = Vec::new();
        for weight in &weights {
            bytes.resize(weight.offset as usize, 0);
            let count = weight.shape.iter().product::<u64>() as usize;
            match weight.element {
                Element::F32 => bytes.extend((0..count).flat_map(float)),
                Element::F16 => bytes.extend((0..count).flat_map(|at| f16::from_f32(number(at)).to_le_bytes())),
                // To a graph int4 is int8.
                Element::I8 | Element::I4 => {
                    bytes.extend((0..count).map(|at| ((200.0 * number(at)) as i8).cast_unsigned()))
                }
            }
        }
        fs::write(dir.path().join("weights.bin"), &bytes).unwrap();
        bytes.clear();
        for slot in &slots {
            bytes.resize(slot.offset as usize, 0);
            bytes.extend((0..slot.len as usize).flat_map(float));
        }
        fs::write(dir.path().join("base.bias"), &bytes).unwrap();
        (model.graph.unwrap(), dir)
    }

    /// What is given as an input is no constant, so it is used whole.
    #[test]
    fn parts_of_constants_give_what_whole_ones_give() {
        for element in [Element::F32, Element::F16, Element::I8, Element::I4] {
            let (graph, dir) = wide(element);
            let row =
                |values: &[i64]| Value::Int(Array::from(values.to_vec()).into_dyn().insert_axis(ndarray::Axis(0)));
            let tokens =
                [("input_ids", [4999, 0, 7, 7]), ("attention_mask", [1, 1, 1, 0]), ("token_type_ids", [0, 1, 1, 0])];
            let inputs: HashMap<String, Value> = tokens.map(|(name, ids)| (name.to_owned(), row(&ids))).into();
            let mut whole = inputs.clone();
            let mut constants = Constants::new(&graph, dir.path(), &inputs);
            for tensor in &graph.initializer {
                whole.insert(tensor.name().to_owned(), constants.whole(tensor.name()).unwrap());
            }
            let hidden = |inputs| match run(&graph, dir.path(), inputs).unwrap().remove("last_hidden_state") {
                Some(Value::Float(hidden)) => hidden,
                other => panic!("{other:?}"),
            };
            let (found, due) = (hidden(inputs), hidden(whole));
            assert_eq!(found.shape(), [1, 4, 8]);
            assert!(due.iter().all(|v| v.is_finite()) && due.iter().any(|v| v.abs() > 0.1), "{due}");
            // Columns do not add up with each other, so the bits are the same.
            assert_eq!(found, due, "{element:?}");
        }
    }

    #[test]
    fn places_outside_a_table_or_file_are_refused() {
        let (mut graph, dir) = wide(Element::F32);
        let inputs = |id: i64| {
            let row = |value| Value::Int(Array::from(vec![value]).into_dyn().insert_axis(ndarray::Axis(0)));
            [("input_ids", id), ("attention_mask", 1), ("token_type_ids", 0)]
                .map(|(n, v)| (n.to_owned(), row(v)))
                .into()
        };
        run(&graph, dir.path(), inputs(4999)).unwrap();
        for id in [5000, -1] {
            let error = run(&graph, dir.path(), inputs(id)).unwrap_err().to_string();
            assert!(error.contains("an index below 5000"), "{error}");
        }
        let words = graph.initializer.iter_mut().find(|t| t.name().contains("word_embeddings")).unwrap();
        words.dims[0] += 1;
        let error = run(&graph, dir.path(), inputs(1)).unwrap_err().to_string();
        assert!(error.contains("word_embeddings") && error.contains("bytes for shape"), "{error}");
    }
}
