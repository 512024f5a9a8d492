//! Labelled texts for a task.
//!
//! In: a file of labelled texts in any of the usual forms, or rows of texts and labels, and the task. Out: texts with
//! their gold labels. Refused: a file without labels or rows. Unless the caller skips bad rows, also refused: a row
//! without a text, with a label that the task does not have, or with an answer that is not at the given place.
//!
//! The name's ending says which form a file has: `.jsonl`, `.json`, `.csv`, `.conll`, `.conllu`, `.bio`,
//! `.iob`; everything else is TSV as GLUE's files are.

mod conll;
mod csv;
mod json;
mod labels;
mod task;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs::{self, File},
    io::BufReader,
    path::Path,
};

use bias_patch::Task;
pub use edge_run::tasks::{Gold, Label};
use edge_run::{
    Text, TextError,
    cli::{InputFormat, Records, Row},
    tasks::{self, TaskKind},
};

pub use self::labels::label_of;
use self::labels::{LabelColumns, names, several_labels};
pub use self::task::{read_task, task_of};
use crate::{Error, Result};

/// What some programs write before UTF-8. It is no part of the text.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text and its gold label.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The text.
    pub text: Text,
    /// What is right.
    pub gold: Gold,
}

impl Example {
    /// The texts that are answered. Where the kind compares, these are both texts of the pair, then its negatives.
    pub fn answered(&self, kind: &dyn TaskKind) -> Vec<Cow<'_, Text>> {
        if !kind.compares() {
            return vec![Cow::Borrowed(&self.text)];
        }
        let negatives = match &self.gold {
            Gold::Pair(negatives) => &negatives[..],
            _ => &[],
        };
        let pair = std::iter::once(self.text.first()).chain(self.text.second());
        pair.chain(negatives.iter().map(String::as_str)).map(|text| Cow::Owned(Text::one(text))).collect()
    }
}

/// A row: a text and its label.
#[derive(Clone, Debug)]
pub struct Record {
    /// In a file its line, or its number, from 1.
    pub line: usize,
    /// The text, or why there is none.
    pub text: Result<Text, TextError>,
    /// The label, if there is one; or why nobody can tell which it is.
    pub label: Result<Option<Label>, String>,
}

/// Labelled texts, and the rows that were skipped.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// The labelled texts.
    pub examples: Vec<Example>,
    /// Rows left out, with the reason: only where the caller allows it.
    pub skipped: Vec<(usize, String)>,
}

/// Texts without their labels, and the rows that were skipped.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// The texts.
    pub texts: Vec<Text>,
    /// Rows left out, with the reason: only where the caller allows it.
    pub skipped: Vec<(usize, String)>,
}

/// Reads a file of labelled texts. Labels are names, or numbers from 0 in the order of the task's labels, unless the
/// names are numbers.
///
/// # Errors
/// When the file has no rows or no labels, or, unless `skip_bad`, a row that is not a labelled text; also when some
/// pairs have a number and others none.
pub fn read_examples(path: &Path, task: &Task, skip_bad: bool) -> Result<Examples> {
    let unlabelled = tasks::of(task.kind()).unlabelled().is_some();
    let labels = if unlabelled { Labels::Optional } else { Labels::Required };
    let read = labelled(records(path, labels)?, task);
    check_rows(path, read.examples.len(), &read.skipped, skip_bad, "labelled texts for this task")?;
    check_numbers(path, task, &read.examples)?;
    Ok(read)
}

/// The texts of rows with their gold labels; rows that are not labelled texts of the task are skipped.
pub fn labelled(records: impl IntoIterator<Item = Record>, task: &Task) -> Examples {
    let mut read = Examples::default();
    let kind = tasks::of(task.kind());
    let inputs = if kind.compares() { 2 } else { task.inputs() };
    for record in records {
        let none = || format!("expected {}, found none", kind.expects());
        let label = record.label.map(|label| label.ok_or_else(none));
        let example = record.text.map_err(|e| e.to_string()).and_then(|text| {
            check_inputs(inputs, &text)?;
            let gold = match (label?, kind.unlabelled()) {
                (Err(_), Some(gold)) => gold,
                (label, _) => kind.gold(&text, &label?)?,
            };
            Ok(Example { text, gold })
        });
        match example {
            Ok(example) => read.examples.push(example),
            Err(reason) => read.skipped.push((record.line, reason)),
        }
    }
    read
}

/// Refuses pairs that are compared, of which some have a number and others none.
///
/// # Errors
/// When there are such.
pub fn check_numbers(path: &Path, task: &Task, examples: &[Example]) -> Result<()> {
    let numbers = examples.iter().filter(|example| matches!(example.gold, Gold::Value(_))).count();
    if !tasks::of(task.kind()).compares() || [0, examples.len()].contains(&numbers) {
        return Ok(());
    }
    let found = format!("{numbers} of {} with one", examples.len());
    Err(content(path, "rows", "a number on every row or on none".to_owned(), found))
}

/// Whether a table has labels: a column of them, or no header, as CoLA's.
///
/// # Errors
/// When the file cannot be read or is no table of texts.
pub fn has_labels(path: &Path) -> Result<bool> {
    let records = Records::new(BufReader::new(open(path)?), InputFormat::Tsv, &path.display().to_string())?;
    Ok(match records.header() {
        Some(header) => LabelColumns::of(header, path)?.is_some(),
        None => true,
    })
}

/// The texts of a file, whether they have labels or not, and the rows that were skipped, with the reason.
///
/// # Errors
/// When the file has no rows, or, unless `skip_bad`, a row that is not a text for the task.
pub fn read_texts(path: &Path, task: &Task, skip_bad: bool) -> Result<Texts> {
    let (mut texts, mut skipped) = (Vec::new(), Vec::new());
    for record in records(path, Labels::Optional)? {
        let text = record.text.map_err(|e| e.to_string());
        match text.and_then(|text| check_inputs(task.inputs(), &text).map(|()| text)) {
            Ok(text) => texts.push(text),
            Err(reason) => skipped.push((record.line, reason)),
        }
    }
    check_rows(path, texts.len(), &skipped, skip_bad, "texts for this task")?;
    Ok(Texts { texts, skipped })
}

/// Refuses a file without good rows, and, unless `skip_bad`, one with bad rows.
fn check_rows(path: &Path, good: usize, bad: &[(usize, String)], skip_bad: bool, what: &str) -> Result<()> {
    /// Bad rows named in the refusal.
    const LISTED: usize = 3;
    if !bad.is_empty() && (!skip_bad || good == 0) {
        let list: Vec<String> =
            bad.iter().take(LISTED).map(|(line, reason)| format!("line {line}: {reason}")).collect();
        let count = bad.len();
        let found =
            format!("{count} that are not\n  {}{}", list.join("\n  "), if count > LISTED { "\n  ..." } else { "" });
        return Err(content(path, "rows", format!("{what} (--skip-bad leaves others out)"), found));
    }
    if good == 0 {
        return Err(content(path, "rows", what.to_owned(), "none".to_owned()));
    }
    Ok(())
}

/// What there is to say of the rows of a file that were skipped.
pub fn left_out(path: &Path, skipped: &[(usize, String)]) -> Option<String> {
    let (line, reason) = skipped.first()?;
    Some(format!("{}: rows left out: {}, the first on line {line}: {reason}", path.display(), skipped.len()))
}

/// Refuses an output that is one of the files that are read.
///
/// # Errors
/// When it is.
pub fn check_apart(output: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(there) = fs::canonicalize(output) else { return Ok(()) };
    if inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input == there)) {
        let (expected, found) = ("another file than those that are read", "one of them");
        return Err(content(output, "output", expected.to_owned(), found.to_owned()));
    }
    Ok(())
}

/// Refuses training texts that all have the same label: they cannot train a task.
///
/// # Errors
/// When all labels are the same.
pub fn check_variety(path: &Path, examples: &[Example]) -> Result<()> {
    let seen: BTreeSet<String> = examples.iter().map(|example| format!("{:?}", example.gold)).collect();
    if seen.len() > 1 || examples.iter().any(|example| example.gold.varies()) {
        return Ok(());
    }
    Err(content(path, "labels", "at least two that differ".to_owned(), "the same on every row".to_owned()))
}

/// The labels of the task that no text has, so that nothing is learnt of them.
pub fn unused_labels<'t>(task: &'t Task, examples: &[Example]) -> Vec<&'t str> {
    let used: BTreeSet<usize> = examples.iter().flat_map(|example| example.gold.classes()).copied().collect();
    let labels = task.kind().labels().iter().enumerate();
    labels.filter(|(number, _)| !used.contains(number)).map(|(_, label)| label.as_str()).collect()
}

/// Whether a table has to have a column of labels.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Labels {
    Required,
    Optional,
}

/// All rows of a file, whatever its form.
fn records(path: &Path, labels: Labels) -> Result<Vec<Record>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "csv" => csv::records(path, labels),
        "conll" | "conllu" | "bio" | "iob" => conll::records(path, ending == "conllu"),
        "json" => json::records(path, labels),
        "jsonl" | "ndjson" => lines(BufReader::new(open(path)?), InputFormat::Jsonl, path, labels),
        "txt" if labels == Labels::Optional => lines(BufReader::new(open(path)?), InputFormat::Lines, path, labels),
        _ => lines(BufReader::new(open(path)?), InputFormat::Tsv, path, labels),
    }
}

/// Rows that are lines.
fn lines(reader: impl std::io::BufRead, format: InputFormat, path: &Path, labels: Labels) -> Result<Vec<Record>> {
    let mut records = Records::new(reader, format, &path.display().to_string())?;
    // JSON lines have fields and no columns, and a table without a header is CoLA's.
    let columns = match records.header() {
        Some(header) => LabelColumns::required(header, path, labels)?,
        None => LabelColumns::HEADLESS,
    };
    let label = |row: Row<'_>| match row {
        Row::Cells(cells) => Ok(columns.label(cells)),
        Row::Json(value) => match several_labels(value) {
            Some(found) => Err(format!("expected one field of labels, found {found}")),
            None => Ok(label_of(value)),
        },
    };
    let mut all = Vec::new();
    while let Some((record, label)) = records.next_with(label)? {
        all.push(Record { line: record.line, text: record.text, label: label.unwrap_or(Ok(None)) });
    }
    Ok(all)
}

/// The bytes of a file, without a byte order mark.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path).map_err(bias_patch::Error::io(path, "read"))?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(bytes)
}

fn open(path: &Path) -> Result<File> {
    Ok(File::open(path).map_err(bias_patch::Error::io(path, "open"))?)
}

fn no_labels(path: &Path) -> Error {
    let expected =
        format!("a column of labels, one of {}, or answer and answer_start", names().collect::<Vec<_>>().join(", "));
    content(path, "header", expected, "none".to_owned())
}

fn content(path: &Path, field: &str, expected: String, found: String) -> Error {
    Error::Content { path: path.to_owned(), field: field.to_owned(), expected, found }
}

fn check_inputs(inputs: u8, text: &Text) -> Result<(), String> {
    let blank = |text: &str| text.trim().is_empty();
    match (inputs, text.second()) {
        _ if blank(text.first()) || text.second().is_some_and(blank) => Err("empty text".to_owned()),
        (1, None) | (2, Some(_)) => Ok(()),
        (due, _) => Err(format!("expected {due} texts, found {}", 1 + usize::from(text.second().is_some()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glue_files_are_read_as_they_come() {
        let labelled = |bytes: &'static [u8]| {
            let record = lines(bytes, InputFormat::Tsv, Path::new("test"), Labels::Required).unwrap().remove(0);
            (record.line, record.text.unwrap(), record.label.unwrap())
        };
        let name = |name: &str| Some(Label::Name(name.to_owned()));
        let mrpc = "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said \"no.\t\"No\r\n".as_bytes();
        assert_eq!(labelled(mrpc), (2, Text::pair("He said \"no.", "\"No"), name("1")));
        let cola = b"gj04\t0\t*\tThem went.\ngj04\t1\t\tThey went.\n";
        assert_eq!(labelled(cola), (1, Text::one("Them went."), name("0")));
        let qnli = b"index\tquestion\tsentence\tlabel\n0\tWhen?\tThen.\tentailment\n";
        assert_eq!(labelled(qnli), (2, Text::pair("When?", "Then."), name("entailment")));
        let qqp = b"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta\tb\t0\n";
        assert_eq!(labelled(qqp), (2, Text::pair("a", "b"), name("0")));
    }

    #[test]
    fn labels_that_no_text_has_are_named() {
        let unused = |kind: &str, golds: &[Gold]| {
            let labels = (kind != "regression").then_some(["a", "b", "c"]);
            let task: Task =
                serde_json::from_value(serde_json::json!({ "name": "t", "kind": kind, "labels": labels })).unwrap();
            let examples: Vec<Example> =
                golds.iter().map(|gold| Example { text: Text::one("x"), gold: gold.clone() }).collect();
            unused_labels(&task, &examples).join(" ")
        };
        assert_eq!(unused("classification", &[Gold::Class(1), Gold::Class(1)]), "a c");
        assert_eq!(unused("tagging", &[Gold::Tags(vec![0, 1]), Gold::Tags(vec![2])]), "");
        assert_eq!(unused("tagging", &[Gold::Tags(vec![0, 1])]), "c");
        assert_eq!(unused("regression", &[Gold::Value(1.0)]), "");
    }

    #[test]
    fn a_row_with_two_labels_is_left_out_where_labels_are_read() {
        let classes = serde_json::json!({ "name": "t", "kind": "classification", "labels": ["1", "2"] });
        let pairs = serde_json::json!({ "name": "t", "kind": "embedding", "inputs": 1 });
        for (task, texts) in [(classes, r#""text":"a""#), (pairs, r#""sentence1":"a","sentence2":"b""#)] {
            let rows = format!("{{{texts},\"label\":1}}\n{{{texts},\"label\":1,\"gold\":2}}\n");
            let records = lines(rows.as_bytes(), InputFormat::Jsonl, Path::new("t.jsonl"), Labels::Required).unwrap();
            assert_eq!(records[0].text, records[1].text);
            let read = labelled(records, &serde_json::from_value(task).unwrap());
            let reason = "expected one field of labels, found label and gold".to_owned();
            assert_eq!((read.examples.len(), &read.skipped[..]), (1, &[(2, reason)][..]));
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_in_every_form() {
        let dir = tempfile::TempDir::new().unwrap();
        let squad = r#"{"data":[{"paragraphs":[{"context":"a b","qas":[{"question":"q","answers":[]}]}]}]}"#;
        for (name, text, first) in [
            ("a.tsv", "sentence\tlabel\ngood\t1\n", "good"),
            ("cola.tsv", "x\t1\t*\tgood\n", "good"),
            ("a.csv", "sentence,label\ngood,1\n", "good"),
            ("quoted.csv", "\"sentence\",\"label\"\n\"good\",1\n", "good"),
            ("a.jsonl", "{\"text\":\"good\",\"label\":1}\n", "good"),
            ("lines.json", "{\"text\":\"good\",\"label\":1}\n", "good"),
            ("squad.json", squad, "q"),
            ("a.conll", "good\tX\n", "good"),
            ("a.conllu", "1\tgood\t_\tX\n", "good"),
            ("a.bio", "good X\n", "good"),
            ("a.iob", "good X\n", "good"),
            ("a.txt", "good\n", "good"),
        ] {
            let path = dir.path().join(name);
            let labels = if name.ends_with(".txt") { Labels::Optional } else { Labels::Required };
            let texts = |mark: &str| {
                std::fs::write(&path, format!("{mark}{text}")).unwrap();
                let read = records(&path, labels).unwrap_or_else(|error| panic!("{name}: {error}"));
                read.into_iter().map(|record| (record.text, record.label.unwrap())).collect::<Vec<_>>()
            };
            let found = texts("\u{feff}");
            assert!(found.len() == 1 && found[0].0.as_ref().unwrap().first() == first, "{name}: {found:?}");
            assert_eq!(found, texts(""), "{name}");
        }
    }

    #[test]
    fn answers_are_read_in_every_spelling() {
        for json in [
            r#"{"question":"q","context":"a b","answer":"b","answer_start":2}"#,
            r#"{"question":"q","context":"a b","answers":[{"text":"b","answer_start":2}]}"#,
            r#"{"question":"q","context":"a b","answers":{"text":["b"],"answer_start":[2]}}"#,
        ] {
            let record =
                lines(json.as_bytes(), InputFormat::Jsonl, Path::new("test"), Labels::Required).unwrap().remove(0);
            assert_eq!(record.label, Ok(Some(Label::Answers(vec![("b".to_owned(), 2)]))), "{json}");
        }
    }
}
