//! Which tokens continue a word, as the token-classification pipeline of Hugging Face's transformers decides it.
//!
//! In: a tokenizer's settings and the tokens of a text. Out: for each token, whether it continues the word of the token
//! before it. Nothing is refused.
//!
//! There are two rules. A vocabulary with a prefix for such tokens, as WordPiece has `##`, tells them by length: a token
//! that has another length than its characters in the text has a prefix. It also has another length where the text
//! was changed before, as a letter with a combining accent is. Without such a prefix, a token continues a word unless a
//! space is its first character or before it. The unknown token never continues a word.

use serde::Deserialize;

/// The settings of a tokenizer's model that say so.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Subwords {
    continuing_subword_prefix: Option<String>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

impl Subwords {
    /// Whether each token continues a word. `tokens` are ids, each with its characters in `text`; none for special tokens.
    pub fn continuing(
        &self,
        text: &str,
        tokens: impl Iterator<Item = (u32, Option<(usize, usize)>)>,
        id_of: impl Fn(&str) -> Option<u32>,
        token_of: impl Fn(u32) -> Option<String>,
    ) -> Vec<bool> {
        // A byte-level vocabulary needs no unknown token, but the text may still spell one.
        let usual = || ["<unk>", "[UNK]"].iter().find_map(|token| id_of(token));
        let unknown = self.unk_id.or_else(|| self.unk_token.as_deref().and_then(&id_of)).or_else(usual);
        let prefixed = self.continuing_subword_prefix.as_deref().is_some_and(|prefix| !prefix.is_empty());
        let spaces: Vec<bool> = text.chars().map(|c| c == ' ').collect();
        let space = |at: usize| spaces.get(at).copied().unwrap_or_default();
        let continues = |(id, place): (u32, Option<(usize, usize)>)| {
            let Some((start, end)) = place.filter(|_| Some(id) != unknown) else { return false };
            match prefixed {
                true => {
                    let length = end.min(spaces.len()).saturating_sub(start);
                    token_of(id).is_some_and(|token| token.chars().count() != length)
                }
                false => start > 0 && !space(start - 1) && !space(start),
            }
        };
        tokens.map(continues).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 4] = ["[UNK]", "caf", "##e", "cafe"];

    fn continuing(subwords: &Subwords, text: &str, tokens: &[(u32, (usize, usize))]) -> Vec<bool> {
        let id_of = |name: &str| TOKENS.iter().position(|token| *token == name).map(|at| at as u32);
        let token_of = |id: u32| Some(TOKENS[id as usize].to_owned());
        let tokens = std::iter::once((1, None)).chain(tokens.iter().map(|(id, place)| (*id, Some(*place))));
        subwords.continuing(text, tokens, id_of, token_of)[1..].to_vec()
    }

    #[test]
    fn tokens_with_a_prefix_are_told_by_length() {
        let settings = r###"{"continuing_subword_prefix": "##", "unk_token": "[UNK]"}"###;
        let subwords: Subwords = serde_json::from_str(settings).unwrap();
        assert_eq!(continuing(&subwords, "cafe", &[(1, (0, 3)), (2, (3, 4))]), [false, true]);
        // The accent is a character of its own, of which the token has none.
        assert_eq!(continuing(&subwords, "cafe\u{301}", &[(3, (0, 5))]), [true]);
        assert_eq!(continuing(&subwords, "caf東", &[(1, (0, 3)), (0, (3, 4))]), [false, false]);
    }

    #[test]
    fn other_tokens_are_told_by_a_space() {
        let tokens = [(1, (0, 3)), (3, (3, 4)), (3, (4, 6)), (3, (6, 7)), (0, (7, 8)), (3, (9, 10)), (3, (11, 12))];
        // A line break is no space.
        let found = continuing(&Subwords::default(), "cafe éé? é\né", &tokens);
        assert_eq!(found, [false, true, false, true, false, false, true]);
        let empty: Subwords = serde_json::from_str(r#"{"continuing_subword_prefix": "", "unk_id": 1}"#).unwrap();
        assert_eq!(continuing(&empty, "cafe", &[(3, (0, 2)), (1, (2, 3)), (0, (3, 4))]), [false, false, true]);
    }
}
