//! Bundles whose graph was changed: what `edge-run` is to notice, to run as it is written, or to leave to tract.

use std::fs;

use edge_bundle::{
    Bundle, FileEntry, MANIFEST,
    onnx::{Attribute, FLOAT, Graph, INT64, Model, Node, Tensor},
};
use edge_export::Options;
use prost::Message;
use tempfile::TempDir;

use crate::small_bundle_with;

/// A small encoder, whose graph is changed time and again.
pub struct Graphs {
    /// Holds the bundle.
    pub home: TempDir,
    bundle: Bundle,
    model: Model,
}

impl Graphs {
    /// The small encoder of this name.
    pub fn of(name: &str, options: Options) -> Self {
        let (home, bundle) = small_bundle_with(name, options);
        let model = Model::read(&bundle.dir().join("encoder.onnx")).unwrap();
        Graphs { home, bundle, model }
    }

    /// The bundle with its graph changed in one way, and in no earlier one.
    pub fn changed(&self, change: impl FnOnce(&mut Graph)) -> Bundle {
        self.changed_model(|model| change(model.graph.as_mut().unwrap()))
    }

    /// As [`Graphs::changed`], of what is around the graph too.
    pub fn changed_model(&self, change: impl FnOnce(&mut Model)) -> Bundle {
        let mut model = self.model.clone();
        change(&mut model);
        let path = self.bundle.dir().join("encoder.onnx");
        fs::write(&path, model.encode_to_vec()).unwrap();
        let mut manifest = self.bundle.manifest().clone();
        manifest.files.insert("encoder.onnx".to_owned(), FileEntry::of(&path).unwrap());
        fs::write(self.bundle.dir().join(MANIFEST), serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
        Bundle::open(self.bundle.dir()).unwrap()
    }
}

/// A node by its name.
pub fn node<'a>(graph: &'a mut Graph, name: &str) -> &'a mut Node {
    graph.node.iter_mut().find(|node| node.name() == name).unwrap_or_else(|| panic!("no node {name}"))
}

/// A constant by its name.
pub fn constant<'a>(graph: &'a mut Graph, name: &str) -> &'a mut Tensor {
    graph.initializer.iter_mut().find(|tensor| tensor.name() == name).unwrap_or_else(|| panic!("no constant {name}"))
}

/// Gives a node an attribute, in the place of one of its name.
pub fn set(graph: &mut Graph, name: &str, attribute: Attribute) {
    let node = node(graph, name);
    node.attribute.retain(|a| a.name() != attribute.name());
    node.attribute.push(attribute);
}

/// Gives a node an attribute that is an integer.
pub fn set_int(graph: &mut Graph, name: &str, attribute: &str, value: i64) {
    set(graph, name, Attribute::int(attribute, value));
}

/// Lets a node read another value.
pub fn read(graph: &mut Graph, name: &str, input: usize, value: &str) {
    value.clone_into(&mut node(graph, name).input[input]);
}

/// Swaps the first two inputs of a node.
pub fn swap(graph: &mut Graph, name: &str) {
    node(graph, name).input.swap(0, 1);
}

/// Adds a constant of integers, or changes the one of this name.
pub fn integers(graph: &mut Graph, name: &str, dims: &[i64], values: &[i64]) {
    let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    put(graph, name, dims, INT64, raw);
}

/// Adds a constant of one number, or changes the one of this name.
pub fn number(graph: &mut Graph, name: &str, dims: &[i64], value: f32) {
    put(graph, name, dims, FLOAT, value.to_le_bytes().to_vec());
}

fn put(graph: &mut Graph, name: &str, dims: &[i64], data_type: i32, raw: Vec<u8>) {
    graph.initializer.retain(|tensor| tensor.name() != name);
    graph.initializer.push(Tensor {
        name: Some(name.to_owned()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        raw_data: Some(raw),
        ..Default::default()
    });
}

/// Adds a node with one output of its name before the node that is to read it.
pub fn insert(graph: &mut Graph, before: &str, op: &str, name: &str, inputs: &[&str], attributes: Vec<Attribute>) {
    let at = graph.node.iter().position(|node| node.name() == before).unwrap_or_else(|| panic!("no node {before}"));
    let node = Node {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![name.to_owned()],
        name: Some(name.to_owned()),
        op_type: Some(op.to_owned()),
        attribute: attributes,
        domain: None,
    };
    graph.node.insert(at, node);
}
