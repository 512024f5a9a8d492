//! Span extraction: the part of the second text that answers the first. The head gives two logits for every token: that
//! the answer starts there, and that it ends there. The loss is the mean of two cross-entropies, of the answer's first
//! token and of its last. Each is over a softmax of the tokens of the second text, because answers are only there. A
//! long second text is read in windows.
//!
//! A task may allow that there is no answer, as SQuAD 2.0 does. The first token stands for it: its
//! logit is the sum of that token's start and end logits, the least over windows. A window that does not hold the answer is
//! trained as having none.

mod scores;
mod search;

use bias_patch::Kind;
use serde::{Serialize, Serializer};

use super::{
    Answer, Answered, Gold, Label, Loss, Outputs, Place, Scores, TaskKind, Tensor, TokenPlaces, Window,
    gold::other_form,
    loss::cross_entropy,
    outputs::draw,
    row::{Row, cell, join},
    tensor::listed,
};
use crate::{Prediction, Text, Tokenized};

/// A part of the second text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The part.
    pub text: String,
    /// Its first character in the second text.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// Its probability among the best candidates, 0 to 1.
    pub score: f32,
    /// The sum of its start and end logits; of no answer less the threshold.
    #[serde(skip)]
    pub(super) logit: f32,
}

/// A task of this kind.
pub(super) struct SpanExtraction {
    /// Tokens in the longest answer.
    longest: u32,
    /// By how much the logit of no answer has to be above the best answer's; none if there always is one.
    no_answer: Option<f32>,
}

impl SpanExtraction {
    pub fn new(longest: u32, no_answer: Option<f32>) -> Self {
        SpanExtraction { longest, no_answer }
    }

    /// How many rows of the loss are before those of the second text.
    fn rows_of_none(&self) -> usize {
        usize::from(self.no_answer.is_some())
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
        (0..self.rows_of_none()).chain(text.second()).collect()
    }

    fn has_alternatives(&self) -> bool {
        true
    }

    fn answer(&self, text: &Text, windows: &[Window<'_>], top: usize) -> Answer {
        let context: Vec<char> = text.second().unwrap_or_default().chars().collect();
        let longest = usize::try_from(self.longest).unwrap_or(usize::MAX);
        let none = self.no_answer.map(|threshold| {
            let sums = windows.iter().map(|window| window.outputs[[0, 0]] + window.outputs[[0, 1]]);
            sums.fold(f32::INFINITY, f32::min) - threshold
        });
        Answer::Spans(search::best(&context, windows, longest, none, top))
    }

    fn header(&self, _width: usize) -> String {
        "answer, characters, score".to_owned()
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
            Label::Answers(answers) if answers.is_empty() && self.no_answer.is_none() => {
                Err(format!("expected {}, found no answer, which needs \"no_answer\": 0 in the task", self.expects()))
            }
            Label::Answers(answers) => {
                let context: Vec<char> = text.second().unwrap_or_default().chars().collect();
                let places = answers.iter().map(|(answer, start)| place(&context, answer, *start));
                places.collect::<Result<_, _>>().map(Gold::Span)
            }
            _ => Err(other_form(self.expects())),
        }
    }

    fn holds(&self, text: &Tokenized, gold: &Gold) -> bool {
        self.no_answer.is_some() || first_answer(text, gold).is_some()
    }

    fn loss(&self, text: &Tokenized, gold: &Gold, outputs: &[Vec<f64>], weight: f64) -> Loss {
        let ends = match (first_answer(text, gold), self.no_answer) {
            // A window that holds the answer holds both of its ends.
            (Some((first, last)), _) => [first, last]
                .map(|due| self.rows_of_none() + text.second().position(|at| at == due).unwrap_or_default()),
            (None, Some(_)) => [0, 0],
            (None, None) => return Loss::none(outputs),
        };
        let mut loss = Loss { value: 0.0, d_outputs: vec![Vec::new(); outputs.len()] };
        for (output, due) in ends.into_iter().enumerate() {
            let column: Vec<f64> = outputs.iter().map(|logits| logits[output]).collect();
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
        Gold::Span(span.map(|span| (span.start, span.end)).filter(|(start, end)| start < end).into_iter().collect())
    }

    fn metrics(&self) -> &'static [&'static str] {
        match self.no_answer {
            None => &["F1", "exact match"],
            Some(_) => &["F1", "exact match", "HasAns F1", "HasAns exact match", "NoAns accuracy"],
        }
    }

    fn scores(&self, answered: &[Answered<'_>]) -> Scores {
        scores::scores(answered, self.no_answer.is_some())
    }

    fn fitted(&self, answered: &[Answered<'_>]) -> Option<Kind> {
        // Another threshold was chosen by the task's author.
        self.no_answer.filter(|threshold| *threshold == 0.0)?;
        Some(Kind::Span { max_answer_length: self.longest, no_answer: Some(scores::best_threshold(answered)) })
    }

    fn refit(&self, answer: &mut Answer, fitted: &Kind) {
        if let (Answer::Spans(spans), Kind::Span { no_answer: Some(threshold), .. }) = (answer, fitted) {
            search::refit(spans, *threshold);
        }
    }

    fn checkpoint_modules(&self) -> &'static [&'static str] {
        &["qa_outputs"]
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
        let named = self.iter().map(|s| match s.text.is_empty() {
            true => format!("no answer {:.4}", s.score),
            false => format!("{:?} {}-{} {:.4}", s.text, s.start, s.end, s.score),
        });
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
    fn there_is_an_answer_though_every_likely_end_is_before_every_likely_start() {
        let places: Vec<Place> = (0..50).map(|at: usize| Some((1, (2 * at, 2 * at + 1)))).collect();
        let context = "x ".repeat(50);
        // Ends are likely in the first twenty tokens, starts in the last twenty, and a little in the middle.
        let logits = Array2::from_shape_fn((50, 2), |(at, output)| match (at, output) {
            (0..20, 1) | (30..50, 0) => 9.0,
            (24, 0) | (26, 1) => 1.0,
            _ => -9.0,
        });
        let windows = [Window { places: &places, continuing: &[], outputs: logits.view() }];
        let answer = |longest| match SpanExtraction::new(longest, None).answer(&Text::pair("q", &*context), &windows, 1)
        {
            Answer::Spans(spans) => (spans[0].start, spans[0].end),
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(30), (48, 53));
        // 9 - 9 is less than 1 + 1, but more than 1 - 9: the first of those that are equal.
        assert_eq!(answer(2), (0, 1));
    }

    #[test]
    fn no_answer_is_trained_as_the_first_token() {
        let text = Text::pair("q", "a b");
        let refused = SpanExtraction::new(30, None).gold(&text, &Label::Answers(Vec::new())).unwrap_err();
        assert!(refused.contains("\"no_answer\": 0"), "{refused}");
        let kind = SpanExtraction::new(30, Some(0.0));
        let gold = kind.gold(&text, &Label::Answers(Vec::new())).unwrap();
        let tokenized = Tokenized::of_ids(vec![1; 4]);
        assert!(kind.holds(&tokenized, &gold) && kind.rows(&tokenized) == [0]);
        let loss = kind.loss(&tokenized, &gold, &[vec![0.0, 0.0], vec![0.0, 0.0], vec![0.0, 0.0]], 1.0);
        assert!((loss.value - 3f64.ln()).abs() < 1e-12 && loss.d_outputs[0].iter().all(|d| *d < 0.0));
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
