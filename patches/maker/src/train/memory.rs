//! How many tokens run together within a limit of memory.
//!
//! Of a training's anonymous memory this is an upper estimate, in bytes, and nothing else decides how many tokens N fit:
//!
//! ```text
//! 20 MB + 100 V + T + 48 P + 6 N (L (5 H + I) + E + 8 H + 2 I) + 48 S S
//! ```
//!
//! - 20 MB: the program, the plan of the graph, and a judging pass, which keeps nothing for a way back.
//! - 100 V: the tokenizer, for a vocabulary of V.
//! - T: the texts, as they are and as tokens.
//! - 48 P: of P trained parameters the values, gradients, AdamW's two moments, averages and the best so far.
//! - L (5 H + I) + E: what the adjoints of L layers keep of each token: queries, keys and values, two normalised rows, and the
//!   middle of the MLP before its activation; and the embeddings' normalised row.
//! - 8 H + 2 I: what one layer works in, forward or backward. All of these are floats, and half as much again for memory that
//!   is kept although it does not fit what is asked for.
//! - 48 S S: scores, their gradients and their transpose for the longest text, on up to four threads.

use bias_patch::Config;
use edge_run::{RUN_TOKENS, ask_memory};

use super::wrong;
use crate::Result;

/// What a training holds beside what runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of the texts and their tokens.
    pub texts: usize,
    /// Parameters that are trained.
    pub parameters: usize,
    /// Tokens of the longest text.
    pub longest: usize,
}

/// The most tokens that may run together within `limit` bytes; a text is never parted.
///
/// # Errors
/// When the longest text does not fit, or without a limit the system has not as much memory as is taken then.
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
    let fitting = usize::try_from(left / of_token(config)).unwrap_or(usize::MAX);
    Ok(fitting.clamp(load.longest, RUN_TOKENS.max(load.longest)))
}

/// The estimate for `tokens` that run together.
fn bytes(config: &Config, load: Load, tokens: usize) -> u64 {
    let wide = |n: usize| n as u64;
    let fixed = 20_000_000 + 100 * u64::from(config.vocabulary);
    let held = wide(load.texts) + 48 * wide(load.parameters) + 48 * wide(load.longest).pow(2);
    fixed + held + wide(tokens) * of_token(config)
}

/// Of it what each token adds.
fn of_token(config: &Config) -> u64 {
    let [layers, hidden, middle, embedding] =
        [config.layers, config.hidden, config.intermediate, config.embedding].map(u64::from);
    6 * (layers * (5 * hidden + middle) + embedding + 8 * hidden + 2 * middle)
}

#[cfg(test)]
mod tests {
    use bias_patch::{Activation, Family};

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
        }
    }

    #[test]
    fn fewer_tokens_run_together_within_less_memory() {
        let load = Load { texts: 4_000_000, parameters: 24_000, longest: 64 };
        let within = |limit: u64| fitting(&minilm(), load, Some(limit));
        assert_eq!(fitting(&minilm(), load, None).unwrap(), RUN_TOKENS);
        assert_eq!(within(1_000_000_000).unwrap(), RUN_TOKENS);
        let tokens = within(60_000_000).unwrap();
        assert!((64..RUN_TOKENS).contains(&tokens), "{tokens}");
        assert!(bytes(&minilm(), load, tokens) <= 60_000_000 && bytes(&minilm(), load, tokens + 1) > 60_000_000);
        let error = within(30_000_000).unwrap_err().to_string();
        assert!(error.contains("memory limit: expected at least") && error.contains("64 tokens"), "{error}");
    }
}
