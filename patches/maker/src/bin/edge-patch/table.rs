//! The command `edge-patch table`: biases, and to compare weights, that are trained against data sets, as the paper's Table 3.
//! Every training's result is kept, so the command goes on where it was stopped.

use std::path::PathBuf;

use bias_patch::{Bundle, atomic};
use clap::{Args, ValueEnum};
use edge_patch::{Result, train::Weights};

use crate::{
    cells::Cell,
    check_apart,
    progress::{Job, Progress},
    read_task,
    training::{RecipeArguments, Slots, check_terms, rate, slots},
};

#[derive(Args)]
pub(crate) struct TableArguments {
    /// The encoder's bundle
    #[arg(long, value_name = "BUNDLE")]
    encoder: PathBuf,
    /// A column: its name, task, texts to learn from and to be judged by, and perhaps a metric; repeat it for more
    #[arg(long = "data", value_name = "NAME=TASK,TRAIN,DEV[,METRIC]", required = true, value_parser = column)]
    columns: Vec<Column>,
    /// The rows: terms as --slots of train takes them, with + between several; or weights in place of biases: random ones or
    /// rows, as many as all biases, or full, all weights and biases. Of weights no patch is written, and a run that was
    /// stopped begins anew. Learning rates of a row's own follow it, as in full@3e-5@1e-4; full has 3e-5 if it has none
    #[arg(
        long,
        value_name = "TERMS[@RATE],...",
        value_delimiter = ',',
        default_value = "frozen,bq,bm2,bq+bm2,all",
        value_parser = row
    )]
    rows: Vec<Row>,
    /// Where patches and results are kept
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// The table to write, in Markdown
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// What is trained, and with which learning rates, if not with those of the table.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    slots: Slots,
    weights: Option<Weights>,
    rates: Vec<f64>,
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
    for column in &arguments.columns {
        check_apart(&arguments.output, &[&column.task, &column.train, &column.dev])?;
    }
    std::fs::create_dir_all(&arguments.results).map_err(bias_patch::Error::io(&arguments.results, "create"))?;
    let encoder = arguments.recipe.load(Bundle::open(&arguments.encoder)?)?;
    let mut progress = Progress::new(arguments.recipe.log.as_deref())?;
    let mut cells: Vec<Vec<Cell>> = arguments.rows.iter().map(|_| Vec::new()).collect();
    for column in &arguments.columns {
        let task = read_task(&column.task)?;
        let (learn, judge) = arguments.recipe.read(&task, &column.train, &column.dev)?;
        for (row, cells) in arguments.rows.iter().zip(&mut cells) {
            check_terms(&row.slots, encoder.bundle().manifest(), &task)?;
            // What suits biases does not suit all weights.
            let given = row.rates.is_empty() && row.weights != Some(Weights::Full);
            let rates = if given { &arguments.recipe.rates } else { &row.rates };
            let recipe = arguments.recipe.recipe(row.slots.terms(), row.weights, rates, column.metric.clone());
            let output = arguments.results.join(format!("{}-{}.bias", column.name, row.name));
            let job =
                Job { encoder: &encoder, task: &task, learn: &learn, judge: &judge, recipe: &recipe, output: &output };
            cells.push(Cell::of(&job, row.weights, &row.name, &mut progress)?);
        }
    }
    progress.finish()?;
    let mut lines = Vec::new();
    let heads = arguments.columns.iter().zip(cells.first().into_iter().flatten());
    let heads: Vec<String> = heads.map(|(column, cell)| format!("{}, {}", column.name, cell.metric)).collect();
    lines.push(format!("| trained | {} | bytes, exact | bytes, i4 |", heads.join(" | ")));
    lines.push(format!("|---|{}---|---|", "---|".repeat(heads.len())));
    for (row, cells) in arguments.rows.iter().zip(&cells) {
        let scores: Vec<String> = cells.iter().map(score).collect();
        let most = |at: usize| {
            let bytes = cells.iter().filter_map(|cell| Some(cell.patch.as_ref()?.bytes[at]));
            bytes.max().map_or("-".to_owned(), |bytes| bytes.to_string())
        };
        lines.push(format!("| {} | {} | {} | {} |", row.name, scores.join(" | "), most(0), most(1)));
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
        Some(of) => {
            let learned = cell.patch.as_ref().map(|patch| format!(" ({:.1})", 100.0 * patch.train));
            format!("{:.1} ± {:.1}{}", 100.0 * of.mean, 100.0 * of.deviation, learned.unwrap_or_default())
        }
        None => "diverged".to_owned(),
    }
}

fn row(text: &str) -> Result<Row, String> {
    let mut parts = text.split('@');
    let word = parts.next().unwrap_or_default();
    let rates = parts.map(rate).collect::<Result<_, String>>()?;
    let weights = Weights::from_str(word, false).ok();
    let slots = slots(if weights.is_some() { "all" } else { word })?;
    Ok(Row { name: text.to_owned(), slots, weights, rates })
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
