//! CSV with a header, as spreadsheets write it: cells in quotes may hold commas, quotes and line breaks.

use std::path::Path;

use edge_run::{TextError, cli::Columns};

use super::{LabelColumns, Labels, Record, content, read};
use crate::Result;

pub(super) fn records(path: &Path, labels: Labels) -> Result<Vec<Record>> {
    let bytes = read(path)?;
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
        records.push(Record { line, text, label });
    }
    Ok(records)
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
        assert_eq!(found[0].label, Some(Label::Name("yes".to_owned())));
        assert!(found[1].text.is_err());
        assert_eq!((found[2].line, &found[2].text), (5, &Ok(Text::pair("f", "g"))));
        std::fs::write(&path, "sentence,mood\na,b\n").unwrap();
        assert!(records(&path, Labels::Required).unwrap_err().to_string().contains("a column of labels"));
    }
}
