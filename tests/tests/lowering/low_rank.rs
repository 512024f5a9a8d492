//! Low-rank terms as inputs of the graph: those that are not the module's own, and graphs without them.

use super::*;

#[test]
fn other_low_rank_terms_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("keys by the queries' A", |g| {
                read(g, &format!("{KEY}.lora_A.transposed"), 0, &format!("{QUERY}.lora_A.weight"));
            }),
            &["key.lora_A: expected the transpose of ", "key.lora_A.weight, found ", "query.lora_A.weight"],
            Unasked,
        ),
        (
            ("keys by the queries' B", |g| {
                read(g, &format!("{KEY}.lora_B.transposed"), 0, &format!("{QUERY}.lora_B.weight"));
            }),
            &["key.lora_B: expected the transpose of ", "key.lora_B.weight, found ", "query.lora_B.weight"],
            Unasked,
        ),
        (
            ("the queries' term of keys", |g| read(g, &format!("{KEY}.sum"), 1, &format!("{QUERY}.lora_B"))),
            &["query.lora_A: expected the transpose of ", "key.lora_A.weight, found ", "query.lora_A.weight"],
            Runs,
        ),
        (
            ("the term of another input", |g| {
                read(g, "encoder.layer.1.attention.self.query.lora_A", 0, "embeddings.LayerNorm");
            }),
            &[
                "layer.1.attention.self.query.lora_A: expected encoder.layer.0.output.LayerNorm, as ",
                "query.product reads, found embeddings.LayerNorm",
            ],
            Runs,
        ),
        (
            ("A as it is", |g| {
                set(g, &format!("{QUERY}.lora_A.transposed"), Attribute::integers("perm", &[0, 1]));
            }),
            &["query.lora_A.transposed: expected perm [1, 0], found [0, 1]"],
            Unasked,
        ),
        (
            ("B as it is", |g| read(g, &format!("{QUERY}.lora_B"), 1, &format!("{QUERY}.lora_B.weight"))),
            &["query.lora_B.weight: expected a node that computes it, found none"],
            Unasked,
        ),
        (
            ("the inner product the other way round", |g| swap(g, &format!("{QUERY}.lora_A"))),
            &["query.lora_A: expected embeddings.LayerNorm, as ", "found ", "query.lora_A.transposed"],
            Unasked,
        ),
        (
            ("the outer product the other way round", |g| swap(g, &format!("{QUERY}.lora_B"))),
            &["query.lora_B.transposed: expected MatMul of 2 inputs, found Transpose of 1"],
            Unasked,
        ),
        (
            ("half a term", |g| read(g, &format!("{QUERY}.sum"), 1, &format!("{QUERY}.lora_A"))),
            &["embeddings.LayerNorm: expected MatMul of 2 inputs, found LayerNormalization of 3"],
            Unasked,
        ),
        (
            ("the term before the product", |g| swap(g, &format!("{QUERY}.sum"))),
            &["query.lora_B.transposed: expected a constant, found another value"],
            Runs,
        ),
        (
            ("the term after the bias", |g| {
                read(g, &format!("{QUERY}.sum"), 1, &format!("{QUERY}.bias"));
                read(g, QUERY, 1, &format!("{QUERY}.lora_B"));
            }),
            &["self.query: expected a bias that is a slot of the manifest, found ", "query.lora_B"],
            Runs,
        ),
        (
            ("a term without a bias", |g| read(g, "layer.0.q.split", 0, &format!("{QUERY}.sum"))),
            &["query.sum: expected a bias that is a slot of the manifest, found ", "query.lora_B"],
            Runs,
        ),
        (
            ("another sum", |g| node(g, &format!("{QUERY}.sum")).input.truncate(1)),
            &["query.sum: expected a pattern that edge-export writes, found Add of 1"],
            Unasked,
        ),
        (
            ("inputs that nobody reads", |g| read(g, QUERY, 0, &format!("{QUERY}.product"))),
            &["self.query: expected the low-rank term of the input ", "query.lora_A.weight, found none"],
            Runs,
        ),
        (
            ("a term that is no input", |g| {
                let name = format!("{QUERY}.lora_A.weight");
                g.input.retain(|input| input.name() != name);
            }),
            &["query.lora_A.weight: expected an input of the graph, found another value"],
            Unasked,
        ),
        (
            ("a term that has to be given", |g| {
                let name = format!("{QUERY}.lora_B.weight");
                g.initializer.retain(|tensor| tensor.name() != name);
            }),
            &["query.lora_B.weight: expected a default of type 1 and dimensions [32, 0], found none"],
            Runs,
        ),
        (
            ("a default of integers", |g| {
                constant(g, &format!("{QUERY}.lora_A.weight")).data_type = Some(7);
            }),
            &["query.lora_A.weight: expected a default of type 1 and dimensions [0, 32], found one of type 7"],
            Unasked,
        ),
        (
            ("a default that is a term", |g| {
                let default = constant(g, &format!("{QUERY}.lora_A.weight"));
                (default.dims, default.raw_data) = (vec![1, 32], Some(vec![0; 4 * 32]));
            }),
            &[
                "query.lora_A.weight: expected a default of type 1 and dimensions [0, 32], found one of type 1 and [1, 32]",
            ],
            Unasked,
        ),
    ];
    assert_uncovered("bert", low_rank_inputs(), cases);
}

#[test]
fn a_default_that_is_a_term_is_refused_by_both_engines() {
    let graphs = Graphs::of("bert", low_rank_inputs());
    let bundle = graphs.changed(|g| {
        let default = constant(g, &format!("{QUERY}.lora_A.weight"));
        (default.dims, default.raw_data) = (vec![1, 32], Some(vec![0; 4 * 32]));
    });
    let said = load(&bundle, EngineKind::Auto).err().unwrap().to_string();
    assert!(said.contains("query.lora_A.weight: expected a default of rank 0, found [1, 32]"), "{said}");
    assert!(said.contains("do not cover"), "{said}");
}

#[test]
fn inputs_for_terms_change_no_bit() {
    for options in [Options::default(), int8()] {
        for name in ["bert", "electra"] {
            let fixture = Fixture::named(name);
            let states = [false, true].map(|low_rank_inputs| {
                let graphs = Graphs::of(name, Options { low_rank_inputs, ..options.clone() });
                let encoder = load(&graphs.changed(|_| ()), EngineKind::Auto).unwrap();
                assert_eq!(encoder.uncovered(), None);
                hidden(&encoder, &fixture)
            });
            assert_eq!(states[0], states[1], "{name}");
        }
    }
}
