//! Low-rank terms of linear layers: y = x W + b + B (A x), forward and backward (LoRA: Hu and others, 2021).
//!
//! In: rows of a layer's inputs, and for each row the term that its task has for the layer, if any. Out: what the
//! layer's product is added to; from the backward pass, gradients of A, B and the inputs. Refused: values that are not
//! as long as rank and layer say. For a layer without a term in any task of the batch nothing is computed.
//!
//! Letters: N rows, K inputs, M outputs, r the rank. A is `[r, K]`, B is stored by columns, `[r, M]`, so that both are r
//! vectors. Backward, from dy, with s = A x and t = dy B, `[N, r]` each: dA = t^T x, dB = s^T dy, and dx gains t A. Of
//! what patches train only terms need x, so x is kept for layers whose term is trained, and where weights are.

use alloc::vec::Vec;

use crate::{
    Error, Result,
    batch::TaskRows,
    gradients::Gradients,
    kernels::{Rows, Start},
    linear::Linear,
    operators::Pass,
};

/// Where a task has the term of a layer among its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRank {
    /// r.
    pub rank: usize,
    /// The first value of A, `[r, K]`.
    pub a: usize,
    /// The first value of B by columns, `[r, M]`.
    pub b: usize,
}

/// The terms of one task.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskTerms<'a> {
    /// The values that `places` point into.
    pub values: &'a [f32],
    /// For each layer, by [`Linear::low_rank`], where its term is. Layers beyond the last have none.
    pub places: &'a [Option<LowRank>],
}

/// A term's values.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl LowRank {
    /// The term's values. It lies within them, because a run checks that first.
    fn of<'a>(self, values: &'a [f32], layer: &Linear) -> Term<'a> {
        let part = |at: usize, width: usize| &values[at..][..self.rank * width];
        Term { a: part(self.a, layer.inputs()), b: part(self.b, layer.outputs()) }
    }

    /// Whether A and B lie within `len` values.
    fn fits(self, len: usize, layer: &Linear) -> bool {
        let end = |at: usize, width: usize| self.rank.checked_mul(width).and_then(|size| size.checked_add(at));
        let inside = |end: Option<usize>| end.is_some_and(|end| end <= len);
        self.rank > 0 && inside(end(self.a, layer.inputs())) && inside(end(self.b, layer.outputs()))
    }
}

impl<'a> TaskTerms<'a> {
    fn place(&self, layer: &Linear) -> Option<LowRank> {
        self.places.get(layer.low_rank?).copied().flatten()
    }

    /// The term of a layer.
    pub(crate) fn of(&self, layer: &Linear) -> Option<Term<'a>> {
        Some(self.place(layer)?.of(self.values, layer))
    }

    /// Whether both have the same bits in the term of a layer, or both have none.
    pub(crate) fn has_same(&self, other: &TaskTerms<'a>, layer: &Linear) -> bool {
        let bits = |term: Term<'a>| -> [&'a [u32]; 2] { [bytemuck::cast_slice(term.a), bytemuck::cast_slice(term.b)] };
        match (self.of(layer), other.of(layer)) {
            (Some(own), Some(others)) => bits(own) == bits(others),
            (own, others) => own.is_none() && others.is_none(),
        }
    }

    /// Checks that the term of a layer lies within the values.
    pub(crate) fn check(&self, layer: &Linear) -> Result<()> {
        match self.place(layer) {
            Some(place) if place.rank == 0 => {
                Err(Error::Input { what: "rank of a low-rank term", expected: 1, found: 0 })
            }
            Some(place) if !place.fits(self.values.len(), layer) => {
                let end = |at: usize, width: usize| place.rank.saturating_mul(width).saturating_add(at);
                let expected = end(place.a, layer.inputs()).max(end(place.b, layer.outputs()));
                Err(Error::Input { what: "values of a task's low-rank terms", expected, found: self.values.len() })
            }
            _ => Ok(()),
        }
    }
}

impl Term<'_> {
    /// The r vectors of A and of B.
    fn vectors(&self, layer: &Linear) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.a.chunks(layer.inputs()).zip(self.b.chunks(layer.outputs()))
    }
}

/// What the product of a layer is added to: its bias and its tasks' terms. Where there are terms, the sum of both is
/// written to the rows of `out`, which are `stride` apart.
pub(crate) fn start<'t>(
    pass: &Pass<'_>,
    layer: &Linear,
    tasks: TaskRows<'t>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) -> Start<'t> {
    if tasks.has_no_terms() || !(0..x.count).any(|row| tasks.terms(row).place(layer).is_some()) {
        return tasks.start(layer.bias);
    }
    let kernel = pass.machine.kernel();
    for row in 0..x.count {
        let out = &mut out[row * stride..][..layer.outputs()];
        match layer.bias {
            Some(bias) => out.copy_from_slice(tasks.slot(bias, row)),
            None => out.fill(0.0),
        }
        let Some(term) = tasks.terms(row).of(layer) else { continue };
        let x = &x.data[row * x.stride..][..layer.inputs()];
        term.vectors(layer).for_each(|(a, b)| kernel.add_scaled(kernel.dot(a, x), b, out));
    }
    Start::There
}

/// Adds t A to rows of dx, `[rows, K]`, from rows of dy. All rows are of the batch's one task.
pub(crate) fn add_to_input(pass: &Pass<'_>, layer: &Linear, d: Rows<'_>, d_x: &mut [f32]) {
    let Some(term) = pass.terms().of(layer) else { return };
    let kernel = pass.machine.kernel();
    for (row, d_x) in d_x.chunks_mut(layer.inputs()).enumerate() {
        let d = &d.data[row * d.stride..][..layer.outputs()];
        term.vectors(layer).for_each(|(a, b)| kernel.add_scaled(kernel.dot(b, d), a, d_x));
    }
}

/// Adds to the gradients of A and B of those layers whose terms are wanted. The layers read `x`, `[N, K]`, and have the
/// gradients of their outputs side by side in the rows of `d`.
pub(crate) fn add_gradients(pass: &Pass<'_>, layers: &[Linear], x: &[f32], d: &[f32], gradients: &mut Gradients<'_>) {
    let (depth, width) = (layers[0].inputs(), layers[0].outputs());
    let stride = layers.len() * width;
    let mut parts = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let Some(place) = pass.terms().place(layer).filter(|_| gradients.wants_term(layer)) else { continue };
        let (sum_a, sum_b) = (pass.machine.zeros(place.rank * depth), pass.machine.zeros(place.rank * width));
        parts.push((at, place.a, true, sum_a));
        parts.push((at, place.b, false, sum_b));
    }
    let kernel = pass.machine.kernel();
    // Each sum is one thread's, so it does not depend on their number.
    let sums = parts.iter_mut().map(|(at, _, is_a, sum)| (*at, *is_a, &mut **sum)).collect();
    pass.machine.each(sums, |(at, is_a, sum): (usize, bool, &mut [f32])| {
        let layer = &layers[at];
        let Some(term) = pass.terms().of(layer) else { return };
        for (x, d) in x.chunks(depth).zip(d.chunks(stride)) {
            let d = &d[at * width..][..width];
            if is_a {
                let vectors = sum.chunks_mut(depth).zip(term.vectors(layer));
                vectors.for_each(|(sum, (_, b))| kernel.add_scaled(kernel.dot(b, d), x, sum));
            } else {
                let vectors = sum.chunks_mut(width).zip(term.vectors(layer));
                vectors.for_each(|(sum, (a, _))| kernel.add_scaled(kernel.dot(a, x), d, sum));
            }
        }
    });
    for (_, place, _, sum) in &parts {
        let values = gradients.values[*place..].iter_mut().zip(&**sum);
        values.for_each(|(gradient, sum)| *gradient += sum);
    }
}
