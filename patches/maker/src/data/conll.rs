//! Tagged words a line each, a blank line between sentences: CoNLL-2003 and its like, whose first column is the word
//! and whose last is the tag, and CoNLL-U, whose second is the word and whose fourth is the part of speech.

use std::path::Path;

use edge_run::{Text, TextError, tasks::Label};

use super::{Record, read};
use crate::Result;

pub(super) fn records(path: &Path, universal: bool) -> Result<Vec<Record>> {
    let bytes = read(path)?;
    let mut records = Vec::new();
    let mut sentence = Sentence::default();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        match std::str::from_utf8(line) {
            Ok(line) if line.trim().is_empty() => records.extend(std::mem::take(&mut sentence).record()),
            Ok(line) => sentence.push(line.trim_end_matches('\r'), at + 1, universal),
            Err(error) => sentence.fail(at + 1, TextError::Utf8(error.valid_up_to())),
        }
    }
    records.extend(sentence.record());
    Ok(records)
}

/// Words and tags so far, or what is wrong with one of their lines.
#[derive(Default)]
struct Sentence {
    line: usize,
    words: Vec<String>,
    tags: Vec<String>,
    wrong: Option<TextError>,
}

impl Sentence {
    fn push(&mut self, line: &str, at: usize, universal: bool) {
        let cells: Vec<&str> =
            if line.contains('\t') { line.split('\t').collect() } else { line.split_whitespace().collect() };
        let first = cells.first().copied().unwrap_or_default();
        let (word, tag) = if universal {
            // Comments, words that are written as one but parsed as two, and words that are not written at all.
            if line.starts_with('#') || first.contains(['-', '.']) {
                return;
            }
            (cells.get(1), cells.get(3))
        } else {
            // Comments as of CoNLL-U, also with a tab in them; a word # has only tags after it.
            if first == "-DOCSTART-" || (first == "#" && cells.get(2) == Some(&"=")) || first.starts_with("# ") {
                return;
            }
            (cells.first(), cells.last().filter(|_| cells.len() > 1))
        };
        // Between tabs a word may hold spaces, as Vietnamese ones do.
        let tag = tag.filter(|tag| !tag.is_empty() && !tag.contains(char::is_whitespace));
        match (word.filter(|word| !word.trim().is_empty()), tag) {
            (Some(word), Some(tag)) => {
                if self.line == 0 {
                    self.line = at;
                }
                self.words.push((*word).to_owned());
                self.tags.push((*tag).to_owned());
            }
            _ => self.fail(
                at,
                TextError::Record(format!("expected a word, and its tag without white space, found {line:?}")),
            ),
        }
    }

    /// The first thing that is wrong makes the sentence a bad one.
    fn fail(&mut self, at: usize, reason: TextError) {
        if self.wrong.is_none() {
            (self.line, self.wrong) = (at, Some(reason));
        }
    }

    fn record(self) -> Option<Record> {
        let text = match self.wrong {
            Some(reason) => Err(reason),
            None if self.words.is_empty() => return None,
            None => Text::of_words(&self.words),
        };
        Some(Record { line: self.line, text, label: Ok(Some(Label::Name(self.tags.join(" ")))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, universal: bool) -> Vec<Record> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a.conll");
        std::fs::write(&path, text).unwrap();
        records(&path, universal).unwrap()
    }

    #[test]
    fn a_mark_of_byte_order_is_no_word() {
        for text in ["\u{feff}\nEU B-ORG\n", "\u{feff}EU B-ORG\n"] {
            let found = read(text, false);
            assert_eq!(found.len(), 1, "{text:?}");
            assert_eq!(found[0].text.as_ref().unwrap().first(), "EU");
        }
    }

    #[test]
    fn sentences_are_parted_by_blank_lines() {
        let found = read(
            "-DOCSTART- -X- -X- O\n\n# sent_id = 1\n# id 7\tdomain=en\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\r\n\n\nNew\tB-LOC\nYork\tI-LOC\n\nalone\n",
            false,
        );
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].line, &found[0].text), (5, &Ok(Text::one("EU rejects"))));
        assert_eq!(found[0].label, Ok(Some(Label::Name("B-ORG O".to_owned()))));
        assert_eq!((found[1].line, &found[1].label), (9, &Ok(Some(Label::Name("B-LOC I-LOC".to_owned())))));
        assert!(found[2].text.is_err() && found[2].line == 12);
    }

    #[test]
    fn universal_dependencies_have_their_own_columns() {
        let found = read(
            "# text = don't go\n1-2\tdon't\t_\t_\n1\tdo\tdo\tAUX\tVB\n2\tn't\tnot\tPART\tRB\n2.1\tx\tx\tX\n3\tgo\tgo\tVERB\tVB\n",
            true,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, Ok(Text::one("do n't go")));
        assert_eq!(found[0].label, Ok(Some(Label::Name("AUX PART VERB".to_owned()))));
    }

    #[test]
    fn words_may_hold_spaces_between_tabs() {
        let found = read("1\tHà Nội\tHà Nội\tPROPN\tNp\n2\tlà\tlà\tAUX\tV\n", true);
        assert_eq!(found[0].text, Text::of_words(&["Hà Nội", "là"]));
        assert_eq!(found[0].text.as_ref().unwrap().words().len(), 2);
        assert_eq!(found[0].label, Ok(Some(Label::Name("PROPN AUX".to_owned()))));
        let found = read("Hà Nội\tB-LOC\nlà\tO\n\n \tO\nx\tB LOC\n", false);
        assert_eq!(found[0].text, Text::of_words(&["Hà Nội", "là"]));
        assert!(found[1].text.is_err());
    }
}
