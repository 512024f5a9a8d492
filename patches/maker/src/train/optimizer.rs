//! AdamW (Loshchilov and Hutter 2019) for one list of parameters, gradient clipping, and a learning rate with linear
//! warmup and linear decay.

use serde::{Deserialize, Serialize};

/// The state of AdamW.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct AdamW {
    /// Exponential moving averages of the gradients and of their squares.
    first: Vec<f32>,
    second: Vec<f32>,
    /// Steps done.
    pub steps: u64,
}

impl AdamW {
    pub fn new(parameters: usize) -> Self {
        AdamW { first: vec![0.0; parameters], second: vec![0.0; parameters], steps: 0 }
    }

    /// One step against the gradients, with decoupled weight decay. `rates` has each parameter's learning rate.
    pub fn step(
        &mut self,
        parameters: &mut [f32],
        gradients: &[f32],
        rates: impl Iterator<Item = f64>,
        weight_decay: f64,
    ) {
        const BETAS: (f64, f64) = (0.9, 0.999);
        const EPSILON: f64 = 1e-8;
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powi(i32::try_from(self.steps).unwrap_or(i32::MAX));
        let (of_first, of_second) = (correction(BETAS.0), correction(BETAS.1));
        let moments = self.first.iter_mut().zip(&mut self.second);
        let each = parameters.iter_mut().zip(gradients).zip(rates).zip(moments);
        for (((parameter, gradient), learning_rate), (first, second)) in each {
            let g = f64::from(*gradient);
            let m = BETAS.0 * f64::from(*first) + (1.0 - BETAS.0) * g;
            let v = BETAS.1 * f64::from(*second) + (1.0 - BETAS.1) * g * g;
            (*first, *second) = (m as f32, v as f32);
            let adam = m / of_first / ((v / of_second).sqrt() + EPSILON);
            let change = learning_rate * (adam + weight_decay * f64::from(*parameter));
            *parameter = (f64::from(*parameter) - change) as f32;
        }
    }
}

/// The learning rate of step `step`, from 0, of `steps`: warmed up over the fraction `warmup` of the steps, and decayed
/// linearly from `highest` to 0 over all of them.
pub(crate) fn learning_rate_at(highest: f64, step: u64, steps: u64, warmup: f64) -> f64 {
    let (step, steps) = (step as f64, steps as f64);
    highest * (1.0f64).min((step + 1.0) / (warmup * steps).max(1.0)) * ((steps - step) / steps)
}

/// Scales the gradients of several lists so that their norm together is at most `limit`. Gives the norm before.
pub(crate) fn clip(gradients: &mut [&mut [f32]], limit: f64) -> f64 {
    let squares = |list: &&mut [f32]| list.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    let norm = gradients.iter().map(squares).sum::<f64>().sqrt();
    if norm > limit {
        let factor = (limit / (norm + 1e-6)) as f32;
        gradients.iter_mut().flat_map(|list| list.iter_mut()).for_each(|g| *g *= factor);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_pytorch() {
        // torch.optim.AdamW([1.0, -2.0], lr=0.1, weight_decay=0.01), gradients [0.5, -1.0] and then [0.25, 3.0].
        let mut parameters = [1.0f32, -2.0];
        let mut adam = AdamW::new(2);
        adam.step(&mut parameters, &[0.5, -1.0], [0.1; 2].into_iter(), 0.01);
        assert!((parameters[0] - 0.899).abs() < 1e-6 && (parameters[1] + 1.898).abs() < 1e-6, "{parameters:?}");
        adam.step(&mut parameters, &[0.25, 3.0], [0.1; 2].into_iter(), 0.01);
        // By hand: m = 0.07 / 0.19, v = 0.000312... / 0.001999; and m = 0.21 / 0.19, v = 0.009999 / 0.001999.
        let due = |p: f64, g: (f64, f64)| {
            let m = (0.9 * 0.1 * g.0 + 0.1 * g.1) / (1.0 - 0.9f64.powi(2));
            let v = (0.999 * 0.001 * g.0 * g.0 + 0.001 * g.1 * g.1) / (1.0 - 0.999f64.powi(2));
            p - 0.1 * (m / (v.sqrt() + 1e-8) + 0.01 * p)
        };
        assert!((f64::from(parameters[0]) - due(0.899, (0.5, 0.25))).abs() < 1e-5);
        assert!((f64::from(parameters[1]) - due(-1.898, (-1.0, 3.0))).abs() < 1e-5);
    }

    #[test]
    fn the_learning_rate_is_warmed_up_and_decayed() {
        let rates: Vec<f64> = (0..100).map(|step| learning_rate_at(1.0, step, 100, 0.1)).collect();
        assert!((rates[0] - 0.1).abs() < 1e-12 && (rates[9] - 0.91).abs() < 1e-12 && (rates[99] - 0.01).abs() < 1e-12);
        assert!(learning_rate_at(1.0, 0, 1, 0.06) == 1.0);
    }

    #[test]
    fn long_gradients_are_clipped() {
        let mut gradients = [3.0f32, 4.0];
        assert_eq!(clip(&mut [&mut gradients], 10.0), 5.0);
        assert_eq!(gradients, [3.0, 4.0]);
        clip(&mut [&mut gradients], 1.0);
        assert!((gradients[0] - 0.6).abs() < 1e-6 && (gradients[1] - 0.8).abs() < 1e-6);
        // Lists are clipped together.
        let (mut first, mut second) = ([3.0f32], [4.0f32]);
        assert_eq!(clip(&mut [&mut first, &mut second], 1.0), 5.0);
        assert!((first[0] - 0.6).abs() < 1e-6 && (second[0] - 0.8).abs() < 1e-6);
    }
}
