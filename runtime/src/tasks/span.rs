//! Span extraction: the part of the second text that answers the first. The head gives two logits for every token: that
//! the answer starts there, and that it ends there. The loss is the mean of two cross-entropies, of the answer's first
//! token and of its last. Each is over a softmax of the tokens of the second text, because answers are only there. A
//! long second text is read in windows.

use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Outputs, Place, Scores, TaskKind, Tensor, TokenPlaces, Window,
    gold::other_form,
    loss::cross_entropy,
    metrics,
    outputs::draw,
    row::{Row, cell, join},
    tensor::listed,
};
use crate::{Prediction, Text, Tokenized, head::softmax};

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

/// A task of this kind.
pub(super) struct SpanExtraction {
    /// Tokens in the longest answer.
    longest: usize,
}

impl SpanExtraction {
    pub fn new(max_answer_length: u32) -> Self {
        SpanExtraction { longest: usize::try_from(max_answer_length).unwrap_or(usize::MAX) }
    }
}

impl TaskKind for SpanExtraction {
    fn in_windows(&self) -> bool {
        true
    }

    fn token_places(&self, _text: &Text, places: &[Place]) -> TokenPlaces {
        TokenPlaces { second: second_tokens(places), ..TokenPlaces::default() }
    }

    fn rows(&self, text: &Tokenized) -> Vec<usize> {
        text.second().collect()
    }

    fn answer(&self, text: &Text, windows: &[Window<'_>], top: usize) -> Answer {
        let context: Vec<char> = text.second().unwrap_or_default().chars().collect();
        let of_windows = |of: fn(&Window<'_>, usize) -> Vec<Candidate>| {
            spans(&context, windows.iter().flat_map(|window| of(window, self.longest)).collect(), top)
        };
        let best = of_windows(candidates);
        Answer::Spans(if best.is_empty() { of_windows(best_of_each_start) } else { best })
    }

    fn tensors(&self) -> Vec<Tensor> {
        let label = |prediction: &Prediction| best(prediction).map_or(String::new(), |best| best.text.clone());
        let score = |prediction: &Prediction| vec![best(prediction).map_or(0.0, |best| best.score)];
        let spans = |prediction: &Prediction| listed(spans_of(prediction));
        vec![Tensor::bytes("label", label), Tensor::floats("score", None, score), Tensor::bytes("spans", spans)]
    }

    fn expects(&self) -> &'static str {
        "an answer and its answer_start"
    }

    fn gold(&self, text: &Text, label: &Label) -> Result<Gold, String> {
        match label {
            Label::Answers(answers) if !answers.is_empty() => {
                let context: Vec<char> = text.second().unwrap_or_default().chars().collect();
                let places = answers.iter().map(|(answer, start)| place(&context, answer, *start));
                places.collect::<Result<_, _>>().map(Gold::Span)
            }
            _ => Err(other_form(self.expects())),
        }
    }

    fn holds(&self, text: &Tokenized, gold: &Gold) -> bool {
        first_answer(text, gold).is_some()
    }

    fn loss(&self, text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss {
        let Some((first, last)) = first_answer(text, gold) else { return Loss::none(outputs) };
        let mut loss = Loss { value: 0.0, d_outputs: vec![Vec::new(); outputs.len()] };
        for (output, due) in [first, last].into_iter().enumerate() {
            let column: Vec<f64> = outputs.iter().map(|logits| logits[output]).collect();
            // A window that holds the answer holds both of its ends.
            let due = text.second().position(|token| token == due).unwrap_or_default();
            let (value, d) = cross_entropy(&column, due);
            loss.value += 0.5 * weight * value;
            loss.d_outputs.iter_mut().zip(d).for_each(|(d_outputs, d)| d_outputs.push(0.5 * d * weight));
        }
        loss
    }

    fn output_form(&self) -> Outputs {
        Outputs::Columns
    }

    fn drawn(&self, _: &Tokenized, _: &[Vec<f64>], answer: &Answer, random: &mut dyn FnMut() -> f64) -> Gold {
        let Answer::Spans(spans) = answer else { return Gold::Span(Vec::new()) };
        let scores: Vec<f64> = spans.iter().map(|span| f64::from(span.score)).collect();
        let span = spans.get(draw(&scores, random()));
        Gold::Span(span.map(|span| (span.start, span.end)).into_iter().collect())
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["F1", "exact match"]
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        let (mut exact, mut f1, mut probabilities, mut right) = (0.0, 0.0, Vec::new(), Vec::new());
        for one in answered {
            let (Answer::Spans(spans), Gold::Span(answers)) = (one.answer, one.gold) else { continue };
            let context: Vec<char> = one.text.second().unwrap_or_default().chars().collect();
            // Places were checked against the context when the texts were read.
            let part = |(start, end): &(usize, usize)| context.get(*start..*end).unwrap_or_default().iter().collect();
            let gold: Vec<String> = answers.iter().map(part).collect();
            let best = spans.first();
            let found = best.map_or("", |span| span.text.as_str());
            let hit = metrics::exact_match(found, &gold);
            exact += hit;
            f1 += metrics::answer_f1(found, &gold);
            probabilities.push(best.map_or(0.0, |span| f64::from(span.score)));
            right.push(hit > 0.0);
        }
        let count = right.len().max(1) as f64;
        Scores {
            metrics: vec![f1 / count, exact / count],
            confusion: Vec::new(),
            calibration: Some(metrics::calibration_error(&probabilities, &right)),
        }
    }

    fn checkpoint_modules(&self) -> &'static [&'static str] {
        &["qa_outputs", "classifier"]
    }
}

/// The tokens of the second text, with their characters there: those in which an answer may begin and end.
fn second_tokens(places: &[Place]) -> Vec<(usize, (usize, usize))> {
    let places = places.iter().enumerate();
    places.filter_map(|(at, place)| place.filter(|(text, _)| *text == 1).map(|(_, place)| (at, place))).collect()
}

/// The first and the last token of the answer that is trained on, where the window holds it.
fn first_answer(text: &Tokenized, gold: &Gold) -> Option<(usize, usize)> {
    match gold {
        Gold::Span(answers) => answers.first().and_then(|answer| text.span(*answer)),
        _ => None,
    }
}

/// The characters of an answer, without white space around it.
fn place(context: &[char], answer: &str, start: usize) -> Result<(usize, usize), String> {
    let wanted: Vec<char> = answer.chars().collect();
    let found = start.checked_add(wanted.len()).and_then(|end| context.get(start..end)).unwrap_or_default();
    if found != wanted {
        let found: String = found.iter().collect();
        return Err(format!("expected the answer {answer:?} at character {start} of the context, found {found:?}"));
    }
    let before = wanted.iter().take_while(|c| c.is_whitespace()).count();
    let inside = answer.trim().chars().count();
    if inside == 0 { Err("empty answer".to_owned()) } else { Ok((start + before, start + before + inside)) }
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
    let Window { places, outputs: logits } = *window; // [S, 2]: start and end
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

/// The best `top` of all windows' candidates, with probabilities among the best twenty.
fn spans(context: &[char], found: Vec<Candidate>, top: usize) -> Vec<Span> {
    let mut found: Vec<Candidate> = found.into_iter().filter_map(|candidate| trimmed(context, candidate)).collect();
    found.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.start.cmp(&b.start)).then(a.end.cmp(&b.end)));
    let mut best: Vec<Candidate> = Vec::new();
    for candidate in found {
        if best.len() < top.max(20) && best.iter().all(|b| (b.start, b.end) != (candidate.start, candidate.end)) {
            best.push(candidate);
        }
    }
    let scores = softmax(&best.iter().map(|c| c.logit).collect::<Vec<_>>());
    let named = best.iter().zip(scores).map(|(c, score)| Span {
        text: context[c.start..c.end].iter().collect(),
        start: c.start,
        end: c.end,
        score,
    });
    named.take(top.max(1)).collect()
}

fn spans_of(prediction: &Prediction) -> &[Span] {
    match &prediction.answer {
        Answer::Spans(spans) => spans,
        _ => &[],
    }
}

fn best(prediction: &Prediction) -> Option<&Span> {
    spans_of(prediction).first()
}

impl Row for Vec<Span> {
    fn table(&self, _width: usize, _text: &str) -> String {
        let named = self.iter().map(|s| format!("{:?} {}-{} {:.4}", s.text, s.start, s.end, s.score));
        if self.is_empty() { "-".to_owned() } else { named.collect::<Vec<_>>().join("  ") }
    }

    fn cells(&self) -> (String, String) {
        (join(self.iter().map(|s| cell(&s.text))), join(self.iter().map(|s| format!("{:.6}", s.score))))
    }
}

/// The text of the best span and its probability; all spans if several were asked for.
#[derive(Serialize)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    spans: &'a [Span],
}

pub(super) fn json<S: Serializer>(spans: &[Span], serializer: S) -> Result<S::Ok, S::Error> {
    let (label, score) = spans.first().map(|best| (&*best.text, best.score)).unzip();
    Fields { label, score, spans }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

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
            let window = Window { places: &places, outputs: logits.view() };
            let best = spans(&context, candidates(&window, longest), 1);
            assert_eq!((best[0].start, best[0].end), (0, 2 * last - 1), "{longest}");
        }
    }

    #[test]
    fn there_is_an_answer_though_every_likely_end_is_before_every_likely_start() {
        let places: Vec<Place> = (0..50).map(|at: usize| Some((1, (2 * at, 2 * at + 1)))).collect();
        let context = "x ".repeat(50);
        // Ends are likely in the first twenty tokens, starts in the last twenty, and a little in the middle.
        let logits = Array2::from_shape_fn((50, 2), |(at, output)| match (at, output) {
            (0..20, 1) | (30..50, 0) => 9.0,
            (24, 0) | (26, 1) => 1.0,
            _ => -9.0,
        });
        let windows = [Window { places: &places, outputs: logits.view() }];
        let answer = |longest| match SpanExtraction::new(longest).answer(&Text::pair("q", &*context), &windows, 1) {
            Answer::Spans(spans) => (spans[0].start, spans[0].end),
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(30), (48, 53));
        // 9 - 9 is less than 1 + 1, but more than 1 - 9: the first of those that are equal.
        assert_eq!(answer(2), (0, 1));
    }

    #[test]
    fn answers_begin_and_end_with_a_letter() {
        let context: Vec<char> = "in  the end ".chars().collect();
        let candidate = |start, end| Candidate { start, end, logit: 0.0 };
        let found = spans(&context, vec![candidate(2, 8), candidate(3, 8), candidate(2, 4), candidate(11, 12)], 9);
        assert_eq!(found.iter().map(|s| (s.text.as_str(), s.start, s.end)).collect::<Vec<_>>(), [("the", 4, 7)]);
    }

    #[test]
    fn answers_are_where_they_are_said_to_be() {
        let context: Vec<char> = "Été was hot".chars().collect();
        assert_eq!(place(&context, "was", 4), Ok((4, 7)));
        assert_eq!(place(&context, " was ", 3), Ok((4, 7)));
        for (answer, start, reason) in [
            ("was", 6, "at character 6"),
            ("hot!", 8, "expected the answer"),
            ("hot", usize::MAX, "found \"\""),
            (" ", 3, "empty answer"),
        ] {
            let error = place(&context, answer, start).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
