//! The encoder's mathematics as an ONNX graph: BitFit's equations, with every bias vector a graph input.
//!
//! In: the shape of an encoder. Out: the graph, its weights and its slots. Shapes are written beside each step:
//! B batch, S sequence, E embedding width, H hidden width, N heads, D = H/N, I middle width of the MLP.

use bias_patch::{Activation, Config, Element, Family, SlotId, Term};

use crate::{
    Result,
    family::module,
    graph::Builder,
    onnx::{Attribute, FLOAT},
};

/// Builds the graph of an encoder whose frozen matrices are stored as `matrices`.
///
/// Inputs: `input_ids [B, S]`; `attention_mask [B, S]`, all ones unless given; `token_type_ids [B, S]`, all zeros
/// unless given, where the encoder has token types; every slot. Outputs: `last_hidden_state [B, S, H]`, and
/// `pooler_output [B, H]` where there is a pooler.
pub(crate) fn build(config: &Config, matrices: Element) -> Result<Builder> {
    let mut encoder = Encoder { config, graph: Builder::new(matrices) };
    let ids = encoder.graph.input("input_ids", &["batch", "sequence"]);
    // Dimensions of their own, so that the one-element defaults below may stand for any batch and sequence.
    let mask = encoder.graph.input("attention_mask", &["mask_batch", "mask_sequence"]);
    encoder.graph.integers(&mask, &[1, 1], &[1]);
    let penalty = encoder.mask(&mask); // [B, 1, 1, S]
    let mut x = encoder.embeddings(&ids)?; // [B, S, H]
    let layers = u16::try_from(config.layers).unwrap_or(u16::MAX);
    for layer in 0..layers {
        let last = layer + 1 == layers;
        x = encoder.layer(&x, &penalty, layer, if last { "last_hidden_state" } else { "" })?; // [B, S, H]
    }
    encoder.graph.output(&x, &["batch", "sequence"], config.hidden);
    if config.pooler {
        let pooled = encoder.pooler(&x)?; // [B, H]
        encoder.graph.output(&pooled, &["batch"], config.hidden);
    }
    Ok(encoder.graph)
}

struct Encoder<'a> {
    config: &'a Config,
    graph: Builder,
}

impl Encoder<'_> {
    /// `[B, S]` of zeros and ones to `[B, 1, 1, S]`: 0 where a token is, the lowest number where there is padding.
    fn mask(&mut self, mask: &str) -> String {
        let g = &mut self.graph;
        let float = g.node("Cast", "mask.float", &[mask], vec![Attribute::int("to", FLOAT.into())]);
        let one = g.number("mask.one", 1.0);
        let lowest = g.number("mask.lowest", f32::MIN);
        let padding = g.node("Sub", "mask.padding", &[&one, &float], vec![]);
        let penalty = g.node("Mul", "mask.penalty", &[&padding, &lowest], vec![]);
        let axes = g.integers("mask.axes", &[2], &[1, 2]);
        g.node("Unsqueeze", "mask.broadcast", &[&penalty, &axes], vec![])
    }

    /// `[B, S]` token ids to `[B, S, H]`: word, token type and position rows, LayerNorm, projection if E is not H.
    fn embeddings(&mut self, ids: &str) -> Result<String> {
        let c = self.config;
        let width = u64::from(c.embedding);
        let g = &mut self.graph;
        let rows = |n: u32| [u64::from(n), width];
        let words = g.weight("embeddings.word_embeddings.weight", &rows(c.vocabulary), false);
        let words = g.node("Gather", "embeddings.words", &[&words, ids], vec![]); // [B, S, E]

        let positions =
            g.weight("embeddings.position_embeddings.weight", &rows(c.max_length + c.position_offset), false);
        let length = vec![Attribute::int("start", 1), Attribute::int("end", 2)];
        let length = g.node("Shape", "embeddings.length", &[ids], length); // [1]
        let first = g.integers("embeddings.first_position", &[1], &[c.position_offset.into()]);
        let end = g.node("Add", "embeddings.end_position", &[&length, &first], vec![]);
        let axis = g.integers("embeddings.axis", &[1], &[0]);
        let positions = g.node("Slice", "embeddings.positions", &[&positions, &first, &end, &axis], vec![]); // [S, E]

        let mut sum = g.node("Add", "embeddings.words_positions", &[&words, &positions], vec![]);
        if c.token_types > 0 {
            let types = g.weight("embeddings.token_type_embeddings.weight", &rows(c.token_types), false);
            let type_ids = if c.token_types > 1 {
                let type_ids = g.input("token_type_ids", &["type_batch", "type_sequence"]);
                g.integers(&type_ids, &[1, 1], &[0])
            } else {
                g.integers("embeddings.only_type", &[1, 1], &[0])
            };
            let types = g.node("Gather", "embeddings.types", &[&types, &type_ids], vec![]); // [B, S, E]
            sum = g.node("Add", "embeddings.sum", &[&sum, &types], vec![]);
        }
        let normed = self.layer_norm(&sum, Term::EmbeddingNorm, None, c.embedding, "")?;
        if c.embedding == c.hidden {
            return Ok(normed);
        }
        self.linear(&normed, Term::EmbeddingProjection, None, c.embedding, c.hidden)
    }

    /// One layer, `[B, S, H]` to `[B, S, H]`: the paper's equations 1 to 5. `output` names the result if not empty.
    fn layer(&mut self, x: &str, penalty: &str, layer: u16, output: &str) -> Result<String> {
        let (h, i) = (self.config.hidden, self.config.intermediate);
        let at = Some(layer);
        let context = self.attention(x, penalty, layer)?; // h1: [B, S, H]
        let attended = self.linear(&context, Term::AttentionOutput, at, h, h)?; // h2: [B, S, H]
        let sum = self.graph.node("Add", &format!("layer.{layer}.attention_residual"), &[&attended, x], vec![]);
        let normed = self.layer_norm(&sum, Term::AttentionNorm, at, h, "")?; // h3: [B, S, H]
        let middle = self.linear(&normed, Term::Middle, at, h, i)?;
        let middle = self.activation(&middle, &format!("layer.{layer}.activation")); // h4: [B, S, I]
        let mlp = self.linear(&middle, Term::Output, at, i, h)?; // h5: [B, S, H]
        let sum = self.graph.node("Add", &format!("layer.{layer}.mlp_residual"), &[&mlp, &normed], vec![]);
        self.layer_norm(&sum, Term::OutputNorm, at, h, output) // out: [B, S, H]
    }

    /// softmax(q k^T / sqrt(D) + penalty) v, heads side by side: `[B, S, H]` to `[B, S, H]`.
    fn attention(&mut self, x: &str, penalty: &str, layer: u16) -> Result<String> {
        let (h, n) = (self.config.hidden, self.config.heads);
        let d = h / n;
        let at = Some(layer);
        let name = |part: &str| format!("layer.{layer}.{part}");
        let q = self.linear(x, Term::Query, at, h, h)?;
        let k = self.linear(x, Term::Key, at, h, h)?;
        let v = self.linear(x, Term::Value, at, h, h)?;
        let g = &mut self.graph;
        let split = g.integers(&name("split_heads"), &[4], &[0, 0, n.into(), d.into()]);
        let join = g.integers(&name("join_heads"), &[3], &[0, 0, h.into()]);
        let mut heads = |value: &str, part: &str, order: &[i64]| {
            let value = g.node("Reshape", &name(&format!("{part}.split")), &[value, &split], vec![]);
            g.node("Transpose", &name(part), &[&value], vec![Attribute::ints("perm", order)])
        };
        let q = heads(&q, "q", &[0, 2, 1, 3]); // [B, N, S, D]
        let k = heads(&k, "k", &[0, 2, 3, 1]); // [B, N, D, S]
        let v = heads(&v, "v", &[0, 2, 1, 3]); // [B, N, S, D]
        let scale = g.number(&name("scale"), (1.0 / f64::from(d).sqrt()) as f32);
        let scores = g.node("MatMul", &name("scores"), &[&q, &k], vec![]); // [B, N, S, S]
        let scores = g.node("Mul", &name("scores.scaled"), &[&scores, &scale], vec![]);
        let scores = g.node("Add", &name("scores.masked"), &[&scores, penalty], vec![]);
        let shares = g.node("Softmax", &name("shares"), &[&scores], vec![Attribute::int("axis", -1)]);
        let context = g.node("MatMul", &name("context.heads"), &[&shares, &v], vec![]); // [B, N, S, D]
        let order = vec![Attribute::ints("perm", &[0, 2, 1, 3])];
        let context = g.node("Transpose", &name("context.transposed"), &[&context], order); // [B, S, N, D]
        Ok(g.node("Reshape", &name("context"), &[&context, &join], vec![])) // [B, S, H]
    }

    /// tanh(W x_0 + b) of the first token, `[B, S, H]` to `[B, H]`.
    fn pooler(&mut self, x: &str) -> Result<String> {
        let h = self.config.hidden;
        let zero = self.graph.index("pooler.first_token", 0);
        let first = self.graph.node("Gather", "pooler.first", &[x, &zero], vec![Attribute::int("axis", 1)]); // [B, H]
        let dense = self.linear(&first, Term::Pooler, None, h, h)?;
        Ok(self.graph.node("Tanh", "pooler_output", &[&dense], vec![]))
    }

    /// x W + b, `[.., from]` to `[.., to]`. W is stored `[from, to]`, the checkpoint's `[to, from]` transposed.
    fn linear(&mut self, x: &str, term: Term, layer: Option<u16>, from: u32, to: u32) -> Result<String> {
        let (name, bias) = self.bias(term, layer, to)?;
        let weight = self.graph.weight(&format!("{name}.weight"), &[from.into(), to.into()], true);
        let product = self.graph.node("MatMul", &format!("{name}.product"), &[x, &weight], vec![]);
        Ok(self.graph.node("Add", &name, &[&product, &bias], vec![]))
    }

    /// LayerNorm over the last dimension, gain frozen, bias a slot. `output` names the result if not empty.
    fn layer_norm(&mut self, x: &str, term: Term, layer: Option<u16>, width: u32, output: &str) -> Result<String> {
        let (name, bias) = self.bias(term, layer, width)?;
        let gain = self.graph.weight(&format!("{name}.weight"), &[width.into()], false);
        let epsilon = Attribute::float("epsilon", self.config.layer_norm_epsilon as f32);
        let output = if output.is_empty() { &name } else { output };
        Ok(self.graph.node("LayerNormalization", output, &[x, &gain, &bias], vec![Attribute::int("axis", -1), epsilon]))
    }

    fn activation(&mut self, x: &str, name: &str) -> String {
        let (op, attributes) = match self.config.activation {
            Activation::Gelu => ("Gelu", vec![Attribute::text("approximate", "none")]),
            Activation::GeluTanh => ("Gelu", vec![Attribute::text("approximate", "tanh")]),
            Activation::Relu => ("Relu", vec![]),
            Activation::Tanh => ("Tanh", vec![]),
        };
        self.graph.node(op, name, &[x], attributes)
    }

    /// The module that has `term`'s bias, and that bias as a graph input.
    fn bias(&mut self, term: Term, layer: Option<u16>, len: u32) -> Result<(String, String)> {
        let family: Family = self.config.family;
        let name = module(family, term, layer.unwrap_or(0));
        let bias = self.graph.slot(&format!("{name}.bias"), SlotId::new(term, layer)?, len);
        Ok((name, bias))
    }
}
