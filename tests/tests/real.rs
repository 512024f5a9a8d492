//! The real encoder: reference patches to the last logit, shipped patches to the score their table claims.
//!
//! Data sets and reference patches are not part of this repository. `EDGE_REFERENCE` names a directory that has
//! `reference/NAME/{biases.safetensors,expected.json}` and `data/SET/dev.tsv`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bias_patch::{Patch, Task as TaskSpec};
use edge_bundle::Bundle;
use edge_patch::{data::read_examples, evaluate, import, metrics};
use edge_run::{Activations, Answer, Encoder, EngineKind, EngineOptions, Options, Prediction, Request, Text};
use serde_json::Value;
use system_tests::{assert_succeeded, command, fixtures, real_bundle, real_bundle_int8};

/// Two f32 engines that sum in different orders, through six layers. The reference has six decimals.
const LOGIT_BOUND: f32 = 1e-4;

/// Reference patches and the data set each was scored on.
const REFERENCES: [(&str, &str); 5] =
    [("sst2", "SST-2"), ("sst2_query_middle", "SST2-sentences"), ("mrpc", "MRPC"), ("cola", "CoLA"), ("stsb", "STS-B")];

/// The patches that ship, and the dev sets of their scores. `test.tsv` beside one is the test set.
const SHIPPED: [(&str, &str); 6] = [
    ("sst2", "SST-2/dev.tsv"),
    ("mrpc", "MRPC/dev.tsv"),
    ("stsb", "STS-B/dev.tsv"),
    ("pos", "UD-EWT-POS/dev.tsv"),
    ("answer", "XQuAD-en/dev.jsonl"),
    ("embed", "STS-B/dev.tsv"),
];

fn reference_dir() -> PathBuf {
    std::env::var_os("EDGE_REFERENCE").expect("EDGE_REFERENCE names the reference directory").into()
}

/// Texts and labels of a dev set, quotes being characters like others.
fn dev_set(set: &str) -> (Vec<Text>, Vec<String>) {
    let text = fs::read_to_string(reference_dir().join("data").join(set).join("dev.tsv")).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let column = |name: &str| header.iter().position(|h| *h == name);
    let (label, first) = (column("label").unwrap(), column("sentence").or(column("sentence1")).unwrap());
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let text = match column("sentence2") {
            Some(second) => Text::pair(cells[first], cells[second]),
            None => Text::one(cells[first]),
        };
        (text, cells[label].to_owned())
    });
    rows.unzip()
}

fn answers(encoder: &Encoder, patch: &Patch, texts: &[Text]) -> Vec<Prediction> {
    let task = encoder.attach(patch).unwrap();
    let requests: Vec<Request<'_>> = texts.iter().map(|text| Request { task: &task, text }).collect();
    encoder.predict_with(&requests, Options::default()).into_iter().map(|p| p.unwrap()).collect()
}

/// The metric of a task, in percent; gold classes are numbers in the order of the task's labels.
fn score(task: &TaskSpec, metric: &str, predictions: &[Prediction], gold: &[String]) -> f64 {
    let classes: Vec<usize> = predictions
        .iter()
        .filter_map(|p| match &p.answer {
            Answer::Labels(ranked) => task.kind().labels().iter().position(|l| **l == *ranked[0].label),
            _ => None,
        })
        .collect();
    let values: Vec<f64> = predictions
        .iter()
        .filter_map(|p| if let Answer::Value(v) = p.answer { Some(f64::from(v)) } else { None })
        .collect();
    let gold_class = || gold.iter().map(|g| g.parse().unwrap()).collect::<Vec<usize>>();
    100.0
        * match metric {
            "accuracy" | "acc" => metrics::accuracy(&classes, &gold_class()),
            "F1" | "f1" => metrics::f1(&classes, &gold_class(), 1),
            "mcc" => metrics::matthews(&classes, &gold_class()),
            "Spearman" | "spearman" => {
                metrics::spearman(&values, &gold.iter().map(|g| g.parse().unwrap()).collect::<Vec<f64>>())
            }
            other => panic!("no metric {other}"),
        }
}

fn imported(bundle: &Bundle, name: &str, expected: &Value) -> Patch {
    let task: TaskSpec = serde_json::from_value(expected["task"].clone()).unwrap();
    import(bundle, &reference_dir().join("reference").join(name).join("biases.safetensors"), task, &[]).unwrap().patch
}

fn expected(name: &str) -> Value {
    let path = reference_dir().join("reference").join(name).join("expected.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
#[ignore = "needs the real encoder and EDGE_REFERENCE"]
fn reference_patches_give_the_reference_logits() {
    let bundle = real_bundle();
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    for (name, set) in REFERENCES {
        let expected = expected(name);
        let patch = imported(&bundle, name, &expected);
        let (texts, gold) = dev_set(set);
        let predictions = answers(&encoder, &patch, &texts);
        let logits: Vec<Vec<f32>> = serde_json::from_value(expected["dev_logits"].clone()).unwrap();
        assert_eq!(predictions.len(), logits.len());
        let (mut worst, mut other_labels) = (0.0f32, 0);
        for (found, due) in predictions.iter().zip(&logits) {
            assert!(found.logits.iter().all(|v| v.is_finite()));
            worst = found.logits.iter().zip(due).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            let top = |v: &[f32]| (0..v.len()).max_by(|a, b| v[*a].total_cmp(&v[*b]));
            other_labels += usize::from(top(&found.logits) != top(due));
        }
        println!("{name:18} {:4} rows, largest difference {worst:.1e}, {other_labels} other labels", logits.len());
        assert!(worst < LOGIT_BOUND && other_labels == 0, "{name}");
        for (metric, due) in expected["dev_metric"].as_object().unwrap() {
            let found = score(patch.task(), metric, &predictions, &gold);
            println!("{:18} {metric} {found:.3}", "");
            assert!((found - 100.0 * due.as_f64().unwrap()).abs() < 0.01, "{name} {metric}: {found}, expected {due}");
        }
    }
}

#[test]
#[ignore = "needs the real encoder and EDGE_REFERENCE"]
fn int8_weights_keep_the_metrics() {
    /// The largest change of a metric, in percent, that int8 may cause; the documentation states it.
    const LOSS: f64 = 0.3;
    let (exact, bundle) = (real_bundle(), real_bundle_int8());
    let load = |bundle: &Bundle, activations| {
        Encoder::load(bundle.clone(), EngineOptions { activations, ..EngineOptions::default() }).unwrap()
    };
    let exact = load(&exact, Activations::F32);
    let encoders = [load(&bundle, Activations::F32), load(&bundle, Activations::Short)];
    // Tokens of a few dozen sentences, against those of the f32 encoder.
    let (texts, _) = dev_set("SST-2");
    let mut lowest = [1.0f32; 2];
    for text in &texts[..100] {
        let due = exact.hidden(text).unwrap().0;
        for (encoder, lowest) in encoders.iter().zip(&mut lowest) {
            let found = encoder.hidden(text).unwrap().0;
            for (a, b) in due.rows().into_iter().zip(found.rows()) {
                *lowest = lowest.min(a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt());
            }
        }
    }
    println!("lowest cosine of a token: {:.5} with f32 activations, {:.5} with int8", lowest[0], lowest[1]);
    assert!(lowest[0] >= 0.9985 && lowest[1] >= 0.996);
    for (name, set) in REFERENCES {
        let expected = expected(name);
        let (texts, gold) = dev_set(set);
        let patch = imported(&bundle, name, &expected);
        let found = encoders.each_ref().map(|encoder| answers(encoder, &patch, &texts));
        for (metric, due) in expected["dev_metric"].as_object().unwrap() {
            let due = 100.0 * due.as_f64().unwrap();
            let [weights, both] = found.each_ref().map(|found| score(patch.task(), metric, found, &gold));
            println!("{name:18} {metric:9} f32 {due:.2}, int8 weights {weights:.2}, int8 activations too {both:.2}");
            // The metric of each data set. CoLA is left out: this encoder is near chance on it.
            if matches!(metric.as_str(), "acc" | "spearman") && name != "cola" {
                assert!(weights.min(both) > due - LOSS, "{name} {metric}");
            }
        }
    }
}

#[test]
#[ignore = "needs the real encoder"]
fn both_engines_agree_at_every_length_and_batch() {
    let bundle = real_bundle();
    let load = |engine| Encoder::load(bundle.clone(), EngineOptions { engine, ..EngineOptions::default() }).unwrap();
    let (lowered, reference) = (load(EngineKind::Lowered), load(EngineKind::Tract));
    let text = |words: usize| {
        let words: Vec<&str> =
            ["joy", "film", "of", "unwatchable", "guitars"].into_iter().cycle().take(words).collect();
        Text::one(words.join(" "))
    };
    // One word to the encoder's 512 tokens.
    for words in [1, 2, 15, 64, 1000] {
        let (found, due) = (lowered.hidden(&text(words)).unwrap().0, reference.hidden(&text(words)).unwrap().0);
        let worst = (&found - &due).iter().fold(0.0f32, |worst, d| worst.max(d.abs()));
        println!("{} tokens: largest difference {worst:.1e}", due.nrows());
        assert!(found.dim() == due.dim() && worst < LOGIT_BOUND);
    }
    let patch = Patch::open(&fixtures().ancestors().nth(2).unwrap().join("patches/library/sst2.bias")).unwrap();
    for batch in [1, 7, 64] {
        let texts: Vec<Text> = (0..batch).map(|at| text(1 + at * 3)).collect();
        let (found, due) = (answers(&lowered, &patch, &texts), answers(&reference, &patch, &texts));
        let pairs = found.iter().zip(&due).flat_map(|(a, b)| a.logits.iter().zip(&b.logits));
        let worst = pairs.fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        println!("{batch} texts together: largest difference of logits {worst:.1e}");
        assert!(worst < LOGIT_BOUND);
    }
}

#[test]
#[ignore = "needs the real encoder and EDGE_REFERENCE"]
fn shipped_patches_score_what_their_table_says() {
    let library = fixtures().ancestors().nth(2).unwrap().join("patches/library");
    let table = fs::read_to_string(library.join("README.md")).unwrap();
    let bundle = real_bundle();
    let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|l| l.starts_with("| ") && l.contains(".bias |") && l.matches('|').count() == 8)
        .map(|l| l.split('|').map(str::trim).filter(|c| !c.is_empty()).collect())
        .collect();
    assert_eq!(
        rows.len(),
        fs::read_dir(&library)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "bias"))
            .count()
    );
    for row in rows {
        let [file, _, metric, claimed, claimed_exact, claimed_test, bytes] = row[..] else { panic!("{row:?}") };
        let path = library.join(file);
        assert_eq!(fs::metadata(&path).unwrap().len().to_string(), bytes, "{file}");
        let name = file.strip_suffix(".bias").unwrap();
        let patch = Patch::open(&path).unwrap();
        let score_of = |patch: &Patch, file: &Path| {
            let examples = read_examples(file, patch.task(), false).unwrap().examples;
            format!("{:.2}", 100.0 * evaluate(&encoder, patch, &examples).unwrap().metric(metric))
        };
        let (_, set) = SHIPPED.iter().find(|(shipped, _)| *shipped == name).unwrap();
        let dev = reference_dir().join("data").join(set);
        let found = score_of(&patch, &dev);
        let exact = match patch.metadata().get("metric before conversion") {
            // What its training has noted of it, before its values were stored in fewer bits.
            Some(before) => {
                let noted = before.strip_prefix(&format!("{metric} ")).and_then(|rest| rest.split(' ').next());
                format!("{:.2}", 100.0 * noted.unwrap().parse::<f64>().unwrap())
            }
            // It has no trained values.
            None if name == "embed" => "-".to_owned(),
            // Trained elsewhere.
            None => score_of(&imported(&bundle, name, &expected(name)), &dev),
        };
        let test = Some(dev.with_file_name("test.tsv")).filter(|file| file.exists());
        let test = test.map_or("-".to_owned(), |file| score_of(&patch, &file));
        println!("{file:12} {metric:14} {found} ({exact} exact), test {test}, {bytes} bytes");
        assert_eq!([&*found, &exact, &test], [claimed, claimed_exact, claimed_test], "{file}");
        // A patch without trained values has no notes.
        let noted = patch
            .metadata()
            .get("metric")
            .map_or(claimed_exact == "-", |noted| noted.contains(&format!("{metric} {claimed}")));
        assert!(noted, "{file}: {:?}", patch.metadata());
    }
}

#[test]
#[ignore = "needs the real encoder"]
fn the_real_bundle_verifies_and_switches_without_loading() {
    let bundle = real_bundle();
    let home = tempfile::TempDir::new().unwrap();
    assert_succeeded(&command("edge-export", home.path()).arg("verify").arg(bundle.dir()).output().unwrap());

    let library = fixtures().ancestors().nth(2).unwrap().join("patches/library");
    let encoder = Encoder::load(bundle, EngineOptions::default()).unwrap();
    let attach = |name: &str| encoder.attach(&Patch::open(&library.join(name)).unwrap()).unwrap();
    let (paraphrase, similarity) = (attach("mrpc.bias"), attach("stsb.bias"));
    let text = Text::pair("A man is playing a guitar.", "A man plays the guitar.");
    let timings: Vec<_> = (0..20)
        .flat_map(|_| [&paraphrase, &similarity])
        .map(|task| encoder.predict(&[Request { task, text: &text }]).remove(0).unwrap().timing)
        .collect();
    let mut switch: Vec<_> = timings.iter().map(|t| t.switch).collect();
    switch.sort();
    let median = switch[switch.len() / 2];
    let mut open: Vec<_> = (0..50)
        .map(|_| {
            let begun = std::time::Instant::now();
            Patch::open(&library.join("sst2.bias")).unwrap();
            begun.elapsed()
        })
        .collect();
    open.sort();
    println!("switch {median:?}, load {:?}, open a patch {:?}", encoder.load_timing().engine, open[25]);
    // Reading one megabyte of the encoder would take longer, and lowering its graph ten times as long.
    assert!(median.as_micros() < 50, "{median:?}");
}

#[test]
#[ignore = "needs the real encoder"]
fn the_demo_answers_every_task() {
    let _ = real_bundle();
    let root = fixtures().ancestors().nth(2).map(Path::to_owned).unwrap();
    let output = std::process::Command::new(env!("CARGO")).arg("demo").current_dir(root).output().unwrap();
    let said = assert_succeeded(&output);
    let readme = fs::read_to_string(fixtures().join("../../README.md")).unwrap();
    let block =
        readme.split("```").find(|block| block.contains("frozen, loaded once")).expect("the README shows the demo");
    let lines: Vec<&str> = block.lines().filter(|line| !line.trim().is_empty() && line.trim() != "...").collect();
    assert!(lines.len() > 10);
    for line in lines {
        assert!(said.lines().any(|l| l.trim_end() == line.trim_end()), "the README's {line:?} is not in {said}");
    }
}
