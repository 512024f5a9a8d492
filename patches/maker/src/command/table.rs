//! The commands `edge-patch table` and `edge-patch results`: their flags; a table of trainings or a part of its cells,
//! and the table of kept results.

use std::path::PathBuf;

use super::{outputs::check_report, progress::Progress, say, training::RecipeArguments};
use crate::{
    Result,
    table::{Column, Part, Row, Table, table_of},
};
use bias_patch::atomic;
use clap::Args;
use edge_bundle::Bundle;

#[derive(Args)]
pub(crate) struct TableArguments {
    /// The encoder's bundle
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: PathBuf,
    /// Add a data set: its name, and the files of its task, training texts and dev set; optionally the metric to score
    /// by, and a test set, which chooses nothing and gets a column of its own. Repeat the flag for more data sets
    #[arg(long = "data", value_name = "NAME=TASK,TRAIN,DEV[,METRIC][,test=FILE]", required = true)]
    columns: Vec<Column>,
    /// Write these rows. A row names slots, as train --slots does, joined by +; or weights, as train --weights does:
    /// random, rows or full. Learning rates for one row follow it after @, as in full@3e-5@1e-4; a whole number after
    /// @ is a rank, as in all+lora:q+v@1. Other rows use --lr,
    /// and full uses 3e-5
    #[arg(long, value_name = "SLOTS[@RATE],...", value_delimiter = ',', default_value = "frozen,bq,bm2,bq+bm2,all")]
    rows: Vec<Row>,
    #[command(flatten)]
    results: ResultArguments,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// The flags that say where results go, and which.
#[derive(Args)]
pub(super) struct ResultArguments {
    /// Keep patches and results in this directory
    #[arg(long, value_name = "DIR")]
    pub results: PathBuf,
    /// Write the table to this file, in Markdown
    #[arg(short, long, value_name = "FILE", required_unless_present = "cell")]
    output: Option<PathBuf>,
    /// Train only every Nth cell from the Kth on, K from 0, and print the files of their results; then no table is
    /// written. N processes with a K each share the work; afterwards the command without --cell writes the table
    #[arg(long, value_name = "K/N", conflicts_with = "output")]
    cell: Option<Part>,
}

/// Does the trainings that have no result yet, and writes the table. Gives the lines to print.
pub(crate) fn run_table(arguments: &TableArguments) -> Result<Vec<String>> {
    let TableArguments { columns, rows, results, recipe, .. } = arguments;
    let encoder = recipe.load(Bundle::open(&arguments.encoder)?)?;
    let mut progress = Progress::new(recipe.log.as_deref())?;
    let skip_bad = recipe.skip_bad;
    let table =
        Table { encoder: &encoder, columns, rows, recipe: &recipe.recipe(), results: &results.results, skip_bad };
    let lines = results.train_or_write(&table, &mut progress)?;
    progress.finish()?;
    Ok(lines)
}

#[derive(Args)]
pub(crate) struct KeptArguments {
    /// Read the results in this directory
    results: PathBuf,
    /// Write these rows, in this order [default: all; slots first, the smallest patch first]
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    rows: Vec<Row>,
    /// Write the columns of these data sets, in this order [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    data: Vec<String>,
    /// Also write the table to this file, in Markdown
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Gives the lines of the table of kept results.
pub(crate) fn run_kept(arguments: &KeptArguments) -> Result<Vec<String>> {
    if let Some(output) = &arguments.output {
        check_report(output)?;
    }
    let lines = table_of(&arguments.results, &arguments.rows, &arguments.data)?;
    if let Some(output) = &arguments.output {
        atomic::write_file(output, (lines.join("\n") + "\n").as_bytes())?;
    }
    Ok(lines)
}

impl ResultArguments {
    /// Writes a table, or without an output trains a part of its cells. Gives the table's lines, or the files of results.
    pub fn train_or_write(&self, table: &Table<'_>, progress: &mut Progress) -> Result<Vec<String>> {
        if let Some(output) = &self.output {
            check_report(output)?;
            return table.write(output, &mut say, &mut progress.listener());
        }
        let part = self.cell.unwrap_or(Part::ALL);
        table.train(part, &mut say, &mut progress.listener())?;
        Ok(table.files(part).iter().map(|file| file.display().to_string()).collect())
    }
}
