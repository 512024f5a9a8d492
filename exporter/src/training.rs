//! The training graph: the encoder forward, a head and its loss, and their adjoints, over the encoder's own weights.
//!
//! In: the shape of an encoder, and which of its bias vectors are to be trained. Out: a model that gives the loss, the
//! logits, and the gradients of the head and of those vectors. What none of these needs is not in it: nothing below the
//! lowest vector that is trained runs backward.
//!
//! One graph serves every kind of task, for what differs between kinds is data: which tokens the head reads, and what is
//! right. Shapes: B batch, S sequence, H hidden width, R rows that the head reads of each text, C its outputs.

use bias_patch::{Config, Element, Slot, Term};

use crate::{
    Result,
    encoder::{Encoder, gradient_of},
    graph::{
        Builder,
        Size::{self, Any, Of},
        cut,
    },
    onnx::{Attribute, FLOAT, Model},
};

const HEAD_WEIGHT: &str = "head.weight";
const HEAD_BIAS: &str = "head.bias";

/// Which bias vectors a bundle's training graph gives gradients of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Training {
    /// There is no such graph.
    None,
    /// All but the keys', which have no effect.
    #[default]
    All,
    /// Those of some terms.
    Terms(Vec<Term>),
}

impl Training {
    fn wants(&self, term: Term) -> bool {
        match self {
            Training::None => false,
            Training::All => term != Term::Key,
            Training::Terms(terms) => terms.contains(&term),
        }
    }
}

/// Builds the training graph of the encoder that [`crate::encoder::build`] builds, called `name`.
///
/// Inputs: the encoder's; the head's weight `[C, H]` and bias `[C]`; what the head reads, as [`head`] says; what is right,
/// as [`loss`] says. Outputs: `loss []`, `logits [B, R, C]`, and `gradient.X` of the head's X and of each wanted slot X.
pub(crate) fn build(config: &Config, matrices: Element, name: &str, wanted: &Training) -> Result<Model> {
    let mut encoder = Encoder::new(config, matrices);
    let forward = encoder.forward()?;
    let g = &mut encoder.graph;
    let pooled = forward.pooler.as_ref().map(|pooler| pooler.tanh.after.as_str());
    let (x, logits) = head(g, &forward.hidden, pooled, config.hidden);
    let d_logits = loss(g, &logits);
    let (d_hidden, d_pooled) = head_adjoint(g, &x, &d_logits, pooled.is_some());
    encoder.adjoint(&forward, &d_hidden, d_pooled.as_deref());

    let g = &mut encoder.graph;
    g.output("loss", &[]);
    g.output(&logits, &[Any("batch"), Any("rows"), Any("outputs")]);
    g.output(&gradient_of(HEAD_WEIGHT), &[Any("outputs"), Of(config.hidden)]);
    g.output(&gradient_of(HEAD_BIAS), &[Any("outputs")]);
    let slots: Vec<Slot> = g.slots.iter().filter(|slot| wanted.wants(slot.term)).cloned().collect();
    for slot in slots {
        g.output(&gradient_of(&slot.name), &[Of(slot.len)]);
    }
    let (mut model, ..) = encoder.graph.finish(name);
    if let Some(graph) = &mut model.graph {
        cut(graph, |_| true);
    }
    Ok(model)
}

/// A linear layer over sums of hidden states. Gives what it reads, `[B, R, H]`, and the logits, `[B, R, C]`.
///
/// A row is the sum of the text's hidden states times `reads [B, R, S]`, and, where there is a pooler, of its output times
/// `reads_pooler [B, R, 1]`, zeros unless given.
fn head(g: &mut Builder, hidden: &str, pooled: Option<&str>, width: u32) -> (String, String) {
    let reads = g.input("reads", FLOAT, &[Any("batch"), Any("rows"), Any("sequence")]);
    let mut x = g.node("MatMul", "head.tokens", &[&reads, hidden], vec![]); // [B, R, H]
    if let Some(pooled) = pooled {
        let reads = optional(g, "reads_pooler", Of(1));
        let axis = g.integers("one", &[1], &[1]);
        let pooled = g.node("Unsqueeze", "head.pooled", &[pooled, &axis], vec![]); // [B, 1, H]
        let pooled = g.node("Mul", "head.pooled.read", &[&reads, &pooled], vec![]); // [B, R, H]
        x = g.node("Add", "head.x", &[&x, &pooled], vec![]);
    }
    let weight = g.input(HEAD_WEIGHT, FLOAT, &[Any("outputs"), Of(width)]);
    let bias = g.input(HEAD_BIAS, FLOAT, &[Any("outputs")]);
    let weight = g.transpose("head.weight.turned", &weight, &[1, 0]); // [H, C]
    let product = g.node("MatMul", "head.product", &[&x, &weight], vec![]);
    let logits = g.node("Add", "logits", &[&product, &bias], vec![]); // [B, R, C]
    (x, logits)
}

/// The gradients of the head, and of the hidden states `[B, S, H]` and the pooler's output `[B, H]`, whose names it gives.
fn head_adjoint(g: &mut Builder, x: &str, d_logits: &str, pooler: bool) -> (String, Option<String>) {
    let turned = g.transpose("d.logits.turned", d_logits, &[0, 2, 1]); // [B, C, R]
    let d_weight = g.node("MatMul", "d.head.weight", &[&turned, x], vec![]); // [B, C, H]
    g.sum_rows(&gradient_of(HEAD_WEIGHT), &d_weight, 1); // [C, H]
    g.sum_rows(&gradient_of(HEAD_BIAS), d_logits, 2); // [C]
    let d_x = g.node("MatMul", "d.head.x", &[d_logits, HEAD_WEIGHT], vec![]); // [B, R, H]
    let d_pooled = pooler.then(|| {
        let axis = g.integers("one", &[1], &[1]);
        let d = g.node("Mul", "d.head.pooled", &["reads_pooler", &d_x], vec![]); // [B, R, H]
        g.sum("d.pooler_output", &[&d, &axis]) // [B, H]
    });
    let reads = g.transpose("reads.turned", "reads", &[0, 2, 1]); // [B, S, R]
    (g.node("MatMul", "d.last_hidden_state", &[&reads, &d_x], vec![]), d_pooled)
}

/// The loss of the logits, and its gradient, `[B, R, C]`, whose name it gives.
///
/// It is a sum of three parts. What is right comes with its share of the loss, so that the parts of a batch may run one
/// after the other and padding costs nothing; what is not given is zeros:
///
/// - `labels [B, R, C]`, the share where a row's label is: cross-entropy among a row's outputs;
/// - `spans [B, R, C]`, the share where a span starts (output 0) or ends (output 1): cross-entropy among an output's rows, of
///   those that read a token;
/// - `values [B, R, C]` with their `value_shares [B, R, C]`: squared error.
fn loss(g: &mut Builder, logits: &str) -> String {
    let (in_row, d_labels) = cross_entropy(g, "labels", logits, -1);
    let among = rows_that_read(g, logits);
    let (in_column, d_spans) = cross_entropy(g, "spans", &among, 1);
    let (squares, d_values) = squared_error(g, logits);
    let loss = g.node("Add", "loss.labels_values", &[&in_row, &squares], vec![]);
    g.node("Add", "loss", &[&loss, &in_column], vec![]); // []
    let d = g.node("Add", "d.logits.labels_values", &[&d_labels, &d_values], vec![]);
    g.node("Add", "d.logits", &[&d, &d_spans], vec![]) // [B, R, C]
}

/// -sum(t log softmax(z)) along `axis`, with t the input `name`; its gradient is sum(t) softmax(z) - t.
fn cross_entropy(g: &mut Builder, name: &str, logits: &str, axis: i64) -> (String, String) {
    let shares = optional(g, name, Any(&format!("{name}_outputs")));
    let axes = g.integers(&format!("{name}.axis"), &[1], &[axis]);
    let part = |part: &str| format!("{name}.{part}");
    let log = g.node("LogSoftmax", &part("log"), &[logits], vec![Attribute::int("axis", axis)]); // [B, R, C]
    let loss = g.node("Mul", &part("log_right"), &[&shares, &log], vec![]);
    let loss = g.sum(&part("sum"), &[&loss]); // []
    let loss = g.node("Neg", &part("loss"), &[&loss], vec![]);
    let softmax = g.node("Exp", &part("softmax"), &[&log], vec![]);
    let total = g.node("ReduceSum", &part("total"), &[&shares, &axes], vec![]); // [B, R, 1] or [B, 1, C]
    let d = g.node("Mul", &part("due"), &[&softmax, &total], vec![]);
    (loss, g.node("Sub", &part("d"), &[&d, &shares], vec![])) // [B, R, C]
}

/// sum(w (z - v)^2), with v and w the inputs `values` and `value_shares`; its gradient is 2 w (z - v).
fn squared_error(g: &mut Builder, logits: &str) -> (String, String) {
    let values = optional(g, "values", Any("values_outputs"));
    let shares = optional(g, "value_shares", Any("value_shares_outputs"));
    let error = g.node("Sub", "values.error", &[logits, &values], vec![]); // [B, R, C]
    let weighed = g.node("Mul", "values.weighed", &[&error, &shares], vec![]);
    let loss = g.node("Mul", "values.squares", &[&weighed, &error], vec![]);
    let loss = g.sum("values.loss", &[&loss]); // []
    (loss, g.node("Add", "values.d", &[&weighed, &weighed], vec![])) // [B, R, C]
}

/// Logits, the lowest number added to those of rows that read no token, `[B, R, C]`.
fn rows_that_read(g: &mut Builder, logits: &str) -> String {
    let last = g.integers("last_axis", &[1], &[-1]);
    let (one, lowest) = (g.number("mask.one", 1.0), g.number("mask.lowest", f32::MIN));
    let read = g.node("ReduceL1", "spans.read.sum", &["reads", &last], vec![]); // [B, R, 1]
    let read = g.node("Sign", "spans.read", &[&read], vec![]);
    let unread = g.node("Sub", "spans.unread", &[&one, &read], vec![]);
    let penalty = g.node("Mul", "spans.penalty", &[&unread, &lowest], vec![]);
    g.node("Add", "spans.logits", &[logits, &penalty], vec![])
}

/// An input of three dimensions, zeros unless given.
fn optional(g: &mut Builder, name: &str, last: Size<'_>) -> String {
    // Dimensions of its own, so that the one zero may stand for any.
    g.input(name, FLOAT, &[Any(&format!("{name}_batch")), Any(&format!("{name}_rows")), last]);
    g.zero(name, 3)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path};

    use bias_patch::{Activation, Family};
    use ndarray::{ArrayD, IxDyn};

    use super::*;
    use crate::{
        encoder,
        evaluate::{Value, run},
        onnx::{EXTERNAL, Graph, INT8},
    };

    /// Of a derivative, relative to the lengths of gradient and direction. The graph's constants are f32: 1e-7 at most.
    const DERIVATIVE_BOUND: f64 = 1e-6;
    /// And of one that is almost zero: differences of losses around 10 in f64, over 2e-6.
    const ROUNDING: f64 = 1e-7;

    fn encoders() -> Vec<Config> {
        let bert = Config {
            family: Family::Bert,
            layers: 2,
            hidden: 8,
            embedding: 8,
            heads: 2,
            intermediate: 12,
            vocabulary: 11,
            max_length: 6,
            position_offset: 0,
            token_types: 2,
            activation: Activation::Gelu,
            layer_norm_epsilon: 1e-5,
            pooler: true,
        };
        let family = |family, activation| Config { family, activation, ..bert.clone() };
        vec![
            Config { token_types: 1, position_offset: 2, ..family(Family::Roberta, Activation::GeluTanh) },
            Config { token_types: 0, pooler: false, ..family(Family::DistilBert, Activation::Relu) },
            Config { embedding: 4, pooler: false, ..family(Family::Electra, Activation::Gelu) },
            bert,
        ]
    }

    /// Numbers in [-1, 1), others for another name.
    fn numbers(name: &str, count: usize) -> impl Iterator<Item = f64> {
        let mut state = name.bytes().fold(2_166_136_261u32, |s, byte| (s ^ u32::from(byte)).wrapping_mul(16_777_619));
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        })
        .take(count)
    }

    fn floats(name: &str, dims: &[usize], of: impl Fn(f64) -> f64) -> Value {
        let values = numbers(name, dims.iter().product()).map(of).collect();
        Value::Float(ArrayD::from_shape_vec(IxDyn(dims), values).unwrap())
    }

    fn ints(dims: &[usize], values: &[i64]) -> Value {
        Value::Int(ArrayD::from_shape_vec(IxDyn(dims), values.to_vec()).unwrap())
    }

    fn graph(config: &Config, matrices: Element, training: &Training) -> Graph {
        build(config, matrices, "test", training).unwrap().graph.unwrap()
    }

    /// Frozen tensors and slots of a graph, and inputs of two texts, the second of three tokens, with all kinds of loss.
    fn inputs(graph: &Graph) -> HashMap<String, Value> {
        let external = graph.initializer.iter().filter(|tensor| tensor.data_location == Some(EXTERNAL));
        let frozen = external.map(|tensor| {
            let name = tensor.name.clone().unwrap();
            let dims: Vec<usize> = tensor.dims.iter().map(|d| *d as usize).collect();
            let value = if tensor.data_type == Some(INT8) {
                let codes: Vec<i64> = numbers(&name, dims.iter().product()).map(|n| (127.0 * n) as i64).collect();
                ints(&dims, &codes)
            } else if name.ends_with(".scale") {
                floats(&name, &dims, |n| 0.004 + 0.001 * n)
            } else if dims.len() == 1 && name.ends_with(".weight") {
                floats(&name, &dims, |n| 1.0 + 0.2 * n)
            } else {
                floats(&name, &dims, |n| 0.5 * n)
            };
            (name, value)
        });
        let given = |name: &str, value| (name.to_owned(), value);
        let share = |n: f64| 0.5 + 0.5 * n;
        // Row 1 of the first text and row 0 of the second read no token, so no span can be there.
        let reads = [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.0, 0.5, 0.2, 0.3],
            [0.0, 0.0, 0.0, 0.0],
            [0.3, 0.7, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
        ];
        let mut spans = vec![0.25; 12];
        spans[2..4].fill(0.0);
        spans[6..8].fill(0.0);
        let dims =
            |values: Vec<f64>, dims: [usize; 3]| Value::Float(ArrayD::from_shape_vec(IxDyn(&dims), values).unwrap());
        frozen
            .chain([
                given("input_ids", ints(&[2, 4], &[1, 7, 3, 10, 2, 5, 9, 0])),
                given("attention_mask", ints(&[2, 4], &[1, 1, 1, 1, 1, 1, 1, 0])),
                given("token_type_ids", ints(&[2, 4], &[0, 0, 1, 1, 0, 1, 1, 0])),
                given("reads", dims(reads.concat(), [2, 3, 4])),
                given("reads_pooler", floats("reads_pooler", &[2, 3, 1], |n| n)),
                given("head.weight", floats("head.weight", &[2, 8], |n| n)),
                given("head.bias", floats("head.bias", &[2], |n| n)),
                given("labels", floats("labels", &[2, 3, 2], share)),
                given("spans", dims(spans, [2, 3, 2])),
                given("values", floats("values", &[2, 3, 2], |n| 2.0 * n)),
                given("value_shares", floats("value_shares", &[2, 3, 2], share)),
            ])
            .collect()
    }

    fn float(value: &Value) -> &ArrayD<f64> {
        match value {
            Value::Float(array) => array,
            Value::Int(array) => panic!("{array:?}"),
        }
    }

    fn named(graph: &Graph, part: &str) -> Vec<String> {
        graph.node.iter().filter_map(|node| node.name.clone()).filter(|name| name.contains(part)).collect()
    }

    #[test]
    fn gradients_are_central_differences() {
        const STEP: f64 = 1e-6;
        for config in encoders() {
            for matrices in [Element::F32, Element::I8] {
                let whole = graph(&config, matrices, &Training::All);
                let mut forward = whole.clone();
                cut(&mut forward, |name| name == "loss");
                let inputs = inputs(&whole);
                let loss = |name: &str, direction: &ArrayD<f64>, by: f64| {
                    let mut moved = inputs.clone();
                    let value = float(&moved[name]) + direction * by;
                    moved.insert(name.to_owned(), Value::Float(value));
                    float(&run(&forward, Path::new(""), moved).unwrap()["loss"]).sum()
                };
                let slope = |name: &str, direction: &ArrayD<f64>| {
                    (loss(name, direction, STEP) - loss(name, direction, -STEP)) / (2.0 * STEP)
                };
                let found = run(&whole, Path::new(""), inputs.clone()).unwrap();
                let (mut worst, mut count) = (0.0f64, 0);
                for (name, gradient) in &found {
                    let Some(name) = name.strip_prefix("gradient.") else { continue };
                    let gradient = float(gradient);
                    let direction = floats(&format!("along {name}"), gradient.shape(), |n| n);
                    let direction = float(&direction);
                    let (due, found) = (slope(name, direction), (gradient * direction).sum());
                    let square = |array: &ArrayD<f64>| (array * array).sum();
                    let lengths = (square(gradient) * square(direction)).sqrt();
                    let error = (due - found).abs();
                    assert!(
                        error <= DERIVATIVE_BOUND * lengths + ROUNDING,
                        "{config:?}, {matrices:?}, {name}: the graph says {found}, differences say {due}"
                    );
                    worst = worst.max(error / lengths);
                    count += 1;
                }
                // All slots but the keys, and the head's two.
                assert_eq!(count, config.slots().unwrap().len() - config.layers as usize + 2);
                let key = crate::family::module(config.family, Term::Key, 1) + ".bias";
                let effect = slope(&key, float(&floats("along a key", &[8], |n| n)));
                assert!(effect.abs() < ROUNDING, "a key's bias has an effect: {effect}");
                println!("{:?} {matrices:?}: worst {worst:.1e}", config.family);
            }
        }
    }

    #[test]
    fn its_forward_half_is_the_graph_of_the_encoder() {
        for config in encoders() {
            for matrices in [Element::F32, Element::I8] {
                let encoder = encoder::build(&config, matrices).unwrap().finish("test").0.graph.unwrap();
                let mut training = graph(&config, matrices, &Training::All);
                training.output.extend(encoder.output.iter().cloned());
                cut(&mut training, |name| encoder.output.iter().any(|output| output.name.as_deref() == Some(name)));
                assert_eq!(training, encoder);
            }
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_computed() {
        for config in encoders() {
            let whole = graph(&config, Element::F32, &Training::All);
            let inputs = inputs(&whole);
            let found = run(&whole, Path::new(""), inputs.clone()).unwrap();
            let module = |term, layer| crate::family::module(config.family, term, layer);
            // Terms, and a value of which no gradient is needed for them.
            let cases = [
                (vec![], "d.layer.1".to_owned()),
                (vec![Term::OutputNorm], "d.layer.0".to_owned()),
                (vec![Term::Middle, Term::OutputNorm], "d.layer.0.context".to_owned()),
                (vec![Term::Query], format!("d.{}", module(Term::Query, 0))),
                (vec![Term::EmbeddingNorm], "d.embeddings.LayerNorm".to_owned()),
            ];
            for (terms, spared) in cases {
                let part = graph(&config, Element::F32, &Training::Terms(terms.clone()));
                assert!(part.node.len() < whole.node.len());
                assert_eq!(named(&part, &spared), Vec::<String>::new(), "{terms:?}");
                let asked = run(&part, Path::new(""), inputs.clone()).unwrap();
                let per_term = |term: &Term| if term.in_layers() { config.layers as usize } else { 1 };
                assert_eq!(asked.len(), 4 + terms.iter().map(per_term).sum::<usize>());
                for (name, value) in asked {
                    assert_eq!(float(&value), float(&found[&name]), "{terms:?}: {name}");
                }
            }
        }
    }
}
