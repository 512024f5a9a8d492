//! What sequences of a batch have in common: tasks that are asked about one text share what operators compute below the
//! first values in which the tasks differ.
//!
//! In: a model's operators, a batch and the values of its tasks. Out: for each operator the sequences that it has to
//! run, and copies of rows where one sequence stands for several. Refused: nothing. Where nothing is shared there is no
//! [`Sharing`].
//!
//! Two sequences share an operator's output if they have the same ids and types, share the outputs that it reads, and
//! have the same bits in its slots and low-rank terms. So an operator shares no more than those that it reads.

use alloc::{collections::BTreeMap, vec::Vec};
use core::ops::Range;

use crate::{
    batch::{Batch, Table},
    machine::{Machine, Scratch},
    operators::Operator,
};

/// The sequences that each operator runs.
pub(crate) struct Sharing {
    stages: Vec<Stage>,
    /// The stage of each operator, by number.
    of_operators: Vec<usize>,
}

/// Operators that run the same sequences.
struct Stage {
    /// For each sequence of the whole batch, the first that has the same output.
    firsts: Vec<usize>,
    /// The sequences that are such a first.
    batch: Batch,
    /// For each sequence of the whole batch, the number in `batch` of the one that stands for it.
    places: Vec<usize>,
}

impl Sharing {
    /// What the sequences share; none if that is nothing. Operators come with the numbers of those that they read.
    pub fn of<'o>(
        operators: impl Iterator<Item = (&'o dyn Operator, &'o [usize])>,
        batch: &Batch,
        table: Table<'_>,
    ) -> Option<Self> {
        let texts = batch.same_texts()?;
        let mut sharing = Sharing { stages: Vec::new(), of_operators: Vec::new() };
        for (operator, inputs) in operators {
            let same = |a: usize, b: usize| {
                texts[a] == texts[b]
                    && inputs.iter().map(|input| &sharing.stage(*input).firsts).all(|firsts| firsts[a] == firsts[b])
                    && has_same_values(operator, table, batch.tasks(true)[a], batch.tasks(true)[b])
            };
            let mut firsts: Vec<usize> = Vec::with_capacity(texts.len());
            for (sequence, text) in texts.iter().enumerate() {
                let first = (*text..sequence).find(|earlier| firsts[*earlier] == *earlier && same(*earlier, sequence));
                firsts.push(first.unwrap_or(sequence));
            }
            let stage = sharing.add(batch, firsts);
            sharing.of_operators.push(stage);
        }
        let whole: Vec<usize> = (0..batch.sequences()).collect();
        let shares = sharing.stages.iter().any(|stage| stage.firsts != whole);
        shares.then_some(sharing)
    }

    /// The number of the stage with these firsts.
    fn add(&mut self, batch: &Batch, firsts: Vec<usize>) -> usize {
        if let Some(known) = self.stages.iter().rposition(|stage| stage.firsts == firsts) {
            return known;
        }
        let mut members = Vec::new();
        let mut places: Vec<usize> = Vec::with_capacity(firsts.len());
        for (sequence, first) in firsts.iter().enumerate() {
            places.push(if *first == sequence { members.len() } else { places[*first] });
            members.extend((*first == sequence).then_some(sequence));
        }
        self.stages.push(Stage { batch: batch.part(&members), firsts, places });
        self.stages.len() - 1
    }

    fn stage(&self, operator: usize) -> &Stage {
        &self.stages[self.of_operators[operator]]
    }

    /// The sequences that an operator runs.
    pub fn batch(&self, operator: usize) -> &Batch {
        &self.stage(operator).batch
    }

    /// How many rows [`Sharing::spread`] gives.
    pub fn spread_rows(&self, operator: usize, of_sequences: bool, reader: Option<usize>) -> Option<usize> {
        Some(self.ranges(operator, of_sequences, reader)?.iter().map(|range| range.len()).sum())
    }

    /// Of each sequence that operator `reader` runs, or of the whole batch, the rows of the output of operator number
    /// `operator`. None if they are all, in order.
    fn ranges(&self, operator: usize, of_sequences: bool, reader: Option<usize>) -> Option<Vec<Range<usize>>> {
        let from = self.stage(operator);
        let to = reader.map(|reader| self.stage(reader));
        if to.is_some_and(|to| core::ptr::eq(to, from)) {
            return None;
        }
        let rows: Vec<_> = match of_sequences {
            true => (0..from.batch.sequences()).map(|at| at..at + 1).collect(),
            false => from.batch.ranges().collect(),
        };
        // Of each sequence that the reader runs: one of the whole batch that has its output.
        let wanted = (0..from.places.len()).filter(|sequence| to.is_none_or(|to| to.firsts[*sequence] == *sequence));
        Some(wanted.map(|sequence| rows[from.places[sequence]].clone()).collect())
    }

    /// From the output of operator number `operator`, `[rows, width]` with a row for each token or sequence that it ran,
    /// the rows for the sequences that operator `reader` runs, or for the whole batch. None if those are the same.
    pub fn spread<'m>(
        &self,
        machine: &'m Machine,
        output: &[f32],
        (operator, width): (usize, usize),
        of_sequences: bool,
        reader: Option<usize>,
    ) -> Option<Scratch<'m>> {
        let ranges = self.ranges(operator, of_sequences, reader)?;
        let mut out = machine.scratch(ranges.iter().map(|range| range.len() * width).sum());
        let mut rest = &mut out[..];
        for range in ranges {
            let (part, after) = rest.split_at_mut(range.len() * width);
            part.copy_from_slice(&output[range.start * width..range.end * width]);
            rest = after;
        }
        Some(out)
    }
}

impl Batch {
    /// For each sequence, the first with the same ids and types; none if each is its own.
    fn same_texts(&self) -> Option<Vec<usize>> {
        let mut known = BTreeMap::new();
        let texts: Vec<usize> = self
            .ranges()
            .enumerate()
            .map(|(at, range)| *known.entry((&self.ids()[range.clone()], &self.types()[range])).or_insert(at))
            .collect();
        (known.len() < texts.len()).then_some(texts)
    }

    /// Some of the sequences.
    fn part(&self, members: &[usize]) -> Batch {
        let ranges: Vec<_> = self.ranges().collect();
        let mut part = Batch::default();
        for member in members {
            let range = ranges[*member].clone();
            part.push(&self.ids()[range.clone()], &self.types()[range], self.tasks(true)[*member]);
        }
        part
    }
}

/// Whether two tasks have the same bits in an operator's slots and low-rank terms.
fn has_same_values(operator: &dyn Operator, table: Table<'_>, a: u32, b: u32) -> bool {
    if a == b {
        return true;
    }
    // A run checks that tasks are in the table, and terms within their values.
    let (a, b) = (a as usize, b as usize);
    let bits = |task: usize, at: usize, len: usize| -> &[u32] {
        bytemuck::cast_slice(&table.values[task * table.width + at..][..len])
    };
    let terms = |task: usize| table.terms.get(task).copied().unwrap_or_default();
    operator.slots().iter().all(|slot| bits(a, slot.at, slot.len) == bits(b, slot.at, slot.len))
        && operator.linears().iter().all(|layer| terms(a).has_same(&terms(b), layer))
}

#[cfg(test)]
mod tests {
    use alloc::{boxed::Box, string::String, vec};
    use core::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        Aligned, LayerNorm, Model, Outputs, Result, Slot, Tensor, Values, Weights,
        demand::{Demand, Work},
        gradients::Gradients,
        kernels::kernels,
        operators::{Embedding, FirstToken, Norm, Pass},
    };

    /// An embedding, two LayerNorms with a slot of two values each, and the first token.
    fn operators() -> Vec<(Box<dyn Operator>, Vec<usize>)> {
        let tensor = |rows| Tensor { rows, columns: 2, in_panels: false, values: Values::F32 { at: 0 } };
        let norm = |bias| LayerNorm { gain: tensor(1), bias, epsilon: 1e-12 };
        let slot = |at| Some(Slot { at, len: 2 });
        let name = String::new;
        let words = Embedding { name: name(), words: tensor(9), positions: None, types: None, norm: norm(None) };
        vec![
            (Box::new(words), vec![]),
            (Box::new(Norm { name: name(), norm: norm(slot(0)) }), vec![0]),
            (Box::new(Norm { name: name(), norm: norm(slot(2)) }), vec![1]),
            (Box::new(FirstToken { name: name(), width: 2 }), vec![2]),
        ]
    }

    fn sharing(texts: &[(&[u32], u32)], tasks: &[[f32; 4]]) -> Option<Sharing> {
        let mut batch = Batch::default();
        texts.iter().for_each(|(ids, task)| batch.push(ids, &[], *task));
        let operators = operators();
        let operators = operators.iter().map(|(operator, inputs)| (&**operator, &inputs[..]));
        Sharing::of(operators, &batch, Table { values: &tasks.concat(), width: 4, terms: &[], zeros: &[] })
    }

    #[test]
    fn sequences_part_where_values_differ() {
        let tasks = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0], [0.0, 2.0, 3.0, 4.0]];
        let (text, other) = (&[3, 4, 5][..], &[6, 7][..]);
        let found = sharing(&[(text, 0), (other, 0), (text, 1), (text, 2), (text, 0)], &tasks).unwrap();
        let members: Vec<usize> = (0..4).map(|operator| found.batch(operator).sequences()).collect();
        assert_eq!(members, [2, 3, 4, 4]);
        let tokens: Vec<usize> = (0..4).map(|operator| found.batch(operator).tokens()).collect();
        assert_eq!(tokens, [5, 8, 11, 11]);
        assert_eq!(found.stage(1).firsts, [0, 1, 0, 3, 0]);
        assert_eq!(found.stage(3).firsts, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn without_two_of_a_text_nothing_is_shared() {
        let tasks = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0]];
        assert!(sharing(&[(&[3, 4], 0), (&[3], 0), (&[4, 3], 1)], &tasks).is_none());
    }

    /// Zeros of both signs are equal as numbers and not as bits.
    #[test]
    fn values_are_compared_by_their_bits() {
        let tasks = [[0.0, 2.0, 3.0, 4.0], [-0.0, 2.0, 3.0, 4.0]];
        let found = sharing(&[(&[3], 0), (&[3], 1)], &tasks).unwrap();
        assert_eq!(found.stage(1).firsts, [0, 1]);
    }

    #[test]
    fn rows_are_copied_for_those_who_read_them() {
        let tasks = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0]];
        let found = sharing(&[(&[3, 4], 0), (&[5], 0), (&[3, 4], 1), (&[5], 0)], &tasks).unwrap();
        let machine = Machine::new(kernels()[0], crate::Activations::F32, crate::Threads::one());
        let spread = |output: &[f32], operator, of_sequences, reader| {
            found.spread(&machine, output, (operator, 1), of_sequences, reader).map(|out| out.to_vec())
        };
        // The embedding ran two sequences, of two tokens and of one.
        assert_eq!(spread(&[1.0, 2.0, 3.0], 0, false, Some(1)), None);
        assert_eq!(spread(&[1.0, 2.0, 3.0], 0, false, Some(2)).unwrap(), [1.0, 2.0, 3.0, 1.0, 2.0]);
        assert_eq!(spread(&[1.0, 2.0, 3.0], 0, false, None).unwrap(), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        assert_eq!(spread(&[7.0, 8.0, 9.0], 3, true, None).unwrap(), [7.0, 8.0, 9.0, 8.0]);
    }

    /// Writes the task of each row, and counts the rows that it ran.
    #[derive(Debug)]
    struct Counter(Slot, &'static AtomicUsize);

    impl Operator for Counter {
        fn name(&self) -> &str {
            "count"
        }
        fn inputs(&self) -> Vec<usize> {
            vec![2]
        }
        fn width(&self) -> usize {
            2
        }
        fn tensors(&self) -> Vec<&Tensor> {
            vec![]
        }
        fn slots(&self) -> Vec<Slot> {
            vec![self.0]
        }
        fn saves(&self) -> Vec<usize> {
            vec![]
        }
        fn works(&self, _: Demand<'_>) -> Vec<Work> {
            vec![]
        }
        fn check(&self) -> Result<()> {
            Ok(())
        }
        fn forward(&self, pass: &Pass<'_>, _: &[&[f32]], out: &mut [f32], _: &mut [Scratch<'_>]) -> Result<()> {
            self.1.fetch_add(out.len() / 2, Ordering::Relaxed);
            for (row, out) in out.chunks_mut(2).enumerate() {
                out.copy_from_slice(pass.tasks.slot(self.0, row));
            }
            Ok(())
        }
        fn backward<'m>(
            &self,
            _: &Pass<'m>,
            _: &[&[f32]],
            _: &[&[f32]],
            _: Scratch<'m>,
            _: &[bool],
            _: &mut Gradients<'_>,
        ) -> Vec<Option<Scratch<'m>>> {
            vec![]
        }
    }

    #[test]
    fn a_model_runs_what_tasks_share_once() {
        static COUNTS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
        let counter = |at: usize| Box::new(Counter(Slot { at: 2 * at, len: 2 }, &COUNTS[at]));
        let mut operators = operators();
        operators.truncate(1);
        operators.extend([(counter(0) as Box<dyn Operator>, vec![0]), (counter(1), vec![1])]);
        let model = Model::new(operators, Outputs { tokens: 2, pooled: None }, 4, 128).unwrap();
        let machine = Machine::new(kernels()[0], crate::Activations::F32, crate::Threads::one());
        let weights = Aligned::zeros(32);
        let mut batch = Batch::default();
        for task in [0, 1, 2] {
            batch.push(&[1, 2, 3], &[], task);
        }
        let values = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 5.0, 6.0], [1.0, 2.0, 7.0, 8.0]].concat();
        let table = Table { values: &values, width: 4, terms: &[], zeros: &[] };
        let weights = Weights::new(bytemuck::cast_slice(&weights)).unwrap();
        let hidden = model.run(&machine, weights, &batch, table).unwrap();
        assert_eq!(hidden.tokens[..], [[3.0, 4.0].repeat(3), [5.0, 6.0].repeat(3), [7.0, 8.0].repeat(3)].concat());
        assert_eq!(COUNTS.each_ref().map(|count| count.load(Ordering::Relaxed)), [3, 9]);
    }
}
