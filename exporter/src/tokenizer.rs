//! Reads or builds the `tokenizer.json` of a checkpoint.
//!
//! In: a checkpoint directory. Out: its `tokenizer.json` as it is, or one built from `vocab.txt` (WordPiece) or
//! `vocab.json` and `merges.txt` (byte-level BPE) as `tokenizer_config.json` says. Refused: SentencePiece models
//! without a `tokenizer.json`, and vocabularies that name rows the embedding table does not have.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use edge_bundle::{Vocabulary, VocabularyKind, vocabulary_of};
use serde_json::Value;
use tokenizers::{
    AddedToken, Tokenizer,
    models::{bpe::BPE, wordpiece::WordPiece},
    normalizers::BertNormalizer,
    pre_tokenizers::{bert::BertPreTokenizer, byte_level::ByteLevel},
    processors::{roberta::RobertaProcessing, template::TemplateProcessing},
};

use crate::{Error, Result, sentencepiece};

/// The checkpoint's tokenizer, checked against an embedding table of `rows` rows, and its `vocabulary.bin` if it can have
/// one.
pub(crate) fn of_checkpoint(dir: &Path, rows: u32) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let ready = dir.join("tokenizer.json");
    let (path, bytes) = if ready.exists() {
        let bytes = read(&ready)?;
        (ready, bytes)
    } else {
        let config = read_json(&dir.join("tokenizer_config.json"))?;
        let (path, tokenizer) = build(dir, &config)?;
        let text = tokenizer.to_string(false).map_err(|e| unsupported(&path, "vocabulary", "a tokenizer", e))?;
        (path, text.into_bytes())
    };
    let words = vocabulary_of(&bytes).map_err(|e| e.in_file(&path))?;
    let pieces = words.as_deref().map(Vocabulary::parse).transpose()?;
    let highest = match pieces.filter(|words| words.kind() == VocabularyKind::Unigram) {
        Some(pieces) => sentencepiece::highest(&bytes, &pieces),
        None => Tokenizer::from_bytes(&bytes)
            .map(|tokenizer| tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id)),
    };
    let highest = highest
        .map_err(|e| unsupported(&path, "tokenizer", "a tokenizer.json that the tokenizers library can read", e))?;
    match highest {
        Some((token, id)) if id >= rows => {
            let expected = format!("ids below {rows}, as the word embedding table has rows");
            Err(unsupported(&path, "vocabulary", &expected, format!("{id} for {token:?}")))
        }
        Some(_) => Ok((bytes, words)),
        None => Err(unsupported(&path, "vocabulary", "at least one token", "none")),
    }
}

fn build(dir: &Path, config: &Value) -> Result<(PathBuf, Tokenizer)> {
    let (words, units, merges) = (dir.join("vocab.txt"), dir.join("vocab.json"), dir.join("merges.txt"));
    if !(words.exists() || units.exists() && merges.exists())
        && let Some((model, found)) = sentencepiece::model_in(dir, &read_json(&dir.join("config.json"))?, config)
    {
        return Err(unsupported(&model, "tokenizer", "a tokenizer.json beside it", found));
    }
    check_plain(dir, config)?;
    if words.exists() {
        let tokenizer = word_piece(&words, config)?;
        return Ok((words, tokenizer));
    }
    if units.exists() && merges.exists() {
        let tokenizer = byte_level(&units, &merges, config)?;
        return Ok((units, tokenizer));
    }
    Err(unsupported(dir, "tokenizer", "tokenizer.json, vocab.txt, or vocab.json with merges.txt", "none of them"))
}

/// Refuses tokenizers that the vocabulary files do not describe: of other classes, or with added tokens.
fn check_plain(dir: &Path, config: &Value) -> Result<()> {
    const KNOWN: [&str; 6] = [
        "BertTokenizer",
        "BertTokenizerFast",
        "DistilBertTokenizer",
        "ElectraTokenizer",
        "RobertaTokenizer",
        "RobertaTokenizerFast",
    ];
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    let known = |class: &str| KNOWN.contains(&class.trim_end_matches("Fast")) || KNOWN.contains(&class);
    if let Some(class) = class.filter(|class| !known(class)) {
        let expected = format!("{}, or a tokenizer.json beside it", KNOWN.join(", "));
        return Err(unsupported(&dir.join("tokenizer_config.json"), "tokenizer_class", &expected, class));
    }
    let path = dir.join("added_tokens.json");
    match read_json(&path)?.as_object().and_then(|tokens| tokens.keys().next()) {
        Some(token) => Err(unsupported(&path, "added tokens", "none, or a tokenizer.json beside it", token)),
        None => Ok(()),
    }
}

/// BERT's tokenizer, as `transformers` builds it from the same two files.
fn word_piece(path: &Path, config: &Value) -> Result<Tokenizer> {
    let bad = |e: tokenizers::Error| unsupported(path, "vocabulary", "a WordPiece vocabulary, one token a line", e);
    let bytes = read(path)?;
    let vocabulary = WordPiece::read_bytes(&bytes).map_err(bad)?;
    let flag = |name: &str| config.get(name).and_then(Value::as_bool);
    let special = |name: &str, default: &str| special_token(config, name).unwrap_or_else(|| default.to_owned());
    let (unknown, class, separator) =
        (special("unk_token", "[UNK]"), special("cls_token", "[CLS]"), special("sep_token", "[SEP]"));
    let id = |token: &str| {
        let id = vocabulary.get(token).copied();
        id.ok_or_else(|| unsupported(path, "vocabulary", &format!("the token {token}"), "none"))
    };
    id(&unknown)?;
    let (class_id, separator_id) = (id(&class)?, id(&separator)?);
    let model = WordPiece::builder().vocab(vocabulary.clone()).unk_token(unknown.clone()).build().map_err(bad)?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{class}:0 $A:0 {separator}:0"))
        .and_then(|b| b.try_pair(format!("{class}:0 $A:0 {separator}:0 $B:1 {separator}:1")))
        .map_err(|e| unsupported(path, "special tokens", "names without spaces", e))?
        .special_tokens(vec![(class.clone(), class_id), (separator.clone(), separator_id)])
        .build()
        .map_err(|e| unsupported(path, "special tokens", "a template", e))?;
    let normalizer = BertNormalizer::new(
        true,
        flag("tokenize_chinese_chars").unwrap_or(true),
        flag("strip_accents"),
        flag("do_lower_case").unwrap_or(true),
    );
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(bad)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer)).with_post_processor(Some(template));
    let names = [special("pad_token", "[PAD]"), unknown, class, separator, special("mask_token", "[MASK]")];
    add_special(&mut tokenizer, names.map(|name| AddedToken::from(name, true))).map_err(bad)?;
    Ok(tokenizer)
}

/// RoBERTa's tokenizer, as `transformers` builds it from the same files.
fn byte_level(vocabulary: &Path, merges: &Path, config: &Value) -> Result<Tokenizer> {
    let bad =
        |e: tokenizers::Error| unsupported(vocabulary, "vocabulary", "a byte-level BPE vocabulary and its merges", e);
    let model = BPE::from_file(&vocabulary.to_string_lossy(), &merges.to_string_lossy()).build().map_err(bad)?;
    let prefix_space = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let special = |name: &str, default: &str| special_token(config, name).unwrap_or_else(|| default.to_owned());
    let (class, separator) = (special("cls_token", "<s>"), special("sep_token", "</s>"));
    let mut tokenizer = Tokenizer::new(model);
    let id = |token: &str| {
        let id = tokenizer.token_to_id(token);
        id.ok_or_else(|| unsupported(vocabulary, "vocabulary", &format!("the token {token}"), "none"))
    };
    let processing = RobertaProcessing::new((separator.clone(), id(&separator)?), (class.clone(), id(&class)?))
        .trim_offsets(true)
        .add_prefix_space(prefix_space);
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::new(prefix_space, true, true)))
        .with_post_processor(Some(processing))
        .with_decoder(Some(ByteLevel::default()));
    let plain = [class, special("pad_token", "<pad>"), separator, special("unk_token", "<unk>")];
    let mask = AddedToken::from(special("mask_token", "<mask>"), true).lstrip(true);
    add_special(&mut tokenizer, plain.map(|name| AddedToken::from(name, true)).into_iter().chain([mask]))
        .map_err(bad)?;
    Ok(tokenizer)
}

/// Marks tokens of the vocabulary as special; a name that is not in the vocabulary gets no new id.
fn add_special(tokenizer: &mut Tokenizer, tokens: impl IntoIterator<Item = AddedToken>) -> tokenizers::Result<()> {
    let known: Vec<AddedToken> =
        tokens.into_iter().filter(|token| tokenizer.token_to_id(&token.content).is_some()).collect();
    tokenizer.add_special_tokens(known)?;
    Ok(())
}

/// A special token of `tokenizer_config.json`: a string, or an object with `content`.
fn special_token(config: &Value, name: &str) -> Option<String> {
    let value = config.get(name)?;
    Some(value.as_str().or_else(|| value.get("content")?.as_str())?.to_owned())
}

/// A JSON file, null if there is none.
fn read_json(path: &Path) -> Result<Value> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| unsupported(path, "content", "JSON", e)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(Error::Io { path: path.to_owned(), action: "read", source }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })
}

fn unsupported(path: &Path, field: &str, expected: &str, found: impl ToString) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_string(),
    }
}
