//! The tables of the BitFit paper: its rows, its data sets and its settings.
//!
//! In: which of its encoders, or that it is another, and a directory with data of GLUE. Out: the rows, columns and
//! recipe of a [`Table`](super::Table). Refused: an encoder that is not the one named, a directory without any of the
//! data sets, and the paper's best rates for a model of which it names none.
//!
//! What the paper leaves open is as `edge-patch train` has it: warm-up, linear decay, clipping, no dropout, no weight
//! decay.

use std::{io, path::Path};

use bias_patch::atomic;
use clap::ValueEnum;
use edge_bundle::{Config, Family};
use serde_json::json;

use super::{Column, Row};
use crate::{
    Error, Result,
    data::has_labels,
    train::{Recipe, Weights},
};

/// An encoder of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// BERT-base: every row of Table 3
    BertBase,
    /// BERT-large: full fine-tuning and all biases, as in Tables 1 and 2
    BertLarge,
    /// RoBERTa-base: full fine-tuning and all biases, as in Table 2
    RobertaBase,
    /// Another encoder: every row of Table 3, at rates that suit small ones, with a head on the mean of all tokens
    Other,
}

/// Learning rates of biases to choose from (appendix A.2).
const RATES: [f64; 4] = [1e-4, 4e-4, 7e-4, 1e-3];
/// Learning rates of full fine-tuning to choose from (appendix A.2).
const FULL_RATES: [f64; 4] = [1e-5, 2e-5, 3e-5, 5e-5];

/// Learning rates of biases, and of full fine-tuning, of small encoders.
const OTHER_RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];
const OTHER_FULL_RATES: [f64; 3] = [1e-5, 3e-5, 1e-4];

/// The longest text, in tokens.
const TOKENS: u32 = 128;

/// A data set of GLUE, with its metric (Table 5) and the best learning rates of biases (Table 6).
struct DataSet {
    name: &'static str,
    /// The directory that GLUE's archive has it in.
    directory: &'static str,
    metric: &'static str,
    inputs: usize,
    /// In the order of their numbers. None for a regression.
    labels: &'static [&'static str],
    /// For BERT-base and BERT-large.
    best: [f64; 2],
}

const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];

const DATA_SETS: [DataSet; 8] = [
    DataSet { name: "qnli", directory: "QNLI", metric: "accuracy", inputs: 2, labels: ENTAILMENT, best: [1e-4, 7e-4] },
    DataSet {
        name: "sst2",
        directory: "SST-2",
        metric: "accuracy",
        inputs: 1,
        labels: &["negative", "positive"],
        best: [4e-4, 4e-4],
    },
    DataSet {
        name: "mnli",
        directory: "MNLI",
        metric: "accuracy",
        inputs: 2,
        labels: &["entailment", "neutral", "contradiction"],
        best: [1e-4, 1e-4],
    },
    DataSet {
        name: "cola",
        directory: "CoLA",
        metric: "Matthews",
        inputs: 1,
        labels: &["unacceptable", "acceptable"],
        best: [7e-4, 4e-4],
    },
    DataSet {
        name: "mrpc",
        directory: "MRPC",
        metric: "F1",
        inputs: 2,
        labels: &["different", "equivalent"],
        best: [7e-4, 1e-3],
    },
    DataSet { name: "stsb", directory: "STS-B", metric: "Spearman", inputs: 2, labels: &[], best: [1e-4, 1e-4] },
    DataSet { name: "rte", directory: "RTE", metric: "accuracy", inputs: 2, labels: ENTAILMENT, best: [1e-3, 4e-4] },
    DataSet {
        name: "qqp",
        directory: "QQP",
        metric: "F1",
        inputs: 2,
        labels: &["different", "duplicate"],
        best: [4e-4, 4e-4],
    },
];

impl Model {
    /// Checks that an encoder has this model's family and size. Nothing proves that its weights are the published ones.
    ///
    /// # Errors
    /// When it has another.
    pub fn check(self, config: &Config) -> Result<()> {
        let (family, layers, hidden) = match self {
            Model::BertBase => (Family::Bert, 12, 768),
            Model::BertLarge => (Family::Bert, 24, 1024),
            Model::RobertaBase => (Family::Roberta, 12, 768),
            Model::Other => return Ok(()),
        };
        let found = (config.family, config.layers, config.hidden);
        if found == (family, layers, hidden) {
            return Ok(());
        }
        let shown = |(family, layers, hidden): (Family, u32, u32)| {
            format!("{}, {layers} layers of {hidden} values", family.name())
        };
        Err(Error::Recipe {
            field: "encoder".to_owned(),
            expected: shown((family, layers, hidden)),
            found: shown(found),
        })
    }

    /// The rows of its table.
    ///
    /// # Panics
    /// When slots have other names than here.
    pub fn rows(self) -> Vec<Row> {
        let (biases, others): (&[&str], &[Weights]) = match self {
            Model::BertBase | Model::Other => {
                (&["frozen", "bq", "bm2", "bq+bm2", "all"], &[Weights::Random, Weights::Rows, Weights::Full])
            }
            Model::BertLarge | Model::RobertaBase => (&["all"], &[Weights::Full]),
        };
        let row = |name: &str, slots: &str, weights: Option<Weights>| {
            let learning_rates = match (self, weights) {
                // Without a search (appendix A.2).
                (Model::RobertaBase, Some(Weights::Full)) => vec![1e-5],
                (Model::RobertaBase, _) => vec![1e-4],
                (Model::Other, Some(Weights::Full)) => OTHER_FULL_RATES.to_vec(),
                (Model::Other, _) => OTHER_RATES.to_vec(),
                (_, Some(Weights::Full)) => FULL_RATES.to_vec(),
                _ => RATES.to_vec(),
            };
            let slots = slots.parse().expect("a name of slots");
            Row { name: name.to_owned(), slots, weights, learning_rates }
        };
        let biases = biases.iter().map(|name| row(name, name, None));
        biases.chain(others.iter().map(|weights| row(weights.name(), "all", Some(*weights)))).collect()
    }

    /// The data sets that a directory has, with `train.tsv` and `dev.tsv` in a directory for each, as GLUE's archive
    /// names them, for an encoder that takes `longest` tokens. Their tasks are written into `tasks` in `results`. With
    /// `best`, all biases have the learning rate of Table 6.
    ///
    /// # Errors
    /// When there are none, a task cannot be written, or Table 6 does not have the model.
    pub fn columns(self, longest: u32, data: &Path, results: &Path, best: bool) -> Result<Vec<Column>> {
        if best && !matches!(self, Model::BertBase | Model::BertLarge) {
            return Err(Error::Recipe {
                field: "--best-rates".to_owned(),
                expected: "bert-base or bert-large, which the paper's Table 6 has".to_owned(),
                found: self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
            });
        }
        if !data.is_dir() {
            return Err(bias_patch::Error::io(data, "read")(io::ErrorKind::NotFound.into()).into());
        }
        let there: Vec<&DataSet> = DATA_SETS.iter().filter(|set| data.join(set.directory).is_dir()).collect();
        if there.is_empty() {
            let names = DATA_SETS.map(|set| set.directory).join(", ");
            return Err(Error::Content {
                path: data.to_owned(),
                field: "data sets".to_owned(),
                expected: format!("directories with train.tsv and dev.tsv, named as in GLUE: {names}"),
                found: "none".to_owned(),
            });
        }
        let tasks = &results.join("tasks");
        atomic::create_dirs(tasks)?;
        let most = longest.min(TOKENS);
        there.into_iter().map(|set| self.column(set, most, &data.join(set.directory), tasks, best)).collect()
    }

    fn pooling(self) -> &'static str {
        if self == Model::Other { "mean" } else { "cls" }
    }

    fn column(self, set: &DataSet, most: u32, data: &Path, tasks: &Path, best: bool) -> Result<Column> {
        let task = tasks.join(format!("{}.json", set.name));
        let mut fields = json!({
            "name": set.name, "kind": "regression", "inputs": set.inputs, "pooling": self.pooling(), "max_length": most,
        });
        if !set.labels.is_empty() {
            fields["kind"] = "classification".into();
            fields["labels"] = set.labels.into();
        }
        atomic::write_file(&task, format!("{fields:#}\n").as_bytes())?;
        let there = |name: &str| Some(data.join(name)).filter(|path| path.is_file());
        // MNLI has two dev sets. The first has the sources of the training part.
        let dev = there("dev_matched.tsv").unwrap_or_else(|| data.join("dev.tsv"));
        // GLUE's own test sets have no labels. The paper's tables are of dev sets.
        let test = match there("test.tsv") {
            Some(test) if self == Model::Other && has_labels(&test)? => Some(test),
            _ => None,
        };
        let rates = match self {
            Model::BertBase if best => vec![set.best[0]],
            Model::BertLarge if best => vec![set.best[1]],
            _ => Vec::new(),
        };
        Ok(Column {
            name: set.name.to_owned(),
            task,
            train: data.join("train.tsv"),
            dev,
            test,
            metric: Some(set.metric.to_owned()),
            rates_of_all: rates,
        })
    }
}

/// How the paper trains: batches of 16 (appendix A.2), all biases at one rate. The learning rate is that of the best
/// score on dev with the first seed.
pub fn recipe(epochs: u64, seeds: u64) -> Recipe {
    Recipe {
        residual_rate: 1.0,
        seeds: (1..=seeds).collect(),
        rate_by_first_seed: true,
        epochs,
        batch: 16,
        ..Recipe::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::read_task;

    #[test]
    fn rows_and_rates_are_those_of_the_paper() {
        let names = |model: Model| model.rows().into_iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(Model::BertBase), ["frozen", "bq", "bm2", "bq+bm2", "all", "random", "rows", "full"]);
        assert_eq!(names(Model::RobertaBase), ["all", "full"]);
        let rows = Model::BertLarge.rows();
        let rates: Vec<&[f64]> = rows.iter().map(|row| &*row.learning_rates).collect();
        assert_eq!(rates, [[1e-4, 4e-4, 7e-4, 1e-3], [1e-5, 2e-5, 3e-5, 5e-5]]);
        assert_eq!(Model::RobertaBase.rows()[0].learning_rates, [1e-4]);
        let slots = &rows[0].slots;
        assert_ne!(*slots, crate::train::Slots::default(), "biases alone");
    }

    #[test]
    fn data_sets_that_are_there_become_columns() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path();
        let empty = Model::BertBase.columns(512, data, &data.join("results"), false).unwrap_err().to_string();
        assert!(empty.contains("QNLI, SST-2, MNLI") && empty.ends_with("found none"), "{empty}");
        for set in ["STS-B", "MNLI", "CoLA"] {
            std::fs::create_dir(data.join(set)).unwrap();
        }
        for (name, text) in [
            ("MNLI/dev_matched.tsv", ""),
            ("CoLA/test.tsv", "sentence\tlabel\ntext\t0\n"),
            ("STS-B/test.tsv", "index\tsentence1\tsentence2\n0\ta\tb\n"),
            ("MNLI/test.tsv", "sentence1\tsentence2\tgold_label\na\tb\tneutral\n"),
        ] {
            std::fs::write(data.join(name), text).unwrap();
        }
        let columns = Model::BertLarge.columns(512, data, &data.join("results"), true).unwrap();
        assert_eq!(columns.iter().map(|column| &*column.name).collect::<Vec<_>>(), ["mnli", "cola", "stsb"]);
        assert_eq!(columns[0].dev, data.join("MNLI/dev_matched.tsv"));
        assert!(columns.iter().all(|column| column.test.is_none()), "the paper's tables are of dev sets");
        assert_eq!(columns[1].rates_of_all, [4e-4]);
        assert_eq!(columns[1].metric.as_deref(), Some("Matthews"));
        for column in &columns {
            let task = read_task(&column.task).unwrap();
            let labels = task.kind().labels().len();
            assert_eq!((task.name(), task.inputs()), (&*column.name, if column.name == "cola" { 1 } else { 2 }));
            assert_eq!(
                labels,
                match &*column.name {
                    "mnli" => 3,
                    "cola" => 2,
                    _ => 0,
                }
            );
        }
        let searched = Model::BertLarge.columns(512, data, &data.join("results"), false).unwrap();
        assert!(searched.iter().all(|column| column.rates_of_all.is_empty()));
        let others = Model::Other.columns(512, data, &data.join("results"), false).unwrap();
        let tested: Vec<bool> = others.iter().map(|column| column.test.is_some()).collect();
        assert_eq!(tested, [true, true, false], "only labelled test sets");
        let refused = Model::Other.columns(512, data, &data.join("results"), true).unwrap_err().to_string();
        assert!(
            refused.starts_with("--best-rates: expected bert-base or bert-large") && refused.ends_with("found other")
        );
    }
}
