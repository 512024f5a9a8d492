//! The command `edge-patch table`: trains choices of slots, and weights for comparison, on several data sets, and writes
//! a table like the paper's Table 3. The result of every training is kept, so the command resumes where it was stopped.

use std::path::{Path, PathBuf};

use crate::{
    Result,
    train::{Job, Slots, Spread, Weights, best_rate},
};
use bias_patch::{Pooling, atomic};
use clap::{Args, ValueEnum};
use edge_bundle::Bundle;

use super::{
    cells::Cell,
    check_apart,
    progress::Progress,
    read_task,
    training::{RecipeArguments, learning_rate, slots},
};

#[derive(Args)]
pub(crate) struct TableArguments {
    /// The encoder's bundle
    #[arg(long, value_name = "BUNDLE")]
    encoder: PathBuf,
    /// Add a data set: its name, and the files of its task, training texts and dev set; optionally the metric to score
    /// by, and a test set, which chooses nothing and gets a column of its own. Repeat the flag for more data sets
    #[arg(long = "data", value_name = "NAME=TASK,TRAIN,DEV[,METRIC][,test=FILE]", required = true, value_parser = column)]
    columns: Vec<Column>,
    /// Write these rows. A row names slots, as train --slots does, joined by +; or weights, as train --weights does:
    /// random, rows or full. Learning rates for one row follow it after @, as in full@3e-5@1e-4; a whole number after
    /// @ is a rank, as in all+lora:q+v@1. Other rows use --lr,
    /// and full uses 3e-5
    #[arg(
        long,
        value_name = "SLOTS[@RATE],...",
        value_delimiter = ',',
        default_value = "frozen,bq,bm2,bq+bm2,all",
        value_parser = row
    )]
    rows: Vec<Row>,
    /// Keep patches and results in this directory
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
    /// Write the table to this file, in Markdown
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArguments,
}

/// What is trained, and its own learning rates, if it has any.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    slots: Slots,
    weights: Option<Weights>,
    learning_rates: Vec<f64>,
}

/// A data set and its task.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    task: PathBuf,
    train: PathBuf,
    dev: PathBuf,
    test: Option<PathBuf>,
    metric: Option<String>,
}

/// Does the trainings that have no result yet, and writes the table. Gives its lines.
pub(crate) fn run_table(arguments: &TableArguments) -> Result<Vec<String>> {
    for column in &arguments.columns {
        let files = [Some(&column.task), Some(&column.train), Some(&column.dev), column.test.as_ref()];
        let files: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
        check_apart(&arguments.output, &files)?;
    }
    arguments.rows.iter().filter_map(|row| row.weights).try_for_each(Weights::check)?;
    std::fs::create_dir_all(&arguments.results).map_err(bias_patch::Error::io(&arguments.results, "create"))?;
    let encoder = arguments.recipe.load(Bundle::open(&arguments.encoder)?)?;
    let mut progress = Progress::new(arguments.recipe.log.as_deref())?;
    let mut cells: Vec<Vec<Cell>> = arguments.rows.iter().map(|_| Vec::new()).collect();
    for column in &arguments.columns {
        let task = read_task(&column.task)?;
        let texts = arguments.recipe.read(&task, &column.train, &column.dev, column.test.as_deref())?;
        for (row, cells) in arguments.rows.iter().zip(&mut cells) {
            row.slots.check(encoder.bundle().manifest(), task.kind().pooling() == Some(Pooling::Pooler))?;
            // --lr is meant for biases; training all weights needs a lower one.
            let common = row.learning_rates.is_empty() && row.weights != Some(Weights::Full);
            let rates = if common { &arguments.recipe.learning_rates } else { &row.learning_rates };
            let recipe = arguments.recipe.recipe(row.slots.clone(), row.weights, rates, column.metric.clone());
            let output = arguments.results.join(format!("{}-{}.bias", column.name, row.name));
            let job = Job { encoder: &encoder, task: &task, sets: texts.sets(), recipe: &recipe, output: &output };
            cells.push(Cell::of(&job, row.weights, &row.name, &mut progress)?);
        }
    }
    progress.finish()?;
    let lines = lines_of(arguments, &cells);
    atomic::write_file(&arguments.output, (lines.join("\n") + "\n").as_bytes())?;
    Ok(lines)
}

/// The table in Markdown, of the cells of each row, and how to read it.
fn lines_of(arguments: &TableArguments, cells: &[Vec<Cell>]) -> Vec<String> {
    let columns = arguments.columns.iter().zip(cells.first().into_iter().flatten());
    let heads: Vec<String> = columns
        .flat_map(|(column, cell)| match column.test {
            Some(_) => ["dev", "test"].map(|set| format!("{}, {}, {set}", column.name, cell.metric)).to_vec(),
            None => vec![format!("{}, {}", column.name, cell.metric)],
        })
        .collect();
    let mut lines = vec![
        format!("| trained | {} | bytes, exact | bytes, i4 |", heads.join(" | ")),
        format!("|---|{}---|---|", "---|".repeat(heads.len())),
    ];
    for (row, cells) in arguments.rows.iter().zip(cells) {
        let columns = arguments.columns.iter().zip(cells);
        let scores: Vec<String> = columns.flat_map(|(column, cell)| scores(cell, column.test.is_some())).collect();
        let most = |at: usize| {
            let bytes = cells.iter().filter_map(|cell| Some(cell.patch.as_ref()?.bytes[at]));
            bytes.max().map_or("-".to_owned(), |bytes| bytes.to_string())
        };
        lines.push(format!("| {} | {} | {} | {} |", row.name, scores.join(" | "), most(0), most(1)));
    }
    let recipe = &arguments.recipe;
    let rate = match recipe.rate_by_first_seed {
        true => format!("the learning rate that is best on dev with seed {}", recipe.seed),
        false => "the learning rate that is best on dev".to_owned(),
    };
    let mut note = format!(
        "Scores on dev in percent: mean ± standard deviation over {} seeds of {rate}. In brackets: the score of the best patch \
         on as many training texts. ",
        recipe.seeds
    );
    if arguments.columns.iter().any(|column| column.test.is_some()) {
        note += "Scores on test are those of the same runs, at the epochs that are best on dev: test chose nothing. ";
    }
    note += "Bytes are those of the largest patch of a row.";
    lines.extend([String::new(), note]);
    lines
}

/// The score on dev, and on test if there is a test set.
fn scores(cell: &Cell, tested: bool) -> Vec<String> {
    let percent = |of: Spread| {
        let deviation = of.deviation.map(|deviation| format!(" ± {:.1}", 100.0 * deviation));
        format!("{:.1}{}", 100.0 * of.mean, deviation.unwrap_or_default())
    };
    let of = best_rate(&cell.runs);
    let train = cell.patch.as_ref().map(|patch| format!(" ({:.1})", 100.0 * patch.train));
    let dev = of.map_or("diverged".to_owned(), |of| percent(of.dev) + &train.unwrap_or_default());
    let test = of.and_then(|of| of.test).map_or("-".to_owned(), percent);
    if tested { vec![dev, test] } else { vec![dev] }
}

fn row(text: &str) -> Result<Row, String> {
    // Learning rates are below 1, ranks are not.
    let mut word = text;
    let mut learning_rates = Vec::new();
    while let Some((before, Ok(rate))) = word.rsplit_once('@').map(|(before, rate)| (before, learning_rate(rate))) {
        (word, learning_rates) = (before, [vec![rate], learning_rates].concat());
    }
    let weights = Weights::from_str(word, false).ok();
    let slots = slots(if weights.is_some() { "all" } else { word })?;
    Ok(Row { name: text.to_owned(), slots, weights, learning_rates })
}

fn column(text: &str) -> Result<Column, String> {
    let expected = || "expected NAME=TASK,TRAIN,DEV, then ,METRIC and ,test=FILE if wanted".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(expected)?;
    let mut parts: Vec<&str> = rest.split(',').collect();
    let test = parts.last().filter(|_| parts.len() > 3).and_then(|last| last.strip_prefix("test=")).map(PathBuf::from);
    if test.is_some() {
        parts.pop();
    }
    let (task, train, dev, metric) = match parts[..] {
        [task, train, dev] => (task, train, dev, None),
        [task, train, dev, metric] => (task, train, dev, Some(metric.to_owned())),
        _ => return Err(expected()),
    };
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err("expected a name of letters, digits, '.', '_' or '-'".to_owned());
    }
    Ok(Column { name: name.to_owned(), task: task.into(), train: train.into(), dev: dev.into(), test, metric })
}
