//! Embeddings that the engine does not have: other rows, positions and types.

use super::*;

#[test]
fn other_embeddings_are_refused() {
    let cases: &[(Change, &[&str], Tract)] = &[
        (
            ("words by columns", |g| set_int(g, "embeddings.words", "axis", 1)),
            &["node embeddings.words: expected axis 0, found 1"],
            Unasked,
        ),
        (
            ("words of token types", |g| read(g, "embeddings.words", 1, "token_type_ids")),
            &["node embeddings.words: expected rows of input_ids, found token_type_ids"],
            Runs,
        ),
        (
            ("types of words", |g| read(g, "embeddings.types", 1, "input_ids")),
            &["node embeddings.types: expected rows of token_type_ids, found input_ids"],
            Unasked,
        ),
        (
            ("one type of several", |g| {
                integers(g, "only", &[1, 1], &[0]);
                read(g, "embeddings.types", 1, "only");
            }),
            &["node embeddings.types: expected a row for each token type, found 2 of them"],
            Runs,
        ),
        (
            ("another start", |g| {
                integers(g, "start", &[1], &[1]);
                read(g, "embeddings.positions", 1, "start");
            }),
            &["node embeddings.end_position: expected the length of input_ids after the first position, found another"],
            Unasked,
        ),
        (
            ("a start below 0", |g| integers(g, "embeddings.first_position", &[1], &[-1])),
            &["node embeddings.positions: expected a first position from 0 below 48, found -1"],
            Unasked,
        ),
        (
            ("a start beyond the table", |g| integers(g, "embeddings.first_position", &[1], &[48])),
            &["node embeddings.positions: expected a first position from 0 below 48, found 48"],
            Unasked,
        ),
        (
            ("two starts", |g| integers(g, "embeddings.first_position", &[2], &[0, 0])),
            &["node embeddings.positions: expected one first position, found 2"],
            Unasked,
        ),
        (
            ("another axis", |g| integers(g, "embeddings.axis", &[1], &[1])),
            &["node embeddings.positions: expected axes [0], found [1]"],
            Unasked,
        ),
        (
            ("every second row", |g| {
                integers(g, "steps", &[1], &[2]);
                node(g, "embeddings.positions").input.push("steps".to_owned());
            }),
            &["node embeddings.positions: expected steps [1], found [2]"],
            Unasked,
        ),
        (
            ("a fixed end", |g| {
                integers(g, "end", &[1], &[5]);
                read(g, "embeddings.positions", 2, "end");
            }),
            &["end: expected a node that computes it, found none"],
            Unasked,
        ),
        (
            ("an end by another constant", |g| {
                integers(g, "same", &[1], &[0]);
                read(g, "embeddings.end_position", 1, "same");
            }),
            &["node embeddings.end_position: expected the length of input_ids after the first position"],
            Runs,
        ),
        (
            ("the length of the mask", |g| read(g, "embeddings.length", 0, "attention_mask")),
            &["node embeddings.end_position: expected the length of input_ids after the first position"],
            Runs,
        ),
        (
            ("the length from the batch on", |g| set_int(g, "embeddings.length", "start", 0)),
            &["node embeddings.length: expected start 1, found 0"],
            Unasked,
        ),
        (
            ("the length beyond the tokens", |g| set_int(g, "embeddings.length", "end", 3)),
            &["node embeddings.length: expected end 2, found 3"],
            Unasked,
        ),
    ];
    assert_uncovered("bert", Options::default(), cases);
    let only: &[(Change, &[&str], Tract)] = &[
        (
            ("row 1 of one", |g| integers(g, "embeddings.only_type", &[1, 1], &[1])),
            &["node embeddings.types: expected rows [0], found [1]"],
            Unasked,
        ),
        (
            ("a row in a cube", |g| integers(g, "embeddings.only_type", &[1, 1, 1], &[0])),
            &["node embeddings.types: expected rows in at most two dimensions, found 3"],
            Unasked,
        ),
    ];
    assert_uncovered("roberta", Options::default(), only);
    let of_others =
        "node embeddings.positions: expected one padding id, which is compared with input_ids and added to the counts";
    let counted: &[(Change, &[&str], Tract)] = &[
        (
            ("counts of the batch", |g| integers(g, "embeddings.axis", &[], &[0])),
            &["node embeddings.counts: expected axis [1], found [0]"],
            Runs,
        ),
        (
            ("counts that leave out the last", |g| set_int(g, "embeddings.counts", "exclusive", 1)),
            &["node embeddings.counts: expected a CumSum with known attributes, found exclusive"],
            Runs,
        ),
        (("padding of another position", |g| number(g, "embeddings.padding_position", &[], 0.0)), &[of_others], Runs),
        (
            ("counts of all tokens", |g| {
                number(g, "all", &[], 1.0);
                read(g, "embeddings.places", 1, "all");
            }),
            &["all: expected a node that computes it, found none"],
            Runs,
        ),
        (
            ("two kinds of padding", |g| integers(g, "embeddings.padding", &[2], &[1, 1])),
            &["embeddings.padding: expected one number, found 2"],
            Unasked,
        ),
        (("the mask's padding", |g| read(g, "embeddings.is_padding", 0, "attention_mask")), &[of_others], Runs),
        (
            ("a padding below 0", |g| {
                integers(g, "embeddings.padding", &[1], &[-1]);
                number(g, "embeddings.padding_position", &[], -1.0);
            }),
            &["node embeddings.position_numbers: expected a padding id from 0 below 65, found -1"],
            Unasked,
        ),
        (
            ("a padding of the last position", |g| {
                integers(g, "embeddings.padding", &[1], &[65]);
                number(g, "embeddings.padding_position", &[], 65.0);
            }),
            &["node embeddings.position_numbers: expected a padding id from 0 below 65, found 65"],
            Unasked,
        ),
    ];
    assert_uncovered("roberta", Options::default(), counted);
}
