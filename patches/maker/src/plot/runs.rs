//! The runs in a log. A run that was stopped and resumed is one run here.

use crate::log::Entry;

/// A step and the value at it, if there is one.
pub(super) type Point = (f64, Option<f64>);

/// A run in a log.
#[derive(Default)]
pub(super) struct Run {
    /// The entry that it begins with, its step set to 0; none if the log has no such entry.
    of: Option<Entry>,
    pub losses: Vec<Point>,
    pub scores: Vec<Point>,
    /// On a test set, of the epochs that were scored on it.
    pub tests: Vec<Point>,
}

impl Run {
    /// All runs of a log, in their order.
    pub fn all(entries: &[Entry]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for entry in entries {
            match entry {
                Entry::Run { step, .. } => {
                    let mut first = entry.clone();
                    if let Entry::Run { step, .. } = &mut first {
                        *step = 0;
                    }
                    let of = Some(first);
                    match runs.last_mut().filter(|last| last.of == of) {
                        // It was stopped and resumed from a checkpoint: the steps after the checkpoint are done again.
                        Some(last) => [&mut last.losses, &mut last.scores, &mut last.tests]
                            .into_iter()
                            .for_each(|points| points.retain(|point| point.0 <= *step as f64)),
                        None => runs.push(Run { of, ..Run::default() }),
                    }
                }
                Entry::Step { step, loss, .. } => {
                    if runs.is_empty() {
                        runs.push(Run::default());
                    }
                    if let Some(run) = runs.last_mut() {
                        run.losses.push((*step as f64, *loss));
                    }
                }
                Entry::Epoch { dev, test, .. } => {
                    if let Some(run) = runs.last_mut() {
                        let step = run.losses.last().map_or(0.0, |point| point.0);
                        run.scores.push((step, *dev));
                        run.tests.extend(test.map(|test| (step, Some(test))));
                    }
                }
                _ => {}
            }
        }
        runs
    }

    /// Its name in a legend, with the name of its log if there are several.
    pub fn name(&self, log: Option<&str>) -> String {
        let log = log.map_or(String::new(), |log| format!("{log}, "));
        let Some(Entry::Run { trained, texts, learning_rate, seed, .. }) = &self.of else {
            return format!("{log}unnamed run");
        };
        // Logs of other trainers may lack both.
        let trained = if trained.is_empty() { String::new() } else { format!("{trained}, ") };
        let texts = if *texts > 0 { format!(", {texts} texts") } else { String::new() };
        format!("{log}{trained}learning rate {learning_rate:e}, seed {seed}{texts}")
    }
}
