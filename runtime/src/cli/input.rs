//! Texts, and the labels that come with them, from lines, TSV or JSON lines.
//!
//! In: any bytes. Out: one [`Record`] for each line of data, with the line's number; a line that is not a record is one
//! too, with the reason, so that answers never shift. Refused as a whole: a TSV header without a column of text.

use std::io::{self, BufRead};

use clap::ValueEnum;
use serde_json::Value;

use crate::{Error, Result, Text, error::TextError};

/// How texts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// One text a line; a tab separates the two texts of a pair
    Lines,
    /// A header, then columns; text columns are found by name
    Tsv,
    /// One JSON object a line; text fields are found by name
    Jsonl,
}

/// A line of input.
#[derive(Clone, Debug)]
pub struct Record {
    /// Line of the input, from 1.
    pub line: usize,
    /// The text, or why there is none.
    pub text: Result<Text, TextError>,
    /// What a person says of the text, where the input has a column or field for it; of a list its parts with spaces
    /// between.
    pub label: Option<String>,
}

/// Column and field names that hold a text alone, or the first of two.
const FIRST: [&str; 8] = ["text", "sentence", "sentence1", "question", "premise", "text_a", "question1", "tokens"];
/// Names that hold the second of two.
const SECOND: [&str; 7] = ["text_pair", "sentence2", "context", "hypothesis", "text_b", "question2", "passage"];

/// Names that hold a label.
const LABEL: [&str; 5] = ["label", "labels", "score", "tags", "gold"];

/// Reads records one at a time.
pub struct Records<R> {
    reader: R,
    name: String,
    format: InputFormat,
    line: usize,
    bytes: u64,
    columns: Option<Columns>,
}

/// Where a TSV file has its texts.
#[derive(Clone, Copy)]
struct Columns {
    first: usize,
    second: Option<usize>,
    label: Option<usize>,
}

impl<R: BufRead> Records<R> {
    /// Reads `reader`, called `name` in errors.
    ///
    /// # Errors
    /// When a TSV header has no column of text, or nothing can be read.
    pub fn new(reader: R, format: InputFormat, name: &str) -> Result<Self> {
        let mut records = Records { reader, name: name.to_owned(), format, line: 0, bytes: 0, columns: None };
        if format == InputFormat::Tsv {
            let failed = |source| Error::Io { path: name.into(), action: "read", source };
            let header = records.next_line().map_err(failed)?.unwrap_or_default();
            let header = String::from_utf8_lossy(&header).into_owned();
            records.columns = Some(columns(&header).ok_or_else(|| Error::Input {
                place: format!("{name}, line 1"),
                expected: format!("a header with one of the columns {}", FIRST.join(", ")),
                found: format!("{:?}", header.chars().take(80).collect::<String>()),
            })?);
        }
        Ok(records)
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let line = self.next_line();
        let line = line.map_err(|source| Error::Io { path: self.name.clone().into(), action: "read", source })?;
        let Some(bytes) = line else { return Ok(None) };
        let (text, label) = match std::str::from_utf8(&bytes) {
            Ok(line) => (self.parse(line), self.label(line)),
            Err(error) => (Err(TextError::Utf8(error.valid_up_to())), None),
        };
        Ok(Some(Record { line: self.line, text, label }))
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let read = self.reader.read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.bytes += read as u64;
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        Ok(Some(bytes))
    }

    fn label(&self, line: &str) -> Option<String> {
        match (self.format, self.columns) {
            (InputFormat::Lines, _) => None,
            (InputFormat::Jsonl, _) => {
                let value: Value = serde_json::from_str(line).ok()?;
                match LABEL.iter().find_map(|name| value.get(name))? {
                    Value::String(label) => Some(label.clone()),
                    Value::Array(parts) => {
                        Some(parts.iter().map(|part| part.as_str()).collect::<Option<Vec<_>>>()?.join(" "))
                    }
                    other => Some(other.to_string()),
                }
            }
            (InputFormat::Tsv, columns) => line.split('\t').nth(columns?.label?).map(str::to_owned),
        }
    }

    fn parse(&self, line: &str) -> Result<Text, TextError> {
        match (self.format, self.columns) {
            (InputFormat::Jsonl, _) => json(line),
            (InputFormat::Tsv, Some(columns)) => {
                let cells: Vec<&str> = line.split('\t').collect();
                let cell = |at: usize| {
                    let missing =
                        || TextError::Record(format!("expected at least {} columns, found {}", at + 1, cells.len()));
                    cells.get(at).copied().ok_or_else(missing)
                };
                Ok(match columns.second {
                    Some(second) => Text::pair(cell(columns.first)?, cell(second)?),
                    None => Text::one(cell(columns.first)?),
                })
            }
            _ => Ok(match line.split_once('\t') {
                Some((first, second)) => Text::pair(first, second),
                None => Text::one(line),
            }),
        }
    }
}

fn columns(header: &str) -> Option<Columns> {
    let names: Vec<&str> = header.split('\t').map(str::trim).collect();
    let find = |wanted: &[&str]| wanted.iter().find_map(|w| names.iter().position(|n| n.eq_ignore_ascii_case(w)));
    Some(Columns { first: find(&FIRST)?, second: find(&SECOND), label: find(&LABEL) })
}

fn json(line: &str) -> Result<Text, TextError> {
    if line.trim().is_empty() {
        return Err(TextError::Empty);
    }
    let value: Value = serde_json::from_str(line).map_err(|e| TextError::Record(format!("not a JSON object: {e}")))?;
    let find = |wanted: &[&str]| wanted.iter().find_map(|w| value.get(w));
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(words) => {
            // Words are told apart by white space again when they are tagged.
            let word = |value: &'_ Value| {
                value.as_str().filter(|w| !w.is_empty() && !w.contains(char::is_whitespace)).map(str::to_owned)
            };
            let words: Option<Vec<String>> = words.iter().map(word).collect();
            let expected = "expected a list of words without white space, found another list";
            words.map(|w| w.join(" ")).ok_or_else(|| TextError::Record(expected.to_owned()))
        }
        other => Err(TextError::Record(format!("expected a text, found {other}"))),
    };
    let first = find(&FIRST)
        .ok_or_else(|| TextError::Record(format!("expected one of the fields {}, found none", FIRST.join(", "))))?;
    Ok(match find(&SECOND) {
        Some(second) => Text::pair(text(first)?, text(second)?),
        None => Text::one(text(first)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: InputFormat, bytes: &[u8]) -> Vec<(usize, Result<Text, TextError>)> {
        let mut records = Records::new(bytes, format, "test").unwrap();
        std::iter::from_fn(|| records.next_record().unwrap()).map(|r| (r.line, r.text)).collect()
    }

    #[test]
    fn lines_keep_their_numbers_whatever_they_hold() {
        let found = read(InputFormat::Lines, b"\xef\xbb\xbfone\r\n\na\tb\n\xff\nlast");
        let expected = [
            (1, Ok(Text::one("one"))),
            (2, Ok(Text::one(""))),
            (3, Ok(Text::pair("a", "b"))),
            (4, Err(TextError::Utf8(0))),
            (5, Ok(Text::one("last"))),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn tsv_columns_are_found_by_name() {
        let found = read(InputFormat::Tsv, b"id\tsentence2\tsentence1\n7\tb\ta\n8\n");
        assert_eq!(found[0], (2, Ok(Text::pair("a", "b"))));
        assert_eq!(found[1], (3, Err(TextError::Record("expected at least 3 columns, found 1".into()))));
        assert!(Records::new(&b"id\tname\n"[..], InputFormat::Tsv, "test").is_err());
    }

    #[test]
    fn json_fields_are_found_by_name() {
        let found = read(
            InputFormat::Jsonl,
            br#"{"text":"a"}
{"question":"q","context":"c"}
{"tokens":["a","b"]}
{"text":7}
{"tokens":["New York"]}
{"tokens":["a",""]}
nonsense
{"id":1}"#,
        );
        assert_eq!(found[0].1, Ok(Text::one("a")));
        assert_eq!(found[1].1, Ok(Text::pair("q", "c")));
        assert_eq!(found[2].1, Ok(Text::one("a b")));
        for (line, text) in &found[3..] {
            assert!(matches!(text, Err(TextError::Record(_))), "line {line} was accepted");
        }
    }
}
