//! Losses over a head's outputs, with their gradients, in f64.

/// What one text adds to the loss, and the gradient with respect to the head's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// The loss times the text's weight.
    pub value: f64,
    /// The gradient of `value` with respect to the head's outputs, `[R, C]`.
    pub d_outputs: Vec<Vec<f64>>,
}

impl Loss {
    /// No loss, and zeros for its gradient.
    pub fn none(outputs: &[Vec<f64>]) -> Self {
        Loss { value: 0.0, d_outputs: outputs.iter().map(|row| vec![0.0; row.len()]).collect() }
    }
}

/// The cross-entropy of a class under the softmax of logits, and its gradient.
pub fn cross_entropy(logits: &[f64], class: usize) -> (f64, Vec<f64>) {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
    let hit = |at: usize| f64::from(u8::from(at == class));
    let d = logits.iter().enumerate().map(|(at, logit)| (logit - top).exp() / sum - hit(at));
    (sum.ln() + top - logits[class], d.collect())
}

/// The binary cross-entropy of a probability `due` under the sigmoid of a logit, and its derivative.
pub fn binary_cross_entropy(logit: f64, due: f64) -> (f64, f64) {
    // ln(1 + e^x) - due x, without overflow.
    let softplus = logit.max(0.0) + (-logit.abs()).exp().ln_1p();
    (softplus - due * logit, 1.0 / (1.0 + (-logit).exp()) - due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_cross_entropy_is_that_of_two_classes() {
        for logit in [-800.0, -3.0, 0.0, 0.5, 40.0, 800.0] {
            for class in [0, 1] {
                let (value, d) = binary_cross_entropy(logit, class as f64);
                let (due, d_due) = cross_entropy(&[0.0, logit], class);
                assert!((value - due).abs() < 1e-12 && (d - d_due[1]).abs() < 1e-12, "{logit} {class}");
            }
        }
        let (value, d) = binary_cross_entropy(0.7, 0.25);
        let step = 1e-6;
        let slope =
            (binary_cross_entropy(0.7 + step, 0.25).0 - binary_cross_entropy(0.7 - step, 0.25).0) / (2.0 * step);
        assert!(value > 0.0 && (d - slope).abs() < 1e-9);
    }
}
