//! A small model of every operator, through the public API: gradients, batches, and what is refused.
//!
//! Its weights are made here from a seed and packed as FORMAT.md of the bundle says, in f32 or int8; some tests have f16 and int4.

mod backward;
mod batches;
mod cut;
mod disentangled;
mod halves;
mod packed;
mod positions;
mod refusing;

use edge_engine::{
    Activation, Activations, Aligned, Batch, LayerNorm, Linear, LowRank, Machine, Model, Outputs, Slot, Table, Tensor,
    Threads, Values, Weights,
    kernels::Kernel,
    layout::{ALIGNMENT, PANEL_GROUP, PANEL_WIDTH, SCALE_GROUP},
    operators::{
        Attention, Dense, Disentangled, Embedding, FirstToken, Middle, Norm, Operator, PositionRows, Positions,
        Relative, Residual,
    },
};

/// Words, positions and token types.
const ROWS: [usize; 3] = [5, 7, 2];
/// E and H; neither fills a panel.
const EMBEDDING: usize = 6;
const HIDDEN: usize = 8;
/// I: more than a panel of columns, and more rows than share a scale in int8.
const MIDDLE: usize = 260;

/// A model and its weights.
struct Small {
    model: Model,
    quantized: bool,
    weights: Aligned,
    /// Every slot by its name.
    slots: Vec<(&'static str, Slot)>,
    /// The name, inputs and outputs of every linear layer, by the number of its low-rank term.
    layers: Vec<(&'static str, [usize; 2])>,
}

/// What a [`Small`] is made of, as it grows.
struct Maker {
    bytes: Vec<u8>,
    slots: Vec<(&'static str, Slot)>,
    layers: Vec<(&'static str, [usize; 2])>,
    quantized: bool,
    has_bias: fn(&str) -> bool,
}

type Node = (Box<dyn Operator>, Vec<usize>);

/// Numbers in [-1, 1) from a fixed linear congruential generator.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn machine(kernel: &'static dyn Kernel, activations: Activations) -> Machine {
    Machine::new(kernel, activations, Threads::one())
}

/// Sequences of one, five and three tokens, each with its task.
fn batch(tasks: [u32; 3]) -> Batch {
    let mut batch = Batch::default();
    for ((ids, types), task) in sequences().into_iter().zip(tasks) {
        batch.push(&ids, &types, task);
    }
    batch
}

fn sequences() -> [(Vec<u32>, Vec<u32>); 3] {
    [(vec![2], vec![0]), (vec![0, 1, 4, 3, 1], vec![0, 0, 1, 1, 1]), (vec![4, 4, 2], vec![0, 1, 0])]
}

impl Small {
    /// With the biases that `has_bias` says.
    fn new(quantized: bool, has_bias: fn(&str) -> bool) -> Self {
        Self::of(quantized, has_bias, Maker::operators, Outputs { tokens: 4, pooled: Some(6) })
    }

    /// With LayerNorm before attention and a gated MLP, and every kind of positions.
    fn of_normed(quantized: bool, has_bias: fn(&str) -> bool) -> Self {
        Self::of(quantized, has_bias, Maker::operators_of_normed, Outputs { tokens: 6, pooled: Some(8) })
    }

    /// With vectors of distances that queries and keys meet.
    fn of_distances(quantized: bool, has_bias: fn(&str) -> bool) -> Self {
        Self::of(quantized, has_bias, Maker::operators_of_distances, Outputs { tokens: 4, pooled: Some(6) })
    }

    fn of(
        quantized: bool,
        has_bias: fn(&str) -> bool,
        operators: fn(&mut Maker) -> Vec<Node>,
        outputs: Outputs,
    ) -> Self {
        let mut maker = Maker { bytes: Vec::new(), slots: Vec::new(), layers: Vec::new(), quantized, has_bias };
        let operators = operators(&mut maker);
        let Maker { bytes, slots, layers, .. } = maker;
        let mut weights = Aligned::zeros(bytes.len() / 4);
        bytemuck::cast_slice_mut(&mut weights[..bytes.len() / 4]).copy_from_slice(&bytes);
        let count = slots.last().map_or(0, |(_, slot)| slot.at + slot.len);
        Small { model: Model::new(operators, outputs, count, bytes.len()).unwrap(), quantized, weights, slots, layers }
    }

    fn weights(&self) -> Weights<'_> {
        Weights::new(bytemuck::cast_slice(&self.weights)).unwrap()
    }

    /// The embedding's output, from a model that ends there.
    fn embedded(&self, machine: &Machine, values: &[f32], batch: &Batch) -> Vec<f32> {
        let mut maker = Maker {
            bytes: Vec::new(),
            slots: Vec::new(),
            layers: Vec::new(),
            quantized: self.quantized,
            has_bias: |_| true,
        };
        let operators: Vec<Node> = maker.operators().into_iter().take(1).collect();
        let outputs = Outputs { tokens: 0, pooled: None };
        let model = Model::new(operators, outputs, self.model.values(), maker.bytes.len()).unwrap();
        let table = Table { values, width: values.len(), terms: &[], zeros: &[] };
        model.run(machine, self.weights(), batch, table).unwrap().tokens.to_vec()
    }

    /// Values of a task.
    fn values(&self, seed: u32) -> Vec<f32> {
        numbers(self.model.values(), seed).iter().map(|value| 0.5 * value).collect()
    }

    /// Values of a task with low-rank terms of the ranks that `rank` gives for the layers' names, and their places.
    fn with_terms(&self, seed: u32, rank: impl Fn(&str) -> usize) -> (Vec<f32>, Vec<Option<LowRank>>) {
        let mut values = self.values(seed);
        let mut places = Vec::new();
        for (at, (name, [inputs, outputs])) in self.layers.iter().enumerate() {
            let rank = rank(name);
            let (a, b) = (values.len(), values.len() + rank * inputs);
            let size = 1.0 / (*inputs as f32).sqrt();
            values.extend(numbers(rank * inputs, seed + at as u32).iter().map(|value| size * value));
            values.extend(numbers(rank * outputs, seed + 50 + at as u32).iter().map(|value| 0.5 * value));
            places.push((rank > 0).then_some(LowRank { rank, a, b }));
        }
        (values, places)
    }
}

impl Maker {
    /// Embeddings, their projection, a layer, and a pooler.
    fn operators(&mut self) -> Vec<Node> {
        self.operators_with(Positions::default())
    }

    /// The same, with vectors for buckets of one to three distances.
    fn operators_of_distances(&mut self) -> Vec<Node> {
        let disentangled = Some(self.disentangled(PANEL_WIDTH, vec![2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10, 10]));
        self.operators_with(Positions { disentangled, ..Positions::default() })
    }

    /// Vectors of `count` buckets for two heads, and a bias of them.
    fn disentangled(&mut self, count: usize, buckets: Vec<u32>) -> Disentangled {
        let [keys, queries] = [13, 14].map(|seed| {
            // Whole panels, in which no order is wrong.
            let (rows, columns) = (HIDDEN / 2, 2 * count);
            Tensor { rows, columns, in_panels: true, ..self.floats(rows, columns, seed) }
        });
        let before = self.floats(1, HIDDEN, 15);
        let bias = self.slot("distances", HIDDEN).map(|slot| (slot, before));
        Disentangled { keys, queries, buckets, bias }
    }

    fn operators_with(&mut self, attended: Positions) -> Vec<Node> {
        let name = String::from;
        let [words, table, types] =
            [(ROWS[0], 1), (ROWS[1], 2), (ROWS[2], 3)].map(|(rows, seed)| self.table(rows, seed));
        let norm = self.norm("embedding norm", EMBEDDING);
        let positions = Some(PositionRows { table, first: 0, uncounted: None });
        let embedding = Embedding { name: name("words"), words, positions, types: Some(types), norm };
        let projection =
            Dense { name: name("project"), linear: self.linear("projection", EMBEDDING, HIDDEN), activation: None };
        let mut layers = ["query", "key", "value"].map(|name| self.linear(name, HIDDEN, HIDDEN));
        if attended.disentangled.is_some() {
            layers[..2].iter_mut().for_each(|layer| layer.low_rank = None);
        }
        let attention = Attention { name: name("attend"), layers, heads: 2, positions: attended };
        let linear = self.linear("attention output", HIDDEN, HIDDEN);
        let norm = Some(self.norm("attention norm", HIDDEN));
        let block = Residual { name: name("block"), middle: None, linear, norm };
        let middle = Middle { layers: vec![self.linear("middle", HIDDEN, MIDDLE)], activation: Activation::Gelu };
        let linear = self.linear("output", MIDDLE, HIDDEN);
        let norm = Some(self.norm("output norm", HIDDEN));
        let mlp = Residual { name: name("mlp"), middle: Some(middle), linear, norm };
        let first = FirstToken { name: name("first"), width: HIDDEN };
        let linear = self.linear("pooler", HIDDEN, HIDDEN);
        let pooler = Dense { name: name("pool"), linear, activation: Some(Activation::Tanh) };
        vec![
            (Box::new(embedding), vec![]),
            (Box::new(projection), vec![0]),
            (Box::new(attention), vec![1]),
            (Box::new(block), vec![2, 1]),
            (Box::new(mlp), vec![3, 3]),
            (Box::new(first), vec![4]),
            (Box::new(pooler), vec![5]),
        ]
    }

    /// Embeddings without positions, their projection, a layer whose LayerNorms come first, and a pooler.
    fn operators_of_normed(&mut self) -> Vec<Node> {
        let name = String::from;
        let (words, types) = (self.table(ROWS[0], 1), self.table(ROWS[2], 3));
        let norm = self.norm("embedding norm", EMBEDDING);
        let embedding = Embedding { name: name("words"), words, positions: None, types: Some(types), norm };
        let projection =
            Dense { name: name("project"), linear: self.linear("projection", EMBEDDING, HIDDEN), activation: None };
        let layers = ["query", "key", "value"].map(|name| self.linear(name, HIDDEN, HIDDEN));
        let rotary = Some(self.floats(ROWS[1], HIDDEN / 2, 11));
        let buckets = (0..2 * ROWS[1] as u32 - 1).map(|distance| distance / 2).collect();
        let relative = Some(Relative { table: self.floats(ROWS[1], 2, 12), buckets });
        let positions = Positions { rotary, relative, window: Some(2), ..Positions::default() };
        let attention = Attention { name: name("attend"), layers, heads: 2, positions };
        let linear = self.linear("attention output", HIDDEN, HIDDEN);
        let block = Residual { name: name("block"), middle: None, linear, norm: None };
        let before = Norm { name: name("before"), norm: self.norm("attention norm", HIDDEN) };
        let layers = ["middle", "gate"].map(|name| self.linear(name, HIDDEN, MIDDLE)).to_vec();
        let middle = Some(Middle { layers, activation: Activation::Gelu });
        let mlp = Residual { name: name("mlp"), middle, linear: self.linear("output", MIDDLE, HIDDEN), norm: None };
        let last = Norm { name: name("last"), norm: self.norm("output norm", HIDDEN) };
        let first = FirstToken { name: name("first"), width: HIDDEN };
        let linear = self.linear("pooler", HIDDEN, HIDDEN);
        let pooler = Dense { name: name("pool"), linear, activation: Some(Activation::Tanh) };
        vec![
            (Box::new(embedding), vec![]),
            (Box::new(projection), vec![0]),
            (Box::new(attention), vec![1]),
            (Box::new(block), vec![2, 1]),
            (Box::new(before), vec![3]),
            (Box::new(mlp), vec![4, 3]),
            (Box::new(last), vec![5]),
            (Box::new(first), vec![6]),
            (Box::new(pooler), vec![7]),
        ]
    }

    /// A table of floats.
    fn floats(&mut self, rows: usize, columns: usize, seed: u32) -> Tensor {
        let at = self.place(bytemuck::cast_slice(&numbers(rows * columns, seed)));
        Tensor { rows, columns, in_panels: false, values: Values::F32 { at } }
    }

    fn slot(&mut self, name: &'static str, len: usize) -> Option<Slot> {
        let at = self.slots.last().map_or(0, |(_, slot)| slot.at + slot.len);
        let slot = (self.has_bias)(name).then_some(Slot { at, len });
        self.slots.extend(slot.map(|slot| (name, slot)));
        slot
    }

    fn norm(&mut self, name: &'static str, width: usize) -> LayerNorm {
        let gain: Vec<f32> = numbers(width, 4).iter().map(|value| 1.0 + 0.3 * value).collect();
        let at = self.place(bytemuck::cast_slice(&gain));
        let gain = Tensor { rows: 1, columns: width, in_panels: false, values: Values::F32 { at } };
        LayerNorm { gain, bias: self.slot(name, width), epsilon: 1e-5 }
    }

    /// Rows of embeddings; in int8 with a scale each.
    fn table(&mut self, rows: usize, seed: u32) -> Tensor {
        let floats = numbers(rows * EMBEDDING, seed);
        let values = if self.quantized {
            let quantized: Vec<i8> = floats.iter().map(|value| (value * 127.0) as i8).collect();
            let at = self.place(bytemuck::cast_slice(&quantized));
            let scales: Vec<f32> = (0..rows).map(|row| (1.0 + row as f32) / 300.0).collect();
            Values::I8 { at, scales: self.place(bytemuck::cast_slice(&scales)), column_sums: 0 }
        } else {
            Values::F32 { at: self.place(bytemuck::cast_slice(&floats)) }
        };
        Tensor { rows, columns: EMBEDDING, in_panels: false, values }
    }

    /// A matrix in panels, and its bias.
    fn linear(&mut self, name: &'static str, rows: usize, columns: usize) -> Linear {
        let floats = numbers(rows * columns, name.len() as u32 + 5);
        let size = 1.0 / (rows as f32).sqrt();
        let (padded, deep) = (columns.next_multiple_of(PANEL_WIDTH), rows.next_multiple_of(PANEL_GROUP));
        let each = || (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let values = if self.quantized {
            let groups = rows.div_ceil(SCALE_GROUP);
            let (mut panels, mut sums) = (vec![0i8; padded * deep], vec![0.0f32; groups * columns]);
            for (row, column) in each() {
                let (panel, lane) = (column / PANEL_WIDTH, column % PANEL_WIDTH);
                let quantized = (floats[row * columns + column] * 127.0) as i8;
                let place = (panel * deep + row / PANEL_GROUP * PANEL_GROUP) * PANEL_WIDTH;
                panels[place + lane * PANEL_GROUP + row % PANEL_GROUP] = quantized;
                sums[row / SCALE_GROUP * columns + column] += f32::from(quantized);
            }
            let scales: Vec<f32> = numbers(groups * columns, 9).iter().map(|v| size * (1.5 + v) / 127.0).collect();
            Values::I8 {
                at: self.place(bytemuck::cast_slice(&panels)),
                scales: self.place(bytemuck::cast_slice(&scales)),
                column_sums: self.place(bytemuck::cast_slice(&sums)),
            }
        } else {
            let mut panels = vec![0.0f32; padded * rows];
            for (row, column) in each() {
                let place = (column / PANEL_WIDTH * rows + row) * PANEL_WIDTH + column % PANEL_WIDTH;
                panels[place] = 1.5 * size * floats[row * columns + column];
            }
            Values::F32 { at: self.place(bytemuck::cast_slice(&panels)) }
        };
        let weight = Tensor { rows, columns, in_panels: true, values };
        self.layers.push((name, [rows, columns]));
        Linear { weight, bias: self.slot(name, columns), low_rank: Some(self.layers.len() - 1) }
    }

    /// Appends a part on the next boundary, and gives where it is.
    fn place(&mut self, part: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(part);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        at
    }
}
