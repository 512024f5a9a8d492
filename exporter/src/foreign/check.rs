//! What of a graph the runtime can run.
//!
//! In: a graph. Out: the versions of its file and operators. Refused, by name: operators that tract does not have,
//! half-precision and quantized values, graphs within graphs, and inputs other than those of texts. The error says what
//! helps.

use std::{collections::HashSet, path::Path};

use edge_bundle::onnx::{Attribute, DimValue, Graph, INT64, Model, Node};

use super::{INPUTS, refused};
use crate::Result;

/// How to write a graph that this program takes.
const COMMAND: &str = "`optimum-cli export onnx --model MODEL --task feature-extraction DIR` writes one";

/// Operators of ONNX that tract 0.23 has and that compute with numbers: without graphs within graphs, random and
/// quantized ones.
const OPERATORS: &str = "\
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitwiseAnd BitwiseNot \
    BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvTranspose \
    Cos Cosh CumSum DFT Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements \
    GatherND Gelu Gemm GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity \
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization \
    MatMul Max MaxPool Mean Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow RMSNormalization Range \
    Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare \
    Relu Reshape Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus \
    Softsign Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor";
/// Operators whose values are quantized.
const QUANTIZED: [&str; 6] =
    ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "ConvInteger"];
/// Versions of ONNX's operators: from the first that PyTorch 2 writes to the last that tract 0.23 was made for.
const VERSIONS: std::ops::RangeInclusive<i64> = 9..=23;

/// Versions that a graph's file names.
pub(super) struct Versions {
    /// Of the file.
    pub ir: i64,
    /// Of the operators.
    pub operators: i64,
}

/// Reads the versions of a model.
pub(super) fn versions(file: &Path, model: &Model) -> Result<Versions> {
    let own = model.opset_import.iter().find(|set| is_own(set.domain()));
    let operators = own.map_or(0, |set| set.version());
    if !VERSIONS.contains(&operators) {
        let expected = format!("{} to {}, such as --opset 17 of optimum-cli writes", VERSIONS.start(), VERSIONS.end());
        return Err(refused(file, "version of ONNX's operators (opset)", expected, operators));
    }
    Ok(Versions { ir: model.ir_version(), operators })
}

/// Whether operators of this domain are ONNX's own.
fn is_own(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Checks that tract has the operators of all nodes, and that each reads what is there.
pub(super) fn nodes(file: &Path, graph: &Graph) -> Result<()> {
    let mut there: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    there.extend(graph.input.iter().map(|input| input.name()));
    there.insert("");
    for node in &graph.node {
        operator(file, node)?;
        if let Some(name) = node.input.iter().find(|name| !there.contains(name.as_str())) {
            return Err(refused(file, &title(node), "inputs that nodes before it give", name));
        }
        there.extend(node.output.iter().map(String::as_str));
    }
    for output in &graph.output {
        if !there.contains(output.name()) {
            return Err(refused(file, output.name(), "an output that a node gives", "none"));
        }
    }
    let half = |data_type: i32| matches!(data_type, 10 | 16);
    if let Some(tensor) = graph.initializer.iter().find(|tensor| half(tensor.data_type())) {
        let expected = "32-bit floats; export the model without --dtype fp16 or bf16";
        return Err(refused(file, tensor.name(), expected, "16-bit floats"));
    }
    if let Some(tensor) = graph.initializer.iter().find(|tensor| tensor.data_type() == 11 && !tensor.dims.is_empty()) {
        return Err(refused(file, tensor.name(), "32-bit floats; export the model in float32", "64-bit floats"));
    }
    Ok(())
}

fn title(node: &Node) -> String {
    match node.name() {
        "" => format!("node of {}", node.output.first().map_or("nothing", String::as_str)),
        name => format!("node {name}"),
    }
}

fn operator(file: &Path, node: &Node) -> Result<()> {
    let (domain, op) = (node.domain(), node.op_type());
    if !is_own(domain) {
        let expected =
            format!("an operator of ONNX itself; a graph that no optimizer fused has these alone: {COMMAND}");
        return Err(refused(file, &title(node), expected, format!("{op} of {domain}")));
    }
    if QUANTIZED.contains(&op) {
        let expected = "floats; export the model that is not quantized";
        return Err(refused(file, &title(node), expected, format!("{op}, which quantizes")));
    }
    if !OPERATORS.split(' ').any(|known| known == op) {
        let expected =
            format!("an operator that tract can run; perhaps another version of the exporter does without: {COMMAND}");
        return Err(refused(file, &title(node), expected, op));
    }
    // AttributeProto.AttributeType: numbers, texts, a tensor, and lists of numbers and texts.
    let plain = |attribute: &&Attribute| matches!(attribute.r#type(), 0..=4 | 6..=8);
    match node.attribute.iter().find(|attribute| !plain(attribute)) {
        None => Ok(()),
        Some(other) => {
            let found = format!("one of type {}", other.r#type());
            Err(refused(
                file,
                &title(node),
                format!("an attribute {} of numbers, a text or a tensor", other.name()),
                found,
            ))
        }
    }
}

/// Checks that the inputs are those that the runtime makes of a text, of any length.
pub(super) fn inputs(file: &Path, graph: &Graph) -> Result<()> {
    for input in &graph.input {
        let name = input.name();
        if !INPUTS.contains(&name) {
            let expected = INPUTS.join(", ");
            return Err(refused(file, &format!("input {name}"), format!("{expected}: {}", kind_of(name)), name));
        }
        let elements = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type());
        if elements != INT64 {
            let found = format!("type {elements} of ONNX");
            return Err(refused(file, &format!("input {name}"), "64-bit integers (type 7 of ONNX)", found));
        }
        let dims = input.dims().iter().map(|dim| match dim.value {
            Some(DimValue::Value(number)) => Some(number),
            _ => None,
        });
        let dims: Vec<Option<i64>> = dims.collect();
        if !matches!(dims[..], [None | Some(1), None]) {
            let said: Vec<String> =
                dims.iter().map(|dim| dim.map_or("any".to_owned(), |dim| dim.to_string())).collect();
            let expected = "dimensions [batch, sequence] of any size; export the model with dynamic axes";
            return Err(refused(file, &format!("input {name}"), expected, format!("[{}]", said.join(", "))));
        }
    }
    match graph.input.iter().any(|input| input.name() == INPUTS[0]) {
        true => Ok(()),
        false => {
            let names = graph.input.iter().map(|input| input.name()).collect::<Vec<_>>().join(", ");
            Err(refused(file, "inputs", format!("{}, of an encoder of texts", INPUTS[0]), names))
        }
    }
}

/// What an input that texts do not have says of a graph.
fn kind_of(name: &str) -> &'static str {
    match name {
        "pixel_values" | "pixel_mask" => "this is an encoder of images, and edge-run reads texts",
        "input_features" | "input_values" => "this is an encoder of sounds, and edge-run reads texts",
        "inputs_embeds" => "the embedding table has to be in the graph; export the model with input_ids",
        _ if name.starts_with("past_key_values") || name.starts_with("use_cache") => {
            "this is a decoder with past keys and values, and edge-run runs encoders"
        }
        _ if name.starts_with("decoder_") || name.starts_with("encoder_") => {
            "this is a decoder; export the encoder alone"
        }
        "bbox" => "this encoder reads places on a page, which a text does not have",
        _ => "edge-run gives a text nothing else; export the model with these inputs alone",
    }
}
