//! A `.json` file: SQuAD's document of paragraphs and their questions, or else an array of rows or JSON lines.

use std::path::Path;

use edge_run::{Text, TextError, cli::InputFormat};
use serde_json::Value;

use super::{Labels, Record, label_of, lines, read};
use crate::Result;

pub(super) fn records(path: &Path, labels: Labels) -> Result<Vec<Record>> {
    let bytes = read(path)?;
    let document: Option<Value> = serde_json::from_slice(&bytes).ok();
    match document.as_ref().and_then(|document| document.get("data")).and_then(Value::as_array) {
        Some(articles) => Ok(questions(articles)),
        None => lines(&bytes[..], InputFormat::Jsonl, path, labels),
    }
}

/// A record for each question, in the place of its line the question's number from 1.
fn questions(articles: &[Value]) -> Vec<Record> {
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, name: &str| {
        let text = value.get(name).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| TextError::Record(format!("expected a {name}, found none")))
    };
    let mut records = Vec::new();
    for paragraph in articles.iter().flat_map(|article| list(article, "paragraphs")) {
        for question in list(&paragraph, "qas") {
            let pair =
                text(&question, "question").and_then(|first| Ok(Text::pair(first, text(&paragraph, "context")?)));
            records.push(Record { line: records.len() + 1, text: pair, label: Ok(label_of(&question)) });
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
