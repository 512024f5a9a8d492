//! What stands for trained weights in a build without the feature `research`: none can be made.

use edge_run::{Encoder, Extent};

use super::{Weights, weights::no_research};
use crate::Result;

/// Weights that are being trained: there are none.
pub(super) enum TrainedWeights {}

impl TrainedWeights {
    pub fn begin(_: &Encoder, _: Weights, _: usize, _: u64) -> Result<Self> {
        Err(no_research())
    }

    pub fn encoder(&self, _: &Encoder) -> Result<Encoder> {
        match *self {}
    }

    pub fn extent(&mut self) -> Extent<'_> {
        match *self {}
    }

    pub fn picked(&mut self) -> &mut [f32] {
        match *self {}
    }

    pub fn step(&mut self, _: f64, _: f64) {
        match *self {}
    }
}
