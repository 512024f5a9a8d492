//! What adds special tokens to the tokens of a text or a pair.
//!
//! In: the `post_processor` of a `tokenizer.json`, as JSON. Out: whether the `tokenizers` crate can run it on one text
//! and on a pair. Refused: templates that the crate reads and then panics over, and two processors that both add tokens.

use serde_json::Value;
use tokenizers::Result;

/// Checks a post-processor that the crate reads, or null.
///
/// # Errors
/// When a template does not hold each text once or lacks one of its special tokens, and when tokens are added twice.
pub(crate) fn check(processor: &Value) -> Result<()> {
    match adding(processor)? {
        0 | 1 => Ok(()),
        more => Err(format!("post_processor: {more} processors add special tokens, expected one").into()),
    }
}

/// How many processors add tokens. The crate tells them apart by their fields, ignores others, and takes a list for an
/// object without names. So whatever may be two of them is refused.
fn adding(processor: &Value) -> Result<usize> {
    let has = |fields: &[&str]| fields.iter().any(|field| processor.get(field).is_some());
    let kinds = [has(&["sep", "cls"]), has(&["single", "pair"]), has(&["processors"])];
    let known = processor.is_null() || processor.is_object();
    if !known || kinds.into_iter().filter(|kind| *kind).count() > 1 {
        return Err("post_processor: expected an object with the fields of one processor".into());
    }
    if let Some(processors) = processor["processors"].as_array() {
        return processors.iter().map(adding).sum();
    }
    if processor["single"].is_array() {
        check_template(processor, "single", &["A"])?;
        check_template(processor, "pair", &["A", "B"])?;
        return Ok(1);
    }
    // RobertaProcessing and BertProcessing.
    Ok(usize::from(has(&["sep"])))
}

fn check_template(processor: &Value, name: &str, texts: &[&str]) -> Result<()> {
    let mut found = Vec::new();
    for piece in processor[name].as_array().into_iter().flatten() {
        if let Some(text) = piece["Sequence"]["id"].as_str() {
            found.push(text);
            continue;
        }
        let Some(id) = piece["SpecialToken"]["id"].as_str() else {
            return Err(format!("post_processor: expected objects with an id in `{name}`, found {piece}").into());
        };
        let count = |what: &str| processor["special_tokens"][id][what].as_array().map(Vec::len);
        match (count("ids"), count("tokens")) {
            (Some(ids), Some(tokens)) if ids == tokens => {}
            (Some(ids), Some(tokens)) => {
                return Err(format!("post_processor: {id:?} has {ids} ids and {tokens} tokens").into());
            }
            _ => return Err(format!("post_processor: {id:?} of `{name}` is no special token").into()),
        }
    }
    if found.len() == texts.len() && texts.iter().all(|text| found.contains(text)) {
        return Ok(());
    }
    let expected = if texts.len() == 1 { "$A once" } else { "$A and $B, each once" };
    Err(format!("post_processor: expected {expected} in `{name}`").into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::PostProcessorWrapper;

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
        // The crate reads it.
        serde_json::from_value::<PostProcessorWrapper>(processor.clone()).unwrap();
        check(&processor).err().map(|error| error.to_string())
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
        // The crate takes a list for an object here too.
        let mut unnamed = template(&["[CLS]", "$A"], &pair);
        unnamed["single"][0] = json!({"SpecialToken": ["[SEP]", 0]});
        unnamed["special_tokens"][""] = json!({"id": "", "ids": [2], "tokens": [""]});
        assert!(refused(unnamed).unwrap().starts_with("post_processor: expected objects with an id in `single`"));
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
        // Without types.
        let mut untyped = template.clone();
        untyped.as_object_mut().unwrap().remove("type");
        assert!(refused(sequence(&[&untyped, &template])).unwrap().starts_with("post_processor: 2 processors"));
        let bert = json!({"sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
        assert_eq!(refused(bert.clone()), None);
        assert!(refused(sequence(&[&bert, &template])).unwrap().starts_with("post_processor: 2 processors"));
        assert!(check(&Value::Null).is_ok());
    }

    #[test]
    fn what_may_be_two_processors_is_refused() {
        let whole = template(&["[NONE]", "$A"], &["$A", "$B"]);
        let list = json!([whole["single"], whole["pair"], whole["special_tokens"]]);
        let mut both = whole;
        both["processors"] = json!([]);
        let unnamed = json!([["[SEP]", 3], ["[CLS]", 2]]);
        for processor in [both.clone(), list, unnamed, json!({"type": "Sequence", "processors": [both]})] {
            assert_eq!(
                refused(processor).unwrap(),
                "post_processor: expected an object with the fields of one processor"
            );
        }
    }
}
