//! What a model refuses when it is made, and when it is run.

use edge_engine::{
    Activations, Batch, Error, Gradients, LayerNorm, Linear, LowRank, Model, Outputs, Result, Slot, Table, TaskTerms,
    Tensor, Values, Weights, kernels,
    operators::{Attention, Dense, Embedding, FirstToken, Middle, PositionRows, Positions, Residual},
};

use super::{HIDDEN, Node, Small, batch, machine};

/// Bytes of weights and values of a task: as many as the parts below need.
const BYTES: usize = 4 * 16 * 16;
const VALUES: usize = 4;

fn tensor(rows: usize, columns: usize, in_panels: bool) -> Tensor {
    Tensor { rows, columns, in_panels, values: Values::F32 { at: 0 } }
}

fn linear(rows: usize, columns: usize) -> Linear {
    Linear { weight: tensor(rows, columns, true), bias: None, low_rank: None }
}

fn norm(width: usize) -> LayerNorm {
    LayerNorm { gain: tensor(1, width, false), bias: None, epsilon: 1e-5 }
}

fn positions(rows: usize, width: usize, first: usize, uncounted: Option<u32>) -> Option<PositionRows> {
    Some(PositionRows { table: tensor(rows, width, false), first, uncounted })
}

fn embedding(width: usize) -> Embedding {
    Embedding {
        name: "words".into(),
        words: tensor(2, width, false),
        positions: positions(2, width, 0, None),
        types: None,
        norm: norm(width),
    }
}

fn words() -> Node {
    (Box::new(embedding(4)), vec![])
}

fn dense(linear: Linear, inputs: &[usize]) -> Node {
    (Box::new(Dense { name: "dense".into(), linear, activation: None }), inputs.to_vec())
}

fn first(input: usize) -> Node {
    (Box::new(FirstToken { name: "first".into(), width: 4 }), vec![input])
}

fn attention(layers: [Linear; 3], heads: usize, input: usize) -> Node {
    (Box::new(Attention { name: "attend".into(), layers, heads, positions: Positions::default() }), vec![input])
}

fn block(middle: Option<Linear>, linear: Linear, norm: LayerNorm, inputs: [usize; 2]) -> Node {
    let middle = middle.map(|middle| Middle { layers: vec![middle], activation: edge_engine::Activation::Relu });
    (Box::new(Residual { name: "block".into(), middle, linear, norm: Some(norm) }), inputs.to_vec())
}

/// A model of these operators, whose first one's output is its own.
fn model(operators: Vec<Node>, pooled: Option<usize>) -> Result<Model> {
    Model::new(operators, Outputs { tokens: 0, pooled }, VALUES, BYTES)
}

#[test]
fn operators_that_do_not_fit_are_refused() {
    let four = || linear(4, 4);
    let bias = |at, len| Linear { bias: Some(Slot { at, len }), ..four() };
    let quantized = Values::I8 { at: 0, scales: 0, column_sums: 0 };
    let cases: Vec<(Node, &str, usize, usize)> = vec![
        (dense(four(), &[]), "a number of inputs", 1, 0),
        (dense(four(), &[0, 0]), "a number of inputs", 1, 2),
        (dense(linear(5, 4), &[0]), "an input with a width", 5, 4),
        // Itself, which is not there yet.
        (dense(four(), &[1]), "an input with a width", 4, 0),
        (dense(Linear { weight: tensor(4, 4, false), bias: None, low_rank: None }, &[0]), "panels with a width", 16, 1),
        (dense(bias(0, 3), &[0]), "a bias", 4, 3),
        (dense(bias(1, 4), &[0]), "values of a task", 4, 5),
        (dense(bias(usize::MAX, 4), &[0]), "values of a task", 4, usize::MAX),
        (attention([four(), linear(4, 5), four()], 2, 0), "keys and values with a width", 4, 5),
        (attention([four(), four(), linear(5, 4)], 2, 0), "keys and values with a number of inputs", 4, 5),
        (attention([four(), four(), four()], 3, 0), "a number of columns left over by heads of equal width", 0, 1),
        (attention([four(), four(), four()], 0, 0), "a number of columns left over by heads of equal width", 0, 1),
        (block(Some(linear(4, 6)), four(), norm(4), [0, 0]), "an MLP's last layer with a number of inputs", 6, 4),
        (block(None, linear(4, 5), norm(4), [0, 0]), "a LayerNorm with a width", 5, 4),
        (
            block(None, four(), LayerNorm { bias: Some(Slot { at: 0, len: 3 }), ..norm(4) }, [0, 0]),
            "a LayerNorm's bias",
            4,
            3,
        ),
        (
            block(None, four(), LayerNorm { gain: tensor(2, 4, false), ..norm(4) }, [0, 0]),
            "a gain in f32, with a number of rows",
            1,
            2,
        ),
        (
            block(
                None,
                four(),
                LayerNorm { gain: Tensor { values: quantized, ..tensor(1, 4, false) }, ..norm(4) },
                [0, 0],
            ),
            "a gain in f32, with a number of rows",
            1,
            1,
        ),
        (
            (Box::new(Embedding { positions: positions(2, 5, 0, None), ..embedding(4) }), vec![]),
            "an embedding table's width",
            4,
            5,
        ),
        (
            (Box::new(Embedding { types: Some(tensor(2, 4, true)), ..embedding(4) }), vec![]),
            "an embedding table in panels with a width",
            1,
            16,
        ),
    ];
    for (operator, due, due_expected, due_found) in cases {
        let name = operator.0.name().to_owned();
        match model(vec![words(), operator], None).unwrap_err() {
            Error::Shape { operator, what, expected, found } => {
                assert_eq!((operator.as_str(), what, expected, found), (&*name, due, due_expected, due_found));
            }
            other => panic!("{due}: {other}"),
        }
    }
}

#[test]
fn rows_of_sequences_do_not_meet_those_of_tokens() {
    let layers = || [linear(4, 4), linear(4, 4), linear(4, 4)];
    for (operator, count, of_tokens) in [
        (first(1), 1, 0),
        (attention(layers(), 2, 1), 1, 0),
        (block(None, linear(4, 4), norm(4), [0, 1]), 2, 1),
        (block(None, linear(4, 4), norm(4), [1, 0]), 2, 1),
    ] {
        let name = operator.0.name().to_owned();
        let what = "a number of inputs with a row for each token";
        let due = Error::Shape { operator: name, what, expected: count, found: of_tokens };
        assert_eq!(model(vec![words(), first(0), operator], None).unwrap_err(), due);
    }
    // First tokens alone are read by what works row by row.
    model(vec![words(), first(0), block(None, linear(4, 4), norm(4), [1, 1])], Some(2)).unwrap();
}

#[test]
fn tensors_beyond_the_weights_and_outputs_that_are_not_there_are_refused() {
    let at =
        |at| Linear { weight: Tensor { values: Values::F32 { at }, ..tensor(4, 4, true) }, bias: None, low_rank: None };
    let room = BYTES - 4 * 4 * 16;
    model(vec![words(), dense(at(room), &[0])], None).unwrap();
    for beyond in [room + 4, room + 1, usize::MAX - 3] {
        let error = model(vec![words(), dense(at(beyond), &[0])], None).unwrap_err();
        assert_eq!(error, Error::Tensor { name: "dense".into(), bytes: BYTES });
    }
    let what = "a model's output, an operator's number";
    for (pooled, operators) in [(1, vec![words()]), (0, vec![words()]), (1, vec![words(), dense(linear(4, 4), &[0])])] {
        let count = operators.len();
        let due = Error::Input { what, expected: count, found: pooled };
        assert_eq!(model(operators, Some(pooled)).unwrap_err(), due);
    }
    let tokens = Outputs { tokens: 1, pooled: None };
    let error = Model::new(vec![words(), first(0)], tokens, VALUES, BYTES).unwrap_err();
    assert_eq!(error, Error::Input { what, expected: 2, found: 1 });
}

#[test]
fn runs_on_what_is_not_the_models_are_refused() {
    let small = Small::new(false, |_| true);
    let machine = machine(kernels()[0], Activations::F32);
    let width = small.model.values();
    let values = small.values(50);
    let table = Table { values: &values, width, terms: &[], zeros: &[] };
    let weights = small.weights();
    let bytes: &[u8] = bytemuck::cast_slice(&small.weights);
    assert_eq!(Weights::new(&bytes[4..]).err(), Some(Error::Alignment { expected: 64, found: 4 }));

    let run = |weights, batch: &Batch, table: Table<'_>| {
        small.model.run(&machine, weights, batch, table).map(|_| ()).unwrap_err()
    };
    let what = |error| match error {
        Error::Input { what, .. } => what,
        other => panic!("{other}"),
    };
    let one = batch([0; 3]);
    let short = Weights::new(&bytes[..64]).unwrap();
    assert_eq!(what(run(short, &one, table)), "bytes of weights");
    assert_eq!(what(run(weights, &one, Table { width: width - 1, ..table })), "values of a task");
    assert_eq!(what(run(weights, &one, Table { values: &values[1..], ..table })), "values of all tasks");
    assert_eq!(what(run(weights, &batch([0, 1, 0]), table)), "values of all tasks");
    assert_eq!(what(run(weights, &batch([0, u32::MAX, 0]), table)), "values of all tasks");

    for (place, sums, wanted) in [("gradients", width - 1, width), ("wanted values", width, width + 1)] {
        let (mut sums, wanted) = (vec![0.0; sums], vec![true; wanted]);
        let mut gradients = Gradients::new(&mut sums, &wanted, &[]);
        let found = small.model.gradient(&machine, weights, &one, &values, &mut gradients, &mut |_| ());
        assert_eq!(what(found.unwrap_err()), place);
    }
    // One task's terms where there are two tasks; and terms beyond their values.
    let (values, places) = small.with_terms(50, |_| 2);
    let two = [&values[..width], &values[..width]].concat();
    let terms = TaskTerms { values: &values, places: &places };
    let refused = |batch: &Batch, terms: &[TaskTerms<'_>]| {
        what(run(weights, batch, Table { values: &two, width, terms, zeros: &[] }))
    };
    assert_eq!(refused(&batch([0, 1, 0]), &[terms]), "low-rank terms of all tasks");
    let short = TaskTerms { values: &values[..values.len() - 1], ..terms };
    assert_eq!(refused(&one, &[short]), "values of a task's low-rank terms");
    for (rank, a, said) in [
        (0, 0, "rank of a low-rank term"),
        (usize::MAX, 0, "values of a task's low-rank terms"),
        (1, usize::MAX, "values of a task's low-rank terms"),
    ] {
        let places = [Some(LowRank { rank, a, b: 0 })];
        assert_eq!(refused(&one, &[TaskTerms { places: &places, ..terms }]), said);
    }
    // No sequence at all: nothing is added.
    let (mut sums, wanted) = (vec![0.0; values.len()], vec![true; values.len()]);
    let mut gradients = Gradients::new(&mut sums, &wanted, &places);
    small.model.gradient(&machine, weights, &Batch::default(), &values, &mut gradients, &mut |_| ()).unwrap();
    assert!(sums.iter().all(|sum| *sum == 0.0));
    let hidden = small.model.run(&machine, weights, &one, Table { terms: &[terms], ..table }).unwrap();
    assert_eq!(hidden.tokens.len(), 9 * HIDDEN);
}

#[test]
fn rows_beyond_a_table_are_refused() {
    for row in [2, usize::MAX] {
        let error =
            model(vec![(Box::new(Embedding { positions: positions(2, 4, row, None), ..embedding(4) }), vec![])], None)
                .unwrap_err();
        assert_eq!(error, Error::Row { operator: "words".into(), row, rows: 2 });
    }
    let uncounted = Embedding { positions: positions(2, 4, 0, Some(1)), ..embedding(4) };
    let error = model(vec![(Box::new(uncounted), vec![])], None).unwrap_err();
    let what = "a first position, after that of tokens that are not counted,";
    assert_eq!(error, Error::Shape { operator: "words".into(), what, expected: 1, found: 0 });
    let small = Small::new(false, |_| true);
    let machine = machine(kernels()[0], Activations::F32);
    let values = small.values(50);
    let table = Table { values: &values, width: values.len(), terms: &[], zeros: &[] };
    for (ids, types, row, rows) in
        [(vec![1, 5], vec![0, 0], 5, 5), (vec![0; 8], vec![0; 8], 7, 7), (vec![1, 1], vec![0, 2], 2, 2)]
    {
        let mut batch = Batch::default();
        batch.push(&ids, &types, 0);
        let error = small.model.run(&machine, small.weights(), &batch, table).unwrap_err();
        assert_eq!(error, Error::Row { operator: "words".into(), row, rows });
    }
}
