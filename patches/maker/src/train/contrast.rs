//! The loss of embeddings, which compares the texts of a step with each other, and its gradient.
//!
//! In: pairs of texts, which all have a similarity or all have none. Out: the loss and the gradient
//! of the task's values. Nothing is refused. With numbers the loss is CoSENT (Huang et al. 2024); without it is InfoNCE
//! (van den Oord et al. 2018), in which the candidates for a first text are the second texts of the step and all texts
//! that are unlike a first one. Candidates with the same tokens as the right one are left out. Both losses multiply
//! cosines by 20, as sentence-transformers does.
//!
//! A step runs forward twice, first for all vectors and then again with the backward pass (Gao et al. 2021), so only the
//! vectors take memory for every text of a step: 16 bytes a value.

use bias_patch::{Embedding, Pooling, Values};
use edge_run::{Encoder, Extent, Tokenized, tasks::pooling};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use super::{Gradient, texts::TrainingText};
use crate::{Result, data::Gold};

/// What cosines are multiplied by: 1 / temperature.
const SCALE: f64 = 20.0;

/// The gradient of a step of some pairs. `wanted`, `tokens` and `extent` are as in [`super::gradient_over`].
pub(super) fn gradient(
    encoder: &Encoder,
    spec: &Embedding,
    values: &Values,
    pairs: &[&TrainingText<'_>],
    wanted: &[bool],
    tokens: usize,
    extent: Extent<'_>,
) -> Result<Gradient> {
    let texts: Vec<&Tokenized> = pairs.iter().flat_map(|pair| pair.texts()).collect();
    let dimensions = spec.dimensions.map_or(usize::MAX, |dimensions| dimensions as usize);
    let mut vectors: Vec<Unit> = Vec::with_capacity(texts.len());
    let nothing = vec![false; wanted.len()];
    encoder.gradient_over(extent.without_weights(), values, &texts, &nothing, tokens, &mut |_, tokens, pooled| {
        let vector = pooling::forward(spec.pooling, tokens, pooled);
        vectors.push(Unit::of(vector.iter().take(dimensions).map(|v| f64::from(*v)).collect()));
        unchanged(spec.pooling, tokens, pooled)
    })?;
    let of_pairs: Vec<(usize, &Gold)> = pairs.iter().map(|pair| (1 + pair.with.len(), pair.gold)).collect();
    let ids: Vec<&[u32]> = texts.iter().map(|text| text.ids()).collect();
    let (loss, d_vectors) = loss(&of_pairs, &ids, &vectors);
    let values = encoder.gradient_over(extent, values, &texts, wanted, tokens, &mut |at, tokens, pooled| {
        let d = vectors[at].backward(&d_vectors[at]);
        let d = Array1::from_shape_fn(tokens.ncols(), |column| d.get(column).map_or(0.0, |d| *d as f32));
        let mut d_tokens = Array2::zeros(tokens.raw_dim());
        let d_pooled = pooling::backward(spec.pooling, d, pooled.is_some(), &mut d_tokens);
        (d_tokens, d_pooled)
    })?;
    Ok(Gradient { loss, values, head: Vec::new() })
}

/// No gradient of a text.
fn unchanged(
    of: Pooling,
    tokens: ArrayView2<'_, f32>,
    pooled: Option<ArrayView1<'_, f32>>,
) -> (Array2<f32>, Option<Array1<f32>>) {
    (Array2::zeros(tokens.raw_dim()), pooled.filter(|_| of == Pooling::Pooler).map(|p| Array1::zeros(p.len())))
}

/// A vector divided by its length.
struct Unit {
    values: Vec<f64>,
    length: f64,
}

impl Unit {
    fn of(mut values: Vec<f64>) -> Self {
        // As PyTorch's `normalize`: a vector of zeros stays one.
        let length = dot(&values, &values).sqrt().max(1e-12);
        values.iter_mut().for_each(|v| *v /= length);
        Unit { values, length }
    }

    /// The gradient of the vector, from that of the divided one.
    fn backward(&self, d: &[f64]) -> Vec<f64> {
        let along = dot(&self.values, d);
        self.values.iter().zip(d).map(|(u, d)| (d - u * along) / self.length).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The loss of a step, and its gradients of the normalized vectors. Of each pair: how many texts it has, and its gold
/// label. Of each text, pair after pair: its tokens and its vector.
fn loss(pairs: &[(usize, &Gold)], ids: &[&[u32]], vectors: &[Unit]) -> (f64, Vec<Vec<f64>>) {
    // The places of each pair's first text among all.
    let firsts = pairs.iter().scan(0, |next, (texts, _)| {
        let first = *next;
        *next += texts;
        Some(first)
    });
    let firsts: Vec<usize> = firsts.collect();
    let cosine = |a: usize, b: usize| dot(&vectors[a].values, &vectors[b].values);
    let mut d_vectors: Vec<Vec<f64>> = vectors.iter().map(|vector| vec![0.0; vector.values.len()]).collect();
    let mut add = |a: usize, b: usize, d: f64| {
        for (of, with) in [(a, b), (b, a)] {
            d_vectors[of].iter_mut().zip(&vectors[with].values).for_each(|(into, v)| *into += d * v);
        }
    };
    let values: Option<Vec<f32>> = pairs
        .iter()
        .map(|(_, gold)| match gold {
            Gold::Value(value) => Some(*value),
            _ => None,
        })
        .collect();
    let value = match values {
        Some(values) => {
            let cosines: Vec<f64> = firsts.iter().map(|first| cosine(*first, first + 1)).collect();
            let (value, d) = cosent(&cosines, &values);
            firsts.iter().zip(d).for_each(|(first, d)| add(*first, first + 1, d));
            value
        }
        None => {
            let candidates: Vec<usize> = (0..ids.len()).filter(|at| !firsts.contains(at)).collect();
            let weight = 1.0 / pairs.len() as f64;
            let mut sum = 0.0;
            for first in &firsts {
                let due = first + 1;
                // The same text elsewhere in the step is as right.
                let counts = |at: &&usize| **at == due || ids[**at] != ids[due];
                let of_first: Vec<usize> = candidates.iter().filter(counts).copied().collect();
                let cosines: Vec<f64> = of_first.iter().map(|at| cosine(*first, *at)).collect();
                let place = of_first.iter().position(|at| *at == due).unwrap_or_default();
                let (value, d) = info_nce(&cosines, place);
                sum += weight * value;
                of_first.iter().zip(d).for_each(|(at, d)| add(*first, *at, weight * d));
            }
            sum
        }
    };
    (value, d_vectors)
}

/// InfoNCE of one text, from its cosines with all candidates of which number `due` is right, and its gradient.
fn info_nce(cosines: &[f64], due: usize) -> (f64, Vec<f64>) {
    let logits: Vec<f64> = cosines.iter().map(|cosine| SCALE * cosine).collect();
    let (value, d) = edge_run::tasks::loss::cross_entropy(&logits, due);
    (value, d.into_iter().map(|d| SCALE * d).collect())
}

/// CoSENT of pairs, from their cosines and how alike they are, and its gradient: the logarithm of 1 plus the sum of
/// exp(20 (cosine of the less alike - cosine of the more alike)) over two pairs.
fn cosent(cosines: &[f64], values: &[f32]) -> (f64, Vec<f64>) {
    let ordered = |more: usize, less: usize| values[more] > values[less];
    let each = || (0..cosines.len()).flat_map(|more| (0..cosines.len()).map(move |less| (more, less)));
    let exponent = |(more, less): (usize, usize)| SCALE * (cosines[less] - cosines[more]);
    let counted = || each().filter(|(more, less)| ordered(*more, *less));
    let top = counted().map(exponent).fold(0.0, f64::max);
    let sum = (-top).exp() + counted().map(|pair| (exponent(pair) - top).exp()).sum::<f64>();
    let mut d = vec![0.0; cosines.len()];
    for (more, less) in counted() {
        let part = SCALE * (exponent((more, less)) - top).exp() / sum;
        d[less] += part;
        d[more] -= part;
    }
    (sum.ln() + top, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values by CoSENTLoss and MultipleNegativesRankingLoss of sentence-transformers 6.2.0: see
    /// tests/reference/contrast.py.
    #[test]
    fn losses_are_those_of_sentence_transformers() {
        let cosines = [0.9, 0.2, -0.4, 0.5];
        let (value, _) = cosent(&cosines, &[4.0, 2.5, 2.5, 0.0]);
        assert!((value / COSENT - 1.0).abs() < 1e-6, "{value}");
        let mean = (info_nce(&[0.9, 0.2, 0.3], 0).0 + info_nce(&[-0.4, 0.5, 0.45], 1).0) / 2.0;
        assert!((mean - INFO_NCE).abs() < 1e-6, "{mean}");
    }

    const COSENT: f64 = 18.000_006;
    const INFO_NCE: f64 = 0.156_634_8;

    /// Three pairs, of which two have the same second text, and one negative.
    #[test]
    fn the_gradient_of_a_step_is_that_of_its_loss() {
        let gold = Gold::Pair(Vec::new());
        let pairs = [(2, &gold), (3, &gold), (2, &gold)];
        let ids: Vec<&[u32]> = vec![&[1], &[2], &[3], &[4], &[5], &[6], &[2]];
        let vectors: Vec<Vec<f64>> =
            (0..7).map(|at| (0..3).map(|column| ((at * 5 + column * 3) % 7) as f64 - 2.5).collect()).collect();
        let of = |vectors: &[Vec<f64>]| {
            let units: Vec<Unit> = vectors.iter().map(|vector| Unit::of(vector.clone())).collect();
            let (value, d) = loss(&pairs, &ids, &units);
            (value, units.iter().zip(d).map(|(unit, d)| unit.backward(&d)).collect::<Vec<_>>())
        };
        let (_, d) = of(&vectors);
        for at in 0..vectors.len() {
            for column in 0..3 {
                let moved = |by: f64| {
                    let mut moved = vectors.clone();
                    moved[at][column] += by;
                    of(&moved).0
                };
                let due = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((d[at][column] - due).abs() < 1e-6, "{at} {column}: {}, expected {due}", d[at][column]);
            }
        }
    }

    #[test]
    fn gradients_are_those_of_the_losses() {
        let cosines = [0.3, 0.25, -0.4, 0.35];
        let values = [4.0, 2.5, 2.5, 0.0];
        for (of, loss) in [
            ("CoSENT", &(|c: &[f64]| cosent(c, &values)) as &dyn Fn(&[f64]) -> (f64, Vec<f64>)),
            ("InfoNCE", &|c: &[f64]| info_nce(c, 1)),
        ] {
            let (_, d) = loss(&cosines);
            for at in 0..cosines.len() {
                let moved = |by: f64| {
                    let mut moved = cosines;
                    moved[at] += by;
                    loss(&moved).0
                };
                let due = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((d[at] - due).abs() < 1e-6, "{of} {at}: {}, expected {due}", d[at]);
            }
        }
    }

    #[test]
    fn the_gradient_of_a_divided_vector_is_across_it() {
        let (vector, d) = (vec![3.0, -4.0, 12.0], [0.5, 1.0, -2.0]);
        let found = Unit::of(vector.clone()).backward(&d);
        for at in 0..3 {
            let moved = |by: f64| {
                let mut moved = vector.clone();
                moved[at] += by;
                dot(&Unit::of(moved).values, &d)
            };
            let due = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((found[at] - due).abs() < 1e-8, "{at}: {}, expected {due}", found[at]);
        }
    }
}
