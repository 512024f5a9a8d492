//! Frozen tensors that are not those of the manifest.

use super::*;

#[test]
fn other_frozen_tensors_are_refused() {
    let exact: &[(Change, &[&str], Tract)] = &[
        (
            ("queries by the keys' matrix", |g| {
                constant(g, &format!("{QUERY}.weight")).external_data =
                    constant(g, &format!("{KEY}.weight")).external_data.clone();
            }),
            &["query.weight: expected weights.bin, offset ", ", as the manifest says, found weights.bin, offset "],
            Runs,
        ),
        (
            ("a place twice", |g| {
                let offset = constant(g, &format!("{KEY}.weight")).external_data[1].clone();
                constant(g, &format!("{QUERY}.weight")).external_data.push(offset);
            }),
            &["query.weight: expected each part of its place once, found one twice"],
            Unasked,
        ),
        (
            ("a matrix in the graph", |g| {
                let matrix = constant(g, &format!("{QUERY}.weight"));
                *matrix = edge_bundle::onnx::Tensor {
                    name: matrix.name.clone(),
                    data_type: matrix.data_type,
                    dims: matrix.dims.clone(),
                    raw_data: Some(vec![0; 4 * 32 * 32]),
                    ..Default::default()
                };
            }),
            &["query.weight: expected weights.bin, offset ", "found values in the graph"],
            Runs,
        ),
        (
            ("a matrix of another shape", |g| constant(g, &format!("{QUERY}.weight")).dims = vec![16, 64]),
            &["query.product: expected encoder.layer.0.attention.self.query.weight of shape [32, 32], found [16, 64]"],
            Unasked,
        ),
        (
            ("a table as a matrix", |g| {
                read(g, "encoder.layer.0.output.dense.product", 1, "embeddings.position_embeddings.weight");
            }),
            &["position_embeddings.weight: expected a matrix in panels, or a table row by row, found the other"],
            Runs,
        ),
    ];
    assert_uncovered("bert", Options::default(), exact);
    let quantized: &[(Change, &[&str], Tract)] = &[
        (
            ("bytes above 0", |g| constant(g, &format!("{QUERY}.weight")).data_type = Some(2)),
            &["query.weight: expected values of type 3, found 2"],
            Runs,
        ),
        (
            ("a gain in int8", |g| {
                read(g, "embeddings.LayerNorm", 1, "embeddings.token_type_embeddings.weight.values");
            }),
            &["node embeddings.LayerNorm: expected ", "of shape [32], found [2, 32]"],
            Unasked,
        ),
        (
            ("quantized values without scales", |g| {
                read(g, &format!("{QUERY}.product"), 1, &format!("{QUERY}.weight"))
            }),
            &[
                "query.weight: expected an int8 tensor, cast and with its scales, one of f16, cast, or one of f32,",
                "another",
            ],
            Unasked,
        ),
        (
            ("quantized values in f16", |g| set_int(g, &format!("{QUERY}.weight.codes"), "to", 10)),
            &["query.weight.codes: expected to 1, found 10"],
            Unasked,
        ),
        (
            ("other groups", |g| integers(g, &format!("{QUERY}.weight.groups"), &[32], &[1; 32])),
            &["query.weight.scales: expected a scale for every 256 rows, found others"],
            Unasked,
        ),
        (
            ("groups in a column", |g| integers(g, &format!("{QUERY}.weight.groups"), &[32, 1], &[0; 32])),
            &["query.weight.scales: expected groups of shape [32], found [32, 1]"],
            Unasked,
        ),
        (
            ("scales by column", |g| set_int(g, &format!("{QUERY}.weight.scales"), "axis", 1)),
            &["query.weight.scales: expected axis 0, found 1"],
            Unasked,
        ),
        (
            ("the keys' scales", |g| read(g, &format!("{QUERY}.weight.scales"), 0, &format!("{KEY}.weight.scale"))),
            &["query.weight.values: expected the scales ", "query.weight.scale, found", "key.weight.scale"],
            Runs,
        ),
        (
            ("scales from another place", |g| {
                constant(g, &format!("{QUERY}.weight.scale")).external_data =
                    constant(g, &format!("{KEY}.weight.scale")).external_data.clone();
            }),
            &["query.weight.scale: expected weights.bin, offset ", "found weights.bin, offset "],
            Runs,
        ),
        (
            ("a table's scales by group", |g| {
                let (table, scales) = ("embeddings.token_type_embeddings.weight", "grouped");
                integers(g, "groups", &[2], &[0, 0]);
                insert(g, &format!("{table}.values"), "Gather", scales, &[&format!("{table}.scale"), "groups"], vec![]);
                read(g, &format!("{table}.values"), 1, scales);
            }),
            &["token_type_embeddings.weight.values: expected the scales ", "found grouped"],
            Runs,
        ),
    ];
    assert_uncovered("bert", int8(), quantized);
    let due = "query.weight: expected an int8 tensor, cast and with its scales, one of f16, cast, or one of f32, found another";
    let halves: &[(Change, &[&str], Tract)] = &[
        (
            ("halves that are not cast", |g| read(g, &format!("{QUERY}.product"), 1, &format!("{QUERY}.weight"))),
            &[due],
            Unasked,
        ),
        (
            ("halves as floats", |g| constant(g, &format!("{QUERY}.weight")).data_type = Some(1)),
            &["query.weight: expected values of type 10, found 1"],
            Unasked,
        ),
    ];
    assert_uncovered("bert", f16(), halves);
    let cast: &[(Change, &[&str], Tract)] = &[(
        ("floats that are cast", |g| {
            let to = vec![edge_bundle::onnx::Attribute::int("to", 1)];
            insert(g, &format!("{QUERY}.product"), "Cast", "cast", &[&format!("{QUERY}.weight")], to);
            read(g, &format!("{QUERY}.product"), 1, "cast");
        }),
        &[due],
        Runs,
    )];
    assert_uncovered("bert", Options::default(), cast);
}
