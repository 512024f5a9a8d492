//! Answers as rows of text, for people and for tables.

/// An answer as a row of text.
pub(crate) trait Row {
    /// Cells for people: the label, `width` wide, its score, and `text` where there is room for it.
    fn table(&self, width: usize, text: &str) -> String;

    /// The cells of the columns label and score in a table of tabs.
    fn cells(&self) -> (String, String);
}

/// The header over labels, `width` wide, with their scores.
pub(crate) fn header_of_labels(width: usize) -> String {
    format!("{:width$}  {:>6}  text", "label", "score")
}

/// Several values in one cell.
pub(super) fn join(values: impl Iterator<Item = String>) -> String {
    values.collect::<Vec<_>>().join(" ; ")
}

/// A text without tabs and line breaks, for one cell.
pub(crate) fn cell(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
