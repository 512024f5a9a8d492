//! A table of the results that a directory keeps, without trainings.
//!
//! In: a directory of results, and perhaps the rows and data sets that are wanted, in their order. Out: the table, in
//! which a cell without a result is a dash. Neither the data nor the encoder is needed. Refused: rows and data sets
//! without any result or named twice, files that end as results do and are none, and results that cannot be compared.

use std::path::{Path, PathBuf};

use super::{Cell, Row, check_name, each_once, report::Report};
use crate::{Error, Result};

/// The end of a result's name.
pub(crate) const SUFFIX: &str = ".bias.json";

/// The results that a directory keeps.
pub(crate) struct Kept {
    results: PathBuf,
    /// Each with the name of its data set, in the order of these.
    cells: Vec<(String, Cell)>,
    rows: Vec<Row>,
}

/// The lines of the table of a directory's results. Without `rows`, slots come first, the smallest patch first, then
/// weights; without `columns`, data sets are in the order of their names.
///
/// # Errors
/// When a file cannot be read or is no result, or a row or data set has no result.
pub fn table_of(results: &Path, rows: &[Row], columns: &[String]) -> Result<Vec<String>> {
    Ok(Kept::read(results)?.report(rows, columns)?.lines())
}

impl Kept {
    /// Reads all results.
    ///
    /// # Errors
    /// When a file cannot be read or is no result, or there is none.
    pub fn read(results: &Path) -> Result<Self> {
        let failed = || bias_patch::Error::io(results, "read");
        let (mut cells, mut rows) = (Vec::new(), Vec::new());
        for entry in results.read_dir().map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
            let Some(name) = name else { continue };
            // A pipe would be waited for.
            if !path.metadata().map_err(bias_patch::Error::io(&path, "read"))?.is_file() {
                continue;
            }
            let cell = Cell::read(&path)?;
            // Of a training by numbers of texts, whose results end so too.
            if cell.name.parse::<usize>().is_ok() {
                continue;
            }
            let row = cell.name.parse::<Row>().map_err(|expected| Error::Content {
                path: path.clone(),
                field: "name of its row".to_owned(),
                expected,
                found: cell.name.clone(),
            })?;
            let column = name.strip_suffix(&*row.file_name()).and_then(|column| column.strip_suffix('-'));
            let column = column.ok_or_else(|| Error::Content {
                path: path.clone(),
                field: "name".to_owned(),
                expected: format!("DATA-{}{SUFFIX}, as its row is called", row.file_name()),
                found: format!("{name}{SUFFIX}"),
            })?;
            check_name(column).map_err(|expected| Error::Content {
                path: path.clone(),
                field: "name of its data set".to_owned(),
                expected,
                found: format!("{column:?}"),
            })?;
            if !rows.iter().any(|known: &Row| known.name == row.name) {
                rows.push(row);
            }
            cells.push((column.to_owned(), cell));
        }
        if cells.is_empty() {
            return Err(Error::Content {
                path: results.to_owned(),
                field: "directory".to_owned(),
                expected: format!("results of edge-patch table, DATA-ROW{SUFFIX}"),
                found: "none".to_owned(),
            });
        }
        cells.sort_by(|(one, _), (other, _)| one.cmp(other));
        rows.sort_by_cached_key(|row| rank(row, &cells));
        check_alike(results, &cells)?;
        Ok(Kept { results: results.to_owned(), cells, rows })
    }

    /// The results of some rows and data sets, in this order; of all where none are given.
    ///
    /// # Errors
    /// When one of these has no result, or is there twice.
    pub fn report<'a>(&'a self, rows: &'a [Row], columns: &'a [String]) -> Result<Report<'a>> {
        let none = |field: &str, known: Vec<&str>, found: &str| Error::Content {
            path: self.results.clone(),
            field: field.to_owned(),
            expected: format!("one of {}", known.join(", ")),
            found: found.to_owned(),
        };
        let mut all: Vec<&str> = self.cells.iter().map(|(column, _)| &**column).collect();
        all.dedup();
        each_once(columns.iter().map(|name| &**name), "data sets")?;
        each_once(rows.iter().map(|row| &*row.name), "rows")?;
        let chosen = columns.iter().map(|name| &**name);
        let columns: Vec<&str> = if columns.is_empty() { all.clone() } else { chosen.collect() };
        let rows: Vec<&Row> = if rows.is_empty() { &self.rows } else { rows }.iter().collect();
        if let Some(column) = columns.iter().find(|column| !self.cells.iter().any(|(of, _)| of == *column)) {
            return Err(none("data set", all, column));
        }
        if let Some(row) = rows.iter().find(|row| !self.cells.iter().any(|(_, cell)| cell.name == row.name)) {
            return Err(none("row", self.rows.iter().map(|row| &*row.name).collect(), &row.name));
        }
        let of = |column: &str, row: &str| {
            self.cells.iter().find(|(of, cell)| of == column && cell.name == row).map(|(_, cell)| cell)
        };
        let cells = columns.iter().flat_map(|column| rows.iter().map(|row| of(column, &row.name))).collect();
        Ok(Report { columns, rows, cells })
    }
}

/// What trainings have to have in common for their scores to be compared.
const COMPARED: [&str; 4] = ["encoder", "training texts", "dev set", "test set"];

/// Checks that the cells of each data set have the same metric and the same sets, because their scores are compared.
fn check_alike(results: &Path, cells: &[(String, Cell)]) -> Result<()> {
    let scored = |cell: &Cell| cell.runs.iter().any(|run| run.dev.is_some());
    let shown = |cell: &Cell| {
        let sets = if cell.tested() { "dev and test" } else { "dev" };
        format!("{} on {sets}", cell.metric)
    };
    for (at, (column, cell)) in cells.iter().enumerate() {
        let differing = cells[..at].iter().filter(|(of, _)| of == column).find_map(|(_, other)| {
            let part = COMPARED.into_iter().find(|part| cell.differs_in(other, part))?;
            Some((part, &other.name))
        });
        if let Some((part, other)) = differing {
            return Err(Error::Content {
                path: results.to_owned(),
                field: format!("results of {column}"),
                expected: format!("one {part} for all of them"),
                found: format!("another one of {} than of {other}", cell.name),
            });
        }
        // Runs that diverged were scored on nothing.
        let differs = |other: &Cell| {
            cell.metric != other.metric || (scored(cell) && scored(other) && cell.tested() != other.tested())
        };
        if let Some((_, other)) = cells[..at].iter().find(|(of, other)| of == column && differs(other)) {
            return Err(Error::Content {
                path: results.to_owned(),
                field: format!("results of {column}"),
                expected: format!("the same metric and sets, {} as of {}", shown(other), other.name),
                found: format!("{} of {}", shown(cell), cell.name),
            });
        }
    }
    Ok(())
}

/// Where a row stands: slots, the smallest patch first, then weights; then by name.
fn rank(row: &Row, cells: &[(String, Cell)]) -> (bool, usize, String) {
    let of_row = cells.iter().filter(|(_, cell)| cell.name == row.name);
    let bytes = of_row.filter_map(|(_, cell)| Some(cell.patch.as_ref()?.bytes[0]));
    (row.weights.is_some(), bytes.max().unwrap_or(0), row.name.clone())
}
