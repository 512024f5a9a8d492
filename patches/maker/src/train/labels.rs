//! What each label counts in the loss.
//!
//! In: labelled texts. Out: a weight for each of the task's labels. Refused: a task in which no label excludes the others.

use bias_patch::{Kind, Task};

use super::{ClassWeights, wrong};
use crate::{Result, data::Example};

/// The weights; none where all labels count alike.
///
/// Balanced ones are scikit-learn's: `n / (classes * count)` for n texts, or words, of which `count` have the label. Only
/// classes that occur are counted, so that the mean over the texts is 1. A label that does not occur has weight 0.
pub(super) fn label_weights(task: &Task, texts: &[Example], how: ClassWeights) -> Result<Vec<f64>> {
    if how == ClassWeights::None {
        return Ok(Vec::new());
    }
    if !matches!(task.kind(), Kind::Classification { .. } | Kind::Tagging { .. }) {
        return Err(wrong(
            "--class-weights",
            "none, or a task in which one label excludes the others",
            task.kind().name(),
        ));
    }
    let mut counts = vec![0usize; task.kind().labels().len()];
    for class in texts.iter().flat_map(|example| example.gold.classes()) {
        counts[*class] += 1;
    }
    let (n, classes) = (counts.iter().sum::<usize>(), counts.iter().filter(|count| **count > 0).count());
    let weight = |count: usize| if count == 0 { 0.0 } else { n as f64 / (classes * count) as f64 };
    Ok(counts.into_iter().map(weight).collect())
}

#[cfg(test)]
mod tests {
    use edge_run::{Text, tasks::Gold};

    use super::*;

    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        let task = |kind: &str, labels: Option<&[&str]>| -> Task {
            serde_json::from_value(serde_json::json!({ "name": "a", "kind": kind, "labels": labels })).unwrap()
        };
        let texts = |golds: Vec<Gold>| -> Vec<Example> {
            golds.into_iter().map(|gold| Example { text: Text::one("x"), gold }).collect()
        };
        let three = task("classification", Some(&["a", "b", "c"]));
        // compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 0, 0, 1, 1, 2])
        let classes = texts([0, 0, 0, 1, 1, 2].map(Gold::Class).to_vec());
        assert_eq!(label_weights(&three, &classes, ClassWeights::Balanced).unwrap(), [6.0 / 9.0, 1.0, 2.0]);
        assert_eq!(label_weights(&three, &classes, ClassWeights::None).unwrap(), [0.0; 0]);
        // Of tags the words count, and a label that does not occur is no class.
        let tags = texts(vec![Gold::Tags(vec![0, 0, 0]), Gold::Tags(vec![2])]);
        let found = label_weights(&task("tagging", Some(&["a", "b", "c"])), &tags, ClassWeights::Balanced).unwrap();
        assert_eq!(found, [4.0 / 6.0, 0.0, 2.0]);
        let number = label_weights(&task("regression", None), &texts(vec![Gold::Value(1.0)]), ClassWeights::Balanced);
        let error = number.unwrap_err().to_string();
        assert!(error.contains("--class-weights") && error.contains("regression"), "{error}");
    }
}
