//! Attention that the engine does not have: other heads, scales and masks.

use super::*;

#[test]
fn other_attention_is_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("probabilities over queries", |g| set_int(g, "layer.0.shares", "axis", 2)),
            &["node layer.0.shares: expected axis -1, found 2"],
            Runs,
        ),
        (
            ("queries in another order", |g| set(g, "layer.0.q", Attribute::integers("perm", &[0, 1, 2, 3]))),
            &["node layer.0.q: expected perm [0, 2, 1, 3], found [0, 1, 2, 3]"],
            Unasked,
        ),
        (
            ("keys in another order", |g| set(g, "layer.0.k", Attribute::integers("perm", &[0, 2, 1, 3]))),
            &["node layer.0.k: expected perm [0, 2, 3, 1], found [0, 2, 1, 3]"],
            Unasked,
        ),
        (
            ("values in another order", |g| set(g, "layer.0.v", Attribute::integers("perm", &[0, 2, 3, 1]))),
            &["node layer.0.v: expected perm [0, 2, 1, 3], found [0, 2, 3, 1]"],
            Unasked,
        ),
        (
            ("heads in another order", |g| node(g, "layer.0.context.transposed").attribute.clear()),
            &["node layer.0.context.transposed: expected perm [0, 2, 1, 3], found []"],
            Unasked,
        ),
        (
            ("heads of half the width", |g| integers(g, "layer.0.split_heads", &[4], &[0, 0, 8, 4])),
            &["node layer.0.scores.scaled: expected a scale of 0.5, found 0.35355"],
            Runs,
        ),
        (
            ("a split by another rule", |g| integers(g, "layer.0.split_heads", &[4], &[0, -1, 4, 8])),
            &["node layer.0.q.split: expected a shape of heads, [0, 0, n, D], found [0, -1, 4, 8]"],
            Unasked,
        ),
        (
            ("keys of other heads", |g| {
                integers(g, "other", &[4], &[0, 0, 8, 4]);
                read(g, "layer.0.k.split", 1, "other");
            }),
            &["node layer.0.context: expected queries, keys and values of one input, found several"],
            Unasked,
        ),
        (
            ("queries of another input", |g| {
                read(g, "encoder.layer.1.attention.self.query.product", 0, "embeddings.LayerNorm");
            }),
            &["node layer.1.context: expected queries, keys and values of one input, found several"],
            Runs,
        ),
        (
            ("heads joined by another rule", |g| integers(g, "layer.0.join_heads", &[3], &[0, -1, 32])),
            &["node layer.0.context: expected a shape [0, 0, 32], found [0, -1, 32]"],
            Unasked,
        ),
        (
            ("a split into nothing", |g| set_int(g, "layer.0.q.split", "allowzero", 1)),
            &["node layer.0.q.split: expected allowzero 0, found 1"],
            Unasked,
        ),
        (
            ("a join of nothing", |g| set_int(g, "layer.0.context", "allowzero", 1)),
            &["node layer.0.context: expected allowzero 0, found 1"],
            Unasked,
        ),
        (
            ("another scale", |g| number(g, "layer.0.scale", &[], 0.5)),
            &["node layer.0.scores.scaled: expected a scale of 0.35355", "found 0.5"],
            Runs,
        ),
        (
            ("a scale that is no number", |g| number(g, "layer.0.scale", &[], f32::NAN)),
            &["node layer.0.scores.scaled: expected a scale of 0.35355", "found NaN"],
            Unasked,
        ),
        (
            ("a scale in a cube", |g| number(g, "layer.0.scale", &[1, 1, 1], 0.353_553_4)),
            &["layer.0.scale: expected at most one dimension, found 3"],
            Runs,
        ),
        (
            ("scores the other way round", |g| swap(g, "layer.0.scores")),
            &["node layer.0.k: expected perm [0, 2, 1, 3], found [0, 2, 3, 1]"],
            Unasked,
        ),
        (
            ("probabilities on the right", |g| swap(g, "layer.0.context.heads")),
            &["node layer.0.v: expected Softmax of 1 inputs, found Transpose of 1"],
            Unasked,
        ),
        (
            ("a penalty of queries", |g| integers(g, "mask.axes", &[2], &[1, 3])),
            &["node mask.broadcast: expected axes [1, 2], found [1, 3]"],
            Runs,
        ),
        (
            ("a penalty of all", |g| number(g, "mask.one", &[], 2.0)),
            &["node mask.penalty: expected a penalty of padding: (1 - attention_mask) times a number, found another"],
            Runs,
        ),
        (
            ("a penalty without end", |g| number(g, "mask.lowest", &[], f32::NEG_INFINITY)),
            &["node mask.penalty: expected a penalty of padding"],
            Unasked,
        ),
        (
            ("a penalty of token types", |g| read(g, "mask.float", 0, "token_type_ids")),
            &["node mask.penalty: expected a penalty of padding"],
            Runs,
        ),
        (
            ("a mask in f16", |g| set_int(g, "mask.float", "to", 10)),
            &["node mask.float: expected to 1, found 10"],
            Unasked,
        ),
    ];
    assert_uncovered("bert", Options::default(), cases);
}
