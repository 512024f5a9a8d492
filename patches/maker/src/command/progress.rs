//! The progress bar and log of a training.

use std::{
    fs::File,
    io::{self, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    log::{Entry, open_log},
    train::{Event, Lines},
};
use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar, and a log if one was asked for.
pub(crate) struct Progress {
    bar: ProgressBar,
    lines: Lines,
    log: Option<(PathBuf, File)>,
    failed: Option<Error>,
}

impl Progress {
    /// A progress bar, and the log at `log`, which is appended to.
    ///
    /// # Errors
    /// When the log cannot be opened, or is another kind of file.
    pub fn new(log: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| Ok::<_, Error>((path.to_owned(), open_log(path)?));
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} steps, {eta} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        Ok(Progress { bar, lines: Lines::default(), log: log.map(open).transpose()?, failed: None })
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

    /// Shows and logs the events of a training, which goes on.
    pub fn listener(&mut self) -> impl FnMut(Event) -> ControlFlow<()> {
        |event| {
            self.event(&event);
            ControlFlow::Continue(())
        }
    }

    pub fn event(&mut self, event: &Event) {
        if let Some(line) = self.lines.line(event) {
            say(&self.bar, &line);
        }
        match event {
            Event::Run { step, steps, .. } => {
                self.bar.set_prefix(self.lines.run().to_owned());
                self.bar.set_length(*steps);
                self.bar.set_position(*step);
                self.bar.reset_eta();
            }
            Event::Step { step, loss, .. } => {
                self.bar.set_position(*step);
                self.bar.set_message(format!("loss {loss:.3}"));
            }
            _ => (),
        }
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

/// Says a line above the bar; where standard error is no terminal, there is no bar, and the line stands alone.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        // Standard error may be closed; the training goes on.
        let _ = writeln!(io::stderr(), "{line}");
    } else {
        bar.println(line);
    }
}
