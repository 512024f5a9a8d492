//! `cargo demo`: five tasks answered by one encoder, from nothing but this repository and Python's pip.
//!
//! Fetches the encoder once, exports it into the store, and answers three small files with the patches that ship.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    fs::{self, File},
    io::{self, BufReader, Write},
    path::Path,
    process::ExitCode,
};

use bias_patch::Patch;
use edge_bundle::Store;
use edge_export::{Destination, EXAMPLE, Progress, export, fetch};
use edge_run::{
    Encoder, EngineOptions, Options, Task,
    cli::{InputFormat, OutputFormat, Records, Session, SessionOptions, Writer, run},
};
use indicatif::{ProgressBar, ProgressStyle};

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn main() -> ExitCode {
    if let Some(argument) = std::env::args_os().nth(1) {
        eprintln!(
            "demo: expected no argument, found {argument:?}; it fetches one encoder and answers three small files"
        );
        return ExitCode::from(2);
    }
    match demo(&mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that closes the pipe early is no failure.
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    let source = match error.downcast_ref::<edge_run::Error>() {
        Some(edge_run::Error::Io { source, .. }) => Some(source),
        _ => error.downcast_ref::<io::Error>(),
    };
    source.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn demo(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let library = Path::new(ROOT).join("patches/library").canonicalize()?;
    let fixtures = Path::new(ROOT).join("tests/fixtures");
    let patches = ["sst2", "pos", "mrpc", "stsb", "answer"].map(|name| library.join(name).with_extension("bias"));
    let opened = patches.iter().map(|path| Patch::open(path)).collect::<Result<Vec<_>, _>>()?;

    let store = Store::of_user()?;
    let digest = opened[0].encoder();
    if !store.path(digest).exists() {
        eprintln!("Fetching all-MiniLM-L6-v2 (83 MB, Apache-2.0), once:");
        let source = fetch(EXAMPLE)?;
        let bar =
            ProgressBar::new(0).with_style(ProgressStyle::with_template("{msg:30} [{bar:30}] {bytes}/{total_bytes}")?);
        export(
            &source.dir,
            &source.name,
            &Destination::Store(store.clone()),
            edge_export::Options::default(),
            &mut |progress| match progress {
                Progress::Stage(what, bytes) => {
                    bar.set_length(bytes);
                    bar.set_position(0);
                    bar.set_message(what);
                }
                Progress::Advance(bytes) => bar.inc(bytes),
                Progress::Warning(warning) => eprintln!("{warning}"),
            },
        )?;
        bar.finish_and_clear();
    }
    let encoder = Encoder::load(store.open(digest)?, EngineOptions::default())?;
    let tasks = opened.iter().map(|patch| encoder.attach(patch)).collect::<Result<Vec<Task>, _>>()?;

    let manifest = encoder.bundle().manifest();
    let weights = manifest.files.get("weights.bin").map_or(0, |f| f.bytes);
    writeln!(out, "{:>10} bytes  {}, frozen, loaded once", weights, manifest.name)?;
    for (path, task) in patches.iter().zip(&tasks) {
        writeln!(
            out,
            "{:>10} bytes  {} ({})",
            fs::metadata(path)?.len(),
            task.spec().name(),
            task.spec().kind().name()
        )?;
    }
    answer(out, &encoder, &tasks[..2], &fixtures.join("reviews.txt"))?;
    answer(out, &encoder, &tasks[2..4], &fixtures.join("pairs.txt"))?;
    answer(out, &encoder, &tasks[4..], &fixtures.join("questions.txt"))?;
    writeln!(
        out,
        "\nThe same with the command:\n  cargo edge-run --patch patches/library/sst2.bias tests/fixtures/reviews.txt"
    )?;
    Ok(())
}

fn answer(out: &mut impl Write, encoder: &Encoder, tasks: &[Task], path: &Path) -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = tasks.iter().map(|task| task.spec().name().to_owned()).collect();
    writeln!(out, "\n{} on {}:", names.join(" and "), path.file_name().unwrap_or_default().to_string_lossy())?;
    let mut records = Records::new(BufReader::new(File::open(path)?), InputFormat::Lines, &path.display().to_string())?;
    let session = Session { encoder, tasks, names: &names, labels: None };
    let mut writer = Writer::new(&mut *out, OutputFormat::Table, false, &session);
    let how = SessionOptions { options: Options::default(), batch: 32, unbuffered: false };
    run(&session, &mut records, &mut writer, how, |_| ())?;
    Ok(())
}
