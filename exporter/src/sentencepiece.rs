//! Tokenizers that come from SentencePiece.
//!
//! In: a checkpoint directory, or a `tokenizer.json` of pieces. Out: the highest id of a token. Refused: a SentencePiece
//! model without a `tokenizer.json`, with the command that makes one.

use std::path::{Path, PathBuf};

use edge_bundle::Vocabulary;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

/// The names of SentencePiece's models, and the class that reads each unless the checkpoint names another.
pub(crate) const MODELS: [(&str, &str); 3] = [
    ("sentencepiece.bpe.model", "XLMRobertaTokenizerFast"),
    ("spiece.model", "AlbertTokenizerFast"),
    ("spm.model", "DebertaV2TokenizerFast"),
];

/// The SentencePiece model in a directory, and what to say of it: the command that makes a `tokenizer.json`.
pub(crate) fn model_in(dir: &Path, config: &Value, tokenizer_config: &Value) -> Option<(PathBuf, String)> {
    /// `transformers` finds their classes by itself. Of other models, such as a BERT with SentencePiece's tokenizer, it
    /// would make a tokenizer of another kind, silently.
    const KNOWN: [&str; 4] = ["albert", "camembert", "deberta-v2", "xlm-roberta"];
    let (file, by_file) = MODELS.into_iter().find(|(file, _)| dir.join(file).exists())?;
    let named = [config, tokenizer_config].iter().any(|config| config["tokenizer_class"].is_string());
    let known = config["model_type"].as_str().is_some_and(|model_type| KNOWN.contains(&model_type));
    let class = if named || known { "AutoTokenizer" } else { by_file };
    let quoted = dir.display().to_string().replace('\'', r"'\''");
    let found = format!(
        "only a SentencePiece model; make one with\n  pip install transformers sentencepiece protobuf\n  \
         python3 -c \"import sys; from transformers import {class} as T; d = sys.argv[1]; \
         T.from_pretrained(d).save_pretrained(d)\" '{quoted}'"
    );
    Some((dir.join(file), found))
}

/// The token of the highest id in a `tokenizer.json` of pieces, and that id. All but the pieces is read as the
/// `tokenizers` crate reads it; they would take the crate more than a kilobyte each.
///
/// # Errors
/// When the crate cannot read the rest.
pub(crate) fn highest(tokenizer: &[u8], pieces: &Vocabulary<&[u8]>) -> tokenizers::Result<Option<(String, u32)>> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(rename = "model")]
        _model: IgnoredAny,
        #[serde(flatten)]
        rest: Map<String, Value>,
    }
    let Whole { mut rest, .. } = serde_json::from_slice(tokenizer)?;
    rest.insert("model".to_owned(), json!({"type": "Unigram", "vocab": [], "unk_id": null}));
    let without = Tokenizer::from_bytes(serde_json::to_vec(&rest)?)?;
    let mut added: Vec<_> = without.get_added_tokens_decoder().into_iter().collect();
    added.sort_unstable_by_key(|(id, _)| *id);
    // Added tokens that are no pieces get the next ids, in their order.
    let mut new = added.iter().map(|(_, token)| &token.content).filter(|token| pieces.id(token.as_bytes()).is_none());
    let (last, count) = (new.next_back(), new.count());
    let below = u32::try_from(pieces.len())?;
    Ok(match last {
        Some(token) => Some((token.clone(), below + u32::try_from(count)?)),
        None => below
            .checked_sub(1)
            .map(|id| (String::from_utf8_lossy(pieces.token_of(id).unwrap_or_default()).into_owned(), id)),
    })
}

#[cfg(test)]
mod tests {
    use edge_bundle::vocabulary_of;

    use super::*;

    #[test]
    fn the_highest_id_counts_added_tokens_as_the_crate_does() {
        let whole = |pieces: Value, added: &[&str]| {
            let token = |content| {
                json!({"id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": true, "special": true})
            };
            let added: Vec<Value> = added.iter().map(token).collect();
            json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
                "pre_tokenizer": null, "post_processor": null, "decoder": null,
                "model": {"type": "Unigram", "unk_id": null, "vocab": pieces}})
            .to_string()
        };
        let two = json!([["a", -1.0], ["b", -2.0]]);
        for (pieces, added) in [
            (json!([]), &[][..]),
            (json!([]), &["x"]),
            (two.clone(), &[]),
            (two.clone(), &["b", "a"]),
            (two, &["a", "x", "b", "y", "x", "z", "b"]),
        ] {
            let json = whole(pieces, added);
            let due = Tokenizer::from_bytes(&json).unwrap().get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
            let bytes = vocabulary_of(json.as_bytes()).unwrap().unwrap();
            let found = highest(json.as_bytes(), &Vocabulary::parse(&bytes[..]).unwrap()).unwrap();
            assert_eq!(found, due, "{added:?}");
        }
        let other = whole(json!([]), &[]).replace("\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"Other\"}");
        let bytes = vocabulary_of(other.as_bytes()).unwrap().unwrap();
        assert!(highest(other.as_bytes(), &Vocabulary::parse(&bytes[..]).unwrap()).is_err());
    }
}
