//! What adds special tokens to the tokens of a text or a pair.
//!
//! In: the `post_processor` of a tokenizer, as the `tokenizers` crate reads it. Out: the same, if the crate can run it
//! on one text and on a pair. Refused: templates that the crate reads from a file and then panics over, and two
//! processors that both add tokens.

use std::collections::HashMap;

use serde::Deserialize;
use tokenizers::{PostProcessorWrapper, Result};

/// `TemplateProcessing` of the crate, whose fields are private there.
#[derive(Deserialize)]
struct Template {
    single: Vec<Piece>,
    pair: Vec<Piece>,
    special_tokens: HashMap<String, SpecialToken>,
}

#[derive(Deserialize)]
enum Piece {
    Sequence { id: Part },
    SpecialToken { id: String },
}

/// The first text or the second.
#[derive(Deserialize, Clone, Copy, PartialEq)]
enum Part {
    A,
    B,
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<u32>,
    tokens: Vec<String>,
}

/// The processor, if the crate can run it on one text and on a pair.
///
/// # Errors
/// When a template does not hold each text once or lacks one of its special tokens, and when tokens are added twice.
pub(crate) fn checked(processor: Option<PostProcessorWrapper>) -> Result<Option<PostProcessorWrapper>> {
    if let Some(processor) = &processor {
        let adding = check(processor)?;
        if adding > 1 {
            return Err(format!("post_processor: {adding} processors add special tokens, expected one").into());
        }
    }
    Ok(processor)
}

/// How many processors add tokens.
fn check(processor: &PostProcessorWrapper) -> Result<usize> {
    match processor {
        PostProcessorWrapper::Sequence(parts) => parts.as_ref().iter().map(check).sum(),
        PostProcessorWrapper::Template(template) => {
            Template::deserialize(serde_json::to_value(template)?)?.check()?;
            Ok(1)
        }
        PostProcessorWrapper::Bert(_) | PostProcessorWrapper::Roberta(_) => Ok(1),
        PostProcessorWrapper::ByteLevel(_) => Ok(0),
    }
}

impl Template {
    fn check(&self) -> Result<()> {
        for (name, pieces, parts) in
            [("single", &self.single, &[Part::A][..]), ("pair", &self.pair, &[Part::A, Part::B])]
        {
            let mut found = Vec::new();
            for piece in pieces {
                match piece {
                    Piece::Sequence { id } => found.push(*id),
                    Piece::SpecialToken { id } => match self.special_tokens.get(id) {
                        Some(token) if token.ids.len() == token.tokens.len() => {}
                        Some(token) => {
                            let (ids, tokens) = (token.ids.len(), token.tokens.len());
                            return Err(format!("post_processor: {id:?} has {ids} ids and {tokens} tokens").into());
                        }
                        None => return Err(format!("post_processor: {id:?} of `{name}` is no special token").into()),
                    },
                }
            }
            let once = found.len() == parts.len() && parts.iter().all(|part| found.contains(part));
            if !once {
                let expected = if parts.len() == 1 { "$A once" } else { "$A and $B, each once" };
                return Err(format!("post_processor: expected {expected} in `{name}`").into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn template(single: &[&str], pair: &[&str]) -> Value {
        let pieces = |pieces: &[&str]| -> Vec<Value> {
            let piece = |piece: &&str| match piece.strip_prefix('$') {
                Some(id) => json!({"Sequence": {"id": id, "type_id": 0}}),
                None => json!({"SpecialToken": {"id": piece, "type_id": 0}}),
            };
            pieces.iter().map(piece).collect()
        };
        json!({
            "type": "TemplateProcessing", "single": pieces(single), "pair": pieces(pair),
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[BAD]": {"id": "[BAD]", "ids": [2, 3], "tokens": ["[BAD]"]},
            },
        })
    }

    fn refused(processor: Value) -> Option<String> {
        let processor: PostProcessorWrapper = serde_json::from_value(processor).unwrap();
        checked(Some(processor)).err().map(|error| error.to_string())
    }

    #[test]
    fn templates_that_would_panic_are_refused() {
        let pair = ["[CLS]", "$A", "$B"];
        assert_eq!(refused(template(&["[CLS]", "$A"], &pair)), None);
        assert_eq!(refused(template(&["$A"], &["$B", "$A"])), None);
        let no_token = r#"post_processor: "[SEP]" of `single` is no special token"#;
        assert_eq!(refused(template(&["$A", "[SEP]"], &pair)).unwrap(), no_token);
        let uneven = r#"post_processor: "[BAD]" has 2 ids and 1 tokens"#;
        assert_eq!(refused(template(&["$A", "[BAD]"], &pair)).unwrap(), uneven);
        for single in [&["$B"][..], &["[CLS]"], &["$A", "$A"]] {
            assert_eq!(refused(template(single, &pair)).unwrap(), "post_processor: expected $A once in `single`");
        }
        let expected = "post_processor: expected $A and $B, each once in `pair`";
        assert_eq!(refused(template(&["$A"], &["$A"])).unwrap(), expected);
    }

    #[test]
    fn tokens_are_added_once() {
        let template = template(&["[CLS]", "$A"], &["$A", "$B"]);
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
        let sequence = |parts: &[&Value]| json!({"type": "Sequence", "processors": parts});
        assert_eq!(refused(sequence(&[&byte_level, &template])), None);
        let twice = refused(sequence(&[&template, &sequence(&[&template])])).unwrap();
        assert_eq!(twice, "post_processor: 2 processors add special tokens, expected one");
    }
}
