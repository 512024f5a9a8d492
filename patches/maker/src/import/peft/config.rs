//! What PEFT's `adapter_config.json` says.
//!
//! In: the file. Out: the scale and rank of each module's low-rank term, and what the task is. Refused: kinds of adapters
//! and fields that compute something else than low-rank terms and biases.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    slice,
};

use bias_patch::{Kind, Task};
use edge_bundle::Family;
use hf_checkpoint::base_name;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::super::{content, heads::HeadLayers};
use crate::Result;

/// Its name, beside the tensors.
pub(in super::super) const CONFIG: &str = "adapter_config.json";

/// Fields that an adapter may not have a value of, because it then computes something else, and what is supported.
const REFUSED: [(&str, &str); 9] = [
    ("use_dora", "LoRA without DoRA's magnitudes, which are no slot of a patch"),
    ("fan_in_fan_out", "false, for the encoder's layers are Linear"),
    ("layer_replication", "the encoder's own layers, each once"),
    ("alora_invocation_tokens", "LoRA that every token passes"),
    ("arrow_config", "one adapter, without routing"),
    ("kasa_config", "LoRA without KaSA's singular values"),
    ("monteclora_config", "LoRA without Monte Carlo samples"),
    ("target_parameters", "LoRA of modules: target_modules"),
    ("trainable_token_indices", "the encoder's own embeddings"),
];

/// Initializations that take the adapter's first values away from the encoder's weights.
const CHANGES_WEIGHTS: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// An adapter's configuration.
pub(super) struct AdapterConfig {
    path: PathBuf,
    fields: Fields,
}

/// The fields that are read. What is left out has PEFT's default.
#[derive(Deserialize)]
struct Fields {
    task_type: Option<String>,
    auto_mapping: Option<AutoMapping>,
    base_model_name_or_path: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    #[serde(default)]
    rank_pattern: Option<Pattern>,
    #[serde(default)]
    alpha_pattern: Option<Pattern>,
    target_modules: Option<Targets>,
    layers_to_transform: Option<Layers>,
}

/// The modules that have low-rank terms: the ends of their names, or an expression, which is not read.
#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    Names(Vec<String>),
    Expression(#[expect(dead_code, reason = "its type alone counts")] String),
}

/// The layers that have low-rank terms.
#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Some(Vec<usize>),
}

/// Where there is no task type, the class of the model that was trained.
#[derive(Deserialize)]
struct AutoMapping {
    base_model_class: Option<String>,
}

/// Numbers by module. The first key that fits a module counts, so this keeps their order.
#[derive(Default)]
struct Pattern(Vec<(String, f64)>);

impl AdapterConfig {
    /// Reads and checks the file at `path`.
    pub fn open(path: PathBuf) -> Result<Self> {
        let text = fs::read(&path).map_err(|source| hf_checkpoint::Error::Io { path: path.clone(), source })?;
        let wrong = |e: serde_json::Error| content(&path, "configuration", "fields as PEFT writes them", e);
        let all: Value = serde_json::from_slice(&text).map_err(wrong)?;
        check_supported(&path, &all)?;
        let fields = serde_json::from_slice(&text).map_err(wrong)?;
        Ok(AdapterConfig { path, fields })
    }

    /// The name of the model that the adapter was trained on, if it says one.
    pub fn base_model(&self) -> Option<String> {
        self.fields.base_model_name_or_path.clone().filter(|name| !name.is_empty())
    }

    /// The factor of a module's low-rank term of rank `rank`.
    ///
    /// # Errors
    /// When which alpha it has depends on a regular expression.
    pub fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let alpha = match self.fields.alpha_pattern.as_ref().map_or(Ok(None), |pattern| pattern.of(module)) {
            Ok(found) => found.or(self.fields.lora_alpha).unwrap_or(8.0),
            Err(expression) => {
                let expected = format!("the names of modules, such as {module}, for regular expressions are not read");
                return Err(content(&self.path, "alpha_pattern", expected, format!("{expression:?}")));
            }
        };
        let rank = rank as f64;
        Ok(alpha / if self.fields.use_rslora == Some(true) { rank.sqrt() } else { rank })
    }

    /// Refuses a module's tensors if the configuration says that the module has no term. PEFT would not load them.
    pub fn check_target(&self, module: &str) -> Result<()> {
        if let Some(Targets::Names(names)) = &self.fields.target_modules
            && !names.iter().any(|name| is_end_of(module, name))
        {
            let expected = format!("one that is the end of {module}, for there are tensors of its term");
            return Err(content(&self.path, "target_modules", expected, names.join(", ")));
        }
        let layers = match &self.fields.layers_to_transform {
            Some(Layers::One(layer)) => slice::from_ref(layer),
            Some(Layers::Some(layers)) => layers,
            None => &[],
        };
        let layer = module.split('.').rev().find_map(|part| part.parse().ok());
        if !layers.is_empty() && layer.is_none_or(|layer| !layers.contains(&layer)) {
            let expected = format!("that of {module}, for there are tensors of its term");
            return Err(content(&self.path, "layers_to_transform", expected, format!("{layers:?}")));
        }
        Ok(())
    }

    /// Refuses the rank of a module's tensors if the configuration says another.
    pub fn check_rank(&self, module: &str, rank: usize) -> Result<()> {
        let due = match self.fields.rank_pattern.as_ref().map_or(Ok(None), |pattern| pattern.of(module)) {
            Ok(Some(due)) => due,
            Ok(None) => self.fields.r.unwrap_or(8) as f64,
            // Tensors say their rank without it.
            Err(_) => return Ok(()),
        };
        if due == rank as f64 {
            return Ok(());
        }
        let expected = format!("{rank} for {module}, as its tensors have");
        Err(content(&self.path, "rank_pattern, r", expected, due))
    }

    /// Refuses a task of another kind, and for a sequence classifier another head or pooling than the model has that
    /// transformers makes of the family.
    pub fn check_task(&self, task: &Task, family: Family, head: &HeadLayers) -> Result<()> {
        let kind = task.kind();
        let model = self.fields.auto_mapping.as_ref().and_then(|mapping| mapping.base_model_class.as_deref());
        let classifier = model.is_some_and(|model| model.ends_with("ForSequenceClassification"));
        let task_type = self.fields.task_type.as_deref();
        let fits = match task_type {
            None | Some("FEATURE_EXTRACTION") => true,
            Some("SEQ_CLS") => kind.pooling().is_some(),
            Some("TOKEN_CLS") => matches!(kind, Kind::Tagging { .. }),
            Some("QUESTION_ANS") => matches!(kind, Kind::Span { .. }),
            Some(_) => false,
        };
        if !fits {
            let expected = format!("that of a {} task, as the task says", kind.name());
            return Err(content(&self.path, "task_type", expected, task_type.unwrap_or_default()));
        }
        if kind.pooling().is_none() || !(classifier || task_type == Some("SEQ_CLS")) {
            return Ok(());
        }
        let Some((due, pooling)) = HeadLayers::of_sequence_classifier(family) else {
            let expected = "a family whose sequence classifiers have a head of linear layers alone";
            return Err(content(&self.path, "head", expected, family.name()));
        };
        if due != *head {
            let list = |head: &HeadLayers| match &head.modules().collect::<Vec<_>>()[..] {
                [] => "none".to_owned(),
                modules => modules.join(" and "),
            };
            let expected = format!(
                "{}, as sequence classifiers of family {} have; PEFT saves what modules_to_save names",
                list(&due),
                family.name()
            );
            return Err(content(&self.path, "head", expected, list(head)));
        }
        match kind.pooling() {
            Some(found) if found != pooling => {
                let expected =
                    format!("{} in the task, for that is what this family's sequence classifiers read", pooling.name());
                Err(content(&self.path, "pooling", expected, found.name()))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses what computes something else.
fn check_supported(path: &Path, all: &Value) -> Result<()> {
    let kind = all.get("peft_type").and_then(Value::as_str).unwrap_or("none");
    if !["LORA", "BEFT"].contains(&kind) {
        return Err(content(path, "peft_type", "LORA or BEFT, for a patch has low-rank terms and biases", kind));
    }
    for (field, supported) in REFUSED {
        if let Some(found) = all.get(field).filter(|value| has_value(value)) {
            return Err(content(path, field, supported, found));
        }
    }
    let fields = all.as_object().into_iter().flatten();
    for (field, found) in fields {
        if field.starts_with("use_") && field != "use_rslora" && has_value(found) {
            return Err(content(path, field, "LoRA, or LoRA with use_rslora", found));
        }
    }
    let initial = all.get("init_lora_weights").and_then(Value::as_str).unwrap_or_default();
    if CHANGES_WEIGHTS.iter().any(|name| initial.starts_with(name)) {
        let expected = "an adapter of the encoder as it is; save it with path_initial_model_for_weight_conversion";
        return Err(content(path, "init_lora_weights", expected, initial));
    }
    Ok(())
}

/// Whether a field says more than that there is nothing.
fn has_value(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Whether a module has this name, or this as the last parts of its name. Before the first part PEFT may have the model's.
fn is_end_of(module: &str, name: &str) -> bool {
    module.strip_suffix(&*base_name(name)).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl Pattern {
    /// The number of a module, or the key that would have to be tried as a regular expression.
    fn of(&self, module: &str) -> Result<Option<f64>, &str> {
        for (key, number) in &self.0 {
            if !key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
                return Err(key);
            }
            if is_end_of(module, key) {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Pattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("numbers by module")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pattern, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pattern(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_first_key_that_fits_a_module_counts() {
        let module = "encoder.layer.1.attention.self.value";
        for (text, found) in [
            (r#"{"value":3}"#, Ok(Some(3.0))),
            (r#"{"value":3,"layer.1.attention.self.value":4}"#, Ok(Some(3.0))),
            (r#"{"layer.1.attention.self.value":4,"value":3}"#, Ok(Some(4.0))),
            (r#"{"bert.encoder.layer.1.attention.self.value":5}"#, Ok(Some(5.0))),
            (r#"{"alue":3,"1.value":4,"layer.11.attention.self.value":5}"#, Ok(None)),
            (r#"{}"#, Ok(None)),
            (r#"{"value":3,".*":4}"#, Ok(Some(3.0))),
            (r#"{".*":4,"value":3}"#, Err(".*")),
        ] {
            assert_eq!(pattern(text).of(module), found, "{text}");
        }
    }
}
