//! The command `edge-patch table`: biases that are trained against data sets, as the paper's Table 3. Every training's result is
//! kept, so the command goes on where it was stopped.

use std::path::PathBuf;

use bias_patch::{Bundle, atomic};
use clap::Args;
use edge_patch::Result;

use crate::{
    cells::Cell,
    progress::{Job, Progress},
    read_task,
    training::{RecipeArguments, Terms, check_terms, terms},
};

#[derive(Args)]
pub(crate) struct TableArguments {
    /// The encoder's bundle
    #[arg(long, value_name = "BUNDLE")]
    encoder: PathBuf,
    /// A column: its name, task, texts to learn from and to be judged by, and perhaps a metric; repeat it for more
    #[arg(long = "data", value_name = "NAME=TASK,TRAIN,DEV[,METRIC]", required = true, value_parser = column)]
    columns: Vec<Column>,
    /// The rows: terms as --slots of train takes them, with + between several
    #[arg(long, value_name = "TERMS,...", value_delimiter = ',', default_value = "frozen,bq,bm2,bq+bm2,all")]
    rows: Vec<String>,
    /// Where patches and results are kept
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// The table to write, in Markdown
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// A data set and its task.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    task: PathBuf,
    train: PathBuf,
    dev: PathBuf,
    metric: Option<String>,
}

/// Trains what is not trained yet, and writes the table. Gives its lines.
pub(crate) fn run_table(arguments: &TableArguments) -> Result<Vec<String>> {
    let rows: Vec<(String, Vec<Terms>)> = arguments
        .rows
        .iter()
        .map(|row| Ok((row.clone(), row.split('+').map(terms).collect::<Result<_, String>>()?)))
        .collect::<Result<_, String>>()
        .map_err(|reason| edge_patch::Error::Recipe {
            field: "--rows".to_owned(),
            expected: "terms, with + between several".to_owned(),
            found: reason,
        })?;
    std::fs::create_dir_all(&arguments.results).map_err(bias_patch::Error::io(&arguments.results, "create"))?;
    let encoder = arguments.recipe.load(Bundle::open(&arguments.encoder)?)?;
    let mut progress = Progress::new(arguments.recipe.log.as_deref())?;
    let mut cells: Vec<Vec<Cell>> = rows.iter().map(|_| Vec::new()).collect();
    for column in &arguments.columns {
        let task = read_task(&column.task)?;
        let (learn, judge) = arguments.recipe.read(&task, &column.train, &column.dev)?;
        for ((row, terms), cells) in rows.iter().zip(&mut cells) {
            check_terms(terms, encoder.bundle().manifest(), &task)?;
            let terms = terms.iter().flat_map(|terms| terms.0.clone()).collect();
            let recipe = arguments.recipe.recipe(terms, column.metric.clone());
            let output = arguments.results.join(format!("{}-{row}.bias", column.name));
            let job =
                Job { encoder: &encoder, task: &task, learn: &learn, judge: &judge, recipe: &recipe, output: &output };
            cells.push(Cell::of(&job, row, &mut progress)?);
        }
    }
    progress.finish()?;
    let mut lines = Vec::new();
    let heads = arguments.columns.iter().zip(cells.first().into_iter().flatten());
    let heads: Vec<String> = heads.map(|(column, cell)| format!("{}, {}", column.name, cell.metric)).collect();
    lines.push(format!("| trained | {} | bytes, exact | bytes, i4 |", heads.join(" | ")));
    lines.push(format!("|---|{}---|---|", "---|".repeat(heads.len())));
    for ((row, _), cells) in rows.iter().zip(&cells) {
        let scores: Vec<String> = cells.iter().map(score).collect();
        let most = |at: usize| cells.iter().map(|cell| cell.bytes[at]).max().unwrap_or_default();
        lines.push(format!("| {row} | {} | {} | {} |", scores.join(" | "), most(0), most(1)));
    }
    lines.push(String::new());
    lines.push(format!(
        "Mean ± deviation over {} seeds of the best learning rate, in percent on dev; in brackets the best patch on as many \
         texts that it learned from; bytes of the largest patch of a row.",
        arguments.recipe.seeds
    ));
    atomic::write_file(&arguments.output, (lines.join("\n") + "\n").as_bytes())?;
    Ok(lines)
}

fn score(cell: &Cell) -> String {
    match cell.best_rate() {
        Some(of) => format!("{:.1} ± {:.1} ({:.1})", 100.0 * of.mean, 100.0 * of.deviation, 100.0 * cell.train),
        None => "diverged".to_owned(),
    }
}

fn column(text: &str) -> Result<Column, String> {
    let expected = || "expected NAME=TASK,TRAIN,DEV or NAME=TASK,TRAIN,DEV,METRIC".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(expected)?;
    let parts: Vec<&str> = rest.split(',').collect();
    let (task, train, dev, metric) = match parts[..] {
        [task, train, dev] => (task, train, dev, None),
        [task, train, dev, metric] => (task, train, dev, Some(metric.to_owned())),
        _ => return Err(expected()),
    };
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err("expected a name of letters, digits, '.', '_' or '-'".to_owned());
    }
    Ok(Column { name: name.to_owned(), task: task.into(), train: train.into(), dev: dev.into(), metric })
}
