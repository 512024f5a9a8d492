//! Exports an encoder of any kind from an ONNX graph that another program wrote, as PyTorch and optimum do.
//!
//! In: a graph with inputs `input_ids`, `attention_mask` and perhaps `token_type_ids`, whose output is hidden states
//! `[batch, sequence, hidden]`; its weights, inside or beside it; a tokenizer. Out: a bundle of family `onnx`, in which
//! the biases that were found are inputs with their values as defaults. Refused, by name: graphs that do not fit the
//! text pipeline, and operators that tract cannot run.
//!
//! The nodes stay as they are: no family is recognised, and tract runs the graph.

mod check;
mod prune;
mod shape;
mod slots;
#[cfg(test)]
mod tests;
mod values;
mod wiring;

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use bias_patch::{Digest, Digester, Module};
use edge_bundle::{
    Bundle, Element, FileEntry, Golden, Slot, TensorEntry,
    onnx::{EXTERNAL, FLOAT, Graph, INT64, Model, OperatorSet, Tensor},
};
use hf_checkpoint::Checkpoint;
use prost::Message;

use self::{shape::Tables, slots::Bias, values::Values};
use crate::{
    Destination, Error, Panels, Progress, Result,
    export::{ENCODER, Staged},
    graph::{
        Size::{Any, Of},
        at_place, place, value_info,
    },
    tokenizer,
    weights::Aligned,
};

/// The inputs that the runtime gives a graph.
const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
/// What a bundle calls the hidden states, and the pooler's output.
const OUTPUTS: [&str; 2] = ["last_hidden_state", "pooler_output"];
/// The first version of ONNX's files whose initializers need not be inputs.
const FIRST_WITHOUT_INPUTS: i64 = 4;

/// What a graph does not say itself.
#[derive(Clone, Debug, Default)]
pub struct GraphOptions {
    /// The tokenizer: `tokenizer.json`, or the directory that has it. Without one, that of the graph's directory.
    pub tokenizer: Option<PathBuf>,
    /// The longest sequence. Without one, what `config.json` beside the graph says, and its table of positions.
    pub max_length: Option<u32>,
}

/// Exports the graph in `file`, called `name`.
///
/// # Errors
/// When the graph is not an encoder of texts that tract can run, a file of it is missing or damaged, or the bundle cannot
/// be written. Then nothing is left behind.
pub fn export_graph(
    file: &Path,
    name: &str,
    options: &GraphOptions,
    to: &Destination,
    progress: &mut dyn FnMut(Progress),
) -> Result<Bundle> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let model = Model::read(file)?;
    let versions = check::versions(file, &model)?;
    let mut graph = model.graph.ok_or_else(|| refused(file, "graph", "one", "none"))?;
    check::nodes(file, &graph)?;
    prune::outputs(file, &mut graph)?;
    check::inputs(file, &graph)?;

    let beside = Checkpoint::open_without_tensors(dir)?;
    let tables = Tables::of(&graph);
    let vocabulary = tables.vocabulary(file, &beside)?;
    let (tokenizer, warning) = tokenizer_of(dir, options.tokenizer.as_deref(), vocabulary)?;
    if let Some(warning) = warning {
        progress(Progress::Warning(warning));
    }
    let max_length = tables.max_length(file, &beside, &tokenizer, options.max_length)?;
    let token_types = tables.token_types(&graph);
    let hidden = shape::hidden(file, &graph, &beside)?;

    let biases = slots::make(&mut graph);
    prune::unused(&mut graph);
    let count = u32::try_from(biases.len()).ok().filter(|count| (1..=u32::from(u16::MAX)).contains(count));
    let count = count.ok_or_else(|| {
        let expected = "1 to 65535 biases of linear layers, convolutions or LayerNorms, which are what a patch sets";
        refused(file, "biases", expected, biases.len())
    })?;
    let pooler = graph.output.iter().any(|output| output.name() == OUTPUTS[1]);
    let config = edge_bundle::Config::of_graph(count, hidden, vocabulary, max_length, token_types, pooler);
    config.check()?;

    let mut staged = Staged::new(to)?;
    let values = Values { file, dir };
    let (slots, entry) = write_base(&values, &biases, &staged.path("base.bias"))?;
    staged.files.insert("base.bias".to_owned(), entry);
    let (tensors, entry) = write_weights(&values, &mut graph, &staged.path("weights.bin"), progress)?;
    staged.files.insert("weights.bin".to_owned(), entry);
    staged.write_tokenizer(&tokenizer)?;
    declare(&mut graph, &slots, hidden, name);
    let model = Model {
        ir_version: Some(versions.ir.max(FIRST_WITHOUT_INPUTS)),
        producer_name: Some("edge-export".to_owned()),
        opset_import: vec![OperatorSet { domain: Some(String::new()), version: Some(versions.operators) }],
        graph: Some(graph),
    };
    staged.write(ENCODER, &model.encode_to_vec())?;
    // Only tract runs the graph, and it is not a part of this program: see `verify`.
    let golden = Golden { input_ids: Vec::new(), first: Vec::new(), last: Vec::new() };
    let manifest = staged.manifest(name, config, Digest::of(&tokenizer), slots, tensors, golden);
    staged.commit(&manifest, to, Panels::Later, progress)
}

/// The tokenizer that is named, or that of the graph's directory.
fn tokenizer_of(dir: &Path, named: Option<&Path>, rows: u32) -> Result<(Vec<u8>, Option<String>)> {
    let ready = match named {
        Some(path) if path.is_dir() => path.join("tokenizer.json"),
        Some(path) if path.exists() => path.to_owned(),
        Some(path) => return Err(refused(path, "tokenizer", "a tokenizer.json, or a directory with one", "none")),
        None => dir.join("tokenizer.json"),
    };
    let beside = ready.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let files = ["tokenizer.json", "vocab.txt", "vocab.json"];
    if named.is_none() && !files.iter().any(|file| dir.join(file).exists()) {
        let expected = "a tokenizer.json beside the graph, or --tokenizer FILE";
        return Err(refused(dir, "tokenizer", expected, "none"));
    }
    tokenizer::of_file(&Checkpoint::open_without_tensors(beside)?, ready, rows)
}

/// Writes the values of the biases, each on its boundary.
fn write_base(values: &Values<'_>, biases: &[Bias], path: &Path) -> Result<(Vec<Slot>, FileEntry)> {
    let io = |source| Error::Io { path: path.to_owned(), action: "write", source };
    let mut file = Aligned::new(BufWriter::new(File::create(path).map_err(io)?));
    let (mut slots, mut end) = (Vec::with_capacity(biases.len()), 0);
    for (number, bias) in biases.iter().enumerate() {
        let offset = place(&mut end, 4 * u64::from(bias.len));
        file.align(offset).map_err(io)?;
        values.floats(&bias.tensor, &mut |bytes| file.write(bytes).map_err(io))?;
        slots.push(Slot {
            name: bias.name.clone(),
            module: Module::Graph,
            layer: u16::try_from(number).ok(),
            len: bias.len,
            offset,
            zero: false,
        });
    }
    Ok((slots, file.finish().map_err(io)?))
}

/// Writes the floats that have dimensions, and tells the graph where they are. All other constants go into the graph.
fn write_weights(
    values: &Values<'_>,
    graph: &mut Graph,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<TensorEntry>, FileEntry)> {
    let io = |source| Error::Io { path: path.to_owned(), action: "write", source };
    let is_weight = |tensor: &Tensor| {
        tensor.data_type() == FLOAT && !tensor.dims.is_empty() && tensor.dims.iter().all(|dim| *dim > 0)
    };
    let count = |tensor: &Tensor| tensor.dims.iter().map(|dim| dim.unsigned_abs()).fold(1, u64::saturating_mul);
    let bytes = graph.initializer.iter().filter(|t| is_weight(t)).map(|t| count(t).saturating_mul(4));
    progress(Progress::Stage("writing weights", bytes.fold(0, u64::saturating_add)));
    let mut file = Aligned::new(BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?));
    let (mut tensors, mut end) = (Vec::new(), 0);
    for tensor in &mut graph.initializer {
        let mut kept = Tensor {
            name: tensor.name.clone(),
            data_type: tensor.data_type,
            dims: tensor.dims.clone(),
            ..Tensor::default()
        };
        if !is_weight(tensor) {
            if tensor.is_external() {
                kept.raw_data = Some(values.whole(tensor)?);
                *tensor = kept;
            }
            continue;
        }
        let bytes = count(tensor).saturating_mul(4);
        let offset = place(&mut end, bytes);
        file.align(offset).map_err(io)?;
        let mut digester = Digester::default();
        values.floats(tensor, &mut |bytes| {
            digester.update(bytes);
            progress(Progress::Advance(bytes.len() as u64));
            file.write(bytes).map_err(io)
        })?;
        kept.data_location = Some(EXTERNAL);
        kept.external_data = at_place("weights.bin", offset, bytes);
        let first = tensor.dims[0].unsigned_abs();
        tensors.push(TensorEntry {
            name: tensor.name().to_owned(),
            // The format has vectors and matrices; the graph has all dimensions.
            shape: if tensor.dims.len() == 1 { vec![first] } else { vec![first, bytes / 4 / first] },
            element: Element::F32,
            transposed: false,
            offset,
            sha256: digester.finish(),
        });
        *tensor = kept;
    }
    Ok((tensors, file.finish().map_err(io)?))
}

/// Gives the graph its inputs and outputs: the slots are inputs, and their defaults are in `base.bias`.
fn declare(graph: &mut Graph, slots: &[Slot], hidden: u32, name: &str) {
    graph.name = Some(name.to_owned());
    let given: Vec<String> = graph.input.iter().map(|input| input.name().to_owned()).collect();
    graph.input = given.iter().map(|name| value_info(name, INT64, &[Any("batch"), Any("sequence")])).collect();
    for slot in slots {
        graph.input.push(value_info(&slot.name, FLOAT, &[Of(slot.len)]));
        graph.initializer.push(Tensor {
            name: Some(slot.name.clone()),
            data_type: Some(FLOAT),
            dims: vec![slot.len.into()],
            data_location: Some(EXTERNAL),
            external_data: at_place("base.bias", slot.offset, 4 * u64::from(slot.len)),
            ..Tensor::default()
        });
    }
    let outputs: Vec<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    graph.output = outputs
        .iter()
        .map(|name| match name.as_str() {
            "pooler_output" => value_info(name, FLOAT, &[Any("batch"), Of(hidden)]),
            _ => value_info(name, FLOAT, &[Any("batch"), Any("sequence"), Of(hidden)]),
        })
        .collect();
}

/// A part of a graph's file, or of a file beside it, that is not as it has to be.
fn refused(file: &Path, part: &str, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Graph {
        file: file.display().to_string(),
        node: part.to_owned(),
        expected: expected.into(),
        found: found.to_string(),
    }
}
