//! Task outputs from hidden states: a linear layer, after a hidden layer where the checkpoint has one. A head without
//! either gives what it reads.
//!
//! In: rows `[n, H]`. Out: rows `[n, outputs]`. Sizes were checked when the patch was read, so nothing is refused.

use bias_patch::{Activation, Head as Stored, Linear};
use ndarray::{Array1, Array2, ArrayView2};

/// A head with its values decoded.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    dense: Option<(Layer, Activation)>,
    output: Option<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    /// `[in, out]`.
    weight: Array2<f32>,
    /// `[out]`.
    bias: Array1<f32>,
}

impl Head {
    /// Decodes a patch's head, whose sizes the patch has checked.
    pub fn new(stored: &Stored) -> Self {
        Head {
            dense: stored.dense.as_ref().map(|(linear, activation)| (Layer::new(linear), *activation)),
            output: stored.output.as_ref().map(Layer::new),
        }
    }

    /// `[n, H]` to `[n, outputs]`.
    pub fn apply(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let hidden = self.dense.as_ref().map(|(layer, activation)| {
            let mut hidden = layer.apply(x);
            hidden.mapv_inplace(|v| activate(*activation, v));
            hidden
        });
        let read = hidden.as_ref().map_or(x, |hidden| hidden.view());
        match &self.output {
            Some(output) => output.apply(read),
            None => hidden.unwrap_or_else(|| x.to_owned()),
        }
    }
}

impl Layer {
    fn new(linear: &Linear) -> Self {
        // A patch's weight has as many values as its sizes say.
        let (rows, columns) = (linear.outputs as usize, linear.inputs as usize);
        let values = linear.weight.values(None);
        let weight = Array2::from_shape_fn((columns, rows), |(column, row)| values[row * columns + column]);
        Layer { weight, bias: Array1::from(linear.bias.values(None)) }
    }

    fn apply(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        x.dot(&self.weight) + &self.bias
    }
}

/// An activation of one value.
pub(crate) fn activate(activation: Activation, x: f32) -> f32 {
    let of = match activation {
        Activation::Gelu => edge_engine::Activation::Gelu,
        Activation::GeluTanh => edge_engine::Activation::GeluTanh,
        Activation::Relu => edge_engine::Activation::Relu,
        Activation::Tanh => edge_engine::Activation::Tanh,
        Activation::Silu => edge_engine::Activation::Silu,
    };
    of.of(x)
}

/// The probability of one logit.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// Probabilities of logits.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|v| (v - top).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|v| v / sum).collect()
}
