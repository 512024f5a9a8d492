//! Pictures of kept results: what the bytes of a patch buy, a panel for each data set.

use std::path::Path;

use super::{
    Lines, Panel, Picture, Series,
    logs::{bar, drawable},
};
use crate::{Result, table::Kept, train::best_rate};

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
            let cells: Vec<_> = report.of_column(column).iter().copied().flatten().collect();
            let bytes = |at: usize| cells[at].patch.as_ref().map(|patch| patch.bytes[1].max(1) as f64);
            let known = || (0..cells.len()).filter_map(bytes);
            // A level line goes from the bytes of the smallest patch to those of the largest, and a bit beyond both.
            let (least, most) = (0.8 * known().fold(1e6, f64::min), 1.2 * known().fold(1.0, f64::max));
            let series = cells.iter().enumerate().filter_map(|(at, cell)| {
                let of = best_rate(&cell.runs)?;
                let scores = if tested { of.test? } else { of.dev };
                let across = bytes(at).map_or_else(|| vec![least.min(most), most], |bytes| vec![bytes]);
                if !drawable(scores.mean) {
                    return None;
                }
                let bars = bytes(at).zip(scores.deviation).and_then(|(x, deviation)| bar(x, scores.mean, deviation));
                Some(Series {
                    name: cell.name.clone(),
                    pieces: vec![across.into_iter().map(|x| (x, scores.mean)).collect()],
                    bars: bars.into_iter().collect(),
                })
            });
            let series = series.collect();
            let metric = cells.first().map_or("", |cell| &*cell.metric);
            let set = if tested { "test" } else { "dev" };
            let up = format!("{name}: {metric} on {set}");
            Panel::Lines(Lines { up, across: "bytes of the patch, in 4 bits", logarithmic: true, series })
        });
        Ok(Picture { title: "score by bytes".to_owned(), panels: panels.collect() })
    }
}
