//! Pictures of what training changed and of how it went.
//!
//! In: a [`Report`] that was made with its encoder, or logs of trainings. Out: a [`Picture`], which becomes SVG, PNG or lines
//! for a terminal. Refused: logs without what the picture is of, and logs whose scores are of different metrics.
//!
//! A picture is panels: cells in rows and columns, or lines over an axis. Each is laid out once, as rectangles, lines and
//! words, for both files; a terminal has places for characters only, and gets a layout of its own.

mod drawing;
mod logs;
mod png;
mod runs;
mod scale;
mod svg;
mod terminal;

use self::scale::Scale;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
    fn more_lines_than_can_be_told_apart_are_counted() {
        let of = |count: usize| {
            let series = |at: usize| Series { name: format!("log{at}"), pieces: vec![vec![(9.0, at as f64)]] };
            let series = (1..=count).map(series).collect();
            let lines = Lines { up: "score".to_owned(), across: "texts", logarithmic: true, series };
            Picture { title: String::new(), panels: vec![Panel::Lines(lines)] }
        };
        let (svg, text) = (of(30).svg(), of(30).text().join("\n"));
        assert!(svg.contains(">log14<") && !svg.contains(">log15<") && svg.contains(">and 16 more<"), "{svg}");
        // The lines in every colour's second turn, and the pieces before their names.
        assert_eq!(svg.matches(" stroke-dasharray=\"4\"").count(), 2 * 7);
        assert!(text.contains("z  log26") && !text.contains("log27") && text.ends_with("  and 4 more"), "{text}");
        // All that are named, and no more.
        assert!(!of(14).svg().contains(" more<") && !of(26).text().join("\n").contains(" more"));
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
}
