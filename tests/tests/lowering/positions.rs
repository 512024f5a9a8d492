//! Positions in attention that the engine does not have: other distances, vectors of them, windows, angles and gates.

use super::*;

#[test]
fn other_distances_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("rows one too far", |g| number(g, "attention.most", &[], 62.0)),
            &["node attention.by_bucket: expected 63 added, and 127 buckets below 32, found 62 and 127"],
            Runs,
        ),
        (
            ("heads in another order", |g| {
                set(g, "attention.by_head", Attribute::integers("perm", &[2, 1, 0]));
            }),
            &["node attention.by_head: expected perm [2, 0, 1], found [2, 1, 0]"],
            Runs,
        ),
        (
            ("distances of queries from keys", |g| swap(g, "attention.distances")),
            &["node attention.queries: expected axes [0], found [1]"],
            Runs,
        ),
        (("a distance that is not the tokens'", |g| swap(g, "attention.penalty")), &["attention.by_head"], Runs),
        (
            ("places from the end", |g| integers(g, "attention.places.first", &[1], &[1])),
            &["node attention.places: expected a start [0], found [1]"],
            Unasked,
        ),
    ];
    assert_uncovered("mpnet", Options::default(), cases);
}

#[test]
fn other_vectors_of_distances_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("a scale of one product", |g| number(g, "layer.0.scale", &[], 0.353_553_4)),
            &["node layer.0.scores.scaled: expected a scale of 0.20412414, found 0.3535534"],
            Runs,
        ),
        (
            ("queries that are not shifted", |g| read(g, "layer.0.scores", 0, "layer.0.q")),
            &["node encoder.layer.0.attention.self.query_proj: expected a sum of the queries"],
            Runs,
        ),
        (
            ("a shift by another layer", |g| {
                read(g, "layer.1.q.sum", 1, "layer.0.q.change");
            }),
            &["node layer.1.q.sum: expected a shift by the layer of queries, found by another"],
            Runs,
        ),
        (
            ("keys that meet what queries meet, by queries", |g| {
                read(g, "layer.0.k.by_distance", 1, "attention.met.by_query");
            }),
            &["attention.by_bucket: expected Transpose of 1 inputs, found Gather of 2"],
            Runs,
        ),
        (
            ("vectors of another head", |g| {
                integers(g, "encoder.layer.0.attention.self.key_proj.distances.shape", &[3], &[8, 2, 32]);
            }),
            &["expected a shape [8, 4, 16], found [8, 2, 32]"],
            Unasked,
        ),
        (
            ("a batch of heads", |g| integers(g, "attention.heads", &[1], &[1])),
            &["node attention.shape: expected heads [4], found [1]"],
            Unasked,
        ),
        (
            ("a change the other way round", |g| swap(g, "encoder.LayerNorm.change")),
            &["node encoder.LayerNorm.change: expected a bias that is a slot of the manifest"],
            Runs,
        ),
    ];
    assert_uncovered("deberta-v3", Options::default(), cases);
}

#[test]
fn other_windows_and_angles_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("a reach of a part", |g| number(g, "attention.reach", &[], 1.5)),
            &["node attention.far: expected a whole reach, and -3.4028235e38 beyond it, found 1.5"],
            Runs,
        ),
        (
            ("tokens beyond it that are seen a little", |g| number(g, "attention.lowest", &[], -2.0)),
            &["node attention.far: expected a whole reach", "found 2 and -2e0"],
            Runs,
        ),
        (
            ("keys that are rotated otherwise than queries", |g| {
                read(g, "layer.1.k.first.cosines", 1, "rotary.160000.cosines");
                read(g, "layer.1.k.second.cosines", 1, "rotary.160000.cosines");
                read(g, "layer.1.k.first.sines", 1, "rotary.160000.sines");
                read(g, "layer.1.k.second.sines", 1, "rotary.160000.sines");
            }),
            &["node layer.1.k.rotated: expected angles of rotary.10000, as queries have, found rotary.160000"],
            Runs,
        ),
        (
            ("halves that are rotated back", |g| swap(g, "layer.0.q.rotated")),
            &["node layer.0.q.rotated.second: expected Sub of 2 inputs, found Add of 2"],
            Runs,
        ),
        (
            ("sines for cosines", |g| {
                read(g, "layer.0.q.first.cosines", 1, "rotary.160000.sines");
            }),
            &["node layer.0.q.rotated: expected two halves, rotated by one angle, found others"],
            Runs,
        ),
        (
            ("another half", |g| integers(g, "layer.0.q.halves.half", &[1], &[3])),
            &["node layer.0.q.second: expected half of the last dimension, found 3 to 8 of -1"],
            Unasked,
        ),
        (
            ("a second half of one column, in each layer that has these angles", |g| {
                integers(g, "one", &[1], &[1]);
                integers(g, "two", &[1], &[2]);
                for slice in ["layer.0.q.second", "rotary.160000.sines"] {
                    read(g, slice, 1, "one");
                    read(g, slice, 2, "two");
                }
            }),
            &["node layer.3.q.rotated: expected halves of the same heads and angles, found others"],
            Unasked,
        ),
        (
            ("places in a row", |g| {
                let places = g.initializer.iter_mut().find(|t| t.name() == "attention.all_places").unwrap();
                places.dims = vec![64, 1];
            }),
            &["node attention.distances: expected places of shape [64], found [64, 1]"],
            Unasked,
        ),
        (
            ("angles of other places", |g| integers(g, "rotary.160000.places.first", &[1], &[1])),
            &["node rotary.160000.places: expected a start [0], found [1]"],
            Unasked,
        ),
        (
            ("a gate of another input", |g| read(g, "layers.1.mlp.Wi.gate.product", 0, "layers.0.mlp_norm")),
            &["node layer.1.gated: expected middle and gate of one input, found "],
            Runs,
        ),
    ];
    assert_uncovered("modernbert", Options::default(), cases);
}
