//! Which columns of a table, or fields of a JSON object, hold the texts.
//!
//! In: the names of columns or fields. Out: the place of the first text, and that of the second if there is one. Refused:
//! no column for the first text, two columns for the same text, and rows with fewer or more cells.

use crate::{Error, Result, Text, error::TextError};

/// Names of columns and fields that hold the only text, or the first of two.
pub(super) const FIRST: [&str; 9] =
    ["text", "sentence", "sentence1", "question", "premise", "text_a", "question1", "tokens", "#1 string"];
/// Names of columns and fields that hold the second of two texts.
const SECOND: [&str; 8] =
    ["text_pair", "sentence2", "context", "hypothesis", "text_b", "question2", "passage", "#2 string"];

/// The columns of a table's texts.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    first: usize,
    second: Option<usize>,
    /// How many columns the table has.
    count: usize,
}

impl Columns {
    /// The columns of a header.
    ///
    /// # Errors
    /// When it has no column of text, or two for the same text; the error names `place`.
    pub fn of(header: &[&str], place: &str) -> Result<Self> {
        let is = |name: &str, wanted: &str| name.trim().eq_ignore_ascii_case(wanted);
        let find = |wanted: &str| header.iter().position(|name| is(name, wanted));
        let (first, second) = places(find).map_err(|both| {
            let (expected, found) = match both {
                Some([one, other]) => ("one column for a text".to_owned(), format!("{one} and {other}")),
                None => {
                    let expected = format!("a header with one of the columns {}", FIRST.join(", "));
                    (expected, format!("{:?}", header.join("\t").chars().take(80).collect::<String>()))
                }
            };
            Error::Input { place: place.to_owned(), expected, found }
        })?;
        for at in [Some(first), second].into_iter().flatten() {
            if header[at + 1..].iter().any(|name| is(name, header[at].trim())) {
                let (expected, found) = ("one column for a text".to_owned(), format!("{} twice", header[at].trim()));
                return Err(Error::Input { place: place.to_owned(), expected, found });
            }
        }
        Ok(Columns { first, second, count: header.len() })
    }

    /// CoLA's columns, which no header names: a source, a label, a star or nothing, and the sentence.
    pub(super) fn of_cola(cells: &[&str]) -> Option<Self> {
        let [_, "0" | "1", "" | "*", _] = cells else { return None };
        Some(Columns { first: 3, second: None, count: 4 })
    }

    /// The text of a row, or why there is none.
    ///
    /// # Errors
    /// When the row has too few cells, or one beyond the last column that is not empty: a text with a tab or a comma in it
    /// would be cut there.
    pub fn text(&self, cells: &[&str]) -> Result<Text, TextError> {
        if cells.iter().skip(self.count).any(|cell| !cell.trim().is_empty()) {
            let (expected, found) = (self.count, cells.len());
            return Err(TextError::Record(format!("expected {expected} columns, found {found}")));
        }
        let cell = |at: usize| {
            let missing = || TextError::Record(format!("expected at least {} columns, found {}", at + 1, cells.len()));
            cells.get(at).copied().ok_or_else(missing)
        };
        Ok(match self.second {
            Some(second) => Text::pair(cell(self.first)?, cell(second)?),
            None => Text::one(cell(self.first)?),
        })
    }
}

/// The places of the first and the second text; `find` gives the place of a name.
///
/// # Errors
/// When there is no place for the first text; with two names, when both are for the same text.
pub(super) fn places<T>(find: impl Fn(&str) -> Option<T>) -> Result<(T, Option<T>), Option<[&'static str; 2]>> {
    // In QNLI, the second text has the name that a single text has in other data sets.
    if let (Some(first), Some(second)) = (find("question"), find("sentence")) {
        return Ok((first, Some(second)));
    }
    let any = |names: &[&str]| names.iter().find_map(|name| find(name));
    // Which of two is meant nobody can tell.
    let only = |names: &[&'static str]| {
        let mut found = names.iter().filter_map(|name| Some((*name, find(name)?)));
        match (found.next(), found.next()) {
            (Some((one, _)), Some((other, _))) => Err(Some([one, other])),
            (found, _) => Ok(found.map(|(_, place)| place)),
        }
    };
    // Only together: other data has such columns beside its text.
    let (asks, answers) = (&["anchor", "query"], &["positive", "pos", "document"]);
    if any(asks).is_some() && any(answers).is_some() {
        return Ok((only(asks)?.ok_or(None)?, only(answers)?));
    }
    Ok((only(&FIRST)?.ok_or(None)?, only(&SECOND)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_is_there_twice_is_refused() {
        let of = |header: &[&str]| Columns::of(header, "t.tsv, line 1").map_err(|error| error.to_string());
        assert!(of(&["text", "id", "id"]).is_ok());
        for header in [&["text", "label", "Text "][..], &["sentence1", "sentence2", "sentence2"]] {
            let refused = of(header).unwrap_err();
            assert!(
                refused.starts_with("t.tsv, line 1: expected one column for a text, found ")
                    && refused.ends_with("twice"),
                "{refused}"
            );
        }
    }

    #[test]
    fn each_text_has_one_place() {
        let places_of = |names: &[&'static str]| places(|wanted| names.iter().position(|name| *name == wanted));
        assert_eq!(places_of(&["label", "sentence"]), Ok((1, None)));
        assert_eq!(places_of(&["sentence2", "sentence1"]), Ok((1, Some(0))));
        assert_eq!(places_of(&["question", "sentence"]), Ok((0, Some(1))));
        assert_eq!(places_of(&["query", "text", "pos"]), Ok((0, Some(2))));
        assert_eq!(places_of(&["label"]), Err(None));
        assert_eq!(places_of(&["sentence", "label", "text"]), Err(Some(["text", "sentence"])));
        assert_eq!(places_of(&["text", "context", "passage"]), Err(Some(["context", "passage"])));
        assert_eq!(places_of(&["query", "pos", "document"]), Err(Some(["pos", "document"])));
    }

    #[test]
    fn a_row_has_as_many_cells_as_the_header() {
        let columns = Columns::of(&["id", "text"], "t.tsv, line 1").unwrap();
        // Spreadsheets write empty cells at the end of a row.
        for cells in [&["1", "a"][..], &["1", "a", "", " "]] {
            assert_eq!(columns.text(cells), Ok(Text::one("a")));
        }
        for (cells, expected) in [(&["1"][..], "at least 2 columns, found 1"), (&["1", "a", "b"], "2 columns, found 3")]
        {
            let refused = columns.text(cells).unwrap_err().to_string();
            assert!(refused.ends_with(expected), "{refused}");
        }
    }
}
