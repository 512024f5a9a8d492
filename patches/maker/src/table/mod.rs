//! A table of trainings, like the paper's Table 3: choices of slots, and weights for comparison, on several data sets.
//!
//! In: rows, data sets, a recipe, and a directory for results. Out: in that directory a result for each cell, and the
//! table in Markdown. A cell is a row on a data set, with all its learning rates and seeds: what a dev score chooses is
//! chosen within a cell, so no cell waits for another, and several processes may share the cells: see [`Part`].
//! Refused: a kept result of another training, and rows and data sets that are none.

mod cell;
mod difference;
mod kept;
mod paper;
mod report;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use bias_patch::{Pooling, atomic};
use clap::ValueEnum;
use edge_bundle::Element;
use edge_run::Encoder;

pub use cell::{Cell, OfPatch};
pub use kept::table_of;
pub(crate) use kept::{Kept, SUFFIX};
pub use paper::{Model, recipe as recipe_of_paper};
use report::Report;

use crate::{
    Error, Result,
    data::{check_apart, read_task},
    metric_named,
    train::{Event, Job, Listener, Recipe, Slots, Texts, Weights, beside, check_directory},
};

/// What is trained where, and how.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    /// What is adapted.
    pub encoder: &'a Encoder,
    /// The data sets, one a column.
    pub columns: &'a [Column],
    /// What is trained, one a row.
    pub rows: &'a [Row],
    /// How, where a row or column says nothing else. Without learning rates, a row has the default of what it trains.
    pub recipe: &'a Recipe,
    /// The directory of patches and results.
    pub results: &'a Path,
    /// Whether rows of files that are not labelled texts are left out.
    pub skip_bad: bool,
}

/// What is trained, and its own learning rates, if it has any. It is written as slots or weights, and `@RATE`s.
#[derive(Clone, Debug)]
pub struct Row {
    name: String,
    slots: Slots,
    weights: Option<Weights>,
    learning_rates: Vec<f64>,
}

/// A data set and its task. It is written `NAME=TASK,TRAIN,DEV[,METRIC][,test=FILE]`.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    task: PathBuf,
    train: PathBuf,
    dev: PathBuf,
    test: Option<PathBuf>,
    metric: Option<String>,
    /// The learning rates of the row `all` here, in place of the row's, if there are any.
    rates_of_all: Vec<f64>,
}

/// Which cells a process trains: of those of the first data set from its first row on, then of the second and so on,
/// every `every`th, beginning with number `first`, from 0. It is written `FIRST/EVERY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    first: usize,
    every: usize,
}

impl Part {
    /// All cells.
    pub const ALL: Part = Part { first: 0, every: 1 };
}

impl Table<'_> {
    /// Does the trainings of a part that have no result yet, and gives the results of that part. `note` is told what
    /// there is to say of the texts.
    ///
    /// # Errors
    /// When there are fewer cells than parts, texts or slots cannot be used, a kept result is of another training, a
    /// training fails, or `event` stops it ([`Error::Stopped`]).
    pub fn train(&self, part: Part, note: &mut dyn FnMut(&str), event: &mut Listener<'_>) -> Result<Vec<Cell>> {
        let count = self.columns.len() * self.rows.len();
        if part.every > count {
            return Err(Error::Recipe {
                field: "--cell".to_owned(),
                expected: format!("at most as many parts as there are cells, {count}"),
                found: part.every.to_string(),
            });
        }
        self.check()?;
        atomic::create_dirs(self.results)?;
        let mut cells = Vec::new();
        for (at, column) in self.columns.iter().enumerate() {
            let first = at * self.rows.len();
            let rows: Vec<(usize, &Row)> = (first..).zip(self.rows).filter(|(at, _)| part.has(*at)).collect();
            if rows.is_empty() {
                continue;
            }
            let task = read_task(&column.task)?;
            let texts = Texts::read(&task, (&column.train, &column.dev, column.test.as_deref()), self.skip_bad, note)?;
            for (at, row) in rows {
                let (slots, metric) = (row.slots.clone(), column.metric.clone());
                // The common rates are meant for biases; training all weights needs lower ones.
                let own = !row.learning_rates.is_empty() || row.weights == Some(Weights::Full);
                let rates = if row.name == "all" && !column.rates_of_all.is_empty() {
                    &column.rates_of_all
                } else if own {
                    &row.learning_rates
                } else {
                    &self.recipe.learning_rates
                };
                let recipe = Recipe { slots, metric, ..self.recipe.clone() }.with_rates(rates, row.weights);
                let output = self.output(column, row);
                let job =
                    Job { encoder: self.encoder, task: &task, sets: texts.sets(), recipe: &recipe, output: &output };
                let (row_name, data) = (row.name.clone(), column.name.clone());
                if !Cell::kept(&job) && event(Event::Cell { cell: (at, count), row: row_name, data }).is_break() {
                    return Err(Error::Stopped);
                }
                cells.push(Cell::of(&job, row.weights, &row.name, event)?);
            }
        }
        Ok(cells)
    }

    /// Refuses what would be refused in the end: hours of training come before the last column.
    fn check(&self) -> Result<()> {
        let manifest = self.encoder.bundle().manifest();
        self.rows.iter().filter_map(|row| row.weights).try_for_each(Weights::check)?;
        let rounded = manifest.tensors.iter().any(|tensor| tensor.element != Element::F32);
        if rounded && self.rows.iter().any(|row| row.weights.is_some()) {
            return Err(Error::Recipe {
                field: "encoder".to_owned(),
                expected: "one in f32, to train its weights (edge-export CHECKPOINT --weights f32)".to_owned(),
                found: format!("weights in {}", manifest.weights().option()),
            });
        }
        each_once(self.columns.iter().map(|column| &*column.name), "data sets")?;
        each_once(self.rows.iter().map(|row| &*row.name), "rows")?;
        for column in self.columns {
            let task = read_task(&column.task)?;
            let files = (&*column.train, &*column.dev, column.test.as_deref());
            // What there is to say of the texts is said when it is their turn.
            let texts = Texts::read(&task, files, self.skip_bad, &mut |_| ())?;
            metric_named(task.kind(), texts.sets().dev, column.metric.as_deref())?;
            let pooler = task.kind().pooling() == Some(Pooling::Pooler);
            self.rows.iter().try_for_each(|row| row.slots.check(manifest, pooler))?;
        }
        Ok(())
    }

    /// The files of a part's results.
    pub fn files(&self, part: Part) -> Vec<PathBuf> {
        let cells = self.columns.iter().flat_map(|column| self.rows.iter().map(move |row| (column, row)));
        let of_part = cells.enumerate().filter(|(at, _)| part.has(*at));
        of_part.map(|(_, (column, row))| beside(&self.output(column, row), ".json")).collect()
    }

    fn output(&self, column: &Column, row: &Row) -> PathBuf {
        self.results.join(format!("{}-{}.bias", column.name, row.file_name()))
    }

    /// Does the trainings that have no result yet, and writes the table of all cells. Gives its lines.
    ///
    /// # Errors
    /// As [`Table::train`]; also when the output is one of the files that are read, or cannot be written.
    pub fn write(&self, output: &Path, note: &mut dyn FnMut(&str), event: &mut Listener<'_>) -> Result<Vec<String>> {
        for column in self.columns {
            let files = [Some(&column.task), Some(&column.train), Some(&column.dev), column.test.as_ref()];
            let files: Vec<&Path> = files.into_iter().flatten().map(PathBuf::as_path).collect();
            check_apart(output, &files)?;
        }
        check_directory(output)?;
        let cells = self.train(Part::ALL, note, event)?;
        let report = Report {
            columns: self.columns.iter().map(|column| &*column.name).collect(),
            rows: self.rows.iter().collect(),
            cells: cells.iter().map(Some).collect(),
        };
        let lines = report.lines();
        atomic::write_file(output, (lines.join("\n") + "\n").as_bytes())?;
        Ok(lines)
    }
}

impl Row {
    /// What is trained, as it was written.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name in names of files: not every system takes a colon there.
    fn file_name(&self) -> String {
        self.name.replace(':', ".")
    }
}

impl Part {
    fn has(self, cell: usize) -> bool {
        cell % self.every == self.first
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(first, every)| Some((first.parse().ok()?, every.parse().ok()?)));
        let part = numbers.map(|(first, every)| Part { first, every }).filter(|part| part.first < part.every);
        part.ok_or_else(|| "expected K/N with K from 0 to N - 1".to_owned())
    }
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Learning rates are below 1, ranks are not.
        let mut word = text;
        let mut learning_rates = Vec::new();
        let split = |word| str::rsplit_once(word, '@').map(|(before, rate)| (before, rate.parse::<f64>().ok()));
        while let Some((before, Some(rate))) = split(word).filter(|(_, rate)| rate.is_some_and(Recipe::takes_rate)) {
            (word, learning_rates) = (before, [vec![rate], learning_rates].concat());
        }
        let no_rank = |last: &str| last.parse::<f64>().is_ok() && last.parse::<u32>().is_err();
        if let Some((_, last)) = word.rsplit_once('@').filter(|(_, last)| no_rank(last)) {
            return Err(format!("expected learning rates in (0, 1) and ranks that are whole numbers, found {last}"));
        }
        let weights = Weights::from_str(word, false).ok();
        let slots = if weights.is_some() { "all" } else { word };
        let slots = slots.parse().map_err(|error| match error {
            // A row may also be something else than slots.
            Error::Recipe { expected, found, .. } => {
                format!("expected random, rows, full, or slots: {expected}, found {found}")
            }
            error => error.to_string(),
        })?;
        Ok(Row { name: text.to_owned(), slots, weights, learning_rates })
    }
}

impl Column {
    /// The same, with the files that have a relative path looked for in a directory.
    #[must_use]
    pub fn within(self, directory: &Path) -> Self {
        let [task, train, dev] = [&self.task, &self.train, &self.dev].map(|path| directory.join(path));
        Column { task, train, dev, test: self.test.map(|path| directory.join(path)), ..self }
    }
}

/// Refuses names of which one is there twice.
fn each_once<'n>(names: impl Iterator<Item = &'n str>, what: &str) -> Result<()> {
    let names: Vec<&str> = names.collect();
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        None => Ok(()),
        Some((_, name)) => Err(Error::Recipe {
            field: format!("names of {what}"),
            expected: "each once".to_owned(),
            found: format!("{name} twice"),
        }),
    }
}

/// Refuses names of data sets that are none in a table or in the name of a file.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    match !name.is_empty() && name.chars().all(plain) {
        true => Ok(()),
        false => Err("expected a name of letters, digits, '.', '_' or '-'".to_owned()),
    }
}

impl FromStr for Column {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected NAME=TASK,TRAIN,DEV, then ,METRIC and ,test=FILE if wanted".to_owned();
        let (name, rest) = text.split_once('=').ok_or_else(expected)?;
        let mut parts: Vec<&str> = rest.split(',').collect();
        let test = parts.last().filter(|_| parts.len() > 3).and_then(|last| last.strip_prefix("test="));
        let test = test.map(PathBuf::from);
        if test.is_some() {
            parts.pop();
        }
        let (task, train, dev, metric) = match parts[..] {
            [task, train, dev] => (task, train, dev, None),
            [task, train, dev, metric] => (task, train, dev, Some(metric.to_owned())),
            _ => return Err(expected()),
        };
        check_name(name)?;
        let (task, train, dev) = (task.into(), train.into(), dev.into());
        Ok(Column { name: name.to_owned(), task, train, dev, test, metric, rates_of_all: Vec::new() })
    }
}
