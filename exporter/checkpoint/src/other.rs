//! What people take for a checkpoint, and what helps.
//!
//! In: names of files, of a directory or of a repository, and its `config.json`. Out: what it is, and what to do.
//! Refused: nothing; a collection of files that is not known is none of these.

use std::fmt;

use serde_json::Value;

use crate::error::shell_quoted;

/// The whole weights, and the list of their parts.
pub(crate) const WEIGHTS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];
/// The settings of an adapter.
pub(crate) const ADAPTER: &str = "adapter_config.json";

/// Something else than a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// What it is.
    pub found: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected config.json and model.safetensors, found {}; {}", self.found, self.remedy)
    }
}

/// What the files of `source` are, if they are no checkpoint but something that is known. `source` is a directory, or a
/// name on the hub; `adapter` is the content of `adapter_config.json`.
pub fn found(source: &str, files: &[String], config: &Value, adapter: Option<&Value>) -> Option<Other> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let other = |found: String, remedy: String| Some(Other { found, remedy });
    if let Some(pickle) = ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|name| has(name)) {
        let found = format!("only {pickle}, a Python pickle that can run any code when it is read");
        return other(found, format!("convert it with\n  {}", conversion(source, config, "")));
    }
    if has(ADAPTER) {
        let base = adapter.and_then(|json| json.get("base_model_name_or_path")?.as_str());
        let base = base.map_or(String::new(), |base| format!(", {base:?}"));
        let from = shell_quoted(source);
        let import = format!("edge-patch import --encoder BUNDLE --from {from} --task TASK.json -o TASK.bias");
        let remedy = format!("export the model that it adapts{base}, and give the adapter to\n  {import}");
        return other(format!("{ADAPTER}, an adapter of PEFT"), remedy);
    }
    let nested = files.iter().find_map(|file| {
        let (inner, name) = file.split_once('/')?;
        let is_weights = WEIGHTS.contains(&name) || name == "pytorch_model.bin";
        (is_weights && has(&format!("{inner}/config.json"))).then_some(inner)
    });
    if let Some(inner) = nested {
        let remedy = format!("name that directory\n  {}/{inner}", source.trim_end_matches('/'));
        return other(format!("a checkpoint one level down, in {inner}"), remedy);
    }
    for (name, library, option) in [
        ("tf_model.h5", "tensorflow", ", from_tf=True"),
        ("tf_model.h5.index.json", "tensorflow", ", from_tf=True"),
        ("flax_model.msgpack", "flax", ", from_flax=True"),
    ] {
        if has(name) {
            let command = conversion(source, config, option);
            let remedy = format!("convert it, with \"transformers<5\", torch and {library} installed:\n  {command}");
            return other(format!("only {name}, weights of another library"), remedy);
        }
    }
    if let Some(graph) = files.iter().find(|file| file.ends_with(".onnx")) {
        let remedy = "export the checkpoint that the graph was made of: a directory with model.safetensors, or \
                      hf:ORG/NAME; or a graph on this machine by its own name: edge-export DIR/model.onnx";
        return other(format!("only {graph}, an ONNX graph"), remedy.to_owned());
    }
    None
}

/// The command that writes a checkpoint again as safetensors, beside the old one. `options` come after its name in the
/// call of `from_pretrained`. The class is the one that the checkpoint was saved from, so that no tensor of its head is
/// lost.
fn conversion(source: &str, config: &Value, options: &str) -> String {
    let named = config.pointer("/architectures/0").and_then(Value::as_str);
    // It becomes a part of a command, so it has to be a name and nothing else.
    let plain = named.filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    let class = plain.unwrap_or("AutoModel");
    let source = source.trim_end_matches('/');
    let target = match source.strip_prefix("hf:") {
        Some(name) => format!("{}-safe", name.rsplit('/').next().unwrap_or(name)),
        None => format!("{source}-safe"),
    };
    let source = source.strip_prefix("hf:").unwrap_or(source);
    format!(
        "python3 -c \"import sys; from transformers import {class} as M, AutoTokenizer as T; d, to = sys.argv[1:]; \
         M.from_pretrained(d{options}).save_pretrained(to); T.from_pretrained(d).save_pretrained(to)\" {} {}",
        shell_quoted(source),
        shell_quoted(target)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_is_named_with_what_helps() {
        let config = json!({ "architectures": ["BertForTokenClassification"] });
        let adapter = json!({ "base_model_name_or_path": "org/base" });
        for (source, files, found_is, helps) in [
            ("/a b/c", &["pytorch_model.bin"][..], "pytorch_model.bin", "import BertForTokenClassification as M"),
            ("/a b/c", &["pytorch_model.bin"], "pickle", "'/a b/c' '/a b/c-safe'"),
            ("hf:org/old", &["pytorch_model.bin"], "pickle", " org/old old-safe"),
            ("dir/", &["adapter_config.json", "adapter_model.safetensors"], "adapter of PEFT", "--from dir/ --task"),
            ("dir", &["adapter_config.json"], "adapter of PEFT", "adapts, \"org/base\""),
            (
                "dir",
                &["0_Transformer/config.json", "0_Transformer/model.safetensors"],
                "0_Transformer",
                "dir/0_Transformer",
            ),
            ("dir", &["config.json", "tf_model.h5"], "tf_model.h5", "BertForTokenClassification as M"),
            ("dir", &["config.json", "tf_model.h5"], "another library", "from_pretrained(d, from_tf=True)"),
            ("dir", &["config.json", "flax_model.msgpack"], "flax_model.msgpack", "from_flax=True"),
            ("dir", &["config.json", "onnx/model.onnx"], "onnx/model.onnx", "model.safetensors"),
        ] {
            let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
            let other = found(source, &files, &config, Some(&adapter)).unwrap();
            assert!(other.found.contains(found_is) && other.remedy.contains(helps), "{other}");
        }
        assert_eq!(found("dir", &["notes.txt".to_owned()], &config, None), None);
    }

    #[test]
    fn a_class_that_is_no_name_does_not_get_into_a_command() {
        for bad in ["x as y; import os", "", "a\"b", "$(id)"] {
            let command = conversion("dir", &json!({ "architectures": [bad] }), "");
            assert!(command.contains("import AutoModel as M"), "{command}");
        }
    }
}
