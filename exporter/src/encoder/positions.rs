//! What attention knows of where tokens are, as nodes of the graph: penalties of padding and by distance, angles by
//! which queries and keys are rotated, and vectors of distances that they meet.
//!
//! In: the shape of an encoder. Out: what scores are added to, and rotated heads. Tables that no checkpoint has are
//! computed here. Nothing is refused.

use bias_patch::Module;
use edge_bundle::{
    DistanceTable, Part, Relative,
    onnx::{Attribute, FLOAT, INT64},
};

use super::{Encoder, INPUT_IDS};
use crate::{
    distances,
    graph::{Builder, Distances, Source},
};

/// What is added to the scores.
pub(super) struct Penalties {
    /// In layers that see all tokens: `[B, 1, 1, S]`, or `[B, N, S, S]` if distances count.
    pub all: String,
    /// In layers that see near tokens alone: `[B, 1, S, S]`.
    pub near: Option<String>,
    /// What queries and keys need to meet vectors of distances.
    pub met: Option<Met>,
}

/// Which vectors of distances queries and keys meet.
pub(super) struct Met {
    /// The bucket of each key's distance from each query: `[B, N, S, S]`.
    by_query: String,
    /// The same by keys: `[B, N, S, S]`, the third dimension being keys.
    by_key: String,
    /// By how much the bias of the table's LayerNorm differs from the pre-trained one, `[1, H]`.
    change: String,
}

impl Encoder<'_> {
    /// `[B, S]` of zeros and ones to `[B, 1, 1, S]`: 0 where a token is, the lowest number where there is padding.
    pub(super) fn mask(&mut self, mask: &str) -> String {
        let g = &mut self.graph;
        let float = g.node("Cast", "mask.float", &[mask], vec![Attribute::int("to", FLOAT.into())]);
        let one = g.number("mask.one", 1.0);
        let lowest = g.number("mask.lowest", f32::MIN);
        let padding = g.node("Sub", "mask.padding", &[&one, &float], vec![]);
        let penalty = g.node("Mul", "mask.penalty", &[&padding, &lowest], vec![]);
        let axes = g.integers("mask.axes", &[2], &[1, 2]);
        g.node("Unsqueeze", "mask.broadcast", &[&penalty, &axes], vec![])
    }

    /// What is added to the scores, from the penalty of padding.
    pub(super) fn penalties(&mut self, mask: String) -> Penalties {
        let c = self.config;
        if let Some(relative) = c.relative {
            let distances = self.distances(); // [S, S]
            let table = self.family.distance_table().expect("a family with distances has a table of them");
            let g = &mut self.graph;
            let source = Source::Tensor(table.to_owned(), Part::WHOLE);
            let table = g.table(table, [relative.buckets.into(), c.heads.into()], source);
            let buckets = self.buckets(&distances, |distance| bucket(distance, relative)); // [S, S]
            let g = &mut self.graph;
            let added = g.node("Gather", "attention.by_distance", &[&table, &buckets], vec![]); // [S, S, N]
            let added = g.transpose("attention.by_head", &added, &[2, 0, 1]); // [N, S, S]
            let all = g.node("Add", "attention.penalty", &[&mask, &added], vec![]); // [B, N, S, S]
            return Penalties { all, near: None, met: None };
        }
        let Some(window) = c.window else { return Penalties { all: mask, near: None, met: None } };
        let distances = self.distances(); // [S, S]
        let g = &mut self.graph;
        // 0 up to the reach, and beyond it the lowest number times how far beyond.
        let reach = g.number("attention.reach", window.reach as f32);
        let lowest = g.number("attention.lowest", f32::MIN);
        let apart = g.node("Abs", "attention.apart", &[&distances], vec![]);
        let beyond = g.node("Sub", "attention.from_reach", &[&apart, &reach], vec![]);
        let beyond = g.node("Relu", "attention.beyond", &[&beyond], vec![]);
        let far = g.node("Mul", "attention.far", &[&beyond, &lowest], vec![]); // [S, S]
        let near = g.node("Add", "attention.near", &[&mask, &far], vec![]); // [B, 1, S, S]
        Penalties { all: mask, near: Some(near), met: None }
    }

    /// The buckets of distances, `[S, S]`, integers.
    fn buckets(&mut self, distances: &str, of: impl Fn(i64) -> u32) -> String {
        let most = i64::from(self.config.max_length) - 1;
        let buckets: Vec<i64> = (-most..=most).map(|distance| of(distance).into()).collect();
        let g = &mut self.graph;
        let most = g.number("attention.most", most as f32);
        let from_zero = g.node("Add", "attention.distances.from_zero", &[distances, &most], vec![]);
        let to_integer = vec![Attribute::int("to", INT64.into())];
        let from_zero = g.node("Cast", "attention.distances.whole", &[&from_zero], to_integer); // [S, S]
        let buckets = g.integers("attention.buckets", &[buckets.len() as i64], &buckets);
        g.node("Gather", "attention.by_bucket", &[&buckets, &from_zero], vec![]) // [S, S]
    }

    /// What queries and keys of all layers need to meet vectors of distances, where they do.
    pub(super) fn met(&mut self) -> Option<Met> {
        let (c, disentangled) = (self.config, self.config.disentangled?);
        let (norm, bias) = self.bias(Module::DistanceNorm, None, c.hidden);
        let source = Source::Tensor(bias.clone(), Part::WHOLE);
        let before = self.graph.weight(&format!("{norm}.pretrained"), &[c.hidden.into()], false, source);
        let distances = self.distances(); // [S, S]
        let buckets = self.buckets(&distances, |distance| distances::bucket(distance, disentangled)); // [S, S]
        let g = &mut self.graph;
        let change = g.node("Sub", &format!("{norm}.change"), &[&bias, &before], vec![]); // [H]
        let axis = g.integers(&format!("{norm}.axis"), &[1], &[0]);
        let change = g.node("Unsqueeze", &format!("{norm}.change.row"), &[&change, &axis], vec![]); // [1, H]
        let mut length = |name: &str, of: i64| {
            let dimension = vec![Attribute::int("start", of), Attribute::int("end", of + 1)];
            g.node("Shape", &format!("attention.{name}"), &[INPUT_IDS], dimension) // [1]
        };
        let (batch, sequence) = (length("batch", 0), length("sequence", 1));
        let heads = g.integers("attention.heads", &[1], &[c.heads.into()]);
        let axis = vec![Attribute::int("axis", 0)];
        let shape = g.node("Concat", "attention.shape", &[&batch, &heads, &sequence, &sequence], axis); // [4]
        let by_query = g.node("Expand", "attention.met.by_query", &[&buckets, &shape], vec![]);
        let buckets = g.transpose("attention.by_bucket.of_keys", &buckets, &[1, 0]); // [S, S]
        let by_key = g.node("Expand", "attention.met.by_key", &[&buckets, &shape], vec![]);
        Some(Met { by_query, by_key, change })
    }

    /// (q + c) k + q K_t + k Q_t, `[B, N, S, S]`: t is the bucket of the distance of a key from a query; K_t and Q_t
    /// are what the layers of keys and queries make of its row of the table; and c is what biases of a task add to all
    /// Q_t. What they add to K_t is the same in all scores of a query, so softmax cancels it. `query` is `[B, S, H]`, q
    /// is `[B, N, S, D]`, k is `[B, N, D, S]`.
    pub(super) fn scores_by_distance(&mut self, query: &str, q: &str, k: &str, met: &Met, layer: u16) -> String {
        let (h, at) = (self.config.hidden, Some(layer));
        let name = |part: &str| format!("layer.{layer}.{part}");
        let module = self.family.module(Module::Query, at);
        let weight = self.frozen(Module::Query, at, &[h.into(), h.into()], true);
        let g = &mut self.graph;
        let change = g.node("MatMul", &name("q.change.product"), &[&met.change, &weight], vec![]); // [1, H]
        let change = g.node("Add", &name("q.change"), &[&change, &format!("{module}.bias")], vec![]); // [1, H]
        let shifted = g.node("Add", &name("q.sum"), &[query, &change], vec![]); // [B, S, H]
        let shifted = g.node("Reshape", &name("q.sum.split"), &[&shifted, &name("split_heads")], vec![]);
        let shifted = g.transpose(&name("q.shifted"), &shifted, &[0, 2, 1, 3]); // [B, N, S, D]
        let scores = g.node("MatMul", &name("scores"), &[&shifted, k], vec![]); // [B, N, S, S]

        let keys = self.vectors(Module::Key, layer); // [N, D, T]
        let queries = self.vectors(Module::Query, layer); // [N, D, T]
        let g = &mut self.graph;
        let axis = || vec![Attribute::int("axis", -1)];
        let by_query = g.node("MatMul", &name("q.met"), &[q, &keys], vec![]); // [B, N, S, T]
        let by_query = g.node("GatherElements", &name("q.by_distance"), &[&by_query, &met.by_query], axis());
        let k = g.transpose(&name("k.rows"), k, &[0, 1, 3, 2]); // [B, N, S, D]
        let by_key = g.node("MatMul", &name("k.met"), &[&k, &queries], vec![]); // [B, N, S, T]
        let by_key = g.node("GatherElements", &name("k.by_distance"), &[&by_key, &met.by_key], axis());
        let by_key = g.transpose(&name("k.by_distance.of_queries"), &by_key, &[0, 1, 3, 2]);
        let scores = g.node("Add", &name("scores.by_query"), &[&scores, &by_query], vec![]);
        g.node("Add", &name("scores.by_distance"), &[&scores, &by_key], vec![])
    }

    /// What the layer of keys or queries makes of the table of distances, `[N, D, T]`.
    fn vectors(&mut self, term: Module, layer: u16) -> String {
        let (c, module) = (self.config, self.family.module(term, Some(layer)));
        let (depth, heads) = (c.hidden / c.heads, c.heads);
        let buckets = 2 * c.disentangled.expect("asked for where there are such vectors").buckets;
        let norm = self.family.module(Module::DistanceNorm, None);
        let table = self.family.distance_table().expect("a family with distances has a table of them");
        let source = Source::Distances(Distances {
            table: table.to_owned(),
            norm: [format!("{norm}.weight"), format!("{norm}.bias")],
            epsilon: c.layer_norm_epsilon,
            matrix: format!("{module}.weight"),
            heads,
        });
        let vectors = DistanceTable::name_of(&module);
        let vectors = self.graph.factor(&vectors, [depth.into(), u64::from(heads) * u64::from(buckets)], source);
        let g = &mut self.graph;
        let shape = [depth, heads, buckets].map(i64::from);
        let split = g.integers(&format!("{vectors}.shape"), &[3], &shape);
        let split = g.node("Reshape", &format!("{vectors}.split"), &[&vectors, &split], vec![]); // [D, N, T]
        g.transpose(&format!("{vectors}.heads"), &split, &[1, 0, 2]) // [N, D, T]
    }

    /// The rows that a table of positions has for the first S places, `[S, E]`.
    pub(super) fn all_positions(&mut self, table: &str) -> String {
        let g = &mut self.graph;
        let length = vec![Attribute::int("start", 1), Attribute::int("end", 2)];
        let length = g.node("Shape", "embeddings.length", &[INPUT_IDS], length); // [1]
        let first = g.integers("embeddings.first_position", &[1], &[0]);
        let end = g.node("Add", "embeddings.end_position", &[&length, &first], vec![]);
        let axis = g.integers("embeddings.axis", &[1], &[0]);
        g.node("Slice", "embeddings.positions", &[table, &first, &end, &axis], vec![])
    }

    /// The rows of a table of positions, `[B, S, E]`, where the number of the token for padding is its position too,
    /// and only other tokens are counted: the first has the position after it.
    pub(super) fn counted_positions(&mut self, table: &str, padding: u32) -> String {
        let g = &mut self.graph;
        let position = g.number("embeddings.padding_position", padding as f32);
        let padding = g.integers("embeddings.padding", &[1], &[padding.into()]);
        let axis = g.index("embeddings.axis", 1);
        let is_padding = g.node("Equal", "embeddings.is_padding", &[INPUT_IDS, &padding], vec![]); // [B, S]
        let is_other = g.node("Not", "embeddings.is_counted", &[&is_padding], vec![]);
        // In floats, which have all these numbers: tract cannot sum integers up.
        let to_float = vec![Attribute::int("to", FLOAT.into())];
        let counted = g.node("Cast", "embeddings.counted", &[&is_other], to_float); // [B, S]
        let counts = g.node("CumSum", "embeddings.counts", &[&counted, &axis], vec![]);
        let counts = g.node("Mul", "embeddings.places", &[&counts, &counted], vec![]);
        let rows = g.node("Add", "embeddings.position_numbers", &[&counts, &position], vec![]);
        let to_integer = vec![Attribute::int("to", INT64.into())];
        let rows = g.node("Cast", "embeddings.position_ids", &[&rows], to_integer); // [B, S]
        g.node("Gather", "embeddings.positions", &[table, &rows], vec![])
    }

    /// The distance of each token, as a key, from each, as a query: `[S, S]`, floats.
    fn distances(&mut self) -> String {
        let places: Vec<f32> = (0..self.config.max_length).map(|place| place as f32).collect();
        let places = self.graph.floats("attention.all_places", &places);
        let places = self.first_rows("attention.places", &places); // [S]
        let g = &mut self.graph;
        let (first, second) = (g.integers("attention.axis_0", &[1], &[0]), g.integers("attention.axis_1", &[1], &[1]));
        let keys = g.node("Unsqueeze", "attention.keys", &[&places, &first], vec![]); // [1, S]
        let queries = g.node("Unsqueeze", "attention.queries", &[&places, &second], vec![]); // [S, 1]
        g.node("Sub", "attention.distances", &[&keys, &queries], vec![])
    }

    /// The first S rows of a table.
    fn first_rows(&mut self, name: &str, table: &str) -> String {
        let g = &mut self.graph;
        let length = vec![Attribute::int("start", 1), Attribute::int("end", 2)];
        let length = g.node("Shape", &format!("{name}.length"), &[INPUT_IDS], length); // [1]
        let zero = g.integers(&format!("{name}.first"), &[1], &[0]);
        g.node("Slice", name, &[table, &zero, &length, &zero], vec![])
    }

    /// Cosines and sines of the angles of the first S places, `[S, D/2]` each.
    pub(super) fn angles(&mut self, theta: f64, ntk_factor: f64) -> [String; 2] {
        let (places, half) = (self.config.max_length, self.config.hidden / self.config.heads / 2);
        let table = format!("rotary.{theta}");
        let names = ["cosines", "sines"].map(|part| format!("{table}.{part}"));
        if !self.graph.weights.iter().any(|weight| weight.name == table) {
            let source = Source::Computed(rotary_table(places, half, theta, ntk_factor));
            let table = self.graph.table(&table, [places.into(), 2 * u64::from(half)], source);
            let rows = self.first_rows(&format!("{table}.places"), &table); // [S, D]
            for (name, half) in names.iter().zip(self.halves(&table, half)) {
                self.graph.node("Slice", name, &[&rows, &half[0], &half[1], &half[2]], vec![]);
            }
        }
        names
    }

    /// Bounds of the two halves of the last of two dimensions: start, end, axis.
    fn halves(&mut self, name: &str, half: u32) -> [[String; 3]; 2] {
        let g = &mut self.graph;
        let number = |g: &mut Builder, part: &str, value: i64| g.integers(&format!("{name}.{part}"), &[1], &[value]);
        let (zero, half_way) = (number(g, "zero", 0), number(g, "half", half.into()));
        let (end, axis) = (number(g, "end", 2 * i64::from(half)), number(g, "last_axis", -1));
        [[zero, half_way.clone(), axis.clone()], [half_way, end, axis]]
    }

    /// Heads rotated by angles, `[B, N, S, D]`: column c with column c + D/2.
    pub(super) fn rotated(&mut self, heads: &str, name: &str, [cosines, sines]: &[String; 2]) -> String {
        let half = self.config.hidden / self.config.heads / 2;
        let bounds = self.halves(&format!("{name}.halves"), half);
        let g = &mut self.graph;
        let parts = ["first", "second"].map(|part| format!("{name}.{part}"));
        for (part, bounds) in parts.iter().zip(&bounds) {
            g.node("Slice", part, &[heads, &bounds[0], &bounds[1], &bounds[2]], vec![]);
        }
        let [first, second] = &parts;
        let mut node = |op: &str, part: &str, a: &str, b: &str| g.node(op, &format!("{name}.{part}"), &[a, b], vec![]);
        let (a, b) = (node("Mul", "first.cosines", first, cosines), node("Mul", "second.sines", second, sines));
        let rotated_first = node("Sub", "rotated.first", &a, &b);
        let (a, b) = (node("Mul", "second.cosines", second, cosines), node("Mul", "first.sines", first, sines));
        let rotated_second = node("Add", "rotated.second", &a, &b);
        let axis = vec![Attribute::int("axis", -1)];
        g.node("Concat", &format!("{name}.rotated"), &[&rotated_first, &rotated_second], axis)
    }
}

/// The bucket of a distance, of the key from the query, as T5 counts them.
fn bucket(distance: i64, Relative { buckets, max_distance }: Relative) -> u32 {
    let half = buckets / 2;
    let exact = half / 2;
    let ahead = if distance > 0 { half } else { 0 };
    let apart = distance.unsigned_abs() as f32;
    if apart < exact as f32 {
        return ahead + apart as u32;
    }
    // In f32, as PyTorch computes it: a distance may be on a boundary.
    let (exact_f, most) = (exact as f32, max_distance as f32);
    let range = libm::log(f64::from(most) / f64::from(exact_f)) as f32;
    let beyond = libm::logf(apart / exact_f) / range * (half - exact) as f32;
    ahead + (exact + beyond as u32).min(half - 1)
}

/// For each place the cosines of its D/2 angles, then the sines. Frequencies and angles are rounded to f32, as
/// transformers computes them. By libm, not by the system's library, so that every machine makes the same bytes.
fn rotary_table(places: u32, half: u32, theta: f64, ntk_factor: f64) -> Vec<f32> {
    let exponent = |at: u32| 2.0 * at as f32 / (2 * half) as f32;
    let (base, divisor) = (theta * ntk_factor, libm::pow(ntk_factor, 1.0 / f64::from(half)) as f32);
    let frequency = |at: u32| 1.0 / libm::pow(base, exponent(at).into()) as f32 / divisor;
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let of_place = |place: u32| {
        let angles: Vec<f64> = frequencies.iter().map(|frequency| f64::from(frequency * place as f32)).collect();
        let cosines: Vec<f32> = angles.iter().map(|angle| libm::cos(*angle) as f32).collect();
        cosines.into_iter().chain(angles.into_iter().map(|angle| libm::sin(angle) as f32))
    };
    (0..places).flat_map(of_place).collect()
}
