//! The events of a training as lines for people.
//!
//! In: events, in their order. Out: a line for each that says something new; steps say nothing.

use super::Event;

/// Says what happens.
#[derive(Debug, Default)]
pub struct Lines {
    cell: String,
    run: String,
}

/// Steps of a run in which values hardly leave where they start.
const FEW_STEPS: u64 = 50;

impl Lines {
    /// The run of the last event: its cell in a table, its learning rate and its seed.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// What an event says.
    pub fn line(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Cell { cell, row, data } => {
                self.cell = format!("cell {}/{}, {row} on {data}, ", cell.0 + 1, cell.1);
                None
            }
            Event::Run { run, learning_rate, seed, step, steps, .. } => {
                let cell = &self.cell;
                self.run = format!("{cell}run {}/{}, learning rate {learning_rate:e}, seed {seed}", run.0 + 1, run.1);
                (run.0 == 0 && *step == 0 && *steps < FEW_STEPS).then(|| {
                    format!(
                        "a run has few steps, {steps}: a patch hardly moves in them; more epochs or fewer texts per step \
                         give more"
                    )
                })
            }
            Event::OtherKernels { result } => Some(format!(
                "{}: kept, though another kind of processor made it, whose kernels round otherwise",
                result.display()
            )),
            Event::Step { .. } => None,
            Event::LeftOut { texts } => {
                Some(format!("training texts left out, because no window holds the whole answer: {texts}"))
            }
            Event::Diverged { reason } => Some(format!("{}  diverged: {reason}", self.run)),
            Event::Epoch { epoch, loss, dev, test, metric } => {
                let test = test.map_or(String::new(), |test| format!(", test {test:.4}"));
                let scores = format!("dev {metric} {dev:.4}{test}");
                Some(format!("{}  epoch {epoch}: training loss {loss:.4}, {scores}", self.run))
            }
        }
    }
}
