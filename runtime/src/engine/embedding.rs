//! The tables that token ids look up, and the gradients of their rows.

use tract_onnx::tract_core::internal::*;

use super::weights::Weight;

/// Frozen tables of words, positions and perhaps token types, each row `[E]`.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub words: Weight,
    pub positions: Weight,
    pub first_position: usize,
    pub types: Option<Weight>,
}

impl Tables {
    /// The tables that a token reads, each with the row that it reads of it.
    fn rows(&self, ids: &[i64], types: &[i64], starts: &[i64]) -> impl Iterator<Item = [Option<(&Weight, i64)>; 3]> {
        let places = starts.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
        ids.iter().zip(types).zip(places).map(|((id, kind), place)| {
            let types = self.types.as_ref().map(|table| (table, if table.rows() > 1 { *kind } else { 0 }));
            [Some((&self.words, *id)), Some((&self.positions, self.first_position as i64 + place)), types]
        })
    }

    /// Adds the rows that each token reads to its row of `out`, `[N, E]`.
    pub fn look_up(&self, ids: &[i64], types: &[i64], starts: &[i64], out: &mut [f32]) -> TractResult<()> {
        for (out, rows) in out.chunks_mut(self.words.columns()).zip(self.rows(ids, types, starts)) {
            for (table, row) in rows.into_iter().flatten() {
                ensure!(table.add_row(row, out), "row {row} of an embedding table of {} rows", table.rows());
            }
        }
        Ok(())
    }

    /// Adds each token's gradient to those of the rows that it has read.
    pub fn add_rows(&self, ids: &[i64], types: &[i64], starts: &[i64], d: &[f32], d_weights: &mut [f32]) {
        for (d, rows) in d.chunks(self.words.columns()).zip(self.rows(ids, types, starts)) {
            for (table, row) in rows.into_iter().flatten() {
                // The forward pass has found this row.
                let sums = &mut d_weights[table.place()][row as usize * d.len()..][..d.len()];
                sums.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
            }
        }
    }
}
