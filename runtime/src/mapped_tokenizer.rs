//! A tokenizer over a mapped vocabulary, for the `tokenizers` crate.
//!
//! In: a mapped `vocabulary.bin`. Out: a tokenizer that gives the same tokens as the crate's own does from the whole
//! `tokenizer.json`, without reading tens of thousands of words at every start. Refused: settings that are not those of
//! a tokenizer.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use edge_bundle::{Vocabulary, VocabularyKind};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, PostProcessorWrapper, PreTokenizerWrapper, Result, Token, TokenizerBuilder,
    TokenizerImpl, models::wordpiece::WordPieceTrainer,
};

use crate::{
    beginning::ends_words_at_spaces, bpe, charsmap::Normalizers, mapped::Mapped, post_processor, subwords::Subwords,
    unigram, word_piece,
};

/// The crate's tokenizer with a model and normalizers of ours.
pub(crate) type MappedTokenizer =
    TokenizerImpl<MappedModel, Normalizers, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// How a word becomes tokens, over a mapped vocabulary.
pub(crate) struct MappedModel {
    words: Arc<Vocabulary<Mapped>>,
    method: Method,
}

enum Method {
    WordPiece(word_piece::Options),
    Bpe(bpe::Options),
    Unigram(unigram::Options),
}

/// A `tokenizer.json` without the words of its model.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Value,
    model: Value,
}

/// What a mapped vocabulary holds.
pub(crate) struct Opened {
    pub tokenizer: MappedTokenizer,
    /// What adds special tokens.
    pub processor: Option<PostProcessorWrapper>,
    /// What continues a word.
    pub subwords: Subwords,
    /// Whether a beginning of a text has the first of its tokens.
    pub by_words: bool,
}

/// Opens a mapped vocabulary.
///
/// # Errors
/// When the settings in it are not those of a tokenizer.
pub(crate) fn mapped_tokenizer(words: Vocabulary<Mapped>) -> Result<Opened> {
    let settings: Settings = serde_json::from_slice(words.settings())?;
    let subwords = Subwords::deserialize(&settings.model)?;
    post_processor::check(&settings.post_processor)?;
    let processor = Option::<PostProcessorWrapper>::deserialize(settings.post_processor)?;
    let method = match words.kind() {
        VocabularyKind::WordPiece => Method::WordPiece(word_piece::Options::deserialize(settings.model)?),
        VocabularyKind::Bpe => Method::Bpe(bpe::Options::deserialize(settings.model)?),
        VocabularyKind::Unigram => Method::Unigram(unigram::Options::deserialize(settings.model)?),
    };
    let words = Arc::new(words);
    let by_words =
        ends_words_at_spaces(settings.normalizer.as_ref(), settings.pre_tokenizer.as_ref(), &settings.added_tokens);
    let normalizers = settings.normalizer.map(|normalizer| Normalizers::new(&normalizer, &words)).transpose()?;
    let pre_tokenizer = settings.pre_tokenizer.map(PreTokenizerWrapper::deserialize).transpose()?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(MappedModel { words, method })
        .with_normalizer(normalizers)
        .with_pre_tokenizer(pre_tokenizer)
        .with_post_processor(None)
        .with_decoder(None)
        .build()?;
    tokenizer.add_tokens(settings.added_tokens)?;
    Ok(Opened { tokenizer, processor, subwords, by_words })
}

impl Model for MappedModel {
    type Trainer = WordPieceTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        match &self.method {
            Method::WordPiece(options) => word_piece::tokens(&self.words, options, word),
            Method::Bpe(options) => bpe::tokens(&self.words, options, word),
            Method::Unigram(options) => unigram::tokens(&self.words, options, word),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.words.id(token.as_bytes())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.words.token_of(id).map(|token| String::from_utf8_lossy(token).into_owned())
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.words.iter().map(|(token, id)| (String::from_utf8_lossy(token).into_owned(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.words.len()
    }

    fn save(&self, folder: &Path, _name: Option<&str>) -> Result<Vec<PathBuf>> {
        Err(format!("{}: a mapped vocabulary is not saved; tokenizer.json is beside it", folder.display()).into())
    }

    fn get_trainer(&self) -> WordPieceTrainer {
        WordPieceTrainer::default()
    }
}

#[cfg(test)]
mod tests;
