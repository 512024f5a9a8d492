//! Texts from lines, TSV, JSON lines or a JSON array.
//!
//! In: any bytes. Out: one [`Record`] for each line of data or element of the array, with its number. A bad line also gives a record,
//! with the reason, so that answers stay in step with lines. Refused as a whole: a TSV header without a column of text.
//! A line of more than 64 MiB ends the input with an error.
//! GLUE's files are read unchanged: a tab always ends a cell, also between quotes, and CoLA's files have no header. A
//! caller that needs more of a line than its texts, such as a label, gets its [`Row`].

use std::{
    io::{self, BufRead, Read},
    path::Path,
};

use clap::ValueEnum;
use serde_json::Value;

use super::{
    array::Array,
    columns::{Columns, FIRST, places},
    unambiguous::Unambiguous,
};
use crate::{Error, Result, Text, error::TextError};

/// The format of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// One text a line; a tab separates the two texts of a pair
    Lines,
    /// A header, then one text a line; columns are found by name
    Tsv,
    /// One JSON object a line, or one array of them; text fields are found by name
    Jsonl,
}

impl InputFormat {
    /// The format of a file, by the ending of its name; lines for any other ending.
    ///
    /// # Errors
    /// When the file is .csv or has a word a line, which are none of the formats.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("tsv") => Ok(InputFormat::Tsv),
            Some("jsonl" | "json" | "ndjson") => Ok(InputFormat::Jsonl),
            Some(words @ ("conll" | "conllu" | "bio" | "iob")) => Err(Error::Input {
                place: path.display().to_string(),
                expected: "lines, .tsv, .jsonl or .json".to_owned(),
                found: format!(".{words}, which has a word a line; edge-patch evaluate reads it"),
            }),
            Some("csv") => Err(Error::Input {
                place: path.display().to_string(),
                expected: "lines, .tsv, .jsonl or .json".to_owned(),
                found: format!(
                    ".csv; make JSON lines of it with\n  python3 -c 'import csv, json, sys; \
                     [print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]' < {} > {}",
                    path.display(),
                    path.with_extension("jsonl").display()
                ),
            }),
            _ => Ok(InputFormat::Lines),
        }
    }
}

/// A line of input.
#[derive(Clone, Debug)]
pub struct Record {
    /// Line of the input, or in an array the number of the element, from 1.
    pub line: usize,
    /// The text, or why there is none.
    pub text: Result<Text, TextError>,
}

/// A line of data, before its texts are taken out.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// The cells of a table's row.
    Cells(&'a [&'a str]),
    /// A JSON value.
    Json(&'a Value),
}

/// The most bytes of a line, or of an element of an array. An input without an end, such as a device, has no line end.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// That a line or element is longer.
pub(super) fn too_long(what: &str) -> io::Error {
    let reason = format!("expected at most {MOST_BYTES} bytes in {what}, found more");
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Reads records one at a time.
pub struct Records<R> {
    reader: R,
    name: String,
    format: InputFormat,
    line: usize,
    bytes: u64,
    columns: Option<Columns>,
    header: Option<Vec<String>>,
    /// The array whose elements are the records, if the input is one.
    array: Option<Array>,
    /// A line that was read ahead.
    held: Option<Vec<u8>>,
    /// An error that was met ahead.
    failed: Option<Error>,
}

impl<R: BufRead> Records<R> {
    /// Reads `reader`, called `name` in errors.
    ///
    /// # Errors
    /// When a TSV header has no column of text, or nothing can be read.
    pub fn new(reader: R, format: InputFormat, name: &str) -> Result<Self> {
        let mut records = Records {
            reader,
            name: name.to_owned(),
            format,
            line: 0,
            bytes: 0,
            columns: None,
            header: None,
            array: None,
            held: None,
            failed: None,
        };
        let failed = |source| Error::Io { path: name.into(), action: "read", source };
        if format == InputFormat::Jsonl
            && let Some((array, bytes)) = Array::begin(&mut records.reader).map_err(failed)?
        {
            records.array = Some(array);
            records.bytes = bytes as u64;
        }
        if format == InputFormat::Tsv {
            // Without a first line there are no records, and nothing to find in them.
            let Some(header) = records.next_line().map_err(failed)? else { return Ok(records) };
            let text = String::from_utf8_lossy(&header).into_owned();
            let cells: Vec<&str> = text.split('\t').collect();
            let cola = Columns::of_cola(&cells);
            // A first line that is not a header is a record.
            records.held = cola.map(|_| header);
            records.columns = Some(match cola {
                Some(columns) => columns,
                None => {
                    records.header = Some(cells.iter().map(|cell| (*cell).to_owned()).collect());
                    Columns::of(&cells, &format!("{name}, line 1"))?
                }
            });
        }
        Ok(records)
    }

    /// The names of a table's columns; none where there is no header, as in CoLA's tables.
    pub fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// When the input cannot be read, or a line is too long.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        Ok(self.next_with(|_| ())?.map(|(record, _)| record))
    }

    /// The next record and the result of `more` on its row; none at the end. For a line without a row, such as one that
    /// is not JSON, `more` is not called.
    ///
    /// # Errors
    /// When the input cannot be read, or a line is too long.
    pub fn next_with<T>(&mut self, more: impl FnOnce(Row<'_>) -> T) -> Result<Option<(Record, Option<T>)>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let line = match self.held.take() {
            Some(held) => Ok(Some(held)),
            None => self.next_line(),
        };
        let line = line.map_err(|source| Error::Io { path: self.name.clone().into(), action: "read", source })?;
        let Some(bytes) = line else { return Ok(None) };
        let (text, more) = match std::str::from_utf8(&bytes) {
            Ok(line) => self.parse(line, more),
            Err(error) => (Err(TextError::Utf8(error.valid_up_to())), None),
        };
        Ok(Some((Record { line: self.line, text }, more)))
    }

    /// Gives `error` in the place of the next record.
    pub(super) fn fail_next(&mut self, error: Error) {
        self.failed = Some(error);
    }

    /// What the input is called in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(array) = &mut self.array {
            let (element, read) = array.next(&mut self.reader)?;
            self.bytes += read as u64;
            self.line += usize::from(element.is_some());
            return Ok(element);
        }
        let mut bytes = Vec::new();
        // One more, for the end of the line.
        let read = self.reader.by_ref().take(MOST_BYTES as u64 + 1).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if read > MOST_BYTES && bytes.last() != Some(&b'\n') {
            return Err(too_long(&format!("line {}", self.line)));
        }
        self.bytes += read as u64;
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
            // Nothing but the mark is a file without lines.
            if read == 3 {
                self.line = 0;
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }

    fn parse<T>(&self, line: &str, more: impl FnOnce(Row<'_>) -> T) -> (Result<Text, TextError>, Option<T>) {
        match (self.format, self.columns) {
            (InputFormat::Jsonl, _) if line.trim().is_empty() => (Err(TextError::Empty), None),
            (InputFormat::Jsonl, _) => match serde_json::from_str::<Unambiguous>(line) {
                Ok(Unambiguous(value)) => (json(&value), Some(more(Row::Json(&value)))),
                // Not what is read, or no JSON at all.
                Err(error) if error.is_data() => (Err(TextError::Record(error.to_string())), None),
                Err(error) => {
                    // The number of the line is beside the reason; only an element of an array has several lines.
                    let (said, column) = (error.to_string(), error.column());
                    let reason = match said.strip_suffix(&format!(" at line 1 column {column}")) {
                        Some(said) => format!("not JSON: {said} at column {column}"),
                        None => format!("not JSON: {said} of the element"),
                    };
                    (Err(TextError::Record(reason)), None)
                }
            },
            (InputFormat::Tsv, Some(columns)) => {
                let cells: Vec<&str> = line.split('\t').collect();
                (columns.text(&cells), Some(more(Row::Cells(&cells))))
            }
            _ => match line.split('\t').collect::<Vec<_>>()[..] {
                [text] => (Ok(Text::one(text)), None),
                [first, second] => (Ok(Text::pair(first, second)), None),
                // A table whose format nothing says, as one that is piped.
                ref cells => {
                    let found = cells.len();
                    let reason = format!(
                        "expected one text, or two with a tab between, found {found} columns; -i tsv reads a table"
                    );
                    (Err(TextError::Record(reason)), None)
                }
            },
        }
    }
}

fn json(value: &Value) -> Result<Text, TextError> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(Text::one(text.clone())),
        Value::Array(words) => {
            let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
            let expected = "expected a list of words, found another list";
            Text::of_words(&words.ok_or_else(|| TextError::Record(expected.to_owned()))?)
        }
        other => Err(TextError::Record(format!("expected a text, found {other}"))),
    };
    // A table that was made JSON may have a null for each empty cell.
    let field = |name: &str| value.get(name).filter(|value| !value.is_null());
    let (first, second) = places(field).map_err(|both| {
        TextError::Record(match both {
            Some([one, other]) => format!("expected one field for a text, found {one} and {other}"),
            None => format!("expected one of the fields {}, found none", FIRST.join(", ")),
        })
    })?;
    Ok(match second {
        Some(second) => Text::pair(text(first)?.first(), text(second)?.first()),
        None => text(first)?,
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
        let found = read(InputFormat::Lines, b"\xef\xbb\xbfone\r\n\na\tb\n\xff\nlast\na\tb\t1\n");
        let expected = [
            (1, Ok(Text::one("one"))),
            (2, Ok(Text::one(""))),
            (3, Ok(Text::pair("a", "b"))),
            (4, Err(TextError::Utf8(0))),
            (5, Ok(Text::one("last"))),
        ];
        assert_eq!(found[..5], expected);
        let table = found[5].1.as_ref().unwrap_err().to_string();
        assert!(table.contains("found 3 columns; -i tsv"), "{table}");
    }

    #[test]
    fn a_line_has_an_end() {
        let most = vec![b'a'; MOST_BYTES];
        for format in [InputFormat::Lines, InputFormat::Jsonl] {
            let mut whole = Records::new(most.chain(&b"\nb\n"[..]), format, "long").unwrap();
            let lines = std::iter::from_fn(|| whole.next_record().unwrap()).map(|record| record.line);
            assert_eq!(lines.collect::<Vec<_>>(), [1, 2]);
            let text = b"a\n".chain(&most[..]).chain(&b"b\n"[..]);
            let mut longer = Records::new(text, format, "long").unwrap();
            longer.next_record().unwrap();
            let error = longer.next_record().unwrap_err().to_string();
            assert_eq!(error, "long: cannot read: expected at most 67108864 bytes in line 2, found more");
        }
        let array = b"[1,\"".chain(&most[..]).chain(&b"\"]"[..]);
        let mut array = Records::new(array, InputFormat::Jsonl, "long").unwrap();
        array.next_record().unwrap();
        let error = array.next_record().unwrap_err().to_string();
        assert_eq!(error, "long: cannot read: expected at most 67108864 bytes in element 2, found more");
    }

    #[test]
    fn endings_tell_formats() {
        for (name, due) in [
            ("a.tsv", InputFormat::Tsv),
            ("a.b.TSV", InputFormat::Tsv),
            ("a.jsonl", InputFormat::Jsonl),
            ("a.ndjson", InputFormat::Jsonl),
            ("a.JSON", InputFormat::Jsonl),
            ("a.txt", InputFormat::Lines),
            ("tsv", InputFormat::Lines),
            (".jsonl", InputFormat::Lines),
            ("a.tsv/b", InputFormat::Lines),
        ] {
            assert_eq!(InputFormat::of(Path::new(name)).unwrap(), due, "{name}");
        }
        let said = InputFormat::of(Path::new("in/a.csv")).unwrap_err().to_string();
        assert!(said.starts_with("in/a.csv: expected lines, .tsv, .jsonl or .json, found .csv"), "{said}");
        assert!(said.ends_with("' < in/a.csv > in/a.jsonl"), "{said}");
        let said = InputFormat::of(Path::new("a.conll")).unwrap_err().to_string();
        assert!(said.contains("found .conll, which has a word a line"), "{said}");
    }

    #[test]
    fn tsv_columns_are_found_by_name() {
        let found = read(InputFormat::Tsv, b"id\tsentence2\tsentence1\n7\tb\ta\n8\n");
        assert_eq!(found[0], (2, Ok(Text::pair("a", "b"))));
        assert_eq!(found[1], (3, Err(TextError::Record("expected at least 3 columns, found 1".into()))));
        assert!(Records::new(&b"id\tname\n"[..], InputFormat::Tsv, "test").is_err());
        for format in [InputFormat::Lines, InputFormat::Tsv, InputFormat::Jsonl] {
            assert_eq!(read(format, b""), []);
        }
    }

    #[test]
    fn json_fields_are_found_by_name() {
        let found = read(
            InputFormat::Jsonl,
            br#"{"text":"a"}
{"question":"q","context":"c"}
{"tokens":["a","b"]}
{"tokens":["New York","is"]}
{"text":7}
{"tokens":["a",7]}
{"tokens":["a",""]}
nonsense
{"id":1}
"text"
{"text":"a","text":"b"}"#,
        );
        assert_eq!(found[0].1, Ok(Text::one("a")));
        assert_eq!(found[1].1, Ok(Text::pair("q", "c")));
        assert_eq!(found[2].1, Ok(Text::one("a b")));
        assert_eq!(found[3].1, Text::of_words(&["New York", "is"]));
        for (line, text) in &found[4..] {
            assert!(matches!(text, Err(TextError::Record(_))), "line {line} was accepted");
        }
        let reason = |at: usize| found[at].1.as_ref().unwrap_err().to_string();
        for (at, due) in [(7, "not JSON"), (9, "expected a JSON object"), (10, r#"once, found "text" twice"#)] {
            assert!(reason(at).contains(due), "{}", reason(at));
        }
        // What is not shown as it is.
        let found = read(InputFormat::Jsonl, br#"{"a\nb":1,"a\nb":2}"#);
        assert!(found[0].1.as_ref().unwrap_err().to_string().contains(r#"found "a\nb" twice"#));
    }

    #[test]
    fn rows_of_an_array_are_records() {
        let text = "\u{feff}[\n {\"text\": \"a\"},\n {\"tokens\": [\"b\",\n \"c\"]}, 7, {\"text\": \"d]\"}]\n";
        let found = read(InputFormat::Jsonl, text.as_bytes());
        assert_eq!(found[0], (1, Ok(Text::one("a"))));
        assert_eq!(found[1], (2, Ok(Text::one("b c"))));
        assert!(matches!(found[2], (3, Err(TextError::Record(_)))));
        assert_eq!(found[3], (4, Ok(Text::one("d]"))));
        assert_eq!((found.len(), read(InputFormat::Jsonl, b"[]").len()), (4, 0));
        let mut cut = Records::new(&b"[{\"text\": \"a\"}"[..], InputFormat::Jsonl, "a.json").unwrap();
        let error = cut.next_record().unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("expected ]"), "{error}");
    }

    #[test]
    fn glue_files_are_read_as_they_come() {
        let mrpc = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said \"no.\t\"No\r\n".as_bytes();
        assert_eq!(read(InputFormat::Tsv, mrpc), [(2, Ok(Text::pair("He said \"no.", "\"No")))]);
        let cola = b"gj04\t0\t*\tThem went.\n";
        assert_eq!(read(InputFormat::Tsv, cola), [(1, Ok(Text::one("Them went.")))]);
        let qnli = b"index\tquestion\tsentence\tlabel\n0\tWhen?\tThen.\tentailment\n";
        assert_eq!(read(InputFormat::Tsv, qnli), [(2, Ok(Text::pair("When?", "Then.")))]);
    }
}
