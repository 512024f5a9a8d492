//! Entities that the tags of a text mark.
//!
//! In: the logits of every token, its characters, and whether it continues a word. Out: entities in the order of the
//! text. Nothing is refused.
//!
//! Tokens are grouped as the token-classification pipeline of Hugging Face's transformers groups them. A tag continues
//! the entity before it if both have the same name after `B-` or `I-` and this one has no `B-`: so `B-`/`I-`/`O` (IOB2)
//! and IOB1 are read. That pipeline takes `L-`, `U-`, `E-` and `S-` for parts of names. Here, where every label of a task
//! is `O` or begins with one of `B- I- L- U- E- S-` and one begins with `L-`, `U-`, `E-` or `S-` (BILOU, IOBES), `U-` and
//! `S-` are an entity of their own, and `L-` and `E-` are the last of theirs.

use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    Answer, Tensor, Window,
    metrics::are_entities,
    row::{Row, cell, join},
    tensor::listed,
};
use crate::{Prediction, head::softmax, text::Characters};

/// How tokens become entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Each token counts with its own tag, so an entity may be a part of a word
    Simple,
    /// A word has the tag of its first token
    First,
    /// A word has the tag that is likeliest on average over its tokens
    Average,
    /// A word has the tag of its token with the highest score
    Max,
}

/// Neighbouring words or tokens of one name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entity {
    /// What it is: the tag without `B-` and such.
    pub label: String,
    /// Its characters, without white space at the ends, which some tokens have.
    pub text: String,
    /// Its first character in the text.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// The mean of its words' or tokens' scores, 0 to 1.
    pub score: f32,
}

/// A tag as it is grouped.
struct Tag<'a> {
    /// What neighbours of one entity have in common.
    name: &'a str,
    /// What the entity is called.
    shown: &'a str,
    /// Whether it begins an entity.
    begins: bool,
    /// Whether it ends one.
    ends: bool,
}

/// A word or token, the tag it has, and the tag's score.
struct Unit {
    tag: usize,
    score: f32,
    start: usize,
    end: usize,
}

/// Neighbouring units of one name.
struct Group {
    units: usize,
    first: usize,
    last: usize,
    sum: f64,
    start: usize,
    end: usize,
}

/// The entities of a text, from the only window of its tokens.
pub(super) fn entities(labels: &[Arc<str>], strategy: Strategy, text: &str, window: &Window<'_>) -> Vec<Entity> {
    let tags = tags(labels);
    let mut groups: Vec<Group> = Vec::new();
    for Unit { tag, score, start, end } in units(strategy, window) {
        let continued = groups.last_mut().filter(|group| {
            let before = &tags[group.last];
            !before.ends && !tags[tag].begins && before.name == tags[tag].name
        });
        match continued {
            Some(group) => {
                *group = Group { units: group.units + 1, last: tag, sum: group.sum + f64::from(score), end, ..*group };
            }
            None => groups.push(Group { units: 1, first: tag, last: tag, sum: f64::from(score), start, end }),
        }
    }
    let characters = Characters::of(text);
    let marked = groups.into_iter().filter(|group| tags[group.first].shown != "O");
    let entity = |Group { units, first, sum, start, end, .. }: Group| Entity {
        label: tags[first].shown.to_owned(),
        text: characters.part((start, end)).trim().to_owned(),
        start,
        end,
        score: (sum / units as f64) as f32,
    };
    marked.map(entity).collect()
}

/// The answers as a tensor.
pub(super) fn tensor() -> Tensor {
    let entities = |prediction: &Prediction| match &prediction.answer {
        Answer::Entities(entities) => listed(entities),
        _ => String::new(),
    };
    Tensor::bytes("entities", entities)
}

fn tags(labels: &[Arc<str>]) -> Vec<Tag<'_>> {
    let prefixed = |label: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| label.starts_with(prefix));
    let with_ends = are_entities(labels) && labels.iter().any(|label| prefixed(label, &["L-", "U-", "E-", "S-"]));
    let tag = |label| match with_ends {
        true => {
            let (_, name) = str::split_once(label, '-').unwrap_or(("", label));
            let (begins, ends) = (prefixed(label, &["B-", "U-", "S-"]), prefixed(label, &["L-", "E-", "U-", "S-"]));
            Tag { name, shown: name, begins, ends }
        }
        false => {
            let name = label.strip_prefix("B-").or_else(|| label.strip_prefix("I-")).unwrap_or(label);
            // transformers shows what comes after the first hyphen of any tag.
            let shown = label.split_once('-').map_or(label, |(_, rest)| rest);
            Tag { name, shown, begins: label.starts_with("B-"), ends: false }
        }
    };
    labels.iter().map(|label| tag(&**label)).collect()
}

/// The words of a window, or its tokens where they count one by one.
fn units(strategy: Strategy, window: &Window<'_>) -> Vec<Unit> {
    let mut words: Vec<Vec<(usize, (usize, usize))>> = Vec::new();
    for (at, place) in window.places.iter().enumerate() {
        let Some((_, place)) = *place else { continue };
        let continues = strategy != Strategy::Simple && window.continuing.get(at) == Some(&true);
        match words.last_mut().filter(|_| continues) {
            Some(word) => word.push((at, place)),
            None => words.push(vec![(at, place)]),
        }
    }
    words.iter().map(|tokens| unit(strategy, window, tokens)).collect()
}

fn unit(strategy: Strategy, window: &Window<'_>, tokens: &[(usize, (usize, usize))]) -> Unit {
    let scores = |at: usize| softmax(&window.outputs.row(at).to_vec());
    let of_tokens = tokens.iter().map(|(at, _)| scores(*at));
    let (tag, score) = match strategy {
        Strategy::Simple | Strategy::First => best(&scores(tokens[0].0)),
        Strategy::Max => of_tokens.map(|scores| best(&scores)).fold((0, f32::NEG_INFINITY), first_highest),
        Strategy::Average => {
            let mut sums = vec![0.0; window.outputs.ncols()];
            of_tokens.for_each(|scores| sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += f64::from(score)));
            let means: Vec<f32> = sums.iter().map(|sum| (sum / tokens.len() as f64) as f32).collect();
            best(&means)
        }
    };
    let (_, (start, _)) = tokens[0];
    let (_, (_, end)) = tokens[tokens.len() - 1];
    Unit { tag, score, start, end }
}

/// The highest of some scores, of equal ones the first.
fn best(scores: &[f32]) -> (usize, f32) {
    scores.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), first_highest)
}

fn first_highest(best: (usize, f32), next: (usize, f32)) -> (usize, f32) {
    if next.1 > best.1 { next } else { best }
}

impl Row for Vec<Entity> {
    fn table(&self, _width: usize, _text: &str) -> String {
        if self.is_empty() { "-".to_owned() } else { join(self.iter().map(named)) }
    }

    fn cells(&self) -> (String, String) {
        (join(self.iter().map(named)), join(self.iter().map(|entity| format!("{:.6}", entity.score))))
    }
}

fn named(entity: &Entity) -> String {
    format!("{}/{}", cell(&entity.text), entity.label)
}

#[derive(Serialize)]
struct Fields<'a> {
    entities: &'a [Entity],
}

pub(super) fn json<S: Serializer>(entities: &[Entity], serializer: S) -> Result<S::Ok, S::Error> {
    Fields { entities }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    /// The entities of tokens of one letter, each with the tag of that number and a space between: name, start and end.
    fn found(labels: &[&str], tags: &[usize]) -> Vec<(String, usize, usize)> {
        let labels: Vec<Arc<str>> = labels.iter().map(|label| (*label).into()).collect();
        let places: Vec<_> = (0..tags.len()).map(|at| Some((0, (2 * at, 2 * at + 1)))).collect();
        let outputs =
            Array2::from_shape_fn((tags.len(), labels.len()), |(at, tag)| if tags[at] == tag { 3.0 } else { 0.0 });
        let window = Window { places: &places, continuing: &vec![false; tags.len()], outputs: outputs.view() };
        let found = entities(&labels, Strategy::First, &"x ".repeat(tags.len()), &window);
        found.into_iter().map(|entity| (entity.label, entity.start, entity.end)).collect()
    }

    fn due(entities: &[(&str, usize, usize)]) -> Vec<(String, usize, usize)> {
        entities.iter().map(|(label, start, end)| ((*label).to_owned(), *start, *end)).collect()
    }

    #[test]
    fn ends_are_read_where_every_tag_may_have_one() {
        for ends in [["L-A", "U-A", "L-B", "U-B"], ["E-A", "S-A", "E-B", "S-B"]] {
            let labels = [&["O", "B-A", "I-A", "B-B", "I-B"][..], &ends].concat();
            // B-A I-A L-A U-A U-A B-A L-A I-A.
            let tags = [1, 2, 5, 6, 6, 1, 5, 2];
            assert_eq!(
                found(&labels, &tags),
                due(&[("A", 0, 5), ("A", 6, 7), ("A", 8, 9), ("A", 10, 13), ("A", 14, 15)])
            );
            // I-A L-A O L-B B-A I-B L-B B-B B-B.
            let tags = [2, 5, 0, 7, 1, 4, 7, 3, 3];
            let of_b = [("B", 6, 7), ("A", 8, 9), ("B", 10, 13), ("B", 14, 15), ("B", 16, 17)];
            assert_eq!(found(&labels, &tags), due(&[&[("A", 0, 3)], &of_b[..]].concat()));
        }
        // One label of another form: names as transformers has them.
        let labels = ["O", "B-A", "L-A", "X"];
        assert_eq!(found(&labels, &[1, 2, 2, 3, 3]), due(&[("A", 0, 1), ("A", 2, 5), ("X", 6, 9)]));
    }

    #[test]
    fn an_entity_without_a_begin_counts() {
        // IOB1: B- only where two entities of one name touch.
        let labels = ["O", "I-A", "B-A", "I-B"];
        assert_eq!(
            found(&labels, &[0, 1, 1, 2, 1, 3, 0, 3]),
            due(&[("A", 2, 5), ("A", 6, 9), ("B", 10, 11), ("B", 14, 15)])
        );
        assert_eq!(found(&labels, &[0, 0]), due(&[]));
    }
}
