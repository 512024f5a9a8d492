//! Checkpoints that are not plain: tokenizers whose files disagree, old settings, directories of something else.

use std::{collections::BTreeMap, fs};

use edge_run::{Encoder, Text};
use serde::Deserialize;
use serde_json::{Value, json};
use system_tests::{Fixture, Layout, assert_refused, assert_succeeded, command, fixtures, task};
use tempfile::TempDir;

/// What `tests/reference/make_tokenizers.py` wrote.
#[derive(Deserialize)]
struct Tokenizers {
    /// A `tokenizer.json` for each encoder.
    tokenizers: BTreeMap<String, serde_json::Map<String, Value>>,
    cases: Vec<Case>,
}

/// A tokenizer's files, a text, and the ids that transformers gives.
#[derive(Deserialize)]
struct Case {
    name: String,
    encoder: String,
    text: String,
    files: BTreeMap<String, String>,
    /// Parts of `tokenizer.json` that are another; null without that file.
    tokenizer: Option<serde_json::Map<String, Value>>,
    input_ids: Vec<u32>,
}

/// The small encoder with a table of so many words.
fn with_rows(name: &str, rows: usize) -> Fixture {
    let mut fixture = Fixture::named(name);
    fixture.config["vocab_size"] = rows.into();
    fixture.tensors.get_mut("embeddings.word_embeddings.weight").expect("a table of words")[0] = rows;
    fixture
}

#[test]
fn transformers_settings_decide_which_ids_a_text_has() {
    let text = fs::read(fixtures().join("tokenizers.json")).unwrap();
    let Tokenizers { tokenizers, cases } = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let mut fixture = with_rows(&case.encoder, 280);
        fixture.files.remove("tokenizer_config.json");
        fixture.files.extend(case.files);
        if let Some(parts) = case.tokenizer {
            let mut json = tokenizers[&case.encoder].clone();
            json.extend(parts);
            fixture.files.retain(|name, _| !name.starts_with("vocab") && name != "merges.txt");
            fixture.files.insert("tokenizer.json".to_owned(), Value::Object(json).to_string());
        }
        let dir = TempDir::new().unwrap();
        let bundle = fixture.export(dir.path(), edge_export::Options::default());
        let encoder = Encoder::open(bundle.dir()).unwrap();
        let found = encoder.tokenized(&task("one", "tagging", 1), &Text::one(&case.text)).unwrap();
        assert_eq!(found[0].ids(), case.input_ids, "{}: {:?}", case.name, case.text);
    }
}

/// `tags.json`, which `make_tags.py` wrote.
#[derive(Deserialize)]
struct Tags {
    encoders: Vec<TagsOfEncoder>,
}

#[derive(Deserialize)]
struct TagsOfEncoder {
    encoder: String,
    tokenizer_config: String,
    cases: Vec<TagsCase>,
}

#[derive(Deserialize)]
struct TagsCase {
    words: Vec<String>,
    input_ids: Vec<u32>,
    first_tokens: Vec<Option<usize>>,
}

#[test]
fn words_are_read_at_the_tokens_that_transformers_reads_them_at() {
    let Tags { encoders } = serde_json::from_slice(&fs::read(fixtures().join("tags.json")).unwrap()).unwrap();
    for TagsOfEncoder { encoder: name, tokenizer_config, cases } in encoders {
        let mut fixture = Fixture::named(&name);
        fixture.files.insert("tokenizer_config.json".to_owned(), tokenizer_config);
        let dir = TempDir::new().unwrap();
        let encoder = Encoder::open(fixture.export(dir.path(), edge_export::Options::default()).dir()).unwrap();
        for TagsCase { words, input_ids, first_tokens } in cases {
            let found = encoder.tokenized(&task("one", "tagging", 1), &Text::of_words(&words).unwrap()).unwrap();
            assert_eq!(found[0].ids(), input_ids, "{name}: {words:?}");
            assert_eq!(found[0].words(), first_tokens, "{name}: {words:?}");
        }
    }
}

#[test]
fn a_tokenizer_that_agrees_with_its_settings_keeps_its_bytes() {
    let text = fs::read(fixtures().join("tokenizers.json")).unwrap();
    let Tokenizers { tokenizers, .. } = serde_json::from_slice(&text).unwrap();
    for (name, json) in tokenizers {
        let mut fixture = Fixture::named(&name);
        // Spaces and the order of fields would not survive being written again.
        let written = serde_json::to_string_pretty(&json).unwrap();
        fixture.files.insert("tokenizer.json".to_owned(), written.clone());
        let dir = TempDir::new().unwrap();
        let bundle = fixture.export(dir.path(), edge_export::Options::default());
        assert_eq!(fs::read_to_string(bundle.dir().join("tokenizer.json")).unwrap(), written, "{name}");
    }
}

#[test]
fn what_old_checkpoints_leave_out_is_what_transformers_takes() {
    let digest = |change: &dyn Fn(&mut Fixture)| {
        let (dir, mut fixture) = (TempDir::new().unwrap(), Fixture::named("bert"));
        change(&mut fixture);
        fixture.export(dir.path(), edge_export::Options::default()).manifest().encoder
    };
    let set = |field: &'static str, value: Value| move |f: &mut Fixture| f.config[field] = value.clone();
    let without = |field: &'static str| move |f: &mut Fixture| drop(f.config.as_object_mut().unwrap().remove(field));
    let plain = digest(&|_| ());
    assert_eq!(digest(&without("layer_norm_eps")), plain, "1e-12");
    assert_eq!(digest(&without("hidden_act")), plain, "gelu");
    assert_ne!(digest(&set("layer_norm_eps", 1e-5.into())), plain);
    let tanh = digest(&set("hidden_act", "gelu_new".into()));
    assert_ne!(tanh, plain);
    for name in ["gelu_fast", "gelu_accurate", "gelu_pytorch_tanh"] {
        assert_eq!(digest(&set("hidden_act", name.into())), tanh, "{name}");
    }
}

#[test]
fn words_that_lower_casing_loses_are_warned_of() {
    let warning = |config: &str| {
        let home = TempDir::new().unwrap();
        let mut fixture = with_rows("bert", 60);
        let words = fixture.files.get_mut("vocab.txt").unwrap();
        words.push_str("C\nN\nCl\nBr\nCC\n");
        fixture.files.insert("tokenizer_config.json".to_owned(), config.to_owned());
        fixture.write(&home.path().join("c"), Layout::default());
        let output = command("edge-export", home.path()).arg(home.path().join("c")).output().unwrap();
        assert_succeeded(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let said = warning("{}");
    // Film and Good were there before.
    assert!(said.contains("vocab.txt: 7 of 58 words") && said.contains(r#""do_lower_case": false"#), "{said}");
    assert_eq!(warning(r#"{"do_lower_case": false}"#), "");
}

/// Writes the small BERT, changes it, and gives what `edge-export` says.
fn export_changed(change: impl Fn(&mut Fixture), then: impl Fn(&std::path::Path)) -> std::process::Output {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("it's here");
    let mut fixture = Fixture::named("bert");
    change(&mut fixture);
    fixture.write(&checkpoint, Layout::default());
    then(&checkpoint);
    let output =
        command("edge-export", home.path()).arg(&checkpoint).args(["-o", "b"]).current_dir(home.path()).output();
    assert!(!home.path().join("b").exists());
    output.unwrap()
}

#[test]
fn tokenizers_that_need_another_program_are_refused_by_name() {
    for (file, field, value) in [
        ("config.json", "tokenizer_class", "BertJapaneseTokenizer"),
        ("tokenizer_config.json", "tokenizer_class", "BertJapaneseTokenizer"),
        ("tokenizer_config.json", "word_tokenizer_type", "mecab"),
        ("config.json", "tokenizer_class", "PhobertTokenizer"),
    ] {
        let refused = export_changed(
            |fixture| match file {
                "config.json" => {
                    fixture.config[field] = value.into();
                    fixture.files.insert("tokenizer_config.json".to_owned(), "{}".to_owned());
                }
                _ => drop(fixture.files.insert(file.to_owned(), json!({ field: value }).to_string())),
            },
            |_| (),
        );
        assert_refused(&refused, &[file, field, value]);
    }
}

#[test]
fn what_config_json_leaves_out_of_a_checkpoint_is_named() {
    let refused = export_changed(|f| f.config["num_hidden_layers"] = 1.into(), |_| ());
    assert_refused(
        &refused,
        &["tensor encoder.layer.1.", "only what the encoder of config.json computes with", "shape"],
    );
    let refused = export_changed(|f| f.config["pruned_heads"] = json!({"0": [1]}), |_| ());
    assert_refused(&refused, &["config.json", "pruned_heads: expected {}"]);

    let home = TempDir::new().unwrap();
    let mut fixture = Fixture::named("bert");
    (fixture.config["type_vocab_size"], fixture.config["pruned_heads"]) = (0.into(), json!({}));
    fixture.write(&home.path().join("c"), Layout::default());
    let output = command("edge-export", home.path()).arg(home.path().join("c")).output().unwrap();
    assert_succeeded(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    let due = "edge-export: tensors that config.json leaves out: embeddings.token_type_embeddings.weight\n";
    assert_eq!(said, due);
}

#[test]
fn a_directory_of_something_else_says_what_helps() {
    let refused = export_changed(|f| drop(f.config.as_object_mut().unwrap().remove("model_type")), |_| ());
    assert_refused(&refused, &["config.json", "model_type", "bert, roberta", "add \"model_type\"", "found none"]);
    let refused = export_changed(|f| drop(f.config.as_object_mut().unwrap().remove("num_hidden_layers")), |_| ());
    assert_refused(&refused, &["config.json", "num_hidden_layers: expected a whole number, found none"]);

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n";
    for name in ["model.safetensors", "config.json", "vocab.txt", "tokenizer.json"] {
        let refused = export_changed(|_| (), |dir| fs::write(dir.join(name), pointer).unwrap());
        assert_refused(&refused, &[name, "a pointer of git-lfs", r"here' lfs pull"]);
    }

    let moved = |from: &'static str, to: &'static str| {
        move |dir: &std::path::Path| {
            fs::create_dir_all(dir.join(to).parent().unwrap()).unwrap();
            fs::rename(dir.join(from), dir.join(to)).unwrap();
        }
    };
    let tagger = |f: &mut Fixture| f.config["architectures"] = json!(["BertForTokenClassification"]);
    let class = "import BertForTokenClassification as M";
    let refused = export_changed(tagger, moved("model.safetensors", "pytorch_model.bin"));
    assert_refused(&refused, &["pytorch_model.bin", "pickle", class, r"/it'\''s here-safe'"]);
    let refused = export_changed(tagger, moved("model.safetensors", "tf_model.h5"));
    assert_refused(&refused, &["tf_model.h5", class, "from_tf=True", "transformers<5"]);
    let refused = export_changed(tagger, moved("model.safetensors", "onnx/model.onnx"));
    assert_refused(&refused, &["onnx/model.onnx", "model.safetensors", "hf:ORG/NAME"]);
    let refused = export_changed(
        |_| (),
        |dir| {
            moved("model.safetensors", "adapter_model.safetensors")(dir);
            fs::rename(dir.join("config.json"), dir.join("adapter_config.json")).unwrap();
            fs::write(dir.join("adapter_config.json"), r#"{"base_model_name_or_path":"org/base"}"#).unwrap();
        },
    );
    assert_refused(&refused, &["adapter of PEFT", "\"org/base\"", "edge-patch import --encoder BUNDLE --from"]);
    let refused = export_changed(
        |_| (),
        |dir| {
            moved("model.safetensors", "0_Transformer/model.safetensors")(dir);
            moved("config.json", "0_Transformer/config.json")(dir);
            fs::write(dir.join("modules.json"), "[]").unwrap();
        },
    );
    assert_refused(&refused, &["a checkpoint one level down", "it's here/0_Transformer"]);

    // Where nothing names the class, that of the model's file is named: of a BERT, AutoTokenizer makes another tokenizer.
    for (class, loads) in [("CamembertTokenizer", "AutoTokenizer"), ("", "XLMRobertaTokenizerFast")] {
        let refused = export_changed(
            |f| {
                f.files = [("sentencepiece.bpe.model".to_owned(), "model".to_owned())].into();
                if !class.is_empty() {
                    let config = json!({ "tokenizer_class": class }).to_string();
                    f.files.insert("tokenizer_config.json".to_owned(), config);
                }
            },
            |_| (),
        );
        let said = ["sentencepiece.bpe.model", loads, "save_pretrained", r"/it'\''s here'"];
        assert_refused(&refused, &said);
    }
}

#[test]
fn an_empty_home_is_no_place() {
    let home = TempDir::new().unwrap();
    Fixture::named("bert").write(&home.path().join("c"), Layout::default());
    let export = |arguments: &[&str]| {
        let mut export = command("edge-export", home.path());
        export.current_dir(home.path()).args(arguments).env("HOME", "").env_remove("XDG_DATA_HOME");
        export.env_remove("XDG_CACHE_HOME").output().unwrap()
    };
    assert_refused(&export(&["c"]), &["an absolute path in XDG_DATA_HOME or HOME"]);
    assert_refused(&export(&["pypi:small-encoder==1.0"]), &["an absolute path in XDG_DATA_HOME or HOME"]);
    assert_refused(&export(&["pypi:small-encoder==1.0", "-o", "b"]), &["neither XDG_CACHE_HOME nor HOME"]);
    assert_succeeded(&export(&["c", "-o", "b"]));
    let mut left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["b", "c"]);
}
