//! Pictures of what training changed: the paper's Figure 1, the mean absolute change of each bias vector by layer.
//!
//! In: a [`Report`] that was made with its encoder. Out: a heat map as SVG, or as lines for a terminal.

use std::fmt::Write;

use crate::Report;

/// The changes of a report: terms in the order of the forward pass, layers, and for each of both the mean absolute change.
struct Changes {
    terms: Vec<String>,
    layers: usize,
    /// By term, then layer; none where the patch stores nothing.
    cells: Vec<Vec<Option<f32>>>,
    largest: f32,
}

impl Changes {
    /// Vectors outside the layers are in the column of layer 0.
    fn of(report: &Report) -> Self {
        let mut changes = Changes { terms: Vec::new(), layers: 1, cells: Vec::new(), largest: 0.0 };
        for slot in &report.slots {
            let (term, layer) = slot.slot.split_once('.').unwrap_or((&slot.slot, "0"));
            let layer: usize = layer.parse().unwrap_or(0);
            let row = changes.terms.iter().position(|known| known == term).unwrap_or_else(|| {
                changes.terms.push(term.to_owned());
                changes.cells.push(Vec::new());
                changes.terms.len() - 1
            });
            let cells = &mut changes.cells[row];
            cells.resize(cells.len().max(layer + 1), None);
            cells[layer] = slot.mean_change;
            changes.layers = changes.layers.max(layer + 1);
            changes.largest = changes.largest.max(slot.mean_change.unwrap_or(0.0));
        }
        changes
    }

    fn cell(&self, row: usize, layer: usize) -> Option<f32> {
        self.cells[row].get(layer).copied().flatten()
    }

    /// The change as a share of the largest.
    fn share(&self, change: f32) -> f32 {
        if self.largest > 0.0 { change / self.largest } else { 0.0 }
    }
}

/// A heat map for a terminal: darker where a vector changed more.
pub fn changes_as_text(report: &Report) -> Vec<String> {
    const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];
    let changes = Changes::of(report);
    let header: String = (0..changes.layers).map(|layer| format!("{layer:>4}")).collect();
    let mut lines = vec![format!("{:8}{header}  layer", "")];
    for (row, term) in changes.terms.iter().enumerate() {
        let cell = |layer| match changes.cell(row, layer) {
            // A share of at most 1.
            Some(change) => {
                format!(" {}", String::from(SHADES[(changes.share(change) * 4.0).round() as usize]).repeat(3))
            }
            None => "   -".to_owned(),
        };
        lines.push(format!("{term:8}{}", (0..changes.layers).map(cell).collect::<String>()));
    }
    lines.push(format!("mean absolute change, █ being {:.4}", changes.largest));
    lines
}

/// A heat map as SVG, with every change as a number.
pub fn changes_as_svg(report: &Report) -> String {
    const WIDTH: usize = 56;
    const HEIGHT: usize = 24;
    const LEFT: usize = 60;
    const TOP: usize = 44;
    let changes = Changes::of(report);
    let (width, height) = (LEFT + WIDTH * changes.layers + 10, TOP + HEIGHT * changes.terms.len() + 10);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"16\">{}: mean \
         absolute change by term and layer</text>\n",
        report.task.name()
    );
    // Writing to a String cannot fail.
    for layer in 0..changes.layers {
        let x = LEFT + WIDTH * layer + WIDTH / 2;
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{layer}</text>", TOP - 6);
    }
    for (row, term) in changes.terms.iter().enumerate() {
        let y = TOP + HEIGHT * row;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{term}</text>", LEFT - 6, y + 16);
        for layer in 0..changes.layers {
            let Some(change) = changes.cell(row, layer) else { continue };
            let (x, share) = (LEFT + WIDTH * layer, changes.share(change));
            // From white to a dark blue, on which the number is white.
            let part = |full: f32| (255.0 - share * (255.0 - full)).round();
            let ink = if share > 0.5 { "white" } else { "black" };
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"rgb({},{},{})\" stroke=\"#ddd\"/>\n\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{ink}\">{change:.4}</text>",
                part(8.0),
                part(48.0),
                part(107.0),
                x + WIDTH / 2,
                y + 16
            );
        }
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
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
            metadata: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn every_change_has_its_place() {
        let lines = changes_as_text(&report());
        assert_eq!(lines[0], "           0   1  layer");
        assert_eq!(lines[2], "bq       ▒▒▒ ███");
        assert_eq!(lines[3], "bm2        - ░░░");
        let svg = changes_as_svg(&report());
        assert_eq!(svg.matches("<rect").count(), 1 + 4);
        assert!(svg.contains("mood: mean absolute change") && svg.contains(">0.2000<") && svg.ends_with("</svg>\n"));
    }
}
