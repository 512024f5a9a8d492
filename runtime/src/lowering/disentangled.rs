//! Scores to which vectors of distances add (DeBERTa).
//!
//! In: the node that the sum of scores ends in. Out: the engine's vectors of distances. Refused: sums of other parts,
//! buckets that are not those of all distances, and a shift of queries that is not what their own layer makes of a
//! bias.
//!
//! Letters: B batch, S sequence, n heads, D width of a head, T buckets. t is the bucket of the distance of a key from a
//! query.

use edge_bundle::onnx::Node;
use edge_engine::{Linear, Tensor, operators::Disentangled};

use super::{
    frozen::Stored,
    graph::{Result, Uncovered, check_int, check_list},
    patterns::{Search, unknown},
};

/// The parts of Add(Add(MatMul(q + c, k), by query), by key).
pub(super) struct Meeting<'a> {
    /// The queries that meet distances, `[B, n, S, D]`.
    pub q: &'a str,
    /// The keys that do, `[B, n, S, D]`.
    k: &'a str,
    /// What they meet, `[n, D, T]`.
    vectors: [&'a str; 2],
    /// Which of it, `[B, n, S, S]`: by queries, and by keys.
    places: [&'a str; 2],
}

impl<'a> Search<'a> {
    /// The node of the products of queries and keys, and the parts that are added to them.
    pub(super) fn meeting(&self, sum: &'a Node) -> Result<(&'a Node, Meeting<'a>)> {
        let graph = &self.graph;
        let [before, by_key] = &sum.input[..] else { return Err(unknown(sum)) };
        let before = graph.step(before, "Add", 2)?;
        let scores = graph.step(&before.input[0], "MatMul", 2)?;
        let (q, keys, by_query) = self.met(&before.input[1])?;
        let (k, queries, by_key) = self.met(self.transposed(by_key, &[0, 1, 3, 2])?)?;
        Ok((scores, Meeting { q, k, vectors: [keys, queries], places: [by_query, by_key] }))
    }

    /// GatherElements(MatMul(x, vectors), places, -1): the names of x, vectors and places.
    fn met(&self, name: &str) -> Result<(&'a str, &'a str, &'a str)> {
        let gathered = self.graph.step(name, "GatherElements", 2)?;
        check_int(gathered, "axis", &[-1, 3], 0)?;
        let product = self.graph.step(&gathered.input[0], "MatMul", 2)?;
        Ok((&product.input[0], &product.input[1], &gathered.input[1]))
    }

    /// The vectors of distances that queries and keys meet. `scores` has the product of shifted queries and keys,
    /// `query` is the layer of queries.
    pub(super) fn disentangled(
        &self,
        met: Meeting<'a>,
        scores: &'a Node,
        query: &Linear,
        heads: [i64; 2],
    ) -> Result<Disentangled> {
        let graph = &self.graph;
        // k is [B, n, D, S] there, and Transpose(k) here.
        let k = self.transposed(met.k, &[0, 1, 3, 2])?;
        if k != scores.input[1] {
            return Err(Uncovered::node(scores, format!("the keys {k}, which meet distances"), &scores.input[1]));
        }
        let ((joined, of_q), (shifted, of_shifted)) =
            (self.split(met.q, &[0, 2, 1, 3])?, self.split(&scores.input[0], &[0, 2, 1, 3])?);
        let shifted = graph.step(shifted, "Add", 2)?;
        if shifted.input[0] != joined || of_q != of_shifted {
            return Err(Uncovered::node(shifted, format!("a sum of the queries {joined}"), &shifted.input[0]));
        }
        let (shift, change) = self.linear(graph.producer(&shifted.input[1])?)?;
        if shift.weight != query.weight || shift.bias != query.bias {
            return Err(Uncovered::node(shifted, "a shift by the layer of queries", "by another"));
        }
        let change = graph.step(change, "Unsqueeze", 2)?;
        check_list(change, "axes", &[0], &graph.integers(&change.input[1])?)?;
        let change = graph.step(&change.input[0], "Sub", 2)?;
        let (_, slot) = self.slot(change, &change.input[0])?;
        let before = self.frozen(change, &change.input[1], Stored::Vector)?;

        let [keys, queries] = met.vectors.map(|vectors| self.vectors(vectors, heads));
        let (keys, queries) = (keys?, queries?);
        // At least one head, as their shape was checked.
        let rows = keys.columns / usize::try_from(heads[0]).unwrap_or(usize::MAX);
        let [by_query, by_key] = met.places.map(|places| self.expanded(places, heads[0]));
        let (by_query, by_key) = (by_query?, self.transposed(by_key?, &[1, 0])?);
        if by_query != by_key {
            return Err(Uncovered::node(scores, format!("the buckets {by_query} for keys too"), by_key));
        }
        let buckets = self.buckets(by_query, rows)?;
        Ok(Disentangled { keys, queries, buckets, bias: Some((slot, before)) })
    }

    /// Transpose(Reshape(frozen, [D, n, T]), [1, 0, 2]): the frozen `[D, n T]`.
    fn vectors(&self, name: &str, [heads, depth]: [i64; 2]) -> Result<Tensor> {
        let split = self.graph.step(self.transposed(name, &[1, 0, 2])?, "Reshape", 2)?;
        check_int(split, "allowzero", &[0], 0)?;
        let vectors = self.frozen(split, &split.input[0], Stored::Matrix)?;
        let columns = i64::try_from(vectors.columns).unwrap_or(i64::MAX);
        let shape = [depth, heads, columns / heads];
        check_list(split, "a shape", &shape, &self.graph.integers(&split.input[1])?)?;
        match i64::try_from(vectors.rows) == Ok(depth) {
            true => Ok(vectors),
            false => Err(Uncovered::node(split, format!("vectors of {depth} values"), vectors.rows)),
        }
    }

    /// Expand(x, [B, n, S, S]), B and S being the dimensions of input_ids: the name of x.
    fn expanded(&self, name: &str, heads: i64) -> Result<&'a str> {
        let graph = &self.graph;
        let expanded = graph.step(name, "Expand", 2)?;
        let shape = graph.step(&expanded.input[1], "Concat", 4)?;
        check_int(shape, "axis", &[0], 0)?;
        check_list(shape, "heads", &[heads], &graph.integers(&shape.input[1])?)?;
        for (input, dimension) in [(0, 0), (2, 1), (3, 1)] {
            let length = graph.step(&shape.input[input], "Shape", 1)?;
            check_int(length, "start", &[dimension], 0)?;
            check_int(length, "end", &[dimension + 1], i64::MAX)?;
            if length.input[0] != "input_ids" {
                return Err(Uncovered::node(length, "a dimension of input_ids", &length.input[0]));
            }
        }
        Ok(&expanded.input[0])
    }
}
