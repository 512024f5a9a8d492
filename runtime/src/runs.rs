//! Which sequences run together.
//!
//! In: the tokens of each sequence, and what it costs beside the one before it. Out: ranges of sequences. Refused:
//! nothing.

use std::ops::Range;

/// The number of tokens that run together: enough rows to keep the kernels busy, and few enough that a layer's values
/// stay in the cache.
pub const RUN_TOKENS: usize = 256;

/// How many times as many tokens a run may have, if its sequences share layers: their own layers run that many.
const MOST_SHARED: usize = 4;

/// What a sequence adds to a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Its tokens.
    pub tokens: usize,
    /// The same, less those layers that it shares with the sequence before it.
    pub own: usize,
}

impl Cost {
    /// Of a sequence that shares `shared` of `layers` layers with the one before it.
    pub fn sharing(tokens: usize, shared: usize, layers: usize) -> Self {
        // The head at least is its own.
        let own = layers.saturating_sub(shared).max(1);
        Cost { tokens, own: (tokens * own).div_ceil(layers.max(1)) }
    }
}

/// Which sequences run together: as many as fit into `most` tokens, and at least one.
pub(crate) fn runs(lengths: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    runs_of(lengths.map(|tokens| Cost { tokens, own: tokens }), most)
}

/// The same for sequences that may share layers.
pub(crate) fn runs_of(costs: impl Iterator<Item = Cost>, most: usize) -> Vec<Range<usize>> {
    let (mut runs, mut sum) = (Vec::<Range<usize>>::new(), Cost { tokens: 0, own: 0 });
    for (at, cost) in costs.enumerate() {
        sum = Cost { tokens: sum.tokens + cost.tokens, own: sum.own + cost.own };
        match runs.last_mut() {
            Some(run) if sum.own <= most && sum.tokens <= MOST_SHARED * most => run.end = at + 1,
            _ => {
                runs.push(at..at + 1);
                // The first of a run has none before it.
                sum = Cost { own: cost.tokens, ..cost };
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded_by_their_own_layers_and_by_all_tokens() {
        assert_eq!(runs([100, 100, 100, 300, 1].into_iter(), 256), [0..2, 2..3, 3..4, 4..5]);
        let alike = |tokens: usize, shared| std::iter::repeat_n(Cost::sharing(tokens, shared, 6), 40);
        // The first costs 64, the others 22 each.
        assert_eq!(runs_of(alike(64, 4), 256)[0], 0..9);
        // Of the head alone any number could run.
        assert_eq!(runs_of(alike(64, 6), 256)[0], 0..16);
        assert_eq!(Cost::sharing(3, 12, 12).own, 1);
    }
}
