//! Labels that are given at run time, ranked for a text by the cosine of their embeddings and the text's.
//!
//! In: labels, a template, and tasks. Out: for a vector, labels with cosines, the nearest first. Refused: tasks of which
//! none is an embedding task, empty and repeated labels, and a template without a place for the label.
//!
//! A cosine says how near two texts are. It is no probability, and no head was trained for these labels.

use std::sync::Arc;

use bias_patch::quoted;

use crate::{Answer, Encoder, Error, Options, Prediction, Ranked, Request, Result, Task, Text, tasks::cosine};

/// Where a template has its label.
const PLACE: &str = "{}";

/// Labels with their vectors.
pub struct LabelVectors {
    names: Vec<Arc<str>>,
    /// For each task, the vector of each label; none for a task that gives no vectors.
    of_tasks: Vec<Vec<Vec<f32>>>,
}

impl LabelVectors {
    /// Embeds each label with each embedding task, put into the template where that has `{}`.
    ///
    /// # Errors
    /// When a label or the template is refused, no task gives vectors, or the engine fails.
    pub fn new(encoder: &Encoder, tasks: &[Task], labels: &[String], template: &str, options: Options) -> Result<Self> {
        let refused = |place: &str, expected: &str, found: String| {
            Err(Error::Usage { option: place.to_owned(), expected: expected.to_owned(), found })
        };
        let names: Vec<Arc<str>> = labels.iter().map(|label| label.trim().into()).collect();
        if let Some(at) = names.iter().position(|name| name.is_empty()) {
            return refused("--labels", "labels with commas between", format!("none as label {}", at + 1));
        }
        if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
            return refused("--labels", "each label once", format!("{} twice", quoted(name)));
        }
        if !template.contains(PLACE) {
            return refused("--template", "a text with {} in the label's place", quoted(template));
        }
        let texts: Vec<Text> = names.iter().map(|name| Text::one(template.replace(PLACE, name))).collect();
        let mut of_tasks = Vec::with_capacity(tasks.len());
        for task in tasks {
            let mut vectors = Vec::new();
            if matches!(task.spec().kind(), bias_patch::Kind::Embedding(_)) {
                let requests: Vec<Request<'_>> = texts.iter().map(|text| Request { task, text }).collect();
                for (prediction, name) in encoder.predict_with(&requests, options).into_iter().zip(&names) {
                    let prediction = prediction?;
                    if prediction.truncated {
                        return refused(
                            "--labels",
                            "labels and a template within the task's limit of tokens",
                            quoted(name),
                        );
                    }
                    if let Answer::Vector(vector) = prediction.answer {
                        vectors.push(vector);
                    }
                }
            }
            of_tasks.push(vectors);
        }
        if of_tasks.iter().all(Vec::is_empty) {
            let kinds: Vec<&str> = tasks.iter().map(|task| task.spec().kind().name()).collect();
            return refused("--labels", "an embedding task", kinds.join(" and "));
        }
        Ok(LabelVectors { names, of_tasks })
    }

    /// The labels, in their order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// The answer of the task with number `task`, as counted in [`LabelVectors::new`]: of a vector, the `top` nearest
    /// labels. Other answers stay as they are.
    pub fn rank(&self, task: usize, prediction: Prediction, top: usize) -> Prediction {
        let Answer::Vector(vector) = &prediction.answer else { return prediction };
        let cosines = self.of_tasks.get(task).into_iter().flatten().map(|label| cosine(vector, label) as f32);
        let mut ranked: Vec<Ranked> =
            self.names.iter().zip(cosines).map(|(name, score)| Ranked { label: name.clone(), score }).collect();
        // Stable: of equal cosines the first label stays first.
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
        ranked.truncate(top.max(1));
        // The values of the vector are no logits of labels.
        Prediction { answer: Answer::Labels(ranked), logits: Vec::new(), ..prediction }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ranked_by_the_cosine() {
        let labels = ["near", "far", "zero", "same"].map(Arc::from).to_vec();
        let of_tasks = vec![vec![], vec![vec![2.0, 2.0], vec![-1.0, 0.0], vec![0.0, 0.0], vec![1.0, 1.0]]];
        let vectors = LabelVectors { names: labels, of_tasks };
        let given = Prediction {
            answer: Answer::Vector(vec![3.0, 4.0]),
            logits: vec![3.0, 4.0],
            truncated: true,
            timing: Default::default(),
        };
        let found = vectors.rank(1, given, 9);
        let Answer::Labels(ranked) = found.answer else { panic!("no labels") };
        let ranked: Vec<(&str, f32)> = ranked.iter().map(|r| (&*r.label, r.score)).collect();
        let near = 7.0 / (5.0 * 2.0f32.sqrt());
        assert_eq!(ranked, [("near", near), ("same", near), ("zero", 0.0), ("far", -0.6)]);
        assert!(found.truncated && found.logits.is_empty());
    }
}
