//! A table of results, as people read it.
//!
//! In: the results of cells, by data set and row; some may be missing. Out: lines of Markdown: scores and bytes, how far
//! each row is from full fine-tuning, and how to read both.

use std::collections::BTreeSet;

use super::{
    Cell, Row,
    difference::{Distance, distance},
};
use crate::train::{RateScores, Spread, Weights, best_rate, by_learning_rate};

/// The results of a table.
pub(crate) struct Report<'a> {
    /// The names of data sets.
    pub columns: Vec<&'a str>,
    pub rows: Vec<&'a Row>,
    /// The cells of the first data set in the order of rows, then those of the second and so on.
    pub cells: Vec<Option<&'a Cell>>,
}

impl<'a> Report<'a> {
    /// The table in Markdown, and how to read it.
    pub fn lines(&self) -> Vec<String> {
        let heads: Vec<String> = (0..self.columns.len()).flat_map(|column| self.heads(column)).collect();
        let mut lines = vec![
            format!("| trained | {} | bytes, exact | bytes, i4 |", heads.join(" | ")),
            format!("|---|{}---|---|", "---|".repeat(heads.len())),
        ];
        for (at, row) in self.rows.iter().enumerate() {
            let scores: Vec<String> =
                self.of_row(at).enumerate().flat_map(|(column, cell)| self.scores(column, cell)).collect();
            let most = |which: usize| {
                let bytes = self.of_row(at).filter_map(|cell| Some(cell?.patch.as_ref()?.bytes[which]));
                bytes.max().map_or("-".to_owned(), |bytes| bytes.to_string())
            };
            lines.push(format!("| {} | {} | {} | {} |", row.name, scores.join(" | "), most(0), most(1)));
        }
        lines.extend([String::new(), self.note()]);
        lines.extend(self.distances());
        lines
    }

    /// The cells of a row, one for each data set.
    fn of_row(&self, row: usize) -> impl Iterator<Item = Option<&'a Cell>> {
        self.cells.iter().copied().skip(row).step_by(self.rows.len().max(1))
    }

    /// The cells of a data set, one for each row.
    pub fn of_column(&self, column: usize) -> &[Option<&'a Cell>] {
        let width = self.rows.len();
        &self.cells[column * width..(column + 1) * width]
    }

    /// Whether a data set has a test set.
    pub fn tested(&self, column: usize) -> bool {
        self.of_column(column).iter().flatten().any(|cell| cell.tested())
    }

    fn heads(&self, column: usize) -> Vec<String> {
        let metric = self.of_column(column).iter().flatten().next().map_or("-", |cell| &cell.metric);
        let name = self.columns[column];
        match self.tested(column) {
            true => ["dev", "test"].map(|set| format!("{name}, {metric}, {set}")).to_vec(),
            false => vec![format!("{name}, {metric}")],
        }
    }

    /// The score on dev, and on test if there is a test set.
    fn scores(&self, column: usize, cell: Option<&Cell>) -> Vec<String> {
        let percent = |of: Spread| {
            let deviation = of.deviation.map(|deviation| format!(" ± {:.1}", 100.0 * deviation));
            format!("{:.1}{}", 100.0 * of.mean, deviation.unwrap_or_default())
        };
        let of = cell.and_then(|cell| best_rate(&cell.runs));
        let train = cell.and_then(|cell| cell.patch.as_ref()).map(|patch| format!(" ({:.1})", 100.0 * patch.train));
        let dev = match (cell, of) {
            (None, _) => "-".to_owned(),
            (Some(_), None) => "diverged".to_owned(),
            (Some(_), Some(of)) => percent(of.dev) + &train.unwrap_or_default(),
        };
        let test = of.and_then(|of| of.test).map_or("-".to_owned(), percent);
        if self.tested(column) { vec![dev, test] } else { vec![dev] }
    }

    fn note(&self) -> String {
        let cells = || self.cells.iter().copied().flatten();
        let most = |cell: &Cell| by_learning_rate(&cell.runs).into_iter().map(|of| begun(cell, of)).max();
        let counts: BTreeSet<usize> = cells().filter_map(most).collect();
        let seeds = match (counts.first(), counts.last()) {
            (Some(1), Some(1)) => "one seed".to_owned(),
            (Some(least), Some(most)) if least < most => format!("{least} to {most} seeds"),
            (_, most) => format!("{} seeds", most.unwrap_or(&0)),
        };
        // Rates that were given up have fewer seeds.
        let given_up = cells().find(|cell| {
            let rates = by_learning_rate(&cell.runs);
            rates.iter().any(|of| begun(cell, *of) != begun(cell, rates[0]))
        });
        let with =
            given_up.and_then(|cell| cell.runs.first()).map_or(String::new(), |run| format!(" with seed {}", run.seed));
        let mut note = format!(
            "Scores on dev in percent: mean ± standard deviation over {seeds} of the learning rate that is best on \
             dev{with}. In brackets: the score of the best patch on as many training texts. "
        );
        if (0..self.columns.len()).any(|column| self.tested(column)) {
            note +=
                "Scores on test are those of the same runs, at the epochs that are best on dev: test chose nothing. ";
        }
        note + "Bytes are those of the largest patch of a row."
    }

    /// How far each row is from full fine-tuning, if that is a row whose results allow it.
    fn distances(&self) -> Vec<String> {
        let Some(full) = self.rows.iter().position(|row| row.weights == Some(Weights::Full)) else { return Vec::new() };
        let of_row = |at: usize| {
            let columns = (0..self.columns.len()).map(|column| self.of_column(column));
            columns.map(move |cells| distance(cells[at]?, cells[full]?)).collect::<Vec<_>>()
        };
        let others = (0..self.rows.len()).filter(|at| *at != full).map(|at| (self.rows[at], of_row(at)));
        let others: Vec<_> = others.filter(|(_, found)| found.iter().any(Option::is_some)).collect();
        if others.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![
            String::new(),
            format!("| trained, points above {} | {} | mean |", self.rows[full].name, self.columns.join(" | ")),
            format!("|---|{}---|", "---|".repeat(self.columns.len())),
        ];
        let shown = |found: &Option<Distance>| {
            let shown = found.map(|Distance { difference, deviation }| {
                format!("{:+.1} ± {:.1}", 100.0 * difference, 100.0 * deviation)
            });
            shown.unwrap_or_else(|| "-".to_owned())
        };
        for (row, found) in others {
            let cells: Vec<String> = found.iter().map(shown).collect();
            lines.push(format!("| {} | {} | {} |", row.name, cells.join(" | "), shown(&Distance::mean(&found))));
        }
        let note = "Differences are on test where there is a test set, else on dev, which also chose epochs and learning \
                    rates. ± is their standard deviation over other texts (bootstrap, the same draws for both) and other \
                    seeds; it does not hold what dev chose. - is written where one of the two has no result or fewer than \
                    two seeds that did not diverge, or was kept by an older version.";
        lines.extend([String::new(), note.to_owned()]);
        lines
    }
}

/// How many runs of a learning rate were begun.
fn begun(cell: &Cell, of: RateScores) -> usize {
    cell.runs.iter().filter(|run| run.learning_rate == of.learning_rate).count()
}
