//! Linear layers, LayerNorms and activations that the engine does not have.

use super::*;

#[test]
fn other_layers_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("a norm over two axes", |g| set_int(g, "embeddings.LayerNorm", "axis", 1)),
            &["node embeddings.LayerNorm: expected axis -1, found 1"],
            Unasked,
        ),
        (
            ("statistics in f16", |g| set_int(g, "embeddings.LayerNorm", "stash_type", 10)),
            &["node embeddings.LayerNorm: expected stash_type 1, found 10"],
            Unasked,
        ),
        (
            ("an unknown attribute", |g| set_int(g, "embeddings.LayerNorm", "momentum", 1)),
            &["node embeddings.LayerNorm: expected a LayerNormalization with known attributes, found momentum"],
            Unasked,
        ),
        (
            ("a mean", |g| {
                node(g, NORM).output.push("mean".to_owned());
                read(g, "layer.1.attention_residual", 1, "mean");
            }),
            &["node encoder.layer.0.output.LayerNorm: expected its first output to be read, found mean"],
            Unasked,
        ),
        (
            ("a norm's bias that is no slot", |g| read(g, "embeddings.LayerNorm", 2, &format!("{NORM}.weight"))),
            &["node embeddings.LayerNorm: expected a bias that is a slot of the manifest", "found encoder.layer.0.out"],
            Runs,
        ),
        (
            ("a bias that is no slot", |g| read(g, "encoder.layer.0.output.dense", 1, &format!("{NORM}.weight"))),
            &["node encoder.layer.0.output.dense: expected a bias that is a slot of the manifest"],
            Runs,
        ),
        (
            ("a bias of another width", |g| {
                read(g, "encoder.layer.0.attention.output.dense", 1, "encoder.layer.0.intermediate.dense.bias");
            }),
            &[
                "the operators: expected parts that fit",
                "encoder.layer.0.attention.output.LayerNorm: expected a bias of 32, found 48",
            ],
            Unasked,
        ),
        (
            ("a bias of a layer with other inputs", |g| {
                read(g, "encoder.layer.0.output.dense", 1, "encoder.layer.0.intermediate.dense.bias");
            }),
            &["node encoder.layer.0.output.dense.product: expected a linear layer of 32 inputs, found 48 of bm2"],
            Unasked,
        ),
        (
            ("a product the other way round", |g| swap(g, "encoder.layer.0.intermediate.dense.product")),
            &["encoder.layer.0.attention.output.LayerNorm: expected a constant, found another value"],
            Unasked,
        ),
        (
            ("a residual on the other side", |g| swap(g, "layer.0.mlp_residual")),
            &["node encoder.layer.0.attention.output.LayerNorm: expected a pattern that edge-export writes"],
            Runs,
        ),
        (
            ("a residual of the first token", |g| {
                let axis = vec![Attribute::int("axis", 1)];
                insert(g, "layer.1.attention_residual", "Gather", "first", &[NORM, "pooler.first_token"], axis);
                read(g, "layer.1.attention_residual", 1, "first");
            }),
            &[
                "encoder.layer.1.attention.output.LayerNorm: expected a number of inputs with a row for each token of 2, found 1",
            ],
            Runs,
        ),
        (
            ("attention to first tokens", |g| {
                let axis = vec![Attribute::int("axis", 1)];
                insert(
                    g,
                    "encoder.layer.0.attention.self.query.product",
                    "Gather",
                    "first",
                    &["embeddings.LayerNorm", "pooler.first_token"],
                    axis,
                );
                for part in ["query", "key", "value"] {
                    read(g, &format!("encoder.layer.0.attention.self.{part}.product"), 0, "first");
                }
            }),
            &["layer.0.context: expected a number of inputs with a row for each token of 1, found 0"],
            Unasked,
        ),
        (
            ("another approximation", |g| set(g, "layer.0.activation", Attribute::text("approximate", "sigmoid"))),
            &["node layer.0.activation: expected an approximation of none or tanh, found Gelu by sigmoid"],
            Unasked,
        ),
        (
            ("another activation", erf),
            &["node layer.0.activation: expected a pattern that edge-export writes, found Erf of 1"],
            Runs,
        ),
        (
            ("an operator of others", |g| node(g, "layer.0.activation").domain = Some("com.example".to_owned())),
            &["node layer.0.activation: expected an operator of ONNX, found Gelu of com.example"],
            Unasked,
        ),
        (
            ("many layers", |g| {
                let names: Vec<String> = (0..600).map(|at| format!("deep.{at}")).collect();
                let mut x = "pooler.first";
                for name in &names {
                    insert(g, "pooler.dense.product", "MatMul", name, &[x, "pooler.dense.weight"], vec![]);
                    x = name;
                }
                read(g, "pooler.dense.product", 0, x);
            }),
            &["expected at most 512 operators below each other, found more"],
            Unasked,
        ),
    ];
    assert_uncovered("bert", Options::default(), cases);
}

#[test]
fn what_is_not_silu_is_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("the sigmoid of another value", |g| {
                read(g, "layer.0.activation.sigmoid", 0, "encoder.layers.0.mlp.fc12.product");
            }),
            &["node layer.0.gated: expected a pattern that edge-export writes, found Mul of 2"],
            Runs,
        ),
        (
            ("a sigmoid alone", |g| read(g, "layer.0.gated", 0, "layer.0.activation.sigmoid")),
            &["node layer.0.gated: expected a pattern that edge-export writes, found Mul of 2"],
            Runs,
        ),
    ];
    assert_uncovered("nomic", Options::default(), cases);
}
