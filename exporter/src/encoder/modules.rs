//! What the encoder's blocks are made of: linear layers, LayerNorm and activations, each with its adjoint.
//!
//! In: the names of values. Out: nodes of the graph, and the names of what they give; of an adjoint that is the gradient of
//! what went in, and those of bias vectors become values of the graph under names that [`gradient_of`] gives.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use bias_patch::{Activation, SlotId, Term};

use super::Encoder;
use crate::{Result, family::module, onnx::Attribute};

/// A linear layer.
pub(super) struct Linear {
    /// The module's name, and the result's.
    pub name: String,
    /// The matrix as floats, `[from, to]`.
    weight: String,
    /// How many dimensions are before the last one of what goes in.
    pub rows: i64,
}

/// A LayerNorm.
pub(super) struct Norm {
    /// The module's name.
    name: String,
    /// The node's name, and the result's.
    pub node: String,
    /// What went in.
    sum: String,
    gain: String,
}

/// An activation, and the values before and after it.
pub(crate) struct Activated {
    activation: Activation,
    before: String,
    pub after: String,
}

/// Dimensions before the last one, of values with a row for each token, and for each text.
const TOKENS: i64 = 2;
pub(super) const TEXTS: i64 = 1;

impl Encoder<'_> {
    /// x W + b, `[.., from]` to `[.., to]`. W is stored `[from, to]`, the checkpoint's `[to, from]` transposed.
    pub(super) fn linear(&mut self, x: &str, term: Term, layer: Option<u16>, from: u32, to: u32) -> Result<Linear> {
        let (name, bias) = self.bias(term, layer, to)?;
        let weight = self.graph.weight(&format!("{name}.weight"), &[from.into(), to.into()], true);
        let product = self.graph.node("MatMul", &format!("{name}.product"), &[x, &weight], vec![]);
        self.graph.node("Add", &name, &[&product, &bias], vec![]);
        Ok(Linear { name, weight, rows: TOKENS })
    }

    /// d W^T, `[.., to]` to `[.., from]`, through the matrix that the forward pass multiplies by.
    pub(super) fn linear_adjoint(&mut self, linear: &Linear, d: &str) -> String {
        let Linear { name, weight, rows } = linear;
        self.bias_gradient(name, d, *rows);
        let g = &mut self.graph;
        let turned = g.transpose(&format!("{name}.weight.turned"), weight, &[1, 0]); // [to, from]
        g.node("MatMul", &format!("d.{name}.x"), &[d, &turned], vec![])
    }

    /// LayerNorm over the last dimension, gain frozen, bias a slot. `output` names the result if the module does not.
    pub(super) fn layer_norm(
        &mut self,
        x: &str,
        term: Term,
        layer: Option<u16>,
        width: u32,
        output: Option<&str>,
    ) -> Result<Norm> {
        let (name, bias) = self.bias(term, layer, width)?;
        let gain = self.graph.weight(&format!("{name}.weight"), &[width.into()], false);
        let epsilon = Attribute::float("epsilon", self.config.layer_norm_epsilon as f32);
        let attributes = vec![Attribute::int("axis", -1), epsilon];
        let node = self.graph.node("LayerNormalization", output.unwrap_or(&name), &[x, &gain, &bias], attributes);
        Ok(Norm { name, node, sum: x.to_owned(), gain })
    }

    /// With z the normalised row and g = d gain: (g - mean(g) - z mean(g z)) over the deviation; all `[B, S, H]` or means of
    /// its rows, `[B, S, 1]`.
    pub(super) fn layer_norm_adjoint(&mut self, norm: &Norm, d: &str) -> String {
        let Norm { name, node, sum, gain } = norm;
        self.bias_gradient(name, d, TOKENS);
        let g = &mut self.graph;
        let (mean, inverse) = (g.further(node, "mean"), g.further(node, "inverse")); // [B, S, 1]
        let last = g.integers("last_axis", &[1], &[-1]);
        let mut step =
            |op: &str, part: &str, inputs: [&str; 2]| g.node(op, &format!("d.{name}.{part}"), &inputs, vec![]);
        let z = step("Sub", "centred", [sum, &mean]);
        let z = step("Mul", "z", [&z, &inverse]);
        let scaled = step("Mul", "g", [d, gain]);
        let mean = step("ReduceMean", "g.mean", [&scaled, &last]); // [B, S, 1]
        let product = step("Mul", "gz", [&scaled, &z]);
        let slope = step("ReduceMean", "gz.mean", [&product, &last]); // [B, S, 1]
        let along = step("Mul", "along", [&z, &slope]);
        let d_sum = step("Sub", "g.centred", [&scaled, &mean]);
        let d_sum = step("Sub", "across", [&d_sum, &along]);
        step("Mul", "x", [&d_sum, &inverse])
    }

    pub(super) fn activation(&mut self, activation: Activation, x: &str, name: &str) -> Activated {
        let (op, attributes) = match activation {
            Activation::Gelu => ("Gelu", vec![Attribute::text("approximate", "none")]),
            Activation::GeluTanh => ("Gelu", vec![Attribute::text("approximate", "tanh")]),
            Activation::Relu => ("Relu", vec![]),
            Activation::Tanh => ("Tanh", vec![]),
        };
        let after = self.graph.node(op, name, &[x], attributes);
        Activated { activation, before: x.to_owned(), after }
    }

    /// d times the slope at x. That of x Φ(x) is Φ(x) + x φ(x), where φ(x) = c/2 exp(-x²/2); that of x (1 + t) / 2, where
    /// t = tanh(c (x + a x³)), is (1 + t) / 2 + x (1 - t²) c/2 (1 + 3 a x²).
    pub(super) fn activation_adjoint(&mut self, activated: &Activated, d: &str) -> String {
        const A: f64 = 0.044715;
        const C: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
        let Activated { activation, before: x, after } = activated;
        let g = &mut self.graph;
        let [sqrt_half, a, three_a, c, half_c, half, one, minus_half] = [
            ("sqrt_half", FRAC_1_SQRT_2),
            ("a", A),
            ("3a", 3.0 * A),
            ("c", C),
            ("half_c", C / 2.0),
            ("half", 0.5),
            ("one", 1.0),
            ("minus_half", -0.5),
        ]
        .map(|(name, value)| g.number(&format!("number.{name}"), value as f32));
        let mut step = |op: &str, part: &str, inputs: &[&str]| g.node(op, &format!("d.{after}.{part}"), inputs, vec![]);
        let slope = match activation {
            Activation::Gelu => {
                let share = step("Mul", "scaled", &[x, &sqrt_half]);
                let share = step("Erf", "erf", &[&share]);
                let share = step("Add", "twice", &[&share, &one]);
                let share = step("Mul", "share", &[&share, &half]); // Φ(x)
                let bell = step("Mul", "square", &[x, x]);
                let bell = step("Mul", "exponent", &[&bell, &minus_half]);
                let bell = step("Exp", "bell", &[&bell]);
                let bell = step("Mul", "density", &[&bell, &half_c]); // φ(x)
                let bell = step("Mul", "x_density", &[&bell, x]);
                step("Add", "slope", &[&share, &bell])
            }
            Activation::GeluTanh => {
                let square = step("Mul", "square", &[x, x]);
                let inner = step("Mul", "a_square", &[&square, &a]);
                let inner = step("Add", "stretch", &[&inner, &one]);
                let inner = step("Mul", "inner", &[&inner, x]);
                let inner = step("Mul", "c_inner", &[&inner, &c]);
                let t = step("Tanh", "t", &[&inner]);
                let share = step("Add", "twice", &[&t, &one]);
                let share = step("Mul", "share", &[&share, &half]);
                let steep = step("Mul", "t_square", &[&t, &t]);
                let steep = step("Sub", "steep", &[&one, &steep]);
                let rate = step("Mul", "3a_square", &[&square, &three_a]);
                let rate = step("Add", "stretch_slope", &[&rate, &one]);
                let rate = step("Mul", "rate", &[&rate, &half_c]);
                let rest = step("Mul", "x_steep", &[x, &steep]);
                let rest = step("Mul", "rest", &[&rest, &rate]);
                step("Add", "slope", &[&share, &rest])
            }
            // What is above 0 has passed.
            Activation::Relu => step("Sign", "slope", &[after]),
            Activation::Tanh => {
                let square = step("Mul", "square", &[after, after]);
                step("Sub", "slope", &[&one, &square])
            }
        };
        step("Mul", "x", &[d, &slope])
    }

    /// The module that has `term`'s bias, and that bias as a graph input.
    fn bias(&mut self, term: Term, layer: Option<u16>, len: u32) -> Result<(String, String)> {
        let name = module(self.config.family, term, layer.unwrap_or(0));
        let bias = self.graph.slot(&format!("{name}.bias"), SlotId::new(term, layer)?, len);
        Ok((name, bias))
    }

    /// A bias is added to every row, so its gradient is the sum over the rows of that of the result.
    fn bias_gradient(&mut self, module: &str, d: &str, rows: i64) {
        self.graph.sum_rows(&gradient_of(&format!("{module}.bias")), d, rows);
    }
}

/// The name of a gradient that a training graph gives.
pub(crate) fn gradient_of(name: &str) -> String {
    format!("gradient.{name}")
}
