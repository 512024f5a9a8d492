//! Finds the biases of a graph, and makes each a value of its own.
//!
//! In: a graph. Out: its biases, in the order in which its nodes run; the nodes then read them by the names of their
//! slots. Nothing is refused: what is not known to be a bias stays frozen.
//!
//! A bias is a constant vector that is
//! - added to a product with a constant matrix, or to a value that is multiplied by a constant vector of as many numbers
//!   (a LayerNorm in parts);
//! - the third input of Gemm, of a convolution, or of LayerNormalization.
//!
//! Its slot has the name of the value that the node reads, which is the parameter's where a program keeps such names. A
//! vector that is read several times, as the biases of layers that share weights are, is a slot at each place: `NAME`,
//! `NAME.2`, and so on.

use std::collections::{HashMap, HashSet};

use edge_bundle::onnx::{Graph, Node, Tensor};

use super::wiring::Wiring;

/// A bias of a graph.
pub(super) struct Bias {
    /// The name of its slot.
    pub name: String,
    /// Number of values.
    pub len: u32,
    /// The constant that has its values.
    pub tensor: Tensor,
}

/// Makes the biases of a graph values that nothing gives yet.
pub(super) fn make(graph: &mut Graph) -> Vec<Bias> {
    name_constants(graph);
    let wiring = Wiring::of(graph);
    // The number of a node, of its input, and the constant there.
    let found: Vec<(usize, usize, Tensor)> = graph
        .node
        .iter()
        .enumerate()
        .filter_map(|(at, node)| bias_of(&wiring, node).map(|(input, tensor)| (at, input, tensor.clone())))
        .collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for name in graph.node.iter().flat_map(|node| &node.input) {
        *uses.entry(name).or_default() += 1;
    }
    for (at, input, _) in &found {
        if let Some(left) = uses.get_mut(graph.node[*at].input[*input].as_str()) {
            *left -= 1;
        }
    }
    // The names of values that are read otherwise too, and of all others.
    let kept: HashSet<String> =
        uses.iter().filter(|(_, left)| **left > 0).map(|(name, _)| (*name).to_owned()).collect();
    let mut taken: HashSet<String> = graph.node.iter().flat_map(|node| &node.output).cloned().collect();
    taken.extend(graph.input.iter().map(|input| input.name().to_owned()));
    taken.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));

    let mut biases: Vec<Bias> = Vec::with_capacity(found.len());
    let mut named = HashSet::new();
    for (at, input, tensor) in found {
        let own = graph.node[at].input[input].clone();
        let numbered = (2..).map(|number| format!("{own}.{number}"));
        let free = |name: &String| match *name == own {
            true => !kept.contains(name) && !named.contains(name),
            false => !taken.contains(name) && !named.contains(name),
        };
        let name = std::iter::once(own.clone()).chain(numbered).find(free).expect("there are numbers enough");
        named.insert(name.clone());
        graph.node[at].input[input].clone_from(&name);
        let len = tensor.dims[0].try_into().unwrap_or(u32::MAX);
        biases.push(Bias { name, len, tensor });
    }
    graph.initializer.retain(|tensor| !named.contains(tensor.name()));
    biases
}

/// Makes a constant of each node that gives a constant vector another name, as PyTorch writes them for parameters of equal
/// values: they may be biases of different modules.
fn name_constants(graph: &mut Graph) {
    let mut constants: HashMap<String, Tensor> = graph
        .initializer
        .iter()
        .filter(|tensor| tensor.dims.len() == 1)
        .map(|tensor| (tensor.name().to_owned(), tensor.clone()))
        .collect();
    let initializers = &mut graph.initializer;
    graph.node.retain(|node| {
        let ([of], [name]) = (&node.input[..], &node.output[..]) else { return true };
        let Some(tensor) = constants.get(of).filter(|_| node.op_type() == "Identity") else { return true };
        let named = Tensor { name: Some(name.clone()), ..tensor.clone() };
        initializers.push(named.clone());
        constants.insert(name.clone(), named);
        false
    });
}

/// Which input of a node is a bias, and its values.
fn bias_of<'g>(wiring: &Wiring<'g>, node: &Node) -> Option<(usize, &'g Tensor)> {
    let third = || Some((2, wiring.vector(node.input.get(2)?)?));
    match node.op_type() {
        // With another factor than 1 the values would not be what is added.
        "Gemm" if node.attribute("beta").is_none_or(|beta| beta.f() == 1.0) => third(),
        "Conv" | "LayerNormalization" => third(),
        "Add" => {
            let [a, b] = &node.input[..] else { return None };
            [(0, a, b), (1, b, a)].into_iter().find_map(|(at, bias, to)| {
                let vector = wiring.vector(bias)?;
                takes_bias(wiring, wiring.producer(to)?, vector).then_some((at, vector))
            })
        }
        _ => None,
    }
}

/// Whether a vector that is added to what a node gives is a bias.
fn takes_bias(wiring: &Wiring<'_>, node: &Node, vector: &Tensor) -> bool {
    let has_bias = node.input.get(2).is_some_and(|name| !name.is_empty());
    match node.op_type() {
        "MatMul" => node.input.iter().any(|name| wiring.matrix(name).is_some()),
        "Gemm" | "LayerNormalization" => !has_bias,
        "Mul" => node.input.iter().filter_map(|name| wiring.vector(name)).any(|gain| gain.dims == vector.dims),
        _ => false,
    }
}
