//! The part of ONNX's protobuf messages that encoder graphs use (onnx.proto of ONNX 1.15, IR version 9).
//!
//! In and out: bytes, by [`prost::Message`]. Nothing is refused but what is not protobuf; fields that are not listed
//! here are skipped. Scalars are optional, as in proto2, so that zeros are written and a reader can tell what is
//! missing; for each there is a function of its name that gives the value or the type's default.
//!
//! In a bundle's directory the graph is `encoder.onnx`; see [`Model::read`].

use std::{fs, path::Path};

use prost::Message;

use crate::{Error, Result};

/// `TensorProto.DataType` FLOAT.
pub const FLOAT: i32 = 1;
/// `TensorProto.DataType` INT8.
pub const INT8: i32 = 3;
/// `TensorProto.DataType` FLOAT16.
pub const FLOAT16: i32 = 10;
/// `TensorProto.DataType` INT64.
pub const INT64: i32 = 7;
/// `TensorProto.DataLocation` EXTERNAL.
pub const EXTERNAL: i32 = 1;
/// Operator set: 20 is the first with Gelu.
pub const OPSET: i64 = 20;
/// IR version that goes with that operator set.
pub const IR_VERSION: i64 = 9;

/// `ModelProto`: a file.
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    /// Version of the file format, [`IR_VERSION`].
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// The program that wrote it.
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    /// What it computes.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Whose operators its nodes are.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
}

impl Model {
    /// Reads a model from its file.
    ///
    /// # Errors
    /// When the file cannot be read or is no such message.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path, "read"))?;
        Model::decode(bytes.as_slice()).map_err(|e| Error::field("file", "an ONNX model", e).in_file(path))
    }
}

/// `OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSet {
    /// Empty for ONNX's own operators.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// Its version, [`OPSET`].
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// `GraphProto`: nodes in an order in which they can run.
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    /// Operators.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    /// A name, for people.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// Constants; one with the name of an input is its default.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// `NodeProto`: an operator, the names of what goes in and of what comes out.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// Names of values; an empty one is an optional input that is not given.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of values.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// A name, for people.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// The operator.
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    /// Its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    /// Whose operator it is; empty for ONNX's own.
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
}

impl Node {
    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name() == name)
    }
}

/// `AttributeProto`: a name, and one of the values.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// A float.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// An integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// A string.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    /// Floats.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Strings.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
    /// Which of the values it has: `AttributeProto.AttributeType`.
    #[prost(int32, optional, tag = "20")]
    pub r#type: Option<i32>,
}

impl Attribute {
    /// An attribute that is an integer.
    pub fn int(name: &str, value: i64) -> Self {
        Attribute { i: Some(value), ..Self::of(name, 2) }
    }

    /// An attribute that is a float.
    pub fn float(name: &str, value: f32) -> Self {
        Attribute { f: Some(value), ..Self::of(name, 1) }
    }

    /// An attribute that is a string.
    pub fn text(name: &str, value: &str) -> Self {
        Attribute { s: Some(value.as_bytes().to_vec()), ..Self::of(name, 3) }
    }

    /// An attribute that is a list of integers.
    pub fn integers(name: &str, values: &[i64]) -> Self {
        Attribute { ints: values.to_vec(), ..Self::of(name, 7) }
    }

    fn of(name: &str, attribute_type: i32) -> Self {
        Attribute { name: Some(name.to_owned()), r#type: Some(attribute_type), ..Default::default() }
    }
}

/// `TensorProto`: a constant, its values here or in a file beside the graph's.
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    /// Dimensions; none of a scalar.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// [`FLOAT`], [`FLOAT16`], [`INT8`], [`INT64`] or another `TensorProto.DataType`.
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    /// Values of floats, unless they are elsewhere.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Values of the types of at most 32 bits, likewise.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Values of [`INT64`], likewise.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Its name.
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// Values, little-endian, unless they are in a file.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// Values of floats of 64 bits, likewise.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Values of unsigned integers of 32 and 64 bits, likewise.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Where they are in a file: `location`, `offset`, `length`.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    /// [`EXTERNAL`] if they are in a file.
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

impl Tensor {
    /// Whether its values are in a file.
    pub fn is_external(&self) -> bool {
        self.data_location() == EXTERNAL
    }

    /// An entry of its external data.
    pub fn external(&self, key: &str) -> Option<&str> {
        self.external_data.iter().find(|entry| entry.key() == key).map(Entry::value)
    }
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Key.
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    /// Value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// `ValueInfoProto`: an input or output.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    /// Its name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

impl ValueInfo {
    /// Its dimensions; none where it has no shape.
    pub fn dims(&self) -> &[Dim] {
        let tensor = self.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        tensor.and_then(|t| t.shape.as_ref()).map_or(&[], |shape| &shape.dim)
    }
}

/// `TypeProto`, of tensors only.
#[derive(Clone, PartialEq, Message)]
pub struct Type {
    /// The type of a tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    /// `TensorProto.DataType` of its values.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// Its dimensions.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    /// Dimensions.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dim>,
}

/// `TensorShapeProto.Dimension`.
#[derive(Clone, PartialEq, Message)]
pub struct Dim {
    /// A number or a name.
    #[prost(oneof = "DimValue", tags = "1, 2")]
    pub value: Option<DimValue>,
}

/// The value of a dimension.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimValue {
    /// So many.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// Any number, the same wherever this name is.
    #[prost(string, tag = "2")]
    Param(String),
}
