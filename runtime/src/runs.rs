//! Which sequences run together.
//!
//! In: what each sequence costs, in tokens. Out: ranges of sequences. Refused: nothing.

use std::ops::Range;

/// The number of tokens that run together: enough rows to keep the kernels busy, and few enough that a layer's values
/// stay in the cache.
pub const RUN_TOKENS: usize = 256;

/// Which sequences run together: as many as fit into `most` tokens, and at least one.
pub(crate) fn runs(lengths: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let (mut runs, mut tokens) = (Vec::<Range<usize>>::new(), 0);
    for (at, length) in lengths.enumerate() {
        tokens += length;
        match runs.last_mut() {
            Some(run) if tokens <= most => run.end = at + 1,
            _ => {
                runs.push(at..at + 1);
                tokens = length;
            }
        }
    }
    runs
}
