//! Pictures of what training changed and of how it went.
//!
//! In: a [`Report`] that was made with its encoder, logs of trainings, or kept results of a table. Out: a [`Picture`],
//! which becomes SVG, PNG or lines for a terminal. Refused: logs that lack what is to be drawn, and logs whose scores
//! are of different metrics.
//!
//! A picture is panels, one below the other: a heat map, or lines over an axis. SVG and PNG are drawn by the same code;
//! a terminal has a layout of its own.

mod axis;
mod draw;
mod kept;
mod logs;
mod runs;
mod terminal;

use self::axis::Axis;
use crate::{Report, Result};

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

/// A heat map of numbers that are not negative: the larger, the darker.
#[derive(Clone, Debug)]
struct Cells {
    /// The name of each row and its numbers; none where there is no number.
    rows: Vec<(String, Vec<Option<f32>>)>,
    columns: usize,
    /// What the columns are: the label of the x axis.
    across: String,
    largest: f32,
}

/// Lines in one plot.
#[derive(Clone, Debug)]
struct Lines {
    /// The label of the y axis.
    up: String,
    /// The label of the x axis.
    across: &'static str,
    /// Whether the x axis is logarithmic; then all x are above zero.
    logarithmic: bool,
    series: Vec<Series>,
}

/// A line through points, from left to right; it is in pieces where a value is missing.
#[derive(Clone, Debug)]
struct Series {
    name: String,
    pieces: Vec<Vec<(f64, f64)>>,
    /// How far a value may be off: the x, the least and the most.
    bars: Vec<(f64, f64, f64)>,
}

impl Picture {
    /// The change of each bias, and of B of each low-rank term, by module and layer: the paper's Figure 1, a panel for
    /// each patch, which has its name. Slots outside the layers are in the column of layer 0. The largest change of all
    /// is the darkest.
    pub fn of_changes(reports: &[(String, Report)]) -> Self {
        let mut panels: Vec<Cells> = reports.iter().map(|(_, report)| Cells::of_changes(report)).collect();
        let largest = panels.iter().map(|cells| cells.largest).fold(0.0, f32::max);
        panels.iter_mut().for_each(|cells| cells.largest = largest);
        let mut title = "mean absolute change by term and layer".to_owned();
        match reports {
            [(_, report)] => title = format!("{}: {title}", report.task.name()),
            reports => {
                let named = panels.iter_mut().zip(reports);
                named.for_each(|(cells, (name, _))| cells.across = format!("layer, {name}"));
            }
        }
        Picture { title, panels: panels.into_iter().map(Panel::Cells).collect() }
    }

    /// As SVG.
    ///
    /// # Errors
    /// When it would be too large to look at.
    pub fn svg(&self) -> Result<String> {
        draw::svg(self)
    }

    /// As PNG.
    ///
    /// # Errors
    /// As [`Picture::svg`].
    pub fn png(&self) -> Result<Vec<u8>> {
        draw::png(self)
    }

    /// As lines for a terminal.
    pub fn text(&self) -> Vec<String> {
        terminal::lines(self)
    }
}

impl Cells {
    fn of_changes(report: &Report) -> Self {
        let mut cells = Cells { rows: Vec::new(), columns: 1, across: "layer".to_owned(), largest: 0.0 };
        // A of a low-rank term starts at random, so its values say nothing of a change; B starts at zero.
        for slot in report.slots.iter().filter(|slot| !slot.slot.starts_with("lora_a.")) {
            let of_layer = slot.slot.rsplit_once('.').and_then(|(term, layer)| Some((term, layer.parse().ok()?)));
            let (term, layer): (&str, usize) = of_layer.unwrap_or((&slot.slot, 0));
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
        cells
    }

    /// A number as a fraction of the largest.
    fn fraction(&self, value: f32) -> f32 {
        if self.largest > 0.0 { value / self.largest } else { 0.0 }
    }
}

impl Lines {
    /// The x axis and the y axis; none where there is no point.
    fn axes(&self) -> Option<(Axis, Axis)> {
        /// So much of their range is left above and below lines.
        const MARGIN: f64 = 0.05;
        let points = || self.series.iter().flat_map(|series| series.pieces.iter().flatten());
        let x = points().map(|point| point.0);
        let x = if self.logarithmic { Axis::logarithmic(x) } else { Axis::linear(x, 0.0) };
        let bars = self.series.iter().flat_map(|series| &series.bars);
        let y = points().map(|point| point.1).chain(bars.flat_map(|bar| [bar.1, bar.2]));
        Some((x?, Axis::linear(y, MARGIN)?))
    }

    /// The legend entry for the lines after the first `drawn`, if there are more.
    fn rest(&self, drawn: usize) -> Option<String> {
        let more = self.series.len().saturating_sub(drawn);
        (more > 0).then(|| format!("and {more} more"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::SlotReport;

    fn report() -> Report {
        let slot = |slot: &str, change: f32| SlotReport {
            slot: slot.to_owned(),
            values: 4,
            encoding: "f32".to_owned(),
            mean_change: Some(change),
            largest_change: Some(change),
        };
        let task = r#"{"name":"mood","kind":"regression"}"#;
        Report {
            bytes: 1,
            encoder: String::new(),
            task: serde_json::from_str(task).unwrap(),
            slots: vec![slot("beln", 0.0), slot("bq.0", 0.1), slot("bq.1", 0.2), slot("bm2.1", 0.05)],
            head: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    fn changes() -> Picture {
        Picture::of_changes(&[("mood".to_owned(), report())])
    }

    #[test]
    fn several_patches_have_one_scale() {
        let (mut less, more) = (report(), report());
        less.slots.truncate(2);
        let named = |name: &str, report| (name.to_owned(), report);
        let lines = Picture::of_changes(&[named("less", less), named("more", more)]).text();
        assert_eq!(lines[..2], ["mean absolute change by term and layer", "           0  layer, less"]);
        // Half of the largest change of the other.
        assert_eq!((&*lines[3], &*lines[7]), ("bq       ▒▒▒", "bq       ▒▒▒ ███"));
    }

    #[test]
    fn every_change_has_its_place() {
        let picture = changes();
        let lines = picture.text();
        assert_eq!(lines[0], "mood: mean absolute change by term and layer");
        assert_eq!(lines[1], "           0   1  layer");
        assert_eq!(lines[3], "bq       ▒▒▒ ███");
        assert_eq!(lines[4], "bm2        - ░░░");
        let svg = picture.svg().unwrap();
        // The background, and a cell for each slot.
        assert_eq!(svg.matches("<rect").count(), 1 + 4);
        assert!(
            svg.contains("mood: mean absolute change") && svg.contains(">\n0.2000\n<") && svg.ends_with("</svg>\n")
        );
    }

    #[test]
    fn more_lines_than_can_be_told_apart_are_counted() {
        let of = |count: usize| {
            let series =
                |at: usize| Series { name: format!("log{at}"), pieces: vec![vec![(9.0, at as f64)]], bars: Vec::new() };
            let series = (1..=count).map(series).collect();
            let lines = Lines { up: "score".to_owned(), across: "texts", logarithmic: true, series };
            Picture { title: String::new(), panels: vec![Panel::Lines(lines)] }
        };
        let (svg, text) = (of(30).svg().unwrap(), of(30).text().join("\n"));
        let named = |name: &str| svg.contains(&format!(">\n{name}\n<"));
        assert!(named("log14") && !named("log15") && named("and 16 more"), "{svg}");
        assert!(text.contains("z  log26") && !text.contains("log27") && text.ends_with("  and 4 more"), "{text}");
        // All that are named, and no more.
        assert!(!of(14).svg().unwrap().contains(" more\n") && !of(26).text().join("\n").contains(" more"));
    }

    #[test]
    fn pngs_are_those_pictures() {
        let picture = changes();
        let size = draw::size(&picture).unwrap();
        let bytes = picture.png().unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&bytes[..])).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (2 * size.0, 2 * size.1));
        // A white background, and the darkest cell at the end of its row.
        assert_eq!(pixels[..3], [255, 255, 255]);
        let count = |color: [u8; 3]| pixels.chunks_exact(3).filter(|pixel| *pixel == color).count();
        assert!(count([8, 48, 107]) > 1000);
        // The title, row names and numbers are there: hundreds of dots of letters.
        assert!(count([0, 0, 0]) > 200);
    }
}
