//! WordPiece over a mapped vocabulary, for the `tokenizers` crate.
//!
//! In: a mapped `vocabulary.bin`. Out: a tokenizer that gives what the crate's own gives from the whole `tokenizer.json`,
//! without reading its thirty thousand words at every start.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use bias_patch::Vocabulary;
use serde::Deserialize;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Result, Token,
    TokenizerBuilder, TokenizerImpl, models::wordpiece::WordPieceTrainer,
};

use crate::mapped::Mapped;

/// The crate's tokenizer with a model of ours.
pub(crate) type MappedTokenizer =
    TokenizerImpl<WordPiece, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// The longest piece first, again and again (Wu et al. 2016), over a mapped vocabulary.
pub(crate) struct WordPiece {
    words: Vocabulary<Mapped>,
    options: WordPieceOptions,
}

/// A model as `tokenizer.json` describes it, but for its words.
#[derive(Deserialize)]
struct WordPieceOptions {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
}

/// A `tokenizer.json` but for the words of its model.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    model: WordPieceOptions,
}

/// The tokenizer of a mapped vocabulary, and what adds its special tokens.
///
/// # Errors
/// When the settings in it are not those of a tokenizer.
pub(crate) fn mapped_tokenizer(words: Vocabulary<Mapped>) -> Result<(MappedTokenizer, Option<PostProcessorWrapper>)> {
    let settings: Settings = serde_json::from_str(words.settings())?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(WordPiece { words, options: settings.model })
        .with_normalizer(settings.normalizer)
        .with_pre_tokenizer(settings.pre_tokenizer)
        .with_post_processor(None)
        .with_decoder(None)
        .build()?;
    tokenizer.add_tokens(settings.added_tokens)?;
    Ok((tokenizer, settings.post_processor))
}

impl WordPiece {
    /// What stands for a word that cannot be put together of pieces.
    fn unknown(&self, word: &str) -> Result<Vec<Token>> {
        let value = &self.options.unk_token;
        let id = self.token_to_id(value).ok_or("WordPiece error: Missing [UNK] token from the vocabulary")?;
        Ok(vec![Token::new(id, value.clone(), (0, word.len()))])
    }
}

impl Model for WordPiece {
    type Trainer = WordPieceTrainer;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if word.chars().count() > self.options.max_input_chars_per_word {
            return self.unknown(word);
        }
        let mut tokens = Vec::new();
        let mut start = 0;
        // What a piece is looked up as: within a word, its text after a prefix.
        let mut piece = String::new();
        while start < word.len() {
            piece.clear();
            if start > 0 {
                piece.push_str(&self.options.continuing_subword_prefix);
            }
            let prefix = piece.len();
            piece.push_str(&word[start..]);
            let id = loop {
                if piece.len() == prefix {
                    return self.unknown(word);
                }
                if let Some(id) = self.token_to_id(&piece) {
                    break id;
                }
                piece.pop();
            };
            let end = start + piece.len() - prefix;
            tokens.push(Token::new(id, piece.clone(), (start, end)));
            start = end;
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.words.id(token.as_bytes())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.words.iter().find(|(_, found)| *found == id).map(|(token, _)| String::from_utf8_lossy(token).into_owned())
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
