//! Every family: export, engine and tokenizer against Hugging Face's transformers, and the exporter's refusals.

use std::{fs, path::Path};

use bias_patch::{Bundle, Digest, Element, MANIFEST};
use edge_export::{Destination, Error, Options, Panels, export, verify};
use edge_run::{Activations, Encoder, EngineKind, EngineOptions, Request, Text};
use safetensors::Dtype;
use system_tests::{
    ENCODERS, Fixture, Layout, assert_refused, assert_succeeded, command, int8, patch, small_bundle, small_bundle_with,
    task, write_tensors,
};
use tempfile::TempDir;

/// The engines compute in f32, the fixtures in f64 with six decimals; hidden values are around 1.
const HIDDEN_BOUND: f32 = 1e-5;

fn text(case: &[String]) -> Text {
    match case {
        [one] => Text::one(one),
        [first, second] => Text::pair(first, second),
        other => panic!("{other:?}"),
    }
}

/// The largest difference between the encoder's hidden states and the fixture's.
fn difference(encoder: &Encoder, fixture: &Fixture) -> f32 {
    let mut worst: f32 = 0.0;
    for case in &fixture.cases {
        let (hidden, pooled) = encoder.hidden(&text(&case.text)).unwrap();
        let pooled = pooled.map_or(vec![], |p| p.to_vec());
        assert_eq!(pooled.len(), case.pooled.len());
        worst = pooled.iter().zip(&case.pooled).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        assert_eq!(hidden.nrows(), case.input_ids.len(), "tokens of {:?}", case.text);
        assert!(hidden.iter().all(|v| v.is_finite()));
        for (row, expected) in hidden.rows().into_iter().zip(&case.hidden) {
            worst = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
    }
    worst
}

#[test]
fn hidden_states_agree_with_transformers() {
    for name in ENCODERS {
        let (_dir, bundle) = small_bundle(name);
        for engine in [EngineKind::Lowered, EngineKind::Reference] {
            let engine = EngineOptions { engine, ..EngineOptions::default() };
            let worst = difference(&Encoder::load(bundle.clone(), engine).unwrap(), &Fixture::named(name));
            println!("{name}, {engine:?}: largest difference {worst:e}");
            assert!(worst < HIDDEN_BOUND, "{name}, {engine:?}: {worst:e}");
        }
    }
}

#[test]
fn prefixes_shards_and_half_floats_are_read() {
    let fixture = Fixture::named("bert");
    let encoder_of = |layout: Layout<'_>| {
        let dir = TempDir::new().unwrap();
        fixture.write(dir.path(), layout);
        let to = Destination::Dir(dir.path().join("bundle"));
        let bundle = export(dir.path(), "x", &to, Options::default(), &mut |_| ()).unwrap();
        (bundle.manifest().encoder, difference(&Encoder::load(bundle, EngineOptions::default()).unwrap(), &fixture))
    };
    let (plain, _) = encoder_of(Layout::default());
    let (prefixed, _) = encoder_of(Layout { prefix: "bert.", ..Layout::default() });
    let (sharded, _) = encoder_of(Layout { shards: 3, ..Layout::default() });
    assert_eq!(plain, prefixed);
    assert_eq!(plain, sharded);
    // Weights around 0.3 rounded to 11 and 8 bits move these hidden states by about as much as was measured here.
    for (dtype, bound) in [(Dtype::F16, 0.02), (Dtype::BF16, 0.15)] {
        let (other, worst) = encoder_of(Layout { dtype, ..Layout::default() });
        assert_ne!(plain, other);
        assert!(worst > 0.0 && worst < bound, "{dtype:?}: {worst}");
    }
}

#[test]
fn oldest_layer_norm_names_are_read() {
    let mut fixture = Fixture::named("bert");
    let dir = TempDir::new().unwrap();
    let tensors: Vec<_> = std::mem::take(&mut fixture.tensors)
        .into_iter()
        .map(|(name, shape)| {
            let values = Fixture::values(&name, &shape);
            let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (old, shape, values)
        })
        .collect();
    fixture.write(dir.path(), Layout::default());
    write_tensors(&dir.path().join("model.safetensors"), Dtype::F32, &tensors);
    let bundle =
        export(dir.path(), "x", &Destination::Dir(dir.path().join("bundle")), Options::default(), &mut |_| ()).unwrap();
    assert!(difference(&Encoder::load(bundle, EngineOptions::default()).unwrap(), &fixture) < HIDDEN_BOUND);
}

#[test]
fn a_second_export_gives_the_same_bytes() {
    let fixture = Fixture::named("electra");
    for options in [Options::default(), Options { panels: Panels::Beside, ..int8() }] {
        let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (a, b) = (fixture.export(first.path(), options.clone()), fixture.export(second.path(), options));
        for name in a.manifest().files.keys().map(String::as_str).chain([MANIFEST]) {
            assert_eq!(fs::read(a.dir().join(name)).unwrap(), fs::read(b.dir().join(name)).unwrap(), "{name}");
        }
        let left: Vec<_> = fs::read_dir(first.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "something is left beside checkpoint and bundle: {left:?}");
    }
}

/// All values of the hidden states of a fixture's texts.
fn hidden_states(bundle: &Bundle, engine: EngineOptions, fixture: &Fixture) -> Vec<f32> {
    let encoder = Encoder::load(bundle.clone(), engine).unwrap();
    fixture.cases.iter().flat_map(|case| encoder.hidden(&text(&case.text)).unwrap().0.into_iter()).collect()
}

#[test]
fn weights_of_eight_bits_are_the_same_encoder_nearly() {
    for name in ENCODERS {
        let fixture = Fixture::named(name);
        let (_f32, exact) = small_bundle(name);
        let (_int8, bundle) = small_bundle_with(name, int8());
        verify(bundle.dir(), &mut |_| ()).unwrap();
        assert_ne!(exact.manifest().encoder, bundle.manifest().encoder);
        assert_eq!(exact.base().unwrap(), bundle.base().unwrap());
        let run = |bundle: &Bundle, engine, activations| {
            hidden_states(bundle, EngineOptions { engine, activations, threads: 1 }, &fixture)
        };
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let exact = run(&exact, EngineKind::Lowered, Activations::F32);
        let reference = run(&bundle, EngineKind::Reference, Activations::F32);
        let widened = run(&bundle, EngineKind::Lowered, Activations::F32);
        let codes = run(&bundle, EngineKind::Lowered, Activations::Int8);
        assert_eq!(exact.len(), codes.len());
        // The same weights, so the same numbers but for the order of sums.
        assert!(worst(&reference, &widened) < HIDDEN_BOUND, "{name}: {:e}", worst(&reference, &widened));
        let cosine = |a: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            dot(a, &exact) / (dot(a, a) * dot(&exact, &exact)).sqrt()
        };
        println!("{name}: cosine {:.5} with f32 activations, {:.5} with int8", cosine(&widened), cosine(&codes));
        assert!(worst(&exact, &widened) > 1e-4, "{name}: nothing was rounded");
        assert!(worst(&widened, &codes) > 1e-4, "{name}: activations were not rounded");
        assert!(cosine(&widened) > 0.999 && cosine(&codes) > 0.998, "{name}");
    }
}

#[test]
fn a_device_needs_only_the_panels() {
    for weights in [Element::F32, Element::I8] {
        let (_whole, whole) = small_bundle_with("bert", Options { weights, ..Options::default() });
        let (home, device) = small_bundle_with("bert", Options { weights, panels: Panels::Only, ..Options::default() });
        assert!(!device.dir().join("weights.bin").exists());
        assert_eq!(whole.manifest(), device.manifest());
        let fixture = Fixture::named("bert");
        let run = |bundle: &Bundle| hidden_states(bundle, EngineOptions::default(), &fixture);
        assert_eq!(run(&whole), run(&device));
        let verified = || command("edge-export", home.path()).arg("verify").arg(device.dir()).output().unwrap();
        assert_succeeded(&verified());

        let reference = EngineOptions { engine: EngineKind::Reference, ..EngineOptions::default() };
        let refused = Encoder::load(device.clone(), reference).err().unwrap().to_string();
        assert!(refused.contains("weights.bin") && refused.contains("reference"), "{refused}");

        let panels = device.panels();
        let bytes = fs::read(&panels).unwrap();
        let mut altered = bytes.clone();
        altered[bytes.len() - 3] ^= 1;
        fs::write(&panels, &altered).unwrap();
        assert_refused(&verified(), &["panels-", "checksum mismatch"]);
        let refused = Encoder::load(device.clone(), EngineOptions::default()).err().unwrap().to_string();
        assert!(refused.contains("checksum mismatch") && refused.contains("--panels only"), "{refused}");
        assert_eq!(fs::read(&panels).unwrap(), altered, "damaged panels with nothing to make them from stay");
        fs::remove_file(&panels).unwrap();
        let refused = Bundle::open(device.dir()).unwrap_err().to_string();
        assert!(refused.contains("weights.bin"), "{refused}");
    }
}

#[test]
fn panels_of_another_encoder_do_not_pass_for_this_ones() {
    let (home, bundle) = small_bundle_with("bert", Options { panels: Panels::Beside, ..int8() });
    // One code altered and the file's own checksum made to fit: only the tensor's digest tells.
    let bytes = fs::read(bundle.panels()).unwrap();
    let begin = bytes.windows(32).position(|w| w == Digest::of(&bytes[begin_of_data(&bytes)..]).0).unwrap();
    let mut altered = bytes.clone();
    let last = bytes.len() - 70;
    altered[last] ^= 1;
    let digest = Digest::of(&altered[begin_of_data(&bytes)..]).0;
    altered[begin..begin + 32].copy_from_slice(&digest);
    fs::write(bundle.panels(), &altered).unwrap();
    let verified = command("edge-export", home.path()).arg("verify").arg(bundle.dir()).output().unwrap();
    assert_refused(&verified, &["panels-i8x16x4.bin", "tensor", "digest"]);
}

/// Where the first tensor of a panels file is.
fn begin_of_data(bytes: &[u8]) -> usize {
    (16 + u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize).next_multiple_of(64)
}

#[test]
fn threads_change_no_bit() {
    for (name, options) in [("bert", Options::default()), ("electra", int8())] {
        let (_home, bundle) = small_bundle_with(name, options);
        let run = |threads| {
            let encoder = Encoder::load(bundle.clone(), EngineOptions { threads, ..EngineOptions::default() }).unwrap();
            let task = encoder.attach(&patch(&bundle, task("label", "classification", 1), "label")).unwrap();
            let texts: Vec<Text> = (1..=30).map(|words| Text::one("good ".repeat(words))).collect();
            let requests: Vec<_> = texts.iter().map(|text| Request { task: &task, text }).collect();
            encoder.predict(&requests).into_iter().flat_map(|p| p.unwrap().logits).collect::<Vec<f32>>()
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert_eq!(run(threads), one, "{name}, {threads} threads");
        }
    }
}

#[test]
fn verify_finds_what_was_altered() {
    let flip = |dir: &Path, name: &str, at: usize| {
        let path = dir.join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    let (_dir, bundle) = small_bundle("distilbert");
    verify(bundle.dir(), &mut |_| ()).unwrap();
    for name in ["weights.bin", "base.bias", "encoder.onnx", "tokenizer.json"] {
        flip(bundle.dir(), name, 100);
        let error = verify(bundle.dir(), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
        flip(bundle.dir(), name, 100);
    }
    verify(bundle.dir(), &mut |_| ()).unwrap();
}

#[test]
fn verify_recomputes_the_golden_output() {
    let (_dir, bundle) = small_bundle("bert");
    let path = bundle.dir().join(MANIFEST);
    let mut manifest = bundle.manifest().clone();
    manifest.golden.first[3] += 1e-3;
    fs::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
    let error = verify(bundle.dir(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::Golden { difference, .. } if difference > 1e-4), "{error}");
}

#[test]
fn bundles_that_are_not_whole_are_refused_by_name() {
    let (_dir, bundle) = small_bundle("bert-relu");
    let weights = bundle.dir().join("weights.bin");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 4]).unwrap();
    let error = Bundle::open(bundle.dir()).unwrap_err().to_string();
    assert!(error.contains("weights.bin") && error.contains("expected") && error.contains("found"), "{error}");
    fs::remove_file(&weights).unwrap();
    assert!(Bundle::open(bundle.dir()).unwrap_err().to_string().contains("weights.bin"));
    fs::write(&weights, &bytes).unwrap();

    let manifest = fs::read_to_string(bundle.dir().join(MANIFEST)).unwrap();
    for (from, to, part) in [
        ("\"version\": 1", "\"version\": 2", "version 2 of the bundle format"),
        ("\"hidden\": 32", "\"hidden\": 36", "slots"),
        ("\"hidden\": 32", "\"hidden\": 33", "a multiple of the 4 heads"),
        ("\"layer_norm_epsilon\": 1e-12", "\"layer_norm_epsilon\": 1e-10", "encoder: expected"),
        ("\"term\": \"bq\"", "\"term\": \"bv\"", "slots, number"),
        ("\"offset\": 128", "\"offset\": 132", "offset 128"),
        ("\"name\": \"fixture\"", "\"nome\": \"fixture\"", "nome"),
    ] {
        assert!(manifest.contains(from), "{from}");
        fs::write(bundle.dir().join(MANIFEST), manifest.replacen(from, to, 1)).unwrap();
        let error = Bundle::open(bundle.dir()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(MANIFEST), "{to}: {error}");
    }
}

#[test]
fn checkpoints_that_cannot_be_exported_say_why() {
    let write = |change: &dyn Fn(&mut Fixture)| {
        let dir = TempDir::new().unwrap();
        let mut fixture = Fixture::named("bert");
        change(&mut fixture);
        fixture.write(&dir.path().join("c"), Layout::default());
        dir
    };
    let set = |key: &'static str, value: serde_json::Value| {
        move |f: &mut Fixture| {
            f.config[key] = value.clone();
        }
    };
    let cases: Vec<(TempDir, Vec<&str>)> = vec![
        (write(&set("num_attention_heads", 0.into())), vec!["config.json", "heads", "1 to 16777216", "found 0"]),
        (write(&set("num_attention_heads", 5.into())), vec!["config.json", "a multiple of the 5 heads", "32"]),
        (write(&set("hidden_size", 4_294_967_295u32.into())), vec!["config.json", "hidden", "4294967295"]),
        (write(&set("layer_norm_eps", 0.into())), vec!["config.json", "layer_norm_epsilon"]),
        (
            write(&|f| {
                drop(
                    f.files.insert(
                        "tokenizer_config.json".into(),
                        r#"{"tokenizer_class":"BertJapaneseTokenizer"}"#.into(),
                    ),
                )
            }),
            vec!["tokenizer_config.json", "tokenizer_class", "BertJapaneseTokenizer"],
        ),
        (
            write(&|f| drop(f.files.insert("added_tokens.json".into(), r#"{"<new>":60}"#.into()))),
            vec!["added_tokens.json", "<new>"],
        ),
        (write(&set("model_type", "gpt2".into())), vec!["model_type", "bert, roberta", "gpt2"]),
        (write(&set("hidden_act", "silu".into())), vec!["hidden_act", "silu"]),
        (
            write(&set("hidden_size", 36.into())),
            vec!["tensor embeddings.word_embeddings.weight", "[53, 36]", "[53, 32]"],
        ),
        (write(&set("num_hidden_layers", 3.into())), vec!["no tensor encoder.layer.2"]),
        (write(&set("vocab_size", 20.into())), vec!["vocab.txt", "ids below 20"]),
        (write(&set("position_embedding_type", "relative_key".into())), vec!["position_embedding_type", "absolute"]),
        (
            write(&|f| {
                f.tensors.remove("encoder.layer.1.output.dense.weight");
            }),
            vec!["no tensor encoder.layer.1.output.dense.weight"],
        ),
        (
            write(&|f| {
                f.tensors.insert("embeddings.word_embeddings.weight".into(), vec![7, 32]);
            }),
            vec!["embeddings.word_embeddings.weight", "[7, 32]"],
        ),
        (
            write(&|f| {
                f.files.remove("vocab.txt");
            }),
            vec!["tokenizer.json, vocab.txt, or vocab.json"],
        ),
    ];
    for (dir, parts) in &cases {
        let output = command("edge-export", dir.path())
            .arg(dir.path().join("c"))
            .arg("-o")
            .arg(dir.path().join("b"))
            .output()
            .unwrap();
        assert_refused(&output, parts);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["c"], "something is left behind");
    }

    let dir = write(&|_| ());
    let checkpoint = dir.path().join("c");
    let export_it = || command("edge-export", dir.path()).arg(&checkpoint).output().unwrap();
    let weights = checkpoint.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    assert_refused(&export_it(), &["model.safetensors", "bytes by its header"]);
    fs::write(&weights, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    assert_refused(&export_it(), &["model.safetensors", "header length"]);
    fs::rename(&weights, checkpoint.join("pytorch_model.bin")).unwrap();
    assert_refused(&export_it(), &["pytorch_model.bin", "pickle", "save_pretrained"]);
    assert_refused(
        &command("edge-export", dir.path()).arg(dir.path().join("none")).output().unwrap(),
        &["no such directory"],
    );
}

#[test]
fn the_command_exports_to_a_directory_and_to_the_store() {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    Fixture::named("bert").write(&checkpoint, Layout::default());
    let stored = assert_succeeded(&command("edge-export", home.path()).arg(&checkpoint).output().unwrap());
    assert!(stored.contains("bundle"), "{stored}");
    let out = home.path().join("out");
    let export_out = || command("edge-export", home.path()).arg(&checkpoint).arg("-o").arg(&out).output().unwrap();
    assert_succeeded(&export_out());
    // Again over a bundle is fine; over anything that is not part of one it is not.
    assert_succeeded(&export_out());
    fs::write(out.join("notes.txt"), "mine").unwrap();
    assert_refused(&export_out(), &["notes.txt", "not part of a bundle"]);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    fs::remove_file(out.join("notes.txt")).unwrap();
    assert_succeeded(&command("edge-export", home.path()).arg("verify").arg(&out).output().unwrap());
    // Names that a bundle has do not make a bundle.
    fs::remove_file(out.join(MANIFEST)).unwrap();
    assert_refused(&export_out(), &["not part of a bundle"]);
    assert!(out.join("encoder.onnx").exists());
    // A damaged bundle in the store is mended by exporting it again.
    let stored = fs::read_dir(home.path().join("data/edge-run/bundles")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(stored.join("encoder.onnx")).unwrap();
    bytes[100] ^= 1;
    fs::write(stored.join("encoder.onnx"), bytes).unwrap();
    assert_succeeded(&command("edge-export", home.path()).arg(&checkpoint).output().unwrap());
    verify(&stored, &mut |_| ()).unwrap();
    // So is one that lacks the files that are asked for now.
    let has = |name: &str| stored.join(name).exists();
    let export_with = |panels: &[&str]| {
        assert_succeeded(&command("edge-export", home.path()).arg(&checkpoint).args(panels).output().unwrap());
    };
    export_with(&["--panels", "beside"]);
    assert!(has("weights.bin") && has("panels-f32x16.bin"));
    export_with(&["--panels", "only"]);
    assert!(!has("weights.bin") && has("panels-f32x16.bin"));
    export_with(&[]);
    assert!(has("weights.bin"));
    assert_eq!(command("edge-export", home.path()).output().unwrap().status.code(), Some(2));
}

#[test]
fn exports_at_once_end_with_one_good_bundle() {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    Fixture::named("bert").write(&checkpoint, Layout::default());
    let children: Vec<_> = (0..6)
        .map(|_| {
            command("edge-export", home.path()).arg(&checkpoint).stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let store = home.path().join("data/edge-run/bundles");
    let left: Vec<_> = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    verify(&left[0], &mut |_| ()).unwrap();
}
