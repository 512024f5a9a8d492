//! Builds a tokenizer from the files that a checkpoint has instead of a `tokenizer.json`.
//!
//! In: `vocab.txt` (WordPiece), or `vocab.json` and `merges.txt` (byte-level BPE), and the settings of transformers. Out:
//! the tokenizer that transformers makes of them. Refused: classes that these files do not describe, and SentencePiece
//! models, with the command that converts one.

use std::path::{Path, PathBuf};

use hf_checkpoint::Checkpoint;
use tokenizers::{
    AddedToken, Tokenizer,
    models::{bpe::BPE, wordpiece::WordPiece},
    normalizers::BertNormalizer,
    pre_tokenizers::{bert::BertPreTokenizer, byte_level::ByteLevel},
    processors::{roberta::RobertaProcessing, template::TemplateProcessing},
};

use super::{read, sentencepiece::model_in, settings::Settings, unsupported};
use crate::Result;

/// The tokenizer, and the file that its vocabulary is from.
pub(super) fn build(checkpoint: &Checkpoint, settings: &Settings) -> Result<(PathBuf, Tokenizer)> {
    let dir = checkpoint.path();
    let (words, units, merges) = (dir.join("vocab.txt"), dir.join("vocab.json"), dir.join("merges.txt"));
    let has_words = words.exists() || units.exists() && merges.exists();
    if let Some((model, found)) = model_in(checkpoint, settings.declared_class().is_some()).filter(|_| !has_words) {
        return Err(unsupported(&model, "tokenizer", "a tokenizer.json beside it", found));
    }
    check_plain(settings)?;
    if words.exists() {
        let tokenizer = word_piece(&words, settings)?;
        return Ok((words, tokenizer));
    }
    if has_words {
        let tokenizer = byte_level(&units, &merges, settings)?;
        return Ok((units, tokenizer));
    }
    Err(unsupported(dir, "tokenizer", "tokenizer.json, vocab.txt, or vocab.json with merges.txt", "none of them"))
}

/// Refuses tokenizers of other classes: the vocabulary files alone do not describe those.
fn check_plain(settings: &Settings) -> Result<()> {
    const KNOWN: [&str; 6] = [
        "BertTokenizer",
        "BertTokenizerFast",
        "DistilBertTokenizer",
        "ElectraTokenizer",
        "RobertaTokenizer",
        "RobertaTokenizerFast",
    ];
    let known = |class: &str| KNOWN.contains(&class.trim_end_matches("Fast")) || KNOWN.contains(&class);
    match settings.declared_class() {
        Some((path, class)) if !known(class) => {
            let expected = format!("{}, or a tokenizer.json beside it", KNOWN.join(", "));
            Err(unsupported(path, "tokenizer_class", &expected, class))
        }
        _ => Ok(()),
    }
}

/// BERT's tokenizer, as `transformers` builds it from the same two files.
fn word_piece(path: &Path, settings: &Settings) -> Result<Tokenizer> {
    let bad = |e: tokenizers::Error| unsupported(path, "vocabulary", "a WordPiece vocabulary, one token a line", e);
    let bytes = read(path)?;
    let vocabulary = WordPiece::read_bytes(&bytes).map_err(bad)?;
    let special = |name: &str, default: &str| settings.token(name).unwrap_or_else(|| default.to_owned());
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
        settings.flag("tokenize_chinese_chars").unwrap_or(true),
        settings.flag("strip_accents"),
        settings.flag("do_lower_case").unwrap_or(true),
    );
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(bad)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer)).with_post_processor(Some(template));
    let names = [special("pad_token", "[PAD]"), unknown, class, separator, special("mask_token", "[MASK]")];
    add_special(&mut tokenizer, names.map(|name| AddedToken::from(name, true))).map_err(bad)?;
    Ok(tokenizer)
}

/// RoBERTa's tokenizer, as `transformers` builds it from the same files.
fn byte_level(vocabulary: &Path, merges: &Path, settings: &Settings) -> Result<Tokenizer> {
    let bad =
        |e: tokenizers::Error| unsupported(vocabulary, "vocabulary", "a byte-level BPE vocabulary and its merges", e);
    let model = BPE::from_file(&vocabulary.to_string_lossy(), &merges.to_string_lossy()).build().map_err(bad)?;
    let prefix_space = settings.flag("add_prefix_space").unwrap_or(false);
    let special = |name: &str, default: &str| settings.token(name).unwrap_or_else(|| default.to_owned());
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
