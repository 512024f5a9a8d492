//! What each operator computes, by the ONNX operator specification.
//!
//! In: a node and its operands. Out: its output, in f64. Refused: shapes that do not fit, and what edge-export does not
//! emit.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use ndarray::{Array, ArrayD, ArrayView2, ArrayViewD, Axis, Ix2, IxDyn, Slice, concatenate};

use super::{Value, bad_node};
use edge_bundle::onnx::{FLOAT, INT64, Node};

use crate::Result;

/// The output of a node.
pub(super) fn apply(node: &Node, operands: &[Value]) -> Result<Value> {
    let float = |at: usize| match operands.get(at) {
        Some(Value::Float(array)) => Ok(array),
        _ => Err(bad_node(node, format!("a float as input {at}"), "another")),
    };
    let int = |at: usize| match operands.get(at) {
        Some(Value::Int(array)) => Ok(array),
        _ => Err(bad_node(node, format!("an integer as input {at}"), "another")),
    };
    Ok(Value::Float(match node.op_type() {
        "Shape" => return shape(node, int(0)?),
        // Truth values are integers, 0 or 1.
        op @ ("Add" | "Equal") if matches!(operands.first(), Some(Value::Int(_))) => {
            let (a, b) = (int(0)?, int(1)?);
            check_broadcast(node, a.shape(), b.shape())?;
            return Ok(Value::Int(match op {
                "Add" => a + b,
                _ => (a - b).mapv(|difference| i64::from(difference == 0)),
            }));
        }
        "Not" => return Ok(Value::Int(int(0)?.mapv(|truth| 1 - truth))),
        "CumSum" => {
            let (mut array, axis) = (float(0)?.clone(), int(1)?);
            let only = axis.first().filter(|_| axis.len() == 1);
            let only = only.ok_or_else(|| bad_node(node, "one axis", axis.len()))?;
            let axis = Axis(check_axis(node, *only, array.ndim())?);
            array.accumulate_axis_inplace(axis, |before, sum| *sum += before);
            array
        }
        op @ ("Add" | "Sub" | "Mul") => {
            let (a, b) = (float(0)?, float(1)?);
            check_broadcast(node, a.shape(), b.shape())?;
            match op {
                "Add" => a + b,
                "Sub" => a - b,
                _ => a * b,
            }
        }
        "Cast" => match operands.first() {
            // Whole numbers, from the floats that distances are computed in.
            Some(Value::Float(array)) if number(node, "to", 0) == i64::from(INT64) => {
                return Ok(Value::Int(array.mapv(|v| v.round() as i64)));
            }
            // Of halves nothing but their type is cast.
            Some(Value::Float(array)) if number(node, "to", 0) == i64::from(FLOAT) => array.clone(),
            _ => int(0)?.mapv(|v| v as f64),
        },
        "Abs" => float(0)?.mapv(f64::abs),
        "Concat" if matches!(operands.first(), Some(Value::Int(_))) => {
            let arrays = (0..operands.len()).map(|at| Ok(int(at)?.view())).collect::<Result<Vec<_>>>()?;
            return Ok(Value::Int(joined(node, &arrays)?));
        }
        "Concat" => {
            let arrays = (0..operands.len()).map(|at| Ok(float(at)?.view())).collect::<Result<Vec<_>>>()?;
            joined(node, &arrays)?
        }
        "Expand" => return expand(node, int(0)?, int(1)?),
        "GatherElements" => gather_elements(node, float(0)?, int(1)?)?,
        "Relu" => float(0)?.mapv(|v| v.max(0.0)),
        "Tanh" => float(0)?.mapv(f64::tanh),
        "Sigmoid" => float(0)?.mapv(|v| 1.0 / (1.0 + (-v).exp())),
        "Gelu" => {
            let tanh = node.attribute("approximate").is_some_and(|a| a.s() == b"tanh");
            float(0)?.mapv(if tanh { gelu_tanh } else { gelu })
        }
        "Slice" => slice(node, float(0)?, [int(1)?, int(2)?, int(3)?])?,
        "Gather" if matches!(operands.first(), Some(Value::Int(_))) => {
            // Whole numbers below 2^53, which f64 has.
            let numbers = int(0)?.mapv(|v| v as f64);
            return Ok(Value::Int(gather(node, &numbers, int(1)?)?.mapv(|v| v as i64)));
        }
        "Gather" => gather(node, float(0)?, int(1)?)?,
        "Unsqueeze" => {
            let mut array = float(0)?.clone();
            for axis in int(1)? {
                let axis = check_axis(node, *axis, array.ndim() + 1)?;
                array = array.insert_axis(Axis(axis));
            }
            array
        }
        "Reshape" => reshape(node, float(0)?, int(1)?)?,
        "Transpose" if matches!(operands.first(), Some(Value::Int(_))) => {
            return Ok(Value::Int(transpose(node, int(0)?)?));
        }
        "Transpose" => transpose(node, float(0)?)?,
        "Softmax" => {
            let mut array = float(0)?.clone();
            let axis = check_axis(node, number(node, "axis", -1), array.ndim())?;
            for mut lane in array.lanes_mut(Axis(axis)) {
                let top = lane.fold(f64::NEG_INFINITY, |m, v| m.max(*v));
                lane.mapv_inplace(|v| (v - top).exp());
                let sum = lane.sum();
                lane /= sum;
            }
            array
        }
        "LayerNormalization" => layer_norm(node, float(0)?, float(1)?, float(2)?)?,
        "MatMul" => matmul(node, float(0)?, float(1)?)?,
        other => return Err(bad_node(node, "an operator of an exported graph", other)),
    }))
}

/// Arrays one after the other, along the attribute `axis`.
fn joined<T: Clone>(node: &Node, arrays: &[ArrayViewD<'_, T>]) -> Result<ArrayD<T>> {
    let rank = arrays.first().map_or(0, |array| array.ndim());
    let axis = check_axis(node, number(node, "axis", 0), rank)?;
    concatenate(Axis(axis), arrays).map_err(|e| bad_node(node, "shapes that fit", e))
}

/// The array repeated to the shape that it is broadcast to with other dimensions.
fn expand(node: &Node, array: &ArrayD<i64>, dims: &ArrayD<i64>) -> Result<Value> {
    let found: Option<Vec<usize>> = dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let expanded = found.and_then(|dims| Some(array.broadcast(dims)?.to_owned()));
    let expanded = expanded.ok_or_else(|| bad_node(node, format!("a shape for {:?}", array.shape()), dims))?;
    Ok(Value::Int(expanded))
}

/// From each row along the last axis the values at the places that the same row of `places` says.
fn gather_elements(node: &Node, array: &ArrayD<f64>, places: &ArrayD<i64>) -> Result<ArrayD<f64>> {
    let (rank, axis) = (array.ndim(), check_axis(node, number(node, "axis", 0), array.ndim())?);
    let (rows, wanted) = (array.shape().split_last(), places.shape().split_last());
    let (Some((width, before)), Some((_, of_places))) = (rows, wanted) else {
        return Err(bad_node(node, "arrays of at least one dimension", rank));
    };
    if axis + 1 != rank || before != of_places {
        let found = format!("{:?} and {:?}", array.shape(), places.shape());
        return Err(bad_node(node, "places in the last dimension of the same rows", found));
    }
    let mut picked = Array::zeros(places.raw_dim());
    let lanes = picked.lanes_mut(Axis(axis)).into_iter().zip(array.lanes(Axis(axis)));
    for ((mut picked, values), places) in lanes.zip(places.lanes(Axis(axis))) {
        for (picked, place) in picked.iter_mut().zip(places) {
            let at = usize::try_from(*place).ok().filter(|at| at < width);
            *picked = values[at.ok_or_else(|| bad_node(node, format!("a place below {width}"), place))?];
        }
    }
    Ok(picked)
}

/// Dimensions `start` to `end`.
fn shape(node: &Node, array: &ArrayD<i64>) -> Result<Value> {
    let rank = array.ndim() as i64;
    let (start, end) = (number(node, "start", 0), number(node, "end", rank));
    if !(0..=end).contains(&start) || end > rank {
        return Err(bad_node(node, format!("dimensions within {rank}"), format!("{start}..{end}")));
    }
    let part = array.shape()[start as usize..end as usize].iter().map(|d| *d as i64);
    Ok(Value::Int(Array::from_iter(part).into_dyn()))
}

/// Rows from a start to an end along an axis, each an array of one number.
fn slice(node: &Node, array: &ArrayD<f64>, bounds: [&ArrayD<i64>; 3]) -> Result<ArrayD<f64>> {
    let mut numbers = [0; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        let only = bound.first().filter(|_| bound.len() == 1);
        *number = *only.ok_or_else(|| bad_node(node, "bounds of one number each", bound.len()))?;
    }
    let [start, end, axis] = numbers;
    let axis = check_axis(node, axis, array.ndim())?;
    let rows = array.shape()[axis] as i64;
    if !(0..=end).contains(&start) || end > rows {
        return Err(bad_node(node, format!("a slice within {rows} rows"), format!("{start}..{end}")));
    }
    Ok(array.slice_axis(Axis(axis), Slice::new(start as isize, Some(end as isize), 1)).to_owned())
}

/// The same values with other dimensions; 0 keeps one.
fn reshape(node: &Node, array: &ArrayD<f64>, dims: &ArrayD<i64>) -> Result<ArrayD<f64>> {
    let kept = |at: usize, d: i64| if d == 0 { array.shape().get(at).copied() } else { usize::try_from(d).ok() };
    let found: Option<Vec<usize>> = dims.iter().enumerate().map(|(at, d)| kept(at, *d)).collect();
    let error = || bad_node(node, format!("a shape for that of {:?}", array.shape()), dims);
    let found = found.ok_or_else(error)?;
    array.as_standard_layout().into_owned().into_shape_with_order(found).map_err(|_| error())
}

/// The dimensions in the order of the attribute `perm`.
fn transpose<T: Clone>(node: &Node, array: &ArrayD<T>) -> Result<ArrayD<T>> {
    let order = node.attribute("perm").map_or(&[][..], |a| &a.ints);
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..array.ndim() as i64) {
        return Err(bad_node(node, format!("an order of {} axes", array.ndim()), format!("{order:?}")));
    }
    let order: Vec<usize> = order.iter().map(|axis| *axis as usize).collect();
    Ok(array.view().permuted_axes(order).as_standard_layout().into_owned())
}

/// LayerNorm over the last dimension.
fn layer_norm(node: &Node, x: &ArrayD<f64>, gain: &ArrayD<f64>, bias: &ArrayD<f64>) -> Result<ArrayD<f64>> {
    // ONNX's default.
    let epsilon = f64::from(node.attribute("epsilon").map_or(1e-5, |a| a.f()));
    let shape_error = || bad_node(node, "rows of at least one value", format!("{:?}", x.shape()));
    let last = Axis(x.ndim().checked_sub(1).ok_or_else(shape_error)?);
    let width = x.len_of(last);
    for vector in [gain, bias] {
        if vector.shape() != [width] {
            return Err(bad_node(node, format!("gain and bias of {width} values"), format!("{:?}", vector.shape())));
        }
    }
    let mean = x.mean_axis(last).ok_or_else(shape_error)?.insert_axis(last);
    let centred = x - &mean;
    let variance = centred.mapv(|v| v * v).mean_axis(last).ok_or_else(shape_error)?.insert_axis(last);
    Ok(centred * variance.mapv(|v| 1.0 / (v + epsilon).sqrt()) * gain + bias)
}

/// Rows (or, along axis 1, slices) of `table` by index; a scalar index drops the axis.
fn gather(node: &Node, table: &ArrayD<f64>, indices: &ArrayD<i64>) -> Result<ArrayD<f64>> {
    let axis = check_axis(node, number(node, "axis", 0), table.ndim())?;
    let rows = table.shape()[axis];
    let outside = |index: &&i64| !usize::try_from(**index).is_ok_and(|index| index < rows);
    if let Some(found) = indices.iter().find(outside) {
        return Err(bad_node(node, format!("an index below {rows}"), found));
    }
    let flat: Vec<usize> = indices.iter().map(|index| *index as usize).collect();
    if indices.ndim() == 0 {
        return Ok(table.index_axis(Axis(axis), flat[0]).to_owned());
    }
    if axis != 0 {
        return Err(bad_node(node, "axis 0 for more than one index", axis));
    }
    let dims: Vec<usize> = indices.shape().iter().chain(&table.shape()[1..]).copied().collect();
    let picked = table.select(Axis(axis), &flat);
    picked.into_shape_with_order(dims).map_err(|e| bad_node(node, "shapes that fit", e))
}

/// `[.., m, k]` by `[k, n]`, or by `[.., k, n]` with the same leading dimensions.
fn matmul(node: &Node, a: &ArrayD<f64>, b: &ArrayD<f64>) -> Result<ArrayD<f64>> {
    let shape_error = |e: ndarray::ShapeError| bad_node(node, "shapes that fit", e);
    // A product over no columns is zero: that of a low-rank term of rank 0. Batches of matrices are never empty.
    if a.ndim() < 2 || b.ndim() < 2 || b.ndim() > 2 && (a.is_empty() || b.is_empty()) {
        return Err(bad_node(node, "matrices", format!("{:?} and {:?}", a.shape(), b.shape())));
    }
    let (m, k) = (a.shape()[..a.ndim() - 1].iter().product::<usize>(), a.shape()[a.ndim() - 1]);
    let n = b.shape()[b.ndim() - 1];
    if b.shape()[b.ndim() - 2] != k {
        return Err(bad_node(node, format!("{k} rows"), b.shape()[b.ndim() - 2]));
    }
    let mut dims = a.shape().to_vec();
    dims[a.ndim() - 1] = n;
    let (a, b) = (a.as_standard_layout(), b.as_standard_layout());
    if b.ndim() == 2 {
        let a: ArrayView2<f64> = a.view().into_shape_with_order((m, k)).map_err(shape_error)?;
        let b: ArrayView2<f64> = b.view().into_dimensionality::<Ix2>().map_err(shape_error)?;
        return a.dot(&b).into_shape_with_order(IxDyn(&dims)).map_err(shape_error);
    }
    let rows = a.shape()[a.ndim() - 2];
    let batches = m / rows;
    let a = a.view().into_shape_with_order((batches, rows, k)).map_err(shape_error)?;
    let b = b.view().into_shape_with_order((batches, k, n)).map_err(shape_error)?;
    let mut product = Array::zeros((batches, rows, n));
    for ((mut product, a), b) in product.outer_iter_mut().zip(a.outer_iter()).zip(b.outer_iter()) {
        product.assign(&a.dot(&b));
    }
    product.into_shape_with_order(IxDyn(&dims)).map_err(shape_error)
}

/// An axis, counted from the end if it is negative.
fn check_axis(node: &Node, axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(from_start).ok().filter(|axis| *axis < rank);
    found.ok_or_else(|| bad_node(node, format!("an axis below {rank}"), axis))
}

/// Two shapes can be broadcast if their dimensions, from the last one on, are equal or one of them is 1.
fn check_broadcast(node: &Node, a: &[usize], b: &[usize]) -> Result<()> {
    if a.iter().rev().zip(b.iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1) {
        return Ok(());
    }
    Err(bad_node(node, "shapes that can be broadcast", format!("{a:?} and {b:?}")))
}

/// x times the normal distribution's Φ(x).
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// GELU by its tanh approximation.
fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// The error function, to f64 rounding: its Maclaurin series below 3, the continued fraction of erfc (Abramowitz and
/// Stegun 7.1.14) above.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 200.0 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=60).rev().fold(a, |tail, n| a + f64::from(n) / 2.0 / tail);
        1.0 - (-a * a).exp() / (fraction * PI.sqrt())
    };
    value.copysign(x)
}

/// An attribute that is an integer.
fn number(node: &Node, name: &str, default: i64) -> i64 {
    node.attribute(name).map_or(default, |a| a.i())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tabulated_values() {
        // Values as Python's math.erf gives them.
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.999, 0.999_977_769_831_400_2),
            (3.0, 0.999_977_909_503_001_4),
            (4.0, 0.999_999_984_582_742_1),
            (-1.5, -0.966_105_146_475_310_8),
        ] {
            assert!((erf(x) - expected).abs() < 1e-12, "erf({x}) = {} is not {expected}", erf(x));
        }
    }
}
