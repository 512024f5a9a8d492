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
