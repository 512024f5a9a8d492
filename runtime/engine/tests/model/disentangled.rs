//! Disentangled attention against its formula in f64, and what it refuses.

use edge_engine::{Activations, Error, Machine, Outputs, Table, Threads, kernels};

use super::*;

/// The longest sequence: several tiles of queries, and several panels of keys and buckets.
const LONGEST: usize = 100;
/// A bucket for each distance up to 10, and one for each five beyond.
const BUCKETS: usize = 64;

fn bucket(distance: i64) -> u32 {
    let apart = distance.abs();
    let beyond = if apart <= 10 { apart } else { 10 + (apart - 10) / 5 };
    u32::try_from(32 + distance.signum() * beyond).unwrap()
}

fn maker() -> Maker {
    Maker { bytes: Vec::new(), slots: Vec::new(), layers: Vec::new(), quantized: false, has_bias: |_| true }
}

/// Embeddings, their projection, query, key and value, and the vectors of distances.
fn parts(maker: &mut Maker) -> (Embedding, Dense, [Linear; 3], Disentangled) {
    let words = maker.table(ROWS[0], 1);
    let norm = maker.norm("embedding norm", EMBEDDING);
    let embedding = Embedding { name: "words".into(), words, positions: None, types: None, norm };
    let linear = maker.linear("projection", EMBEDDING, HIDDEN);
    let layers = ["query", "key", "value"].map(|name| Linear { low_rank: None, ..maker.linear(name, HIDDEN, HIDDEN) });
    let most = LONGEST as i64 - 1;
    let distances = maker.disentangled(BUCKETS, (-most..=most).map(bucket).collect());
    (embedding, Dense { name: "project".into(), linear, activation: None }, layers, distances)
}

/// An attention over embeddings, whose vectors of distances `change` may change.
fn operators(maker: &mut Maker, change: impl Fn(&mut Disentangled)) -> Vec<Node> {
    let (embedding, projection, layers, mut distances) = parts(maker);
    change(&mut distances);
    let positions = Positions { disentangled: Some(distances), ..Positions::default() };
    let attention = Attention { name: "attend".into(), layers, heads: 2, positions };
    vec![(Box::new(embedding), vec![]), (Box::new(projection), vec![0]), (Box::new(attention), vec![1])]
}

/// The place of the bias of distances, the last slot, among a task's values.
fn last_slot() -> Slot {
    let mut maker = maker();
    parts(&mut maker);
    maker.slots.last().unwrap().1
}

/// The output of operator `output` for sequences of these lengths, each of its own task; and the values of a task.
fn run(output: usize, machine: &Machine, lengths: &[usize], values: &[f32]) -> Result<Vec<f32>, Error> {
    let mut maker = maker();
    let operators: Vec<Node> = operators(&mut maker, |_| ()).into_iter().take(output + 1).collect();
    let weights = weights(&maker);
    let width = values.len() / lengths.len();
    let outputs = Outputs { tokens: output, pooled: None };
    let model = Model::new(operators, outputs, width, maker.bytes.len())?;
    let mut batch = Batch::default();
    for (task, length) in lengths.iter().enumerate() {
        let ids: Vec<u32> = (0..*length).map(|at| (at * 7 % ROWS[0]) as u32).collect();
        batch.push(&ids, &[], task as u32);
    }
    let table = Table { values, width, terms: &[], zeros: &[] };
    let weights = Weights::new(bytemuck::cast_slice(&weights))?;
    model.run(machine, weights, &batch, table).map(|hidden| hidden.tokens.to_vec())
}

fn weights(maker: &Maker) -> Aligned {
    let mut weights = Aligned::zeros(maker.bytes.len() / 4);
    bytemuck::cast_slice_mut(&mut weights[..maker.bytes.len() / 4]).copy_from_slice(&maker.bytes);
    weights
}

/// softmax(((q + c) k^T + q K^T + k Q^T) / sqrt(3 D)) v of one sequence, from the attention's input, in f64.
fn due(x: &[f32], values: &[f32]) -> Vec<f64> {
    let mut maker = maker();
    let (_, _, layers, distances) = parts(&mut maker);
    let weights = weights(&maker);
    let at = |tensor: &Tensor, row: usize, column: usize| {
        let Values::F32 { at } = tensor.values else { panic!("floats") };
        let place = match tensor.in_panels {
            true => (column / PANEL_WIDTH * tensor.rows + row) * PANEL_WIDTH + column % PANEL_WIDTH,
            false => row * tensor.columns + column,
        };
        f64::from(weights[at / 4 + place])
    };
    let value = |slot: Slot, column: usize| f64::from(values[slot.at + column]);
    let linear = |layer: &Linear, x: &dyn Fn(usize) -> f64, column: usize| -> f64 {
        let product: f64 = (0..HIDDEN).map(|row| x(row) * at(&layer.weight, row, column)).sum();
        product + value(layer.bias.unwrap(), column)
    };
    let length = x.len() / HIDDEN;
    let [q, k, v] = layers.each_ref().map(|layer| -> Vec<Vec<f64>> {
        let row = |x: &[f32]| (0..HIDDEN).map(|column| linear(layer, &|row| x[row].into(), column)).collect();
        x.chunks(HIDDEN).map(row).collect()
    });
    let (slot, before) = distances.bias.as_ref().unwrap();
    let change = |row: usize| value(*slot, row) - at(before, 0, row);
    let c: Vec<f64> = (0..HIDDEN).map(|column| linear(&layers[0], &change, column)).collect();
    let depth = HIDDEN / 2;
    let mut out = vec![0.0; x.len()];
    for head in 0..2 {
        let columns = || head * depth..(head + 1) * depth;
        for i in 0..length {
            let score = |j: usize| -> f64 {
                let t = head * BUCKETS + bucket(j as i64 - i as i64) as usize;
                let sum: f64 = columns()
                    .map(|column| {
                        let of_keys = at(&distances.keys, column - head * depth, t);
                        let of_queries = at(&distances.queries, column - head * depth, t);
                        (q[i][column] + c[column]) * k[j][column] + q[i][column] * of_keys + k[j][column] * of_queries
                    })
                    .sum();
                sum / (3.0 * depth as f64).sqrt()
            };
            let scores: Vec<f64> = (0..length).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = shares.iter().sum();
            for column in columns() {
                out[i * HIDDEN + column] = shares.iter().zip(&v).map(|(share, v)| share / sum * v[column]).sum();
            }
        }
    }
    out
}

#[test]
fn scores_are_those_of_the_formula() {
    /// A few roundings of scores up to 10, in outputs around 1.
    const BOUND: f64 = 2e-5;
    let lengths = [1, 17, LONGEST, 40];
    let last = last_slot();
    let width = last.at + last.len;
    let mut values = numbers(4 * width, 40);
    // The second task's bias of distances is the frozen one.
    values[width + last.at..][..last.len].copy_from_slice(&numbers(HIDDEN, 15));
    for kernel in kernels() {
        let machine = Machine::new(kernel, Activations::F32, Threads::one());
        let (x, found) = (run(1, &machine, &lengths, &values).unwrap(), run(2, &machine, &lengths, &values).unwrap());
        let (mut first, mut worst) = (0, 0.0f64);
        for (task, length) in lengths.into_iter().enumerate() {
            let rows = first * HIDDEN..(first + length) * HIDDEN;
            let due = due(&x[rows.clone()], &values[task * width..][..width]);
            let apart = found[rows].iter().zip(&due).map(|(a, b)| (f64::from(*a) - b).abs());
            worst = apart.fold(worst, f64::max);
            first += length;
        }
        println!("{kernel:?}: {worst:.1e}");
        assert!(worst < BOUND, "{kernel:?}: {worst:e}");
    }
}

#[test]
fn vectors_that_do_not_suit_are_refused() {
    let refused = |change: &dyn Fn(&mut Disentangled)| {
        let mut maker = maker();
        let operators = operators(&mut maker, change);
        let last = last_slot();
        let outputs = Outputs { tokens: 2, pooled: None };
        Model::new(operators, outputs, last.at + last.len, maker.bytes.len()).unwrap_err().to_string()
    };
    for (error, said) in [
        (refused(&|d| d.keys.rows = 3), "vectors of distances with a width"),
        (refused(&|d| d.queries.in_panels = false), "vectors of distances in f32 panels"),
        (refused(&|d| d.queries.columns = 96), "as many distances of keys as of queries"),
        (refused(&|d| (d.keys.columns, d.queries.columns) = (120, 120)), "distances left over by heads and panels"),
        (refused(&|d| d.buckets[3] = 64), "64"),
        (refused(&|d| d.buckets.truncate(8)), "a number of distances that is odd"),
        (refused(&|d| d.buckets.swap(90, 99)), "a number of buckets that do not follow each other"),
        (refused(&|d| d.buckets[198] += 2), "a number of buckets that do not follow each other"),
        (refused(&|d| d.bias.as_mut().unwrap().0.len = 7), "a bias of distances"),
    ] {
        assert!(error.contains(said), "{said}: {error}");
    }
    let mut maker = maker();
    let (_, _, mut layers, distances) = parts(&mut maker);
    layers[1].low_rank = Some(2);
    let positions = Positions { disentangled: Some(distances), ..Positions::default() };
    let attention = Attention { name: "attend".into(), layers, heads: 2, positions };
    let error = Operator::check(&attention).unwrap_err().to_string();
    assert!(error.contains("low-rank terms of queries and keys that meet distances"), "{error}");

    let machine = Machine::new(kernels()[0], Activations::F32, Threads::one());
    let last = last_slot();
    let error = run(2, &machine, &[LONGEST + 1], &numbers(last.at + last.len, 40)).unwrap_err().to_string();
    assert!(error.contains("attend") && error.contains("100"), "{error}");
}
