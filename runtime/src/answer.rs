//! What a task says of a text.
//!
//! In: the outputs of a head for each token or for the whole. Out: labels, values, tags or spans, with scores.

use std::{sync::Arc, time::Duration};

use ndarray::ArrayView2;
use serde::Serialize;

use crate::{head::softmax, text::Tokens, text::characters, text::words};

/// The answer to one text, and what it took.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// What the task says.
    pub answer: Answer,
    /// The head's outputs, for the kinds that answer once for a text.
    pub logits: Vec<f32>,
    /// Whether the text was cut to the limit.
    pub truncated: bool,
    /// What it took.
    pub timing: Timing,
}

/// What a task says of a text.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Classification: labels, the likeliest first.
    Labels(Vec<Ranked>),
    /// Regression: a number.
    Value(f32),
    /// Token tagging: one tag for each word, in order.
    Tags(Vec<Tag>),
    /// Span extraction: parts of the second text, the likeliest first.
    Spans(Vec<Span>),
}

/// An answer as programs read it: the fields of its kind, the others left out.
#[derive(Serialize)]
pub struct Fields<'a> {
    /// The likeliest label, or the text of the best span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
    /// A regression's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f32>,
    /// The probability of the label or span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Labels, the likeliest first, where there are more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<&'a [Ranked]>,
    /// One tag for each word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<&'a [Tag]>,
    /// Spans, the likeliest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spans: Option<&'a [Span]>,
}

impl Answer {
    /// The answer as programs read it.
    pub fn fields(&self) -> Fields<'_> {
        let (label, score) = self.best().unzip();
        let none = Fields { label, value: None, score, top: None, tags: None, spans: None };
        match self {
            Answer::Labels(ranked) => Fields { top: (ranked.len() > 1).then_some(ranked), ..none },
            Answer::Value(value) => Fields { value: Some(*value), ..none },
            Answer::Tags(tags) => Fields { tags: Some(tags), ..none },
            Answer::Spans(spans) => Fields { spans: Some(spans), ..none },
        }
    }

    /// The likeliest label, or the text of the best span, with its probability.
    fn best(&self) -> Option<(&str, f32)> {
        match self {
            Answer::Labels(ranked) => ranked.first().map(|best| (&*best.label, best.score)),
            Answer::Spans(spans) => spans.first().map(|best| (&*best.text, best.score)),
            Answer::Value(_) | Answer::Tags(_) => None,
        }
    }
}

/// A label with its probability.
#[derive(Clone, Debug, Serialize)]
pub struct Ranked {
    /// The label.
    pub label: Arc<str>,
    /// Its probability, 0 to 1.
    pub score: f32,
}

/// The tag of a word.
#[derive(Clone, Debug, Serialize)]
pub struct Tag {
    /// The word.
    pub word: String,
    /// Its first character in the text.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// The tag; none for a word beyond the limit, or one of which the tokenizer leaves nothing.
    pub label: Option<Arc<str>>,
    /// The tag's probability, 0 to 1.
    pub score: Option<f32>,
}

/// A part of the second text.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    /// The part.
    pub text: String,
    /// Its first character in the second text.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// Its probability among the best candidates, 0 to 1.
    pub score: f32,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Tokens, special tokens included, over all windows.
    pub tokens: usize,
    /// Making token ids.
    pub tokenize: Duration,
    /// Making this task's biases the encoder's inputs.
    pub switch: Duration,
    /// Running the encoder.
    pub encode: Duration,
    /// Running the head and reading its outputs.
    pub answer: Duration,
}

/// Labels by probability, the first `top`.
pub(crate) fn rank(labels: &[Arc<str>], logits: &[f32], top: usize) -> Vec<Ranked> {
    let scores = softmax(logits);
    let mut ranked: Vec<Ranked> =
        labels.iter().zip(scores).map(|(label, score)| Ranked { label: label.clone(), score }).collect();
    // Stable: of equal scores the first label stays first.
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked.truncate(top.max(1));
    ranked
}

/// One tag for each word of `text`, read off the first token of the word. `logits` is `[S, labels]`.
pub(crate) fn tag(text: &str, tokens: &Tokens, logits: ArrayView2<'_, f32>, labels: &[Arc<str>]) -> Vec<Tag> {
    let named = first_tokens(text, tokens).into_iter().map(|((start, end), token)| {
        let best = token.and_then(|at| rank(labels, &logits.row(at).to_vec(), 1).into_iter().next());
        let (label, score) = best.map(|b| (b.label, b.score)).unzip();
        Tag { word: characters(text, (start, end)), start, end, label, score }
    });
    named.collect()
}

/// The first and last character of each word of `text`, and its first token; none where the text was cut before it.
pub(crate) fn first_tokens(text: &str, tokens: &Tokens) -> Vec<((usize, usize), Option<usize>)> {
    let mut next = 0;
    let mut firsts = Vec::new();
    for (start, end) in words(text) {
        // Tokens come in the order of the text, so each word's search goes on where the last one's ended.
        let covers = |place: &Option<(usize, (usize, usize))>| {
            place.is_some_and(|(_, (from, to))| from < end && to > start && to > from)
        };
        let past = |place: &Option<(usize, (usize, usize))>| place.is_some_and(|(_, (from, _))| from >= end);
        let found = tokens.places.iter().enumerate().skip(next).take_while(|(_, p)| !past(p)).find(|(_, p)| covers(p));
        let token = found.map(|(at, _)| at);
        next = token.map_or(next, |at| at + 1);
        firsts.push(((start, end), token));
    }
    firsts
}

/// The tokens of the second text, with their characters there: those in which an answer may begin and end.
pub(crate) fn second_tokens(tokens: &Tokens) -> Vec<(usize, (usize, usize))> {
    let places = tokens.places.iter().enumerate();
    places.filter_map(|(at, place)| place.filter(|(text, _)| *text == 1).map(|(_, place)| (at, place))).collect()
}

/// A candidate: characters of the second text, and the sum of its start and end logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    start: usize,
    end: usize,
    logit: f32,
}

/// The best spans of one window, of `longest` tokens at most. `logits` is `[S, 2]`: start and end.
pub(crate) fn candidates(tokens: &Tokens, logits: ArrayView2<'_, f32>, longest: usize) -> Vec<Candidate> {
    /// Starts and ends that are tried with each other, as in BERT's SQuAD reader.
    const BEST: usize = 20;
    let inside = second_tokens(tokens);
    let best = |column: usize| {
        let mut sorted: Vec<usize> = inside.iter().map(|(at, _)| *at).collect();
        sorted.sort_by(|a, b| logits[[*b, column]].total_cmp(&logits[[*a, column]]));
        sorted.truncate(BEST);
        sorted
    };
    let (starts, ends) = (best(0), best(1));
    let mut found = Vec::new();
    for start in starts {
        for end in ends.iter().copied().filter(|end| (start..start.saturating_add(longest)).contains(end)) {
            if let (Some((_, (from, _))), Some((_, (_, to)))) = (tokens.places[start], tokens.places[end]) {
                found.push(Candidate { start: from, end: to, logit: logits[[start, 0]] + logits[[end, 1]] });
            }
        }
    }
    found
}

/// The best `top` of all windows' candidates, with probabilities among the best twenty.
pub(crate) fn spans(text: &str, mut found: Vec<Candidate>, top: usize) -> Vec<Span> {
    found.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.start.cmp(&b.start)).then(a.end.cmp(&b.end)));
    let mut best: Vec<Candidate> = Vec::new();
    for candidate in found {
        if best.len() < top.max(20) && best.iter().all(|b| (b.start, b.end) != (candidate.start, candidate.end)) {
            best.push(candidate);
        }
    }
    let scores = softmax(&best.iter().map(|c| c.logit).collect::<Vec<_>>());
    let named = best.iter().zip(scores).map(|(c, score)| Span {
        text: characters(text, (c.start, c.end)),
        start: c.start,
        end: c.end,
        score,
    });
    named.take(top.max(1)).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn an_answer_has_as_many_tokens_as_the_task_allows() {
        // A question of one token, and a text of forty words of one character each.
        let places = (0..41).map(|at: usize| Some(if at == 0 { (0, (0, 1)) } else { (1, (2 * at - 2, 2 * at - 1)) }));
        let tokens = Tokens { ids: vec![0; 41], type_ids: vec![0; 41], places: places.collect(), truncated: false };
        // Every answer begins with the first word; the later it ends the likelier.
        let logits = Array2::from_shape_fn((41, 2), |(at, output)| match output {
            0 => {
                if at == 1 {
                    100.0
                } else {
                    0.0
                }
            }
            _ => at as f32,
        });
        for (longest, last) in [(25, 25), (30, 30), (40, 40), (usize::MAX, 40)] {
            let best = spans("", candidates(&tokens, logits.view(), longest), 1);
            assert_eq!((best[0].start, best[0].end), (0, 2 * last - 1), "{longest}");
        }
    }
}
