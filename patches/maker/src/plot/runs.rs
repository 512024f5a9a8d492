//! The runs that a log tells of, each in one piece however often its training was stopped.

use crate::log::Entry;

/// A place across and, unless it is missing, a value.
pub(super) type Point = (f64, Option<f64>);

/// A run of a training, as its log tells of it.
#[derive(Default)]
pub(super) struct Run {
    /// The entry that it begins with, as if it had been at its first step; none if the log does not say.
    of: Option<Entry>,
    pub losses: Vec<Point>,
    pub scores: Vec<Point>,
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
                        // It was stopped and goes on from its checkpoint: what came after that is done once more.
                        Some(last) => [&mut last.losses, &mut last.scores]
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
                Entry::Pass { dev, .. } => {
                    if let Some(run) = runs.last_mut() {
                        let step = run.losses.last().map_or(0.0, |point| point.0);
                        run.scores.push((step, *dev));
                    }
                }
                _ => {}
            }
        }
        runs
    }

    /// What it is called in a picture, perhaps of several logs.
    pub fn name(&self, log: Option<&str>) -> String {
        let log = log.map_or(String::new(), |log| format!("{log}, "));
        let Some(Entry::Run { trained, texts, lr, seed, .. }) = &self.of else { return format!("{log}unnamed run") };
        // Other trainers may not say.
        let trained = if trained.is_empty() { String::new() } else { format!("{trained}, ") };
        let texts = if *texts > 0 { format!(", {texts} texts") } else { String::new() };
        format!("{log}{trained}rate {lr:e}, seed {seed}{texts}")
    }
}
