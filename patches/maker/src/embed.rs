//! Patches for embeddings, of an encoder as it is.
//!
//! In: a bundle, and the directory of a sentence-transformers model or a task. Out: a patch without slots, with the
//! pooling, dense layers, normalization and prompts of the model. Refused: modules and poolings that a patch does not
//! have. The files are those that sentence-transformers writes: modules.json, config_sentence_transformers.json,
//! sentence_bert_config.json or that of another architecture, and a config.json for each module.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bias_patch::{Activation, Embedding, Head, Kind, Linear, Patch, Pooling, Task};
use edge_bundle::Bundle;
use hf_checkpoint::Checkpoint;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, Result, import::content};

/// A module of modules.json.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    class: String,
    path: PathBuf,
}

/// config_sentence_transformers.json.
#[derive(Default, Deserialize)]
struct Model {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

/// sentence_bert_config.json.
#[derive(Default, Deserialize)]
struct Transformer {
    #[serde(default)]
    max_seq_length: Option<u32>,
    #[serde(default)]
    do_lower_case: bool,
}

/// Architectures whose names are in that of the file.
const ARCHITECTURES: [&str; 7] = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];

/// What the config.json of a Pooling module has beside the modes.
#[derive(Deserialize)]
struct PoolingFields {
    #[serde(default)]
    word_embedding_dimension: Option<u64>,
    #[serde(default = "yes")]
    include_prompt: bool,
}

/// The config.json of a Dense module.
#[derive(Deserialize)]
struct Dense {
    activation_function: String,
    #[serde(default = "yes")]
    bias: bool,
}

fn yes() -> bool {
    true
}

/// A patch without slots for a task of kind embedding.
///
/// # Errors
/// When the task is of another kind or does not fit the encoder.
pub fn embedding(bundle: &Bundle, task: Task) -> Result<Patch> {
    if !matches!(task.kind(), Kind::Embedding(_)) {
        return Err(Error::Recipe {
            field: format!("kind of task {}", task.name()),
            expected: "embedding".to_owned(),
            found: task.kind().name().to_owned(),
        });
    }
    make(bundle, task, Head::default())
}

/// A patch that embeds as the sentence-transformers model in `dir` does. The task is called `name`.
///
/// # Errors
/// When a file is missing or wrong, or the model does what a patch cannot.
pub fn of_sentence_transformers(bundle: &Bundle, dir: &Path, name: &str) -> Result<Patch> {
    let modules_path = dir.join("modules.json");
    if !modules_path.exists() {
        let expected =
            "modules.json, the directory of a sentence-transformers model; --task embeds by a task, without one";
        return Err(content(dir, "model", expected, "none"));
    }
    let modules: Vec<Module> = read(&modules_path)?;
    let config_path = dir.join("config_sentence_transformers.json");
    let model: Model = optional(&config_path)?;
    let (mut pooling, mut normalize, mut head) = (None, false, Head::default());
    let mut transformer = Transformer::default();
    for module in &modules {
        let place = dir.join(&module.path);
        let class = module.class.rsplit('.').next().unwrap_or_default();
        let again = |what: &str| content(&modules_path, what, "once, in the order of sentence-transformers", "here");
        match class {
            "Transformer" => transformer = transformer_of(bundle, &place)?,
            "Pooling" if pooling.is_none() => pooling = Some(pooling_of(bundle, &place.join("config.json"), &model)?),
            "Dense" if pooling.is_some() && !normalize && head.output.is_none() => dense(&place, &mut head)?,
            "Normalize" if pooling.is_some() => normalize = true,
            "Pooling" | "Dense" | "Normalize" => return Err(again(class)),
            other => {
                let expected = "Transformer, Pooling, Dense and Normalize";
                return Err(content(&modules_path, "modules", expected, format!("{other:?}")));
            }
        }
    }
    let pooling = pooling.ok_or_else(|| content(&modules_path, "modules", "one of type Pooling", "none"))?;
    let mut prompts = model.prompts;
    if let Some(default) = &model.default_prompt_name {
        let prompt = prompts.get(default).cloned().ok_or_else(|| {
            let expected = format!("one of {}", prompts.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
            content(&config_path, "default_prompt_name", expected, format!("{default:?}"))
        })?;
        prompts.insert("default".to_owned(), prompt);
    }
    let most = bundle.manifest().config.max_length;
    let max_length = transformer.max_seq_length.unwrap_or(most).min(most);
    let kind = Kind::Embedding(Embedding { pooling, dimensions: None, normalize, prompts });
    make(bundle, Task::new(name, kind, 1, max_length)?, head)
}

/// Refuses the directory of a sentence-transformers model with dense layers, where only the encoder is read.
///
/// # Errors
/// When it has some.
pub(crate) fn check_no_dense(dir: &Path) -> Result<()> {
    let modules_path = dir.join("modules.json");
    let modules: Vec<Module> = optional(&modules_path)?;
    if modules.iter().any(|module| module.class.ends_with(".Dense")) {
        let expected = "none of type Dense; edge-patch embed --from reads them, without biases";
        return Err(content(&modules_path, "modules", expected, "one"));
    }
    Ok(())
}

fn make(bundle: &Bundle, task: Task, head: Head) -> Result<Patch> {
    let manifest = bundle.manifest();
    let patch = Patch::new(manifest.encoder, task, Vec::new(), head, [])?;
    patch.check(&manifest.shape())?;
    Ok(patch)
}

/// What the directory of a Transformer module says of texts.
fn transformer_of(bundle: &Bundle, dir: &Path) -> Result<Transformer> {
    let paths = ARCHITECTURES.map(|name| dir.join(format!("sentence_{name}_config.json")));
    let Some(path) = paths.iter().find(|path| path.exists()) else { return Ok(Transformer::default()) };
    let found: Transformer = read(path)?;
    if found.do_lower_case && !is_lowered(&read(&bundle.file("tokenizer.json")?)?) {
        let expected = "false, or an encoder whose tokenizer takes upper case for lower";
        return Err(content(path, "do_lower_case", expected, true));
    }
    Ok(found)
}

/// Whether a tokenizer lowers case, or a part of its normalizer.
fn is_lowered(part: &Value) -> bool {
    let parts = || part.get("normalizers").and_then(Value::as_array).into_iter().flatten();
    part.get("lowercase") == Some(&Value::Bool(true))
        || part.get("type").is_some_and(|name| name == "Lowercase")
        || part.get("normalizer").is_some_and(is_lowered)
        || parts().any(is_lowered)
}

/// The pooling in the config.json of a Pooling module: one of its modes is true.
fn pooling_of(bundle: &Bundle, path: &Path, model: &Model) -> Result<Pooling> {
    const PREFIX: &str = "pooling_mode";
    let PoolingFields { word_embedding_dimension, include_prompt } = read(path)?;
    let hidden = u64::from(bundle.manifest().config.hidden);
    if let Some(found) = word_embedding_dimension.filter(|found| *found != hidden) {
        return Err(content(path, "word_embedding_dimension", format!("{hidden}, as the encoder has"), found));
    }
    if !include_prompt && !model.prompts.is_empty() {
        let expected = "true, for a patch has no pooling that leaves the tokens of prompts out";
        return Err(content(path, "include_prompt", expected, false));
    }
    let fields: BTreeMap<String, Value> = read(path)?;
    let named = fields.get(PREFIX).and_then(|mode| mode.as_str()).map(str::to_owned);
    let chosen = fields.iter().filter(|(name, value)| name.starts_with(PREFIX) && **value == true);
    let chosen: Vec<String> = chosen.map(|(name, _)| name[PREFIX.len()..].trim_matches('_').to_owned()).collect();
    let modes: Vec<String> = named.into_iter().chain(chosen).collect();
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["lasttoken"] => Ok(Pooling::Last),
        _ => Err(content(path, PREFIX, "one of cls_token, mean_tokens and lasttoken", modes.join(" and "))),
    }
}

/// Puts a Dense module into a head: first the hidden layer, if its activation is one; else the output layer.
fn dense(dir: &Path, head: &mut Head) -> Result<()> {
    let config_path = dir.join("config.json");
    let config: Dense = read(&config_path)?;
    let source = Checkpoint::open(dir)?;
    let shape = source.shape("linear.weight")?.to_vec();
    let [outputs, inputs] = shape[..] else {
        return Err(content(source.path(), "linear.weight", "two dimensions", format!("{shape:?}")));
    };
    let weight = source.read("linear.weight", &[outputs, inputs])?;
    let bias = if config.bias { source.read("linear.bias", &[outputs])? } else { vec![0.0; outputs] };
    let layer = Linear::exact(&weight, &bias)?;
    let activation = match config.activation_function.rsplit('.').next().unwrap_or_default() {
        "Identity" => None,
        "Tanh" => Some(Activation::Tanh),
        "ReLU" => Some(Activation::Relu),
        "GELU" => Some(Activation::Gelu),
        other => {
            let expected = "Identity, Tanh, ReLU or GELU";
            return Err(content(&config_path, "activation_function", expected, format!("{other:?}")));
        }
    };
    match activation {
        None => head.output = Some(layer),
        Some(activation) if head.dense.is_none() => head.dense = Some((layer, activation)),
        Some(_) => {
            let expected = "Identity, for there is a layer with another before";
            return Err(content(&config_path, "activation_function", expected, &config.activation_function));
        }
    }
    Ok(())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(bias_patch::Error::io(path, "read"))?;
    serde_json::from_slice(&bytes).map_err(|e| content(path, "content", "as sentence-transformers writes it", e))
}

fn optional<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    if path.exists() { read(path) } else { Ok(T::default()) }
}
