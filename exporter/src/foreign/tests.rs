//! Graphs that are built here, and what is found in them.

use std::path::Path;

use edge_bundle::onnx::{Attribute, FLOAT, Graph, Node, Tensor};

use super::{check, prune, slots};
use crate::graph::{
    Size::{Any, Of},
    value_info,
};

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Node::default()
    }
}

/// Two layers `x W + b` that share W and b, then LayerNorm in parts, whose bias is an Identity of b.
fn graph() -> Graph {
    let constant = |name: &str, dims: &[i64]| Tensor {
        name: Some(name.to_owned()),
        data_type: Some(FLOAT),
        dims: dims.to_vec(),
        float_data: vec![0.5; dims.iter().product::<i64>() as usize],
        ..Tensor::default()
    };
    let any = [Any("batch"), Any("sequence"), Of(2)];
    Graph {
        node: vec![
            node("Identity", &["b"], "norm.bias"),
            node("MatMul", &["x", "w"], "p1"),
            node("Add", &["b", "p1"], "h1"),
            node("MatMul", &["h1", "w"], "p2"),
            node("Add", &["p2", "b"], "h2"),
            node("Add", &["h2", "h1"], "sum"),
            node("Add", &["sum", "shift"], "shifted"),
            node("Mul", &["gain", "shifted"], "scaled"),
            node("Add", &["scaled", "norm.bias"], "last_hidden_state"),
            node("Tanh", &["h1"], "unused"),
        ],
        initializer: vec![constant("w", &[2, 2]), constant("b", &[2]), constant("gain", &[2]), constant("shift", &[2])],
        input: vec![value_info("x", FLOAT, &any)],
        output: vec![value_info("last_hidden_state", FLOAT, &any), value_info("unused", FLOAT, &any)],
        ..Graph::default()
    }
}

#[test]
fn biases_that_are_shared_are_slots_of_their_own() {
    let mut graph = graph();
    prune::outputs(Path::new("m.onnx"), &mut graph).unwrap();
    assert!(graph.node.iter().all(|node| node.op_type() != "Tanh"), "what no output needs is dropped");
    let biases = slots::make(&mut graph);
    let names: Vec<&str> = biases.iter().map(|bias| bias.name.as_str()).collect();
    // Not `shift`, which is added to what is no product.
    assert_eq!(names, ["b", "b.2", "norm.bias"]);
    assert!(biases.iter().all(|bias| bias.len == 2 && bias.tensor.float_data == [0.5, 0.5]));
    let left: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    assert_eq!(left, ["w", "gain", "shift"]);
    let read = |output: &str| graph.node.iter().find(|node| node.output[0] == output).unwrap().input.join(" ");
    assert_eq!([read("h1"), read("h2"), read("last_hidden_state")], ["b p1", "p2 b.2", "scaled norm.bias"]);
}

#[test]
fn a_vector_that_is_read_otherwise_too_keeps_its_name() {
    let mut graph = graph();
    graph.node.insert(0, node("Mul", &["x", "b"], "y"));
    graph.node[2].input[0] = "y".to_owned();
    let names: Vec<String> = slots::make(&mut graph).into_iter().map(|bias| bias.name).collect();
    assert_eq!(names, ["b.2", "b.3", "norm.bias"]);
    assert!(graph.initializer.iter().any(|tensor| tensor.name() == "b"));
}

#[test]
fn operators_and_inputs_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Graph)| {
        let mut graph = graph();
        change(&mut graph);
        let file = Path::new("m.onnx");
        check::nodes(file, &graph).and_then(|()| check::inputs(file, &graph)).unwrap_err().to_string()
    };
    let op = |graph: &mut Graph, op: &str| graph.node[9].op_type = Some(op.to_owned());
    for (message, said) in [
        (refused(&|g| g.node[9].domain = Some("com.microsoft".to_owned())), "found Tanh of com.microsoft"),
        (refused(&|g| op(g, "DynamicQuantizeLinear")), "DynamicQuantizeLinear, which quantizes"),
        (refused(&|g| op(g, "If")), "an operator that tract can run"),
        (refused(&|g| g.node[9].attribute.push(Attribute { r#type: Some(5), ..Attribute::int("g", 0) })), "of type 5"),
        (refused(&|g| g.node[9].input[0] = "later".to_owned()), "inputs that nodes before it give, found later"),
        (refused(&|g| g.initializer[0].data_type = Some(10)), "w: expected 32-bit floats"),
        (refused(&|g| g.input[0].name = Some("past_key_values.0.key".to_owned())), "found x"),
        (refused(&|_| ()), "input x: expected input_ids, attention_mask, token_type_ids"),
    ] {
        assert!(message.starts_with("m.onnx, ") && message.contains(said), "{message}");
    }
}
