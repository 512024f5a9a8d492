//! Token tagging: one label for each word of one text, or the entities that the labels mark. The head reads every token and gives a logit for each of C
//! labels. A word's logits are those of its first token, a lone space before the word included. The loss is the mean cross-entropy over the words.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Place, Scores, TaskKind, Tensor, TokenPlaces, Window,
    classification::rank,
    entities::{self, Strategy},
    gold::{class_of, other_form, weight_of},
    loss::cross_entropy,
    metrics,
    outputs::{draw, softmax},
    row::{Row, cell},
    tensor::listed,
};
use crate::{Prediction, Text, Tokenized, text::Characters};

/// The tag of a word.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tag {
    /// The word.
    pub word: String,
    /// Its first character in the text.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// The tag; none for a word beyond the limit, or without tokens.
    pub label: Option<Arc<str>>,
    /// The tag's probability, 0 to 1.
    pub score: Option<f32>,
}

/// A task of this kind.
pub(super) struct Tagging {
    labels: Vec<Arc<str>>,
    /// Weights of the labels in the loss; none where all are 1.
    weights: Vec<f64>,
    /// How tokens become entities; none where the answer has a tag for each word.
    entities: Option<Strategy>,
}

impl Tagging {
    pub fn new(labels: &[String]) -> Self {
        Tagging {
            labels: labels.iter().map(|label| label.as_str().into()).collect(),
            weights: Vec::new(),
            entities: None,
        }
    }

    /// Answers with entities.
    pub fn with_entities(self, strategy: Strategy) -> Self {
        Tagging { entities: Some(strategy), ..self }
    }
}

impl TaskKind for Tagging {
    fn groups_tokens(&self) -> bool {
        self.entities.is_some()
    }

    fn token_places(&self, text: &Text, places: &[Place]) -> TokenPlaces {
        let words = first_tokens(text, places).into_iter().map(|(_, token)| token).collect();
        TokenPlaces { words, ..TokenPlaces::default() }
    }

    fn rows(&self, text: &Tokenized) -> Vec<usize> {
        text.words().iter().flatten().copied().collect()
    }

    fn answer(&self, text: &Text, windows: &[Window<'_>], _top: usize) -> Answer {
        if let Some(strategy) = self.entities {
            let found = windows.first().map(|window| entities::entities(&self.labels, strategy, text.first(), window));
            return Answer::Entities(found.unwrap_or_default());
        }
        let Some(window) = windows.first() else { return Answer::Tags(Vec::new()) };
        let characters = Characters::of(text.first());
        let named = first_tokens(text, window.places).into_iter().map(|((start, end), token)| {
            let logits = token.map(|at| window.outputs.row(at).to_vec());
            let best = logits.and_then(|logits| rank(&self.labels, &logits, 1).into_iter().next());
            let (label, score) = best.map(|b| (b.label, b.score)).unzip();
            Tag { word: characters.part((start, end)).to_owned(), start, end, label, score }
        });
        Answer::Tags(named.collect())
    }

    fn header(&self, _width: usize) -> String {
        if self.entities.is_some() { "entities" } else { "tags" }.to_owned()
    }

    fn tensors(&self) -> Vec<Tensor> {
        if self.entities.is_some() {
            return vec![entities::tensor()];
        }
        let tags = |prediction: &Prediction| match &prediction.answer {
            Answer::Tags(tags) => listed(tags),
            _ => String::new(),
        };
        vec![Tensor::bytes("tags", tags)]
    }

    fn gold(&self, text: &Text, label: &Label) -> Result<Gold, String> {
        let tags: Vec<&str> = match label {
            Label::Name(label) => label.split_whitespace().collect(),
            Label::Names(labels) => labels.iter().map(String::as_str).collect(),
            Label::Answers(_) | Label::Negatives(_) => return Err(other_form(self.expects())),
        };
        let tags: Vec<usize> = tags.into_iter().map(|tag| class_of(&self.labels, tag)).collect::<Result<_, _>>()?;
        let words = text.words().len();
        if tags.len() != words {
            return Err(format!("expected {words} labels, one for each word, found {}", tags.len()));
        }
        Ok(Gold::Tags(tags))
    }

    fn weigh_labels(&mut self, weights: &[f64]) {
        self.weights = weights.to_vec();
    }

    fn loss(&self, text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss {
        let mut loss = Loss::none(outputs);
        let Gold::Tags(tags) = gold else { return loss };
        // As in `rows`, words that were cut off have no outputs.
        let read = text.words().iter().zip(tags).filter_map(|(token, tag)| token.map(|_| tag));
        let weight = weight / read.clone().count().max(1) as f64;
        for ((logits, d_logits), tag) in outputs.iter().zip(&mut loss.d_outputs).zip(read) {
            let (value, d) = cross_entropy(logits, *tag);
            let weight = weight * weight_of(&self.weights, *tag);
            loss.value += value * weight;
            *d_logits = d.iter().map(|d| d * weight).collect();
        }
        loss
    }

    fn drawn(&self, text: &Tokenized, outputs: &[Vec<f64>], _: &Answer, random: &mut dyn FnMut() -> f64) -> Gold {
        // As in `rows`, words that were cut off have no outputs.
        let mut rows = outputs.iter();
        let tags = text.words().iter().map(|token| {
            let logits = token.and_then(|_| rows.next());
            logits.map_or(0, |logits| draw(&softmax(logits), random()))
        });
        Gold::Tags(tags.collect())
    }

    fn metrics(&self) -> &'static [&'static str] {
        if metrics::are_entities(&self.labels) { &["span F1", "token accuracy"] } else { &["token accuracy"] }
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        // A word beyond the limit has no label: it counts as class C.
        let none = self.labels.len();
        let number = |label: &Arc<str>| self.labels.iter().position(|known| known == label).unwrap_or(none);
        let named = |tags: &[usize]| -> Vec<&str> {
            tags.iter().map(|tag| self.labels.get(*tag).map_or("O", |label| label)).collect()
        };
        let (mut found, mut gold, mut probabilities) = (Vec::new(), Vec::new(), Vec::new());
        let mut sentences = Vec::new();
        for one in answered {
            let (Answer::Tags(tags), Gold::Tags(due)) = (one.answer, one.gold) else { continue };
            let given = tags.iter().map(|tag| tag.label.as_ref().map_or(none, number));
            let given: Vec<usize> = given.chain(std::iter::repeat(none)).take(due.len()).collect();
            let of_tags = tags.iter().map(|tag| tag.score.map_or(0.0, f64::from));
            probabilities.extend(of_tags.chain(std::iter::repeat(0.0)).take(due.len()));
            sentences.push((named(&given), named(due)));
            found.extend(given);
            gold.extend(due);
        }
        let accuracy = metrics::accuracy(&found, &gold);
        let values = match metrics::are_entities(&self.labels) {
            true => vec![metrics::span_f1(sentences.into_iter()), accuracy],
            false => vec![accuracy],
        };
        Scores::of_classes(values, &found, &gold, &probabilities, none)
    }
}

/// The first and last character of each word of `text`, and the token that it is read at; no token if the text was cut
/// before it.
///
/// It is the first token of the word as transformers splits it from a list of words. Where the space before a word is a
/// token of its own, which SentencePiece writes `▁` and byte-level BPE `Ġ`, it is that one.
fn first_tokens(text: &Text, places: &[Place]) -> Vec<((usize, usize), Option<usize>)> {
    let (mut next, mut last) = (0, 0);
    let mut firsts = Vec::new();
    for &(start, end) in text.words().iter() {
        // Tokens come in the order of the text, so each word's search goes on where the last one's ended.
        let covers = |from, to| from < end && to > start && to > from;
        // RoBERTa's post-processor trims the space off the token's place, which leaves a place without characters.
        let is_space = |from, to| to == start && from >= last && to - from <= 1;
        let past = |place: &Place| place.is_some_and(|(_, (from, _))| from >= end);
        let of_word = |place: &Place| place.is_some_and(|(_, (from, to))| covers(from, to) || is_space(from, to));
        let found = places.iter().enumerate().skip(next).take_while(|(_, p)| !past(p)).find(|(_, p)| of_word(p));
        let token = found.map(|(at, _)| at);
        next = token.map_or(next, |at| at + 1);
        last = end;
        firsts.push(((start, end), token));
    }
    firsts
}

impl Row for Vec<Tag> {
    fn table(&self, _width: usize, _text: &str) -> String {
        let tagged = self.iter().map(|t| format!("{}/{}", cell(&t.word), t.label.as_deref().unwrap_or("-")));
        tagged.collect::<Vec<_>>().join(" ")
    }

    fn cells(&self) -> (String, String) {
        let labels: Vec<&str> = self.iter().map(|t| t.label.as_deref().unwrap_or("-")).collect();
        (labels.join(" "), String::new())
    }
}

#[derive(Serialize)]
struct Fields<'a> {
    tags: &'a [Tag],
}

pub(super) fn json<S: Serializer>(tags: &[Tag], serializer: S) -> Result<S::Ok, S::Error> {
    Fields { tags }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_at_the_space_before_it_where_that_is_a_token() {
        let text = |places: &[(usize, usize)]| -> Vec<Place> {
            let places = places.iter().map(|place| Some((0, *place)));
            [None].into_iter().chain(places).chain([None]).collect()
        };
        for (words, places, due) in [
            // `▁ 東 ▁ 京`: the first space is none of the text, and has the place of the character after it.
            ("東 京", &[(0, 1), (0, 1), (1, 2), (2, 3)][..], [1, 3]),
            // `▁a ▁b c`: the space is a part of the word's token.
            ("a bc", &[(0, 1), (1, 3), (3, 4)], [1, 2]),
            // `Ġ 東 Ġ 京`, trimmed: a character is three bytes, here two tokens.
            ("東 京", &[(0, 0), (0, 1), (0, 1), (2, 2), (2, 3), (2, 3)], [1, 4]),
            // `a Ġ Ġb`: of two spaces, the first is not the word's.
            ("a  b", &[(0, 1), (1, 2), (2, 4)], [1, 3]),
            ("a  b", &[(0, 1), (2, 2), (3, 4)], [1, 3]),
            // A token of two spaces stands for more than what parts two words.
            ("a  b", &[(0, 1), (1, 3), (3, 4)], [1, 3]),
            // `a␣ b`: the space belongs to the word before it.
            ("a b", &[(0, 2), (2, 3)], [1, 2]),
        ] {
            let found = first_tokens(&Text::one(words), &text(places));
            assert_eq!(found.iter().map(|(_, token)| token.unwrap()).collect::<Vec<_>>(), due, "{words:?} {places:?}");
        }
        let cut = first_tokens(&Text::of_words(&["a b", "c"]).unwrap(), &text(&[(0, 1), (1, 3)]));
        assert_eq!(cut, [((0, 3), Some(1)), ((4, 5), None)]);
    }
}
