//! Trainings that are killed, that run on a full disk, or that run twice at once. No file is left half-written, and the
//! same command ends with the same bytes.

use std::{
    cell::Cell,
    fs,
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bias_patch::Task;
use edge_export::Options;
use edge_patch::{
    Error,
    data::read_examples,
    evaluate,
    train::{Event, Listener, Recipe, Sets, train},
};
use edge_run::{Encoder, EngineOptions};
use system_tests::{
    assert_misused, assert_refused, assert_succeeded, int8,
    mood::{Mood, on_full_disk},
};

/// Long enough to be killed many times: 1536 steps, a checkpoint every 20.
const LONG: [&str; 6] = ["--lr", "3e-3,1e-2", "--epochs", "16", "--batch", "2"];

/// Starts a training, waits for its next checkpoint and some time more, and kills it. Says whether it had ended.
fn killed(training: &mut Command, checkpoint: &Path, wait: Duration) -> bool {
    let kept = || fs::metadata(checkpoint).and_then(|m| m.modified()).ok();
    let before = kept();
    let mut child = training.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while kept() == before && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(wait);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() || status.code().is_none(), "it failed: {status}");
    status.success()
}

#[test]
fn a_training_that_is_killed_goes_on_to_the_same_patch() {
    /// Kills of each training: thirty in all.
    const KILLS: u64 = 10;
    let mood = Mood::default();
    for average in ["none", "ema", "last:2"] {
        let recipe = |log| [&LONG[..], &["--average", average, "--log", log]].concat();
        assert_succeeded(&mood.train("whole.bias", &recipe("whole.jsonl")).output().unwrap());
        let mut kills = 0;
        while kills < KILLS {
            let _ = fs::remove_file(mood.path("parts.jsonl"));
            let mut ended = false;
            while !ended && kills < KILLS {
                // The time of each kill differs, and counts from a checkpoint, so that every attempt gets further.
                let wait = Duration::from_millis(kills * 7 % 31);
                let mut training = mood.train("parts.bias", &recipe("parts.jsonl"));
                ended = killed(&mut training, &mood.path("parts.bias.training"), wait);
                kills += u64::from(!ended);
            }
            if !ended {
                assert_succeeded(&mood.train("parts.bias", &recipe("parts.jsonl")).output().unwrap());
            }
            assert!(!mood.path("parts.bias.training").exists() && !mood.path("parts.bias.lock").exists());
            assert_eq!(mood.read("whole.bias"), mood.read("parts.bias"), "--average {average}, {kills} kills");
        }
        // Both logs have the same curves, although one has some parts twice.
        let picture = |log: &str| {
            assert_succeeded(&mood.edge_patch(&["plot", "training", log, "-o", "curves.svg"]).output().unwrap());
            mood.read("curves.svg")
        };
        assert!(picture("whole.jsonl") == picture("parts.jsonl"), "--average {average}: other curves");
        fs::remove_file(mood.path("whole.jsonl")).unwrap();
    }
}

#[test]
fn processes_that_share_the_cells_of_a_table_and_are_killed_make_the_table_of_one() {
    let mood = Mood::default();
    let table = |results: &str, extra: &[&str]| {
        let data =
            ["--data", "a=task.json,train.tsv,dev.tsv,test=dev.tsv", "--data", "b=task.json,dev.tsv,train.tsv,F1"];
        let recipe = ["--lr", "3e-3,1e-2", "--seeds", "2", "--rate-by-first-seed", "--epochs", "4", "--batch", "2"];
        let fixed = ["table", "--encoder", "bundle", "--rows", "frozen,bq+bm2,full", "--results", results];
        mood.edge_patch(&[&fixed[..], &data, &recipe, extra].concat())
    };
    let one = assert_succeeded(&table("one", &["-o", "one.md"]).output().unwrap());
    // Of six cells, process 0 has numbers 0 and 4: the first row of the first data set, and the second of the second.
    let cell = |at: usize| table("many", &["--cell", &format!("{at}/4")]);
    let others: Vec<_> =
        (1..4).map(|at| cell(at).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()).collect();
    for (name, wait) in [("a-frozen", 0), ("b-bq+bm2", 3)] {
        let checkpoint = mood.path(&format!("many/{name}.bias.training"));
        assert!(!killed(&mut cell(0), &checkpoint, Duration::from_millis(wait)), "{name}: it ended");
        assert!(checkpoint.exists() && !mood.path(&format!("many/{name}.bias.json")).exists(), "{name}: no state");
    }
    assert_eq!(assert_succeeded(&cell(0).output().unwrap()), "many/a-frozen.bias.json\nmany/b-bq+bm2.bias.json\n");
    for mut other in others {
        assert!(other.wait().unwrap().success());
    }
    // All is there, so no run starts.
    let many = table("many", &["-o", "many.md", "--log", "log.jsonl"]).output().unwrap();
    assert_eq!(assert_succeeded(&many), one);
    assert_eq!((mood.read("many.md"), mood.read("log.jsonl").len()), (mood.read("one.md"), 0));
    let files = |results: &str| {
        let entries = fs::read_dir(mood.path(results)).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = entries.map(|file| (file.file_name(), fs::read(file.path()).unwrap())).collect();
        files.sort();
        files
    };
    // A result for each cell, and a patch for those that train no weights.
    assert_eq!(files("one").len(), 6 + 4);
    assert!(files("one") == files("many"), "other results");

    assert_refused(&table("many", &["--cell", "0/7"]).output().unwrap(), &["cell: ", "6, found 7"]);
    for wrong in ["4/4", "1", "-1/4", "0/0", "a/4"] {
        assert_misused(&table("many", &[&format!("--cell={wrong}")]).output().unwrap(), &["K/N", "0 to N - 1"]);
    }
    assert_misused(&table("many", &["--cell", "0/4", "-o", "x.md"]).output().unwrap(), &["--cell", "--output"]);
    assert_misused(&table("many", &[]).output().unwrap(), &["--output"]);
}

#[test]
fn kills_at_any_time_and_changes_of_threads_lead_to_the_same_low_rank_terms() {
    /// Of each kind of weights.
    const KILLS: u32 = 10;
    for options in [Options::default(), int8()] {
        let mood = Mood::with("bert", options);
        let train = |output: &str, threads| {
            mood.train(output, &[&LONG[..], &["--slots", "all,lora:q+v@1", "--threads", threads]].concat())
        };
        let begun = Instant::now();
        assert_succeeded(&train("whole.bias", "1").output().unwrap());
        let took = begun.elapsed();
        assert_succeeded(&train("two.bias", "2").output().unwrap());
        assert_eq!(mood.read("whole.bias"), mood.read("two.bias"));
        let mut kills = 0;
        while kills < KILLS {
            let mut child = train("parts.bias", ["1", "2"][kills as usize % 2]);
            let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // From its start, so that some are before its first checkpoint, and up to half of a whole training.
            std::thread::sleep(took * (kills * 37 % 101) / 202);
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert!(status.success() || status.code().is_none(), "it failed: {status}");
            if status.success() {
                assert_eq!(mood.read("whole.bias"), mood.read("parts.bias"), "{kills} kills");
            } else {
                kills += 1;
            }
        }
        assert_succeeded(&train("parts.bias", "1").output().unwrap());
        assert_eq!(mood.read("whole.bias"), mood.read("parts.bias"));
    }
}

/// Whether a training is stopped at an event.
type Stop<'s> = &'s dyn Fn(&Event) -> bool;

/// A training whose listener stops it, after which it may not be told anything.
fn listened<T>(train: impl FnOnce(&mut Listener<'_>) -> T, stop: Stop<'_>) -> T {
    let mut stopped = false;
    train(&mut |event| {
        assert!(!stopped, "told after it stopped the training: {event:?}");
        stopped = stop(&event);
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

#[test]
fn a_training_that_is_stopped_where_its_patience_ends_is_at_its_end() {
    let mood = Mood::default();
    let task: Task = serde_json::from_slice(&mood.read("task.json")).unwrap();
    let examples = |name: &str| read_examples(&mood.path(name), &task, false).unwrap().examples;
    let (train_texts, dev_texts) = (examples("train.tsv"), examples("dev.tsv"));
    let sets = Sets { train: &train_texts, dev: &dev_texts, test: None };
    let encoder = Encoder::load(mood.bundle.clone(), EngineOptions::default()).unwrap();
    let recipe = Recipe { learning_rates: vec![1e-2], epochs: 12, patience: Some(1), ..Recipe::default() };
    let train = |name: &str, stop: Stop<'_>| {
        listened(|listener| train(&encoder, &task, sets, &recipe, &mood.path(name), listener), stop)
    };
    let (epochs, steps) = (Cell::new(0), Cell::new(0));
    let count = |event: &Event| {
        epochs.set(epochs.get() + u64::from(matches!(event, Event::Epoch { .. })));
        steps.set(steps.get() + u64::from(matches!(event, Event::Step { .. })));
        false
    };
    let whole = train("whole.training", &count).unwrap();
    let (last, last_step) = (epochs.get(), steps.get());
    assert!(last < recipe.epochs, "its patience does not end");
    // At the last step the epoch is not scored yet; after its score nothing is left.
    let stops: [(Stop<'_>, u64); 2] = [
        (&|event| matches!(event, Event::Step { step, .. } if *step == last_step), 1),
        (&|event| matches!(event, Event::Epoch { epoch, .. } if *epoch == last), 0),
    ];
    for (stop, left) in stops {
        let name = format!("{left}.training");
        assert!(matches!(train(&name, stop), Err(Error::Stopped)));
        epochs.set(0);
        steps.set(0);
        let parts = train(&name, &count).unwrap();
        assert_eq!((epochs.get(), steps.get()), (left, 0));
        assert_eq!(parts.patch.to_bytes().unwrap(), whole.patch.to_bytes().unwrap());
        assert_eq!(parts.runs, whole.runs);
    }
}

#[test]
fn a_training_that_is_stopped_keeps_the_test_score_of_its_best_epoch() {
    let mood = Mood::default();
    let task: Task = serde_json::from_slice(&mood.read("task.json")).unwrap();
    let examples = |name: &str| read_examples(&mood.path(name), &task, false).unwrap().examples;
    let (train_texts, dev_texts) = (examples("train.tsv"), examples("dev.tsv"));
    let sets = Sets { train: &train_texts, dev: &dev_texts, test: Some(&train_texts[..30]) };
    let encoder = Encoder::load(mood.bundle.clone(), EngineOptions::default()).unwrap();
    let recipe = Recipe { learning_rates: vec![1e-2], epochs: 12, ..Recipe::default() };
    // Six steps an epoch, and a checkpoint after every twentieth.
    let train = |name: &str, stop: Stop<'_>| {
        listened(|listener| train(&encoder, &task, sets, &recipe, &mood.path(name), listener), stop)
    };
    let whole = train("whole.training", &|_| false).unwrap();
    // Within an epoch, at its last step, after its score, and at the start of a run.
    let stops: [Stop<'_>; 4] = [
        &|event| matches!(event, Event::Step { step: 65, .. }),
        &|event| matches!(event, Event::Step { step: 66, .. }),
        &|event| matches!(event, Event::Epoch { epoch: 12, .. }),
        &|event| matches!(event, Event::Run { .. }),
    ];
    for stop in stops {
        assert!(matches!(train("parts.training", stop), Err(Error::Stopped)));
    }
    let parts = train("parts.training", &|_| false).unwrap();
    assert_eq!(parts.patch.to_bytes().unwrap(), whole.patch.to_bytes().unwrap());
    assert_eq!(parts.runs, whole.runs);
    // It was found before the first stop.
    let run = &whole.runs[0];
    assert!(run.epoch.unwrap() < 10, "{run:?}");
    let found = evaluate(&encoder, &parts.patch, sets.test.unwrap()).unwrap();
    assert_eq!(run.test, Some(found.metric("accuracy")));
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_named_and_the_one_before_goes_on() {
    let mood = Mood::default();
    // The first run also writes the panels, for which there will be no room later.
    assert_succeeded(&mood.train("whole.bias", &LONG).output().unwrap());
    let checkpoint = mood.path("parts.bias.training");
    assert!(
        !killed(&mut mood.train("parts.bias", &LONG), &checkpoint, Duration::ZERO),
        "it ended before it could be stopped"
    );
    let (kept, names) = (mood.read("parts.bias.training"), mood.names());
    let full = on_full_disk(&mood.train("parts.bias", &LONG));
    assert_refused(&full, &["parts.bias.training", "cannot write"]);
    // The lock of the one that was killed is the next one's, which does not leave it. Nor does it leave a checkpoint that
    // the other was writing.
    let goes = |name: &String| name == "parts.bias.lock" || name.starts_with(".parts.bias.training.tmp-");
    let left: Vec<String> = names.into_iter().filter(|name| !goes(name)).collect();
    assert_eq!((mood.read("parts.bias.training"), mood.names()), (kept, left));
    assert_succeeded(&mood.train("parts.bias", &LONG).output().unwrap());
    assert_eq!(mood.read("whole.bias"), mood.read("parts.bias"));
}

#[test]
fn an_output_that_cannot_be_written_is_said_before_anything_is_trained() {
    let mood = Mood::default();
    let train = |output: &str| mood.train(output, &["--log", "log.jsonl"]).output().unwrap();
    assert_succeeded(&train("whole.bias"));
    let said = mood.read("log.jsonl");
    fs::create_dir(mood.path("x.bias")).unwrap();
    assert_refused(&train("x.bias"), &["x.bias", "expected a regular file to replace, or none"]);
    assert_refused(&train("no/x.bias"), &["no: cannot write to"]);
    assert_eq!(mood.read("log.jsonl"), said);
    assert!(!mood.path("x.bias.lock").exists() && !mood.path("x.bias.training").exists());
    fs::remove_dir(mood.path("x.bias")).unwrap();
    assert_succeeded(&train("x.bias"));
    assert_eq!(mood.read("whole.bias"), mood.read("x.bias"));
    // A log that cannot be written does not cost the patch.
    let full = mood.train("logged.bias", &["--log", "/dev/full"]).output().unwrap();
    assert_refused(&full, &["/dev/full", "cannot write"]);
    assert_eq!(mood.read("whole.bias"), mood.read("logged.bias"));
}

#[test]
fn what_other_commands_cannot_write_is_as_it_was() {
    let mood = Mood::default();
    assert_succeeded(&mood.train("mood.bias", &["--epochs", "1", "--slots", "all"]).output().unwrap());
    let extract = ["extract", "mood.bias", "--encoder", "bundle", "-o"];
    assert_succeeded(&mood.edge_patch(&[&extract[..], &["values.safetensors"]].concat()).output().unwrap());
    // As a patch begins: nothing else is replaced.
    const OLD: &str = "BIASPTCH, an older one";
    mood.write("old", OLD);
    let from = ["--from", "values.safetensors", "--task", "task.json", "-o"];
    let import = [&["import", "--encoder", "bundle"][..], &from].concat();
    let convert = ["convert", "mood.bias", "--encoder", "bundle", "--encoding", "f32", "-o"];
    mood.write("old.safetensors", "\u{2}\0\0\0\0\0\0\0{}");
    for (command, old) in [(&extract[..], "old.safetensors"), (&import, "old"), (&convert, "old")] {
        for output in [old, "new"] {
            let before = (mood.read(old), mood.names());
            let full = on_full_disk(&mood.edge_patch(&[command, &[output]].concat()));
            assert_refused(&full, &[output, "cannot write"]);
            assert_eq!((mood.read(old), mood.names()), before, "{command:?}");
        }
    }
    let over_a_patch = mood.edge_patch(&[&extract[..], &["old"]].concat()).output().unwrap();
    assert_refused(&over_a_patch, &["old: output: expected a file that is no patch to replace", "found a patch"]);
    assert_eq!(mood.read("old"), OLD.as_bytes());
    mood.write("notes.txt", "no patch");
    let over_text = mood.edge_patch(&[&extract[..], &["notes.txt"]].concat()).output().unwrap();
    assert_refused(&over_text, &["notes.txt: output: expected a safetensors file to replace"]);
    for command in [&import[..], &convert] {
        let refused = mood.edge_patch(&[command, &["notes.txt"]].concat()).output().unwrap();
        assert_refused(&refused, &["notes.txt", "expected a patch to replace, or no file"]);
    }
    assert_refused(&mood.train("notes.txt", &[]).output().unwrap(), &["notes.txt", "expected a patch to replace"]);
    assert_eq!(mood.read("notes.txt"), b"no patch");
    let own = mood.train("x.bias", &["--train-sizes", "24", "--log", "x-24.bias.json"]).output().unwrap();
    assert_refused(&own, &["--log: expected another file than those of the training, found", "x-24.bias.json"]);
    for log in ["notes.txt", "dev.tsv", "old"] {
        let before = mood.read(log);
        assert_refused(&mood.train("x.bias", &["--log", log]).output().unwrap(), &[log, "expected a log to append to"]);
        assert_eq!(mood.read(log), before);
    }
    let encodings = ["encodings", "mood.bias", "dev.tsv", "--encoder", "bundle", "-o"];
    for (command, output) in [(&encodings[..], "dev.tsv"), (&encodings[..], "mood.bias"), (&extract[..], "mood.bias")] {
        let refused = mood.edge_patch(&[command, &[output]].concat()).output().unwrap();
        assert_refused(&refused, &[output, "expected another file than those that are read"]);
    }
    fs::copy(mood.path("mood.bias"), mood.path("mood.svg")).unwrap();
    let plot = ["plot", "changes", "mood.bias", "--encoder", "bundle", "-o", "mood.svg"];
    assert_refused(&mood.edge_patch(&plot).output().unwrap(), &["mood.svg: output", "found a patch"]);
    mood.write("other.svg", "text");
    let plot = ["plot", "changes", "mood.bias", "--encoder", "bundle", "-o", "other.svg"];
    assert_refused(&mood.edge_patch(&plot).output().unwrap(), &["other.svg: output: expected a picture to replace"]);
    const PICTURE: &str = "<svg></svg>";
    mood.write("old.svg", PICTURE);
    let plot = ["plot", "changes", "mood.bias", "--encoder", "bundle", "-o", "old.svg"];
    assert_refused(&on_full_disk(&mood.edge_patch(&plot)), &["old.svg", "cannot write"]);
    assert_eq!(mood.read("old.svg"), PICTURE.as_bytes());
}

#[test]
fn the_state_of_another_training_is_not_mistaken() {
    let mood = Mood::default();
    mood.write("x.bias.training", "no state");
    assert_refused(&mood.train("x.bias", &[]).output().unwrap(), &["x.bias.training", "damaged", "remove the file"]);
    fs::remove_file(mood.path("x.bias.training")).unwrap();
    let endless = ["--epochs", "400", "--batch", "1"];
    let mut child = mood.train("x.bias", &endless).spawn().unwrap();
    while !mood.path("x.bias.training").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Two at once would write over each other.
    assert_refused(&mood.train("x.bias", &endless).output().unwrap(), &["x.bias", "one training at a time"]);
    child.kill().unwrap();
    child.wait().unwrap();
    for other in [&["--epochs", "1"][..], &["--epochs", "400", "--batch", "1", "--average", "ema"]] {
        let refused = mood.train("x.bias", other).output().unwrap();
        assert_refused(&refused, &["x.bias.training", "of another training", "remove the file"]);
    }
    let mut damaged = mood.read("x.bias.training");
    damaged[100] ^= 1;
    mood.write("x.bias.training", damaged);
    assert_refused(
        &mood.train("x.bias", &endless).output().unwrap(),
        &["x.bias.training", "damaged", "remove the file"],
    );
}
