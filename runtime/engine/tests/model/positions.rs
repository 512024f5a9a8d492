//! Positions in attention: windows over many tiles, and what is refused.

use edge_engine::{Activations, Error, Outputs, Table, kernels};

use super::*;

/// An attention over embeddings, with these positions.
fn attention(maker: &mut Maker, positions: Positions) -> Vec<Node> {
    let words = maker.table(ROWS[0], 1);
    let norm = maker.norm("embedding norm", EMBEDDING);
    let embedding = Embedding { name: "words".into(), words, positions: None, types: None, norm };
    let layers = ["query", "key", "value"].map(|name| maker.linear(name, EMBEDDING, HIDDEN));
    let attention = Attention { name: "attend".into(), layers, heads: 2, positions };
    vec![(Box::new(embedding), vec![]), (Box::new(attention), vec![0])]
}

fn maker() -> Maker {
    Maker { bytes: Vec::new(), slots: Vec::new(), layers: Vec::new(), quantized: false, has_bias: |_| true }
}

/// The output of an attention with these positions, for sequences of these lengths.
fn output(maker: Maker, operators: Vec<Node>, machine: &Machine, lengths: &[usize]) -> Result<Vec<f32>, Error> {
    let count = maker.slots.last().map_or(0, |(_, slot)| slot.at + slot.len);
    let mut weights = Aligned::zeros(maker.bytes.len() / 4);
    bytemuck::cast_slice_mut(&mut weights[..maker.bytes.len() / 4]).copy_from_slice(&maker.bytes);
    let model = Model::new(operators, Outputs { tokens: 1, pooled: None }, count, maker.bytes.len())?;
    let mut batch = Batch::default();
    for length in lengths {
        let ids: Vec<u32> = (0..*length).map(|at| (at * 7 % ROWS[0]) as u32).collect();
        batch.push(&ids, &[], 0);
    }
    let values = numbers(count, 40);
    let table = Table { values: &values, width: count, terms: &[], zeros: &[] };
    let weights = Weights::new(bytemuck::cast_slice(&weights))?;
    model.run(machine, weights, &batch, table).map(|hidden| hidden.tokens.to_vec())
}

/// A window is what the lowest number for every distance beyond it is, whatever part of a tile or panel its edge is in.
#[test]
fn a_window_hides_what_is_beyond_it() {
    const LONGEST: usize = 100;
    for kernel in kernels() {
        let machine = Machine::new(kernel, Activations::F32, Threads::one());
        for window in [0usize, 1, 2, 15, 16, 17, 33, 99, 200] {
            let mut of_table = maker();
            let is_far = |at: usize| u32::from(at.abs_diff(LONGEST - 1) > window);
            let buckets = (0..2 * LONGEST - 1).map(is_far).collect();
            let rows = [0.0f32, 0.0, f32::MIN, f32::MIN];
            let values = Values::F32 { at: of_table.place(bytemuck::cast_slice(&rows)) };
            let table = Tensor { rows: 2, columns: 2, in_panels: false, values };
            let relative = Some(Relative { table, buckets });
            let positions = Positions { relative, ..Positions::default() };
            let operators = attention(&mut of_table, positions);
            let lengths = [1, 40, LONGEST];
            let due = output(of_table, operators, &machine, &lengths).unwrap();
            let mut of_window = maker();
            // The same bytes before them, so that the places of all others are the same.
            of_window.place(bytemuck::cast_slice(&rows));
            let operators = attention(&mut of_window, Positions { window: Some(window), ..Positions::default() });
            let found = output(of_window, operators, &machine, &lengths).unwrap();
            let worst = found.iter().zip(&due).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6 && found.len() == due.len(), "{kernel:?}, {window}: {worst:e}");
        }
    }
}

#[test]
fn texts_longer_than_a_table_are_refused() {
    let machine = Machine::new(kernels()[0], Activations::F32, Threads::one());
    for rotary in [true, false] {
        let run = |length| {
            let mut maker = maker();
            let positions = match rotary {
                true => Positions { rotary: Some(maker.floats(8, HIDDEN / 2, 1)), ..Positions::default() },
                false => {
                    let relative = Some(Relative { table: maker.floats(2, 2, 1), buckets: vec![1; 15] });
                    Positions { relative, ..Positions::default() }
                }
            };
            let operators = attention(&mut maker, positions);
            output(maker, operators, &machine, &[3, length])
        };
        run(8).unwrap();
        let error = run(9).unwrap_err().to_string();
        assert!(error.contains("attend") && error.contains('8'), "{error}");
    }
}

#[test]
fn tables_that_do_not_suit_the_heads_are_refused() {
    let machine = Machine::new(kernels()[0], Activations::F32, Threads::one());
    let refused = |rotary: Option<usize>, relative: Option<(usize, Vec<u32>)>| {
        let mut maker = maker();
        let rotary = rotary.map(|columns| maker.floats(8, columns, 1));
        let relative = relative.map(|(columns, buckets)| Relative { table: maker.floats(3, columns, 1), buckets });
        let operators = attention(&mut maker, Positions { rotary, relative, ..Positions::default() });
        output(maker, operators, &machine, &[3]).unwrap_err().to_string()
    };
    for (error, said) in [
        (refused(Some(6), None), "a rotary table's width"),
        (refused(None, Some((3, vec![0; 15]))), "a column for each head of a table of distances"),
        (refused(None, Some((2, vec![0; 14]))), "a number of distances that is odd"),
        (refused(None, Some((2, vec![3; 15]))), "3"),
    ] {
        assert!(error.contains(said), "{error}");
    }
}
