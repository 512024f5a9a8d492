//! Patches from Python: trainings, tables of them, and adapters of PEFT and of ONNX Runtime.
//!
//! In: an encoder, and texts with labels, or an adapter. Out: files, and dictionaries about them. Refused: what
//! edge-patch refuses, in its words.

use std::{
    collections::BTreeSet,
    ffi::CString,
    ops::ControlFlow,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use bias_patch::Patch;
use edge_patch::{
    data::{check_variety, task_of, unused_labels},
    log::Entry,
    table::{Column, Part, Row, Table},
    train::{Event, Job, Lines, Recipe, Sets, best_run},
};
use edge_run::{Bundle, EngineOptions};
use pyo3::{
    exceptions::PyUserWarning,
    prelude::*,
    types::{PyBytes, PyDict},
};
use pythonize::{depythonize, pythonize};
use serde_json::{Map, Value};

use crate::{
    module::Encoder,
    rows::{Numbers, examples, records_of},
    values::{elements, kind, named, patch_of, refused},
};

/// Trains a patch on labelled texts and writes it to `output`, as `edge-patch train` does: the same patch for the same
/// data.
///
/// `texts` and `labels` are lists or anything that gives one after the other, such as a column of a table. Labels are
/// strings or integers, or floats for a regression; for a tagging or multi-label task, lists of these; for a span task,
/// dictionaries of `answer` and `answer_start`, or of `text` and `answer_start` as SQuAD has them. `dev` is a pair of
/// other texts and labels: after every epoch they are scored, and the best patch is kept. Without, the training
/// texts are scored, which says little of other texts.
///
/// `kind` is the kind of task: classification, or regression if all labels are floats. `task` has other fields of a
/// task.json, such as {"pooling": "mean"}. Labels are in the order of `task["labels"]`, or sorted. What is not given is
/// as in the command.
///
/// `progress` is called with events, dictionaries as in the lines of `edge-patch train --log`. By default a line for
/// each epoch goes to sys.stderr; False is silent. A training that was interrupted goes on from OUTPUT.training when it
/// is called again.
///
/// Gives a dictionary: the `path` of the patch, its `bytes`, its `score` on dev, and the `metric` that this is.
#[pyfunction]
#[pyo3(signature = (
    encoder, texts, labels, output, *, kind = None, task = None, dev = None, metric = None, slots = None, epochs = None,
    batch = None, learning_rates = None, seeds = None, class_weights = None, patience = None, progress = None
))]
#[expect(clippy::too_many_arguments, reason = "Python has keywords")]
pub(crate) fn train<'py>(
    py: Python<'py>,
    encoder: &Bound<'py, PyAny>,
    texts: &Bound<'py, PyAny>,
    labels: &Bound<'py, PyAny>,
    output: PathBuf,
    kind: Option<String>,
    task: Option<&Bound<'py, PyAny>>,
    dev: Option<&Bound<'py, PyAny>>,
    metric: Option<String>,
    slots: Option<&str>,
    epochs: Option<u64>,
    batch: Option<usize>,
    learning_rates: Option<Vec<f64>>,
    seeds: Option<Vec<u64>>,
    class_weights: Option<&str>,
    patience: Option<u64>,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let progress = Progress::of(progress)?;
    let default = Recipe::default();
    let recipe = Recipe {
        metric,
        patience,
        slots: slots.map_or(Ok(default.slots), str::parse).map_err(refused)?,
        epochs: epochs.unwrap_or(default.epochs),
        batch: batch.unwrap_or(default.batch),
        learning_rates: learning_rates.unwrap_or(default.learning_rates),
        seeds: seeds.unwrap_or(default.seeds),
        class_weights: class_weights.map_or(Ok(default.class_weights), |how| named("class_weights", how))?,
        ..default
    };
    check_rates(&recipe)?;
    if dev.is_none() && recipe.count() > 1 {
        let runs = recipe.count();
        return Err(refused(format!("dev: expected labelled texts that choose one of {runs} runs, found none")));
    }
    let mut fields = fields_of(task)?;
    if let Some(kind) = kind {
        fields.insert("kind".to_owned(), kind.into());
    }
    let words = fields.get("kind").is_some_and(|kind| kind == "tagging");
    let (records, numbers) = records_of("texts", texts, labels, words)?;
    if !fields.contains_key("kind") {
        match numbers {
            Numbers::Floats => drop(fields.insert("kind".to_owned(), "regression".into())),
            Numbers::Mixed => {
                let expected = "labels: expected integers, for a classification, or floats, for a regression";
                return Err(refused(format!("{expected}, found both; name one by kind=")));
            }
            Numbers::Others => {}
        }
    }
    let task = task_of(fields, &output, &records).map_err(refused)?;
    let train = examples("texts", records, &task)?;
    check_variety(Path::new("texts"), &train).map_err(refused)?;
    let unused = unused_labels(&task, &train).join(", ");
    if !unused.is_empty() {
        warn(py, &format!("labels of the task that no text has: {unused}"))?;
    }
    let dev = match dev.map(|dev| elements("dev", dev)).transpose()?.as_deref() {
        None => None,
        Some([texts, labels]) => Some(examples("dev", records_of("dev", texts, labels, words)?.0, &task)?),
        Some(found) => {
            return Err(refused(format!("dev: expected a pair of texts and labels, found {} values", found.len())));
        }
    };
    let encoder = loaded(py, encoder)?;
    let sets = Sets { train: &train, dev: dev.as_deref().unwrap_or(&train), test: None };
    let job = Job { encoder: &encoder, task: &task, sets, recipe: &recipe, output: &output };
    let trained = heard(py, progress, |event| job.alone(|checkpoint| job.train(checkpoint, event)))?;
    let found = about(py, &output, &trained.patch)?;
    found.set_item("metric", trained.metric)?;
    found.set_item("score", best_run(&trained.runs).and_then(|run| run.dev))?;
    Ok(found)
}

/// Trains a part of a table's cells, as `edge-patch table --cell` does, or writes the table to `output`.
///
/// `data` and `rows` are lists of what the command's --data and --rows take. `cell` is a pair of K and N. Gives the
/// files of the results of that part, or of all. Relative paths are those of `directory`. edge_run.ray.table says more.
#[pyfunction]
#[pyo3(signature = (
    encoder, data, rows, results, output, *, directory = PathBuf::new(), cell = None, residual_rate = None, rate_by_first_seed = false,
    epochs = None, batch = None, learning_rates = Vec::new(), seeds = None, class_weights = None, patience = None,
    threads = 1
))]
#[expect(clippy::too_many_arguments, reason = "Python has keywords")]
pub(crate) fn table(
    py: Python<'_>,
    encoder: PathBuf,
    data: Vec<String>,
    rows: Vec<String>,
    results: PathBuf,
    output: PathBuf,
    directory: PathBuf,
    cell: Option<(usize, usize)>,
    residual_rate: Option<f64>,
    rate_by_first_seed: bool,
    epochs: Option<u64>,
    batch: Option<usize>,
    learning_rates: Vec<f64>,
    seeds: Option<Vec<u64>>,
    class_weights: Option<&str>,
    patience: Option<u64>,
    threads: usize,
) -> PyResult<Vec<PathBuf>> {
    let default = Recipe::default();
    let recipe = Recipe {
        patience,
        rate_by_first_seed,
        residual_rate: residual_rate.unwrap_or(default.residual_rate),
        epochs: epochs.unwrap_or(default.epochs),
        batch: batch.unwrap_or(default.batch),
        learning_rates,
        seeds: seeds.unwrap_or(default.seeds),
        class_weights: class_weights.map_or(Ok(default.class_weights), |how| named("class_weights", how))?,
        ..default
    };
    check_rates(&recipe)?;
    let [encoder, results, output] = [encoder, results, output].map(|path| directory.join(path));
    let columns = parsed::<Column>("data", &data)?.into_iter().map(|column| column.within(&directory));
    let (columns, rows): (Vec<Column>, _) = (columns.collect(), parsed::<Row>("rows", &rows)?);
    let part = match cell {
        Some((at, count)) => parsed::<Part>("cell", &[format!("{at}/{count}")])?[0],
        None => Part::ALL,
    };
    let encoder = py.detach(|| {
        let options = EngineOptions { threads, ..EngineOptions::default() };
        edge_run::Encoder::load(Bundle::open(&encoder)?, options).map_err(edge_patch::Error::from)
    });
    let encoder = encoder.map_err(refused)?;
    let (columns, rows, results, recipe) = (&columns, &rows, &results, &recipe);
    let table = Table { encoder: &encoder, columns, rows, recipe, results, skip_bad: false };
    let mut notes = Vec::new();
    heard(py, Progress::Lines, |event| {
        let note = &mut |said: &str| notes.push(said.to_owned());
        match cell {
            Some(_) => table.train(part, note, event).map(drop),
            None => table.write(&output, note, event).map(drop),
        }
    })?;
    notes.iter().try_for_each(|said| warn(py, said))?;
    Ok(table.files(part))
}

/// The values of words of the command line. `what` is the argument's name.
fn parsed<T: FromStr<Err = String>>(what: &str, words: &[String]) -> PyResult<Vec<T>> {
    let value = |word: &String| word.parse().map_err(|error| refused(format!("{what}: {word}: {error}")));
    words.iter().map(value).collect()
}

fn check_rates(recipe: &Recipe) -> PyResult<()> {
    match recipe.learning_rates.iter().find(|rate| !Recipe::takes_rate(**rate)) {
        Some(rate) => Err(refused(format!("learning_rates: expected numbers in (0, 1), found {rate}"))),
        None => Ok(()),
    }
}

fn warn(py: Python<'_>, said: &str) -> PyResult<()> {
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &CString::new(said)?, 1)
}

/// Biases, low-rank terms and head of a patch, as the bytes of the safetensors file that `edge-patch extract` writes,
/// and the names of those that a graph takes. The other tensors are the head's.
#[pyfunction]
pub(crate) fn extract<'py>(
    py: Python<'py>,
    patch: &Bound<'py, PyAny>,
    encoder: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyBytes>, BTreeSet<String>)> {
    let (patch, bundle) = (patch_of(patch)?, bundle_of(encoder)?);
    let bytes = py.detach(|| edge_patch::extract(&bundle, &patch)).map_err(refused)?;
    Ok((PyBytes::new(py, &bytes), edge_patch::graph_inputs(&bundle)))
}

/// Makes a patch of an adapter of PEFT, LoRA or BEFT, and writes it to `output`.
///
/// `adapter` is a PeftModel, or the directory to which it was saved. `task` has the fields of a task.json: `labels` in
/// the order of the model's outputs and `pooling` as the model pools, such as {"labels": ["no", "yes"], "pooling":
/// "pooler"} for BERT; a missing `kind` is classification.
///
/// Gives a dictionary: the `path` of the patch, its `bytes`, and the `base_model` that the adapter names. Nothing in an
/// adapter proves that this is the encoder.
#[pyfunction]
#[pyo3(signature = (adapter, encoder, output, *, task))]
pub(crate) fn from_peft<'py>(
    py: Python<'py>,
    adapter: &Bound<'py, PyAny>,
    encoder: &Bound<'py, PyAny>,
    output: PathBuf,
    task: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let bundle = bundle_of(encoder)?;
    let task = task_of(fields_of(Some(task))?, &output, &[]).map_err(refused)?;
    let import = |from: PathBuf| {
        py.detach(|| {
            let imported = edge_patch::import(&bundle, &from, task, &[])?;
            imported.patch.save(&output)?;
            Ok::<_, edge_patch::Error>(imported)
        })
        .map_err(refused)
    };
    let imported = if adapter.hasattr("save_pretrained")? {
        let directory = py.import("tempfile")?.call_method0("TemporaryDirectory")?;
        let path = directory.getattr("name")?;
        let imported = adapter.call_method1("save_pretrained", (&path,)).and_then(|_| import(path.extract()?));
        directory.call_method0("cleanup")?;
        imported?
    } else {
        import(adapter.extract()?)?
    };
    let found = about(py, &output, &imported.patch)?;
    found.set_item("base_model", imported.base_model)?;
    Ok(found)
}

/// Writes a patch that has low-rank terms as an adapter, which PeftModel.from_pretrained loads, into a directory.
#[pyfunction]
pub(crate) fn to_peft(
    py: Python<'_>,
    patch: &Bound<'_, PyAny>,
    encoder: &Bound<'_, PyAny>,
    directory: PathBuf,
) -> PyResult<()> {
    let (patch, bundle) = (patch_of(patch)?, bundle_of(encoder)?);
    py.detach(|| edge_patch::extract_peft(&bundle, &patch)?.save(&directory)).map_err(refused)
}

/// What is done with the events of a training.
enum Progress {
    Lines,
    Silent,
    Called(Py<PyAny>),
}

impl Progress {
    fn of(value: Option<Bound<'_, PyAny>>) -> PyResult<Self> {
        match value {
            None => Ok(Progress::Lines),
            Some(value) if value.is_callable() => Ok(Progress::Called(value.unbind())),
            Some(value) => match value.extract::<bool>() {
                Ok(true) => Ok(Progress::Lines),
                Ok(false) => Ok(Progress::Silent),
                Err(_) => Err(refused(format!("progress: expected a function or a bool, found {}", kind(&value)))),
            },
        }
    }
}

/// What trainings give, whose events are told. What is raised meanwhile ends them.
fn heard<T: Send>(
    py: Python<'_>,
    progress: Progress,
    work: impl FnOnce(&mut edge_patch::train::Listener<'_>) -> edge_patch::Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let mut listener = Listener { progress, lines: Lines::default() };
    let done = py.detach(|| {
        work(&mut |event| match Python::attach(|py| listener.event(py, &event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                raised = Some(error);
                ControlFlow::Break(())
            }
        })
    });
    match (done, raised) {
        // The state of a training that stops may not have been kept.
        (Err(reason), Some(error)) if !matches!(reason, edge_patch::Error::Stopped) => {
            error.set_cause(py, Some(refused(reason)));
            Err(error)
        }
        (_, Some(error)) => Err(error),
        (done, None) => done.map_err(refused),
    }
}

struct Listener {
    progress: Progress,
    lines: Lines,
}

impl Listener {
    /// Tells an event. What is raised meanwhile, an interrupt among it, ends the training.
    fn event(&mut self, py: Python<'_>, event: &Event) -> PyResult<()> {
        py.check_signals()?;
        match &self.progress {
            Progress::Silent => Ok(()),
            Progress::Called(function) => function.call1(py, (pythonize(py, &Entry::from(event))?,)).map(drop),
            Progress::Lines => {
                // Python's, which a notebook shows. There may be none.
                let stderr = py.import("sys")?.getattr("stderr")?;
                match self.lines.line(event) {
                    Some(line) if !stderr.is_none() => stderr.call_method1("write", (line + "\n",)).map(drop),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// An encoder, or that of a bundle's directory.
fn loaded(py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Arc<edge_run::Encoder>> {
    if let Ok(encoder) = value.cast::<Encoder>() {
        return Ok(encoder.get().0.clone());
    }
    let bundle = bundle_of(value)?;
    let load = || edge_run::Encoder::load(bundle, EngineOptions::default());
    Ok(Arc::new(py.detach(load).map_err(refused)?))
}

/// The bundle of an encoder, or of a directory.
fn bundle_of(value: &Bound<'_, PyAny>) -> PyResult<Bundle> {
    match value.cast::<Encoder>() {
        Ok(encoder) => Ok(encoder.get().0.bundle().clone()),
        Err(_) => Bundle::open(&value.extract::<PathBuf>()?).map_err(refused),
    }
}

fn fields_of(task: Option<&Bound<'_, PyAny>>) -> PyResult<Map<String, Value>> {
    task.map_or(Ok(Map::new()), |task| depythonize(task).map_err(|error| refused(format!("task: {error}"))))
}

/// What there is to say of a patch that was written.
fn about<'py>(py: Python<'py>, output: &Path, patch: &Patch) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    found.set_item("path", output)?;
    found.set_item("bytes", patch.to_bytes().map_err(refused)?.len())?;
    Ok(found)
}
