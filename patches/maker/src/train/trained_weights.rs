//! Training of weights, for comparison with BitFit as in the paper. A patch cannot hold weights.
//!
//! In: an encoder, and which of its weights are trained. Out: after every step, an encoder with the trained weights.
//! Refused: an encoder with quantized weights. Weights are all parameters but biases: embedding tables, matrices and
//! LayerNorm gains, as the paper chooses "from the entire model". The pooler's weights are among them, even if the task
//! does not use the pooler; their gradient is then 0.

use std::collections::BTreeSet;

use edge_bundle::PanelEntry;
use edge_run::{Encoder, Extent, OwnWeights};

use super::{Weights, optimizer::AdamW};
use crate::{Result, random::Random};

/// Weights that are being trained.
pub(super) struct TrainedWeights {
    own: OwnWeights,
    trained: Part,
}

/// The trained ones among a list of weights.
struct Part {
    /// Their indices, in ascending order; none for all.
    places: Option<Vec<usize>>,
    /// The gradient of the whole list.
    gradient: Vec<f32>,
    adam: AdamW,
}

impl TrainedWeights {
    /// The encoder's own weights, before the first step. `count` is how many are trained, unless all are; `seed`
    /// decides which.
    pub fn begin(encoder: &Encoder, which: Weights, count: usize, seed: u64) -> Result<Self> {
        let own = encoder.own_weights()?;
        let tensors: Vec<_> = own.tensors().iter().map(|tensor| (own.start(tensor), tensor)).collect();
        let trained = Part::new(chosen(&tensors, which, count, seed), own.values().len());
        Ok(TrainedWeights { own, trained })
    }

    /// The encoder with the current weights. It has to be dropped before the next step, which would copy the weights
    /// otherwise.
    pub fn encoder(&self, encoder: &Encoder) -> Result<Encoder> {
        Ok(encoder.with_weights(&self.own)?)
    }

    /// What a step runs over: all of the encoder, with a gradient of every weight that is zero.
    pub fn extent(&mut self) -> Extent<'_> {
        self.trained.gradient.fill(0.0);
        Extent::Weights(&mut self.trained.gradient)
    }

    /// The gradient of the trained weights alone. It overwrites the gradient of all weights; [`TrainedWeights::step`]
    /// uses it.
    pub fn picked(&mut self) -> &mut [f32] {
        self.trained.picked()
    }

    /// One step of AdamW against the gradient of the trained weights.
    pub fn step(&mut self, learning_rate: f64, weight_decay: f64) {
        self.trained.step(self.own.values_mut(), learning_rate, weight_decay);
    }
}

impl Part {
    /// The weights at `places` of a list of `all`.
    fn new(places: Option<Vec<usize>>, all: usize) -> Self {
        let adam = AdamW::new(places.as_ref().map_or(all, Vec::len));
        Part { places, gradient: vec![0.0; all], adam }
    }

    fn picked(&mut self) -> &mut [f32] {
        let Some(places) = &self.places else { return &mut self.gradient };
        // Places are in ascending order, so none is overwritten before it is read.
        for (at, place) in places.iter().enumerate() {
            self.gradient[at] = self.gradient[*place];
        }
        &mut self.gradient[..places.len()]
    }

    fn step(&mut self, values: &mut [f32], learning_rate: f64, weight_decay: f64) {
        let Some(places) = &self.places else {
            return self.adam.step(values, &self.gradient, std::iter::repeat(learning_rate), weight_decay);
        };
        let mut trained: Vec<f32> = places.iter().map(|place| values[*place]).collect();
        let rates = std::iter::repeat(learning_rate);
        self.adam.step(&mut trained, &self.gradient[..places.len()], rates, weight_decay);
        places.iter().zip(trained).for_each(|(place, value)| values[*place] = value);
    }
}

/// The indices of about `count` weights of tensors, each with the index of its first; none for all.
fn chosen(tensors: &[(usize, &PanelEntry)], which: Weights, count: usize, seed: u64) -> Option<Vec<usize>> {
    /// The purpose of this random stream: a number that no epoch reaches.
    const PURPOSE: u64 = u64::MAX - 1;
    let mut random = Random::new(seed, PURPOSE);
    let mut places = BTreeSet::new();
    match which {
        Weights::Full => return None,
        Weights::Random => {
            let size = |tensor: &PanelEntry| tensor.rows as usize * tensor.columns as usize;
            let all = tensors.iter().map(|(_, tensor)| size(tensor)).sum();
            while places.len() < count.min(all) {
                let mut at = random.below(all);
                for (start, tensor) in tensors {
                    if at < size(tensor) {
                        let columns = tensor.columns as usize;
                        places.insert(start + tensor.place(at / columns, at % columns));
                        break;
                    }
                    at -= size(tensor);
                }
            }
        }
        Weights::Rows => {
            // Each row and column of every matrix: its tensor, whether it is a row, and its number.
            let mut lines = Vec::new();
            for (start, tensor) in tensors.iter().filter(|(_, tensor)| tensor.rows > 1) {
                lines.extend((0..tensor.rows as usize).map(|row| (*start, *tensor, true, row)));
                lines.extend((0..tensor.columns as usize).map(|column| (*start, *tensor, false, column)));
            }
            random.shuffle(&mut lines);
            for (start, tensor, is_row, at) in lines {
                let line = if is_row { tensor.columns } else { tensor.rows } as usize;
                if places.len() + line <= count {
                    let place = |other| if is_row { tensor.place(at, other) } else { tensor.place(other, at) };
                    places.extend((0..line).map(|other| start + place(other)));
                }
            }
        }
    }
    Some(places.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use edge_bundle::Element;

    use super::*;

    fn tensor(name: &str, rows: u32, columns: u32, in_panels: bool) -> PanelEntry {
        PanelEntry { name: name.to_owned(), rows, columns, element: Element::F32, in_panels, offset: 0 }
    }

    #[test]
    fn as_many_are_chosen_as_asked_for_and_never_padding() {
        let (gain, table, matrix) = (tensor("g", 1, 20, false), tensor("t", 30, 20, false), tensor("m", 20, 24, true));
        let tensors = [(0, &gain), (32, &table), (640, &matrix)];
        let inside = |place: usize| match place {
            0..20 | 32..632 => true,
            // The second panel has eight columns.
            640..1280 => place < 960 || (place - 960) % 16 < 8,
            _ => false,
        };
        for seed in 1..20 {
            let places = chosen(&tensors, Weights::Random, 300, seed).unwrap();
            assert_eq!(places.len(), 300);
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]) && places.iter().all(|place| inside(*place)));
            assert_eq!(places, chosen(&tensors, Weights::Random, 300, seed).unwrap());
            assert_ne!(places, chosen(&tensors, Weights::Random, 300, seed + 100).unwrap());
            let lines = chosen(&tensors, Weights::Rows, 300, seed).unwrap();
            assert!((270..=300).contains(&lines.len()), "{}", lines.len());
            assert!(lines.iter().all(|place| *place >= 32 && inside(*place)));
        }
        // There are no more than all.
        assert_eq!(chosen(&tensors, Weights::Random, 5000, 1).unwrap().len(), 20 + 600 + 480);
        assert!(chosen(&tensors, Weights::Rows, 19, 1).unwrap().is_empty());
        assert_eq!(chosen(&tensors, Weights::Full, 300, 1), None);
    }

    #[test]
    fn exactly_the_chosen_weights_move() {
        const ALL: usize = 1280;
        let (table, matrix) = (tensor("t", 30, 20, false), tensor("m", 20, 24, true));
        for (which, counts) in [
            (Weights::Random, 300..=300),
            // No line is longer than 30.
            (Weights::Rows, 270..=300),
            (Weights::Full, ALL..=ALL),
        ] {
            let places = chosen(&[(32, &table), (640, &matrix)], which, 300, 7);
            let due = places.clone().unwrap_or_else(|| (0..ALL).collect());
            assert!(counts.contains(&due.len()), "{which:?} {}", due.len());
            let mut part = Part::new(places, ALL);
            let mut values = vec![1.0f32; ALL];
            // A different gradient at every place, positive at even ones.
            let gradient = |at: usize| if at.is_multiple_of(2) { 1.0 + at as f32 } else { -1.0 - at as f32 };
            for _ in 0..2 {
                part.gradient = (0..ALL).map(gradient).collect();
                assert_eq!(part.picked(), due.iter().map(|at| gradient(*at)).collect::<Vec<_>>());
                part.step(&mut values, 0.1, 0.0);
            }
            let moved: Vec<usize> = (0..ALL).filter(|at| values[*at] != 1.0).collect();
            assert_eq!(moved, due, "{which:?}");
            // With constant gradients AdamW moves by the learning rate, whatever their size.
            for at in due {
                let right = 1.0 - 0.2 * gradient(at).signum();
                assert!((values[at] - right).abs() < 1e-5, "{which:?} {at}: {} for {right}", values[at]);
            }
        }
    }
}
