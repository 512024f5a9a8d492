//! WordPiece over a mapped vocabulary.
//!
//! In: a word from the pre-tokenizer. Out: its tokens, by repeatedly taking the longest piece in the vocabulary (Wu et
//! al. 2016); or the unknown token. Refused: a vocabulary without an unknown token, if one is needed.

use edge_bundle::Vocabulary;
use serde::Deserialize;
use tokenizers::{Result, Token};

/// A model as `tokenizer.json` describes it, but for its words.
#[derive(Deserialize)]
pub(crate) struct Options {
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
}

/// The tokens of a word.
pub(crate) fn tokens<B: AsRef<[u8]>>(words: &Vocabulary<B>, options: &Options, word: &str) -> Result<Vec<Token>> {
    let unknown = || -> Result<Vec<Token>> {
        let value = &options.unk_token;
        let id = words.id(value.as_bytes()).ok_or("WordPiece error: Missing [UNK] token from the vocabulary")?;
        Ok(vec![Token::new(id, value.clone(), (0, word.len()))])
    };
    if word.chars().count() > options.max_input_chars_per_word {
        return unknown();
    }
    let mut tokens = Vec::new();
    let mut start = 0;
    // Pieces after a word's first are looked up with a prefix.
    let mut piece = String::new();
    while start < word.len() {
        piece.clear();
        if start > 0 {
            piece.push_str(&options.continuing_subword_prefix);
        }
        let prefix = piece.len();
        piece.push_str(&word[start..]);
        let id = loop {
            if piece.len() == prefix {
                return unknown();
            }
            if let Some(id) = words.id(piece.as_bytes()) {
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
