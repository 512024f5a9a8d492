//! Weights in f16: the same values in f32 give the same bits, but for the order of sums backward, and nearly the same where
//! activations are rounded to f16 too.

use edge_engine::{Activations, kernels};

use super::{
    packed::{WIDTHS, results},
    *,
};

/// A half below 1, by its bits, and its value.
fn value(at: usize, seed: usize) -> (u16, f32) {
    let (exponent, fraction) = (8 + (at * 31 + seed) % 7, (at * 7919 + seed) % 1024);
    let sign = if at.is_multiple_of(3) { 0x8000 } else { 0 };
    let size = 2f32.powi(exponent as i32 - 15) * (1.0 + fraction as f32 / 1024.0);
    ((exponent << 10 | fraction) as u16 | sign, if sign == 0 { size } else { -size })
}

/// Stores values as halves or as floats.
fn store(maker: &mut Maker, values: &[(u16, f32)], halves: bool) -> Values {
    if halves {
        let bits: Vec<u16> = values.iter().map(|(bits, _)| *bits).collect();
        return Values::F16 { at: maker.place(bytemuck::cast_slice(&bits)) };
    }
    let floats: Vec<f32> = values.iter().map(|(_, value)| *value).collect();
    Values::F32 { at: maker.place(bytemuck::cast_slice(&floats)) }
}

fn table(maker: &mut Maker, halves: bool) -> Tensor {
    let (rows, columns) = (ROWS[0], WIDTHS[0]);
    let values: Vec<_> = (0..rows * columns).map(|at| value(at, 1)).collect();
    Tensor { rows, columns, in_panels: false, values: store(maker, &values, halves) }
}

fn linear(maker: &mut Maker, name: &'static str, [rows, columns]: [usize; 2], halves: bool) -> Linear {
    let mut values = vec![(0, 0.0); columns.next_multiple_of(PANEL_WIDTH) * rows];
    for row in 0..rows {
        for column in 0..columns {
            let place = (column / PANEL_WIDTH * rows + row) * PANEL_WIDTH + column % PANEL_WIDTH;
            values[place] = value(row * columns + column, name.len());
        }
    }
    let weight = Tensor { rows, columns, in_panels: true, values: store(maker, &values, halves) };
    Linear { weight, bias: maker.slot(name, columns), low_rank: None }
}

#[test]
fn halves_give_the_bits_of_the_same_floats() {
    for kernel in kernels() {
        for threads in [1, 2] {
            let of = |activations, halves| {
                let machine = Machine::new(kernel, activations, Threads::start(threads).unwrap());
                let linear = |maker: &mut _, name, shape| linear(maker, name, shape, halves);
                results(&machine, |maker| table(maker, halves), linear).unwrap()
            };
            let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
            let apart = |a: &[f32], b: &[f32]| largest(&mut a.iter().zip(b).map(|(a, b)| a - b));
            let what = format!("{kernel:?}, {threads} threads");
            let [hidden, gradients] = of(Activations::F32, false);
            let [size, slope] = [&hidden, &gradients].map(|values| largest(&mut values.iter().copied()));
            assert!(size > 0.1 && slope > 0.1);

            let halves = of(Activations::F32, true);
            assert!(halves[0] == hidden, "{what}: {:e} apart", apart(&halves[0], &hidden));
            assert!(apart(&halves[1], &gradients) < 1e-5 * slope, "{what}: {:e}", apart(&halves[1], &gradients));
            // f32 weights are not rounded, whatever the activations.
            assert!(of(Activations::F16, false)[0] == hidden, "{what}");

            let rounded = of(Activations::F16, true);
            let moved = apart(&rounded[0], &hidden);
            match kernel.halves() {
                Some(_) => assert!(moved > 0.0 && moved < 2e-3 * size, "{what}: {moved:e} of {size}"),
                None => assert!(rounded == halves, "{what}"),
            }
        }
    }
}
