//! A table of the results that a directory keeps, without trainings.
//!
//! In: a directory of results, and perhaps the rows and data sets that are wanted, in their order. Out: the table, in
//! which a cell without a result is a dash. Neither the data nor the encoder is needed. Refused: rows and data sets
//! without any result, and files that end as results do and are none.

use std::path::Path;

use super::{Cell, Row, report::Report};
use crate::{Error, Result};

/// The end of a result's name.
const SUFFIX: &str = ".bias.json";

/// The lines of the table of a directory's results. Without `rows`, slots come first, the smallest patch first, then
/// weights; without `columns`, data sets are in the order of their names.
///
/// # Errors
/// When a file cannot be read or is no result, or a row or data set has no result.
pub fn table_of(results: &Path, rows: &[Row], columns: &[String]) -> Result<Vec<String>> {
    let cells = read(results)?;
    let mut found_columns: Vec<&str> = cells.iter().map(|(column, _)| &**column).collect();
    found_columns.dedup();
    let found_rows = found_rows(&cells)?;
    let none = |field: &str, found: &str| Error::Content {
        path: results.to_owned(),
        field: field.to_owned(),
        expected: "one with a result".to_owned(),
        found: found.to_owned(),
    };
    let columns: Vec<&str> =
        if columns.is_empty() { found_columns } else { columns.iter().map(|name| &**name).collect() };
    let rows: Vec<&Row> = if rows.is_empty() { found_rows.iter().collect() } else { rows.iter().collect() };
    let of = |column: &str, row: &str| {
        cells.iter().find(|(of, cell)| of == column && cell.name == row).map(|(_, cell)| cell)
    };
    if let Some(column) = columns.iter().find(|column| !cells.iter().any(|(of, _)| of == *column)) {
        return Err(none("data set", column));
    }
    if let Some(row) = rows.iter().find(|row| !cells.iter().any(|(_, cell)| cell.name == row.name)) {
        return Err(none("row", &row.name));
    }
    let cells = columns.iter().flat_map(|column| rows.iter().map(|row| of(column, &row.name))).collect();
    Ok(Report { columns, rows, cells }.lines())
}

/// The results, each with the name of its data set, in the order of these.
fn read(results: &Path) -> Result<Vec<(String, Cell)>> {
    let failed = || bias_patch::Error::io(results, "read");
    let mut cells = Vec::new();
    for entry in results.read_dir().map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
        let Some(name) = name else { continue };
        let cell = Cell::read(&path)?;
        let column = name.strip_suffix(&*cell.name).and_then(|column| column.strip_suffix('-'));
        let column = column.ok_or_else(|| Error::Content {
            path: path.clone(),
            field: "name".to_owned(),
            expected: format!("DATA-{}{SUFFIX}, as its row is called", cell.name),
            found: "another name".to_owned(),
        })?;
        cells.push((column.to_owned(), cell));
    }
    cells.sort_by(|(one, _), (other, _)| one.cmp(other));
    match cells.is_empty() {
        true => Err(Error::Content {
            path: results.to_owned(),
            field: "directory".to_owned(),
            expected: format!("results of edge-patch table, DATA-ROW{SUFFIX}"),
            found: "none".to_owned(),
        }),
        false => Ok(cells),
    }
}

/// The rows of results: slots, the smallest patch first, then weights.
fn found_rows(cells: &[(String, Cell)]) -> Result<Vec<Row>> {
    let mut rows: Vec<((bool, usize), Row)> = Vec::new();
    for (_, cell) in cells {
        if rows.iter().any(|(_, row)| row.name == cell.name) {
            continue;
        }
        let row: Row = cell.name.parse().map_err(|expected| Error::Recipe {
            field: "row of a result".to_owned(),
            expected,
            found: cell.name.clone(),
        })?;
        let bytes =
            cells.iter().filter(|(_, of)| of.name == cell.name).filter_map(|(_, of)| Some(of.patch.as_ref()?.bytes[0]));
        rows.push(((row.weights.is_some(), bytes.max().unwrap_or(0)), row));
    }
    rows.sort_by_key(|(order, _)| *order);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}
