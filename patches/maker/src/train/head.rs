//! A head in training: one linear layer over a pooled vector or single tokens, forward and backward. Which of them it
//! reads, and the loss of its outputs, are the kind of task's.
//!
//! Shapes: S tokens, H hidden width, R rows that the head reads, C outputs.

use bias_patch::Task;
use edge_run::{
    Tokenized,
    tasks::{self, Loss as OutputLoss, TaskKind, pooling},
};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::data::Gold;

/// A linear layer whose values are a part of the parameters: the weight `[C, H]`, then the bias `[C]`.
pub(crate) struct Head<'a> {
    parameters: &'a [f32],
    kind: Box<dyn TaskKind>,
    outputs: usize,
    hidden: usize,
}

/// What one text adds to the loss, and to the gradients of head and encoder.
pub(crate) struct Loss {
    pub value: f64,
    pub d_tokens: Array2<f32>,
    pub d_pooled: Option<Array1<f32>>,
}

/// Outputs of the head that is trained. Embeddings are trained without one.
fn outputs(task: &Task) -> usize {
    task.kind().outputs().unwrap_or_default()
}

impl<'a> Head<'a> {
    /// How many parameters it has.
    pub fn count(task: &Task, hidden: usize) -> usize {
        outputs(task) * (hidden + 1)
    }

    /// How many of them are its weight.
    pub fn weights(task: &Task, hidden: usize) -> usize {
        outputs(task) * hidden
    }

    /// A head of these parameters.
    pub fn new(task: &Task, parameters: &'a [f32], hidden: usize) -> Self {
        Head { parameters, kind: tasks::of(task.kind()), outputs: outputs(task), hidden }
    }

    /// With losses that are multiplied by the weights of the task's labels, if there are any.
    pub fn weighing(mut self, labels: &[f64]) -> Self {
        self.kind.weigh_labels(labels);
        self
    }

    /// The loss of one text times `weight`, and its gradients; the head's own are added to `d_parameters`. `tokens` is
    /// the last hidden state `[S, H]`, `pooled` the pooler's output `[H]`.
    pub fn loss(
        &self,
        tokens: ArrayView2<'_, f32>,
        pooled: Option<ArrayView1<'_, f32>>,
        text: &Tokenized,
        gold: &Gold,
        weight: f64,
        d_parameters: &mut [f32],
    ) -> Loss {
        self.run(tokens, pooled, text, &mut |outputs| self.kind.loss(text, gold, outputs, weight), d_parameters)
    }

    /// As [`Head::loss`], with a loss of one's own: it gets the outputs `[R, C]`.
    pub fn run(
        &self,
        tokens: ArrayView2<'_, f32>,
        pooled: Option<ArrayView1<'_, f32>>,
        text: &Tokenized,
        loss: &mut dyn FnMut(&[Vec<f64>]) -> OutputLoss,
        d_parameters: &mut [f32],
    ) -> Loss {
        let mut d_tokens = Array2::zeros(tokens.raw_dim());
        let Some(pooling) = self.kind.pooling() else {
            let rows = self.kind.rows(text);
            let read: Vec<ArrayView1<'_, f32>> = rows.iter().map(|row| tokens.row(*row)).collect();
            let found = loss(&self.outputs(&read));
            for ((row, x), d_outputs) in rows.iter().zip(&read).zip(&found.d_outputs) {
                d_tokens.row_mut(*row).assign(&self.backward(*x, d_outputs, d_parameters));
            }
            return Loss { value: found.value, d_tokens, d_pooled: None };
        };
        let x = pooling::forward(pooling, tokens, pooled); // [H]
        let found = loss(&self.outputs(&[x.view()]));
        let d_x = self.backward(x.view(), &found.d_outputs[0], d_parameters); // [H]
        let d_pooled = pooling::backward(pooling, d_x, pooled.is_some(), &mut d_tokens);
        Loss { value: found.value, d_tokens, d_pooled }
    }

    /// The outputs `[R, C]` for R vectors, each `[H]`.
    fn outputs(&self, rows: &[ArrayView1<'_, f32>]) -> Vec<Vec<f64>> {
        rows.iter().map(|x| self.forward(*x)).collect()
    }

    /// The outputs `[C]` for one vector `[H]`.
    fn forward(&self, x: ArrayView1<'_, f32>) -> Vec<f64> {
        let (weight, bias) = self.parameters.split_at(self.outputs * self.hidden);
        let rows = weight.chunks(self.hidden).zip(bias);
        rows.map(|(row, bias)| f64::from(row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>() + bias)).collect()
    }

    /// The gradient `[H]` of one vector, from that of its outputs `[C]`; the head's own is added to `d_parameters`.
    fn backward(&self, x: ArrayView1<'_, f32>, d_outputs: &[f64], d_parameters: &mut [f32]) -> Array1<f32> {
        let weight = &self.parameters[..d_outputs.len() * self.hidden];
        let mut d_x = Array1::<f32>::zeros(self.hidden);
        let (d_weight, d_bias) = d_parameters.split_at_mut(weight.len());
        for (at, d) in d_outputs.iter().enumerate() {
            let d = *d as f32;
            d_bias[at] += d;
            let row = at * self.hidden..(at + 1) * self.hidden;
            d_weight[row.clone()].iter_mut().zip(&x).for_each(|(d_weight, x)| *d_weight += d * x);
            d_x.iter_mut().zip(&weight[row]).for_each(|(d_x, weight)| *d_x += d * weight);
        }
        d_x
    }
}
