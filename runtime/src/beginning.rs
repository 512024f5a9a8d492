//! The beginning of a long text, of which its first tokens are made.
//!
//! In: how a checkpoint's tokenizer splits texts, and a text. Out: a part from the start of the text. Its tokens, but
//! for the last one, are the first tokens of the whole text. Refused, and taken whole: texts of tokenizers that may read
//! a word with the next ones.

use serde_json::Value;
use tokenizers::AddedToken;

/// A row of spaces as SentencePiece's tokenizers replace it.
const SPACES: &str = " {2,}";

/// What SentencePiece's tokenizers have in the place of a space.
const METASPACE: char = '\u{2581}';

/// Whether the tokens before a space, but for the last one, are the same whatever follows. A tokenizer is known by its
/// settings in `tokenizer.json`.
pub(crate) fn ends_words_at_spaces(
    normalizer: Option<&Value>,
    pre_tokenizer: Option<&Value>,
    added: &[AddedToken],
) -> bool {
    let Some(splitter) = pre_tokenizer.and_then(splitter) else { return false };
    normalizer.is_none_or(|normalizer| is_local(normalizer, &splitter)) && !added.iter().any(crosses_a_space)
}

/// What ends a word at each space.
enum Splitter {
    /// White space, which is in no word.
    WhiteSpace,
    /// Spaces as Metaspace reads them; each begins a word.
    Metaspace,
    /// A row of white space is a word of its own, but for a last space.
    ByteLevel,
}

/// The part of a pre-tokenizer that comes first, if that ends a word at each space. What comes after it in a sequence
/// splits words further.
fn splitter(pre_tokenizer: &Value) -> Option<Splitter> {
    let first = pre_tokenizer.get("pretokenizers").and_then(|parts| parts.get(0)).unwrap_or(pre_tokenizer);
    let is = |setting: &str| first.get(setting).and_then(Value::as_bool).unwrap_or(true);
    match first.get("type").and_then(Value::as_str)? {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => Some(Splitter::WhiteSpace),
        "Metaspace" if is("split") => Some(Splitter::Metaspace),
        "ByteLevel" if is("use_regex") => Some(Splitter::ByteLevel),
        _ => None,
    }
}

/// Whether a normalizer leaves spaces where they are and reads no further than a word.
fn is_local(normalizer: &Value, splitter: &Splitter) -> bool {
    let text = |field: &str| normalizer.get(field).and_then(Value::as_str);
    match (text("type").unwrap_or_default(), splitter) {
        ("Sequence", _) => normalizer
            .get("normalizers")
            .and_then(Value::as_array)
            .is_some_and(|parts| parts.iter().all(|part| is_local(part, splitter))),
        ("NFC" | "NFD", _) => true,
        // The others may make white space of what stands before a space, and so change a row of white space.
        (_, Splitter::ByteLevel) => false,
        (
            "BertNormalizer" | "Lowercase" | "NFKC" | "NFKD" | "Nmt" | "Precompiled" | "Prepend" | "Strip"
            | "StripAccents",
            _,
        ) => true,
        ("Replace", _) => {
            let pattern = |kind: &str| normalizer.get("pattern").and_then(|pattern| pattern.get(kind)?.as_str());
            let content = text("content").unwrap_or_default();
            match (pattern("String"), pattern("Regex")) {
                (Some(pattern), None) => !pattern.contains(|c: char| c.is_whitespace() || c == METASPACE),
                (None, Some(SPACES)) => {
                    content == " " || content.chars().eq([METASPACE]) && matches!(splitter, Splitter::Metaspace)
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a string that is a token wherever it stands holds a space behind something else, so that a text may be cut
/// inside of it.
fn crosses_a_space(added: &AddedToken) -> bool {
    let is_space = |c: char| c.is_whitespace() || c == METASPACE;
    added.content.trim_start_matches(is_space).contains(is_space)
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

    fn holds(normalizer: Value, pre_tokenizer: &Value) -> bool {
        let added = [AddedToken::from("[MASK]", true), AddedToken::from("   ", false)];
        ends_words_at_spaces(Some(&normalizer).filter(|value| !value.is_null()), Some(pre_tokenizer), &added)
    }

    fn sequence(of: &str, parts: &[Value]) -> Value {
        json!({ "type": "Sequence", of: parts })
    }

    fn replace(kind: &str, pattern: &str, content: &str) -> Value {
        json!({ "type": "Replace", "pattern": { kind: pattern }, "content": content })
    }

    #[test]
    fn tokenizers_of_the_families_are_known() {
        let of = |kind: &str| json!({ "type": kind });
        let metaspace = of("Metaspace");
        let charsmap = || of("Precompiled");
        let albert = [replace("String", "``", "\""), of("NFKD"), of("StripAccents"), of("Lowercase"), charsmap()];
        let spaces = || replace("Regex", SPACES, " ");
        let split = json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious" });
        for (family, normalizer, pre_tokenizer, due) in [
            ("BERT", of("BertNormalizer"), of("BertPreTokenizer"), true),
            ("RoBERTa", Value::Null, of("ByteLevel"), true),
            ("ModernBERT", of("NFC"), of("ByteLevel"), true),
            ("XLM-R", charsmap(), metaspace.clone(), true),
            (
                "ALBERT",
                sequence("normalizers", &albert),
                sequence("pretokenizers", &[of("WhitespaceSplit"), metaspace.clone()]),
                true,
            ),
            (
                "DeBERTa",
                sequence("normalizers", &[of("Strip"), charsmap(), spaces()]),
                sequence("pretokenizers", &[metaspace]),
                true,
            ),
            ("mmBERT", replace("String", " ", "\u{2581}"), split, false),
        ] {
            assert_eq!(holds(normalizer, &pre_tokenizer), due, "{family}");
        }
    }

    #[test]
    fn tokenizers_that_read_on_are_known() {
        let words = json!({ "type": "BertPreTokenizer" });
        let byte_level = |use_regex| json!({ "type": "ByteLevel", "use_regex": use_regex });
        let metaspace = |split| json!({ "type": "Metaspace", "split": split });
        let split = json!({ "type": "Split", "pattern": { "Regex": "a.*b" } });
        for (pre_tokenizer, due) in [
            (byte_level(false), false),
            (metaspace(true), true),
            (metaspace(false), false),
            (sequence("pretokenizers", &[json!({ "type": "WhitespaceSplit" }), metaspace(false)]), true),
            (sequence("pretokenizers", &[split.clone(), words.clone()]), false),
            (split, false),
        ] {
            assert_eq!(holds(json!({ "type": "BertNormalizer" }), &pre_tokenizer), due, "{pre_tokenizer}");
        }
        for (normalizer, pre_tokenizer, due) in [
            (replace("String", "``", "\""), &words, true),
            (replace("String", " ", ""), &words, false),
            (replace("String", "a b", "c"), &words, false),
            (replace("Regex", SPACES, " "), &words, true),
            (replace("Regex", SPACES, ""), &words, false),
            (replace("Regex", SPACES, "\u{2581}"), &words, false),
            (replace("Regex", SPACES, "\u{2581}"), &metaspace(true), true),
            (replace("Regex", "a.*b", "c"), &words, false),
            (json!({ "type": "ByteLevel" }), &words, false),
            (json!({ "type": "NFKC" }), &words, true),
            (json!({ "type": "NFKC" }), &byte_level(true), false),
            (sequence("normalizers", &[json!({ "type": "NFD" })]), &byte_level(true), true),
            (sequence("normalizers", &[replace("String", " ", "")]), &words, false),
            (json!({ "type": "Unknown" }), &words, false),
        ] {
            assert_eq!(holds(normalizer.clone(), pre_tokenizer), due, "{normalizer} {pre_tokenizer}");
        }
        let added = |content: &str| [AddedToken::from(content, true)];
        for (content, due) in
            [("New York", false), ("a\u{a0}", false), ("a\u{2581}b", false), (" a", true), ("\n\n", true)]
        {
            assert_eq!(ends_words_at_spaces(None, Some(&words), &added(content)), due, "{content:?}");
        }
        assert!(!ends_words_at_spaces(None, None, &[]));
    }
}
