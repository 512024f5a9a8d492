//! The texts of a request.
//!
//! In: one text, two, or a list of words. Out: the text, its words and its characters. Refused: empty texts, lists with
//! empty words, and one text for a task on two or the reverse.

use std::borrow::Cow;

use crate::error::TextError;

/// The input of a task: one text, or two that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    first: String,
    second: Option<String>,
    /// The characters of each word of the first text, where white space does not tell words apart.
    words: Option<Vec<(usize, usize)>>,
}

impl Text {
    /// One text.
    pub fn one(text: impl Into<String>) -> Self {
        Text { first: text.into(), second: None, words: None }
    }

    /// Two texts, such as two sentences to compare, or a question and its context.
    pub fn pair(first: impl Into<String>, second: impl Into<String>) -> Self {
        Text { first: first.into(), second: Some(second.into()), words: None }
    }

    /// One text, as the list of its words. A word may hold white space, as Vietnamese ones do; white space around a word
    /// is not of the word. In the text a space stands between words.
    ///
    /// # Errors
    /// When there are no words, or one of them is empty.
    pub fn of_words(words: &[impl AsRef<str>]) -> Result<Self, TextError> {
        let words: Vec<&str> = words.iter().map(|word| word.as_ref().trim()).collect();
        if words.is_empty() {
            return Err(TextError::Empty);
        }
        if words.contains(&"") {
            return Err(TextError::Record("expected a list of words, found an empty word".to_owned()));
        }
        let mut next = 0;
        let places = words.iter().map(|word| {
            let start = next;
            next = start + word.chars().count() + 1;
            (start, next - 1)
        });
        let several = words.iter().any(|word| word.contains(char::is_whitespace));
        let places = several.then(|| places.collect());
        Ok(Text { first: words.join(" "), second: None, words: places })
    }

    /// The first text.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The same text after `prompt`.
    pub(crate) fn after(&self, prompt: &str) -> Self {
        Text { first: format!("{prompt}{}", self.first), ..self.clone() }
    }

    /// The second text.
    pub fn second(&self) -> Option<&str> {
        self.second.as_deref()
    }

    /// The characters of each word of the first text, in order: words as they were given, or else what white space
    /// tells apart.
    pub fn words(&self) -> Cow<'_, [(usize, usize)]> {
        self.words.as_deref().map_or_else(|| words(&self.first).into(), Cow::from)
    }

    /// Bytes of all its text.
    pub fn bytes(&self) -> usize {
        self.first.len() + self.second.as_ref().map_or(0, String::len)
    }

    /// Checks that there are as many texts as the task takes, and that none is empty.
    pub(crate) fn check(&self, inputs: u8) -> Result<(), TextError> {
        let name = |two| if two { "a pair of texts" } else { "one text" };
        if (inputs == 2) != self.second.is_some() {
            return Err(TextError::Inputs { expected: name(inputs == 2), found: name(self.second.is_some()) });
        }
        let blank = |text: &str| text.chars().all(char::is_whitespace);
        if blank(&self.first) || self.second.as_deref().is_some_and(blank) {
            return Err(TextError::Empty);
        }
        Ok(())
    }
}

/// Words of a text as runs of characters without white space: character ranges, in order.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut start = None;
    let mut count = 0;
    for (at, c) in text.chars().enumerate() {
        count = at + 1;
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                words.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|from| (from, count)));
    words
}

/// A text by its characters, any of which is found at once: a long text has many words.
pub(crate) struct Characters<'t> {
    text: &'t str,
    /// The byte at which each character begins, and the end.
    begins: Vec<usize>,
}

impl<'t> Characters<'t> {
    pub fn of(text: &'t str) -> Self {
        let begins = text.char_indices().map(|(at, _)| at).chain([text.len()]);
        Characters { text, begins: begins.collect() }
    }

    /// The characters `from..to`, as far as the text has them.
    pub fn part(&self, (from, to): (usize, usize)) -> &'t str {
        let byte = |at: usize| self.begins.get(at).copied().unwrap_or(self.text.len());
        &self.text[byte(from)..byte(to.max(from))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_character_ranges() {
        assert_eq!(words("  été à\tb "), [(2, 5), (6, 7), (8, 9)]);
        assert_eq!(words(""), []);
        let text = Characters::of("  été à");
        assert_eq!([(2, 5), (6, 9), (9, 12), (5, 2)].map(|range| text.part(range)), ["été", "à", "", ""]);
    }

    #[test]
    fn words_of_a_list_may_hold_spaces() {
        let text = Text::of_words(&["Hồ Chí Minh", " sinh ", "năm"]).unwrap();
        assert_eq!(text.first(), "Hồ Chí Minh sinh năm");
        assert_eq!(*text.words(), [(0, 11), (12, 16), (17, 20)]);
        // Where white space tells words apart, a list is the same as its text.
        assert_eq!(Text::of_words(&["a", "b"]), Ok(Text::one("a b")));
        assert_eq!(*Text::one("a  b").words(), [(0, 1), (3, 4)]);
        assert_eq!(Text::of_words(&[""; 0]), Err(TextError::Empty));
        assert!(matches!(Text::of_words(&["a", " "]), Err(TextError::Record(_))));
    }
}
