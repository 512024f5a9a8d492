//! Embedding rows, summed and normalized.
//!
//! Forward: token ids, types and places `[N]` to `[N, E]`: word rows, and perhaps position and type rows, summed, then
//! LayerNorm. Backward: the bias of the LayerNorm; tables are frozen.

use alloc::{string::String, vec, vec::Vec};

use super::{Operator, Pass, beside, same};
use crate::{
    Error, Result,
    batch::{Batch, Slot},
    demand::{Demand, Work},
    gradients::Gradients,
    layer_norm::LayerNorm,
    layout::PANEL_WIDTH,
    machine::Scratch,
    weights::Tensor,
};

/// Word rows, and perhaps position and type rows, summed and normalized.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// The name of its node in the graph.
    pub name: String,
    /// A row for each word of the vocabulary, `[V, E]`.
    pub words: Tensor,
    /// Rows of positions; none where attention has positions.
    pub positions: Option<PositionRows>,
    /// A row for each token type, `[t, E]`. If there is one row, every token has it.
    pub types: Option<Tensor>,
    /// The LayerNorm of their sum.
    pub norm: LayerNorm,
}

/// Which rows of a table tokens read by their places.
#[derive(Clone, Debug)]
pub struct PositionRows {
    /// A row for each position, `[P, E]`.
    pub table: Tensor,
    /// The row of the first token.
    pub first: usize,
    /// A token that has the row before the first wherever it stands, and that later ones do not count, as RoBERTa's
    /// padding in the midst of a text.
    pub uncounted: Option<u32>,
}

impl Embedding {
    fn tables(&self) -> impl Iterator<Item = &Tensor> {
        [&self.words].into_iter().chain(self.positions.iter().map(|positions| &positions.table)).chain(&self.types)
    }

    /// The tables that a token reads, each with the row that it reads.
    pub(crate) fn rows<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = [Option<(&'a Tensor, usize)>; 3]> {
        let tokens = batch.ids().iter().zip(batch.types()).zip(batch.places());
        // Tokens before this one, in its sequence, that are not counted.
        let mut uncounted = 0;
        tokens.map(move |((id, kind), place)| {
            uncounted = if *place == 0 { 0 } else { uncounted };
            let types = self.types.as_ref().map(|table| (table, if table.rows > 1 { *kind as usize } else { 0 }));
            let positions = self.positions.as_ref().map(|positions| {
                let row = match positions.uncounted == Some(*id) {
                    true => positions.first - 1,
                    false => positions.first + *place as usize - uncounted,
                };
                uncounted += usize::from(positions.uncounted == Some(*id));
                (&positions.table, row)
            });
            [Some((&self.words, *id as usize)), positions, types]
        })
    }
}

impl Operator for Embedding {
    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> Vec<usize> {
        vec![]
    }

    fn width(&self) -> usize {
        self.words.columns
    }

    fn tensors(&self) -> Vec<&Tensor> {
        self.tables().chain(self.norm.tensors()).collect()
    }

    fn slots(&self) -> Vec<Slot> {
        self.norm.bias.into_iter().collect()
    }

    fn saves(&self) -> Vec<usize> {
        self.norm.saves().to_vec()
    }

    fn works(&self, _: Demand<'_>) -> Vec<Work> {
        vec![]
    }

    fn check(&self) -> Result<()> {
        self.norm.check(&self.name)?;
        for table in self.tables() {
            same(&self.name, "an embedding table's width", self.norm.width(), table.columns)?;
            let panel = if table.in_panels { PANEL_WIDTH } else { 1 };
            same(&self.name, "an embedding table in panels with a width", 1, panel)?;
        }
        match &self.positions {
            Some(PositionRows { table, first, .. }) if *first >= table.rows => {
                Err(Error::Row { operator: self.name.clone(), row: *first, rows: table.rows })
            }
            Some(PositionRows { first: 0, uncounted: Some(_), .. }) => {
                let (operator, what) =
                    (self.name.clone(), "a first position, after that of tokens that are not counted,");
                Err(Error::Shape { operator, what, expected: 1, found: 0 })
            }
            _ => Ok(()),
        }
    }

    fn forward(&self, pass: &Pass<'_>, _: &[&[f32]], out: &mut [f32], saved: &mut [Scratch<'_>]) -> Result<()> {
        out.fill(0.0);
        let width = self.width();
        for (out, rows) in out.chunks_mut(width).zip(self.rows(pass.batch)) {
            for (table, row) in rows.into_iter().flatten() {
                if !table.add_row(pass.weights, row, out) {
                    return Err(Error::Row { operator: self.name.clone(), row, rows: table.rows });
                }
            }
        }
        let mut beside = beside(saved, &self.saves());
        pass.machine.split_beside(out, width, &mut beside, |rows, out, saved| {
            self.norm.forward(pass, pass.tasks.of(rows), out, saved);
        });
        Ok(())
    }

    fn backward<'m>(
        &self,
        pass: &Pass<'m>,
        _: &[&[f32]],
        saved: &[&[f32]],
        mut d_out: Scratch<'m>,
        _: &[bool],
        gradients: &mut Gradients<'_>,
    ) -> Vec<Option<Scratch<'m>>> {
        self.norm.backward_of_values(saved, &d_out, gradients);
        if gradients.of_weights() {
            self.norm.backward_of_input(pass, saved, &mut d_out);
            gradients.add_rows(self, pass.batch, &d_out);
        }
        vec![]
    }
}
