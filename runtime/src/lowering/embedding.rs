//! Rows of embedding tables: of words, positions and token types.
//!
//! In: what a LayerNorm normalizes. Out: the operator that sums these rows, or none if it is something else. Refused: tables
//! that are indexed in another way than edge-export writes.

use edge_bundle::onnx::{FLOAT, INT64, Node};
use edge_engine::{
    LayerNorm, Tensor,
    operators::{Embedding, PositionRows},
};

use super::{
    frozen::Stored,
    graph::{Result, Uncovered, check_int, check_list},
    patterns::{Search, unknown},
};

impl<'a> Search<'a> {
    /// The rows of words, or of a sum of words and positions, types or both, that a node normalizes; none if it
    /// normalizes something else.
    pub(super) fn embedding(&self, node: &'a Node, norm: &LayerNorm) -> Result<Option<Embedding>> {
        let graph = &self.graph;
        let (words, positions, types) = match graph.find(&node.input[0], "Gather")? {
            Some(words) => (words, None, None),
            None => {
                let Some(sum) = graph.find(&node.input[0], "Add")?.filter(|sum| sum.input.len() == 2) else {
                    return Ok(None);
                };
                // Numbers of positions are computed, those of types are given.
                let counted = |gather: &&Node| gather.input.get(1).is_some_and(|rows| graph.producer(rows).is_ok());
                let (rest, types) = match graph.find(&sum.input[1], "Gather")?.filter(|gather| !counted(gather)) {
                    Some(types) => (&sum.input[0], Some(types)),
                    None => (&node.input[0], None),
                };
                match (graph.find(rest, "Gather")?, graph.find(rest, "Add")?) {
                    (Some(words), _) => (words, None, types),
                    (None, Some(sum)) if sum.input.len() == 2 => {
                        let positions = match graph.find(&sum.input[1], "Slice")? {
                            None => graph.find(&sum.input[1], "Gather")?,
                            slice => slice,
                        };
                        let words = graph.find(&sum.input[0], "Gather")?;
                        let (Some(words), Some(positions)) = (words, positions) else { return Ok(None) };
                        (words, Some(positions), types)
                    }
                    _ => return Ok(None),
                }
            }
        };
        let (words_table, ids) = self.gathered(words)?;
        if ids != "input_ids" || !graph.is_input(ids) {
            return Err(Uncovered::node(words, "rows of input_ids", ids));
        }
        Ok(Some(Embedding {
            name: node.name().to_owned(),
            words: words_table,
            positions: positions.map(|positions| self.positions(positions)).transpose()?,
            types: types.map(|types| self.types(types)).transpose()?,
            norm: norm.clone(),
        }))
    }

    /// The table that a node gathers rows of, and the name of their numbers.
    fn gathered(&self, node: &'a Node) -> Result<(Tensor, &'a str)> {
        check_int(node, "axis", &[0], 0)?;
        let [table, numbers] = &node.input[..] else { return Err(unknown(node)) };
        Ok((self.frozen(node, table, Stored::Table)?, numbers))
    }

    /// The table of token types: rows of token_type_ids, or the one row that all tokens have.
    fn types(&self, node: &'a Node) -> Result<Tensor> {
        let (table, numbers) = self.gathered(node)?;
        let only = self.graph.is_constant(numbers);
        if only {
            check_list(node, "rows", &[0], &self.graph.integers(numbers)?)?;
            // More dimensions than the words have would be the sum's too.
            let dims = self.graph.constant(numbers)?.dims.len();
            if dims > 2 {
                return Err(Uncovered::node(node, "rows in at most two dimensions", dims));
            }
        } else if numbers != "token_type_ids" || !self.graph.is_input(numbers) {
            return Err(Uncovered::node(node, "rows of token_type_ids", numbers));
        }
        // The operator reads the types of tokens where the table has several rows.
        match only == (table.rows == 1) {
            true => Ok(table),
            false => Err(Uncovered::node(node, "a row for each token type", format!("{} of them", table.rows))),
        }
    }

    /// Rows of positions: those of all tokens in turn, or those of [`Self::counted`].
    fn positions(&self, node: &'a Node) -> Result<PositionRows> {
        let graph = &self.graph;
        if node.op_type() == "Gather" {
            return self.counted(node);
        }
        // Slice(table, first, first + S, 0), S being the length of input_ids.
        let (table, first, end, axis) = match &node.input[..] {
            [table, first, end, axis] => (table, first, end, axis),
            [table, first, end, axis, steps] => {
                check_list(node, "steps", &[1], &graph.integers(steps)?)?;
                (table, first, end, axis)
            }
            _ => return Err(unknown(node)),
        };
        check_list(node, "axes", &[0], &graph.integers(axis)?)?;
        let end = graph.step(end, "Add", 2)?;
        let length = graph.step(&end.input[0], "Shape", 1)?;
        check_int(length, "start", &[1, -1], 0)?;
        check_int(length, "end", &[2], i64::MAX)?;
        if end.input[1] != *first || length.input[0] != "input_ids" {
            return Err(Uncovered::node(end, "the length of input_ids after the first position", "another end"));
        }
        let first = graph.integers(first)?;
        let [first] = first[..] else { return Err(Uncovered::node(node, "one first position", first.len())) };
        let table = self.frozen(node, table, Stored::Table)?;
        let inside = usize::try_from(first).ok().filter(|first| *first < table.rows);
        let due = || format!("a first position from 0 below {}", table.rows);
        let first = inside.ok_or_else(|| Uncovered::node(node, due(), first))?;
        Ok(PositionRows { table, first, uncounted: None })
    }

    /// Gather(table, Cast(Add(Mul(CumSum(t, 1), t), pad))), t being 1 where input_ids is not pad, and 0 where it is.
    fn counted(&self, node: &'a Node) -> Result<PositionRows> {
        let graph = &self.graph;
        let only = |name: &'a str| -> Result<i64> {
            match (&graph.integers(name)?[..], graph.constant(name)?.dims.len()) {
                ([number], 0 | 1) => Ok(*number),
                (several, _) => Err(Uncovered::at(name, "one number", several.len())),
            }
        };
        let (table, rows) = self.gathered(node)?;
        let rows = graph.step(rows, "Cast", 1)?;
        check_int(rows, "to", &[INT64.into()], 0)?;
        let sum = graph.step(&rows.input[0], "Add", 2)?;
        let places = graph.step(&sum.input[0], "Mul", 2)?;
        let counts = graph.step(&places.input[0], "CumSum", 2)?;
        check_list(counts, "axis", &[1], &[only(&counts.input[1])?])?;
        let cast = graph.step(&places.input[1], "Cast", 1)?;
        check_int(cast, "to", &[FLOAT.into()], 0)?;
        let equal = graph.step(&graph.step(&cast.input[0], "Not", 1)?.input[0], "Equal", 2)?;
        let pad = only(&equal.input[1])?;
        let is_same = counts.input[0] == places.input[1] && graph.number(&sum.input[1])? == pad as f32;
        if !is_same || equal.input[0] != "input_ids" || !graph.is_input("input_ids") {
            let expected = "one padding id, which is compared with input_ids and added to the counts";
            return Err(Uncovered::node(node, expected, "positions of others"));
        }
        let inside = u32::try_from(pad).ok().zip(usize::try_from(pad).ok()).filter(|(_, row)| row + 1 < table.rows);
        let due = || format!("a padding id from 0 below {}", table.rows.saturating_sub(1));
        let (token, row) = inside.ok_or_else(|| Uncovered::node(sum, due(), pad))?;
        Ok(PositionRows { table, first: row + 1, uncounted: Some(token) })
    }
}
