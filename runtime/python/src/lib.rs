//! edge-run as a Python module.
//!
//! In: bundles, patches and texts, with labels to train on. Out: answers as dictionaries, with the fields of `edge-run
//! -o jsonl`, embeddings as NumPy arrays, and patches. Refused, as `edge_run.Error`: what the libraries refuse, in
//! their words. The interpreter's lock is free while an encoder loads, runs or is trained; an interrupt is seen between
//! runs of some dozen answers and between steps.

mod commands;
mod making;
mod rows;
mod values;

use pyo3::{create_exception, exceptions::PyValueError, prelude::*};

create_exception!(
    edge_run,
    Error,
    PyValueError,
    "A file that cannot be used, a text that cannot be answered, or an argument of the wrong value."
);

#[pymodule(name = "_edge_run")]
mod module {
    use std::{path::PathBuf, sync::Arc};

    use edge_run::{Bundle, EngineOptions, Options, Prediction, Request, Store, Text};
    use numpy::{PyArray2, ndarray::Array2};
    use pyo3::{prelude::*, types::PyDict};
    use pythonize::pythonize;

    #[pymodule_export]
    use super::Error;
    #[pymodule_export]
    use super::commands::command;
    #[pymodule_export]
    use super::making::{extract, from_peft, table, to_peft, train};
    use super::values::{elements, kind, named, patch_of, refused, text_of};

    /// Answers of a run, after which an interrupt is looked for.
    const ANSWERS: usize = 64;

    /// A loaded encoder. Its weights are mapped: processes on one machine share them.
    ///
    /// `bundle` is a directory. `activations` says what weights that are not f32 are multiplied with.
    /// `threads` is a number above 0; tract runs on one.
    #[pyclass(frozen, module = "edge_run")]
    pub(super) struct Encoder(pub(super) Arc<edge_run::Encoder>);

    /// A task attached to an encoder. Called with a text, it gives the answer; `top_k` and `max_length` are as for
    /// Encoder.predict.
    #[pyclass(frozen, module = "edge_run")]
    struct Task {
        encoder: Arc<edge_run::Encoder>,
        task: Arc<edge_run::Task>,
    }

    fn tasks_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<Arc<edge_run::Task>>> {
        let task = |element: &Bound<'_, PyAny>| {
            let task = element.cast::<Task>();
            task.map(|task| task.get().task.clone())
                .map_err(|_| refused(format!("tasks: expected what attach gives, found {}", kind(element))))
        };
        elements("tasks", value)?.iter().map(task).collect()
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
        #[pyo3(signature = (bundle, *, engine = "auto", activations = "short", threads = 1))]
        fn new(py: Python<'_>, bundle: PathBuf, engine: &str, activations: &str, threads: usize) -> PyResult<Self> {
            let options = options(engine, activations, threads)?;
            let open = || edge_run::Encoder::load(Bundle::open(&bundle)?, options);
            Ok(Encoder(Arc::new(py.detach(open).map_err(refused)?)))
        }

        /// The encoder that a patch, a path or bytes, was made for, from the user's store, to which edge-export writes.
        #[staticmethod]
        #[pyo3(signature = (patch, *, engine = "auto", activations = "short", threads = 1))]
        fn of(
            py: Python<'_>,
            patch: &Bound<'_, PyAny>,
            engine: &str,
            activations: &str,
            threads: usize,
        ) -> PyResult<Self> {
            let options = options(engine, activations, threads)?;
            let patch = patch_of(patch)?;
            let find = || Ok::<_, edge_run::Error>(Store::of_user()?.open(patch.encoder())?);
            let named = |error| refused(format!("{error}; or edge_run.Encoder(DIR) opens a bundle elsewhere"));
            let bundle = find().map_err(named)?;
            Ok(Encoder(Arc::new(py.detach(|| edge_run::Encoder::load(bundle, options)).map_err(refused)?)))
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

        /// A task of a patch, which is a path or bytes. `prompt` names one of an embedding task's; `entities` groups
        /// the tags of a tagging task.
        #[pyo3(signature = (patch, *, prompt = None, entities = None))]
        fn attach(&self, patch: &Bound<'_, PyAny>, prompt: Option<&str>, entities: Option<&str>) -> PyResult<Task> {
            let patch = patch_of(patch)?;
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
        /// A text is a string, a tuple of two that belong together, such as a question and its context, or for
        /// tagging a list of words. `top_k`, above 0, is how many labels or spans are given. `max_length` cuts texts to
        /// so many tokens, at least 3; the context of a span task is not cut but read in windows of so many.
        ///
        /// An answer has the fields that `edge-run -o jsonl` writes, `logits` and `truncated` always among them. With
        /// errors="return", a text that a task cannot answer has the one field `error` in the place of that answer.
        #[pyo3(signature = (texts, tasks, *, top_k = 1, max_length = None, errors = "raise"))]
        fn predict<'py>(
            &self,
            py: Python<'py>,
            texts: &Bound<'py, PyAny>,
            tasks: &Bound<'py, PyAny>,
            top_k: usize,
            max_length: Option<u32>,
            errors: &str,
        ) -> PyResult<Vec<Vec<Bound<'py, PyAny>>>> {
            let raises = raises(errors)?;
            let options = options_of(top_k, max_length)?;
            let tasks = tasks_of(tasks)?;
            let mut rows = Vec::new();
            each(py, &self.0, texts, &tasks, options, |at, predictions| {
                let answers = predictions.into_iter().zip(&tasks).map(|(prediction, task)| match prediction {
                    Ok(prediction) => answer(py, &prediction),
                    Err(error) if raises => Err(refused(format!("text {at}, {}: {error}", task.spec().name()))),
                    Err(error) => {
                        let answer = PyDict::new(py);
                        answer.set_item("error", error)?;
                        Ok(answer.into_any())
                    }
                });
                rows.push(answers.collect::<PyResult<Vec<_>>>()?);
                Ok(())
            })?;
            Ok(rows)
        }

        /// The vectors of an embedding task, [texts, dimensions]. With errors="return", a text that cannot be answered
        /// has a row of NaN.
        #[pyo3(signature = (texts, task, *, max_length = None, errors = "raise"))]
        fn embed<'py>(
            &self,
            py: Python<'py>,
            texts: &Bound<'py, PyAny>,
            task: PyRef<'py, Task>,
            max_length: Option<u32>,
            errors: &str,
        ) -> PyResult<Bound<'py, PyArray2<f32>>> {
            let (tasks, raises) = ([task.task.clone()], raises(errors)?);
            let Some(width) = self.0.dimensions(&task.task) else {
                let found = task.task.spec().in_words();
                return Err(refused(format!("task: expected an embedding task, found {found}")));
            };
            let mut values = Vec::new();
            each(py, &self.0, texts, &tasks, options_of(1, max_length)?, |at, predictions| {
                for prediction in predictions {
                    match prediction.map(|prediction| prediction.answer) {
                        Ok(edge_run::Answer::Vector(vector)) => values.extend(vector),
                        Ok(_) => return Err(refused(format!("text {at}: expected a vector, found another answer"))),
                        Err(error) if raises => return Err(refused(format!("text {at}: {error}"))),
                        Err(_) => values.extend(std::iter::repeat_n(f32::NAN, width)),
                    }
                }
                Ok(())
            })?;
            let rows = Array2::from_shape_vec((values.len() / width.max(1), width), values).map_err(refused)?;
            Ok(PyArray2::from_owned_array(py, rows))
        }
    }

    #[pymethods]
    impl Task {
        #[pyo3(signature = (text, *, top_k = 1, max_length = None))]
        fn __call__<'py>(
            &self,
            py: Python<'py>,
            text: &Bound<'py, PyAny>,
            top_k: usize,
            max_length: Option<u32>,
        ) -> PyResult<Bound<'py, PyAny>> {
            let (text, options) = (text_of(text, tags(&self.task))?, options_of(top_k, max_length)?);
            let request = Request { task: &self.task, text: &text };
            let predict = || self.encoder.predict_with(&[request], options).remove(0);
            let prediction = py.detach(predict).map_err(refused)?;
            answer(py, &prediction)
        }

        /// The task's name.
        #[getter]
        fn name(&self) -> &str {
            self.task.spec().name()
        }

        /// The kind of task, such as "classification".
        #[getter]
        fn kind(&self) -> &'static str {
            self.task.spec().kind().name()
        }

        /// How many texts it reads together: 1, or 2 for pairs.
        #[getter]
        fn inputs(&self) -> u8 {
            self.task.spec().inputs()
        }

        /// Its labels; none of a task without.
        #[getter]
        fn labels(&self) -> Vec<String> {
            self.task.spec().kind().labels().to_vec()
        }
    }

    /// Whether a task labels each word of a text.
    fn tags(task: &edge_run::Task) -> bool {
        matches!(task.spec().kind(), bias_patch::Kind::Tagging { .. })
    }

    /// Whether the argument `errors` asks for exceptions.
    fn raises(errors: &str) -> PyResult<bool> {
        match errors {
            "raise" => Ok(true),
            "return" => Ok(false),
            other => Err(refused(format!("errors: expected \"raise\" or \"return\", found {other:?}"))),
        }
    }

    fn options_of(top_k: usize, max_length: Option<u32>) -> PyResult<Options> {
        if top_k == 0 {
            return Err(refused("top_k: expected a number above 0, found 0"));
        }
        match max_length {
            Some(length @ 0..3) => Err(refused(format!("max_length: expected a number above 2, found {length}"))),
            max_length => Ok(Options { top: top_k, max_length, most_windows: None }),
        }
    }

    /// Answers texts, some hundred at a time. Gives `row` the number of each text, and what all tasks say of it, or
    /// what is wrong with the text. Any other error ends it.
    fn each(
        py: Python<'_>,
        encoder: &edge_run::Encoder,
        texts: &Bound<'_, PyAny>,
        tasks: &[Arc<edge_run::Task>],
        options: Options,
        mut row: impl FnMut(usize, Vec<Result<Prediction, String>>) -> PyResult<()>,
    ) -> PyResult<()> {
        let size = ANSWERS.div_ceil(tasks.len().max(1));
        let words = tasks.iter().any(|task| tags(task));
        for (part, values) in elements("texts", texts)?.chunks(size).enumerate() {
            py.check_signals()?;
            let first = part * size;
            let part: Vec<Result<Text, String>> =
                values.iter().map(|value| text_of(value, words).map_err(|error| error.value(py).to_string())).collect();
            let texts = part.iter().filter_map(|text| text.as_ref().ok());
            let requests: Vec<Request<'_>> =
                texts.flat_map(|text| tasks.iter().map(move |task| Request { task, text })).collect();
            let mut predictions = py.detach(|| encoder.predict_with(&requests, options)).into_iter();
            for (at, text) in part.iter().enumerate() {
                let answers = tasks.iter().map(|_| match text {
                    // One prediction for each request, and one request for each text and task.
                    Ok(_) => match predictions.next().expect("a prediction for every request") {
                        Ok(prediction) => Ok(Ok(prediction)),
                        Err(edge_run::Error::Text(reason)) => Ok(Err(reason.to_string())),
                        Err(error) => Err(refused(error)),
                    },
                    Err(reason) => Ok(Err(reason.clone())),
                });
                row(first + at, answers.collect::<PyResult<_>>()?)?;
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
