//! Activation functions and their derivatives, for one value. The constants are defined here only.

use core::f32::consts::FRAC_1_SQRT_2;

#[cfg(not(feature = "std"))]
use crate::float::Float as _;

/// sqrt(2 / pi), in the tanh approximation of GELU.
pub(crate) const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// What x^3 is multiplied by in the tanh approximation of GELU.
pub(crate) const GELU_CUBIC: f32 = 0.044_715;
/// 1 / sqrt(2 pi), the density of the normal distribution at 0.
pub(crate) const NORMAL_DENSITY: f32 = 0.398_942_3;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), with the error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// x sigmoid(x).
    Silu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Activation; 5] =
        [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh, Activation::Silu];

    /// Its value at `x`.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Activation::Gelu => 0.5 * x * (1.0 + libm::erff(x * FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)).tanh()),
            // NaN stays NaN.
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Tanh => x.tanh(),
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }

    /// Its derivative at `x`.
    pub fn slope(self, x: f32) -> f32 {
        match self {
            // The normal distribution and, times x, its density.
            Activation::Gelu => {
                let distribution = 0.5 * (1.0 + libm::erff(x * FRAC_1_SQRT_2));
                distribution + x * (-0.5 * x * x).exp() * NORMAL_DENSITY
            }
            Activation::GeluTanh => {
                let tanh = (SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)).tanh();
                let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * GELU_CUBIC * x * x);
                0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner
            }
            Activation::Relu => f32::from(u8::from(x > 0.0)),
            Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
            Activation::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                s + x * s * (1.0 - s)
            }
        }
    }
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
            (Activation::Silu, 1.0, 0.731_058_6),
            (Activation::Silu, -100.0, 0.0),
        ] {
            let found = activation.of(x);
            assert!((found - expected).abs() < 3e-7, "{activation:?} of {x} is {found}");
        }
    }
}
