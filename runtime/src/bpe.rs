//! Byte pair encoding over a mapped vocabulary.
//!
//! In: a word from the pre-tokenizer. Out: its tokens. The word starts as its characters. The two neighbours whose
//! merge comes first in the list are merged, the leftmost of equal ones, until none can be merged (Sennrich et al.
//! 2016). A character without a token becomes a token for each byte, or the unknown token, or is dropped, as the model's
//! options say. Refused: a merge whose result is not a token, and an unknown token that is none.

use std::{cmp::Reverse, collections::BinaryHeap};

use edge_bundle::Vocabulary;
use serde::Deserialize;
use tokenizers::{Result, Token};

/// A model as `tokenizer.json` describes it, but for its words and merges.
#[derive(Deserialize)]
pub(crate) struct Options {
    unk_token: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

/// A part of a word, in a doubly linked list, so that merging moves nothing.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Bytes of its text; 0 once it was merged into the symbol before it.
    bytes: usize,
    /// Its neighbours; beyond the list where there are none.
    previous: usize,
    next: usize,
}

/// The tokens of a word.
pub(crate) fn tokens<B: AsRef<[u8]>>(words: &Vocabulary<B>, options: &Options, word: &str) -> Result<Vec<Token>> {
    if options.ignore_merges == Some(true)
        && let Some(id) = words.id(word.as_bytes())
    {
        return Ok(vec![Token::new(id, word.to_owned(), (0, word.len()))]);
    }
    let symbol =
        |(at, (id, bytes)): (usize, (u32, usize))| Symbol { id, bytes, previous: at.wrapping_sub(1), next: at + 1 };
    let mut symbols: Vec<Symbol> = characters(words, options, word)?.into_iter().enumerate().map(symbol).collect();

    // A possible merge of a symbol and the next. The earliest merge of the list is the greatest, then the leftmost.
    let merge = |symbols: &[Symbol], at: usize| {
        let left = symbols.get(at).filter(|symbol| symbol.bytes > 0)?;
        let right = symbols.get(left.next)?;
        let (rank, id) = words.merge(left.id, right.id)?;
        Some(Reverse((rank, at, id)))
    };
    let mut queue: BinaryHeap<_> = (0..symbols.len()).filter_map(|at| merge(&symbols, at)).collect();
    while let Some(Reverse((_, at, id))) = queue.pop() {
        // Either symbol may have been merged meanwhile. As in the `tokenizers` crate, the merge is still done if the
        // two symbols that are there now give the same token.
        if merge(&symbols, at).is_none_or(|Reverse((_, _, now))| now != id) {
            continue;
        }
        let Symbol { next: right, previous, .. } = symbols[at];
        let Symbol { bytes, next, .. } = symbols[right];
        symbols[right].bytes = 0;
        symbols[at] = Symbol { id, bytes: symbols[at].bytes + bytes, previous, next };
        if let Some(after) = symbols.get_mut(next) {
            after.previous = at;
        }
        queue.extend(merge(&symbols, previous));
        queue.extend(merge(&symbols, at));
    }

    let mut end = 0;
    let token = |symbol: &Symbol| -> Result<Token> {
        let begin = end;
        end += symbol.bytes;
        let text =
            words.token_of(symbol.id).ok_or_else(|| format!("expected a token of number {}, found none", symbol.id))?;
        Ok(Token::new(symbol.id, String::from_utf8_lossy(text).into_owned(), (begin, end)))
    };
    symbols.iter().filter(|symbol| symbol.bytes > 0).map(token).collect()
}

/// The tokens that a word's characters start as, and their bytes.
fn characters<B: AsRef<[u8]>>(words: &Vocabulary<B>, options: &Options, word: &str) -> Result<Vec<(u32, usize)>> {
    let mut made = Vec::with_capacity(word.len());
    // Unknown characters that wait for their neighbours. As in the `tokenizers` crate, those that become tokens of bytes
    // do not end the wait.
    let mut unknown: Option<(u32, usize)> = None;
    for character in word.chars() {
        let mut text = [0; 4];
        let text = character.encode_utf8(&mut text);
        if let Some(id) = words.id(text.as_bytes()) {
            made.extend(unknown.take());
            made.push((id, text.len()));
            continue;
        }
        if options.byte_fallback == Some(true) {
            let token = |byte| Some((words.id(format!("<0x{byte:02X}>").as_bytes())?, 1));
            if let Some(tokens) = text.bytes().map(token).collect::<Option<Vec<_>>>() {
                made.extend(tokens);
                continue;
            }
        }
        let Some(name) = &options.unk_token else { continue };
        let id = words.id(name.as_bytes());
        let id = id.ok_or_else(|| format!("model.unk_token: expected a token of the vocabulary, found {name:?}"))?;
        let waiting = if options.fuse_unk == Some(true) { unknown.take() } else { None };
        made.extend(unknown.take());
        unknown = Some((id, waiting.map_or(0, |(_, bytes)| bytes) + text.len()));
    }
    made.extend(unknown);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use edge_bundle::vocabulary_of;
    use tokenizers::{Model, models::bpe::BPE};

    use super::*;

    const NO_OPTIONS: Options = Options { unk_token: None, fuse_unk: None, byte_fallback: None, ignore_merges: None };
    const CHARACTERS: [&str; 5] = ["a", "b", "c", "é", "👍"];

    /// A model of these characters and of what merges make of them, as JSON; numbers are neither in order nor dense.
    fn model(merges: &[&str]) -> String {
        let mut words: Vec<String> = CHARACTERS.map(str::to_owned).to_vec();
        for merge in merges {
            let made = merge.replace(' ', "");
            if !words.contains(&made) {
                words.push(made);
            }
        }
        let ids = words.iter().enumerate().map(|(at, word)| (word.clone(), (at * 7919 % 101).into()));
        let vocab: serde_json::Map<String, serde_json::Value> = ids.collect();
        let merges: Vec<Vec<&str>> = merges.iter().map(|merge| merge.split(' ').collect()).collect();
        serde_json::json!({"type": "BPE", "vocab": vocab, "merges": merges}).to_string()
    }

    fn mapped(model: &str) -> Vocabulary<Vec<u8>> {
        let bytes = vocabulary_of(format!("{{\"model\":{model}}}").as_bytes()).unwrap().unwrap();
        Vocabulary::parse(bytes).unwrap()
    }

    #[test]
    fn tokens_are_those_of_the_tokenizers_crate() {
        // All words of up to six characters, one of them in no vocabulary; and long ones.
        let mut texts = vec![String::new()];
        let mut from = 0;
        for _ in 0..6 {
            let shorter = from..texts.len();
            from = texts.len();
            for at in shorter {
                let longer: Vec<String> =
                    CHARACTERS.iter().chain(&["x"]).map(|last| format!("{}{last}", texts[at])).collect();
                texts.extend(longer);
            }
        }
        for part in ["a", "ab", "abc", "aab", "cab", "é👍", "xaé"] {
            for count in [7, 100, 1001] {
                texts.push(part.repeat(count));
            }
        }
        let ways: [&[&str]; 6] = [
            &[],
            &["a a", "aa aa", "aaaa a", "é 👍", "é👍 é👍"],
            // Two ways to one token; one merge comes before, one after the merges of its parts.
            &["a b", "b c", "a bc", "ab c", "c a", "abc abc", "b a"],
            &["abc abc", "ab c", "c a", "a bc", "b c", "aa a", "a a", "a b"],
            &["ab c", "b c", "a bc", "c c", "bc c", "a b", "a abc", "é a", "éa é"],
            // Listed twice: the last place counts.
            &["a b", "b c", "c a", "a b", "b a", "b c"],
        ];
        for merges in ways {
            let model = model(merges);
            let (whole, words): (BPE, _) = (serde_json::from_str(&model).unwrap(), mapped(&model));
            for text in &texts {
                assert_eq!(
                    tokens(&words, &NO_OPTIONS, text).unwrap(),
                    whole.tokenize(text).unwrap(),
                    "{merges:?} {text:?}"
                );
            }
        }
    }

    #[test]
    fn characters_without_a_token_become_what_the_crate_makes_of_them() {
        // The bytes of x and of ö, of ß only one, of 東 none; a merge of two bytes, and of the unknown token and a word.
        let vocab = serde_json::json!({"<unk>": 9, "a": 1, "b": 2, "ab": 3, "<0x78>": 4, "<0xC3>": 5, "<0xB6>": 6,
            "<0xC3><0xB6>": 7, "<unk>a": 8, "xyz": 10});
        let merges = serde_json::json!([["a", "b"], ["<0xC3>", "<0xB6>"], ["<unk>", "a"]]);
        let mut texts = vec![String::new()];
        for at in 0..9331 {
            let longer = ["a", "b", "x", "ö", "ß", "東"].map(|last| format!("{}{last}", texts[at]));
            texts.extend(longer);
            if texts[at].chars().count() == 4 {
                break;
            }
        }
        texts.push("xyz".to_owned());
        for options in 0..16 {
            let on = |bit: u32| options & bit != 0;
            let model = serde_json::json!({"type": "BPE", "vocab": vocab, "merges": merges,
                "unk_token": on(1).then_some("<unk>"), "fuse_unk": on(2), "byte_fallback": on(4),
                "ignore_merges": on(8)});
            let (whole, words): (BPE, _) =
                (serde_json::from_str(&model.to_string()).unwrap(), mapped(&model.to_string()));
            let options = Options::deserialize(&model).unwrap();
            for text in &texts {
                assert_eq!(tokens(&words, &options, text).unwrap(), whole.tokenize(text).unwrap(), "{model} {text:?}");
            }
        }
        let model = serde_json::json!({"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "[UNK]"});
        let (words, options) = (mapped(&model.to_string()), Options::deserialize(&model).unwrap());
        let error = tokens(&words, &options, "ac").unwrap_err().to_string();
        assert!(error.contains("model.unk_token") && error.contains("[UNK]"), "{error}");
    }

    #[test]
    fn damaged_merges_make_tokens_or_are_refused() {
        let model = model(&["a b", "b c", "ab c", "a bc"]);
        let whole = vocabulary_of(format!("{{\"model\":{model}}}").as_bytes()).unwrap().unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            for value in [0, 1, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let Ok(words) = Vocabulary::parse(bytes) else { continue };
                if let Err(error) = tokens(&words, &NO_OPTIONS, "abcabé👍ccabx") {
                    assert!(error.to_string().contains("expected a token"), "{error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
    }
}
