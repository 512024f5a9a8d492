//! Weights in 4 bits: the same values in 8 bits give the same bits, forward and backward.

use edge_engine::{Activations, Error, Gradients, Outputs, SequenceLoss, Table, kernels, layout::FACTOR_GROUP};

use super::*;

/// E, H and M: part of a group of factors, more than one group of scales, and more columns than are unpacked at a time.
pub(super) const WIDTHS: [usize; 3] = [40, 300, 200];

/// A number from -7 to 7, and the factor of its group.
fn value(group: usize, at: usize) -> (i8, u8) {
    ((at * 7919 % 15) as i8 - 7, (1 + group % 18) as u8)
}

fn product((number, factor): (i8, u8)) -> i8 {
    number * factor.cast_signed()
}

/// A byte of two numbers, the first in the lower half.
fn byte(low: i8, high: i8) -> u8 {
    low.cast_unsigned() & 15 | high.cast_unsigned() << 4
}

/// A table of words, and its scales.
fn table(maker: &mut Maker, packed: bool) -> Tensor {
    let (rows, columns) = (ROWS[0], WIDTHS[0]);
    let at = |row: usize, column: usize| match column < columns {
        true => value(row + column / FACTOR_GROUP, row * columns + column),
        false => (0, 1),
    };
    let mut bytes = Vec::new();
    for row in 0..rows {
        match packed {
            true => {
                for first in (0..columns).step_by(FACTOR_GROUP) {
                    bytes.push(at(row, first).1);
                    let half = FACTOR_GROUP / 2;
                    bytes.extend((first..first + half).map(|c| byte(at(row, c).0, at(row, c + half).0)));
                }
            }
            false => bytes.extend((0..columns).map(|column| product(at(row, column)).cast_unsigned())),
        }
    }
    let at = maker.place(&bytes);
    let scales: Vec<f32> = (0..rows).map(|row| (1.0 + row as f32) / 300.0).collect();
    let scales = maker.place(bytemuck::cast_slice(&scales));
    let values =
        if packed { Values::I4 { at, scales, column_sums: 0 } } else { Values::I8 { at, scales, column_sums: 0 } };
    Tensor { rows, columns, in_panels: false, values }
}

/// A matrix in panels, and its bias.
fn linear(maker: &mut Maker, name: &'static str, [rows, columns]: [usize; 2], packed: bool) -> Linear {
    let at = |row: usize, column: usize| match row < rows && column < columns {
        true => value(row / FACTOR_GROUP + 5 * column, row * columns + column),
        false => (0, 1),
    };
    let mut bytes = Vec::new();
    for first in (0..columns).step_by(PANEL_WIDTH) {
        let (panel, height) = (first..first + PANEL_WIDTH, if packed { FACTOR_GROUP } else { PANEL_GROUP });
        for row in (0..rows).step_by(height) {
            if packed {
                bytes.extend(panel.clone().map(|column| at(row, column).1));
                for pair in (row..row + height).step_by(2 * PANEL_GROUP) {
                    for column in panel.clone() {
                        let four = pair..pair + PANEL_GROUP;
                        bytes.extend(four.map(|k| byte(at(k, column).0, at(k + PANEL_GROUP, column).0)));
                    }
                }
            } else {
                for column in panel.clone() {
                    bytes.extend((row..row + height).map(|row| product(at(row, column)).cast_unsigned()));
                }
            }
        }
    }
    let place = maker.place(&bytes);
    let groups = rows.div_ceil(SCALE_GROUP);
    let mut sums = vec![0.0f32; groups * columns];
    for row in 0..rows {
        for column in 0..columns {
            sums[row / SCALE_GROUP * columns + column] += f32::from(product(at(row, column)));
        }
    }
    let scales: Vec<f32> = numbers(groups * columns, 9).iter().map(|v| (1.5 + v) / 2000.0).collect();
    let scales = maker.place(bytemuck::cast_slice(&scales));
    let column_sums = maker.place(bytemuck::cast_slice(&sums));
    let values = if packed {
        Values::I4 { at: place, scales, column_sums }
    } else {
        Values::I8 { at: place, scales, column_sums }
    };
    let weight = Tensor { rows, columns, in_panels: true, values };
    Linear { weight, bias: maker.slot(name, columns), low_rank: None }
}

/// The hidden states of a batch, and the gradients of all biases of a loss, by the table and the matrices that are given.
pub(super) fn results(
    machine: &Machine,
    table: impl Fn(&mut Maker) -> Tensor,
    linear: impl Fn(&mut Maker, &'static str, [usize; 2]) -> Linear,
) -> Result<[Vec<f32>; 2], Error> {
    let mut maker =
        Maker { bytes: Vec::new(), slots: Vec::new(), layers: Vec::new(), quantized: true, has_bias: |_| true };
    let words = table(&mut maker);
    let norm = maker.norm("embedding norm", WIDTHS[0]);
    let embedding = Embedding { name: "words".into(), words, positions: None, types: None, norm };
    let mut dense = |name: &'static str, shape, activation| {
        Box::new(Dense { name: name.into(), linear: linear(&mut maker, name, shape), activation })
    };
    let wide = dense("wide", [WIDTHS[0], WIDTHS[1]], Some(Activation::Gelu));
    let narrow = dense("narrow", [WIDTHS[1], WIDTHS[2]], None);
    let operators: Vec<Node> = vec![(Box::new(embedding), vec![]), (wide, vec![0]), (narrow, vec![1])];
    let count = maker.slots.last().map_or(0, |(_, slot)| slot.at + slot.len);
    let mut weights = Aligned::zeros(maker.bytes.len() / 4);
    bytemuck::cast_slice_mut(&mut weights[..maker.bytes.len() / 4]).copy_from_slice(&maker.bytes);
    let weights = Weights::new(bytemuck::cast_slice(&weights))?;
    let model = Model::new(operators, Outputs { tokens: 2, pooled: None }, count, maker.bytes.len())?;

    let values = numbers(count, 40);
    let zeros = vec![0.5; count];
    // Rows of two tasks, so that the sums start at biases of several.
    let both = [&values[..], &zeros[..]].concat();
    let table = Table { values: &both, width: count, terms: &[], zeros: &[] };
    let hidden = model.run(machine, weights, &batch([0, 1, 0]), table)?.tokens.to_vec();

    let by = numbers(hidden.len(), 20);
    let mut begun = 0;
    let mut loss = |sequence: SequenceLoss<'_>| {
        let len = sequence.d_tokens.len();
        sequence.d_tokens.copy_from_slice(&by[begun..begun + len]);
        begun += len;
    };
    let (mut sums, wanted) = (vec![0.0; count], vec![true; count]);
    let mut gradients = Gradients::new(&mut sums, &wanted, &[]);
    model.gradient(machine, weights, &batch([0; 3]), &values, &mut gradients, &mut loss)?;
    Ok([hidden, sums])
}

#[test]
fn packed_weights_give_the_bits_of_unpacked_ones() {
    for kernel in kernels() {
        for activations in [Activations::Int8, Activations::F32] {
            for threads in [1, 2] {
                let machine = Machine::new(kernel, activations, Threads::start(threads).unwrap());
                let [unpacked, packed] = [false, true].map(|packed| {
                    let linear = |maker: &mut _, name, shape| linear(maker, name, shape, packed);
                    results(&machine, |maker| table(maker, packed), linear).unwrap()
                });
                assert_eq!(packed, unpacked, "{kernel:?} {activations:?}, {threads} threads");
                assert!(packed.iter().flatten().any(|value| value.abs() > 0.1));
            }
        }
    }
}
