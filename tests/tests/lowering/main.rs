//! Which graphs the engine's operators cover: what the pattern search refuses, word by word, and that tract then runs
//! it.

mod attention;
mod embeddings;
mod frozen;
mod layers;
mod low_rank;
mod positions;

use edge_bundle::{
    Bundle,
    onnx::{Attribute, Graph},
};
use edge_export::{Options, Panels};
use edge_run::{Activations, Encoder, EngineKind, EngineOptions};
use system_tests::{
    Fixture, command, f16,
    graph::{Graphs, constant, insert, integers, node, number, read, set, set_int, swap},
    int8, low_rank_inputs, patch, task, with_input,
};

/// The engines compute in f32 and sum in different orders; hidden values are around 1.
const HIDDEN_BOUND: f32 = 1e-5;

/// A change of a graph, by what it does.
type Change = (&'static str, fn(&mut Graph));

/// Whether tract runs the changed graph.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tract {
    /// It does: the graph is ONNX, only other than our operators.
    Runs,
    /// Nobody asks: shapes or types do not fit each other any more.
    Unasked,
}
use Tract::{Runs, Unasked};

const QUERY: &str = "encoder.layer.0.attention.self.query";
const KEY: &str = "encoder.layer.0.attention.self.key";
const NORM: &str = "encoder.layer.0.output.LayerNorm";

fn load(bundle: &Bundle, engine: EngineKind) -> Result<Encoder, edge_run::Error> {
    let options = EngineOptions { engine, activations: Activations::F32, ..EngineOptions::default() };
    Encoder::load(bundle.clone(), options)
}

/// Hidden states and pooler's outputs of a fixture's texts.
fn hidden(encoder: &Encoder, fixture: &Fixture) -> Vec<f32> {
    let states = fixture.cases.iter().flat_map(|case| {
        let (tokens, pooled) = encoder.hidden(&case.read()).unwrap();
        tokens.into_iter().chain(pooled.into_iter().flatten())
    });
    states.collect()
}

/// Asserts that our operators refuse each changed graph in these words, and that `auto` leaves it to tract where that
/// runs it.
fn assert_uncovered(name: &str, options: Options, cases: &[(Change, &[&str], Tract)]) {
    let (graphs, fixture) = (Graphs::of(name, options), Fixture::named(name));
    for ((what, change), words, tract) in cases {
        let bundle = graphs.changed(change);
        let refused = load(&bundle, EngineKind::Lowered).err().unwrap_or_else(|| panic!("{what}: lowered")).to_string();
        for word in words.iter().chain(&["encoder.onnx", "--engine tract"]) {
            assert!(refused.contains(word), "{what}: {word:?} is not in: {refused}");
        }
        if *tract == Runs {
            let auto = load(&bundle, EngineKind::Auto).unwrap_or_else(|error| panic!("{what}: {error}"));
            let reason = auto.uncovered().unwrap_or_else(|| panic!("{what}: lowered by auto"));
            assert!(refused.contains(reason), "{what}: {reason}, not {refused}");
            let found = hidden(&auto, &fixture);
            assert!(found.iter().all(|value| value.is_finite()), "{what}");
            assert_eq!(found, hidden(&load(&bundle, EngineKind::Tract).unwrap(), &fixture), "{what}");
        }
    }
}

fn erf(graph: &mut Graph) {
    let node = node(graph, "layer.0.activation");
    node.op_type = Some("Erf".to_owned());
    node.attribute.clear();
}

#[test]
fn other_outputs_and_orders_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("first features", |g| set_int(g, "pooler.first", "axis", 2)),
            &["node pooler.first: expected axis 1, found 2"],
            Unasked,
        ),
        (
            ("the second token", |g| integers(g, "pooler.first_token", &[], &[1])),
            &["node pooler.first: expected the token [0], found [1]"],
            Runs,
        ),
        (
            ("a list of one token", |g| integers(g, "pooler.first_token", &[1], &[0])),
            &["node pooler.first: expected an index of shape [], found [1]"],
            Unasked,
        ),
        (
            ("an output more", |g| {
                let mut more = g.output[0].clone();
                more.name = Some("layer.0.mlp_residual".to_owned());
                g.output.push(more);
            }),
            &["outputs: expected 2, found 3"],
            Runs,
        ),
        (
            ("a wider pooler", |g| {
                read(g, "pooler.dense.product", 1, "encoder.layer.0.intermediate.dense.weight");
                read(g, "pooler_output", 0, "pooler.dense.product");
            }),
            &["pooler_output: expected a width of 32, found 48"],
            Unasked,
        ),
        (
            ("the last node first", |g| g.node.rotate_right(1)),
            &["node pooler_output: expected inputs that are computed before it, found pooler.dense"],
            Unasked,
        ),
        (
            ("a node twice", |g| g.node.push(g.node[0].clone())),
            &["node mask.float: expected each value computed once, found mask.float"],
            Unasked,
        ),
        (
            ("half a number", |g| constant(g, "embeddings.first_position").raw_data.as_mut().unwrap().truncate(4)),
            &["embeddings.first_position: expected values of 8 bytes for the dimensions [1], found 4 bytes"],
            Unasked,
        ),
        (
            ("fewer numbers than dimensions", |g| constant(g, "layer.0.split_heads").dims = vec![5]),
            &["layer.0.split_heads: expected values of 8 bytes for the dimensions [5], found 32 bytes"],
            Unasked,
        ),
        (
            ("a constant twice", |g| g.initializer.push(g.initializer[0].clone())),
            &["constants: expected each named once, found"],
            Unasked,
        ),
    ];
    assert_uncovered("bert", Options::default(), cases);

    let graphs = Graphs::of("bert", Options::default());
    let refused = |bundle: &Bundle, engine| load(bundle, engine).err().unwrap().to_string();
    let other = graphs.changed_model(|model| model.opset_import[0].version = Some(19));
    let said = refused(&other, EngineKind::Lowered);
    assert!(said.contains("operator set: expected version 20 of ONNX's, found 19"), "{said}");
    // tract has no output to give where a pooler's is due, and says so when it runs.
    let alone = graphs.changed(|g| g.output.truncate(1));
    let said = refused(&alone, EngineKind::Lowered);
    assert!(said.contains("outputs: expected 2, found 1"), "{said}");
    let text = Fixture::named("bert").cases[0].read();
    let said = load(&alone, EngineKind::Tract).unwrap().hidden(&text).unwrap_err().to_string();
    assert!(said.contains("pooler"), "{said}");
}

#[test]
fn graphs_that_operators_cover_are_run_as_they_are_written() {
    let cases: &[Change] = &[
        ("another epsilon", |g| set(g, "embeddings.LayerNorm", Attribute::float("epsilon", 0.5))),
        ("the default epsilon", |g| node(g, "embeddings.LayerNorm").attribute.retain(|a| a.name() != "epsilon")),
        ("no bias of a norm", |g| node(g, NORM).input.truncate(2)),
        ("another gain", |g| read(g, "embeddings.LayerNorm", 1, &format!("{NORM}.weight"))),
        ("no bias of values", |g| {
            read(g, "layer.0.v.split", 0, "encoder.layer.0.attention.self.value.product");
        }),
        ("no bias in the middle", |g| read(g, "layer.0.activation", 0, "encoder.layer.0.intermediate.dense.product")),
        ("no bias of a block", |g| read(g, "layer.0.mlp_residual", 0, "encoder.layer.0.output.dense.product")),
        ("no bias of the pooler", |g| read(g, "pooler_output", 0, "pooler.dense.product")),
        ("another residual", |g| read(g, "layer.1.attention_residual", 1, "embeddings.LayerNorm")),
        ("another first position", |g| integers(g, "embeddings.first_position", &[1], &[2])),
        ("GELU by tanh", |g| set(g, "layer.0.activation", Attribute::text("approximate", "tanh"))),
        ("tanh in the middle", |g| {
            node(g, "layer.0.activation").op_type = Some("Tanh".to_owned());
            node(g, "layer.0.activation").attribute.clear();
        }),
    ];
    // The same graphs in other words; and a bias of keys adds the same to all scores of a query.
    let same: &[Change] = &[
        ("steps of 1", |g| {
            integers(g, "steps", &[1], &[1]);
            node(g, "embeddings.positions").input.push("steps".to_owned());
        }),
        ("the last dimension", |g| set_int(g, "embeddings.length", "start", -1)),
        ("the last axis by number", |g| set_int(g, "layer.0.shares", "axis", 3)),
        ("the usual axis of a norm", |g| node(g, NORM).attribute.retain(|a| a.name() != "axis")),
        ("the usual GELU", |g| node(g, "layer.0.activation").attribute.clear()),
        ("no bias of keys", |g| read(g, "layer.0.k.split", 0, &format!("{KEY}.product"))),
        ("a smaller penalty", |g| number(g, "mask.lowest", &[], -1.0)),
        ("defaults of mask and types, as version 0.1.0 exported them", |g| {
            integers(g, "attention_mask", &[1, 1], &[1]);
            integers(g, "token_type_ids", &[1, 1], &[0]);
        }),
    ];
    let (graphs, fixture) = (Graphs::of("bert", Options::default()), Fixture::named("bert"));
    let worst = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let plain = hidden(&load(&graphs.changed(|_| ()), EngineKind::Lowered).unwrap(), &fixture);
    for ((what, change), changes) in cases.iter().map(|case| (case, true)).chain(same.iter().map(|case| (case, false)))
    {
        let bundle = graphs.changed(change);
        let auto = load(&bundle, EngineKind::Auto).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(auto.uncovered(), None, "{what}");
        let found = hidden(&auto, &fixture);
        let apart = worst(&found, &hidden(&load(&bundle, EngineKind::Tract).unwrap(), &fixture));
        println!("{what}: largest difference {apart:e}");
        assert!(apart < HIDDEN_BOUND, "{what}: {apart:e}");
        // What is changed by more than roundings would not be noticed in the comparison if nobody read it.
        assert_eq!(worst(&found, &plain) > HIDDEN_BOUND, changes, "{what}: {:e}", worst(&found, &plain));
    }
}

#[test]
fn a_graph_that_no_engine_runs_is_refused_with_both_reasons() {
    let graphs = Graphs::of("bert", Options { panels: Panels::Only, ..Options::default() });
    let said = load(&graphs.changed(erf), EngineKind::Auto).err().unwrap().to_string();
    assert!(["do not cover", "layer.0.activation", "weights.bin"].iter().all(|word| said.contains(word)), "{said}");
}

#[test]
fn the_command_leaves_an_uncovered_graph_to_tract_and_says_so_once() {
    let graphs = Graphs::of("bert", Options::default());
    let bundle = graphs.changed(erf);
    patch(&bundle, task("label", "classification", 1), "x").save(&graphs.home.path().join("label.bias")).unwrap();
    let mut run = command("edge-run", graphs.home.path());
    run.current_dir(graphs.home.path()).args(["--bundle", "bundle", "-p", "label.bias", "--batch", "1"]);
    let output = with_input(&mut run, b"good\nbad\nvery good\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).lines().count() >= 3);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("tract")).collect();
    assert!(matches!(lines[..], [line] if line.contains("layer.0.activation")), "{said}");
}
