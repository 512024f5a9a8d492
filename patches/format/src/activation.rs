//! The activation functions that encoders and heads use.

use serde::{Deserialize, Serialize};

/// An activation function, of an encoder's MLP or of a head's hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x Φ(x), with the error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// Hyperbolic tangent (heads only).
    Tanh,
    /// x sigmoid(x), also called swish.
    Silu,
}

impl Activation {
    /// The name in bundle.json.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
            Activation::Tanh => "tanh",
            Activation::Silu => "silu",
        }
    }
}
