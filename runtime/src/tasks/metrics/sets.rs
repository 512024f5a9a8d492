//! Metrics of sets of labels, as scikit-learn defines them. For each text, a list has a value for each label.

/// F1 over all pairs of text and label; 0 without a label, found or gold.
pub fn micro_f1_of_sets(found: &[Vec<bool>], gold: &[Vec<bool>]) -> f64 {
    f1(found.iter().flatten().zip(gold.iter().flatten()))
}

/// The mean over labels of each label's F1; a label that is neither found nor gold has 0.
pub fn macro_f1_of_sets(found: &[Vec<bool>], gold: &[Vec<bool>]) -> f64 {
    let labels = gold.first().map_or(0, Vec::len);
    let of = |label: usize| f1(found.iter().zip(gold).map(|(found, gold)| (&found[label], &gold[label])));
    (0..labels).map(of).sum::<f64>() / labels.max(1) as f64
}

fn f1<'a>(pairs: impl Iterator<Item = (&'a bool, &'a bool)>) -> f64 {
    let (mut both, mut all) = (0.0, 0.0);
    for (found, gold) in pairs {
        both += f64::from(u8::from(*found && *gold));
        all += f64::from(u8::from(*found)) + f64::from(u8::from(*gold));
    }
    if all > 0.0 { 2.0 * both / all } else { 0.0 }
}

/// The threshold at which one label has its highest F1, from its score in each text and whether it is gold: half way
/// between two scores, and of several that are equally good the highest. None if no text has the label.
pub(crate) fn best_threshold(mut texts: Vec<(f32, bool)>) -> Option<f32> {
    texts.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let gold = texts.iter().filter(|(_, gold)| *gold).count();
    let (mut both, mut best, mut chosen) = (0, 0.0, None);
    for (at, (score, is_gold)) in texts.iter().enumerate() {
        both += usize::from(*is_gold);
        let f1 = 2.0 * both as f64 / (at + 1 + gold) as f64;
        let next = texts.get(at + 1).map_or(0.0, |(next, _)| *next);
        if f1 > best && next < *score {
            best = f1;
            chosen = Some(next + (score - next) / 2.0);
        }
    }
    chosen
}

/// The mean over texts of label ranking average precision: for each gold label, the fraction of gold labels among
/// those that score as high. A text of which no label or every label is gold has 1.
pub fn label_ranking(scores: &[Vec<f32>], gold: &[Vec<bool>]) -> f64 {
    let of_text = |(scores, gold): (&Vec<f32>, &Vec<bool>)| {
        let relevant = gold.iter().filter(|gold| **gold).count();
        if relevant == 0 || relevant == gold.len() {
            return 1.0;
        }
        let precision = scores.iter().zip(gold).filter(|(_, gold)| **gold).map(|(score, _)| {
            let above = scores.iter().zip(gold).filter(|(other, _)| *other >= score);
            let right = above.clone().filter(|(_, gold)| **gold).count();
            right as f64 / above.count() as f64
        });
        precision.sum::<f64>() / relevant as f64
    };
    scores.iter().zip(gold).map(of_text).sum::<f64>() / scores.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_threshold_has_the_highest_f1() {
        let texts = vec![(0.25, true), (0.75, true), (0.5, false), (0.125, false), (0.5, false), (0.0, false)];
        // From 0.75: 2/3; from 0.25: 2 of 4 and 2 of 2, 2/3 too; of equals the highest.
        assert_eq!(best_threshold(texts.clone()), Some(0.625));
        assert_eq!(best_threshold(texts[..2].to_vec()), Some(0.125));
        assert_eq!(best_threshold(vec![(0.5, false), (0.75, false)]), None);
        // Between equal scores there is no threshold.
        assert_eq!(best_threshold(vec![(0.5, false), (0.5, true), (0.25, false)]), Some(0.375));
    }

    /// Values of scikit-learn 1.9.1, by tests/reference/metrics.py.
    #[test]
    fn scores_are_those_of_scikit_learn() {
        let scores: [[f32; 4]; 6] = [
            [0.9, 0.2, 0.6, 0.1],
            [0.4, 0.8, 0.3, 0.1],
            [0.7, 0.7, 0.2, 0.1],
            [0.1, 0.2, 0.3, 0.4],
            [0.6, 0.4, 0.9, 0.2],
            [0.3, 0.1, 0.1, 0.05],
        ];
        let gold = [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]];
        let scores: Vec<Vec<f32>> = scores.iter().map(|row| row.to_vec()).collect();
        let gold: Vec<Vec<bool>> = gold.iter().map(|row| row.iter().map(|g| *g == 1).collect()).collect();
        let found: Vec<Vec<bool>> = scores.iter().map(|row| row.iter().map(|s| *s >= 0.5).collect()).collect();
        for (name, due, value) in [
            ("micro F1", 0.625, micro_f1_of_sets(&found, &gold)),
            ("macro F1", 0.458_333_333_333_333_3, macro_f1_of_sets(&found, &gold)),
            ("label ranking", 0.791_666_666_666_666_6, label_ranking(&scores, &gold)),
        ] {
            assert!((value - due).abs() < 1e-12, "{name}: {value}, expected {due}");
        }
    }
}
