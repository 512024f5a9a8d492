//! Span F1 of tagged words, as seqeval counts by default: entities of B-, I- and O labels, with E- and S- too where
//! there are such; L- and U- are other names of these. An entity is correct if its label and both ends are.

/// Whether labels mark entities: each is O, or something after B-, I-, E-, S-, L- or U-.
pub fn are_entities(labels: &[impl AsRef<str>]) -> bool {
    let begins = |label: &str| ["B-", "I-", "E-", "S-", "L-", "U-"].iter().any(|prefix| label.starts_with(prefix));
    let labels = || labels.iter().map(AsRef::as_ref);
    labels().any(begins) && labels().all(|label| label == "O" || begins(label))
}

/// F1 over the entities of all sentences. Each sentence is a list of predicted and a list of gold labels.
pub fn span_f1<'a>(sentences: impl Iterator<Item = (Vec<&'a str>, Vec<&'a str>)>) -> f64 {
    let (mut right, mut found, mut gold) = (0usize, 0usize, 0usize);
    for (of_found, of_gold) in sentences {
        let (of_found, of_gold) = (entities(&of_found), entities(&of_gold));
        right += of_found.iter().filter(|entity| of_gold.contains(entity)).count();
        found += of_found.len();
        gold += of_gold.len();
    }
    super::or_zero(2.0 * right as f64 / (found + gold) as f64)
}

/// What each entity is, its first word and the word after its last. One that begins with I- counts too.
fn entities<'a>(labels: &[&'a str]) -> Vec<(&'a str, usize, usize)> {
    let mut entities: Vec<(&str, usize, usize)> = Vec::new();
    let mut open = false;
    for (at, label) in labels.iter().enumerate() {
        let Some((prefix, name)) = label.split_once('-') else {
            open = false;
            continue;
        };
        let begins = matches!(prefix, "B" | "S" | "U");
        match entities.last_mut().filter(|last| open && !begins && last.0 == name) {
            Some(last) => last.2 = at + 1,
            None => entities.push((name, at, at + 1)),
        }
        open = !matches!(prefix, "E" | "L" | "S" | "U");
    }
    entities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_those_of_seqeval() {
        let of = |labels: &'static str| entities(&labels.split(' ').collect::<Vec<_>>());
        assert_eq!(of("B-A I-A O B-B"), [("A", 0, 2), ("B", 3, 4)]);
        assert_eq!(of("I-A I-A I-B B-B I-B"), [("A", 0, 2), ("B", 2, 3), ("B", 3, 5)]);
        assert_eq!(of("O O"), []);
        let due = [("A", 0, 2), ("A", 2, 3), ("A", 3, 4), ("B", 4, 6), ("B", 6, 7)];
        assert_eq!(of("B-A E-A S-A E-A I-B E-B I-B"), due);
        assert_eq!(of("B-A L-A U-A L-A I-B L-B I-B"), due);
    }

    #[test]
    fn values_agree_with_seqeval() {
        // Printed by tests/reference/metrics.py.
        for (found, gold, due) in SEQEVAL {
            let words = |labels: &'static str| labels.split(' ').collect::<Vec<_>>();
            let sentences = found.split(" | ").zip(gold.split(" | ")).map(|(f, g)| (words(f), words(g)));
            let value = span_f1(sentences);
            assert!((value - due).abs() < 1e-9, "{found}: {value}, expected {due}");
        }
    }

    const SEQEVAL: [(&str, &str, f64); 5] = [
        ("B-A I-A O B-B | O B-A", "B-A I-A O B-B | B-A I-A", 0.666_666_666_7),
        ("I-A I-A I-B B-B I-B | O", "B-A I-A B-B I-B I-B | B-C", 0.333_333_333_3),
        ("B-A B-A I-B I-A | O O", "B-A I-A I-B I-A | O O", 0.571_428_571_4),
        ("O O", "O O", 0.0),
        ("B-A E-A S-A S-A I-B E-B | E-A E-A O", "B-A E-A B-A E-A I-B E-B | S-A E-A S-B", 0.666_666_666_7),
    ];

    #[test]
    fn labels_of_entities_are_told_from_others() {
        let list = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        assert!(are_entities(&list(&["O", "B-PER", "I-PER"])));
        assert!(are_entities(&list(&["O", "B-PER", "I-PER", "L-PER", "U-PER"])));
        assert!(!are_entities(&list(&["NOUN", "VERB"])) && !are_entities(&list(&["O", "X"])));
    }
}
