//! The encoder's mathematics as an ONNX graph: BitFit's equations, with every bias vector a graph input, and their
//! adjoints, each block's beside it.
//!
//! In: the shape of an encoder. Out: the graph, its weights and its slots; and, from gradients of what the encoder gives,
//! those of every bias vector. Weights are constant, so what an adjoint reads of the forward pass is what went into
//! activations and LayerNorm, and attention's queries, keys, values and shares; no linear layer's input.
//!
//! Shapes are written beside each step: B batch, S sequence, E embedding width, H hidden width, N heads, D = H/N, I middle
//! width of the MLP. A gradient is called `d.` and then the name of what it is of, a bias vector's `gradient.` and its name.

mod modules;

use bias_patch::{Activation, Config, Element, Term};

pub(crate) use self::modules::gradient_of;
use self::modules::{Activated, Linear, Norm, TEXTS};
use crate::{
    Result,
    graph::{
        Builder,
        Size::{Any, Of},
    },
    onnx::{Attribute, FLOAT, INT64},
};

/// Builds the graph of an encoder whose frozen matrices are stored as `matrices`.
///
/// Inputs: `input_ids [B, S]`; `attention_mask [B, S]`, all ones unless given; `token_type_ids [B, S]`, all zeros
/// unless given, where the encoder has token types; every slot. Outputs: `last_hidden_state [B, S, H]`, and
/// `pooler_output [B, H]` where there is a pooler.
pub(crate) fn build(config: &Config, matrices: Element) -> Result<Builder> {
    let mut encoder = Encoder::new(config, matrices);
    let forward = encoder.forward()?;
    encoder.graph.output(&forward.hidden, &[Any("batch"), Any("sequence"), Of(config.hidden)]);
    if let Some(pooler) = &forward.pooler {
        encoder.graph.output(&pooler.tanh.after, &[Any("batch"), Of(config.hidden)]);
    }
    Ok(encoder.graph)
}

/// An encoder's graph in the making.
pub(crate) struct Encoder<'a> {
    config: &'a Config,
    pub graph: Builder,
}

/// What the forward pass gives, and of each block what its adjoint reads. Values of the graph are known by their names.
pub(crate) struct Forward {
    /// The last hidden state, `[B, S, H]`.
    pub hidden: String,
    /// What gives the pooler's output, where there is one.
    pub pooler: Option<Pooler>,
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

struct Embeddings {
    /// S, `[1]`.
    length: String,
    norm: Norm,
    projection: Option<Linear>,
}

struct Layer {
    attention: Attention,
    attended: Linear,
    attention_norm: Norm,
    middle: Linear,
    activation: Activated,
    mlp: Linear,
    mlp_norm: Norm,
}

struct Attention {
    layer: u16,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Queries, `[B, N, S, D]`.
    q: String,
    /// Keys, `[B, N, D, S]`.
    k: String,
    /// Values, `[B, N, S, D]`.
    v: String,
    /// Softmax of the scores, `[B, N, S, S]`.
    shares: String,
}

pub(crate) struct Pooler {
    dense: Linear,
    /// What it does last: its output is the pooler's, `[B, H]`.
    pub tanh: Activated,
}

impl<'a> Encoder<'a> {
    pub fn new(config: &'a Config, matrices: Element) -> Self {
        Encoder { config, graph: Builder::new(matrices) }
    }

    /// The whole encoder, from its inputs to the last hidden state and the pooler's output.
    pub fn forward(&mut self) -> Result<Forward> {
        let ids = self.graph.input("input_ids", INT64, &[Any("batch"), Any("sequence")]);
        // Dimensions of their own, so that the one-element defaults below may stand for any batch and sequence.
        let mask = self.graph.input("attention_mask", INT64, &[Any("mask_batch"), Any("mask_sequence")]);
        self.graph.integers(&mask, &[1, 1], &[1]);
        let penalty = self.mask(&mask); // [B, 1, 1, S]
        let (mut x, embeddings) = self.embeddings(&ids)?; // [B, S, H]
        let count = u16::try_from(self.config.layers).unwrap_or(u16::MAX);
        let mut layers = Vec::new();
        for at in 0..count {
            let output = (at + 1 == count).then_some("last_hidden_state");
            let (out, layer) = self.layer(&x, &penalty, at, output)?; // [B, S, H]
            x = out;
            layers.push(layer);
        }
        let pooler = if self.config.pooler { Some(self.pooler(&x)?) } else { None };
        Ok(Forward { hidden: x, pooler, embeddings, layers })
    }

    /// The gradient of every bias vector, from those of the last hidden state `[B, S, H]` and of the pooler's output
    /// `[B, H]`.
    pub fn adjoint(&mut self, forward: &Forward, d_hidden: &str, d_pooled: Option<&str>) {
        let mut d = d_hidden.to_owned(); // [B, S, H]
        if let (Some(pooler), Some(d_pooled)) = (&forward.pooler, d_pooled) {
            d = self.pooler_adjoint(pooler, &forward.embeddings.length, &d, d_pooled);
        }
        for layer in forward.layers.iter().rev() {
            d = self.layer_adjoint(layer, &d); // [B, S, H]
        }
        self.embeddings_adjoint(&forward.embeddings, &d);
    }

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
    fn embeddings(&mut self, ids: &str) -> Result<(String, Embeddings)> {
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
                let type_ids = g.input("token_type_ids", INT64, &[Any("type_batch"), Any("type_sequence")]);
                g.integers(&type_ids, &[1, 1], &[0])
            } else {
                g.integers("embeddings.only_type", &[1, 1], &[0])
            };
            let types = g.node("Gather", "embeddings.types", &[&types, &type_ids], vec![]); // [B, S, E]
            sum = g.node("Add", "embeddings.sum", &[&sum, &types], vec![]);
        }
        let norm = self.layer_norm(&sum, Term::EmbeddingNorm, None, c.embedding, None)?; // [B, S, E]
        let mut out = norm.node.clone();
        let mut projection = None;
        if c.embedding != c.hidden {
            let layer = self.linear(&norm.node, Term::EmbeddingProjection, None, c.embedding, c.hidden)?;
            out.clone_from(&layer.name);
            projection = Some(layer);
        }
        Ok((out, Embeddings { length, norm, projection })) // [B, S, H]
    }

    fn embeddings_adjoint(&mut self, embeddings: &Embeddings, d: &str) {
        let mut d = d.to_owned(); // [B, S, H]
        if let Some(projection) = &embeddings.projection {
            d = self.linear_adjoint(projection, &d); // [B, S, E]
        }
        self.layer_norm_adjoint(&embeddings.norm, &d);
    }

    /// One layer, `[B, S, H]` to `[B, S, H]`: the paper's equations 1 to 5. `output` may name the result.
    fn layer(&mut self, x: &str, penalty: &str, layer: u16, output: Option<&str>) -> Result<(String, Layer)> {
        let (h, i) = (self.config.hidden, self.config.intermediate);
        let at = Some(layer);
        let (context, attention) = self.attention(x, penalty, layer)?; // h1: [B, S, H]
        let attended = self.linear(&context, Term::AttentionOutput, at, h, h)?; // h2: [B, S, H]
        let sum = self.graph.node("Add", &format!("layer.{layer}.attention_residual"), &[&attended.name, x], vec![]);
        let attention_norm = self.layer_norm(&sum, Term::AttentionNorm, at, h, None)?; // h3: [B, S, H]
        let normed = &attention_norm.node;
        let middle = self.linear(normed, Term::Middle, at, h, i)?;
        let name = format!("layer.{layer}.activation");
        let activation = self.activation(self.config.activation, &middle.name, &name); // h4: [B, S, I]
        let mlp = self.linear(&activation.after, Term::Output, at, i, h)?; // h5: [B, S, H]
        let sum = self.graph.node("Add", &format!("layer.{layer}.mlp_residual"), &[&mlp.name, normed], vec![]);
        let mlp_norm = self.layer_norm(&sum, Term::OutputNorm, at, h, output)?; // out: [B, S, H]
        let out = mlp_norm.node.clone();
        Ok((out, Layer { attention, attended, attention_norm, middle, activation, mlp, mlp_norm }))
    }

    /// The gradient of a layer's input, `[B, S, H]`. A sum that was normalised passes its gradient to both of its parts.
    fn layer_adjoint(&mut self, layer: &Layer, d: &str) -> String {
        let d_mlp = self.layer_norm_adjoint(&layer.mlp_norm, d); // of h5: [B, S, H]
        let d_activation = self.linear_adjoint(&layer.mlp, &d_mlp); // of h4: [B, S, I]
        let d_middle = self.activation_adjoint(&layer.activation, &d_activation);
        let d_normed = self.linear_adjoint(&layer.middle, &d_middle);
        let name = format!("d.{}", layer.attention_norm.node);
        let d_normed = self.graph.node("Add", &name, &[&d_normed, &d_mlp], vec![]); // of h3: [B, S, H]
        let d_attended = self.layer_norm_adjoint(&layer.attention_norm, &d_normed); // of h2: [B, S, H]
        let d_context = self.linear_adjoint(&layer.attended, &d_attended); // of h1: [B, S, H]
        let d_x = self.attention_adjoint(&layer.attention, &d_context);
        let name = format!("d.layer.{}.x", layer.attention.layer);
        self.graph.node("Add", &name, &[&d_x, &d_attended], vec![])
    }

    /// softmax(q k^T / sqrt(D) + penalty) v, heads side by side: `[B, S, H]` to `[B, S, H]`.
    fn attention(&mut self, x: &str, penalty: &str, layer: u16) -> Result<(String, Attention)> {
        let h = self.config.hidden;
        let at = Some(layer);
        let name = |part: &str| format!("layer.{layer}.{part}");
        let query = self.linear(x, Term::Query, at, h, h)?;
        let key = self.linear(x, Term::Key, at, h, h)?;
        let value = self.linear(x, Term::Value, at, h, h)?;
        let (split, join, scale) = self.head_constants(layer);
        let g = &mut self.graph;
        let mut heads = |value: &str, part: &str, order: &[i64]| {
            let value = g.node("Reshape", &name(&format!("{part}.split")), &[value, &split], vec![]);
            g.transpose(&name(part), &value, order)
        };
        let q = heads(&query.name, "q", &[0, 2, 1, 3]); // [B, N, S, D]
        let k = heads(&key.name, "k", &[0, 2, 3, 1]); // [B, N, D, S]
        let v = heads(&value.name, "v", &[0, 2, 1, 3]); // [B, N, S, D]
        let scores = g.node("MatMul", &name("scores"), &[&q, &k], vec![]); // [B, N, S, S]
        let scores = g.node("Mul", &name("scores.scaled"), &[&scores, &scale], vec![]);
        let scores = g.node("Add", &name("scores.masked"), &[&scores, penalty], vec![]);
        let shares = g.node("Softmax", &name("shares"), &[&scores], vec![Attribute::int("axis", -1)]);
        let context = g.node("MatMul", &name("context.heads"), &[&shares, &v], vec![]); // [B, N, S, D]
        let context = g.transpose(&name("context.transposed"), &context, &[0, 2, 1, 3]); // [B, S, N, D]
        let context = g.node("Reshape", &name("context"), &[&context, &join], vec![]); // [B, S, H]
        Ok((context, Attention { layer, query, key, value, q, k, v, shares }))
    }

    /// With P the shares and do the gradient of P v: dv = P^T do, dP = do v^T, dS = P (dP - rowsum(dP P)) / sqrt(D), and
    /// then dq = dS k and dk = dS^T q.
    fn attention_adjoint(&mut self, attention: &Attention, d: &str) -> String {
        let Attention { layer, query, key, value, q, k, v, shares } = attention;
        let name = |part: &str| format!("d.layer.{layer}.{part}");
        let (split, join, scale) = self.head_constants(*layer);
        let g = &mut self.graph;
        let d = g.node("Reshape", &name("context.split"), &[d, &split], vec![]); // [B, S, N, D]
        let d = g.transpose(&name("context"), &d, &[0, 2, 1, 3]); // [B, N, S, D]
        let v = g.transpose(&name("v.turned"), v, &[0, 1, 3, 2]); // [B, N, D, S]
        let d_shares = g.node("MatMul", &name("shares"), &[&d, &v], vec![]); // [B, N, S, S]
        let weighed = g.node("Mul", &name("shares.weighed"), &[&d_shares, shares], vec![]);
        let last = g.integers("last_axis", &[1], &[-1]);
        let mean = g.node("ReduceSum", &name("shares.mean"), &[&weighed, &last], vec![]); // [B, N, S, 1]
        let d_scores = g.node("Sub", &name("shares.centred"), &[&d_shares, &mean], vec![]);
        let d_scores = g.node("Mul", &name("scores.scaled"), &[&d_scores, shares], vec![]);
        let d_scores = g.node("Mul", &name("scores"), &[&d_scores, &scale], vec![]); // [B, N, S, S]
        let k = g.transpose(&name("k.turned"), k, &[0, 1, 3, 2]); // [B, N, S, D]
        let d_q = g.node("MatMul", &name("q"), &[&d_scores, &k], vec![]); // [B, N, S, D]
        let turned = g.transpose(&name("scores.turned"), &d_scores, &[0, 1, 3, 2]);
        let d_k = g.node("MatMul", &name("k"), &[&turned, q], vec![]); // [B, N, S, D]
        let turned = g.transpose(&name("shares.turned"), shares, &[0, 1, 3, 2]);
        let d_v = g.node("MatMul", &name("v"), &[&turned, &d], vec![]); // [B, N, S, D]
        let through = |encoder: &mut Self, layer: &Linear, d: &str, part: &str| {
            let g = &mut encoder.graph;
            let d = g.transpose(&name(&format!("{part}.transposed")), d, &[0, 2, 1, 3]); // [B, S, N, D]
            let d = g.node("Reshape", &name(&format!("{part}.joined")), &[&d, &join], vec![]); // [B, S, H]
            encoder.linear_adjoint(layer, &d) // [B, S, H]
        };
        let by_query = through(self, query, &d_q, "q");
        let by_key = through(self, key, &d_k, "k");
        let sum = self.graph.node("Add", &name("k.x"), &[&by_query, &by_key], vec![]);
        let by_value = through(self, value, &d_v, "v");
        self.graph.node("Add", &name("v.x"), &[&sum, &by_value], vec![])
    }

    /// The shapes of split and of joined heads, and 1 / sqrt(D).
    fn head_constants(&mut self, layer: u16) -> (String, String, String) {
        let (h, n) = (self.config.hidden, self.config.heads);
        let d = h / n;
        let name = |part: &str| format!("layer.{layer}.{part}");
        let g = &mut self.graph;
        let split = g.integers(&name("split_heads"), &[4], &[0, 0, n.into(), d.into()]);
        let join = g.integers(&name("join_heads"), &[3], &[0, 0, h.into()]);
        let scale = g.number(&name("scale"), (1.0 / f64::from(d).sqrt()) as f32);
        (split, join, scale)
    }

    /// tanh(W x_0 + b) of the first token, `[B, S, H]` to `[B, H]`.
    fn pooler(&mut self, x: &str) -> Result<Pooler> {
        let h = self.config.hidden;
        let zero = self.graph.index("pooler.first_token", 0);
        let first = self.graph.node("Gather", "pooler.first", &[x, &zero], vec![Attribute::int("axis", 1)]); // [B, H]
        let mut dense = self.linear(&first, Term::Pooler, None, h, h)?;
        dense.rows = TEXTS;
        let tanh = self.activation(Activation::Tanh, &dense.name, "pooler_output");
        Ok(Pooler { dense, tanh })
    }

    /// Adds to the gradient of the hidden states, `[B, S, H]`, what comes through the pooler, `[B, H]`, to the first
    /// tokens. `length` is S, `[1]`.
    fn pooler_adjoint(&mut self, pooler: &Pooler, length: &str, d: &str, d_pooled: &str) -> String {
        let d_dense = self.activation_adjoint(&pooler.tanh, d_pooled); // [B, H]
        let d_first = self.linear_adjoint(&pooler.dense, &d_dense); // [B, H]
        let g = &mut self.graph;
        let (zero, one) = (g.integers("zero", &[1], &[0]), g.integers("one", &[1], &[1]));
        let d_first = g.node("Unsqueeze", "d.pooler.first", &[&d_first, &one], vec![]); // [B, 1, H]
        let first = g.node("Slice", "d.pooler.first.direct", &[d, &zero, &one, &one], vec![]); // [B, 1, H]
        let others = g.node("Slice", "d.pooler.others", &[d, &one, length, &one], vec![]); // [B, S - 1, H]
        let first = g.node("Add", "d.pooler.first.sum", &[&first, &d_first], vec![]);
        g.node("Concat", "d.last_hidden_state.sum", &[&first, &others], vec![Attribute::int("axis", 1)]) // [B, S, H]
    }
}
