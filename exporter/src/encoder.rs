//! The encoder's mathematics as an ONNX graph: BitFit's equations, with every bias vector a graph input, and their
//! adjoints, each block's beside it.
//!
//! In: the shape of an encoder. Out: the graph, its weights and its slots; and, from gradients of what the encoder gives,
//! those of every bias vector. Weights are constant, so what an adjoint reads of the forward pass is what went into
//! activations and LayerNorm, and attention's queries, keys, values and shares; no linear layer's input.
//!
//! Shapes are written beside each step: B batch, S sequence, E embedding width, H hidden width, N heads, D = H/N, I middle
//! width of the MLP. A gradient is called `d.` and then the name of what it is of, a bias vector's `gradient.` and its name.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use bias_patch::{Activation, Config, Element, Family, SlotId, Term};

use crate::{
    Result,
    family::module,
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

/// A linear layer.
struct Linear {
    /// The module's name, and the result's.
    name: String,
    /// The matrix as floats, `[from, to]`.
    weight: String,
    /// Dimensions before the last one of what goes in.
    rows: &'static [i64],
}

/// A LayerNorm.
struct Norm {
    /// The module's name.
    name: String,
    /// The node's name, and the result's.
    node: String,
    /// What went in.
    sum: String,
    gain: String,
}

/// An activation, and the values before and after it.
pub(crate) struct Activated {
    activation: Activation,
    before: String,
    pub after: String,
}

/// Dimensions of values with a row for each token, and for each text.
const TOKENS: &[i64] = &[0, 1];
const TEXTS: &[i64] = &[0];

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
            let last = at + 1 == count;
            let (out, layer) = self.layer(&x, &penalty, at, if last { "last_hidden_state" } else { "" })?; // [B, S, H]
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
        let norm = self.layer_norm(&sum, Term::EmbeddingNorm, None, c.embedding, "")?; // [B, S, E]
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

    /// One layer, `[B, S, H]` to `[B, S, H]`: the paper's equations 1 to 5. `output` names the result if not empty.
    fn layer(&mut self, x: &str, penalty: &str, layer: u16, output: &str) -> Result<(String, Layer)> {
        let (h, i) = (self.config.hidden, self.config.intermediate);
        let at = Some(layer);
        let (context, attention) = self.attention(x, penalty, layer)?; // h1: [B, S, H]
        let attended = self.linear(&context, Term::AttentionOutput, at, h, h)?; // h2: [B, S, H]
        let sum = self.graph.node("Add", &format!("layer.{layer}.attention_residual"), &[&attended.name, x], vec![]);
        let attention_norm = self.layer_norm(&sum, Term::AttentionNorm, at, h, "")?; // h3: [B, S, H]
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
            g.node("Transpose", &name(part), &[&value], vec![Attribute::ints("perm", order)])
        };
        let q = heads(&query.name, "q", &[0, 2, 1, 3]); // [B, N, S, D]
        let k = heads(&key.name, "k", &[0, 2, 3, 1]); // [B, N, D, S]
        let v = heads(&value.name, "v", &[0, 2, 1, 3]); // [B, N, S, D]
        let scores = g.node("MatMul", &name("scores"), &[&q, &k], vec![]); // [B, N, S, S]
        let scores = g.node("Mul", &name("scores.scaled"), &[&scores, &scale], vec![]);
        let scores = g.node("Add", &name("scores.masked"), &[&scores, penalty], vec![]);
        let shares = g.node("Softmax", &name("shares"), &[&scores], vec![Attribute::int("axis", -1)]);
        let context = g.node("MatMul", &name("context.heads"), &[&shares, &v], vec![]); // [B, N, S, D]
        let order = vec![Attribute::ints("perm", &[0, 2, 1, 3])];
        let context = g.node("Transpose", &name("context.transposed"), &[&context], order); // [B, S, N, D]
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
        let turn = |g: &mut Builder, value: &str, part: &str, order: &[i64]| {
            g.node("Transpose", &name(part), &[value], vec![Attribute::ints("perm", order)])
        };
        let d = g.node("Reshape", &name("context.split"), &[d, &split], vec![]); // [B, S, N, D]
        let d = turn(g, &d, "context", &[0, 2, 1, 3]); // [B, N, S, D]
        let v = turn(g, v, "v.turned", &[0, 1, 3, 2]); // [B, N, D, S]
        let d_shares = g.node("MatMul", &name("shares"), &[&d, &v], vec![]); // [B, N, S, S]
        let weighed = g.node("Mul", &name("shares.weighed"), &[&d_shares, shares], vec![]);
        let last = g.integers("last_axis", &[1], &[-1]);
        let mean = g.node("ReduceSum", &name("shares.mean"), &[&weighed, &last], vec![]); // [B, N, S, 1]
        let d_scores = g.node("Sub", &name("shares.centred"), &[&d_shares, &mean], vec![]);
        let d_scores = g.node("Mul", &name("scores.scaled"), &[&d_scores, shares], vec![]);
        let d_scores = g.node("Mul", &name("scores"), &[&d_scores, &scale], vec![]); // [B, N, S, S]
        let k = turn(g, k, "k.turned", &[0, 1, 3, 2]); // [B, N, S, D]
        let d_q = g.node("MatMul", &name("q"), &[&d_scores, &k], vec![]); // [B, N, S, D]
        let turned = turn(g, &d_scores, "scores.turned", &[0, 1, 3, 2]);
        let d_k = g.node("MatMul", &name("k"), &[&turned, q], vec![]); // [B, N, S, D]
        let turned = turn(g, shares, "shares.turned", &[0, 1, 3, 2]);
        let d_v = g.node("MatMul", &name("v"), &[&turned, &d], vec![]); // [B, N, S, D]
        let mut sum: Option<String> = None;
        for (layer, d, part) in [(query, d_q, "q"), (key, d_k, "k"), (value, d_v, "v")] {
            let g = &mut self.graph;
            let d = turn(g, &d, &format!("{part}.transposed"), &[0, 2, 1, 3]); // [B, S, N, D]
            let d = g.node("Reshape", &name(&format!("{part}.joined")), &[&d, &join], vec![]); // [B, S, H]
            let d_x = self.linear_adjoint(layer, &d); // [B, S, H]
            sum = Some(match sum {
                None => d_x,
                Some(sum) => self.graph.node("Add", &name(&format!("{part}.x")), &[&sum, &d_x], vec![]),
            });
        }
        sum.unwrap_or_default()
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
        let dense = Linear { rows: TEXTS, ..self.linear(&first, Term::Pooler, None, h, h)? };
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

    /// x W + b, `[.., from]` to `[.., to]`. W is stored `[from, to]`, the checkpoint's `[to, from]` transposed.
    fn linear(&mut self, x: &str, term: Term, layer: Option<u16>, from: u32, to: u32) -> Result<Linear> {
        let (name, bias) = self.bias(term, layer, to)?;
        let weight = self.graph.weight(&format!("{name}.weight"), &[from.into(), to.into()], true);
        let product = self.graph.node("MatMul", &format!("{name}.product"), &[x, &weight], vec![]);
        self.graph.node("Add", &name, &[&product, &bias], vec![]);
        Ok(Linear { name, weight, rows: TOKENS })
    }

    /// d W^T, `[.., to]` to `[.., from]`, through the matrix that the forward pass multiplies by.
    fn linear_adjoint(&mut self, linear: &Linear, d: &str) -> String {
        let Linear { name, weight, rows } = linear;
        self.bias_gradient(name, d, rows);
        let g = &mut self.graph;
        let order = vec![Attribute::ints("perm", &[1, 0])];
        let turned = g.node("Transpose", &format!("{name}.weight.turned"), &[weight], order); // [to, from]
        g.node("MatMul", &format!("d.{name}.x"), &[d, &turned], vec![])
    }

    /// LayerNorm over the last dimension, gain frozen, bias a slot. `output` names the result if not empty.
    fn layer_norm(&mut self, x: &str, term: Term, layer: Option<u16>, width: u32, output: &str) -> Result<Norm> {
        let (name, bias) = self.bias(term, layer, width)?;
        let gain = self.graph.weight(&format!("{name}.weight"), &[width.into()], false);
        let epsilon = Attribute::float("epsilon", self.config.layer_norm_epsilon as f32);
        let output = if output.is_empty() { &name } else { output };
        let attributes = vec![Attribute::int("axis", -1), epsilon];
        let node = self.graph.node("LayerNormalization", output, &[x, &gain, &bias], attributes);
        Ok(Norm { name, node, sum: x.to_owned(), gain })
    }

    /// With z the normalised row and g = d gain: (g - mean(g) - z mean(g z)) over the deviation; all `[B, S, H]` or means of
    /// its rows, `[B, S, 1]`.
    fn layer_norm_adjoint(&mut self, norm: &Norm, d: &str) -> String {
        let Norm { name, node, sum, gain } = norm;
        self.bias_gradient(name, d, TOKENS);
        let g = &mut self.graph;
        let (mean, inverse) = (g.further(node, "mean"), g.further(node, "inverse")); // [B, S, 1]
        let last = g.integers("last_axis", &[1], &[-1]);
        let mut step =
            |op: &str, part: &str, inputs: [&str; 2]| g.node(op, &format!("d.{name}.{part}"), &inputs, vec![]);
        let z = step("Sub", "centred", [sum, &mean]);
        let z = step("Mul", "z", [&z, &inverse]);
        let scaled = step("Mul", "g", [d, gain]);
        let mean = step("ReduceMean", "g.mean", [&scaled, &last]); // [B, S, 1]
        let product = step("Mul", "gz", [&scaled, &z]);
        let slope = step("ReduceMean", "gz.mean", [&product, &last]); // [B, S, 1]
        let along = step("Mul", "along", [&z, &slope]);
        let d_sum = step("Sub", "g.centred", [&scaled, &mean]);
        let d_sum = step("Sub", "across", [&d_sum, &along]);
        step("Mul", "x", [&d_sum, &inverse])
    }

    fn activation(&mut self, activation: Activation, x: &str, name: &str) -> Activated {
        let (op, attributes) = match activation {
            Activation::Gelu => ("Gelu", vec![Attribute::text("approximate", "none")]),
            Activation::GeluTanh => ("Gelu", vec![Attribute::text("approximate", "tanh")]),
            Activation::Relu => ("Relu", vec![]),
            Activation::Tanh => ("Tanh", vec![]),
        };
        let after = self.graph.node(op, name, &[x], attributes);
        Activated { activation, before: x.to_owned(), after }
    }

    /// d times the slope at x. That of x Φ(x) is Φ(x) + x φ(x), where φ(x) = c/2 exp(-x²/2); that of x (1 + t) / 2, where
    /// t = tanh(c (x + a x³)), is (1 + t) / 2 + x (1 - t²) c/2 (1 + 3 a x²).
    fn activation_adjoint(&mut self, activated: &Activated, d: &str) -> String {
        const A: f64 = 0.044715;
        const C: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
        let Activated { activation, before: x, after } = activated;
        let g = &mut self.graph;
        let constants = [("sqrt_half", FRAC_1_SQRT_2), ("a", A), ("3a", 3.0 * A), ("c", C), ("half_c", C / 2.0)];
        let mut number = |(name, value)| g.number(&format!("number.{name}"), value as f32);
        let [sqrt_half, a, three_a, c, half_c] = constants.map(&mut number);
        let [half, one, minus_half] = [("half", 0.5), ("one", 1.0), ("minus_half", -0.5)].map(number);
        let mut step = |op: &str, part: &str, inputs: &[&str]| g.node(op, &format!("d.{after}.{part}"), inputs, vec![]);
        let slope = match activation {
            Activation::Gelu => {
                let share = step("Mul", "scaled", &[x, &sqrt_half]);
                let share = step("Erf", "erf", &[&share]);
                let share = step("Add", "twice", &[&share, &one]);
                let share = step("Mul", "share", &[&share, &half]); // Φ(x)
                let bell = step("Mul", "square", &[x, x]);
                let bell = step("Mul", "exponent", &[&bell, &minus_half]);
                let bell = step("Exp", "bell", &[&bell]);
                let bell = step("Mul", "density", &[&bell, &half_c]); // φ(x)
                let bell = step("Mul", "x_density", &[&bell, x]);
                step("Add", "slope", &[&share, &bell])
            }
            Activation::GeluTanh => {
                let square = step("Mul", "square", &[x, x]);
                let inner = step("Mul", "a_square", &[&square, &a]);
                let inner = step("Add", "stretch", &[&inner, &one]);
                let inner = step("Mul", "inner", &[&inner, x]);
                let inner = step("Mul", "c_inner", &[&inner, &c]);
                let t = step("Tanh", "t", &[&inner]);
                let share = step("Add", "twice", &[&t, &one]);
                let share = step("Mul", "share", &[&share, &half]);
                let steep = step("Mul", "t_square", &[&t, &t]);
                let steep = step("Sub", "steep", &[&one, &steep]);
                let rate = step("Mul", "3a_square", &[&square, &three_a]);
                let rate = step("Add", "stretch_slope", &[&rate, &one]);
                let rate = step("Mul", "rate", &[&rate, &half_c]);
                let rest = step("Mul", "x_steep", &[x, &steep]);
                let rest = step("Mul", "rest", &[&rest, &rate]);
                step("Add", "slope", &[&share, &rest])
            }
            // What is above 0 has passed.
            Activation::Relu => step("Sign", "slope", &[after]),
            Activation::Tanh => {
                let square = step("Mul", "square", &[after, after]);
                step("Sub", "slope", &[&one, &square])
            }
        };
        step("Mul", "x", &[d, &slope])
    }

    /// The module that has `term`'s bias, and that bias as a graph input.
    fn bias(&mut self, term: Term, layer: Option<u16>, len: u32) -> Result<(String, String)> {
        let family: Family = self.config.family;
        let name = module(family, term, layer.unwrap_or(0));
        let bias = self.graph.slot(&format!("{name}.bias"), SlotId::new(term, layer)?, len);
        Ok((name, bias))
    }

    /// A bias is added to every row, so its gradient is the sum over `rows` of that of the result.
    fn bias_gradient(&mut self, module: &str, d: &str, rows: &[i64]) {
        let axes = self.graph.integers(&format!("rows.{}", rows.len()), &[rows.len() as i64], rows);
        let keep = vec![Attribute::int("keepdims", 0)];
        self.graph.node("ReduceSum", &gradient_of(&format!("{module}.bias")), &[d, &axes], keep);
    }
}

/// The name of a gradient that a training graph gives.
pub(crate) fn gradient_of(name: &str) -> String {
    format!("gradient.{name}")
}
