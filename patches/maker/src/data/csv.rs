//! CSV with a header, as spreadsheets write it: cells in quotes may hold commas, quotes and line breaks.

use std::path::Path;

use edge_run::{TextError, cli::Columns};

use super::{LabelColumns, Labels, Record, content, read};
use crate::Result;

pub(super) fn records(path: &Path, labels: Labels) -> Result<Vec<Record>> {
    let bytes = read(path)?;
    if let Some(line) = unclosed(&bytes) {
        let (field, expected) = (format!("line {line}"), "a closing quote of the cell that begins there".to_owned());
        return Err(content(path, &field, expected, "the end of the file".to_owned()));
    }
    // Rows of other lengths are bad rows, not the end of the file.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(&bytes[..]);
    let failed = |e: csv::Error| content(path, "table", "comma-separated values".to_owned(), e.to_string());
    let header = reader.headers().map_err(failed)?.clone();
    let names: Vec<&str> = header.iter().collect();
    let columns = Columns::of(&names, &format!("{}, line 1", path.display()))?;
    let labels = LabelColumns::required(&names, path, labels)?;
    let mut records = Vec::new();
    let mut row = csv::ByteRecord::new();
    while reader.read_byte_record(&mut row).map_err(failed)? {
        let line = row.position().map_or(0, |position| usize::try_from(position.line()).unwrap_or(usize::MAX));
        let cells: Result<Vec<&str>, _> = row.iter().map(std::str::from_utf8).collect();
        let (text, label) = match cells {
            Ok(cells) => (columns.text(&cells), labels.label(&cells)),
            Err(error) => (Err(TextError::Utf8(error.valid_up_to())), None),
        };
        records.push(Record { line, text, label: Ok(label) });
    }
    Ok(records)
}

/// The line of a cell whose quote is never closed: the reader would take the rest of the file as its text.
fn unclosed(bytes: &[u8]) -> Option<usize> {
    enum At {
        Start,
        Plain,
        /// In a quoted cell that begins on this line.
        Quoted(usize),
        /// After a quote in it, which ends it unless another one follows.
        Quote(usize),
    }
    let (mut at, mut line) = (At::Start, 1);
    for byte in bytes {
        at = match (at, byte) {
            (At::Start, b'"') => At::Quoted(line),
            (At::Quote(begin), b'"') => At::Quoted(begin),
            (At::Quoted(begin), b'"') => At::Quote(begin),
            (At::Quoted(begin), _) => At::Quoted(begin),
            (_, b',' | b'\n' | b'\r') => At::Start,
            _ => At::Plain,
        };
        line += usize::from(*byte == b'\n');
    }
    if let At::Quoted(begin) = at { Some(begin) } else { None }
}

#[cfg(test)]
mod tests {
    use edge_run::{Text, tasks::Label};

    use super::*;

    #[test]
    fn cells_may_hold_commas_quotes_and_line_breaks() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(
            &path,
            b"\xef\xbb\xbfid,sentence1,sentence2,label\r\n1,\"a, \"\"b\"\"\",\"c\nd\",yes\n2,e\n3,f,g,no\n",
        )
        .unwrap();
        let found = records(&path, Labels::Required).unwrap();
        assert_eq!(found[0].text, Ok(Text::pair("a, \"b\"", "c\nd")));
        assert_eq!(found[0].label, Ok(Some(Label::Name("yes".to_owned()))));
        assert!(found[1].text.is_err());
        assert_eq!((found[2].line, &found[2].text), (5, &Ok(Text::pair("f", "g"))));
        std::fs::write(&path, "label,text\n1,\"a \"\"b\"\"\nc\"\n1,5\" d\n0,\"e\n0,f\n").unwrap();
        let refused = records(&path, Labels::Required).unwrap_err().to_string();
        assert!(refused.contains("line 5: expected a closing quote"), "{refused}");
        std::fs::write(&path, "sentence,mood\na,b\n").unwrap();
        assert!(records(&path, Labels::Required).unwrap_err().to_string().contains("a column of labels"));
    }
}
