//! Engines and kernels of `edge-run` against each other, and the benchmark of them.

use std::fs;

use bias_patch::{Head, Linear, Values};
use edge_engine::kernels;
use edge_run::{Encoder, EngineKind, EngineOptions, Patch, Request, Text};
use serde_json::Value;
use system_tests::{
    FAMILIES, assert_misused, assert_refused, assert_succeeded, command, low_rank_inputs, patch, patch_with_terms,
    place::Place, small_bundle, small_bundle_with, task, with_input,
};

/// tract and the kernels sum in different orders; logits here are below 10.
const ENGINE_BOUND: f64 = 1e-4;

fn logits(rows: &[Value]) -> Vec<f64> {
    rows.iter().flat_map(|r| r["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap())).collect()
}

#[test]
fn tract_and_every_kernel_agree() {
    for family in FAMILIES {
        let place = Place::new(family);
        // One token of text up to the limit, so that tiles and panels of every remainder occur.
        let input: String = (1..=45)
            .map(|n| {
                format!(
                    "{}\n",
                    ["good", "very", "bad", "why"].map(|w| w.to_owned() + " ").concat().repeat(12)[..n * 4].to_owned()
                )
            })
            .collect();
        let arguments = ["-p", "label.bias", "-p", "number.bias", "--logits", "--batch", "64"];
        let run = |extra: &[&str], isa: Option<&str>| {
            let mut run = command("edge-run", place.home.path());
            if let Some(isa) = isa {
                run.env("EDGE_RUN_ISA", isa);
            }
            let run = run
                .current_dir(place.home.path())
                .args(["--bundle", "bundle", "-o", "jsonl"])
                .args(arguments)
                .args(extra);
            let rows = assert_succeeded(&with_input(run, input.as_bytes()));
            logits(&rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<_>>())
        };
        let tract = run(&["--engine", "tract"], None);
        assert_eq!(tract.len(), 45 * 4);
        let mut found = vec![
            ("one at a time", run(&["--unbuffered"], None)),
            ("threads", run(&["--threads", "3"], None)),
            ("the older name of tract", run(&["--engine", "reference"], None)),
        ];
        found.extend(kernels().iter().map(|kernel| (kernel.name(), run(&[], Some(kernel.name())))));
        assert!(found.iter().any(|(what, _)| *what == "naive"));
        for (what, found) in found {
            assert_eq!(tract.len(), found.len(), "{family}, {what}");
            let worst = tract.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            println!("{family}, {what}: largest difference {worst:e}");
            assert!(worst < ENGINE_BOUND, "{family}, {what}: {worst:e}");
        }
    }
    let place = Place::new("bert");
    let mut run = command("edge-run", place.home.path());
    let run =
        run.current_dir(place.home.path()).env("EDGE_RUN_ISA", "mmx").args(["--bundle", "bundle", "-p", "label.bias"]);
    assert_refused(&with_input(run, b"good\n"), &["EDGE_RUN_ISA", "naive", "mmx"]);
}

#[test]
fn tract_runs_low_rank_terms_where_its_graph_takes_them() {
    let (text, options) = (Text::one("the film was good, very happy"), EngineOptions::default());
    for family in FAMILIES {
        let (_home, bundle) = small_bundle_with(family, low_rank_inputs());
        let spec = || task("label", "classification", 1);
        let patches = [patch(&bundle, spec(), "label"), patch_with_terms(&bundle, spec(), "label")];
        let run = |engine| {
            let encoder = Encoder::load(bundle.clone(), EngineOptions { engine, ..options }).unwrap();
            assert_eq!(encoder.uncovered(), None);
            patches.each_ref().map(|patch| {
                let task = encoder.attach(patch).unwrap();
                encoder.predict(&[Request { task: &task, text: &text }]).remove(0).unwrap().logits
            })
        };
        let (lowered, tract) = (run(EngineKind::Lowered), run(EngineKind::Tract));
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        for (lowered, tract) in lowered.iter().zip(&tract) {
            assert_eq!(lowered.len(), 3);
            println!("{family}: largest difference {:e}", worst(lowered, tract));
            assert!(worst(lowered, tract) < ENGINE_BOUND, "{family}: {lowered:?}, {tract:?}");
        }
        assert!(worst(&lowered[0], &lowered[1]) > 0.01, "{family}: the terms change nothing");
    }

    let (home, bundle) = small_bundle("bert");
    let with_terms = patch_with_terms(&bundle, task("label", "classification", 1), "label");
    with_terms.save(&home.path().join("terms.bias")).unwrap();
    let mut run = command("edge-run", home.path());
    run.current_dir(home.path()).args(["--bundle", "bundle", "-p", "terms.bias", "--engine"]);
    let refused = with_input(run.arg("tract"), b"good\n");
    assert_refused(&refused, &["encoder.onnx", "lora_a.q.0", "--low-rank-inputs", "--engine lowered"]);

    // A task that another engine has attached is not run without its terms either.
    let load = |engine| Encoder::load(bundle.clone(), EngineOptions { engine, ..options }).unwrap();
    let attached = load(EngineKind::Lowered).attach(&with_terms).unwrap();
    let found = load(EngineKind::Tract).predict(&[Request { task: &attached, text: &text }]).remove(0);
    let error = found.unwrap_err().to_string();
    assert!(error.contains("lora_a.q.0") && error.contains("--low-rank-inputs"), "{error}");
}

#[test]
fn tract_reads_intact_weights_and_is_timed() {
    let place = Place::new("bert");
    let mut bench = command("edge-run", place.home.path());
    bench.current_dir(place.home.path()).args([
        "bench",
        "bundle",
        "--seconds",
        "0.001",
        "-l",
        "5",
        "--engine",
        "tract",
    ]);
    assert_succeeded(&bench.output().unwrap());
    let weights = place.home.path().join("bundle/weights.bin");
    let mut bytes = fs::read(&weights).unwrap();
    bytes[40] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let refused = place.run(&["-p", "label.bias", "--engine", "tract"], b"good\n");
    assert_refused(&refused, &["weights.bin", "checksum mismatch"]);
}

#[test]
fn pooling_reads_what_it_says() {
    let (_home, bundle) = small_bundle("bert");
    let base = bundle.base().unwrap();
    let weight: Vec<f32> = (0..64).map(|n| (n % 7) as f32 - 3.0).collect();
    let text = Text::one("the film was good, very happy");
    for engine in [EngineKind::Lowered, EngineKind::Tract] {
        let engine = EngineOptions { engine, ..EngineOptions::default() };
        let encoder = Encoder::load(bundle.clone(), engine).unwrap();
        let (tokens, pooled) = encoder.hidden(&text).unwrap();
        for pooling in ["cls", "mean", "pooler"] {
            let json = format!(
                r#"{{"name":"t","kind":"classification","labels":["a","b"],"pooling":"{pooling}","max_length":40}}"#
            );
            let head = Head::of(Linear::exact(&weight, &[0.5, -0.5]).unwrap());
            let patch =
                Patch::new(bundle.manifest().encoder, serde_json::from_str(&json).unwrap(), vec![], head, []).unwrap();
            assert_eq!(patch.apply(&bundle.manifest().shape(), base.slots()).unwrap(), Values::of_slots(base.slots()));
            let task = encoder.attach(&patch).unwrap();
            let found = encoder.predict(&[Request { task: &task, text: &text }]).remove(0).unwrap().logits;
            let vector: Vec<f32> = match pooling {
                "cls" => tokens.row(0).to_vec(),
                "pooler" => pooled.as_ref().unwrap().to_vec(),
                _ => tokens.columns().into_iter().map(|c| c.sum() / c.len() as f32).collect(),
            };
            for (row, (found, bias)) in found.iter().zip([0.5, -0.5]).enumerate() {
                let due: f32 = vector.iter().zip(&weight[row * 32..]).map(|(x, w)| x * w).sum::<f32>() + bias;
                assert!((found - due).abs() < 1e-4, "{pooling}: {found}, expected {due}");
            }
        }
    }
}

#[test]
fn a_benchmark_reports_every_figure() {
    let place = Place::new("bert");
    let bench = |extra: &[&str]| {
        let mut bench = command("edge-run", place.home.path());
        let bench = bench.current_dir(place.home.path()).args(["bench", "bundle", "--seconds", "0.001", "-l", "5,9"]);
        assert_succeeded(&bench.args(extra).output().unwrap())
    };
    let report: Value = serde_json::from_str(&bench(&["--json", "--batch", "3"])).unwrap();
    assert_eq!(report["lengths"].as_array().unwrap().len(), 2);
    let first = &report["lengths"][0];
    assert_eq!((first["tokens"].as_u64(), first["batch"].as_u64()), (Some(5), Some(3)));
    assert!(first["min_ms"].as_f64() <= first["median_ms"].as_f64());
    assert!(first["median_ms"].as_f64() <= first["p95_ms"].as_f64());
    for figure in [
        "/peak_gflops",
        "/read_gbytes",
        "/switch_us",
        "/mixed/ratio",
        "/batch/tokens_per_second",
        "/lengths/1/gflops",
        "/lengths/1/least_ms",
    ] {
        assert!(report.pointer(figure).and_then(Value::as_f64).is_some_and(|f| f > 0.0), "{figure} in {report}");
    }
    if cfg!(target_os = "linux") {
        assert_eq!(report.pointer("/mapped/private_dirty_bytes"), Some(&Value::from(0)), "{report}");
    }
    // f32 weights use f32 activations, whatever the flag says.
    assert!(report["arithmetic"].as_str().unwrap().ends_with(" F32"), "{report}");
    let mut longer = command("edge-run", place.home.path());
    let longer = longer.current_dir(place.home.path()).args(["bench", "bundle", "-l", "4000"]).output().unwrap();
    assert_misused(&longer, &["--lengths", "1 to 48 tokens", "4000"]);
    // Without lengths, those that the encoder takes: one line says which it does not.
    let mut usual = command("edge-run", place.home.path());
    let usual = usual.current_dir(place.home.path()).args(["bench", "bundle", "--seconds", "0.001"]).output().unwrap();
    let said = String::from_utf8(usual.stderr.clone()).unwrap();
    assert_eq!(said, "edge-run: lengths left out: 128, 256; the encoder takes at most 48 tokens\n");
    assert!(assert_succeeded(&usual).contains("for 32 texts of 4 to 48 tokens: "));
    let said = bench(&["--threads", "2"]);
    for part in ["encoder ", "GFLOP/s", "roofline", "GB/s", "switch ", "mixed ", "batch ", "threads: 2"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
