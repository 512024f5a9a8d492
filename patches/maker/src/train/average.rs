//! Averages of parameters over a run, which vary less than the parameters of its last step.

use serde::{Deserialize, Serialize};

use super::Average;

/// The state of averaging.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Averaged {
    /// The exponential moving average.
    ema: Vec<f32>,
    /// Parameters at the ends of the last epochs, oldest first.
    ends: Vec<Vec<f32>>,
}

impl Averaged {
    /// Adds the parameters after `steps` steps.
    pub fn step(&mut self, how: Average, steps: u64, parameters: &[f32]) {
        let Average::Ema(decay) = how else { return };
        if self.ema.is_empty() {
            self.ema = parameters.to_vec();
            return;
        }
        // The decay is smaller in the first steps, so that the initial values soon weigh little.
        let decay = decay.min((1.0 + steps as f64) / (10.0 + steps as f64));
        let pairs = self.ema.iter_mut().zip(parameters);
        pairs.for_each(|(mean, p)| *mean = (decay * f64::from(*mean) + (1.0 - decay) * f64::from(*p)) as f32);
    }

    /// The parameters to evaluate at the end of an epoch.
    pub fn epoch_end(&mut self, how: Average, parameters: &[f32]) -> Vec<f32> {
        match how {
            Average::None => parameters.to_vec(),
            Average::Ema(_) => self.ema.clone(),
            Average::Last(epochs) => {
                self.ends.push(parameters.to_vec());
                if self.ends.len() as u64 > epochs {
                    self.ends.remove(0);
                }
                let count = self.ends.len() as f64;
                let mean = |at: usize| self.ends.iter().map(|end| f64::from(end[at])).sum::<f64>() / count;
                (0..parameters.len()).map(|at| mean(at) as f32).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_of_what_they_say() {
        let mut last = Averaged::default();
        let of = |averaged: &mut Averaged, how, value: f32| averaged.epoch_end(how, &[value, -value]);
        assert_eq!(of(&mut last, Average::Last(2), 1.0), [1.0, -1.0]);
        assert_eq!(of(&mut last, Average::Last(2), 3.0), [2.0, -2.0]);
        assert_eq!(of(&mut last, Average::Last(2), 5.0), [4.0, -4.0]);

        let (mut ema, how) = (Averaged::default(), Average::Ema(0.5));
        ema.step(how, 1, &[1.0]);
        // Before the decay is reached: (1 + 2) / (10 + 2).
        ema.step(how, 2, &[2.0]);
        assert_eq!(ema.epoch_end(how, &[9.0]), [1.75]);
        ema.step(how, 100, &[0.0]);
        assert_eq!(ema.epoch_end(how, &[9.0]), [0.875]);
        assert_eq!(ema.epoch_end(Average::None, &[9.0]), [9.0]);
    }
}
