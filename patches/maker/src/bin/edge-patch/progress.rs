//! The progress bar and log of a training, and the files beside its output.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bias_patch::{Patch, Task};
use edge_patch::{
    Error, Result,
    log::{Entry, check_log},
    train::{Compared, Event, Recipe, Sets, Trained, Weights, compare, train},
};
use edge_run::Encoder;
use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar, and a log if one was asked for.
pub(crate) struct Progress {
    bar: ProgressBar,
    log: Option<(PathBuf, File)>,
    failed: Option<Error>,
}

impl Progress {
    /// A progress bar, and the log at `log`, which is appended to.
    ///
    /// # Errors
    /// When the log cannot be opened, or is another kind of file.
    pub fn new(log: Option<&Path>) -> Result<Self> {
        if let Some(path) = log.filter(|path| path.is_file()) {
            check_log(path)?;
        }
        let open = |path: &Path| -> Result<(PathBuf, File)> {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Ok((path.to_owned(), file.map_err(bias_patch::Error::io(path, "open"))?))
        };
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} steps, {eta} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        Ok(Progress { bar, log: log.map(open).transpose()?, failed: None })
    }

    /// Appends a line to the log. Training goes on if that fails; [`Progress::finish`] gives the error.
    pub fn log(&mut self, entry: &Entry) {
        let Some((path, file)) = &mut self.log else { return };
        // An entry holds only numbers and strings. One write per line, so that a kill leaves whole lines.
        let line = serde_json::to_string(entry).unwrap_or_default() + "\n";
        if let Err(error) = file.write_all(line.as_bytes()) {
            self.failed.get_or_insert(bias_patch::Error::io(path, "write")(error).into());
        }
    }

    pub fn event(&mut self, event: &Event) {
        show(&self.bar, event);
        self.log(&event.into());
    }

    /// Removes the bar.
    ///
    /// # Errors
    /// When the log could not be written.
    pub fn finish(self) -> Result<()> {
        self.bar.finish_and_clear();
        self.failed.map_or(Ok(()), Err)
    }
}

/// A training and its output.
pub(crate) struct Job<'a> {
    pub encoder: &'a Encoder,
    pub task: &'a Task,
    pub sets: Sets<'a>,
    pub recipe: &'a Recipe,
    pub output: &'a Path,
}

impl Job<'_> {
    /// Trains, from the state in `checkpoint` if there is one, and writes the patch.
    pub fn train(&self, checkpoint: &Path, progress: &mut Progress) -> Result<Trained> {
        let Job { encoder, task, sets, recipe, output } = *self;
        let trained = train(encoder, task, sets, recipe, checkpoint, &mut |event| progress.event(&event))?;
        trained.patch.save(output)?;
        Ok(trained)
    }

    /// Trains weights in place of the biases, and writes nothing: a patch cannot hold weights.
    pub fn compare(&self, weights: Weights, checkpoint: &Path, progress: &mut Progress) -> Result<Compared> {
        let Job { encoder, task, sets, recipe, .. } = *self;
        compare(encoder, task, sets, recipe, weights, checkpoint, &mut |event| progress.event(&event))
    }

    /// Does `work` under a lock on the output. `work` gets the path of its checkpoint, which is removed when it is
    /// done: by then it has to have written its result. If it fails, its checkpoint stays and the lock goes.
    pub fn alone<T>(&self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        // Refused before the work, not after it.
        Patch::check_output(self.output)?;
        let (checkpoint, lock) = (beside(self.output, ".training"), beside(self.output, ".lock"));
        let _locked = locked(self.output, &lock)?;
        let done = work(&checkpoint);
        // A first run that diverged within a few steps leaves no checkpoint.
        if done.is_ok() && checkpoint.exists() {
            fs::remove_file(&checkpoint).map_err(bias_patch::Error::io(&checkpoint, "remove"))?;
        }
        let removed = fs::remove_file(&lock).map_err(bias_patch::Error::io(&lock, "remove"));
        let done = done?;
        removed?;
        Ok(done)
    }
}

/// The path of a file beside another.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn locked(output: &Path, lock: &Path) -> Result<File> {
    let file = File::create(lock).map_err(bias_patch::Error::io(lock, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(bias_patch::Error::io(lock, "lock")(error).into()),
        Err(TryLockError::WouldBlock) => Err(Error::Content {
            path: output.to_owned(),
            field: "output".to_owned(),
            expected: "one training at a time".to_owned(),
            found: "another that writes it".to_owned(),
        }),
    }
}

/// Steps of a run in which values hardly leave where they start.
const FEW_STEPS: u64 = 50;

/// Says a line above the bar; where standard error is no terminal, there is no bar, and the line stands alone.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        // Standard error may be closed; the training goes on.
        let _ = writeln!(io::stderr(), "{line}");
    } else {
        bar.println(line);
    }
}

fn show(bar: &ProgressBar, event: &Event) {
    match event {
        Event::Run { run, learning_rate, seed, step, steps, .. } => {
            if run.0 == 0 && *step == 0 && *steps < FEW_STEPS {
                say(
                    bar,
                    &format!(
                        "edge-patch: a run has {steps} steps, in which a patch hardly moves; more --epochs or a \
                         smaller --batch give more"
                    ),
                );
            }
            bar.set_prefix(format!("run {}/{}, learning rate {learning_rate:e}, seed {seed}", run.0 + 1, run.1));
            bar.set_length(*steps);
            bar.set_position(*step);
            bar.reset_eta();
        }
        Event::Step { step, loss, .. } => {
            bar.set_position(*step);
            bar.set_message(format!("loss {loss:.3}"));
        }
        Event::LeftOut { texts } => {
            say(bar, &format!("training texts left out, because no window holds the whole answer: {texts}"))
        }
        Event::Diverged { reason } => say(bar, &format!("{}  diverged: {reason}", bar.prefix())),
        Event::Epoch { epoch, loss, dev, test, metric } => {
            let test = test.map_or(String::new(), |test| format!(", test {test:.4}"));
            let scores = format!("dev {metric} {dev:.4}{test}");
            say(bar, &format!("{}  epoch {epoch}: training loss {loss:.4}, {scores}", bar.prefix()));
        }
    }
}
