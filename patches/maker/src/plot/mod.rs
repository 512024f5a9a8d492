//! Pictures of what training changed and of how it went.
//!
//! In: a [`Report`] that was made with its encoder, or logs of trainings. Out: a [`Picture`], which becomes SVG, PNG or lines
//! for a terminal. Refused: logs without what the picture is of, and logs whose scores are of different metrics.
//!
//! A picture is panels: cells in rows and columns, or lines over an axis. Each is laid out once, as rectangles, lines and
//! words, for both files; a terminal has places for characters only, and gets a layout of its own.

mod drawing;
mod png;
mod runs;
mod scale;
mod svg;
mod terminal;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use self::{runs::Run, scale::Scale};
use crate::{
    Error, Report, Result,
    log::{Entry, read_log},
};

/// A picture.
#[derive(Clone, Debug)]
pub struct Picture {
    title: String,
    /// One below the other.
    panels: Vec<Panel>,
}

#[derive(Clone, Debug)]
enum Panel {
    Cells(Cells),
    Lines(Lines),
}

/// Numbers from 0 in rows and columns: the darker, the larger.
#[derive(Clone, Debug)]
struct Cells {
    /// Each with its name, and none where there is no number.
    rows: Vec<(String, Vec<Option<f32>>)>,
    columns: usize,
    /// What columns are.
    across: &'static str,
    largest: f32,
}

/// Lines over one axis.
#[derive(Clone, Debug)]
struct Lines {
    /// What is up the other.
    up: String,
    across: &'static str,
    /// Whether the axis across is logarithmic; then all of its values are above zero.
    logarithmic: bool,
    series: Vec<Series>,
}

/// A line through points, from left to right; it is in pieces where a value is missing.
#[derive(Clone, Debug)]
struct Series {
    name: String,
    pieces: Vec<Vec<(f64, f64)>>,
}

/// A place across and, unless it is missing, a value.
type Point = (f64, Option<f64>);

impl Picture {
    /// The change of each bias vector by term and layer, the paper's Figure 1. Vectors outside the layers are in the column
    /// of layer 0.
    pub fn of_changes(report: &Report) -> Self {
        let mut cells = Cells { rows: Vec::new(), columns: 1, across: "layer", largest: 0.0 };
        for slot in &report.slots {
            let (term, layer) = slot.slot.split_once('.').unwrap_or((&slot.slot, "0"));
            let layer: usize = layer.parse().unwrap_or(0);
            let at = cells.rows.iter().position(|(known, _)| known == term).unwrap_or_else(|| {
                cells.rows.push((term.to_owned(), Vec::new()));
                cells.rows.len() - 1
            });
            let row = &mut cells.rows[at].1;
            row.resize(row.len().max(layer + 1), None);
            row[layer] = slot.mean_change;
            cells.columns = cells.columns.max(layer + 1);
            cells.largest = cells.largest.max(slot.mean_change.unwrap_or(0.0));
        }
        let title = format!("{}: mean absolute change by term and layer", report.task.name());
        Picture { title, panels: vec![Panel::Cells(cells)] }
    }

    /// Loss and score of every run in logs of trainings, against steps.
    ///
    /// # Errors
    /// When a log cannot be read or has no steps, or scores are of different metrics.
    pub fn of_training(logs: &[PathBuf]) -> Result<Self> {
        let (mut losses, mut scores, mut metric) = (Vec::new(), Vec::new(), None);
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
                losses.push(Series { name: name.clone(), pieces: pieces(&thinned(&run.losses)) });
                scores.push(Series { name, pieces: pieces(&run.scores) });
            }
        }
        let lines = |up: String, series| Lines { up, across: "steps", logarithmic: false, series };
        let up = format!("{} on dev", metric.as_deref().unwrap_or("score"));
        let mut panels = vec![Panel::Lines(lines("loss of a step's texts".to_owned(), losses))];
        // A training that is in its first pass has none.
        if scores.iter().any(|series| !series.pieces.is_empty()) {
            panels.push(Panel::Lines(lines(up, scores)));
        }
        Ok(Picture { title: "loss and score by step".to_owned(), panels })
    }

    /// Scores against how many texts were learned from, a line for each log, the paper's Figure 2.
    ///
    /// # Errors
    /// When a log cannot be read or has no sizes, or scores are of different metrics.
    pub fn of_sizes(logs: &[PathBuf]) -> Result<Self> {
        let (mut series, mut metric) = (Vec::new(), None);
        for path in logs {
            let entries = read_log(path)?;
            same_metric(&entries, &mut metric, path)?;
            // The last result of a size counts: a log goes on when its command runs again.
            let sizes = entries.iter().filter_map(|entry| match entry {
                Entry::Size { texts, dev: Some(dev), .. } if *texts > 0 => Some((*texts, *dev)),
                _ => None,
            });
            let sizes: BTreeMap<usize, f64> = sizes.collect();
            if sizes.is_empty() {
                return Err(nothing(path, "scores of sizes, as edge-patch train --train-sizes --log writes them"));
            }
            let points = sizes.into_iter().map(|(texts, dev)| (texts as f64, dev)).collect();
            series.push(Series { name: name_of(path), pieces: vec![points] });
        }
        let up = format!("{} on dev", metric.as_deref().unwrap_or("score"));
        let title = "score by texts learned from".to_owned();
        let lines = Lines { up, across: "texts learned from", logarithmic: true, series };
        Ok(Picture { title, panels: vec![Panel::Lines(lines)] })
    }

    /// As SVG.
    pub fn svg(&self) -> String {
        svg::write(&self.drawing())
    }

    /// As PNG.
    ///
    /// # Errors
    /// When it is larger than a PNG can be.
    pub fn png(&self) -> Result<Vec<u8>> {
        png::write(&self.drawing())
    }

    /// As lines for a terminal.
    pub fn text(&self) -> Vec<String> {
        terminal::lines(self)
    }
}

impl Cells {
    /// A number as a share of the largest.
    fn share(&self, value: f32) -> f32 {
        if self.largest > 0.0 { value / self.largest } else { 0.0 }
    }
}

impl Lines {
    /// The axes across and up; none where there is no point.
    fn scales(&self) -> Option<(Scale, Scale)> {
        let points = || self.series.iter().flat_map(|series| series.pieces.iter().flatten());
        Some((
            Scale::of(points().map(|point| point.0), self.logarithmic)?,
            Scale::of(points().map(|point| point.1), false)?,
        ))
    }

    /// What is said of lines after the first `drawn`, if there are more.
    fn rest(&self, drawn: usize) -> Option<String> {
        let more = self.series.len().saturating_sub(drawn);
        (more > 0).then(|| format!("and {more} more"))
    }
}

/// At most some hundred points: each the mean of as many, for single steps differ much.
fn thinned(points: &[Point]) -> Vec<Point> {
    const MOST: usize = 200;
    let mean = |some: &[Point]| {
        let values: Vec<f64> = some.iter().filter_map(|point| point.1).collect();
        let across = some.iter().map(|point| point.0).sum::<f64>() / some.len() as f64;
        (across, (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
    };
    points.chunks(points.len().div_ceil(MOST).max(1)).map(mean).collect()
}

/// Points from one whose value is missing to the next.
fn pieces(points: &[Point]) -> Vec<Vec<(f64, f64)>> {
    let pieces = points.split(|point| point.1.is_none()).filter(|piece| !piece.is_empty());
    pieces.map(|piece| piece.iter().filter_map(|(across, value)| Some((*across, (*value)?))).collect()).collect()
}

/// Notes the metric that a log's scores are of.
///
/// # Errors
/// When it is another one than was noted.
fn same_metric(entries: &[Entry], metric: &mut Option<String>, path: &Path) -> Result<()> {
    for entry in entries {
        let (Entry::Pass { metric: Some(found), .. } | Entry::Size { metric: Some(found), .. }) = entry else {
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

fn nothing(path: &Path, expected: &str) -> Error {
    Error::Content {
        path: path.to_owned(),
        field: "log".to_owned(),
        expected: expected.to_owned(),
        found: "none".to_owned(),
    }
}

/// What a log is called in a picture.
fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::SlotReport;

    fn changes() -> Picture {
        let slot = |slot: &str, change: f32| SlotReport {
            slot: slot.to_owned(),
            values: 4,
            encoding: "f32".to_owned(),
            mean_change: Some(change),
            largest_change: Some(change),
        };
        let task = r#"{"name":"mood","kind":"regression"}"#;
        Picture::of_changes(&Report {
            bytes: 1,
            encoder: String::new(),
            task: serde_json::from_str(task).unwrap(),
            slots: vec![slot("beln", 0.0), slot("bq.0", 0.1), slot("bq.1", 0.2), slot("bm2.1", 0.05)],
            head: Vec::new(),
            metadata: BTreeMap::new(),
        })
    }

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
    fn every_change_has_its_place() {
        let picture = changes();
        let lines = picture.text();
        assert_eq!(lines[0], "mood: mean absolute change by term and layer");
        assert_eq!(lines[1], "           0   1  layer");
        assert_eq!(lines[3], "bq       ▒▒▒ ███");
        assert_eq!(lines[4], "bm2        - ░░░");
        let svg = picture.svg();
        assert_eq!(svg.matches("<rect").count(), 1 + 4);
        assert!(svg.contains("mood: mean absolute change") && svg.contains(">0.2000<") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn runs_that_were_stopped_are_one_line_each() {
        let run = |seed: u64, step: u64| {
            format!(
                "{{\"event\":\"run\",\"run\":{seed},\"of\":2,\"lr\":0.01,\"seed\":{seed},\"step\":{step},\"steps\":4}}\n"
            )
        };
        let step = |step: u64, loss: f64| format!("{{\"event\":\"step\",\"step\":{step},\"loss\":{loss}}}\n");
        let pass = |dev: f64| format!("{{\"event\":\"pass\",\"dev\":{dev},\"metric\":\"F1\"}}\n");
        let whole = |seed, from: u64, losses: &[f64]| {
            let steps: String = losses.iter().enumerate().map(|(at, loss)| step(from + at as u64 + 1, *loss)).collect();
            run(seed, from) + &steps
        };
        let first = whole(1, 0, &[4.0, 3.0, 2.0, 1.0]) + &pass(0.5);
        let second = whole(2, 0, &[5.0, 4.0, 3.0, 2.0]) + &pass(0.75);
        // Stopped in the fourth step of the first run, and before the first checkpoint of the second. When its command runs
        // again it says once more what an earlier size came to.
        let size = "{\"event\":\"size\",\"texts\":9,\"dev\":0.1}\n";
        let parts = whole(1, 0, &[4.0, 3.0, 2.0])
            + size
            + &whole(1, 2, &[2.0, 1.0])
            + &pass(0.5)
            + &whole(2, 0, &[5.0])
            + &second;
        let (_dir, paths) = logs(&[("whole.jsonl", &(first + &second)), ("parts.jsonl", &parts)]);
        let of = |path: &PathBuf| Picture::of_training(std::slice::from_ref(path)).unwrap();
        assert_eq!(of(&paths[0]).panels.len(), 2);
        let svg = of(&paths[0]).svg();
        assert_eq!(svg, of(&paths[1]).svg());
        for part in ["F1 on dev", "rate 1e-2, seed 2", ">steps<"] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        let both = Picture::of_training(&paths).unwrap().text().join("\n");
        assert!(both.contains("whole, rate 1e-2, seed 1") && both.contains("parts, rate 1e-2, seed 2"), "{both}");
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
        let (across, _) = lines.scales().unwrap();
        let steps = [100.0, 1000.0, 10_000.0].map(|texts| across.share(texts));
        assert!((steps[1] - steps[0] - (steps[2] - steps[1])).abs() < 1e-9, "{steps:?}");
        assert!(picture.svg().contains("full &amp; frank"));
        let text = picture.text();
        assert!(text.iter().any(|line| line.ends_with("a  bitfit")), "{text:?}");
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
        // The paper, and a mark at each of the three points.
        let svg = picture.svg();
        assert_eq!(svg.matches("<rect").count(), 1 + 3);
        assert!(svg.contains(">unnamed run<") && picture.text().iter().any(|line| line.ends_with("a  unnamed run")));
        let error = Picture::of_training(&paths[1..]).unwrap_err().to_string();
        assert!(error.contains("none.jsonl") && error.contains("steps of a training, found none"), "{error}");
    }

    #[test]
    fn more_lines_than_can_be_told_apart_are_counted() {
        let size = |at: usize| format!("{{\"event\":\"size\",\"texts\":9,\"dev\":0.{at}}}\n");
        let texts: Vec<(String, String)> = (10..40).map(|at| (format!("log{at}.jsonl"), size(at))).collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (&name[..], &text[..])).collect();
        let (_dir, paths) = logs(&texts);
        let picture = Picture::of_sizes(&paths).unwrap();
        let (svg, text) = (picture.svg(), picture.text().join("\n"));
        assert!(svg.contains(">log23<") && !svg.contains(">log24<") && svg.contains(">and 16 more<"), "{svg}");
        // The lines in every colour's second turn, and the pieces before their names.
        assert_eq!(svg.matches(" stroke-dasharray=\"4\"").count(), 2 * 7);
        assert!(text.contains("z  log35") && !text.contains("log36") && text.ends_with("  and 4 more"), "{text}");
        // All that are named, and no more.
        assert!(Picture::of_sizes(&paths[..14]).unwrap().svg().matches(" more<").count() == 0);
    }

    #[test]
    fn pngs_are_those_pictures() {
        let picture = changes();
        let drawing = picture.drawing();
        let bytes = picture.png().unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&bytes[..])).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((f64::from(info.width), f64::from(info.height)), (2.0 * drawing.width, 2.0 * drawing.height));
        // White paper, and the darkest cell at the end of its row.
        assert_eq!(pixels[..3], [255, 255, 255]);
        let darkest = [8, 48, 107];
        assert!(pixels.chunks_exact(3).filter(|pixel| *pixel == darkest).count() > 1000);
    }

    #[test]
    fn logs_without_what_is_drawn_are_refused() {
        let pass = |metric: &str| format!("{{\"event\":\"pass\",\"dev\":0.5,\"metric\":\"{metric}\"}}\n");
        let (_dir, paths) = logs(&[("a.jsonl", &pass("F1")), ("b.jsonl", &pass("accuracy"))]);
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
