//! The command `edge-patch plot`: reads a patch or logs, and draws a picture as SVG, as PNG or in the terminal.

use std::path::{Path, PathBuf};

use crate::{Result, inspect, plot::Picture};
use bias_patch::{Patch, atomic, printable};
use clap::{Args, Subcommand};

use super::{file_bytes, open_encoder, outputs::check_picture};

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PlotArguments {
    #[command(subcommand)]
    of: PictureOf,
    /// Write the picture to this file, as SVG or PNG by its ending: .svg or .png [default: draw it in the terminal]
    #[arg(short, long, value_name = "FILE", global = true, value_parser = picture)]
    output: Option<PathBuf>,
}

#[derive(Subcommand)]
enum PictureOf {
    /// Draw how much each bias vector changed, by term and layer, a panel for each patch
    Changes {
        /// The patches to read
        #[arg(required = true, value_name = "PATCH")]
        patches: Vec<PathBuf>,
        /// Read the encoder from this bundle [default: the store]
        #[arg(long, visible_alias = "bundle", value_name = "BUNDLE")]
        encoder: Option<PathBuf>,
    },
    /// Draw training loss and dev score of every run, by step
    Training {
        /// Logs written by train --log
        #[arg(required = true, value_name = "LOG")]
        logs: Vec<PathBuf>,
    },
    /// Draw the dev score by the number of training texts, a line for each log
    ///
    /// A log of another trainer needs one line {"event":"size","texts":1000,"dev":0.87} for each size.
    Sizes {
        /// Logs written by train --train-sizes --log
        #[arg(required = true, value_name = "LOG")]
        logs: Vec<PathBuf>,
    },
    /// Draw the scores that table kept, by the bytes of the patch, a panel for each data set
    Results {
        /// The directory of results
        results: PathBuf,
        /// Draw these data sets, in this order [default: all]
        #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
        data: Vec<String>,
    },
}

const EXAMPLES: &str = "\
Examples:
  edge-patch plot changes sst2.bias
  edge-patch plot changes sst2.bias -o changes.svg
  edge-patch train ... -o sst2.bias --log sst2.jsonl
  edge-patch plot training sst2.jsonl -o training.png
  edge-patch train ... -o sst2.bias --train-sizes 100,300,1000 --log bitfit.jsonl
  edge-patch plot sizes bitfit.jsonl full.jsonl -o sizes.png
  edge-patch plot results RESULTS -o bytes.svg";

/// Draws the picture, and writes it to a file or gives its lines for the terminal.
pub(crate) fn run_plot(arguments: &PlotArguments) -> Result<Vec<String>> {
    let picture = match &arguments.of {
        PictureOf::Changes { patches, encoder } => {
            let report = |patch: &PathBuf| {
                let opened = Patch::open(patch)?;
                let (bundle, base) = open_encoder(encoder.as_deref(), &opened)?;
                let report = inspect(&opened, file_bytes(patch)?, Some((bundle.manifest(), &base)));
                let name = printable(&patch.file_stem().unwrap_or_default().to_string_lossy());
                Ok((name, report.map_err(|e| e.in_file(patch))?))
            };
            Picture::of_changes(&patches.iter().map(report).collect::<Result<Vec<_>>>()?)
        }
        PictureOf::Training { logs } => Picture::of_training(logs)?,
        PictureOf::Sizes { logs } => Picture::of_sizes(logs)?,
        PictureOf::Results { results, data } => Picture::of_results(results, data)?,
    };
    let Some(output) = &arguments.output else { return Ok(picture.text()) };
    check_picture(output)?;
    let bytes = if ends_in(output, "png") { picture.png()? } else { picture.svg()?.into_bytes() };
    atomic::write_file(output, &bytes)?;
    Ok(vec![format!("{}: {} bytes", output.display(), bytes.len())])
}

fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

fn picture(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let known = ["svg", "png"].iter().any(|ending| ends_in(&path, ending));
    if known { Ok(path) } else { Err("expected a name that ends in .svg or .png".to_owned()) }
}
