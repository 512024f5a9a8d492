//! What edge-export writes, repairs and refuses, and what `verify` finds.

use std::{fs, path::Path, process::Stdio};

use edge_bundle::{Bundle, FileEntry, MANIFEST, PanelIndex};
use edge_export::{Error, Options, Panels, verify};
use edge_run::{Encoder, EngineKind, EngineOptions, Text};
use safetensors::Dtype;
use system_tests::{
    Fixture, Layout, assert_refused, assert_succeeded, command, f16, in_shell, int4, int8, small_bundle,
    small_bundle_with, write_tensors,
};
use tempfile::TempDir;

/// Changes one bit of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
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

#[test]
fn low_rank_inputs_change_the_graph_alone() {
    let home = TempDir::new().unwrap();
    Fixture::named("electra").write(&home.path().join("checkpoint"), Layout::default());
    let export = |name: &str, more: &[&str]| {
        let mut export = command("edge-export", home.path());
        export.current_dir(home.path()).args(["checkpoint", "--weights", "int8", "-o", name]).args(more);
        assert_succeeded(&export.output().unwrap());
        verify(&home.path().join(name), &mut |_| ()).unwrap()
    };
    let (plain, with) = (export("plain", &[]), export("with", &["--low-rank-inputs"]));
    let mut manifest = with.manifest().clone();
    let graph = |bundle: &Bundle| bundle.manifest().files["encoder.onnx"].clone();
    assert_ne!(graph(&plain), graph(&with));
    manifest.files.insert("encoder.onnx".to_owned(), graph(&plain));
    assert_eq!(&manifest, plain.manifest(), "the encoder's digest and golden output among all else");
}

#[test]
fn panels_of_another_encoder_do_not_pass_for_this_ones() {
    for options in [f16(), int8(), int4()] {
        let (home, bundle) = small_bundle_with("bert", Options { panels: Panels::Beside, ..options });
        // One value is changed, or in int4 a factor or two values, and the file's checksum corrected: only the
        // tensor's digest shows it.
        let bytes = fs::read(bundle.panels()).unwrap();
        let checksum = |bytes: &[u8]| crc32fast::hash(&bytes[begin_of_data(bytes)..]).to_le_bytes();
        let begin = bytes.windows(4).position(|w| w == checksum(&bytes)).unwrap();
        let index = PanelIndex::open(&bundle.panels(), bundle.manifest()).unwrap();
        let matrix = index.tensors().iter().find(|tensor| tensor.in_panels).unwrap();
        for (at, byte) in [(0, 0), (0, 255), (16, 0x88), (17, 0x77)] {
            let mut altered = bytes.clone();
            let place = &mut altered[matrix.offset as usize + at];
            assert_ne!(*place, byte);
            *place = byte;
            let corrected = checksum(&altered);
            altered[begin..begin + 4].copy_from_slice(&corrected);
            fs::write(bundle.panels(), &altered).unwrap();
            let verified = command("edge-export", home.path()).arg("verify").arg(bundle.dir()).output().unwrap();
            assert_refused(&verified, &["panels-", &format!("tensor {}", matrix.name), "digest"]);
            // It is an encoder all the same, which answers what it answers.
            let encoder = Encoder::load(bundle.clone(), EngineOptions::default()).unwrap();
            encoder.hidden(&Text::one("good")).unwrap();
        }
    }
}

/// Where the first tensor of a panels file is.
fn begin_of_data(bytes: &[u8]) -> usize {
    (16 + u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize).next_multiple_of(64)
}

#[test]
fn verify_finds_what_was_altered() {
    let (_dir, bundle) = small_bundle("distilbert");
    verify(bundle.dir(), &mut |_| ()).unwrap();
    for name in ["weights.bin", "base.bias", "encoder.onnx", "tokenizer.json"] {
        flip(&bundle.dir().join(name), 100);
        let error = verify(bundle.dir(), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
        flip(&bundle.dir().join(name), 100);
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
        ("\"hidden\": 32", "\"hidden\": 36", "embedding: expected 36, the hidden width"),
        ("\"intermediate\": 48", "\"intermediate\": 52", "slots"),
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
    let file = |name: &'static str, text: &'static str| {
        move |f: &mut Fixture| {
            f.files.insert(name.into(), text.into());
        }
    };
    let pieces = |model: &'static str, tokenizer_config: &'static str, model_type: &'static str| {
        move |f: &mut Fixture| {
            f.files.clear();
            f.files.insert(model.into(), "pieces".into());
            f.files.insert("tokenizer_config.json".into(), tokenizer_config.into());
            f.config["model_type"] = model_type.into();
            f.config["pad_token_id"] = 1.into();
        }
    };
    let cases: Vec<(TempDir, Vec<&str>)> = vec![
        (write(&set("num_attention_heads", 0.into())), vec!["config.json", "heads", "1 to 16777216", "found 0"]),
        (write(&set("num_attention_heads", 5.into())), vec!["config.json", "a multiple of the 5 heads", "32"]),
        (write(&set("hidden_size", 4_294_967_295u32.into())), vec!["config.json", "hidden", "4294967295"]),
        (write(&set("layer_norm_eps", 0.into())), vec!["config.json", "layer_norm_epsilon"]),
        (
            write(&file("tokenizer_config.json", r#"{"tokenizer_class":"BertJapaneseTokenizer"}"#)),
            vec!["tokenizer_config.json", "tokenizer_class", "BertJapaneseTokenizer"],
        ),
        // It gets the next id, for which there is no row.
        (write(&file("added_tokens.json", r#"{"<new>":60}"#)), vec!["vocab.txt", "ids below 53", "53 for \"<new>\""]),
        (write(&set("model_type", "gpt2".into())), vec!["model_type", "bert, roberta", "gpt2"]),
        (write(&set("hidden_act", "mish".into())), vec!["hidden_act", "silu or swish", "mish"]),
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
        // Of a BERT, transformers' AutoTokenizer would make a tokenizer for words.
        (write(&pieces("spm.model", "{}", "bert")), vec!["spm.model", "import DebertaV2TokenizerFast as T;", "/c"]),
        (
            write(&pieces("sentencepiece.bpe.model", r#"{"tokenizer_class":"XLMRobertaTokenizer"}"#, "bert")),
            vec!["sentencepiece.bpe.model", "only a SentencePiece model", "import AutoTokenizer as T;", "/c"],
        ),
        (
            write(&pieces("sentencepiece.bpe.model", "{}", "xlm-roberta")),
            vec!["sentencepiece.bpe.model", "import AutoTokenizer as T;"],
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
    fs::remove_file(checkpoint.join("pytorch_model.bin")).unwrap();
    let none = |file: &str| format!("expected config.json and model.safetensors, found no {file}");
    assert_refused(&export_it(), &[&none("model.safetensors"), "save_pretrained"]);
    fs::remove_file(checkpoint.join("config.json")).unwrap();
    assert_refused(&export_it(), &[&none("config.json")]);
    assert_refused(
        &command("edge-export", dir.path()).arg(dir.path().join("none")).output().unwrap(),
        &["no such directory"],
    );
}

/// Something to do to the values of a tensor.
type Change<'a> = &'a dyn Fn(&mut Vec<f32>);

#[test]
fn weights_that_f16_does_not_hold_are_refused() {
    const QUERY: &str = "encoder.layer.0.attention.self.query.weight";
    let home = TempDir::new().unwrap();
    let (fixture, checkpoint, bundle) = (Fixture::named("bert"), home.path().join("c"), home.path().join("b"));
    fixture.write(&checkpoint, Layout::default());
    let export_with = |change: Change<'_>, weights: &str| {
        let of = |(name, shape): (&String, &Vec<usize>)| {
            let mut values = Fixture::values(name, shape);
            if name == QUERY {
                change(&mut values);
            }
            (name.clone(), shape.clone(), values)
        };
        let tensors: Vec<_> = fixture.tensors.iter().map(of).collect();
        write_tensors(&checkpoint.join("model.safetensors"), Dtype::F32, &tensors);
        let mut export = command("edge-export", home.path());
        export.arg(&checkpoint).args(["--weights", weights, "-o"]).arg(&bundle).output().unwrap()
    };
    let large = |values: &mut Vec<f32>| values[7] = -65520.0;
    let tiny = |values: &mut Vec<f32>| values.iter_mut().for_each(|value| *value *= 1e-6);
    let changes: [Change<'_>; 2] = [&large, &tiny];
    for (change, found) in changes.into_iter().zip(["found -6.552e4", "e-7"]) {
        let refused = export_with(change, "f16");
        assert_refused(&refused, &[QUERY, "a largest magnitude from 6.2e-5 to 65519", found]);
        assert!(!bundle.exists());
        assert_succeeded(&export_with(change, "f32"));
        fs::remove_dir_all(&bundle).unwrap();
    }
    assert_succeeded(&export_with(&|values| values[7] = 65519.0, "f16"));
    assert_succeeded(&command("edge-export", home.path()).arg("verify").arg(&bundle).output().unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn the_largest_tensor_does_not_bound_the_memory() {
    /// Kilobytes of a process's own memory, files that are mapped aside. The program and its libraries take half of it.
    const LIMIT: &str = "ulimit -d 40960";
    let home = TempDir::new().unwrap();
    let mut fixture = Fixture::named("bert");
    // A table of 61 MB, and matrices of 5 MB.
    for (field, rows) in [("vocab_size", 480_000), ("intermediate_size", 40_000)] {
        let old = fixture.config[field].as_u64().unwrap() as usize;
        fixture.config[field] = rows.into();
        let tensors = fixture.tensors.iter_mut().filter(|(name, _)| !name.contains("position"));
        for dim in tensors.flat_map(|(_, shape)| shape).filter(|dim| **dim == old) {
            *dim = rows;
        }
    }
    fixture.write(&home.path().join("checkpoint"), Layout::default());
    for weights in ["f32", "int8"] {
        let within = |arguments: &[&str]| {
            let mut export = command("edge-export", home.path());
            export.current_dir(home.path()).args(arguments);
            assert_succeeded(&in_shell(&export, LIMIT).output().unwrap());
        };
        within(&["checkpoint", "--weights", weights, "--panels", "beside", "-o", weights]);
        within(&["verify", weights]);
        assert!(Bundle::open(&home.path().join(weights)).unwrap().manifest().files["weights.bin"].bytes > 15_000_000);
    }
}

#[cfg(unix)]
#[test]
fn what_a_killed_export_left_is_taken_away_by_the_next() {
    let home = TempDir::new().unwrap();
    Fixture::named("bert").write(&home.path().join("checkpoint"), Layout::default());
    // Its name and files are those of a run that was killed; nobody holds it.
    let left = home.path().join(".bundle.tmp-1-0");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("weights.bin"), "half").unwrap();
    let held = home.path().join(".bundle.tmp-1-1");
    fs::create_dir(&held).unwrap();
    let lock = fs::File::open(&held).unwrap();
    lock.try_lock().unwrap();
    let export = || {
        let mut export = command("edge-export", home.path());
        assert_succeeded(&export.current_dir(home.path()).args(["checkpoint", "-o", "out"]).output().unwrap());
    };
    export();
    assert!(!left.exists() && held.exists());
    drop(lock);
    export();
    assert!(!held.exists());
}

#[test]
fn the_command_exports_to_a_directory_and_to_the_store() {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    Fixture::named("bert").write(&checkpoint, Layout::default());
    let export_with = |arguments: &[&str]| {
        assert_succeeded(&command("edge-export", home.path()).arg(&checkpoint).args(arguments).output().unwrap())
    };
    let said = export_with(&[]);
    assert!(said.contains("bundle"), "{said}");
    let out = home.path().join("out");
    let export_out = || command("edge-export", home.path()).arg(&checkpoint).arg("-o").arg(&out).output().unwrap();
    assert_succeeded(&export_out());
    // Again over a bundle is fine; over anything that is not part of one it is not.
    let again = export_out();
    assert_succeeded(&again);
    assert_eq!(String::from_utf8_lossy(&again.stderr), "");
    // That another encoder was there is said.
    let encoder = || Bundle::open(&out).unwrap().manifest().encoder.short();
    let others = |weights: &str| {
        let before = encoder();
        let export =
            command("edge-export", home.path()).arg(&checkpoint).args(["-w", weights, "-o"]).arg(&out).output();
        let export = export.unwrap();
        assert_succeeded(&export);
        let said = format!("had another encoder, {before} (checkpoint)");
        assert!(String::from_utf8_lossy(&export.stderr).contains(&said), "{said} in {export:?}");
    };
    others("int8");
    others("f32");
    fs::write(out.join("notes.txt"), "mine").unwrap();
    assert_refused(&export_out(), &["notes.txt", "not part of a bundle"]);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    fs::remove_file(out.join("notes.txt")).unwrap();
    assert_succeeded(&command("edge-export", home.path()).arg("verify").arg(&out).output().unwrap());
    // Names that a bundle has do not make a bundle.
    fs::remove_file(out.join(MANIFEST)).unwrap();
    assert_refused(&export_out(), &["not part of a bundle"]);
    assert!(out.join("encoder.onnx").exists());
    // Exporting again repairs a damaged bundle in the store.
    let stored = fs::read_dir(home.path().join("data/edge-run/bundles")).unwrap().next().unwrap().unwrap().path();
    flip(&stored.join("encoder.onnx"), 100);
    export_with(&[]);
    verify(&stored, &mut |_| ()).unwrap();
    // It also completes a bundle that lacks files which are now asked for.
    let has = |name: &str| stored.join(name).exists();
    export_with(&["--panels", "beside"]);
    assert!(has("weights.bin") && has("panels-f32x16.bin"));
    export_with(&["--panels", "only"]);
    assert!(!has("weights.bin") && has("panels-f32x16.bin"));
    export_with(&[]);
    assert!(has("weights.bin"));
    assert_eq!(command("edge-export", home.path()).output().unwrap().status.code(), Some(2));
}

/// A graph as earlier versions wrote it: an input of token numbers has a default.
fn with_default(graph: &[u8], input: &str, value: i64) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    // TensorProto: dims 1 and 1, data_type INT64, name, raw_data.
    let name = field(0x42, input.as_bytes());
    let tensor = [&[0x08, 1, 0x08, 1, 0x10, 7], &name[..], &field(0x4a, &value.to_le_bytes())].concat();
    // A message that comes twice, as ModelProto's graph here, is merged: it has one more initializer.
    [graph, &field(0x3a, &field(0x2a, &tensor))].concat()
}

#[test]
fn bundles_of_earlier_versions_are_read_as_before() {
    let (home, bundle) = small_bundle("bert");
    let hidden = |engine| {
        let options = EngineOptions { engine, ..EngineOptions::default() };
        let encoder = Encoder::load(Bundle::open(bundle.dir()).unwrap(), options).unwrap();
        encoder.hidden(&Text::pair("the film was good", "unhappy, very bad!")).unwrap().0
    };
    let engines = [EngineKind::Lowered, EngineKind::Tract];
    let before = engines.map(hidden);
    let (graph, training) = (bundle.dir().join("encoder.onnx"), bundle.dir().join("train.onnx"));
    let now = fs::read(&graph).unwrap();
    let then = with_default(&with_default(&now, "attention_mask", 1), "token_type_ids", 0);
    fs::write(&graph, then).unwrap();
    fs::write(&training, "a training graph").unwrap();
    let mut manifest = bundle.manifest().clone();
    manifest.files.insert("encoder.onnx".to_owned(), FileEntry::of(&graph).unwrap());
    manifest.files.insert("train.onnx".to_owned(), FileEntry::of(&training).unwrap());
    fs::write(bundle.dir().join(MANIFEST), serde_json::to_string(&manifest).unwrap()).unwrap();
    verify(bundle.dir(), &mut |_| ()).unwrap();
    assert_eq!(engines.map(hidden), before);
    // An export over it leaves nothing of before.
    let again = Fixture::named("bert").export(home.path(), Options::default());
    assert_eq!((again.manifest(), training.exists()), (bundle.manifest(), false));
    assert_eq!(fs::read(&graph).unwrap(), now);
}

#[test]
fn the_flag_of_training_graphs_is_answered() {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    Fixture::named("distilbert").write(&checkpoint, Layout::default());
    let export = |flag: &str| command("edge-export", home.path()).arg(&checkpoint).arg(flag).output().unwrap();
    let without = export("--training=none");
    assert_succeeded(&without);
    assert!(String::from_utf8_lossy(&without.stderr).contains("--training has no effect any more"));
    for wanted in ["--training", "--training=all", "--training=bq,bm2"] {
        let refused = export(wanted);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("train with edge-patch train"), "{said}");
    }
}

#[test]
fn exports_at_once_end_with_one_good_bundle() {
    let home = TempDir::new().unwrap();
    let checkpoint = home.path().join("checkpoint");
    Fixture::named("bert").write(&checkpoint, Layout::default());
    let children: Vec<_> = (0..6)
        .map(|_| command("edge-export", home.path()).arg(&checkpoint).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let store = home.path().join("data/edge-run/bundles");
    let left: Vec<_> = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    verify(&left[0], &mut |_| ()).unwrap();
}
