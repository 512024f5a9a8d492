//! edge-run as a Python module.
//!
//! In: bundles, patches and texts. Out: answers as dictionaries, with the fields of `edge-run -o jsonl`, and embeddings as
//! NumPy arrays. Refused, as `edge_run.Error`: what the runtime refuses, in its words. The interpreter's lock is free
//! while an encoder loads or runs, and an interrupt is seen between runs of a few hundred texts.

use pyo3::{create_exception, exceptions::PyValueError, prelude::*};

create_exception!(
    edge_run,
    Error,
    PyValueError,
    "A file that cannot be used, a text that cannot be answered, or an argument of the wrong value."
);

#[pymodule(name = "edge_run")]
mod module {
    use std::{path::PathBuf, sync::Arc};

    use clap::ValueEnum;
    use edge_run::{Bundle, EngineOptions, Options, Patch, Prediction, Request, Store, Text};
    use numpy::{PyArray2, ndarray::Array2};
    use pyo3::{prelude::*, types::PyDict};
    use pythonize::pythonize;

    #[pymodule_export]
    use super::Error;

    /// Texts of a run, after which an interrupt is looked for.
    const TEXTS: usize = 256;

    /// A loaded encoder. Its weights are mapped: processes on one machine share them.
    #[pyclass(frozen)]
    struct Encoder(Arc<edge_run::Encoder>);

    /// A task attached to an encoder. Called with a text, it gives the answer.
    #[pyclass(frozen)]
    struct Task {
        encoder: Arc<edge_run::Encoder>,
        task: Arc<edge_run::Task>,
    }

    /// A text, two texts in a tuple, or a list of words.
    #[derive(FromPyObject)]
    enum Input {
        One(String),
        Pair((String, String)),
        Words(Vec<String>),
    }

    impl Input {
        fn text(self) -> PyResult<Text> {
            match self {
                Input::One(text) => Ok(Text::one(text)),
                Input::Pair((first, second)) => Ok(Text::pair(first, second)),
                Input::Words(words) => Text::of_words(&words).map_err(refused),
            }
        }
    }

    fn refused(error: impl ToString) -> PyErr {
        Error::new_err(error.to_string())
    }

    /// A value of a flag by its name on the command line.
    fn named<T: ValueEnum>(argument: &str, name: &str) -> PyResult<T> {
        T::from_str(name, false).map_err(|_| {
            let known: Vec<_> = T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
            let known: Vec<&str> = known.iter().map(|value| value.get_name()).collect();
            refused(format!("{argument}: expected {}, found {name:?}", known.join(" or ")))
        })
    }

    fn options(engine: &str, activations: &str, threads: usize) -> PyResult<EngineOptions> {
        Ok(EngineOptions {
            engine: named("engine", engine)?,
            activations: named("activations", activations)?,
            threads: match threads {
                0 => return Err(refused("threads: expected a number above 0, found 0")),
                threads => threads,
            },
        })
    }

    #[pymethods]
    impl Encoder {
        #[new]
        #[pyo3(signature = (bundle, *, engine = "auto", activations = "int8", threads = 1))]
        fn new(py: Python<'_>, bundle: PathBuf, engine: &str, activations: &str, threads: usize) -> PyResult<Self> {
            let options = options(engine, activations, threads)?;
            let open = || edge_run::Encoder::load(Bundle::open(&bundle)?, options);
            Ok(Encoder(Arc::new(py.detach(open).map_err(refused)?)))
        }

        /// The encoder that a patch was made for, from the user's store, to which edge-export writes.
        #[staticmethod]
        #[pyo3(signature = (patch, *, engine = "auto", activations = "int8", threads = 1))]
        fn of(py: Python<'_>, patch: PathBuf, engine: &str, activations: &str, threads: usize) -> PyResult<Self> {
            let options = options(engine, activations, threads)?;
            let open = || {
                let patch = Patch::open(&patch)?;
                edge_run::Encoder::load(Store::of_user()?.open(patch.encoder())?, options)
            };
            Ok(Encoder(Arc::new(py.detach(open).map_err(refused)?)))
        }

        /// The checkpoint's name.
        #[getter]
        fn name(&self) -> &str {
            &self.0.bundle().manifest().name
        }

        /// What patches name it by.
        #[getter]
        fn digest(&self) -> String {
            self.0.bundle().manifest().encoder.to_string()
        }

        /// A task of a patch. `prompt` names one of an embedding task's; `entities` groups the tags of a tagging task.
        #[pyo3(signature = (patch, *, prompt = None, entities = None))]
        fn attach(&self, patch: PathBuf, prompt: Option<&str>, entities: Option<&str>) -> PyResult<Task> {
            let patch = Patch::open(&patch).map_err(refused)?;
            let mut task = self.0.attach(&patch).map_err(refused)?;
            if let Some(prompt) = prompt {
                task = task.prompted(prompt).map_err(refused)?;
            }
            if let Some(strategy) = entities {
                task = task.with_entities(named("entities", strategy)?).map_err(refused)?;
            }
            Ok(Task { encoder: self.0.clone(), task: Arc::new(task) })
        }

        /// For each text, the answers of all tasks, in their order; they run together.
        ///
        /// An answer has the fields that `edge-run -o jsonl` writes, `logits` always among them. With errors="return", a
        /// text that cannot be answered has the one field `error`.
        #[pyo3(signature = (texts, tasks, *, top_k = 1, max_length = None, errors = "raise"))]
        fn predict<'py>(
            &self,
            py: Python<'py>,
            texts: Vec<Input>,
            tasks: Vec<PyRef<'py, Task>>,
            top_k: usize,
            max_length: Option<u32>,
            errors: &str,
        ) -> PyResult<Vec<Vec<Bound<'py, PyAny>>>> {
            let raises = match errors {
                "raise" => true,
                "return" => false,
                other => return Err(refused(format!("errors: expected \"raise\" or \"return\", found {other:?}"))),
            };
            let options = Options { top: top_k.max(1), max_length, most_windows: None };
            let tasks: Vec<Arc<edge_run::Task>> = tasks.iter().map(|task| task.task.clone()).collect();
            let mut rows = Vec::with_capacity(texts.len());
            each(py, &self.0, texts, &tasks, options, |predictions| {
                let answers = predictions.into_iter().map(|prediction| match prediction {
                    Ok(prediction) => answer(py, &prediction),
                    Err(error) if raises => Err(error),
                    Err(error) => {
                        let answer = PyDict::new(py);
                        answer.set_item("error", error.value(py).to_string())?;
                        Ok(answer.into_any())
                    }
                });
                rows.push(answers.collect::<PyResult<Vec<_>>>()?);
                Ok(())
            })?;
            Ok(rows)
        }

        /// The vectors of an embedding task, a row for each text.
        #[pyo3(signature = (texts, task, *, max_length = None))]
        fn embed<'py>(
            &self,
            py: Python<'py>,
            texts: Vec<Input>,
            task: PyRef<'py, Task>,
            max_length: Option<u32>,
        ) -> PyResult<Bound<'py, PyArray2<f32>>> {
            let tasks = [task.task.clone()];
            let options = Options { top: 1, max_length, most_windows: None };
            let (count, mut width, mut values) = (texts.len(), 0, Vec::new());
            each(py, &self.0, texts, &tasks, options, |predictions| {
                for prediction in predictions {
                    let prediction = prediction?;
                    let edge_run::Answer::Vector(vector) = prediction.answer else {
                        let found = tasks[0].spec().kind().name();
                        return Err(refused(format!("embed: expected an embedding task, found a {found} task")));
                    };
                    width = vector.len();
                    values.extend(vector);
                }
                Ok(())
            })?;
            let rows = Array2::from_shape_vec((count, width), values).map_err(refused)?;
            Ok(PyArray2::from_owned_array(py, rows))
        }
    }

    #[pymethods]
    impl Task {
        fn __call__<'py>(&self, py: Python<'py>, text: Input) -> PyResult<Bound<'py, PyAny>> {
            let text = text.text()?;
            let request = Request { task: &self.task, text: &text };
            let prediction = py.detach(|| self.encoder.predict(&[request]).remove(0)).map_err(refused)?;
            answer(py, &prediction)
        }

        /// The task's name.
        #[getter]
        fn name(&self) -> &str {
            self.task.spec().name()
        }

        /// The kind of task.
        #[getter]
        fn kind(&self) -> &'static str {
            self.task.spec().kind().name()
        }

        /// Its labels; none of a task without.
        #[getter]
        fn labels(&self) -> Vec<String> {
            self.task.spec().kind().labels().to_vec()
        }
    }

    /// Answers texts, some hundred at a time, and gives `row` the predictions of all tasks for each text.
    fn each(
        py: Python<'_>,
        encoder: &edge_run::Encoder,
        texts: Vec<Input>,
        tasks: &[Arc<edge_run::Task>],
        options: Options,
        mut row: impl FnMut(Vec<PyResult<Prediction>>) -> PyResult<()>,
    ) -> PyResult<()> {
        let mut texts = texts.into_iter().peekable();
        while texts.peek().is_some() {
            py.check_signals()?;
            let part: Vec<Text> = texts.by_ref().take(TEXTS).map(Input::text).collect::<PyResult<_>>()?;
            let requests: Vec<Request<'_>> =
                part.iter().flat_map(|text| tasks.iter().map(move |task| Request { task, text })).collect();
            let mut predictions = py.detach(|| encoder.predict_with(&requests, options)).into_iter();
            for _ in &part {
                row(predictions.by_ref().take(tasks.len()).map(|p| p.map_err(refused)).collect())?;
            }
        }
        Ok(())
    }

    /// An answer as a dictionary.
    fn answer<'py>(py: Python<'py>, prediction: &Prediction) -> PyResult<Bound<'py, PyAny>> {
        let answer = pythonize(py, &prediction.answer)?;
        answer.set_item("logits", &prediction.logits)?;
        answer.set_item("truncated", prediction.truncated)?;
        Ok(answer)
    }
}
