//! One vector of a sequence for the head: the first token's, the last token's, the mean, or the pooler's. Shapes: S
//! tokens, H hidden width.

use bias_patch::Pooling;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// The pooled vector, `[H]`, of the last hidden state `[S, H]` and the pooler's output `[H]` where there is one.
///
/// Attaching refuses a patch that needs a missing pooler, so here the first token's vector is only a fallback.
pub fn forward(pooling: Pooling, tokens: ArrayView2<'_, f32>, pooled: Option<ArrayView1<'_, f32>>) -> Array1<f32> {
    match (pooling, pooled) {
        (Pooling::Mean, _) => tokens.sum_axis(Axis(0)) / tokens.nrows() as f32,
        (Pooling::Pooler, Some(pooled)) => pooled.to_owned(),
        // A sequence has its special tokens at least.
        (Pooling::Last, _) => tokens.row(tokens.nrows() - 1).to_owned(),
        (Pooling::Cls | Pooling::Pooler, _) => tokens.row(0).to_owned(),
    }
}

/// The backward pass of [`forward`]: adds the gradient of the tokens to `d_tokens`, `[S, H]`. Gives the gradient of the
/// pooler's output, `[H]`, if that is the vector. `has_pooled` says whether there was one.
pub fn backward(
    pooling: Pooling,
    d_vector: Array1<f32>,
    has_pooled: bool,
    d_tokens: &mut Array2<f32>,
) -> Option<Array1<f32>> {
    match pooling {
        Pooling::Mean => {
            let count = d_tokens.nrows() as f32;
            *d_tokens += &(d_vector / count);
            None
        }
        Pooling::Pooler if has_pooled => Some(d_vector),
        Pooling::Last => {
            let last = d_tokens.nrows() - 1;
            d_tokens.row_mut(last).assign(&d_vector);
            None
        }
        Pooling::Cls | Pooling::Pooler => {
            d_tokens.row_mut(0).assign(&d_vector);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{arr1, arr2};

    use super::*;

    /// `backward` is the transpose of `forward`: both give the same product with any vector. The numbers are exact.
    #[test]
    fn backward_is_the_transpose_of_forward() {
        let (tokens, pooled) = (arr2(&[[1.0f32, 2.0], [3.0, -4.0], [5.0, 8.0], [-1.0, 2.0]]), arr1(&[0.5, -0.25]));
        let d_vector = arr1(&[2.0f32, -3.0]);
        for pooling in [Pooling::Cls, Pooling::Mean, Pooling::Pooler, Pooling::Last] {
            for pooled in [None, Some(pooled.view())] {
                let vector = forward(pooling, tokens.view(), pooled);
                let mut d_tokens = Array2::zeros(tokens.raw_dim());
                let d_pooled = backward(pooling, d_vector.clone(), pooled.is_some(), &mut d_tokens);
                let of_pooled = d_pooled.zip(pooled).map_or(0.0, |(d, pooled)| d.dot(&pooled));
                assert_eq!(vector.dot(&d_vector), (&d_tokens * &tokens).sum() + of_pooled, "{pooling:?}");
            }
        }
    }
}
