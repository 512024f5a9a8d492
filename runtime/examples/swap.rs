//! Switches tasks on one encoder: `cargo run --example swap -- BUNDLE FIRST.bias SECOND.bias "a text"`.
//!
//! The encoder is loaded once. A switch passes other values to the same model; nothing is read or lowered again.

use std::{env, error::Error, path::Path};

use edge_run::{Encoder, Patch, Request, Text};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [bundle, first, second, text] = &arguments[..] else {
        return Err("expected BUNDLE FIRST.bias SECOND.bias TEXT".into());
    };
    let encoder = Encoder::open(Path::new(bundle))?;
    let tasks = [encoder.attach(&Patch::open(Path::new(first))?)?, encoder.attach(&Patch::open(Path::new(second))?)?];
    let text = match text.split_once('\t') {
        Some((first, second)) => Text::pair(first, second),
        None => Text::one(text),
    };
    for round in 1..=3 {
        for task in &tasks {
            for prediction in encoder.predict(&[Request { task, text: &text }]) {
                let prediction = prediction?;
                println!(
                    "round {round}  {:12}  {:?}  switched in {:?}",
                    task.spec().name(),
                    prediction.answer,
                    prediction.timing.switch
                );
            }
        }
    }
    Ok(())
}
