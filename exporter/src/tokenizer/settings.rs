//! What transformers' own files say of a tokenizer. They decide where `tokenizer.json` says something else.
//!
//! In: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `config.json`. Out: the changes they
//! make to a `tokenizer.json`: how BERT's and RoBERTa's classes prepare text, and tokens that are declared beside the
//! vocabulary. Refused: classes that do more than such a file can say.

use std::path::{Path, PathBuf};

use hf_checkpoint::Checkpoint;
use serde_json::{Map, Value};

use super::{
    json::{Added, Json},
    read, unsupported,
};
use crate::Result;

/// Classes that set up lower-casing, accents and Chinese characters themselves, whatever `tokenizer.json` says.
const LIKE_BERT: [&str; 4] = ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"];
/// Classes that set up the space before a text themselves.
const LIKE_ROBERTA: [&str; 1] = ["RobertaTokenizer"];
/// What transformers calls special tokens, in the order in which they get ids.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The settings of a checkpoint's tokenizer.
pub(super) struct Settings {
    /// `tokenizer_config.json`.
    config: Value,
    /// `special_tokens_map.json`; null where `tokenizer_config.json` lists all added tokens itself.
    map: Value,
    /// `added_tokens.json`, likewise.
    added: Value,
    /// The class that a file names, and the file.
    declared_class: Option<(PathBuf, String)>,
    model_type: String,
}

impl Settings {
    /// Reads the settings.
    ///
    /// # Errors
    /// When a file is not JSON, or the class needs another program to find words.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let dir = checkpoint.path();
        let path = dir.join("tokenizer_config.json");
        let config = read_json(&path)?;
        // Where this list is, transformers reads neither of the older files.
        let complete = config.get("added_tokens_decoder").is_some_and(|list| !list.is_null());
        let older = |name: &str| if complete { Ok(Value::Null) } else { read_json(&dir.join(name)) };
        let (map, added) = (older("special_tokens_map.json")?, older("added_tokens.json")?);
        let class_in = |json: &Value| Some(json.get("tokenizer_class")?.as_str()?.to_owned());
        let declared_class = class_in(&config)
            .map(|class| (path.clone(), class))
            .or_else(|| Some((dir.join("config.json"), class_in(checkpoint.config())?)));
        let model_type = checkpoint.config().get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let words = "a tokenizer that finds words without another program, as XLM-RoBERTa's does";
        if let Some((path, class)) = declared_class.as_ref().filter(|(_, class)| class.starts_with("BertJapanese")) {
            return Err(unsupported(path, "tokenizer_class", words, class));
        }
        match config.get("word_tokenizer_type").and_then(Value::as_str) {
            Some(program) if program != "basic" => Err(unsupported(&path, "word_tokenizer_type", words, program)),
            _ => Ok(Settings { config, map, added, declared_class, model_type }),
        }
    }

    /// The class that a file of the checkpoint names, and the file.
    pub fn declared_class(&self) -> Option<(&Path, &str)> {
        self.declared_class.as_ref().map(|(path, class)| (path.as_path(), class.as_str()))
    }

    /// A setting that is true or false.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name)?.as_bool()
    }

    /// The text of a special token, such as `cls_token`.
    pub fn token(&self, name: &str) -> Option<String> {
        Some(self.special(name)?.content)
    }

    /// Texts of all tokens that are declared.
    pub fn names(&self) -> Vec<String> {
        self.declared().into_iter().map(|(token, _)| token.content).collect()
    }

    /// Makes a `tokenizer.json` what transformers makes of it. Special tokens that only have a name, and neither an id
    /// nor one of `rows` rows left for them, are left out: transformers fails on texts that have them.
    pub fn apply(&self, json: &mut Json<'_>, rows: u32) {
        let class = self.class();
        let set = |object: &mut Map<String, Value>, name: &str, due: Value| {
            let changed = object.get(name) != Some(&due);
            object.insert(name.to_owned(), due);
            changed
        };
        let of_type = |json: &Json<'_>, part: &str, kind: &str| match json.part(part) {
            Value::Object(object) if object.get("type").is_some_and(|found| found == kind) => Some(object),
            _ => None,
        };
        if LIKE_BERT.contains(&class)
            && let Some(mut normalizer) = of_type(json, "normalizer", "BertNormalizer")
        {
            let changes = [
                ("lowercase", self.flag("do_lower_case").unwrap_or(true).into()),
                ("strip_accents", self.flag("strip_accents").map_or(Value::Null, Value::from)),
                ("handle_chinese_chars", self.flag("tokenize_chinese_chars").unwrap_or(true).into()),
            ];
            if changes.map(|(name, due)| set(&mut normalizer, name, due)).contains(&true) {
                json.set("normalizer", &normalizer);
            }
        }
        if LIKE_ROBERTA.contains(&class) {
            let space = self.flag("add_prefix_space").unwrap_or(false);
            for (part, kind) in [("pre_tokenizer", "ByteLevel"), ("post_processor", "RobertaProcessing")] {
                if let Some(mut object) = of_type(json, part, kind)
                    && set(&mut object, "add_prefix_space", space.into())
                {
                    json.set(part, &object);
                }
            }
        }
        for (token, why) in self.declared() {
            let id = json.id_of(&token.content);
            let replaces = match why {
                Declared::InFull => true,
                Declared::ByText => json.added(&token.content).is_none(),
                Declared::ByName => json.added(&token.content).is_none() && id < rows,
            };
            if replaces && !token.content.is_empty() {
                json.add(Added { id, ..token });
            }
        }
    }

    /// The class that transformers chooses, without its suffix.
    fn class(&self) -> &str {
        match self.declared_class() {
            Some((_, class)) => class.strip_suffix("Fast").unwrap_or(class),
            None => match self.model_type.as_str() {
                "bert" => "BertTokenizer",
                "distilbert" => "DistilBertTokenizer",
                "electra" => "ElectraTokenizer",
                "mpnet" => "MPNetTokenizer",
                "roberta" => "RobertaTokenizer",
                _ => "",
            },
        }
    }

    /// Every token that is declared beside the vocabulary, in the order in which they get ids.
    fn declared(&self) -> Vec<(Added, Declared)> {
        let mut tokens = Vec::new();
        let named: Vec<Added> = NAMED.iter().filter_map(|name| self.special(name)).collect();
        let lists = [&self.config, &self.map].map(|file| file.get("additional_special_tokens"));
        let extra = self.config.get("extra_special_tokens");
        let more: Vec<Added> = lists.into_iter().chain([extra]).flatten().flat_map(all_of).collect();

        let decoder = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        let numbered = |(id, value): (&String, &Value)| {
            let special = value.get("special").and_then(Value::as_bool).unwrap_or(false);
            Some((id.parse::<u32>().ok()?, token_of(value, special)?))
        };
        let mut listed: Vec<(u32, Added)> = decoder.into_iter().flatten().filter_map(numbered).collect();
        listed.sort_by_key(|(id, _)| *id);
        tokens.extend(listed.into_iter().map(|(_, token)| (token, Declared::InFull)));

        let numbered = |(text, id): (&String, &Value)| {
            let special = named.iter().chain(&more).any(|token| token.content == *text);
            Some((id.as_u64()?, token_of(&Value::from(text.as_str()), special)?))
        };
        let mut listed: Vec<(u64, Added)> = self.added.as_object().into_iter().flatten().filter_map(numbered).collect();
        listed.sort_by_key(|(id, _)| *id);
        tokens.extend(listed.into_iter().map(|(_, token)| (token, Declared::ByText)));

        tokens.extend(named.into_iter().map(|token| (token, Declared::ByName)));
        tokens.extend(more.into_iter().map(|token| (token, Declared::ByText)));
        tokens
    }

    /// A special token by its name.
    fn special(&self, name: &str) -> Option<Added> {
        let value = [&self.config, &self.map].into_iter().filter_map(|file| file.get(name)).find(|v| !v.is_null())?;
        let mut token = token_of(value, true)?;
        // RoBERTa's takes the space before it, unless it says otherwise.
        token.lstrip |= name == "mask_token" && value.is_string() && LIKE_ROBERTA.contains(&self.class());
        Some(token)
    }
}

/// How a token is declared.
#[derive(Clone, Copy)]
enum Declared {
    /// With all that `tokenizer.json` says of one, and before it.
    InFull,
    /// By its text.
    ByText,
    /// By its text, as what a name such as `mask_token` stands for.
    ByName,
}

/// The tokens of a list, or of names and tokens.
fn all_of(value: &Value) -> Vec<Added> {
    let values: Vec<&Value> = match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(names) => names.values().collect(),
        _ => Vec::new(),
    };
    values.into_iter().filter_map(|value| token_of(value, true)).collect()
}

/// A token: a text, or an object with `content`. Its id is not known yet.
fn token_of(value: &Value, special: bool) -> Option<Added> {
    let flag = |name: &str, default| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    Some(Added {
        id: 0,
        content: value.as_str().or_else(|| value.get("content")?.as_str())?.to_owned(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}

/// A JSON file, null if there is none.
fn read_json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&read(path)?).map_err(|e| unsupported(path, "content", "JSON", e))
}
