//! Scores of spans, as SQuAD's official scripts have them.
//!
//! In: answers with their gold labels. Out: F1, exact match, and the threshold of no answer that does best. Nothing is
//! refused; answers of another form do not count.

use super::Span;
use crate::tasks::{Answer, Answered, Gold, Scores, metrics};

/// The scores of answers, in the order of the kind's metrics; with `no_answer` also those of texts with an answer and of
/// those without. Of texts without an answer, an empty answer is right.
pub(super) fn scores(answered: &[Answered<'_>], no_answer: bool) -> Scores {
    let (mut with, mut without) = (Marks::default(), Marks::default());
    let (mut probabilities, mut right) = (Vec::new(), Vec::new());
    for one in answered {
        let Some((spans, gold)) = spans_and_gold(one) else { continue };
        let best = spans.first();
        let found = best.map_or("", |span| span.text.as_str());
        let exact = metrics::exact_match(found, &gold);
        let marks = if gold[0].is_empty() { &mut without } else { &mut with };
        marks.texts += 1.0;
        marks.exact += exact;
        marks.f1 += f1(found, &gold);
        probabilities.push(best.map_or(0.0, |span| f64::from(span.score)));
        right.push(exact > 0.0);
    }
    // Not a number of no texts.
    let mean = |sum: f64, texts: f64| sum / texts;
    let all = with.texts + without.texts;
    let mut metrics = vec![mean(with.f1 + without.f1, all), mean(with.exact + without.exact, all)];
    if no_answer {
        let of_with = [with.f1, with.exact].map(|sum| mean(sum, with.texts));
        metrics.extend(of_with);
        metrics.push(mean(without.exact, without.texts));
    }
    let calibration = Some(metrics::calibration_error(&probabilities, &right));
    Scores { metrics, confusion: Vec::new(), calibration }
}

/// The threshold of the highest F1, as SQuAD 2.0's official script finds it; half way between two texts. 0 where every text
/// has an answer, or none is better.
pub(super) fn best_threshold(answered: &[Answered<'_>]) -> f32 {
    if answered.iter().all(|one| matches!(one.gold, Gold::Span(answers) if !answers.is_empty())) {
        return 0.0;
    }
    let mut texts: Vec<(f32, f64)> = Vec::new();
    for one in answered {
        let Some((spans, gold)) = spans_and_gold(one) else { continue };
        let score = |found: &Span| found.score.max(f32::MIN_POSITIVE).ln();
        let none = spans.iter().find(|span| span.text.is_empty()).map(score);
        let best = spans.iter().find(|span| !span.text.is_empty());
        if let (Some(none), Some(best)) = (none, best) {
            // What an answer gains over none.
            let gain = f1(&best.text, &gold) - f1("", &gold);
            texts.push((none - score(best), gain));
        }
    }
    texts.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let (mut gained, mut most, mut chosen) = (0.0, 0.0, None);
    for (at, (above, gain)) in texts.iter().enumerate() {
        gained += gain;
        let next = texts.get(at + 1).map(|(above, _)| *above);
        if gained > most && next != Some(*above) {
            most = gained;
            chosen = Some(next.map_or(above + 1.0, |next| above + (next - above) / 2.0));
        }
    }
    chosen.or(texts.first().map(|(above, _)| above - 1.0)).unwrap_or_default()
}

/// Sums over texts.
#[derive(Default)]
struct Marks {
    texts: f64,
    f1: f64,
    exact: f64,
}

/// The spans of an answer, and the texts of the gold answers: one that is empty where there is none.
fn spans_and_gold<'a>(one: &Answered<'a>) -> Option<(&'a [Span], Vec<String>)> {
    let (Answer::Spans(spans), Gold::Span(answers)) = (one.answer, one.gold) else { return None };
    let context: Vec<char> = one.text.second().unwrap_or_default().chars().collect();
    // Places were checked against the context when the texts were read.
    let part = |(start, end): &(usize, usize)| context.get(*start..*end).unwrap_or_default().iter().collect();
    let gold: Vec<String> = answers.iter().map(part).collect();
    Some((spans, if gold.is_empty() { vec![String::new()] } else { gold }))
}

/// F1 of an answer; of a text without an answer, whether there is none.
fn f1(found: &str, gold: &[String]) -> f64 {
    match gold[0].is_empty() {
        true => metrics::exact_match(found, gold),
        false => metrics::answer_f1(found, gold),
    }
}

#[cfg(test)]
mod tests {
    use bias_patch::Kind;

    use super::{super::SpanExtraction, *};
    use crate::{
        Text,
        tasks::{Label, TaskKind},
    };

    /// Of five texts the gold answers, the best answer, and by how much no answer is likelier: those of `squad_2` in
    /// tests/reference/metrics.py.
    const TEXTS: [(&str, &[&str], &str, f32); 5] = [
        ("the red fox ran", &["the red fox"], "red fox ran", -2.0),
        ("nothing", &[], "nothing", 1.0),
        ("a dog", &["a dog", "dog"], "dog", 0.5),
        ("here", &[], "here", -1.0),
        ("blue sky", &["blue"], "blue sky", -3.0),
    ];

    /// The kind's scores of the texts, and its thresholds that do best on them.
    fn scored(no_answer: f32) -> (Vec<f64>, Option<Kind>) {
        let kind = SpanExtraction::new(30, Some(no_answer));
        let texts = TEXTS.map(|(context, golds, found, above)| {
            let text = Text::pair("q", context);
            let answers = golds.iter().map(|gold| ((*gold).to_owned(), context.find(gold).unwrap()));
            let gold = kind.gold(&text, &Label::Answers(answers.collect())).unwrap();
            // The scores of softmax, whose logarithms differ as the logits do.
            let above = above - no_answer;
            let none = above.exp() / (1.0 + above.exp());
            let start = context.find(found).unwrap();
            let span = |text: &str, start: usize, score: f32| Span {
                text: text.to_owned(),
                start,
                end: start + text.len(),
                score,
                logit: score.ln(),
            };
            let mut spans = vec![span(found, start, 1.0 - none), span("", 0, none)];
            spans.sort_by(|a, b| b.score.total_cmp(&a.score));
            (text, Answer::Spans(spans), gold)
        });
        let answered = texts.iter().map(|(text, answer, gold)| Answered { text, answer, gold });
        let answered: Vec<Answered<'_>> = answered.collect();
        (kind.scores(&answered).metrics, kind.fitted(&answered))
    }

    #[test]
    fn scores_agree_with_the_official_script() {
        let (scores, fitted) = scored(0.0);
        for (found, due) in scores.iter().zip([0.493_333_333, 0.2, 0.488_888_889, 0.0, 0.5]) {
            assert!((found - due).abs() < 1e-6, "{scores:?}");
        }
        let Some(Kind::Span { no_answer: Some(threshold), .. }) = fitted else { panic!("{fitted:?}") };
        let (best, kept) = scored(threshold);
        assert!((best[0] - 0.693_333_333).abs() < 1e-6, "{threshold}: {best:?}");
        assert_eq!(kept, None, "the threshold of the task is kept");
    }
}
