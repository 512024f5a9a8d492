//! The encoder's forward pass as an ONNX graph: BitFit's equations, with every bias vector a graph input.
//!
//! In: the shape of an encoder, and its family's table. Out: the graph, its frozen weights and its slots. Nothing is
//! refused here: [`crate::families::config`] has checked the shape.
//!
//! Shapes are written beside each step: B batch, S sequence, E embedding width, H hidden width, N heads, D = H/N, I
//! middle width of the MLP. Functions take and return names of the graph's values.

mod positions;
#[cfg(test)]
mod tests;

use bias_patch::{Activation, Module, SlotId};
use edge_bundle::{
    Config, Element, Part, Slot,
    onnx::{Attribute, INT64},
};

use self::positions::Penalties;
use crate::{
    families::{self, FamilyTable},
    graph::{
        Builder,
        Size::{Any, Of},
        Source,
    },
};

/// Builds the graph of an encoder whose frozen matrices are stored as `matrices`.
///
/// Inputs: `input_ids [B, S]`; `attention_mask [B, S]`, 1 for tokens and 0 for padding; `token_type_ids [B, S]`, where
/// the encoder has more than one token type; every slot, whose default is the pre-trained value; with `low_rank_inputs`
/// also A `[r, K]` and B `[M, r]` of every linear layer of K inputs and M outputs, whose defaults have rank 0. Outputs:
/// `last_hidden_state [B, S, H]`, and `pooler_output [B, H]` where there is a pooler.
pub(crate) fn build(config: &Config, matrices: Element, low_rank_inputs: bool) -> Builder {
    let zeros = config.shared_zeros().expect("a checked Config has at most 1024 layers");
    let (family, graph) = (families::table(config.family), Builder::new(matrices, zeros));
    let mut encoder = Encoder { config, family, low_rank_inputs, graph };
    let hidden = encoder.forward(); // [B, S, H]
    let pooled = config.pooler.then(|| encoder.pooler(&hidden)); // [B, H]
    let mut graph = encoder.graph;
    graph.output(&hidden, &[Any("batch"), Any("sequence"), Of(config.hidden)]);
    if let Some(pooled) = pooled {
        graph.output(&pooled, &[Any("batch"), Of(config.hidden)]);
    }
    graph
}

/// The input of token ids, `[B, S]`.
const INPUT_IDS: &str = "input_ids";

/// An encoder's graph that is being built.
struct Encoder<'a> {
    config: &'a Config,
    family: &'static FamilyTable,
    low_rank_inputs: bool,
    graph: Builder,
}

impl Encoder<'_> {
    /// From token ids to the last hidden state, `[B, S, H]`.
    fn forward(&mut self) -> String {
        self.graph.input(INPUT_IDS, INT64, &[Any("batch"), Any("sequence")]);
        // Without a default: a runtime does not list inputs that have one, and whoever then gives no mask reads
        // padding.
        let mask = self.graph.input("attention_mask", INT64, &[Any("batch"), Any("sequence")]);
        let mask = self.mask(&mask); // [B, 1, 1, S]
        let mut penalties = self.penalties(mask);
        let mut x = self.embeddings(); // [B, S, H]
        penalties.met = self.met();
        let layers = u16::try_from(self.config.layers).expect("a checked Config has at most 1024 layers");
        for layer in 0..layers {
            let output = (layer + 1 == layers).then_some("last_hidden_state");
            x = match self.config.family.norms_come_first() {
                false => self.layer(&x, &penalties, layer, output),  // [B, S, H]
                true => self.layer_of_normed(&x, &penalties, layer), // [B, S, H]
            };
        }
        match self.config.family.norms_come_first() {
            false => x,
            true => self.layer_norm(&x, Module::FinalNorm, None, self.config.hidden, Some("last_hidden_state")),
        }
    }

    /// `[B, S]` token ids to `[B, S, H]`: word rows, and those of positions and token types where the family has such
    /// tables, LayerNorm, projection if E is not H.
    fn embeddings(&mut self) -> String {
        let (c, modules) = (self.config, &self.family.modules);
        let table = |g: &mut Builder, module: &str, rows: u32| {
            let name = format!("{module}.weight");
            let source = Source::Tensor(name.clone(), Part::WHOLE);
            g.weight(&name, &[rows.into(), c.embedding.into()], false, source)
        };
        let words = table(&mut self.graph, modules.word_embeddings, c.vocabulary);
        let mut sum = self.graph.node("Gather", "embeddings.words", &[&words, INPUT_IDS], vec![]); // [B, S, E]

        if c.rotary.is_none() && c.disentangled.is_none() {
            let positions = table(&mut self.graph, modules.position_embeddings, c.max_length + c.position_offset);
            let positions = match c.position_offset.checked_sub(1) {
                Some(padding) => self.counted_positions(&positions, padding),
                None => self.all_positions(&positions),
            };
            sum = self.graph.node("Add", "embeddings.words_positions", &[&sum, &positions], vec![]);
        }
        if c.token_types > 0 {
            let g = &mut self.graph;
            let types = table(g, modules.token_type_embeddings, c.token_types);
            let type_ids = if c.token_types > 1 {
                g.input("token_type_ids", INT64, &[Any("batch"), Any("sequence")])
            } else {
                g.integers("embeddings.only_type", &[1, 1], &[0])
            };
            let types = g.node("Gather", "embeddings.types", &[&types, &type_ids], vec![]); // [B, S, E]
            sum = g.node("Add", "embeddings.sum", &[&sum, &types], vec![]);
        }
        let x = self.layer_norm(&sum, Module::EmbeddingNorm, None, c.embedding, None); // [B, S, E]
        if !c.projects_embeddings() {
            return x;
        }
        self.linear(&x, Module::EmbeddingProjection, None, c.embedding, c.hidden) // [B, S, H]
    }

    /// One layer, `[B, S, H]` to `[B, S, H]`: the paper's equations 1 to 5. `output` may name the result.
    fn layer(&mut self, x: &str, penalties: &Penalties, layer: u16, output: Option<&str>) -> String {
        let h = self.config.hidden;
        let at = Some(layer);
        let name = |part: &str| format!("layer.{layer}.{part}");
        let context = self.attention(x, penalties, layer); // h1: [B, S, H]
        let attended = self.linear(&context, Module::AttentionOutput, at, h, h); // h2: [B, S, H]
        let sum = self.graph.node("Add", &name("attention_residual"), &[&attended, x], vec![]);
        let normed = self.layer_norm(&sum, Module::AttentionNorm, at, h, None); // h3: [B, S, H]
        let mlp = self.mlp(&normed, layer); // h5: [B, S, H]
        let sum = self.graph.node("Add", &name("mlp_residual"), &[&mlp, &normed], vec![]);
        self.layer_norm(&sum, Module::OutputNorm, at, h, output) // out: [B, S, H]
    }

    /// One layer whose LayerNorms come before attention and MLP, `[B, S, H]` to `[B, S, H]`.
    fn layer_of_normed(&mut self, x: &str, penalties: &Penalties, layer: u16) -> String {
        let h = self.config.hidden;
        let at = Some(layer);
        let name = |part: &str| format!("layer.{layer}.{part}");
        // The first layer reads what the embeddings' LayerNorm gave.
        let normed = match layer {
            0 => x.to_owned(),
            _ => self.layer_norm(x, Module::AttentionNorm, at, h, None),
        };
        let context = self.attention(&normed, penalties, layer); // [B, S, H]
        let attended = self.linear(&context, Module::AttentionOutput, at, h, h); // [B, S, H]
        let x = self.graph.node("Add", &name("attention_residual"), &[&attended, x], vec![]);
        let normed = self.layer_norm(&x, Module::OutputNorm, at, h, None);
        let mlp = self.mlp(&normed, layer); // [B, S, H]
        self.graph.node("Add", &name("mlp_residual"), &[&mlp, &x], vec![])
    }

    /// W_m3 f(W_m2 x + b_m2) + b_m3, `[B, S, H]` to `[B, S, H]`; where there is a gate, f(..) is multiplied by it.
    fn mlp(&mut self, x: &str, layer: u16) -> String {
        let (h, i, at) = (self.config.hidden, self.config.intermediate, Some(layer));
        let name = |part: &str| format!("layer.{layer}.{part}");
        let middle = self.linear(x, Module::Middle, at, h, i); // [B, S, I]
        let mut middle = self.activation(self.config.activation, &middle, &name("activation")); // h4: [B, S, I]
        if self.config.family.has_gate() {
            let gate = self.linear(x, Module::Gate, at, h, i); // [B, S, I]
            middle = self.graph.node("Mul", &name("gated"), &[&middle, &gate], vec![]);
        }
        self.linear(&middle, Module::Output, at, i, h)
    }

    /// softmax(q k^T / sqrt(D) + penalty) v, heads side by side: `[B, S, H]` to `[B, S, H]`. With rotary positions q
    /// and k are rotated; where they meet vectors of distances, there are three such products, and sqrt(3 D).
    fn attention(&mut self, x: &str, penalties: &Penalties, layer: u16) -> String {
        let (h, n) = (self.config.hidden, self.config.heads);
        let d = h / n;
        let at = Some(layer);
        let name = |part: &str| format!("layer.{layer}.{part}");
        let near = penalties.near.as_ref().filter(|_| self.config.window_of(layer).is_some());
        let penalty = near.unwrap_or(&penalties.all);
        let query = self.linear(x, Module::Query, at, h, h); // [B, S, H]
        let key = self.linear(x, Module::Key, at, h, h); // [B, S, H]
        let value = self.linear(x, Module::Value, at, h, h); // [B, S, H]
        let angles = self.config.rotary.map(|rotary| {
            let theta = if near.is_some() { rotary.local_theta } else { rotary.theta };
            self.angles(theta, rotary.ntk_factor)
        });
        let g = &mut self.graph;
        let split = g.integers(&name("split_heads"), &[4], &[0, 0, n.into(), d.into()]);
        let join = g.integers(&name("join_heads"), &[3], &[0, 0, h.into()]);
        let parts = if penalties.met.is_some() { 3.0 } else { 1.0 };
        let scale = g.number(&name("scale"), (1.0 / (parts * f64::from(d)).sqrt()) as f32);
        let mut heads = |value: &str, part: &str, order: &[i64]| {
            let value = g.node("Reshape", &name(&format!("{part}.split")), &[value, &split], vec![]);
            g.transpose(&name(part), &value, order)
        };
        let (q, k, v) = match &angles {
            None => {
                let q = heads(&query, "q", &[0, 2, 1, 3]); // [B, N, S, D]
                let k = heads(&key, "k", &[0, 2, 3, 1]); // [B, N, D, S]
                (q, k, heads(&value, "v", &[0, 2, 1, 3])) // [B, N, S, D]
            }
            Some(angles) => {
                let (q, k) = (heads(&query, "q", &[0, 2, 1, 3]), heads(&key, "k", &[0, 2, 1, 3])); // [B, N, S, D]
                let v = heads(&value, "v", &[0, 2, 1, 3]);
                let q = self.rotated(&q, &name("q"), angles);
                let k = self.rotated(&k, &name("k"), angles);
                (q, self.graph.transpose(&name("k.transposed"), &k, &[0, 1, 3, 2]), v)
            }
        };
        let scores = match &penalties.met {
            None => self.graph.node("MatMul", &name("scores"), &[&q, &k], vec![]), // [B, N, S, S]
            Some(met) => self.scores_by_distance(&query, &q, &k, met, layer),      // [B, N, S, S]
        };
        let g = &mut self.graph;
        let scores = g.node("Mul", &name("scores.scaled"), &[&scores, &scale], vec![]);
        let scores = g.node("Add", &name("scores.masked"), &[&scores, penalty], vec![]);
        let probabilities = g.node("Softmax", &name("shares"), &[&scores], vec![Attribute::int("axis", -1)]);
        let context = g.node("MatMul", &name("context.heads"), &[&probabilities, &v], vec![]); // [B, N, S, D]
        let context = g.transpose(&name("context.transposed"), &context, &[0, 2, 1, 3]); // [B, S, N, D]
        g.node("Reshape", &name("context"), &[&context, &join], vec![]) // [B, S, H]
    }

    /// tanh(W x_0 + b) of the first token, `[B, S, H]` to `[B, H]`.
    fn pooler(&mut self, x: &str) -> String {
        let h = self.config.hidden;
        let zero = self.graph.index("pooler.first_token", 0);
        let first = self.graph.node("Gather", "pooler.first", &[x, &zero], vec![Attribute::int("axis", 1)]); // [B, H]
        let dense = self.linear(&first, Module::Pooler, None, h, h); // [B, H]
        self.activation(Activation::Tanh, &dense, "pooler_output")
    }

    /// x W + b, perhaps with a low-rank term, `[.., from]` to `[.., to]`. W is stored `[from, to]`, the checkpoint's
    /// `[to, from]` transposed.
    fn linear(&mut self, x: &str, term: Module, layer: Option<u16>, from: u32, to: u32) -> String {
        let (module, bias) = self.bias(term, layer, to);
        let weight = self.frozen(term, layer, &[from.into(), to.into()], true);
        let mut sum = self.graph.node("MatMul", &format!("{module}.product"), &[x, &weight], vec![]);
        if self.low_rank_inputs && self.config.takes_low_rank(term) {
            let term = self.low_rank(x, &module, &bias, from, to);
            // The bias comes last, because runtimes fuse it with the activation that follows.
            sum = self.graph.node("Add", &format!("{module}.sum"), &[&sum, &term], vec![]);
        }
        self.graph.node("Add", &module, &[&sum, &bias], vec![])
    }

    /// (x A^T) B^T, `[.., from]` to `[.., to]`. A `[r, from]` and B `[to, r]` are graph inputs, and r is a number of the
    /// module's own.
    fn low_rank(&mut self, x: &str, module: &str, bias: &str, from: u32, to: u32) -> String {
        let rank = format!("{module}.rank");
        let [a, b] = Slot::low_rank_inputs(bias);
        let g = &mut self.graph;
        let a = g.low_rank(&a, [Any(&rank), Of(from)]);
        let b = g.low_rank(&b, [Of(to), Any(&rank)]);
        let a = g.transpose(&format!("{module}.lora_A.transposed"), &a, &[1, 0]); // [from, r]
        let b = g.transpose(&format!("{module}.lora_B.transposed"), &b, &[1, 0]); // [r, to]
        let inner = g.node("MatMul", &format!("{module}.lora_A"), &[x, &a], vec![]); // [.., r]
        g.node("MatMul", &format!("{module}.lora_B"), &[&inner, &b], vec![]) // [.., to]
    }

    /// LayerNorm over the last dimension, its gain frozen, its bias a slot. The result has the module's name, or
    /// `output`.
    fn layer_norm(&mut self, x: &str, term: Module, layer: Option<u16>, width: u32, output: Option<&str>) -> String {
        let (module, bias) = self.bias(term, layer, width);
        let gain = self.frozen(term, layer, &[width.into()], false);
        let epsilon = Attribute::float("epsilon", self.config.layer_norm_epsilon as f32);
        let attributes = vec![Attribute::int("axis", -1), epsilon];
        self.graph.node("LayerNormalization", output.unwrap_or(&module), &[x, &gain, &bias], attributes)
    }

    fn activation(&mut self, activation: Activation, x: &str, name: &str) -> String {
        let (op, attributes) = match activation {
            // The operator set has no such node.
            Activation::Silu => {
                let sigmoid = self.graph.node("Sigmoid", &format!("{name}.sigmoid"), &[x], vec![]);
                return self.graph.node("Mul", name, &[x, &sigmoid], vec![]);
            }
            Activation::Gelu => ("Gelu", vec![Attribute::text("approximate", "none")]),
            Activation::GeluTanh => ("Gelu", vec![Attribute::text("approximate", "tanh")]),
            Activation::Relu => ("Relu", vec![]),
            Activation::Tanh => ("Tanh", vec![]),
        };
        self.graph.node(op, name, &[x], attributes)
    }

    /// The matrix or gain of a module.
    fn frozen(&mut self, term: Module, layer: Option<u16>, shape: &[u64], transposed: bool) -> String {
        let name = self.family.frozen(term, layer);
        let (module, part) = self.family.source(term, layer);
        self.graph.weight(&name, shape, transposed, Source::Tensor(format!("{module}.weight"), part))
    }

    /// The module that has `term`'s bias, and that bias as a graph input.
    fn bias(&mut self, term: Module, layer: Option<u16>, len: u32) -> (String, String) {
        let module = self.family.module(term, layer);
        let id = SlotId::new(term, layer).expect("a term of a layer comes with its layer, any other without");
        let zero = self.config.family.lacks_bias(term);
        let bias = self.graph.slot(&format!("{module}.bias"), id, len, zero);
        (module, bias)
    }
}
