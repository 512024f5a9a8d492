//! The search for the best parts of the second text.
//!
//! In: start and end logits of each window's tokens. Out: [`Span`]s, the likeliest first. Nothing is refused: a text of
//! one token or more has a span.

use std::collections::BTreeSet;

use super::{Span, second_tokens};
use crate::{head::softmax, tasks::Window};

/// The best `top` spans of a text's windows, of `longest` tokens at most. `none` is the logit of there being no answer,
/// less its threshold, where there may be none.
pub(super) fn best(
    context: &[char],
    windows: &[Window<'_>],
    longest: usize,
    none: Option<f32>,
    top: usize,
) -> Vec<Span> {
    let of_windows = |of: fn(&Window<'_>, usize) -> Vec<Candidate>| -> Vec<Candidate> {
        let found = windows.iter().flat_map(|window| of(window, longest));
        found.filter_map(|candidate| trimmed(context, candidate)).collect()
    };
    let mut found = of_windows(candidates);
    if found.is_empty() {
        found = of_windows(best_of_each_start);
    }
    spans(context, found, none, top)
}

/// A candidate: characters of the second text, and the sum of its start and end logits.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    start: usize,
    end: usize,
    logit: f32,
}

/// The best spans of one window, of `longest` tokens at most; none if every likely end is before every likely start, or
/// too far behind.
fn candidates(window: &Window<'_>, longest: usize) -> Vec<Candidate> {
    /// How many starts are combined with how many ends, as in BERT's SQuAD reader.
    const BEST: usize = 20;
    let Window { places, outputs: logits, .. } = *window; // [S, 2]: start and end
    let inside = second_tokens(places);
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
            if let (Some((_, (from, _))), Some((_, (_, to)))) = (places[start], places[end]) {
                found.push(Candidate { start: from, end: to, logit: logits[[start, 0]] + logits[[end, 1]] });
            }
        }
    }
    found
}

/// From each token of one window the best span, of `longest` tokens at most. The best of all spans is among them.
fn best_of_each_start(window: &Window<'_>, longest: usize) -> Vec<Candidate> {
    let logits = window.outputs;
    let inside = second_tokens(window.places);
    // Of equal ends the first: the last that is compared.
    let ends = |at: usize| inside[at..].iter().take(longest).rev();
    let best = inside.iter().enumerate().filter_map(|(at, (start, (from, _)))| {
        let (end, (_, to)) = ends(at).max_by(|a, b| logits[[a.0, 1]].total_cmp(&logits[[b.0, 1]]))?;
        Some(Candidate { start: *from, end: *to, logit: logits[[*start, 0]] + logits[[*end, 1]] })
    });
    best.collect()
}

/// A candidate without the white space around it, which tokens may hold; none if there is nothing else.
fn trimmed(context: &[char], candidate: Candidate) -> Option<Candidate> {
    let part = context.get(candidate.start..candidate.end)?;
    let before = part.iter().position(|c| !c.is_whitespace())?;
    let after = part.iter().rev().take_while(|c| c.is_whitespace()).count();
    Some(Candidate { start: candidate.start + before, end: candidate.end - after, ..candidate })
}

/// The best `top` candidates, with probabilities among the best twenty. No answer is a span without characters.
fn spans(context: &[char], mut found: Vec<Candidate>, none: Option<f32>, top: usize) -> Vec<Span> {
    found.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.start.cmp(&b.start)).then(a.end.cmp(&b.end)));
    let mut seen = BTreeSet::new();
    let distinct = found.into_iter().filter(|candidate| seen.insert((candidate.start, candidate.end)));
    let mut best: Vec<Candidate> = distinct.take(top.max(20)).collect();
    // Of equal logits, an answer comes first.
    if let Some(logit) = none {
        let place = best.iter().position(|candidate| candidate.logit < logit).unwrap_or(best.len());
        best.insert(place, Candidate { start: 0, end: 0, logit });
    }
    let scores = softmax(&best.iter().map(|c| c.logit).collect::<Vec<_>>());
    let named = best.iter().zip(scores).map(|(c, score)| Span {
        text: context[c.start..c.end].iter().collect(),
        start: c.start,
        end: c.end,
        score,
        logit: c.logit,
    });
    named.take(top.max(1)).collect()
}

/// Makes all spans of a text with a threshold of 0 what they are with another.
pub(super) fn refit(spans: &mut Vec<Span>, threshold: f32) {
    let Some(at) = spans.iter().position(|span| span.text.is_empty()) else { return };
    let mut none = spans.remove(at);
    none.logit -= threshold;
    let place = spans.iter().position(|span| span.logit < none.logit).unwrap_or(spans.len());
    spans.insert(place, none);
    let scores = softmax(&spans.iter().map(|span| span.logit).collect::<Vec<_>>());
    spans.iter_mut().zip(scores).for_each(|(span, score)| span.score = score);
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::tasks::Place;

    #[test]
    fn an_answer_has_as_many_tokens_as_the_task_allows() {
        // A question of one token, and a text of forty words of one character each.
        let places = (0..41).map(|at: usize| Some(if at == 0 { (0, (0, 1)) } else { (1, (2 * at - 2, 2 * at - 1)) }));
        let places: Vec<Place> = places.collect();
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
        let context: Vec<char> = "x ".repeat(40).chars().collect();
        for (longest, last) in [(25, 25), (30, 30), (40, 40), (usize::MAX, 40)] {
            let window = Window { places: &places, continuing: &[], outputs: logits.view() };
            let best = spans(&context, candidates(&window, longest), None, 1);
            assert_eq!((best[0].start, best[0].end), (0, 2 * last - 1), "{longest}");
        }
    }

    #[test]
    fn answers_begin_and_end_with_a_letter() {
        let context: Vec<char> = "in  the end ".chars().collect();
        let candidate = |start, end| Candidate { start, end, logit: 0.0 };
        let all = [candidate(2, 8), candidate(3, 8), candidate(2, 4), candidate(11, 12)];
        let all = all.into_iter().filter_map(|candidate| trimmed(&context, candidate)).collect();
        let found = spans(&context, all, None, 9);
        assert_eq!(found.iter().map(|s| (s.text.as_str(), s.start, s.end)).collect::<Vec<_>>(), [("the", 4, 7)]);
    }

    #[test]
    fn spans_of_another_threshold_are_as_if_it_had_been_there() {
        let context: Vec<char> = "a b c".chars().collect();
        let candidate = |start, logit| Candidate { start, end: start + 1, logit };
        let found = |threshold: f32| {
            let candidates = vec![candidate(0, 1.0), candidate(4, 3.25), candidate(2, 2.0)];
            spans(&context, candidates, Some(2.5 - threshold), usize::MAX)
        };
        for threshold in [-1.0, -0.75, 0.0, 0.5, 9.0] {
            let mut refitted = found(0.0);
            refit(&mut refitted, threshold);
            assert_eq!(format!("{refitted:?}"), format!("{:?}", found(threshold)), "{threshold}");
        }
    }

    #[test]
    fn no_answer_is_an_answer_without_characters() {
        let context: Vec<char> = "a b c".chars().collect();
        let candidate = |start, logit| Candidate { start, end: start + 1, logit };
        let found = |none| {
            let spans = spans(&context, vec![candidate(0, 1.0), candidate(4, 3.0), candidate(2, 2.0)], Some(none), 2);
            spans.into_iter().map(|span| span.text).collect::<Vec<_>>()
        };
        assert_eq!(found(3.5), ["", "c"]);
        assert_eq!(found(3.0), ["c", ""]);
        assert_eq!(found(-9.0), ["c", "b"]);
    }
}
