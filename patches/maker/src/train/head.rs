//! A head in training: one linear layer over pooled or single tokens, its loss, and the adjoint of both.

use bias_patch::{Pooling, Task};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

use super::data::Gold;

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
    ///
    /// `words` are the first tokens of the text's words, which tagging reads.
    pub fn loss(
        &self,
        tokens: ArrayView2<'_, f32>,
        pooled: Option<ArrayView1<'_, f32>>,
        words: &[Option<usize>],
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
                let read = words.iter().zip(tags).filter_map(|(token, tag)| Some((token.as_ref()?, tag)));
                let count = read.clone().count().max(1) as f64;
                for (token, tag) in read {
                    let (value, d_x) =
                        self.of_vector(tokens.row(*token), &Gold::Class(*tag), share / count, d_parameters);
                    loss.value += value;
                    loss.d_tokens.row_mut(*token).assign(&d_x);
                }
            }
            (None, _) => {}
        }
        loss
    }

    /// The loss of one vector times `share`: cross-entropy of a class, squared error of a value.
    fn of_vector(
        &self,
        x: ArrayView1<'_, f32>,
        gold: &Gold,
        share: f64,
        d_parameters: &mut [f32],
    ) -> (f64, Array1<f32>) {
        let outputs = self.task.kind().outputs();
        let (weight, bias) = self.parameters.split_at(outputs * self.hidden);
        let logits: Vec<f64> = weight
            .chunks(self.hidden)
            .zip(bias)
            .map(|(row, bias)| f64::from(row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>() + bias))
            .collect();
        let (value, d_logits) = match gold {
            Gold::Class(class) => {
                let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
                let shares: Vec<f64> = logits.iter().map(|logit| (logit - top).exp() / sum).collect();
                let hit = |at: usize| f64::from(u8::from(at == *class));
                let d = shares.iter().enumerate().map(|(at, p)| p - hit(at)).collect::<Vec<_>>();
                (sum.ln() + top - logits[*class], d)
            }
            Gold::Value(due) => {
                let error = logits[0] - f64::from(*due);
                (error * error, vec![2.0 * error])
            }
            Gold::Tags(_) => (0.0, vec![0.0; outputs]),
        };
        let mut d_x = Array1::<f32>::zeros(self.hidden);
        let (d_weight, d_bias) = d_parameters.split_at_mut(outputs * self.hidden);
        for (at, d) in d_logits.iter().enumerate() {
            let d = (d * share) as f32;
            d_bias[at] += d;
            let row = at * self.hidden..(at + 1) * self.hidden;
            d_weight[row.clone()].iter_mut().zip(&x).for_each(|(d_weight, x)| *d_weight += d * x);
            d_x.iter_mut().zip(&weight[row]).for_each(|(d_x, weight)| *d_x += d * weight);
        }
        (value * share, d_x)
    }
}
