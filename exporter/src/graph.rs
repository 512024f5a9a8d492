//! Builds an ONNX graph node by node, and assigns each weight and slot its place in a file.
//!
//! In: nodes, weights and slots, in the order of the forward pass. Out: the model, and the weights and slots with their
//! aligned offsets in `weights.bin` and `base.bias`. Their values are written later. Nothing is refused.

use bias_patch::SlotId;
use edge_bundle::{ALIGNMENT, Element, Part, SCALE_GROUP, Slot, TensorEntry};

use edge_bundle::onnx::{
    Attribute, Dim, DimValue, EXTERNAL, Entry, FLOAT, FLOAT16, Graph, INT8, INT64, IR_VERSION, Model, Node, OPSET,
    OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo,
};

/// A frozen tensor of the graph, and its place in `weights.bin`.
pub(crate) struct Weight {
    /// Its name.
    pub name: String,
    /// Where its values come from.
    pub source: Source,
    /// Dimensions in `weights.bin`.
    pub shape: Vec<u64>,
    /// Its number format.
    pub element: Element,
    /// Whether the checkpoint holds it transposed.
    pub transposed: bool,
    /// Byte offset in `weights.bin`.
    pub offset: u64,
}

/// Where the values of a frozen tensor come from.
pub(crate) enum Source {
    /// Some rows of a tensor of the checkpoint, which has as many parts of as many rows.
    Tensor(String, Part),
    /// Nothing: these are the values.
    Computed(Vec<f32>),
    /// What a linear layer makes of a table of distances.
    Distances(Distances),
    /// The tensor before it, which is quantized: they are its scales.
    Scales,
}

/// A table of distances, and the names of what makes vectors of it. All are tensors of the checkpoint.
pub(crate) struct Distances {
    /// The table, `[T, H]`.
    pub table: String,
    /// The LayerNorm that comes first: gain and bias, and what it adds to the variance.
    pub norm: [String; 2],
    pub epsilon: f64,
    /// The layer's matrix, `[H, H]`.
    pub matrix: String,
    pub heads: u32,
}

/// A dimension of an input or output: any number, the same wherever the name is the same; or a fixed number.
#[derive(Clone, Copy)]
pub(crate) enum Size<'a> {
    Any(&'a str),
    Of(u32),
}

/// A graph that is being built. Values of the graph are referred to by name.
#[derive(Default)]
pub(crate) struct Builder {
    graph: Graph,
    /// Frozen tensors, in file order.
    pub weights: Vec<Weight>,
    /// Bias vectors, in file order.
    pub slots: Vec<Slot>,
    /// The number format of matrices.
    matrices: Element,
    weights_end: u64,
    base_end: u64,
}

impl Builder {
    /// An empty graph. Frozen matrices get the number format `matrices`. `base.bias` begins with `zeros` zeros, which the
    /// slots of modules without biases share.
    pub fn new(matrices: Element, zeros: u32) -> Self {
        Builder { matrices, base_end: 4 * u64::from(zeros), ..Builder::default() }
    }

    /// Adds a node with one output, and returns the output's name, which is the node's.
    pub fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&s| s.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: Some(name.to_owned()),
            op_type: Some(op.to_owned()),
            attribute: attributes,
            domain: None,
        });
        name.to_owned()
    }

    /// Adds a node that puts the dimensions of a value in another order.
    pub fn transpose(&mut self, name: &str, value: &str, order: &[i64]) -> String {
        self.node("Transpose", name, &[value], vec![Attribute::integers("perm", order)])
    }

    /// A constant of 64-bit integers: a vector, or a matrix of one row.
    pub fn integers(&mut self, name: &str, dims: &[i64], values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, INT64, dims, raw)
    }

    /// A constant vector of floats.
    pub fn floats(&mut self, name: &str, values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, FLOAT, &[values.len() as i64], raw)
    }

    /// A constant index: a scalar, so that gathering by it drops the dimension.
    pub fn index(&mut self, name: &str, value: i64) -> String {
        self.integers(name, &[], &[value])
    }

    /// A constant number.
    pub fn number(&mut self, name: &str, value: f32) -> String {
        self.constant(name, FLOAT, &[], value.to_le_bytes().to_vec())
    }

    /// A frozen tensor in `weights.bin`, as floats. Halves are cast. A matrix of int8 values gets its scales beside it, and
    /// nodes that dequantize: `quantized * scale`.
    ///
    /// A tensor that is there already is the same one: layers may share it.
    pub fn weight(&mut self, name: &str, shape: &[u64], transposed: bool, source: Source) -> String {
        let element = if shape.len() == 2 { self.matrices } else { Element::F32 };
        let value = match element {
            Element::F32 => name.to_owned(),
            Element::F16 | Element::I8 | Element::I4 => format!("{name}.values"),
        };
        if self.weights.iter().any(|weight| weight.name == name) {
            return value;
        }
        self.frozen(name, shape, element, transposed, source);
        let to_float = vec![Attribute::int("to", FLOAT.into())];
        match element {
            Element::F32 => return value,
            Element::F16 => return self.node("Cast", &value, &[name], to_float),
            Element::I8 | Element::I4 => {}
        }
        let mut scales = TensorEntry::scales_of(name);
        let groups = if transposed { shape[0].div_ceil(SCALE_GROUP) } else { shape[0] };
        let of_scales = [groups, if transposed { shape[1] } else { 1 }];
        self.frozen(&scales, &of_scales, Element::F32, false, Source::Scales);
        if transposed {
            // The scale of each input's group. (DequantizeLinear takes groups from opset 21 on.)
            let group_of: Vec<i64> = (0..shape[0]).map(|input| (input / SCALE_GROUP) as i64).collect();
            let groups = self.integers(&format!("{name}.groups"), &[group_of.len() as i64], &group_of);
            scales = self.node("Gather", &format!("{name}.scales"), &[&scales, &groups], vec![]);
        }
        let quantized = self.node("Cast", &format!("{name}.codes"), &[name], to_float);
        self.node("Mul", &value, &[&quantized, &scales], vec![])
    }

    /// A frozen table of numbers that are added or multiplied one by one: floats, however matrices are stored.
    pub fn table(&mut self, name: &str, shape: [u64; 2], source: Source) -> String {
        if !self.weights.iter().any(|weight| weight.name == name) {
            self.frozen(name, &shape, Element::F32, false, source);
        }
        name.to_owned()
    }

    /// A frozen matrix of floats, however matrices are stored, which is multiplied: the checkpoint would hold it
    /// transposed.
    pub fn factor(&mut self, name: &str, shape: [u64; 2], source: Source) -> String {
        self.frozen(name, &shape, Element::F32, true, source);
        name.to_owned()
    }

    fn frozen(&mut self, name: &str, shape: &[u64], element: Element, transposed: bool, source: Source) {
        let bytes = element.bytes() * shape.iter().product::<u64>();
        let offset = place(&mut self.weights_end, bytes);
        self.external(name, shape, element, "weights.bin", offset, bytes);
        self.weights.push(Weight { name: name.to_owned(), source, shape: shape.to_vec(), element, transposed, offset });
    }

    /// A bias vector: a graph input whose default lies in `base.bias`, at its beginning if it is `zero`.
    pub fn slot(&mut self, name: &str, id: SlotId, len: u32, zero: bool) -> String {
        let bytes = 4 * u64::from(len);
        let offset = if zero { 0 } else { place(&mut self.base_end, bytes) };
        self.external(name, &[u64::from(len)], Element::F32, "base.bias", offset, bytes);
        self.input(name, FLOAT, &[Size::Of(len)]);
        self.slots.push(Slot { name: name.to_owned(), module: id.module, layer: id.layer, len, offset, zero });
        name.to_owned()
    }

    /// A or B of a low-rank term, `[r, K]` or `[M, r]`: a graph input whose default has rank 0. r is the dimension of any
    /// size.
    pub fn low_rank(&mut self, name: &str, dims: [Size<'_>; 2]) -> String {
        let empty = dims.map(|size| match size {
            Size::Any(_) => 0,
            Size::Of(number) => number.into(),
        });
        self.constant(name, FLOAT, &empty, Vec::new());
        self.input(name, FLOAT, &dims)
    }

    /// A graph input.
    pub fn input(&mut self, name: &str, elem_type: i32, dims: &[Size<'_>]) -> String {
        self.graph.input.push(value_info(name, elem_type, dims));
        name.to_owned()
    }

    /// Declares a graph output of floats.
    pub fn output(&mut self, name: &str, dims: &[Size<'_>]) {
        self.graph.output.push(value_info(name, FLOAT, dims));
    }

    /// The whole model. Slots are in the order of their ids, which is that of files too.
    pub fn finish(mut self, name: &str) -> (Model, Vec<Weight>, Vec<Slot>) {
        self.slots.sort_by_key(Slot::id);
        let model = Model {
            ir_version: Some(IR_VERSION),
            producer_name: Some("edge-export".to_owned()),
            opset_import: vec![OperatorSet { domain: Some(String::new()), version: Some(OPSET) }],
            graph: Some(Graph { name: Some(name.to_owned()), ..self.graph }),
        };
        (model, self.weights, self.slots)
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[i64], raw: Vec<u8>) -> String {
        self.graph.initializer.push(Tensor {
            name: Some(name.to_owned()),
            data_type: Some(data_type),
            dims: dims.to_vec(),
            raw_data: Some(raw),
            ..Default::default()
        });
        name.to_owned()
    }

    fn external(&mut self, name: &str, shape: &[u64], element: Element, file: &str, offset: u64, bytes: u64) {
        self.graph.initializer.push(Tensor {
            name: Some(name.to_owned()),
            data_type: Some(match element {
                Element::F32 => FLOAT,
                Element::F16 => FLOAT16,
                Element::I8 | Element::I4 => INT8,
            }),
            // Dimensions are below 2^24, as a Config is.
            dims: shape.iter().map(|d| *d as i64).collect(),
            external_data: at_place(file, offset, bytes),
            data_location: Some(EXTERNAL),
            ..Default::default()
        });
    }
}

/// Where a tensor's values are in a file of the bundle.
pub(crate) fn at_place(file: &str, offset: u64, bytes: u64) -> Vec<Entry> {
    let entry = |key: &str, value: String| Entry { key: Some(key.to_owned()), value: Some(value) };
    vec![entry("location", file.to_owned()), entry("offset", offset.to_string()), entry("length", bytes.to_string())]
}

/// Takes the next aligned place of `bytes` bytes.
pub(crate) fn place(end: &mut u64, bytes: u64) -> u64 {
    let offset = end.next_multiple_of(ALIGNMENT);
    *end = offset + bytes;
    offset
}

/// A named input or output.
pub(crate) fn value_info(name: &str, elem_type: i32, dims: &[Size<'_>]) -> ValueInfo {
    let dim = |d: &Size<'_>| match d {
        Size::Any(symbol) => Dim { value: Some(DimValue::Param((*symbol).to_owned())) },
        Size::Of(number) => Dim { value: Some(DimValue::Value(i64::from(*number))) },
    };
    let shape = Shape { dim: dims.iter().map(dim).collect() };
    let tensor_type = TensorType { elem_type: Some(elem_type), shape: Some(shape) };
    ValueInfo { name: Some(name.to_owned()), r#type: Some(Type { tensor_type: Some(tensor_type) }) }
}
