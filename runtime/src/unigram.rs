//! Unigram over a mapped vocabulary.
//!
//! In: a word from the pre-tokenizer. Out: its tokens: the pieces whose scores have the greatest sum, found from left to
//! right (Viterbi; Kudo 2018). A character that is no piece counts as the unknown token, with a score ten below the
//! lowest. Unknown neighbours become one token, or a token for each byte if the model has those. Refused: a character
//! that is no piece, if the model has no unknown token.

use edge_bundle::Vocabulary;
use serde::Deserialize;
use tokenizers::{Result, Token};

/// A model as `tokenizer.json` describes it, but for its pieces.
#[derive(Deserialize)]
pub(crate) struct Options {
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
}

/// How far an unknown character is below the lowest score of a piece.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The best way to the end of a piece: the sum of its scores, where its last piece begins, and that piece.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    begin: usize,
    id: u32,
}

/// The tokens of a word.
pub(crate) fn tokens<B: AsRef<[u8]>>(pieces: &Vocabulary<B>, options: &Options, word: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    for (begin, end, id) in fused(best_path(pieces, options, word)?, options.unk_id) {
        let text = &word[begin..end];
        // Unknown characters may be a piece together, though it was not the best one.
        let known = if Some(id) == options.unk_id { pieces.id(text.as_bytes()) } else { Some(id) };
        let bytes = if known.is_none() && options.byte_fallback { byte_tokens(pieces, text) } else { None };
        match bytes {
            Some(bytes) => tokens.extend(bytes.into_iter().map(|(id, value)| Token::new(id, value, (begin, end)))),
            None => tokens.push(Token::new(known.unwrap_or(id), text.to_owned(), (begin, end))),
        }
    }
    Ok(tokens)
}

/// The pieces of the best way through a word, from its end to its begin: where each begins and ends, and its number.
fn best_path<B: AsRef<[u8]>>(
    pieces: &Vocabulary<B>,
    options: &Options,
    word: &str,
) -> Result<Vec<(usize, usize, u32)>> {
    let unknown_score = pieces.lowest_score().unwrap_or(0.0) - UNKNOWN_PENALTY;
    let is_better = |score: f64, known: Option<Best>| known.is_none_or(|known| score > known.score);
    // A place for each byte; those within a character stay empty.
    let mut best: Vec<Option<Best>> = vec![None; word.len() + 1];
    for (begin, character) in word.char_indices() {
        let total = best[begin].map_or(0.0, |here| here.score);
        let mut is_piece = false;
        for (bytes, id) in pieces.prefixes(&word.as_bytes()[begin..]) {
            let end = begin + bytes;
            // An empty piece leads nowhere. One that ends within a character is of a damaged file.
            let Some(score) = pieces.score(id).filter(|_| bytes > 0 && word.is_char_boundary(end)) else { continue };
            if is_better(score + total, best[end]) {
                best[end] = Some(Best { score: score + total, begin, id });
            }
            is_piece |= bytes == character.len_utf8();
        }
        let end = begin + character.len_utf8();
        let score = unknown_score + total;
        if !is_piece && is_better(score, best[end]) {
            let id = options.unk_id.ok_or_else(|| {
                format!("model.unk_id: expected a number, for {character:?} is no piece of the vocabulary; found null")
            })?;
            best[end] = Some(Best { score, begin, id });
        }
    }
    let mut path = Vec::new();
    let mut end = word.len();
    while let Some(Best { begin, id, .. }) = best[end] {
        path.push((begin, end, id));
        end = begin;
    }
    Ok(path)
}

/// A path from its begin to its end, unknown neighbours as one.
fn fused(path: Vec<(usize, usize, u32)>, unknown: Option<u32>) -> Vec<(usize, usize, u32)> {
    let mut fused: Vec<(usize, usize, u32)> = Vec::with_capacity(path.len());
    for (begin, end, id) in path.into_iter().rev() {
        match fused.last_mut() {
            Some((_, last, before)) if Some(id) == unknown && *before == id => *last = end,
            _ => fused.push((begin, end, id)),
        }
    }
    fused
}

/// The tokens of the bytes of a text, if the vocabulary has all of them.
fn byte_tokens<B: AsRef<[u8]>>(pieces: &Vocabulary<B>, text: &str) -> Option<Vec<(u32, String)>> {
    let token = |byte: u8| {
        let value = format!("<0x{byte:02X}>");
        Some((pieces.id(value.as_bytes())?, value))
    };
    text.bytes().map(token).collect()
}
