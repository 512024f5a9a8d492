//! The command `edge-patch reproduce`: its flags, and the tables of the paper.

use std::path::PathBuf;

use clap::Args;
use edge_bundle::Bundle;
use edge_run::{Encoder, EngineOptions};

use super::{progress::Progress, table::ResultArguments};
use crate::{
    Result,
    table::{Model, Table, recipe_of_paper},
};

#[derive(Args)]
pub(crate) struct ReproduceArguments {
    /// The paper's encoder, or other
    #[arg(value_enum)]
    model: Model,
    /// The encoder's bundle. edge-export makes the paper's of google-bert/bert-base-cased, google-bert/bert-large-cased or
    /// FacebookAI/roberta-base
    #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
    encoder: PathBuf,
    /// Read data sets here: directories QNLI, SST-2, MNLI, CoLA, MRPC, STS-B, RTE and QQP, as many as there are, each
    /// with train.tsv and dev.tsv (MNLI: dev_matched.tsv), in the formats of train. With another encoder test.tsv is
    /// scored too, where it has labels, which GLUE's own has not
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    results: ResultArguments,
    /// Train all biases of bert-base or bert-large at the learning rates of the paper's Table 6, in place of choosing
    /// among four
    #[arg(long)]
    best_rates: bool,
    /// Train for this many epochs. The paper: 8 or fewer for most tasks, up to 20 for others
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Do this many runs at the best learning rate, with consecutive seeds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Run on this many threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Append the events of the training to this file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Does the trainings that have no result yet, and writes the table. Gives the lines to print.
pub(crate) fn run_reproduction(arguments: &ReproduceArguments) -> Result<Vec<String>> {
    let ReproduceArguments { model, data, results, .. } = arguments;
    let bundle = Bundle::open(&arguments.encoder)?;
    let config = &bundle.manifest().config;
    model.check(config)?;
    let rows = model.rows();
    let columns = model.columns(config.max_length, data, &results.results, arguments.best_rates)?;
    let engine = EngineOptions { threads: arguments.threads as usize, ..EngineOptions::default() };
    let encoder = Encoder::load(bundle, engine)?;
    let mut progress = Progress::new(arguments.log.as_deref())?;
    let recipe = recipe_of_paper(arguments.epochs, arguments.seeds);
    let table = Table {
        encoder: &encoder,
        columns: &columns,
        rows: &rows,
        recipe: &recipe,
        results: &results.results,
        skip_bad: false,
    };
    let lines = results.train_or_write(&table, &mut progress)?;
    progress.finish()?;
    Ok(lines)
}
