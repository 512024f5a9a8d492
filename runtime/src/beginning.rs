//! The beginning of a long text, of which its first tokens are made.
//!
//! In: how a checkpoint's tokenizer splits texts, and a text. Out: a part from the start of the text, whose tokens are
//! the first of all its tokens. Refused, and taken whole: texts of tokenizers that may read a word with the next ones.

use serde_json::Value;

/// Whether the tokens before a space, if a word ends there, are the same whatever follows. A tokenizer is known by its
/// settings in `tokenizer.json`, with the strings that it adds to its words.
pub(crate) fn ends_words_at_spaces<'s>(
    normalizer: Option<&Value>,
    pre_tokenizer: Option<&Value>,
    mut added: impl Iterator<Item = &'s str>,
) -> bool {
    normalizer.is_none_or(is_local) && pre_tokenizer.is_some_and(is_by_words) && !added.any(|word| word.contains(' '))
}

/// Whether a normalizer reads no further than a word. A regular expression may read the whole text; the one that
/// SentencePiece's tokenizers have reads a row of spaces.
fn is_local(normalizer: &Value) -> bool {
    let patterns = normalizer.get("pattern").and_then(|pattern| pattern.get("Regex"));
    let mut parts = normalizer.get("normalizers").and_then(Value::as_array).into_iter().flatten();
    patterns.is_none_or(|pattern| pattern == " {2,}") && parts.all(is_local)
}

/// Whether a pre-tokenizer ends a word at each space. What comes after it in a sequence splits words further.
fn is_by_words(pre_tokenizer: &Value) -> bool {
    let first = pre_tokenizer.get("pretokenizers").and_then(|parts| parts.get(0)).unwrap_or(pre_tokenizer);
    let is = |setting: &str| first.get(setting).and_then(Value::as_bool).unwrap_or(true);
    match first.get("type").and_then(Value::as_str) {
        Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit") => true,
        Some("Metaspace") => is("split"),
        Some("ByteLevel") => is("use_regex"),
        _ => false,
    }
}

/// The longest beginning of at most `bytes` bytes that ends with a word before a space; empty if there is none.
pub(crate) fn beginning(text: &str, bytes: usize) -> &str {
    let within = &text[..text.floor_char_boundary(bytes)];
    let mut ends = within.rmatch_indices(' ').map(|(at, _)| &within[..at]);
    // Byte-level words hold the space before them, so a row of spaces is split by what follows it.
    ends.find(|part| !part.ends_with(char::is_whitespace)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_beginning_ends_with_a_word() {
        for (bytes, due) in [(0, ""), (2, ""), (3, "é"), (5, "é"), (6, "é \tb"), (100, "é \tb")] {
            assert_eq!(beginning("é \tb   c", bytes), due, "{bytes}");
        }
        assert_eq!(beginning(" ab", 3), "");
        assert_eq!(beginning("a b c", 5), "a b");
    }

    #[test]
    fn tokenizers_that_read_on_are_known() {
        let words = json!({"type": "BertPreTokenizer"});
        let holds = |normalizer: Value, pre_tokenizer: Value| {
            ends_words_at_spaces(Some(&normalizer), Some(&pre_tokenizer), ["[MASK]"].into_iter())
        };
        let byte_level = |use_regex| json!({"type": "ByteLevel", "use_regex": use_regex});
        let metaspace = |split| json!({"type": "Metaspace", "split": split});
        let sequence = |first: &Value, then: &Value| json!({"type": "Sequence", "pretokenizers": [first, then]});
        let split = json!({"type": "Split", "pattern": {"Regex": "a.*b"}});
        for (pre_tokenizer, due) in [
            (words.clone(), true),
            (byte_level(true), true),
            (byte_level(false), false),
            (metaspace(true), true),
            (metaspace(false), false),
            (json!({"type": "Metaspace"}), true),
            (sequence(&json!({"type": "WhitespaceSplit"}), &metaspace(false)), true),
            (sequence(&split, &words), false),
            (sequence(&split, &byte_level(false)), false),
            (split.clone(), false),
        ] {
            assert_eq!(holds(json!({"type": "BertNormalizer"}), pre_tokenizer.clone()), due, "{pre_tokenizer}");
        }
        let replaces = |pattern: Value| json!({"type": "Sequence", "normalizers": [{"type": "Precompiled"}, {"type": "Replace", "pattern": pattern}]});
        assert!(holds(replaces(json!({"String": "``"})), words.clone()));
        assert!(holds(replaces(json!({"Regex": " {2,}"})), words.clone()));
        assert!(!holds(replaces(json!({"Regex": "a.*b"})), words.clone()));
        assert!(!ends_words_at_spaces(None, Some(&words), ["New York"].into_iter()));
        assert!(!ends_words_at_spaces(None, None, [].into_iter()));
    }
}
