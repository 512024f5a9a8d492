//! Exact match and F1 of extracted answers, as in the official scripts of SQuAD 1.1 and 2.0. Case, punctuation, articles and
//! extra white space are ignored, and the best-matching gold answer counts.

use std::collections::BTreeMap;

/// 1 if an answer equals a gold answer, else 0.
pub fn exact_match(found: &str, gold: &[String]) -> f64 {
    let found = normalize(found);
    f64::from(u8::from(gold.iter().any(|gold| normalize(gold) == found)))
}

/// F1 of an answer's words against the gold answer that gives the highest.
pub fn answer_f1(found: &str, gold: &[String]) -> f64 {
    let found = normalize(found);
    gold.iter().map(|gold| words_f1(&found, &normalize(gold))).fold(0.0, f64::max)
}

fn words_f1(found: &str, gold: &str) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    gold.split(' ').filter(|word| !word.is_empty()).for_each(|word| *left.entry(word).or_default() += 1);
    let of_gold: usize = left.values().sum();
    let (mut same, mut of_found) = (0.0, 0.0);
    for word in found.split(' ').filter(|word| !word.is_empty()) {
        of_found += 1.0;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            same += 1.0;
        }
    }
    super::or_zero(2.0 * same / (of_found + of_gold as f64))
}

/// Lower case; without the punctuation of ASCII; without articles; words one space apart.
fn normalize(answer: &str) -> String {
    let lower = answer.to_lowercase();
    let mut plain = String::new();
    let mut word = String::new();
    let end = |word: &mut String, plain: &mut String| {
        let article = matches!(word.as_str(), "a" | "an" | "the");
        plain.push_str(if article { " " } else { word });
        word.clear();
    };
    for c in lower.chars().filter(|c| !c.is_ascii_punctuation()) {
        if c.is_alphanumeric() {
            word.push(c);
        } else {
            end(&mut word, &mut plain);
            plain.push(c);
        }
    }
    end(&mut word, &mut plain);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_normalized_as_the_official_script_does() {
        for (answer, due) in [
            ("The  Denver Broncos!", "denver broncos"),
            ("an-other \"A\" day", "another day"),
            ("theatre\tof the absurd", "theatre of absurd"),
            ("1,200 $", "1200"),
            ("a — the", "—"),
        ] {
            assert_eq!(normalize(answer), due);
        }
    }

    #[test]
    fn values_agree_with_the_official_script() {
        // Printed by tests/reference/metrics.py.
        for (found, gold, exact, f1) in [
            ("the year 1943", &["1943", "7 January 1943"][..], 0.0, 0.666_666_666_7),
            ("Nikola Tesla.", &["nikola tesla"][..], 1.0, 1.0),
            ("very very good", &["very good", "good"][..], 0.0, 0.8),
            ("the", &["a"][..], 1.0, 0.0),
            ("cat", &["dog"][..], 0.0, 0.0),
        ] {
            let gold: Vec<String> = gold.iter().map(|gold| (*gold).to_owned()).collect();
            assert_eq!(exact_match(found, &gold), exact, "{found}");
            assert!((answer_f1(found, &gold) - f1).abs() < 1e-9, "{found}");
        }
    }
}
