//! Attention, and what it knows of where tokens are.
//!
//! In: the node that the heads are joined in. Out: the engine's operator. Refused: queries, keys and values of several
//! inputs, another scale than 1 / sqrt(D), penalties other than of padding and distances, and other rotations than
//! those of rotary positions. [`super::disentangled`] reads scores to which vectors of distances add.
//!
//! Letters: B batch, S sequence, n heads, D width of a head, P the longest sequence of a table.

use edge_bundle::onnx::{self, Node};
use edge_engine::{
    Linear, Tensor,
    operators::{Attention, Operator, Positions, Relative},
};

use super::{
    frozen::Stored,
    graph::{Result, Uncovered, check_int, check_list},
    patterns::{Search, unknown},
};

impl<'a> Search<'a> {
    /// The heads of Reshape(Transpose(MatMul(Softmax(Add(Mul(MatMul(q, k), scale), penalty)), v))), q, k and v each
    /// being Transpose(Reshape(linear)), q and k perhaps rotated. The penalty is of padding, which a batch of the engine
    /// does not have, and perhaps of distances.
    pub(super) fn attention(&mut self, join: &'a Node) -> Result<(Box<dyn Operator>, Vec<usize>)> {
        let graph = &self.graph;
        let [context, joined] = &join.input[..] else { return Err(unknown(join)) };
        let context = self.transposed(context, &[0, 2, 1, 3])?;
        let context = graph.step(context, "MatMul", 2)?;
        let softmax = graph.step(&context.input[0], "Softmax", 1)?;
        check_int(softmax, "axis", &[-1, 3], -1)?;
        let masked = graph.step(&softmax.input[0], "Add", 2)?;
        let (relative, window) = self.penalty(&masked.input[1])?;
        let scaled = graph.step(&masked.input[0], "Mul", 2)?;
        let (scores, met) = match graph.find(&scaled.input[0], "Add")? {
            None => (graph.step(&scaled.input[0], "MatMul", 2)?, None),
            Some(sum) => {
                let (scores, met) = self.meeting(sum)?;
                (scores, Some(met))
            }
        };
        // q and v are [B, n, S, D], k is [B, n, D, S].
        let q = met.as_ref().map_or(scores.input[0].as_str(), |met| met.q);
        let (rotary, q, k) = self.rotated(q, &scores.input[1])?;
        let key_order: &[i64] = if rotary.is_some() { &[0, 2, 1, 3] } else { &[0, 2, 3, 1] };
        let (mut query, x, heads) = self.projection(q, &[0, 2, 1, 3])?;
        let (mut key, of_key, of_key_heads) = self.projection(k, key_order)?;
        let (value, of_value, of_value_heads) = self.projection(&context.input[1], &[0, 2, 1, 3])?;
        if x != of_key || x != of_value || heads != of_key_heads || heads != of_value_heads {
            return Err(Uncovered::node(join, "queries, keys and values of one input", "several"));
        }
        let [count, depth] = heads;
        check_int(join, "allowzero", &[0], 0)?;
        check_list(join, "a shape", &[0, 0, count.saturating_mul(depth)], &graph.integers(joined)?)?;
        let disentangled = met.map(|met| self.disentangled(met, scores, &query, heads)).transpose()?;
        if disentangled.is_some() {
            // They have no terms, as the manifest's shape says to patches.
            (query.low_rank, key.low_rank) = (None, None);
        }
        let parts = if disentangled.is_some() { 3.0 } else { 1.0 };
        let due = 1.0 / (parts * depth as f32).sqrt();
        let found = graph.number(&scaled.input[1])?;
        // Numbers apart by roundings; a NaN is apart from all.
        let close = (found - due).abs() <= 1e-6 * due;
        if !close {
            return Err(Uncovered::node(scaled, format!("a scale of {due}"), found));
        }
        let heads = usize::try_from(count).map_err(|_| Uncovered::node(join, "heads", count))?;
        let (due, width) = (query.weight.columns, count.saturating_mul(depth));
        if usize::try_from(width) != Ok(due) {
            return Err(Uncovered::node(join, format!("heads of {due} columns"), width));
        }
        let inputs = vec![self.value(x)?];
        let name = join.name().to_owned();
        let positions = Positions { rotary, relative, disentangled, window };
        Ok((Box::new(Attention { name, layers: [query, key, value], heads, positions }), inputs))
    }

    /// A query, key or value: its layer, the name of the layer's input, and how many heads of how many columns it has.
    fn projection(&self, name: &str, order: &[i64]) -> Result<(Linear, &'a str, [i64; 2])> {
        let (joined, heads) = self.split(name, order)?;
        let (layer, x) = self.linear(self.graph.producer(joined)?)?;
        Ok((layer, x, heads))
    }

    /// Transpose(Reshape(x, [0, 0, n, D])), the heads of x: the name of x, n and D.
    pub(super) fn split(&self, name: &str, order: &[i64]) -> Result<(&'a str, [i64; 2])> {
        let split = self.graph.step(self.transposed(name, order)?, "Reshape", 2)?;
        check_int(split, "allowzero", &[0], 0)?;
        let shape = self.graph.integers(&split.input[1])?;
        match shape[..] {
            [0, 0, heads, depth] if heads > 0 && depth > 0 => Ok((&split.input[0], [heads, depth])),
            _ => Err(Uncovered::node(split, "a shape of heads, [0, 0, n, D]", format!("{shape:?}"))),
        }
    }

    /// What the scores' penalty knows of distances: a table of numbers that are added, or the largest distance that is
    /// seen. It is the penalty of padding, or Add(padding, by distance).
    fn penalty(&self, name: &'a str) -> Result<(Option<Relative>, Option<usize>)> {
        let graph = &self.graph;
        let Some(sum) = graph.find(name, "Add")? else {
            self.padding_penalty(name)?;
            return Ok((None, None));
        };
        let [padding, by_distance] = &sum.input[..] else { return Err(unknown(sum)) };
        self.padding_penalty(padding)?;
        if graph.find(by_distance, "Mul")?.is_some() {
            return Ok((None, Some(self.window(by_distance)?)));
        }
        // Transpose(Gather(table, Gather(buckets, Cast(distances + P - 1)))), [n, S, S].
        let of_buckets = graph.step(self.transposed(by_distance, &[2, 0, 1])?, "Gather", 2)?;
        check_int(of_buckets, "axis", &[0], 0)?;
        let table = self.frozen(of_buckets, &of_buckets.input[0], Stored::Table)?;
        let buckets = self.buckets(&of_buckets.input[1], table.rows)?;
        Ok((Some(Relative { table, buckets }), None))
    }

    /// Gather(buckets, Cast(distances + P - 1)): the buckets of 2 P - 1 distances, each below `rows`.
    pub(super) fn buckets(&self, name: &str, rows: usize) -> Result<Vec<u32>> {
        let graph = &self.graph;
        let of_distances = graph.step(name, "Gather", 2)?;
        check_int(of_distances, "axis", &[0], 0)?;
        let cast = graph.step(&of_distances.input[1], "Cast", 1)?;
        check_int(cast, "to", &[onnx::INT64.into()], 0)?;
        let from_zero = graph.step(&cast.input[0], "Add", 2)?;
        let longest = self.distances(&from_zero.input[0])?;
        let (most, found) = (longest - 1, graph.number(&from_zero.input[1])?);
        let row = |bucket: &i64| u32::try_from(*bucket).ok().filter(|row| (*row as usize) < rows);
        let buckets = graph.integers(&of_distances.input[0])?;
        let count = buckets.len();
        let dims = &graph.constant(&of_distances.input[0])?.dims;
        check_list(of_distances, "buckets of shape", &[count as i64], dims)?;
        let buckets: Option<Vec<u32>> = buckets.iter().map(row).collect();
        buckets.filter(|_| found == most as f32 && count == 2 * longest - 1).ok_or_else(|| {
            let due = format!("{most} added, and {} buckets below {rows}", 2 * longest - 1);
            Uncovered::node(of_distances, due, format!("{found} and {count}, or beyond"))
        })
    }

    /// Mul(Relu(Sub(Abs(distances), reach)), lowest): nothing up to the reach, which it gives.
    fn window(&self, name: &str) -> Result<usize> {
        let graph = &self.graph;
        let far = graph.step(name, "Mul", 2)?;
        let beyond = graph.step(&far.input[0], "Relu", 1)?;
        let beyond = graph.step(&beyond.input[0], "Sub", 2)?;
        let apart = graph.step(&beyond.input[0], "Abs", 1)?;
        self.distances(&apart.input[0])?;
        let (reach, lowest) = (graph.number(&beyond.input[1])?, graph.number(&far.input[1])?);
        // A whole number that f32 has, below 2^24; what is beyond it has no part in a softmax.
        let whole = (0.0..16_777_216.0).contains(&reach) && reach.fract() == 0.0;
        if !whole || lowest != f32::MIN {
            let due = format!("a whole reach, and {:e} beyond it", f32::MIN);
            return Err(Uncovered::node(far, due, format!("{reach} and {lowest:e}")));
        }
        Ok(reach as usize)
    }

    /// Sub(Unsqueeze(places, 0), Unsqueeze(places, 1)), `[S, S]`; places are the first S of 0, 1, 2, ..., P of which
    /// there are. Gives P.
    fn distances(&self, name: &str) -> Result<usize> {
        let graph = &self.graph;
        let difference = graph.step(name, "Sub", 2)?;
        let mut found = Vec::new();
        for (input, axis) in difference.input.iter().zip([0, 1]) {
            let unsqueezed = graph.step(input, "Unsqueeze", 2)?;
            check_list(unsqueezed, "axes", &[axis], &graph.integers(&unsqueezed.input[1])?)?;
            let (_, all) = self.first_rows(&unsqueezed.input[0])?;
            found.push(all);
        }
        let places = graph.floats(found[0])?;
        check_list(difference, "places of shape", &[places.len() as i64], &graph.constant(found[0])?.dims)?;
        let counted = places.iter().enumerate().all(|(at, place)| *place == at as f32);
        let due = self.manifest.config.max_length as usize;
        if found[0] != found[1] || !counted || places.len() != due {
            return Err(Uncovered::node(difference, format!("places from 0 below {due}"), "others"));
        }
        Ok(due)
    }

    /// Slice(table, 0, S, 0), S being the length of input_ids: the node, and the name of the table.
    fn first_rows(&self, name: &str) -> Result<(&'a Node, &'a str)> {
        let graph = &self.graph;
        let slice = graph.step(name, "Slice", 4)?;
        let length = graph.step(&slice.input[2], "Shape", 1)?;
        check_int(length, "start", &[1, -1], 0)?;
        check_int(length, "end", &[2], i64::MAX)?;
        check_list(slice, "a start", &[0], &graph.integers(&slice.input[1])?)?;
        check_list(slice, "axes", &[0], &graph.integers(&slice.input[3])?)?;
        if length.input[0] != "input_ids" {
            return Err(Uncovered::node(slice, "as many rows as input_ids is long", "another number"));
        }
        Ok((slice, &slice.input[0]))
    }

    /// The table by which queries and keys are rotated, and the names of what is rotated; without one, the names as they
    /// are. Keys are transposed after that.
    fn rotated(&self, q: &'a str, k: &'a str) -> Result<(Option<Tensor>, &'a str, &'a str)> {
        let graph = &self.graph;
        let Some(of_q) = graph.find(q, "Concat")? else { return Ok((None, q, k)) };
        let of_k = graph.step(self.transposed(k, &[0, 1, 3, 2])?, "Concat", 2)?;
        let ((q, table), (k, other)) = (self.rotate(of_q)?, self.rotate(of_k)?);
        if table != other {
            return Err(Uncovered::node(of_k, format!("angles of {table}, as queries have"), other));
        }
        let table = self.frozen(of_k, table, Stored::Table)?;
        Ok((Some(table), q, k))
    }

    /// Concat(a cos - b sin, b cos + a sin, -1), a and b being the halves of heads: the names of the heads and of the
    /// table.
    fn rotate(&self, joined: &'a Node) -> Result<(&'a str, &'a str)> {
        let graph = &self.graph;
        check_int(joined, "axis", &[-1, 3], 0)?;
        let [first, second] = &joined.input[..] else { return Err(unknown(joined)) };
        let (first, second) = (graph.step(first, "Sub", 2)?, graph.step(second, "Add", 2)?);
        let product = |name: &str| -> Result<(&'a str, &'a str)> {
            let product = graph.step(name, "Mul", 2)?;
            Ok((&product.input[0], &product.input[1]))
        };
        let ((a, cosines), (b, sines)) = (product(&first.input[0])?, product(&first.input[1])?);
        let ((b_again, cosines_again), (a_again, sines_again)) =
            (product(&second.input[0])?, product(&second.input[1])?);
        if (a, b, cosines, sines) != (a_again, b_again, cosines_again, sines_again) {
            return Err(Uncovered::node(joined, "two halves, rotated by one angle", "others"));
        }
        let ((heads, width), of_b) = (self.half(a, 0)?, self.half(b, 1)?);
        let (of_cosines, of_sines) = (self.half(cosines, 0)?, self.half(sines, 1)?);
        let rows = of_cosines.0;
        if of_b != (heads, width) || [of_cosines, of_sines] != [(rows, width); 2] {
            return Err(Uncovered::node(joined, "halves of the same heads and angles", "others"));
        }
        let (slice, table) = self.first_rows(rows)?;
        let found = self.frozen(slice, table, Stored::Table)?.columns;
        match i64::try_from(found) == Ok(width) {
            true => Ok((heads, table)),
            false => Err(Uncovered::node(joined, format!("angles for {width} columns"), found)),
        }
    }

    /// Slice(x, at D/2, (at + 1) D/2, -1): the name of x, and D.
    fn half(&self, name: &str, at: i64) -> Result<(&'a str, i64)> {
        let graph = &self.graph;
        let slice = graph.step(name, "Slice", 4)?;
        let bound = |input: usize| match graph.integers(&slice.input[input])?[..] {
            [bound] => Ok(bound),
            _ => Err(Uncovered::node(slice, "one bound", "several")),
        };
        let (start, end, axis) = (bound(1)?, bound(2)?, bound(3)?);
        let half = if at == 0 { end } else { start };
        let whole = half.checked_mul(2).filter(|whole| *whole > 0);
        let bounds =
            whole.filter(|whole| axis == -1 && (start, end) == if at == 0 { (0, half) } else { (half, *whole) });
        match bounds {
            Some(whole) => Ok((&slice.input[0], whole)),
            None => Err(Uncovered::node(slice, "half of the last dimension", format!("{start} to {end} of {axis}"))),
        }
    }

    /// Unsqueeze((1 - attention_mask) * lowest, [1, 2]): nothing where there is a token.
    fn padding_penalty(&self, name: &str) -> Result<()> {
        let graph = &self.graph;
        let unsqueezed = graph.step(name, "Unsqueeze", 2)?;
        check_list(unsqueezed, "axes", &[1, 2], &graph.integers(&unsqueezed.input[1])?)?;
        let penalty = graph.step(&unsqueezed.input[0], "Mul", 2)?;
        let padding = graph.step(&penalty.input[0], "Sub", 2)?;
        let cast = graph.step(&padding.input[1], "Cast", 1)?;
        check_int(cast, "to", &[onnx::FLOAT.into()], 0)?;
        let (one, lowest) = (graph.number(&padding.input[0])?, graph.number(&penalty.input[1])?);
        if one != 1.0 || !lowest.is_finite() || cast.input[0] != "attention_mask" || !graph.is_input(&cast.input[0]) {
            return Err(Uncovered::node(
                penalty,
                "a penalty of padding: (1 - attention_mask) times a number",
                "another",
            ));
        }
        Ok(())
    }
}
