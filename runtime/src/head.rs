//! Task outputs from hidden states: a linear layer, after a hidden one where the checkpoint has it.

use bias_patch::{Activation, Head as Stored, Linear};
use ndarray::{Array1, Array2, ArrayView2};

/// A head with its values decoded.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    dense: Option<(Layer, Activation)>,
    output: Layer,
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
            output: Layer::new(&stored.output),
        }
    }

    /// `[n, H]` to `[n, outputs]`.
    pub fn apply(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        match &self.dense {
            None => self.output.apply(x),
            Some((layer, activation)) => {
                let mut hidden = layer.apply(x);
                hidden.mapv_inplace(|v| activate(*activation, v));
                self.output.apply(hidden.view())
            }
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
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044715 * x * x * x)).tanh()),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    }
}

/// Probabilities of logits.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f32> = logits.iter().map(|v| (v - top).exp()).collect();
    let sum: f32 = shares.iter().sum();
    shares.iter().map(|v| v / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_agree_with_known_values() {
        for (activation, x, expected) in [
            (Activation::Gelu, 1.0, 0.841_344_7),
            (Activation::Gelu, -0.5, -0.154_268_77),
            (Activation::GeluTanh, 1.0, 0.841_192),
            (Activation::Relu, -1.0, 0.0),
            (Activation::Tanh, 0.5, 0.462_117_16),
        ] {
            let found = activate(activation, x);
            assert!((found - expected).abs() < 3e-7, "{activation:?} of {x} is {found}");
        }
    }
}
