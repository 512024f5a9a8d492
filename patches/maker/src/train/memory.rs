//! How many tokens run together within a memory limit.
//!
//! An upper estimate of the anonymous memory of a training, in bytes, with N tokens that run together:
//!
//! ```text
//! 20 MB + 100 V + T + C + 72 P + 6 N (L (5 H + I) + E + 8 H + 2 I + Q) + 48 S S
//! ```
//!
//! - 20 MB: the program, the model, and an evaluation, which keeps no activations for a backward pass.
//! - 100 V: the tokenizer, for a vocabulary of V.
//! - T: the texts, as they are and as tokens.
//! - C: what is kept below the first trained layer, of the texts of a step.
//! - 72 P: for each of P trained parameters its value, gradient, AdamW's two moments, averages, the best value so far,
//!   and copies of some of them while a patch is evaluated and a checkpoint is written. Measured: 67.
//! - L (5 H + I) + E: what the backward pass of L layers needs of each token: queries, keys and values, two normalized
//!   rows, and the MLP's hidden row before its activation, twice as wide with a gate; and the normalized row of the
//!   embeddings.
//! - Q: the inputs of linear layers with a low-rank term, which backward needs too.
//! - 8 H + 2 I: buffers of one layer, forward or backward. All of these are floats. The factor 6 is 4 bytes of a float
//!   and half as much for buffers that are kept but too small to be used again.
//! - 48 S S: attention scores, their gradients and their transpose for the longest text of S tokens, on up to four
//!   threads.
//!
//! All of the model's part is in [`token_bytes`].

use edge_bundle::Config;
use edge_run::{RUN_TOKENS, ask_memory};

use super::wrong;
use crate::Result;

/// What a training keeps in memory beside the activations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of the texts and their tokens.
    pub texts: usize,
    /// Number of trained parameters.
    pub parameters: usize,
    /// Tokens of the longest text.
    pub longest: usize,
    /// C, in bytes.
    pub kept: usize,
    /// Q, in floats.
    pub inputs: usize,
}

/// The most tokens that may run together within `limit` bytes; at least the longest text.
///
/// # Errors
/// When the longest text does not fit; without a limit, when the system has less memory than training takes.
pub(crate) fn fitting(config: &Config, load: Load, limit: Option<u64>) -> Result<usize> {
    let Some(limit) = limit else {
        let needed = usize::try_from(bytes(config, load, RUN_TOKENS.max(load.longest))).unwrap_or(usize::MAX);
        ask_memory(needed, |bytes| edge_run::Error::Memory {
            place: "training".to_owned(),
            bytes,
            helps: "with --memory-limit fewer tokens run together",
        })?;
        return Ok(RUN_TOKENS);
    };
    let least = bytes(config, load, load.longest);
    if least > limit {
        let expected = format!("at least {}M for texts of up to {} tokens", least.div_ceil(1_000_000), load.longest);
        return Err(wrong("memory limit", &expected, &format!("{limit} bytes")));
    }
    let left = limit.saturating_sub(bytes(config, load, 0));
    let fitting = usize::try_from(left / token_bytes(config, load)).unwrap_or(usize::MAX);
    Ok(fitting.clamp(load.longest, RUN_TOKENS.max(load.longest)))
}

/// The estimate for `tokens` tokens that run together, in bytes.
fn bytes(config: &Config, load: Load, tokens: usize) -> u64 {
    let count = |n: usize| n as u64;
    let fixed = 20_000_000 + 100 * u64::from(config.vocabulary);
    let of_load = count(load.texts) + count(load.kept) + 72 * count(load.parameters) + 48 * count(load.longest).pow(2);
    fixed + of_load + count(tokens) * token_bytes(config, load)
}

/// What each token that runs forward and backward adds to the estimate, in bytes.
fn token_bytes(config: &Config, load: Load) -> u64 {
    let [layers, hidden, middle, embedding] =
        [config.layers, config.hidden, config.intermediate, config.embedding].map(u64::from);
    let middle = if config.family.has_gate() { 2 * middle } else { middle };
    6 * (layers * (5 * hidden + middle) + embedding + 8 * hidden + 2 * middle + load.inputs as u64)
}

#[cfg(test)]
mod tests {
    use bias_patch::Activation;
    use edge_bundle::Family;

    use super::*;

    fn minilm() -> Config {
        Config {
            family: Family::Bert,
            layers: 6,
            hidden: 384,
            embedding: 384,
            heads: 12,
            intermediate: 1536,
            vocabulary: 30522,
            max_length: 512,
            position_offset: 0,
            token_types: 2,
            activation: Activation::Gelu,
            layer_norm_epsilon: 1e-12,
            pooler: true,
            relative: None,
            disentangled: None,
            rotary: None,
            window: None,
        }
    }

    #[test]
    fn fewer_tokens_run_together_within_less_memory() {
        let load = Load { texts: 4_000_000, parameters: 24_000, longest: 64, kept: 0, inputs: 0 };
        let within = |limit: u64| fitting(&minilm(), load, Some(limit));
        assert_eq!(fitting(&minilm(), load, None).unwrap(), RUN_TOKENS);
        assert_eq!(within(1_000_000_000).unwrap(), RUN_TOKENS);
        let tokens = within(60_000_000).unwrap();
        assert!((64..RUN_TOKENS).contains(&tokens), "{tokens}");
        assert!(bytes(&minilm(), load, tokens) <= 60_000_000 && bytes(&minilm(), load, tokens + 1) > 60_000_000);
        let with_states = Load { kept: 10_000_000, ..load };
        assert!(fitting(&minilm(), with_states, Some(60_000_000)).unwrap() < tokens);
        let with_terms = Load { inputs: 6 * 3 * 384, ..load };
        assert!(fitting(&minilm(), with_terms, Some(60_000_000)).unwrap() < tokens);
        let error = within(30_000_000).unwrap_err().to_string();
        assert!(error.contains("memory limit: expected at least") && error.contains("64 tokens"), "{error}");
    }
}
