//! A head in training: one linear layer over pooled or single tokens, its loss, and the adjoint of both.
//!
//! The loss of a text is the cross-entropy of its label, the squared error of its value, the mean over its words of the
//! cross-entropy of their labels, or for span extraction the mean of two cross-entropies: of the token that the answer begins
//! with, and of the one it ends with. As in BERT's SQuAD head each is of a softmax over tokens; here over the tokens of the
//! second text alone, since answers are looked for nowhere else.

use bias_patch::{Pooling, Task};
use edge_run::Tokenized;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

use crate::data::Gold;

/// A linear layer whose values are a part of the parameters: the weight `[outputs, H]`, then the bias `[outputs]`.
pub(crate) struct Head<'a> {
    pub parameters: &'a [f32],
    pub task: &'a Task,
    pub hidden: usize,
}

/// What one text adds to the loss, and to the gradients of head and encoder.
pub(crate) struct Loss {
    pub value: f64,
    pub d_tokens: Array2<f32>,
    pub d_pooled: Option<Array1<f32>>,
}

impl Head<'_> {
    /// How many parameters it has.
    pub fn count(task: &Task, hidden: usize) -> usize {
        task.kind().outputs() * (hidden + 1)
    }

    /// The loss of one text times `share`, and its gradients; the head's own are added to `d_parameters`.
    pub fn loss(
        &self,
        tokens: ArrayView2<'_, f32>,
        pooled: Option<ArrayView1<'_, f32>>,
        text: &Tokenized,
        gold: &Gold,
        share: f64,
        d_parameters: &mut [f32],
    ) -> Loss {
        let mut loss = Loss { value: 0.0, d_tokens: Array2::zeros(tokens.raw_dim()), d_pooled: None };
        match (self.task.kind().pooling(), gold) {
            (Some(pooling), gold) => {
                let x = match (pooling, pooled) {
                    (Pooling::Mean, _) => tokens.sum_axis(Axis(0)) / tokens.nrows() as f32,
                    (Pooling::Pooler, Some(pooled)) => pooled.to_owned(),
                    _ => tokens.row(0).to_owned(),
                };
                let (value, d_x) = self.of_vector(x.view(), gold, share, d_parameters);
                loss.value = value;
                match pooling {
                    Pooling::Mean => loss.d_tokens += &(d_x / tokens.nrows() as f32),
                    Pooling::Pooler if pooled.is_some() => loss.d_pooled = Some(d_x),
                    _ => loss.d_tokens.row_mut(0).assign(&d_x),
                }
            }
            (None, Gold::Tags(tags)) => {
                let read = text.words().iter().zip(tags).filter_map(|(token, tag)| Some((token.as_ref()?, tag)));
                let count = read.clone().count().max(1) as f64;
                for (token, tag) in read {
                    let (value, d_x) =
                        self.of_vector(tokens.row(*token), &Gold::Class(*tag), share / count, d_parameters);
                    loss.value += value;
                    loss.d_tokens.row_mut(*token).assign(&d_x);
                }
            }
            (None, Gold::Span(answers)) => {
                if let Some(answer) = answers.first().and_then(|answer| text.span(*answer)) {
                    self.of_span(tokens, text, answer, share, d_parameters, &mut loss);
                }
            }
            (None, _) => {}
        }
        loss
    }

    /// The loss of an answer from its first to its last token, times `share`.
    fn of_span(
        &self,
        tokens: ArrayView2<'_, f32>,
        text: &Tokenized,
        (first, last): (usize, usize),
        share: f64,
        d_parameters: &mut [f32],
        loss: &mut Loss,
    ) {
        let inside: Vec<usize> = text.second().collect();
        let logits: Vec<Vec<f64>> = inside.iter().map(|token| self.logits(tokens.row(*token))).collect();
        let mut d_logits = vec![Vec::new(); inside.len()];
        for (output, due) in [first, last].into_iter().enumerate() {
            let column: Vec<f64> = logits.iter().map(|logits| logits[output]).collect();
            // A window that holds the answer holds both of its ends.
            let due = inside.iter().position(|token| *token == due).unwrap_or_default();
            let (value, d) = cross_entropy(&column, due);
            loss.value += 0.5 * share * value;
            d_logits.iter_mut().zip(d).for_each(|(d_logits, d)| d_logits.push(0.5 * d));
        }
        for (token, d_logits) in inside.iter().zip(&d_logits) {
            let d_x = self.adjoint(tokens.row(*token), d_logits, share, d_parameters);
            loss.d_tokens.row_mut(*token).assign(&d_x);
        }
    }

    /// The loss of one vector times `share`: cross-entropy of a class, squared error of a value.
    fn of_vector(
        &self,
        x: ArrayView1<'_, f32>,
        gold: &Gold,
        share: f64,
        d_parameters: &mut [f32],
    ) -> (f64, Array1<f32>) {
        let logits = self.logits(x);
        let (value, d_logits) = match gold {
            Gold::Class(class) => cross_entropy(&logits, *class),
            Gold::Value(due) => {
                let error = logits[0] - f64::from(*due);
                (error * error, vec![2.0 * error])
            }
            Gold::Tags(_) | Gold::Span(_) => (0.0, vec![0.0; logits.len()]),
        };
        (value * share, self.adjoint(x, &d_logits, share, d_parameters))
    }

    /// The outputs for one vector.
    fn logits(&self, x: ArrayView1<'_, f32>) -> Vec<f64> {
        let (weight, bias) = self.parameters.split_at(self.task.kind().outputs() * self.hidden);
        let rows = weight.chunks(self.hidden).zip(bias);
        rows.map(|(row, bias)| f64::from(row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>() + bias)).collect()
    }

    /// The gradient of one vector, from those of its outputs times `share`; the head's own are added to `d_parameters`.
    fn adjoint(&self, x: ArrayView1<'_, f32>, d_logits: &[f64], share: f64, d_parameters: &mut [f32]) -> Array1<f32> {
        let weight = &self.parameters[..d_logits.len() * self.hidden];
        let mut d_x = Array1::<f32>::zeros(self.hidden);
        let (d_weight, d_bias) = d_parameters.split_at_mut(weight.len());
        for (at, d) in d_logits.iter().enumerate() {
            let d = (d * share) as f32;
            d_bias[at] += d;
            let row = at * self.hidden..(at + 1) * self.hidden;
            d_weight[row.clone()].iter_mut().zip(&x).for_each(|(d_weight, x)| *d_weight += d * x);
            d_x.iter_mut().zip(&weight[row]).for_each(|(d_x, weight)| *d_x += d * weight);
        }
        d_x
    }
}

/// The cross-entropy of a class under the softmax of logits, and its gradient.
fn cross_entropy(logits: &[f64], class: usize) -> (f64, Vec<f64>) {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
    let hit = |at: usize| f64::from(u8::from(at == class));
    let d = logits.iter().enumerate().map(|(at, logit)| (logit - top).exp() / sum - hit(at));
    (sum.ln() + top - logits[class], d.collect())
}
