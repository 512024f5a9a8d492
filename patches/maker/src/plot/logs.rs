//! Pictures of logs of trainings: loss and scores of every run by step, or the scores of each log by its number of
//! training texts. Test scores have a panel of their own, where there are any. Errors name the log.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bias_patch::printable;

use super::{
    Lines, Panel, Picture, Series,
    runs::{Point, Run},
};
use crate::{
    Error, Result,
    log::{Entry, read_log},
};

impl Picture {
    /// Training loss, dev score and, where a test set was scored, test score of every run in logs of trainings, by step.
    ///
    /// # Errors
    /// When a log cannot be read or has no steps, or scores are of different metrics.
    pub fn of_training(logs: &[PathBuf]) -> Result<Self> {
        let (mut losses, mut scores, mut tests, mut metric) = (Vec::new(), Vec::new(), Vec::new(), None);
        for path in logs {
            let entries = read_log(path)?;
            same_metric(&entries, &mut metric, path)?;
            let runs = Run::all(&entries);
            if runs.iter().flat_map(|run| &run.losses).all(|point| point.1.is_none()) {
                return Err(nothing(path, "steps of a training"));
            }
            let several = (logs.len() > 1).then(|| name_of(path));
            for run in runs {
                let name = run.name(several.as_deref());
                losses.push(Series { name: name.clone(), pieces: pieces(&thinned(&run.losses)), bars: Vec::new() });
                scores.push(Series { name: name.clone(), pieces: pieces(&run.scores), bars: Vec::new() });
                tests.push(Series { name, pieces: pieces(&run.tests), bars: Vec::new() });
            }
        }
        let lines = |up: String, series| Lines { up, across: "step", logarithmic: false, series };
        let metric = metric.as_deref().unwrap_or("score");
        let mut panels = vec![Panel::Lines(lines("training loss".to_owned(), losses))];
        // A training that is in its first epoch has none, and many have no test set.
        for (set, series) in [("dev", scores), ("test", tests)] {
            if series.iter().any(|series| !series.pieces.is_empty()) {
                panels.push(Panel::Lines(lines(format!("{metric} on {set}"), series)));
            }
        }
        Ok(Picture { title: "training loss and score by step".to_owned(), panels })
    }

    /// The dev score, and the test score where a test set was scored, by the number of training texts, a line for each
    /// log, as in the paper's Figure 2.
    ///
    /// # Errors
    /// When a log cannot be read or has no sizes, or scores are of different metrics.
    pub fn of_sizes(logs: &[PathBuf]) -> Result<Self> {
        let (mut scores, mut tests, mut metric) = (Vec::new(), Vec::new(), None);
        for path in logs {
            let entries = read_log(path)?;
            same_metric(&entries, &mut metric, path)?;
            // The last result of a size counts: a resumed command appends to its log.
            let sizes: BTreeMap<usize, &Entry> = entries
                .iter()
                .filter_map(|entry| match entry {
                    Entry::Size { texts, dev: Some(dev), .. } if *texts > 0 && drawable(*dev) => Some((*texts, entry)),
                    _ => None,
                })
                .collect();
            if sizes.is_empty() {
                return Err(nothing(path, "scores of sizes, as edge-patch train --train-sizes --log writes them"));
            }
            scores.push(of_sizes(path, &sizes, |entry| match entry {
                Entry::Size { dev, deviation, .. } => (*dev, *deviation),
                _ => (None, None),
            }));
            tests.push(of_sizes(path, &sizes, |entry| match entry {
                Entry::Size { test, test_deviation, .. } => (*test, *test_deviation),
                _ => (None, None),
            }));
        }
        let metric = metric.as_deref().unwrap_or("score");
        let panel = |set: &str, series: Vec<Series>| {
            let up = format!("{metric} on {set}");
            Panel::Lines(Lines { up, across: "training texts", logarithmic: true, series })
        };
        let mut panels = vec![panel("dev", scores)];
        if tests.iter().any(|series| !series.pieces.is_empty()) {
            panels.push(panel("test", tests));
        }
        let title = "score by number of training texts".to_owned();
        Ok(Picture { title, panels })
    }
}

/// The scores of a log's sizes, and the bars of their deviations.
fn of_sizes(
    path: &Path,
    sizes: &BTreeMap<usize, &Entry>,
    score: impl Fn(&Entry) -> (Option<f64>, Option<f64>),
) -> Series {
    let scores = sizes.iter().map(|(texts, entry)| (*texts as f64, score(entry)));
    let points: Vec<Point> = scores.clone().map(|(texts, (mean, _))| (texts, mean)).collect();
    let bars = scores.filter_map(|(texts, (mean, deviation))| bar(texts, mean?, deviation?));
    Series { name: name_of(path), pieces: pieces(&points), bars: bars.collect() }
}

/// The bar of a deviation, if it can be drawn.
pub(super) fn bar(across: f64, mean: f64, deviation: f64) -> Option<(f64, f64, f64)> {
    (drawable(mean) && drawable(deviation)).then_some((across, mean - deviation, mean + deviation))
}

/// At most some hundred points, each the mean of equally many: the losses of single steps differ much.
fn thinned(points: &[Point]) -> Vec<Point> {
    const MOST: usize = 200;
    let mean = |some: &[Point]| {
        let values: Vec<f64> = some.iter().filter_map(|point| point.1).collect();
        let across = some.iter().map(|point| point.0).sum::<f64>() / some.len() as f64;
        (across, (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
    };
    points.chunks(points.len().div_ceil(MOST).max(1)).map(mean).collect()
}

/// Points in pieces, parted where a value is missing or too large to draw.
fn pieces(points: &[Point]) -> Vec<Vec<(f64, f64)>> {
    let drawn = |point: &Point| point.1.is_some_and(drawable);
    let pieces = points.split(|point| !drawn(point)).filter(|piece| !piece.is_empty());
    pieces.map(|piece| piece.iter().filter_map(|(across, value)| Some((*across, (*value)?))).collect()).collect()
}

/// Notes the metric that a log's scores are of.
///
/// # Errors
/// When it is another one than was noted.
fn same_metric(entries: &[Entry], metric: &mut Option<String>, path: &Path) -> Result<()> {
    for entry in entries {
        let (Entry::Epoch { metric: Some(found), .. } | Entry::Size { metric: Some(found), .. }) = entry else {
            continue;
        };
        let due = metric.get_or_insert_with(|| found.clone());
        if due != found {
            return Err(Error::Content {
                path: path.to_owned(),
                field: "metric".to_owned(),
                expected: format!("{due} in the whole picture"),
                found: found.clone(),
            });
        }
    }
    Ok(())
}

/// Whether an axis can span a value: differences of larger ones may be infinite.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() < 1e100
}

fn nothing(path: &Path, expected: &str) -> Error {
    Error::Content {
        path: path.to_owned(),
        field: "log".to_owned(),
        expected: expected.to_owned(),
        found: "none".to_owned(),
    }
}

/// The name of a log in a picture.
fn name_of(path: &Path) -> String {
    // XML has no control characters.
    printable(&path.file_stem().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use plotters::coord::ranged1d::Ranged;
    use tempfile::TempDir;

    use super::*;

    /// A log of each list of lines, in a directory.
    fn logs(texts: &[(&str, &str)]) -> (TempDir, Vec<PathBuf>) {
        let dir = TempDir::new().unwrap();
        let write = |(name, text): &(&str, &str)| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let paths = texts.iter().map(write).collect();
        (dir, paths)
    }

    #[test]
    fn runs_that_were_stopped_are_one_line_each() {
        let run = |seed: u64, step: u64| {
            format!(
                "{{\"event\":\"run\",\"run\":{seed},\"of\":2,\"learning_rate\":0.01,\"seed\":{seed},\"step\":{step},\"steps\":4}}\n"
            )
        };
        let step = |step: u64, loss: f64| format!("{{\"event\":\"step\",\"step\":{step},\"loss\":{loss}}}\n");
        let epoch =
            |dev: f64| format!("{{\"event\":\"epoch\",\"dev\":{dev},\"test\":{},\"metric\":\"F1\"}}\n", dev / 2.0);
        let whole = |seed, from: u64, losses: &[f64]| {
            let steps: String = losses.iter().enumerate().map(|(at, loss)| step(from + at as u64 + 1, *loss)).collect();
            run(seed, from) + &steps
        };
        let first = whole(1, 0, &[4.0, 3.0, 2.0, 1.0]) + &epoch(0.5);
        let second = whole(2, 0, &[5.0, 4.0, 3.0, 2.0]) + &epoch(0.75);
        // Stopped in the fourth step of the first run, and before the first checkpoint of the second. The resumed
        // command logs the result of an earlier size again.
        let size = "{\"event\":\"size\",\"texts\":9,\"dev\":0.1}\n";
        let parts = whole(1, 0, &[4.0, 3.0, 2.0])
            + size
            + &whole(1, 2, &[2.0, 1.0])
            + &epoch(0.5)
            + &whole(2, 0, &[5.0])
            + &second;
        let (_dir, paths) = logs(&[("whole.jsonl", &(first + &second)), ("parts.jsonl", &parts)]);
        let of = |path: &PathBuf| Picture::of_training(std::slice::from_ref(path)).unwrap();
        assert_eq!(of(&paths[0]).panels.len(), 3);
        let svg = of(&paths[0]).svg().unwrap();
        assert_eq!(svg, of(&paths[1]).svg().unwrap());
        for part in ["F1 on dev", "F1 on test", "learning rate 1e-2, seed 2", ">\nstep\n<"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        let both = Picture::of_training(&paths).unwrap().text().join("\n");
        assert!(
            both.contains("whole, learning rate 1e-2, seed 1") && both.contains("parts, learning rate 1e-2, seed 2"),
            "{both}"
        );
    }

    #[test]
    fn sizes_are_on_a_logarithmic_axis() {
        let size = |texts: usize, dev: &str| format!("{{\"event\":\"size\",\"texts\":{texts},\"dev\":{dev}}}\n");
        let ours =
            size(100, "0.1") + &size(1000, "0.6") + &size(10_000, "0.7") + &size(100, "0.5") + &size(30_000, "null");
        let theirs = size(10_000, "0.9") + &size(100, "0.2");
        let (_dir, paths) = logs(&[("bitfit.jsonl", &ours), ("full & frank.jsonl", &theirs)]);
        let picture = Picture::of_sizes(&paths).unwrap();
        let Panel::Lines(lines) = &picture.panels[0] else { panic!("no lines") };
        assert_eq!(lines.series[0].pieces, [[(100.0, 0.5), (1000.0, 0.6), (10_000.0, 0.7)]]);
        assert_eq!(lines.series[1].pieces, [[(100.0, 0.2), (10_000.0, 0.9)]]);
        let (across, _) = lines.axes().unwrap();
        let steps = [100.0, 1000.0, 10_000.0].map(|texts| across.map(&texts, (0, 3000)));
        assert!((steps[1] - steps[0] - (steps[2] - steps[1])).abs() <= 1, "{steps:?}");
        assert!(picture.svg().unwrap().contains("full &amp; frank"));
        let text = picture.text();
        assert!(text.iter().any(|line| line.ends_with("a  bitfit")), "{text:?}");
        assert_eq!(picture.panels.len(), 1);
        // With a test set, a second panel. One size was not scored on it.
        let tested = size(100, "0.5,\"test\":0.25") + &size(1000, "0.6") + &size(10_000, "0.7,\"test\":0.5");
        let (_dir, paths) = logs(&[("tested.jsonl", &tested), ("bitfit.jsonl", &ours)]);
        let picture = Picture::of_sizes(&paths).unwrap();
        let [Panel::Lines(_), Panel::Lines(lines)] = &picture.panels[..] else { panic!("no second panel") };
        assert_eq!(lines.up, "score on test");
        assert_eq!(lines.series[0].pieces, [[(100.0, 0.25)], [(10_000.0, 0.5)]]);
        assert!(lines.series[1].pieces.is_empty());
    }

    #[test]
    fn steps_of_no_run_are_drawn_and_a_missing_loss_is_a_gap() {
        let losses = ["4.0", "3.0", "null", "1.0"].into_iter().enumerate();
        let steps = losses.map(|(at, loss)| format!("{{\"event\":\"step\",\"step\":{at},\"loss\":{loss}}}\n"));
        let steps: String = steps.collect();
        let none = "{\"event\":\"step\",\"step\":1,\"loss\":null}\n";
        let (_dir, paths) = logs(&[("theirs.jsonl", &steps), ("none.jsonl", none)]);
        let picture = Picture::of_training(&paths[..1]).unwrap();
        let Panel::Lines(lines) = &picture.panels[0] else { panic!("no lines") };
        assert_eq!(lines.series[0].pieces, [vec![(0.0, 4.0), (1.0, 3.0)], vec![(3.0, 1.0)]]);
        // A mark at each of the three points.
        let svg = picture.svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(
            svg.contains(">\nunnamed run\n<") && picture.text().iter().any(|line| line.ends_with("a  unnamed run"))
        );
        let error = Picture::of_training(&paths[1..]).unwrap_err().to_string();
        assert!(error.contains("none.jsonl") && error.contains("steps of a training, found none"), "{error}");
    }

    #[test]
    fn logs_without_what_is_drawn_are_refused() {
        let epoch = |metric: &str| format!("{{\"event\":\"epoch\",\"dev\":0.5,\"metric\":\"{metric}\"}}\n");
        let (_dir, paths) = logs(&[("a.jsonl", &epoch("F1")), ("b.jsonl", &epoch("accuracy"))]);
        for (found, parts) in [
            (Picture::of_training(&paths[..1]), ["a.jsonl", "steps of a training, found none"]),
            (Picture::of_sizes(&paths[..1]), ["a.jsonl", "--train-sizes"]),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let mut metric = None;
        let both = paths.iter().map(|path| same_metric(&read_log(path).unwrap(), &mut metric, path));
        let error = both.collect::<Result<Vec<_>>>().unwrap_err().to_string();
        assert!(
            error.contains("b.jsonl") && error.contains("expected F1 in the whole picture, found accuracy"),
            "{error}"
        );
    }
}
