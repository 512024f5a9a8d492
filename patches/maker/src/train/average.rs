//! Parameters averaged over a training: less noise than its last step has.

use serde::{Deserialize, Serialize};

use super::Average;

/// What averaging remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Averaged {
    /// The moving average.
    moving: Vec<f32>,
    /// Parameters at the ends of the last passes, oldest first.
    ends: Vec<Vec<f32>>,
}

impl Averaged {
    /// Takes in the parameters after `steps` steps.
    pub fn step(&mut self, how: Average, steps: u64, parameters: &[f32]) {
        let Average::Moving(decay) = how else { return };
        if self.moving.is_empty() {
            self.moving = parameters.to_vec();
            return;
        }
        // Few steps are averaged over less, so that the first values are soon forgotten.
        let decay = decay.min((1.0 + steps as f64) / (10.0 + steps as f64));
        let pairs = self.moving.iter_mut().zip(parameters);
        pairs.for_each(|(mean, p)| *mean = (decay * f64::from(*mean) + (1.0 - decay) * f64::from(*p)) as f32);
    }

    /// What is judged at the end of a pass.
    pub fn pass(&mut self, how: Average, parameters: &[f32]) -> Vec<f32> {
        match how {
            Average::None => parameters.to_vec(),
            Average::Moving(_) => self.moving.clone(),
            Average::Last(passes) => {
                self.ends.push(parameters.to_vec());
                if self.ends.len() as u64 > passes {
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
        let of = |averaged: &mut Averaged, how, value: f32| averaged.pass(how, &[value, -value]);
        assert_eq!(of(&mut last, Average::Last(2), 1.0), [1.0, -1.0]);
        assert_eq!(of(&mut last, Average::Last(2), 3.0), [2.0, -2.0]);
        assert_eq!(of(&mut last, Average::Last(2), 5.0), [4.0, -4.0]);

        let (mut moving, how) = (Averaged::default(), Average::Moving(0.5));
        moving.step(how, 1, &[1.0]);
        // Before the decay is reached: (1 + 2) / (10 + 2).
        moving.step(how, 2, &[2.0]);
        assert_eq!(moving.pass(how, &[9.0]), [1.75]);
        moving.step(how, 100, &[0.0]);
        assert_eq!(moving.pass(how, &[9.0]), [0.875]);
        assert_eq!(moving.pass(Average::None, &[9.0]), [9.0]);
    }
}
