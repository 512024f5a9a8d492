//! A `.json` file: SQuAD's document of paragraphs and their questions, or else an array of rows or JSON lines.

use std::path::Path;

use edge_run::{
    Text, TextError,
    cli::{InputFormat, Unambiguous},
};
use serde_json::Value;

use super::{Labels, Record, content, label_of, lines, read};
use crate::Result;

pub(super) fn records(path: &Path, labels: Labels) -> Result<Vec<Record>> {
    let bytes = read(path)?;
    let document: Option<Value> = serde_json::from_slice(&bytes).ok();
    let of_articles = |document: &Value| document.get("data").is_some_and(Value::is_array);
    if !document.as_ref().is_some_and(of_articles) {
        return lines(&bytes[..], InputFormat::Jsonl, path, labels);
    }
    let Unambiguous(document) = serde_json::from_slice(&bytes)
        .map_err(|e| content(path, "document", "articles as SQuAD has them".to_owned(), e.to_string()))?;
    Ok(questions(document["data"].as_array().map_or(&[], Vec::as_slice)))
}

/// A record for each question, and for an article or a paragraph that has no list of them, in the place of its line its
/// number from 1.
fn questions(articles: &[Value]) -> Vec<Record> {
    let text = |value: &Value, name: &str| {
        let text = value.get(name).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| TextError::Record(format!("expected a {name}, found none")))
    };
    let mut records = Vec::new();
    let mut add = |text, label| records.push(Record { line: records.len() + 1, text, label: Ok(label) });
    for article in articles {
        let Some(paragraphs) = article.get("paragraphs").and_then(Value::as_array) else {
            add(Err(TextError::Record("expected an article with a list of paragraphs, found none".to_owned())), None);
            continue;
        };
        for paragraph in paragraphs {
            let Some(questions) = paragraph.get("qas").and_then(Value::as_array) else {
                add(Err(TextError::Record("expected a paragraph with qas, a list, found none".to_owned())), None);
                continue;
            };
            for question in questions {
                let context = || text(paragraph, "context");
                let pair = text(question, "question").and_then(|first| Ok(Text::pair(first, context()?)));
                add(pair, label_of(question));
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use std::fs;

    use edge_run::tasks::Label;

    use super::*;

    #[test]
    fn questions_are_found_in_their_paragraphs() {
        let document = serde_json::json!({ "version": "1.1", "data": [{ "title": "t", "paragraphs": [
            { "context": "a b", "qas": [
                { "id": "1", "question": "which?", "answers": [{ "text": "b", "answer_start": 2 }, { "text": "a", "answer_start": 0 }] },
                { "id": "2", "answers": [] },
            ] },
            { "context": "c", "qas": [{ "id": "3", "question": "what?" }] },
        ] }] });
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, document.to_string()).unwrap();
        let found = records(&path, Labels::Required).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].text, Ok(Text::pair("which?", "a b")));
        assert_eq!(found[0].label, Ok(Some(Label::Answers(vec![("b".to_owned(), 2), ("a".to_owned(), 0)]))));
        assert!(found[1].text.is_err() && found[2].label == Ok(None));
        // Each of what is no article, no paragraph.
        let document =
            r#"{"data": [7, {"paragraph": []}, {"paragraphs": [{"context": "c"}, {"context": "c", "qas": []}]}]}"#;
        fs::write(&path, document).unwrap();
        let found = records(&path, Labels::Required).unwrap();
        assert!(found.len() == 3 && found.iter().all(|record| record.text.is_err()), "{found:?}");
        fs::write(&path, r#"{"data": [{"paragraphs": [{"context": "c", "context": "d", "qas": []}]}]}"#).unwrap();
        let refused = records(&path, Labels::Required).unwrap_err().to_string();
        assert!(refused.contains("expected each field once, found \"context\" twice"), "{refused}");
        // An array has rows.
        let rows = r#"[{"question": "q", "context": "c d", "answer": "d", "answer_start": 2},
            {"tokens": ["a", "b"],
             "tags": [0, 1]}]"#;
        fs::write(&path, rows).unwrap();
        let found = records(&path, Labels::Required).unwrap();
        assert_eq!(found[0].label, Ok(Some(Label::Answers(vec![("d".to_owned(), 2)]))));
        assert_eq!((found[1].line, &found[1].text), (2, &Ok(Text::one("a b"))));
        assert_eq!((found.len(), &found[1].label), (2, &Ok(Some(Label::Names(vec!["0".to_owned(), "1".to_owned()])))));
        // One object on one line is JSON lines.
        fs::write(&path, r#"{"question":"q","context":"c","answer":"c","answer_start":0}"#).unwrap();
        assert_eq!(records(&path, Labels::Required).unwrap().len(), 1);
    }
}
