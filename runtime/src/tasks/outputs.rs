//! What the outputs `[R, C]` of a head are, and how far those of two patches are apart.
//!
//! In: outputs of one text under two patches. Out: their divergence, with its gradient. Nothing is refused; both have one
//! shape.

use super::Loss;

/// What the outputs of a head are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// Each row has the logits of a choice among C.
    Rows,
    /// Each column has the logits of a choice among R.
    Columns,
    /// Each output is a number.
    Numbers,
    /// Each output is the logit of a choice between no and yes.
    Sigmoids,
}

impl Outputs {
    /// How far `outputs` are from `exact`, times `weight`, and its gradient. Of choices: the mean over them of the
    /// Kullback-Leibler divergence of probabilities. Of numbers: the mean of half the squared differences.
    pub fn divergence(self, exact: &[Vec<f64>], outputs: &[Vec<f64>], weight: f64) -> Loss {
        let (exact, found) = (self.lists(exact), self.lists(outputs));
        let weight = weight / found.len().max(1) as f64;
        let mut value = 0.0;
        let mut each = Vec::with_capacity(found.len());
        for (exact, found) in exact.iter().zip(&found) {
            let (p, q) = match self {
                Outputs::Numbers => (exact.clone(), found.clone()),
                _ => (softmax(exact), softmax(found)),
            };
            value += match self {
                Outputs::Numbers => q.iter().zip(&p).map(|(q, p)| 0.5 * (q - p).powi(2)).sum::<f64>(),
                // A probability of 0 adds nothing.
                _ => p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q.max(1e-300)).ln()).sum(),
            };
            each.push(q.iter().zip(&p).map(|(q, p)| weight * (q - p)).collect());
        }
        Loss { value: value * weight, d_outputs: self.rows(each, outputs) }
    }

    /// A random vector `[R, C]` for which the expected square of its product with a small change of the outputs is
    /// twice the divergence that the change makes. `random` gives numbers in 0..1.
    pub fn direction(self, outputs: &[Vec<f64>], random: &mut dyn FnMut() -> f64) -> Vec<Vec<f64>> {
        let lists = self.lists(outputs);
        let scale = 1.0 / (lists.len().max(1) as f64).sqrt();
        let each = lists.iter().map(|list| match self {
            Outputs::Numbers => list.iter().map(|_| if random() < 0.5 { -scale } else { scale }).collect(),
            _ => {
                // The gradient of the logarithm of a drawn choice's probability.
                let p = softmax(list);
                let drawn = draw(&p, random());
                p.iter().enumerate().map(|(at, p)| scale * (f64::from(u8::from(at == drawn)) - p)).collect()
            }
        });
        let each = each.collect();
        self.rows(each, outputs)
    }

    /// The reverse of [`Outputs::lists`], in the form `[R, C]` of `outputs`.
    fn rows(self, lists: Vec<Vec<f64>>, outputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        if self != Outputs::Sigmoids {
            return self.lists(&lists);
        }
        // Of two logits of which one is always 0, the other's.
        let mut logits = lists.into_iter().map(|list| list[1]);
        outputs.iter().map(|row| logits.by_ref().take(row.len()).collect()).collect()
    }

    /// The choices or numbers as lists. Of rows, columns and numbers the reverse of itself.
    fn lists(self, outputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        match self {
            Outputs::Rows | Outputs::Numbers => outputs.to_vec(),
            Outputs::Sigmoids => outputs.iter().flatten().map(|logit| vec![0.0, *logit]).collect(),
            Outputs::Columns => {
                let columns = outputs.first().map_or(0, Vec::len);
                (0..columns).map(|column| outputs.iter().map(|row| row[column]).collect()).collect()
            }
        }
    }
}

/// Probabilities of logits.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

/// The choice in whose part of 0..1 the number `random` is.
pub(super) fn draw(probabilities: &[f64], random: f64) -> usize {
    let mut rest = random;
    let found = probabilities.iter().position(|p| {
        rest -= p;
        rest < 0.0
    });
    found.unwrap_or(probabilities.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Outputs; 4] = [Outputs::Rows, Outputs::Columns, Outputs::Numbers, Outputs::Sigmoids];

    fn pair() -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        (vec![vec![0.3, -1.0], vec![2.0, 0.5], vec![0.0, 0.1]], vec![vec![0.5, -0.2], vec![1.0, 0.7], vec![0.4, -0.3]])
    }

    #[test]
    fn the_gradient_is_that_of_the_divergence() {
        let (exact, found) = pair();
        for form in FORMS {
            assert_eq!(form.divergence(&exact, &exact, 2.0).value, 0.0, "{form:?}");
            let loss = form.divergence(&exact, &found, 2.0);
            assert!(loss.value > 0.0);
            for row in 0..3 {
                for column in 0..2 {
                    let moved = |by: f64| {
                        let mut moved = found.clone();
                        moved[row][column] += by;
                        form.divergence(&exact, &moved, 2.0).value
                    };
                    let due = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!((loss.d_outputs[row][column] - due).abs() < 1e-8, "{form:?}, row {row}, column {column}");
                }
            }
        }
    }

    #[test]
    fn directions_measure_the_divergence_of_small_changes() {
        let (exact, towards) = pair();
        let change = |row: usize, column: usize| 0.01 * (towards[row][column] - exact[row][column]);
        let changed: Vec<Vec<f64>> =
            (0..3).map(|row| (0..2).map(|column| exact[row][column] + change(row, column)).collect()).collect();
        for form in FORMS {
            // SplitMix64.
            let mut state = 7u64;
            let mut random = || {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
            };
            const DRAWS: usize = 20_000;
            let mut sum = 0.0;
            for _ in 0..DRAWS {
                let direction = form.direction(&exact, &mut random);
                let product: f64 = (0..3)
                    .flat_map(|row| (0..2).map(move |column| (row, column)))
                    .map(|(r, c)| direction[r][c] * change(r, c))
                    .sum();
                sum += 0.5 * product * product / DRAWS as f64;
            }
            let due = form.divergence(&exact, &changed, 1.0).value;
            // Twenty thousand draws of products that vary by less than a few times their mean.
            assert!((sum / due - 1.0).abs() < 0.05, "{form:?}: {sum:e}, expected {due:e}");
        }
    }

    #[test]
    fn choices_are_drawn_by_their_probabilities() {
        let drawn: Vec<usize> = [0.0, 0.19, 0.21, 0.69, 0.71, 1.0].map(|r| draw(&[0.2, 0.5, 0.3], r)).to_vec();
        assert_eq!(drawn, [0, 0, 1, 1, 2, 2]);
    }
}
