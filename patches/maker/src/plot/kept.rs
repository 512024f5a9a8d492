//! Pictures of kept results: what the bytes of a patch buy, a panel for each data set.

use std::path::Path;

use super::{
    Lines, Panel, Picture, Series,
    logs::{bar, drawable},
};
use crate::{
    Result,
    table::{Cell, Kept},
    train::best_rate,
};

impl Picture {
    /// The score of each row by the bytes of its patch in four bits, with the deviation over seeds, on test where there
    /// is a test set. Rows without a patch, such as full fine-tuning, are level lines.
    ///
    /// # Errors
    /// When the directory holds no results, or a data set that is asked for has none.
    pub fn of_results(results: &Path, columns: &[String]) -> Result<Self> {
        let kept = Kept::read(results)?;
        let report = kept.report(&[], columns)?;
        let panels = report.columns.iter().enumerate().map(|(column, name)| {
            let tested = report.tested(column);
            let cells = report.of_column(column);
            let bytes = |cell: &Cell| cell.patch.as_ref().map(|patch| patch.bytes[1].max(1) as f64);
            let known = || cells.iter().copied().flatten().filter_map(bytes);
            // A level line goes from the bytes of the smallest patch to those of the largest, and a bit beyond both.
            let (least, most) = (0.8 * known().fold(1e6, f64::min), 1.2 * known().fold(1.0, f64::max));
            let drawn = |cell: &Cell| {
                let of = best_rate(&cell.runs)?;
                let scores = if tested { of.test? } else { of.dev };
                let across = bytes(cell).map_or_else(|| vec![least.min(most), most], |bytes| vec![bytes]);
                let bars = bytes(cell).zip(scores.deviation).and_then(|(x, deviation)| bar(x, scores.mean, deviation));
                let points = across.into_iter().map(|x| (x, scores.mean)).collect();
                drawable(scores.mean).then(|| (vec![points], bars.into_iter().collect()))
            };
            // A row without a result keeps its color for the other panels.
            let series = report.rows.iter().zip(cells).map(|(row, cell)| {
                let (pieces, bars) = cell.and_then(drawn).unwrap_or_default();
                Series { name: row.name().to_owned(), pieces, bars }
            });
            let series = series.collect();
            let metric = cells.iter().flatten().next().map_or("", |cell| &*cell.metric);
            let set = if tested { "test" } else { "dev" };
            let up = format!("{name}: {metric} on {set}");
            Panel::Lines(Lines {
                up,
                across: "bytes of the patch in 4 bits; scores are of its exact values",
                logarithmic: true,
                series,
            })
        });
        Ok(Picture { title: "score by bytes".to_owned(), panels: panels.collect() })
    }
}
